"""The bounds of what a request and an engine can be told."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.api import (
    EngineConfig,
    EngineMetrics,
    GenerationRequest,
    SamplingParams,
    Usage,
)
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.prompts.messages import Message
from llmstream_cli.sampling import (
    CONSTRAINTS,
    MAX_GRAMMAR_CHARS,
    MAX_LOGIT_BIASES,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
)

SAMPLING_BOUNDS: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 10.0),
    "top_k": (0, 1_000_000),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repeat_penalty": (0.1, 10.0),
    "repeat_last_n": (-1, 1_000_000),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "seed": (0, 4_294_967_294),
    "max_tokens": (1, 2_147_483_647),
    "logprobs": (0, 20),
}
NO_NUMBERS = {"stop", "logit_bias", "ignore_eos", "grammar", "json_schema", "regex"}
NO_ENGINE_NUMBERS = {"model_path", "chat_format", "default_chat_format"}
ENGINE_BOUNDS: dict[str, tuple[float, float]] = {
    "ctx_size": (16, 16_777_216),
    "threads": (1, 512),
    "gpu_layers": (-1, 10_000),
    "max_batch_tokens": (1, 4096),
    "max_seqs": (1, 256),
    "max_queue": (0, 100_000),
    "max_bytes": (0, 2**60),
}
NOT_FINITE = [math.nan, math.inf, -math.inf]


def sampling(**fields: Any) -> SamplingParams:
    return SamplingParams(**fields)


def engine(**fields: Any) -> EngineConfig:
    return EngineConfig(**{"model_path": "model.gguf", **fields})


def just_outside(low: float, high: float) -> list[float]:
    """The nearest values beyond both bounds."""
    if isinstance(low, int):
        return [low - 1, high + 1]
    return [math.nextafter(low, -math.inf), math.nextafter(high, math.inf)]


def cases(bounds: dict[str, tuple[float, float]]) -> list[tuple[str, float]]:
    return [
        (field, value)
        for field, (low, high) in bounds.items()
        for value in (*NOT_FINITE, *just_outside(low, high))
    ]


def assert_one_line_that_names(field: str, error: InvalidValueError) -> None:
    assert field in str(error)
    assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(("field", "value"), cases(SAMPLING_BOUNDS))
def test_a_sampling_parameter_out_of_its_bounds_is_refused(field: str, value: float) -> None:
    with pytest.raises(InvalidValueError) as caught:
        sampling(**{field: value})
    assert_one_line_that_names(field, caught.value)


@pytest.mark.parametrize(("field", "value"), cases(ENGINE_BOUNDS))
def test_an_engine_setting_out_of_its_bounds_is_refused(field: str, value: float) -> None:
    with pytest.raises(InvalidValueError) as caught:
        engine(**{field: value})
    assert_one_line_that_names(field, caught.value)


@pytest.mark.parametrize("field", SAMPLING_BOUNDS)
def test_the_bounds_of_a_sampling_parameter_are_allowed(field: str) -> None:
    for bound in SAMPLING_BOUNDS[field]:
        assert getattr(sampling(**{field: bound}), field) == bound


@pytest.mark.parametrize("field", ENGINE_BOUNDS)
def test_the_bounds_of_an_engine_setting_are_allowed(field: str) -> None:
    for bound in ENGINE_BOUNDS[field]:
        assert getattr(engine(**{field: bound}), field) == bound


@given(st.sampled_from(sorted(SAMPLING_BOUNDS)), st.data())
def test_a_value_is_taken_if_and_only_if_it_is_in_bounds(field: str, data: st.DataObject) -> None:
    low, high = SAMPLING_BOUNDS[field]
    value = data.draw(st.integers() if isinstance(low, int) else st.floats())
    if low <= value <= high:
        assert getattr(sampling(**{field: value}), field) == value
    else:
        with pytest.raises(InvalidValueError, match=field):
            sampling(**{field: value})


def test_every_number_has_bounds() -> None:
    """A new field must be added to the bounds above, or have tests of its own."""
    assert {*SamplingParams.__dataclass_fields__} - NO_NUMBERS == {*SAMPLING_BOUNDS}
    assert {*EngineConfig.__dataclass_fields__} - NO_ENGINE_NUMBERS == {*ENGINE_BOUNDS}


def test_the_defaults_are_in_bounds() -> None:
    defaults = SamplingParams()
    for field, (low, high) in SAMPLING_BOUNDS.items():
        value = getattr(defaults, field)
        assert value is None or low <= value <= high
    assert defaults.stop == ()
    config = engine()
    for field, (low, high) in ENGINE_BOUNDS.items():
        value = getattr(config, field)
        assert value is None or low <= value <= high


@pytest.mark.parametrize("field", ["seed", "max_tokens", "logprobs"])
def test_a_sampling_parameter_may_be_left_open(field: str) -> None:
    assert getattr(sampling(**{field: None}), field) is None


@pytest.mark.parametrize("field", ["ctx_size", "threads"])
def test_an_engine_setting_may_be_left_open(field: str) -> None:
    assert getattr(engine(**{field: None}), field) is None


def test_as_many_stop_strings_as_allowed() -> None:
    stops = tuple(f"stop {number}" for number in range(MAX_STOP_STRINGS))
    assert SamplingParams(stop=stops).stop == stops


def test_too_many_stop_strings_are_refused() -> None:
    with pytest.raises(InvalidValueError) as caught:
        SamplingParams(stop=("stop",) * (MAX_STOP_STRINGS + 1))
    assert_one_line_that_names("stop", caught.value)


@pytest.mark.parametrize("length", [1, MAX_STOP_CHARS])
def test_a_stop_string_may_be_this_long(length: int) -> None:
    assert SamplingParams(stop=("é" * length,)).stop == ("é" * length,)


@pytest.mark.parametrize("length", [0, MAX_STOP_CHARS + 1], ids=["empty", "too long"])
def test_a_stop_string_of_a_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(InvalidValueError) as caught:
        SamplingParams(stop=("fine", "\n" * length))
    assert_one_line_that_names("stop", caught.value)


@given(st.dictionaries(st.integers(0, 10**6), st.floats(-100.0, 100.0), max_size=20))
def test_a_logit_bias_within_its_bounds_is_taken(biases: dict[int, float]) -> None:
    pairs = tuple(biases.items())
    assert SamplingParams(logit_bias=pairs).logit_bias == pairs


@pytest.mark.parametrize("bias", [*NOT_FINITE, *just_outside(-100.0, 100.0)])
def test_a_logit_bias_out_of_its_bounds_is_refused(bias: float) -> None:
    with pytest.raises(InvalidValueError) as caught:
        SamplingParams(logit_bias=((7, bias),))
    assert_one_line_that_names("logit_bias of token 7", caught.value)


def test_too_many_logit_biases_are_refused() -> None:
    biases = tuple((token, 1.0) for token in range(MAX_LOGIT_BIASES))
    assert SamplingParams(logit_bias=biases).logit_bias == biases
    with pytest.raises(InvalidValueError) as caught:
        SamplingParams(logit_bias=(*biases, (MAX_LOGIT_BIASES, 1.0)))
    assert_one_line_that_names("logit_bias", caught.value)


def test_two_biases_of_one_token_are_refused() -> None:
    with pytest.raises(InvalidValueError) as caught:
        SamplingParams(logit_bias=((7, 1.0), (8, 1.0), (7, 2.0)))
    assert_one_line_that_names("logit_bias", caught.value)


@pytest.mark.parametrize("field", CONSTRAINTS)
def test_a_grammar_has_a_length(field: str) -> None:
    longest = " " * MAX_GRAMMAR_CHARS
    assert getattr(sampling(**{field: longest}), field) == longest
    with pytest.raises(InvalidValueError) as caught:
        sampling(**{field: longest + " "})
    assert_one_line_that_names(field, caught.value)


@pytest.mark.parametrize(
    "others",
    [{"ignore_eos": True}, {"json_schema": "{}"}],
    ids=lambda others: next(iter(others)),
)
def test_what_would_end_an_answer_elsewhere_than_its_grammar_is_refused(
    others: dict[str, Any],
) -> None:
    with pytest.raises(InvalidValueError) as caught:
        sampling(grammar='root ::= "x"', **others)
    assert_one_line_that_names("grammar", caught.value)


def test_a_request_has_messages_or_a_prompt() -> None:
    messages = (Message("user", "hi"),)
    assert GenerationRequest(messages).prompt is None
    assert GenerationRequest(prompt="").prompt == ""
    with pytest.raises(InvalidValueError) as caught:
        GenerationRequest(messages, prompt="x")
    assert_one_line_that_names("prompt", caught.value)
    with pytest.raises(InvalidValueError) as caught:
        GenerationRequest()
    assert_one_line_that_names("prompt", caught.value)


def test_thinking_needs_messages_and_an_answer_that_is_free() -> None:
    messages = (Message("user", "hi"),)
    for schema in (SamplingParams(json_schema="{}"), SamplingParams(grammar='root ::= "a"')):
        assert GenerationRequest(messages, schema, thinking=False).thinking is False
        with pytest.raises(InvalidValueError) as caught:
            GenerationRequest(messages, schema, thinking=True)
        assert_one_line_that_names("thinking", caught.value)
    with pytest.raises(InvalidValueError) as caught:
        GenerationRequest(prompt="x", thinking=True)
    assert_one_line_that_names("thinking", caught.value)


def test_the_first_token_does_not_count_for_the_speed() -> None:
    usage = Usage(prompt_tokens=9, completion_tokens=11, prompt_seconds=7.0, completion_seconds=4.0)
    assert usage.tokens_per_second == 2.5


@pytest.mark.parametrize("completion_tokens", [0, 1])
def test_below_two_tokens_there_is_no_speed(completion_tokens: int) -> None:
    assert Usage(9, completion_tokens, 1.0, 2.0).tokens_per_second == 0.0


def test_a_clock_that_stood_still_gives_no_speed() -> None:
    assert Usage(9, 5, 1.0, 0.0).tokens_per_second == 0.0


@pytest.mark.parametrize("keep_alive", [-1.0, math.nan])
def test_a_model_is_not_kept_for_less_than_no_time(keep_alive: float) -> None:
    with pytest.raises(InvalidValueError, match="keep_alive must not be negative"):
        GenerationRequest(prompt="?", keep_alive=keep_alive)


def test_counters_go_on_and_the_state_is_the_present_one() -> None:
    past = EngineMetrics(running=2, rss_bytes=5, steps=10, step_seconds=1.5, restarts=1)
    present = EngineMetrics(waiting=3, rss_bytes=7, steps=4, step_seconds=0.5)
    found = present.after(past)
    assert (found.running, found.waiting, found.rss_bytes) == (0, 3, 7)
    assert (found.steps, found.step_seconds, found.restarts) == (14, 2.0, 1)
