"""From the tokens of one answer to its text."""

from collections.abc import Sequence

from llmstream_cli.core.detokenizer import Detokenizer
from llmstream_cli.core.stop import StopMatcher


class OutputStream:
    """Token bytes in, certain text out: `Detokenizer`, then `StopMatcher`.

    Args:
        stops: strings that end the answer.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._detokenizer = Detokenizer()
        self._matcher = StopMatcher(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come; nothing comes out after it."""
        return self._matcher.stopped

    def push(self, piece: bytes) -> str:
        """Add a token's bytes; return the text that is certain."""
        return self._matcher.push(self._detokenizer.push(piece))

    def flush(self) -> str:
        """End the answer; return what was still held back."""
        return self._matcher.push(self._detokenizer.flush()) + self._matcher.flush()
