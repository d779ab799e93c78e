"""Where the references of a JSON schema lead, and whether a value of finite size can follow them.

A reference leads from the place of one schema to that of another. The places are JSON pointers
(RFC 6901) into the whole.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

Places = dict[str, dict[str, Any]]

IN_PLACE = ("anyOf", "oneOf", "allOf")  # lists of schemas for the same value


def pointer(name: str) -> str:
    """Write a name as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def find_loop(places: Places, targets: Mapping[str, str]) -> str | None:
    """Return the place of a reference that leads to itself about one and the same value, if any.

    What it means is undefined (JSON Schema core, 9.4.1), and programs that check answers hang.
    """
    same_value = {
        place: [
            *(f"{place}/{key}/{n}" for key in IN_PLACE for n in range(len(schema.get(key, ())))),
            *(f"{place}/dependentSchemas/{pointer(n)}" for n in schema.get("dependentSchemas", ())),
            *([targets[place]] if place in targets else []),
        ]
        for place, schema in places.items()
    }
    try:
        TopologicalSorter(same_value).prepare()
    except CycleError as error:
        loop: list[str] = error.args[1]
        return next(place for place in loop if place in targets)
    return None


def find_endless(places: Places, targets: Mapping[str, str]) -> str | None:
    """Return the place of a reference to a schema that always asks for itself again, if any."""
    finite = _finite_places(places, targets)
    return next((where for where, place in targets.items() if place not in finite), None)


def _finite_places(places: Places, targets: Mapping[str, str]) -> set[str]:
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


def _around(place: str, places: Places) -> Iterator[str]:
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

    same_value = {key: [f"{key}/{n}" for n in range(len(schema.get(key, ())))] for key in IN_PLACE}
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
        yield [f"properties/{pointer(name)}"] if name in properties else others
    if schema.get("minProperties", 0) > len(set(required)) and not has_patterns:
        more = [f"properties/{pointer(name)}" for name in properties.keys() - required]
        yield more if schema.get("additionalProperties") is False else more + others
