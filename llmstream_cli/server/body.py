"""The body of a request, to a validated model. Strict before it is parsed, and after."""

import asyncio
import difflib
import json
import math
import re
from itertools import accumulate
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
MAX_JSON_VALUES = 16_384
"""In a body, beside token ids: each may cost an error message, and all of them hold up the loop."""
MAX_TOKEN_IDS = 131_072

_TOKEN_ID_FIELDS = ("prompt",)  # of a body: those that may hold lists of token ids
_UNKNOWN = "extra_forbidden"  # pydantic's name for a field that the model does not have

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # possessive: it never goes back
_DEPTHS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - set(_DEPTHS))


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
    data = await _read()
    async with server_context().parsing:  # the loop gets its turn between two bodies
        await asyncio.sleep(0)
        return _validate(type_, parse_json(data))


def _validate(type_: type[_Model], fields: object) -> _Model:
    if not isinstance(fields, dict):
        raise RequestError("the body has to be a JSON object")
    try:
        return type_.model_validate(fields)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
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
        RequestError: it is none, is nested too deeply, has too many values, names a field twice, or
            has text that is no Unicode or a number that is none.
    """
    if not data.strip():
        raise RequestError("the body is empty; it has to be a JSON object")
    num_values = _check_structure(data)
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
    if num_values - _num_token_ids(value) > MAX_JSON_VALUES:
        raise _too_many(MAX_JSON_VALUES)
    return value


def _check_structure(data: bytes) -> int:
    """Return how many values a JSON text has, about: a bound on what it takes to read it.

    Raises:
        RequestError: they are too many, or nested too deeply.
    """
    outside, num_strings = _STRING.subn(b'"', data, count=2 * MAX_JSON_VALUES + 1)
    num_brackets = outside.count(b"[") + outside.count(b"{")
    if num_strings > 2 * MAX_JSON_VALUES or num_brackets > MAX_JSON_VALUES:  # with those of names
        raise _too_many(MAX_JSON_VALUES)
    num_values = num_brackets + outside.count(b",")
    if num_values > MAX_JSON_VALUES + MAX_TOKEN_IDS:
        raise _too_many(MAX_JSON_VALUES + MAX_TOKEN_IDS)
    depths = accumulate(map(_DEPTHS.__getitem__, outside.translate(None, _NO_BRACKETS)))
    if max(depths, default=0) > MAX_JSON_DEPTH:
        raise RequestError(f"the body is nested deeper than {MAX_JSON_DEPTH} levels")
    return num_values


def _num_token_ids(body: object) -> int:
    """Return how many values of a body may be token ids."""
    if not isinstance(body, dict):
        return 0
    lists = [value for name in _TOKEN_ID_FIELDS if isinstance(value := body.get(name), list)]
    return sum(len(one) for ids in lists for one in (ids, *ids) if isinstance(one, list))


def _too_many(limit: int) -> RequestError:
    return RequestError(f"the body has more than {limit} values")


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
