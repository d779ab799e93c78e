"""The fields of requests, dialect by dialect: honoured, refused, or without effect.

A field that changes the answer is honoured, or refused where its value asks for something; none is
passed over. The tables below and the table of sampling parameters (`llmstream_cli.sampling`) give
the request models their fields, and with these the API's description, docs/openai.md,
docs/ollama.md and the tests.
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
        for name, of in parameters.items():
            row = PARAMETERS[of]
            other = next((one for one in parameters if parameters[one] == of), name)
            help_ = row.help if other == name else f"another name of `{other}`"
            type_ = _wire_type(row) if strict_bounds else _LENIENT.get(of) or _wire_type(row)
            added[name] = (type_ | None, Field(None, description=help_))
        added |= {name: (_refused_type(how), None) for name, how in refused.items()}
        extended = create_model(
            model.__name__,
            __base__=model,
            __module__=model.__module__,
            __doc__=model.__doc__,
            **added,
        )
        extended.parameters, extended.refused = parameters, refused
        extended.ignored = tuple(sorted(ignored))
        return extended

    return extend


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


# ---- what is not supported, and what has no effect ------------------------------------------

_OFF, _ON, _NONE = Refused((False,)), Refused((True,)), Refused()

# Samplers that there are not, with the values at which they do nothing.
_SAMPLERS = {name: Refused((1,)) for name in ("typical_p", "tfs_z")} | {"mirostat": Refused((0,))}
_SAMPLER_DETAILS = ("mirostat_tau", "mirostat_eta")  # of those

_KWARGS = "send chat_template_kwargs with enable_thinking"
_AS_STOP = "send the text of the tokens as stop"

_OPENAI_REFUSED = {
    **_SAMPLERS,
    # of llama-server
    **dict.fromkeys(
        ("top_a", "xtc_probability", "dry_multiplier", "dynatemp_range"), Refused((0,))
    ),
    **dict.fromkeys(("min_keep", "n_indent", "n_probs"), Refused((0,))),
    **dict.fromkeys(("samplers", "lora", "response_fields"), Refused(([],))),
    **dict.fromkeys(("post_sampling_probs", "return_tokens", "grammar_lazy"), _OFF),
    "top_n_sigma": Refused((-1, 0)),
    "adaptive_target": Refused((-1,)),
    "t_max_predict_ms": Refused((-1, 0), "send max_tokens"),
    "penalize_nl": _ON,
    # of vLLM and SGLang
    **dict.fromkeys(("min_tokens", "min_new_tokens"), Refused((0,), "send ignore_eos")),
    "stop_token_ids": Refused(([],), _AS_STOP),
    "stop_regex": Refused(([], "")),
    "bad_words": Refused(([],), "send logit_bias"),
    "allowed_token_ids": Refused(advice="send logit_bias"),
    "length_penalty": Refused((1,)),
    **dict.fromkeys(("use_beam_search", "include_stop_str_in_output", "no_stop_trim"), _OFF),
    **dict.fromkeys(("return_token_ids", "return_tokens_as_token_ids"), _OFF),
    **dict.fromkeys(("prompt_logprobs", "truncate_prompt_tokens", "lora_path"), _NONE),
    **dict.fromkeys(("guided_whitespace_pattern", "structural_tag"), _NONE),
    "logits_processors": Refused(([],)),
    "skip_special_tokens": _ON,
    # of Mistral
    "safe_prompt": Refused((False,), "send a system message"),
    "prompt_mode": _NONE,
}
_CHAT_REFUSED = {
    **_OPENAI_REFUSED,
    "tool_choice": Refused(("none", "auto"), "leave it and tools out"),
    "function_call": Refused(("none", "auto"), "leave it and functions out"),
    "modalities": Refused(([], ["text"]), "the answer can be text only"),
    **dict.fromkeys(("audio", "web_search_options"), _NONE),
    "verbosity": Refused(("medium",), "say it in a message"),
    "best_of": Refused((1,), "send n"),
    "echo": _OFF,
    "add_special_tokens": _OFF,
    "chat_template": Refused(advice="start the server with --template"),
    "documents": Refused(([],), "write them into a message"),
    # Reasoning by other servers' names
    **dict.fromkeys(("enable_thinking", "thinking", "reasoning"), Refused(advice=_KWARGS)),
    "thinking_budget_tokens": Refused((-1,)),
    "reasoning_format": Refused(("auto", "deepseek")),
    "reasoning_in_content": _OFF,
    **dict.fromkeys(("separate_reasoning", "include_reasoning"), _ON),
}
_COMPLETION_REFUSED = {
    **_OPENAI_REFUSED,
    "echo": Refused((False,), "the client has the prompt"),
    "suffix": Refused(("",), "the answer only continues a prompt"),
    "add_special_tokens": _ON,
}
# For accounts and caches, for the speed, or details of samplers that are refused.
_OPENAI_IGNORED = (
    *("metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"),
    *("service_tier", "store", "user", "priority", "request_id", "cache_salt"),
    *("cache_prompt", "id_slot", "n_cache_reuse", "n_discard", "n_keep", "slot_id", "verbose"),
    *("return_progress", "timings_per_token", "kv_transfer_params", "guided_decoding_backend"),
    *("dry_allowed_length", "dry_base", "dry_penalty_last_n", "dry_sequence_breakers"),
    *("adaptive_decay", "dynatemp_exponent", "xtc_threshold", "spaces_between_special_tokens"),
    *_SAMPLER_DETAILS,
)
_CHAT_IGNORED = (*_OPENAI_IGNORED, "parallel_tool_calls", "prediction", "stream_reasoning")

_OPTIONS_REFUSED = {
    **_SAMPLERS,
    "penalize_newline": _ON,
    "rope_frequency_base": Refused((0,), "how models are loaded is decided when the server starts"),
    "rope_frequency_scale": Refused(
        (0, 1), "how models are loaded is decided when the server starts"
    ),
}
# How models are loaded is decided when the server starts; and no prompt is ever cut to fit.
_OPTIONS_IGNORED = (
    *("num_ctx", "num_keep", "num_batch", "num_gpu", "main_gpu", "num_gqa", "num_thread", "numa"),
    *("low_vram", "f16_kv", "logits_all", "vocab_only", "use_mmap", "use_mlock", "embedding_only"),
    *_SAMPLER_DETAILS,
)
_OLLAMA_IGNORED = ("truncate", "shift", "_debug_render_only")


# ---- the dialects ---------------------------------------------------------------------------

_OPENAI_APIS = ("llamacpp", "openai", "vllm", "sglang")
_MORE_NAMES = {
    "max_completion_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "max_new_tokens": "max_tokens",
    "random_seed": "seed",
    "guided_grammar": "grammar",
    "guided_json": "json_schema",
    "guided_regex": "regex",
}


def _names_in(*apis: str) -> dict[str, str]:
    """Return the parameters by the names that some of these APIs have for them."""
    found = ((row.name_in(api), row.name) for row in PARAMETERS.values() for api in apis)
    return {name: of for name, of in found if name and "." not in name}


_OPENAI_PARAMETERS = _names_in(*_OPENAI_APIS) | _MORE_NAMES
del _OPENAI_PARAMETERS["response_format"]

TOKEN_STREAM = with_fields(
    {name: name for name in PARAMETERS if name != "logprobs"}, {}, (), strict_bounds=True
)
CHAT = with_fields(_OPENAI_PARAMETERS, _CHAT_REFUSED, _CHAT_IGNORED)
COMPLETION = with_fields(_OPENAI_PARAMETERS, _COMPLETION_REFUSED, _OPENAI_IGNORED)
OLLAMA_OPTIONS = with_fields(_names_in("ollama"), _OPTIONS_REFUSED, _OPTIONS_IGNORED)
OLLAMA_CHAT = with_fields({}, {"tools": Refused(([],))}, _OLLAMA_IGNORED)
OLLAMA_GENERATE = with_fields(
    {},
    {
        "suffix": Refused(("",), "the answer only continues a prompt"),
        "template": Refused(("",), "send a raw prompt instead"),
        "context": Refused(([],), "send messages to /api/chat"),
        "images": Refused(([],), "the model reads text only"),
    },
    _OLLAMA_IGNORED,
)
