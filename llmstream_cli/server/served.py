"""What a server serves: models by name, each with its engine, and how long one stays loaded."""

import asyncio
import contextlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from llmstream_cli.api import Engine, EngineState, ModelInfo, SamplingParams
from llmstream_cli.errors import InvalidValueError, LLMStreamError, ModelNotFoundError

_LATEST = ":latest"  # Ollama's clients add it to a name that has no tag


class Residency(Protocol):
    """When the model of an engine is in memory, where requests load it: see `engines.pool`."""

    @property
    def info(self) -> ModelInfo | None:
        """The model, if it is loaded; to ask neither loads it nor keeps it."""

    @property
    def memory_bytes(self) -> int:
        """What it takes of the memory for models; 0 while it is not loaded."""

    # Counters; the seconds are those of all loads together.
    @property
    def loads(self) -> int: ...
    @property
    def load_seconds(self) -> float: ...
    @property
    def unloads(self) -> int: ...

    @property
    def expires_seconds(self) -> float:
        """Seconds until it is unloaded if nobody asks; infinite for never."""

    async def load(self, keep_alive: float | None = None, client: str = "") -> ModelInfo:
        """Wait until the model is loaded; the time begins anew that it stays so for this client.

        For `keep_alive` and `client` see `GenerationRequest`; raises what `Engine.generate` does.
        """

    def unload(self, client: str = "") -> bool:
        """Unload the model as soon as it answers no request; False if other clients want it."""


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A model that requests can name."""

    names: tuple[str, ...]  # the first is the one that answers bear
    engine: Engine
    created: int  # when its file was made, in seconds since 1970
    # What a request gets where it says nothing else.
    sampling: SamplingParams = field(default_factory=SamplingParams)
    # The same for requests with thinking, and for those without, if it differs.
    sampling_if: Mapping[bool, SamplingParams] = field(default_factory=dict)
    # Of the engine, where requests load the model; None where it stays loaded.
    residency: Residency | None = None
    size_bytes: int = 0  # of its file; 0 where that is not known
    # Tells what the file says of the model while it is not loaded; may raise `LLMStreamError`.
    describe: Callable[[], ModelInfo] | None = None

    @property
    def name(self) -> str:
        """The name that answers bear."""
        return self.names[0]

    @property
    def is_loaded(self) -> bool:
        """Whether it can generate at once."""
        return self.engine.status.state is EngineState.READY

    def sampling_for(self, thinking: bool | None) -> SamplingParams:
        """Return what a request gets that says so much of thinking, and nothing of sampling."""
        return self.sampling if thinking is None else self.sampling_if.get(thinking, self.sampling)

    async def loaded(self) -> ModelInfo | None:
        """Return the model if it is loaded; to ask neither loads it nor keeps it loaded."""
        if self.residency is not None:
            return self.residency.info
        return await self.engine.ready() if self.is_loaded else None

    async def known(self) -> ModelInfo | None:
        """Return the model, by what its file says where it is not loaded; this loads nothing."""
        info = await self.loaded()
        if info is None and self.describe is not None:
            with contextlib.suppress(LLMStreamError):  # a request to the model tells what is wrong
                return await asyncio.to_thread(self.describe)
        return info

    async def load(self, keep_alive: float | None = None, client: str = "") -> ModelInfo:
        """Wait until the model is loaded; see `Residency.load`."""
        if self.residency is not None:
            return await self.residency.load(keep_alive, client)
        return await self.engine.ready()


class ServedModels:
    """All models of a server, the default first; there is one at least.

    Where two have a name in common, it is the one's whose first it is, or that comes first.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.models = tuple(models)
        self._by_name: dict[str, ServedModel] = {}
        for model in models:
            if self._by_name.setdefault(model.name.lower(), model) is not model:
                raise InvalidValueError(f"two models are called {model.name}")
        for model in models:
            for name in model.names:
                self._by_name.setdefault(name.lower(), model)

    @property
    def default(self) -> ServedModel:
        """The model of a request that names none."""
        return self.models[0]

    def find(self, name: str | None = None) -> ServedModel:
        """Return the model of that name, in upper or lower case; the default for none."""
        if not name:
            return self.default
        model = self._by_name.get(name.lower().removesuffix(_LATEST))
        if model is None:
            served = ", ".join(model.name for model in self.models)
            raise ModelNotFoundError(f"no model is called {name[:100]!r}; served: {served}")
        return model


# ---- durations, as Ollama's clients write them -----------------------------------------------

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{0,9})?"
_PART = re.compile(rf"({_NUMBER})({'|'.join(_UNITS)})")
_DURATION = re.compile(rf"(?P<sign>-?)(?:(?P<seconds>{_NUMBER})|(?P<parts>(?:{_PART.pattern})+))")
_FOREVER = {"forever", "inf"}


def keep_alive_seconds(given: float | str) -> float:
    """Return the seconds of `5m`, `1h30m` or `300`; infinite for what is negative, or `forever`."""
    seconds = _parse(given) if isinstance(given, str) else given
    if math.isnan(seconds):
        raise InvalidValueError(
            f"keep_alive is {str(given)[:50]!r}; it must be seconds, or as 5m, 1h30m, or -1 for "
            "good",
            "keep_alive",
        )
    return math.inf if seconds < 0 else seconds


def _parse(text: str) -> float:
    """Return the seconds; NaN where it is no duration."""
    words = text.strip().lower().replace("μ", "µ")
    if words in _FOREVER:
        return math.inf
    match = _DURATION.fullmatch(words)
    if match is None:
        return math.nan
    parts = _PART.findall(match["parts"] or "")
    seconds = float(match["seconds"] or 0) + sum(float(n) * _UNITS[unit] for n, unit in parts)
    return -seconds if match["sign"] else seconds
