"""From a command's options to an engine, a conversation and a request; for `ask` and `chat`.

What shows and keeps answers is imported while the model loads, or the first token waited for it.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llmstream_cli.api import Engine, EngineConfig, GenerationRequest
from llmstream_cli.cli.ask.options import EngineOptions, Setup
from llmstream_cli.cli.progress import make_progress
from llmstream_cli.cli.prompt import context_message, preset_format, read_template
from llmstream_cli.cli.terminal import without_controls, write_stderr
from llmstream_cli.errors import InvalidValueError, ModelNotFoundError, one_line
from llmstream_cli.models.reference import HubModel, parse_reference
from llmstream_cli.models.resolve import ModelChoice, ResolvedModel, resolve
from llmstream_cli.prompts.messages import Tool

if TYPE_CHECKING:
    from llmstream_cli.cli.chat.conversation import Conversation


class OpenEngine(NamedTuple):
    """An engine that has been started; it may still be loading its model."""

    options: EngineOptions
    engine: Engine
    name: str  # of the model; "" where another server has yet to tell
    reference: str  # what names the model to `--model`, from any folder; "" likewise
    found: ResolvedModel | None = None  # the model's file; None on another server

    def advice(self, thinking: bool | None = None) -> Mapping[str, Any]:
        """Return the sampling that suits the model; see `Preset.advice`."""
        return {} if self.found is None else self.found.advice(thinking)


def begin(setup: Setup) -> "tuple[OpenEngine, Conversation]":
    """Find the conversation, open the model, and return while it is being loaded.

    Raises:
        LLMStreamError: there is no such conversation, context or model.
    """
    system = setup.system
    if setup.context is not None:
        if system is not None:
            raise InvalidValueError("--system and --context both give the system message")
        system = context_message(setup.context)
    opened = None if setup.record.goes_on else open_engine(setup.engine, verbose=setup.verbose)
    from llmstream_cli.cli.chat.conversation import resume

    conversation = resume(setup.record)
    if opened is None:
        opened = _open_again(setup, conversation.model)
    if system is not None:
        conversation.system = system
    return opened, conversation


def request_for(
    setup: Setup,
    opened: OpenEngine,
    conversation: "Conversation",
    question: str,
    *,
    again: bool = False,
    tools: tuple[Tool, ...] = (),
) -> GenerationRequest:
    """Return what the engine is asked to answer the next question, or the last one again."""
    return GenerationRequest(
        conversation.asking(question, again=again),
        setup.sampling.over(opened.advice(setup.think)),
        unset=setup.sampling.unset,
        thinking=setup.think,
        tools=tools,
    )


def check_engine(options: EngineOptions) -> None:
    """Check what can be, before the model is looked for, which may take long."""
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

    Raises:
        ModelError: the model cannot be found or fetched.
        InvalidValueError: there is no such template, or the URL is none.
    """
    if options.url is not None:
        from llmstream_cli.engines.remote import RemoteEngine

        name = options.features or options.model
        remote = RemoteEngine(options.url, model=name, api_key=options.api_key)
        remote.start()
        return OpenEngine(options, remote, name or "", name or "")
    chat_format = None if options.template is None else read_template(options.template)
    choice = _choice(options)
    found = resolve(choice, make_progress())
    from llmstream_cli.engines.in_process import InProcessEngine

    if verbose:
        from llmstream_cli.core.llama import set_log_sink

        # The log quotes the model's file, which anyone may have written.
        set_log_sink(lambda text: write_stderr(without_controls(text)))
    engine = InProcessEngine(
        replace(
            _config(options, str(found.path)),
            ctx_size=found.ctx_size if options.ctx_size is None else options.ctx_size,
            chat_format=chat_format,
            default_chat_format=preset_format(found.chat_format),
        )
    )
    engine.start()
    return OpenEngine(options, engine, found.name, _reference(choice, found), found)


def _open_again(setup: Setup, model: str) -> OpenEngine:
    """Open the model that a conversation was held with, unless the user has named another."""
    if model and setup.engine.url is None and _choice(setup.engine) == ModelChoice():
        try:
            return open_engine(with_model(setup.engine, model), verbose=setup.verbose)
        except ModelNotFoundError as error:
            write_stderr(f"llmstream: another model goes on: {one_line(error)}\n")
    return open_engine(setup.engine, verbose=setup.verbose)


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
