"""Numbers as people read them."""

import pytest

from llmstream_cli.cli.units import count, size


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.00 kB"),
        (98_362_432, "98.4 MB"),
        (798_000_000, "798 MB"),
        (999_400_000, "999 MB"),
        (999_600_000, "1.00 GB"),
        (4_370_000_000, "4.37 GB"),
        (25_300_000_000, "25.3 GB"),
        (1_200_000_000_000, "1200 GB"),
    ],
)
def test_sizes(num_bytes: int, text: str) -> None:
    assert size(num_bytes) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(12, "12"), (135_000_000, "135M"), (999_900_000, "1.00B"), (7_240_000_000, "7.24B")],
)
def test_counts_of_parameters(number: int, text: str) -> None:
    assert count(number) == text
