"""Log probabilities in step with the text that they belong to."""

import codecs
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from llmstream_cli.api import DrawnLogprob

# JSON has no infinity. OpenAI's API says this of a token that is very unlikely.
_LEAST_LOGPROB = -9999.0


class LocatedLogprob(NamedTuple):
    """A token's log probability and where the token stands.

    Attributes:
        text_offset: characters of the answer before the one that the token begins or goes on.
        logprob: of the token and of the most likely ones at its place.
    """

    text_offset: int
    logprob: DrawnLogprob


class AlignedLogprobs:
    """Lets out a token's log probability when the text that it begins is out.

    Text is held back while a character is incomplete and while it could become a stop string;
    log probabilities are not. In step with the text, a client can put them side by side, and those
    of a stop string never come, like the string itself.

    Where reasoning came before the text, the first token can begin with white space, or the end of
    a tag, that is not in the text.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._waiting: deque[LocatedLogprob] = deque()
        self._before_text: str | None = ""  # what the tokens said before any text was out
        self._num_decoded = 0
        self._num_out = 0

    def push(self, text: str, logprobs: Sequence[DrawnLogprob]) -> list[LocatedLogprob]:
        """Add what a chunk brought; return the log probabilities of the text so far."""
        for logprob in logprobs:
            self._waiting.append(LocatedLogprob(self._num_decoded, logprob))
            decoded = self._decoder.decode(logprob.drawn.piece)
            self._num_decoded += len(decoded)
            if self._before_text is not None:
                self._before_text += decoded
        if text and self._before_text is not None:
            self._align(self._before_text.find(text[0]))
        self._num_out += len(text)
        out = []
        while self._waiting and self._is_out(self._waiting[0]):
            out.append(self._waiting.popleft())
        return out

    def _align(self, num_dropped: int) -> None:
        """Count from the first character that the text has of what the tokens said."""
        self._before_text = None
        if num_dropped > 0:
            self._num_decoded -= num_dropped
            self._waiting = deque(
                LocatedLogprob(max(0, offset - num_dropped), logprob)
                for offset, logprob in self._waiting
            )

    def _is_out(self, located: LocatedLogprob) -> bool:
        if not located.logprob.drawn.piece:  # a token without text is out with what is before it
            return located.text_offset <= self._num_out
        return located.text_offset < self._num_out


def finite_logprob(logprob: float) -> float:
    """Return the log probability, or the least one that JSON clients expect."""
    return max(logprob, _LEAST_LOGPROB)
