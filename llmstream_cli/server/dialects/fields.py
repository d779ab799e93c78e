"""The fields of requests: honoured, refused, or ignored.

A field that changes the answer is honoured, or refused unless its value asks for nothing; none is
passed over. The tables of the dialects and the table of sampling parameters
(`llmstream_cli.sampling`) give the request models their fields, and with these the API's
description, the tables in the docs, and the tests.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, create_model

from llmstream_cli.sampling import (
    MAX_BIAS,
    MAX_GRAMMAR_CHARS,
    MAX_LOGIT_BIASES,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    PARAMETERS,
    Parameter,
)

NUM_SEEDS = 2**32 - 1  # llama.cpp has so many, and reads the number itself as "choose one"

# A field that a client gave, the parameter that it sets, and the value as the core has it.
Given = tuple[str, str, Any]


class Refused(NamedTuple):
    """A field that is refused unless its value is null or neutral: these ask for nothing."""

    neutral: tuple[Any, ...] = ()
    advice: str = "leave it out"


def refused(names: str, *neutral: Any, advice: str = "leave it out") -> dict[str, Refused]:
    return dict.fromkeys(names.split(), Refused(neutral, advice))


class FieldTable(BaseModel):
    """Base of request models and their parts. Like the APIs, it takes no number in a string."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)

    parameters: ClassVar[Mapping[str, str]] = {}  # sampling parameters by the client's names
    refused: ClassVar[Mapping[str, Refused]] = {}
    ignored: ClassVar[Iterable[str]] = ()  # what cannot change the answer here
    # Where a client asks for reasoning, which the engine may refuse as `thinking`.
    thinking_field: ClassVar[str] = "thinking"

    def given(self, prefix: str = "") -> list[Given]:
        """Return the sampling parameters that the client gave, `prefix` before its names.

        Raises:
            InvalidValueError: fields contradict each other.
        """
        return [
            (prefix + name.rstrip("_"), of, _FROM_JSON[of](value) if of in _FROM_JSON else value)
            for name, of in self.parameters.items()
            if (value := getattr(self, name)) not in (None, "")
        ]


class ClosedFields(FieldTable):
    """Base of objects that may have no other field: each of them would change the answer."""

    model_config = ConfigDict(extra="forbid")


# Of a field's value, in `excluded`.
TRUE = {"const": True}
ANY_TEXT = {"type": "string", "minLength": 1}
ANY_ITEMS = {"type": "array", "minItems": 1}
_MISSING = {"may be missing": True}
NOT_ASSISTANT = {"not": {"const": "assistant"}}
NO_CONTENT = {"enum": [None, []], **_MISSING}
NOT_TRUE = {"enum": [False, None], **_MISSING}
NOT_NONE = {"not": {"const": "none"}, **_MISSING}


def excluded(*together: dict[str, dict[str, Any]]) -> ConfigDict:
    """Return what has a model's description say which values of fields exclude each other."""

    def fulfilled(fields: dict[str, dict[str, Any]]) -> dict[str, Any]:
        return {
            "required": [name for name, value in fields.items() if "may be missing" not in value],
            "properties": {
                name: {key: one for key, one in value.items() if key not in _MISSING}
                for name, value in fields.items()
            },
        }

    return ConfigDict(json_schema_extra={"not": {"anyOf": [*map(fulfilled, together)]}})


_Model = TypeVar("_Model", bound=FieldTable)


def with_fields(
    parameters: Mapping[str, str],
    refused: Mapping[str, Refused],
    ignored: Iterable[str] = (),
    *,
    closed: bool = False,
) -> Callable[[type[_Model]], type[_Model]]:
    """Return what gives a model the fields of these tables, each of which may be absent or null.

    A `closed` model takes neither the names of other APIs for parameters, which others refuse with
    the name here, nor the values by which other programs say "no bound" or "any".
    """

    def extend(model: type[_Model]) -> type[_Model]:
        added: dict[str, Any] = {}
        known = {*parameters, *refused, *ignored, *model.model_fields}
        every = {**({} if closed else _other_apis_names(parameters, known)), **refused}
        for name, of in parameters.items():
            if name in model.model_fields:
                continue
            first = next(one for one in parameters if parameters[one] == of)
            help_ = PARAMETERS[of].help if first == name else f"another name of `{first}`"
            type_ = _wire_type(PARAMETERS[of], lenient=not closed)
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


def names_in(*apis: str) -> dict[str, str]:
    """Return the parameters by their names in these APIs, but for those within objects."""
    found = ((row.name_in(api), row.name) for row in PARAMETERS.values() for api in apis)
    return {
        name: of for name, of in found if name and "." not in name and name != "response_format"
    }


# Of parameters in APIs that the table does not have.
_MORE_NAMES = {
    "temp": "temperature",
    "max_new_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "stop_sequences": "stop",
    "stop_strings": "stop",
    "stop_str": "stop",
    "penalty_repeat": "repeat_penalty",
    "random_seed": "seed",
}


def _other_apis_names(parameters: Mapping[str, str], known: set[str]) -> dict[str, Refused]:
    """Return the names that other APIs have for parameters, refused with the name that this has."""
    here = {of: name for name, of in reversed([*parameters.items()])}
    if not parameters:  # then they are in `options`
        here = {of: f"options.{name}" for name, of in names_in("ollama").items()}
    here = {"json_schema": "format", **here}
    others = names_in("openai", "llamacpp", "vllm", "sglang", "ollama")
    return {
        name: Refused(advice=f"send {here[of]}" if of in here else "leave it out")
        for name, of in ({name: name for name in PARAMETERS} | others | _MORE_NAMES).items()
        if name not in known
    }


# ---- JSON -----------------------------------------------------------------------------------


def schema_text(schema: object) -> str:
    """Write a JSON schema as the core wants it."""
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def _choice_grammar(choices: Iterable[str]) -> str:
    """Return the GBNF grammar of an answer that is one of these texts."""
    escaped = (
        "".join(rf"\U{ord(char):08X}" if char in '"\\\r\n' else char for char in choice)
        for choice in choices
    )
    return "root ::= " + " | ".join(f'"{text}"' for text in escaped)


# How a value becomes the core's. Lists stand for a grammar where the answer is one of its texts.
_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    "stop": lambda value: (value,) if isinstance(value, str) else tuple(value),
    # Seeds of 64 bits are folded; -1 is any.
    "seed": lambda value: None if value == -1 else value % NUM_SEEDS,
    "max_tokens": lambda value: value if value > 0 else None,  # -1 and -2 are no bound
    "top_k": lambda value: max(value, 0),  # -1 is vLLM's word for all of them
    "logit_bias": lambda value: tuple((int(token), bias) for token, bias in value.items()),
    "json_schema": lambda value: value if isinstance(value, str) else schema_text(value),
    "grammar": lambda value: value if isinstance(value, str) else _choice_grammar(value),
}

GrammarText = Annotated[str, Field(max_length=MAX_GRAMMAR_CHARS)]
_StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
_TYPES: dict[str, Any] = {
    "stop": _StopString | Annotated[list[_StopString], Field(max_length=MAX_STOP_STRINGS)],
    "logit_bias": Annotated[
        dict[
            Annotated[str, Field(pattern=r"^[0-9]{1,10}$")],
            Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)],
        ],
        Field(max_length=MAX_LOGIT_BIASES, json_schema_extra={"additionalProperties": False}),
    ],
    "grammar": GrammarText,
    "regex": GrammarText,
    "json_schema": dict[str, Any],
}
# With the values by which clients of other servers say "any" or "no bound", and a schema as text.
_LENIENT_TYPES: dict[str, Any] = {
    "seed": Annotated[int, Field(ge=-(2**63), le=2**63 - 1)],
    "max_tokens": Literal[-1, -2] | Annotated[int, Field(ge=1, le=2**31 - 1)],
    "top_k": Annotated[int, Field(ge=-1, le=10**6)],
    "json_schema": dict[str, Any] | GrammarText,
}


def _wire_type(row: Parameter, *, lenient: bool) -> Any:
    types = _TYPES | _LENIENT_TYPES if lenient else _TYPES
    if row.name in types:
        return types[row.name]
    if row.low is None:
        return row.kind
    return Annotated[row.kind, Field(ge=row.kind(str(row.low)), le=row.kind(str(row.high)))]


def _refused_type(how: Refused) -> Any:
    def check(value: object) -> object:
        # As in JSON, 1 and 1.0 are the same, 1 and true are not.
        equal = [one for one in how.neutral if one == value]
        if value is None or any(isinstance(one, bool) == isinstance(value, bool) for one in equal):
            return value
        raise ValueError(f"is not supported; {how.advice}")

    schema = {"enum": [None, *how.neutral], "description": f"Not supported; {how.advice}."}
    return Annotated[Any, BeforeValidator(check), WithJsonSchema(schema)]
