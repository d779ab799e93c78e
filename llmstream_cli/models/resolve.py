"""A preset's name or a path, to a file that can be a model."""

import time
from dataclasses import dataclass
from pathlib import Path

from llmstream_cli.errors import ModelError, ModelNotFoundError
from llmstream_cli.models.presets import DEFAULT_PRESET, find_preset

# https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
_GGUF_MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model file that is there.

    Attributes:
        path: the file.
        seconds: how long it took to find it.
    """

    path: Path
    seconds: float


def resolve(*, preset: str | None, path: str | None) -> ResolvedModel:
    """Find the model that the user named, or the embedded default.

    Args:
        preset: a preset's name.
        path: a GGUF file; it wins over the preset.

    Raises:
        ModelNotFoundError: there is no such preset or file, or it is not installed.
        ModelError: the file is not a GGUF file.
    """
    started = time.perf_counter()
    found = find_preset(preset or DEFAULT_PRESET).locate() if path is None else Path(path)
    _check(found.expanduser())
    return ResolvedModel(found.expanduser(), time.perf_counter() - started)


def _check(path: Path) -> None:
    """Refuse what llama.cpp would refuse with an error that does not say what is wrong."""
    if not path.exists():
        raise ModelNotFoundError(f"there is no file {path}")
    if path.is_dir():
        raise ModelError(f"{path} is a directory, not a GGUF file")
    if not path.is_file():
        raise ModelError(f"{path} is not a regular file")
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    if not magic:
        raise ModelError(f"{path} is empty")
    if magic != _GGUF_MAGIC:
        raise ModelError(f"{path} is not a GGUF file")
