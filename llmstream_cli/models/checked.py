"""Which files have passed `gguf_check`, so that not every start looks through their vocabularies.

For each there is an empty file in the cache folder. A lost one costs a second look, no more.
"""

import contextlib
from pathlib import Path

from llmstream_cli.files import cache_folder, exists

_CHECKS = 1  # another number once the checks find more


def was_checked(path: Path) -> bool:
    """Tell whether the file has passed before, and has not changed since."""
    mark = _mark(path)
    return mark is not None and exists(mark)


def note_checked(path: Path) -> None:
    """Remember that the file has passed. Where that cannot be written, it is forgotten."""
    mark = _mark(path)
    if mark is not None:
        with contextlib.suppress(OSError):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()


def _mark(path: Path) -> Path | None:
    """Return the file that stands for this one; None for what is not there."""
    if "-of-" in path.name:  # a part of a model, of which others may change
        return None
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return cache_folder() / "checked" / "-".join(f"{number:x}" for number in (_CHECKS, *state))
