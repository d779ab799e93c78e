"""The routes of Ollama's API: chat, generate, and what tells of models."""

import asyncio
import time
from datetime import UTC, datetime

from quart import Blueprint, Response

from llmstream_cli.core.api import EngineState, ModelInfo
from llmstream_cli.errors import EngineNotReadyError, TimeLimitError
from llmstream_cli.server import ollama_models
from llmstream_cli.server.body import read_model
from llmstream_cli.server.context import server_context
from llmstream_cli.server.dialect import dump_line, json_response
from llmstream_cli.server.ollama_requests import ChatRequest, GenerateRequest, ShowRequest
from llmstream_cli.server.ollama_responses import NDJSON, LineEncoder, Reply, Route
from llmstream_cli.server.respond import collect, stream
from llmstream_cli.server.served import ServedModel

# Clients compare it to know what they may send: log probabilities came with this version of
# Ollama, schemas as `format` before it.
API_VERSION = "0.12.11"

blueprint = Blueprint("ollama", __name__, url_prefix="/api")


@blueprint.post("/chat")
async def chat() -> Response:
    """Answer a conversation."""
    started = time.monotonic()
    return await _answer("chat", await read_model(ChatRequest, any_content_type=True), started)


@blueprint.post("/generate")
async def generate() -> Response:
    """Answer, or continue, a single prompt."""
    started = time.monotonic()
    body = await read_model(GenerateRequest, any_content_type=True)
    return await _answer("generate", body, started)


@blueprint.get("/tags")
async def tags() -> Response:
    """List what is served."""
    models = [
        ollama_models.tag(served, await _loaded(served))
        for served in server_context().models.models
    ]
    return json_response({"models": models})


@blueprint.get("/ps")
async def ps() -> Response:
    """List what is loaded."""
    models = [
        ollama_models.process(served, info)
        for served in server_context().models.models
        if (info := await _loaded(served)) is not None
    ]
    return json_response({"models": models})


@blueprint.post("/show")
async def show() -> Response:
    """Describe one model."""
    body = await read_model(ShowRequest, any_content_type=True)
    served = server_context().models.find(body.model)
    info = await _loaded(served)
    if info is None:
        status = served.engine.status
        raise EngineNotReadyError(status.reason or f"the model is {status.state}")
    return json_response(ollama_models.show(served, info))


@blueprint.get("/version")
async def version() -> Response:
    """Tell which version of Ollama's API this is."""
    return json_response({"version": API_VERSION})


async def _answer(route: Route, body: ChatRequest | GenerateRequest, started: float) -> Response:
    served = server_context().models.find(body.model)
    request = body.generation_request(served.sampling)
    reply = Reply(
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
            return json_response(reply.loaded())
        return Response(dump_line(reply.loaded()) + b"\n", content_type=NDJSON)
    if body.streams:
        return await stream(served.engine, [request], LineEncoder(reply))
    (answer,) = await collect(served.engine, [request])
    return json_response(reply.whole(answer))


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
