"""The tables `[presets.NAME]` of the configuration file: models by names of the user's own."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmstream_cli.api import EngineConfig
from llmstream_cli.cli.config.file import Config, Table
from llmstream_cli.errors import InvalidValueError, LLMStreamError, did_you_mean
from llmstream_cli.files import expand
from llmstream_cli.models.presets import Preset, register_presets
from llmstream_cli.models.reference import HubModel, parse_reference
from llmstream_cli.prompts.formats import find_format
from llmstream_cli.sampling import PARAMETERS, SamplingParams

_TEXTS = ("path", "repo", "file", "revision", "tokenizer", "summary", "licence", "chat_format")
_KEYS = (*_TEXTS, "ctx_size", "sampling", "stop")
_NUMBERS = [name for name, row in PARAMETERS.items() if row.low is not None and name != "logprobs"]


def register_own_presets(config: Config) -> None:
    """Let the models be found by the names that the file gives them.

    Raises:
        ConfigError: a preset is invalid; the line is named.
    """
    register_presets(_preset(config, name, table) for name, table in config.presets.items())


def _preset(config: Config, name: str, table: Table) -> Preset:
    for key, value in table.items():
        with _located(config, name, key):
            _check(key, value)
    for key, value in table.get("sampling", {}).items():
        with _located(config, name, "sampling", key):
            _check_number(key, value)
    sampling, stop = dict(table.get("sampling", {})), table.get("stop", ())
    if stop:
        sampling["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    chat_format = table.get("chat_format")
    return Preset(
        name=name.lower(),
        source=_source(config, name, table),
        tokenizer=table.get("tokenizer"),
        summary=table.get("summary", ""),
        licence=table.get("licence", ""),
        chat_format=None if chat_format is None else find_format(chat_format).name,
        ctx_size=table.get("ctx_size"),
        sampling=sampling,
    )


@contextlib.contextmanager
def _located(config: Config, name: str, *keys: str) -> Iterator[None]:
    """Let an error name the line of a preset's key."""
    try:
        yield
    except LLMStreamError as error:
        raise config.refusal(str(error), "presets", name, *keys) from error


def _check(key: str, value: Any) -> None:
    if key not in _KEYS:
        raise InvalidValueError(f"a preset has no {key!r}; {did_you_mean(key, _KEYS)}")
    if key in _TEXTS and not (isinstance(value, str) and value.strip()):
        raise InvalidValueError(f"{key} has to be text")
    if key == "chat_format":
        find_format(value)
    elif key == "sampling" and not isinstance(value, dict):
        raise InvalidValueError("sampling has to be a table")
    elif key == "ctx_size":
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidValueError("ctx_size has to be a whole number")
        EngineConfig(model_path="", ctx_size=value)
    elif key == "stop":
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise InvalidValueError("stop has to be a text, or a list of texts")
        SamplingParams(stop=tuple(texts))


def _check_number(key: str, value: Any) -> None:
    if key not in _NUMBERS:
        raise InvalidValueError(f"sampling has no {key!r}; {did_you_mean(key, _NUMBERS)}")
    is_whole = PARAMETERS[key].type is not float
    if not isinstance(value, int if is_whole else (int, float)) or isinstance(value, bool):
        raise InvalidValueError(f"{key} has to be {'a whole number' if is_whole else 'a number'}")
    said: dict[str, Any] = {key: value}
    SamplingParams(**said)


def _source(config: Config, name: str, table: Table) -> HubModel | Path:
    path, repo, file = (table.get(key) for key in ("path", "repo", "file"))
    if path is not None:
        with _located(config, name, "path"):
            if not table.keys().isdisjoint({"repo", "file", "revision"}):
                raise InvalidValueError(
                    "path names a file of this machine, repo and file one on the Hub; "
                    "give one of the two"
                )
        assert config.path is not None
        return config.path.parent / expand(path)  # a relative one is beside the configuration
    with _located(config, name):
        if repo is None or file is None:
            raise InvalidValueError(f"the preset {name} has to have a path, or a repo and a file")
    with _located(config, name, "repo"):
        found = parse_reference(f"{repo}/{file}")
        if not isinstance(found, HubModel):
            raise InvalidValueError("repo has to be user/repo")
    return HubModel(found.repo, file=found.file, revision=table.get("revision"))
