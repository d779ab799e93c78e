"""What `/api/chat` and `/api/generate` answer: a JSON body, or one line of JSON for each chunk.

The shapes are those of Ollama's API reference. Durations are in nanoseconds, times in RFC 3339.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from llmstream_cli.api import Chunk, Usage
from llmstream_cli.errors import (
    LLMStreamError,
)
from llmstream_cli.server.dialects.common import (
    dump_line,
    token_fields,
)
from llmstream_cli.server.dialects.logprobs import AlignedLogprobs, LocatedLogprob
from llmstream_cli.server.dialects.ollama_models import (
    ollama_error,
    rfc3339,
)
from llmstream_cli.server.respond import Answer, Encoder

NDJSON = "application/x-ndjson"

Route = Literal["chat", "generate"]


@dataclass(frozen=True, slots=True)
class LineFormat:
    """What the lines of one response have in common.

    Attributes:
        route: decides how text is wrapped.
        model: by the name that the client used.
        with_logprobs: send log probabilities.
        clock: seconds that only grow.
        now: the time of day.
        started: when the request came, by `clock`.
        load_seconds: how long the model was loaded for this answer, up to now.
    """

    route: Route
    model: str
    with_logprobs: bool
    clock: Callable[[], float]
    now: Callable[[], datetime]
    started: float
    load_seconds: Callable[[], float] = float

    def line(self, text: str, located: Sequence[LocatedLogprob]) -> dict[str, Any]:
        """Return a line with new text."""
        return {**self._wrap(text), "done": False, **self._logprobs(located)}

    def thinking_line(self, reasoning: str) -> dict[str, Any]:
        """Return a line with new reasoning."""
        return {**self._wrap("", reasoning), "done": False}

    def last(self, reason: str, usage: Usage | None) -> dict[str, Any]:
        """Return the last line: why the answer ended and what it cost."""
        assert usage is not None  # every complete answer has one
        return {
            **self._wrap(""),
            "done": True,
            "done_reason": reason,
            "total_duration": _nanoseconds(self.clock() - self.started),
            "load_duration": round(self.load_seconds() * 1e9),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": _nanoseconds(usage.prompt_seconds),
            "eval_count": usage.completion_tokens,
            "eval_duration": _nanoseconds(usage.completion_seconds),
        }

    def whole(self, answer: Answer) -> dict[str, Any]:
        """Return the body of a response that is not streamed."""
        last = self.last(answer.finish_reason, answer.usage)
        text = self._wrap(answer.text, answer.reasoning)
        return {**last, **text, **answer.logprobs}

    def without_prompt(self, reason: Literal["load", "unload"]) -> dict[str, Any]:
        """Return the answer to a request without a prompt: what was done with the model."""
        return {**self._wrap(""), "done": True, "done_reason": reason}

    def _wrap(self, text: str, reasoning: str = "") -> dict[str, Any]:
        head = {"model": self.model, "created_at": rfc3339(self.now())}
        thinking = {"thinking": reasoning} if reasoning else {}
        if self.route == "chat":
            return {**head, "message": {"role": "assistant", "content": text, **thinking}}
        return {**head, "response": text, **thinking}

    def _logprobs(self, located: Sequence[LocatedLogprob]) -> dict[str, Any]:
        if not (self.with_logprobs and located):
            return {}
        return {"logprobs": [ollama_logprob(one)["logprobs"] for one in located]}


class LineEncoder(Encoder):
    """One line of JSON for each piece of text, and a last one; has no line for silence."""

    content_type = NDJSON

    def __init__(self, format_: LineFormat) -> None:
        self._format = format_
        self._logprobs = AlignedLogprobs()

    def encode(self, index: int, chunk: Chunk) -> bytes:
        """Send the new reasoning and text, and at the end why the answer ended and what it cost."""
        assert index == 0
        located = self._logprobs.push(chunk.text, chunk.logprobs)
        lines = b""
        if chunk.reasoning:
            lines = dump_line(self._format.thinking_line(chunk.reasoning)) + b"\n"
        if chunk.text or (located and self._format.with_logprobs):
            lines += dump_line(self._format.line(chunk.text, located)) + b"\n"
        if chunk.finish_reason is not None:
            lines += dump_line(self._format.last(chunk.finish_reason, chunk.usage)) + b"\n"
        return lines

    def fail(self, error: LLMStreamError) -> bytes:
        """End the stream with a line that names the error."""
        return dump_line(ollama_error(error)) + b"\n"


def _nanoseconds(seconds: float) -> int:
    """Return at least 1: clients divide by durations."""
    return max(1, round(seconds * 1e9))


def ollama_logprob(located: LocatedLogprob) -> dict[str, Any]:
    """Return what the list of log probabilities has for a token."""
    top = [token_fields(token) for token in located.logprob.top]
    top_field = {"top_logprobs": top} if top else {}
    return {"logprobs": {**token_fields(located.logprob.drawn), **top_field}}
