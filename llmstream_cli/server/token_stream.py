"""`POST /token_stream`: a question in, the text of the answer out as it is generated."""

import dataclasses
import difflib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from quart import Blueprint, Response

from llmstream_cli.core.api import (
    MAX_GRAMMAR_CHARS,
    MAX_LOGIT_BIASES,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    Chunk,
    GenerationRequest,
    SamplingParams,
)
from llmstream_cli.errors import InvalidFieldError, LLMStreamError
from llmstream_cli.prompts.messages import Message
from llmstream_cli.server.body import read_model
from llmstream_cli.server.context import ServerContext
from llmstream_cli.server.dialect import (
    MAX_MESSAGES,
    json_response,
    sampling_params,
    schema_text,
)
from llmstream_cli.server.openapi import Operation, Reply
from llmstream_cli.server.respond import stream

_SAMPLING = {field.name for field in dataclasses.fields(SamplingParams)}
_CONTENT_TYPE = "text/plain; charset=utf-8"

_StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]


class ChatMessage(BaseModel):
    """A turn of the conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"]
    content: str


class TokenStreamRequest(BaseModel):
    """A question, and how to answer it. What is left out, or null, is as the server was started."""

    model_config = ConfigDict(extra="forbid", strict=True)

    query: str = Field(min_length=1, description="The question.", examples=["Where is Paris?"])
    system: str | None = Field(None, description="The system message: who answers, and how.")
    context: str | None = Field(
        None, description="A system message by its name instead; see /contexts.", examples=["sql"]
    )
    messages: list[ChatMessage] | None = Field(
        None, max_length=MAX_MESSAGES, description="The conversation before the question."
    )
    model: str | None = Field(None, description="A model that is served; see /v1/models.")
    temperature: float | None = Field(
        None, ge=0, le=10, description="Divides the logits; 0 takes the most likely token."
    )
    top_k: int | None = Field(
        None, ge=0, le=1_000_000, description="Draw from the k most likely tokens; 0 from all."
    )
    top_p: float | None = Field(
        None, ge=0, le=1, description="Draw from the likeliest tokens that together reach p."
    )
    min_p: float | None = Field(
        None, ge=0, le=1, description="Drop tokens less likely than p times the likeliest."
    )
    repeat_penalty: float | None = Field(
        None, ge=0.1, le=10, description="Make recent tokens less likely; 1 is off."
    )
    repeat_last_n: int | None = Field(
        None, ge=-1, le=1_000_000, description="How many tokens are recent; -1 is all of them."
    )
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, description="Subtracted from the logit of each recent token."
    )
    frequency_penalty: float | None = Field(
        None, ge=-2, le=2, description="Subtracted for each time that a token is recent."
    )
    seed: int | None = Field(
        None, ge=0, le=2**32 - 2, description="Draw the same answer each time."
    )
    max_tokens: int | None = Field(
        None, ge=1, le=2**31 - 1, description="End the answer after so many tokens."
    )
    stop: _StopString | Annotated[list[_StopString], Field(max_length=MAX_STOP_STRINGS)] | None = (
        Field(None, description="End the answer before this text, or one of these.")
    )
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None,
        max_length=MAX_LOGIT_BIASES,
        description="What to add to the logit of a token, by its id.",
    )
    ignore_eos: bool | None = Field(None, description="Never end the turn.")
    grammar: str | None = Field(
        None,
        max_length=MAX_GRAMMAR_CHARS,
        description="A GBNF grammar that the answer has to follow.",
    )
    json_schema: dict[str, Any] | None = Field(
        None, description="A JSON Schema that the answer has to fulfil; {} is any JSON."
    )

    thinking: bool | None = Field(
        None,
        description="Whether a model that can reasons before it answers, which is not sent.",
    )
    include_reasoning: bool | None = Field(
        None, description="Send the reasoning as well, first and between <think> and </think>."
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
        return GenerationRequest(messages, self._sampling(defaults), thinking=self.thinking)

    def _system(self, contexts: Mapping[str, str]) -> tuple[Message, ...]:
        field, text = "system", self.system
        if self.context is not None:
            if self.system is not None:
                raise InvalidFieldError("context: system gives the system message", "context")
            field, text = "context", _find_context(self.context, contexts)
        if text is None:
            return ()
        if any(turn.role == "system" for turn in self.messages or ()):
            raise InvalidFieldError(f"{field}: messages has a system message already", field)
        return (Message("system", text),)

    def _sampling(self, defaults: SamplingParams) -> SamplingParams:
        given = self.model_dump(include=_SAMPLING, exclude_none=True)
        if self.stop is not None:
            given["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if self.logit_bias is not None:
            given["logit_bias"] = tuple(
                (_token_id(token), bias) for token, bias in self.logit_bias.items()
            )
        if self.json_schema is not None:
            given["json_schema"] = schema_text(self.json_schema)
        return sampling_params(defaults, given, client_names={})


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
        near = difflib.get_close_matches(name[:100], contexts, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(contexts)}"
        raise InvalidFieldError(f"context: none is called {name[:100]!r}; {hint}", "context")
    return text


def _token_id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):  # noqa: PLR2004
        raise InvalidFieldError(f"logit_bias: {text[:20]!r} is no token id", "logit_bias")
    return int(text)


class PlainText:
    """The text and nothing else; implements `respond.Encoder`.

    Args:
        include_reasoning: send it as well, in the tags that most models write themselves.
    """

    content_type = _CONTENT_TYPE
    heartbeat = b""

    def __init__(self, *, include_reasoning: bool = False) -> None:
        self._include_reasoning = include_reasoning
        self._is_open = False

    def begin(self) -> bytes:
        """Return nothing."""
        return b""

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


def token_stream_routes(server: ServerContext) -> Blueprint:
    """Return the routes."""
    blueprint = Blueprint("token_stream", __name__)

    @blueprint.post("/token_stream")
    async def token_stream() -> Response:
        asked = await read_model(TokenStreamRequest)
        model = server.models.find(asked.model)
        request = asked.generation(model.sampling, server.contexts)
        encoder = PlainText(include_reasoning=bool(asked.include_reasoning))
        response = await stream(model, [request], encoder)
        response.headers["X-Model"] = model.name
        return response

    @blueprint.get("/contexts")
    async def contexts() -> Response:
        return json_response(Contexts(contexts=list(server.contexts)).model_dump())

    return blueprint


OPERATIONS = (
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
)
