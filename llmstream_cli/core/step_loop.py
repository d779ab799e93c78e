"""The loop that steps: commands in, results out, on one thread.

The thread that calls `StepLoop.run` owns the model's context and every request's state. Others post
commands into an inbox, which the loop empties between two steps: that is how a cancellation takes
effect within one. All that a step produced leaves in one call of the sink, and what carries it
further, to an event loop or through a pipe, sends one message.
"""

import contextlib
import math
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from llmstream_cli.api import Chunk, EngineConfig, EngineMetrics, ModelInfo, SamplingParams
from llmstream_cli.core.engine_core import EngineCore
from llmstream_cli.core.llama import DecodeAbortedError
from llmstream_cli.core.model import EncodedRequest, LoadedModel
from llmstream_cli.core.prefix_cache import PrefixCache
from llmstream_cli.core.runner import Runner
from llmstream_cli.core.scheduler import Scheduler
from llmstream_cli.errors import EngineClosedError, EngineError, LLMStreamError, copy_error

Result = Chunk | ModelInfo | LLMStreamError
Sink = Callable[[Sequence[tuple[int, Result]]], object]


class StepLoop:
    """Loads a model and generates with it.

    Every `tell_ready` and `submit` names its own request id, and gets its answer under it: the
    model's info, or chunks up to the one with a finish reason, or an error, which is the last. The
    sink takes them on the thread of `run`, which it must not block.

    `tell_ready`, `submit`, `cancel` and `close` may be called from any thread, and the attributes
    be read from any. Once the loop has ended the first three raise `end`, which tells why.
    """

    def __init__(self, config: EngineConfig, sink: Sink) -> None:
        self._config = config
        self._sink = sink
        self._inbox: queue.SimpleQueue[Callable[[EngineCore], object] | None] = queue.SimpleQueue()
        self._unanswered: set[int] = set()  # ids of requests that wait for a result
        self._runner: Runner | None = None
        self._end_lock = threading.Lock()  # no command is posted after the loop's end
        self.loading = True
        self.loaded: LoadedModel | None = None  # until the loop has ended
        self.metrics = EngineMetrics(slots=config.max_seqs)  # replaced as a whole
        self.end: LLMStreamError | None = None

    def tell_ready(self, request_id: int) -> None:
        """Ask for the model's info as soon as it is loaded."""
        self._post(lambda core: self._send(core, [(request_id, self._info())]), request_id)

    def submit(self, request_id: int, encoded: EncodedRequest, params: SamplingParams) -> None:
        """Ask for an answer; see `EngineCore.add`."""
        self._post(lambda core: self._add(core, request_id, encoded, params), request_id)

    def cancel(self, request_id: int) -> None:
        """End a request wherever it is; nothing happens to one that has ended."""
        self._post(lambda core: self._cancel(core, request_id))

    def close(self) -> None:
        """End the loop and abort its running step. A load that has begun is not interrupted."""
        with contextlib.suppress(LLMStreamError):
            self._post(None)
        runner = self._runner
        if runner is not None:
            runner.contexts.abort()

    def _post(
        self, command: Callable[[EngineCore], object] | None, request_id: int | None = None
    ) -> None:
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
            core = self._load()
            self.loading = False
            self._serve(core)
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
            if self._runner is not None:
                self._runner.close()
            self._runner = self.loaded = None

    def _load(self) -> EngineCore:
        config, loaded = self._config, LoadedModel(self._config)
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
        self.loaded = loaded
        cache = PrefixCache(config.max_seqs, partial=loaded.model.forgets_partially)
        scheduler = Scheduler(
            cache, max_batch_tokens=max_batch_tokens, ctx_size=loaded.info.ctx_size
        )
        return EngineCore(self._runner, scheduler, loaded.model.piece)

    def _serve(self, core: EngineCore) -> None:
        while True:
            try:
                command = self._inbox.get(block=not core.has_work)
            except queue.Empty:
                self._send(core, core.step())
                continue
            if command is None:
                return
            command(core)

    def _info(self) -> ModelInfo:
        assert self.loaded is not None
        return self.loaded.info

    def _add(
        self, core: EngineCore, request_id: int, encoded: EncodedRequest, params: SamplingParams
    ) -> None:
        try:
            core.add(request_id, encoded, params)
        except Exception as error:  # noqa: BLE001  (even a bug harms no other request)
            failure = EngineError(f"the request cannot be computed: {error!r}")
            self._send(core, [(request_id, error if isinstance(error, EngineError) else failure)])

    def _cancel(self, core: EngineCore, request_id: int) -> None:
        chunk = core.cancel(request_id)
        if chunk is not None:
            self._send(core, [(request_id, chunk)])

    def _send(self, core: EngineCore, results: Sequence[tuple[int, Result]]) -> None:
        """Hand over what a step produced, and forget the requests that ended with it."""
        self.metrics = core.metrics()
        for request_id, result in results:
            if not isinstance(result, Chunk) or result.finish_reason is not None:
                self._unanswered.discard(request_id)
        # An error can be that of several requests.
        self._sink([(i, copy_error(r) if isinstance(r, LLMStreamError) else r) for i, r in results])
