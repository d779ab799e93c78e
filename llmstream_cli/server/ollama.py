"""The routes of Ollama's API: chat, generate, and what tells of models."""

import asyncio
import time
from datetime import UTC, datetime

from pydantic import BaseModel
from quart import Blueprint, Response

from llmstream_cli.core.api import EngineState, ModelInfo
from llmstream_cli.errors import EngineNotReadyError, TimeLimitError
from llmstream_cli.server import ollama_models
from llmstream_cli.server.body import read_model
from llmstream_cli.server.context import server_context
from llmstream_cli.server.dialect import dump_line, json_response
from llmstream_cli.server.ollama_requests import ChatRequest, GenerateRequest, ShowRequest
from llmstream_cli.server.ollama_responses import NDJSON, LineEncoder, LineFormat, Route
from llmstream_cli.server.openapi import Operation, Reply
from llmstream_cli.server.respond import collect, stream
from llmstream_cli.server.served import ServedModel, ServedModels

# Clients compare it to know what they may send: log probabilities came with this version of
# Ollama, schemas as `format` before it.
API_VERSION = "0.12.11"


def ollama_routes(models: ServedModels) -> Blueprint:
    """Return the routes."""
    blueprint = Blueprint("ollama", __name__, url_prefix="/api")

    @blueprint.post("/chat")
    async def chat() -> Response:
        started = time.monotonic()
        body = await read_model(ChatRequest, any_content_type=True)
        return await _answer("chat", models.find(body.model), body, started)

    @blueprint.post("/generate")
    async def generate() -> Response:
        started = time.monotonic()
        body = await read_model(GenerateRequest, any_content_type=True)
        return await _answer("generate", models.find(body.model), body, started)

    @blueprint.get("/tags")
    async def tags() -> Response:
        found = [ollama_models.tag(served, await _loaded(served)) for served in models.models]
        return json_response({"models": found})

    @blueprint.get("/ps")
    async def ps() -> Response:
        infos = [(served, await _loaded(served)) for served in models.models]
        found = [ollama_models.process(served, info) for served, info in infos if info is not None]
        return json_response({"models": found})

    @blueprint.post("/show")
    async def show() -> Response:
        body = await read_model(ShowRequest, any_content_type=True)
        served = models.find(body.model)
        info = await _loaded(served)
        if info is None:
            status = served.engine.status
            raise EngineNotReadyError(status.reason or f"the model is {status.state}")
        return json_response(ollama_models.show(served, info))

    @blueprint.get("/version")
    async def version() -> Response:
        return json_response({"version": API_VERSION})

    return blueprint


async def _answer(
    route: Route, served: ServedModel, body: ChatRequest | GenerateRequest, started: float
) -> Response:
    request = body.generation_request(served.sampling)
    format_ = LineFormat(
        route=route,
        model=body.model or ollama_models.tag_name(served),
        with_logprobs=bool(body.logprobs),
        clock=time.monotonic,
        now=lambda: datetime.now(UTC),
        started=started,
    )
    if request is None:
        await _load(served)
        if not body.streams:
            return json_response(format_.loaded())
        return Response(dump_line(format_.loaded()) + b"\n", content_type=NDJSON)
    if body.streams:
        return await stream(served.engine, [request], LineEncoder(format_))
    (answer,) = await collect(served.engine, [request])
    return json_response(format_.whole(answer))


async def _load(served: ServedModel) -> None:
    """Wait for the model: that is what a request without a prompt is for."""
    limit = server_context().settings.timeout_seconds
    try:
        async with asyncio.timeout(limit):
            await served.engine.ready()
    except TimeoutError as error:
        raise TimeLimitError(f"the model was not loaded within {limit:g} seconds") from error


async def _loaded(served: ServedModel) -> ModelInfo | None:
    """Return the model if it is loaded, without waiting for it."""
    ready = served.engine.status.state is EngineState.READY
    return await served.engine.ready() if ready else None


class OllamaError(BaseModel):
    """The answer of a request that failed."""

    error: str


_STREAMS = "Comes as lines of JSON unless `stream` is false."

OPERATIONS = (
    Operation(
        "post",
        "/api/chat",
        "Answer a conversation, as Ollama's API does",
        _STREAMS,
        request=ChatRequest,
        replies=(Reply(200, "The answer."),),
        error=OllamaError,
    ),
    Operation(
        "post",
        "/api/generate",
        "Answer or continue a prompt, as Ollama's API does",
        _STREAMS,
        request=GenerateRequest,
        replies=(Reply(200, "The answer."),),
        error=OllamaError,
    ),
    Operation(
        "post",
        "/api/show",
        "Describe a model",
        request=ShowRequest,
        replies=(Reply(200, "The model."),),
        error=OllamaError,
    ),
    Operation("get", "/api/tags", "List the models", replies=(Reply(200, "The models."),)),
    Operation("get", "/api/ps", "List the loaded models", replies=(Reply(200, "The models."),)),
    Operation(
        "get", "/api/version", "The version of Ollama's API", replies=(Reply(200, "The version."),)
    ),
)
