"""The channels that gpt-oss writes its answers in, told apart.

Its turn is a row of messages, each with a header:

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…<|return|>

What stands in the channel `analysis` is reasoning, all else is the answer. The markers are tokens;
they come here as characters that are no text, so that an answer may spell them.

Pure: no I/O, clock, thread, or model.
"""

import re
from collections.abc import Mapping

from llmstream_cli.core.reasoning import Delta, Phase

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
REQUIRED = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")
OPENS_ANSWER = "<|channel|>final<|message|>"
_MAX_HEADER_CHARS = 256
_ROLE = "assistant"
_BETWEEN = "\n\n"  # two messages of one kind


class HarmonySplitter:
    """Splits the stream of one answer's text; see `reasoning.Splitter`.

    Args:
        marks: the bytes that stand for the marker tokens.
    """

    def __init__(self, marks: Mapping[int, bytes]) -> None:
        self.marks = marks
        self.phase = Phase.OPENING
        self.opened = False
        self._header: str | None = None  # as far as it has come; None in the text of a message
        self._reasons = False  # the message at hand
        self._begun = {False: False, True: False}  # by whether it is reasoning
        self._separate = False

    @property
    def awaits_channel(self) -> bool:
        """Whether the next message has no channel yet."""
        return self._header is not None and CHANNEL not in self._header

    def skip(self, text: str) -> None:
        """Read what the prompt holds of the turn already."""
        self.push(text)
        self._begun = {False: False, True: False}
        self._separate = False

    def push(self, text: str) -> Delta:
        """Add text; return what is certain."""
        answer = reasoning = ""
        for part in re.split(f"([{START}-{CONSTRAIN}])", text):
            if START <= part <= CONSTRAIN:
                self._mark(part)
                continue
            part = self._read(part)  # noqa: PLW2901  (what of it is no header)
            if part and self._reasons:
                reasoning += part
            else:
                answer += part
        return Delta(answer, reasoning)

    def flush(self) -> Delta:
        """End the stream; a text that only might have been a header is the answer."""
        held, self._header = self._header or "", None
        if CHANNEL in held:
            return Delta()
        return Delta(self._begin(held.removeprefix(_ROLE)) if held.strip() != _ROLE else "")

    def _mark(self, marker: str) -> None:
        if marker == START:
            self._end_message()
            self._header = ""
        elif marker == END:
            self._end_message()
            self._header = None
        elif self._header is not None and marker == MESSAGE:
            channel = re.search(rf"{CHANNEL}\s*(\w+)", self._header)
            self._header = None
            self._reasons = channel is not None and channel[1] == "analysis"
            self._separate = True
            self.opened = self.opened or self._reasons
            self.phase = max(self.phase, Phase.REASONING if self._reasons else Phase.GAP)
        elif self._header is not None or marker == CHANNEL:
            self._header = (self._header or "") + marker

    def _end_message(self) -> None:
        if self.opened:
            self.phase = max(self.phase, Phase.GAP)
        self._reasons = False
        self._separate = True

    def _read(self, part: str) -> str:
        """Add text to the header; return what belongs to a message."""
        if self._header is None:
            return self._begin(part)
        self._header += part
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
