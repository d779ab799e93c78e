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

import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from llmstream_cli.errors import ConfigError

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
    system has for it: `~/.config/llmstream/config.toml` on Linux, see platformdirs.
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        return _expand(named) if named else None
    if sys.platform == "linux":
        folder = _linux_folder("XDG_CONFIG_HOME", "~/.config")
    else:
        from platformdirs import user_config_path

        folder = user_config_path("llmstream", appauthor=False)
    return folder / "config.toml"


def history_path(config: Config) -> Path | None:
    """Return the file that conversations are kept in; None where they are not kept.

    It is what `LLMSTREAM_HISTORY` names, and none where that is `off`; else what `[history]` says;
    else `history.db` in the folder that the system has for a user's data, such as
    `~/.local/share/llmstream`.
    """
    chosen = os.environ.get(HISTORY_VARIABLE)
    if chosen:
        return None if chosen.lower() == HISTORY_OFF else _expand(chosen)
    if not config.history.enabled:
        return None
    if config.history.path is not None:
        return config.history.path
    if sys.platform == "linux":
        folder = _linux_folder("XDG_DATA_HOME", "~/.local/share")
    else:
        from platformdirs import user_data_path

        folder = user_data_path("llmstream", appauthor=False)
    return folder / "history.db"


def _linux_folder(variable: str, usual: str) -> Path:
    """Return the folder as platformdirs has it, whose import every answer would wait for."""
    return _expand(os.environ.get(variable, "").strip() or usual) / "llmstream"


def load_config() -> Config:
    """Read the file at `config_path()`, if there is one.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or says what it cannot say; or
            `LLMSTREAM_CONFIG` names a file that is not there.
    """
    path = config_path()
    if path is None:
        return Config()
    found = _read(path)
    if found is None:
        if VARIABLE in os.environ:
            raise ConfigError(f"{VARIABLE} names {path}, and there is no such file")
        return Config()
    text, mode = found
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
        raise ConfigError(f"{path} is not TOML: {_one_line(str(error))}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply") from error
    try:
        said = {name: _reader(name)(value) for name, value in settings.items()}
    except _SettingError as error:
        raise Config(path=path, text=text).refusal(str(error), *error.keys) from error
    return Config(path=path, text=text, is_private=is_private, **said)


def _expand(path: str) -> Path:
    """Put the user's home in the place of `~`."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # `~nobody`
        return Path(path)


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


def _read(path: Path) -> tuple[str, int] | None:
    """Return the text of a file, and who may do what with it; None where there is none."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(f"{path} is not a regular file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(f"{path} is longer than {MAX_BYTES >> 10} KiB")
        return data.decode("utf-8-sig"), stat.S_IMODE(mode)
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
        raise _SettingError(f"there is no table {name!r}; {hint(name, _READERS)}", name)
    return reader


def hint(name: str, known: Iterable[str]) -> str:
    """Return what else may have been meant: the near miss, or all names there are."""
    import difflib  # for mistakes alone

    names = list(known)
    near = difflib.get_close_matches(name.lower(), names, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"


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
            raise _SettingError(
                f"there is no setting {name!r}; {hint(name, History._fields)}", "history", name
            )
    enabled, path = value.get("enabled", True), value.get("path")
    if not isinstance(enabled, bool):
        raise _SettingError("enabled has to be true or false", "history", "enabled")
    if path is not None and not (isinstance(path, str) and path):
        raise _SettingError("path has to be the name of a file", "history", "path")
    return History(enabled=enabled, path=None if path is None else _expand(path))


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


def _one_line(text: str) -> str:
    return "".join(filter(str.isprintable, " ".join(text.split())))
