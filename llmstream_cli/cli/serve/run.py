"""`llmstream serve`: the models of this machine over HTTP."""

import asyncio
import contextlib
import json
import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence

from llmstream_cli.api import EngineConfig
from llmstream_cli.cli.ask.answer import print_settings
from llmstream_cli.cli.process import leave_on_interrupt
from llmstream_cli.cli.progress import make_progress
from llmstream_cli.cli.prompt import known_contexts, preset_format, read_template
from llmstream_cli.cli.serve.models import serve_models
from llmstream_cli.cli.serve.options import ServeOptions
from llmstream_cli.cli.serve.stderr_writer import stderr_in_background
from llmstream_cli.cli.terminal import read_file, without_controls, write_stderr
from llmstream_cli.errors import InvalidValueError, ListenError
from llmstream_cli.machine import is_loopback
from llmstream_cli.models.resolve import ModelChoice, ResolvedModel, resolve
from llmstream_cli.models.sizes import parse_size
from llmstream_cli.server.context import ServerContext
from llmstream_cli.server.http.exchange import JsonFormatter
from llmstream_cli.server.run import STOP_SECONDS, Server
from llmstream_cli.server.served import keep_alive_seconds
from llmstream_cli.server.settings import ServerSettings

_log = logging.getLogger(__name__)

_MAX_KEY_FILE_BYTES = 1024 * 1024
_LAST_LINE_SECONDS = 0.1  # for the thread that writes to standard error


def run_serve(how: ServeOptions, order: Sequence[str]) -> int:
    """Serve until told to stop; return the exit code.

    Args:
        how: what the user said.
        order: the names of the options on the command line, in their order.
    """
    settings = _settings(how)
    max_bytes = None if how.memory is None else parse_size(how.memory)
    keep_alive = None if how.keep_alive is None else keep_alive_seconds(how.keep_alive)
    contexts = known_contexts()
    chat_format = None if how.template is None else read_template(how.template)

    def engine_config(found: ResolvedModel) -> EngineConfig:
        return EngineConfig(
            model_path=str(found.path),
            ctx_size=found.ctx_size if how.ctx_size is None else how.ctx_size,
            threads=how.threads,
            gpu_layers=how.gpu_layers,
            max_seqs=how.parallel,
            max_queue=how.queue,
            chat_format=chat_format,
            default_chat_format=preset_format(found.chat_format),
        )

    all_found = [resolve(choice, make_progress()) for choice in model_choices(how, order)]
    models = serve_models(all_found, engine_config, how, max_bytes=max_bytes, keep_alive=keep_alive)
    with stderr_in_background(
        lambda num: _log.warning("dropped %d lines of the log: standard error was not read", num)
    ):
        _set_up_log(how.log_json)
        context = ServerContext(models, settings, contexts)
        return asyncio.run(_serve(context, all_found[0].seconds))


def model_choices(how: ServeOptions, order: Sequence[str]) -> list[ModelChoice]:
    """Return the models in the order of the command line, then those that are kept.

    Raises:
        InvalidValueError: --file or --tokenizer is given for more than one.
    """
    left = {"features": iter(how.features or ()), "model": iter(how.model or ())}
    names = [name for name in order if name in left]
    named: list[tuple[str, str | None]] = [(name, next(left[name])) for name in names]
    named += [(name, value) for name, values in left.items() for value in values]
    if len(named) > 1 and (how.file, how.tokenizer) != (None, None):
        raise InvalidValueError(
            "--file and --tokenizer go with one model; of several, name the file in --model, and "
            "put its tokenizer beside it"
        )
    return [
        ModelChoice(
            preset=value if name == "features" else None,
            model=value if name == "model" else None,
            file=how.file,
            tokenizer=how.tokenizer,
        )
        for name, value in named or [("", None)]
    ]


def _settings(how: ServeOptions) -> ServerSettings:
    settings = ServerSettings(
        host=how.host,
        port=how.port,
        certfile=how.certfile,
        keyfile=how.keyfile,
        api_keys=read_keys(how.api_key or [], how.api_key_file),
        allowed_hosts=tuple(how.allow_host or ()),
        cors_origins=tuple(how.cors_origin or ()),
        share_prefixes=how.share_prefixes,
        timeout_seconds=how.timeout,
        drain_seconds=how.drain,
    )
    if (settings.certfile is None) != (settings.keyfile is None):
        raise InvalidValueError("--certfile and --keyfile belong together; give both")
    if not (settings.api_keys or how.insecure_no_key or is_loopback(settings.host)):
        raise InvalidValueError(
            f"others can reach {settings.host}, and there is no key: give one with "
            "--api-key-file FILE, or say --insecure-no-key"
        )
    return settings


def read_keys(keys: list[str], file: str | None) -> tuple[str, ...]:
    """Return the keys of the options: those given, and those in the file, one on a line.

    Raises:
        ListenError: the file cannot be read, or has no key.
        InvalidValueError: a key is not one that a header can carry.
    """
    found = list(keys)
    if file is not None:
        text = read_file(file, _MAX_KEY_FILE_BYTES, prefix="--api-key-file: ", error=ListenError)
        found += [line.strip() for line in text.splitlines() if not line.startswith("#")]
        found = [key for key in found if key]
        if not found:
            raise ListenError(f"there is no key in {file}")
    for key in found:
        if not key.isascii() or not key.isprintable() or " " in key or not key:
            raise InvalidValueError("an API key has to be printable ASCII without spaces")
    return tuple(found)


# ---- while it runs --------------------------------------------------------------------------


async def _serve(context: ServerContext, retrieved_seconds: float) -> int:
    context.models.default.engine.start()
    server = Server(context)
    stop = _stop_on_signals()
    try:
        await server.start()  # which says `loading` at once
        _announce(server.url)
        loading = asyncio.create_task(_load(context, retrieved_seconds, server.url))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((stopped, loading), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            await loading  # raises where the model cannot be loaded
        await stopped
        loading.cancel()
    finally:
        _leave_after(context.settings.drain_seconds + STOP_SECONDS)
        num_cut = await server.stop()
    if num_cut:
        write_stderr(f"llmstream: ended {num_cut} answers that took too long to stop\n")
    return 0


async def _load(context: ServerContext, retrieved_seconds: float, url: str) -> None:
    """Wait until the default model is loaded, and tell how to use it."""
    model = context.models.default
    print_settings(await model.engine.ready(), model.sampling, retrieved_seconds)
    named = model.name if len(context.models.models) > 1 else None
    write_stderr(f"serving {model.name} at {url}\n{_example(url, context.settings, named)}\n")


def _stop_on_signals() -> asyncio.Event:
    """Return what is set when the process is told to stop; a second Ctrl-C leaves at once."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()

    def stop() -> None:
        told.set()
        loop.remove_signal_handler(signal.SIGINT)
        leave_on_interrupt()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    return told


def _leave_after(seconds: float) -> None:
    """Leave the process after that time, whatever hangs: the event loop, or a task at its end."""

    def leave() -> None:
        write_stderr("llmstream: could not stop in time\n")
        time.sleep(_LAST_LINE_SECONDS)
        os._exit(1)

    watchdog = threading.Timer(seconds, leave)
    watchdog.daemon = True
    watchdog.start()


def _announce(url: str) -> None:
    """Print the URL, all that standard output gets, for whoever started this to read."""
    write_stderr(f"listening on {url}, loading the model\n")
    if sys.stdout is not None:
        with contextlib.suppress(OSError):  # nobody wants to know
            sys.stdout.write(f"{url}\n")
            sys.stdout.flush()


def _example(url: str, settings: ServerSettings, model: str | None) -> str:
    """Return a command to copy; it names the model if one is given."""
    key = ' -H "Authorization: Bearer $LLMSTREAM_API_KEY"' if settings.api_keys else ""
    ca = f" --cacert {shlex.quote(settings.certfile)}" if settings.certfile else ""
    body = {"query": "Where is Paris?", **({"model": model} if model is not None else {})}
    return (
        f"curl --no-buffer{ca} {url}/token_stream -H 'Content-Type: application/json'{key} "
        f"-d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    )


class _TextFormatter(logging.Formatter):
    """A line without control characters: none of what clients send can move a cursor."""

    def format(self, record: logging.LogRecord) -> str:
        return without_controls(super().format(record))


def _set_up_log(as_json: bool) -> None:
    """Send the log to standard error: a line for each request, and what goes wrong."""
    handler = logging.StreamHandler()
    text = _TextFormatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S%z")
    handler.setFormatter(JsonFormatter() if as_json else text)
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("llmstream_cli").setLevel(logging.INFO)
