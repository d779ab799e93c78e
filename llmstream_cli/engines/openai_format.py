"""OpenAI's API as servers speak it: their models, a request's body, the events of an answer.

https://platform.openai.com/docs/api-reference/chat/streaming

**Requests.** OpenAI's API lacks most of what local models are sampled with. Servers add it under
names of their own, and pass over names that they do not know, so that a parameter would be lost
without a word. Here it goes out only where the server says, by the owner of its models, that it is
one that takes it; else the request is refused. What nobody asked for is not sent: the server has
its own defaults.

**Answers.** What servers do, beyond what OpenAI's page says:

1. The first event may bear a role and no text, long before the first token.
2. An event is no token: some have no text, some that of several tokens. Where the server tells no
   token ids, a chunk has none.
3. The reason to finish may come with the last text or alone; what the answer cost comes after it,
   with no choices, or not at all.
4. Half of a character may come as a lone surrogate, its other half in the next event.
5. Reasoning is called `reasoning_content` (DeepSeek, llama-server, SGLang) or `reasoning` (vLLM).

**Events.** The format is that of WHATWG HTML, section "Server-sent events", "Interpreting an event
stream". What stands behind the last empty line when the stream ends is no event: it may be half of
one. The data stay bytes, because a UTF-8 character may not be checked before it is whole.

Pure: no I/O, clock, thread, or model.
"""

import codecs
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmstream_cli.api import Chunk, FinishReason, GenerationRequest, ModelInfo, Usage
from llmstream_cli.engines.openai_tools import RemoteCalls, message_fields, tool_fields
from llmstream_cli.errors import InvalidValueError, UpstreamError
from llmstream_cli.sampling import PARAMETERS

# APIs by what a server's models are `owned_by`; whatever else answers speaks OpenAI's.
# https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
# https://docs.vllm.ai/en/stable/serving/openai_compatible_server.html
# https://docs.sglang.ai/basic_usage/sampling_params.html
_OURS = "llmstream"
_APIS = {_OURS: _OURS, "llamacpp": "llamacpp", "vllm": "vllm", "sglang": "sglang"}

MAX_EVENT_BYTES = 1 << 20

_BOM = b"\xef\xbb\xbf"
_MAX_COUNT = 2**53
_MAX_MODELS_SHOWN = 5
_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
}


# ---- models ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model of another server."""

    name: str  # what requests call it
    owner: str  # whom the server calls its owner, which tells what server it is; "" if it does not
    info: ModelInfo  # what else the server tells of it


def parse_models(body: object) -> list[RemoteModel]:
    """Return the models of a list as the server sent it, in its order; none of what is no list.

    https://platform.openai.com/docs/api-reference/models/list, and what llama-server (`meta`), vLLM
    and SGLang (`max_model_len`) add to it.
    """
    match body:
        case {"data": [*entries]}:
            return [remote_model(entry["id"], entry) for entry in entries if _is_model(entry)]
        case _:
            return []


def only_model(models: Sequence[RemoteModel]) -> RemoteModel:
    """Return the model that is meant where none was named: the only one, else it is an error.

    This project's own server lists its default first.
    """
    if not models:
        raise UpstreamError("the server does not say what model it has; name it")
    if len(models) > 1 and models[0].owner != _OURS:
        raise InvalidValueError(f"the server has several models; name one: {model_names(models)}")
    return models[0]


def _is_model(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"] != ""


def model_names(models: Sequence[RemoteModel]) -> str:
    names = [model.name for model in models[:_MAX_MODELS_SHOWN]]
    return ", ".join([*names, "…"] if len(models) > len(names) else names)


def remote_model(name: str, entry: Mapping[Any, Any]) -> RemoteModel:
    owner, meta = entry.get("owned_by"), entry.get("meta")
    owner = owner if isinstance(owner, str) else ""
    meta = meta if isinstance(meta, dict) else {}
    info = ModelInfo(
        name=name,
        description=f"a model of a server ({owner})" if owner else "a model of a server",
        ctx_size=_count(entry.get("max_model_len")) or _count(meta.get("n_ctx")),
        load_seconds=0.0,
        cpu_features={},
        ctx_train=_count(meta.get("n_ctx_train")),
        vocab_size=_count(meta.get("n_vocab")),
        num_parameters=_count(meta.get("n_params")),
        size_bytes=_count(meta.get("size")),
    )
    return RemoteModel(name, owner, info)


def _count(value: object) -> int:
    """Return a number as it was sent, if it can be one of what is counted; else 0."""
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else 0


# ---- requests -------------------------------------------------------------------------------


def request_body(request: GenerationRequest, model: str, owner: str) -> dict[str, Any]:
    """Return the body of a request whose answer is streamed, for a model that belongs to `owner`.

    A parameter that such a server does not have is an `InvalidValueError`.
    """
    body: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.messages:
        body["messages"] = [
            message_fields(message, takes_reasoning=owner in _APIS) for message in request.messages
        ]
        body |= tool_fields(request)
        if request.thinking is not None:
            body |= _thinking(request.thinking, owner)
    else:
        body["prompt"] = request.prompt
    for name in PARAMETERS:
        value = getattr(request.sampling, name)
        # Neither what nobody set, nor a value that asks for nothing.
        if name not in request.unset and value is not None and value is not False and value != ():
            body |= _parameter(name, value, owner)
    return body


def _thinking(thinking: bool, owner: str) -> Mapping[str, Any]:
    """Return how a server is told whether to reason; OpenAI's own can only be told not to."""
    if owner in _APIS:
        return {"chat_template_kwargs": {"enable_thinking": thinking}}
    if thinking:
        raise InvalidValueError(
            "thinking cannot be asked of this server: its API is OpenAI's", "thinking"
        )
    return {"reasoning_effort": "none"}


def _parameter(parameter: str, value: Any, owner: str) -> dict[str, Any]:
    api = _APIS.get(owner, "openai")
    name = PARAMETERS[parameter].name_in(api)
    if name is None:
        of = owner if owner in _APIS else "OpenAI"
        raise InvalidValueError(
            f"{parameter} cannot be asked of this server: its API is {of}'s", parameter
        )
    if parameter == "json_schema":
        value = _parse_schema(value)
    if parameter == "logit_bias":
        value = {str(token): bias for token, bias in value}
    if parameter == "top_k" and api in {"vllm", "sglang"}:
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


# ---- answers --------------------------------------------------------------------------------


class RemoteAnswer:
    """Takes the events of one answer, in order; gives its chunks."""

    def __init__(self) -> None:
        # A lone half of a character waits for the other, and is replaced if that does not come.
        self._text, self._reasoning = (
            codecs.getincrementaldecoder("utf-16-le")("replace") for _ in range(2)
        )
        self._calls = RemoteCalls()
        self._finish_reason: FinishReason | None = None
        self._tokens: tuple[int, int, int] | None = None  # of prompt and answer, and cached ones
        self._first_seconds: float | None = None
        self._last_seconds = 0.0

    def push(self, event: Mapping[str, Any], seconds: float) -> Chunk | None:
        """Take an event, so many seconds after the request; return its chunk, if it has any.

        An answer that has been broken off is an `UpstreamError`.
        """
        self._tokens = _reported_tokens(event) or self._tokens
        match event.get("choices"):
            case [{**choice}, *_]:
                pass
            case _:  # the event is not about the answer
                return None
        text = self._text.decode(_utf16(_answer_text(choice)))
        reasoning = self._reasoning.decode(_utf16(_reasoning_text(choice)))
        calls = self._calls.push(choice)
        if (reason := choice.get("finish_reason")) is not None:
            self._finish_reason = _REASONS.get(reason) if isinstance(reason, str) else None
            if self._finish_reason is None:
                raise UpstreamError(f"the server broke the answer off: {str(reason)[:50]!r}")
        if not (text or reasoning or calls):
            return None
        self._last_seconds = seconds
        if self._first_seconds is None:
            self._first_seconds = self._last_seconds
        return Chunk(text, reasoning=reasoning, tool_calls=calls)

    def end(self) -> Chunk:
        """Return the last chunk; an answer that is not complete is an `UpstreamError`."""
        if self._finish_reason is None:
            raise UpstreamError("the stream ended without a reason to finish")
        reason = self._finish_reason
        if reason is FinishReason.TOOL_CALLS and not self._calls:
            raise UpstreamError("the server says that tools are called, and sent no call")
        if reason is FinishReason.STOP and self._calls:
            reason = FinishReason.TOOL_CALLS
        usage = None
        if self._tokens is not None:
            prompt_tokens, completion_tokens, cached_tokens = self._tokens
            first_seconds = self._first_seconds or 0.0
            usage = Usage(
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                prompt_seconds=first_seconds,
                completion_seconds=self._last_seconds - first_seconds,
                cached_tokens=cached_tokens,
            )
        return Chunk(
            self._text.decode(b"", final=True),
            finish_reason=reason,
            usage=usage,
            reasoning=self._reasoning.decode(b"", final=True),
        )


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


def _answer_text(choice: Mapping[Any, Any]) -> str:
    match choice:
        case {"delta": {"content": str(text)}} | {"text": str(text)}:
            return text
        case {"delta": {"content": content}} if content is not None:
            raise UpstreamError("the answer has a part that is no text")
        case _:
            return ""


def _reasoning_text(choice: Mapping[Any, Any]) -> str:
    match choice:
        case {"delta": {"reasoning_content": str(text)}} | {"delta": {"reasoning": str(text)}}:
            return text
        case _:
            return ""


def _reported_tokens(event: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Return the tokens of prompt and answer, and those cached; None if that cannot be true."""
    match event.get("usage"):
        case {"prompt_tokens": int(prompt), "completion_tokens": int(completion), **details}:
            pass
        case _:
            return None
    match details:
        case {"prompt_tokens_details": {"cached_tokens": int(cached)}}:
            pass
        case _:
            cached = 0
    possible = all(0 <= count <= _MAX_COUNT for count in (prompt, completion, cached))
    return (prompt, completion, cached) if possible else None


# ---- events ---------------------------------------------------------------------------------


class EventStream:
    """Takes the bytes of an event stream as they come; gives the data of its events."""

    def __init__(self) -> None:
        self._buffer = (
            bytearray()
        )  # from the end of the last event on, with lines that end with \n alone
        self._after_cr = False
        self._at_start = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that `chunk` completes."""
        if not chunk:
            return []
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        start = max(0, len(self._buffer) - 1)
        self._buffer += chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        events = []
        while (end := self._buffer.find(b"\n\n", start)) >= 0:
            events.append(bytes(self._buffer[:end]))
            del self._buffer[: end + 2]
            start = 0
        if max(map(len, (*events, self._buffer))) > MAX_EVENT_BYTES:
            raise UpstreamError(f"the stream has an event over {MAX_EVENT_BYTES >> 20} MiB")
        return [data for event in events if (data := self._data(event)) is not None]

    def _data(self, event: bytes) -> bytes | None:
        if self._at_start:
            event = event.removeprefix(_BOM)
            self._at_start = False
        fields = (line.partition(b":") for line in event.split(b"\n"))
        lines = [value.removeprefix(b" ") for field, _, value in fields if field == b"data"]
        return b"\n".join(lines) if lines else None
