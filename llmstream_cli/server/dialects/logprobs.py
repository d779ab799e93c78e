"""Log probabilities in step with the text that they belong to, and as JSON."""

import codecs
import json
from collections import deque
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from llmstream_cli.api import DrawnLogprob, TokenLogprob
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.server.dialects.fields import NOT_TRUE, FieldTable, Given, excluded

MAX_TOP_LOGPROBS = 20
TOP_LOGPROBS_ALONE = {
    "top_logprobs": {"type": "integer", "minimum": 1},
    "logprobs": NOT_TRUE,
}

# JSON has no infinity. OpenAI's API says this of a token that is very unlikely.
_LEAST_LOGPROB = -9999.0


class LocatedLogprob(NamedTuple):
    """A token's log probability, and the characters of the answer before the token's first."""

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
            self._drop(max(0, self._before_text.find(text[0])))
            self._before_text = None
        self._num_out += len(text)
        out = []
        while self._waiting and self._is_out(self._waiting[0]):
            out.append(self._waiting.popleft())
        return out

    def _drop(self, num_chars: int) -> None:
        """Count from the first character that the text has of what the tokens said."""
        self._num_decoded -= num_chars
        self._waiting = deque(
            LocatedLogprob(max(0, offset - num_chars), logprob) for offset, logprob in self._waiting
        )

    def _is_out(self, located: LocatedLogprob) -> bool:
        if not located.logprob.drawn.piece:  # a token without text is out with what is before it
            return located.text_offset <= self._num_out
        return located.text_offset < self._num_out


class JsonList:
    """A list of values that are written as JSON when added: thousands at once block the loop."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def append(self, value: object) -> None:
        self._texts.append(
            json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        )

    def __str__(self) -> str:
        return f"[{','.join(self._texts)}]"


def finite_logprob(logprob: float) -> float:
    return max(logprob, _LEAST_LOGPROB)


def token_fields(token: TokenLogprob) -> dict[str, Any]:
    """Return a token and its log probability, as OpenAI's chats and Ollama's routes have it."""
    return {
        "token": token.piece.decode(errors="replace"),
        "logprob": finite_logprob(token.logprob),
        "bytes": list(token.piece),
    }


class WithTopLogprobs(FieldTable):
    """The fields that OpenAI's chats and Ollama's routes have for log probabilities."""

    model_config = excluded(TOP_LOGPROBS_ALONE)

    logprobs: bool | None = Field(
        None, description="report [log probabilities](openai.md#log-probabilities)"
    )
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = Field(
        None, description="and those of so many most likely tokens at each place; needs `logprobs`"
    )

    def given(self, prefix: str = "") -> list[Given]:
        given = super().given(prefix)
        if self.logprobs:
            given.append(("top_logprobs", "logprobs", self.top_logprobs or 0))
        elif self.top_logprobs:
            raise InvalidValueError("top_logprobs needs logprobs to be true", "top_logprobs")
        return given
