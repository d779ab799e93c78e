"""Safe handles over llama-cpp-python's low-level API; the only module that imports `llama_cpp`.

llama.cpp answers some mistakes with an error code and others with SIGABRT, which no `except`
catches. The rules that keep the process alive:

- a handle owns its pointer and frees it once; whoever makes a `Context` closes it before its
  `Model`, which it keeps alive, is let go;
- constructors may return NULL: test the truth of a pointer, never `is None`;
- what llama.cpp asserts (batch size, sequence and token ids) is an assertion here first: these are
  this program's own mistakes, never a user's;
- a ctypes call releases the GIL, a callback takes it again: only the log has a Python callback.
"""

import ctypes
import importlib
import importlib.util
import os
import re
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from llmstream_cli.errors import EngineError, ModelError, StepRefusedError
from llmstream_cli.prompts.tokenizer import ControlToken

# A failed assertion in ggml otherwise starts a debugger to print its stack.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")


def _bindings() -> ModuleType:
    """Import `llama_cpp.llama_cpp` without running the package's own `__init__`.

    That one also loads numpy, jinja2 and the high-level class: 100 ms that a first token would
    wait for. The package is left unimported, so that `import llama_cpp` still means all of it.
    """
    if "llama_cpp" in sys.modules:
        return importlib.import_module("llama_cpp.llama_cpp")
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.submodule_search_locations is None:
        raise ModelError("llama-cpp-python is not installed")
    package = ModuleType("llama_cpp")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["llama_cpp"] = package
    try:
        return importlib.import_module("llama_cpp.llama_cpp")
    except (OSError, RuntimeError) as error:  # a library that does not load on this machine
        raise ModelError(f"llama-cpp-python cannot be loaded: {error}") from error
    finally:
        del sys.modules["llama_cpp"]


if TYPE_CHECKING:
    from llama_cpp import llama_cpp as C  # noqa: N812
else:
    C = _bindings()

_MARKER = re.compile(r"<\|.+\|>|<(start|end)_of_turn>|\[/?INST\]|</?s>")
_KV_ALIGNMENT = 256  # llama.cpp rounds the cells of a sequence up to this
_LOG_LEVEL_DEBUG, _LOG_LEVEL_ERROR, _LOG_LEVEL_CONTINUED = 1, 4, 5

_recent_errors: deque[str] = deque(maxlen=8)
_log_sink: Callable[[str], object] | None = None
_last_level = 0


def set_log_sink(sink: Callable[[str], object] | None) -> None:
    """Hand llama.cpp's log, debug messages left out, to `sink` piece by piece; None drops it."""
    global _log_sink  # noqa: PLW0603  (llama.cpp's log is global as well)
    _log_sink = sink


@C.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _user_data: object) -> None:
    global _last_level  # noqa: PLW0603
    if level == _LOG_LEVEL_CONTINUED:
        level = _last_level
    _last_level = level
    if level == _LOG_LEVEL_DEBUG:
        return
    if level == _LOG_LEVEL_ERROR:
        _recent_errors.append(text.decode("utf-8", "replace").strip())
    if _log_sink is not None:
        _log_sink(text.decode("utf-8", "replace"))


def _listen_to_log() -> None:
    """Take the log, which is global: another library in this process may have taken it since."""
    C.llama_log_set(_on_log, ctypes.c_void_p())


_listen_to_log()
C.llama_backend_init()


def cpu_features() -> dict[str, bool]:
    """Tell which vector extensions the kernels were compiled for.

    The original service printed these four; `llama_print_system_info` names only those in use.
    """
    compiled = C.llama_print_system_info().decode()
    return {
        name: f"{key} = 1" in compiled
        for name, key in (
            ("avx", "AVX"),
            ("neon", "NEON"),
            ("simd128", "WASM_SIMD"),
            ("f16c", "F16C"),
        )
    }


class Model:
    """The weights and vocabulary of one GGUF file, memory-mapped and read-only.

    Every method may be called from any thread.

    Attributes:
        ctx_train: tokens of context that the model was trained with.
        load_seconds: how long loading took.

    Raises:
        ModelError: llama.cpp refuses the file, or it holds no model that generates text.
    """

    def __init__(self, path: str, *, gpu_layers: int = 0) -> None:
        started = time.perf_counter()
        params = C.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.load_mode = C.LLAMA_LOAD_MODE_MMAP
        _listen_to_log()
        _recent_errors.clear()
        pointer = C.llama_model_load_from_file(os.fsencode(path), params)
        if not pointer:
            raise ModelError(f"cannot load {path}: {_load_failure()}")
        self.pointer = pointer
        self._free = weakref.finalize(self, C.llama_model_free, pointer)
        vocab = C.llama_model_get_vocab(pointer)
        if not vocab or C.llama_vocab_type(vocab) == C.LLAMA_VOCAB_TYPE_NONE:
            raise ModelError(f"cannot use {path}: it has no vocabulary")
        if C.llama_model_has_encoder(pointer) or not C.llama_model_has_decoder(pointer):
            raise ModelError(f"cannot use {path}: it is not a model that continues text")
        self._vocab = vocab
        self.vocab_size = C.llama_vocab_n_tokens(vocab)
        self.ctx_train = C.llama_model_n_ctx_train(pointer)
        self._pieces: dict[int, bytes] = {}
        self._control_tokens: tuple[ControlToken, ...] | None = None
        self.load_seconds = time.perf_counter() - started

    @property
    def description(self) -> str:
        """Architecture, parameters and quantization, such as `llama 134.52M Q4_1`."""
        buffer = ctypes.create_string_buffer(256)
        C.llama_model_desc(self.pointer, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the file's own chat template."""
        source = C.llama_model_chat_template(self.pointer, None)
        return source.decode("utf-8", "replace") if source else None

    @property
    def forgets_partially(self) -> bool:
        """Whether a sequence can go back to any earlier position.

        A recurrent state cannot be unwound, and a sliding window has dropped what it would need.
        """
        return not (
            C.llama_model_is_recurrent(self.pointer)
            or C.llama_model_is_hybrid(self.pointer)
            or C.llama_model_n_swa(self.pointer)
        )

    @property
    def bos_token(self) -> str:
        """Text of the token that begins a sequence; empty where there is none."""
        return self._text(C.llama_vocab_bos(self._vocab))

    @property
    def eos_token(self) -> str:
        """Text of the token that ends a sequence; empty where there is none."""
        return self._text(C.llama_vocab_eos(self._vocab))

    @property
    def leading_token(self) -> int | None:
        """The token that the model wants before every prompt, if it wants one."""
        return C.llama_vocab_bos(self._vocab) if C.llama_vocab_get_add_bos(self._vocab) else None

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Split text into tokens; nothing is added at either end.

        Args:
            text: any text. A lone surrogate becomes a question mark.
            special: read `<|im_end|>` and the like as the control tokens that they name.
        """
        data = text.encode("utf-8", "replace")
        capacity = len(data) + 8
        for _ in range(2):
            tokens = (C.llama_token * capacity)()
            count = C.llama_tokenize(self._vocab, data, len(data), tokens, capacity, False, special)
            if count >= 0:
                return tokens[:count]
            capacity = -count
        raise EngineError(f"llama.cpp cannot tokenize a text of {len(data)} bytes")

    def piece(self, token: int) -> bytes:
        """Return a token's bytes, often a part of a character; control tokens have none."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token)
        return piece

    def _read_piece(self, token: int) -> bytes:
        assert 0 <= token < self.vocab_size, token
        buffer = ctypes.create_string_buffer(64)
        size = C.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        if size < 0:  # some are longer than any buffer one would guess
            buffer = ctypes.create_string_buffer(-size)
            size = C.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        return buffer.raw[:size]

    def is_end_of_generation(self, token: int) -> bool:
        """Tell whether the model ends its turn with this token."""
        return bool(C.llama_vocab_is_eog(self._vocab, token))

    def is_control(self, token: int) -> bool:
        """Tell whether a token steers the model instead of standing for text.

        Some files type their turn markers as user-defined words, which llama.cpp reads in any text.
        """
        attributes = self._attributes(token)
        if attributes & C.LLAMA_TOKEN_ATTR_USER_DEFINED:
            return bool(_MARKER.fullmatch(self._text(token))) or self.is_end_of_generation(token)
        return bool(attributes & (C.LLAMA_TOKEN_ATTR_CONTROL | C.LLAMA_TOKEN_ATTR_UNKNOWN))

    def control_tokens(self) -> tuple[ControlToken, ...]:
        """All control tokens. The first call reads the whole vocabulary, some 10 to 70 ms."""
        if self._control_tokens is None:
            self._control_tokens = tuple(
                ControlToken(
                    token,
                    self._text(token),
                    strips_left=bool(self._attributes(token) & C.LLAMA_TOKEN_ATTR_LSTRIP),
                    strips_right=bool(self._attributes(token) & C.LLAMA_TOKEN_ATTR_RSTRIP),
                )
                for token in range(self.vocab_size)
                if self.is_control(token) and self._text(token)
            )
        return self._control_tokens

    def _attributes(self, token: int) -> int:
        return int(C.llama_vocab_get_attr(self._vocab, token))

    def _text(self, token: int) -> str:
        if token < 0:
            return ""
        text: bytes = C.llama_vocab_get_text(self._vocab, token)
        return text.decode("utf-8", "replace")


def _load_failure() -> str:
    """Return the most telling line of llama.cpp's log about the load that just failed."""
    if not _recent_errors:
        return "llama.cpp gave no reason"
    # `function: message` or `function: error loading model: message`; the first is the cause.
    reason = re.sub(r"^\w+: (error loading model: )?", "", _recent_errors[0])
    return f"{reason} (the file is damaged or incomplete)" if "failed to read" in reason else reason


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
        assert token >= 0 <= seq_id
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

    Raises:
        EngineError: there is not enough memory.
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
        pointer = C.llama_init_from_model(model.pointer, params)
        if not pointer:
            raise EngineError(f"not enough memory for a context of {params.n_ctx} tokens")
        self.pointer = pointer
        self._free = weakref.finalize(self, C.llama_free, pointer)
        self._memory = C.llama_get_memory(pointer)
        self.ctx_size: int = C.llama_n_ctx_seq(pointer)

    def close(self) -> None:
        """Release the memory; the context is of no use any more."""
        self._free()

    def grown(self, ctx_size: int) -> "Context":
        """Make a larger context that holds the same sequences; this one stays as it is."""
        larger = Context(self._model, ctx_size=ctx_size, max_seqs=self.max_seqs, **self._sizes)
        for seq_id in range(self.max_seqs):
            size = C.llama_state_seq_get_size(self.pointer, seq_id)
            state = (ctypes.c_uint8 * size)()
            C.llama_state_seq_get_data(self.pointer, state, size, seq_id)
            if not C.llama_state_seq_set_data(larger.pointer, state, size, seq_id):
                raise EngineError(f"cannot move a sequence to a context of {ctx_size} tokens")
        return larger

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


class SamplerChain:
    """llama.cpp's samplers in a row, each narrowing or reweighting what the one before left.

    The last one added must choose a token: `add_greedy` or `add_draw`.
    """

    def __init__(self, model: Model) -> None:
        self._vocab_size = model.vocab_size
        self._pointer = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        if not self._pointer:
            raise EngineError("llama.cpp cannot make a sampler")
        weakref.finalize(self, C.llama_sampler_free, self._pointer)

    def add_penalties(
        self, window: int, *, repeat: float, frequency: float, presence: float
    ) -> None:
        """Penalize the tokens among the last `window` accepted ones."""
        self._add(
            C.llama_sampler_init_penalties(self._vocab_size, window, repeat, frequency, presence)
        )

    def add_top_k(self, k: int) -> None:
        """Keep the `k` largest logits."""
        self._add(C.llama_sampler_init_top_k(k))

    def add_top_p(self, p: float) -> None:
        """Keep the likeliest tokens that together reach probability `p`; at least one."""
        self._add(C.llama_sampler_init_top_p(p, 1))

    def add_min_p(self, p: float) -> None:
        """Keep tokens at least `p` times as likely as the likeliest."""
        self._add(C.llama_sampler_init_min_p(p, 1))

    def add_temperature(self, temperature: float) -> None:
        """Divide the logits."""
        self._add(C.llama_sampler_init_temp(temperature))

    def add_draw(self, seed: int) -> None:
        """Draw by probability."""
        self._add(C.llama_sampler_init_dist(seed))

    def add_greedy(self) -> None:
        """Take the largest logit."""
        self._add(C.llama_sampler_init_greedy())

    def accept(self, token: int) -> None:
        """Count a token that was not sampled here."""
        C.llama_sampler_accept(self._pointer, token)

    def sample(self, context: Context, row: int) -> int:
        """Choose a token from an output row of the context's last batch, and accept it."""
        return int(C.llama_sampler_sample(self._pointer, context.pointer, row))

    def _add(self, sampler: Any) -> None:
        if not sampler:  # a NULL pointer is an object too, but a false one
            raise EngineError("llama.cpp cannot make a sampler")
        C.llama_sampler_chain_add(self._pointer, sampler)
