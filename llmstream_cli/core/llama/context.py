"""The KV cache, and the steps that are computed with it."""

import ctypes
import sys
import threading
import weakref
from typing import Any

from llmstream_cli.core.llama.bindings import C, kv_buffers
from llmstream_cli.core.llama.model import Model, does_not_continue
from llmstream_cli.errors import EngineError, ModelError, StepRefusedError

_KV_ALIGNMENT = 256  # llama.cpp rounds the cells of a sequence up to this
_INITIALIZING = threading.Lock()  # one context at once, for `kv_buffers` belong to it


class DecodeAbortedError(EngineError):
    """`Context.abort` ended the step before it was complete."""


class Batch:
    """The input of one step: tokens with their positions, sequences, and wanted outputs."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.struct = C.llama_batch_init(capacity, 0, 1)
        weakref.finalize(self, C.llama_batch_free, self.struct)

    def clear(self) -> None:
        """Forget every token."""
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

    Attributes:
        ctx_size: positions that each sequence can hold, at least as many as were asked for.
        kv_bytes: size of the KV cache: not of recurrent states, which do not grow.

    Raises:
        EngineError: there is not enough memory.
        ModelError: the model has none to keep a sequence in, or makes one vector of a text.
    """

    def __init__(
        self, model: Model, *, ctx_size: int, max_seqs: int, max_batch_tokens: int, threads: int
    ) -> None:
        self._model = model
        self._sizes = {"max_batch_tokens": max_batch_tokens, "threads": threads}
        self.max_seqs = max_seqs
        params = C.llama_context_default_params()
        params.n_ctx = -(-ctx_size // _KV_ALIGNMENT) * _KV_ALIGNMENT * max_seqs
        params.n_batch = params.n_ubatch = max_batch_tokens
        params.n_seq_max = params.n_outputs_max = max_seqs  # one output row for each sequence
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = False
        params.no_perf = True
        self._abort_flag = ctypes.create_string_buffer(2)
        params.abort_callback = _ABORT_IF_SET
        params.abort_callback_data = ctypes.cast(self._abort_flag, ctypes.c_void_p)
        with _INITIALIZING:
            kv_buffers.clear()
            pointer = C.llama_init_from_model(model.pointer, params)
            self.kv_bytes = sum(kv_buffers)
        if not pointer:
            raise EngineError(f"not enough memory for a context of {params.n_ctx} tokens")
        self.pointer = pointer
        self._free = weakref.finalize(self, C.llama_free, pointer)
        self._memory = C.llama_get_memory(pointer)
        if not self._memory or C.llama_pooling_type(pointer) != C.LLAMA_POOLING_TYPE_NONE:
            raise ModelError(does_not_continue(model.path))
        self.ctx_size: int = C.llama_n_ctx_seq(pointer)

    def close(self) -> None:
        """Release the memory; the context is of no use any more."""
        self._free()

    def make_larger(self, ctx_size: int) -> "Context":
        """Make an empty context for as many sequences; from any thread."""
        return Context(self._model, ctx_size=ctx_size, max_seqs=self.max_seqs, **self._sizes)

    def move_to(self, larger: "Context") -> None:
        """Copy all sequences to a larger context, which is empty; this one stays as it is.

        Raises:
            EngineError: there is not enough memory.
        """
        try:
            state = (ctypes.c_uint8 * self.largest_state())()
        except MemoryError as error:
            raise EngineError("not enough memory to move a sequence") from error
        for seq_id in range(self.max_seqs):
            size = C.llama_state_seq_get_data(self.pointer, state, len(state), seq_id)
            if not size or not C.llama_state_seq_set_data(larger.pointer, state, size, seq_id):
                raise EngineError(f"cannot move a sequence to a context of {larger.ctx_size}")

    def largest_state(self) -> int:
        """Return the bytes of the sequence that has the most."""
        sizes = (C.llama_state_seq_get_size(self.pointer, i) for i in range(self.max_seqs))
        return int(max(sizes))

    def set_threads(self, threads: int) -> None:
        """Compute with so many threads from the next step on."""
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
        """Forget what a sequence has computed beyond its first `num_tokens` positions.

        Raises:
            EngineError: the model cannot forget a part; see `Model.forgets_partially`.
        """
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
        status = C.llama_decode(self.pointer, batch.struct)
        if status == 0:
            return
        if status == _DECODE_ABORTED:
            raise DecodeAbortedError("the step was aborted")
        if status in _DECODE_REFUSALS:
            raise StepRefusedError(f"llama.cpp refused a step: {_DECODE_REFUSALS[status]}")
        raise EngineError(f"llama.cpp failed to compute a step (code {status})")


# What llama_decode returns, but for 0 and the fatal errors below -1.
_DECODE_ABORTED = 2
_DECODE_REFUSALS = {1: "no free cell in the KV cache", -1: "an invalid batch"}


def _abort_callback() -> Any:
    """Return a C function that reads the abort flag without taking the GIL.

    ggml asks before every operation of the graph, thousands of times a second; a Python callback
    would wait for the GIL each time. `strlen` has just the meaning that is needed: the length of
    the string in a two-byte buffer is 0 (go on) or 1 (abort), and only the low byte is looked at.
    """
    libc = ctypes.CDLL("msvcrt" if sys.platform == "win32" else None)
    return ctypes.cast(libc.strlen, C.ggml_abort_callback)


_ABORT_IF_SET = _abort_callback()
