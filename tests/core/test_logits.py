"""Log probabilities against a softmax in double precision."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.core.llama.sampler import describe, rule_out, view

ROWS = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30)


def piece(token: int) -> bytes:
    return b"%d" % token


@given(ROWS, st.integers(0, 20), st.data())
def test_probabilities_are_those_of_the_softmax(
    row: list[float], num_top: int, data: st.DataObject
) -> None:
    token = data.draw(st.integers(0, len(row) - 1))
    described = describe(np.array(row, np.float32), token, num_top, piece)
    top = max(row)
    normalizer = top + math.log(sum(math.exp(logit - top) for logit in row))
    for entry in (described.drawn, *described.top):
        assert entry.piece == piece(entry.token_id)
        assert entry.logprob <= 0.0
        assert entry.logprob == pytest.approx(row[entry.token_id] - normalizer, abs=2e-3, rel=1e-5)
    expected = sorted(range(len(row)), key=lambda index: (-row[index], index))
    assert [entry.token_id for entry in described.top] == expected[:num_top]
    assert described.drawn.token_id == token


def test_a_certain_token_has_probability_one() -> None:
    described = describe(np.array([0.0, 500.0, -500.0], np.float32), 1, 1, piece)
    assert described.drawn.logprob == 0.0
    assert described.top == (described.drawn,)


def test_what_is_ruled_out_becomes_impossible_in_place() -> None:
    row = np.array([1.0, 2.0, 3.0], np.float32)
    rule_out(view(row.data), np.array([True, False, True]))
    assert row.tolist() == [1.0, -math.inf, 3.0]
