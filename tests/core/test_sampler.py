"""Preselected or not, the same tokens are drawn: on real rows of logits and random parameters."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_cpp import llama_cpp as C  # noqa: N812

from llmstream_cli.core.api import SamplingParams
from llmstream_cli.core.llama import Batch, Context, Model
from llmstream_cli.core.preselect import Preselector
from llmstream_cli.core.sampler import Sampler

TEXT = (
    "Paris is the capital of France. 12 * 12 = 144, def f(x): return x. Größe, 日本語, 🇦🇹! The end."
)


@pytest.fixture(scope="module")
def model(model_path: Path) -> Model:
    return Model(str(model_path))


def random_params(rng: random.Random) -> SamplingParams:
    return SamplingParams(
        temperature=rng.choice([0.0, 0.2, 0.8, 1.5, 10.0]),
        top_k=rng.choice([1, 2, 40, 300]),
        top_p=rng.choice([0.0, 0.3, 0.95, 1.0]),
        min_p=rng.choice([0.0, 0.05, 0.5]),
        repeat_penalty=rng.choice([1.0, 1.1, 2.0, 10.0]),
        repeat_last_n=rng.choice([0, 1, 64, 200]),
        presence_penalty=rng.choice([0.0, 0.5, 2.0]),
        frequency_penalty=rng.choice([0.0, 0.5, 2.0]),
        seed=rng.randrange(2**32 - 1),
    )


def test_preselection_draws_the_same_tokens_as_the_whole_vocabulary(model: Model) -> None:
    """Thousands of rows: many sequences in step, each with parameters of its own."""
    rng = random.Random(1)
    tokens = model.tokenize(TEXT, special=False)
    context = Context(model, ctx_size=256, max_seqs=8, max_batch_tokens=64, threads=2)
    batch, compared = Batch(64), 0
    for _ in range(6):
        for seq_id in range(8):
            context.truncate_sequence(seq_id, 0)
        history = [rng.sample(tokens, len(tokens)) for _ in range(8)]
        pairs = []
        for seq in history:
            params = [random_params(rng) for _ in range(6)]
            pairs.append(
                [
                    [
                        Sampler(model, p, prompt=seq[:1], ctx_size=256, preselect=flag)
                        for p in params
                    ]
                    for flag in (False, True)
                ]
            )
        for position in range(len(tokens)):
            batch.clear()
            rows = [
                batch.add(seq[position], position, seq_id, output=True)
                for seq_id, seq in enumerate(history)
            ]
            context.decode(batch)
            for row, (whole, few) in zip(rows, pairs, strict=True):
                expected = [sampler.sample(context, row) for sampler in whole]
                assert [sampler.sample(context, row) for sampler in few] == expected
                compared += len(expected)
    assert compared > 5000


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(top_k=0, seed=1),
        SamplingParams(repeat_penalty=0.9, seed=1),
        SamplingParams(presence_penalty=-1.0, seed=1),
        SamplingParams(repeat_last_n=-1, seed=1),
        SamplingParams(top_k=20_000, seed=1),
    ],
)
def test_what_may_draw_from_anywhere_sees_the_whole_vocabulary(
    model: Model, params: SamplingParams
) -> None:
    sampler = Sampler(model, params, prompt=[1], ctx_size=8192, preselect=True)
    assert sampler._preselector is None


def test_a_temperature_too_small_to_divide_by_is_greedy(model: Model) -> None:
    context = Context(model, ctx_size=256, max_seqs=1, max_batch_tokens=64, threads=2)
    batch = Batch(64)
    row = -1
    for position, token in enumerate(model.tokenize("The capital of France is", special=False)):
        row = batch.add(token, position, 0, output=position == 4)
    context.decode(batch)
    logits = C.llama_get_logits_ith(context.pointer, row)[: model.vocab_size]
    for temperature in (0.0, 1e-45, 1e-5):
        params = SamplingParams(temperature=temperature, repeat_penalty=1.0, seed=1)
        sampler = Sampler(model, params, prompt=[1], ctx_size=256, preselect=False)
        assert sampler.sample(context, row) == logits.index(max(logits))


@given(
    st.lists(
        st.lists(st.floats(-1e3, 1e3, width=32), min_size=20, max_size=20), min_size=1, max_size=8
    ),
    st.integers(1, 19),
)
def test_the_largest_are_always_among_the_candidates(rows: list[list[float]], count: int) -> None:
    preselector = Preselector(count)
    for row in rows:
        logits = np.array(row, np.float32)
        records = preselector.candidates(logits.data)
        assert list(records["id"]) == sorted(set(records["id"]))
        assert np.array_equal(records["logit"], logits[records["id"]])
        assert sorted(records["logit"])[-count:] == sorted(logits)[-count:]
