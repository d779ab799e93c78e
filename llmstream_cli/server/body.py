"""The body of a request, to a validated model. Strict before it is parsed, and after."""

import asyncio
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from quart import request

from llmstream_cli import strict_json
from llmstream_cli.errors import (
    InvalidValueError,
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

_MAX_SHOWN = 200  # characters of a field's name and place
# Of a body: those that may hold lists of token ids.
_TOKEN_ID_FIELDS = ("prompt", "input", "tokens")

_Loc = tuple[int | str, ...]
_Schema = dict[str, Any]


async def read_model(type_: type[_Model], *, any_content_type: bool = False) -> _Model:
    """Read the body of the current request as JSON, and return it as a model.

    One that is too long raises `RequestEntityTooLarge`, of which `app` makes a `BodyTooLargeError`.
    """
    if not any_content_type and not request.is_json:
        raise MediaTypeError("the body has to be JSON: send Content-Type: application/json")
    seconds = server_context().settings.body_seconds
    try:
        # Not Quart's own `get_data`, which on Python 3.11 can lose a cancellation.
        async with asyncio.timeout(seconds):
            data = await request.body
    except TimeoutError as error:
        raise SlowRequestError(f"the body did not arrive within {seconds:g} seconds") from error
    async with server_context().parsing:  # the loop gets its turn between two bodies
        await asyncio.sleep(0)
        fields = parse_json(data)
        if not isinstance(fields, dict):
            raise RequestError("the body has to be a JSON object")
        return validated(type_, fields)


def validated(type_: type[_Model], fields: Mapping[str, Any]) -> _Model:
    """Return the fields of a body as a model, or raise what is wrong with which field."""
    try:
        return type_.model_validate(fields)
    except ValidationError as error:
        raise _invalid(type_, error.errors(include_url=False, include_input=False)) from error


# ---- JSON -----------------------------------------------------------------------------------


def parse_json(data: bytes) -> Any:
    """Return the value of a JSON text (RFC 8259) that all parsers read alike.

    Raises:
        RequestError: it is none, or so large or so deep that to read it would hold up the server.
    """
    if not data.strip():
        raise RequestError("the body is empty; it has to be a JSON object")
    try:
        num_values = _count_values(data)
        value = strict_json.parse(data.decode("utf-8"), fold_whole=True)
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8 text: byte {error.start}") from error
    except strict_json.StrictJSONError as error:
        raise RequestError(f"the body {error}") from error
    _bound(num_values - _num_token_ids(value), MAX_JSON_VALUES)
    return value


def _count_values(data: bytes) -> int:
    """Return how many values a JSON text has, about, before what it takes to read them is spent."""
    outside, num_strings = strict_json.without_strings(data, 2 * MAX_JSON_VALUES + 1)
    num_brackets = outside.count(b"[") + outside.count(b"{")
    num_values = num_brackets + outside.count(b",")
    _bound(num_brackets, MAX_JSON_VALUES)
    _bound(num_strings / 2, MAX_JSON_VALUES)  # names among them
    _bound(num_values, MAX_JSON_VALUES + MAX_TOKEN_IDS)
    strict_json.check_depth(outside, MAX_JSON_DEPTH)
    return num_values


def _num_token_ids(body: object) -> int:
    """Return how many values of a body may be token ids."""
    if not isinstance(body, dict):
        return 0
    lists = [value for name in _TOKEN_ID_FIELDS if isinstance(value := body.get(name), list)]
    return sum(len(one) for ids in lists for one in (ids, *ids) if isinstance(one, list))


def _bound(num_values: float, limit: int) -> None:
    if num_values > limit:
        raise RequestError(f"the body has more than {limit} values")


# ---- what is wrong with a field, in the words of the model's own schema ------------------------


def _invalid(type_: type[BaseModel], errors: Sequence[ErrorDetails]) -> InvalidValueError:
    """Say in one line what is wrong with which field."""
    root = _schema(type_)
    # A misspelt field first: whatever is missing is likely what it was meant to be.
    for details in errors:
        if details["type"] == "extra_forbidden":
            return _unknown(root, details["loc"])
    found = [(*_place(root, details["loc"]), details) for details in errors]
    # Of the first field; and where it can be of several kinds, what lies deepest in it.
    first = [one for one in found if one[0][:1] == found[0][0][:1]]
    loc, schema, details = max(first, key=lambda one: len(one[0]))
    field = _joined(loc)
    reasons = {  # the second is raised by a validator of ours
        "missing": "is missing",
        "value_error": str(details.get("ctx", {}).get("error")),
    }
    reason = reasons.get(details["type"]) or f"must be {_described(schema, root)}"
    return InvalidValueError(f"{field} {reason}", field)


def _unknown(root: _Schema, loc: _Loc) -> InvalidValueError:
    above, schema = _place(root, loc[:-1])
    name = str(loc[-1])[:_MAX_SHOWN]
    known = [known for one in _alternatives(schema, root) for known in one.get("properties", ())]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {_joined((*above, near[0]))}?" if near else ""
    field = _joined((*above, name))
    return InvalidValueError(f"there is no field {field!r}{hint}", field)


def _joined(loc: _Loc) -> str:
    parts = (part if str(part).isprintable() else repr(part) for part in loc)
    return ".".join(map(str, parts))[:_MAX_SHOWN]


@cache
def _schema(type_: type[BaseModel]) -> _Schema:
    return type_.model_json_schema()


def _place(root: _Schema, loc: _Loc) -> tuple[_Loc, _Schema]:
    """Follow an error's location through the schema, without what names a branch of a union."""
    if loc[-1:] == ("[key]",):  # wrong is the name of a field, which the object's schema is about
        loc = loc[:-2]
    found, schema = list[int | str](), root
    for part in loc:
        parts = (_part(one, part) for one in _alternatives(schema, root))
        inner = next((inner for inner in parts if inner is not None), None)
        if inner is not None:
            found.append(part)
            schema = inner
    return tuple(found), schema


def _alternatives(schema: _Schema, root: _Schema) -> Iterator[_Schema]:
    """Yield the schemas that a value can fulfil in place of this one; null's is none of them."""
    if "$ref" in schema:
        yield from _alternatives(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    elif "anyOf" in schema:
        for one in schema["anyOf"]:
            yield from _alternatives(one, root)
    elif schema.get("type") != "null":
        yield schema


def _part(schema: _Schema, part: int | str) -> _Schema | None:
    if isinstance(part, int):
        inner = schema.get("items")
    else:
        others = next(iter(schema.get("patternProperties", {}).values()), None)
        inner = schema.get("properties", {}).get(part, others)
    return inner if isinstance(inner, dict) else None


def _described(schema: _Schema, root: _Schema) -> str:
    """Say what a schema asks for."""
    return " or ".join(dict.fromkeys(map(_kind, _alternatives(schema, root))))


_KINDS = {
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "array": "a list",
    "object": "an object",
}


def _kind(schema: _Schema) -> str:
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(json.dumps(value) for value in schema["enum"])
    text = _KINDS[schema.get("type", "")]
    if schema["type"] in {"integer", "number"}:
        return text + _range(schema, "", "minimum", "maximum")
    if "pattern" in schema:
        return f"{text} that matches {schema['pattern']}"
    if "patternProperties" in schema:
        text += f" whose names match {next(iter(schema['patternProperties']))}, and"
    for of, what in (("characters", "Length"), ("items", "Items"), ("fields", "Properties")):
        text += _range(schema, f" {of}", f"min{what}", f"max{what}")
    return text


def _range(schema: _Schema, of: str, low: str, high: str) -> str:
    preposition = " of" if of else ""
    bounds = {name: f"{schema[name]}".removesuffix(".0") for name in (low, high) if name in schema}
    if len(bounds) == 2:  # noqa: PLR2004
        return f"{preposition or ' from'} {bounds[low]} to {bounds[high]}{of}"
    if high in bounds:
        return f"{preposition} at most {bounds[high]}{of}"
    return f"{preposition} {bounds[low]} or more{of}" if bounds else ""
