"""The sampling options of a command, over what suits the model."""

import pytest

from llmstream_cli.api import SamplingParams
from llmstream_cli.cli.options import SamplingOptions
from llmstream_cli.errors import InvalidValueError


def test_nothing_said_and_nothing_advised_is_the_default() -> None:
    assert SamplingOptions().over({}) == SamplingParams()


def test_what_is_advised_goes_over_the_default_and_what_is_said_over_both() -> None:
    options = SamplingOptions(temperature=0.0, stop=("5",))
    params = options.over({"temperature": 1.0, "top_k": 64})
    assert params == SamplingParams(temperature=0.0, top_k=64, stop=("5",))


def test_stop_strings_that_are_advised_do_not_cut_what_has_a_form() -> None:
    advised = {"top_k": 64, "stop": ("###",)}
    params = SamplingOptions(json_schema="{}").over(advised)
    assert params == SamplingParams(top_k=64, json_schema="{}")
    params = SamplingOptions(grammar='root ::= "a"', stop=("a",)).over(advised)
    assert params.stop == ("a",)


def test_a_value_out_of_bounds_is_refused_at_once() -> None:
    with pytest.raises(InvalidValueError, match="temperature must be between"):
        SamplingOptions(temperature=99.0)


def test_what_the_user_did_not_say_is_left_to_another_server() -> None:
    assert "temperature" in SamplingOptions().unset
    assert "grammar" in SamplingOptions().unset
    said = SamplingOptions(temperature=0.0, top_k=0, stop=("5",))
    assert not {"temperature", "top_k", "stop"} & set(said.unset)
    assert {"top_p", "repeat_last_n", "seed", "max_tokens"} < set(said.unset)
