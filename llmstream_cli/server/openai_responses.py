"""What the OpenAI routes answer: JSON bodies, and server-sent events for streams.

The shapes are those of OpenAI's API reference. Events are `data:` lines with an empty line behind
each (WHATWG HTML, section "Server-sent events"); a stream that ends well ends in `[DONE]`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmstream_cli.api import Chunk, DrawnLogprob, TokenLogprob, Usage
from llmstream_cli.errors import LLMStreamError
from llmstream_cli.server.dialect import dump_line
from llmstream_cli.server.failure import error_body
from llmstream_cli.server.logprobs import AlignedLogprobs, LocatedLogprob, finite_logprob
from llmstream_cli.server.respond import Answer

EVENT_STREAM = "text/event-stream; charset=utf-8"
PREFIX = "/v1/"
_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What all bodies and events of one response have in common.

    Attributes:
        id: of the response.
        created: when, in seconds since 1970.
        model: the served model's name.
        system_fingerprint: changes when other answers to the same seed have to be expected.
        num_answers: choices of all prompts together.
        num_choices: choices of each prompt.
        with_usage: end a stream with what it cost.
        with_logprobs: send log probabilities.
    """

    id: str
    created: int
    model: str
    system_fingerprint: str
    num_answers: int = 1
    num_choices: int = 1
    with_usage: bool = False
    with_logprobs: bool = False

    def body(self, kind: str, choices: Sequence[object]) -> dict[str, Any]:
        """Return a body of that `object` kind."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
            "choices": choices,
        }


class _EventEncoder:
    """Server-sent events of several choices; a subclass knows what one looks like."""

    content_type = EVENT_STREAM
    heartbeat = b": ping\n\n"  # a comment, which clients skip
    _kind: str

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._logprobs = [AlignedLogprobs() for _ in range(shape.num_answers)]
        self._usages: list[Usage | None] = [None] * shape.num_answers

    def end(self) -> bytes:
        """End a stream whose answers are all complete."""
        if not self._shape.with_usage:
            return _DONE
        return self._event([], usage=_usage(self._usages, self._shape.num_choices)) + _DONE

    def fail(self, error: LLMStreamError) -> bytes:
        """End a stream with an error; `[DONE]` does not come."""
        return b"data: " + dump_line(error_body(PREFIX, error)) + b"\n\n"

    def _note(self, index: int, chunk: Chunk) -> list[LocatedLogprob]:
        """Take a chunk's usage, and return the log probabilities that go with its text."""
        if chunk.usage is not None:
            self._usages[index] = chunk.usage
        return self._logprobs[index].push(chunk.text, chunk.logprobs)

    def _event(self, choices: Sequence[object], usage: object = None) -> bytes:
        body = self._shape.body(self._kind, choices)
        if self._shape.with_usage:  # then every event has the field
            body["usage"] = usage
        return b"data: " + dump_line(body) + b"\n\n"


class ChatEncoder(_EventEncoder):
    """Events of `/v1/chat/completions`: per choice a role, reasoning, content, and how it ends."""

    _kind = "chat.completion.chunk"

    def begin(self) -> bytes:
        """Say who speaks."""
        delta = {"role": "assistant", "content": ""}
        return b"".join(self._delta(index, delta) for index in range(self._shape.num_answers))

    def encode(self, index: int, chunk: Chunk) -> bytes:
        """Send the new reasoning and text, and at the end of an answer why it ended."""
        located = self._note(index, chunk)
        events = b""
        if chunk.reasoning:
            events = self._delta(index, {"reasoning_content": chunk.reasoning})
        if chunk.text or (located and self._shape.with_logprobs):
            logprobs = _chat_logprobs(located) if self._shape.with_logprobs else None
            events += self._delta(index, {"content": chunk.text}, logprobs)
        if chunk.finish_reason is not None:
            events += self._delta(index, {}, finish_reason=chunk.finish_reason)
        return events

    def _delta(
        self, index: int, delta: object, logprobs: object = None, finish_reason: str | None = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs}
        return self._event([{**choice, "finish_reason": finish_reason}])


class CompletionEncoder(_EventEncoder):
    """Events of `/v1/completions`."""

    _kind = "text_completion"

    def begin(self) -> bytes:
        """Nothing comes before the text."""
        return b""

    def encode(self, index: int, chunk: Chunk) -> bytes:
        """Send the new text, and at the end of an answer why it ended."""
        located = self._note(index, chunk)
        if not (chunk.text or chunk.finish_reason or (located and self._shape.with_logprobs)):
            return b""
        logprobs = _completion_logprobs(located) if self._shape.with_logprobs else None
        choice = {"text": chunk.text, "index": index, "logprobs": logprobs}
        return self._event([{**choice, "finish_reason": chunk.finish_reason}])


def chat_completion(shape: Shape, answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the body of a `/v1/chat/completions` response that is not streamed."""
    choices = [
        {
            "index": index,
            "message": _message(answer),
            "logprobs": {"content": answer.logprobs["content"], "refusal": None}
            if shape.with_logprobs
            else None,
            "finish_reason": answer.finish_reason,
        }
        for index, answer in enumerate(answers)
    ]
    usage = _usage([answer.usage for answer in answers], shape.num_choices)
    return {**shape.body("chat.completion", choices), "usage": usage}


def _message(answer: Answer) -> dict[str, Any]:
    """Return an answer as a turn; its reasoning in the field that DeepSeek's API has for it."""
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    return {**message, "reasoning_content": answer.reasoning} if answer.reasoning else message


def completion(shape: Shape, answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the body of a `/v1/completions` response that is not streamed."""
    choices = [
        {
            "text": answer.text,
            "index": index,
            "logprobs": {name: answer.logprobs[name] for name in _COMPLETION_LISTS}
            if shape.with_logprobs
            else None,
            "finish_reason": answer.finish_reason,
        }
        for index, answer in enumerate(answers)
    ]
    usage = _usage([answer.usage for answer in answers], shape.num_choices)
    return {**shape.body("text_completion", choices), "usage": usage}


def _usage(of_answers: Sequence[Usage | None], num_choices: int) -> dict[str, Any]:
    """Return what all answers cost; the prompt of several choices counts once."""
    usages = [usage for usage in of_answers if usage is not None]
    assert len(usages) == len(of_answers)  # every complete answer has one
    of_prompts = usages[::num_choices]
    prompt_tokens = sum(usage.prompt_tokens for usage in of_prompts)
    cached_tokens = sum(usage.cached_tokens for usage in of_prompts)
    completion_tokens = sum(usage.completion_tokens for usage in usages)
    reasoning_tokens = sum(usage.reasoning_tokens for usage in usages)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
    }


def chat_logprob(located: LocatedLogprob) -> dict[str, Any]:
    """Return what the list of a chat's log probabilities has for a token."""
    logprob = located.logprob
    top = [_chat_token(token) for token in logprob.top]
    return {"content": {**_chat_token(logprob.drawn), "top_logprobs": top}}


def _chat_logprobs(located: Sequence[LocatedLogprob]) -> dict[str, Any]:
    return {"content": [chat_logprob(one)["content"] for one in located], "refusal": None}


def _chat_token(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.piece.decode(errors="replace"),
        "logprob": finite_logprob(token.logprob),
        "bytes": list(token.piece),
    }


_COMPLETION_LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


def completion_logprob(located: LocatedLogprob) -> dict[str, Any]:
    """Return what each list of a completion's log probabilities has for a token."""
    drawn = located.logprob.drawn
    values = (
        _completion_token(drawn.piece),
        finite_logprob(drawn.logprob),
        _completion_top(located.logprob),
        located.text_offset,
    )
    return dict(zip(_COMPLETION_LISTS, values, strict=True))


def _completion_logprobs(located: Sequence[LocatedLogprob]) -> dict[str, Any]:
    tokens = [completion_logprob(one) for one in located]
    return {name: [token[name] for token in tokens] for name in _COMPLETION_LISTS}


def _completion_top(logprob: DrawnLogprob) -> dict[str, float]:
    """Return the most likely tokens and the drawn one; of two that read the same, the likelier."""
    top: dict[str, float] = {}
    for token in (*logprob.top, logprob.drawn):
        top.setdefault(_completion_token(token.piece), finite_logprob(token.logprob))
    return top


def _completion_token(piece: bytes) -> str:
    r"""Return a token's text; a part of a character as OpenAI writes it, `bytes:\xe2\x82`."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
