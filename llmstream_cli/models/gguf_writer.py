"""Writes the header of a GGUF file, after which the weights are appended as they are.

The package `gguf` writes whole files, and brings an HTTP client, a YAML parser and a progress bar.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from llmstream_cli.models.gguf_format import (
    DEFAULT_ALIGNMENT,
    MAGIC,
    SCALAR_FORMATS,
    Tensor,
    ValueType,
    padded,
)

_VERSION = 3

Writable: TypeAlias = bool | int | float | str | Sequence[int] | Sequence[str]


def encode_header(metadata: Mapping[str, Writable], tensors: Sequence[Tensor]) -> bytes:
    """Encode a header, with the padding before the first tensor.

    Args:
        metadata: the values by their keys. Integers are written in 32 bits, without a sign where
            they stand alone and with one in a sequence, as llama.cpp reads them; floats in 32 bits.
        tensors: with their offsets, each a multiple of 32.
    """
    parts = [MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_string(key), _value(value)]
    for tensor in tensors:
        assert tensor.offset % DEFAULT_ALIGNMENT == 0, tensor
        dimensions = len(tensor.shape)
        layout = f"<I{dimensions}QIQ"
        where = struct.pack(layout, dimensions, *tensor.shape, tensor.type.id, tensor.offset)
        parts += [_string(tensor.name), where]
    header = b"".join(parts)
    return header.ljust(padded(len(header), DEFAULT_ALIGNMENT), b"\0")


def _value(value: Writable) -> bytes:
    match value:
        case bool():
            return _scalar(ValueType.BOOL, value)
        case int():
            return _scalar(ValueType.UINT32, value)
        case float():
            return _scalar(ValueType.FLOAT32, value)
        case str():
            return struct.pack("<I", ValueType.STRING) + _string(value)
    texts = [element for element in value if isinstance(element, str)]
    if texts:
        assert len(texts) == len(value)
        return _array(ValueType.STRING, len(value)) + b"".join(map(_string, texts))
    return _array(ValueType.INT32, len(value)) + struct.pack(f"<{len(value)}i", *value)


def _scalar(value_type: ValueType, value: bool | float) -> bytes:
    return struct.pack("<I" + SCALAR_FORMATS[value_type], value_type, value)


def _array(element_type: ValueType, length: int) -> bytes:
    return struct.pack("<IIQ", ValueType.ARRAY, element_type, length)


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data
