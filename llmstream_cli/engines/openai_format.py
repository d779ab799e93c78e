"""OpenAI's API as servers speak it: a request's body, the stream of events, an answer's chunks.

https://platform.openai.com/docs/api-reference/chat/streaming

**Requests.** OpenAI's API lacks most of what local models are sampled with. Servers add it under
names of their own, and pass over names that they do not know, so that a parameter would be lost
without a word. Here it goes out only where the server says, by the owner of its models, that it is
one that takes it; else the request is refused. What nobody asked for is not sent: the server has
its own defaults.

**Events.** The format is that of WHATWG HTML, section "Server-sent events", "Interpreting an event
stream". What stands behind the last empty line when the stream ends is no event: it may be half of
one. The data stay bytes, because a UTF-8 character may not be checked before it is whole.

**Answers.** What servers do, beyond what OpenAI's page says:

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
import json
from collections.abc import Mapping
from typing import Any

from llmstream_cli.api import Chunk, FinishReason, GenerationRequest, Usage
from llmstream_cli.errors import InvalidValueError, UpstreamError
from llmstream_cli.sampling import PARAMETERS, Parameter

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"

# APIs by what a server's models are `owned_by`; whatever else answers speaks OpenAI's.
# https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
# https://docs.vllm.ai/en/stable/serving/openai_compatible_server.html
# https://docs.sglang.ai/basic_usage/sampling_params.html
_APIS = {"llmstream": "llamacpp", "llamacpp": "llamacpp", "vllm": "vllm", "sglang": "sglang"}

MAX_EVENT_BYTES = 1 << 20

_BOM = b"\xef\xbb\xbf"
_LINE_ENDS = (b"\n", b"\r")

_MAX_TOKENS = 2**40  # beyond that it is no count
_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


# ---- requests ---------------------------------------------------------------------------------


def request_path(request: GenerationRequest) -> str:
    """Return the route that takes such a request."""
    return CHAT if request.messages else COMPLETIONS


def request_body(request: GenerationRequest, model: str, owner: str) -> dict[str, Any]:
    """Return the body of a request whose answer is streamed.

    Args:
        request: what to generate.
        model: the server's name for the model.
        owner: whom the server calls the model's owner, which tells what server it is.

    Raises:
        InvalidValueError: the server has no such parameter.
    """
    body: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.messages:
        body["messages"] = [
            {"role": message.role, "content": message.content} for message in request.messages
        ]
        body |= _thinking(request.thinking, owner)
    else:
        body["prompt"] = request.prompt
    for name, value in _asked_for(request).items():
        body |= _written(owner, PARAMETERS[name], value)
    return body


def _thinking(thinking: bool | None, owner: str) -> Mapping[str, Any]:
    """Return how a server is told whether to reason; OpenAI's own can only be told not to."""
    if thinking is None:
        return {}
    if owner in _APIS:
        return {"chat_template_kwargs": {"enable_thinking": thinking}}
    if thinking:
        raise InvalidValueError(
            "thinking cannot be asked of this server: its API is OpenAI's", "thinking"
        )
    return {"reasoning_effort": "none"}


def _asked_for(request: GenerationRequest) -> dict[str, Any]:
    """Return the parameters that somebody set, without those whose value asks for nothing."""
    values = {name: getattr(request.sampling, name) for name in PARAMETERS}
    return {
        name: value
        for name, value in values.items()
        if name not in request.unset and value is not None and value is not False and value != ()
    }


def _written(owner: str, parameter: Parameter, value: Any) -> dict[str, Any]:
    """Return a parameter as a part of a request's body."""
    api = _APIS.get(owner, "openai")
    name = parameter.name_in(api)
    if name is None:
        of = owner if owner in _APIS else "OpenAI"
        raise InvalidValueError(
            f"{parameter.name} cannot be asked of this server: its API is {of}'s", parameter.name
        )
    if parameter.name == "json_schema":
        value = _parse_schema(value)
    if parameter.name == "logit_bias":
        value = {str(token): bias for token, bias in value}
    if parameter.name == "top_k" and api in {"vllm", "sglang"}:
        value = value or -1  # their word for all tokens
    if name == "response_format":
        value = {"type": "json_schema", "json_schema": {"name": "answer", "schema": value}}
    outer, _, inner = name.partition(".")
    return {outer: {inner: value} if inner else value}


def _parse_schema(schema: str) -> object:
    try:
        return json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"json_schema is no JSON: {error}", "json_schema") from error


# ---- events -----------------------------------------------------------------------------------


class EventStream:
    """Takes the bytes of an event stream as they come; gives the data of its events."""

    def __init__(self) -> None:
        self._line = bytearray()  # as far as it has come
        self._data: list[bytes] = []  # lines of the event that has begun
        self._num_data_bytes = 0
        self._at_start = True
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that `chunk` completes.

        Raises:
            UpstreamError: an event is longer than `MAX_EVENT_BYTES`.
        """
        if not chunk:
            return []
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        events = []
        for part in chunk.splitlines(keepends=True):
            self._line += part
            if len(self._line) + self._num_data_bytes > MAX_EVENT_BYTES:
                raise UpstreamError(f"the stream has an event over {MAX_EVENT_BYTES >> 20} MiB")
            if part.endswith(_LINE_ENDS):
                event = self._end_line()
                if event is not None:
                    events.append(event)
        return events

    def _end_line(self) -> bytes | None:
        """Take the line that is complete; return the event that it ends."""
        line = bytes(self._line).rstrip(b"\r\n")
        self._line.clear()
        if self._at_start:
            line = line.removeprefix(_BOM)
            self._at_start = False
        if not line:
            return self._end_event()
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
            self._num_data_bytes += len(value) + 1
        return None

    def _end_event(self) -> bytes | None:
        if not self._data:
            return None
        event = b"\n".join(self._data)
        self._data.clear()
        self._num_data_bytes = 0
        return event


# ---- answers ----------------------------------------------------------------------------------


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
