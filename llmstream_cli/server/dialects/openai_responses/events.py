"""The answer: items that grow by events."""

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from llmstream_cli.api import Chunk, FinishReason, GenerationRequest, Usage
from llmstream_cli.errors import LLMStreamError
from llmstream_cli.server.dialects import common
from llmstream_cli.server.dialects.fields import FieldTable
from llmstream_cli.server.dialects.logprobs import (
    AlignedLogprobs,
    JsonList,
    LocatedLogprob,
    token_fields,
)
from llmstream_cli.server.dialects.openai_responses.request import (
    WITH_ENCRYPTED,
    OtherTool,
    ResponsesRequest,
)
from llmstream_cli.server.dialects.tools import new_call_id
from llmstream_cli.server.http.failure import error_body
from llmstream_cli.server.respond import Encoder
from llmstream_cli.server.served import ServedModel


@dataclass(frozen=True)
class _Kind:
    """A kind of item, and how its text comes: the names of events, and of fields in them."""

    id_prefix: str
    text: str  # the text's events
    whole: str  # the field of the event that has all of it
    start: dict[str, Any]  # what the item begins with
    part: str = ""  # the events of its one part, if it has parts
    index: str = ""
    parts: str = ""
    empty_part: dict[str, Any] = field(default_factory=dict)


_KINDS = {
    "reasoning": _Kind(
        "rs_",
        "reasoning_summary_text",
        "text",
        {"summary": [], "encrypted_content": None},
        "reasoning_summary_part",
        "summary_index",
        "summary",
        {"type": "summary_text", "text": ""},
    ),
    "message": _Kind(
        "msg_",
        "output_text",
        "text",
        {"role": "assistant", "content": []},
        "content_part",
        "content_index",
        "content",
        {"type": "output_text", "text": "", "annotations": [], "logprobs": []},
    ),
    "function_call": _Kind("fc_", "function_call_arguments", "arguments", {"arguments": ""}),
}


class ResponsesEncoder(Encoder):
    """Writes the items of an answer one after the other, and at its end each once more, whole."""

    content_type = "text/event-stream; charset=utf-8"
    heartbeat = b": ping\n\n"  # a comment, which clients skip

    def __init__(
        self, body: ResponsesRequest, served: ServedModel, request: GenerationRequest
    ) -> None:
        self.logprobs = JsonList()
        self.with_logprobs = request.sampling.logprobs is not None
        self.response = _response(body, served, request)
        self._encrypts = WITH_ENCRYPTED in (body.include or ())
        self._aligned = AlignedLogprobs()
        self._num_events = 0
        self._open = ""  # the kind of the item that grows, which is the output's last
        self._pieces: list[str] = []  # of its text
        self._place: dict[str, Any] = {}  # its own
        self._num_calls = 0
        self._names = {
            one.name: {"name": one.tool.name, "namespace": one.namespace}
            for one in body.callable_functions()
            if one.namespace
        }
        self._is_cut = False

    def begin(self) -> bytes:
        return b"".join(self._event(one, response=self.response) for one in _BEGIN)

    def encode(self, index: int, chunk: Chunk) -> bytes:
        events = b""
        if chunk.reasoning:
            events += self._grow("reasoning", chunk.reasoning)
        tokens: list[Any] = []
        if self.with_logprobs:
            located = self._aligned.push(chunk.text, chunk.logprobs)
            tokens = [token for one in located for token in self.logprob_fields(one).values()]
        if chunk.text or tokens:
            for token in tokens:
                self.logprobs.append(token)
            events += self._grow("message", chunk.text, logprobs=tokens)
        for call in chunk.tool_calls:
            if call.index >= self._num_calls:
                self._num_calls = call.index + 1
                name = self._names.get(call.name, {"name": call.name})
                events += self._begin_item("function_call", call_id=new_call_id(), **name)
            events += self._grow("function_call", call.arguments) if call.arguments else b""
        if chunk.finish_reason is not None:
            self._is_cut = chunk.finish_reason is FinishReason.LENGTH
            self.response["usage"] = chunk.usage and _usage(chunk.usage)
        return events

    def end(self) -> bytes:
        events = self._end_item()
        if self._is_cut:
            why = {"reason": "max_output_tokens"}
            return events + self._finish("incomplete", incomplete_details=why)
        return events + self._finish("completed", completed_at=int(time.time()))

    def fail(self, error: LLMStreamError) -> bytes:
        self._is_cut = True
        told = error_body(error)["error"]
        failure = {"code": told["code"], "message": told["message"]}
        return self._end_item() + self._finish("failed", error=failure)

    @staticmethod
    def logprob_fields(located: LocatedLogprob) -> dict[str, Any]:
        top = [token_fields(token) for token in located.logprob.top]
        return {"logprobs": {**token_fields(located.logprob.drawn), "top_logprobs": top}}

    def _grow(self, kind: str, text: str, **more: Any) -> bytes:
        """Add text to the item of that kind, which may have to begin."""
        events = self._begin_item(kind) if self._open != kind else b""
        self._pieces.append(text)
        return events + self._event(f"{_KINDS[kind].text}.delta", **self._place, delta=text, **more)

    def _begin_item(self, kind: str, **more: Any) -> bytes:
        events = self._end_item()
        how = _KINDS[kind]
        output = self.response["output"]
        id_ = how.id_prefix + uuid.uuid4().hex
        item = {"id": id_, "type": kind, "status": "in_progress", **how.start, **more}
        events += self._event("output_item.added", output_index=len(output), item=item)
        self._open, self._pieces = kind, []
        self._place = {"item_id": id_, "output_index": len(output)}
        if how.part:
            self._place[how.index] = 0
            events += self._event(f"{how.part}.added", **self._place, part=how.empty_part)
        output.append(item)
        return events

    def _end_item(self) -> bytes:
        """End the item that grows, if one does."""
        if not self._open:
            return b""
        how, text, item = _KINDS[self._open], "".join(self._pieces), self.response["output"][-1]
        item["status"] = "incomplete" if self._is_cut else "completed"
        more = {"logprobs": self.logprobs} if self._open == "message" else {}
        events = self._event(f"{how.text}.done", **self._place, **{how.whole: text}, **more)
        if how.part:
            part = {**how.empty_part, "text": text, **more}
            item[how.parts] = [part]
            events += self._event(f"{how.part}.done", **self._place, part=part)
        else:
            item[how.whole] = text
        if self._open == "reasoning" and self._encrypts:
            item["encrypted_content"] = text
        self._open = ""
        index = self._place["output_index"]
        return events + self._event("output_item.done", output_index=index, item=item)

    def _finish(self, status: str, **fields: Any) -> bytes:
        self.response |= {"status": status, **fields}
        return self._event(status, response=self.response)

    def _event(self, name: str, **fields: Any) -> bytes:
        type_ = f"response.{name}"
        body = {"type": type_, "sequence_number": self._num_events, **fields}
        self._num_events += 1
        text = common.json_text(body)
        for break_ in "\x85\u2028\u2029":  # at which some clients split lines; see `dump_line`
            text = text.replace(break_, f"\\u{ord(break_):04x}")
        return f"event: {type_}\ndata: {text}\n\n".encode()


_BEGIN = ("created", "in_progress")


def _response(
    body: ResponsesRequest, served: ServedModel, request: GenerationRequest
) -> dict[str, Any]:
    """Return the response before anything is generated."""
    sampling, choice = request.sampling, body.tool_choice
    asked = body.model_dump(by_alias=True, exclude_none=True, include={"reasoning", "text"})
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": served.name,
        "instructions": body.instructions,
        "output": [],
        "usage": None,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "top_logprobs": sampling.logprobs or 0,
        "max_output_tokens": sampling.max_tokens,
        "max_tool_calls": None,
        "reasoning": {"effort": None, "summary": None, **asked.get("reasoning", {})},
        "text": {"format": {"type": "text"}, **asked.get("text", {})},
        "tools": [
            tool.model_dump(by_alias=True)
            for tool in body.tools or ()
            if not isinstance(tool, OtherTool)
        ],
        "tool_choice": choice.model_dump(exclude_none=True)
        if isinstance(choice, FieldTable)
        else choice or "auto",
        "parallel_tool_calls": request.tool_choice.parallel,
        "truncation": "disabled",
        "store": False,
        "background": False,
        "previous_response_id": None,
        "metadata": body.metadata or {},
        "service_tier": "default",
        "prompt_cache_key": None,
        "safety_identifier": None,
        "user": None,
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
