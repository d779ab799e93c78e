"""The text of a JSON schema, and what is said of one that is refused."""

import json
import math
import re
from typing import Any, NoReturn

from llmstream_cli.errors import SchemaError

MAX_DEPTH = 96  # of brackets in the text; llguidance's parser ends at 128
_MAX_SHOWN = 60  # characters
_MAX_PLACE_SHOWN = 200

# A string that does not end matches to the end of the text: else the search would begin anew at
# each character of it, in quadratic time.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


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
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > MAX_DEPTH:
            raise schema_error(f"it is nested more than {MAX_DEPTH} deep")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_integer,
        )
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise schema_error("it contains half of a surrogate pair") from error
    except ValueError as error:
        raise schema_error(f"it is no valid JSON: {error}") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for name, value in pairs:
        if name in unique:
            raise schema_error(f"{shown(name)} stands twice in one object")
        unique[name] = value
    return unique


def _refuse(constant: str) -> NoReturn:
    raise schema_error(f"{constant} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise schema_error(f"{cut(digits)} is too large")
    return number


def _integer(digits: str) -> int:
    if len(digits) > _MAX_SHOWN * 6:  # more than any float64 has
        raise schema_error(f"{cut(digits)} is too large")
    return int(digits)
