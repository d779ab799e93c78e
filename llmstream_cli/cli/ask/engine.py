"""From a command's options to an engine: a model in this process, or another server's."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llmstream_cli.api import Engine, EngineConfig
from llmstream_cli.cli.options import EngineOptions
from llmstream_cli.cli.progress import make_progress
from llmstream_cli.cli.prompt import preset_format, read_template
from llmstream_cli.cli.terminal import complain, without_controls
from llmstream_cli.errors import InvalidValueError, ModelNotFoundError, one_line
from llmstream_cli.models.reference import HubModel, parse_reference
from llmstream_cli.models.resolve import ModelChoice, ResolvedModel, resolve

if TYPE_CHECKING:
    from llmstream_cli.engines.in_process import InProcessEngine


class OpenEngine(NamedTuple):
    """An engine that has been started.

    Attributes:
        engine: it may still be loading its model.
        name: what the model goes by; "" where another server has yet to tell.
        reference: what names it to `--model`, from any folder; "" likewise.
        found: the model's file; None on another server.
        local: the engine, where it is one in this process.
    """

    engine: Engine
    name: str
    reference: str = ""
    found: ResolvedModel | None = None
    local: "InProcessEngine | None" = None

    def advice(self, thinking: bool | None = None) -> Mapping[str, Any]:
        """Return the sampling that suits the model; see `Preset.advice`."""
        return {} if self.found is None else self.found.advice(thinking)


def check_engine(options: EngineOptions) -> None:
    """Check what can be, before the model is looked for, which may take long.

    Raises:
        InvalidValueError: a value is out of its bounds, or means nothing to another server.
    """
    _choice(options)
    _config(options, "")
    if options.url is None:
        return
    for name in ("template", "ctx_size", "threads", "gpu_layers", "file", "tokenizer"):
        if getattr(options, name) not in (None, 0):
            option = f"--{name.replace('_', '-')}"
            raise InvalidValueError(f"{option} is the server's own affair; not with --url")


def with_model(options: EngineOptions, name: str) -> EngineOptions:
    """Return the options for another model; see `ModelChoice.model` for what names one."""
    return options._replace(features=None, model=name, file=None, tokenizer=None)


def open_engine(options: EngineOptions, *, verbose: bool = False) -> OpenEngine:
    """Find the model, start an engine with it, and return while it is being loaded.

    Args:
        options: of the model.
        verbose: show llama.cpp's log.

    Raises:
        ModelError: the model cannot be found or fetched.
        InvalidValueError: there is no such template, or the URL is none.
    """
    if options.url is not None:
        return _open_remote(options, options.url)
    chat_format = None if options.template is None else read_template(options.template)
    choice = _choice(options)
    found = resolve(choice, make_progress())
    from llmstream_cli.engines.in_process import InProcessEngine

    if verbose:
        from llmstream_cli.core.llama import set_log_sink

        # The log quotes the model's file, which anyone may have written.
        set_log_sink(lambda text: complain(without_controls(text)))
    engine = InProcessEngine(
        replace(
            _config(options, str(found.path)),
            ctx_size=found.ctx_size if options.ctx_size is None else options.ctx_size,
            chat_format=chat_format,
            default_chat_format=preset_format(found.chat_format),
        )
    )
    engine.start()
    return OpenEngine(
        engine=engine,
        name=found.name,
        reference=_reference(choice, found),
        found=found,
        local=engine,
    )


def open_again(
    options: EngineOptions, model: str, *, verbose: bool = False
) -> tuple[EngineOptions, OpenEngine]:
    """Open the model that a conversation was held with, unless the user has named another.

    Args:
        options: what the user said.
        model: its reference; "" where it is unknown.
        verbose: show llama.cpp's log.

    Returns:
        The options of the model that is opened, and the engine.

    Raises:
        LLMStreamError: see `open_engine`.
    """
    if model and options.url is None and _choice(options) == ModelChoice():
        same = with_model(options, model)
        try:
            return same, open_engine(same, verbose=verbose)
        except ModelNotFoundError as error:
            complain(f"llmstream: another model goes on: {one_line(error)}\n")
    return options, open_engine(options, verbose=verbose)


def _open_remote(options: EngineOptions, url: str) -> OpenEngine:
    from llmstream_cli.engines.remote import RemoteEngine

    name = options.features or options.model
    engine = RemoteEngine(url, model=name, api_key=options.api_key)
    engine.start()
    return OpenEngine(engine=engine, name=name or "", reference=name or "")


def _choice(options: EngineOptions) -> ModelChoice:
    return ModelChoice(
        preset=options.features,
        model=options.model,
        file=options.file,
        tokenizer=options.tokenizer,
    )


def _config(options: EngineOptions, path: str) -> EngineConfig:
    return EngineConfig(
        model_path=path,
        ctx_size=options.ctx_size,
        threads=options.threads,
        gpu_layers=options.gpu_layers,
    )


def _reference(choice: ModelChoice, found: ResolvedModel) -> str:
    if choice.model is None:
        return found.name
    match parse_reference(choice.model):
        case Path() as path:
            return str(path.absolute())
        case HubModel() as repo:
            return str(repo if choice.file is None else replace(repo, file=choice.file))
        case _:
            return found.name
