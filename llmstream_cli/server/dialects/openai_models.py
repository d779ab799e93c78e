"""`GET /v1/models`: what is served, as OpenAI's API lists it."""

from quart import Blueprint, Response

from llmstream_cli.server.context import ServerContext
from llmstream_cli.server.dialects.common import (
    Dialect,
    json_response,
)
from llmstream_cli.server.pages import Operation, Reply
from llmstream_cli.server.served import ServedModel


def _model(served: ServedModel) -> dict[str, object]:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "llmstream",
    }


def _routes(context: ServerContext) -> Blueprint:
    blueprint = Blueprint("openai_models", __name__, url_prefix="/v1")

    @blueprint.get("/models")
    async def list_models() -> Response:
        data = [_model(served) for served in context.models.models]
        return json_response({"object": "list", "data": data})

    @blueprint.get("/models/<path:name>")  # a name may have slashes
    async def retrieve_model(name: str) -> Response:
        return json_response(_model(context.models.find(name)))

    return blueprint


DIALECT = Dialect(
    _routes,
    (
        Operation("get", "/v1/models", "List the models", replies=(Reply(200, "The models."),)),
        Operation(
            "get", "/v1/models/{name}", "Describe a model", replies=(Reply(200, "The model."),)
        ),
    ),
)
