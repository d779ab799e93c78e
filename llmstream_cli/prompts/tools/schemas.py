"""The schemas of tools, as calls are written by them."""

import json
from dataclasses import replace
from typing import Any

from llmstream_cli.errors import InvalidValueError
from llmstream_cli.prompts.messages import Tool


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


def _error(tool: Tool, what: str) -> InvalidValueError:
    return InvalidValueError(f"tools: the parameters of {tool.name!r}: {what}", "tools")
