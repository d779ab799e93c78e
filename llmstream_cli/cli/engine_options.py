"""From a command's options to an engine: a model in this process, or another server's."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from llmstream_cli.api import Engine, EngineConfig
from llmstream_cli.cli.find_model import find_model
from llmstream_cli.cli.prompt import preset_format, read_template
from llmstream_cli.cli.terminal import complain, without_controls
from llmstream_cli.errors import InvalidValueError, ModelNotFoundError, one_line
from llmstream_cli.models.reference import HubModel, LocalFile, parse_reference
from llmstream_cli.models.resolve import ModelChoice, ResolvedModel

if TYPE_CHECKING:
    from llmstream_cli.engines.in_process import InProcessEngine


class OpenEngine(NamedTuple):
    """An engine that has been started.

    Attributes:
        engine: it may still be loading its model.
        name: what the model goes by; "" where another server has yet to tell.
        reference: what names it to `--model`, from any folder; "" likewise.
        sampling: what the model's authors advise, by the names of the sampling parameters.
        found: the model's file; None on another server.
        local: the engine, where it is one in this process.
    """

    engine: Engine
    name: str
    reference: str = ""
    sampling: Mapping[str, Any] = MappingProxyType({})
    found: ResolvedModel | None = None
    local: "InProcessEngine | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What the user said of the engine; see the options of the command for each attribute.

    Raises:
        InvalidValueError: a value is out of its bounds, or means nothing to another server.
    """

    model: ModelChoice
    template: str | None = None
    ctx_size: int | None = None
    threads: int | None = None
    gpu_layers: int = 0
    url: str | None = None
    api_key: str | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        self._config("")  # now: finding the model may take long
        if self.url is None:
            return
        choice = self.model
        for name, value in (
            ("template", self.template),
            ("ctx-size", self.ctx_size),
            ("threads", self.threads),
            ("gpu-layers", self.gpu_layers or None),
            ("file", choice.file),
            ("tokenizer", choice.tokenizer),
        ):
            if value is not None:
                raise InvalidValueError(f"--{name} is the server's own affair; not with --url")

    def with_model(self, name: str) -> "EngineOptions":
        """Return the options for another model; see `ModelChoice.model` for what names one."""
        return replace(self, model=ModelChoice(model=name))

    def open(self) -> OpenEngine:
        """Find the model, start an engine with it, and return while it is being loaded.

        Raises:
            ModelError: the model cannot be found or fetched.
            InvalidValueError: there is no such template, or the URL is none.
        """
        return self._open_here() if self.url is None else self._open_remote(self.url)

    def open_for(self, model: str) -> "tuple[EngineOptions, OpenEngine]":
        """Open the model that a conversation was held with, unless the user has named another.

        Args:
            model: its reference; "" where it is unknown.

        Returns:
            The options of the model that is opened, and the engine.

        Raises:
            LLMStreamError: see `open`.
        """
        if model and self.url is None and self.model == ModelChoice():
            options = self.with_model(model)
            try:
                return options, options.open()
            except ModelNotFoundError as error:
                complain(f"llmstream: another model goes on: {one_line(error)}\n")
        return self, self.open()

    def _open_here(self) -> OpenEngine:
        chat_format = None if self.template is None else read_template(self.template)
        found = find_model(self.model)
        from llmstream_cli.engines.in_process import InProcessEngine

        if self.verbose:
            from llmstream_cli.core.llama import set_log_sink

            # The log quotes the model's file, which anyone may have written.
            set_log_sink(lambda text: complain(without_controls(text)))
        engine = InProcessEngine(
            replace(
                self._config(str(found.path)),
                ctx_size=found.ctx_size if self.ctx_size is None else self.ctx_size,
                chat_format=chat_format,
                default_chat_format=preset_format(found.chat_format),
            )
        )
        engine.start()
        return OpenEngine(
            engine=engine,
            name=found.name,
            reference=_reference(self.model, found),
            sampling=found.sampling,
            found=found,
            local=engine,
        )

    def _open_remote(self, url: str) -> OpenEngine:
        from llmstream_cli.engines.remote import RemoteEngine

        name = self.model.preset or self.model.model
        engine = RemoteEngine(url, model=name, api_key=self.api_key)
        engine.start()
        return OpenEngine(engine=engine, name=name or "", reference=name or "")

    def _config(self, path: str) -> EngineConfig:
        return EngineConfig(
            model_path=path,
            ctx_size=self.ctx_size,
            threads=self.threads,
            gpu_layers=self.gpu_layers,
        )


def _reference(choice: ModelChoice, found: ResolvedModel) -> str:
    if choice.model is None:
        return found.name
    match parse_reference(choice.model):
        case LocalFile(path):
            return str(path.absolute())
        case HubModel() as repo:
            return str(repo if choice.file is None else replace(repo, file=choice.file))
        case _:
            return found.name
