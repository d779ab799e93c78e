"""JSON Schema as a request brings it: checked, and rewritten for llguidance to compile.

llguidance compiles a large part of JSON Schema (draft 2020-12). What it cannot follow and another
schema can say is rewritten here; what no schema that it takes can say is left out, and named in
`ReadSchema.ignored`. A schema is refused where it is none, where no answer can fulfil it, and where
llguidance would follow it otherwise than it is meant; each check below says why.
"""

import itertools
import re
from collections.abc import Iterator
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple
from urllib.parse import unquote

from llmstream_cli.core.grammar.schema_keywords import (
    ANNOTATIONS,
    COUNTS,
    FOLLOWED,
    IN_PLACE,
    MAX_COUNT,
    NAMES,
    bound_number,
    is_exact,
    is_followed,
    kinds_of,
    modernize,
    parts_of,
    pointer,
    scalars_of,
    schema_error,
    shown,
)
from llmstream_cli.core.grammar.schema_strings import (
    FORMATS,
    NARROWER,
    OF_THE_LIBRARY,
    UnsupportedPatternError,
    name_pattern,
    split_pattern,
)
from llmstream_cli.errors import SchemaError
from llmstream_cli.strict_json import StrictJSONError, check_depth, parse, without_strings

MAX_DEPTH = 96  # of brackets in the text; llguidance's parser ends at 128
MAX_PLACE = 1000  # characters of a JSON pointer into it
MAX_DEPENDENTS = 4  # of one object; each doubles its grammar
MAX_COMPARISONS = 2000  # of the choices of `oneOf`

_DRAFT = re.compile(r"https?://json-schema\.org/(draft-0[467]|draft/(2019-09|2020-12))/schema#?")
# Keywords that list what an object has, or may.
_LISTING = {"properties", "patternProperties", "required", "minProperties"}
_LISTING |= {"additionalProperties", "propertyNames"}
_COMBINING = {*IN_PLACE, "$ref", "dependentSchemas"} - {"allOf"}


class ReadSchema(NamedTuple):
    """A schema to compile."""

    # As llguidance follows it. Objects that list their properties get no others unless the schema
    # asks for them.
    schema: dict[str, Any]
    ignored: tuple[str, ...]  # JSON pointers to the keywords that answers need not fulfil
    places: tuple[str, ...]  # JSON pointers to the schemas in it, from without to within


@lru_cache(maxsize=4)  # a server reads it before the engine is asked, and for the header
def read_schema(text: str) -> ReadSchema:
    """Parse and check a JSON schema. The outcome is shared, and not to be changed.

    Raises:
        SchemaError: it is no JSON or no schema, or no answer could fulfil it; the message
            says where.
    """
    outside, _ = without_strings(text.encode("utf-8", "replace"))
    try:
        check_depth(outside, MAX_DEPTH)
        schema = parse(text)
    except StrictJSONError as error:
        raise schema_error(f"it {error}") from error
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise schema_error("it must be an object")
    if _DRAFT.fullmatch(str(schema.get("$schema"))):
        del schema["$schema"]
    reader = _Reader(schema)
    reader.read()
    return ReadSchema(schema, tuple(dict.fromkeys(reader.ignored)), tuple(reader.places))


class _Reader:
    """Checks a schema and all that are in it, and rewrites them in place."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.ignored: list[str] = []
        self.places: dict[str, dict[str, Any]] = {}  # the schemas by their JSON pointers
        self._root = root
        self._as_sent = dict(root)
        self._names: set[str] = set()  # that references may use
        self._targets: dict[str, str] = {}  # of the references, by the place where each stands
        self._comparisons = 0

    def read(self) -> None:
        self._walk(self._root, "")
        self._find_targets()
        self._refuse_loops()
        if not any(map(_combines_objects, self.places.values())):
            for schema in self.places.values():
                _close_object(schema)
        for where, schema in self.places.items():
            self._name_properties(schema, where)
            self._count_properties(schema, where)
            self._require_dependents(schema, where)
            pairs = itertools.combinations(self._parts(where, "oneOf"), 2)
            if not all(self._exclude(*pair) for pair in pairs):
                self._ignore(where, "oneOf")

    def _ignore(self, where: str, keyword: str) -> None:
        self.ignored.append(f"{where}/{pointer(keyword)}")

    # ---- each schema ----

    def _walk(self, schema: Any, where: str) -> None:
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            raise schema_error("a schema must be an object, true or false", where)
        if len(where) > MAX_PLACE:
            what = f"its place, with all names, has more than {MAX_PLACE} characters"
            raise schema_error(what, where)
        for keyword, mark in NAMES.items():
            if keyword in schema:
                self._names.add(f"{mark}{schema[keyword]}".removesuffix("#"))
        modernize(schema, where)
        self._check_keywords(schema, where)
        bound_number(schema, where)
        if not is_followed(schema.get("multipleOf", 1)):
            del schema["multipleOf"]
            self._ignore(where, "multipleOf")
        self._match_strings(schema, where)
        self.places[where] = schema
        for name, part in parts_of(schema):
            self._walk(part, f"{where}/{name}")
        self._walk_choices(schema.get("anyOf", []), f"{where}/anyOf")

    def _check_keywords(self, schema: dict[str, Any], where: str) -> None:
        for keyword, value in list(schema.items()):
            if keyword not in FOLLOWED:
                if keyword not in NAMES:
                    del schema[keyword]
                if keyword not in ANNOTATIONS and not keyword.startswith("x-"):
                    self._ignore(where, keyword)
                continue
            is_valid, wanted = FOLLOWED[keyword]
            if not is_valid(value):
                raise schema_error(f"{keyword} must be {wanted}", where)
            if keyword in COUNTS:
                schema[keyword] = min(int(value), MAX_COUNT)
            elif keyword == "enum":
                schema[keyword] = [*filter(is_exact, value)]

    def _walk_choices(self, choices: list[Any], where: str) -> None:
        """Leave out those with a pattern that cannot be followed, as long as others are left."""
        refused = None
        for index, choice in enumerate(choices):
            known, ignored = len(self.places), len(self.ignored)
            try:
                self._walk(choice, f"{where}/{index}")
            except UnsupportedPatternError as error:
                refused, choices[index] = error, False
                del self.ignored[ignored:]
                while len(self.places) > known:
                    self.places.popitem()
        if refused is not None and not any(choice is not False for choice in choices):
            raise refused

    def _match_strings(self, schema: dict[str, Any], where: str) -> None:
        """Write a format as a pattern, and a pattern as such as llguidance follows."""
        form = schema.pop("format", None)
        known = NARROWER.get(form, form)
        patterns = [f"^(?:{FORMATS[known]})$"] if known in FORMATS else []
        if known in OF_THE_LIBRARY:
            schema["format"] = known
        elif form is not None and not patterns:
            self._ignore(where, "format")
        try:
            if "pattern" in schema:
                patterns = split_pattern(schema.pop("pattern")) + patterns
        except UnsupportedPatternError as error:
            if not patterns and "format" not in schema:
                told = schema_error(str(error), f"{where}/pattern")
                raise UnsupportedPatternError(str(told)) from error
            self._ignore(where, "pattern")
        except SchemaError as error:
            raise schema_error(str(error), f"{where}/pattern") from error
        if patterns:
            schema["pattern"], *more = patterns
            _add_to_all_of(schema, *({"pattern": pattern} for pattern in more))

    # ---- references ----

    def _find_targets(self) -> None:
        """Find what references lead to; llguidance does so for those that name an `$id`."""
        waiting = list(self.places)
        while waiting:
            where, known = waiting.pop(), len(self.places)
            reference = self.places[where].get("$ref")
            if reference is None:
                continue
            base, _, fragment = reference.partition("#")
            place = unquote(fragment)
            if base or (place and place[0] != "/"):
                if reference in self._names or base in self._names:
                    continue
            elif place not in self.places:
                self._adopt(place)
            if base or place not in self.places:
                what = f"$ref {shown(reference)} leads to no schema in this one, as #/$defs/… would"
                raise schema_error(what, where)
            self._targets[where] = place
            waiting += list(self.places)[known:]

    def _adopt(self, place: str) -> None:
        """Take in a schema that stands where none is looked for, as in OpenAPI's `components`."""
        names = [name.replace("~1", "/").replace("~0", "~") for name in place.split("/")[1:]]
        value: Any = self._as_sent if names and names[0] not in FOLLOWED else None
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        if not isinstance(value, dict):
            return
        *around, last = names
        container = self._root
        for name in around:
            container = container.setdefault(name, {})
        container[last] = value
        self._walk(value, place)
        self.ignored = [other for other in self.ignored if other != f"/{pointer(names[0])}"]

    def _refuse_loops(self) -> None:
        """Refuse references that lead back with no value between, or that no value can end.

        What the first mean is undefined (JSON Schema core, 9.4.1), and programs that check answers
        hang.
        """
        for parts_of_place, what in (
            (self._same_value, "$ref leads back to itself with no value between"),
            (self._needs, "$ref leads to a schema that always asks for itself again"),
        ):
            parts = {place: [*parts_of_place(place)] for place in self.places}
            try:
                TopologicalSorter(parts).prepare()
            except CycleError as error:
                where = next(place for place in error.args[1] if place in self._targets)
                raise schema_error(what, where) from error

    def _same_value(self, place: str) -> Iterator[str]:
        """Yield the places of the schemas that are asked about the same value, or may be."""
        if place in self._targets:
            yield self._targets[place]
        for keyword in IN_PLACE:
            yield from self._parts(place, keyword)
        for name in self.places[place].get("dependentSchemas", ()):
            yield f"{place}/dependentSchemas/{pointer(name)}"

    def _needs(self, place: str) -> Iterator[str]:
        """Yield the places of other schemas that whatever fulfils a schema has to fulfil."""
        schema = self.places[place]
        kinds, listed = kinds_of(schema), schema.get("properties", {})
        if place in self._targets:
            yield self._targets[place]
        for keyword in IN_PLACE:
            parts = self._parts(place, keyword)
            yield from parts if keyword == "allOf" or len(parts) == 1 else ()
        if kinds == {"object"}:
            required = {*schema.get("required", ())}
            yield from (f"{place}/properties/{pointer(name)}" for name in required & {*listed})
            needs_others = required - {*listed} or schema.get("minProperties", 0) > len(listed)
            if needs_others and not schema.get("patternProperties"):
                yield f"{place}/additionalProperties"
        if kinds == {"array"}:
            count, prefix = schema.get("minItems", 0), self._parts(place, "prefixItems")
            yield from prefix[:count]
            if count > len(prefix):
                yield f"{place}/items"

    def _parts(self, place: str, keyword: str) -> list[str]:
        return [f"{place}/{keyword}/{n}" for n in range(len(self.places[place].get(keyword, ())))]

    # ---- objects and choices, when all schemas are known ----

    def _name_properties(self, schema: dict[str, Any], where: str) -> None:
        """Write what is asked of names as a pattern of `patternProperties`."""
        names, place = schema.pop("propertyNames", True), f"{where}/propertyNames"
        while isinstance(names, dict) and names.keys() == {"$ref"} and place in self._targets:
            place = self._targets[place]
            names = self.places[place]
        if names is True or (isinstance(names, dict) and not names.keys() - {"type"}):
            return
        pattern = name_pattern(names) if isinstance(names, dict) else None
        if pattern is None or schema.get("properties") or schema.get("patternProperties"):
            self._ignore(where, "propertyNames")
            return
        value = schema.get("additionalProperties", True)
        schema["additionalProperties"] = False
        if isinstance(names, dict) and not names.keys() - {"type", "enum"} and value is not False:
            # A pattern would still ask for one more when all of them have come.
            schema["properties"] = {name: value for name in names["enum"] if isinstance(name, str)}
        else:
            schema["patternProperties"] = {pattern: value}

    def _count_properties(self, schema: dict[str, Any], where: str) -> None:
        """Leave of the counts what llguidance can follow: where all that is listed is required."""
        listed, required = schema.get("properties", {}), set(schema.get("required", ()))
        optional = [name for name in listed if name not in required]
        low, high = schema.get("minProperties", 0), schema.get("maxProperties", MAX_COUNT)
        is_closed = schema.get("additionalProperties") is False
        is_closed &= not schema.get("patternProperties")
        if low <= len(required):
            schema.pop("minProperties", None)
        elif optional and low == len(required) + 1 and len(optional) <= MAX_DEPENDENTS**2:
            del schema["minProperties"]
            _add_to_all_of(schema, {"anyOf": [{"required": [name]} for name in optional]})
        if is_closed and len(listed.keys() | required) <= high:
            schema.pop("maxProperties", None)
        # Names that are not listed may come twice, and count as one.
        for keyword, is_lost in (
            ("minProperties", optional or low > len(required) + 1),
            ("maxProperties", optional),
        ):
            if is_lost and schema.pop(keyword, None) is not None:
                self._ignore(where, keyword)

    def _require_dependents(self, schema: dict[str, Any], where: str) -> None:
        """Write what a property asks of others as a choice: it is absent, or they are as asked."""
        for keyword in ("dependentRequired", "dependentSchemas"):
            asked = schema.pop(keyword, {})
            if len(asked) > MAX_DEPENDENTS:
                self._ignore(where, keyword)
                continue
            for name, part in asked.items():
                other = {"required": part} if keyword == "dependentRequired" else part
                _add_to_all_of(schema, {"anyOf": [other, {"properties": {name: False}}]})

    def _exclude(self, one: str, other: str, depth: int = 2) -> bool:
        """Tell whether no value can fulfil both of two schemas, as far as that is seen."""
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            return False
        at, at_other = self._behind_references(one), self._behind_references(other)
        first, second = self.places.get(at, {}), self.places.get(at_other, {})
        values, others = scalars_of(first), scalars_of(second)
        if values is not None and others is not None and not values & others:
            return True
        common = _with_integers(kinds_of(first)) & _with_integers(kinds_of(second))
        if common != {"object"} or not depth:
            return not common
        required = {*first.get("required", ()), *second.get("required", ())}
        both = required & first.get("properties", {}).keys() & second.get("properties", {}).keys()
        return any(
            self._exclude(f"{at}/{name}", f"{at_other}/{name}", depth - 1)
            for name in (f"properties/{pointer(name)}" for name in both)
        )

    def _behind_references(self, place: str) -> str:
        while place in self._targets and "type" not in self.places[place]:
            place = self._targets[place]
        return place


def _add_to_all_of(schema: dict[str, Any], *parts: dict[str, Any]) -> None:
    if parts:
        schema["allOf"] = [*schema.get("allOf", ()), *parts]


def _with_integers(kinds: set[str]) -> set[str]:
    return kinds | {"integer"} if "number" in kinds else kinds


def _combines_objects(schema: dict[str, Any]) -> bool:
    """Tell whether several schemas bind one object, and each may list a part of its properties."""
    return bool(schema.keys() & _LISTING and schema.keys() & _COMBINING) or any(
        isinstance(part, dict) and part.keys() & (_LISTING | _COMBINING | {"allOf"})
        for part in schema.get("allOf", ())
    )


def _close_object(schema: dict[str, Any]) -> None:
    """Leave properties out that are not listed, as llama.cpp does.

    A schema allows them by default, and whoever wrote it wants none: models invent them without
    end.
    """
    listed = schema.get("properties", {}).keys()
    is_open = schema.keys() & {*COUNTS, "additionalProperties", "patternProperties"}
    if listed and not is_open and listed >= set(schema.get("required", ())):
        schema["additionalProperties"] = False
