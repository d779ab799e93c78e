"""What the OpenAI and the Ollama dialect share: a client's words into `SamplingParams`."""

import dataclasses
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from quart import Response

from llmstream_cli.core.api import SamplingParams
from llmstream_cli.core.json_schema import read_schema
from llmstream_cli.errors import InvalidFieldError, InvalidValueError, SchemaError
from llmstream_cli.server.exchange import note_schema_field

MAX_MESSAGES = 4096
MAX_TEXT_PARTS = 1024
MAX_NAME_CHARS = 256
MAX_TOP_LOGPROBS = 20

_PARAMETERS = {field.name for field in dataclasses.fields(SamplingParams)}
_SEEDS = 2**32 - 1  # llama.cpp has so many, and reads the number itself as "choose one"
_ANY_SEED = -1

# JSON mode promises an object, not any JSON.
JSON_OBJECT = '{"type":"object"}'


def sampling_params(
    defaults: SamplingParams, given: Mapping[str, Any], client_names: Mapping[str, str]
) -> SamplingParams:
    """Put what a client gave over the server's defaults.

    Args:
        defaults: of the server.
        given: parameters by their own names, those that the client left out left out.
        client_names: what the client calls the parameters that have another name there.

    Raises:
        InvalidValueError: a value is out of its bounds; the message has the client's name for it.
    """
    if given.get("grammar") is not None or given.get("json_schema") is not None:
        # A default that the constraint excludes gives way to it; what the client gave does not.
        off = {"grammar": None, "json_schema": None, "stop": (), "ignore_eos": False}
        given = {**off, **given}
    schema_field = client_names.get("json_schema", "json_schema")
    note_schema_field(schema_field)
    try:
        params = dataclasses.replace(defaults, **given)
        if params.json_schema is not None:
            read_schema(params.json_schema)
        return params
    except SchemaError as error:
        raise InvalidFieldError(str(error), schema_field) from error
    except InvalidValueError as error:
        name, _, rest = str(error).partition(" ")
        if name not in _PARAMETERS:
            raise
        client_name = client_names.get(name, name)
        raise InvalidFieldError(f"{client_name} {rest}", client_name) from error


def seed_param(seed: int) -> int | None:
    """Fold a client's seed, of 64 bits with most of them, into those there are; -1 is any."""
    return None if seed == _ANY_SEED else seed % _SEEDS


def with_choice_seed(sampling: SamplingParams, choice: int) -> SamplingParams:
    """Give the choice of that index a seed of its own, where one was asked for."""
    if sampling.seed is None:
        return sampling
    return dataclasses.replace(sampling, seed=(sampling.seed + choice) % _SEEDS)


def schema_text(schema: object) -> str:
    """Write a JSON schema as the core wants it."""
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def as_list(value: object) -> object:
    """Make a lone string a list, for fields that take either."""
    return [value] if isinstance(value, str) else value


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
