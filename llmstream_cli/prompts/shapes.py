"""The shape in which a chat template reads a conversation.

Templates differ in what they take: a text or a list of typed parts, a system message anywhere,
first or not at all, turns in any order or alternating. What one cannot take it refuses, or leaves
out without a word. So each conversation's roles are rendered once with a mark in place of each
content, and the first shape holds in which every mark is written.

Only the roles decide, so a template that drops a part of a content on purpose, as earlier
reasoning, is not mistaken. One that leaves out earlier turns in every shape does so on purpose as
well; one that leaves out a system message or the last message is refused.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

from llmstream_cli.errors import PromptError
from llmstream_cli.prompts.messages import (
    Message,
    fold_system,
    lead_with_system,
    merge_neighbours,
)

Rearrange = Callable[[Sequence[Message]], Sequence[Message]]


class Shape(NamedTuple):
    """How messages are given to a template.

    Attributes:
        system: what is done with system messages.
        neighbours: what is done with neighbours of one role.
        typed: whether a content is a list of typed parts.
    """

    system: Rearrange
    neighbours: Rearrange
    typed: bool

    def arrange(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages as the template takes them."""
        return list(self.neighbours(self.system(messages)))


_SYSTEM: tuple[Rearrange, ...] = (list, lead_with_system, fold_system)
_NEIGHBOURS: tuple[Rearrange, ...] = (list, merge_neighbours)

# In the order of preference: the least that is changed comes first.
_SHAPES = [
    Shape(system, neighbours, typed)
    for typed, neighbours, system in product((False, True), _NEIGHBOURS, _SYSTEM)
]
PLAIN = _SHAPES[0]
_PART = r"""'type': 'text', 'text': '"""


def find_shape(
    render: Callable[[Sequence[Message], bool], str], messages: Sequence[Message]
) -> Shape:
    """Return the shape in which a template writes all messages.

    Args:
        render: renders messages, their contents as typed parts or not.
        messages: only their roles matter.

    Raises:
        PromptError: a system message, or the last message, is written in none.
    """
    marks = [f"mark{number:05}" for number in range(len(messages))]
    marked = [Message(message.role, mark) for message, mark in zip(messages, marks, strict=True)]
    missing: dict[Shape, list[int]] = {}
    for shape, arranged in _distinct(marked):
        try:
            # Some write a text in capitals.
            rendered = render(arranged, shape.typed).lower()
        except PromptError:
            continue
        # Parts that are written as a list are not read as parts.
        written = set(re.findall(rf"(?<!{_PART})mark\d{{5}}", rendered))
        missing[shape] = [number for number, mark in enumerate(marks) if mark not in written]
        if not missing[shape]:
            return shape
    if not missing:
        return PLAIN  # what it refuses is told in its own words, by who renders the contents
    last = len(messages) - 1
    lost = {
        shape: [n for n in numbers if n == last or messages[n].role == "system"]
        for shape, numbers in missing.items()
    }
    shape = min(lost, key=lambda one: len(lost[one]))
    if not lost[shape]:
        return shape
    number = lost[shape][0]
    raise PromptError(
        f"the chat template does not write message {number + 1} ({messages[number].role}) "
        "into the prompt; leave it out, or name another template with --template"
    )


def _distinct(messages: Sequence[Message]) -> Iterator[tuple[Shape, list[Message]]]:
    """Yield each shape that gives a template something else than those before."""
    seen = []
    for shape in _SHAPES:
        arranged = shape.arrange(messages)
        if (arranged, shape.typed) not in seen:
            seen.append((arranged, shape.typed))
            yield shape, arranged
