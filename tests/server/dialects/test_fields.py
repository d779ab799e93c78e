"""The tables of fields: each is honoured, refused, or without effect, and the docs say which."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from llmstream_cli.api import GenerationRequest
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.sampling import PARAMETERS, SamplingParams
from llmstream_cli.server.body import validated
from llmstream_cli.server.dialects.anthropic_request import MessagesRequest
from llmstream_cli.server.dialects.fields import FieldTable
from llmstream_cli.server.dialects.ollama import ChatRequest, GenerateRequest, OllamaOptions
from llmstream_cli.server.dialects.ollama_models import ShowRequest
from llmstream_cli.server.dialects.openai_chat import ChatCompletionRequest
from llmstream_cli.server.dialects.openai_completions import CompletionRequest
from llmstream_cli.server.dialects.openai_responses.request import ResponsesRequest
from llmstream_cli.server.dialects.plain import TokenStreamRequest
from tests.field_docs import PAGES, updated
from tests.server.dialects.rows import SAMPLING, SCHEMA

DEFAULTS = SamplingParams(temperature=0.7, max_tokens=100, repeat_penalty=1.2)
HELLO = [{"role": "user", "content": "Hello"}]

# What is asked with a body's fields: what the engine gets, and how it is answered.
_Asked = Callable[[dict[str, Any]], Any]


def openai(
    type_: type[ChatCompletionRequest | CompletionRequest], needed: dict[str, Any]
) -> _Asked:
    def asked(fields: dict[str, Any]) -> Any:
        body = validated(type_, {**needed, **fields})
        requests = body.generation_requests(DEFAULTS)
        return requests, body.model, body.stream, body.stream_options

    return asked


def ollama(
    type_: type[ChatRequest | GenerateRequest], needed: dict[str, Any], within: str = ""
) -> _Asked:
    def asked(fields: dict[str, Any]) -> Any:
        body = validated(type_, {**needed, **({within: fields} if within else fields)})
        return body.generation_request(DEFAULTS), body.model, body.stream

    return asked


def token_stream(fields: dict[str, Any]) -> Any:
    body = validated(TokenStreamRequest, {"query": "Hello", **fields})
    request = body.generation_request(DEFAULTS, {"sql": "You know SQL."})
    return request, body.model, body.include_reasoning, body.resume


def responses(fields: dict[str, Any]) -> Any:
    body = validated(ResponsesRequest, {"input": "Hello", **fields})
    request = body.generation_request(DEFAULTS)
    return request, body.model, body.stream, body.include, body.metadata


def messages(fields: dict[str, Any]) -> Any:
    body = validated(MessagesRequest, {"messages": HELLO, **fields})
    return body.generation_request(DEFAULTS), body.model, body.stream


DIALECTS: dict[type[FieldTable], _Asked] = {
    TokenStreamRequest: token_stream,
    ChatCompletionRequest: openai(ChatCompletionRequest, {"messages": HELLO}),
    CompletionRequest: openai(CompletionRequest, {"prompt": "Once"}),
    ResponsesRequest: responses,
    MessagesRequest: messages,
    ChatRequest: ollama(ChatRequest, {"messages": HELLO}),
    GenerateRequest: ollama(GenerateRequest, {"prompt": "Hello"}),
    OllamaOptions: ollama(ChatRequest, {"messages": HELLO}, "options"),
}

TOOL = {"type": "function", "function": {"name": "f"}}

# A value for each field beside the parameters.
SAMPLES: dict[str, dict[str, Any]] = {
    "query": {"query": "Hi"},
    "system": {"system": "Be brief."},
    "context": {"context": "sql"},
    "messages": {"messages": [{"role": "user", "content": "Hi"}]},
    "prompt": {"prompt": "Twice"},
    "model": {"model": "tiny"},
    "stream": {"stream": False},
    "stream_options": {"stream_options": {"include_usage": True}},
    "n": {"n": 2},
    "best_of": {"best_of": 2, "n": 2},
    "logprobs": {"logprobs": True},
    "top_logprobs": {"top_logprobs": 2, "logprobs": True},
    "response_format": {"response_format": {"type": "json_object"}},
    "structured_outputs": {"structured_outputs": {"regex": "a"}},
    "guided_choice": {"guided_choice": ["a", "b"]},
    "format": {"format": SCHEMA},
    "options": {"options": {"seed": 5}},
    "thinking": {"thinking": True},
    "think": {"think": True},
    "chat_template_kwargs": {"chat_template_kwargs": {"enable_thinking": True}},
    "continue_final_message": {
        "continue_final_message": True,
        "messages": [*HELLO, {"role": "assistant", "content": "Hi"}],
    },
    "add_generation_prompt": {"add_generation_prompt": False},
    "reasoning_effort": {"reasoning_effort": "none"},
    "include_reasoning": {"include_reasoning": True},
    "resume": {"resume": 60},
    "input": {"input": [{"type": "message", "role": "developer", "content": "Hi"}]},
    "instructions": {"instructions": "Be brief."},
    "reasoning": {"reasoning": {"effort": "none"}},
    "text": {"text": {"format": {"type": "json_object"}}},
    "include": {"include": ["message.output_text.logprobs"]},
    "metadata": {"metadata": {"run": "1"}},
    "keep_alive": {"keep_alive": "5m"},
    "raw": {"raw": True},
    "tools": {"tools": [TOOL]},
    "tool_choice": {"tool_choice": "required", "tools": [TOOL]},
    "parallel_tool_calls": {"parallel_tool_calls": False},
}
# Of fields that one API has otherwise.
_TOOLS = [{"type": "function", "name": "f"}]
OWN_SAMPLES: dict[type[FieldTable], dict[str, dict[str, Any]]] = {
    MessagesRequest: {
        "tools": {"tools": [{"name": "f"}]},
        "tool_choice": {"tool_choice": {"type": "any"}, "tools": [{"name": "f"}]},
        "thinking": {"thinking": {"type": "disabled"}},
        "output_config": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        "output_format": {"output_format": {"type": "json_schema", "schema": SCHEMA}},
    },
    ResponsesRequest: {
        "top_logprobs": {"top_logprobs": 2},
        "tools": {"tools": _TOOLS},
        "tool_choice": {"tool_choice": "required", "tools": _TOOLS},
        "parallel_tool_calls": {"parallel_tool_calls": False, "tools": _TOOLS},
    },
}
# Refused unless they are empty, or another field says that they are not to be used.
CONDITIONAL = {"functions"}

JUNK = [True, False, 0, 1, 2, -1, 0.5, "", "x", [], [1], ["text"], {}, {"a": 1}]


def honoured(type_: type[FieldTable]) -> set[str]:
    return set(type_.model_fields) - set(type_.refused)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_docs_have_the_tables(page: Any) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<!-- fields:" in text
    assert updated(text) == text, "run: python -m tests.field_docs"


@pytest.mark.parametrize("type_", DIALECTS)
def test_a_field_is_one_of_the_three(type_: type[FieldTable]) -> None:
    assert not {*type_.ignored} & {*type_.model_fields}
    assert {*type_.parameters} <= honoured(type_)
    assert {*type_.refused} <= {*type_.model_fields}


def test_every_parameter_is_a_field_wherever_the_api_has_it() -> None:
    for type_, apis in (
        (TokenStreamRequest, {""}),
        (ChatCompletionRequest, {"openai", "llamacpp", "vllm", "sglang"}),
        (OllamaOptions, {"ollama"}),
    ):
        for row in PARAMETERS.values():
            names = {row.name_in(api) for api in apis} if apis != {""} else {row.name}
            for name in names - {None, "logprobs"}:
                assert str(name).partition(".")[0] in honoured(type_), name


@pytest.mark.parametrize("type_", DIALECTS)
def test_what_is_honoured_changes_what_is_asked(type_: type[FieldTable]) -> None:
    ask = DIALECTS[type_]
    for name in sorted(honoured(type_) - CONDITIONAL):
        parameter = type_.parameters.get(name, "")
        own = OWN_SAMPLES.get(type_, {}).get(name)
        fields = own or SAMPLES.get(name) or {name: SAMPLING[parameter][0]}
        if (type_, name) == (CompletionRequest, "logprobs"):
            fields = {"logprobs": 2}
        without = {key: value for key, value in fields.items() if key != name}
        if name == "best_of":  # refused alone: all choices are returned
            without = {"n": 1}
        assert ask(fields) != ask(without), name
        if name not in {"query", "messages", "prompt", "input"}:
            assert ask({**without, name: None}) == ask(without), name


@pytest.mark.parametrize("type_", DIALECTS)
def test_what_is_refused_is_taken_only_where_it_asks_for_nothing(type_: type[FieldTable]) -> None:
    ask = DIALECTS[type_]
    for name, (neutral, advice) in type_.refused.items():
        for value in (None, *neutral):
            assert ask({name: value}) == ask({}), name
        taken = {json.dumps(value) for value in neutral}
        for value in JUNK:
            if json.dumps(value) not in taken:
                with pytest.raises(InvalidValueError) as caught:
                    ask({name: value})
                assert f"{name} is not supported; {advice}" in str(caught.value)
                assert str(caught.value.field).rpartition(".")[2] == name


@pytest.mark.parametrize("type_", DIALECTS)
def test_what_is_ignored_changes_nothing(type_: type[FieldTable]) -> None:
    ask = DIALECTS[type_]
    for value in JUNK:
        assert ask(dict.fromkeys(type_.ignored, value)) == ask({})


# ---- several names for one thing ------------------------------------------------------------

GBNF = 'root ::= "a" | "\\U00000022b"'


@pytest.mark.parametrize(
    ("fields", "sampling"),
    [
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"json_schema": '{"type":"object"}'}),
        *(
            ({"response_format": written}, {"json_schema": '{"type":"null"}'})
            for written in (
                {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
                {"type": "json_schema", "json_schema": {"schema": SCHEMA, "strict": True}},
                {"type": "json_schema", "schema": SCHEMA, "name": "a", "strict": False},
                {"type": "json_schema", "value": SCHEMA},
                {"type": "json_schema", "value": {"name": "a", "schema": SCHEMA}},
                {"type": "json_object", "schema": SCHEMA},
                {"type": "json_object", "value": SCHEMA},
                {"type": "json", "value": SCHEMA},
            )
        ),
        *(
            ({"response_format": {"type": "regex", name: "a+"}}, {"regex": "a+"})
            for name in ("regex", "pattern", "value")
        ),
        ({"response_format": {"type": "grammar", "grammar": "g"}}, {"grammar": "g"}),
        ({"response_format": {"type": "grammar", "value": "g"}}, {"grammar": "g"}),
        ({"structured_outputs": {"json": SCHEMA}}, {"json_schema": '{"type":"null"}'}),
        ({"structured_outputs": {"regex": "a", "disable_any_whitespace": False}}, {"regex": "a"}),
        ({"structured_outputs": {"json": "{}"}}, {"json_schema": "{}"}),
        ({"structured_outputs": {"json_object": True}}, {"json_schema": '{"type":"object"}'}),
        ({"structured_outputs": {"regex": "a+"}}, {"regex": "a+"}),
        ({"structured_outputs": {"choice": ["a", '"b']}}, {"grammar": GBNF}),
        ({"structured_outputs": {"grammar": "g"}}, {"grammar": "g"}),
        ({"guided_choice": ["a", '"b']}, {"grammar": GBNF}),
        ({"guided_json": "{}"}, {"json_schema": "{}"}),
        ({"guided_json": {}}, {"json_schema": "{}"}),
        ({"json_schema": "{}"}, {"json_schema": "{}"}),
        ({"repetition_penalty": 1.5}, {"repeat_penalty": 1.5, "repeat_last_n": -1}),
        (
            {"repetition_penalty": 1.5, "repeat_last_n": 9},
            {"repeat_penalty": 1.5, "repeat_last_n": 9},
        ),
        ({"top_k": -1}, {"top_k": 0}),
        ({"n_predict": 9, "max_tokens": -1, "max_new_tokens": 12}, {"max_tokens": 9}),
        ({"n_predict": -2}, {"max_tokens": None}),
    ],
)
@pytest.mark.parametrize("type_", [ChatCompletionRequest, CompletionRequest])
def test_other_servers_names(
    type_: type[FieldTable], fields: dict[str, Any], sampling: dict[str, Any]
) -> None:
    (request,), *_ = DIALECTS[type_](fields)
    assert isinstance(request, GenerationRequest)
    values = {name: getattr(request.sampling, name) for name in PARAMETERS}
    defaults = {name: getattr(DEFAULTS, name) for name in PARAMETERS}
    assert values == {**defaults, **sampling}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type must be one of"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema is"),
        ({"response_format": {"type": "regex"}}, "response_format.regex must be a string"),
        ({"response_format": {"type": "json_object", "schem": {}}}, "there is no field"),
        ({"structured_outputs": {"structura": "a"}}, "there is no field"),
        *(
            ({outer: {**given, name: "a"}}, f"{outer}.{name} is not supported; leave it out")
            for outer, given in (("structured_outputs", {}), ("response_format", {"type": "text"}))
            for name in ("structural_tag", "whitespace_pattern")
        ),
        ({"response_format": {"type": "structural_tag", "triggers": []}}, "response_format.t"),
        ({"guided_json": {}, "guided_regex": "a"}, "guided_regex and guided_json exclude"),
        ({"guided_json": {}, "json_schema": {}}, "guided_json and json_schema exclude"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs.regex and"),
        ({"repeat_penalty": 1, "repetition_penalty": 2}, "repetition_penalty and repeat_penalty"),
        ({"seed": 1, "random_seed": 2}, "random_seed and seed are the same"),
    ],
)
@pytest.mark.parametrize("type_", [ChatCompletionRequest, CompletionRequest])
def test_what_contradicts_itself_is_refused(
    type_: type[FieldTable], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidValueError, match=rf"^{message}"):
        DIALECTS[type_](fields)


# ---- words ----------------------------------------------------------------------------------

# Kinds of values, and those at the edges of what fields take.
VALUES: list[Any] = [
    *JUNK,
    2**70,
    -(2**70),
    1e300,
    float("nan"),
    "x" * 70_000,
    ["x"] * 5000,
    [""],
    [0.5],
]
VALUES += [{"5": "x"}, {"y": 1}, {str(number): 1 for number in range(1025)}, [{"role": 5}]]
CONTENTS: list[Any] = [5, [5], [{}], [{"type": 5}]]
VALUES += [[{"role": "user", "content": content}] for content in CONTENTS]
VALUES += [{name: 5} for name in ("type", "schema", "json", "choice", "enable_thinking", "stop")]

# What pydantic can find wrong with these models, all of it.
KINDS = {"bool_type", "dict_type", "extra_forbidden", "finite_number", "float_type", "int_type"}
KINDS |= {
    "int_parsing_size",
    "greater_than_equal",
    "less_than_equal",
    "list_type",
    "literal_error",
    "missing",
}
KINDS |= {"model_type", "string_pattern_mismatch", "string_too_long", "string_too_short"}
KINDS |= {"string_type", "too_long", "too_short", "value_error"}


def test_errors_are_said_in_our_words() -> None:
    kinds: set[str] = set()
    types: list[type[FieldTable]] = [*DIALECTS, ShowRequest]
    for type_ in types:
        for name in type_.model_fields:
            for value in VALUES:
                kinds |= said(type_, {name: value})
        kinds |= said(type_, {"tempratur\ne": 1})
    assert kinds == KINDS


def said(type_: type[FieldTable], fields: dict[str, Any]) -> set[str]:
    """Return the kinds of errors that pydantic finds; check that ours says them otherwise."""
    try:
        type_.model_validate(fields)
    except ValidationError as error:
        found = error.errors()
    else:
        return set()
    with pytest.raises(InvalidValueError) as caught:
        validated(type_, fields)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 500
    assert caught.value.field
    assert message.startswith((caught.value.field, "there is no field"))
    for details in found:
        assert details["type"] == "value_error" or details["msg"].lower() not in message.lower()
    return {details["type"] for details in found}
