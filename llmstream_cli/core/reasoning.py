"""Reasoning, told apart from the answer behind it.

Most models that reason open a block with a tag, or their chat template does at the end of the
prompt, think, close the block, and answer. Rules:

1. A block counts only at the very beginning. A tag anywhere else is text: an answer may be about
   such tags.
2. White space inside the tags and behind the closing one belongs to neither part.
3. Only what could still become a tag, or white space that may prove to stand before one, waits.

gpt-oss writes a row of messages instead, each with a header:

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…<|return|>

What stands in the channel `analysis` is reasoning, all else is the answer. The markers are tokens;
they come here as characters that are no text, so that an answer may spell them. A message to a tool
goes on as it is, from the tool's name on, behind a character of its own; `prompts/tools` reads it.

Pure: no I/O, clock, thread, or model.
"""

import re
from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple, Protocol

from llmstream_cli.prompts.messages import ToolCallDelta

_WHITE_SPACE = " \t\r\n"


class Delta(NamedTuple):
    """New text of an answer."""

    text: str = ""  # of the answer itself
    reasoning: str = ""  # of what the model thinks; it comes before all of the answer
    tool_calls: tuple[ToolCallDelta, ...] = ()  # they come after all text


class Phase(IntEnum):
    """Where a stream is; it only ever moves up."""

    OPENING = 0  # the opening tag may still come
    REASONING = 1
    GAP = 2  # between the closing tag and the answer
    ANSWER = 3


class Splitter(Protocol):
    """Splits the stream of one answer's text."""

    marks: Mapping[int, bytes]  # of tokens that it reads otherwise than as their text
    phase: Phase
    opened: bool  # whether there has been reasoning

    def push(self, text: str) -> Delta:
        """Add text; return what is certain."""

    def flush(self) -> Delta:
        """End the stream; return what was held back."""


def suffix_that_begins(stop: str, text: str) -> int:
    """Return the length of the longest suffix of `text` that is a proper prefix of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class ReasoningTags(NamedTuple):
    opening: str
    closing: str


KNOWN_TAGS = (
    ReasoningTags("<think>", "</think>"),  # DeepSeek R1, Qwen3 and those that followed them
    ReasoningTags("[THINK]", "[/THINK]"),  # Magistral, Ministral 3
    ReasoningTags("<|channel>thought", "<channel|>"),  # Gemma 4
    ReasoningTags("<|START_THINKING|>", "<|END_THINKING|>"),  # Command R7B, A
    ReasoningTags("<seed:think>", "</seed:think>"),  # Seed-OSS
    ReasoningTags("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ReasoningTags("<thought>", "</thought>"),  # EXAONE Deep
    ReasoningTags("<reasoning>", "</reasoning>"),  # Reka
    ReasoningTags("◁think▷", "◁/think▷"),  # Kimi-VL
)


def names_reasoning(template: str) -> bool:
    """Tell whether a chat template names the tags or the markers of some model's reasoning."""
    tags = any(one.closing in template for one in KNOWN_TAGS)
    return tags or all(marker in template for marker in REQUIRED_MARKERS)


class ReasoningSplitter:
    """Splits by tags; `marks` is the text of those that are control tokens."""

    def __init__(
        self,
        tags: ReasoningTags,
        *,
        begins_inside: bool = False,
        marks: Mapping[int, bytes] | None = None,
    ) -> None:
        self.marks = marks or {}
        self._tags = tags
        self._held = ""
        self._begun = False  # some reasoning is out
        self.phase = Phase.REASONING if begins_inside else Phase.OPENING
        self.opened = begins_inside

    def skip(self, text: str) -> None:
        """Read what the prompt holds of the answer already."""
        self.push(text)
        self._held = ""
        if self.phase is Phase.OPENING and text:
            self.phase = Phase.ANSWER

    def push(self, text: str) -> Delta:
        text, self._held = self._held + text, ""
        reasoning = ""
        if self.phase is Phase.OPENING:
            text = self._open(text)
        if self.phase is Phase.REASONING:
            reasoning, text = self._reason(text)
        if self.phase is Phase.GAP:
            text = text.lstrip(_WHITE_SPACE)
            if text:
                self.phase = Phase.ANSWER
        return Delta(text, reasoning)

    def flush(self) -> Delta:
        held, self._held = self._held, ""
        if self.phase is Phase.REASONING:
            return Delta(reasoning=held.rstrip(_WHITE_SPACE))
        return Delta(held)

    def _open(self, text: str) -> str:
        """Look for the opening tag; return the text that is to be read on."""
        opening = self._tags.opening
        bare = text.lstrip(_WHITE_SPACE)
        if bare.startswith(opening):
            self.phase, self.opened = Phase.REASONING, True
            return bare.removeprefix(opening)
        if opening.startswith(bare):
            self._held = text
            return ""
        self.phase = Phase.ANSWER
        return text

    def _reason(self, text: str) -> tuple[str, str]:
        """Look for the closing tag; return the reasoning before it and the text behind it."""
        if not self._begun:
            text = text.lstrip(_WHITE_SPACE)
        reasoning, tag, rest = text.partition(self._tags.closing)
        if tag:
            self.phase = Phase.GAP
        else:
            reasoning = text[: len(text) - suffix_that_begins(self._tags.closing, text)]
        reasoning = reasoning.rstrip(_WHITE_SPACE)
        if not tag:
            self._held = text[len(reasoning) :]
        self._begun = self._begun or bool(reasoning)
        return reasoning, rest


# Unicode reserves these for a program's own use: they are never in a text.
START, CHANNEL, MESSAGE, END, CONSTRAIN = map(chr, range(0xFDD0, 0xFDD5))
MARKERS: Mapping[str, str] = {
    "<|start|>": START,
    "<|channel|>": CHANNEL,
    "<|message|>": MESSAGE,
    "<|end|>": END,
    "<|constrain|>": CONSTRAIN,
    "<|return|>": END,
    "<|call|>": END,
}
CALL = chr(0xFDD5)  # given for what stands before the name of a tool
_TO_TOOL = "to=functions."
REQUIRED_MARKERS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")
OPENS_ANSWER = "<|channel|>final<|message|>"
_MAX_HEADER_CHARS = 256
_ROLE = "assistant"
_BETWEEN = "\n\n"  # two messages of one kind


class HarmonySplitter:
    """Splits the messages of gpt-oss; `marks` are the bytes that stand for the marker tokens."""

    def __init__(self, marks: Mapping[int, bytes], *, has_tools: bool = False) -> None:
        self.marks = marks
        self._has_tools = has_tools
        self._calls = False  # the message at hand
        self.phase = Phase.OPENING
        self.opened = False
        self._header: str | None = None  # as far as it has come; None in the text of a message
        self._reasons = False  # the message at hand
        self._begun = {False: False, True: False}  # by whether it is reasoning
        self._separate = False

    @property
    def awaits_channel(self) -> bool:
        return self._header is not None and CHANNEL not in self._header

    def skip(self, text: str) -> None:
        """Read what the prompt holds of the turn already."""
        self.push(text)
        self._begun = {False: False, True: False}
        self._separate = False

    def push(self, text: str) -> Delta:
        answer = reasoning = ""
        for part in re.split(f"([{START}-{CONSTRAIN}])", text):
            if part in (START, END) or (START <= part <= CONSTRAIN and not self._calls):
                self._mark(part)
                continue
            new = part if self._calls else self._read(part)
            if self._reasons:
                reasoning += new
            else:
                answer += new
        return Delta(answer, reasoning)

    def flush(self) -> Delta:
        """End the stream; a text that only might have been a header is the answer."""
        held, self._header = self._header or "", None
        if CHANNEL in held:
            return Delta()
        return Delta(self._begin(held.removeprefix(_ROLE)) if held.strip() != _ROLE else "")

    def _mark(self, marker: str) -> None:
        if marker in (START, END):
            if self.opened:
                self.phase = max(self.phase, Phase.GAP)
            self._reasons = self._calls = False
            self._separate = True
            self._header = "" if marker == START else None
        elif self._header is not None and marker == MESSAGE:
            channel = re.search(rf"{CHANNEL}\s*(\w+)", self._header)
            self._header = None
            self._reasons = channel is not None and channel[1] == "analysis"
            self._separate = True
            self.opened = self.opened or self._reasons
            self.phase = max(self.phase, Phase.REASONING if self._reasons else Phase.GAP)
        elif self._header is not None or marker == CHANNEL:
            self._header = (self._header or "") + marker

    def _read(self, part: str) -> str:
        """Add text to the header; return what belongs to a message."""
        if self._header is None:
            return self._begin(part)
        self._header += part
        if self._has_tools and _TO_TOOL in self._header:
            rest = self._header.partition(_TO_TOOL)[2]
            self._header, self._calls, self._reasons = None, True, False
            self.phase = Phase.ANSWER
            return CALL + rest
        if len(self._header) <= _MAX_HEADER_CHARS and _may_be_header(self._header):
            return ""
        part, self._header = self._header.replace(CHANNEL, ""), None
        self._reasons, self._separate = False, True
        return self._begin(part.removeprefix(_ROLE))

    def _begin(self, part: str) -> str:
        """Return text of a message, set apart from an earlier one of its kind."""
        if not part:
            return ""
        if not self._reasons:
            self.phase = Phase.ANSWER
        separate = self._separate and self._begun[self._reasons]
        self._begun[self._reasons], self._separate = True, False
        return _BETWEEN + part if separate else part


def _may_be_header(text: str) -> bool:
    """Tell whether a header can begin so; before its channel stand a role and a recipient."""
    if CHANNEL in text or _ROLE.startswith(text):
        return True
    rest = text.removeprefix(_ROLE).lstrip()
    return "to=".startswith(rest) or rest.startswith("to=")
