"""What a server serves: models by name, each with its engine."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmstream_cli.core.api import Engine, SamplingParams
from llmstream_cli.errors import ModelNotFoundError

_LATEST = ":latest"  # Ollama's clients add it to a name that has no tag


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A model that requests can name.

    Attributes:
        names: what it goes by; the first is the one that answers bear.
        engine: generates with it.
        created: when its file was made, in seconds since 1970.
        sampling: what a request gets where it says nothing else.
    """

    names: tuple[str, ...]
    engine: Engine
    created: int
    sampling: SamplingParams = field(default_factory=SamplingParams)

    @property
    def name(self) -> str:
        """The name that answers bear."""
        return self.names[0]


class ServedModels:
    """All models of a server, the default first.

    Args:
        models: at least one.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        assert models
        self.models = tuple(models)
        self._by_name = {name.lower(): model for model in models for name in model.names}

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
