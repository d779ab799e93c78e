"""The turns of a conversation, and the tools that its model may call."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]

# How a prompt ends: with the assistant's turn opened, with the last message left open for the
# answer to go on with, or with neither.
Ending = Literal["turn", "message", "closed"]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask for."""

    name: str
    description: str = ""
    parameters: str = '{"type":"object","properties":{}}'  # JSON schema of its arguments, as text


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model asked for."""

    name: str
    arguments: str = "{}"  # a JSON object, as text
    id: str = ""  # by which a result names its call


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """What was added to a call of a tool.

    The name is one of the request's tools, and stands in the call's first delta alone. All
    arguments together are a JSON object that fulfils the tool's schema, unless the answer was cut.
    """

    index: int  # of the call in its answer, from 0
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which tools the model may call, and whether it has to."""

    mode: Literal["auto", "none", "required"] = "auto"
    names: tuple[str, ...] = ()  # of the tools that may be called; empty is all
    parallel: bool = True  # whether an answer may have several calls


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. What its author wrote, names and arguments too, never becomes a control token."""

    role: Role
    content: str = ""
    reasoning: str = ""  # before an answer of the assistant's, for templates that show it
    tool_calls: tuple[ToolCall, ...] = ()  # of the assistant's
    # Of a tool's result: the call that it answers. The name is found by the id where it is missing.
    tool_call_id: str = ""
    tool_name: str = ""


def fold_system(messages: Sequence[Message]) -> list[Message]:
    """Put each system message before the text of the user's next turn, an empty line between.

    So Mistral and Google do it, whose models know no system role. One that no turn of the user
    follows becomes a turn of its own.
    """
    folded: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message.role == "system":
            waiting.append(message.content)
        elif message.role == "user":
            folded.append(Message("user", "\n\n".join([*waiting, message.content])))
            waiting = []
        else:
            folded.append(message)
    if waiting:
        folded.append(Message("user", "\n\n".join(waiting)))
    return folded


def lead_with_system(messages: Sequence[Message]) -> list[Message]:
    """Join the system messages at the beginning to one, and fold those that come later."""
    count = next((n for n, m in enumerate(messages) if m.role != "system"), len(messages))
    return [*merge_neighbours(messages[:count]), *fold_system(messages[count:])]


def merge_neighbours(messages: Sequence[Message]) -> list[Message]:
    """Join messages in a row that have one role, an empty line between; results stay apart."""
    merged: list[Message] = []
    for role, turns in groupby(messages, key=lambda message: message.role):
        row = [*turns]
        merged += row if role == "tool" else [_join(role, row)]
    return merged


def _join(role: Role, row: Sequence[Message]) -> Message:
    texts = (m.content for m in row if m.content or not m.tool_calls)
    reasoning = "\n\n".join(m.reasoning for m in row if m.reasoning)
    calls = tuple(call for m in row for call in m.tool_calls)
    return Message(role, "\n\n".join(texts), reasoning, calls)
