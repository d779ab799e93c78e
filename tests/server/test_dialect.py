"""A client's words into parameters, and JSON that survives every client's line splitting."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.core.api import SamplingParams
from llmstream_cli.errors import InvalidFieldError, InvalidValueError
from llmstream_cli.server.dialect import (
    JsonList,
    dump_line,
    json_text,
    sampling_params,
    seed_param,
    with_choice_seed,
)


def test_what_is_given_goes_over_the_defaults_and_nothing_else() -> None:
    defaults = SamplingParams(temperature=0.7, max_tokens=100, stop=("###",))
    assert sampling_params(defaults, {"temperature": 0.0, "max_tokens": None}, {}) == (
        SamplingParams(temperature=0.0, max_tokens=None, stop=("###",))
    )


def test_an_error_names_the_clients_field() -> None:
    with pytest.raises(InvalidFieldError) as caught:
        sampling_params(SamplingParams(), {"max_tokens": 0}, {"max_tokens": "num_predict"})
    assert str(caught.value) == "num_predict must be between 1 and 2147483647"
    assert caught.value.field == "num_predict"


def test_an_error_that_names_no_parameter_stays_as_it_is() -> None:
    with pytest.raises(InvalidValueError, match=r"^at most 16 stop strings") as caught:
        sampling_params(SamplingParams(), {"stop": ("a",) * 17}, {"stop": "halt"})
    assert not isinstance(caught.value, InvalidFieldError)


@pytest.mark.parametrize(
    "defaults",
    [
        SamplingParams(stop=("###",), ignore_eos=True),
        SamplingParams(grammar='root ::= "a"'),
        SamplingParams(json_schema="{}"),
    ],
)
@pytest.mark.parametrize("given_", [{"grammar": 'root ::= "b"'}, {"json_schema": "true"}])
def test_a_default_gives_way_to_the_constraint_that_excludes_it(
    defaults: SamplingParams, given_: dict[str, str]
) -> None:
    assert sampling_params(defaults, given_, {}) == sampling_params(SamplingParams(), given_, {})


def test_what_the_client_gave_does_not_give_way() -> None:
    with pytest.raises(InvalidValueError, match="cannot be combined"):
        sampling_params(SamplingParams(), {"json_schema": "{}", "ignore_eos": True}, {})


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_seed_of_64_bits_becomes_one_that_there_is(seed: int) -> None:
    folded = seed_param(seed)
    SamplingParams(seed=folded)
    assert (folded is None) == (seed == -1)
    if 0 <= seed < 2**32 - 1:
        assert folded == seed


@given(st.integers(0, 2**32 - 2))
def test_choices_have_distinct_seeds_and_the_first_the_clients(seed: int) -> None:
    sampling = SamplingParams(seed=seed)
    seeds = [with_choice_seed(sampling, choice).seed for choice in range(8)]
    assert seeds[0] == seed
    assert len(set(seeds)) == 8


def test_choices_without_a_seed_get_none() -> None:
    assert with_choice_seed(SamplingParams(), 3) == SamplingParams()


@given(st.text())
def test_a_line_is_one_line_for_whoever_splits_it(text: str) -> None:
    line = dump_line({"text": text})
    assert line.decode().splitlines() == [line.decode()]
    assert json.loads(line) == {"text": text}


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
