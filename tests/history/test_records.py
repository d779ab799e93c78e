"""What of a conversation a model is shown, and how it is written as JSON and as markdown."""

import json
from datetime import UTC, datetime

import pytest

from llmstream_cli.api import FinishReason, Usage
from llmstream_cli.history.records import Hit, Session, Turn, answered, as_json, as_markdown
from llmstream_cli.prompts.messages import Role

TIME = datetime(2026, 11, 25, 12, 30, 15, 999, tzinfo=UTC)
SESSION = Session(
    id=3, name=None, title="Where?", model="tiny", created=TIME, updated=TIME, num_turns=3
)
ANSWER = Turn(
    role="assistant",
    content="In Fr",
    model="tiny",
    finish_reason=FinishReason.CANCELLED,
    usage=Usage(1, 2, 0.5, 0.25),
    sampling={"seed": 5},
    created=TIME,
    id=3,
)
ROLES: dict[str, Role] = {"s": "system", "u": "user", "a": "assistant", "-": "assistant"}


@pytest.mark.parametrize(
    ("said", "shown"),  # by the first letters of the roles; `-` is an answer without a word
    [
        ("", ""),
        ("uaua", "uaua"),
        ("su", "s"),
        ("uau", "ua"),
        ("uuua", "ua"),
        ("u-ua", "ua"),
        ("suasua", "suasua"),
    ],
)
def test_a_question_without_an_answer_is_left_out(said: str, shown: str) -> None:
    turns = [Turn(role=ROLES[letter], content=letter.strip("-")) for letter in said]
    assert "".join(turn.content for turn in answered(turns)) == shown


def test_json() -> None:
    exported = json.loads(json.dumps(as_json(Hit(SESSION, ANSWER, "In")), allow_nan=False))
    when = "2026-11-25T12:30:15+00:00"
    session, turn = exported["session"], exported["turn"]
    assert (session["id"], session["name"], session["created"]) == (3, None, when)
    assert (turn["content"], turn["finish_reason"], turn["created"]) == ("In Fr", "cancelled", when)
    assert (turn["usage"]["completion_tokens"], turn["sampling"]) == (2, {"seed": 5})


def test_markdown() -> None:
    question = Turn(role="user", content="Where?\n\n```\nx\n```\n")
    assert as_markdown(SESSION, [question, ANSWER]) == (
        "# Where?\n\n## Question\n\nWhere?\n\n```\nx\n```\n\n"
        "## Answer (tiny)\n\nIn Fr\n\n*(interrupted)*\n"
    )
