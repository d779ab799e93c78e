"""Which files have been loaded before, and so will not abort the process that loads them.

The checks of `gguf_check` refuse what is known to bring llama.cpp down; the rest is found out in a
process of its own, once for each file. A lost record costs a second look, no more.
"""

import contextlib
from pathlib import Path

from llmstream_cli.files import cache_folder, replace_file

_MAX_FILES = 1000
_Stamp = list[int]


def has_loaded(path: Path) -> bool:
    """Tell whether the file was loaded before, and has not changed since."""
    stamp = _stamp(path)
    return stamp is not None and _read().get(str(path.absolute())) == stamp


def note_loaded(path: Path) -> None:
    """Remember that the file was loaded. Where that cannot be written, it is forgotten."""
    stamp = _stamp(path)
    if stamp is None:
        return
    known = _read()
    known.pop(str(path.absolute()), None)
    known[str(path.absolute())] = stamp
    import json

    # Of two processes that write at once, one is forgotten.
    with contextlib.suppress(OSError):
        replace_file(_record(), json.dumps(dict([*known.items()][-_MAX_FILES:])))


def _stamp(path: Path) -> _Stamp | None:
    """Return what changes when the file does, or another part of the model that it begins."""
    from llmstream_cli.models.quants import part_names

    stamp: _Stamp = []
    for part in part_names(path.name):
        try:
            status = (path.parent / part).stat()  # a folder may have no name to replace
        except OSError:
            return None
        stamp += [status.st_dev, status.st_ino, status.st_size]
        stamp += [status.st_mtime_ns, status.st_ctime_ns]
    return stamp


def _record() -> Path:
    return cache_folder() / "loaded.json"


def _read() -> dict[str, _Stamp]:
    import json  # not for the embedded model, which needs no record

    try:
        known = json.loads(_record().read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
