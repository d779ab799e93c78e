"""`llmstream models pull` and `remove`."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmstream_cli.cli.progress import make_progress
from llmstream_cli.cli.terminal import without_controls, write_stderr
from llmstream_cli.errors import InvalidValueError, ModelError, ModelNotFoundError, NoRoomError
from llmstream_cli.machine import memory
from llmstream_cli.models import hub_cache
from llmstream_cli.models.hub_cache import CachedModel
from llmstream_cli.models.presets import PRESETS, NamedModel, Preset, named_model, preset_of_hub
from llmstream_cli.models.reference import HubModel, choose, part_names
from llmstream_cli.models.resolve import fetch, find_repacked_copy
from llmstream_cli.models.sizes import human_size

_MIN_CTX_SIZE = 512  # tokens of context, below which a model is of little use


def pull_models(names: Sequence[str], *, force: bool) -> int:
    """Download the models, and print the path of each."""
    models = [named_model(name) for name in names]  # all of them, before the first byte
    for model in models:
        sys.stdout.write(f"{without_controls(str(_pull(model, force=force)))}\n")
        sys.stdout.flush()
    return 0


def _pull(model: NamedModel, *, force: bool) -> Path:
    if model.hub is None:
        raise ModelNotFoundError(
            f"{model.name} is a file, which needs no download: use it with --model {model.name}"
        )
    if model.file is not None and not force:
        write_stderr(f"{model.name} is here already: a package has brought it\n")
        return model.file
    if model.preset is not None and not force:
        _check_memory(model.preset)
    return fetch(model, make_progress(), any_size=force)


def _check_memory(preset: Preset) -> None:
    """Refuse a model that this machine cannot even hold with a short context."""
    total, needed = memory().total, preset.memory_bytes(_MIN_CTX_SIZE)
    if needed <= total:
        return
    smaller = [other for other in PRESETS.values() if other.memory_bytes() <= total]
    best = max(smaller, key=lambda other: other.size_bytes, default=None)
    hint = f"{best.name} fits, or " if best is not None else ""
    raise NoRoomError(
        f"{preset.name} needs {human_size(needed)} of memory and this machine has "
        f"{human_size(total)}: {hint}--force downloads it all the same"
    )


# ---- remove ---------------------------------------------------------------------------------


def remove_models(names: Sequence[str], *, yes: bool) -> int:
    """Ask, and delete the models; return the exit code."""
    copies = list(dict.fromkeys(copy for name in names for copy in _copies_of(named_model(name))))
    repacked = list(_find_repacked(copies))
    if not yes and not _agreed(copies, repacked):
        write_stderr("nothing is deleted\n")
        return 1
    for path in repacked:  # first: they are found by what they were made from
        size = _size_of(path)
        try:
            path.unlink()
        except OSError as error:
            raise ModelError(f"cannot remove {path}: {error.strerror}") from error
        _tell_removed(str(path), size)
    for copy in copies:
        _tell_removed(f"{copy.repo}/{copy.file}", hub_cache.remove(copy))
    return 0


def _copies_of(model: NamedModel) -> list[CachedModel]:
    """Return what the Hugging Face cache has of a model, in all revisions."""
    wanted = model.hub
    if wanted is None:
        raise ModelNotFoundError(
            f"{model.name} is a file of yours and in no cache: delete it yourself"
        )
    first = part_names(wanted.file)[0] if wanted.file is not None else None
    copies = [
        copy
        for copy in hub_cache.list_cached()
        if copy.repo == wanted.repo
        and first in {None, copy.file}
        and (wanted.quant is None or choose([copy.file], wanted.quant) is not None)
        and (wanted.revision is None or copy.revision.startswith(wanted.revision))
    ]
    if copies:
        return copies
    hint = ""
    if model.preset is not None and model.preset.package is not None:
        package = model.preset.package.name.replace("_", "-")
        hint = f"; `pip uninstall {package}` removes the package that carries a file of it"
    raise ModelNotFoundError(f"no download of {model.name} is in the cache{hint}")


def _find_repacked(copies: Sequence[CachedModel]) -> Iterator[Path]:
    """Find what was repacked for llama.cpp from files in candle's layout."""
    for copy in copies:
        preset = preset_of_hub(HubModel(copy.repo, file=copy.file))
        if preset is not None and preset.is_candle and copy.complete:
            repacked = find_repacked_copy(copy.paths[0], preset)
            if repacked is not None:
                yield repacked


def _agreed(copies: Sequence[CachedModel], repacked: Sequence[Path]) -> bool:
    """Tell what would be deleted, and ask."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise InvalidValueError(
            "remove asks before it deletes, and standard input is no terminal: give --yes"
        )
    lines = [
        f"{copy.repo}/{copy.file}, revision {copy.revision[:7]}, {human_size(copy.size_bytes)}"
        for copy in copies
    ]
    lines += [f"{path}, {human_size(_size_of(path))}: repacked from it" for path in repacked]
    size = sum(copy.size_bytes for copy in copies) + sum(map(_size_of, repacked))
    for line in lines:
        write_stderr(without_controls(line) + "\n")
    write_stderr(f"Delete {human_size(size)}? [y/N] ")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _tell_removed(what: str, num_bytes: int) -> None:
    freed = f"{human_size(num_bytes)} set free" if num_bytes else "another name or revision has it"
    sys.stdout.write(f"removed {without_controls(what)}: {freed}\n")


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # gone meanwhile
        return 0
