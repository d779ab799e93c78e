"""Candle's names for the tensors of Phi models, and llama.cpp's.

Candle quantized Phi models to GGUF before llama.cpp knew them: the same tensors in the same blocks
under other names, and no metadata. From the shapes follows all but the heads; see `_HEAD_SIZES`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from llmstream_cli.models.gguf_format import GGUFHeader, Tensor
from llmstream_cli.models.gguf_header import quoted

Writable: TypeAlias = bool | int | float | str | list[int] | list[str]

_EMBEDDINGS = ("layers.0.wte.weight", "transformer.embd.wte.weight")

# Phi-2 has heads of 80 numbers. All others that have been made, Phi-1.5 and what was trained from
# it, as Puffin and Hermes, have heads of 64.
_HEAD_SIZES = {2560: 80}
_HEAD_SIZE = 64
_ROTATED = 32  # numbers of a head, in all of them
_CONTEXT = 2048
_EPSILON = 1e-5

# What llama.cpp calls a file most of whose weights are of a type: `general.file_type`.
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9}
_FILE_TYPES |= {"Q2_K": 10, "Q3_K": 11, "Q4_K": 14, "Q5_K": 16, "Q6_K": 18}

_PARTS = {
    "ln": "attn_norm",
    "mixer.Wqkv": "attn_qkv",
    "mixer.out_proj": "attn_output",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}


class UnfitError(Exception):
    """The file has not the tensors of such a model; the message says which not."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What becomes of a file.

    Attributes:
        metadata: what llama.cpp reads of an architecture, the vocabulary left out.
        names: llama.cpp's name for each tensor that is kept, by candle's name.
        vocabulary_size: how many tokens are embedded.
    """

    metadata: Mapping[str, Writable]
    names: Mapping[str, str]
    vocabulary_size: int


def is_candle(header: GGUFHeader) -> bool:
    """Tell whether a file is a Phi model as candle quantized it."""
    has_embedding = any(name in header.tensors for name in _EMBEDDINGS)
    return has_embedding and "general.architecture" not in header.metadata


def find_layout(header: GGUFHeader) -> Layout:
    """Find out what the tensors of a file are.

    Raises:
        UnfitError: one is missing, has another shape than it should, or is unknown.
    """
    if not is_candle(header):
        raise UnfitError("it is no Phi model as candle quantized it")
    tensors = header.tensors
    layers = sum(name.endswith(".mixer.Wqkv.weight") for name in tensors)
    names = _numbered_names if _EMBEDDINGS[0] in tensors else _named_names
    if not layers:
        raise UnfitError("it has no layers")
    kept = dict(names(layers))
    _check_extras(tensors, kept)
    ours = {name: _get(tensors, candle) for candle, name in kept.items()}
    width, vocabulary_size = _matrix_shape(ours["token_embd.weight"])
    _, feed_forward = _matrix_shape(ours["blk.0.ffn_up.weight"])
    for name, shape in _shapes(width, feed_forward, vocabulary_size, layers):
        if ours[name].shape != shape:
            raise UnfitError(f"{ours[name].name} is {_by(ours[name].shape)} and not {_by(shape)}")
    metadata = _metadata(width, feed_forward, layers, _rotated(tensors))
    file_type = _FILE_TYPES.get(ours["blk.0.ffn_up.weight"].type.name)
    if file_type is not None:
        metadata["general.file_type"] = file_type
    return Layout(metadata, kept, vocabulary_size)


def _metadata(width: int, feed_forward: int, layers: int, rotated: int) -> dict[str, Writable]:
    head_size = _HEAD_SIZES.get(width, _HEAD_SIZE)
    if width % head_size or rotated > head_size:
        raise UnfitError(
            f"it is {width} wide and rotates {rotated}, which fits no heads of {head_size} numbers"
        )
    return {
        "phi2.context_length": _CONTEXT,
        "phi2.embedding_length": width,
        "phi2.block_count": layers,
        "phi2.feed_forward_length": feed_forward,
        "phi2.attention.head_count": width // head_size,
        "phi2.attention.head_count_kv": width // head_size,
        "phi2.attention.layer_norm_epsilon": _EPSILON,
        "phi2.rope.dimension_count": rotated,
    }


def _numbered_names(layers: int) -> Iterator[tuple[str, str]]:
    """Name tensors as Puffin and Hermes do: all modules are layers."""
    yield _EMBEDDINGS[0], "token_embd.weight"
    for layer in range(layers):
        yield from _block_names(f"layers.{layer + 1}", layer)
    yield from _both(f"layers.{layers + 1}.ln", "output_norm")
    yield from _both(f"layers.{layers + 1}.linear", "output")


def _named_names(layers: int) -> Iterator[tuple[str, str]]:
    """Name tensors as Phi-2 does."""
    yield _EMBEDDINGS[1], "token_embd.weight"
    for layer in range(layers):
        yield from _block_names(f"transformer.h.{layer}", layer)
    yield from _both("lm_head.ln", "output_norm")
    yield from _both("lm_head.linear", "output")


def _block_names(prefix: str, layer: int) -> Iterator[tuple[str, str]]:
    for theirs, ours in _PARTS.items():
        yield from _both(f"{prefix}.{theirs}", f"blk.{layer}.{ours}")


def _both(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    yield f"{theirs}.weight", f"{ours}.weight"
    yield f"{theirs}.bias", f"{ours}.bias"


def _shapes(
    width: int, feed_forward: int, vocabulary_size: int, layers: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Tell the shapes of all tensors, the inputs of a matrix first."""
    yield "token_embd.weight", (width, vocabulary_size)
    block = {
        "attn_qkv": (width, 3 * width),
        "attn_output": (width, width),
        "ffn_up": (width, feed_forward),
        "ffn_down": (feed_forward, width),
    }
    matrices = {"output": (width, vocabulary_size)}
    norms = ["output_norm"]
    for layer in range(layers):
        matrices |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
        norms.append(f"blk.{layer}.attn_norm")
    for name, shape in matrices.items():
        yield f"{name}.weight", shape
        yield f"{name}.bias", shape[1:]
    for name in norms:
        yield f"{name}.weight", (width,)
        yield f"{name}.bias", (width,)


def _rotated(tensors: Mapping[str, Tensor]) -> int:
    """Tell how many numbers of a head are rotated: two for each frequency, if they are told."""
    for name, tensor in tensors.items():
        if name.endswith(".inv_freq") and len(tensor.shape) == 1:
            return 2 * tensor.shape[0]
    return _ROTATED


def _check_extras(tensors: Mapping[str, Tensor], kept: Mapping[str, str]) -> None:
    """Refuse further weights: without them it would be another model. Buffers can be left out."""
    for name in tensors.keys() - kept.keys():
        if name.endswith((".weight", ".bias")):
            raise UnfitError(f"it has the unknown tensor {quoted(name)}")


def _get(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise UnfitError(f"it lacks the tensor {name}")
    return tensors[name]


def _matrix_shape(tensor: Tensor) -> tuple[int, int]:
    match tensor.shape:
        case (inputs, outputs):
            return inputs, outputs
    raise UnfitError(f"{tensor.name} is {_by(tensor.shape)} and no matrix")


def _by(shape: tuple[int, ...]) -> str:
    return " by ".join(map(str, shape)) or "a number"
