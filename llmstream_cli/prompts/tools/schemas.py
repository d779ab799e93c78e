"""The schemas of tools, as calls are written by them."""

import json
from dataclasses import replace
from typing import Any, NamedTuple

from llmstream_cli.errors import InvalidValueError
from llmstream_cli.prompts.messages import Tool

# Keywords that say nothing of what a value may be.
_ANNOTATIONS = {"title", "description", "default", "examples", "deprecated", "readOnly"}
_ANNOTATIONS |= {"writeOnly", "$comment", "$id", "$schema", "$defs", "definitions"}
_DEFINITIONS = ("$defs", "definitions")
_OF_PLAIN_OBJECTS = {"type", "properties", "required", "additionalProperties", "x-guidance"}


class Property(NamedTuple):
    """An argument that is written by itself."""

    name: str
    schema: dict[str, Any]
    required: bool


def object_schema(tool: Tool) -> Tool:
    """Return a tool whose schema allows nothing but objects.

    Raises:
        InvalidValueError: the schema is none of objects.
    """
    schema = read_parameters(tool)
    if schema.get("type") != "object":
        tool = replace(tool, parameters=json.dumps(schema | {"type": "object"}))
    return tool


def read_parameters(tool: Tool) -> dict[str, Any]:
    """Return the schema of a tool's arguments.

    Raises:
        InvalidValueError: it is none of objects.
    """
    try:
        schema = json.loads(tool.parameters)
    except (ValueError, RecursionError) as error:
        raise _error(tool, "is no JSON") from error
    if not isinstance(schema, dict) or schema.get("type", "object") not in ("object", ["object"]):
        raise _error(tool, 'must be a JSON schema with "type": "object"')
    return schema


def read_properties(tool: Tool) -> list[Property]:
    """Return the arguments that a tool's schema lists.

    Raises:
        InvalidValueError: it says more than what each of them may be.
    """
    schema = read_parameters(tool)
    if unknown := sorted(set(schema) - _OF_PLAIN_OBJECTS - _ANNOTATIONS):
        raise _error(
            tool, f"this model writes each argument by itself, so {unknown[0]!r} is not supported"
        )
    return list_properties(schema)


def list_properties(schema: dict[str, Any]) -> list[Property]:
    """Return what a schema of objects lists, each with the definitions that it may refer to."""
    required = schema.get("required", [])
    listed = schema.get("properties", {})
    properties = listed | {name: {} for name in required if name not in listed}
    defined = {key: schema[key] for key in _DEFINITIONS if key in schema}
    return [
        Property(name, part | defined if isinstance(part, dict) else {}, name in required)
        for name, part in properties.items()
        if part is not False
    ]


def text_choices(schema: dict[str, Any]) -> list[str] | None:
    """Return the strings that a value may be: none in particular if the list is empty.

    None is returned where it may be something else, or the schema asks for more.
    """
    says = set(schema) - _ANNOTATIONS
    if schema.get("type", "string") != "string":
        return None
    if says == {"type"}:
        return []
    choices = [schema["const"]] if "const" in says else schema.get("enum", [])
    if says - {"type"} in ({"const"}, {"enum"}) and all(isinstance(one, str) for one in choices):
        return list(choices) or None
    return None


def plain_type(schema: dict[str, Any]) -> str | None:
    """Return the type of a value, where its schema says no more than what is in it."""
    says = set(schema) - _ANNOTATIONS
    kind = schema.get("type")
    if kind == "array":
        return "array" if says == {"type", "items"} and isinstance(schema["items"], dict) else None
    if kind == "object":
        return "object" if {"type", "properties"} <= says <= _OF_PLAIN_OBJECTS else None
    return kind if says == {"type"} and isinstance(kind, str) else None


def as_tool(tool: Tool, schema: dict[str, Any]) -> Tool:
    return replace(tool, parameters=json.dumps(schema, ensure_ascii=False))


def _error(tool: Tool, what: str) -> InvalidValueError:
    return InvalidValueError(f"tools: the parameters of {tool.name!r}: {what}", "tools")
