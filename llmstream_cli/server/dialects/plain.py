"""`POST /token_stream`: a question in, the text of the answer out as it is generated."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from quart import Response

from llmstream_cli.api import Chunk, GenerationRequest
from llmstream_cli.errors import InvalidValueError, LLMStreamError, did_you_mean
from llmstream_cli.prompts.messages import Message
from llmstream_cli.sampling import PARAMETERS, SamplingParams
from llmstream_cli.server.context import server_context
from llmstream_cli.server.dialects.common import (
    MAX_MESSAGES,
    Dialect,
    json_response,
    sampling_params,
)
from llmstream_cli.server.dialects.fields import ClosedFields, excluded, with_fields
from llmstream_cli.server.http.answers import MAX_RESUME_SECONDS
from llmstream_cli.server.respond import Encoder, stream

DIALECT = Dialect()
_CONTENT_TYPE = "text/plain; charset=utf-8"


class ChatMessage(ClosedFields):
    """A turn of the conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@with_fields({name: name for name in PARAMETERS if name != "logprobs"}, {}, closed=True)
class TokenStreamRequest(ClosedFields):
    """A question, and how to answer it. What is left out, or null, is as the server was started."""

    model_config = excluded({"system": {"type": "string"}, "context": {"type": "string"}})

    query: str = Field(
        min_length=1,
        description="the question; the only field that has to be there",
        examples=["Where is Paris?"],
    )
    system: str | None = Field(None, description="the system message: who answers, and how")
    context: str | None = Field(
        None,
        description="a system message by its name instead, see `GET /contexts`; not with `system`, "
        "nor with a system message in `messages`",
        examples=["sql"],
    )
    messages: Annotated[list[ChatMessage], Field(max_length=MAX_MESSAGES)] | None = Field(
        None,
        description="the conversation before the question: objects with `role` (`system`, `user`, "
        "`assistant`) and `content`",
    )
    model: str | None = Field(None, description="a model that is served, by any of its names")
    thinking: bool | None = Field(
        None,
        description="whether a model that can reasons before it answers, which is not sent",
    )
    resume: Annotated[int, Field(ge=0, le=MAX_RESUME_SECONDS)] | None = Field(
        None,
        description="seconds for which the answer goes on without its connection, to be "
        "[resumed](#answers-that-survive-their-connection); as the header `Resume`",
    )
    include_reasoning: bool | None = Field(
        None,
        description="send the reasoning as well: first, and between `<think>` and `</think>`",
    )

    def generation_request(
        self, defaults: SamplingParams, contexts: Mapping[str, str]
    ) -> GenerationRequest:
        """Return what the engine is asked.

        Raises:
            InvalidValueError: values exclude each other, or no context has that name.
        """
        history = [Message(turn.role, turn.content) for turn in self.messages or ()]
        system = self._system(contexts)
        messages = (*system, *history, Message("user", self.query))
        sampling = sampling_params(defaults, self.given())
        return GenerationRequest(messages, sampling, thinking=self.thinking)

    def _system(self, contexts: Mapping[str, str]) -> tuple[Message, ...]:
        field, text = "system", self.system
        if self.context is not None:
            if text is not None:
                raise InvalidValueError(
                    "context and system exclude each other; leave one out", "context"
                )
            field, text = "context", contexts.get(self.context)
            if text is None:
                hint = did_you_mean(self.context, contexts)
                raise InvalidValueError(
                    f"context {self.context[:100]!r} is not known; {hint}", "context"
                )
        if text is None:
            return ()
        if any(turn.role == "system" for turn in self.messages or ()):
            raise InvalidValueError(
                f"{field} gives a second system message beside the one in messages; leave one out",
                field,
            )
        return (Message("system", text),)


def as_fields(sampling: SamplingParams) -> dict[str, Any]:
    """Return parameters as the fields of a request that asks for them; None is left out."""
    fields = {
        **dataclasses.asdict(sampling),
        "stop": [*sampling.stop] or None,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias} or None,
        "json_schema": json.loads(sampling.json_schema or "null"),
        "logprobs": None,
    }
    return {name: value for name, value in fields.items() if value is not None}


class PlainText(Encoder):
    """The text and nothing else; with `include_reasoning`, that in the tags most models write."""

    content_type = _CONTENT_TYPE

    def __init__(self, *, include_reasoning: bool) -> None:
        self._include_reasoning = include_reasoning
        self._is_open = False

    def encode(self, index: int, chunk: Chunk) -> bytes:
        before = ""
        if chunk.reasoning and self._include_reasoning:
            before = chunk.reasoning if self._is_open else f"<think>\n{chunk.reasoning}"
            self._is_open = True
        if chunk.text and self._is_open:
            before += "\n</think>\n\n"
            self._is_open = False
        return (before + chunk.text).encode()

    def end(self) -> bytes:
        """Close reasoning that no answer has come after."""
        return b"\n</think>\n" if self._is_open else b""

    def fail(self, error: LLMStreamError) -> None:
        """Cut the response: any text would be a part of the answer."""


@DIALECT.route(
    "/token_stream",
    "Stream the answer to a question as plain text",
    "The body of the response is the answer, in chunks as they are generated, and nothing "
    "else. If the answer fails on its way, the connection closes without the final chunk.",
    request=TokenStreamRequest,
    content_type=_CONTENT_TYPE,
)
async def token_stream(body: TokenStreamRequest) -> Response:
    context = server_context()
    served = context.models.find(body.model)
    request = body.generation_request(served.sampling_for(body.thinking), context.contexts)
    encoder = PlainText(include_reasoning=bool(body.include_reasoning))
    response = await stream(served, [request], encoder, resume=body.resume)
    response.headers["X-Model"] = served.name
    return response


class Contexts(BaseModel):
    """The system messages that a request can name, and the server knows the text of."""

    contexts: list[str]


@DIALECT.route(
    "/contexts",
    "List the named contexts of /token_stream",
    model=Contexts,
)
async def contexts() -> Response:
    return json_response({"contexts": [*server_context().contexts]})
