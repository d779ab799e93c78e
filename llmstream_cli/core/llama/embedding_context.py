"""A context that computes vectors of texts instead of logits."""

import ctypes
import weakref
from typing import TYPE_CHECKING

from llmstream_cli.core.llama.bindings import C
from llmstream_cli.core.llama.context import ABORT_IF_SET, INITIALIZING, Batch, check_status
from llmstream_cli.core.llama.model import Model, does_not_continue
from llmstream_cli.errors import ContextMemoryError, EngineError, ModelError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]

_POOLINGS = {
    "mean": C.LLAMA_POOLING_TYPE_MEAN,
    "cls": C.LLAMA_POOLING_TYPE_CLS,
    "last": C.LLAMA_POOLING_TYPE_LAST,
    "rank": C.LLAMA_POOLING_TYPE_RANK,
}


class EmbeddingContext:
    """Computes texts of together `ctx_size` tokens, `max_batch_tokens` of them at once.

    With a `pooling`, llama.cpp makes one vector of each text, which has to be computed at once.
    Without, there is one for each token, and a text may come in parts. Use it from one thread,
    `abort` excepted.

    Raises:
        ContextMemoryError: there is not enough memory.
    """

    def __init__(
        self,
        model: Model,
        *,
        pooling: str | None,
        ctx_size: int,
        max_batch_tokens: int,
        max_seqs: int,
        threads: int,
    ) -> None:
        self._model = model
        self.ctx_size, self.max_seqs = ctx_size, max_seqs
        params = C.llama_context_default_params()
        params.n_ctx = ctx_size
        # An encoder asserts that a batch is not computed in parts.
        params.n_batch = params.n_ubatch = max_batch_tokens
        params.n_seq_max = max_seqs
        params.n_threads = params.n_threads_batch = threads
        params.embeddings = True
        params.pooling_type = _POOLINGS[pooling] if pooling else C.LLAMA_POOLING_TYPE_NONE
        params.kv_unified = True  # else texts of different lengths are computed in parts
        params.no_perf = True
        self._abort_flag = ctypes.create_string_buffer(2)
        params.abort_callback = ABORT_IF_SET
        params.abort_callback_data = ctypes.cast(self._abort_flag, ctypes.c_void_p)
        with INITIALIZING:
            pointer = C.llama_init_from_model(model.pointer, params)
        if not pointer:
            raise ContextMemoryError(f"there is no memory to embed a text of {ctx_size} tokens")
        self._pointer = pointer
        self.close = weakref.finalize(self, C.llama_free, pointer)
        self._memory = C.llama_get_memory(pointer)  # NULL for an encoder
        self._is_rank = pooling == "rank"
        if not self._memory and pooling is None:
            raise ModelError(does_not_continue(model.name))

    def abort(self) -> None:
        """End the running step, and every later one; from any thread."""
        self._abort_flag[0] = b"\x01"

    def forget(self, seq_id: int) -> None:
        """Forget what a text has computed."""
        if self._memory:
            C.llama_memory_seq_rm(self._memory, seq_id, -1, -1)

    def compute(self, batch: Batch) -> None:
        """Compute a batch, of outputs only; raises what `Context.decode` does."""
        assert 0 < batch.struct.n_tokens <= batch.capacity
        compute = C.llama_decode if self._memory else C.llama_encode
        check_status(compute(self._pointer, batch.struct))

    def token_vectors(self, num_tokens: int) -> "Vectors":
        """Return a row for each token of the last batch; good until the next one."""
        return self._view(C.llama_get_embeddings(self._pointer), num_tokens, self._width)

    def pooled(self, seq_id: int) -> "Vectors":
        """Return the vector of a text of the last batch, or its score; good until the next one."""
        pointer = C.llama_get_embeddings_seq(self._pointer, seq_id)
        width = 1 if self._is_rank else self._width
        vector: Vectors = self._view(pointer, 1, width)[0]
        return vector

    @property
    def _width(self) -> int:
        return int(C.llama_model_n_embd_out(self._model.pointer))

    def _view(self, pointer: "ctypes._Pointer[ctypes.c_float]", rows: int, width: int) -> "Vectors":
        import numpy as np

        if not pointer:
            raise EngineError("llama.cpp computed no vectors")
        array = (ctypes.c_float * (rows * width)).from_address(ctypes.addressof(pointer.contents))
        return np.frombuffer(memoryview(array), dtype=np.float32).reshape(rows, width)
