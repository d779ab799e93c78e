"""The configuration file: what the user wants without saying it each time.

A TOML file:

    [defaults] [ask] [chat] [serve] [bench]   options by their names, for all commands or for one
    [contexts]                                system messages by their names
    [presets.NAME]                            models by names of the user's own
    [history]                                 whether and where conversations are kept

Which options and which presets there can be is known further up, in `cli.settings` and
`cli.own_presets`; here they are tables. A key that is unknown, or a value that cannot be, is an
error with its line: a misspelt setting never passes for one that was heard.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from llmstream_cli.errors import ConfigError, did_you_mean, one_line
from llmstream_cli.files import expand, nearest_existing, read_text, user_folder

VARIABLE = "LLMSTREAM_CONFIG"
HISTORY_VARIABLE = "LLMSTREAM_HISTORY"
HISTORY_OFF = "off"
MAX_BYTES = 64 * 1024

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

Table = Mapping[str, Any]
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class History(NamedTuple):  # made sooner than a dataclass, for which every answer would wait
    """What is kept of conversations.

    Attributes:
        enabled: whether they are kept at all.
        path: the file; None is its usual place.
    """

    enabled: bool = True
    path: Path | None = None


class Config(NamedTuple):
    """What the file says.

    Attributes:
        path: the file; None where there is none.
        text: of the file.
        is_private: whether nobody but its owner can read it, as far as the system tells.
        defaults: options for all commands, as they stand there.
        ask: options for `llmstream ask` alone, over those; as for each other command.
        contexts: system messages by the names that `--context` knows them by.
        presets: models by the names that `--features` shall know them by, as they stand there.
        history: what is kept of conversations.
        unreadable: why a file that is there is not used; empty where none is.
    """

    path: Path | None = None
    text: str = ""
    is_private: bool = True
    defaults: Table = _NOTHING
    ask: Table = _NOTHING
    chat: Table = _NOTHING
    serve: Table = _NOTHING
    bench: Table = _NOTHING
    contexts: Mapping[str, str] = _NOTHING
    presets: Mapping[str, Table] = _NOTHING
    history: History = History()
    unreadable: str = ""

    def says(self, *keys: str) -> bool:
        """Tell whether the file has a value at `keys`, which lead to it from the top."""
        return _has(_toml(self.text), keys)

    def place(self, *keys: str) -> str:
        """Return where the value at `keys` is: the file and the line."""
        return f"{self.path}, line {_line_of(self.text, keys)}"

    def refusal(self, message: str, *keys: str) -> ConfigError:
        """Return the error for a value that cannot be."""
        return ConfigError(f"{self.place(*keys)}: {message}")


def config_path() -> Path | None:
    """Return where the file is, or would be; None if the user wants none.

    It is where `LLMSTREAM_CONFIG` says, and nowhere if that is empty; else in the folder that the
    system has for it: `~/.config/llmstream/config.toml` on Linux.
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        return expand(named) if named else None
    return user_folder("config") / "config.toml"


def history_path(config: Config) -> Path | None:
    """Return the file that conversations are kept in; None where they are not kept.

    It is what `LLMSTREAM_HISTORY` names, and none where that is `off`; else what `[history]` says;
    else `history.db` in the folder that the system has for a user's data, such as
    `~/.local/share/llmstream`. None is kept where that cannot be a folder.
    """
    chosen = os.environ.get(HISTORY_VARIABLE)
    if chosen:
        return None if chosen.lower() == HISTORY_OFF else expand(chosen)
    if not config.history.enabled:
        return None
    if config.history.path is not None:
        return config.history.path
    folder = user_folder("data")
    return folder / "history.db" if nearest_existing(folder).is_dir() else None


def why_no_history(config: Config) -> str:
    """Return why no conversations are kept where `history_path` is None."""
    if not os.environ.get(HISTORY_VARIABLE):
        if config.unreadable:
            return f"{config.unreadable}, and it may switch the history off"
        if config.history.enabled:
            place = user_folder("data")
            return f"{place} cannot be a folder; {HISTORY_VARIABLE} can name a file elsewhere"
    return "the history is switched off"


def load_config() -> Config:
    """Read the file at `config_path()`, if there is one.

    In a home that this process may not enter, or that is no folder, there is none. As it may forbid
    to keep conversations, none are kept where it is there and cannot be read.

    Raises:
        ConfigError: the file is no text, no TOML, or says what it cannot say; or
            `LLMSTREAM_CONFIG` names one that is not there or cannot be read.
    """
    path = config_path()
    if path is None:
        return Config()
    is_named = VARIABLE in os.environ
    try:
        mode = path.stat().st_mode
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (FileNotFoundError, NotADirectoryError) as error:
        if is_named:
            raise ConfigError(f"{VARIABLE} names {path}, and there is no such file") from error
        return Config()
    except OSError as error:
        if is_named:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        unreadable = f"{path} cannot be read: {error.strerror}"
        return Config(unreadable=unreadable, history=History(enabled=False))
    text = read_text(path, MAX_BYTES, error=ConfigError)
    return parse_config(text, path, is_private=os.name != "posix" or not mode & 0o044)


@lru_cache(maxsize=1)
def parse_config(text: str, path: Path, *, is_private: bool = True) -> Config:
    """Return what a configuration file says.

    Args:
        text: of the file.
        path: for the errors.
        is_private: see `Config`.

    Raises:
        ConfigError: it is no TOML, or says what it cannot say.
    """
    try:
        # With the line end, a mistake on the last line has its number.
        settings = _toml(text + "\n")
    except ValueError as error:
        raise ConfigError(f"{path} is not TOML: {one_line(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply") from error
    try:
        said = {name: _reader(name)(value) for name, value in settings.items()}
    except _SettingError as error:
        raise Config(path=path, text=text).refusal(str(error), *error.keys) from error
    return Config(path=path, text=text, is_private=is_private, **said)


class _SettingError(Exception):
    """A setting is wrong; `keys` leads to it from the top."""

    def __init__(self, message: str, *keys: str) -> None:
        super().__init__(message)
        self.keys = keys


def _toml(text: str) -> dict[str, Any]:
    """Parse TOML. Where there is no file, nobody waits for the import.

    Raises:
        ValueError: it is none, or has a number that is too long.
    """
    import tomllib

    return tomllib.loads(text)


def _reader(name: str) -> Callable[[Any], Any]:
    reader = _READERS.get(name)
    if reader is None:
        raise _SettingError(f"there is no table {name!r}; {did_you_mean(name, _READERS)}", name)
    return reader


def _table_reader(name: str) -> Callable[[Any], Table]:
    def read(value: Any) -> Table:
        if not isinstance(value, dict):
            raise _SettingError(f"{name} has to be a table of lines name = value", name)
        return value

    return read


def _contexts(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise _SettingError('contexts has to be a table of lines name = "text"', "contexts")
    for name, text in value.items():
        _check_name("context", name, "contexts", name)
        if not isinstance(text, str) or not text.strip():
            raise _SettingError(f"the context {name} has to be text", "contexts", name)
    return value


def _presets(value: Any) -> Mapping[str, Table]:
    if not isinstance(value, dict):
        raise _SettingError("presets has to be tables [presets.NAME]", "presets")
    for name, preset in value.items():
        _check_name("preset", name, "presets", name)
        if not isinstance(preset, dict):
            raise _SettingError(f"the preset {name} has to be a table", "presets", name)
    return value


def _history(value: Any) -> History:
    for name in _table_reader("history")(value):
        if name not in History._fields:
            hint = did_you_mean(name, History._fields)
            raise _SettingError(f"there is no setting {name!r}; {hint}", "history", name)
    enabled, path = value.get("enabled", True), value.get("path")
    if not isinstance(enabled, bool):
        raise _SettingError("enabled has to be true or false", "history", "enabled")
    if path is not None and not (isinstance(path, str) and path):
        raise _SettingError("path has to be the name of a file", "history", "path")
    return History(enabled=enabled, path=None if path is None else expand(path))


def _check_name(what: str, name: str, *keys: str) -> None:
    if not NAME.fullmatch(name):
        raise _SettingError(
            f"the {what} {name[:64]!r} needs a name of 1 to 64 letters, digits, - and _", *keys
        )


OPTION_TABLES = ("defaults", "ask", "chat", "serve", "bench")

_READERS: Mapping[str, Callable[[Any], Any]] = {
    **{name: _table_reader(name) for name in OPTION_TABLES},
    "contexts": _contexts,
    "presets": _presets,
    "history": _history,
}


# ---- where in the file: tomllib does not tell -----------------------------------------------


def _line_of(text: str, keys: tuple[str, ...]) -> int:
    """Return the line on which the statement begins that first gives the value at `keys`."""
    header = ""
    for line, statement in _statements(text):
        if statement.lstrip().startswith("["):
            header = statement
            given = _toml(statement)
        else:
            given = _toml(f"{header}\n{statement}")
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
            _toml(statement)
        except ValueError:
            continue
        yield begin, statement
        begin, lines = number + 1, []


def _has(value: Any, keys: tuple[str, ...]) -> bool:
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True
