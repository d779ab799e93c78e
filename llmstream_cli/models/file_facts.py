"""What a model's files say of it before it is loaded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmstream_cli.models.gguf import VOCABULARY, Array, GGUFHeader, Value, read_header
from llmstream_cli.models.presets import OVERHEAD_BYTES
from llmstream_cli.models.reference import part_names, quant_of

_KV_ELEMENT_BYTES = 2  # the KV cache holds half-precision numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What the files of a model say of themselves; None or 0 is unknown."""

    file_bytes: int  # of all files together
    architecture: str | None  # by llama.cpp's name for it
    full_name: str | None  # what its authors call it
    num_parameters: int
    weight_types: Mapping[str, int]  # bytes of weights by their type, the most first
    quantization: str | None  # as the file's name says, else the type of most weights
    ctx_size: int | None  # tokens of context that it was trained with
    vocab_size: int
    kv_bytes_per_token: int  # where some layers see a window only, the most that it can be
    chat_template: str | None  # Jinja source
    licence: str | None  # of the weights
    metadata: Mapping[str, str] = field(repr=False)  # single values, as llama.cpp writes them

    def memory_bytes(self, ctx_size: int, num_slots: int = 1) -> int:
        """Estimate the memory for so many conversations at once, of `ctx_size` tokens each."""
        return self.file_bytes + num_slots * ctx_size * self.kv_bytes_per_token + OVERHEAD_BYTES


def read_facts(path: Path) -> FileFacts:
    """Read the head of a model's file and, if it has several, of those that are there."""
    rest = filter(Path.is_file, map(path.with_name, part_names(path.name)[1:]))
    return _facts(path, [read_header(part) for part in (path, *rest)])


def _facts(path: Path, headers: Sequence[GGUFHeader]) -> FileFacts:
    """Take the values from the first part, and count the weights of all."""
    first = headers[0]
    tensors = [tensor for header in headers for tensor in header.tensors.values()]
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.type.name] = sizes.get(tensor.type.name, 0) + tensor.size
    weight_types = dict(sorted(sizes.items(), key=lambda item: -item[1]))
    tokens = first.metadata.get(VOCABULARY)
    architecture = _text(first, "general.architecture")
    return FileFacts(
        file_bytes=sum(header.file_size for header in headers),
        architecture=architecture,
        full_name=_text(first, "general.name"),
        num_parameters=sum(math.prod(tensor.shape) for tensor in tensors),
        weight_types=weight_types,
        quantization=quant_of(path.name) or next(iter(weight_types), None),
        ctx_size=first.integer(f"{architecture}.context_length"),
        vocab_size=tokens.length if isinstance(tokens, Array) else 0,
        kv_bytes_per_token=_kv_bytes_per_token(first, f"{architecture}."),
        chat_template=_text(first, "tokenizer.chat_template"),
        licence=_text(first, "general.license"),
        metadata={
            key: _as_text(value)
            for key, value in first.metadata.items()
            if not isinstance(value, Array)
        },
    )


def _kv_bytes_per_token(header: GGUFHeader, prefix: str) -> int:
    """Add up the heads of all layers; a recurrent layer has none."""
    num_heads = header.integer(f"{prefix}attention.head_count") or 0
    if not num_heads:
        return 0
    head_size = (header.integer(f"{prefix}embedding_length") or 0) // num_heads
    key_size = header.integer(f"{prefix}attention.key_length") or head_size
    value_size = header.integer(f"{prefix}attention.value_length") or head_size
    heads = header.metadata.get(f"{prefix}attention.head_count_kv", num_heads)
    if isinstance(heads, Array):
        num_kv_heads = sum(int(value) for value in heads.values or ())
    else:
        num_layers = header.integer(f"{prefix}block_count") or 0
        num_kv_heads = num_layers * (heads if isinstance(heads, int) else num_heads)
    return max(0, num_kv_heads * (key_size + value_size) * _KV_ELEMENT_BYTES)


def _text(header: GGUFHeader, key: str) -> str | None:
    value = header.metadata.get(key)
    return value if isinstance(value, str) and value else None


def _as_text(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:f}" if isinstance(value, float) else str(value)
