"""The loop that steps: commands in, results out, on one thread.

The thread that calls `StepLoop.run` owns the model's context and every request's state. Others post
commands into an inbox, which the loop empties between two steps: that is how a cancellation takes
effect within one. All that a step produced leaves in one call of the sink, and what carries it
further, to an event loop or through a pipe, sends one message.

Texts are embedded between two steps, a bounded number of tokens at once, so that answers go on.
"""

import contextlib
import math
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from llmstream_cli.api import (
    Chunk,
    Embeddings,
    EngineConfig,
    EngineMetrics,
    ModelInfo,
    SamplingParams,
)
from llmstream_cli.core.embeddings import Embedder
from llmstream_cli.core.engine_core import EngineCore
from llmstream_cli.core.llama import DecodeAbortedError
from llmstream_cli.core.model import EncodedRequest, EncodedTexts, LoadedModel
from llmstream_cli.core.prefix_cache import PrefixCache
from llmstream_cli.core.runner import Runner
from llmstream_cli.core.scheduler import Scheduler
from llmstream_cli.errors import EngineClosedError, EngineError, LLMStreamError, copy_error

Result = Chunk | Embeddings | ModelInfo | LLMStreamError
Sink = Callable[[Sequence[tuple[int, Result]]], object]


class StepLoop:
    """Loads a model, generates with it, and embeds texts.

    Every `tell_ready`, `submit` and `embed` names its own request id, and gets its answer under it:
    the model's info, or chunks up to the one with a finish reason, or vectors up to those that are
    finished, or an error, which is the last. The sink takes them on the thread of `run`, which it
    must not block.

    These, `cancel` and `close` may be called from any thread, and the attributes be read from
    any. Once the loop has ended all but `close` raise `end`, which tells why.
    """

    def __init__(self, config: EngineConfig, sink: Sink) -> None:
        self._config = config
        self._sink = sink
        self._inbox: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._unanswered: set[int] = set()  # ids of requests that wait for a result
        self._runner: Runner | None = None
        self._core: EngineCore | None = None  # none where the model only embeds
        self._embedder: Embedder | None = None
        self._end_lock = threading.Lock()  # no command is posted after the loop's end
        self.loading = True
        self.loaded: LoadedModel | None = None  # until the loop has ended
        self.metrics = EngineMetrics(slots=config.max_seqs)  # replaced as a whole
        self.end: LLMStreamError | None = None

    def tell_ready(self, request_id: int) -> None:
        """Ask for the model's info as soon as it is loaded."""
        self._post(lambda: self._send([(request_id, self._info())]), request_id)

    def submit(self, request_id: int, encoded: EncodedRequest, params: SamplingParams) -> None:
        """Ask for an answer; see `EngineCore.add`."""
        self._post(lambda: self._add(request_id, encoded, params), request_id)

    def embed(self, request_id: int, encoded: EncodedTexts) -> None:
        """Ask for the vectors of texts."""
        self._post(lambda: self._embed(request_id, encoded), request_id)

    def cancel(self, request_id: int) -> None:
        """End a request wherever it is; nothing happens to one that has ended."""
        self._post(lambda: self._cancel(request_id))

    def close(self) -> None:
        """End the loop and abort its running step. A load that has begun is not interrupted."""
        with contextlib.suppress(LLMStreamError):
            self._post(None)
        if (runner := self._runner) is not None:
            runner.contexts.abort()
        if (embedder := self._embedder) is not None:
            embedder.abort()

    def _post(self, command: Callable[[], object] | None, request_id: int | None = None) -> None:
        with self._end_lock:
            if self.end is not None:
                raise copy_error(self.end)
            if request_id is not None:
                self._unanswered.add(request_id)
            self._inbox.put(command)

    # Everything below runs on the loop's thread.

    def run(self) -> None:
        """Load the model, then obey and step until told to close, or until the engine fails."""
        end: LLMStreamError = EngineClosedError()
        try:
            self._load()
            self.loading = False
            self._serve()
        except DecodeAbortedError:  # by `close`
            pass
        except LLMStreamError as error:
            end = error
        except Exception as error:  # noqa: BLE001  (a bug; whoever waits must hear of it)
            end = EngineError(f"the engine failed: {error!r}")
        finally:
            self.loading = False
            with self._end_lock:
                self.end = end
            self._sink([(i, copy_error(end)) for i in sorted(self._unanswered)])
            for part in (self._runner, self._embedder):
                if part is not None:
                    part.close()
            self._runner = self._core = self._embedder = self.loaded = None

    def _load(self) -> None:
        loaded = LoadedModel(self._config)
        if loaded.info.pooling is None:
            self._core = self._make_core(loaded)
        self._embedder = Embedder(loaded.model, threads=self._config.threads)
        self.loaded = loaded

    def _make_core(self, loaded: LoadedModel) -> EngineCore:
        config = self._config
        # Room for every stream to decode and for prompts beside them.
        max_batch_tokens = max(config.max_batch_tokens, 2 * config.max_seqs)
        self._runner = Runner(
            loaded.model,
            max_seqs=config.max_seqs,
            max_batch_tokens=max_batch_tokens,
            ctx_size=loaded.info.ctx_size,
            threads=config.threads,
            max_bytes=math.inf if config.max_bytes is None else config.max_bytes,
        )
        if config.ctx_size is None:
            ctx_size = self._runner.contexts.limit_to_memory()
            loaded.info = replace(loaded.info, ctx_size=ctx_size)
        cache = PrefixCache(config.max_seqs, partial=loaded.model.forgets_partially)
        scheduler = Scheduler(
            cache, max_batch_tokens=max_batch_tokens, ctx_size=loaded.info.ctx_size
        )
        return EngineCore(self._runner, scheduler, loaded.model.piece)

    def _serve(self) -> None:
        core, embedder = self._core, self._embedder
        assert embedder is not None
        while True:
            generates = core is not None and core.has_work
            try:
                command = self._inbox.get(block=not (generates or embedder.has_work))
            except queue.Empty:
                if core is not None and generates:
                    self._send(core.step())
                if embedder.has_work:
                    self._send(embedder.step(hurried=generates))
                continue
            if command is None:
                return
            command()

    def _info(self) -> ModelInfo:
        assert self.loaded is not None
        return self.loaded.info

    def _add(self, request_id: int, encoded: EncodedRequest, params: SamplingParams) -> None:
        try:
            assert self._core is not None  # else nothing could be encoded
            self._core.add(request_id, encoded, params)
        except Exception as error:  # noqa: BLE001  (even a bug harms no other request)
            failure = EngineError(f"the request cannot be computed: {error!r}")
            self._send([(request_id, error if isinstance(error, EngineError) else failure)])

    def _embed(self, request_id: int, encoded: EncodedTexts) -> None:
        assert self._embedder is not None
        self._embedder.add(request_id, encoded.inputs)

    def _cancel(self, request_id: int) -> None:
        assert self._embedder is not None
        self._embedder.cancel(request_id)
        chunk = None if self._core is None else self._core.cancel(request_id)
        if chunk is not None:
            self._send([(request_id, chunk)])

    def _send(self, results: Sequence[tuple[int, Result]]) -> None:
        """Hand over what a step produced, and forget the requests that ended with it."""
        if self._core is not None:
            self.metrics = self._core.metrics()
        for request_id, result in results:
            match result:
                case Chunk(finish_reason=None) | Embeddings(finished=False):
                    pass
                case _:
                    self._unanswered.discard(request_id)
        # An error can be that of several requests.
        self._sink([(i, copy_error(r) if isinstance(r, LLMStreamError) else r) for i, r in results])
