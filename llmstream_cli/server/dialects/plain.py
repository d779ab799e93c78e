"""`POST /token_stream`: a question in, the text of the answer out as it is generated."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from quart import Blueprint, Response

from llmstream_cli.api import Chunk, GenerationRequest
from llmstream_cli.errors import InvalidValueError, LLMStreamError, did_you_mean
from llmstream_cli.prompts.messages import Message
from llmstream_cli.sampling import PARAMETERS, SamplingParams
from llmstream_cli.server.body import read_model
from llmstream_cli.server.context import ServerContext
from llmstream_cli.server.dialects.common import (
    MAX_MESSAGES,
    Dialect,
    given_parameters,
    json_response,
    sampling_params,
)
from llmstream_cli.server.dialects.fields import FieldTable, excluded, with_fields
from llmstream_cli.server.pages import Operation, Reply
from llmstream_cli.server.respond import Encoder, stream

_CONTENT_TYPE = "text/plain; charset=utf-8"


class ChatMessage(BaseModel):
    """A turn of the conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"]
    content: str


@with_fields({name: name for name in PARAMETERS if name != "logprobs"}, {}, (), strict_bounds=True)
class TokenStreamRequest(FieldTable):
    """A question, and how to answer it. What is left out, or null, is as the server was started."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra=excluded({"system": {"type": "string"}, "context": {"type": "string"}}),
    )

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
    include_reasoning: bool | None = Field(
        None,
        description="send the reasoning as well: first, and between `<think>` and `</think>`",
    )

    def generation(
        self, defaults: SamplingParams, contexts: Mapping[str, str]
    ) -> GenerationRequest:
        """Return what the engine is asked.

        Raises:
            InvalidValueError: values exclude each other, or no context has that name.
        """
        system = self._system(contexts)
        history = [Message(turn.role, turn.content) for turn in self.messages or ()]
        messages = (*system, *history, Message("user", self.query))
        sampling = sampling_params(defaults, given_parameters(self))
        return GenerationRequest(messages, sampling, thinking=self.thinking)

    def _system(self, contexts: Mapping[str, str]) -> tuple[Message, ...]:
        field, text = "system", self.system
        if self.context is not None:
            if self.system is not None:
                raise InvalidValueError(
                    "context and system exclude each other; leave one out", "context"
                )
            field, text = "context", _find_context(self.context, contexts)
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
        name: value
        for name, value in dataclasses.asdict(sampling).items()
        if name in TokenStreamRequest.model_fields and value not in (None, ())
    }
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    if sampling.logit_bias:
        fields["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    if sampling.json_schema is not None:
        fields["json_schema"] = json.loads(sampling.json_schema)
    return fields


def _find_context(name: str, contexts: Mapping[str, str]) -> str:
    text = contexts.get(name)
    if text is None:
        hint = did_you_mean(name, contexts)
        raise InvalidValueError(f"context {name[:100]!r} is not known; {hint}", "context")
    return text


class PlainText(Encoder):
    """The text and nothing else.

    Args:
        include_reasoning: send it as well, in the tags that most models write themselves.
    """

    content_type = _CONTENT_TYPE

    def __init__(self, *, include_reasoning: bool = False) -> None:
        self._include_reasoning = include_reasoning
        self._is_open = False

    def encode(self, index: int, chunk: Chunk) -> bytes:
        """Return the chunk's text."""
        before = ""
        if chunk.reasoning and self._include_reasoning:
            before = chunk.reasoning if self._is_open else f"<think>\n{chunk.reasoning}"
            self._is_open = True
        if chunk.text and self._is_open:
            before += "\n</think>\n\n"
            self._is_open = False
        return (before + chunk.text).encode()

    def end(self) -> bytes:
        """Close reasoning that no answer has come after; else return nothing."""
        return b"\n</think>\n" if self._is_open else b""

    def fail(self, error: LLMStreamError) -> None:
        """Cut the response: any text would be a part of the answer."""


class Contexts(BaseModel):
    """The system messages that a request can name, and the server knows the text of."""

    contexts: list[str]


def _routes(server: ServerContext) -> Blueprint:
    blueprint = Blueprint("token_stream", __name__)

    @blueprint.post("/token_stream")
    async def token_stream() -> Response:
        asked = await read_model(TokenStreamRequest)
        model = server.models.find(asked.model)
        request = asked.generation(model.sampling_for(asked.thinking), server.contexts)
        encoder = PlainText(include_reasoning=bool(asked.include_reasoning))
        response = await stream(model, [request], encoder)
        response.headers["X-Model"] = model.name
        return response

    @blueprint.get("/contexts")
    async def contexts() -> Response:
        return json_response(Contexts(contexts=list(server.contexts)).model_dump())

    return blueprint


DIALECT = Dialect(
    _routes,
    (
        Operation(
            "post",
            "/token_stream",
            "Stream the answer to a question as plain text",
            "The body of the response is the answer, in chunks as they are generated, and nothing "
            "else. If the answer fails on its way, the connection closes without the final chunk.",
            request=TokenStreamRequest,
            replies=(Reply(200, "The answer.", _CONTENT_TYPE),),
        ),
        Operation(
            "get",
            "/contexts",
            "List the named contexts of /token_stream",
            replies=(Reply(200, "Their names.", model=Contexts),),
        ),
    ),
)
