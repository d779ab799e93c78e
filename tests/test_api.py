"""The bounds of what a request and an engine can be told."""

import math
from collections.abc import Callable
from typing import Any

import pytest

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
NAN = math.nan
NOT_FINITE = [NAN, math.inf, -math.inf]


def sampling(**fields: Any) -> SamplingParams:
    return SamplingParams(**fields)


def engine(**fields: Any) -> EngineConfig:
    return EngineConfig(**{"model_path": "model.gguf", **fields})


def just_outside(low: float, high: float) -> list[float]:
    """The nearest values beyond both bounds."""
    if isinstance(low, int):
        return [low - 1, high + 1]
    return [math.nextafter(low, -math.inf), math.nextafter(high, math.inf)]


def refused(field: str, make: Callable[..., object], **values: Any) -> None:
    """It is refused with one line that names the field."""
    with pytest.raises(InvalidValueError) as caught:
        make(**values)
    assert field in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("make", "field", "bounds"),
    [
        *((sampling, field, bounds) for field, bounds in SAMPLING_BOUNDS.items()),
        *((engine, field, bounds) for field, bounds in ENGINE_BOUNDS.items()),
    ],
)
def test_numbers_have_bounds(
    make: Callable[..., object], field: str, bounds: tuple[float, float]
) -> None:
    for value in bounds:
        assert getattr(make(**{field: value}), field) == value
    for value in (*NOT_FINITE, *just_outside(*bounds)):
        refused(field, make, **{field: value})
    default = getattr(make(), field)
    assert default is None or bounds[0] <= default <= bounds[1]


def test_every_number_has_bounds() -> None:
    """A new field must be added to the bounds above, or have tests of its own."""
    assert {*SamplingParams.__dataclass_fields__} - NO_NUMBERS == {*SAMPLING_BOUNDS}
    assert {*EngineConfig.__dataclass_fields__} - NO_ENGINE_NUMBERS == {*ENGINE_BOUNDS}


LONGEST = " " * MAX_GRAMMAR_CHARS
BIASES = tuple((token, 1.0) for token in range(MAX_LOGIT_BIASES))


@pytest.mark.parametrize(
    ("field", "taken", "beyond"),
    [
        ("stop", ("x",) * MAX_STOP_STRINGS, ("x",) * (MAX_STOP_STRINGS + 1)),
        ("stop", ("é", "é" * MAX_STOP_CHARS), ("fine", "\n" * (MAX_STOP_CHARS + 1))),
        ("stop", (), ("fine", "")),
        ("logit_bias", BIASES, (*BIASES, (MAX_LOGIT_BIASES, 1.0))),
        ("logit_bias", ((7, -100.0), (8, 100.0)), ((7, 1.0), (8, 1.0), (7, 2.0))),
        *(("logit_bias", (), ((7, bias),)) for bias in (*NOT_FINITE, *just_outside(-100.0, 100.0))),
        *((field, LONGEST, LONGEST + " ") for field in CONSTRAINTS),
    ],
)
def test_lists_and_texts_have_bounds(field: str, taken: Any, beyond: Any) -> None:
    assert getattr(sampling(**{field: taken}), field) == taken
    refused(field, sampling, **{field: beyond})


@pytest.mark.parametrize("others", [{"ignore_eos": True}, {"json_schema": "{}"}], ids=str)
def test_what_would_end_an_answer_elsewhere_than_its_grammar_is_refused(
    others: dict[str, Any],
) -> None:
    refused("grammar", sampling, grammar='root ::= "x"', **others)


MESSAGES = (Message("user", "hi"),)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("prompt", {"messages": MESSAGES, "prompt": "x"}),
        ("prompt", {}),
        ("thinking", {"prompt": "x", "thinking": True}),
        *(
            ("thinking", {"messages": MESSAGES, "sampling": constrained, "thinking": True})
            for constrained in (sampling(json_schema="{}"), sampling(grammar='root ::= "a"'))
        ),
        *(("keep_alive must not be negative", {"prompt": "", "keep_alive": k}) for k in (-1, NAN)),
        ("assistant", {"messages": MESSAGES, "ending": "message"}),
    ],
)
def test_what_a_request_cannot_be(field: str, values: dict[str, Any]) -> None:
    refused(field, GenerationRequest, **values)


def test_what_a_request_can_be() -> None:
    assert GenerationRequest(MESSAGES).prompt_ending == "turn"
    assert GenerationRequest(prompt="", keep_alive=0).prompt == ""
    constrained = GenerationRequest(MESSAGES, sampling(json_schema="{}"), thinking=False)
    assert constrained.thinking is False
    for text, ending in (("So", "message"), ("", "turn")):
        request = GenerationRequest((*MESSAGES, Message("assistant", text)))
        assert request.prompt_ending == ending
        assert request.continues_message == (ending == "message")


@pytest.mark.parametrize(
    ("tokens", "seconds", "speed"), [(11, 4.0, 2.5), (0, 2.0, 0.0), (1, 2.0, 0.0), (5, 0.0, 0.0)]
)
def test_the_first_token_does_not_count_for_the_speed(
    tokens: int, seconds: float, speed: float
) -> None:
    assert Usage(9, tokens, 7.0, seconds).tokens_per_second == speed


def test_counters_go_on_and_the_state_is_the_present_one() -> None:
    past = EngineMetrics(running=2, rss_bytes=5, steps=10, step_seconds=1.5, restarts=1)
    present = EngineMetrics(waiting=3, rss_bytes=7, steps=4, step_seconds=0.5)
    found = present.after(past)
    assert (found.running, found.waiting, found.rss_bytes) == (0, 3, 7)
    assert (found.steps, found.step_seconds, found.restarts) == (14, 2.0, 1)
