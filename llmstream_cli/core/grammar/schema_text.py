"""The text of a JSON schema, and what is said of one that is refused."""

import json
from typing import Any

from llmstream_cli.errors import SchemaError
from llmstream_cli.strict_json import StrictJSONError, check_depth, parse, without_strings

MAX_DEPTH = 96  # of brackets in the text; llguidance's parser ends at 128
_MAX_SHOWN = 60  # characters
_MAX_PLACE_SHOWN = 200


def schema_error(what: str, where: str = "") -> SchemaError:
    """Return the error that says what is wrong with the schema at a place."""
    at = f" at {cut(where, _MAX_PLACE_SHOWN)}" if where else ""
    return SchemaError(f"JSON schema{at}: {what}")


def cut(text: str, most: int = _MAX_SHOWN) -> str:
    """Return a text that fits into a message."""
    return text if len(text) <= most else f"{text[:most]}…"


def shown(name: object) -> str:
    """Return a value as JSON that fits into a message."""
    return cut(json.dumps(name))


def parse_schema(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        SchemaError: it is none, is nested too deeply, or names something twice.
    """
    outside, _ = without_strings(text.encode("utf-8", "replace"))
    try:
        check_depth(outside, MAX_DEPTH)
        return parse(text)
    except StrictJSONError as error:
        raise schema_error(f"it {error}") from error
