"""What fits a machine, and how fast it would be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.models.fit import Fit, fit, tokens_per_second
from llmstream_cli.models.presets import PRESETS


@pytest.mark.parametrize(
    ("available", "expected"), [(7000, Fit.YES), (6999, Fit.TIGHT), (0, Fit.TIGHT)]
)
def test_a_tenth_of_the_memory_is_left_to_others(available: int, expected: Fit) -> None:
    assert fit(6000, total=10_000, available=available) is expected
    assert fit(9001, total=10_000, available=10_000) is Fit.NO


@given(st.integers(1, 10**12), st.integers(1, 10**12), st.integers(0, 10**12))
def test_what_fits_leaves_room_for_all_that_is_smaller(
    needed: int, total: int, available: int
) -> None:
    order = [Fit.YES, Fit.TIGHT, Fit.NO]
    available = min(available, total)
    smaller, larger = (fit(size, total, available) for size in (needed // 2, needed))
    assert order.index(smaller) <= order.index(larger)


def test_a_token_reads_all_weights_once() -> None:
    assert tokens_per_second(PRESETS["mistral"], 43.7e9) == pytest.approx(10)


def test_of_a_mixture_of_experts_only_those_are_read_that_compute() -> None:
    model = PRESETS["gpt-oss-20b"]
    assert model.num_active < model.num_parameters / 5
    all_of_it = 1e12 / model.size_bytes
    assert tokens_per_second(model, 1e12) == pytest.approx(
        all_of_it * model.num_parameters / model.num_active
    )
