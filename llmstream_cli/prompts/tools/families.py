"""The families' syntaxes of calls: a row for each, see `pattern` for how they are written."""

from collections.abc import Collection
from typing import NamedTuple


class Family(NamedTuple):
    """How a family writes calls: opening, begin, call, then between and call again, and end."""

    name: str
    opening: str  # the tag that tells a call from text; empty where a call has none
    call: str
    between: str = ""  # two calls; they cannot follow each other where it is empty
    begin: str = ""
    end: str = ""
    # What proves, behind an opening that is spelled, that it is none of the answer's words.
    evidence: str = " {"
    in_template: tuple[str, ...] = ()  # texts that a template of the family has, all of them
    in_vocabulary: tuple[str, ...] = ()  # control tokens that its vocabulary has, all of them


_OBJECT = '{ "name" : "%N" , "arguments" : %A }'

GENERIC = Family(
    "generic",
    "<tool_call>",
    f" {_OBJECT} </tool_call>",
    between=" <tool_call>",
)

# The first that fits is taken.
FAMILIES = (GENERIC._replace(name="hermes", in_template=("<tool_call>",)),)


def find_family(template_source: str, control: Collection[str]) -> Family:
    """Return the family of a chat template and of the control tokens beside it."""
    for family in FAMILIES:
        named = all(text in template_source for text in family.in_template)
        if named and all(text in control for text in family.in_vocabulary):
            return family
    return GENERIC
