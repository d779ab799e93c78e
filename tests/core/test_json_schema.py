"""Schemas as they are read and refused; what they compile to is in test_constraint.py."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.core.json_schema import MAX_DEPTH, read_schema
from llmstream_cli.errors import InvalidValueError

BAD_TEXTS = {
    "": "no valid JSON",
    "{": "no valid JSON",
    "{} {}": "no valid JSON",
    "\ufeff{}": "no valid JSON",
    '{"a" = 1}': "no valid JSON",
    "[]": "it must be an object",
    "false": "it must be an object",
    '"string"': "it must be an object",
    '{"type": "string", "type": "null"}': '"type" stands twice in one object',
    '{"const": NaN}': "NaN is no JSON",
    '{"const": -Infinity}': "-Infinity is no JSON",
    '{"const": 1e999}': "1e999 is too large",
    f'{{"const": {"1" * 5000}}}': "is too large",
    '{"const": "\\ud800"}': "half of a surrogate pair",
    '{"a":' * 97: f"nested more than {MAX_DEPTH} deep",
    "[" * 60_000: f"nested more than {MAX_DEPTH} deep",
    '{"const": "' + "\\" * 60_001: "no valid JSON",
}

STRING = {"type": "string"}

# A schema, and what is wrong with it where.
BAD_SCHEMAS: list[tuple[dict[str, Any], str]] = [
    *(
        ({keyword: value}, f'JSON schema: "{keyword}" is not supported')
        for keyword, value in {
            "not": STRING,
            "if": STRING,
            "then": STRING,
            "uniqueItems": True,
            "contains": STRING,
            "minContains": 1,
            "propertyNames": STRING,
            "dependentSchemas": {"a": STRING},
            "dependentRequired": {"a": ["b"]},
            "dependencies": {"a": ["b"]},
            "unevaluatedProperties": False,
            "unevaluatedItems": False,
            "$dynamicRef": "#node",
            "contentSchema": {},
            "nullable": True,
            "minLenght": 3,
            "x-guidance": {"lenient": True},
        }.items()
    ),
    ({"properties": {"a": {"items": {"not": {}}}}}, 'at /properties/a/items: "not" is not'),
    ({"anyOf": [{}, {"if": {}}]}, 'at /anyOf/1: "if" is not supported'),
    ({"$defs": {"a/b": {"$id": "x"}}}, 'at /$defs/a~1b: "$id" is not supported'),
    ({"properties": {"a": 5}}, "at /properties/a: a schema must be an object"),
    ({"properties": [STRING]}, "properties must be an object of schemas"),
    ({"anyOf": STRING}, "anyOf must be a list of schemas"),
    ({"required": "name"}, "required must be a list of names"),
    ({"required": [1]}, "required must be a list of names"),
    ({"minLength": -1}, "minLength must be an integer from 0"),
    ({"maxItems": 2.0}, "maxItems must be an integer from 0"),
    ({"maxItems": True}, "maxItems must be an integer from 0"),
    ({"maxLength": 2**31}, "maxLength must be an integer from 0 to 2147483647"),
    ({"minimum": "0"}, "minimum must be a number"),
    ({"minimum": True}, "minimum must be a number"),
    ({"maximum": 2**53}, "maximum may have numbers between"),
    ({"const": {"a": [2**60]}}, "const may have numbers between"),
    ({"enum": [0.30000000000000004]}, "enum may have numbers between"),
    ({"multipleOf": 0}, "multipleOf must be above 0"),
    ({"minProperties": 2}, "minProperties can ask for one property more"),
    ({"minProperties": 3, "required": ["a", "a"]}, "minProperties can ask for one property more"),
    ({"pattern": 5}, "at /pattern: pattern must be a string"),
    ({"pattern": "^(?=a)"}, "at /pattern: lookarounds and flags are not supported"),
    ({"pattern": "(?<!a)b"}, "at /pattern: lookarounds and flags are not supported"),
    ({"pattern": "(?i)a"}, "at /pattern: lookarounds and flags are not supported"),
    ({"pattern": "[a&&b]"}, "at /pattern: write \\["),
    ({"pattern": "[\\\\[a]"}, "at /pattern: write \\["),
    ({"pattern": "[]a]"}, "at /pattern: write \\]"),
    ({"pattern": "\\Aa\\z"}, "at /pattern: \\A is no escape"),
    ({"pattern": "\\x{41}"}, "at /pattern: \\x{ is no escape"),
    ({"$schema": "https://example.com/schema"}, '"$schema" names no draft'),
    ({"$schema": 7}, '"$schema" names no draft'),
    ({"$ref": "https://example.com/a.json"}, "leads to no schema in this one"),
    ({"$ref": "other.json#/a"}, "leads to no schema in this one"),
    ({"$ref": "#/$defs/a"}, "leads to no schema in this one"),
    ({"$ref": "#/examples/0", "examples": [{}]}, "leads to no schema in this one"),
    ({"$ref": "#anchor", "$defs": {"a": {"$anchor": "anchor"}}}, "leads to no schema in this one"),
    ({"$ref": 5}, "leads to no schema in this one"),
    ({"$ref": "#"}, "$ref leads back to itself with no value between"),
    ({"anyOf": [{"$ref": "#"}, STRING]}, "at /anyOf/0: $ref leads back to itself"),
    ({"items": {"allOf": [{"$ref": "#/items"}]}}, "at /items/allOf/0: $ref leads back to itself"),
    ({"properties": {"k" * 2000: {}}}, "more than 1000 characters"),
]


@pytest.mark.parametrize("text", BAD_TEXTS, ids=lambda text: text[:20])
def test_a_text_that_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        read_schema(text)
    assert BAD_TEXTS[text] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(("schema", "message"), BAD_SCHEMAS, ids=lambda part: str(part)[:50])
def test_what_cannot_be_promised_is_refused_with_its_place(
    schema: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidValueError) as caught:
        read_schema(json.dumps(schema))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


ENDLESS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    {"type": "object", "required": ["a"], "additionalProperties": {"$ref": "#"}},
    {"type": "object", "minProperties": 1, "additionalProperties": {"$ref": "#"}},
    {"type": "object", "minProperties": 2, "required": ["a"]}
    | {"properties": {"a": {}, "b": {"$ref": "#"}}, "additionalProperties": False},
    {"type": "array", "minItems": 1, "items": {"$ref": "#"}},
    {"type": "array", "minItems": 2, "prefixItems": [{}, {"$ref": "#"}]},
    {"allOf": [{}, {"type": "array", "minItems": 1, "items": {"oneOf": [{"$ref": "#"}]}}]},
    {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}
    | {
        "$defs": {
            "a": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/b"}},
            "b": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        }
    },
]
RECURSIVE: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"$ref": "#"}}},
    {"type": ["object", "null"], "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    {"type": "object", "minProperties": 1, "required": ["a"]}
    | {"properties": {"a": {}}, "additionalProperties": {"$ref": "#"}},
    {"type": "object", "minProperties": 1}
    | {"properties": {"a": {}, "b": {"$ref": "#"}}, "additionalProperties": {"$ref": "#"}},
    {"type": "object", "required": ["a"]}
    | {"patternProperties": {"^a": {}}, "additionalProperties": {"$ref": "#"}},
    {"type": "array", "items": {"$ref": "#"}},
    {"type": "array", "minItems": 1, "prefixItems": [{}, {"$ref": "#"}]},
    {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}], "$defs": {"a": {"items": {"$ref": "#"}}}},
    {"$ref": "#/$defs/a~1b%20~0c", "$defs": {"a/b ~c": {"type": "array", "items": {"$ref": "#"}}}},
]


@pytest.mark.parametrize("schema", ENDLESS, ids=str)
def test_a_schema_that_no_finite_value_fulfils_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError, match="always asks for itself again"):
        read_schema(json.dumps(schema))


@pytest.mark.parametrize("schema", RECURSIVE, ids=str)
def test_a_recursive_schema_with_an_end_is_taken(schema: dict[str, Any]) -> None:
    closes = "properties" in schema and "additionalProperties" not in schema
    closed = {"additionalProperties": False} if closes else {}
    assert read_schema(json.dumps(schema)).schema == schema | closed


@pytest.mark.parametrize("pattern", ["", "^[a-z]+$", r"[^\]\[]\d", r"(?:a|(?<x>b))\.", r"[a\-\-b]"])
def test_a_pattern_that_both_dialects_read_alike_is_taken(pattern: str) -> None:
    schema = {"type": "string", "pattern": pattern}
    assert read_schema(json.dumps(schema)).schema == schema


def test_remarks_are_taken() -> None:
    remarks = {
        "$comment": "x",
        "title": "x",
        "description": "not: a keyword",
        "default": {"not": 1},
        "examples": [{"if": 1}],
        "deprecated": True,
        "readOnly": False,
        "discriminator": {"propertyName": "kind"},
        "x-order": 3,
    }
    assert read_schema(json.dumps(STRING | remarks)).schema == STRING | remarks
    assert read_schema('{"properties": {"not": {}, "$id": {}}}')


def test_older_drafts_are_read_as_the_latest() -> None:
    draft = {"$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://example.com/x"}
    pair = {"type": "array", "items": [STRING, {}]}
    assert read_schema(json.dumps(draft | pair)).schema == {"type": "array", "prefixItems": [STRING, {}]}
    closed = pair | {"additionalItems": False}
    assert read_schema(json.dumps(closed)).schema["items"] is False
    assert read_schema('{"minimum": 3, "exclusiveMinimum": true}').schema == {"minimum": 3.000000000003}
    assert read_schema('{"minimum": 3, "exclusiveMinimum": false}').schema == {"minimum": 3}
    assert read_schema('{"uniqueItems": false}').schema == {}
    assert read_schema("true").schema == {}


def test_exclusive_bounds_become_the_next_number() -> None:
    read = read_schema('{"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": -3.5}').schema
    assert read == {"type": "integer", "minimum": 4, "maximum": -3.5000000000035}
    read = read_schema('{"exclusiveMinimum": 0, "minimum": 1, "exclusiveMaximum": 1e10}').schema
    assert read == {"minimum": 1, "maximum": 9999999999.99}


_SOME_KEYWORDS = ["type", "const", "enum", "anyOf", "allOf", "$ref", "properties", "required", "a"]
_SOME_KEYWORDS += ["items", "prefixItems", "$defs", "minItems", "minimum", "exclusiveMaximum"]
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda value: (
        st.lists(value, max_size=3)
        | st.dictionaries(
            st.sampled_from(_SOME_KEYWORDS),
            value,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_json)
def test_any_json_is_a_schema_or_refused_in_one_line(value: object) -> None:
    try:
        outcome = read_schema(json.dumps(value))
    except InvalidValueError as error:
        assert re.match(r"JSON schema[^\n]*$", str(error))  # noqa: PT017
    else:
        assert isinstance(outcome, dict)


LISTED = {"type": "object", "properties": {"a": STRING, "b": STRING}, "required": ["a"]}
CLOSED = LISTED | {"additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "read"),
    [
        (LISTED, CLOSED),
        ({"anyOf": [LISTED, STRING]}, {"anyOf": [CLOSED, STRING]}),
        (
            {"$ref": "#/$defs/x", "$defs": {"x": LISTED}},
            {"$ref": "#/$defs/x", "$defs": {"x": CLOSED}},
        ),
        ({"items": LISTED}, {"items": CLOSED}),
    ],
)
def test_an_object_that_lists_its_properties_gets_no_others(
    schema: dict[str, Any], read: dict[str, Any]
) -> None:
    assert read_schema(json.dumps(schema)).schema == read


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {}},
        LISTED | {"additionalProperties": True},
        LISTED | {"additionalProperties": STRING},
        LISTED | {"patternProperties": {"^x": STRING}},
        LISTED | {"required": ["a", "c"]},
        {"properties": {"a": STRING}, "minProperties": 1},
        {"properties": {"a": STRING}, "maxProperties": 2},
        {"allOf": [LISTED, {"properties": {"c": STRING}}]},
        LISTED | {"anyOf": [{"required": ["c"]}, {"required": ["d"]}]},
        {"required": ["c"], "oneOf": [LISTED]},
        {"required": ["c"], "$ref": "#/$defs/x", "$defs": {"x": LISTED}},
    ],
)
def test_objects_stay_open_where_other_properties_are_meant(schema: dict[str, Any]) -> None:
    assert read_schema(json.dumps(schema)).schema == schema
