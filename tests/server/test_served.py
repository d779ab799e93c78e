"""Durations in the words of Ollama's clients."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.errors import InvalidValueError
from llmstream_cli.server.served import keep_alive_seconds


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (0, 0),
        (300, 300),
        (1.5, 1.5),
        (-1, math.inf),
        ("0", 0),
        ("300", 300),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("2H", 7200),
        (" 10s ", 10),
        ("10μs", 1e-5),
        ("10µs", 1e-5),
        ("-1", math.inf),
        ("-5m", math.inf),
        ("-0", 0),
        ("forever", math.inf),
        (math.inf, math.inf),
    ],
)
def test_what_is_a_duration(given: float | str, seconds: float) -> None:
    assert keep_alive_seconds(given) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "given", ["", "-", "soon", "5 m", "m", "5x", "1h-5m", "٣", "1e9", "9" * 16, math.nan]
)
def test_what_is_none(given: float | str) -> None:
    with pytest.raises(InvalidValueError, match="keep_alive is "):
        keep_alive_seconds(given)


@given(st.text(max_size=30) | st.floats())
def test_anything_is_a_duration_or_an_error(given: float | str) -> None:
    with contextlib.suppress(InvalidValueError):
        assert keep_alive_seconds(given) >= 0
