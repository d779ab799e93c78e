"""The tables `[presets.NAME]` of the configuration file: models by names of the user's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmstream_cli.api import EngineConfig
from llmstream_cli.config import Config, Table
from llmstream_cli.errors import InvalidValueError, ModelNotFoundError, did_you_mean
from llmstream_cli.files import expand
from llmstream_cli.models.preset import Preset
from llmstream_cli.models.presets import register_presets
from llmstream_cli.models.reference import HubModel, parse_reference
from llmstream_cli.prompts.formats import find_format
from llmstream_cli.sampling import PARAMETERS, SamplingParams

_TEXTS = ("path", "repo", "file", "revision", "tokenizer", "summary", "licence", "chat_format")
_KEYS = (*_TEXTS, "ctx_size", "sampling", "stop")
_NUMBERS = [name for name, row in PARAMETERS.items() if row.low is not None and name != "logprobs"]


def register_own_presets(config: Config) -> None:
    """Let the models be found by the names that the file gives them.

    Raises:
        ConfigError: a preset is none; the line is named.
    """
    register_presets(_preset(config, name, table) for name, table in config.presets.items())


def _preset(config: Config, name: str, table: Table) -> Preset:
    for key, value in table.items():
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS)
            raise config.refusal(f"a preset has no {key!r}; {hint}", *_at(name, key))
        if key in _TEXTS and not (isinstance(value, str) and value.strip()):
            raise config.refusal(f"{key} has to be text", *_at(name, key))
    chat_format = table.get("chat_format")
    if chat_format is not None:
        try:
            chat_format = find_format(chat_format).name
        except InvalidValueError as error:
            raise config.refusal(str(error), *_at(name, "chat_format")) from error
    stop = _stop(config, name, table.get("stop", []))
    return Preset(
        name=name.lower(),
        source=_source(config, name, table),
        tokenizer=table.get("tokenizer"),
        summary=table.get("summary", ""),
        licence=table.get("licence", ""),
        chat_format=chat_format,
        ctx_size=_ctx_size(config, name, table.get("ctx_size")),
        sampling={
            **_sampling(config, name, table.get("sampling", {})),
            **({"stop": stop} if stop else {}),
        },
    )


def _at(name: str, *keys: str) -> tuple[str, ...]:
    return ("presets", name, *keys)


def _source(config: Config, name: str, table: Table) -> HubModel | Path:
    path, repo, file = (table.get(key) for key in ("path", "repo", "file"))
    if path is not None:
        if not table.keys().isdisjoint({"repo", "file", "revision"}):
            raise config.refusal(
                "path names a file of this machine, repo and file one on the Hub; "
                "give one of the two",
                *_at(name, "path"),
            )
        return _beside(config, path)
    if repo is None or file is None:
        raise config.refusal(
            f"the preset {name} has to have a path, or a repo and a file", *_at(name)
        )
    try:
        found = parse_reference(f"{repo}/{file}")
    except ModelNotFoundError as error:
        raise config.refusal(str(error), *_at(name, "repo")) from error
    if not isinstance(found, HubModel):
        raise config.refusal("repo has to be user/repo", *_at(name, "repo"))
    return HubModel(found.repo, file=found.file, revision=table.get("revision"))


def _beside(config: Config, path: str) -> Path:
    """Return the file; a name without a folder is beside the configuration file."""
    assert config.path is not None
    return config.path.parent / expand(path)


def _ctx_size(config: Config, name: str, value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise config.refusal("ctx_size has to be a whole number", *_at(name, "ctx_size"))
    try:
        return EngineConfig(model_path="", ctx_size=value).ctx_size
    except InvalidValueError as error:
        raise config.refusal(str(error), *_at(name, "ctx_size")) from error


def _sampling(config: Config, name: str, table: Any) -> Mapping[str, Any]:
    if not isinstance(table, dict):
        raise config.refusal("sampling has to be a table", *_at(name, "sampling"))
    for key, value in table.items():
        place = _at(name, "sampling", key)
        if key not in _NUMBERS:
            raise config.refusal(f"sampling has no {key!r}; {did_you_mean(key, _NUMBERS)}", *place)
        is_whole = PARAMETERS[key].type is not float
        kind = int if is_whole else (int, float)
        if not isinstance(value, kind) or isinstance(value, bool):
            words = "a whole number" if is_whole else "a number"
            raise config.refusal(f"{key} has to be {words}", *place)
        said: dict[str, Any] = {key: value}
        try:
            SamplingParams(**said)
        except InvalidValueError as error:
            raise config.refusal(str(error), *place) from error
    return table


def _stop(config: Config, name: str, value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise config.refusal("stop has to be a text, or a list of texts", *_at(name, "stop"))
    try:
        return SamplingParams(stop=tuple(texts)).stop
    except InvalidValueError as error:
        raise config.refusal(str(error), *_at(name, "stop")) from error
