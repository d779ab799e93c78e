"""Presets of the user's own: a model with a name, and what suits it. The CLI registers them."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from llmstream_cli.models.reference import HubModel, LocalFile


class OwnPreset(NamedTuple):
    """A model that `--features NAME` chooses because the user says so.

    Attributes:
        name: what the user types, in lower case.
        source: the file.
        tokenizer: as in `ModelChoice`.
        summary: one line for a person who chooses.
        licence: of the weights; empty where it is not told.
        chat_format: the prompt format's name for a file without a chat template.
        ctx_size: tokens of context, unless something else is asked for.
        sampling: what suits the model, by the names of the sampling parameters.
        stop: strings that end an answer.
    """

    name: str
    source: HubModel | LocalFile
    tokenizer: str | None = None
    summary: str = ""
    licence: str = ""
    chat_format: str | None = None
    ctx_size: int | None = None
    sampling: Mapping[str, float] = MappingProxyType({})
    stop: tuple[str, ...] = ()

    @property
    def advice(self) -> dict[str, Any]:
        """What suits the model, stop strings among it."""
        return {**self.sampling, "stop": self.stop} if self.stop else dict(self.sampling)


OWN_PRESETS: dict[str, OwnPreset] = {}


def register_presets(presets: Iterable[OwnPreset]) -> None:
    """Let these be the user's presets; they win over those that come with the program."""
    OWN_PRESETS.clear()
    OWN_PRESETS.update((preset.name, preset) for preset in presets)
