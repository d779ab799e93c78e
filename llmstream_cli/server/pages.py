"""The API's description (OpenAPI 3.1), `/docs`, and the page: nothing from elsewhere."""

import asyncio
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import jinja2
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from quart import Blueprint, Response, abort, request

import llmstream_cli

_JSON = "application/json"
_REFERENCE = "#/components/schemas/{model}"


class ErrorDetails(BaseModel):
    """What went wrong.

    Attributes:
        message: one line for a person.
        type: the kind of error, in OpenAI's words.
        param: the field that is wrong, if one is.
        code: the error, for programs.
    """

    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(BaseModel):
    """The answer of a request that failed."""

    error: ErrorDetails


@dataclass(frozen=True, slots=True)
class Reply:
    """What a route can answer.

    Attributes:
        status: of the response.
        summary: when it is given.
        content_type: of its body.
        model: the body, where it is JSON.
        streamed: the content type of its body where that comes as a stream, if it may.
    """

    status: int
    summary: str
    content_type: str = _JSON
    model: type[BaseModel] | None = None
    streamed: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """A route, as the description tells of it.

    Attributes:
        method: in lower case.
        path: as in the description, parameters in braces.
        summary: a line.
        description: what else is good to know.
        request: the body of the request, if it has one.
        replies: what it answers if all is well; the errors are the same for all routes.
        error: the body of an error.
        open: it needs no key.
    """

    method: Literal["get", "post", "delete"]
    path: str
    summary: str
    description: str = ""
    request: type[BaseModel] | None = None
    replies: tuple[Reply, ...] = ()
    error: type[BaseModel] = ErrorReply
    open: bool = False


_HTTP_ERRORS = {  # of any request; see `server.http1`
    400: "The request is malformed.",
    414: "The target is too long.",
    431: "The head is too long.",
    501: "The body has another transfer coding than chunked.",
    505: "The version is not HTTP/1.0 or 1.1.",
}
_REQUEST_ERRORS = {
    400: "The request is malformed, or its prompt longer than the context.",
    404: "No such model.",
    408: "The body did not arrive in time.",
    413: "The body is too long.",
    415: "The body is not JSON.",
    422: "A field is unknown, or has a value that it cannot have.",
    429: "Too many requests wait already; see Retry-After.",
    500: "The model cannot be used, or the engine failed.",
    503: "The model is being loaded, or the server is shutting down.",
    504: "The answer took too long.",
    507: "There is not enough memory for the model.",
}
_ACCESS_ERRORS = {
    401: "A key is needed, or the one that was sent is wrong.",
    403: "The host or the origin is not allowed.",
}


def document(operations: Iterable[Operation], contexts: Iterable[str] = ()) -> dict[str, Any]:
    """Return the description of these operations, as JSON values; `context` is one of those."""
    operations = tuple(operations)
    bodies: set[type[BaseModel]] = {ErrorReply}
    for operation in operations:
        bodies.add(operation.error)
        bodies |= {reply.model for reply in operation.replies if reply.model is not None}
        if operation.request is not None:
            bodies.add(operation.request)
    ordered = sorted(bodies, key=lambda model: model.__name__)
    _, schemas = models_json_schema(
        [(model, "validation") for model in ordered], ref_template=_REFERENCE
    )
    if (asked := schemas["$defs"].get("TokenStreamRequest")) is not None:
        asked["properties"]["context"]["anyOf"][0]["enum"] = [*contexts]
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _describe(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "llmstream", "version": llmstream_cli.__version__},
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _describe(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {"summary": operation.summary}
    if operation.description:
        described["description"] = operation.description
    parameters = re.findall(r"{(\w+)}", operation.path)
    if parameters:
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in parameters
        ]
    if operation.request is not None:
        described["requestBody"] = {
            "required": True,
            "content": {_JSON: {"schema": _reference(operation.request)}},
        }
    replies = {str(reply.status): _reply(reply) for reply in operation.replies}
    errors = _HTTP_ERRORS | ({} if operation.open else _ACCESS_ERRORS)
    if parameters:
        errors[404] = "There is none of that name."
    if operation.request is not None:
        errors |= _REQUEST_ERRORS
    for status, summary in sorted(errors.items()):
        model = ErrorReply if status in _HTTP_ERRORS.keys() - {400} else operation.error
        replies.setdefault(str(status), _reply(Reply(status, summary, model=model)))
    described["responses"] = replies
    described["security"] = [] if operation.open else [{"key": []}, {}]
    return described


def _reply(reply: Reply) -> dict[str, Any]:
    text: dict[str, Any] = {"type": "string"}
    schema = {"type": "object"} if reply.content_type == _JSON else text
    if reply.model is not None:
        schema = _reference(reply.model)
    content = {reply.content_type: {"schema": schema}}
    if reply.streamed is not None:
        content[reply.streamed] = {"schema": {}}  # of each event, which differ
    return {"description": reply.summary, "content": content}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=model.__name__)}


_TYPES = {
    "json": "application/json",
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_FOLDER = files(__package__) / "static"
# The pages have routes of their own; all else they load from the folder, by name.
_FILES = frozenset(
    file.name
    for file in _FOLDER.iterdir()
    if file.name.rpartition(".")[2] in _TYPES.keys() - {"html"}
)

# Nothing inline, nothing from elsewhere, in no frame: text that a model wrote cannot become code.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


@cache
def _file(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()


def page_routes(describe: Callable[[], dict[str, Any]]) -> Blueprint:
    """Return the routes.

    Args:
        describe: returns the API's description; called when it is first asked for, on a thread,
            because it takes a tenth of a second.
    """
    blueprint = Blueprint("pages", __name__)
    description = cache(describe)
    docs = cache(lambda: _render_docs(description()))
    openapi = cache(lambda: json.dumps(description()).encode())

    @blueprint.get("/")
    async def index() -> Response:
        return _respond(_file("index.html"), "html")

    @blueprint.get("/openapi.json")
    async def show_description() -> Response:
        return _respond(await asyncio.to_thread(openapi), "json")

    @blueprint.get("/docs")
    async def show_docs() -> Response:
        return _respond(await asyncio.to_thread(docs), "html")

    @blueprint.get("/static/<name>")
    async def static(name: str) -> Response:
        if name not in _FILES:
            abort(404)
        return _respond(_file(name), name.rpartition(".")[2])

    return blueprint


def _render_docs(description: dict[str, Any]) -> bytes:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["type"] = _type
    return environment.from_string(_file("docs.html").decode()).render(description).encode()


def _type(schema: dict[str, Any]) -> str:
    """Say in a few words what values a JSON Schema takes."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"] if one != {"type": "null"})
    if "enum" in schema or "const" in schema:
        return " or ".join(repr(value) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    low, high = schema.get("minimum"), schema.get("maximum")
    bounds = f", {low} to {high}" if low is not None and high is not None else ""
    return f"{schema.get('type', 'any')}{bounds}"


def _respond(body: bytes, kind: str) -> Response:
    etag = hashlib.sha256(body).hexdigest()[:32]
    fresh = request.if_none_match.contains_weak(etag)
    response = Response(b"" if fresh else body, 304 if fresh else 200, content_type=_TYPES[kind])
    if not fresh and request.accept_encodings["gzip"] > 0:
        response.set_data(_gzip(body))
        response.headers["Content-Encoding"] = "gzip"
    response.set_etag(etag, weak=True)  # the same content, in either encoding
    response.headers["Vary"] = "Accept-Encoding"
    response.headers["Cache-Control"] = "no-cache"
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


@cache
def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)
