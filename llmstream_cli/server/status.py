"""`GET /status` and `GET /requests/{id}`: what the server serves and does."""

from typing import Any, Literal

from pydantic import BaseModel, Field
from quart import Blueprint, Response

import llmstream_cli
from llmstream_cli.api import EngineState
from llmstream_cli.server.context import ServerContext
from llmstream_cli.server.openapi import Operation, Reply
from llmstream_cli.server.probes import model_response, readiness
from llmstream_cli.server.progress import RequestProgress
from llmstream_cli.server.served import ServedModel
from llmstream_cli.server.token_stream import as_fields


class ModelStatus(BaseModel):
    """A model that is served."""

    name: str
    state: EngineState
    reason: str = Field(description="Why it is not ready, for a person; else empty.")
    ctx_size: int | None = Field(description="Tokens of prompt and answer; null until it is known.")
    sampling: dict[str, Any] = Field(
        description="What /token_stream takes where a request says nothing else."
    )
    slots: int = Field(description="Requests that can generate at once.")
    running: int = Field(description="Requests that do.")
    waiting: int = Field(description="Requests that wait for a slot.")


class ServerStatus(BaseModel):
    """The server and its models."""

    version: str
    state: EngineState | Literal["draining"] = Field(description="As /ready says it.")
    reason: str
    models: list[ModelStatus] = Field(description="The default first.")
    contexts: list[str] = Field(description="Names that `context` of /token_stream can have.")


async def _describe(model: ServedModel) -> ModelStatus:
    status, metrics, info = model.engine.status, model.engine.metrics, await model.loaded()
    return ModelStatus(
        name=model.name,
        state=status.state,
        reason=status.reason,
        ctx_size=None if info is None else info.ctx_size,
        sampling=as_fields(model.sampling),
        slots=metrics.slots,
        running=metrics.running,
        waiting=metrics.waiting,
    )


def status_routes(context: ServerContext) -> Blueprint:
    """Return the routes."""
    blueprint = Blueprint("status", __name__)

    @blueprint.get("/status")
    async def status() -> Response:
        ready = readiness(context)
        return model_response(
            ServerStatus(
                version=llmstream_cli.__version__,
                state=ready.status,
                reason=ready.reason,
                models=[await _describe(model) for model in context.models.models],
                contexts=list(context.contexts),
            )
        )

    @blueprint.get("/requests/<request_id>")
    async def request_progress(request_id: str) -> Response:
        return model_response(context.requests.describe(request_id))

    return blueprint


OPERATIONS = (
    Operation(
        "get",
        "/status",
        "Describe the models, their defaults, and how busy they are",
        "It answers 200 in every state; /ready is for those who want a status code.",
        replies=(Reply(200, "The server and its models.", model=ServerStatus),),
    ),
    Operation(
        "get",
        "/requests/{request_id}",
        "Tell how far a request has come, or what became of it",
        "For any request that generates. Give yours an X-Request-Id that nobody can guess, and "
        "ask for it here: its place in the queue, its tokens, their speed, how it ended.",
        replies=(Reply(200, "How far it has come.", model=RequestProgress),),
    ),
)
