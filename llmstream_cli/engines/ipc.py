"""What the server and the engine's process say to each other, and how it becomes bytes.

A message is one of the dataclasses below. On the wire it is a frame: the length of its body in four
bytes, the most significant first, then the body, which is JSON in UTF-8.

Rules:

1. Data only. Nothing on the wire names code, and every field is checked against its type hint: the
   engine's process parses files from strangers, so what it says is not trusted either. Whatever
   breaks a rule is a `WireError`, and so is a frame that is too long.
2. A dataclass is a list: its name, then its fields in order. Both sides are the same program.
3. Text arrives as it was sent, lone surrogates included. Bytes are text of Latin-1.
4. An error is its class, its message and its attributes. A class that is not in `errors` arrives as
   its closest ancestor that is.

Pure: no I/O, clock, thread, or model.
"""

import json
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from functools import cache
from reprlib import repr as _repr
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from llmstream_cli.api import (
    Chunk,
    EngineConfig,
    EngineMetrics,
    GenerationRequest,
    ModelInfo,
)
from llmstream_cli.errors import InvalidValueError, LLMStreamError

MAX_COMMAND_BYTES = 64 * 1024 * 1024  # a request with its whole conversation
MAX_REPORT_BYTES = 16 * 1024 * 1024  # a step of 256 streams with logprobs, a file's metadata
_LENGTH_BYTES = 4


class WireError(ValueError):
    """The other side does not keep to the rules."""


@dataclass(frozen=True, slots=True)
class Load:
    """To the engine's process, first of all: load a model; `log` asks for llama.cpp's log."""

    config: EngineConfig
    log: bool


@dataclass(frozen=True, slots=True)
class Submit:
    """To the engine's process: generate. Results name the request by its id."""

    request_id: int
    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class Cancel:
    """To the engine's process: nobody waits for this request any more."""

    request_id: int


@dataclass(frozen=True, slots=True)
class Ping:
    """To the engine's process: are you there?"""


@dataclass(frozen=True, slots=True)
class Loaded:
    """From the engine's process: the model is loaded."""

    info: ModelInfo


@dataclass(frozen=True, slots=True)
class Results:
    """From the engine's process: all that a step produced, and the state after it."""

    results: tuple[tuple[int, Chunk | LLMStreamError], ...]
    metrics: EngineMetrics


@dataclass(frozen=True, slots=True)
class Ended:
    """From the engine's process: the engine has failed, and the process leaves."""

    error: LLMStreamError


@dataclass(frozen=True, slots=True)
class Pong:
    """From the engine's process: the answer to a `Ping`."""


Command = Load | Submit | Cancel | Ping
Report = Loaded | Results | Ended | Pong


def pack(message: Command | Report) -> bytes:
    """Return a message's frame.

    Raises:
        InvalidValueError: it would be too long.
    """
    body = _JSON.encode(message).encode("utf-8", "surrogatepass")
    limit = MAX_COMMAND_BYTES if isinstance(message, Command) else MAX_REPORT_BYTES
    if len(body) > limit:
        raise InvalidValueError(f"the message has {len(body)} bytes, and {limit} are allowed")
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class FrameReader:
    """Finds the messages in a stream of bytes, however it is cut.

    Args:
        expected: the type of the messages, `Command` or `Report`.
    """

    def __init__(self, expected: Any) -> None:
        self._limit = MAX_COMMAND_BYTES if expected is Command else MAX_REPORT_BYTES
        self._decode = _decoder(expected)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """Add bytes; yield the messages that are now complete.

        Raises:
            WireError: the bytes break a rule; nothing after them can be understood.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH_BYTES:
            length = int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
            if length > self._limit:
                raise WireError(f"a frame of {length} bytes")
            end = _LENGTH_BYTES + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH_BYTES:end])
            del self._buffer[:end]
            yield self._unpack(body)

    def _unpack(self, body: bytes) -> Any:
        try:
            return self._decode(json.loads(body.decode("utf-8", "surrogatepass")))
        except (ValueError, RecursionError) as error:
            raise WireError(f"a frame that makes no sense: {error}") from error


# ---- to JSON --------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Return what JSON has no word for as something that it has."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, LLMStreamError):
        known = next(cls for cls in type(value).__mro__ if cls.__name__ in _ERRORS)
        attributes = {name: v for name, v in vars(value).items() if _is_attribute(name, v)}
        return [known.__name__, str(value), attributes]
    cls: Any = type(value)
    return [cls.__name__, *(getattr(value, name) for name in _field_names(cls))]


@cache
def _field_names(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls))


# Not ASCII: escaped, two lone surrogates in a row would be read back as one character.
_JSON = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, separators=(",", ":"), default=_plain
)


def _tree(cls: type[LLMStreamError]) -> dict[str, type[LLMStreamError]]:
    """Return the errors of `errors.py` by their names, from one downwards."""
    below = (_tree(sub) for sub in cls.__subclasses__() if sub.__module__ == cls.__module__)
    return dict(ChainMap({cls.__name__: cls}, *below))


_ERRORS = _tree(LLMStreamError)


def _is_attribute(name: str, value: object) -> bool:
    public = name.isidentifier() and not name.startswith("_")
    return public and isinstance(value, str | int | float | None)


# ---- from JSON ------------------------------------------------------------------------------

_Decode = Callable[[Any], Any]


@cache
def _decoder(hint: Any) -> _Decode:
    """Return a function that makes a value of a type from JSON, or raises `ValueError`."""
    origin = get_origin(hint)
    if origin is not None:
        return _GENERICS[origin](*get_args(hint))
    if hint in _SCALARS:
        return _SCALARS[hint]
    if issubclass(hint, LLMStreamError):
        return _error
    if issubclass(hint, StrEnum):
        return cast("_Decode", hint)
    return _dataclass(hint)


def _exactly(kind: type) -> _Decode:
    def decode(data: Any) -> Any:
        if type(data) is not kind:  # a bool is an int as well
            raise WireError(f"not {kind.__name__}: {_repr(data)}")
        return data

    return decode


_int, _float, _str, _list, _dict = map(_exactly, (int, float, str, list, dict))

_SCALARS: dict[Any, _Decode] = {
    bool: _exactly(bool),
    int: _int,
    float: lambda data: data if type(data) is int else _float(data),
    str: _str,
    bytes: lambda data: _str(data).encode("latin-1"),
}


def _union(*hints: Any) -> _Decode:
    optional = type(None) in hints
    classes: list[Any] = [hint for hint in hints if is_dataclass(hint)]
    tagged = {cls.__name__: _decoder(cls) for cls in classes}
    others = [_decoder(hint) for hint in hints if hint not in {*classes, type(None)}]

    def decode(data: Any) -> Any:
        if data is None and optional:
            return None
        match data:
            case [str(name), *_] if name in tagged:
                return tagged[name](data)
        for other in others:
            with suppress(ValueError):
                return other(data)
        raise WireError(f"nothing that is expected: {_repr(data)}")

    return decode


def _literal(*values: Any) -> _Decode:
    def decode(data: Any) -> Any:
        if not any(data == value for value in values):
            raise WireError(f"not one of {values}: {_repr(data)}")
        return data

    return decode


def _tuple(*hints: Any) -> _Decode:
    first, *others = [_decoder(hint) for hint in hints if hint is not Ellipsis]
    if Ellipsis in hints:
        return lambda data: tuple(map(first, _list(data)))
    items = first, *others
    return lambda data: tuple(item(value) for item, value in zip(items, _list(data), strict=True))


def _mapping(key_hint: Any, value_hint: Any) -> _Decode:
    key, value = _decoder(key_hint), _decoder(value_hint)
    return lambda data: {key(k): value(v) for k, v in _dict(data).items()}


_GENERICS: dict[Any, Callable[..., _Decode]] = {
    Union: _union,
    UnionType: _union,
    Literal: _literal,
    tuple: _tuple,
    dict: _mapping,
}


def _dataclass(cls: Any) -> _Decode:
    hints = get_type_hints(cls)
    names = _field_names(cls)
    decoders = [_decoder(hints[name]) for name in names]

    def decode(data: Any) -> Any:
        if not isinstance(data, list) or data[:1] != [cls.__name__]:
            raise WireError(f"not {cls.__name__}: {_repr(data)}")
        values = zip(names, decoders, data[1:], strict=True)
        try:
            return cls(**{name: decode_field(value) for name, decode_field, value in values})
        except LLMStreamError as error:  # a value out of its bounds
            raise WireError(str(error)) from error

    return decode


def _error(data: Any) -> LLMStreamError:
    match data:
        case [str(name), str(message), dict(attributes)] if name in _ERRORS:
            error = _ERRORS[name].__new__(_ERRORS[name], message)
            if not all(_is_attribute(name, value) for name, value in attributes.items()):
                raise WireError(f"attributes that no error has: {_repr(attributes)}")
            vars(error).update(attributes)
            return error
    raise WireError(f"not an error: {_repr(data)}")
