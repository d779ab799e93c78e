"""The loop that steps: commands in, results out, on one thread.

The thread that calls `StepLoop.run` owns the model's context and every request's state; nothing
else touches them. Others post commands into an inbox, which the loop empties between two steps:
that is how a cancellation takes effect within one. All that a step produced leaves in one call of
the sink, and what carries it further, to an event loop or through a pipe, sends one message.
"""

import contextlib
import math
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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


@dataclass(frozen=True, slots=True)
class _TellReady:
    request_id: int


@dataclass(frozen=True, slots=True)
class _Submit:
    request_id: int
    encoded: EncodedRequest
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class _Cancel:
    request_id: int


@dataclass(frozen=True, slots=True)
class _Close:
    pass


_Command = _TellReady | _Submit | _Cancel | _Close


class StepLoop:
    """Loads a model and generates with it.

    Every `tell_ready` and `submit` names its own request id, and gets its answer under it: the
    model's info, or chunks up to the one with a finish reason, or an error, which is the last.

    Args:
        config: the model and the sizes.
        sink: takes what a step produced, pairs of a request id and a result, maybe none; called on
            the thread of `run`, which it must not block.

    Attributes:
        loaded: the model, once it is loaded and until the loop has ended.
        metrics: state and counters after the last step; replaced as a whole, so read from anywhere.
        end: why the loop has ended, once it has.
    """

    def __init__(self, config: EngineConfig, sink: Sink) -> None:
        self._config = config
        self._sink = sink
        self._inbox: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._requests: set[int] = set()  # those on their way; of the loop's thread alone
        self._runner: Runner | None = None
        self._end_lock = threading.Lock()  # no command is posted after the inbox's last reading
        self.loading = True
        self.loaded: LoadedModel | None = None
        self.metrics = EngineMetrics(slots=config.max_seqs)
        self.end: LLMStreamError | None = None

    # These may be called from any thread. They raise `end` once the loop has ended.

    def tell_ready(self, request_id: int) -> None:
        """Ask for the model's info as soon as it is loaded."""
        self._post(_TellReady(request_id))

    def submit(self, request_id: int, encoded: EncodedRequest, params: SamplingParams) -> None:
        """Ask for an answer; see `EngineCore.add`."""
        self._post(_Submit(request_id, encoded, params))

    def cancel(self, request_id: int) -> None:
        """End a request wherever it is; nothing happens to one that has ended."""
        self._post(_Cancel(request_id))

    def close(self) -> None:
        """End the loop and abort its running step. A load that has begun is not interrupted."""
        with contextlib.suppress(LLMStreamError):
            self._post(_Close())
        runner = self._runner
        if runner is not None:
            runner.abort()

    def _post(self, command: _Command) -> None:
        with self._end_lock:
            if self.end is not None:
                raise copy_error(self.end)
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
            self._refuse_all(end)
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
            loaded.info = replace(loaded.info, ctx_size=self._runner.limit_to_memory())
        self.loaded = loaded
        cache = PrefixCache(config.max_seqs, partial=loaded.model.forgets_partially)
        scheduler = Scheduler(
            cache,
            max_batch_tokens=max_batch_tokens,
            ctx_size=loaded.info.ctx_size,
        )
        return EngineCore(self._runner, scheduler, loaded.model.piece)

    def _serve(self, core: EngineCore) -> None:
        """Obey and step in turn until told to close."""
        while True:
            try:
                command = self._inbox.get(block=not core.has_work)
            except queue.Empty:
                self._send(core, core.step())
                continue
            match command:
                case _Close():
                    return
                case _Cancel(request_id):
                    chunk = core.cancel(request_id)
                    if chunk is not None:
                        self._send(core, [(request_id, chunk)])
                case _Submit(request_id):
                    self._submit(core, command)
                case _TellReady(request_id):
                    assert self.loaded is not None
                    self._sink([(request_id, self.loaded.info)])

    def _submit(self, core: EngineCore, command: _Submit) -> None:
        try:
            encoded = command.encoded
            core.add(
                command.request_id,
                encoded.prompt,
                command.params,
                encoded.constraint,
                encoded.turn_ends,
                encoded.splitter,
                report_progress=encoded.report_progress,
                cache_scope=encoded.cache_scope,
            )
        except EngineError as error:
            self._sink([(command.request_id, error)])
        except Exception as error:  # noqa: BLE001  (a bug; no other request has to do with it)
            failure = EngineError(f"the request cannot be computed: {error!r}")
            self._sink([(command.request_id, failure)])
        else:
            self._requests.add(command.request_id)

    def _send(self, core: EngineCore, results: Sequence[tuple[int, Chunk | EngineError]]) -> None:
        """Hand over what a step produced; forget the requests that ended with it."""
        self.metrics = core.metrics()
        for request_id, result in results:
            if not isinstance(result, Chunk) or result.finish_reason is not None:
                self._requests.remove(request_id)
        self._sink(
            [
                (i, result if isinstance(result, Chunk) else copy_error(result))
                for i, result in results
            ]
        )

    def _refuse_all(self, end: LLMStreamError) -> None:
        """Tell every request, present and future, why the loop has ended."""
        with self._end_lock:
            self.end = end
        waiting = [*self._requests]
        with contextlib.suppress(queue.Empty):
            while True:
                command = self._inbox.get_nowait()
                if isinstance(command, _TellReady | _Submit):
                    waiting.append(command.request_id)
        self._sink([(request_id, copy_error(end)) for request_id in waiting])
