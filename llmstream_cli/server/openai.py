"""The routes of OpenAI's API: `/v1/chat/completions`, `/v1/completions` and `/v1/models`."""

import hashlib
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from quart import Blueprint, Response

import llmstream_cli
from llmstream_cli.server.body import read_model
from llmstream_cli.server.dialect import fields_as_given, json_response
from llmstream_cli.server.openai_requests import ChatCompletionRequest, CompletionRequest
from llmstream_cli.server.openai_responses import (
    EVENT_STREAM,
    ChatEncoder,
    CompletionEncoder,
    Shape,
    chat_completion,
    chat_logprob,
    completion,
    completion_logprob,
)
from llmstream_cli.server.openapi import Operation, Reply
from llmstream_cli.server.respond import Answer, Encoder, LogprobFields, collect, stream
from llmstream_cli.server.served import ServedModel, ServedModels


def openai_routes(models: ServedModels) -> Blueprint:
    """Return the routes."""
    blueprint = Blueprint("openai", __name__, url_prefix="/v1")

    @blueprint.post("/chat/completions")
    async def chat_completions() -> Response:
        body = await read_model(ChatCompletionRequest)
        with fields_as_given(body.client_names):  # errors of the engine's, too
            return await _answer(
                models, body, "chatcmpl", ChatEncoder, chat_completion, chat_logprob
            )

    @blueprint.post("/completions")
    async def completions() -> Response:
        body = await read_model(CompletionRequest)
        with fields_as_given(body.client_names):
            return await _answer(
                models, body, "cmpl", CompletionEncoder, completion, completion_logprob
            )

    @blueprint.get("/models")
    async def list_models() -> Response:
        data = [_model(served) for served in models.models]
        return json_response({"object": "list", "data": data})

    @blueprint.get("/models/<path:name>")  # a name may have slashes
    async def retrieve_model(name: str) -> Response:
        return json_response(_model(models.find(name)))

    return blueprint


async def _answer(
    models: ServedModels,
    body: ChatCompletionRequest | CompletionRequest,
    prefix: str,
    encoder: Callable[[Shape], Encoder],
    whole: Callable[[Shape, Sequence[Answer]], dict[str, Any]],
    logprob: LogprobFields,
) -> Response:
    served = models.find(body.model)
    requests = body.generation_requests(served.sampling_for(body.thinks))
    shape = Shape(
        id=f"{prefix}-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=served.name,
        system_fingerprint=_system_fingerprint(served),
        num_answers=len(requests),
        num_choices=body.num_choices,
        with_usage=body.includes_usage,
        with_logprobs=body.includes_logprobs,
    )
    if body.stream:
        return await stream(served, requests, encoder(shape))
    answers = await collect(served, requests, logprob if shape.with_logprobs else None)
    return json_response(whole(shape, answers))


def _system_fingerprint(served: ServedModel) -> str:
    """Name all that decides what a seed draws: program, model file, and the server's defaults."""
    parts = (llmstream_cli.__version__, served.name, served.created, served.sampling)
    return "fp_" + hashlib.sha256(repr(parts).encode()).hexdigest()[:10]


def _model(served: ServedModel) -> dict[str, object]:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "llmstream",
    }


OPERATIONS = (
    Operation(
        "post",
        "/v1/chat/completions",
        "Answer a conversation, as OpenAI's API does",
        "With `stream`, the answer comes as server-sent events and ends in `[DONE]`.",
        request=ChatCompletionRequest,
        replies=(Reply(200, "The answer.", streamed=EVENT_STREAM),),
    ),
    Operation(
        "post",
        "/v1/completions",
        "Continue prompts, as OpenAI's API does",
        "With `stream`, the answer comes as server-sent events and ends in `[DONE]`.",
        request=CompletionRequest,
        replies=(Reply(200, "The answer.", streamed=EVENT_STREAM),),
    ),
    Operation("get", "/v1/models", "List the models", replies=(Reply(200, "The models."),)),
    Operation("get", "/v1/models/{name}", "Describe a model", replies=(Reply(200, "The model."),)),
)
