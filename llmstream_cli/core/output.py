"""From the tokens of one answer to its text.

Bytes become characters, the reasoning is told apart from the answer, and the answer ends before a
stop string. What comes out never depends on how the text was cut into tokens.

Pure: no I/O, clock, thread, or model.
"""

import codecs
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol


class StopMatcher:
    """Ends a stream before the first stop string in it.

    What comes out never depends on how the text was cut into pieces: the stop string that is
    complete first wins, and of several that end at the same character the longest. Only a suffix
    that could still become a stop string is held back, so text without one flows through at once.

    Args:
        stops: the stop strings, none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        assert all(stops)
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Add text; return what is certain to belong to the answer.

        After a stop string `stopped` is true and everything later is dropped.
        """
        if self.stopped:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        matches = [
            (start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0
        ]
        if matches:
            self.stopped = True
            self._held = ""
            return text[: min(matches)[1]]
        keep = max(suffix_that_begins(stop, text) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """End the stream; return what was held back for a stop string that never came."""
        held, self._held = self._held, ""
        return held


def suffix_that_begins(stop: str, text: str) -> int:
    """Return the length of the longest suffix of `text` that is a proper prefix of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class Delta(NamedTuple):
    """New text of an answer."""

    text: str = ""  # of the answer itself
    reasoning: str = ""  # of what the model thinks; it comes before all of the answer


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


class OutputStream:
    """Token bytes in, certain text out.

    A token often holds a part of a character, so its bytes wait until the character is complete.
    Bytes that are no UTF-8 become U+FFFD, as everywhere in Python's codecs; so does an incomplete
    character at the end.

    Args:
        stops: strings that end the answer; in its reasoning they mean nothing.
        splitter: tells the reasoning from the answer; None where there is no reasoning.

    Attributes:
        num_reasoning_tokens: those of the reasoning, its tags among them.
    """

    def __init__(self, stops: Sequence[str], splitter: Splitter | None = None) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._splitter = splitter
        self._matcher = StopMatcher(stops)
        self._num_tokens = 0
        self.num_reasoning_tokens = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come; nothing comes out after it."""
        return self._matcher.stopped

    @property
    def phase(self) -> Phase:
        """What the last token belongs to; `OPENING` while that is not certain."""
        return Phase.ANSWER if self._splitter is None else self._splitter.phase

    def push(self, piece: bytes, token_id: int = -1) -> Delta:
        """Add a token's bytes; return the text that is certain."""
        if self._splitter is not None:
            piece = self._splitter.marks.get(token_id, piece)
        self._num_tokens += 1
        text = self._decoder.decode(piece)
        if self._splitter is None:
            return Delta(self._matcher.push(text))
        before = self._splitter.phase
        text, reasoning = self._splitter.push(text)
        if reasoning or (before <= Phase.REASONING and self._splitter.opened):
            self.num_reasoning_tokens = self._num_tokens
        return Delta(self._matcher.push(text), reasoning)

    def flush(self) -> Delta:
        """End the answer; return what was still held back."""
        text, reasoning = self._decoder.decode(b"", final=True), ""
        if self._splitter is not None:
            (text, reasoning), rest = self._splitter.push(text), self._splitter.flush()
            text, reasoning = text + rest.text, reasoning + rest.reasoning
        return Delta(self._matcher.push(text) + self._matcher.flush(), reasoning)
