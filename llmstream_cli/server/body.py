"""The body of a request, to a validated model. Strict before it is parsed, and after."""

import asyncio
import difflib
import json
import math
import re
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from quart import request

from llmstream_cli.errors import (
    InvalidFieldError,
    MediaTypeError,
    RequestError,
    SlowRequestError,
)
from llmstream_cli.server.context import server_context

_Model = TypeVar("_Model", bound=BaseModel)

MAX_JSON_DEPTH = 64

_UNKNOWN = "extra_forbidden"  # pydantic's name for a field that the model does not have

# Strings, so that no bracket in them counts, and brackets. Possessive: it never goes back.
_BRACKETS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|([\[{])|([\]}])', re.DOTALL)


async def read_model(type_: type[_Model], *, any_content_type: bool = False) -> _Model:
    """Read the body of the current request as JSON, and return it as a model.

    Args:
        type_: says what the body may hold.
        any_content_type: take the body as JSON whatever the request calls it.

    Raises:
        RequestError: it is empty, no JSON object, or no JSON that all parsers read alike.
        MediaTypeError: it is not said to be JSON.
        RequestEntityTooLarge: it is too long; `app` makes a `BodyTooLargeError` of it.
        SlowRequestError: it did not arrive in time.
        InvalidFieldError: a field is unknown, missing, or has a value that it cannot have.
    """
    if not any_content_type and not request.is_json:
        raise MediaTypeError("the body has to be JSON: send Content-Type: application/json")
    fields = parse_json(await _read())
    if not isinstance(fields, dict):
        raise RequestError("the body has to be a JSON object")
    try:
        return type_.model_validate(fields)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        # A misspelt field first: whatever is missing is likely what it was meant to be.
        found.sort(key=lambda details: details["type"] != _UNKNOWN)
        raise _invalid(type_, found[0]) from error


async def _read() -> bytes:
    seconds = server_context().settings.body_seconds
    try:
        # Not Quart's own `get_data`, which on Python 3.11 can lose a cancellation.
        async with asyncio.timeout(seconds):
            data: bytes = await request.body
    except TimeoutError as error:
        raise SlowRequestError(f"the body did not arrive within {seconds:g} seconds") from error
    return data


def parse_json(data: bytes) -> Any:
    """Return the value of a JSON text (RFC 8259) that all parsers read alike.

    Raises:
        RequestError: it is none, is nested too deeply, names a field twice, or has text that is no
            Unicode or a number that is none.
    """
    if not data.strip():
        raise RequestError("the body is empty; it has to be a JSON object")
    _check_depth(data)
    try:
        text = data.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse
        )
        if r"\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # fails on a lone surrogate
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8 text: byte {error.start}") from error
    except UnicodeEncodeError as error:
        raise RequestError("the body has half of a surrogate pair, which is no text") from error
    except json.JSONDecodeError as error:
        raise RequestError(f"the body is not JSON: {error}") from error
    except ValueError as error:  # Python's own limit, far beyond a double
        raise RequestError("the body has a number of too many digits") from error
    return value


def _check_depth(data: bytes) -> None:
    if data.count(b"[") + data.count(b"{") <= MAX_JSON_DEPTH:
        return
    depth = 0
    for match in _BRACKETS.finditer(data):
        depth += (match[1] is not None) - (match[2] is not None)
        if depth > MAX_JSON_DEPTH:
            raise RequestError(f"the body is nested deeper than {MAX_JSON_DEPTH} levels")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise RequestError(f"the body names {twice[:100]!r} twice")
    return fields


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        _refuse(digits[:100])
    return number


def _refuse(number: str) -> NoReturn:
    raise RequestError(f"the body has {number}, which is no number that JSON can carry")


def _invalid(type_: type[BaseModel], details: ErrorDetails) -> InvalidFieldError:
    """Say in one line what is wrong with which field."""
    field = ".".join(str(part) for part in details["loc"])[:200]
    message = details["msg"]
    if details["type"] == _UNKNOWN:
        names = type_.model_fields if len(details["loc"]) == 1 else ()  # those of the body itself
        near = difflib.get_close_matches(field, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return InvalidFieldError(f"there is no field {field!r}{hint}", field)
    if details["type"] == "missing":
        return InvalidFieldError(f"{field} is missing", field)
    message = message.removeprefix("Value error, ").replace(" after validation", "")
    return InvalidFieldError(f"{field}: {message[0].lower()}{message[1:]}", field)
