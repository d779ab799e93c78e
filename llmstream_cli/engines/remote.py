"""The engine of another server that speaks OpenAI's API: `llmstream serve`, llama-server, vLLM.

`openai_client` talks to it, `openai_format` knows the API's words.
"""

import contextlib
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from urllib.parse import quote

from llmstream_cli.api import (
    Chunk,
    EmbeddingRequest,
    Embeddings,
    EngineMetrics,
    EngineState,
    EngineStatus,
    GenerationRequest,
    ModelInfo,
    TokenizeRequest,
    Tokens,
)
from llmstream_cli.engines import openai_embeddings
from llmstream_cli.engines.openai_client import IDLE_SECONDS, Upstream
from llmstream_cli.engines.openai_format import (
    RemoteAnswer,
    RemoteModel,
    model_names,
    only_model,
    parse_models,
    remote_model,
    request_body,
)
from llmstream_cli.errors import (
    EngineClosedError,
    EngineNotReadyError,
    InvalidValueError,
    ModelNotFoundError,
    UpstreamError,
    did_you_mean,
)
from llmstream_cli.prompts.tool_history import AS_TEXT, link_results

CHAT, COMPLETIONS, _MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"


class RemoteEngine:
    """Generates on another server; implements `api.Engine`. For the arguments see `Upstream`.

    `model` is the server's name for the model; None takes the only one, or the default of a server
    of this project.
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
        self._running = 0

    @property
    def url(self) -> str:
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
        """What runs; the rest is in the server's own metrics."""
        return EngineMetrics(running=self._running)

    def start(self) -> None:
        """Do nothing: loading the model is the server's affair."""

    async def ready(self) -> ModelInfo:
        """Ask the server for its models, once; see `Engine.ready` and `Upstream.events`.

        Raises:
            InvalidValueError: it has several, and none was named.
        """
        with self._watched():
            return (await self._find_model()).info

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        """Stream the answer; see `Engine.generate`. Closing the generator closes the connection.

        Raises:
            InvalidValueError: the server does not take one of the parameters.
            LLMStreamError: as `Upstream.events`; the chunks before it are good.
        """
        if request.sampling.logprobs is not None:
            raise InvalidValueError("logprobs cannot be had from another server")
        with self._watched():
            model = await self._find_model()
            linked = link_results(request.messages, AS_TEXT)
            body = request_body(replace(request, messages=tuple(linked)), model.name, model.owner)
            answer, began = RemoteAnswer(), time.perf_counter()
            path = CHAT if request.messages else COMPLETIONS
            async with contextlib.aclosing(self._upstream.events(path, body)) as events:
                async for event in events:
                    chunk = answer.push(event, time.perf_counter() - began)
                    if chunk is not None:
                        yield chunk
            last = answer.end()
        yield last

    async def count_tokens(self, request: GenerationRequest) -> int:
        """Refuse: the API has no route for it."""
        raise InvalidValueError("tokens cannot be counted on another server")

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """Refuse: the API has no route for it."""
        raise InvalidValueError("texts cannot be tokenized on another server")

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Ask the server for the vectors; see `Engine.embed`, and `Upstream.events` for errors."""
        parts = []
        with self._watched():
            model = await self._find_model()
            for path, body, count in openai_embeddings.bodies(request, model.name):
                answer = await self._upstream.post_json(path, body)
                parts.append(openai_embeddings.parse(answer, path, count))
        return Embeddings.joined(parts)

    async def aclose(self) -> None:
        """Close all connections, which cancels what runs."""
        self._closed = True
        await self._upstream.aclose()

    async def _find_model(self) -> RemoteModel:
        if self._model is None:
            body = await self._upstream.get_json(_MODELS)
            models = parse_models(body)
            if body is None and self._wanted is None:
                raise UpstreamError(
                    f"{self._upstream.no_api}, or name a model of the server (nothing at {_MODELS})"
                )
            if self._wanted is None:
                self._model = only_model(models)
            else:
                self._model = await self._named_model(self._wanted, models)
        return self._model

    async def _named_model(self, name: str, models: Sequence[RemoteModel]) -> RemoteModel:
        for model in models:
            if model.name == name:
                return model
        if not models:  # a server that has no list
            return remote_model(name, {})
        # A server may know a model by more names than it lists.
        entry = await self._upstream.get_json(f"{_MODELS}/{quote(name)}")
        for model in parse_models({"data": [entry]}):
            return model
        hint = did_you_mean(name, (one.name for one in models), f"it has {model_names(models)}")
        raise ModelNotFoundError(f"the server has no model {name!r}; {hint}")

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Count a request, and note how it ends. One under which the engine is closed says so."""
        if self._closed:
            raise EngineClosedError
        self._running += 1
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
        finally:
            self._running -= 1
        self._trouble = ""
