"""The reasoning that some models write before their answer, told apart from it.

Such a model opens a block with a tag, or its chat template does at the end of the prompt, thinks,
closes the block, and answers. Rules:

1. A block counts only at the very beginning. A tag anywhere else is text: an answer may be about
   such tags.
2. White space inside the tags and behind the closing one belongs to neither part.
3. Only what could still become a tag, or white space that may prove to stand before one, waits.
4. What comes out never depends on how the text was cut into pieces.

Pure: no I/O, clock, thread, or model.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple, Protocol

from llmstream_cli.core.stop import suffix_that_begins

_WHITE_SPACE = " \t\r\n"


class ReasoningTags(NamedTuple):
    """What a block of reasoning stands between."""

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


class Delta(NamedTuple):
    """New text of an answer.

    Attributes:
        text: of the answer itself.
        reasoning: of what the model thinks; it comes before all of the answer.
    """

    text: str = ""
    reasoning: str = ""


class Phase(IntEnum):
    """Where a stream is; it only ever moves up."""

    OPENING = 0  # the opening tag may still come
    REASONING = 1
    GAP = 2  # between the closing tag and the answer
    ANSWER = 3


class Splitter(Protocol):
    """Splits the stream of one answer's text.

    Attributes:
        marks: the bytes of tokens that it reads otherwise than as their text.
        phase: where the stream is.
        opened: whether there has been reasoning.
    """

    marks: Mapping[int, bytes]
    phase: Phase
    opened: bool

    def push(self, text: str) -> Delta:
        """Add text; return what is certain."""

    def flush(self) -> Delta:
        """End the stream; return what was held back."""


class ReasoningSplitter:
    """Splits by tags; see `Splitter`.

    Args:
        tags: of the model.
        begins_inside: whether the prompt has opened the block.
        marks: the text of tags that are control tokens.
    """

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
        """Add text; return what is certain."""
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
        """End the stream; return what was held back for a tag that never came."""
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
