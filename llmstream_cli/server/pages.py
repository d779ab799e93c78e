"""The page at `/`, the API's description, and `/docs`, which shows it: nothing from elsewhere."""

import gzip
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from quart import Blueprint, Response, abort, request

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


def page_routes(description: dict[str, Any]) -> Blueprint:
    """Return the routes.

    Args:
        description: the API's.
    """
    blueprint = Blueprint("pages", __name__)
    docs = _render_docs(description)
    openapi = json.dumps(description).encode()

    @blueprint.get("/")
    async def index() -> Response:
        return _respond(_file("index.html"), "html")

    @blueprint.get("/openapi.json")
    async def describe() -> Response:
        return _respond(openapi, "json")

    @blueprint.get("/docs")
    async def show_docs() -> Response:
        return _respond(docs, "html")

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
