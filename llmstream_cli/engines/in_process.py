"""The engine in this process: the loop that steps on a thread of its own, bridged to asyncio.

asyncio and Jinja are imported while the thread loads the model, not before: see `start`.
"""

import contextlib
import itertools
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import TYPE_CHECKING, overload

from llmstream_cli.api import (
    Chunk,
    EmbeddingRequest,
    Embeddings,
    EngineConfig,
    EngineMetrics,
    EngineState,
    EngineStatus,
    GenerationRequest,
    ModelInfo,
    TokenizeRequest,
    Tokens,
)
from llmstream_cli.core.step_loop import Result, StepLoop
from llmstream_cli.errors import EngineClosedError, LLMStreamError

if TYPE_CHECKING:
    import asyncio

    from llmstream_cli.core.model import EncodedRequest, EncodedTexts, LoadedModel
    from llmstream_cli.engines.encoding import LongPrompts

# A run of the same character, from some 24,000 on, overflows the stack in several tokenizers of
# llama.cpp, and takes others minutes. A process of its own takes half a second to start.
_LONG_CHARS = 8_000


class InProcessEngine:
    """Generates with a model in this process, for one event loop at a time."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._steps = StepLoop(config, self._deliver)
        self._request_ids = itertools.count()
        self._queues: dict[int, asyncio.Queue[Result]] = {}  # of the loop alone
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._long_prompts: LongPrompts | None = None
        # A daemon: a load cannot be interrupted, and must not keep the process from leaving.
        self._thread = threading.Thread(
            target=self._steps.run, name="llmstream-engine", daemon=True
        )

    @property
    def status(self) -> EngineStatus:
        end = self._steps.end
        if self._closed or isinstance(end, EngineClosedError):
            return EngineStatus(EngineState.CLOSED, str(EngineClosedError()))
        if end is not None:
            return EngineStatus(EngineState.FAILED, str(end))
        if self._steps.loading:
            return EngineStatus(EngineState.LOADING, "the model is being loaded")
        return EngineStatus(EngineState.READY)

    @property
    def metrics(self) -> EngineMetrics:
        """State and counters after the last step; may be read from any thread."""
        return self._steps.metrics

    def start(self) -> None:
        """Begin to load the model and return at once; what the caller imports now costs no time."""
        self._thread.start()

    async def ready(self) -> ModelInfo:
        """Wait until the model is loaded; see `Engine.ready`."""
        # Wanted in a moment by `encode`; to import it now, while the model loads, takes no time.
        import llmstream_cli.prompts.encode  # noqa: F401

        loaded = self._steps.loaded
        if loaded is not None and self._steps.end is None:
            return loaded.info
        with self._subscribe() as (request_id, results):
            self._steps.tell_ready(request_id)
            result = await results.get()
        if isinstance(result, LLMStreamError):
            raise result
        assert isinstance(result, ModelInfo)
        return result

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        """Stream the answer; see `Engine.generate`. It waits for a model that is being loaded."""
        import asyncio

        loaded = await self._loaded()
        if _is_long(request):
            encoded = await self._encode_apart(request, loaded.info)
        else:
            encoded = await asyncio.to_thread(loaded.encode, request)
        with self._subscribe() as (request_id, results):
            self._steps.submit(request_id, encoded, request.sampling)
            try:
                while True:
                    result = await results.get()
                    if isinstance(result, LLMStreamError):
                        raise result
                    assert isinstance(result, Chunk)
                    yield result
                    if result.finish_reason is not None:
                        return
            finally:
                # Synchronous, as clean-up in a generator has to be; void for one that has ended.
                with contextlib.suppress(LLMStreamError):
                    self._steps.cancel(request_id)

    async def count_tokens(self, request: GenerationRequest) -> int:
        """Return how many tokens a request's prompt has, be it longer than the context."""
        import asyncio

        loaded = await self._loaded()
        if _is_long(request):
            from llmstream_cli.engines.encoding import counting

            return len((await self._encode_apart(*counting(request, loaded.info))).prompt)
        return await asyncio.to_thread(loaded.count_tokens, request)

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """Return the tokens of a text, or those that are given; see `Engine.tokenize`."""
        import asyncio

        loaded = await self._loaded()
        if _is_long(request):
            return await self._encode_apart(request, loaded.info)
        return await asyncio.to_thread(loaded.tokenize, request)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Return a vector for each input; see `Engine.embed`."""
        import asyncio

        loaded = await self._loaded()
        encoded: EncodedTexts
        if _is_long(request):
            encoded = await self._encode_apart(request, loaded.info)
        else:
            encoded = await asyncio.to_thread(loaded.encode_texts, request)
        with self._subscribe() as (request_id, results):
            self._steps.embed(request_id, encoded)
            parts: list[Embeddings] = []
            try:
                while not parts or not parts[-1].finished:
                    result = await results.get()
                    if isinstance(result, LLMStreamError):
                        raise result
                    assert isinstance(result, Embeddings)
                    parts.append(result)
            finally:
                with contextlib.suppress(LLMStreamError):
                    self._steps.cancel(request_id)
        return Embeddings.joined(parts)

    async def aclose(self) -> None:
        """Stop the running step and the thread, and release the model.

        A model that is still loading cannot be stopped; it is left to its thread.
        """
        import asyncio

        self._closed = True
        self._steps.close()
        if self._long_prompts is not None:
            await asyncio.to_thread(self._long_prompts.close)
        if not self._steps.loading:
            await asyncio.to_thread(self._thread.join)

    async def _loaded(self) -> "LoadedModel":
        await self.ready()
        loaded = self._steps.loaded
        if loaded is None:  # closed while the answer was on its way
            raise EngineClosedError
        return loaded

    @overload
    async def _encode_apart(
        self, request: GenerationRequest, info: ModelInfo
    ) -> "EncodedRequest": ...
    @overload
    async def _encode_apart(self, request: TokenizeRequest, info: ModelInfo) -> Tokens: ...
    @overload
    async def _encode_apart(self, request: EmbeddingRequest, info: ModelInfo) -> "EncodedTexts": ...
    async def _encode_apart(
        self, request: GenerationRequest | EmbeddingRequest | TokenizeRequest, info: ModelInfo
    ) -> "EncodedRequest | EncodedTexts | Tokens":
        """Encode in a process that the kernel limits; see `engines.encoding`."""
        import asyncio

        from llmstream_cli.engines.encoding import LongPrompts

        self._long_prompts = self._long_prompts or LongPrompts(self._config)
        given_up = threading.Event()
        try:
            return await asyncio.to_thread(self._long_prompts.encode, request, info, given_up)
        finally:
            given_up.set()

    @contextlib.contextmanager
    def _subscribe(self) -> "Iterator[tuple[int, asyncio.Queue[Result]]]":
        """Name a request, and listen to its results."""
        import asyncio

        self._loop = asyncio.get_running_loop()
        request_id = next(self._request_ids)
        queue = self._queues[request_id] = asyncio.Queue()
        try:
            yield request_id, queue
        finally:
            del self._queues[request_id]

    def _deliver(self, results: Sequence[tuple[int, Result]]) -> None:
        """Send what a step produced to the loop, in one message; on the engine's thread."""
        if results and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._put, results)

    def _put(self, results: Sequence[tuple[int, Result]]) -> None:
        for request_id, result in results:
            if request_id in self._queues:  # else nobody waits for it any more
                self._queues[request_id].put_nowait(result)


def _is_long(request: GenerationRequest | EmbeddingRequest | TokenizeRequest) -> bool:
    if isinstance(request, TokenizeRequest):
        return isinstance(request.content, str) and len(request.content) > _LONG_CHARS
    if isinstance(request, EmbeddingRequest):
        texts = [request.query or "", *request.inputs]
        return sum(len(text) for text in texts if isinstance(text, str)) > _LONG_CHARS
    prompt = request.prompt
    if prompt is None:
        texts = [message.content for message in request.messages]
        texts += [call.arguments for message in request.messages for call in message.tool_calls]
        texts += [tool.description + tool.parameters for tool in request.callable_tools]
        return sum(map(len, texts)) > _LONG_CHARS
    return isinstance(prompt, str) and len(prompt) > _LONG_CHARS
