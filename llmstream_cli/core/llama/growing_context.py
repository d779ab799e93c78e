"""A context that grows with its sequences, as far as memory allows."""

import math
import threading
from collections.abc import Callable

from llmstream_cli.api import FIRST_CTX_SIZE
from llmstream_cli.core.llama import Context, Model
from llmstream_cli.errors import ContextMemoryError, EngineError
from llmstream_cli.machine import memory

_ALIGNMENT = 256
_RESERVE = 10  # one part in so many of the machine's memory is left to others
_OVERHEAD_BYTES = 200_000_000  # of the process, beside weights and KV cache


class _Growth(threading.Thread):
    """Makes a larger context, most of whose time goes into clearing its memory.

    Attributes:
        num_tokens: the need for which it was begun.
        outcome: the context, or why there is none.
    """

    def __init__(self, num_tokens: int, make: Callable[[], Context]) -> None:
        super().__init__(name="growth", daemon=True)
        self.num_tokens = num_tokens
        self.outcome: Context | Exception = EngineError("the context is being made")
        self._make = make
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self._make()
        except Exception as error:  # noqa: BLE001  (whoever wants the context raises it)
            self.outcome = error


class GrowingContext:
    """Starts small and doubles when a sequence outgrows it, for all sequences at once.

    A cache for thousands of tokens takes a tenth of a second and more to clear, and memory that a
    short answer never uses. While it is made on a thread of its own the other sequences go on in
    the old one; then all move, which takes some milliseconds for a thousand tokens. Until they
    have, both take memory.

    Args:
        model: what to run.
        ctx_size: the most tokens of one sequence.
        max_seqs: how many sequences there are.
        max_batch_tokens: the most tokens of one step.
        threads: CPU threads.
        max_bytes: what weights, context and program may take together.

    Attributes:
        current: where the sequences are now; another one after `make_room`.
        max_ctx_size: how far it grows.
    """

    def __init__(
        self,
        model: Model,
        *,
        ctx_size: int,
        max_seqs: int,
        max_batch_tokens: int,
        threads: int,
        max_bytes: float = math.inf,
    ) -> None:
        self.max_ctx_size = ctx_size
        self.current = Context(
            model,
            ctx_size=min(ctx_size, FIRST_CTX_SIZE),
            max_seqs=max_seqs,
            max_batch_tokens=max_batch_tokens,
            threads=threads,
        )
        self._model_bytes = model.size_bytes
        self._max_bytes = max_bytes
        # Bytes for a token of context, which all sequences have.
        self._token_bytes = self.current.kv_bytes / self.current.ctx_size
        self._growth: _Growth | None = None
        self._aborted = False

    def limit_to_memory(self) -> None:
        """Lower `max_ctx_size` to what there is memory for now.

        At the last growth the old context, at most half as large, is still there, and a copy of
        one of its sequences.
        """
        slots = self.current.max_seqs
        peak_bytes = self._token_bytes * (1.5 + 0.5 / slots)
        if peak_bytes:
            most = int(max(0.0, self._free_bytes()) / peak_bytes) // _ALIGNMENT * _ALIGNMENT
            self.max_ctx_size = min(self.max_ctx_size, max(most, self.current.ctx_size))

    def make_room(self, num_tokens: int, *, wait: bool) -> bool:
        """Return whether a sequence can have so many tokens; if not yet, it grows to that.

        Args:
            num_tokens: at most `max_ctx_size`.
            wait: until it has grown.

        Raises:
            ContextMemoryError: there is not enough memory; all sequences are as before.
        """
        while True:
            growth = self._growth
            if growth is not None and (wait or not growth.is_alive()):
                growth.join()
                self._growth = None
                self._take(growth, num_tokens)
            if num_tokens <= self.current.ctx_size:
                return True
            if self._growth is None:
                self._growth = self._begin(num_tokens)
            if not wait:
                return False

    def abort(self) -> None:
        """End the running step and every later one; from any thread."""
        self._aborted = True
        self.current.abort()

    def close(self) -> None:
        """Release the memory."""
        if self._growth is not None:
            self._growth.join()
            if isinstance(self._growth.outcome, Context):
                self._growth.outcome.close()
        self.current.close()

    def _begin(self, num_tokens: int) -> _Growth:
        size = self.current.ctx_size
        while size < num_tokens:
            size *= 2
        if size > self.max_ctx_size / 2:  # else the last growth would have two large contexts
            size = self.max_ctx_size
        if self._missing_bytes(size) > 0:
            size = min(num_tokens + _ALIGNMENT, size)
        missing = self._missing_bytes(size)
        if missing > 0:
            raise ContextMemoryError(
                f"there is no memory for a context of {num_tokens} tokens: {missing / 1e9:.2f} GB "
                "are missing; send less text, or free memory, or start with a smaller --parallel"
            )
        current = self.current
        return _Growth(num_tokens, lambda: current.make_larger(size))

    def _take(self, growth: _Growth, num_tokens: int) -> None:
        """Move all sequences to a larger context; one that failed counts for its own need alone."""
        larger = growth.outcome
        try:
            if not isinstance(larger, Context):
                raise larger
            self.current.move_to(larger)
        except EngineError as error:
            if isinstance(larger, Context):
                larger.close()
            if growth.num_tokens == num_tokens:
                raise ContextMemoryError(str(error)) from error
            return
        self.current.close()
        self.current = larger
        if self._aborted:
            larger.abort()

    def _missing_bytes(self, size: int) -> float:
        """Return what a growth lacks: the context, and a copy of a sequence on its way there."""
        return self._token_bytes * size + self.current.largest_state() - self._free_bytes()

    def _free_bytes(self) -> float:
        machine = memory()
        allowed = self._max_bytes - _OVERHEAD_BYTES - self.current.kv_bytes
        # Weights in memory count as available: they are read from their file again.
        return min(machine.available - machine.total // _RESERVE, allowed) - self._model_bytes
