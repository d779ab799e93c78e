"""The sampling options of a command, over what suits the model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from llmstream_cli.api import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """What the user said of sampling; None is nothing. See `SamplingParams` for each attribute.

    Raises:
        InvalidValueError: a value is out of its bounds.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    grammar: str | None = None
    json_schema: str | None = None

    def __post_init__(self) -> None:
        self.over({})  # now: finding the model may take long

    def over(self, advised: Mapping[str, Any]) -> SamplingParams:
        """Return the parameters: what the user said, else what is advised, else the defaults.

        Args:
            advised: values by the names of `SamplingParams`, of the model's authors.
        """
        said = self.said
        if said.keys() & {"grammar", "json_schema"}:  # a preset's stop strings are for free text
            advised = {name: value for name, value in advised.items() if name != "stop"}
        return SamplingParams(**{**advised, **said})

    @property
    def unset(self) -> tuple[str, ...]:
        """The parameters that the user did not set; see `GenerationRequest.unset`."""
        said = self.said
        return tuple(field.name for field in fields(SamplingParams) if field.name not in said)

    @property
    def said(self) -> dict[str, Any]:
        """What the user set, by the names of `SamplingParams`."""
        return {name: value for name, value in asdict(self).items() if value not in (None, ())}
