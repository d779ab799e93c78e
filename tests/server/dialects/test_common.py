"""A client's fields into parameters, and JSON that has lists written before."""

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmstream_cli.api import SamplingParams
from llmstream_cli.core.grammar.gbnf import _escaped, gbnf_to_lark
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.server.body import validated
from llmstream_cli.server.dialects.common import fields_as_given, json_text, sampling_params
from llmstream_cli.server.dialects.fields import Given
from llmstream_cli.server.dialects.logprobs import JsonList
from llmstream_cli.server.dialects.openai_completions import CompletionRequest


def test_what_is_given_goes_over_the_defaults_and_nothing_else() -> None:
    defaults = SamplingParams(temperature=0.7, max_tokens=100, stop=("###",))
    given = [("temperature", "temperature", 0.0), ("num_predict", "max_tokens", None)]
    assert sampling_params(defaults, given) == (
        SamplingParams(temperature=0.0, max_tokens=None, stop=("###",))
    )


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        ([("num_predict", "max_tokens", 0)], "num_predict", "num_predict must be between 1 and"),
        ([("halt", "stop", ("a",) * 17)], "halt", "at most 16 stop strings are allowed, not 17"),
        ([("eos", "ignore_eos", True), ("f", "json_schema", "{}")], "eos", "eos cannot be"),
        ([("f", "json_schema", '{"type": 5}')], "f", "JSON schema"),
        ([("ebnf", "grammar", "a"), ("f", "json_schema", "{}")], "f", "f and ebnf exclude"),
        ([("ebnf", "grammar", "a"), ("grammar", "grammar", "a")], "grammar", "grammar and ebnf"),
        ([("a", "repeat_penalty", 1), ("b", "repeat_penalty", 2)], "b", "b and a are the same"),
    ],
)
def test_an_error_names_the_clients_field(given: list[Given], field: str, message: str) -> None:
    with pytest.raises(InvalidValueError) as caught, fields_as_given(given):
        sampling_params(SamplingParams(), given)
    assert str(caught.value).startswith(message)
    assert caught.value.field == field


def test_names_of_one_parameter_may_say_the_same() -> None:
    given = [("repeat", "repeat_penalty", 1.5), ("again", "repeat_penalty", 1.5)]
    assert sampling_params(SamplingParams(), given) == SamplingParams(repeat_penalty=1.5)


@pytest.mark.parametrize(
    "defaults",
    [
        SamplingParams(stop=("###",), ignore_eos=True),
        SamplingParams(grammar='root ::= "a"'),
        SamplingParams(json_schema="{}"),
        SamplingParams(regex="a"),
    ],
)
@pytest.mark.parametrize("given_", [("grammar", 'root ::= "b"'), ("json_schema", "true")])
def test_a_default_gives_way_to_the_constraint_that_excludes_it(
    defaults: SamplingParams, given_: tuple[str, str]
) -> None:
    given = [("format", *given_)]
    assert sampling_params(defaults, given) == sampling_params(SamplingParams(), given)


def completion(**fields: Any) -> SamplingParams:
    body = validated(CompletionRequest, {"prompt": "", **fields})
    return body.generation_requests(SamplingParams())[0].sampling


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
@example(["\\", '"', "\r\n"])
def test_the_grammar_of_a_choice_has_the_texts_and_no_more(choices: list[str]) -> None:
    *before, root = gbnf_to_lark(completion(guided_choice=choices).grammar or "").splitlines()
    assert before == ["start: r0"]
    characters = [[f"/{_escaped(char)}/" for char in choice] for choice in choices]
    assert re.findall(r"/[^/]+/", root) == [char for choice in characters for char in choice]
    assert root.count("|") == len(choices) - 1


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_seed_of_64_bits_becomes_one_that_there_is(seed: int) -> None:
    folded = completion(seed=seed).seed
    assert (folded is None) == (seed == -1)
    assert folded == seed or not 0 <= seed < 2**32 - 1


VALUES = st.none() | st.integers() | st.text() | st.dictionaries(st.text(), st.text(), max_size=2)


@given(st.lists(st.lists(VALUES, max_size=3), max_size=3), VALUES)
def test_lists_that_were_written_before_stand_where_they_belong(
    lists: list[list[Any]], other: Any
) -> None:
    written = []
    for values in lists:
        written.append(JsonList())
        for value in values:
            written[-1].append(value)
    body = {"first": other, "lists": written, "last": [{"in": one} for one in written]}
    assert json.loads(json_text(body)) == {
        "first": other,
        "lists": lists,
        "last": [{"in": one} for one in lists],
    }
