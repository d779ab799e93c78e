"""Conversations as JSON and as markdown."""

import json
from datetime import UTC, datetime

from llmstream_cli.api import FinishReason, Usage
from llmstream_cli.history.export import as_json, as_markdown
from llmstream_cli.history.records import Session, Turn

TIME = datetime(2026, 11, 25, 12, 30, 15, 999, tzinfo=UTC)
SESSION = Session(
    id=3, name=None, title="Where?", model="tiny", created=TIME, updated=TIME, num_turns=3
)
TURNS = [
    Turn(role="system", content="Be brief.", created=TIME, id=1),
    Turn(role="user", content="Where?\n\n```\nx\n```\n", created=TIME, id=2),
    Turn(
        role="assistant",
        content="In Fr",
        model="tiny",
        finish_reason=FinishReason.CANCELLED,
        usage=Usage(1, 2, 0.5, 0.25),
        sampling={"seed": 5},
        created=TIME,
        id=3,
    ),
]


def test_json() -> None:
    exported = json.loads(json.dumps(as_json(SESSION, TURNS), allow_nan=False))
    assert (exported["id"], exported["name"], exported["title"]) == (3, None, "Where?")
    assert exported["created"] == "2026-11-25T12:30:15+00:00"
    *_, answer = exported["turns"]
    assert (answer["role"], answer["content"], answer["model"]) == ("assistant", "In Fr", "tiny")
    assert answer["finish_reason"] == "cancelled"
    assert answer["usage"]["completion_tokens"] == 2
    assert answer["sampling"] == {"seed": 5}
    assert answer["created"] == "2026-11-25T12:30:15+00:00"


MARKDOWN = """\
# Where?

## System

Be brief.

## Question

Where?

```
x
```

## Answer (tiny)

In Fr

*(interrupted)*
"""


def test_markdown() -> None:
    assert as_markdown(SESSION, TURNS) == MARKDOWN


def test_a_conversation_without_a_word() -> None:
    empty = Session(id=3, name=None, title="", model="", created=TIME, updated=TIME, num_turns=0)
    assert as_markdown(empty, []) == "# Conversation 3\n"
