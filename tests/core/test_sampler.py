"""Preselected or not, the same tokens are drawn: on real rows of logits and random parameters."""

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from llama_cpp import llama_cpp as C  # noqa: N812

from llmstream_cli.api import SamplingParams
from llmstream_cli.core.grammar.constraint import Constraint
from llmstream_cli.core.llama import Batch, Context, Model, Sampler, SamplerChain

TEXT = (
    "Paris is the capital of France. 12 * 12 = 144, def f(x): return x. Größe, 日本語, 🇦🇹! The end."
)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(model_path: Path) -> Model:
    return Model(str(model_path))


class FakeConstraint(Constraint):
    """Allows some tokens, again and again."""

    def __init__(self, vocab_size: int, allowed: list[int]) -> None:
        self.is_active = True
        self._mask = np.isin(np.arange(vocab_size), allowed)
        self.accepted: list[int] = []

    def is_ready(self, seconds: float) -> bool:
        return True

    def allowed(self) -> npt.NDArray[np.bool_]:
        return self._mask

    def accept(self, token: int) -> None:
        self.accepted.append(token)


def random_params(rng: random.Random) -> SamplingParams:
    return SamplingParams(
        temperature=rng.choice([0.0, 0.2, 0.8, 1.5, 10.0]),
        top_k=rng.choice([1, 2, 40, 300]),
        top_p=rng.choice([0.0, 0.3, 0.95, 1.0]),
        min_p=rng.choice([0.0, 0.05, 0.5]),
        repeat_penalty=rng.choice([1.0, 1.1, 2.0, 10.0]),
        repeat_last_n=rng.choice([0, 1, 64, 200, 1_000_000]),
        presence_penalty=rng.choice([0.0, 0.5, 2.0]),
        frequency_penalty=rng.choice([0.0, 0.5, 2.0]),
        seed=rng.randrange(2**32 - 1),
        logit_bias=tuple(
            (token, rng.choice([-100.0, -3.0, 0.5, 5.0, 100.0]))
            for token in rng.sample(range(49_152), rng.choice([0, 0, 1, 30]))
        ),
        ignore_eos=rng.random() < 0.3,
    )


def bias(model: Model, biases: dict[int, float]) -> Any:
    array = (C.llama_logit_bias * len(biases))(*(C.llama_logit_bias(*b) for b in biases.items()))
    return C.llama_sampler_init_logit_bias(model.vocab_size, len(biases), array)


def whole_vocabulary(model: Model, params: SamplingParams, prompt: list[int]) -> SamplerChain:
    """The samplers in llama.cpp's order, with nothing to make them faster."""
    biases = {**dict(params.logit_bias)}
    if params.ignore_eos:
        biases |= dict.fromkeys(model.end_tokens, -math.inf)
    penalties = (params.repeat_penalty, params.frequency_penalty, params.presence_penalty)
    samplers = [
        bias(model, biases),
        C.llama_sampler_init_penalties(model.vocab_size, params.repeat_last_n, *penalties),
    ]
    if params.temperature == 0.0:
        samplers.append(C.llama_sampler_init_greedy())
    else:
        assert params.seed is not None
        samplers += [
            C.llama_sampler_init_top_k(params.top_k),
            C.llama_sampler_init_top_p(params.top_p, 1),
            C.llama_sampler_init_min_p(params.min_p, 1),
            C.llama_sampler_init_temp(params.temperature),
            C.llama_sampler_init_dist(params.seed),
        ]
    chain = SamplerChain(iter(samplers))
    for token in prompt:
        chain.accept(token)
    return chain


def test_the_drawn_tokens_are_those_of_the_whole_vocabulary(model: Model) -> None:
    """Thousands of rows: many sequences in step, each with parameters of its own."""
    rng = random.Random(1)
    tokens = model.tokenize(TEXT, special=False)
    context = Context(model, ctx_size=256, max_seqs=8, max_batch_tokens=64, threads=2)
    batch, compared = Batch(64), 0
    for _ in range(6):
        for seq_id in range(8):
            context.truncate_sequence(seq_id, 0)
        history = [rng.sample(tokens, len(tokens)) for _ in range(8)]
        pairs = [
            [
                (
                    whole_vocabulary(model, params, seq[:1]),
                    Sampler(model, params, prompt=seq[:1], ctx_size=256),
                )
                for params in (random_params(rng) for _ in range(6))
            ]
            for seq in history
        ]
        for position in range(len(tokens)):
            batch.clear()
            rows = [
                batch.add(seq[position], position, seq_id, output=True)
                for seq_id, seq in enumerate(history)
            ]
            context.decode(batch)
            for row, samplers in zip(rows, pairs, strict=True):
                for whole, sampler in samplers:
                    assert sampler.sample(context, row) == (whole.sample(context, row), None)
                    compared += 1
    assert compared > 5000


@pytest.mark.parametrize(
    ("repeat_last_n", "window"), [(-1, 256), (64, 64), (256, 256), (1_000_000, 256)]
)
def test_a_penalty_window_is_never_longer_than_the_context(
    model: Model, monkeypatch: pytest.MonkeyPatch, repeat_last_n: int, window: int
) -> None:
    """llama.cpp takes four bytes for each token of it, and every waiting request has one."""
    windows, init = [], C.llama_sampler_init_penalties

    def noted(size: int, window: int, *penalties: float) -> Any:
        windows.append(window)
        return init(size, window, *penalties)

    monkeypatch.setattr(C, "llama_sampler_init_penalties", noted)
    Sampler(model, SamplingParams(repeat_last_n=repeat_last_n), prompt=[1], ctx_size=256)
    assert windows == [window]


@pytest.fixture
def decoded(model: Model) -> tuple[Context, int]:
    """A context after `The capital of France is`, and the row of its logits."""
    context = Context(model, ctx_size=256, max_seqs=1, max_batch_tokens=64, threads=2)
    tokens = model.tokenize("The capital of France is", special=False)
    batch, row = Batch(64), -1
    for position, token in enumerate(tokens):
        row = batch.add(token, position, 0, output=position == len(tokens) - 1)
    context.decode(batch)
    return context, row


def draws(
    model: Model,
    decoded: tuple[Context, int],
    params: SamplingParams,
    constraint: FakeConstraint | None = None,
) -> list[int]:
    sampler = Sampler(model, params, prompt=[1], ctx_size=256, constraint=constraint)
    return [sampler.sample(*decoded)[0] for _ in range(50)]


def test_a_temperature_too_small_to_divide_by_is_greedy(
    model: Model, decoded: tuple[Context, int]
) -> None:
    logits = C.llama_get_logits_ith(decoded[0].pointer, decoded[1])[: model.vocab_size]
    for temperature in (0.0, 1e-45, 1e-5):
        params = SamplingParams(temperature=temperature, repeat_penalty=1.0, seed=1)
        assert set(draws(model, decoded, params)) == {logits.index(max(logits))}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_bias_forces_and_forbids_tokens_and_the_end_of_the_turn_can_be_ruled_out(
    model: Model, decoded: tuple[Context, int], temperature: float
) -> None:
    plain = SamplingParams(temperature=temperature, repeat_penalty=1.0, seed=1)
    likeliest = draws(model, decoded, replace(plain, temperature=0.0))[0]
    (end,) = model.tokenize("<|im_end|>", special=True)
    for unlikely in (40_000, end):
        forced = replace(plain, logit_bias=((unlikely, 100.0),))
        assert set(draws(model, decoded, forced)) == {unlikely}
    forbidden = replace(plain, logit_bias=((likeliest, -100.0),))
    assert likeliest not in draws(model, decoded, forbidden)
    assert end in model.end_tokens
    ignoring = replace(forced, ignore_eos=True)
    assert not set(draws(model, decoded, ignoring)) & set(model.end_tokens)


@pytest.mark.parametrize("top_k", [0, 40, 300])  # from 129 on llama.cpp sorts by buckets
@pytest.mark.parametrize("repeat_penalty", [0.9, 1.0, 1.1])
def test_a_constraint_leaves_the_allowed_tokens_with_their_proportions(
    model: Model, decoded: tuple[Context, int], top_k: int, repeat_penalty: float
) -> None:
    allowed = [5, 77, 40_000]
    params = SamplingParams(
        temperature=5.0, top_k=top_k, top_p=1.0, min_p=0.0, repeat_penalty=repeat_penalty, seed=1
    )
    constraint = FakeConstraint(model.vocab_size, allowed)
    drawn = draws(model, decoded, params, constraint)
    assert set(drawn) == set(allowed)
    assert constraint.accepted == drawn
    # The same as ruling everything else out of the whole vocabulary.
    barred = [token for token in range(model.vocab_size) if token not in allowed]
    samplers = [bias(model, dict.fromkeys(barred, -math.inf))]
    if repeat_penalty != 1.0:
        samplers.append(
            C.llama_sampler_init_penalties(model.vocab_size, 64, repeat_penalty, 0.0, 0.0)
        )
    if top_k:
        samplers.append(C.llama_sampler_init_top_k(top_k))
    samplers += [C.llama_sampler_init_temp(5.0), C.llama_sampler_init_dist(1)]
    chain = SamplerChain(iter(samplers))
    if repeat_penalty != 1.0:
        chain.accept(1)
    assert [chain.sample(*decoded) for _ in drawn] == drawn


def test_log_probabilities_are_the_models_own_whatever_is_ruled_out(
    model: Model, decoded: tuple[Context, int]
) -> None:
    params = SamplingParams(temperature=0.0, logprobs=3, logit_bias=((40_000, 100.0),))
    free = Sampler(model, replace(params, logit_bias=()), prompt=[1], ctx_size=256)
    _, expected = free.sample(*decoded)
    assert expected is not None
    assert expected.top[0] == expected.drawn
    constraint = FakeConstraint(model.vocab_size, [5])
    sampler = Sampler(model, params, prompt=[1], ctx_size=256, constraint=constraint)
    token, described = sampler.sample(*decoded)
    assert token == 5  # a constraint rules out what a bias would force
    assert described is not None
    assert described.top == expected.top
    assert described.drawn.token_id == 5
    assert described.drawn.piece == model.piece(5)
    assert described.drawn.logprob < expected.top[-1].logprob
