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
    operations = [operation for dialect in all_dialects() for operation in dialect.operations]
    operations += status.OPERATIONS
    for blueprint in (
        *(dialect.routes(context) for dialect in all_dialects()),
        status.status_routes(context),
        pages.page_routes(lambda: pages.document(operations, context.contexts)),
    ):
        app.register_blueprint(blueprint)
    app.register_error_handler(LLMStreamError, _tell)
    app.register_error_handler(HTTPException, _tell_http)
    app.register_error_handler(Exception, _tell_bug)
    app.asgi_app = Exchanges(app.asgi_app, context.metrics)  # type: ignore[method-assign]
    return app


async def _tell(error: LLMStreamError) -> Response:
    return error_response(error, error_shape(request.path))


async def _tell_http(error: HTTPException) -> Response:
    """Answer to what Quart itself refuses."""
    limit = server_context().settings.max_body_bytes
    path = quote(request.path)[:100]
    routes = [rule.rule for rule in current_app.url_map.iter_rules() if not rule.arguments]
    methods = " or ".join(sorted({*(getattr(error, "valid_methods", None) or ())} - _IMPLIED))
    reasons: dict[int | None, LLMStreamError] = {
        404: NotFoundError(f"there is no route {path}{_near_route(path, routes)}"),
        405: MethodError(f"{path} has no method {request.method[:20]}; send {methods}"),
        413: BodyTooLargeError(f"the body is longer than {limit} bytes"),
    }
    told = reasons.get(error.code, RequestError(error.description or error.name))
    response = await _tell(told)
    for name, value in error.get_headers():
        if name.lower() == "allow":
            response.headers["Allow"] = value
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
    if path and (
        outer := min((route for route in routes if route.endswith(path)), key=len, default="")
    ):
        missing = outer.removesuffix(path)
        return f"; did you mean {outer}? Let the client's base URL end in {missing}"
    near = difflib.get_close_matches(path, routes, n=1, cutoff=0.8)
    return f"; did you mean {near[0]}?" if near else "; see /docs for those there are"


async def _tell_bug(error: Exception) -> Response:
    _log.error("a request failed", exc_info=error)
    return await _tell(EngineError("the server failed; its log says more"))
