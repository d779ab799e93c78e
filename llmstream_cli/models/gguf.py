"""The GGUF format, and a reader of the headers of such files, which anyone may have written.

Whatever the bytes are, `read_header` returns a header or raises `ModelError`: counts and lengths
are held against what the file can have and against bounds far above any model's. Long arrays are
skipped over: a vocabulary is walked through, not kept. So time and memory are bounded too.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import io
import math
import mmap
import stat
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from llmstream_cli.errors import ModelError, ModelNotFoundError
from llmstream_cli.models.file_kinds import HEAD_BYTES, kind_of_file, kind_of_folder

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
VOCABULARY = "tokenizer.ggml.tokens"
MAX_DIMENSIONS = 4
MAX_NAME_BYTES = 63  # of a tensor's name; ggml keeps 64 with the NUL

_VERSIONS = (2, 3)  # they differ in nothing that is read here
_MAX_KEYS = 1 << 16
_MAX_TENSORS = 1 << 16
_MAX_STRINGS = 1 << 22  # in all arrays together; the largest vocabularies have half a million
_MAX_TOKEN_BYTES = 1 << 16
_MAX_KEPT_BYTES = 64 << 20  # of keys and values together; those of a model have up to 10 MB
_MAX_KEPT_ELEMENTS = 1024  # of an array; one value a layer is kept, one a token is not
_MAX_ELEMENTS = (1 << 63) - 1  # of a tensor; ggml counts in signed 64 bits

# Types of values: how `struct` reads each of those that have a fixed size.
_SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
UINT16, UINT32, STRING, ARRAY = 2, 4, 8, 9

_COUNT = struct.Struct("<Q")


class WeightType(NamedTuple):
    """How weights are written: in blocks, each along the inputs of a matrix."""

    name: str  # as in a file's name, such as `Q4_K`
    id: int
    block_size: int  # weights
    block_bytes: int


# fmt: off
WEIGHT_TYPES = {row[1]: WeightType(*row) for row in (
    ("F32", 0, 1, 4), ("F16", 1, 1, 2), ("BF16", 30, 1, 2), ("F64", 28, 1, 8),
    ("I8", 24, 1, 1), ("I16", 25, 1, 2), ("I32", 26, 1, 4), ("I64", 27, 1, 8),
    ("Q4_0", 2, 32, 18), ("Q4_1", 3, 32, 20), ("Q5_0", 6, 32, 22), ("Q5_1", 7, 32, 24),
    ("Q8_0", 8, 32, 34), ("Q8_1", 9, 32, 36), ("Q1_0", 41, 128, 18), ("Q2_0", 42, 64, 18),
    ("Q2_K", 10, 256, 84), ("Q3_K", 11, 256, 110), ("Q4_K", 12, 256, 144),
    ("Q5_K", 13, 256, 176), ("Q6_K", 14, 256, 210), ("Q8_K", 15, 256, 292),
    ("IQ1_S", 19, 256, 50), ("IQ1_M", 29, 256, 56), ("IQ2_XXS", 16, 256, 66),
    ("IQ2_XS", 17, 256, 74), ("IQ2_S", 22, 256, 82), ("IQ3_XXS", 18, 256, 98),
    ("IQ3_S", 21, 256, 110), ("IQ4_NL", 20, 32, 18), ("IQ4_XS", 23, 256, 136),
    ("TQ1_0", 34, 256, 54), ("TQ2_0", 35, 256, 66), ("MXFP4", 39, 32, 17), ("NVFP4", 40, 64, 36),
)}
# fmt: on


@dataclass(frozen=True, slots=True)
class Array:
    """An array of the metadata."""

    type: int  # of its elements
    length: int
    values: Sequence[bool | int | float] | None = None  # of a short array of numbers
    strings: Sequence[bytes] | None = None  # where they were asked for


Value: TypeAlias = bool | int | float | str | Array


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor is, and what."""

    name: str  # such as `blk.0.attn_norm.weight`
    shape: tuple[int, ...]  # the inputs of a matrix first
    type: WeightType
    offset: int  # in bytes from the beginning of the data
    size: int  # in bytes


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """All that a GGUF file says before its weights; keys and tensors in the order of the file."""

    version: int
    metadata: Mapping[str, Value]
    value_types: Mapping[str, int]
    tensors: Mapping[str, Tensor]
    alignment: int  # the offset of each tensor is a multiple of it
    data_offset: int  # of the weights, in bytes from the beginning of the file
    file_size: int

    def integer(self, key: str, default: int | None = None) -> int | None:
        """Return a number of the metadata; None where the value is something else."""
        value = self.metadata.get(key, default)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def padded(size: int, alignment: int) -> int:
    """Round a size up to a multiple of the alignment."""
    return -(-size // alignment) * alignment


def quoted(name: str) -> str:
    """Show a name from a file: in one line, without control characters, and not too long."""
    return repr(name if len(name) <= MAX_NAME_BYTES else name[:MAX_NAME_BYTES] + "…")


@contextmanager
def opened(path: Path) -> Iterator[tuple[io.BufferedReader, int]]:
    """Open a regular file and tell its size; an OSError in the block becomes a ModelError."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ModelError(f"{path} is {kind_of_folder(path)}")
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path} is not a regular file")
        with path.open("rb") as file:
            yield file, status.st_size
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:  # no permission, a name too long or with a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"cannot read {path}: {reason}") from error


def read_header(path: Path, *, strings: Collection[str] = ()) -> GGUFHeader:
    """Read all that an untrusted GGUF file says before its weights.

    `strings` are the keys of arrays of strings that are kept too, such as a vocabulary.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: it is no GGUF file, cannot be read, or its header contradicts the format.
    """
    with opened(path) as (file, size):
        if not size:
            raise ModelError(f"{path} is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).header(strings)


class _Reader:
    """Reads a header from its beginning on, and never past the end of the file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data, self._size = path, data, len(data)
        self._position = self._num_kept = self._num_strings = 0

    def header(self, strings: Collection[str]) -> GGUFHeader:
        version, num_tensors, num_keys = self._counts()
        metadata: dict[str, Value] = {}
        types: dict[str, int] = {}
        for _ in range(num_keys):
            key = self._name("a key")
            if key in metadata:
                raise self._damaged(f"it has the key {quoted(key)} twice")
            types[key], metadata[key] = self._value(key, is_kept=key in strings)
        alignment = self._alignment(metadata, types)
        tensors: dict[str, Tensor] = {}
        for _ in range(num_tensors):
            tensor = self._tensor()
            if tensor.name in tensors:
                raise self._damaged(f"it has the tensor {quoted(tensor.name)} twice")
            tensors[tensor.name] = tensor
        data_offset = padded(self._position, alignment) if tensors else self._position
        return GGUFHeader(version, metadata, types, tensors, alignment, data_offset, self._size)

    def _counts(self) -> tuple[int, int, int]:
        if self._data[: len(MAGIC)] != MAGIC:
            kind = kind_of_file(self._data[:HEAD_BYTES])
            raise ModelError(f"{self._path} is not a GGUF file" + (f" but {kind}" if kind else ""))
        self._skip(len(MAGIC))
        version = self._number("I")
        if version not in _VERSIONS:
            if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
                raise ModelError(
                    f"{self._path} is written for big-endian machines; "
                    "get it for little-endian ones"
                )
            raise ModelError(
                f"{self._path} has version {version} of GGUF, and only 2 and 3 can be read"
            )
        num_tensors, num_keys = self._number("Q"), self._number("Q")
        if num_tensors > _MAX_TENSORS:
            raise self._damaged(f"it claims to have {num_tensors} tensors")
        if num_keys > _MAX_KEYS:
            raise self._damaged(f"it claims to have {num_keys} keys")
        return version, num_tensors, num_keys

    def _value(self, key: str, *, is_kept: bool) -> tuple[int, Value]:
        number = self._number("I")
        if number == STRING:
            return number, self._string().decode("utf-8", "replace")
        if number == ARRAY:
            return number, self._array(key, is_kept=is_kept)
        return number, self._number(self._layout(key, number))

    def _array(self, key: str, *, is_kept: bool) -> Array:
        element_type, length = self._number("I"), self._number("Q")
        if element_type == ARRAY:
            raise self._damaged(f"the value of {quoted(key)} is an array of arrays")
        if element_type == STRING:
            return Array(element_type, length, strings=self._strings(length, is_kept=is_kept))
        layout = struct.Struct(f"<{self._layout(key, element_type)}")
        start = self._skip(length * layout.size)
        if length > _MAX_KEPT_ELEMENTS:
            return Array(element_type, length)
        self._keep(8 * length)
        elements = layout.iter_unpack(self._data[start : self._position])
        return Array(element_type, length, tuple(value for (value,) in elements))

    def _layout(self, key: str, number: int) -> str:
        if number not in _SCALARS:
            raise self._damaged(f"the value of {quoted(key)} has the unknown type {number}")
        return _SCALARS[number]

    def _alignment(self, metadata: Mapping[str, Value], types: Mapping[str, int]) -> int:
        key = "general.alignment"
        alignment = metadata.get(key, DEFAULT_ALIGNMENT)
        if types.get(key, UINT32) != UINT32:
            raise self._damaged(f"{key} is no 32-bit number")
        assert isinstance(alignment, int)
        if alignment.bit_count() != 1:
            raise self._damaged(f"{key} is {alignment}, which is no power of two")
        return alignment

    def _tensor(self) -> Tensor:
        name = self._name("a tensor")
        if len(name.encode("utf-8", "surrogateescape")) > MAX_NAME_BYTES:
            raise self._damaged(f"the name of the tensor {quoted(name)} is too long")
        num_dimensions = self._number("I")
        if num_dimensions > MAX_DIMENSIONS:
            raise self._damaged(f"the tensor {quoted(name)} has {num_dimensions} dimensions")
        shape = tuple(self._number("Q") for _ in range(num_dimensions))
        number = self._number("I")
        weight_type = WEIGHT_TYPES.get(number)
        if weight_type is None:
            raise self._damaged(f"the tensor {quoted(name)} has the unknown type {number}")
        num_elements = math.prod(shape)
        width = shape[0] if shape else 1
        if not 0 < num_elements <= _MAX_ELEMENTS or width % weight_type.block_size:
            by = " by ".join(map(str, shape))
            raise self._damaged(
                f"the tensor {quoted(name)} cannot have {by} {weight_type.name} weights"
            )
        size = num_elements // weight_type.block_size * weight_type.block_bytes
        return Tensor(name, shape, weight_type, self._number("Q"), size)

    # ---- bytes ------------------------------------------------------------------------------

    def _name(self, what: str) -> str:
        name = self._string()
        if not name:
            raise self._damaged(f"{what} has no name")
        return name.decode("utf-8", "surrogateescape")  # different bytes stay different names

    def _number(self, layout: str) -> Any:
        layout = f"<{layout}"
        return struct.unpack_from(layout, self._data, self._skip(struct.calcsize(layout)))[0]

    def _string(self) -> bytes:
        size = self._number("Q")
        self._keep(size)
        start = self._skip(size)
        return self._data[start : self._position]

    def _strings(self, count: int, *, is_kept: bool) -> list[bytes] | None:
        """Read the elements of an array, each of which begins with its length, or skip them."""
        self._num_strings += count
        if self._num_strings > _MAX_STRINGS:
            raise self._damaged(f"its arrays have more than {_MAX_STRINGS} strings")
        self._keep(8 * count if is_kept else 0)
        elements: list[bytes] = []
        data, end, unpack = self._data, self._position, _COUNT.unpack_from
        last = self._size - _COUNT.size
        for _ in range(count):
            if end > last:
                raise self._truncated()
            size = unpack(data, end)[0]
            start, end = end + _COUNT.size, end + _COUNT.size + size
            if is_kept:
                if size > _MAX_TOKEN_BYTES:
                    raise self._damaged(f"a token has {size} bytes")
                self._keep(size)
                elements.append(data[start:end])
        self._skip(end - self._position)
        return elements if is_kept else None

    def _keep(self, num_bytes: int) -> None:
        """Account for what is kept of the file."""
        self._num_kept += num_bytes
        if self._num_kept > _MAX_KEPT_BYTES:
            raise self._damaged(f"its keys and values have more than {_MAX_KEPT_BYTES >> 20} MiB")

    def _skip(self, size: int) -> int:
        """Go on behind so many bytes; return where they begin."""
        start = self._position
        if size > self._size - start:
            raise self._truncated()
        self._position += size
        return start

    def _damaged(self, what: str) -> ModelError:
        return ModelError(f"{self._path} is damaged: {what}")

    def _truncated(self) -> ModelError:
        return ModelError(
            f"{self._path} ends within its header: it has {self._size} bytes and is incomplete, "
            "or damaged"
        )
