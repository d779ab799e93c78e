"""The user's folders and files: where they are, how they are read and written.

A user may have no home: neither HOME nor an entry in the list of users (`docker run --user 1042`),
HOME=/dev/null, or a folder that this process may not enter. Then there is no configuration and
nothing is kept; whatever needs no home works. All of these look alike here: a path below something
that is no folder.
"""

import codecs
import contextlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from llmstream_cli.errors import InvalidValueError, LLMStreamError

WAIT_SECONDS = 2.0  # until it is said what is waited for

# The longer mark first: the one of UTF-16 is a beginning of the one of UTF-32.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_XDG = {
    "config": ("XDG_CONFIG_HOME", ".config"),
    "data": ("XDG_DATA_HOME", ".local/share"),
    "cache": ("XDG_CACHE_HOME", ".cache"),
}


# ---- where they are -------------------------------------------------------------------------


def set_home() -> None:
    """Make HOME an absolute path, for this process and all that it starts.

    An unknown one becomes one in which nothing can be: libraries would make a folder called `~`.
    """
    if os.name != "posix" or Path(os.environ.get("HOME", "")).is_absolute():
        return
    os.environ.pop("HOME", None)  # a relative one is wrong; the list of users is asked
    try:
        home = Path.home()
    except RuntimeError:
        home = Path(os.devnull)
    os.environ["HOME"] = str(home if home.is_absolute() else os.devnull)


def user_folder(kind: Literal["config", "data", "cache"]) -> Path:
    """Return the folder for the user's files of this program, as platformdirs; it may not exist."""
    set_home()
    if sys.platform != "linux":
        import platformdirs

        folder: Path = getattr(platformdirs, f"user_{kind}_path")("llmstream", appauthor=False)
        return folder
    variable, usual = _XDG[kind]  # not by platformdirs, whose import every answer would wait for
    chosen = Path(os.environ.get(variable, ""))
    return (chosen if chosen.is_absolute() else Path.home() / usual) / "llmstream"


def cache_folder() -> Path:
    """Return the folder of what can be made again: repacked models, records of downloads."""
    chosen = os.environ.get("LLMSTREAM_CACHE")
    return expand(os.path.expandvars(chosen)) if chosen else user_folder("cache")


def expand(path: str) -> Path:
    """Put the user's home in the place of `~`; that of a user who is unknown stays as it is."""
    set_home()
    try:
        return Path(path).expanduser()
    except RuntimeError:  # `~nobody`
        return Path(path)


# A path that may not be looked into is as one that is not there.


def exists(path: Path) -> bool:
    try:
        path.stat()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False
    return True


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def glob(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def nearest_existing(path: Path) -> Path:
    """Return the path, or what exists of the folders around it."""
    return next(one for one in (path, *path.absolute().parents) if exists(one))


# ---- to read --------------------------------------------------------------------------------


def read_text(
    name: str | Path,
    max_bytes: int,
    *,
    prefix: str = "",
    error: type[LLMStreamError] = InvalidValueError,
    on_wait: Callable[[], object] | None = None,
) -> str:
    """Return the text of a file, its lines ended as on POSIX; `~` is the user's home.

    Where a pipe keeps its reader waiting `on_wait` is called, once. Without it pipes are refused:
    they can be read only once.

    Raises:
        LLMStreamError: of type `error`: it cannot be read, is too long, or is no text.
    """
    if not str(name):
        raise error(f"{prefix}the name of the file is empty")
    try:
        path = expand(str(name))
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise error(f"{prefix}{name} is a directory")
        if on_wait is None and not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):
            raise error(f"{prefix}{name} is not a regular file")
        noticed = contextlib.nullcontext() if stat.S_ISREG(mode) else notice_wait(on_wait)
        with noticed, path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError as problem:
        raise error(f"{prefix}there is no file {name}") from problem
    except (OSError, ValueError) as problem:  # no permission, a name too long or with a NUL
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise error(f"{prefix}cannot read {name}: {reason}") from problem
    text = decode(data, max_bytes, f"{prefix}{name}", error).replace("\r\n", "\n")
    if "\0" in text:
        raise error(f"{prefix}{name} is binary, not text")
    return text


def decode(
    data: bytes, max_bytes: int, name: str, error: type[LLMStreamError] = InvalidValueError
) -> str:
    """Return the text of bytes: in the encoding of their byte order mark, else in UTF-8.

    Raises:
        LLMStreamError: of type `error`: they are too many, or no text.
    """
    if len(data) > max_bytes:
        most = f"{max_bytes >> 20} MiB" if max_bytes >= 1 << 20 else f"{max_bytes >> 10} KiB"
        raise error(f"{name} is longer than {most}")
    mark, encoding = next((pair for pair in _MARKS if data.startswith(pair[0])), (b"", "utf-8"))
    try:
        return data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as problem:
        place = problem.start + len(mark)
        raise error(f"{name} is not {encoding.upper()} text: byte {place}") from problem


@contextlib.contextmanager
def notice_wait(tell: Callable[[], object] | None) -> Iterator[None]:
    """Call a function, on another thread, when the block takes long; once."""
    import threading

    timer = threading.Timer(WAIT_SECONDS, tell or (lambda: None))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


# ---- to write -------------------------------------------------------------------------------


def beside(path: Path) -> Path:
    """Return a new name in the same folder, for what is renamed to `path` when it is done."""
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")


def replace_file(path: Path, text: str) -> None:
    """Write a file, whole or not at all, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = beside(path)
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise
