"""Sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.errors import InvalidValueError
from llmstream_cli.models.sizes import fit, human_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("123", 123),
        ("8G", 8_000_000_000),
        ("8GB", 8_000_000_000),
        ("8gib", 8 * 2**30),
        ("1.5 G", 1_500_000_000),
        ("512m", 512_000_000),
        ("2T", 2_000_000_000_000),
        ("64Ki", 65_536),
        (" 7B ", 7),
    ],
)
def test_what_is_a_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "8X", "-1", "1e9", "8GG", "٣", "9" * 16])
def test_what_is_none(text: str) -> None:
    with pytest.raises(InvalidValueError, match="is no size; one reads 8G"):
        parse_size(text)


@pytest.mark.parametrize("size", [0, 7, 98_400_000, 8_000_000_000, 2_000_000_000_000])
def test_what_is_written_can_be_read(size: int) -> None:
    assert parse_size(human_size(size)) == size


@pytest.mark.parametrize(("available", "expected"), [(7000, "yes"), (6999, "tight"), (0, "tight")])
def test_a_tenth_of_the_memory_is_left_to_others(available: int, expected: str) -> None:
    assert fit(6000, total=10_000, available=available) == expected
    assert fit(9001, total=10_000, available=10_000) == "no"


@given(st.integers(1, 10**12), st.integers(1, 10**12), st.integers(0, 10**12))
def test_what_fits_leaves_room_for_all_that_is_smaller(
    needed: int, total: int, available: int
) -> None:
    order = ["yes", "tight", "no"]
    available = min(available, total)
    smaller, larger = (fit(size, total, available) for size in (needed // 2, needed))
    assert order.index(smaller) <= order.index(larger)
