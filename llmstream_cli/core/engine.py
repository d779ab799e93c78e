"""The engine in this process: one thread that steps, bridged to asyncio.

The thread owns the model's context and every request's state; nothing else touches them. The other
side posts commands into an inbox, which the thread empties between two steps: that is how a
cancellation takes effect within one. What a step produced crosses back in one message.

asyncio and Jinja are imported while the thread loads the model, not before: see `start`.
"""

import contextlib
import itertools
import queue
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from llmstream_cli.core.api import (
    DEFAULT_CTX_LIMIT,
    Chunk,
    EngineConfig,
    EngineMetrics,
    GenerationRequest,
    ModelInfo,
    SamplingParams,
)
from llmstream_cli.core.cpu import default_threads
from llmstream_cli.core.engine_core import EngineCore
from llmstream_cli.core.llama import DecodeAbortedError, Model, cpu_features
from llmstream_cli.core.prefix_cache import PrefixCache
from llmstream_cli.core.runner import Runner
from llmstream_cli.core.scheduler import Scheduler
from llmstream_cli.errors import (
    EngineClosedError,
    EngineError,
    InvalidValueError,
    LLMStreamError,
    PromptError,
)
from llmstream_cli.prompts.messages import Message

if TYPE_CHECKING:
    import asyncio

    from llmstream_cli.prompts.template import ChatTemplate

_CLOSED = "the engine has been closed"

_Item = Chunk | ModelInfo | LLMStreamError


@dataclass(frozen=True, slots=True, eq=False)
class _Subscriber:
    """Where the answers to one command go: a queue that only `loop` may touch."""

    loop: "asyncio.AbstractEventLoop"
    queue: "asyncio.Queue[_Item]"


@dataclass(frozen=True, slots=True)
class _TellReady:
    subscriber: _Subscriber


@dataclass(frozen=True, slots=True)
class _Submit:
    subscriber: _Subscriber
    request_id: int
    prompt: list[int]
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class _Cancel:
    request_id: int


@dataclass(frozen=True, slots=True)
class _Close:
    pass


_Command = _TellReady | _Submit | _Cancel | _Close


class _Loaded:
    """A loaded model and what follows from it; used by the engine's thread and by callers."""

    def __init__(self, config: EngineConfig) -> None:
        self.model = Model(config.model_path, gpu_layers=config.gpu_layers)
        ctx_train = self.model.ctx_train
        if config.ctx_size is not None and config.ctx_size > ctx_train:
            raise InvalidValueError(
                f"ctx_size is {config.ctx_size}, and the model was trained with {ctx_train}"
            )
        self.info = ModelInfo(
            name=Path(config.model_path).stem,
            description=self.model.description,
            ctx_size=config.ctx_size or min(ctx_train, DEFAULT_CTX_LIMIT),
            load_seconds=self.model.load_seconds,
            cpu_features=cpu_features(),
        )

    @cached_property
    def _template(self) -> "ChatTemplate":
        from llmstream_cli.prompts.template import ChatTemplate

        if self.model.chat_template is None:
            raise PromptError(f"{self.info.name} has no chat template: it does not chat")
        return ChatTemplate(self.model.chat_template)

    def encode(self, messages: tuple[Message, ...]) -> list[int]:
        """Return the prompt's token ids; raise `PromptError` if there can be none."""
        from llmstream_cli.prompts.encode import encode_chat

        # One position is left for the answer.
        return encode_chat(self.model, self._template, messages, ctx_size=self.info.ctx_size)


class InProcessEngine:
    """Generates with a model in this process; implements `core.api.Engine`.

    Args:
        config: the model and the sizes.

    Attributes:
        metrics: state and counters after the last step; replaced as a whole, so read from anywhere.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._inbox: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._request_ids = itertools.count()
        self._subscribers: dict[int, _Subscriber] = {}  # of the engine's thread alone
        self._loaded: _Loaded | None = None
        self._runner: Runner | None = None
        self._loading = True
        self.metrics = EngineMetrics(slots=config.max_seqs)
        self._end: LLMStreamError | None = None
        self._end_lock = threading.Lock()  # no command is posted after the inbox's last reading
        # A daemon: a load cannot be interrupted, and must not keep the process from leaving.
        self._thread = threading.Thread(target=self._main, name="llmstream-engine", daemon=True)

    @property
    def running(self) -> bool:
        """Whether the engine's thread is alive, possibly inside llama.cpp."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to load the model and return at once; what the caller imports now costs no time."""
        self._thread.start()

    async def ready(self) -> ModelInfo:
        """Wait until the model is loaded; see `Engine.ready`."""
        return (await self._wait_for_model()).info

    async def _wait_for_model(self) -> _Loaded:
        # Wanted in a moment by `encode`; to import it now, while the model loads, takes no time.
        import llmstream_cli.prompts.encode  # noqa: F401

        loaded = self._loaded
        if loaded is None or self._end is not None:
            subscriber = self._subscriber()
            self._post(_TellReady(subscriber))
            item = await subscriber.queue.get()
            if isinstance(item, LLMStreamError):
                raise item
            loaded = self._loaded
        if loaded is None:  # closed while the answer was on its way
            raise EngineClosedError(_CLOSED)
        return loaded

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        """Stream the answer; see `Engine.generate`."""
        import asyncio

        loaded = await self._wait_for_model()
        prompt = await asyncio.to_thread(loaded.encode, request.messages)
        request_id, subscriber = next(self._request_ids), self._subscriber()
        self._post(_Submit(subscriber, request_id, prompt, request.sampling))
        try:
            while True:
                item = await subscriber.queue.get()
                if isinstance(item, LLMStreamError):
                    raise item
                assert isinstance(item, Chunk)
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            # Synchronous, as clean-up in a generator has to be; void for one that has ended.
            with contextlib.suppress(LLMStreamError):
                self._post(_Cancel(request_id))

    async def aclose(self) -> None:
        """Stop the running step and the thread, and release the model.

        A model that is still loading cannot be stopped; it is left to its thread, see `running`.
        """
        import asyncio

        with contextlib.suppress(LLMStreamError):
            self._post(_Close())
        if self._runner is not None:
            self._runner.abort()
        if not self._loading:
            await asyncio.to_thread(self._thread.join)
            self._loaded = self._runner = None

    def _subscriber(self) -> _Subscriber:
        import asyncio

        return _Subscriber(asyncio.get_running_loop(), asyncio.Queue())

    def _post(self, command: _Command) -> None:
        with self._end_lock:
            if self._end is not None:
                raise _twin(self._end)
            self._inbox.put(command)

    # Everything below runs on the engine's thread.

    def _main(self) -> None:
        end: LLMStreamError = EngineClosedError(_CLOSED)
        try:
            core = self._load()
            self._loading = False
            self._serve(core)
        except DecodeAbortedError:  # by `aclose`
            pass
        except LLMStreamError as error:
            end = error
        except Exception as error:  # noqa: BLE001  (a bug; whoever waits must hear of it)
            end = EngineError(f"the engine failed: {error!r}")
        finally:
            self._loading = False
            self._refuse_all(end)
            if self._runner is not None:
                self._runner.close()

    def _load(self) -> EngineCore:
        config, loaded = self._config, _Loaded(self._config)
        # Room for every stream to decode and for prompts beside them.
        max_batch_tokens = max(config.max_batch_tokens, 2 * config.max_seqs)
        self._runner = Runner(
            loaded.model,
            max_seqs=config.max_seqs,
            max_batch_tokens=max_batch_tokens,
            ctx_size=loaded.info.ctx_size,
            threads=config.threads or default_threads(),
        )
        self._loaded = loaded
        cache = PrefixCache(
            config.max_seqs,
            # A copy moves the whole stream of a slot, used or not: the larger, the dearer.
            min_copy_tokens=max(16, loaded.info.ctx_size // 256),
            partial=loaded.model.forgets_partially,
        )
        scheduler = Scheduler(
            cache,
            max_batch_tokens=max_batch_tokens,
            ctx_size=loaded.info.ctx_size,
            max_queue=config.max_queue,
        )
        return EngineCore(self._runner, scheduler, loaded.model.piece)

    def _serve(self, core: EngineCore) -> None:
        """Obey and step in turn until told to close."""
        while True:
            try:
                command = self._inbox.get(block=not core.has_work)
            except queue.Empty:
                results = core.step()
                self.metrics = core.metrics()
                self._send(results)
                continue
            match command:
                case _Close():
                    return
                case _Cancel(request_id):
                    self._cancel(core, request_id)
                case _Submit():
                    self._submit(core, command)
                case _TellReady(subscriber):
                    assert self._loaded is not None
                    _deliver([(subscriber, self._loaded.info)])

    def _submit(self, core: EngineCore, command: _Submit) -> None:
        try:
            core.add(command.request_id, command.prompt, command.params)
        except EngineError as error:
            _deliver([(command.subscriber, error)])
        else:
            self._subscribers[command.request_id] = command.subscriber

    def _cancel(self, core: EngineCore, request_id: int) -> None:
        chunk = core.cancel(request_id)
        if chunk is not None:
            self.metrics = core.metrics()
            self._send([(request_id, chunk)])

    def _send(self, results: Sequence[tuple[int, Chunk | EngineError]]) -> None:
        """Hand over what a step produced; forget the requests that ended with it."""
        items: list[tuple[_Subscriber, _Item]] = []
        for request_id, result in results:
            goes_on = isinstance(result, Chunk) and result.finish_reason is None
            subscribers = self._subscribers
            subscriber = subscribers[request_id] if goes_on else subscribers.pop(request_id)
            items.append((subscriber, result if isinstance(result, Chunk) else _twin(result)))
        _deliver(items)

    def _refuse_all(self, end: LLMStreamError) -> None:
        """Tell every request, present and future, why the engine has ended."""
        with self._end_lock:
            self._end = end
        waiting = list(self._subscribers.values())
        with contextlib.suppress(queue.Empty):
            while True:
                command = self._inbox.get_nowait()
                if isinstance(command, _TellReady | _Submit):
                    waiting.append(command.subscriber)
        _deliver([(subscriber, _twin(end)) for subscriber in waiting])


def _twin(error: LLMStreamError) -> LLMStreamError:
    """Copy an error: an exception object belongs to one raise, which writes its traceback to it."""
    twin = type(error).__new__(type(error), *error.args)
    twin.__dict__.update(error.__dict__)
    return twin


def _deliver(items: list[tuple[_Subscriber, _Item]]) -> None:
    """Put items into their queues, with one message to each event loop (there is but one)."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Subscriber, _Item]]] = {}
    for subscriber, item in items:
        by_loop.setdefault(subscriber.loop, []).append((subscriber, item))
    for loop, batch in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_put, batch)


def _put(batch: list[tuple[_Subscriber, _Item]]) -> None:
    for subscriber, item in batch:
        subscriber.queue.put_nowait(item)
