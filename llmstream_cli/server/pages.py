"""The API's description (OpenAPI 3.1), `/docs`, and the page: nothing from elsewhere."""

import asyncio
import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import jinja2
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema
from quart import Blueprint, Response, abort, request

import llmstream_cli

_JSON = "application/json"
_REFERENCE = "#/components/schemas/{model}"


class ErrorDetails(BaseModel):
    """What went wrong."""

    message: str = Field(description="One line for a person.")
    type: str = Field(description="The kind of error, in OpenAI's words.")
    param: str | None = Field(description="The field that is wrong, if one is.")
    code: str = Field(description="The error, for programs.")


class ErrorReply(BaseModel):
    """The answer of a request that failed."""

    error: ErrorDetails


@dataclass(frozen=True, slots=True)
class Reply:
    """What a route can answer."""

    status: int
    summary: str  # when it is given
    content_type: str = _JSON
    model: type[BaseModel] | None = None  # of the body, where it is JSON
    streamed: str | None = None  # the content type of a body that may come as a stream

    def described(self) -> dict[str, Any]:
        """Return the OpenAPI object of a response."""
        schema = {"type": "object"} if self.content_type == _JSON else {"type": "string"}
        if self.model is not None:
            schema = _reference(self.model)
        content: dict[str, Any] = {self.content_type: {"schema": schema}}
        if self.streamed is not None:
            content[self.streamed] = {"schema": {}}  # of each event, which differ
        return {"description": self.summary, "content": content}


@dataclass(frozen=True, slots=True)
class Operation:
    """A route, as the description tells of it."""

    method: Literal["get", "post"]
    path: str  # parameters in braces
    summary: str
    description: str = ""
    request: type[BaseModel] | None = None  # the body of the request, if it has one
    replies: tuple[Reply, ...] = ()  # if all is well; the errors are the same for all routes
    error: type[BaseModel] = ErrorReply  # the body of an error
    open: bool = False  # it needs no key


_HTTP_ERRORS = {  # of any request; see `http.http1`
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


def document(operations: Sequence[Operation], contexts: Iterable[str] = ()) -> dict[str, Any]:
    """Return the description of these operations, as JSON values; `context` is one of those."""
    bodies: set[type[BaseModel] | None] = {ErrorReply}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        bodies |= {operation.error, operation.request, *(one.model for one in operation.replies)}
        paths.setdefault(operation.path, {})[operation.method] = _describe(operation)
    ordered = sorted(bodies - {None}, key=lambda model: model.__name__)  # type: ignore[union-attr]
    _, found = models_json_schema(
        [(model, "validation") for model in ordered if model], ref_template=_REFERENCE
    )
    schemas = found["$defs"]
    if (asked := schemas.get("TokenStreamRequest")) is not None:
        asked["properties"]["context"]["anyOf"][0]["enum"] = [*contexts]
    return {
        "openapi": "3.1.0",
        "info": {"title": "llmstream", "version": llmstream_cli.__version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _describe(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "security": [] if operation.open else [{"key": []}, {}],
    }
    if operation.description:
        described["description"] = operation.description
    errors = _HTTP_ERRORS | ({} if operation.open else _ACCESS_ERRORS)
    if parameters := re.findall(r"{(\w+)}", operation.path):
        errors[404] = "There is none of that name."
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in parameters
        ]
    if operation.request is not None:
        errors |= _REQUEST_ERRORS
        content = {_JSON: {"schema": _reference(operation.request)}}
        described["requestBody"] = {"required": True, "content": content}
    replies = {reply.status: reply for reply in operation.replies}
    for status, summary in sorted(errors.items()):
        by_connection = status in _HTTP_ERRORS.keys() - {400}
        model = ErrorReply if by_connection else operation.error
        replies.setdefault(status, Reply(status, summary, model=model))
    described["responses"] = {str(status): one.described() for status, one in replies.items()}
    return described


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=model.__name__)}


# ---- the pages ------------------------------------------------------------------------------

_TYPES = {
    "json": "application/json",
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_FOLDER = files(__package__) / "static"
# The pages have routes of their own; all else they load from the folder, by name.
_LOADED = {"css", "js", "svg"}
_FILES = {one.name for one in _FOLDER.iterdir() if one.name.rpartition(".")[2] in _LOADED}

# Nothing inline, nothing from elsewhere, in no frame: text that a model wrote cannot become code.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


@cache
def _file(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()


def page_routes(operations: Sequence[Operation], contexts: Iterable[str]) -> Blueprint:
    """Return the routes; the API is described when that is first asked for, on a thread."""
    blueprint = Blueprint("pages", __name__)
    description = cache(lambda: document(operations, contexts))  # takes a tenth of a second
    docs = cache(lambda: _render_docs(description()))
    openapi = cache(lambda: json.dumps(description()).encode())

    @blueprint.get("/")
    async def index() -> Response:
        accepted = request.accept_mimetypes
        if accepted and not accepted.accept_html:  # programs look here whether a server is Ollama's
            response = Response("Ollama is running", content_type="text/plain; charset=utf-8")
        else:
            response = _respond(_file("index.html"), "html")
        response.headers.add("Vary", "Accept")
        return response

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
