"""What a server serves: models by name, each with its engine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from llmstream_cli.api import Engine, EngineState, ModelInfo, Residency, SamplingParams
from llmstream_cli.errors import InvalidValueError, ModelNotFoundError

_LATEST = ":latest"  # Ollama's clients add it to a name that has no tag


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A model that requests can name.

    Attributes:
        names: what it goes by; the first is the one that answers bear.
        engine: generates with it.
        created: when its file was made, in seconds since 1970.
        sampling: what a request gets where it says nothing else.
        sampling_if: the same for requests with thinking, and for those without, if it differs.
        residency: of the engine, where requests load the model; None where it stays loaded.
        size_bytes: of its file; 0 where that is not known.
        describe: tells what the file says of the model while it is not loaded, as far as it goes;
            may raise `LLMStreamError`.
    """

    names: tuple[str, ...]
    engine: Engine
    created: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    sampling_if: Mapping[bool, SamplingParams] = field(default_factory=dict)
    residency: Residency | None = None
    size_bytes: int = 0
    describe: Callable[[], ModelInfo] | None = None

    def sampling_for(self, thinking: bool | None) -> SamplingParams:
        """Return what a request gets that says so much of thinking, and nothing of sampling."""
        return self.sampling if thinking is None else self.sampling_if.get(thinking, self.sampling)

    @property
    def name(self) -> str:
        """The name that answers bear."""
        return self.names[0]

    async def loaded(self) -> ModelInfo | None:
        """Return the model if it is loaded; to ask neither loads it nor keeps it loaded."""
        if self.residency is not None:
            return self.residency.info
        ready = self.engine.status.state is EngineState.READY
        return await self.engine.ready() if ready else None

    async def load(self, keep_alive: float | None = None, client: str = "") -> ModelInfo:
        """Wait until the model is loaded; see `Residency.load`."""
        if self.residency is not None:
            return await self.residency.load(keep_alive, client)
        return await self.engine.ready()


class ServedModels:
    """All models of a server, the default first.

    Args:
        models: at least one. Where two have a name in common, it is the one's whose first it is,
            or that comes first.

    Raises:
        InvalidValueError: two have the same first name.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        assert models
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
        """Return the model of that name, in upper or lower case; the default for none.

        Raises:
            ModelNotFoundError: no model goes by it; the message names those that are served.
        """
        if not name:
            return self.default
        model = self._by_name.get(name.lower().removesuffix(_LATEST))
        if model is None:
            served = ", ".join(model.name for model in self.models)
            raise ModelNotFoundError(f"no model is called {name[:100]!r}; served: {served}")
        return model
