"""Schemas as they are read and refused; what they compile to is in test_constraint.py."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.core.grammar.json_schema import MAX_DEPTH, read_schema
from llmstream_cli.core.grammar.schema_keywords import ANNOTATIONS, FOLLOWED, INTEGERS, REWRITTEN
from llmstream_cli.core.grammar.schema_strings import FORMATS, NARROWER, OF_THE_LIBRARY
from llmstream_cli.errors import InvalidValueError

DOCS = Path(__file__).parents[3] / "docs" / "structured-output.md"

BAD_TEXTS = {  # the parser has tests of its own
    "{": "is not JSON",
    "[]": "it must be an object",
    "false": "it must be an object",
    '{"type": "string", "type": "null"}': "names 'type' twice",
    "[" * 60_000: f"nested deeper than {MAX_DEPTH} levels",
}

STRING = {"type": "string"}

# A schema, and what is wrong with it where.
BAD_SCHEMAS: list[tuple[dict[str, Any], str]] = [
    ({"properties": {"a": 5}}, "at /properties/a: a schema must be an object"),
    ({"anyOf": STRING}, "anyOf must be a list of schemas"),
    ({"required": "name"}, "required must be a list of names"),
    ({"maxItems": True}, "maxItems must be an integer from 0"),
    ({"minLength": 2**31}, "minLength must be an integer from 0 to 2147483647"),
    ({"minimum": "0"}, "minimum must be a number"),
    ({"const": {"a": [2**60]}}, "const must be a value whose numbers are between"),
    ({"enum": [0.30000000000000004, 2**60]}, "enum must be a list of values, one whose numbers"),
    ({"multipleOf": 0}, "multipleOf must be a number above 0"),
    ({"pattern": 5}, "pattern must be a string"),
    ({"pattern": "a(?=a)"}, "at /pattern: lookarounds and flags are not supported"),
    ({"pattern": "(?<!a)b"}, "at /pattern: lookarounds and flags are not supported"),
    ({"pattern": "[]a]"}, "at /pattern: write \\]"),
    ({"pattern": "\\Aa\\z"}, "at /pattern: \\A is no escape"),
    ({"$ref": "https://example.com/a.json"}, "leads to no schema in this one"),
    ({"$ref": "#/examples/0", "examples": [{}]}, "leads to no schema in this one"),
    ({"$ref": "#/const/a", "const": {"a": {}}}, "leads to no schema in this one"),
    ({"$ref": "#nowhere"}, "leads to no schema in this one"),
    ({"type": "strin"}, "type must be one or more of string, number"),
    ({"minimum": 2**53}, "minimum is beyond 9007199254740991"),
    ({"pattern": r"\bword"}, "at /pattern: word boundaries and back references are not"),
    ({"pattern": "^(?=a)b|c"}, "at /pattern: lookarounds before alternatives are not supported"),
    ({"items": {"anyOf": [{"pattern": r"\b"}, False]}}, "at /items/anyOf/0/pattern: word bound"),
    ({"pattern": "[+--]"}, "at /pattern: write \\-"),
    ({"$ref": "#"}, "$ref leads back to itself with no value between"),
    ({"anyOf": [{"$ref": "#"}, STRING]}, "at /anyOf/0: $ref leads back to itself"),
    ({"items": {"allOf": [{"$ref": "#/items"}]}}, "at /items/allOf/0: $ref leads back to itself"),
    ({"properties": {"k" * 2000: {}}}, "more than 1000 characters"),
]


BAD = [*BAD_TEXTS.items(), *((json.dumps(schema), message) for schema, message in BAD_SCHEMAS)]


@pytest.mark.parametrize(("text", "message"), BAD, ids=lambda part: part[:50])
def test_what_cannot_be_promised_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        read_schema(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 350


ENDLESS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    {"type": "object", "required": ["a"], "additionalProperties": {"$ref": "#"}},
    {"type": "object", "minProperties": 1, "additionalProperties": {"$ref": "#"}},
    {"type": "array", "minItems": 1, "items": {"$ref": "#"}},
    {"type": "array", "minItems": 2, "prefixItems": [{}, {"$ref": "#"}]},
    {"allOf": [{}, {"type": "array", "minItems": 1, "items": {"oneOf": [{"$ref": "#"}]}}]},
    {"anyOf": [{"$ref": "#/$defs/a"}]}
    | {
        "$defs": {
            "a": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/b"}},
            "b": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]},
        }
    },
]
RECURSIVE: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"$ref": "#"}}},
    {"type": ["object", "null"], "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    {"type": "object", "minProperties": 1}
    | {"properties": {"a": {}, "b": {"$ref": "#"}}, "additionalProperties": {"$ref": "#"}},
    {"type": "object", "required": ["a"]}
    | {"patternProperties": {"^a": {}}, "additionalProperties": {"$ref": "#"}},
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
    assert read_schema(json.dumps(schema)).ignored == ()


@pytest.mark.parametrize("pattern", ["", "^[a-z]+$", r"[^\]\[]\d", r"(?:a|(?<x>b))\.", r"[a\-\-b]"])
def test_a_pattern_that_both_dialects_read_alike_is_taken(pattern: str) -> None:
    schema = {"type": "string", "pattern": pattern}
    assert read_schema(json.dumps(schema)).schema == schema


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
        assert isinstance(outcome.schema, dict)
        json.dumps(outcome.schema)


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
        {"allOf": [LISTED, {"properties": {"c": STRING}}]},
        LISTED | {"anyOf": [{"required": ["c"]}, {"required": ["d"]}]},
        {"required": ["c"], "oneOf": [LISTED]},
        {"required": ["c"], "$ref": "#/$defs/x", "$defs": {"x": LISTED}},
    ],
)
def test_objects_stay_open_where_other_properties_are_meant(schema: dict[str, Any]) -> None:
    assert read_schema(json.dumps(schema)).schema == schema


# ---- what is followed, and what is passed over ------------------------------------------------


OBJECT = {"type": "object"}
SMALL = {"type": "integer", "maximum": 9}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "integer", "format": "int8"}, {"minimum": -128, "maximum": 127}),
        (
            {"type": "integer", "format": "int32", "minimum": 5},
            {"minimum": 5, "maximum": 2**31 - 1},
        ),
        ({"type": "integer", "format": "uint64"}, {"minimum": 0}),
        ({"type": ["number", "null"], "format": "int64"}, {"type": ["integer", "null"]}),
        ({"type": "integer", "maximum": 2**63 - 1}, {}),
        ({"type": "integer", "minimum": -(2**60)}, {"minimum": -(2**53) + 1}),
        ({"type": "number", "maximum": 1.7976931348623157e308}, {}),
        ({"minimum": 1.2345678901234567}, {"minimum": 1.23456789012346}),
        ({"maximum": 1e-30}, {"maximum": 0.0}),
        ({"maxLength": 2**40, "minLength": 2.0}, {"maxLength": 2**31 - 1, "minLength": 2}),
        ({"enum": [1, 2**60, "a"]}, {"enum": [1, "a"]}),
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
        ({"enum": ["a"], "nullable": True}, {"enum": ["a", None]}),
        ({"const": "a", "nullable": True}, {"enum": ["a", None]}),
        ({"nullable": False}, {}),
        ({"anyOf": [STRING], "nullable": True}, {"anyOf": [STRING, {"type": "null"}]}),
        (
            {"$ref": "#/$defs/a", "nullable": True, "$defs": {"a": STRING}},
            {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]},
        ),
        ({"pattern": "[a&&b[~]"}, {"pattern": r"[a\&\&b\[\~]"}),
        (
            {"pattern": r"^(?=.*[A-Z])(?=.*\d).{8,}$"},
            {
                "pattern": "^(?:.*[A-Z])",
                "allOf": [{"pattern": r"^(?:.*\d)"}, {"pattern": "^.{8,}$"}],
            },
        ),
        (
            {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"\b"}]},
            {"anyOf": [{"type": "number"}, False]},
        ),
        ({"format": "iri"}, {"format": "uri"}),
        ({"format": "ulid"}, {"pattern": f"^(?:{FORMATS['ulid']})$"}),
        (
            {"format": "ulid", "pattern": "^0"},
            {"pattern": "^0", "allOf": [{"pattern": f"^(?:{FORMATS['ulid']})$"}]},
        ),
        (OBJECT | {"propertyNames": STRING, "additionalProperties": SMALL}, {}),
        (OBJECT | {"propertyNames": True}, {}),
        (
            OBJECT | {"propertyNames": {"enum": ["a", "b"]}},
            {"properties": {"a": True, "b": True}, "additionalProperties": False},
        ),
        (
            OBJECT | {"propertyNames": {"const": "a"}, "additionalProperties": SMALL},
            {"patternProperties": {"^(?:a)$": SMALL}, "additionalProperties": False},
        ),
        (
            OBJECT | {"propertyNames": {"$ref": "#/$defs/c"}, "$defs": {"c": {"enum": ["a"]}}},
            {"properties": {"a": True}, "additionalProperties": False},
        ),
        (
            OBJECT | {"propertyNames": {"type": "string", "pattern": "^a"}},
            {"patternProperties": {"^a": True}, "additionalProperties": False},
        ),
        (
            OBJECT | {"propertyNames": {"minLength": 2}, "additionalProperties": SMALL},
            {"patternProperties": {r"^[\s\S]{2,}$": SMALL}, "additionalProperties": False},
        ),
        (
            {"properties": {"a": {}}, "dependentRequired": {"a": ["b"]}},
            {"allOf": [{"anyOf": [{"required": ["b"]}, {"properties": {"a": False}}]}]},
        ),
        (
            {"dependencies": {"a": SMALL, "b": ["c"]}},
            {
                "allOf": [
                    {"anyOf": [{"required": ["c"]}, {"properties": {"b": False}}]},
                    {"anyOf": [SMALL, {"properties": {"a": False}}]},
                ]
            },
        ),
        (OBJECT | {"unevaluatedProperties": False}, {"additionalProperties": False}),
        ({"prefixItems": [STRING], "unevaluatedItems": False}, {"items": False}),
        ({"properties": {"a": {}}, "required": ["a"], "minProperties": 1}, {"required": ["a"]}),
        (
            {"properties": {"a": {}, "b": {}}, "minProperties": 1},
            {"allOf": [{"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}]},
        ),
        (CLOSED | {"maxProperties": 2}, CLOSED),
        ({"$ref": "#a", "$defs": {"x": {"$anchor": "a"}}}, {"$ref": "#a"}),
        ({"$ref": "a.json", "$defs": {"x": {"$id": "a.json"}}}, {"$ref": "a.json"}),
        ({"items": {"$recursiveRef": "#"}}, {"items": {"$ref": "#"}}),
        (
            {"$ref": "#/components/schemas/a", "components": {"schemas": {"a": STRING}}},
            {"$ref": "#/components/schemas/a", "components": {"schemas": {"a": STRING}}},
        ),
        ({"minimum": 3, "exclusiveMinimum": True}, {"minimum": 3.000000000003}),
        ({"minimum": 3, "exclusiveMinimum": False}, {"minimum": 3}),
        (
            {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": -3.5},
            {"minimum": 4, "maximum": -3.5000000000035},
        ),
        (
            {"exclusiveMinimum": 0, "minimum": 1, "exclusiveMaximum": 1e10},
            {"minimum": 1, "maximum": 9999999999.99},
        ),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "uniqueItems": False}, {}),
        (LISTED | {"allOf": [{"pattern": "a"}]}, CLOSED),
    ],
    ids=str,
)
def test_what_another_schema_can_say_is_written_so(
    schema: dict[str, Any], expected: dict[str, Any]
) -> None:
    read = read_schema(json.dumps(schema))
    assert read.ignored == ()
    assert read.schema | expected == read.schema


@pytest.mark.parametrize(
    ("schema", "ignored"),
    [
        ({"minLenght": 3, "x-order": 1, "title": "not: a keyword"}, ["/minLenght"]),
        ({"properties": {"a/b": {"items": {"not": {}}}}}, ["/properties/a~1b/items/not"]),
        ({"type": "string", "format": "path"}, ["/format"]),
        ({"type": "array", "uniqueItems": True}, ["/uniqueItems"]),
        ({"multipleOf": 0.07}, ["/multipleOf"]),
        ({"multipleOf": 1e-300}, ["/multipleOf"]),
        ({"contentSchema": {"type": "integer"}}, ["/contentSchema"]),
        ({"format": "email", "pattern": r"\b"}, ["/pattern"]),
        ({"properties": {"a": {}}, "propertyNames": {"enum": ["a"]}}, ["/propertyNames"]),
        ({"propertyNames": {"format": "uri"}}, ["/propertyNames"]),
        ({"properties": {"a": {}, "b": {}}, "minProperties": 2}, ["/minProperties"]),
        ({"properties": {"a": {}}, "maxProperties": 1}, ["/maxProperties"]),
        ({"additionalProperties": STRING, "minProperties": 3}, ["/minProperties"]),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, ["/oneOf"]),
        ({"oneOf": [LISTED, LISTED]}, ["/oneOf"]),
        ({"allOf": [STRING], "unevaluatedProperties": False}, ["/unevaluatedProperties"]),
        ({"dependentRequired": {name: [] for name in "abcde"}}, ["/dependentRequired"]),
        ({"$schema": "https://example.com/schema"}, ["/$schema"]),
        ({"anyOf": [{"pattern": r"\b", "if": {}}, {"else": {}}]}, ["/anyOf/1/else"]),
    ],
    ids=str,
)
def test_what_is_passed_over_is_named(schema: dict[str, Any], ignored: list[str]) -> None:
    assert list(read_schema(json.dumps(schema)).ignored) == ignored


@pytest.mark.parametrize(
    ("choices", "exclusive"),
    [
        ([STRING, SMALL, {"type": "null"}], True),
        ([{"const": 1}, {"const": 2.0}, {"enum": ["1", True]}], True),
        ([{"const": 1}, {"const": 1.0}], False),
        ([{"const": 1}, {"type": "number"}], False),
        ([{"const": "a"}, SMALL], True),
        ([LISTED | {"properties": {"a": {"const": n}}} for n in range(5)], True),
        ([LISTED | {"properties": {"a": {"const": n}}, "required": []} for n in range(5)], False),
        ([{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], True),
        ([{"const": n} for n in range(500)], False),  # too many to compare
    ],
    ids=lambda part: str(part)[:60],
)
def test_choices_that_exclude_each_other_are_seen(
    choices: list[dict[str, Any]], exclusive: bool
) -> None:
    defs = {"a": LISTED | {"properties": {"a": SMALL}}, "b": LISTED}
    read = read_schema(json.dumps({"oneOf": choices, "$defs": defs}))
    assert read.ignored == (() if exclusive else ("/oneOf",))


def documented(heading: str) -> set[str]:
    """Return the words in code of a table's first column."""
    rows = DOCS.read_text().partition(f"### {heading}\n")[2].partition("\n#")[0].splitlines()
    return {
        word
        for row in rows
        if row[:3] == "| `"
        for word in re.findall("`([^`]+)`", row.split("|")[1])
    }


def test_the_documentation_has_every_keyword_where_it_belongs() -> None:
    followed, passed_over = documented("Followed"), documented("Passed over")
    assert followed == FOLLOWED.keys() | REWRITTEN
    assert documented("Annotations") == ANNOTATIONS
    assert not passed_over & (followed | ANNOTATIONS)
    for keyword in passed_over:
        assert read_schema(json.dumps({"items": {keyword: {}}})).ignored == (f"/items/{keyword}",)
    for keyword in ANNOTATIONS:
        assert read_schema(json.dumps({"items": {keyword: "x"}})).ignored == ()


def test_the_documentation_has_every_keyword_that_there_is() -> None:
    known = documented("Followed") | documented("Annotations") | documented("Passed over")
    for validator in (jsonschema.Draft202012Validator, jsonschema.Draft7Validator):
        assert validator.VALIDATORS.keys() <= known


def test_the_documentation_has_every_format() -> None:
    assert documented("Formats") == {*FORMATS, *OF_THE_LIBRARY, *NARROWER, *INTEGERS}
