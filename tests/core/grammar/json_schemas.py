"""JSON schemas such as people write: what answers to them must fulfil is tested with these."""

from typing import Any

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
    "true": True,
    "any object": {"type": "object"},
    "any array": {"type": "array"},
    "string": STRING,
    "integer": INTEGER,
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "string or null": {"type": ["string", "null"]},
    "remarks": {"type": "boolean", "title": "Sure?", "default": True, "examples": [False]},
    "lengths": {"type": "string", "minLength": 3, "maxLength": 8},
    "long string": {"type": "string", "minLength": 200},
    "exactly one character": {"type": "string", "minLength": 1, "maxLength": 1},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
    "pattern inside": {"type": "string", "pattern": "[0-9]{2}", "maxLength": 40},
    "pattern of alternatives": {"type": "string", "pattern": "^(red|green|blue)( dark)?$"},
    "pattern of classes": {"type": "string", "pattern": "^\\w+\\.\\d{1,3}\\s?[^\\w]$"},
    "pattern and length": {"type": "string", "pattern": "^[a-z]+$", "minLength": 4, "maxLength": 6},
    "pattern with quotes": {"type": "string", "pattern": '^"\\\\[\\n\\t]"$'},
    "pattern of many bytes": {"type": "string", "pattern": "^[äöüß日本語😀]{3,5}$"},
    "byte": {"type": "integer", "minimum": 0, "maximum": 255},
    "signed": {"type": "integer", "minimum": -12, "maximum": -3},
    "exclusive": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5},
    "exclusive integers": {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 6},
    "percentage": {"type": "number", "minimum": -0.5, "maximum": 99.75},
    "large": {"type": "integer", "minimum": 2**53 - 3, "maximum": 2**53 - 1},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": -100, "maximum": 100},
    "quarters": {"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 10},
    "const": {"const": {"kind": "fixed", "list": [1, 2.5, None, True, "ä\n"]}},
    "enum": {"enum": ["red", "amber", "green", 0, None, [1], {"a": "b"}]},
    "enum with type": {"type": "string", "enum": ["yes", "no"]},
    "empty key": closed({"": INTEGER, 'quote"d': INTEGER, "new\nline": INTEGER, "日本": INTEGER}),
    "list": {"type": "array", "items": INTEGER, "minItems": 2, "maxItems": 4},
    "empty list": {"type": "array", "maxItems": 0},
    "long list": {"type": "array", "items": {"enum": [0, 1]}, "minItems": 30, "maxItems": 30},
    "matrix": {
        "type": "array",
        "minItems": 2,
        "maxItems": 2,
        "items": {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "number"}},
    },
    "tuple": {"type": "array", "prefixItems": [STRING, INTEGER], "items": False, "minItems": 2},
    "open tuple": {"type": "array", "prefixItems": [STRING], "items": {"type": "boolean"}},
    "tuple of draft 7": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [STRING, INTEGER],
        "additionalItems": False,
    },
    "person": closed({"name": STRING, "age": {"type": "integer", "minimum": 0, "maximum": 130}}),
    "optional": closed({"a": INTEGER, "b": INTEGER, "c": INTEGER}, "a", "c"),
    "all optional": closed({"a": INTEGER, "b": INTEGER}, "a", "b"),
    "open object": {"type": "object", "properties": {"id": INTEGER}, "required": ["id"]},
    "required but unlisted": {
        "type": "object",
        "required": ["id"],
        "additionalProperties": INTEGER,
    },
    "map": {"type": "object", "additionalProperties": INTEGER, "minProperties": 1},
    "short map": {"type": "object", "additionalProperties": INTEGER, "maxProperties": 2},
    "pattern properties": {
        "type": "object",
        "patternProperties": {"^x_": INTEGER, "^y_": STRING},
        "additionalProperties": False,
    },
    "nested": closed({"user": closed({"address": closed({"city": STRING, "zip": STRING}, "zip")})}),
    "list of objects": {
        "type": "array",
        "minItems": 1,
        "maxItems": 3,
        "items": closed({"item": STRING, "price": {"type": "number", "minimum": 0}}),
    },
    "anyOf": {"anyOf": [STRING, INTEGER, closed({"a": {"type": "null"}})]},
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
    "allOf of strings": {"allOf": [{"type": "string", "minLength": 2}, {"pattern": "^[xy]*$"}]},
    "defs": closed({"home": {"$ref": "#/$defs/place"}, "work": {"$ref": "#/$defs/place"}})
    | {"$defs": {"place": closed({"city": STRING, "floor": INTEGER}, "floor")}},
    "reference with more": {"$ref": "#/$defs/a", "maxLength": 4, "$defs": {"a": STRING}},
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
