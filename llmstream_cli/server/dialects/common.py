"""What the dialects share: a client's words into `SamplingParams`, and JSON out."""

import contextlib
import dataclasses
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quart import Blueprint, Response

from llmstream_cli.api import TokenLogprob
from llmstream_cli.core.grammar.json_schema import read_schema
from llmstream_cli.errors import InvalidValueError, LLMStreamError, SchemaError
from llmstream_cli.prompts.messages import Role
from llmstream_cli.sampling import CONSTRAINTS, SamplingParams
from llmstream_cli.server.context import ServerContext
from llmstream_cli.server.dialects.fields import FieldTable
from llmstream_cli.server.dialects.logprobs import finite_logprob
from llmstream_cli.server.http.exchange import note_schema_field
from llmstream_cli.server.http.failure import error_body
from llmstream_cli.server.pages import Operation

MAX_MESSAGES = 4096
MAX_TEXT_PARTS = 1024
MAX_NAME_CHARS = 256
MAX_TOP_LOGPROBS = 20

_SEEDS = 2**32 - 1  # llama.cpp has so many, and reads the number itself as "choose one"
_ANY_SEED = -1

# JSON mode promises an object, not any JSON.
JSON_OBJECT = '{"type":"object"}'

# What a client gave: its field, the parameter that it sets, and the value as the core has it.
Given = tuple[str, str, Any]


def given_parameters(body: FieldTable, prefix: str = "") -> list[Given]:
    """Return the sampling parameters that are present in a body, or in a part of it."""
    return [
        (prefix + name, of, _FROM_JSON.get(of, _same)(value))
        for name, of in body.parameters.items()
        if (value := getattr(body, name)) not in (None, "")
    ]


def sampling_params(defaults: SamplingParams, given: Iterable[Given]) -> SamplingParams:
    """Put what a client gave over the server's defaults.

    Raises:
        InvalidValueError: a value is out of its bounds, or two exclude each other; named as the
            client does.
    """
    given = tuple(given)
    names = client_names(given)
    values: dict[str, Any] = {}
    for field, of, value in given:
        if of == "max_tokens" and value is None:  # no bound is not less than another one
            values.setdefault(of, None)
        elif of == "max_tokens":
            values[of] = min(value, values.get(of) or value)
        elif values.setdefault(of, value) != value:
            raise InvalidValueError(
                f"{field} and {names[of]} are the same with two values; leave one out", field
            )
    constraints = [field for field, of, _ in given if of in CONSTRAINTS]
    if len(constraints) > 1:
        raise InvalidValueError(
            f"{constraints[1]} and {constraints[0]} exclude each other", constraints[1]
        )
    if constraints:
        # A default that the constraint excludes gives way to it; what the client gave does not.
        values = {**dict.fromkeys(CONSTRAINTS), "stop": (), "ignore_eos": False, **values}
    schema_field = names.get("json_schema", "json_schema")
    note_schema_field(schema_field)
    try:
        with fields_as_given(names):
            params = dataclasses.replace(defaults, **values)
        if params.json_schema is not None:
            read_schema(params.json_schema)
    except SchemaError as error:
        raise InvalidValueError(str(error), schema_field) from error
    return params


def client_names(given: Iterable[Given]) -> dict[str, str]:
    """Return the client's fields by the parameters that they set; of several, the first."""
    return {of: field for field, of, _ in reversed([*given])}


@contextlib.contextmanager
def fields_as_given(names: Mapping[str, str]) -> Iterator[None]:
    """Let errors in what is done here name fields as the client does."""
    try:
        yield
    except InvalidValueError as error:
        name = names.get(error.field or "")
        if name is None:
            raise
        raise error.renamed(name) from error


def _same(value: Any) -> Any:
    return value


def _bound(value: int) -> int | None:
    return value if value > 0 else None  # -1 and -2 are no bound


def seed_param(seed: int) -> int | None:
    """Fold a client's seed, of 64 bits with most of them, into those there are; -1 is any."""
    return None if seed == _ANY_SEED else seed % _SEEDS


_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    "stop": lambda value: (value,) if isinstance(value, str) else tuple(value),
    "seed": seed_param,
    "max_tokens": _bound,
    "top_k": lambda value: max(value, 0),  # -1 is vLLM's word for all of them
    "logit_bias": lambda value: tuple((int(token), bias) for token, bias in value.items()),
    "json_schema": lambda value: value if isinstance(value, str) else schema_text(value),
}


def with_choice_seed(sampling: SamplingParams, choice: int) -> SamplingParams:
    """Give the choice of that index a seed of its own, where one was asked for."""
    if sampling.seed is None:
        return sampling
    return dataclasses.replace(sampling, seed=(sampling.seed + choice) % _SEEDS)


def schema_text(schema: object) -> str:
    """Write a JSON schema as the core wants it."""
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def choice_grammar(choices: Iterable[str]) -> str:
    """Return the GBNF grammar of an answer that is one of these texts."""
    escaped = (
        "".join(rf"\U{ord(char):08X}" if char in '"\\\r\n' else char for char in choice)
        for choice in choices
    )
    return "root ::= " + " | ".join(f'"{text}"' for text in escaped)


def as_text_parts(value: object) -> object:
    """Make a message's content a list of parts where it is a string, or is missing."""
    if value is None:
        return []
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def dump_line(body: object) -> bytes:
    """Write JSON on a line of its own, in ASCII.

    Some clients split a stream at all that Unicode calls a line break, U+2028 for one; escaped, it
    cannot stand inside an answer.
    """
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode("ascii")


class JsonList:
    """A list whose values are written as JSON when they are added."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def append(self, value: object) -> None:
        """Add a value."""
        self._texts.append(_dump(value))

    def __str__(self) -> str:
        return f"[{','.join(self._texts)}]"


def json_text(body: object) -> str:
    """Write JSON, of a body that may have `JsonList` among its values."""
    mark = secrets.token_hex(16)  # stands for one, where nobody can have guessed it
    lists: list[str] = []

    def note(value: object) -> str:
        assert isinstance(value, JsonList)
        lists.append(str(value))
        return mark

    parts = _dump(body, note).split(f'"{mark}"')
    return "".join(part for pair in zip(parts, [*lists, ""], strict=True) for part in pair)


def _dump(value: object, default: Callable[[object], str] | None = None) -> str:
    return json.dumps(
        value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=default
    )


def json_response(body: object) -> Response:
    """Return the response that is one JSON object, as `json_text` writes it."""
    response = Response(json_text(body), content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response


def message_role(role: str, roles: Mapping[str, Role], where: str, calls: object = None) -> Role:
    """Return whose turn a message is.

    Args:
        role: in the client's words.
        roles: those that there are.
        where: the message stands.
        calls: of tools, if it has any.

    Raises:
        InvalidValueError: there is no such role, or it has to do with tools.
    """
    if role not in roles:
        names = [*roles]
        known = f"{', '.join(names[:-1])} or {names[-1]}"
        tools = "; tools are not supported" if role in {"tool", "function"} else ""
        raise InvalidValueError(f"{where}.role must be {known}{tools}", f"{where}.role")
    if calls is not None and calls != []:
        field = f"{where}.tool_calls"
        raise InvalidValueError(f"{field}: tools are not supported", field)
    return roles[role]


def top_logprobs_given(logprobs: bool | None, top_logprobs: int | None) -> list[Given]:
    """Return the parameter of these two fields, in the words of OpenAI's chats and of Ollama's.

    Raises:
        InvalidValueError: the second is without the first.
    """
    if logprobs:
        return [("top_logprobs", "logprobs", top_logprobs or 0)]
    if top_logprobs:
        raise InvalidValueError("top_logprobs needs logprobs to be true", "top_logprobs")
    return []


def token_fields(token: TokenLogprob) -> dict[str, Any]:
    """Return a token and its log probability, as OpenAI's chats and Ollama's routes have it."""
    return {
        "token": token.piece.decode(errors="replace"),
        "logprob": finite_logprob(token.logprob),
        "bytes": list(token.piece),
    }


@dataclass(frozen=True, slots=True)
class Dialect:
    """Routes in a wire format.

    Attributes:
        routes: returns them.
        operations: the same for the API's description.
        prefix: of the paths whose errors have a shape of their own.
        error_body: that shape.
    """

    routes: Callable[[ServerContext], Blueprint]
    operations: Sequence[Operation]
    prefix: str = ""
    error_body: Callable[[LLMStreamError], dict[str, Any]] = error_body
