"""What the dialects share: routes, a client's fields into `SamplingParams`, messages, JSON."""

import asyncio
import contextlib
import dataclasses
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator
from quart import Quart, Response

from llmstream_cli.core.grammar.json_schema import read_schema
from llmstream_cli.errors import InvalidValueError, LLMStreamError, SchemaError
from llmstream_cli.prompts.messages import Role
from llmstream_cli.sampling import CONSTRAINTS, SamplingParams
from llmstream_cli.server.body import read_model
from llmstream_cli.server.context import server_context
from llmstream_cli.server.dialects.fields import FieldTable, Given
from llmstream_cli.server.dialects.logprobs import JsonList
from llmstream_cli.server.http.exchange import note_given, note_schema_field
from llmstream_cli.server.http.failure import error_body
from llmstream_cli.server.pages import ErrorReply, Operation, Reply

MAX_MESSAGES = 4096
MAX_NAME_CHARS = 256

# JSON mode promises an object, not any JSON.
JSON_OBJECT = '{"type":"object"}'

_Read = TypeVar("_Read")
_Handler = Callable[..., Awaitable[Response]]


@dataclass
class Dialect:
    """A wire format: its routes, and the shape of the errors of paths that begin with `prefix`."""

    prefix: str = ""
    error_body: Callable[[LLMStreamError], dict[str, Any]] = error_body
    error: type[BaseModel] = ErrorReply  # the same, for the API's description
    any_content_type: bool = False  # bodies are JSON whatever the request calls them
    operations: list[Operation] = field(default_factory=list)
    _handlers: list[_Handler] = field(default_factory=list)

    def route(
        self,
        path: str,
        summary: str,
        description: str = "",
        *,
        request: type[FieldTable] | None = None,
        **reply: Any,
    ) -> Callable[[_Handler], _Handler]:
        """Return a decorator that adds a route, a POST with a body where there is a `request`.

        The handler gets the body, or the parameters of the path; errors that it raises name fields
        as the client does. `reply` describes its response, as fields of `pages.Reply`.
        """
        method: Literal["get", "post"] = "get" if request is None else "post"

        def add(handler: _Handler) -> _Handler:
            async def handle_body() -> Response:
                assert request is not None
                body = await read_model(request, any_content_type=self.any_content_type)
                given = body.given()
                note_given(of for _, of, _ in given)
                with fields_as_given([*given, (body.thinking_field, "thinking", None)]):
                    return await handler(body)

            answer = Reply(200, "The answer.", **reply)
            self.operations.append(
                Operation(method, path, summary, description, request, (answer,), self.error)
            )
            self._handlers.append(handler if request is None else handle_body)
            return handler

        return add

    def attach(self, app: Quart) -> None:
        for operation, handler in zip(self.operations, self._handlers, strict=True):
            # A parameter may have slashes, as names of models do.
            rule = re.sub(r"{(\w+)}", r"<path:\1>", operation.path)
            endpoint = f"{operation.method} {operation.path}"
            app.add_url_rule(rule, endpoint, handler, methods=[operation.method.upper()])


# ---- sampling -------------------------------------------------------------------------------


def sampling_params(defaults: SamplingParams, given: Iterable[Given]) -> SamplingParams:
    """Put what a client gave over the server's defaults.

    Raises:
        InvalidValueError: a value is out of its bounds, or two exclude each other.
    """
    given = [*given]
    names = client_names(given)
    values: dict[str, Any] = {}
    for name, of, value in given:
        if of == "max_tokens" and value is None:  # no bound is not less than another one
            values.setdefault(of, None)
        elif of == "max_tokens":
            values[of] = min(value, values.get(of) or value)
        elif values.setdefault(of, value) != value:
            raise InvalidValueError(
                f"{name} and {names[of]} are the same with two values; leave one out", name
            )
    constraints = [name for name, of, _ in given if of in CONSTRAINTS]
    if len(constraints) > 1:
        first, second, *_ = constraints
        raise InvalidValueError(f"{second} and {first} exclude each other", second)
    if constraints:
        # A default that the constraint excludes gives way to it; what the client gave does not.
        values = {**dict.fromkeys(CONSTRAINTS), "stop": (), "ignore_eos": False, **values}
    schema_field = names.get("json_schema", "json_schema")
    if "json_schema" in names:
        note_schema_field(schema_field)
    try:
        params = dataclasses.replace(defaults, **values)
        if params.json_schema is not None:
            read_schema(params.json_schema)
    except SchemaError as error:
        raise InvalidValueError(str(error), schema_field) from error
    return params


def client_names(given: Iterable[Given]) -> dict[str, str]:
    """Return the client's fields by the parameters that they set; of several, the first."""
    return {of: name for name, of, _ in reversed([*given])}


@contextlib.contextmanager
def fields_as_given(given: Collection[Given]) -> Iterator[None]:
    """Let errors in what is done here name fields as the client does."""
    try:
        yield
    except InvalidValueError as error:
        name = client_names(given).get(error.field or "")
        if name is None or error.field in {name for name, _, _ in given}:
            raise
        raise error.renamed(name) from error


async def off_the_loop(read: Callable[[SamplingParams], _Read], defaults: SamplingParams) -> _Read:
    """Return what a body asks of the engine; to read hundreds of schemas takes up to a second."""
    async with server_context().parsing:  # one body at a time, or they would share out the GIL
        return await asyncio.to_thread(read, defaults)


# ---- messages -------------------------------------------------------------------------------


def read_role(roles: Mapping[str, Role]) -> BeforeValidator:
    """Return what reads whose turn a message is in the words of an API."""

    def read(role: object) -> object:
        if not isinstance(role, str):
            return role  # which pydantic refuses
        if role in roles:
            return roles[role]
        *others, last = roles
        raise ValueError(f"must be {', '.join(others)} or {last}")

    return BeforeValidator(read)


# ---- JSON -----------------------------------------------------------------------------------


def dump_line(body: object) -> bytes:
    """Write JSON on a line of its own, in ASCII.

    Some clients split a stream at all that Unicode calls a line break, U+2028 for one; escaped, it
    cannot stand inside an answer.
    """
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode("ascii")


def json_text(body: object) -> str:
    """Write JSON, of a body that may have `JsonList` among its values."""
    mark = secrets.token_hex(16)  # stands for a list; nobody can have guessed it
    lists: list[str] = []

    def note(value: object) -> str:
        assert isinstance(value, JsonList)
        lists.append(str(value))
        return mark

    text = json.dumps(
        body, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=note
    )
    first, *rest = text.split(f'"{mark}"')
    return first + "".join(map("".join, zip(lists, rest, strict=True)))


def json_response(body: object) -> Response:
    response = Response(json_text(body), content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response
