"""What of a conversation a model is shown."""

import pytest

from llmstream_cli.history.records import Turn, messages
from llmstream_cli.prompts.messages import Role

ROLES: dict[str, Role] = {"s": "system", "u": "user", "a": "assistant"}


def turns(said: str) -> list[Turn]:
    """Turns by the first letters of their roles; `-` is an answer without a word."""
    return [
        Turn(role=ROLES["a" if letter == "-" else letter], content="" if letter == "-" else letter)
        for letter in said
    ]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("", ""),
        ("sua", "sua"),
        ("uaua", "uaua"),
        ("su", "s"),
        ("uau", "ua"),
        ("uuua", "ua"),
        ("u-ua", "ua"),
        ("u-", ""),
        ("suasua", "suasua"),
    ],
)
def test_a_question_without_an_answer_is_left_out(said: str, shown: str) -> None:
    assert "".join(message.content for message in messages(turns(said))) == shown
