"""The configuration file: what the user wants without saying it each time.

A TOML file. Each top-level key is a setting, read by the function that `_READERS` has for it into
the attribute of `Config` with its name. A key that is unknown, or a value that cannot be, is an
error with its line: a misspelt setting never passes for one that was heard.
"""

import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmstream_cli.errors import ConfigError

VARIABLE = "LLMSTREAM_CONFIG"
MAX_BYTES = 64 * 1024

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the file says.

    Attributes:
        contexts: system messages by the names that `--context` knows them by.
    """

    contexts: Mapping[str, str] = field(default_factory=dict)


def load_config() -> Config:
    """Read the file that `LLMSTREAM_CONFIG` names, else the one at its usual place, if any.

    The usual place is the folder that the system has for it: `~/.config/llmstream/config.toml` on
    Linux, see platformdirs.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or says what it cannot say; or
            `LLMSTREAM_CONFIG` names a file that is not there.
    """
    named = os.environ.get(VARIABLE)
    if named:
        path = Path(named)
        text = _read(path)
        if text is None:
            raise ConfigError(f"{VARIABLE} names {path}, and there is no such file")
        return parse_config(text, path)
    from platformdirs import user_config_path

    path = user_config_path("llmstream", appauthor=False) / "config.toml"
    text = _read(path)
    return Config() if text is None else parse_config(text, path)


def parse_config(text: str, path: Path) -> Config:
    """Return what a configuration file says.

    Args:
        text: of the file.
        path: for the errors.

    Raises:
        ConfigError: it is no TOML, or says what it cannot say.
    """
    try:
        # With the line end, a mistake on the last line has its number.
        settings = tomllib.loads(text + "\n")
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {_one_line(str(error))}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply") from error
    try:
        return Config(**{name: _reader(name)(value) for name, value in settings.items()})
    except _SettingError as error:
        line = _line_of(text, error.keys)
        raise ConfigError(f"{path}, line {line}: {error}") from error


class _SettingError(Exception):
    """A setting is wrong; `keys` leads to it from the top."""

    def __init__(self, message: str, *keys: str) -> None:
        super().__init__(message)
        self.keys = keys


def _read(path: Path) -> str | None:
    """Return the text of a file; None where there is none."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path} is not a regular file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(f"{path} is longer than {MAX_BYTES >> 10} KiB")
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: byte {error.start}") from error
    except (OSError, ValueError) as error:  # no permission, a name too long or with a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot read {path}: {reason}") from error


def _reader(name: str) -> Callable[[Any], Any]:
    reader = _READERS.get(name)
    if reader is None:
        import difflib

        near = difflib.get_close_matches(name, _READERS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(_READERS)}"
        raise _SettingError(f"there is no setting {name!r}; {hint}", name)
    return reader


def _contexts(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise _SettingError('contexts has to be a table of lines name = "text"', "contexts")
    for name, text in value.items():
        if not _NAME.fullmatch(name):
            raise _SettingError(
                f"the context {name[:64]!r} needs a name of 1 to 64 letters, digits, - and _",
                *("contexts", name),
            )
        if not isinstance(text, str) or not text.strip():
            raise _SettingError(f"the context {name} has to be text", "contexts", name)
    return value


_READERS: Mapping[str, Callable[[Any], Any]] = {"contexts": _contexts}


# ---- where in the file: tomllib does not tell -----------------------------------------------


def _line_of(text: str, keys: tuple[str, ...]) -> int:
    """Return the line on which the statement begins that first gives the value at `keys`."""
    header = ""
    for line, statement in _statements(text):
        if statement.lstrip().startswith("["):
            header = statement
            given = tomllib.loads(statement)
        else:
            given = tomllib.loads(f"{header}\n{statement}")
        if _has(given, keys):
            return line
    raise AssertionError(f"{keys} is nowhere in the file that has it")


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Cut valid TOML into its statements, each with the number of its first line.

    A statement ends where a line does and is complete there: inside a string or an array of
    several lines it is not. Comments and empty lines are statements that say nothing.
    """
    begin, lines = 1, list[str]()
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        lines.append(line)
        statement = "\n".join(lines)
        try:
            tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        yield begin, statement
        begin, lines = number + 1, []


def _has(value: Any, keys: tuple[str, ...]) -> bool:
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True


def _one_line(text: str) -> str:
    return "".join(filter(str.isprintable, " ".join(text.split())))
