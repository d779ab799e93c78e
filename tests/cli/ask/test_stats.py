"""The wording of `--stats`."""

import pytest

from llmstream_cli.api import Chunk, FinishReason, Usage
from llmstream_cli.cli.ask.answer import Answer
from llmstream_cli.cli.ask.stats import duration, print_usage


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0.000µs"),
        (102.103e-6, "102.103µs"),
        (0.001, "1.000ms"),
        (0.558235, "558.235ms"),
        (1.0, "1.000s"),
        (75.5, "75.500s"),
    ],
)
def test_a_duration_has_the_unit_that_suits_it(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_an_answer_without_tokens_has_no_time_to_first_token(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = Answer(0.0)
    answer.add(Chunk("", (), FinishReason.STOP, Usage(10, 0, 0.0, 0.0)))
    print_usage(answer)
    assert capsys.readouterr().err == (
        "10 prompt tokens (0.00 token/s)\n0 tokens generated (0.00 token/s)\nfinish reason: stop\n"
    )
