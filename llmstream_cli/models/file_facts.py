"""What a model's files say of it before it is loaded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmstream_cli.models.gguf_format import Array, GGUFHeader, Value
from llmstream_cli.models.gguf_header import read_header
from llmstream_cli.models.preset import KV_ELEMENT_BYTES, OVERHEAD_BYTES
from llmstream_cli.models.quants import part_names, quant_of


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What the files of a model say of themselves; None or 0 is unknown.

    Attributes:
        file_bytes: size of all files together.
        architecture: by llama.cpp's name for it.
        full_name: what its authors call it.
        num_parameters: weights.
        weight_types: bytes of weights by their type, the most first.
        quantization: as the file's name says, else the type of most weights.
        ctx_size: tokens of context that it was trained with.
        vocab_size: tokens in its vocabulary.
        kv_bytes_per_token: memory for the keys and values of a token; where some layers see a
            window only, the most that it can be.
        chat_template: Jinja source.
        licence: of the weights.
        metadata: single values by their keys, as text.
    """

    file_bytes: int
    architecture: str | None
    full_name: str | None
    num_parameters: int
    weight_types: Mapping[str, int]
    quantization: str | None
    ctx_size: int | None
    vocab_size: int
    kv_bytes_per_token: int
    chat_template: str | None
    licence: str | None
    metadata: Mapping[str, str] = field(repr=False)

    def memory_bytes(self, ctx_size: int, num_slots: int = 1) -> int:
        """Estimate the memory that the model takes: weights, KV cache, and the program.

        Args:
            ctx_size: tokens of a conversation.
            num_slots: conversations at once.
        """
        cache_bytes = num_slots * ctx_size * self.kv_bytes_per_token
        return self.file_bytes + cache_bytes + OVERHEAD_BYTES


def read_facts(path: Path) -> FileFacts:
    """Read the head of a model's file and, if it has several, of those that are there.

    Raises:
        ModelError: it is no GGUF file, or its header is damaged.
    """
    rest = part_names(path.name)[1:]
    paths = (path, *(part for part in map(path.with_name, rest) if part.is_file()))
    return _facts(path, [read_header(part) for part in paths])


def _facts(path: Path, headers: Sequence[GGUFHeader]) -> FileFacts:
    """Take the values from the first part, and count the weights of all."""
    metadata = headers[0].metadata
    architecture = _text(metadata, "general.architecture")
    sizes: dict[str, int] = {}
    for header in headers:
        for tensor in header.tensors.values():
            sizes[tensor.type.name] = sizes.get(tensor.type.name, 0) + tensor.size
    weight_types = dict(sorted(sizes.items(), key=lambda item: -item[1]))
    tokens = metadata.get("tokenizer.ggml.tokens")
    return FileFacts(
        file_bytes=sum(header.file_size for header in headers),
        architecture=architecture,
        full_name=_text(metadata, "general.name"),
        num_parameters=sum(
            math.prod(tensor.shape) for header in headers for tensor in header.tensors.values()
        ),
        weight_types=weight_types,
        quantization=quant_of(path.name) or next(iter(weight_types), None),
        ctx_size=_integer(metadata, f"{architecture}.context_length"),
        vocab_size=tokens.length if isinstance(tokens, Array) else 0,
        kv_bytes_per_token=_kv_bytes_per_token(metadata, f"{architecture}."),
        chat_template=_text(metadata, "tokenizer.chat_template"),
        licence=_text(metadata, "general.license"),
        metadata={
            key: _as_text(value) for key, value in metadata.items() if not isinstance(value, Array)
        },
    )


def _kv_bytes_per_token(metadata: Mapping[str, Value], prefix: str) -> int:
    """Add up the heads of all layers; a recurrent layer has none."""
    attention = f"{prefix}attention."
    num_layers = _integer(metadata, f"{prefix}block_count") or 0
    num_heads = _integer(metadata, f"{attention}head_count") or 0
    if not num_heads:
        return 0
    head_size = (_integer(metadata, f"{prefix}embedding_length") or 0) // num_heads
    key_size = _integer(metadata, f"{attention}key_length") or head_size
    value_size = _integer(metadata, f"{attention}value_length") or head_size
    heads = metadata.get(f"{attention}head_count_kv", num_heads)
    if isinstance(heads, Array):
        num_kv_heads = sum(int(value) for value in heads.values or ())
    else:
        num_kv_heads = num_layers * (heads if isinstance(heads, int) else num_heads)
    return max(0, num_kv_heads * (key_size + value_size) * KV_ELEMENT_BYTES)


def _integer(metadata: Mapping[str, Value], key: str) -> int | None:
    value = metadata.get(key)
    return value if isinstance(value, int) else None


def _text(metadata: Mapping[str, Value], key: str) -> str | None:
    value = metadata.get(key)
    return value if isinstance(value, str) and value else None


def _as_text(value: Value) -> str:
    """Write a value as llama.cpp does."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:f}" if isinstance(value, float) else str(value)
