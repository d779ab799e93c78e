"""Options that are kept: in the environment, and in the configuration file.

A value comes from the first that has one:

    the command line
    LLMSTREAM_NAME in the environment
    the command's table in the file, such as [serve]
    [defaults] in the file
    what the preset's authors advise
    the default

The options of the commands are the only list of what there is. A `SettingsCommand` has a variable
for each, and looks up the file where Click looks for defaults; when a value turns out to be one
that it cannot take, the variable or the line is named.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

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
        *("json", "json_lines", "raw", "count_tokens", "schema", "grammar"),
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
    "url": frozenset({"count_tokens"}),
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
_FAR = 9  # of what nobody says
_SUBJECT = re.compile(r"--([a-z][a-z0-9-]*)(?=[ :])")


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


def kept_in_file(command: str, config: Config, option: TyperOption) -> Any:
    """Return what the file says of an option of a command; None where it says nothing.

    Raises:
        ConfigError: the value is of another type.
    """
    name = str(option.name)
    table = table_with(command, name, config)
    if table is None:
        return None
    value = getattr(config, table)[name]
    wrong = wrong_type(option, value)
    if wrong is not None:
        raise config.refusal(f"{name} has to be {wrong}", table, name)
    return [value] if option.multiple and isinstance(value, str) else value


def rivals_of(command: str, name: str) -> frozenset[str]:
    """Return the options that exclude a setting."""
    return _RIVALS.get(f"{command} {name}") or _RIVALS.get(name, frozenset())


def table_with(command: str, name: str, config: Config) -> str | None:
    """Return the closest table of the file that has a setting; None where none has it."""
    tables = (table for table in tables_of(command, name) if name in getattr(config, table))
    return next(tables, None)


# ---- values ---------------------------------------------------------------------------------

_TYPES: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "boolean": (bool, "true or false"),
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
}


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


def _texts_of_variable(name: str, variable_: str, text: str) -> list[str]:
    """Read a TOML array of texts; anything that does not begin as one is one text."""
    if not text.startswith("["):
        return text.split() if name in _WITHOUT_SPACES else [text]
    import tomllib

    try:
        value = tomllib.loads(f"list = {text}")["list"]
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{variable_} is no TOML array, though it begins as one") from error
    if not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{variable_} has to be an array of texts")
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
    """A run of a command. What is kept is read when an option is looked up, not for `--help`."""

    def lookup_default(self, name: str, call: bool = True) -> Any:
        """Return what the file says of an option; None where it says nothing."""
        command = self.command
        if self.resilient_parsing or not isinstance(command, SettingsCommand):
            return None
        option = command.settings.get(name)
        rivals = rivals_of(command.name or "", name)
        if option is None or any(source_of(self, rival) == "COMMANDLINE" for rival in rivals):
            return None
        if self.obj is None:
            self.obj = _load(self)
        return kept_in_file(command.name or "", self.obj, option)


class SettingsCommand(TyperCommand):
    """A command whose options can be kept."""

    context_class = SettingsContext

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        settings["epilog"] = settings.get("epilog") or _EPILOG
        super().__init__(*arguments, **settings)
        self.settings = {str(option.name): option for option in settings_of(self)}
        for name, option in self.settings.items():
            option.envvar, option.show_envvar = variable(self.name or "", name), False
            if option.multiple:
                option.value_from_envvar = partial(_list_from_variable, option)  # type: ignore[method-assign]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line, and look up what it leaves open."""
        for option in self.settings.values():
            check_text(os.environ.get(str(option.envvar)) or "", str(option.envvar), ConfigError)
        try:
            rest = super().parse_args(ctx, args)
        except typer.BadParameter as error:
            name = "" if error.param is None else str(error.param.name)
            if source_of(ctx, name) != "ENVIRONMENT":
                raise
            raise refusal(ctx, name, f": {error.message.rstrip('.')}") from error
        if not ctx.resilient_parsing:
            self._step_back(ctx)
        return rest

    def _step_back(self, ctx: Any) -> None:
        """Take back what is kept where something that excludes it is said closer."""
        distance = {
            str(option.name): self._distance(ctx, str(option.name)) for option in self.params
        }
        for name, option in self.settings.items():
            rivals = rivals_of(self.name or "", name)
            if any(distance.get(rival, _FAR) < distance[name] for rival in rivals):
                ctx.params[name] = option.type_cast_value(ctx, option.default)
                ctx.set_parameter_source(name, type(ctx.get_parameter_source(name))["DEFAULT"])

    def _distance(self, ctx: Any, name: str) -> int:
        source = source_of(ctx, name)
        if source != "DEFAULT_MAP":
            return {"COMMANDLINE": 0, "ENVIRONMENT": 1}.get(source, _FAR)
        table = table_with(self.name or "", name, ctx.obj)
        return 2 + tables_of(self.name or "", name).index(str(table))

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what is wrong with a kept value is said of its place."""
        if source_of(ctx, "api_key") == "COMMANDLINE" and not ctx.params.get("url", True):
            raise InvalidValueError("--api-key is the key of another server; give its --url, too")
        try:
            return super().invoke(ctx)
        except InvalidValueError as error:
            renamed = _blame(error, ctx)
            if renamed is None:
                raise
            raise renamed from error


def kept_values(command: SettingsCommand, config: Config, *words: str) -> dict[str, Any]:
    """Return what is kept for the options of a command, beside these words of a command line."""
    context = command.make_context(command.name, [*words], obj=config)
    kept = {"ENVIRONMENT", "DEFAULT_MAP"}
    return {
        name: context.params[name] for name in command.settings if source_of(context, name) in kept
    }


def source_of(ctx: Any, name: str) -> str:
    """Return where an option has its value from, in Click's words; "" where it has none."""
    source = ctx.get_parameter_source(name)
    return "" if source is None else str(source.name)


def place_of(ctx: Any, name: str) -> str:
    """Return the variable, or the file and the line, that an option has its value from."""
    match source_of(ctx, name):
        case "ENVIRONMENT":
            return variable(ctx.command.name, name)
        case "DEFAULT_MAP":
            config: Config = ctx.obj
            return config.place(str(table_with(ctx.command.name, name, config)), name)
        case _:
            return ""


def refusal(ctx: Any, name: str, complaint: str) -> ConfigError:
    """Return the error for a kept value.

    It reads as `LLMSTREAM_THREADS must …`, or `config.toml, line 2: threads must …`.
    """
    named = f": {name}" if source_of(ctx, name) == "DEFAULT_MAP" else ""
    return ConfigError(f"{place_of(ctx, name)}{named}{complaint}")


def _list_from_variable(option: TyperOption, ctx: Any) -> list[str] | None:
    text = option.resolve_envvar_value(ctx)
    return None if text is None else _texts_of_variable(str(option.name), str(option.envvar), text)


def _load(context: Any) -> Config:
    config = load_config()
    check_config(config, settings_commands(context))
    if config.presets:
        from llmstream_cli.cli.own_presets import register_own_presets

        register_own_presets(config)
    if config.unreadable:
        complain(f"llmstream: {config.unreadable}; going on without it\n")
    if is_exposed(config):
        complain(f"llmstream: {exposure(config)}\n")
    return config


def settings_commands(context: Any) -> dict[str, SettingsCommand]:
    """Return the commands with settings of the program that a context belongs to."""
    root = context.find_root().command
    commands = getattr(root, "commands", {root.name: root})
    return {
        name: command for name, command in commands.items() if isinstance(command, SettingsCommand)
    }


def _blame(error: InvalidValueError, ctx: Any) -> ConfigError | None:
    """Say a complaint of the place that its option has its value from, if it is not given."""
    if error.field is None and (found := _SUBJECT.match(str(error))):  # `--raw needs …`
        error = InvalidValueError(str(error), found[0])
    option = (error.field or "").removeprefix("--").replace("-", "_")
    option = _OPTIONS.get(option, option)
    return refusal(ctx, option, complaint(error)) if place_of(ctx, option) else None


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
