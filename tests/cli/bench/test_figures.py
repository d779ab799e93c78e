"""The prompts of the benchmark, and what it makes of times."""

import math
from dataclasses import astuple, fields
from itertools import accumulate, combinations, pairwise, takewhile
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstream_cli.api import Usage
from llmstream_cli.cli.bench.figures import (
    MIN_PROMPT_TOKENS,
    Answer,
    Figures,
    Prefix,
    _percentile,
    build_prompts,
    evaluate,
    medians,
)
from llmstream_cli.core.llama import Model

prefixes = st.sampled_from(get_args(Prefix))
sizes = st.integers(MIN_PROMPT_TOKENS, 400)
numbers = st.integers(0, 2**32 - 1)


# ---- prompts --------------------------------------------------------------------------------


@settings(max_examples=30)
@given(prefixes, st.integers(1, 32), sizes, numbers, numbers)
def test_prompts_follow_from_the_arguments(
    prefix: Prefix, streams: int, prompt_tokens: int, run: int, seed: int
) -> None:
    first, second = (
        build_prompts(prefix, streams=streams, prompt_tokens=prompt_tokens, run=run, seed=seed)
        for _ in range(2)
    )
    assert first == second
    assert len(set(first)) == streams
    assert {len(prompt.split("\n\n")) for prompt in first} == {2}


@settings(max_examples=30)
@given(st.integers(2, 32), sizes, numbers)
def test_shared_prompts_differ_only_in_the_question(
    streams: int, prompt_tokens: int, run: int
) -> None:
    prompts = build_prompts("shared", streams=streams, prompt_tokens=prompt_tokens, run=run, seed=0)
    text, question = prompts[0].split("\n\n")
    assert all(prompt.startswith(text + "\n\n") for prompt in prompts)
    assert len(question) < 80


def common_words(one: str, other: str) -> int:
    pairs = zip(one.split(), other.split(), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def test_distinct_prompts_have_no_more_than_a_word_or_two_in_common() -> None:
    prompts = [
        prompt
        for run in range(2)
        for seed in range(2)
        for prompt in build_prompts("distinct", streams=16, prompt_tokens=100, run=run, seed=seed)
    ]
    assert max(common_words(*pair) for pair in combinations(prompts, 2)) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("prefix", get_args(Prefix))
@pytest.mark.parametrize("prompt_tokens", [MIN_PROMPT_TOKENS, 100, 1000])
def test_the_length_is_about_right(prefix: Prefix, prompt_tokens: int, model_path: Path) -> None:
    model = Model(str(model_path), gpu_layers=0)
    prompts = build_prompts(prefix, streams=8, prompt_tokens=prompt_tokens, run=0, seed=0)
    for prompt in prompts:
        assert len(model.tokenize(prompt, special=False)) == pytest.approx(
            prompt_tokens, rel=0.02, abs=2
        )


# ---- figures --------------------------------------------------------------------------------


def cost(prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> Usage:
    return Usage(prompt_tokens, completion_tokens, 0.0, 0.0, cached_tokens)


def answer(*pieces: float, usage: Usage | None = None, error: str | None = None) -> Answer:
    return Answer(10.0, pieces, max(pieces, default=10.0) + 0.5, usage, error)


def test_one_stream() -> None:
    run = evaluate([answer(12.0, 12.5, 14.0, usage=cost(100, 6, 30))])
    assert run.figures == Figures(
        wall_seconds=4.5,
        prompt_tokens=100,
        cached_tokens=30,
        generated_tokens=6,
        prompt_tokens_per_second=50.0,
        generated_tokens_per_second=6 / 4.5,
        decode_tokens_per_second=2.0,  # two pieces, of two tokens each, in two seconds
        first_token_p50_seconds=2.0,
        first_token_p95_seconds=2.0,
        gap_p50_seconds=1.0,
        gap_p95_seconds=0.5 + 0.95,
        gap_max_seconds=1.5,
    )
    assert (run.errors, run.counted_pieces) == ((), False)


def test_streams_add_up() -> None:
    # The first answers from 11 to 15, the other from 13 to 17: both of them from 13 to 15.
    one = answer(11.0, 12.0, 13.0, 14.0, 15.0, usage=cost(20, 5, 0))
    other = answer(13.0, 15.0, 17.0, usage=cost(20, 3, 10))
    figures = evaluate([one, other]).figures
    assert figures.wall_seconds == 7.5
    assert figures.prompt_tokens_per_second == 40 / 3
    assert figures.generated_tokens_per_second == 8 / 7.5
    assert figures.decode_tokens_per_second == 3 / 2
    assert figures.cached_tokens == 10
    assert figures.first_token_p50_seconds == 2.0
    assert figures.gap_p50_seconds == 1.0
    assert figures.gap_max_seconds == 2.0


def test_a_failed_stream_is_an_error_and_takes_its_time() -> None:
    run = evaluate(
        [answer(11.0, 12.0, usage=cost(20, 2)), answer(11.0, 30.0, error="the server is on fire")]
    )
    assert run.errors == ("the server is on fire",)
    assert run.figures.wall_seconds == 20.5
    assert run.figures.generated_tokens == 2
    assert run.figures.gap_max_seconds == 1.0
    assert not run.counted_pieces


def test_where_all_fail_nothing_is_known_but_the_time() -> None:
    figures = evaluate([answer(error="no"), answer(error="no")]).figures
    assert figures.wall_seconds == 0.5
    assert set(astuple(figures)[1:]) == {None}


def test_pieces_stand_for_tokens_that_are_not_reported() -> None:
    run = evaluate([answer(11.0, 12.0, 13.0), answer(11.0, 13.0, usage=cost(20, 7, 5))])
    assert run.counted_pieces
    assert run.figures.generated_tokens == 3 + 7
    assert run.figures.prompt_tokens is None
    assert run.figures.prompt_tokens_per_second is None
    assert run.figures.cached_tokens is None


def test_what_never_came_has_no_rate() -> None:
    figures = evaluate([answer(usage=cost(20, 0))]).figures
    assert figures.first_token_p50_seconds is None
    assert figures.decode_tokens_per_second is None
    assert figures.prompt_tokens_per_second is None
    assert figures.generated_tokens == 0
    # Streams that never answer together.
    assert evaluate([answer(11, 12), answer(13, 14)]).figures.decode_tokens_per_second is None


seconds = st.floats(0.0, 100.0)
answers = st.builds(
    lambda started, waits, usage, error: Answer(
        started,
        tuple(times := list(accumulate(waits, initial=started))[1:]),
        (times or [started])[-1],
        usage,
        error,
    ),
    seconds,
    st.lists(seconds, max_size=20),
    st.none() | st.builds(cost, st.integers(0, 99), st.integers(0, 99), st.integers(0, 9)),
    st.none() | st.just("no"),
)


@settings(max_examples=30)
@given(st.lists(answers, min_size=1, max_size=8))
def test_any_times_have_sensible_figures(streams: list[Answer]) -> None:
    run = evaluate(streams)
    figures = run.figures
    assert len(run.errors) == sum(stream.error is not None for stream in streams)
    for value in astuple(figures):
        assert value is None or (math.isfinite(value) and value >= 0)
    for ordered in (
        (figures.first_token_p50_seconds, figures.first_token_p95_seconds, figures.wall_seconds),
        (figures.gap_p50_seconds, figures.gap_p95_seconds, figures.gap_max_seconds),
    ):
        known = [value for value in ordered if value is not None]
        assert all(low <= high + 1e-9 for low, high in pairwise(known))


@settings(max_examples=30)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.integers(1, 99))
def test_percentiles_are_those_of_numpy(values: list[float], percent: int) -> None:
    assert _percentile(values, percent) == pytest.approx(np.percentile(values, percent), abs=1e-6)


def figures(**known: float) -> Figures:
    return Figures(**{field.name: known.get(field.name) for field in fields(Figures)})


def test_medians_are_taken_of_each_figure_where_it_is_known() -> None:
    runs = [
        figures(wall_seconds=1.0, gap_max_seconds=7.0),
        figures(wall_seconds=9.0),
        figures(wall_seconds=2.0, gap_max_seconds=3.0),
    ]
    assert medians(runs) == figures(wall_seconds=2.0, gap_max_seconds=5.0)
