"""The routes of Ollama's API: chat, generate, and what tells of models."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel
from quart import Blueprint, Response

from llmstream_cli.api import ModelInfo
from llmstream_cli.errors import EngineNotReadyError, LLMStreamError, TimeLimitError
from llmstream_cli.server import ollama_models
from llmstream_cli.server.body import read_model
from llmstream_cli.server.context import server_context
from llmstream_cli.server.dialect import dump_line, fields_as_given, json_response
from llmstream_cli.server.exchange import current_exchange
from llmstream_cli.server.ollama_requests import ChatRequest, GenerateRequest, ShowRequest
from llmstream_cli.server.ollama_responses import (
    NDJSON,
    LineEncoder,
    LineFormat,
    Route,
    ollama_logprob,
)
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
        with fields_as_given(body.client_names):  # errors of the engine's, too
            return await _answer("chat", models.find(body.model), body, started)

    @blueprint.post("/generate")
    async def generate() -> Response:
        started = time.monotonic()
        body = await read_model(GenerateRequest, any_content_type=True)
        with fields_as_given(body.client_names):
            return await _answer("generate", models.find(body.model), body, started)

    @blueprint.get("/tags")
    async def tags() -> Response:
        found = [ollama_models.tag(served, await _known(served)) for served in models.models]
        return json_response({"models": found})

    @blueprint.get("/ps")
    async def ps() -> Response:
        infos = [(served, await served.loaded()) for served in models.models]
        now = datetime.now(UTC)
        found = [ollama_models.process(served, info, now) for served, info in infos if info]
        return json_response({"models": found})

    @blueprint.post("/show")
    async def show() -> Response:
        body = await read_model(ShowRequest, any_content_type=True)
        served = models.find(body.model)
        info = await _known(served)
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
    request = body.generation_request(served.sampling_for(body.thinking))
    format_ = LineFormat(
        route=route,
        model=body.model or ollama_models.tag_name(served),
        with_logprobs=bool(body.logprobs),
        clock=time.monotonic,
        now=lambda: datetime.now(UTC),
        started=started,
        load_seconds=_load_clock(served),
    )
    if request is None:
        line = format_.without_prompt(await _load_or_unload(served, body.keep_alive_seconds))
        if not body.streams:
            return json_response(line)
        return Response(dump_line(line) + b"\n", content_type=NDJSON)
    if body.streams:
        return await stream(served, [request], LineEncoder(format_))
    logprob = ollama_logprob if format_.with_logprobs else None
    (answer,) = await collect(served, [request], logprob)
    return json_response(format_.whole(answer))


def _load_clock(served: ServedModel) -> Callable[[], float]:
    """Return what tells how long the model has been loaded for from now on, in seconds."""
    residency = served.residency
    if residency is None or residency.info is not None:
        return float  # 0.0
    before = residency.load_seconds
    return lambda: residency.load_seconds - before


async def _load_or_unload(
    served: ServedModel, keep_alive: float | None
) -> Literal["load", "unload"]:
    """Wait for the model, or let go of it: that is what a request without a prompt is for."""
    exchange = current_exchange()
    exchange.model = served.name
    if keep_alive == 0 and served.residency is not None:
        return "unload" if served.residency.unload(exchange.owner) else "load"
    limit = server_context().settings.timeout_seconds
    try:
        async with asyncio.timeout(limit):
            await served.load(keep_alive, exchange.owner)
    except TimeoutError as error:
        raise TimeLimitError(f"the model was not loaded within {limit:g} seconds") from error
    return "load"


async def _known(served: ServedModel) -> ModelInfo | None:
    """Return the model, by what its file says where it is not loaded; it is not loaded for this."""
    info = await served.loaded()
    if info is None and served.describe is not None:
        with contextlib.suppress(LLMStreamError):  # a request to the model tells what is wrong
            return await asyncio.to_thread(served.describe)
    return info


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
        replies=(Reply(200, "The answer.", streamed=NDJSON),),
        error=OllamaError,
    ),
    Operation(
        "post",
        "/api/generate",
        "Answer or continue a prompt, as Ollama's API does",
        _STREAMS,
        request=GenerateRequest,
        replies=(Reply(200, "The answer.", streamed=NDJSON),),
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
    Operation(
        "get",
        "/api/tags",
        "List the models",
        replies=(Reply(200, "The models."),),
        error=OllamaError,
    ),
    Operation(
        "get",
        "/api/ps",
        "List the loaded models",
        replies=(Reply(200, "The models."),),
        error=OllamaError,
    ),
    Operation(
        "get",
        "/api/version",
        "The version of Ollama's API",
        replies=(Reply(200, "The version."),),
        error=OllamaError,
    ),
)
