"""The words of the GGUF format: types of values, types of weights, and what a header holds.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
MAX_NAME_BYTES = 63  # of a tensor's name; ggml keeps 64 with the NUL


class ValueType(enum.IntEnum):
    """How a value of the metadata is written."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


# How `struct` reads those that have a fixed size.
SCALAR_FORMATS: Mapping[ValueType, str] = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}


class WeightType(NamedTuple):
    """How weights are written: in blocks, each along the inputs of a matrix.

    Attributes:
        name: as in a file's name, such as `Q4_K`.
        id: as in the file.
        block_size: weights of a block.
        block_bytes: bytes of a block.
    """

    name: str
    id: int
    block_size: int
    block_bytes: int


WEIGHT_TYPES: Mapping[int, WeightType] = {
    weight_type.id: weight_type
    for weight_type in (
        WeightType("F32", 0, 1, 4),
        WeightType("F16", 1, 1, 2),
        WeightType("Q4_0", 2, 32, 18),
        WeightType("Q4_1", 3, 32, 20),
        WeightType("Q5_0", 6, 32, 22),
        WeightType("Q5_1", 7, 32, 24),
        WeightType("Q8_0", 8, 32, 34),
        WeightType("Q8_1", 9, 32, 36),
        WeightType("Q2_K", 10, 256, 84),
        WeightType("Q3_K", 11, 256, 110),
        WeightType("Q4_K", 12, 256, 144),
        WeightType("Q5_K", 13, 256, 176),
        WeightType("Q6_K", 14, 256, 210),
        WeightType("Q8_K", 15, 256, 292),
        WeightType("IQ2_XXS", 16, 256, 66),
        WeightType("IQ2_XS", 17, 256, 74),
        WeightType("IQ3_XXS", 18, 256, 98),
        WeightType("IQ1_S", 19, 256, 50),
        WeightType("IQ4_NL", 20, 32, 18),
        WeightType("IQ3_S", 21, 256, 110),
        WeightType("IQ2_S", 22, 256, 82),
        WeightType("IQ4_XS", 23, 256, 136),
        WeightType("I8", 24, 1, 1),
        WeightType("I16", 25, 1, 2),
        WeightType("I32", 26, 1, 4),
        WeightType("I64", 27, 1, 8),
        WeightType("F64", 28, 1, 8),
        WeightType("IQ1_M", 29, 256, 56),
        WeightType("BF16", 30, 1, 2),
        WeightType("TQ1_0", 34, 256, 54),
        WeightType("TQ2_0", 35, 256, 66),
        WeightType("MXFP4", 39, 32, 17),
        WeightType("NVFP4", 40, 64, 36),
        WeightType("Q1_0", 41, 128, 18),
        WeightType("Q2_0", 42, 64, 18),
    )
}

Scalar: TypeAlias = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Array:
    """An array of the metadata.

    Attributes:
        type: of its elements.
        length: how many there are.
        values: the elements of a short array of numbers; None where they were skipped.
        strings: the elements of an array of strings that was asked for.
    """

    type: ValueType
    length: int
    values: Sequence[bool | int | float] | None = None
    strings: Sequence[bytes] | None = None


Value: TypeAlias = Scalar | Array


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor is, and what.

    Attributes:
        name: such as `blk.0.attn_norm.weight`.
        shape: how many weights in each dimension, the inputs of a matrix first.
        type: how the weights are written.
        offset: where it begins, in bytes from the beginning of the data.
        size: in bytes.
    """

    name: str
    shape: tuple[int, ...]
    type: WeightType
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """All that a GGUF file says before its weights.

    Attributes:
        version: of the format, 2 or 3.
        metadata: the values by their keys, in the order of the file.
        value_types: how each was written.
        tensors: the tensors by their names, in the order of the file.
        alignment: the offset of each tensor is a multiple of it.
        data_offset: where the weights begin, in bytes from the beginning of the file.
        file_size: of the whole file, in bytes.
    """

    version: int
    metadata: Mapping[str, Value]
    value_types: Mapping[str, ValueType]
    tensors: Mapping[str, Tensor]
    alignment: int
    data_offset: int
    file_size: int


def padded(size: int, alignment: int) -> int:
    """Round a size up to a multiple of the alignment."""
    return -(-size // alignment) * alignment
