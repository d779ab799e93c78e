"""Options that are kept: in the environment, and in the configuration file.

A value comes from the first that has one:

    the command line
    LLMSTREAM_NAME in the environment
    the command's table in the file, such as [serve]
    [defaults] in the file
    what the preset's authors advise
    the default

The options in `cli.options` are the only list of what there is. A command that is made as a
`SettingsCommand` looks up here what its command line leaves open, and names the variable or the
line when a value turns out to be one that it cannot take.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperOption

from llmstream_cli.api import EngineConfig, SamplingParams
from llmstream_cli.cli.terminal import check_text, complain
from llmstream_cli.config import OPTION_TABLES, Config, Table, load_config
from llmstream_cli.errors import ConfigError, InvalidValueError, LLMStreamError, did_you_mean

SECRETS = frozenset({"api_key"})

# What belongs to one run, and is nothing to be kept.
EACH_TIME = frozenset(
    {
        *("json", "json_lines", "raw", "count", "schema", "grammar"),
        *("attach", "edit", "continue_", "session"),
    }
)

# Options that mean something else in one command than in the others. The others' tables and
# variables do not reach them; their variables have the command in their name.
_OWN: Mapping[str, frozenset[str]] = {
    "bench": frozenset({"url", "url_model", "max_tokens", "seed", "ctx_size"}),
}

# Lists of what has no spaces in it, so that spaces can be between.
_WITHOUT_SPACES = frozenset({"api_key", "allow_host", "cors_origin"})

# What is kept steps back behind what is said more closely and excludes it; by option, or by
# command and option.
_RIVALS: Mapping[str, frozenset[str]] = {
    "features": frozenset({"model", "url"}),
    "model": frozenset({"features", "url"}),
    "bench url": frozenset({"features", "model"}),
    "file": frozenset({"features", "model", "url"}),
    "tokenizer": frozenset({"features", "model", "url"}),
    "system": frozenset({"context", "raw"}),
    "context": frozenset({"system", "raw"}),
    "template": frozenset({"raw", "url"}),
    "ctx_size": frozenset({"url"}),
    "threads": frozenset({"url"}),
    "gpu_layers": frozenset({"url"}),
    "url": frozenset({"count"}),
}

# Options that have another name in the core or in the server.
PARAMETERS_BY_OPTION = {
    "keep_alive": "keep_alive",
    "schema": "json_schema",
    "think": "thinking",
    "parallel": "max_seqs",
    "queue": "max_queue",
    "timeout": "timeout_seconds",
    "drain": "drain_seconds",
    "allow_host": "allowed_hosts",
    "cors_origin": "cors_origins",
}
_OPTIONS = {parameter: option for option, parameter in PARAMETERS_BY_OPTION.items()}
_PARAMETERS = {field.name for type_ in (SamplingParams, EngineConfig) for field in fields(type_)}
_EPILOG = "Options can be kept in a file and in variables: see `llmstream config show`."
_SUBJECT = re.compile(r"--([a-z][a-z0-9-]*)(?=[ :])")


class Variable(NamedTuple):  # made sooner than a dataclass, for which every answer would wait
    """A value comes from the environment."""

    place: str
    source: str = "environment"

    def refusal(self, complaint: str) -> ConfigError:
        """Return the error for the value: `LLMSTREAM_THREADS must be between 1 and 512`."""
        return ConfigError(f"{self.place}{complaint}")


class Line(NamedTuple):
    """A value comes from the file."""

    config: Config
    table: str
    name: str
    source: str = "file"

    @property
    def place(self) -> str:
        """The file and the line."""
        return self.config.place(self.table, self.name)  # found when asked for: it takes a while

    def refusal(self, complaint: str) -> ConfigError:
        """Return the error for the value: `config.toml, line 2: threads must be between …`."""
        return ConfigError(f"{self.place}: {self.name}{complaint}")


Origin = Variable | Line


class Kept(NamedTuple):
    """A value that was kept, of the type that its option has."""

    value: Any
    origin: Origin


def settings_of(command: TyperCommand) -> Iterator[TyperOption]:
    """Return the options of a command that can be kept."""
    for option in command.params:
        if isinstance(option, TyperOption) and option.name not in EACH_TIME and option.expose_value:
            yield option


def is_own(command: str, name: str) -> bool:
    """Tell whether an option means something else in this command than in the others."""
    return name in _OWN.get(command, ())


def variable(command: str, name: str) -> str:
    """Return the variable of a setting."""
    words = (command, name) if is_own(command, name) else (name,)
    return "_".join(("LLMSTREAM", *words)).upper()


def tables_of(command: str, name: str) -> tuple[str, ...]:
    """Return the tables of the file that a setting is looked for in, the closest first."""
    return (command,) if is_own(command, name) else (command, "defaults")


class Lookup:
    """What is kept for the options of one command.

    Args:
        command: the command's name.
        config: the file, after `check_config`.
    """

    def __init__(self, command: str, config: Config) -> None:
        self._command = command
        self._config = config

    def find(self, option: TyperOption, given: Callable[[str], bool]) -> Kept | None:
        """Return the value of an option; None where nothing is kept, or a rival is said closer.

        Args:
            option: which one.
            given: tells of a name whether it is on the command line.

        Raises:
            ConfigError: the value is of another type.
        """
        name = option.name
        assert name is not None
        rivals = _RIVALS.get(f"{self._command} {name}") or _RIVALS.get(name, frozenset())
        if any(map(given, rivals)):
            return None
        text = os.environ.get(variable(self._command, name))
        if text:
            return _from_variable(option, text, variable(self._command, name))
        if any(os.environ.get(variable(self._command, rival)) for rival in rivals):
            return None
        for table in tables_of(self._command, name):
            said: Table = getattr(self._config, table)
            if name in said:
                return _from_file(option, said[name], self._config, table)
            if not rivals.isdisjoint(said):
                return None
        return None


# ---- values ---------------------------------------------------------------------------------

_TYPES: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "boolean": (bool, "true or false"),
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
}


def _from_file(option: TyperOption, value: Any, config: Config, table: str) -> Kept:
    assert option.name is not None
    origin = Line(config, table, option.name)
    wrong = wrong_type(option, value)
    if wrong is not None:
        raise origin.refusal(f" has to be {wrong}")
    return Kept([value] if option.multiple and isinstance(value, str) else value, origin)


def wrong_type(option: TyperOption, value: Any) -> str | None:
    """Return what a value from the file had to be to be one of the option; None if it is."""
    if option.multiple:
        texts = [value] if isinstance(value, str) else value
        is_list = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        return None if is_list else "a text, or a list of texts"
    choices = getattr(option.type, "choices", None)
    if choices is not None:
        return None if value in choices else f"one of {', '.join(choices)}"
    types, words = _TYPES.get(option.type.name, (str, "text"))
    right = isinstance(value, types) and (types is bool or not isinstance(value, bool))
    return None if right else words


def _from_variable(option: TyperOption, text: str, name: str) -> Kept:
    origin = Variable(name)
    check_text(text, name, ConfigError)
    if option.multiple:
        return Kept(_list(text, option.name, origin), origin)
    try:
        return Kept(option.type.convert(text, option, None), origin)
    except typer.BadParameter as error:
        raise origin.refusal(f": {error.message.rstrip('.')}") from error


def _list(text: str, name: str | None, origin: Variable) -> list[str]:
    """Read a TOML array of texts; anything that does not begin as one is one text."""
    if not text.startswith("["):
        return text.split() if name in _WITHOUT_SPACES else [text]
    import tomllib

    try:
        value = tomllib.loads(f"list = {text}")["list"]
    except tomllib.TOMLDecodeError as error:
        raise origin.refusal(" is no TOML array, though it begins as one") from error
    if not all(isinstance(item, str) for item in value):
        raise origin.refusal(" has to be an array of texts")
    return list(value)


# ---- the file as a whole --------------------------------------------------------------------


def check_config(config: Config, commands: Mapping[str, TyperCommand]) -> None:
    """Refuse names and types that no option has, in the tables of all commands.

    Args:
        config: the file.
        commands: all commands with settings, by their names.

    Raises:
        ConfigError: a name is unknown, or a value is of another type; the line is named.
    """
    for table in OPTION_TABLES:
        said: Table = getattr(config, table)
        if not said:
            continue
        options = _options_in(table, commands)
        for name, value in said.items():
            if name not in options:
                raise config.refusal(
                    f"there is no setting {name!r} in [{table}]; {did_you_mean(name, options)}",
                    *(table, name),
                )
            wrong = [wrong_type(option, value) for option in options[name]]
            if None not in wrong:
                raise config.refusal(f"{name} has to be {wrong[0]}", table, name)


def _options_in(
    table: str, commands: Mapping[str, TyperCommand]
) -> Mapping[str, list[TyperOption]]:
    """Return the options that a table can have, by their names."""
    found: dict[str, list[TyperOption]] = {}
    for name, command in commands.items():
        for option in settings_of(command):
            assert option.name is not None
            if table in tables_of(name, option.name):
                found.setdefault(option.name, []).append(option)
    return found


def is_exposed(config: Config) -> bool:
    """Tell whether the file has something that nobody else should read, and others can."""
    tables = (getattr(config, table) for table in OPTION_TABLES)
    return not config.is_private and any(not SECRETS.isdisjoint(table) for table in tables)


def exposure(config: Config) -> str:
    """Return what to say of such a file."""
    return f"{config.path} has an api_key and others can read it: chmod 600 {config.path}"


# ---- commands -------------------------------------------------------------------------------


class SettingsContext(typer.Context):
    """A run of a command, whose options are looked up where they are not given."""

    _lookup: Lookup | None = None

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.origins: dict[str, Origin] = {}

    def lookup_default(self, name: str, call: bool = True) -> Any:
        """Return what is kept of an option; None where nothing is, and for `--help`."""
        if self.resilient_parsing or not isinstance(self.command, SettingsCommand):
            return None
        option = self.command.settings.get(name)
        if option is None:
            return None
        kept = self._kept().find(option, self._is_given)
        if kept is None:
            return None
        self.origins[name] = kept.origin
        return kept.value

    def _is_given(self, name: str) -> bool:
        # Click processes what is on the command line before it looks anything up.
        source = self.get_parameter_source(name)
        return source is not None and source.name == "COMMANDLINE"

    def _kept(self) -> Lookup:
        if self._lookup is None:
            config = load_config()
            check_config(config, settings_commands(self))
            if config.presets:
                from llmstream_cli.cli.own_presets import register_own_presets

                register_own_presets(config)
            if config.unreadable:
                complain(f"llmstream: {config.unreadable}; going on without it\n")
            if is_exposed(config):
                complain(f"llmstream: {exposure(config)}\n")
            self._lookup = Lookup(self.command.name or "", config)
        return self._lookup


class SettingsCommand(TyperCommand):
    """A command whose options can be kept."""

    context_class = SettingsContext

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        settings["epilog"] = settings.get("epilog") or _EPILOG
        super().__init__(*arguments, **settings)
        self.settings = {str(option.name): option for option in settings_of(self)}

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what is wrong with a kept value is said of its place."""
        source = ctx.get_parameter_source("api_key")
        if source and source.name == "COMMANDLINE" and not ctx.params.get("url", True):
            raise InvalidValueError("--api-key is the key of another server; give its --url, too")
        try:
            return super().invoke(ctx)
        except InvalidValueError as error:
            renamed = _blame(error, ctx.origins)
            if renamed is None:
                raise
            raise renamed from error


def settings_commands(context: Any) -> dict[str, TyperCommand]:
    """Return the commands with settings of the program that a context belongs to."""
    root = context.find_root().command
    commands = getattr(root, "commands", {root.name: root})
    return {
        name: command for name, command in commands.items() if isinstance(command, SettingsCommand)
    }


def _blame(error: InvalidValueError, origins: Mapping[str, Origin]) -> ConfigError | None:
    """Say a complaint of the place that its option has its value from, if it is not given."""
    if error.field is None and (found := _SUBJECT.match(str(error))):  # `--raw needs …`
        error = InvalidValueError(str(error), found[0])
    option = (error.field or "").removeprefix("--").replace("-", "_")
    option = _OPTIONS.get(option, option)
    return origins[option].refusal(complaint(error)) if option in origins else None


def complaint(error: InvalidValueError) -> str:
    """Return what is wrong, to go behind the name of what it is wrong with."""
    without_name = str(error.renamed(""))
    return f": {error}" if without_name == str(error) else without_name


def name_option(error: LLMStreamError) -> str:
    """Return the message with the option in place of the parameter: `--max-tokens must …`."""
    field = error.field if isinstance(error, InvalidValueError) else None
    if not isinstance(error, InvalidValueError) or field not in _PARAMETERS | _OPTIONS.keys():
        return str(error)
    return str(error.renamed(f"--{_OPTIONS.get(field, field).replace('_', '-')}"))
