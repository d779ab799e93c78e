"""JSON Schema as a request brings it: checked, and rewritten for llguidance to compile.

llguidance compiles a large part of JSON Schema (draft 2020-12). What it cannot follow and another
schema can say is rewritten here; what no schema that it takes can say is left out, and named in
`ReadSchema.ignored`. A schema is refused where it is none, where no answer can fulfil it, and where
llguidance would follow it otherwise than it is meant; each check below says why.
"""

import itertools
import re
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from llmstream_cli.core.grammar.schema_keywords import (
    ANNOTATIONS,
    BOUNDS,
    HELD,
    MAX_COUNT,
    MAX_EXACT,
    close_objects,
    include_bounds,
    inwards,
    is_followed,
    kinds_of,
    modernize,
    parts_of,
    scalars_of,
    with_integers,
)
from llmstream_cli.core.grammar.schema_references import Places, find_endless, find_loop, pointer
from llmstream_cli.core.grammar.schema_strings import (
    FORMATS,
    INTEGERS,
    NARROWER,
    OF_THE_LIBRARY,
    UnsupportedPatternError,
    json_text,
    split_pattern,
)
from llmstream_cli.core.grammar.schema_text import parse_schema, schema_error, shown
from llmstream_cli.errors import SchemaError

MAX_PLACE = 1000  # characters of a JSON pointer into it
MAX_INTEGER = 2**63 - 1  # in an answer, or as good as
MAX_NUMBER = 1e308  # in an answer
MAX_DEPENDENTS = 4  # of one object; each doubles its grammar
MAX_COMPARISONS = 2000  # of the choices of `oneOf`

_SAFE = "/$~"  # in a fragment of a URI
_DRAFT = re.compile(r"https?://json-schema\.org/(draft-0[467]|draft/(2019-09|2020-12))/schema#?")


class ReadSchema(NamedTuple):
    """A schema to compile."""

    # In draft 2020-12, as far as llguidance follows it. Objects that list their properties get no
    # others unless the schema asks for them.
    schema: dict[str, Any]
    ignored: tuple[str, ...]  # JSON pointers to the keywords that answers need not fulfil
    places: tuple[str, ...]  # JSON pointers to the schemas in it, from without to within


@lru_cache(maxsize=4)  # a server reads it before the engine is asked, and for the header
def read_schema(text: str) -> ReadSchema:
    """Parse and check a JSON schema. The outcome is shared, and not to be changed.

    Args:
        text: JSON.

    Raises:
        SchemaError: it is no JSON or no schema, or no answer could fulfil it; the message
            says where.
    """
    schema = parse_schema(text)
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise schema_error("it must be an object")
    if _DRAFT.fullmatch(str(schema.get("$schema"))):
        del schema["$schema"]
    reader = _Reader(schema)
    reader.read()
    return ReadSchema(schema, tuple(dict.fromkeys(reader.ignored)), reader.places)


class _Reader:
    """Checks a schema and all that are in it, and rewrites them in place."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.ignored: list[str] = []
        self._root = root
        self._as_sent = dict(root)
        self._places: Places = {}
        self._names = {"": ""}  # the places that `$id` and `$anchor` name
        self._targets: dict[str, str] = {}  # of the references, by the place where each stands
        self._moved: dict[str, str] = {}  # places, and where llguidance finds what stands there
        self._comparisons = 0

    def read(self) -> None:
        self._walk(self._root, "")
        self._find_targets()
        if (where := find_loop(self._places, self._targets)) is not None:
            raise schema_error("$ref leads back to itself with no value between", where)
        if (where := find_endless(self._places, self._targets)) is not None:
            raise schema_error("$ref leads to a schema that always asks for itself again", where)
        close_objects(self._places.values())
        for where, schema in self._places.items():
            self._name_properties(schema, where)
            self._count_properties(schema, where)
            self._require_dependents(schema, where)
            if not self._are_disjoint(f"{where}/oneOf", len(schema.get("oneOf", ()))):
                self._ignore(where, "oneOf")
        for where, place in self._targets.items():
            self._places[where]["$ref"] = f"#{quote(self._location(place), safe=_SAFE)}"

    @property
    def places(self) -> tuple[str, ...]:
        return tuple(map(self._location, self._places))

    def _ignore(self, where: str, keyword: str) -> None:
        self.ignored.append(f"{where}/{pointer(keyword)}")

    # ---- each schema ----

    def _walk(self, schema: Any, where: str) -> None:
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            raise schema_error("a schema must be an object, true or false", where)
        if len(where) > MAX_PLACE:
            raise schema_error(
                f"its place, with all names, has more than {MAX_PLACE} characters", where
            )
        self._note_names(schema, where)
        modernize(schema, where)
        texts = self._take_content(schema, where)
        for keyword in list(schema):
            if keyword in HELD:
                schema[keyword] = HELD[keyword](schema[keyword], keyword, where)
                continue
            del schema[keyword]
            if keyword not in ANNOTATIONS and not keyword.startswith("x-"):
                self._ignore(where, keyword)
        self._bound_numbers(schema, where)
        self._match_strings(schema, where, texts)
        self._places[where] = schema
        for name, part in parts_of(schema):
            self._walk(part, f"{where}/{name}")
        self._walk_choices(schema.get("anyOf", []), f"{where}/anyOf")

    def _note_names(self, schema: dict[str, Any], where: str) -> None:
        for keyword, mark in (("$id", ""), ("id", ""), ("$anchor", "#"), ("$dynamicAnchor", "#")):
            if isinstance(name := schema.get(keyword), str):
                self._names[mark + name.removesuffix("#")] = where

    def _walk_choices(self, choices: list[Any], where: str) -> None:
        """Leave out those with a pattern that cannot be followed, as long as others are left."""
        refused = None
        for index, choice in enumerate(choices):
            known, ignored = len(self._places), len(self.ignored)
            try:
                self._walk(choice, f"{where}/{index}")
            except UnsupportedPatternError as error:
                refused, choices[index] = error, False
                del self.ignored[ignored:]
                while len(self._places) > known:
                    self._places.popitem()
        if refused is not None and not any(choice is not False for choice in choices):
            raise refused

    def _bound_numbers(self, schema: dict[str, Any], where: str) -> None:
        kinds, limits = kinds_of(schema), INTEGERS.get(schema.get("format", ""))
        if limits is not None and "type" in schema and kinds & {"integer", "number"}:
            del schema["format"]
            schema["type"] = sorted((kinds - {"number"}) | {"integer"})
            for keyword, limit, inner in zip(BOUNDS, limits, (max, min), strict=False):
                if limit is not None:
                    schema[keyword] = inner(limit, schema.get(keyword, limit))
        include_bounds(schema)
        for keyword, sign in (("minimum", 1), ("maximum", -1)):
            bound = sign * inwards(schema.get(keyword, 0), sign)
            if bound > MAX_EXACT:
                raise schema_error(
                    f"{keyword} is beyond {sign * MAX_EXACT}, the last exact one", where
                )
            if bound <= -(MAX_NUMBER if "number" in kinds else MAX_INTEGER):
                del schema[keyword]  # no answer has a number beyond it
            elif keyword in schema:
                schema[keyword] = sign * max(bound, -MAX_EXACT)
        if not is_followed(schema.get("multipleOf", 1)):
            del schema["multipleOf"]
            self._ignore(where, "multipleOf")

    def _take_content(self, schema: dict[str, Any], where: str) -> list[str]:
        """Return the expression for what a string has in it, if anything is asked of that."""
        media, content = schema.pop("contentMediaType", None), schema.pop("contentSchema", True)
        texts, held = list[str](), content is True
        if media == "application/json" and "contentEncoding" not in schema:
            text, held = json_text(content)
            texts.append(text)
        if not held:
            self._ignore(where, "contentSchema")
        return texts

    def _match_strings(self, schema: dict[str, Any], where: str, texts: list[str]) -> None:
        """Write formats, and what a string has in it, as patterns."""
        form = schema.pop("format", None)
        known = NARROWER.get(form, form)
        if known in FORMATS:
            texts.append(FORMATS[known])
        elif known in OF_THE_LIBRARY:
            schema["format"] = known
        elif form is not None:
            self._ignore(where, "format")
        patterns = [f"^(?:{text})$" for text in texts]
        try:
            if "pattern" in schema:
                patterns = split_pattern(schema["pattern"]) + patterns
        except UnsupportedPatternError as error:
            if not patterns and "format" not in schema:
                told = schema_error(str(error), f"{where}/pattern")
                raise UnsupportedPatternError(str(told)) from error
            del schema["pattern"]
            self._ignore(where, "pattern")
        except SchemaError as error:
            raise schema_error(str(error), f"{where}/pattern") from error
        if patterns:
            schema["pattern"] = patterns[0]
        if patterns[1:]:
            more = ({"pattern": pattern} for pattern in patterns[1:])
            schema["allOf"] = [*schema.get("allOf", ()), *more]

    # ---- references ----

    def _find_targets(self) -> None:
        waiting = [where for where, schema in self._places.items() if "$ref" in schema]
        while waiting:
            where = waiting.pop()
            reference, known = self._places[where]["$ref"], len(self._places)
            place = self._find(reference)
            if place not in self._places:
                raise schema_error(
                    f"$ref {shown(reference)} leads to no schema in this one, as #/$defs/… would",
                    where,
                )
            self._targets[where] = place
            if len(self._places) > known:  # `_find` has looked where nobody had
                new = list(self._places.items())[known:]
                waiting += [where for where, schema in new if "$ref" in schema]

    def _find(self, reference: str) -> str | None:
        """Return the place that a reference means."""
        base, _, fragment = reference.partition("#")
        if base not in self._names or (fragment and not fragment.startswith("/")):
            return self._names.get(reference)
        place = self._names[base] + unquote(fragment)
        if place not in self._places:
            self._adopt(place)
        return place

    def _adopt(self, place: str) -> None:
        """Take in a schema that stands where none is looked for, as in OpenAPI's `components`."""
        names = [name.replace("~1", "/").replace("~0", "~") for name in place.split("/")[1:]]
        value: Any = self._as_sent if names and names[0] not in HELD else None
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, dict):
            self._move(place, value)
            self._walk(value, place)
            container = f"/{pointer(names[0])}"
            self.ignored = [other for other in self.ignored if other != container]

    def _move(self, place: str, schema: Any) -> str:
        self._root.setdefault("$defs", {})[place] = schema
        self._moved[place] = f"/$defs/{pointer(place)}"
        return self._moved[place]

    def _location(self, place: str) -> str:
        """Return where llguidance finds what stood at a place."""
        around = place
        while around and around not in self._moved:
            around = around.rpartition("/")[0]
        return self._moved.get(around, around) + place[len(around) :]

    # ---- objects and choices, when all schemas are known ----

    def _name_properties(self, schema: dict[str, Any], where: str) -> None:
        """Write what is asked of names as the properties, or the pattern, that this leaves."""
        names, place = schema.pop("propertyNames", True), f"{where}/propertyNames"
        while isinstance(names, dict) and names.keys() == {"$ref"}:
            place = self._targets[place]
            names = self._places[place]
        words = set(names) - {"type"} if isinstance(names, dict) else {str(names)} - {"True"}
        if words and words <= {"minLength", "maxLength"}:
            bounds = f"{names.get('minLength', 0)},{names.get('maxLength', '')}"
            names, words = {"pattern": rf"^[\s\S]{{{bounds}}}$"}, {"pattern"}
        others = schema.get("additionalProperties", True)
        if not words:
            return
        if schema.get("properties") or schema.get("patternProperties"):
            self._ignore(where, "propertyNames")
        elif words == {"pattern"}:
            schema["patternProperties"] = {names["pattern"]: others}
            schema["additionalProperties"] = False
        elif words in ({"enum"}, {"const"}):
            if others and others is not True:
                moved = self._move(f"{where}/additionalProperties", others)
                others = {"$ref": f"#{quote(moved, safe=_SAFE)}"}
            values = names.get("enum", [names.get("const")])
            schema["properties"] = {name: others for name in values if isinstance(name, str)}
            schema["additionalProperties"] = False
        else:
            self._ignore(where, "propertyNames")

    def _count_properties(self, schema: dict[str, Any], where: str) -> None:
        """Leave of the counts what llguidance can follow: where all that is listed is required."""
        listed, required = schema.get("properties", {}), set(schema.get("required", ()))
        optional = [name for name in listed if name not in required]
        low, high = schema.get("minProperties", 0), schema.get("maxProperties", MAX_COUNT)
        is_closed = (
            schema.get("additionalProperties") is False and "patternProperties" not in schema
        )
        if low <= len(required):
            schema.pop("minProperties", None)
        elif optional and low == len(required) + 1 and len(optional) <= MAX_DEPENDENTS**2:
            del schema["minProperties"]
            one = {"anyOf": [{"required": [name]} for name in optional]}
            schema["allOf"] = [*schema.get("allOf", ()), one]
        elif low > len(required) + 1:  # names that are not listed may come twice, and count as one
            self._ignore(where, "minProperties")
        if (
            is_closed
            and "patternProperties" not in schema
            and len(listed.keys() | required) <= high
        ):
            schema.pop("maxProperties", None)
        if optional:
            for keyword in schema.keys() & {"minProperties", "maxProperties"}:
                del schema[keyword]
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
                choice = {"anyOf": [other, {"properties": {name: False}}]}
                schema["allOf"] = [*schema.get("allOf", ()), choice]

    def _are_disjoint(self, place: str, count: int) -> bool:
        """Tell whether no value can fulfil two of so many schemas, as far as that is seen."""
        pairs = itertools.combinations((f"{place}/{index}" for index in range(count)), 2)
        return all(self._exclude(one, other) for one, other in pairs)

    def _exclude(self, one: str, other: str, depth: int = 2) -> bool:
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            return False
        schemas = []
        for place in (one, other):
            at = place
            while at in self._targets and "type" not in self._places[at]:
                at = self._targets[at]
            schemas.append((at, self._places.get(at, {})))
        (at, first), (at_other, second) = schemas
        common = with_integers(kinds_of(first)) & with_integers(kinds_of(second))
        values, others = scalars_of(first), scalars_of(second)
        if values is not None and others is not None and not values & others:
            return True
        if common != {"object"} or not depth:
            return not common
        required = {*first.get("required", ()), *second.get("required", ())}
        both = required & first.get("properties", {}).keys() & second.get("properties", {}).keys()
        return any(
            self._exclude(f"{at}/{name}", f"{at_other}/{name}", depth - 1)
            for name in (f"properties/{pointer(name)}" for name in both)
        )
