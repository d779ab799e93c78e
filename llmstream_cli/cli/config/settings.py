"""Options that are kept: in the environment, and in the configuration file.

A value comes from the first that has one:

    the command line
    LLMSTREAM_NAME in the environment
    the command's table in the file, such as [serve]
    [defaults] in the file
    what the preset's authors advise
    the default

The options of the commands are the only list of what there is. A `SettingsCommand` looks up all
that is kept before it parses its command line, and hands it to Click as defaults; where a value
turns out to be wrong, the error names the variable or the line.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperOption

from llmstream_cli.cli.config.file import OPTION_TABLES, Config, load_config
from llmstream_cli.cli.terminal import check_text, write_stderr
from llmstream_cli.errors import ConfigError, InvalidValueError, did_you_mean

_PREFIX = "LLMSTREAM_"
_OTHER_VARIABLES = {"LLMSTREAM_CONFIG", "LLMSTREAM_CACHE", "LLMSTREAM_HISTORY"}  # no options
SECRETS = frozenset({"api_key"})

# What belongs to one run, and is not kept.
_EACH_TIME = frozenset(
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

# Lists of what has no spaces in it, so that a variable can have spaces between.
_WITHOUT_SPACES = frozenset({"api_key", "allow_host", "cors_origin"})

# What is kept yields to what excludes it and is said closer; by option, or by command and option.
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
    "schema": "json_schema",
    "think": "thinking",
    "parallel": "max_seqs",
    "queue": "max_queue",
    "timeout": "timeout_seconds",
    "drain": "drain_seconds",
    "allow_host": "allowed_hosts",
    "cors_origin": "cors_origins",
}
_OPTIONS = {parameter: name for name, parameter in PARAMETERS_BY_OPTION.items()}
_SUBJECT = re.compile(r"--[a-z][a-z0-9-]*(?=[ :])")


class Kept(NamedTuple):
    """A value that is kept for an option."""

    value: Any
    distance: int  # the first of several that exclude each other wins; 0 is the command line
    config: Config | None  # None is the environment
    keys: tuple[str, ...]  # the variable, or the table and the name

    @property
    def place(self) -> str:
        """The variable, or the file and the line."""
        return self.keys[0] if self.config is None else self.config.place(*self.keys)

    def refusal(self, complaint: str) -> ConfigError:
        """Return the error, as `LLMSTREAM_TOP_K must …`, `my.toml, line 2: top_k must …`."""
        name = "" if self.config is None else f": {self.keys[-1]}"
        return ConfigError(f"{self.place}{name}{complaint}")


class SettingsCommand(TyperCommand):
    """A command whose options can be kept."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        settings["epilog"] = (
            "Options can be kept in a file and in variables: see `llmstream config show`."
        )
        super().__init__(*arguments, **settings)
        self.settings = {
            str(option.name): option
            for option in self.params
            if isinstance(option, TyperOption)
            and option.name not in _EACH_TIME
            and option.expose_value
        }

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line, and look up what it leaves open."""
        given, _, order = self.make_parser(ctx).parse_args(args=list(args))
        if ctx.resilient_parsing or "help" in given:  # which need no valid configuration
            return super().parse_args(ctx, args)
        config = ctx.obj or _load(ctx)
        kept: dict[str, Kept] = kept_values(self, config, given)
        ctx.obj, ctx.default_map = kept, {name: one.value for name, one in kept.items()}
        ctx.meta["order"] = [str(option.name) for option in order]
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            name = "" if error.param is None else str(error.param.name)
            if name not in kept:
                raise
            raise kept[name].refusal(f": {error.message.rstrip('.')}") from error

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error about an option names it, or where its value is kept."""
        if ctx.params.get("api_key") and "api_key" not in ctx.obj and not ctx.params.get("url", 1):
            raise InvalidValueError("--api-key is the key of another server; give its --url, too")
        try:
            return super().invoke(ctx)
        except InvalidValueError as error:
            found = None if error.field else _SUBJECT.match(str(error))  # `--raw needs …`
            named = InvalidValueError(str(error), found[0]) if found else error
            field = (named.field or "").removeprefix("--").replace("-", "_")
            name = _OPTIONS.get(field, field)
            if name in ctx.obj:
                raise ctx.obj[name].refusal(complaint(named)) from error
            if name not in self.settings:
                raise
            raise named.renamed(f"--{name.replace('_', '-')}") from error


def complaint(error: InvalidValueError) -> str:
    """Return what is wrong, to go behind the name of what it is wrong with."""
    without_name = str(error.renamed(""))
    return f": {error}" if without_name == str(error) else without_name


def settings_commands(ctx: Any) -> dict[str, SettingsCommand]:
    """Return the commands with settings of the program that a context belongs to."""
    root = ctx.find_root().command
    commands = getattr(root, "commands", {root.name: root})
    return {name: one for name, one in commands.items() if isinstance(one, SettingsCommand)}


def _load(ctx: Any) -> Config:
    config = load_config()
    check_names(config, settings_commands(ctx))
    if config.presets:
        from llmstream_cli.cli.config.own_presets import register_own_presets

        register_own_presets(config)
    if config.unreadable:
        write_stderr(f"llmstream: {config.unreadable}; going on without it\n")
    warn_if_exposed(config)
    return config


def warn_if_exposed(config: Config) -> None:
    """Tell if the file has something that nobody else should read, and others can."""
    has_secret = any(not SECRETS.isdisjoint(config.tables.get(name, ())) for name in OPTION_TABLES)
    if has_secret and not config.is_private:
        path = config.path
        write_stderr(f"llmstream: {path} has an api_key and others can read it: chmod 600 {path}\n")


# ---- which value wins -----------------------------------------------------------------------


def is_own(command: str | None, name: str) -> bool:
    """Tell whether an option means something else in this command than in the others."""
    return name in _OWN.get(command or "", ())


def variable(command: str | None, name: str) -> str:
    """Return the variable of a setting."""
    return f"{_PREFIX}{f'{command}_' if is_own(command, name) else ''}{name}".upper()


def _tables(command: str | None, name: str) -> tuple[str, ...]:
    """Return the tables of the file that a setting is looked for in, the closest first."""
    return (command or "",) if is_own(command, name) else (command or "", "defaults")


def _rivals(command: str | None, name: str) -> frozenset[str]:
    return _RIVALS.get(f"{command} {name}") or _RIVALS.get(name, frozenset())


def kept_values(
    command: SettingsCommand, config: Config, given: Collection[str] = ()
) -> dict[str, Kept]:
    """Return the texts that are kept for the options that are not given on the command line.

    Raises:
        ConfigError: one is several values where the option takes one.
    """
    found = {
        name: kept
        for name, option in command.settings.items()
        if name not in given and (kept := _find(command.name, option, config))
    }
    distances = {name: kept.distance for name, kept in found.items()} | dict.fromkeys(given, 0)
    return {
        name: kept._replace(value=_texts(command.settings[name], kept))
        for name, kept in found.items()
        if not any(
            distances.get(rival, kept.distance) < kept.distance
            for rival in _rivals(command.name, name)
        )
    }


def _find(command: str | None, option: TyperOption, config: Config) -> Kept | None:
    name = str(option.name)
    name_of_variable = variable(command, name)
    text = os.environ.get(name_of_variable)
    if text:
        return Kept(check_text(text, name_of_variable, ConfigError), 1, None, (name_of_variable,))
    for distance, table in enumerate(_tables(command, name), 2):
        if name in config.tables.get(table, ()):
            return Kept(config.tables[table][name], distance, config, (table, name))
    return None


def _texts(option: TyperOption, kept: Kept) -> str | list[str]:
    """Return a value as on a command line: several texts where the option can be repeated."""
    value = kept.value
    if kept.config is None and option.multiple:
        value = _array(kept, spaces_separate=option.name in _WITHOUT_SPACES)
    values = value if isinstance(value, list) and option.multiple else [value]
    if not all(isinstance(one, str | int | float) for one in values):
        words = "a value, or a list of values" if option.multiple else "one value"
        raise kept.refusal(f" has to be {words}")
    texts = [str(one) for one in values]
    return texts if option.multiple else texts[0]


def _array(kept: Kept, *, spaces_separate: bool) -> Any:
    """Read a TOML array in a variable; what does not begin as one is one text."""
    text: str = kept.value
    if not text.startswith("["):
        return text.split() if spaces_separate else text
    import tomllib

    try:
        return tomllib.loads(f"array = {text}")["array"]
    except tomllib.TOMLDecodeError as error:
        raise kept.refusal(" is no TOML array, though it begins as one") from error


def check_names(config: Config, commands: Mapping[str, SettingsCommand]) -> None:
    """Refuse a name in the tables of options that no option has; the error names the line."""
    for table in OPTION_TABLES:
        names = [
            name
            for command in commands.values()
            for name in command.settings
            if table in _tables(command.name, name)
        ]
        for name in config.tables.get(table, {}):
            if name not in names:
                hint = f"in [{table}]; {did_you_mean(name, names)}"
                raise config.refusal(f"there is no setting {name!r} {hint}", table, name)


def unknown_variables(commands: Mapping[str, SettingsCommand]) -> Iterator[tuple[str, str]]:
    """Yield the variables that look like settings and are none, each with what may be meant."""
    names = sorted(name for name in os.environ if name.startswith(_PREFIX))
    if _OTHER_VARIABLES.issuperset(names):
        return
    known = _OTHER_VARIABLES | {
        variable(command.name, name) for command in commands.values() for name in command.settings
    }
    # Compared without what all have in common, which would make everything near.
    rest = [name.removeprefix(_PREFIX) for name in known]
    for name in names:
        if name not in known:
            near = did_you_mean(name.removeprefix(_PREFIX), rest, "")
            yield name, near.replace("mean ", f"mean {_PREFIX}") or "see `llmstream config show`"
