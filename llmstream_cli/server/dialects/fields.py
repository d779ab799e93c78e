"""The fields of requests, dialect by dialect: honoured, refused, or without effect.

A field that changes the answer is honoured, or refused where its value asks for something; none is
passed over. The tables of the dialects and the table of sampling parameters
(`llmstream_cli.sampling`) give the request models their fields, and with these the API's
description, docs/openai.md, docs/ollama.md and the tests.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema, create_model

from llmstream_cli.sampling import (
    MAX_BIAS,
    MAX_GRAMMAR_CHARS,
    MAX_LOGIT_BIASES,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    PARAMETERS,
    Parameter,
)


class Refused(NamedTuple):
    """A field that is refused, but for `null` and neutral values, which ask for nothing."""

    neutral: tuple[Any, ...] = ()
    advice: str = "leave it out"


class FieldTable(BaseModel):
    """Base of the models that have such fields, declared and from the tables.

    Attributes:
        parameters: the sampling parameters, by what the client calls them.
        refused: what is not supported.
        ignored: what cannot change the answer here.
    """

    parameters: ClassVar[Mapping[str, str]] = {}
    refused: ClassVar[Mapping[str, Refused]] = {}
    ignored: ClassVar[Iterable[str]] = ()


_Model = TypeVar("_Model", bound=FieldTable)


def excluded(*together: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what a model's schema says of fields that exclude each other.

    Args:
        together: schemas by fields; a body must not fulfil all of one of these. A schema
            with `MISSING` is also fulfilled where the body lacks the field.
    """
    return {
        "not": {
            "anyOf": [
                {
                    "required": [
                        name
                        for name, schema in one.items()
                        if not MISSING.items() <= schema.items()
                    ],
                    "properties": {
                        name: {key: value for key, value in schema.items() if key not in MISSING}
                        for name, schema in one.items()
                    },
                }
                for one in together
            ]
        }
    }


MISSING = {"may be missing": True}
NO_ITEMS = WithJsonSchema({"enum": [None, []]})
ANY_TEXT = {"type": "string", "minLength": 1}
ANY_ITEMS = {"type": "array", "minItems": 1}
TRUE = {"const": True}
NOT_TRUE = {"enum": [False, None], **MISSING}
NOT_NONE = {"not": {"const": "none"}, **MISSING}
TOP_LOGPROBS_ALONE = {
    "top_logprobs": {"type": "integer", "minimum": 1},
    "logprobs": NOT_TRUE,
}


def with_fields(
    parameters: Mapping[str, str],
    refused: Mapping[str, Refused],
    ignored: Iterable[str],
    *,
    strict_bounds: bool = False,
) -> Callable[[type[_Model]], type[_Model]]:
    """Return what gives a model the fields of these tables, each of which may be absent or null.

    Args:
        parameters: as `FieldTable.parameters`.
        refused: as `FieldTable.refused`.
        ignored: as `FieldTable.ignored`.
        strict_bounds: take none of the values by which other programs say "no bound", "any".
    """

    def extend(model: type[_Model]) -> type[_Model]:
        added: dict[str, Any] = {}
        known = {*parameters, *refused, *ignored, *model.model_fields}
        # Where unknown fields are refused anyway, the nearest name is told.
        every = {**({} if strict_bounds else _names_elsewhere(parameters, known)), **refused}
        for name, of in parameters.items():
            row = PARAMETERS[of]
            other = next((one for one in parameters if parameters[one] == of), name)
            help_ = row.help if other == name else f"another name of `{other}`"
            type_ = _wire_type(row) if strict_bounds else _LENIENT.get(of) or _wire_type(row)
            added[name] = (type_ | None, Field(None, description=help_))
        added |= {name: (_refused_type(how), None) for name, how in every.items()}
        extended = create_model(
            model.__name__,
            __base__=model,
            __module__=model.__module__,
            __doc__=model.__doc__,
            **added,
        )
        extended.parameters, extended.refused = parameters, every
        extended.ignored = tuple(sorted(ignored))
        return extended

    return extend


def _names_elsewhere(parameters: Mapping[str, str], known: set[str]) -> dict[str, Refused]:
    """Return the names of parameters in other APIs, which are refused with the name here.

    A dialect without parameters has them in its `options`.
    """
    here = {of: name for name, of in reversed([*parameters.items()])}
    names = {
        name: row.name
        for row in PARAMETERS.values()
        for name in (row.name, *filter(None, map(row.name_in, row.names)))
        if "." not in name and name != "response_format"
    }
    refused = {}
    for name, of in (names | _OTHER_NAMES).items():
        if name in known:
            continue
        own = here.get(of) if parameters else PARAMETERS[of].name_in("ollama")
        if own is None:
            refused[name] = Refused(advice="send format" if of == "json_schema" else "leave it out")
        else:
            refused[name] = Refused(advice=f"send {own if parameters else f'options.{own}'}")
    return refused


# Of parameters in APIs that the table does not have.
_OTHER_NAMES = {
    "temp": "temperature",
    "max_new_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "stop_sequences": "stop",
    "stop_strings": "stop",
    "stop_str": "stop",
    "penalty_repeat": "repeat_penalty",
    "random_seed": "seed",
}


def _wire_type(parameter: Parameter) -> Any:
    """Return the type of a parameter in JSON."""
    if parameter.name in _TYPES:
        return _TYPES[parameter.name]
    kind = get_args(parameter.type)[0] if get_args(parameter.type) else parameter.type
    if parameter.low is None:
        return kind
    return Annotated[kind, Field(ge=kind(parameter.low), le=kind(parameter.high))]


_StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
_GrammarText = Annotated[str, Field(max_length=MAX_GRAMMAR_CHARS)]
_TYPES: dict[str, Any] = {
    "stop": _StopString | Annotated[list[_StopString], Field(max_length=MAX_STOP_STRINGS)],
    "logit_bias": Annotated[
        dict[
            Annotated[str, Field(pattern=r"^[0-9]{1,10}$")],
            Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)],
        ],
        Field(max_length=MAX_LOGIT_BIASES, json_schema_extra={"additionalProperties": False}),
    ],
    "grammar": _GrammarText,
    "regex": _GrammarText,
    "json_schema": dict[str, Any],
}
# With the values by which clients of other servers say "any" or "no bound", and a schema as text.
_LENIENT: dict[str, Any] = {
    "seed": Annotated[int, Field(ge=-(2**63), le=2**63 - 1)],
    "max_tokens": Literal[-1, -2] | Annotated[int, Field(ge=1, le=2**31 - 1)],
    "top_k": Annotated[int, Field(ge=-1, le=10**6)],
    "json_schema": dict[str, Any] | _GrammarText,
}


def _refused_type(how: Refused) -> Any:
    def check(value: object) -> object:
        if value is None or any(_equal(value, neutral) for neutral in how.neutral):
            return value
        raise ValueError(f"is not supported; {how.advice}")

    schema = {"enum": [None, *how.neutral], "description": f"Not supported; {how.advice}."}
    return Annotated[Any, BeforeValidator(check), WithJsonSchema(schema)]


def _equal(one: object, other: object) -> bool:
    """Compare as JSON does: 1 and 1.0 are the same, 1 and true are not."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


OFF, ON, NONE = Refused((False,)), Refused((True,)), Refused()

# Samplers that there are not, with the values at which they do nothing.
SAMPLERS = {name: Refused((1,)) for name in ("typical_p", "tfs_z")} | {"mirostat": Refused((0,))}
SAMPLER_DETAILS = ("mirostat_tau", "mirostat_eta")  # of those


def names_in(*apis: str) -> dict[str, str]:
    """Return the parameters by the names that some of these APIs have for them."""
    found = ((row.name_in(api), row.name) for row in PARAMETERS.values() for api in apis)
    return {name: of for name, of in found if name and "." not in name}
