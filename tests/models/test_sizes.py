"""Sizes as people write them, and what fits a machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.errors import InvalidValueError
from llmstream_cli.models.sizes import fit, human_size, parse_size

SIZES = {"0": 0, "123": 123, "8G": 8 * 10**9, "8GB": 8 * 10**9, "8gib": 8 * 2**30, "64Ki": 65_536}
SIZES |= {"1.5 G": 15 * 10**8, "512m": 512 * 10**6, "2T": 2 * 10**12, " 7B ": 7}


@pytest.mark.parametrize("text", SIZES)
def test_what_is_a_size(text: str) -> None:
    assert parse_size(text) == SIZES[text]


@pytest.mark.parametrize("text", ["", "G", "8X", "-1", "1e9", "8GG", "٣", "9" * 16])
def test_what_is_none(text: str) -> None:
    with pytest.raises(InvalidValueError, match="is no size; one reads 8G"):
        parse_size(text)


@pytest.mark.parametrize("size", [0, 7, 98_400_000, 8_000_000_000, 2_000_000_000_000])
def test_what_is_written_can_be_read(size: int) -> None:
    assert parse_size(human_size(size)) == size


def test_a_tenth_of_the_memory_is_left_to_others() -> None:
    assert [fit(6000, 10_000, available) for available in (7000, 6999, 0)] == [
        *("yes", "tight", "tight")
    ]
    assert (fit(9000, 10_000, 0), fit(9001, 10_000, 10_000)) == ("tight", "no")


@given(st.integers(1, 10**12), st.integers(1, 10**12), st.integers(0, 10**12))
def test_what_fits_leaves_room_for_all_that_is_smaller(
    needed: int, total: int, available: int
) -> None:
    order = ["yes", "tight", "no"]
    smaller, larger = (fit(n, total, min(available, total)) for n in (needed // 2, needed))
    assert order.index(smaller) <= order.index(larger)
