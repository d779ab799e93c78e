"""What the server tells of itself: `/health`, `/ready`, `/metrics`, `/status`, `/requests/{id}`."""

from typing import Any, Literal

from pydantic import BaseModel, Field
from quart import Blueprint, Response

import llmstream_cli
from llmstream_cli.api import EngineState
from llmstream_cli.server import metrics
from llmstream_cli.server.context import ServerContext
from llmstream_cli.server.dialects.plain import as_fields
from llmstream_cli.server.pages import Operation, Reply
from llmstream_cli.server.progress import RequestProgress
from llmstream_cli.server.served import ServedModel


class Health(BaseModel):
    """The server answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether requests that name no model would be answered now."""

    status: EngineState | Literal["draining"] = Field(description="`ready`, or why not.")
    reason: str = Field("", description="The same for a person; empty when ready.")
    models: dict[str, EngineState] = Field(description="The state of each model.")
    ctx_size: int | None = Field(
        None, description="Tokens of prompt and answer; null until the model is loaded."
    )


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


async def _readiness(context: ServerContext) -> Readiness:
    """Return the state of the server, which is that of its default model."""
    models = {model.name: model.engine.status.state for model in context.models.models}
    default = context.models.default
    info = await default.loaded()
    now = Readiness(
        status=default.engine.status.state,
        reason=default.engine.status.reason,
        models=models,
        ctx_size=None if info is None else info.ctx_size,
    )
    if context.draining:
        now.status, now.reason = "draining", "the server is shutting down"
    elif _answers(default):
        now.status, now.reason = EngineState.READY, ""
    return now


def _answers(model: ServedModel) -> bool:
    """Tell whether a request would be answered, if only after a while: it loads an idle model."""
    state = model.engine.status.state
    if state is EngineState.LOADING:  # requests wait, but for the first time
        return model.residency is not None and model.residency.loads > 0
    return state in {EngineState.READY, EngineState.IDLE}


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


def _respond(body: BaseModel, status: int = 200) -> Response:
    response = Response(body.model_dump_json(), status, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response


def status_routes(context: ServerContext) -> Blueprint:
    """Return the routes."""
    blueprint = Blueprint("status", __name__)

    @blueprint.get("/health")
    async def health() -> Response:
        return _respond(Health())

    @blueprint.get("/ready")
    async def ready() -> Response:
        now = await _readiness(context)
        return _respond(now, 200 if now.status is EngineState.READY else 503)

    @blueprint.get("/metrics")
    async def scrape() -> Response:
        return Response(context.metrics.expose(), content_type=metrics.CONTENT_TYPE)

    @blueprint.get("/status")
    async def status() -> Response:
        now = await _readiness(context)
        models = [await _describe(model) for model in context.models.models]
        return _respond(
            ServerStatus(
                version=llmstream_cli.__version__,
                state=now.status,
                reason=now.reason,
                models=models,
                contexts=list(context.contexts),
            )
        )

    @blueprint.get("/requests/<request_id>")
    async def request_progress(request_id: str) -> Response:
        return _respond(context.requests.describe(request_id))

    return blueprint


OPERATIONS = (
    Operation(
        "get",
        "/health",
        "Tell whether the server is alive",
        replies=(Reply(200, "It is.", model=Health),),
        open=True,
    ),
    Operation(
        "get",
        "/ready",
        "Tell whether requests would be answered",
        replies=(
            Reply(200, "They would.", model=Readiness),
            Reply(503, "Not now; the body says why.", model=Readiness),
        ),
        open=True,
    ),
    Operation(
        "get",
        "/metrics",
        "Report counters and times to Prometheus",
        replies=(Reply(200, "The metrics.", metrics.CONTENT_TYPE),),
    ),
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
