"""The engine of another server that speaks OpenAI's API: `llmstream serve`, llama-server, vLLM.

`openai_client` talks to it, `remote_models` finds the model, `openai_format` knows the API's words.
"""

import contextlib
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from urllib.parse import quote

from llmstream_cli.api import (
    Chunk,
    EngineMetrics,
    EngineState,
    EngineStatus,
    GenerationRequest,
    ModelInfo,
    Usage,
)
from llmstream_cli.engines.openai_client import IDLE_SECONDS, Upstream
from llmstream_cli.engines.openai_format import RemoteAnswer, request_body, request_path
from llmstream_cli.engines.remote_models import (
    RemoteModel,
    only_model,
    parse_model,
    parse_models,
    unknown_model,
    unlisted_model,
)
from llmstream_cli.errors import (
    EngineClosedError,
    EngineNotReadyError,
    InvalidValueError,
    ModelNotFoundError,
    UpstreamError,
)

_MODELS = "/v1/models"


class RemoteEngine:
    """Generates on another server; implements `api.Engine`.

    Args:
        url: where the server is, with or without `/v1` at its end.
        model: the server's name for the model; None takes the only one, or the default of a server
            of this project.
        api_key: sent as a bearer token.
        idle_seconds: give up on an answer when nothing comes for so long.

    Raises:
        InvalidValueError: the URL or the key is none.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._upstream = Upstream(url, api_key=api_key, idle_seconds=idle_seconds)
        self._wanted = model
        self._model: RemoteModel | None = None
        self._trouble = ""  # that the last request met
        self._closed = False
        self._metrics = EngineMetrics()

    @property
    def url(self) -> str:
        """Where the server is, without the API's path."""
        return self._upstream.url

    @property
    def status(self) -> EngineStatus:
        """The state as the last request found it; see `Engine.status`."""
        if self._closed:
            return EngineStatus(EngineState.CLOSED, str(EngineClosedError()))
        if self._trouble:
            return EngineStatus(EngineState.RESTARTING, self._trouble)
        if self._model is None:
            return EngineStatus(EngineState.LOADING, f"{self.url} has not been asked yet")
        return EngineStatus(EngineState.READY)

    @property
    def metrics(self) -> EngineMetrics:
        """What this engine asked of the server; what others ask of it is not in the numbers."""
        return self._metrics

    def start(self) -> None:
        """Do nothing: loading the model is the server's affair."""

    async def ready(self) -> ModelInfo:
        """Ask the server for its models, once; see `Engine.ready`.

        Raises:
            InvalidValueError: it has several, and none was named.
            ModelNotFoundError: it has none of that name; the message names a near miss.
            EngineError: it cannot be reached, or fails.
        """
        with self._watched():
            return (await self._find_model()).info

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        """Stream the answer; see `Engine.generate`. Closing the generator closes the connection.

        Raises:
            InvalidValueError: the server does not take one of the parameters.
            PromptError: the prompt is longer than the context.
            ModelNotFoundError: the server does not have the model.
            QueueFullError: the server has too much to do.
            EngineError: it cannot be reached, or fails; the chunks before it are good.
        """
        if request.sampling.logprobs is not None:
            raise InvalidValueError("logprobs cannot be had from another server")
        with self._watched(), self._counted_as_running():
            model = await self._find_model()
            body = request_body(request, model.name, model.owner)
            answer = RemoteAnswer()
            started = time.perf_counter()
            async with contextlib.aclosing(
                self._upstream.events(request_path(request), body)
            ) as events:
                async for event in events:
                    chunk = answer.push(event, time.perf_counter() - started)
                    if chunk is not None:
                        yield chunk
            last = answer.end()
        if last.usage is not None:
            self._count(last.usage)
        yield last

    async def aclose(self) -> None:
        """Close all connections, which cancels what runs."""
        self._closed = True
        await self._upstream.aclose()

    async def _find_model(self) -> RemoteModel:
        if self._model is None:
            models = parse_models(await self._upstream.get_json(_MODELS))
            self._model = await self._choose_model(models)
        return self._model

    async def _choose_model(self, models: list[RemoteModel]) -> RemoteModel:
        if self._wanted is None:
            return only_model(models)
        for model in models:
            if model.name == self._wanted:
                return model
        if not models:
            return unlisted_model(self._wanted)
        # A server may know a model by more names than it lists.
        entry = await self._upstream.get_json(f"{_MODELS}/{quote(self._wanted)}")
        found = parse_model(entry)
        if found is None:
            raise unknown_model(self._wanted, models)
        return found

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Note how a request ends. One under which the engine is closed says so."""
        if self._closed:
            raise EngineClosedError
        try:
            yield
        except ModelNotFoundError:
            self._model = None
            raise
        except (UpstreamError, EngineNotReadyError) as error:
            if self._closed:
                raise EngineClosedError from error
            self._model = None  # when the server is back, it may have another
            self._trouble = str(error)
            raise
        self._trouble = ""

    @contextlib.contextmanager
    def _counted_as_running(self) -> Iterator[None]:
        self._metrics = replace(self._metrics, running=self._metrics.running + 1)
        try:
            yield
        finally:
            self._metrics = replace(self._metrics, running=self._metrics.running - 1)

    def _count(self, usage: Usage) -> None:
        past = self._metrics
        self._metrics = replace(
            past,
            prompt_tokens=past.prompt_tokens + usage.prompt_tokens,
            cached_tokens=past.cached_tokens + usage.cached_tokens,
            generated_tokens=past.generated_tokens + usage.completion_tokens,
        )
