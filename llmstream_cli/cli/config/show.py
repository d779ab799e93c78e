"""`llmstream config show`: what each setting is, and where that is said, after a try of each."""

import json as json_text
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from typer.core import TyperOption

from llmstream_cli.api import EngineConfig
from llmstream_cli.cli.config.file import (
    HISTORY_VARIABLE,
    Config,
    config_path,
    history_path,
    load_config,
)
from llmstream_cli.cli.config.own_presets import register_own_presets
from llmstream_cli.cli.config.settings import (
    PARAMETERS_BY_OPTION,
    SECRETS,
    Kept,
    SettingsCommand,
    check_names,
    complaint,
    is_own,
    warn_if_exposed,
)
from llmstream_cli.cli.prompt import context_message, read_template
from llmstream_cli.cli.terminal import aligned, print_json, without_controls
from llmstream_cli.errors import InvalidValueError, LLMStreamError
from llmstream_cli.models.presets import DEFAULT_PRESET, OWN_PRESETS, PRESETS, find_preset
from llmstream_cli.models.sizes import parse_size
from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.served import keep_alive_seconds
from llmstream_cli.server.settings import ServerSettings

_MAX_VALUE_CHARS = 48  # in the table

# What tells whether a value can be, where no class of parameters does.
_CHECKS = {
    "features": lambda names: [find_preset(name) for name in _several(names)],
    "template": read_template,
    "context": context_message,
    "memory": parse_size,
    "keep_alive": keep_alive_seconds,
}
_PARAMETERS: tuple[tuple[Any, dict[str, str]], ...] = (
    (SamplingParams, {}),
    (EngineConfig, {"model_path": ""}),
    (ServerSettings, {}),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A setting with one value."""

    setting: str
    commands: tuple[str, ...]  # for which it has this value
    value: Any  # None is nothing, or whatever `meaning` says
    source: str  # `environment`, `file`, `preset` or `default`
    place: str = ""  # the variable, the file and line, or the preset
    meaning: str = ""  # of a value that is not set


def show(commands: Mapping[str, SettingsCommand], *, json: bool) -> int:
    """Print the settings; return the exit code.

    Raises:
        ConfigError: see `checked_rows`.
    """
    config, path = load_config(), config_path()
    rows = [*_merged(checked_rows(config, commands)), *_other_rows(config)]
    if json:
        report = {
            "path": None if path is None else str(path),
            "exists": config.path is not None,
            "settings": [asdict(row) for row in rows],
        }
        print_json(report)
    else:
        if path is None:
            head = "no configuration file: LLMSTREAM_CONFIG is empty"
        else:
            missing = ", which cannot be read" if config.unreadable else ", which does not exist"
            head = without_controls(f"{path}{'' if config.path else missing}")
        sys.stdout.write(f"{head}\n\n{_table(config, rows)}")
    warn_if_exposed(config)
    return 0


def checked_rows(config: Config, commands: Mapping[str, SettingsCommand]) -> list[Row]:
    """Return all settings of each command, after a try of all that are kept.

    Raises:
        ConfigError: a name is unknown, or a value is not one that its setting can have; its place
            is named.
    """
    check_names(config, commands)
    register_own_presets(config)
    rows = []
    for command in commands.values():
        context = command.make_context(command.name, [], obj=config)
        kept: Mapping[str, Kept] = context.obj
        preset, advice = _advice(context.params)
        for name, option in command.settings.items():
            if name in kept:
                value = context.params[name]
                _try(name, value, kept[name])
                shown = "(a secret)" if name in SECRETS else _alone(value)
                source = "environment" if kept[name].config is None else "file"
                row = Row(name, (), shown, source, kept[name].place)
            elif option.default is None and name in advice and not is_own(command.name, name):
                row = Row(name, (), advice[name], "preset", preset)
            else:
                row = _default(str(command.name), option, kept)
            rows.append(replace(row, commands=(str(command.name),)))
    return rows


def _try(name: str, value: Any, kept: Kept) -> None:
    parameter = PARAMETERS_BY_OPTION.get(name, name)
    try:
        if name in _CHECKS:
            _CHECKS[name](value)
        for type_, needed in _PARAMETERS:
            if parameter in type_.__dataclass_fields__:
                type_(**needed, **{parameter: value})
    except LLMStreamError as error:
        own = {parameter, f"--{name.replace('_', '-')}"}
        if isinstance(error, InvalidValueError) and error.field in own:
            raise kept.refusal(complaint(error)) from error
        raise kept.refusal(f": {error}") from error


def _default(command: str, option: TyperOption, kept: Mapping[str, Kept]) -> Row:
    name, value = str(option.name), option.default
    if name == "features" and kept.keys().isdisjoint({"model", "url"}):
        value = DEFAULT_PRESET
    elif value is None and not is_own(command, name):
        value = getattr(SamplingParams(), name, None)
    words = option.show_default if value is None else ""
    return Row(name, (), value, "default", meaning=words if isinstance(words, str) else "")


def _advice(values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the preset that a command would take, and what suits it."""
    names = _several(values.get("features") or values.get("model") or DEFAULT_PRESET)
    name = names[0].lower()
    preset = OWN_PRESETS.get(name) or PRESETS.get(name)
    if preset is None:  # which preset a file belongs to shows when it is looked for
        return "", {}
    is_bounded = name in OWN_PRESETS and preset.ctx_size is not None
    return preset.name, {**preset.advice(), **({"ctx_size": preset.ctx_size} if is_bounded else {})}


def _several(value: Any) -> Any:
    """Take one name for a list of one: some commands take several where others take one."""
    return [value] if isinstance(value, str) else value


def _alone(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def _merged(rows: list[Row]) -> list[Row]:
    """Join the rows of a setting that say the same of several commands."""
    merged: dict[tuple[Any, ...], Row] = {}
    order = list(dict.fromkeys(row.setting for row in rows))
    for row in rows:
        key = (row.setting, repr(row.value), row.source, row.place, row.meaning)
        before = merged[key].commands if key in merged else ()
        merged[key] = replace(row, commands=(*before, *row.commands))
    return sorted(merged.values(), key=lambda row: order.index(row.setting))


def _other_rows(config: Config) -> Iterator[Row]:
    path = history_path(config)
    for name, value in (("enabled", path is not None), ("path", path and str(path))):
        if os.environ.get(HISTORY_VARIABLE):
            yield Row(f"history.{name}", (), value, "environment", HISTORY_VARIABLE)
        elif name in config.tables.get("history", ()):
            yield Row(f"history.{name}", (), value, "file", config.place("history", name))
        else:
            yield Row(f"history.{name}", (), value, "default")
    for name, text in config.contexts.items():
        yield Row(f"contexts.{name}", (), text, "file", config.place("contexts", name))
    for name in config.presets:
        source = str(OWN_PRESETS[name.lower()].source)
        yield Row(f"presets.{name}", (), source, "file", config.place("presets", name))


def _table(config: Config, rows: list[Row]) -> str:
    table = [("setting", "commands", "value", "from")]
    for row in rows:
        place = row.place.replace(f"{config.path}, ", "")
        origin = {"preset": f"preset {place}", "default": "default"}.get(row.source, place)
        table.append((row.setting, ", ".join(row.commands), _text(row), origin))
    return aligned(table)


def _text(row: Row) -> str:
    """Write a value as the file would have it, on one line; in brackets what nothing means."""
    text = row.value
    if text in (None, ()):
        text = f"({row.meaning})" if row.meaning else "-"
    elif not (isinstance(text, str) and text.isprintable()):
        text = without_controls(json_text.dumps(text, ensure_ascii=False))
    return text if len(text) <= _MAX_VALUE_CHARS else f"{text[: _MAX_VALUE_CHARS - 1]}…"
