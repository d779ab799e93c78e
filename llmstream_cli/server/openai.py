"""The routes of OpenAI's API: `/v1/chat/completions`, `/v1/completions` and `/v1/models`."""

import hashlib
import time
import uuid

from quart import Blueprint, Response

import llmstream_cli
from llmstream_cli.server.body import read_model
from llmstream_cli.server.context import server_context
from llmstream_cli.server.dialect import json_response
from llmstream_cli.server.openai_requests import ChatCompletionRequest, CompletionRequest
from llmstream_cli.server.openai_responses import (
    ChatEncoder,
    CompletionEncoder,
    Head,
    chat_completion,
    completion,
)
from llmstream_cli.server.respond import collect, stream
from llmstream_cli.server.served import ServedModel

blueprint = Blueprint("openai", __name__, url_prefix="/v1")


@blueprint.post("/chat/completions")
async def chat_completions() -> Response:
    """Answer a conversation."""
    body = await read_model(ChatCompletionRequest)
    served = server_context().models.find(body.model)
    requests = body.generation_requests(served.sampling)
    head, with_logprobs = _head("chatcmpl", served), bool(body.logprobs)
    if body.stream:
        encoder = ChatEncoder(
            head,
            num_answers=len(requests),
            num_choices=body.num_choices,
            with_usage=body.includes_usage,
            with_logprobs=with_logprobs,
        )
        return await stream(served.engine, requests, encoder)
    answers = await collect(served.engine, requests)
    return json_response(
        chat_completion(head, answers, num_choices=body.num_choices, with_logprobs=with_logprobs)
    )


@blueprint.post("/completions")
async def completions() -> Response:
    """Continue prompts."""
    body = await read_model(CompletionRequest)
    served = server_context().models.find(body.model)
    requests = body.generation_requests(served.sampling)
    head, with_logprobs = _head("cmpl", served), body.logprobs is not None
    if body.stream:
        encoder = CompletionEncoder(
            head,
            num_answers=len(requests),
            num_choices=body.num_choices,
            with_usage=body.includes_usage,
            with_logprobs=with_logprobs,
        )
        return await stream(served.engine, requests, encoder)
    answers = await collect(served.engine, requests)
    return json_response(
        completion(head, answers, num_choices=body.num_choices, with_logprobs=with_logprobs)
    )


@blueprint.get("/models")
async def models() -> Response:
    """List what is served."""
    data = [_model(served) for served in server_context().models.models]
    return json_response({"object": "list", "data": data})


@blueprint.get("/models/<path:name>")
async def model(name: str) -> Response:
    """Describe one model."""
    return json_response(_model(server_context().models.find(name)))


def _model(served: ServedModel) -> dict[str, object]:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "llmstream",
    }


def _head(prefix: str, served: ServedModel) -> Head:
    return Head(
        id=f"{prefix}-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=served.name,
        system_fingerprint=_system_fingerprint(served),
    )


def _system_fingerprint(served: ServedModel) -> str:
    """Name all that decides what a seed draws: program, model file, and the server's defaults."""
    parts = (llmstream_cli.__version__, served.name, served.created, served.sampling)
    return "fp_" + hashlib.sha256(repr(parts).encode()).hexdigest()[:10]
