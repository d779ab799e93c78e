"""JSON schemas such as people write: what answers to them must fulfil is tested with these."""

import base64
import ipaddress
import re
import uuid
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from functools import partial
from typing import Any

from hypothesis import strategies as st
from pydantic import UUID4, TypeAdapter

from llmstream_cli.core.grammar import schema_strings

STRING: dict[str, Any] = {"type": "string"}
INTEGER: dict[str, Any] = {"type": "integer"}


def closed(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    """An object with these properties and no others, required but for the optional ones."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


SCHEMAS: dict[str, dict[str, Any] | bool] = {
    "any": {},
    "string or null": {"type": ["string", "null"]},
    "long string": {"type": "string", "minLength": 200},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
    "pattern of classes": {"type": "string", "pattern": "^\\w+\\.\\d{1,3}\\s?[^\\w]$"},
    "pattern with quotes": {"type": "string", "pattern": '^"\\\\[\\n\\t]"$'},
    "pattern of many bytes": {"type": "string", "pattern": "^[äöüß日本語😀]{3,5}$"},
    "exclusive": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5},
    "large": {"type": "integer", "minimum": 2**53 - 3, "maximum": 2**53 - 1},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": -100, "maximum": 100},
    "const": {"const": {"kind": "fixed", "list": [1, 2.5, None, True, "ä\n"]}},
    "enum": {"enum": ["red", "amber", "green", 0, None, [1], {"a": "b"}]},
    "empty key": closed({"": INTEGER, 'quote"d': INTEGER, "new\nline": INTEGER, "日本": INTEGER}),
    "long list": {"type": "array", "items": {"enum": [0, 1]}, "minItems": 30, "maxItems": 30},
    "tuple of draft 7": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [STRING, INTEGER],
        "additionalItems": False,
    },
    "person": closed({"name": STRING, "age": {"type": "integer", "minimum": 0, "maximum": 130}}),
    "open object": {"type": "object", "properties": {"id": INTEGER}, "required": ["id"]},
    "required but unlisted": {
        "type": "object",
        "required": ["id"],
        "additionalProperties": INTEGER,
    },
    "map": {"type": "object", "additionalProperties": INTEGER, "minProperties": 1},
    "pattern properties": {
        "type": "object",
        "patternProperties": {"^x_": INTEGER, "^y_": STRING},
        "additionalProperties": False,
    },
    "anyOf with common beginning": {
        "anyOf": [closed({"kind": {"const": "a"}, "x": INTEGER}), closed({"kind": STRING})]
    },
    "oneOf by constant": {
        "oneOf": [
            closed({"kind": {"const": "circle"}, "radius": {"type": "number", "minimum": 0}}),
            closed({"kind": {"const": "square"}, "side": {"type": "number", "minimum": 0}}),
        ],
        "discriminator": {"propertyName": "kind"},
    },
    "allOf": {
        "allOf": [
            {"type": "object", "properties": {"a": INTEGER}, "required": ["a"]},
            {"type": "object", "properties": {"b": STRING}, "required": ["b"]},
            {"maxProperties": 2},
        ]
    },
    "allOf of bounds": {
        "allOf": [{"type": "number", "exclusiveMinimum": 0}, {"maximum": 0.5}, {"minimum": -3}]
    },
    "tree": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": closed(
                {"value": INTEGER, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}
            )
        },
    },
    "linked list": {
        "type": ["object", "null"],
        "properties": {"head": INTEGER, "tail": {"$ref": "#"}},
        "required": ["head", "tail"],
        "additionalProperties": False,
    },
    "expression": {
        "$ref": "#/definitions/expression",
        "definitions": {
            "expression": {
                "anyOf": [
                    {"type": "number"},
                    closed(
                        {
                            "op": {"enum": ["+", "*"]},
                            "left": {"$ref": "#/definitions/expression"},
                            "right": {"$ref": "#/definitions/expression"},
                        }
                    ),
                ]
            }
        },
    },
    "tool call": closed(
        {
            "name": {"const": "get_weather"},
            "arguments": closed(
                {
                    "city": {"type": "string", "minLength": 1},
                    "unit": {"enum": ["celsius", "fahrenheit"]},
                    "days": {"type": "integer", "minimum": 1, "maximum": 14},
                },
                "unit",
            ),
        }
    ),
    "résumé": closed(
        {
            "name": {"type": "string", "minLength": 1},
            "email": {"type": "string", "pattern": "^[a-z0-9.]+@[a-z0-9]+\\.[a-z]{2,3}$"},
            "languages": {"type": "array", "items": {"enum": ["de", "en", "fr"]}, "maxItems": 3},
            "jobs": {
                "type": "array",
                "maxItems": 2,
                "items": closed(
                    {
                        "title": STRING,
                        "from": {"type": "integer", "minimum": 1950, "maximum": 2050},
                        "to": {"type": ["integer", "null"], "minimum": 1950, "maximum": 2050},
                    },
                    "to",
                ),
            },
        },
        "email",
    ),
}


def strictly(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def checks(text: str) -> bool:
        parse(text)
        return True

    return checks


FORMATS: dict[str, Callable[[str], object]] = {
    "date": strictly(date.fromisoformat),
    "time": strictly(time.fromisoformat),
    "date-time": strictly(datetime.fromisoformat),
    "duration": strictly(TypeAdapter(timedelta).validate_python),
    "ipv4": strictly(ipaddress.IPv4Address),
    "ipv6": strictly(ipaddress.IPv6Address),
    "uuid": strictly(uuid.UUID),
    "uuid4": strictly(TypeAdapter(UUID4).validate_python),
    "email": re.compile(r"[^@\s]+@[^@\s]+\.[a-zA-Z]+").fullmatch,
    "hostname": re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*").fullmatch,
    "uri": re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]*").fullmatch,
    "base64": strictly(partial(base64.b64decode, validate=True)),
    "base64url": strictly(base64.urlsafe_b64decode),
    "ipv4network": strictly(ipaddress.IPv4Network),
    "cidrv4": strictly(ipaddress.IPv4Interface),
    "json-pointer": re.compile("(/([^~/]|~[01])*)*").fullmatch,
    **{
        name: re.compile(schema_strings.FORMATS[name]).fullmatch
        for name in ("ulid", "nanoid", "cuid", "cuid2", "ksuid", "xid", "e164")
    },
}

# ---- random schemas ----

_bounds = st.integers(-20, 20) | st.sampled_from([0.5, -1.25, 3.75, 1e-3])
_counts = st.integers(0, 4)
_names = st.sampled_from(["a", "b", "é", ""])
_leaves = st.one_of(
    st.booleans(),
    st.just({}),
    st.fixed_dictionaries({"const": st.none() | st.text('aé日😀\\"\n', max_size=4) | _bounds}),
    st.fixed_dictionaries({"enum": st.lists(st.integers(-9, 9) | st.text("ab"), min_size=1)}),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["integer", "number"])},
        optional={
            "minimum": _bounds,
            "exclusiveMinimum": _bounds,
            "maximum": _bounds,
            "exclusiveMaximum": _bounds,
            "multipleOf": st.sampled_from([1, 3, 0.5]),
        },
    ),
    st.fixed_dictionaries(
        {"type": st.just("string")},
        optional={
            "minLength": _counts,
            "maxLength": _counts,
            "pattern": st.sampled_from(
                ["^a", "[a-h]$", "[0-9]", "^[^a]*$", "^(?=.*b)a", r"^(?!\.).", "[[&&]"]
            ),
            "format": st.sampled_from(["ipv4", "date", "uuid", "json-pointer", "path"]),
            "uniqueItems": st.booleans(),
            "minLenght": _counts,
        },
    ),
    st.just({"$ref": "#"}),
)
# A program that checks `not` of a reference to itself never ends.
_without_references = st.sampled_from([{}, {"type": "string"}, {"const": 1}, {"required": ["a"]}])
random_schemas = st.recursive(
    _leaves,
    lambda parts: st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("array")},
            optional={
                "items": parts,
                "prefixItems": st.lists(parts, max_size=2),
                "minItems": _counts,
                "maxItems": _counts,
                "uniqueItems": st.booleans(),
                "contains": parts,
                "unevaluatedItems": _without_references,
            },
        ),
        st.fixed_dictionaries(
            {"type": st.sampled_from(["object", ["object", "null"]])},
            optional={
                "properties": st.dictionaries(_names, parts, max_size=3),
                "required": st.lists(_names, max_size=3, unique=True),
                "additionalProperties": parts,
                "minProperties": _counts,
                "maxProperties": _counts,
                "propertyNames": st.sampled_from(
                    [
                        True,
                        {"type": "string"},
                        {"enum": ["a", "b", ""]},
                        {"pattern": "^[ab]"},
                        {"maxLength": 2},
                        {"const": "a", "minLength": 1},
                    ]
                ),
                "dependentRequired": st.dictionaries(
                    _names, st.lists(_names, max_size=2, unique=True), max_size=2
                ),
                "dependentSchemas": st.dictionaries(_names, parts, max_size=1),
                "unevaluatedProperties": _without_references,
            },
        ),
        st.fixed_dictionaries(dict.fromkeys(("not", "if", "then"), _without_references)),
        st.fixed_dictionaries({"anyOf": st.lists(parts, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"allOf": st.lists(parts, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"oneOf": st.lists(parts, min_size=1, max_size=2)}),
    ),
    max_leaves=6,
)
