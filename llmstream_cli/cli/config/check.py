"""Every kept value tried, as the commands would: for whoever has just written them."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from typer.core import TyperOption

from llmstream_cli.api import EngineConfig
from llmstream_cli.cli.config.settings import (
    PARAMETERS_BY_OPTION,
    SettingsCommand,
    check_config,
    complaint,
    place_of,
    refusal,
    settings_of,
    source_of,
    variable,
)
from llmstream_cli.cli.own_presets import register_own_presets
from llmstream_cli.cli.prompt import context_message, read_template
from llmstream_cli.config import Config
from llmstream_cli.errors import InvalidValueError, LLMStreamError, did_you_mean
from llmstream_cli.models.presets import find_preset
from llmstream_cli.models.sizes import parse_size
from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.served import keep_alive_seconds
from llmstream_cli.server.settings import ServerSettings

_SOURCES = {"ENVIRONMENT": "environment", "DEFAULT_MAP": "file"}

PREFIX = "LLMSTREAM_"

# Variables that are no options: where the file is, where repacked models and conversations are.
_OTHER_VARIABLES = frozenset({"LLMSTREAM_CONFIG", "LLMSTREAM_CACHE", "LLMSTREAM_HISTORY"})


@dataclass(frozen=True, slots=True)
class Found:
    """A setting of a command, and what is kept for it.

    Attributes:
        command: its name.
        option: the setting.
        value: what it has, be it the default.
        source: `environment`, `file`, or empty for a default.
        place: the variable, or the file and line.
    """

    command: str
    option: TyperOption
    value: Any
    source: str
    place: str


def check_values(config: Config, commands: Mapping[str, SettingsCommand]) -> list[Found]:
    """Return all settings of all commands with their values, after a try of each value.

    Raises:
        ConfigError: a name is unknown, or a value is not one that its setting can have; its place
            is named.
    """
    check_config(config, commands)
    register_own_presets(config)
    found = []
    for command in commands.values():
        context = command.make_context(command.name, [], obj=config)
        for name, option in command.settings.items():
            place = place_of(context, name)
            value = context.params[name]
            if place:
                _try(context, name, value)
            source = _SOURCES.get(source_of(context, name), "")
            found.append(Found(command.name or "", option, value, source, place))
    return found


def unknown_variables(commands: Mapping[str, SettingsCommand]) -> Iterator[tuple[str, str]]:
    """Yield the variables that look like settings and are none, each with what may be meant."""
    known = _OTHER_VARIABLES | {
        variable(name, str(option.name))
        for name, command in commands.items()
        for option in settings_of(command)
    }
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            # Without what all have in common, which would make everything near.
            rest = [one.removeprefix(PREFIX) for one in known]
            near = did_you_mean(name.removeprefix(PREFIX), rest, "")
            yield name, near.replace("mean ", f"mean {PREFIX}") or "see `llmstream config show`"


def _try(context: Any, name: str, value: Any) -> None:
    try:
        for check in _checks(name):
            check(value)
    except LLMStreamError as error:
        own = {_parameter(name), f"--{name.replace('_', '-')}"}
        if isinstance(error, InvalidValueError) and error.field in own:
            raise refusal(context, name, complaint(error)) from error
        raise refusal(context, name, f": {error}") from error


def _parameter(name: str) -> str:
    return PARAMETERS_BY_OPTION.get(name, name)


def _checks(name: str) -> Iterator[Callable[[Any], object]]:
    """Yield what tells whether a value can be."""
    known = {
        "features": _find_presets,
        "template": read_template,
        "context": context_message,
        "memory": parse_size,
        "keep_alive": keep_alive_seconds,
    }
    if name in known:
        yield known[name]
    parameter = _parameter(name)
    if parameter in _names(SamplingParams):
        yield lambda value: SamplingParams(**{parameter: value})
    if parameter in _names(EngineConfig):
        yield lambda value: EngineConfig(model_path="", **{parameter: value})
    if parameter in _names(ServerSettings):
        yield lambda value: ServerSettings(**{parameter: value})


def _names(type_: Any) -> set[str]:
    return {field.name for field in fields(type_)}


def _find_presets(names: str | tuple[str, ...]) -> None:
    for name in (names,) if isinstance(names, str) else names:
        find_preset(name)
