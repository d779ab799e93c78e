"""The KV cache, how it grows, and the steps that are computed with it."""

import ctypes
import math
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from llmstream_cli.api import FIRST_CTX_SIZE
from llmstream_cli.core.llama.bindings import C, kv_buffers
from llmstream_cli.core.llama.model import Model, does_not_continue
from llmstream_cli.errors import ContextMemoryError, EngineError, ModelError, StepRefusedError
from llmstream_cli.machine import memory

_KV_ALIGNMENT = 256  # llama.cpp rounds the cells of a sequence up to this
INITIALIZING = threading.Lock()  # one context at once, for `kv_buffers` belong to it
_RESERVE = 10  # one part in so many of the machine's memory is left to others
_OVERHEAD_BYTES = 200_000_000  # of the process, beside weights and KV cache

# What llama_decode returns, but for 0 and the fatal errors below -1.
_DECODE_ABORTED = 2
_DECODE_REFUSALS = {1: "no free cell in the KV cache", -1: "an invalid batch"}

# ggml asks before every operation of the graph whether to abort. A Python callback would wait for
# the GIL each time. C's `strlen` of a two-byte buffer is 0 (go on) or 1 (abort).
_STRLEN = ctypes.CDLL("msvcrt" if sys.platform == "win32" else None).strlen
ABORT_IF_SET: Any = ctypes.cast(_STRLEN, C.ggml_abort_callback)


class DecodeAbortedError(EngineError):
    """`Context.abort` ended the step before it was complete."""


class Batch:
    """The input of one step: tokens with their positions, sequences, and wanted outputs."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.struct = C.llama_batch_init(capacity, 0, 1)
        weakref.finalize(self, C.llama_batch_free, self.struct)

    def clear(self) -> None:
        self.struct.n_tokens = 0

    def add(self, token: int, position: int, seq_id: int, *, output: bool) -> int:
        """Append a token; return its row, with which its logits are sampled if `output`."""
        batch = self.struct
        row: int = batch.n_tokens
        assert row < self.capacity
        assert token >= 0
        assert seq_id >= 0
        batch.token[row] = token
        batch.pos[row] = position
        batch.n_seq_id[row] = 1
        batch.seq_id[row][0] = seq_id
        batch.logits[row] = output
        batch.n_tokens = row + 1
        return row


class Context:
    """The KV cache and the compute buffers for `max_seqs` sequences over one model.

    Each sequence has a KV stream of its own. Use it from one thread, `abort` excepted.

    Raises:
        EngineError: there is not enough memory.
        ModelError: the model has none to keep a sequence in, or makes one vector of a text.
    """

    def __init__(
        self, model: Model, *, ctx_size: int, max_seqs: int, max_batch_tokens: int, threads: int
    ) -> None:
        self._model = model
        self.max_seqs = max_seqs
        params = C.llama_context_default_params()
        params.n_ctx = -(-ctx_size // _KV_ALIGNMENT) * _KV_ALIGNMENT * max_seqs
        params.n_batch = params.n_ubatch = max_batch_tokens
        params.n_seq_max = params.n_outputs_max = max_seqs  # one output row for each sequence
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = False
        params.no_perf = True
        self._abort_flag = ctypes.create_string_buffer(2)
        params.abort_callback = ABORT_IF_SET
        params.abort_callback_data = ctypes.cast(self._abort_flag, ctypes.c_void_p)
        with INITIALIZING:
            kv_buffers.clear()
            pointer = C.llama_init_from_model(model.pointer, params)
            self.kv_bytes = sum(kv_buffers)  # not of recurrent states, which do not grow
        if not pointer:
            raise EngineError(f"not enough memory for a context of {params.n_ctx} tokens")
        self.pointer = pointer
        self.close = weakref.finalize(self, C.llama_free, pointer)
        self._memory = C.llama_get_memory(pointer)
        if not self._memory or C.llama_pooling_type(pointer) != C.LLAMA_POOLING_TYPE_NONE:
            raise ModelError(does_not_continue(model.name))
        self.ctx_size: int = C.llama_n_ctx_seq(pointer)  # of each sequence

    def move_to(self, larger: "Context") -> None:
        """Copy all sequences to a larger context, which is empty; this one stays as it is."""
        try:
            state = (ctypes.c_uint8 * self.largest_state())()
        except MemoryError as error:
            raise EngineError("not enough memory to move a sequence") from error
        for seq_id in range(self.max_seqs):
            size = C.llama_state_seq_get_data(self.pointer, state, len(state), seq_id)
            if not size or not C.llama_state_seq_set_data(larger.pointer, state, size, seq_id):
                raise EngineError(f"cannot move a sequence to a context of {larger.ctx_size}")

    def largest_state(self) -> int:
        sizes = (C.llama_state_seq_get_size(self.pointer, i) for i in range(self.max_seqs))
        return int(max(sizes))

    def set_threads(self, threads: int) -> None:
        C.llama_set_n_threads(self.pointer, threads, threads)

    def abort(self) -> None:
        """End the running step, and every later one, at its next operation; from any thread."""
        self._abort_flag[0] = b"\x01"

    def copy_sequence(self, source: int, target: int) -> None:
        """Replace all that a sequence has computed by a copy of another's, when next decoding."""
        assert 0 <= source < self.max_seqs, source
        assert 0 <= target < self.max_seqs, target
        assert source != target
        # Across streams llama.cpp copies whole sequences only, and aborts on anything else.
        C.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def truncate_sequence(self, seq_id: int, num_tokens: int) -> None:
        """Forget what a sequence has computed beyond its first `num_tokens` positions."""
        assert 0 <= seq_id < self.max_seqs, seq_id
        if not C.llama_memory_seq_rm(self._memory, seq_id, num_tokens, -1):
            raise EngineError(f"llama.cpp cannot go back to the first {num_tokens} tokens")

    def logits(self, row: int) -> memoryview:
        """Return an output row of the last batch, a float32 a token; good until the next step."""
        logits = C.llama_get_logits_ith(self.pointer, row)
        assert logits, row
        array = ctypes.c_float * self._model.vocab_size
        return memoryview(array.from_address(ctypes.addressof(logits.contents)))

    def decode(self, batch: Batch) -> None:
        """Compute a batch and the logits of its output rows.

        Raises:
            StepRefusedError: llama.cpp refused the batch; all sequences are as before.
            DecodeAbortedError: `abort` was called; the sequences in the batch are lost.
            EngineError: llama.cpp failed; all sequences are lost.
        """
        assert 0 < batch.struct.n_tokens <= batch.capacity
        check_status(C.llama_decode(self.pointer, batch.struct))


def check_status(status: int) -> None:
    """Raise what `Context.decode` does, for what llama_decode or llama_encode returned."""
    if status == 0:
        return
    if status == _DECODE_ABORTED:
        raise DecodeAbortedError("the step was aborted")
    if status in _DECODE_REFUSALS:
        raise StepRefusedError(f"llama.cpp refused a step: {_DECODE_REFUSALS[status]}")
    raise EngineError(f"llama.cpp failed to compute a step (code {status})")


class _Growth(NamedTuple):
    num_tokens: int  # the need for which it was begun
    context: Future[Context]


class GrowingContext:
    """A context that starts small and doubles when a sequence outgrows it, as memory allows.

    A cache for thousands of tokens takes a tenth of a second and more to clear, and memory that a
    short answer never uses. While the larger context is made on a thread of its own the sequences
    go on in the old one; then all move, some milliseconds for a thousand tokens. Until they have,
    both take memory. Weights, context and program together take at most `max_bytes`.
    """

    def __init__(
        self,
        make: Callable[[int], Context],
        *,
        ctx_size: int,
        model_bytes: int,
        max_bytes: float = math.inf,
    ) -> None:
        self._make = make
        self.max_ctx_size = ctx_size
        self.current = make(min(ctx_size, FIRST_CTX_SIZE))  # another one after `make_room`
        self._model_bytes = model_bytes
        self._max_bytes = max_bytes
        # Bytes for a token of context, which all sequences have.
        self._token_bytes = self.current.kv_bytes / self.current.ctx_size
        self._executor = ThreadPoolExecutor(1, "growth")
        self._growth: _Growth | None = None
        self._aborted = False

    def limit_to_memory(self) -> int:
        """Lower `max_ctx_size` to what there is memory for now; return it.

        At the last growth the old context, at most half as large, is still there, and a copy of
        one of its sequences.
        """
        peak_bytes = self._token_bytes * (1.5 + 0.5 / self.current.max_seqs)
        if peak_bytes:
            most = int(max(0.0, self._free_bytes()) / peak_bytes) // _KV_ALIGNMENT * _KV_ALIGNMENT
            self.max_ctx_size = min(self.max_ctx_size, max(most, self.current.ctx_size))
        return self.max_ctx_size

    def make_room(self, num_tokens: int, *, wait: bool) -> bool:
        """Return whether a sequence can have so many tokens; if not yet, it grows to that.

        Raises:
            ContextMemoryError: there is not enough memory; all sequences are as before.
        """
        while True:
            growth = self._growth
            if growth is not None and (wait or growth.context.done()):
                self._growth = None
                self._take(growth, num_tokens)
            if num_tokens <= self.current.ctx_size:
                return True
            if self._growth is None:
                size = self._next_size(num_tokens)
                self._growth = _Growth(num_tokens, self._executor.submit(self._make, size))
            if not wait:
                return False

    def abort(self) -> None:
        self._aborted = True
        self.current.abort()

    def close(self) -> None:
        self._executor.shutdown()
        if self._growth is not None and self._growth.context.exception() is None:
            self._growth.context.result().close()
        self.current.close()

    def _next_size(self, num_tokens: int) -> int:
        size = self.current.ctx_size
        while size < num_tokens:
            size *= 2
        if size > self.max_ctx_size / 2:  # else the last growth would have two large contexts
            size = self.max_ctx_size
        if self._missing_bytes(size) > 0:
            size = min(num_tokens + _KV_ALIGNMENT, size)
        missing = self._missing_bytes(size)
        if missing > 0:
            raise ContextMemoryError(
                f"there is no memory for a context of {num_tokens} tokens: {missing / 1e9:.2f} GB "
                "are missing; send less text, or free memory, or start with a smaller --parallel"
            )
        return size

    def _take(self, growth: _Growth, num_tokens: int) -> None:
        """Move all sequences to a larger context; one that failed counts for its own need alone."""
        larger = None
        try:
            larger = growth.context.result()
            self.current.move_to(larger)
        except EngineError as error:
            if larger is not None:
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
