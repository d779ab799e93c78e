"""The keywords of JSON Schema: which are followed, what each must look like, and what it means.

`HELD` and `REWRITTEN` are followed, as far as docs/structured-output.md says; `ANNOTATIONS` assert
nothing. Every other word is passed over, and named in `ReadSchema.ignored`.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any

from llmstream_cli.core.grammar.schema_references import IN_PLACE, pointer
from llmstream_cli.core.grammar.schema_text import schema_error, shown

MAX_COUNT = 2**31 - 1
MAX_EXACT = 2**53 - 1  # larger integers are not exact in double precision, in which bounds are kept
MAX_DECIMALS = 20  # of a number in an answer

_DIGITS = 15  # of a number that is not whole, at most
_STEP = 1e-12  # between a number and the next, relative above 1; llguidance rounds smaller ones
_MAX_MULTIPLE, _MAX_MULTIPLE_DIGITS = 2**32, 9  # llguidance keeps `multipleOf` in 32 bits
_TYPES = ("string", "number", "integer", "boolean", "array", "object", "null")


# ---- the keywords ---------------------------------------------------------------------------
# Each check returns the value to go on with. `where` is the place of the schema.


def _type(value: Any, keyword: str, where: str) -> Any:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name in _TYPES for name in names):
        raise schema_error(f"{keyword} {shown(value)} is none of {', '.join(_TYPES)}", where)
    return value


def _count(value: Any, keyword: str, where: str) -> int:
    is_whole = type(value) is int or (type(value) is float and value.is_integer())
    if not is_whole or value < 0 or (value > MAX_COUNT and keyword.startswith("min")):
        raise schema_error(f"{keyword} must be an integer from 0 to {MAX_COUNT}", where)
    return min(int(value), MAX_COUNT)


def _bound(value: Any, keyword: str, where: str) -> Any:
    if keyword.startswith("exclusive") and isinstance(value, bool):
        return value  # draft 4
    if type(value) not in {int, float}:
        raise schema_error(f"{keyword} must be a number", where)
    if keyword == "multipleOf" and value <= 0:
        raise schema_error("multipleOf must be above 0", where)
    return value


def _const(value: Any, keyword: str, where: str) -> Any:
    if not _is_exact(value):
        raise schema_error(
            f"{keyword} may have numbers between -2**53 and 2**53, of up to {_DIGITS} digits", where
        )
    return value


def _enum(value: Any, keyword: str, where: str) -> list[Any]:
    """Leave out the values that llguidance would round."""
    if not isinstance(value, list) or not value:
        raise schema_error(f"{keyword} must be a list of values", where)
    return list(filter(_is_exact, value)) or [_const(value[0], keyword, where)]


def _names(value: Any, keyword: str, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise schema_error(f"{keyword} must be a list of names", where)
    return value


def _name_lists(value: Any, keyword: str, where: str) -> dict[str, list[str]]:
    if not isinstance(value, dict):
        raise schema_error(f"{keyword} must be an object of lists of names", where)
    return {name: _names(names, keyword, where) for name, names in value.items()}


def _string(value: Any, keyword: str, where: str) -> str:
    if not isinstance(value, str):
        raise schema_error(f"{keyword} must be a string", where)
    return value


def _schemas(value: Any, keyword: str, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise schema_error(f"{keyword} must be a list of schemas", where)
    return value


def _named_schemas(value: Any, keyword: str, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise schema_error(f"{keyword} must be an object of schemas", where)
    return value


def _as_it_is(value: Any, _keyword: str, _where: str) -> Any:
    return value


_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_PARTS = ("items", "additionalProperties", "propertyNames")
_LISTS = (*IN_PLACE, "prefixItems")
_MAPS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")

HELD: dict[str, Callable[[Any, str, str], Any]] = {
    **dict.fromkeys(_COUNTS, _count),
    **dict.fromkeys(BOUNDS, _bound),
    **dict.fromkeys(_PARTS, _as_it_is),
    **dict.fromkeys(_LISTS, _schemas),
    **dict.fromkeys(_MAPS, _named_schemas),
    "type": _type,
    "const": _const,
    "enum": _enum,
    "required": _names,
    "dependentRequired": _name_lists,
    "pattern": _string,
    "format": _string,
    "$ref": _string,
}
# Words of older drafts and of OpenAPI 3.0, written as those above.
REWRITTEN = frozenset(
    ("additionalItems", "dependencies", "nullable", "$recursiveRef", "$dynamicRef")
) | frozenset(("unevaluatedItems", "unevaluatedProperties", "contentMediaType", "contentSchema"))
ANNOTATIONS = frozenset(
    ("$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$comment", "$vocabulary")
) | frozenset(("title", "description", "default", "example", "examples", "deprecated", "readOnly"))
ANNOTATIONS |= frozenset(
    ("writeOnly", "discriminator", "externalDocs", "xml", "contentEncoding", "propertyOrdering")
)
_UNEVALUATED = {"unevaluatedItems": "items", "unevaluatedProperties": "additionalProperties"}
_NOT_ABOUT_OBJECTS = ANNOTATIONS | {*BOUNDS, "pattern", "format", "minLength", "maxLength"}


def modernize(schema: dict[str, Any], where: str) -> None:
    """Write what older drafts and OpenAPI 3.0 say in the words of draft 2020-12."""
    if isinstance(schema.get("items"), list):
        schema["prefixItems"] = schema.pop("items")
        if "additionalItems" in schema:
            schema["items"] = schema["additionalItems"]
    schema.pop("additionalItems", None)  # means nothing where the items are no list
    for keyword in ("$recursiveRef", "$dynamicRef"):
        if keyword in schema and "$ref" not in schema:
            schema["$ref"] = schema.pop(keyword)
    dependencies = _named_schemas(schema.pop("dependencies", {}), "dependencies", where)
    for name, asked in dependencies.items():
        word = "dependentRequired" if isinstance(asked, list) else "dependentSchemas"
        schema.setdefault(word, {})[name] = asked
    for word, known in _UNEVALUATED.items():
        if word in schema and not schema.keys() & {*IN_PLACE, "$ref", "if", "dependentSchemas"}:
            schema.setdefault(known, schema.pop(word))
    if schema.get("uniqueItems") is False:
        del schema["uniqueItems"]
    if schema.pop("nullable", False) is True:
        _allow_null(schema)


def _allow_null(schema: dict[str, Any]) -> None:
    null = {"type": "null"}
    if isinstance(kinds := schema.get("type"), str | list):
        kinds = kinds if isinstance(kinds, list) else [kinds]
        schema["type"] = [*kinds, *({"null"} - set(map(str, kinds)))]
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    if isinstance(values := schema.get("enum"), list) and None not in values:
        schema["enum"] = [*values, None]
    for keyword in ("anyOf", "oneOf"):
        if isinstance(schema.get(keyword), list) and null not in schema[keyword]:
            schema[keyword] = [*schema[keyword], null]
    parts = [{"$ref": schema.pop("$ref")}] if "$ref" in schema else []
    if isinstance(schema.get("allOf", []), list):
        parts += schema.pop("allOf", [])
    if parts:
        schema["allOf"] = [{"anyOf": [part, null]} for part in parts]


def parts_of(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the schemas in a schema but for its choices, with their places in it."""
    for keyword in _PARTS:
        if keyword in schema:
            yield keyword, schema[keyword]
    for keyword in ("oneOf", "allOf", "prefixItems"):
        for index, part in enumerate(schema.get(keyword, ())):
            yield f"{keyword}/{index}", part
    for keyword in _MAPS:
        for name, part in schema.get(keyword, {}).items():
            yield f"{keyword}/{pointer(name)}", part


def kinds_of(schema: Mapping[str, Any]) -> set[str]:
    """Return the types that a value can have."""
    if (values := scalars_of(schema)) is not None and "type" not in schema:
        return {kind for kind, _ in values}
    kinds = schema.get("type", _TYPES)
    return {kinds} if isinstance(kinds, str) else set(kinds)


def with_integers(kinds: set[str]) -> set[str]:
    """Return types, integers among them where there are numbers."""
    return kinds | {"integer"} if "number" in kinds else kinds


def scalars_of(schema: Mapping[str, Any]) -> set[tuple[str, str]] | None:
    """Return the scalars that a value has to be one of, with their types; None if others can be."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is None or any(isinstance(value, list | dict) for value in values):
        return None
    kinds = {bool: "boolean", str: "string", type(None): "null", int: "integer", float: "number"}
    whole = (int(v) if isinstance(v, float) and v.is_integer() else v for v in values)
    return {(kinds[type(value)], json.dumps(value)) for value in whole}


def _is_exact(value: Any) -> bool:
    """Tell whether llguidance does not round any number in a value."""
    if isinstance(value, list | dict):
        return all(map(_is_exact, value.values() if isinstance(value, dict) else value))
    if not isinstance(value, int | float):
        return True
    return abs(value) <= MAX_EXACT and value == _rounded(value)


def is_followed(multiple: float) -> bool:
    """Tell whether llguidance finds the decimal digits of a number."""
    number, digits = float(multiple), 0
    while not number.is_integer() and digits < _MAX_MULTIPLE_DIGITS:
        number, digits = number * 10, digits + 1
    return number.is_integer() and number < _MAX_MULTIPLE


def include_bounds(schema: dict[str, Any]) -> None:
    """Write exclusive bounds as the next number that is allowed.

    llguidance lets 0 pass between an exclusive minimum of 0 and a maximum of 0.5; and a number such
    as 0.99999999999999999999, which is below 1, is 1 to most who read it.
    """
    for keyword, inclusive, sign, innermost in (
        ("exclusiveMinimum", "minimum", 1, max),
        ("exclusiveMaximum", "maximum", -1, min),
    ):
        bound = schema.pop(keyword, False)
        if bound is True:  # draft 4
            bound = schema.get(inclusive, False)
        if bound is not False:
            whole = "number" not in kinds_of(schema) and bound == int(bound)
            bound += sign * (1 if whole else max(1.0, abs(bound)) * _STEP)
            schema[inclusive] = innermost(_rounded(bound), schema.get(inclusive, bound))


def _rounded(number: float) -> float:
    return number if isinstance(number, int) else float(f"{number:.{_DIGITS}g}")


def inwards(bound: float, sign: int) -> float:
    """Round a bound to digits that llguidance keeps and answers have: up where `sign` is 1."""
    if isinstance(bound, int):
        return bound
    rounding = ROUND_CEILING if sign > 0 else ROUND_FLOOR
    number = Context(prec=_DIGITS, rounding=rounding).create_decimal(repr(bound))
    step = Decimal(1).scaleb(-MAX_DECIMALS)
    if number != 0 and abs(number) < 1:
        number = number.quantize(step, rounding=rounding)
    return float(number)


def close_objects(schemas: Collection[dict[str, Any]]) -> None:
    """Leave properties out that are not listed, as llama.cpp does.

    A schema allows them by default, and whoever wrote it wants none: models invent them without
    end. Where several schemas bind one object, each lists a part of its properties, and all stay
    as they are.
    """
    about_objects = {"properties", "patternProperties", "required", "minProperties", *_PARTS}
    for schema in schemas:
        parts = [part for part in schema.get("allOf", ()) if isinstance(part, dict)]
        if any(part.keys() - _NOT_ABOUT_OBJECTS for part in parts):
            return
        others = schema.keys() & {"$ref", "dependentSchemas", "anyOf", "oneOf"}
        if others and schema.keys() & about_objects:
            return
    for schema in schemas:
        listed = schema.get("properties", {}).keys()
        if (
            listed
            and not schema.keys() & {*_COUNTS, "additionalProperties", "patternProperties"}
            and listed >= set(schema.get("required", ()))
        ):
            schema["additionalProperties"] = False
