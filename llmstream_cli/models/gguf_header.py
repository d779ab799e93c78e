"""Reads the header of a GGUF file, which anyone may have written.

Whatever the bytes are, `read_header` returns a header or raises `ModelError`: counts and lengths
are held against what the file can have and against bounds far above any model's. Long arrays are
skipped over: a vocabulary is walked through, not kept. So time and memory are bounded too.
"""

import io
import math
import stat
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from llmstream_cli.errors import ModelError, ModelNotFoundError
from llmstream_cli.models.file_kinds import HEAD_BYTES, kind_of_file
from llmstream_cli.models.gguf_format import (
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_DIMENSIONS,
    MAX_NAME_BYTES,
    SCALAR_FORMATS,
    WEIGHT_TYPES,
    Array,
    GGUFHeader,
    Scalar,
    Tensor,
    Value,
    ValueType,
    padded,
)

_VERSIONS = (2, 3)  # they differ in nothing that is read here
_MAX_KEYS = 1 << 16
_MAX_TENSORS = 1 << 16
_MAX_STRINGS = 1 << 22  # in all arrays together; the largest vocabularies have half a million
_MAX_TOKEN_BYTES = 1 << 16
_MAX_KEPT_BYTES = 64 << 20  # of keys and values together; those of a model have up to 10 MB
_MAX_KEPT_ELEMENTS = 1024  # of an array; one value a layer is kept, one a token is not
_MAX_ELEMENTS = (1 << 63) - 1  # of a tensor; ggml counts in signed 64 bits
_WINDOW = 1 << 20  # bytes read at once

_COUNT = struct.Struct("<Q")
_NUMBER = struct.Struct("<I")


def read_header(path: Path, *, strings: Collection[str] = ()) -> GGUFHeader:
    """Read all that a GGUF file says before its weights.

    Args:
        path: a file that nobody vouches for.
        strings: keys of arrays of strings that are kept too, as a vocabulary: it takes time.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: it is no GGUF file, cannot be read, or its header contradicts the format.
    """
    with opened(path) as (file, size):
        return _parse(_Cursor(path, file, size), strings)


@contextmanager
def opened(path: Path) -> Iterator[tuple[io.BufferedReader, int]]:
    """Open a regular file and tell its size; what goes wrong in the block is told in a line.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: it is no regular file, or cannot be read.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ModelError(f"{path} is a directory; name the .gguf file in it")
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path} is not a regular file")
        with path.open("rb") as file:
            yield file, status.st_size
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:  # no permission, a name too long or with a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"cannot read {path}: {reason}") from error


def quoted(name: str) -> str:
    """Show a name from a file: in one line, without control characters, and not too long."""
    return repr(name if len(name) <= MAX_NAME_BYTES else name[:MAX_NAME_BYTES] + "…")


class _Cursor:
    """A place in a file, with the bytes that come next at hand.

    No method goes beyond the end of the file, and none keeps more than a window of it.
    """

    def __init__(self, path: Path, file: io.BufferedReader, size: int) -> None:
        self.path = path
        self.size = size
        self._file = file
        self._window = b""
        self._start = 0  # of the window, in the file
        self._index = 0  # in the window
        self._kept = 0
        self._strings = 0

    @property
    def position(self) -> int:
        return self._start + self._index

    def damaged(self, what: str) -> ModelError:
        return ModelError(f"{self.path} is damaged: {what}")

    def peek(self, size: int) -> bytes:
        self._need(size)
        return self._window[self._index : self._index + size]

    def take(self, size: int) -> bytes:
        taken = self.peek(size)
        self._index += size
        return taken

    def count(self) -> int:
        value: int = _COUNT.unpack(self.take(8))[0]
        return value

    def number(self) -> int:
        value: int = _NUMBER.unpack(self.take(4))[0]
        return value

    def string(self) -> bytes:
        """Read a string that is kept."""
        size = self.count()
        self.keep(size)
        return self.take(size)

    def keep(self, num_bytes: int) -> None:
        """Account for what is kept of the file."""
        self._kept += num_bytes
        if self._kept > _MAX_KEPT_BYTES:
            raise self.damaged(f"its keys and values have more than {_MAX_KEPT_BYTES >> 20} MiB")

    def skip(self, size: int) -> None:
        if size > self.size - self.position:
            raise self._truncated()
        self._seek(self.position + size)

    def skip_strings(self, count: int) -> None:
        """Skip the elements of an array, each of which begins with its length."""
        self._account_strings(count)
        unpack = _COUNT.unpack_from
        while count:
            self._need(8)
            window, index = self._window, self._index
            last = len(window) - 8
            while count and index <= last:
                index += 8 + unpack(window, index)[0]
                count -= 1
            self.skip(index - self._index)

    def strings(self, count: int) -> list[bytes]:
        """Read the elements of an array."""
        self._account_strings(count)
        self.keep(8 * count)
        unpack, elements = _COUNT.unpack_from, list[bytes]()
        while len(elements) < count:
            start, size = self.position, unpack(self.peek(8))[0]
            if size > _MAX_TOKEN_BYTES:
                raise self.damaged(f"a token has {size} bytes")
            self._need(8 + size)
            window, index = self._window, self._index
            last, wanted = len(window) - 8, count - len(elements)
            while wanted and index <= last:
                end = index + 8 + unpack(window, index)[0]
                if end > len(window):
                    break
                elements.append(window[index + 8 : end])
                index = end
                wanted -= 1
            self._index = index
            self.keep(self.position - start)
        return elements

    def _account_strings(self, count: int) -> None:
        self._strings += count
        if self._strings > _MAX_STRINGS:
            raise self.damaged(f"its arrays have more than {_MAX_STRINGS} strings")

    def _seek(self, position: int) -> None:
        if position - self._start <= len(self._window):
            self._index = position - self._start
        else:
            self._window, self._start, self._index = b"", position, 0

    def _need(self, size: int) -> None:
        """Have so many bytes at hand."""
        if self._index + size <= len(self._window):
            return
        if size > self.size - self.position:
            raise self._truncated()
        self._file.seek(self.position)
        self._start, self._index = self.position, 0
        self._window = self._file.read(max(size, _WINDOW))
        if len(self._window) < size:  # it has become shorter since
            raise self._truncated()

    def _truncated(self) -> ModelError:
        return ModelError(
            f"{self.path} ends within its header: it has {self.size} bytes and is incomplete, "
            "or damaged"
        )


def _parse(cursor: _Cursor, strings: Collection[str]) -> GGUFHeader:
    num_tensors, num_keys, version = _parse_counts(cursor)
    metadata: dict[str, Value] = {}
    types: dict[str, ValueType] = {}
    for _ in range(num_keys):
        key = _parse_name(cursor, "a key")
        if key in metadata:
            raise cursor.damaged(f"it has the key {quoted(key)} twice")
        types[key], metadata[key] = _parse_value(cursor, key, strings)
    alignment = _parse_alignment(cursor, metadata, types)
    tensors: dict[str, Tensor] = {}
    for _ in range(num_tensors):
        tensor = _parse_tensor(cursor)
        if tensor.name in tensors:
            raise cursor.damaged(f"it has the tensor {quoted(tensor.name)} twice")
        tensors[tensor.name] = tensor
    data_offset = padded(cursor.position, alignment) if tensors else cursor.position
    return GGUFHeader(version, metadata, types, tensors, alignment, data_offset, cursor.size)


def _parse_counts(cursor: _Cursor) -> tuple[int, int, int]:
    if not cursor.size:
        raise ModelError(f"{cursor.path} is empty")
    if cursor.peek(min(len(MAGIC), cursor.size)) != MAGIC:
        kind = kind_of_file(cursor.peek(min(HEAD_BYTES, cursor.size)))
        raise ModelError(
            f"{cursor.path} is not a GGUF file" + ("" if kind is None else f" but {kind}")
        )
    cursor.take(len(MAGIC))
    version = cursor.number()
    if version not in _VERSIONS:
        if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
            raise ModelError(
                f"{cursor.path} is written for big-endian machines; get it for little-endian ones"
            )
        raise ModelError(
            f"{cursor.path} has version {version} of GGUF, and only 2 and 3 can be read"
        )
    num_tensors, num_keys = cursor.count(), cursor.count()
    if num_tensors > _MAX_TENSORS:
        raise cursor.damaged(f"it claims to have {num_tensors} tensors")
    if num_keys > _MAX_KEYS:
        raise cursor.damaged(f"it claims to have {num_keys} keys")
    return num_tensors, num_keys, version


def _parse_name(cursor: _Cursor, what: str) -> str:
    name = cursor.string()
    if not name:
        raise cursor.damaged(f"{what} has no name")
    # Different bytes must stay different names.
    return name.decode("utf-8", "surrogateescape")


def _parse_value(cursor: _Cursor, key: str, strings: Collection[str]) -> tuple[ValueType, Value]:
    value_type = _parse_type(cursor, key)
    if value_type is ValueType.ARRAY:
        return value_type, _parse_array(cursor, key, strings)
    return value_type, _parse_scalar(cursor, value_type)


def _parse_type(cursor: _Cursor, key: str) -> ValueType:
    number = cursor.number()
    try:
        return ValueType(number)
    except ValueError as error:
        unknown = f"the value of {quoted(key)} has the unknown type {number}"
        raise cursor.damaged(unknown) from error


def _parse_scalar(cursor: _Cursor, value_type: ValueType) -> Scalar:
    if value_type is ValueType.STRING:
        return cursor.string().decode("utf-8", "replace")
    layout = struct.Struct("<" + SCALAR_FORMATS[value_type])
    value: Scalar = layout.unpack(cursor.take(layout.size))[0]
    return value


def _parse_array(cursor: _Cursor, key: str, strings: Collection[str]) -> Array:
    element_type = _parse_type(cursor, key)
    length = cursor.count()
    if element_type is ValueType.ARRAY:
        raise cursor.damaged(f"the value of {quoted(key)} is an array of arrays")
    if element_type is ValueType.STRING:
        if key in strings:
            return Array(element_type, length, strings=cursor.strings(length))
        cursor.skip_strings(length)
        return Array(element_type, length)
    layout = SCALAR_FORMATS[element_type]
    size = length * struct.calcsize("<" + layout)
    if length > _MAX_KEPT_ELEMENTS:
        cursor.skip(size)
        return Array(element_type, length)
    cursor.keep(8 * length)
    values = struct.unpack(f"<{length}{layout}", cursor.take(size))
    return Array(element_type, length, values)


def _parse_alignment(
    cursor: _Cursor, metadata: dict[str, Value], types: dict[str, ValueType]
) -> int:
    key = "general.alignment"
    alignment = metadata.get(key, DEFAULT_ALIGNMENT)
    if types.get(key, ValueType.UINT32) is not ValueType.UINT32:
        raise cursor.damaged(f"{key} is no 32-bit number")
    assert isinstance(alignment, int)
    if alignment.bit_count() != 1:
        raise cursor.damaged(f"{key} is {alignment}, which is no power of two")
    return alignment


def _parse_tensor(cursor: _Cursor) -> Tensor:
    name = _parse_name(cursor, "a tensor")
    if len(name.encode("utf-8", "surrogateescape")) > MAX_NAME_BYTES:
        raise cursor.damaged(f"the name of the tensor {quoted(name)} is too long")
    num_dimensions = cursor.number()
    if num_dimensions > MAX_DIMENSIONS:
        raise cursor.damaged(f"the tensor {quoted(name)} has {num_dimensions} dimensions")
    shape = tuple(cursor.count() for _ in range(num_dimensions))
    number = cursor.number()
    weight_type = WEIGHT_TYPES.get(number)
    if weight_type is None:
        raise cursor.damaged(f"the tensor {quoted(name)} has the unknown type {number}")
    num_elements = math.prod(shape)
    if not 0 < num_elements <= _MAX_ELEMENTS or (shape[:1] or (1,))[0] % weight_type.block_size:
        by = " by ".join(map(str, shape))
        raise cursor.damaged(
            f"the tensor {quoted(name)} cannot have {by} {weight_type.name} weights"
        )
    size = num_elements // weight_type.block_size * weight_type.block_bytes
    return Tensor(name, shape, weight_type, cursor.count(), size)
