"""`llmstream config show`: what each setting is, and who says so."""

import json as json_text
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llmstream_cli.cli.config.check import Found, check_values, unknown_variables
from llmstream_cli.cli.config.settings import SECRETS, SettingsCommand, exposure, is_exposed, is_own
from llmstream_cli.cli.terminal import complain, without_controls
from llmstream_cli.config import HISTORY_VARIABLE, Config, config_path, history_path, load_config
from llmstream_cli.models.presets import DEFAULT_PRESET, OWN_PRESETS, PRESETS
from llmstream_cli.models.reference import parse_reference
from llmstream_cli.sampling import SamplingParams

_MOST_CHARS = 48  # of a value in the table
_SECRET = "(a secret)"  # noqa: S105  (none itself)


@dataclass(frozen=True, slots=True)
class Row:
    """A setting with one value.

    Attributes:
        setting: its name, as in the file.
        commands: for which commands it has this value; empty where it is none's.
        value: None is nothing, or whatever `meaning` says.
        source: `environment`, `file`, `preset` or `default`.
        place: the variable, the file and line, or the preset; empty for a default.
        meaning: what it means that nothing is said.
    """

    setting: str
    commands: tuple[str, ...]
    value: Any
    source: str
    place: str = ""
    meaning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """What to show; see the options of the command for each attribute."""

    commands: Mapping[str, SettingsCommand]
    json: bool

    def run(self) -> int:
        """Print the settings; return the exit code.

        Raises:
            ConfigError: one of them cannot be what it is.
        """
        config = load_config()
        rows = [*_merged(_option_rows(check_values(config, self.commands))), *_other_rows(config)]
        if self.json:
            path = config_path()
            report = {
                "path": None if path is None else str(path),
                "exists": config.path is not None,
                "settings": [asdict(row) for row in rows],
            }
            sys.stdout.write(json_text.dumps(report, ensure_ascii=False, indent=2) + "\n")
        else:
            sys.stdout.writelines(f"{line}\n" for line in _lines(config, rows))
        for name, near in unknown_variables(self.commands):
            complain(f"llmstream: {name} is no setting; {near}\n")
        if is_exposed(config):
            complain(f"llmstream: {exposure(config)}\n")
        return 0


def _option_rows(settings: list[Found]) -> Iterator[Row]:
    for setting in settings:
        name, commands = str(setting.option.name), (setting.command,)
        if setting.source:
            value = _SECRET if name in SECRETS else _alone(setting.value)
            yield Row(name, commands, value, setting.source, setting.place)
            continue
        default, meaning = setting.option.default, setting.option.show_default
        if default is None and not is_own(setting.command, name):
            advised = _advice(setting.command, settings)
            if name in advised.values:
                yield Row(name, commands, advised.values[name], "preset", advised.preset)
                continue
            default = getattr(SamplingParams(), name, None)
        if name == "features" and not _names_model(setting.command, settings):
            default = DEFAULT_PRESET
        words = meaning if isinstance(meaning, str) and default is None else ""
        yield Row(name, commands, default, "default", meaning=words)


def _alone(value: Any) -> Any:
    """Take one value out of its list: some commands take several where others take one."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


@dataclass(frozen=True, slots=True)
class _Advice:
    """What suits the model that a command would take."""

    preset: str
    values: Mapping[str, Any]


def _advice(command: str, settings: list[Found]) -> _Advice:
    kept = {
        str(one.option.name): one.value for one in settings if one.command == command and one.source
    }
    name = _first(kept.get("features", DEFAULT_PRESET))
    if "model" in kept and "features" not in kept:
        reference = parse_reference(_first(kept["model"]))
        if not isinstance(reference, str):
            return _Advice("", {})  # which preset's file it is shows when it is looked for
        name = reference
    own, known = OWN_PRESETS.get(name.lower()), PRESETS.get(name.lower())
    if own is not None:
        size = {} if own.ctx_size is None else {"ctx_size": own.ctx_size}
        return _Advice(own.name, {**own.advice(), **size})
    return _Advice("", {}) if known is None else _Advice(known.name, known.advice())


def _first(value: str | list[str]) -> str:
    """Return the model that a server answers with unless another is asked for."""
    names = [value] if isinstance(value, str) else value
    return names[0] if names else DEFAULT_PRESET


def _names_model(command: str, settings: list[Found]) -> bool:
    return any(
        one.command == command and one.option.name in {"model", "url"} and one.source
        for one in settings
    )


def _merged(rows: Iterator[Row]) -> list[Row]:
    """Join the rows of a setting that say the same of several commands."""
    merged: dict[tuple[Any, ...], Row] = {}
    order: dict[str, int] = {}
    for row in rows:
        order.setdefault(row.setting, len(order))
        key = (row.setting, repr(row.value), row.source, row.place, row.meaning)
        commands = (*merged[key].commands, *row.commands) if key in merged else row.commands
        merged[key] = Row(row.setting, commands, row.value, row.source, row.place, row.meaning)
    return sorted(merged.values(), key=lambda row: order[row.setting])


def _other_rows(config: Config) -> Iterator[Row]:
    path = history_path(config)
    for name, value in (("enabled", path is not None), ("path", path and str(path))):
        if os.environ.get(HISTORY_VARIABLE):
            yield Row(f"history.{name}", (), value, "environment", HISTORY_VARIABLE)
        elif config.says("history", name):
            yield Row(f"history.{name}", (), value, "file", config.place("history", name))
        else:
            yield Row(f"history.{name}", (), value, "default")
    for name, text in config.contexts.items():
        yield Row(f"contexts.{name}", (), text, "file", config.place("contexts", name))
    for name in config.presets:
        source = str(OWN_PRESETS[name.lower()].source)
        yield Row(f"presets.{name}", (), source, "file", config.place("presets", name))


def _lines(config: Config, rows: list[Row]) -> Iterator[str]:
    path = config_path()
    if path is None:
        yield "no configuration file: LLMSTREAM_CONFIG is empty"
    else:
        missing = "which cannot be read" if config.unreadable else "which does not exist"
        yield without_controls(f"{path}{'' if config.path else f', {missing}'}")
    yield ""
    table = [("setting", "commands", "value", "from")]
    for row in rows:
        place = row.place.replace(f"{config.path}, ", "")
        origin = {"preset": f"preset {place}", "default": "default"}.get(row.source, place)
        table.append((row.setting, ", ".join(row.commands), _text(row), origin))
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    for cells in table:
        padded = (cell.ljust(width) for cell, width in zip(cells, (*widths, 0), strict=True))
        yield "  ".join(padded).rstrip()


def _text(row: Row) -> str:
    """Write a value as the file would have it, on one line; in brackets what nothing means."""
    value = row.value
    if value is None or value == ():
        return _shortened(f"({row.meaning})" if row.meaning else "-")
    text = (
        value
        if isinstance(value, str) and value.isprintable()
        else json_text.dumps(value, ensure_ascii=False)
    )
    return _shortened(without_controls(text))


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_CHARS else f"{text[: _MOST_CHARS - 1]}…"
