"""What programs ask about the server itself: `/health`, `/ready`, `/metrics`."""

from typing import Literal

from pydantic import BaseModel
from quart import Blueprint, Response

from llmstream_cli.api import EngineState
from llmstream_cli.server import metrics
from llmstream_cli.server.context import ServerContext
from llmstream_cli.server.openapi import Operation, Reply
from llmstream_cli.server.served import ServedModel


class Health(BaseModel):
    """The server answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether requests that name no model would be answered now.

    Attributes:
        status: `ready`, or why not.
        reason: the same for a person; empty when ready.
        models: the state of each model.
        ctx_size: the most tokens that a prompt and its answer may have together; null until the
            model is loaded.
    """

    status: EngineState | Literal["draining"]
    reason: str = ""
    models: dict[str, EngineState]
    ctx_size: int | None = None


def readiness(context: ServerContext) -> Readiness:
    """Return the state of the server, which is that of its default model."""
    models = {model.name: model.engine.status.state for model in context.models.models}
    if context.draining:
        reason = "the server is shutting down"
        return Readiness(status="draining", reason=reason, models=models)
    default = context.models.default
    if _answers(default):
        return Readiness(status=EngineState.READY, models=models)
    status = default.engine.status
    return Readiness(status=status.state, reason=status.reason, models=models)


def _answers(model: ServedModel) -> bool:
    """Tell whether a request would be answered, if only after a while: it loads an idle model."""
    state = model.engine.status.state
    if state is EngineState.LOADING:  # requests wait, but for the first time
        return model.residency is not None and model.residency.loads > 0
    return state in {EngineState.READY, EngineState.IDLE}


def probe_routes(context: ServerContext) -> Blueprint:
    """Return the routes."""
    blueprint = Blueprint("probes", __name__)

    @blueprint.get("/health")
    async def health() -> Response:
        return model_response(Health())

    @blueprint.get("/ready")
    async def ready() -> Response:
        found = readiness(context)
        info = await context.models.default.loaded()
        found.ctx_size = None if info is None else info.ctx_size
        return model_response(found, 200 if found.status is EngineState.READY else 503)

    @blueprint.get("/metrics")
    async def scrape() -> Response:
        return Response(context.metrics.expose(), content_type=metrics.CONTENT_TYPE)

    return blueprint


def model_response(body: BaseModel, status: int = 200) -> Response:
    """Return the response that is a model as JSON, and true for now only."""
    response = Response(body.model_dump_json(), status, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response


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
)
