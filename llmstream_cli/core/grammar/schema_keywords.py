"""The keywords of JSON Schema: which are followed, what each must look like, and what it means.

`FOLLOWED` and `REWRITTEN` are followed, as far as docs/structured-output.md says; `ANNOTATIONS`
assert nothing. Every other word is passed over, and named in `ReadSchema.ignored`.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any

from llmstream_cli.errors import SchemaError

MAX_COUNT = 2**31 - 1
MAX_EXACT = 2**53 - 1  # larger integers are not exact in double precision, in which bounds are kept
MAX_DECIMALS = 20  # of a number in an answer
MAX_INTEGER = 2**63 - 1  # in an answer, or as good as
MAX_NUMBER = 1e308  # in an answer

_DIGITS = 15  # of a number that is not whole, at most
_STEP = 1e-12  # between a number and the next, relative above 1; llguidance rounds smaller ones
_MAX_MULTIPLE, _MAX_MULTIPLE_DIGITS = 2**32, 9  # llguidance keeps `multipleOf` in 32 bits
_MAX_SHOWN, _MAX_PLACE_SHOWN = 60, 200  # characters
_TYPES = ("string", "number", "integer", "boolean", "array", "object", "null")


def schema_error(what: str, where: str = "") -> SchemaError:
    """Return the error that says what is wrong with the schema at a place."""
    at = f" at {_cut(where, _MAX_PLACE_SHOWN)}" if where else ""
    return SchemaError(f"JSON schema{at}: {what}")


def shown(value: object) -> str:
    """Return a value as JSON that fits into a message."""
    return _cut(json.dumps(value), _MAX_SHOWN)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def pointer(name: str) -> str:
    """Write a name as a part of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


# ---- the keywords ---------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return type(value) in {int, float}


def _is_maximum(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value % 1 == 0


def _is_minimum(value: Any) -> bool:
    return _is_maximum(value) and value <= MAX_COUNT


def _is_type(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(name in _TYPES for name in names)


def _is_name_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def is_exact(value: Any) -> bool:
    """Tell whether llguidance does not round any number in a value, nor crash of it."""
    if isinstance(value, list | dict):
        return all(map(is_exact, value.values() if isinstance(value, dict) else value))
    if not isinstance(value, int | float):
        return True
    rounded = value if isinstance(value, int) else float(f"{value:.{_DIGITS}g}")
    return abs(value) <= MAX_EXACT and value == rounded


_EXACTLY = f"whose numbers are between -2**53 and 2**53, of up to {_DIGITS} digits"
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
IN_PLACE = ("anyOf", "oneOf", "allOf")  # lists of schemas for the same value
_PARTS = ("items", "additionalItems", "additionalProperties", "propertyNames")
_MAPS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")

FOLLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    **{
        word: (
            _is_minimum if word[:3] == "min" else _is_maximum,
            f"an integer from 0 to {MAX_COUNT}",
        )
        for word in COUNTS
    },
    **dict.fromkeys(("minimum", "maximum"), (_is_number, "a number")),
    **dict.fromkeys(
        ("exclusiveMinimum", "exclusiveMaximum"),
        (lambda value: isinstance(value, bool) or _is_number(value), "a number"),
    ),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    **dict.fromkeys(_PARTS, (lambda _: True, "a schema")),
    **dict.fromkeys(
        (*IN_PLACE, "prefixItems"), (lambda value: isinstance(value, list), "a list of schemas")
    ),
    **dict.fromkeys(_MAPS, (lambda value: isinstance(value, dict), "an object of schemas")),
    "type": (_is_type, f"one or more of {', '.join(_TYPES)}"),
    "const": (is_exact, f"a value {_EXACTLY}"),
    "enum": (
        lambda value: isinstance(value, list) and any(map(is_exact, value)),
        f"a list of values, one {_EXACTLY} at least",
    ),
    "required": (_is_name_list, "a list of names"),
    "dependentRequired": (
        lambda value: isinstance(value, dict) and all(map(_is_name_list, value.values())),
        "an object of lists of names",
    ),
    **dict.fromkeys(
        ("pattern", "format", "$ref"), (lambda value: isinstance(value, str), "a string")
    ),
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words of older drafts and of OpenAPI 3.0, written as those above.
REWRITTEN = _words(
    "dependencies nullable $recursiveRef $dynamicRef unevaluatedItems unevaluatedProperties"
)
# What a reference may name, and what it has before the name.
NAMES = {"$id": "", "$anchor": "#", "$dynamicAnchor": "#"}
ANNOTATIONS = NAMES.keys() | _words(
    "id $recursiveAnchor $comment $vocabulary title description default example examples deprecated"
    " readOnly writeOnly discriminator externalDocs xml contentEncoding contentMediaType"
    " propertyOrdering"
)


def modernize(schema: dict[str, Any], where: str) -> None:
    """Write what older drafts and OpenAPI 3.0 say in words that llguidance follows."""
    for keyword in ("$recursiveRef", "$dynamicRef"):
        if keyword in schema and "$ref" not in schema:
            schema["$ref"] = schema.pop(keyword)
    dependencies = schema.pop("dependencies", {})
    if not isinstance(dependencies, dict):
        raise schema_error("dependencies must be an object of schemas", where)
    for name, asked in dependencies.items():
        word = "dependentRequired" if isinstance(asked, list) else "dependentSchemas"
        schema.setdefault(word, {})[name] = asked
    if not schema.keys() & {*IN_PLACE, "$ref", "if", "dependentSchemas"}:
        others = "additionalItems" if isinstance(schema.get("items"), list) else "items"
        for word, known in (
            ("unevaluatedItems", others),
            ("unevaluatedProperties", "additionalProperties"),
        ):
            if word in schema:
                schema.setdefault(known, schema.pop(word))
    if schema.get("uniqueItems") is False:
        del schema["uniqueItems"]
    if schema.pop("nullable", False) is True:
        _allow_null(schema)


def _allow_null(schema: dict[str, Any]) -> None:
    """Add `null` to the values and the types, or else to what the choices and references allow."""
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    if isinstance(values := schema.get("enum"), list) and None not in values:
        schema["enum"] = [*values, None]
    if isinstance(kinds := schema.get("type"), str | list):
        kinds = kinds if isinstance(kinds, list) else [kinds]
        schema["type"] = kinds if "null" in kinds else [*kinds, "null"]
    elif isinstance(choices := schema.get("anyOf", schema.get("oneOf")), list):
        if {"type": "null"} not in choices:
            choices.append({"type": "null"})
    elif other := {word: schema.pop(word) for word in ("allOf", "$ref") if word in schema}:
        schema["anyOf"] = [other, {"type": "null"}]


def parts_of(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the schemas in a schema but for its choices, with their places in it."""
    for keyword in (*_PARTS, "oneOf", "allOf", "prefixItems"):
        part = schema.get(keyword)
        if isinstance(part, list):
            yield from ((f"{keyword}/{index}", one) for index, one in enumerate(part))
        elif keyword in schema:
            yield keyword, part
    for keyword in _MAPS:
        for name, part in schema.get(keyword, {}).items():
            yield f"{keyword}/{pointer(name)}", part


# ---- what a value can be --------------------------------------------------------------------


def kinds_of(schema: Mapping[str, Any]) -> set[str]:
    """Return the types that a value can have."""
    if (values := scalars_of(schema)) is not None and "type" not in schema:
        return {kind for kind, _ in values}
    kinds = schema.get("type", _TYPES)
    return {kinds} if isinstance(kinds, str) else set(kinds)


def scalars_of(schema: Mapping[str, Any]) -> set[tuple[str, str]] | None:
    """Return the scalars that a value has to be one of, with their types; None if others can be."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is None or any(isinstance(value, list | dict) for value in values):
        return None
    kinds = {bool: "boolean", str: "string", type(None): "null", int: "integer", float: "number"}
    whole = (int(v) if isinstance(v, float) and v.is_integer() else v for v in values)
    return {(kinds[type(value)], json.dumps(value)) for value in whole}


# ---- numbers --------------------------------------------------------------------------------

INTEGERS: dict[str, tuple[int | None, int | None]] = {  # formats, and their bounds
    **{f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32)},
    **{f"uint{bits}": (0, 2**bits - 1) for bits in (8, 16, 32)},
    "int64": (None, None),  # no answer has an integer beyond it
    "uint64": (0, None),
}


def is_followed(multiple: float) -> bool:
    """Tell whether llguidance finds the decimal digits of a `multipleOf`."""
    number, digits = float(multiple), 0
    while not number.is_integer() and digits < _MAX_MULTIPLE_DIGITS:
        number, digits = number * 10, digits + 1
    return number.is_integer() and number < _MAX_MULTIPLE


def bound_number(schema: dict[str, Any], where: str) -> None:
    """Write bounds as inclusive ones, rounded inwards to digits that llguidance keeps.

    It lets 0 pass between an exclusive minimum of 0 and a maximum of 0.5; and a number such as
    0.99999999999999999999, which is below 1, is 1 to most who read it.
    """
    kinds, limits = kinds_of(schema), INTEGERS["int64"]
    if schema.get("format") in INTEGERS and "type" in schema and kinds & {"integer", "number"}:
        limits = INTEGERS[schema.pop("format")]
        kinds = (kinds - {"number"}) | {"integer"}
        schema["type"] = sorted(kinds)
    # A maximum is read as the minimum of the negative number.
    for sign, inclusive, exclusive, limit in (
        (1, "minimum", "exclusiveMinimum", limits[0]),
        (-1, "maximum", "exclusiveMaximum", limits[1]),
    ):
        given, outside = schema.pop(inclusive, None), schema.pop(exclusive, None)
        if isinstance(outside, bool):  # draft 4
            given, outside = (None, given) if outside else (given, None)
        bounds = [sign * bound for bound in (given, limit) if bound is not None]
        if outside is not None:
            is_whole = "number" not in kinds and outside % 1 == 0
            step = 1 if is_whole else max(1.0, abs(outside)) * _STEP
            bounds.append(sign * outside + step)
        bound = _round_up(max(bounds, default=-math.inf))
        if bound > MAX_EXACT:
            what = f"{inclusive} is beyond {sign * MAX_EXACT}, the last exact one"
            raise schema_error(what, where)
        if bound > -(MAX_NUMBER if "number" in kinds else MAX_INTEGER):  # as all answers are
            schema[inclusive] = sign * max(bound, -MAX_EXACT)


def _round_up(number: float) -> float:
    if isinstance(number, int) or math.isinf(number):
        return number
    rounded = Context(prec=_DIGITS, rounding=ROUND_CEILING).create_decimal(repr(number))
    if rounded != 0 and abs(rounded) < 1:
        rounded = rounded.quantize(Decimal(1).scaleb(-MAX_DECIMALS), rounding=ROUND_CEILING)
    return float(rounded)
