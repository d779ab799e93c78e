"""A model's chat template, rendered where it can do no harm, and the shape in which it reads.

Templates differ in what they take: a text or a list of typed parts, a system message anywhere,
first or not at all, turns in any order or alternating. What one cannot take it refuses, or leaves
out without a word. So each conversation's roles are rendered once with a mark in place of each
content, and the first shape holds in which every mark is written.

Only the roles decide, so a template that drops a part of a content on purpose, as earlier
reasoning, is not mistaken. One that leaves out earlier turns in every shape does so on purpose as
well; one that leaves out a system message or the last message is refused.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

from llmstream_cli.errors import PromptError, one_line
from llmstream_cli.prompts import sandbox
from llmstream_cli.prompts.messages import (
    Message,
    Role,
    Tool,
    ToolCall,
    fold_system,
    lead_with_system,
    merge_neighbours,
)
from llmstream_cli.prompts.tool_history import (
    AS_TEXT,
    ToolStyle,
    find_style,
    message_variables,
    tool_variables,
)

MAX_SOURCE_CHARS = 512 * 1024
_MAX_SHAPES = 256  # of conversations by their roles, which are remembered

_Rearrange = Callable[[Sequence[Message]], Sequence[Message]]


class Shape(NamedTuple):
    """How messages are given to a template."""

    system: _Rearrange  # what is done with system messages
    neighbours: _Rearrange  # what is done with neighbours of one role
    typed: bool  # whether a content is a list of typed parts

    def arrange(self, messages: Sequence[Message]) -> list[Message]:
        return list(self.neighbours(self.system(messages)))


_SYSTEM: tuple[_Rearrange, ...] = (list, lead_with_system, fold_system)
_NEIGHBOURS: tuple[_Rearrange, ...] = (list, merge_neighbours)

# In the order of preference: the least that is changed comes first.
_SHAPES = [
    Shape(system, neighbours, typed)
    for typed, neighbours, system in product((False, True), _NEIGHBOURS, _SYSTEM)
]
PLAIN = _SHAPES[0]
# Parts that are written as a list are not read as parts.
_MARK = re.compile(r"""(?<!'type': 'text', 'text': ')mark\d{5}""")


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: Jinja source in the dialect of Hugging Face's `apply_chat_template`.

    Raises:
        PromptError: it is too long or no valid Jinja.
    """

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE_CHARS:
            raise PromptError(f"the chat template has {len(source)} characters; too many to run")
        try:
            self._template = sandbox.ENVIRONMENT.from_string(source)
        # Jinja compiles to Python, whose own compiler can refuse what Jinja let pass.
        except Exception as error:
            raise PromptError(f"the chat template is invalid: {one_line(error)}") from error
        self.source = source
        self._shapes: dict[tuple[bool | ToolStyle | Role | int, ...], Shape] = {}

    @cached_property
    def tool_style(self) -> ToolStyle:
        """How the template takes tools, calls and results."""
        return find_style(
            lambda messages, tools, style: self.render(
                chat_variables(messages, tools=tools, style=style)
            )
        )

    def render(self, variables: Mapping[str, Any]) -> str:
        """Render the template with `chat_variables`.

        Raises:
            PromptError: the template refuses the messages, fails, or exceeds a limit.
        """
        allowance = sandbox.Allowance()
        token = sandbox.allowance.set(allowance)
        pieces: list[str] = []
        length = 0
        try:
            for piece in self._template.generate(variables, range=allowance.range):
                pieces.append(piece)
                length += len(piece)
                allowance.charge(len(piece))
                if length > sandbox.MAX_TEXT_CHARS:
                    raise PromptError("the chat template writes too much")
        except PromptError:
            raise
        # A template is a foreign program: it can raise whatever Python can.
        except Exception as error:
            raise PromptError(f"the chat template failed: {one_line(error)}") from error
        finally:
            sandbox.allowance.reset(token)
        return "".join(pieces)

    def shape(
        self,
        messages: Sequence[Message],
        *,
        opens_turn: bool = True,
        style: ToolStyle = AS_TEXT,
    ) -> Shape:
        """Return the shape in which the template writes all messages, by their roles and calls.

        Raises:
            PromptError: a system message, or the last message, is written in none.
        """
        turns = ((message.role, len(message.tool_calls)) for message in messages)
        key = opens_turn, style, *(part for turn in turns for part in turn)
        if key not in self._shapes:
            if len(self._shapes) >= _MAX_SHAPES:
                self._shapes.clear()
            self._shapes[key] = self._find_shape(messages, opens_turn, style)
        return self._shapes[key]

    def _find_shape(self, messages: Sequence[Message], opens_turn: bool, style: ToolStyle) -> Shape:
        marks = [f"mark{number:05}" for number in range(len(messages))]
        marked = [_marked(message, mark) for message, mark in zip(messages, marks, strict=True)]
        tried: list[tuple[list[Message], bool]] = []
        missing: dict[Shape, list[int]] = {}
        for shape in _SHAPES:
            attempt = shape.arrange(marked), shape.typed
            if attempt in tried:
                continue
            tried.append(attempt)
            try:
                rendered = self.render(
                    chat_variables(
                        attempt[0], typed=shape.typed, opens_turn=opens_turn, style=style
                    )
                )
            except PromptError:
                continue
            written = set(_MARK.findall(rendered.lower()))  # some write a text in capitals
            missing[shape] = [
                number
                for number, mark in enumerate(marks)
                # Some write no text beside calls.
                if mark not in written and not messages[number].tool_calls
            ]
            if not missing[shape]:
                return shape
        if not missing:
            return PLAIN  # what it refuses is told in its own words, by who renders the contents
        return _with_least_lost(missing, messages)


def _marked(message: Message, mark: str) -> Message:
    calls = tuple(ToolCall("call", id=call.id) for call in message.tool_calls)
    return replace(message, content=mark, reasoning="", tool_calls=calls)


def _with_least_lost(missing: Mapping[Shape, list[int]], messages: Sequence[Message]) -> Shape:
    last = len(messages) - 1
    lost = {
        shape: [n for n in numbers if n == last or messages[n].role == "system"]
        for shape, numbers in missing.items()
    }
    shape = min(lost, key=lambda one: len(lost[one]))
    if lost[shape]:
        number = lost[shape][0]
        raise PromptError(
            f"the chat template does not write message {number + 1} ({messages[number].role}) "
            "into the prompt; leave it out, or name another template with --template"
        )
    return shape


def chat_variables(
    messages: Sequence[Message],
    *,
    bos_token: str = "",
    eos_token: str = "",
    typed: bool = False,
    opens_turn: bool = True,
    tools: Sequence[Tool] = (),
    style: ToolStyle = AS_TEXT,
) -> dict[str, Any]:
    """Return what templates of the dialect expect."""
    return {
        "messages": [message_variables(m, typed=typed, style=style) for m in messages],
        "add_generation_prompt": opens_turn,
        "bos_token": bos_token,
        "eos_token": eos_token,
        "tools": [tool_variables(tool) for tool in tools] or None,
        "documents": None,
    }
