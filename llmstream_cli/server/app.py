"""The Quart application: routes over the models that are served."""

import difflib
import logging
from collections.abc import Collection
from urllib.parse import quote

from quart import Quart, Request, Response, current_app, request
from quart.routing import QuartMap
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter

from llmstream_cli.errors import (
    BodyTooLargeError,
    EngineError,
    LLMStreamError,
    MethodError,
    NotFoundError,
    RequestError,
)
from llmstream_cli.server import pages, status
from llmstream_cli.server.context import ServerContext, server_context
from llmstream_cli.server.dialects import all_dialects, error_shape
from llmstream_cli.server.http import answers
from llmstream_cli.server.http.exchange import Exchanges
from llmstream_cli.server.http.failure import error_response
from llmstream_cli.server.http.guards import Guards

_log = logging.getLogger(__name__)

_IMPLIED = {"HEAD", "OPTIONS"}


class _Routes(QuartMap):
    """Routes under any host name: `Guards` checks it, and Werkzeug fails where it is no IDNA."""

    def bind_to_request(self, request: Request, *_: str | None) -> MapAdapter:  # type: ignore[override]
        return self.bind(
            "localhost",
            url_scheme=request.scheme,
            default_method=request.method,
            path_info=request.path,
        )


class _App(Quart):
    url_map_class = _Routes


def create_app(context: ServerContext) -> Quart:
    """Return the application that serves a context's models."""
    app = _App("llmstream_cli", static_folder=None)
    context.attach(app)
    app.config["MAX_CONTENT_LENGTH"] = context.settings.max_body_bytes
    Guards(context.settings).attach(app)
    dialects = all_dialects()
    operations = [one for dialect in dialects for one in dialect.operations]
    operations += (*status.OPERATIONS, *answers.OPERATIONS)
    for dialect in dialects:
        dialect.attach(app)
    app.register_blueprint(status.status_routes(context))
    app.register_blueprint(answers.answer_routes(context.answers))
    app.register_blueprint(pages.page_routes(operations, context.contexts))
    app.register_error_handler(LLMStreamError, _respond)
    app.register_error_handler(HTTPException, _respond_http)
    app.register_error_handler(Exception, _respond_bug)
    app.asgi_app = Exchanges(app.asgi_app, context.metrics.requests)  # type: ignore[method-assign]
    return app


async def _respond(error: LLMStreamError) -> Response:
    return error_response(error, error_shape(request.path))


async def _respond_bug(error: Exception) -> Response:
    _log.error("a request failed", exc_info=error)
    return await _respond(EngineError("the server failed; its log says more"))


async def _respond_http(error: HTTPException) -> Response:
    """Answer to what Quart itself refuses."""
    path = quote(request.path)[:100]
    methods = " or ".join(sorted({*(getattr(error, "valid_methods", None) or ())} - _IMPLIED))
    told: LLMStreamError
    match error.code:
        case 404:
            routes = [rule.rule for rule in current_app.url_map.iter_rules() if not rule.arguments]
            told = NotFoundError(f"there is no route {path}{_near_route(path, routes)}")
        case 405:
            told = MethodError(f"{path} has no method {request.method[:20]}; send {methods}")
        case 413:
            limit = server_context().settings.max_body_bytes
            told = BodyTooLargeError(f"the body is longer than {limit} bytes")
        case _:
            told = RequestError(error.description or error.name)
    response = await _respond(told)
    if allowed := dict(error.get_headers()).get("Allow"):
        response.headers["Allow"] = allowed
    return response


def _near_route(path: str, routes: Collection[str]) -> str:
    """Return what was likely meant, with the prefix that the client's base URL has too few or much.

    >>> _near_route("/chat/completions", ["/v1/chat/completions"])
    "; did you mean /v1/chat/completions? Let the client's base URL end in /v1"
    """
    path = path.rstrip("/")
    if inner := max((route for route in routes if path.endswith(route)), key=len, default="/")[1:]:
        extra = path.removesuffix(f"/{inner}")
        wrong = f" Leave {extra} out of the client's base URL" if extra else ""
        return f"; did you mean /{inner}?{wrong}"
    outer = min((route for route in routes if route.endswith(path)), key=len, default="")
    if path and outer:
        missing = outer.removesuffix(path)
        return f"; did you mean {outer}? Let the client's base URL end in {missing}"
    near = difflib.get_close_matches(path, routes, n=1, cutoff=0.8)
    return f"; did you mean {near[0]}?" if near else "; see /docs for those there are"
