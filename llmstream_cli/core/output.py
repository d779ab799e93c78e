"""From the tokens of one answer to its text, its reasoning, and its calls of tools.

Bytes become characters, reasoning and calls are told apart from the answer, and the answer ends
before a stop string. What comes out never depends on how the text was cut into tokens.

Pure: no I/O, clock, thread, or model.
"""

import codecs
from collections.abc import Mapping, Sequence
from typing import Protocol

from llmstream_cli.core.reasoning import Delta, Phase, Splitter, suffix_that_begins
from llmstream_cli.prompts.messages import ToolCallDelta

# Unicode keeps these out of texts, and marks are made of them.
_NOT_TEXT = dict.fromkeys(range(0xFDD0, 0xFDF0), "\N{REPLACEMENT CHARACTER}")


class CallParser(Protocol):
    """Tells calls of tools from the text of an answer."""

    num_calls: int  # that have been told of
    rest: str | None  # what has come of a call behind its beginning, where one has just begun

    def push(self, text: str) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """Add text; return what is certain: text before the first call, and what calls got."""

    def flush(self) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """End the answer; return what was held back."""


class OutputStream:
    """Token bytes in, certain text out; stop strings mean nothing in reasoning and calls of tools.

    `marks` are the bytes of tokens that are read otherwise than as their text. The bytes of a part
    of a character wait until it is complete. Bytes that are no UTF-8 become U+FFFD, as everywhere
    in Python's codecs; so does an incomplete character at the end.
    """

    def __init__(
        self,
        stops: Sequence[str],
        splitter: Splitter | None = None,
        calls: CallParser | None = None,
        marks: Mapping[int, bytes] | None = None,
    ) -> None:
        self._calls = calls
        self._marks = {**(marks or {}), **(splitter.marks if splitter is not None else {})}
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._splitter = splitter
        self._matcher = StopMatcher(stops)
        self._num_tokens = 0
        self.num_reasoning_tokens = 0  # the tags among them

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come; nothing comes out after it."""
        return self._matcher.stopped

    @property
    def stop_string(self) -> str:
        """The stop string that has come; empty if none has."""
        return self._matcher.stop_string

    @property
    def phase(self) -> Phase:
        """What the last token belongs to; `OPENING` while that is not certain."""
        return Phase.ANSWER if self._splitter is None else self._splitter.phase

    @property
    def num_calls(self) -> int:
        """Calls of tools that have been told of."""
        return 0 if self._calls is None else self._calls.num_calls

    def take_begun(self) -> str | None:
        """Return what has come of a call behind its beginning, once, where one has just begun."""
        if self._calls is None or self._matcher.stopped:
            return None
        begun, self._calls.rest = self._calls.rest, None
        return begun

    def push(self, piece: bytes, token_id: int = -1) -> Delta:
        mark = self._marks.get(token_id)
        decoded = self._decoder.decode(piece if mark is None else mark)
        if mark is None and self._marks:  # no text may pass for a mark
            decoded = decoded.translate(_NOT_TEXT)
        if self._splitter is None:
            return self._answer(decoded)
        self._num_tokens += 1
        before = self._splitter.phase
        text, reasoning, _ = self._splitter.push(decoded)
        if reasoning or (before <= Phase.REASONING and self._splitter.opened):
            self.num_reasoning_tokens = self._num_tokens
        return self._answer(text)._replace(reasoning=reasoning)

    def flush(self) -> Delta:
        text, reasoning = self._decoder.decode(b"", final=True), ""
        if self._splitter is not None:
            (text, reasoning, _), rest = self._splitter.push(text), self._splitter.flush()
            text, reasoning = text + rest.text, reasoning + rest.reasoning
        text, _, calls = self._answer(text)
        if self._calls is not None and not self._matcher.stopped:
            more, last_calls = self._calls.flush()
            text, calls = text + self._matcher.push(more), calls + last_calls
        return Delta(text + self._matcher.flush(), reasoning, calls)

    def _answer(self, text: str) -> Delta:
        """Tell calls of tools from the text, which ends before a stop string."""
        if self._calls is None or self._matcher.stopped:
            return Delta(self._matcher.push(text))
        text, calls = self._calls.push(text)
        text = self._matcher.push(text)
        if self._calls.num_calls and not self._matcher.stopped:
            text += self._matcher.flush()
        return Delta(text, tool_calls=calls if not self._matcher.stopped else ())


class StopMatcher:
    """Ends a stream before the first stop string in it.

    The stop string that is complete first wins, and of several that end at the same character the
    longest. Only a suffix that could still become a stop string is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        assert all(stops)
        self._stops = tuple(stops)
        self._held = ""
        self.stop_string = ""  # the one that came

    @property
    def stopped(self) -> bool:
        return bool(self.stop_string)

    def push(self, text: str) -> str:
        if self.stopped:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        matches = [
            (start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0
        ]
        if matches:
            end, start = min(matches)
            self.stop_string, self._held = text[start:end], ""
            return text[:start]
        keep = max(suffix_that_begins(stop, text) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held
