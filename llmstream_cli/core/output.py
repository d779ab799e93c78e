"""From the tokens of one answer to its text."""

from collections.abc import Sequence

from llmstream_cli.core.detokenizer import Detokenizer
from llmstream_cli.core.reasoning import Delta, Phase, Splitter
from llmstream_cli.core.stop import StopMatcher


class OutputStream:
    """Token bytes in, certain text out: `Detokenizer`, `Splitter`, then `StopMatcher`.

    Args:
        stops: strings that end the answer; in its reasoning they mean nothing.
        splitter: tells the reasoning from the answer; None where there is no reasoning.

    Attributes:
        num_reasoning_tokens: those of the reasoning, its tags among them.
    """

    def __init__(self, stops: Sequence[str], splitter: Splitter | None = None) -> None:
        self._detokenizer = Detokenizer()
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
        text = self._detokenizer.push(piece)
        if self._splitter is None:
            return Delta(self._matcher.push(text))
        before = self._splitter.phase
        text, reasoning = self._splitter.push(text)
        if reasoning or (before <= Phase.REASONING and self._splitter.opened):
            self.num_reasoning_tokens = self._num_tokens
        return Delta(self._matcher.push(text), reasoning)

    def flush(self) -> Delta:
        """End the answer; return what was still held back."""
        text, reasoning = self._detokenizer.flush(), ""
        if self._splitter is not None:
            (text, reasoning), rest = self._splitter.push(text), self._splitter.flush()
            text, reasoning = text + rest.text, reasoning + rest.reasoning
        return Delta(self._matcher.push(text) + self._matcher.flush(), reasoning)
