"""A GGUF file's weights and vocabulary."""

import ctypes
import os
import re
import time
import weakref
from functools import cached_property
from pathlib import Path

from llmstream_cli.core.llama.bindings import C, listen_to_log, recent_errors
from llmstream_cli.errors import EngineError, ModelError
from llmstream_cli.prompts.texts import is_encoder, pooling_of
from llmstream_cli.prompts.tokenizer import ControlToken

_MAX_METADATA = 1024  # keys, and bytes of a key or a value; a file may hold any number
_MARKER = re.compile(r"<\|.+\|>|<(start|end)_of_turn>|\[/?INST\]|</?s>")


class Model:
    """The weights and vocabulary of one GGUF file, memory-mapped and read-only.

    Every method may be called from any thread.
    """

    def __init__(self, path: str, *, gpu_layers: int = 0, vocab_only: bool = False) -> None:
        started = time.perf_counter()
        name = Path(path).name
        params = C.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.vocab_only = vocab_only
        params.load_mode = C.LLAMA_LOAD_MODE_MMAP
        listen_to_log()
        recent_errors.clear()
        pointer = C.llama_model_load_from_file(os.fsencode(path), params)
        if not pointer:
            raise ModelError(f"cannot load {name}: {_load_failure().replace(path, name)}")
        self.pointer = pointer
        self._free = weakref.finalize(self, C.llama_model_free, pointer)
        vocab = C.llama_model_get_vocab(pointer)
        if not vocab or C.llama_vocab_type(vocab) == C.LLAMA_VOCAB_TYPE_NONE:
            raise ModelError(f"cannot use {name}: it has no vocabulary")
        if C.llama_model_has_encoder(pointer) or not C.llama_model_has_decoder(pointer):
            raise ModelError(does_not_continue(name))
        self.name = name
        self._vocab = vocab
        self.vocab_size = C.llama_vocab_n_tokens(vocab)
        self.ctx_train = C.llama_model_n_ctx_train(pointer)  # 0 without its weights
        self._pieces: dict[int, bytes] = {}
        self.load_seconds = time.perf_counter() - started

    @property
    def description(self) -> str:
        """Architecture, parameters and quantization, such as `llama 134.52M Q4_1`."""
        buffer = ctypes.create_string_buffer(256)
        C.llama_model_desc(self.pointer, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @property
    def num_parameters(self) -> int:
        return int(C.llama_model_n_params(self.pointer))

    @property
    def size_bytes(self) -> int:
        return int(C.llama_model_size(self.pointer))

    def metadata(self) -> dict[str, str]:
        """Return at most 1,024 keys and values of the file as text, each cut at so many bytes."""
        count = min(C.llama_model_meta_count(self.pointer), _MAX_METADATA)
        buffer = ctypes.create_string_buffer(_MAX_METADATA)
        read = (C.llama_model_meta_key_by_index, C.llama_model_meta_val_str_by_index)
        metadata = {}
        for index in range(count):
            texts = []
            for function in read:
                function(self.pointer, index, buffer, len(buffer))
                # A character that the end of the buffer has cut is left out.
                texts.append(buffer.value.decode("utf-8", "ignore"))
            metadata[texts[0]] = texts[1]
        return metadata

    @property
    def chat_template(self) -> str | None:
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

    # Texts of the tokens that begin and end a sequence; empty where there is none.
    @property
    def bos_token(self) -> str:
        return self._text(C.llama_vocab_bos(self._vocab))

    @property
    def eos_token(self) -> str:
        return self._text(C.llama_vocab_eos(self._vocab))

    @property
    def separators(self) -> tuple[list[int], list[int]]:
        """What a reranker wants between a query and a text, and behind the text."""
        end, sep = C.llama_vocab_eos(self._vocab), C.llama_vocab_sep(self._vocab)
        wants_sep = C.llama_vocab_get_add_sep(self._vocab) and sep >= 0
        if C.llama_vocab_get_add_eos(self._vocab) and max(end, sep) >= 0:
            last = [end if end >= 0 else sep]
            return last + [sep] * wants_sep, last
        return [sep] * wants_sep, [sep] * wants_sep

    @cached_property
    def pooling(self) -> str | None:
        """See `ModelInfo.pooling`."""
        return pooling_of(self.metadata())

    @cached_property
    def is_causal(self) -> bool:
        """Whether no token's vector depends on the tokens behind it."""
        metadata = self.metadata()
        architecture = metadata.get("general.architecture", "")
        causal = metadata.get(f"{architecture}.attention.causal") != "false"
        return causal and not is_encoder(architecture)

    @property
    def leading_token(self) -> int | None:
        """The token that the model wants before every prompt, if it wants one."""
        token: int = C.llama_vocab_bos(self._vocab)
        # A file can want a token that its vocabulary lacks.
        return token if token >= 0 and C.llama_vocab_get_add_bos(self._vocab) else None

    def tokenize(self, text: str, *, special: bool, ends: bool = False) -> list[int]:
        """Split text into tokens; nothing is added at either end, but with `ends`.

        `ends` adds what the model wants there, such as `[CLS]` and `[SEP]`.
        `special` reads `<|im_end|>` and the like as the control tokens that they name. A lone
        surrogate becomes a question mark.
        """
        data = text.encode("utf-8", "replace")
        capacity = len(data) + 8
        for _ in range(2):
            tokens = (C.llama_token * capacity)()
            count = C.llama_tokenize(self._vocab, data, len(data), tokens, capacity, ends, special)
            if count >= 0:
                found: list[int] = tokens[:count]
                if min(found, default=0) < 0:  # how llama.cpp says that it knows of none
                    raise ModelError("the model's vocabulary has no token for a part of the text")
                return found
            capacity = -count
        raise EngineError(f"llama.cpp cannot tokenize a text of {len(data)} bytes")

    def piece(self, token: int) -> bytes:
        """Return a token's bytes, often a part of a character; control tokens have none."""
        if (known := self._pieces.get(token)) is not None:
            return known
        assert 0 <= token < self.vocab_size, token
        buffer = ctypes.create_string_buffer(64)
        size = C.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        if size < 0:  # some are longer than any buffer one would guess
            buffer = ctypes.create_string_buffer(-size)
            size = C.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        piece = self._pieces[token] = buffer.raw[:size]
        return piece

    def written(self, token: int) -> bytes:
        """Return a token's bytes; of a control token, its name."""
        return self.piece(token) or self._text(token).encode()

    def is_end_of_generation(self, token: int) -> bool:
        return bool(C.llama_vocab_is_eog(self._vocab, token))

    @cached_property
    def end_tokens(self) -> tuple[int, ...]:
        """All tokens that end a turn. The first call reads the whole vocabulary, some 10 ms."""
        return tuple(filter(self.is_end_of_generation, range(self.vocab_size)))

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
        return self._control_tokens

    @cached_property
    def _control_tokens(self) -> tuple[ControlToken, ...]:
        return tuple(
            ControlToken(
                token,
                self._text(token),
                strips_left=bool(self._attributes(token) & C.LLAMA_TOKEN_ATTR_LSTRIP),
                strips_right=bool(self._attributes(token) & C.LLAMA_TOKEN_ATTR_RSTRIP),
            )
            for token in range(self.vocab_size)
            if self.is_control(token) and self._text(token)
        )

    def _attributes(self, token: int) -> int:
        return int(C.llama_vocab_get_attr(self._vocab, token))

    def _text(self, token: int) -> str:
        if token < 0:
            return ""
        text: bytes = C.llama_vocab_get_text(self._vocab, token)
        return text.decode("utf-8", "replace")


def does_not_continue(name: str) -> str:
    """Say why a model cannot be used that computes no next token."""
    return (
        f"cannot use {name}: it does not continue text, as encoders, embedding models, rerankers "
        "and diffusion models do not; choose a model for chat"
    )


def _load_failure() -> str:
    """Return the most telling line of llama.cpp's log about the load that just failed."""
    if not recent_errors:
        return "llama.cpp gave no reason"
    # `function: message` or `function: error loading model: message`; the first is the cause.
    reason = re.sub(r"^\w+: (error loading model: )?", "", recent_errors[0])
    return f"{reason} (the file is damaged or incomplete)" if "failed to read" in reason else reason
