"""The events of another server's answer, made into chunks.

https://platform.openai.com/docs/api-reference/chat/streaming

What servers do, beyond what that page says:

1. The first event may bear a role and no text, long before the first token.
2. An event is no token: some have no text, some that of several tokens. Where the server tells no
   token ids, a chunk has none.
3. The reason to finish may come with the last text or alone; what the answer cost comes after it,
   with no choices, or not at all.
4. Half of a character may come as a lone surrogate, its other half in the next event.
5. Thoughts are called `reasoning_content` (DeepSeek, llama-server, SGLang) or `reasoning` (vLLM).

Pure: no I/O, clock, thread, or model.
"""

import codecs
from collections.abc import Mapping
from typing import Any

from llmstream_cli.api import Chunk, FinishReason, Usage
from llmstream_cli.errors import UpstreamError

_MAX_TOKENS = 2**40  # beyond that it is no count
_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


class RemoteAnswer:
    """Takes the events of one answer, in order; gives its chunks."""

    def __init__(self) -> None:
        self._text = _SurrogateJoiner()
        self._reasoning = _SurrogateJoiner()
        self._finish_reason: FinishReason | None = None
        self._tokens: tuple[int, int, int | None] | None = None
        self._first_seconds: float | None = None
        self._last_seconds = 0.0

    def push(self, event: Mapping[str, Any], seconds: float) -> Chunk | None:
        """Take an event; return the chunk that it makes, if it has text.

        Args:
            event: as the server sent it.
            seconds: since the request was made.

        Raises:
            UpstreamError: the answer has ended in a way that is no good end.
        """
        self._tokens = reported_tokens(event) or self._tokens
        choice = _choice(event)
        text = self._text.push(_text(choice))
        reasoning = self._reasoning.push(_reasoning(choice))
        if (reason := choice.get("finish_reason")) is not None:
            self._finish_reason = _finish_reason(reason)
        if not (text or reasoning):
            return None
        if self._first_seconds is None:
            self._first_seconds = seconds
        self._last_seconds = seconds
        return Chunk(text, reasoning=reasoning)

    def end(self) -> Chunk:
        """Return the last chunk.

        Raises:
            UpstreamError: the server has not said that the answer is complete.
        """
        if self._finish_reason is None:
            raise UpstreamError("the stream ended without a reason to finish")
        return Chunk(
            self._text.end(),
            finish_reason=self._finish_reason,
            usage=self._usage(),
            reasoning=self._reasoning.end(),
        )

    def _usage(self) -> Usage | None:
        if self._tokens is None:
            return None
        prompt_tokens, completion_tokens, cached_tokens = self._tokens
        first_seconds = self._first_seconds or 0.0
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            prompt_seconds=first_seconds,
            completion_seconds=self._last_seconds - first_seconds,
            cached_tokens=cached_tokens or 0,
        )


class _SurrogateJoiner:
    """Joins halves of characters that came apart, and replaces those that are alone."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-16-le")("replace")

    def push(self, text: str) -> str:
        """Return the text that is complete."""
        return self._decoder.decode(text.encode("utf-16-le", "surrogatepass"))

    def end(self) -> str:
        """Return what waits for its other half."""
        return self._decoder.decode(b"", final=True)


def _choice(event: Mapping[str, Any]) -> Mapping[Any, Any]:
    """Return the only answer that was asked for; nothing where the event is not about it."""
    match event.get("choices"):
        case [{**choice}, *_]:
            return choice
        case _:
            return {}


def _text(choice: Mapping[Any, Any]) -> str:
    """Return the new text of a chat or of a completion."""
    match choice:
        case {"delta": {"content": str(text)}} | {"text": str(text)}:
            return text
        case {"delta": {"content": content}} if content is not None:
            raise UpstreamError("the answer has a part that is no text")
        case _:
            return ""


def _reasoning(choice: Mapping[Any, Any]) -> str:
    match choice:
        case {"delta": {"reasoning_content": str(text)}} | {"delta": {"reasoning": str(text)}}:
            return text
        case _:
            return ""


def _finish_reason(reason: object) -> FinishReason:
    known = _REASONS.get(reason) if isinstance(reason, str) else None
    if known is None:
        raise UpstreamError(f"the server broke the answer off: {str(reason)[:50]!r}")
    return known


def reported_tokens(event: Mapping[str, Any]) -> tuple[int, int, int | None] | None:
    """Return what an event says of the answer's cost; None where it says nothing that can be true.

    The numbers are tokens of the prompt, tokens of the answer, and those of the prompt that were
    not computed again; the last is None where it is not reported.
    """
    match event.get("usage"):
        case {"prompt_tokens": int(prompt), "completion_tokens": int(completion), **details}:
            cached = _cached_tokens(details)
        case _:
            return None
    possible = all(0 <= count <= _MAX_TOKENS for count in (prompt, completion, cached or 0))
    return (prompt, completion, cached) if possible else None


def _cached_tokens(details: Mapping[Any, Any]) -> int | None:
    match details:
        case {"prompt_tokens_details": {"cached_tokens": int(cached)}}:
            return cached
        case _:
            return None
