"""JSON Schema as a request brings it, checked before it is compiled.

llguidance compiles a large part of JSON Schema (draft 2020-12), refuses the keywords that it knows
and cannot follow, and takes a word that it does not know for a remark. Here such a word is refused
as well: it may be a misspelt keyword, and an answer that breaks it would look as if it had been
checked. So is what llguidance takes but cannot promise; each check below says why.
"""

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, NoReturn
from urllib.parse import unquote

from llmstream_cli.errors import InvalidValueError

MAX_DEPTH = 96  # of brackets in the text; llguidance's parser ends at 128
MAX_PLACE = 1000  # characters of a JSON pointer into it
MAX_COUNT = 2**31 - 1
MAX_EXACT = 2**53 - 1  # larger integers are not exact in double precision, in which bounds are kept

_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_PARTS = ("items", "additionalItems", "additionalProperties")
_IN_PLACE = ("anyOf", "oneOf", "allOf")  # lists of schemas for the same value
_LISTS_OF_PARTS = (*_IN_PLACE, "prefixItems")
_MAPS_OF_PARTS = ("properties", "patternProperties", "$defs", "definitions")
_OTHERS = ("type", "const", "enum", "$ref", "required", "pattern", "format")
_KEYWORDS = frozenset((*_COUNTS, *_BOUNDS, *_PARTS, *_LISTS_OF_PARTS, *_MAPS_OF_PARTS, *_OTHERS))
_REMARKS = frozenset(
    ("$anchor", "$comment", "title", "description", "default", "example", "examples")
) | frozenset(
    ("deprecated", "readOnly", "writeOnly", "discriminator", "contentEncoding", "contentMediaType")
)
_DRAFT = re.compile(r"https?://json-schema\.org/(draft-0[467]|draft/(2019-09|2020-12))/schema#?")

_DIGITS = 15  # of a number that is not whole, at most
_STEP = 1e-12  # between a number and the next, relative above 1; llguidance rounds smaller ones

# A string or a class that does not end matches to the end of the text: else the search would begin
# anew at each character of it, in quadratic time.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)
_ESCAPE_CLASS_OR_FLAG = re.compile(
    r"\\(?:x\{|.)|\[\^?\]?((?:\\.|[^\]\\])*+)(?:\]|\\?\Z)|\(\?(?!:|<\w)", re.DOTALL
)
_ESCAPE = re.compile(r"\\.", re.DOTALL)
_SET_OPERATION = re.compile(r"\[|&&|--|~~")

_MAX_SHOWN = 60  # characters

# A schema with its place in the whole, as a JSON pointer (RFC 6901).
_Places = dict[str, dict[str, Any]]


def read_schema(text: str) -> dict[str, Any]:
    """Parse and check a JSON schema.

    Args:
        text: JSON.

    Returns:
        The schema in draft 2020-12, for llguidance to compile; `true` becomes `{}`. Objects that
        list their properties get no others unless the schema asks for them.

    Raises:
        InvalidValueError: it is no JSON or no schema, or asks for what cannot be promised; the
            message says where.
    """
    schema = _parse(text)
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise _error("it must be an object")
    draft = schema.pop("$schema", None)
    if draft is not None and not (isinstance(draft, str) and _DRAFT.fullmatch(draft)):
        raise _error('"$schema" names no draft from 4 to 2020-12')
    for keyword in ("$id", "id"):  # deeper down they would change what `#` means, and are refused
        schema.pop(keyword, None)
    places = dict(_check(schema, ""))
    _check_references(places)
    _close_objects(places.values())
    return schema


def _error(what: str, where: str = "") -> InvalidValueError:
    at = f" at {_cut(where)}" if where else ""
    return InvalidValueError(f"JSON schema{at}: {what}")


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _shown(name: object) -> str:
    return _cut(json.dumps(name))


def _parse(text: str) -> Any:
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > MAX_DEPTH:
            raise _error(f"it is nested more than {MAX_DEPTH} deep")
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
        raise _error("it contains half of a surrogate pair") from error
    except ValueError as error:
        raise _error(f"it is no valid JSON: {error}") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for name, value in pairs:
        if name in unique:
            raise _error(f"{_shown(name)} stands twice in one object")
        unique[name] = value
    return unique


def _refuse(constant: str) -> NoReturn:
    raise _error(f"{constant} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _error(f"{_cut(digits)} is too large")
    return number


def _integer(digits: str) -> int:
    if len(digits) > _MAX_SHOWN:
        raise _error(f"{_cut(digits)} is too large")
    return int(digits)


def _check(schema: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Check a schema and those in it; yield each with its place."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise _error("a schema must be an object, true or false", where)
    if len(where) > MAX_PLACE:
        raise _error(f"its place, with all names, has more than {MAX_PLACE} characters", where)
    if schema.get("uniqueItems") is False:
        del schema["uniqueItems"]
    for keyword in schema:
        remark = keyword in _REMARKS or (keyword.startswith("x-") and keyword != "x-guidance")
        if keyword not in _KEYWORDS and not remark:
            raise _error(f"{_shown(keyword)} is not supported", where)
    _check_numbers(schema, where)
    _include_bounds(schema)
    _check_object(schema, where)
    if "pattern" in schema:
        _check_pattern(schema["pattern"], f"{where}/pattern")
    _modernize_items(schema)
    yield where, schema
    for name, part in _parts(schema, where):
        yield from _check(part, f"{where}/{name}")


def _parts(schema: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    """Yield the schemas in a schema, with their places in it."""
    for keyword in _PARTS:
        if keyword in schema:
            yield keyword, schema[keyword]
    for keyword in _LISTS_OF_PARTS:
        parts = schema.get(keyword, [])
        if not isinstance(parts, list):
            raise _error(f"{keyword} must be a list of schemas", where)
        yield from ((f"{keyword}/{index}", part) for index, part in enumerate(parts))
    for keyword in _MAPS_OF_PARTS:
        named = schema.get(keyword, {})
        if not isinstance(named, dict):
            raise _error(f"{keyword} must be an object of schemas", where)
        for name, part in named.items():
            yield f"{keyword}/{_pointer(name)}", part


def _modernize_items(schema: dict[str, Any]) -> None:
    """Write a list of items as draft 2020-12 does: llguidance would take it for a remark."""
    if isinstance(schema.get("items"), list):
        schema["prefixItems"] = schema.pop("items")
        if "additionalItems" in schema:
            schema["items"] = schema["additionalItems"]
    schema.pop("additionalItems", None)  # means nothing where the items are no list


def _check_numbers(schema: Mapping[str, Any], where: str) -> None:
    for keyword in _COUNTS:
        count = schema.get(keyword, 0)
        if type(count) is not int or not 0 <= count <= MAX_COUNT:
            raise _error(f"{keyword} must be an integer from 0 to {MAX_COUNT}", where)
    for keyword in _BOUNDS:
        bound = schema.get(keyword, 1)
        if keyword.startswith("exclusive") and isinstance(bound, bool):
            continue  # draft 4
        if type(bound) not in {int, float}:
            raise _error(f"{keyword} must be a number", where)
        _check_exact(bound, keyword, where)
        if keyword == "multipleOf" and bound <= 0:
            raise _error("multipleOf must be above 0", where)
    for keyword in ("const", "enum"):
        for number in _numbers(schema.get(keyword)):
            _check_exact(number, keyword, where)


def _check_exact(number: float, keyword: str, where: str) -> None:
    """Refuse numbers that llguidance would round."""
    if abs(number) > MAX_EXACT or number != _rounded(number):
        raise _error(
            f"{keyword} may have numbers between -2**53 and 2**53, of up to {_DIGITS} digits", where
        )


def _include_bounds(schema: dict[str, Any]) -> None:
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
            whole = schema.get("type") == "integer" and bound == int(bound)
            bound += sign * (1 if whole else max(1.0, abs(bound)) * _STEP)
            schema[inclusive] = innermost(_rounded(bound), schema.get(inclusive, bound))


def _rounded(number: float) -> float:
    return number if isinstance(number, int) else float(f"{number:.{_DIGITS}g}")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)


def _check_object(schema: Mapping[str, Any], where: str) -> None:
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise _error("required must be a list of names", where)
    # Names that the schema does not list may come twice, and then count as one.
    if schema.get("minProperties", 0) > len(set(required)) + 1:
        raise _error("minProperties can ask for one property more than required lists", where)


def _check_pattern(pattern: Any, where: str) -> None:
    """Refuse what ECMA-262, whose expressions JSON Schema means, reads otherwise than Rust."""
    if not isinstance(pattern, str):
        raise _error("pattern must be a string", where)
    for part in _ESCAPE_CLASS_OR_FLAG.finditer(pattern):
        if part[0] == "(?":
            raise _error("lookarounds and flags are not supported", where)
        if part[0] in {"\\A", "\\z", "\\a", "\\x{"}:
            raise _error(f"{part[0]} is no escape in a JSON schema", where)
        if part[0].startswith(("[]", "[^]")):
            raise _error("write \\] for this character in a class", where)
        if part[1] and _SET_OPERATION.search(_ESCAPE.sub("", part[1])):
            raise _error("write \\[, \\&, \\- and \\~ for these characters in a class", where)


def _check_references(places: _Places) -> None:
    """Refuse references that lead nowhere, or to a schema that always asks for itself again."""
    targets: dict[str, str] = {}  # of the references, by the place where each stands
    for where, schema in places.items():
        if "$ref" in schema:
            reference = schema["$ref"]
            inside = isinstance(reference, str) and reference.startswith("#")
            place = unquote(reference[1:]) if inside else None
            if place not in places:
                raise _error(
                    f"$ref {_shown(reference)} leads to no schema in this one, as #/$defs/… would",
                    where,
                )
            targets[where] = place
    _check_loops(places, targets)
    finite = _finite_places(places, targets)
    for where, place in targets.items():
        if place not in finite:
            raise _error("$ref leads to a schema that always asks for itself again", where)


def _check_loops(places: _Places, targets: Mapping[str, str]) -> None:
    """Refuse references that lead to themselves about one and the same value.

    What they mean is undefined (JSON Schema core, 9.4.1), and programs that check answers hang.
    """
    same_value = {
        place: [
            *(f"{place}/{key}/{n}" for key in _IN_PLACE for n in range(len(schema.get(key, ())))),
            *([targets[place]] if place in targets else []),
        ]
        for place, schema in places.items()
    }
    try:
        TopologicalSorter(same_value).prepare()
    except CycleError as error:
        where = next(place for place in error.args[1] if place in targets)
        raise _error("$ref leads back to itself with no value between", where) from error


def _finite_places(places: _Places, targets: Mapping[str, str]) -> set[str]:
    """Return the places of the schemas that a value of finite size could fulfil."""
    users: dict[str, list[str]] = {}
    for where, place in targets.items():
        users.setdefault(place, []).append(where)
    endless = set(places)
    waiting = list(places)  # the last first: parts come after what they are part of
    examined: set[str] = set()
    while waiting:
        place = waiting.pop()
        examined.add(place)
        if place not in endless or targets.get(place) in endless:
            continue
        if _is_finite(places[place], place, endless):
            endless.remove(place)
            # To look again at what waits for its first look would take quadratic time.
            waiting += examined.intersection(users.get(place, ()))
            waiting += examined.intersection(_around(place, places))
    return places.keys() - endless


def _around(place: str, places: _Places) -> Iterator[str]:
    """Yield the place of the schema that the one at `place` is a part of."""
    while place:
        place = place.rpartition("/")[0]
        if place in places:
            yield place
            return


def _is_finite(schema: Mapping[str, Any], place: str, endless: set[str]) -> bool:
    """Tell whether a value of finite size could fulfil a schema, given which others are endless."""

    def all_end(names: Iterable[str]) -> bool:
        return not any(f"{place}/{name}" in endless for name in names)

    def one_ends(names: Collection[str]) -> bool:
        return not names or not all(f"{place}/{name}" in endless for name in names)

    same_value = {key: [f"{key}/{n}" for n in range(len(schema.get(key, ())))] for key in _IN_PLACE}
    if not (all_end(same_value["allOf"]) and all(map(one_ends, same_value.values()))):
        return False
    types = schema.get("type", "string")
    for kind in types if isinstance(types, list) else [types]:
        if kind == "object":
            if all(map(one_ends, _choices_of_properties(schema))):
                return True
        elif kind == "array":
            count, prefix = schema.get("minItems", 0), len(schema.get("prefixItems", ()))
            names = [f"prefixItems/{index}" for index in range(min(count, prefix))]
            if all_end(names + ["items"] * (count > prefix)):
                return True
        else:
            return True
    return "const" in schema or "enum" in schema


def _choices_of_properties(schema: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield for each property that an object must have the schemas one of which is its own.

    What a pattern could match is not asked, and so nothing is said of it: to try a stranger's
    expression can take for ever.
    """
    properties, required = schema.get("properties", {}), schema.get("required", ())
    has_patterns = bool(schema.get("patternProperties"))
    others = [] if has_patterns else ["additionalProperties"]
    for name in required:
        yield [f"properties/{_pointer(name)}"] if name in properties else others
    if schema.get("minProperties", 0) > len(set(required)) and not has_patterns:
        more = [f"properties/{_pointer(name)}" for name in properties.keys() - required]
        yield more if schema.get("additionalProperties") is False else more + others


def _close_objects(schemas: Collection[dict[str, Any]]) -> None:
    """Leave properties out that are not listed, as llama.cpp does.

    A schema allows them by default, and whoever wrote it wants none: models invent them without
    end. Where several schemas bind one object, each lists a part of its properties, and all stay
    as they are.
    """
    about_objects = {"properties", "patternProperties", "required", "minProperties", *_PARTS}
    for schema in schemas:
        if "allOf" in schema or (
            schema.keys() & {"$ref", *_IN_PLACE} and schema.keys() & about_objects
        ):
            return
    for schema in schemas:
        listed = schema.get("properties", {}).keys()
        if (
            listed
            and not schema.keys() & {*_COUNTS, "additionalProperties", "patternProperties"}
            and listed >= set(schema.get("required", ()))
        ):
            schema["additionalProperties"] = False


def _pointer(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
