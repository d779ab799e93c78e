"""The configuration file: where it is, its tables, and the line of each value.

A TOML file:

    [defaults] [ask] [serve] …                options by their names, for all commands or for one
    [contexts]                                system messages by their names
    [presets.NAME]                            models by names of the user's own
    [history]                                 whether and where conversations are kept

Which options and presets there can be is known to `cli.config`; here they are tables. An unknown
name, or a wrong value, is an error with its line: a misspelt setting never passes unnoticed.
"""

import errno
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from llmstream_cli.errors import ConfigError, did_you_mean, one_line
from llmstream_cli.files import expand, nearest_existing, read_text, user_folder

VARIABLE = "LLMSTREAM_CONFIG"
HISTORY_VARIABLE = "LLMSTREAM_HISTORY"
MAX_BYTES = 64 * 1024

OPTION_TABLES = ("defaults", "ask", "chat", "serve", "bench")
_TABLES = {
    **dict.fromkeys(OPTION_TABLES, "a table of lines name = value"),
    "contexts": 'a table of lines name = "text"',
    "presets": "tables [presets.NAME]",
    "history": "a table of lines name = value",
}
_HISTORY_KEYS = ("enabled", "path")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

Table = Mapping[str, Any]
_NOTHING: Table = MappingProxyType({})


class Config(NamedTuple):  # made sooner than a dataclass, for which every answer would wait
    """What the file says."""

    path: Path | None = None  # None where there is no file
    text: str = ""
    tables: Mapping[str, Table] = _NOTHING
    is_private: bool = True  # whether nobody but its owner can read it
    unreadable: str = ""  # why a file that is there is not used

    @property
    def contexts(self) -> Mapping[str, str]:
        """System messages by the names that `--context` knows them by."""
        return self.tables.get("contexts", _NOTHING)

    @property
    def presets(self) -> Mapping[str, Table]:
        """Models by the names that `--features` knows them by, as they stand in the file."""
        return self.tables.get("presets", _NOTHING)

    def place(self, *keys: str) -> str:
        """Return where the value at `keys`, which lead to it from the top, is: file and line."""
        return f"{self.path}, line {_lines(self.text)[keys]}"

    def refusal(self, message: str, *keys: str) -> ConfigError:
        """Return the error for a value that cannot be."""
        return ConfigError(f"{self.place(*keys)}: {message}")


def config_path() -> Path | None:
    """Return where the file is, or would be; None if `LLMSTREAM_CONFIG` is set and empty."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return expand(named) if named else None
    return user_folder("config") / "config.toml"


def load_config() -> Config:
    """Read the file at `config_path()`, if there is one.

    Raises:
        ConfigError: the file is no text, no TOML, or invalid; or `LLMSTREAM_CONFIG` names one that
            is not there or cannot be read.
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
        return Config(unreadable=f"{path} cannot be read: {error.strerror}")
    text = read_text(path, MAX_BYTES, error=ConfigError)
    return parse_config(text, path, is_private=os.name != "posix" or not mode & 0o044)


@lru_cache(maxsize=1)
def parse_config(text: str, path: Path, *, is_private: bool = True) -> Config:
    """Return what the text of a configuration file says.

    Raises:
        ConfigError: it is no TOML, or invalid; the message begins with `path`.
    """
    try:
        tables = _toml(text + "\n")  # with the line end, a mistake on the last line has its number
    except ValueError as error:
        raise ConfigError(f"{path} is not TOML: {one_line(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply") from error
    config = Config(path, text, tables, is_private)
    for message, *keys in _mistakes(tables):
        raise config.refusal(message, *keys)
    return config


Mistake = tuple[str, *tuple[str, ...]]  # what is wrong, and the keys that lead to it


def _mistakes(tables: Mapping[str, Any]) -> Iterator[Mistake]:
    for name, table in tables.items():
        if name not in _TABLES:
            yield f"there is no table {name!r}; {did_you_mean(name, _TABLES)}", name
        elif not isinstance(table, dict):
            yield f"{name} has to be {_TABLES[name]}", name
    for table, kind in (("contexts", "context"), ("presets", "preset")):
        for name, value in tables.get(table, _NOTHING).items():
            if not _NAME.fullmatch(name):
                named = f"the {kind} {name[:64]!r}"
                yield f"{named} needs a name of 1 to 64 letters, digits, - and _", table, name
            elif kind == "preset" and not isinstance(value, dict):
                yield f"the preset {name} has to be a table", table, name
            elif kind == "context" and not (isinstance(value, str) and value.strip()):
                yield f"the context {name} has to be text", table, name
    yield from _history_mistakes(tables.get("history", _NOTHING))


def _history_mistakes(table: Table) -> Iterator[Mistake]:
    for name, value in table.items():
        if name not in _HISTORY_KEYS:
            hint = did_you_mean(name, _HISTORY_KEYS)
            yield f"there is no setting {name!r}; {hint}", "history", name
        elif name == "enabled" and not isinstance(value, bool):
            yield "enabled has to be true or false", "history", name
        elif name == "path" and not (isinstance(value, str) and value):
            yield "path has to be the name of a file", "history", name


def _toml(text: str) -> dict[str, Any]:
    import tomllib  # where there is no file, nobody waits for the import

    return tomllib.loads(text)


# ---- history --------------------------------------------------------------------------------


def history_path(config: Config) -> Path | None:
    """Return the file that conversations are kept in; None where they are not kept.

    `LLMSTREAM_HISTORY` names it, or is `off`; else `[history]` does; else it is in the system's
    folder for a user's data.
    """
    return _history(config)[0]


def why_no_history(config: Config) -> str:
    """Return why no conversations are kept where `history_path` is None."""
    return _history(config)[1]


def _history(config: Config) -> tuple[Path | None, str]:
    off = "the history is switched off"
    chosen = os.environ.get(HISTORY_VARIABLE)
    if chosen:
        return (None, off) if chosen.lower() == "off" else (expand(chosen), "")
    if config.unreadable:
        return None, f"{config.unreadable}, and it may switch the history off"
    said = config.tables.get("history", _NOTHING)
    if not said.get("enabled", True):
        return None, off
    if "path" in said:
        return expand(said["path"]), ""
    folder = user_folder("data")
    if nearest_existing(folder).is_dir():
        return folder / "history.db", ""
    return None, f"{folder} cannot be a folder; {HISTORY_VARIABLE} can name a file elsewhere"


# ---- lines, which tomllib does not tell -----------------------------------------------------


@lru_cache(maxsize=1)
def _lines(text: str) -> Mapping[tuple[str, ...], int]:
    """Map the keys to each value of valid TOML to the line where its statement begins.

    A statement ends with the first line that completes it: inside a string or an array of several
    lines it is not valid.
    """
    found: dict[tuple[str, ...], int] = {}
    header, statement = "", list[str]()
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        statement.append(line)
        is_header = statement[0].lstrip().startswith("[")
        try:
            given = _toml("\n".join(statement if is_header else [header, *statement]))
        except ValueError:
            continue
        for keys in _key_paths(given):
            found.setdefault(keys, number + 1 - len(statement))
        header = line if is_header else header
        statement = []
    return found


def _key_paths(table: Table) -> Iterator[tuple[str, ...]]:
    for name, value in table.items():
        yield (name,)
        if isinstance(value, dict):
            yield from ((name, *keys) for keys in _key_paths(value))
