"""The file of the conversations: what it takes, and what becomes of one that is not in order."""

import json
import multiprocessing
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstream_cli.api import FinishReason, Usage
from llmstream_cli.errors import HistoryError, InvalidValueError, SessionNotFoundError
from llmstream_cli.history import store
from llmstream_cli.history.records import Turn
from llmstream_cli.history.store import History

TIMEOUT = 300  # seconds; the machines that run this are slow at times

ANSWER = Turn(
    role="assistant",
    content="In France.\n",
    reasoning="Hm.",
    model="smollm2",
    finish_reason=FinishReason.STOP,
    usage=Usage(34, 17, 0.25, 0.5, 16),
    sampling={"temperature": 0.0, "stop": ["x"], "seed": None},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "history.db"


@pytest.fixture
def history(path: Path) -> Iterator[History]:
    with History(path) as history:
        yield history


def conversation(history: History, *contents: str, name: str | None = None) -> int:
    """Keep a conversation of questions and answers in turn; return its id."""
    session = history.begin(name)
    for number, content in enumerate(contents):
        role: Any = "assistant" if number % 2 else "user"
        history.append(session, Turn(role=role, content=content))
    return session


def contents(history: History, session_id: int) -> list[str]:
    return [turn.content for turn in history.turns(session_id)]


# ---- to keep --------------------------------------------------------------------------------


def test_a_conversation_is_there_when_the_file_is_opened_again(path: Path) -> None:
    question = Turn(role="user", content="\n  Where\tis\nParis?  " + "x" * 200)
    with History(path) as history:
        session = history.begin("trip")
        for turn in (question, ANSWER):
            history.append(session, turn)
    with History(path) as history:
        kept = history.turns(session)
        assert kept == [replace(question, id=1), replace(ANSWER, id=2)]
        (again,) = history.sessions()
    assert (again.name, again.model) == ("trip", "smollm2")
    assert again.title == "Where is Paris? " + "x" * 63 + "…"
    assert again.updated >= again.created


@given(st.text(st.characters(exclude_categories=())))
@settings(max_examples=15)
def test_any_text_is_kept(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    with History(tmp_path_factory.mktemp("history") / "h.db") as history:
        session = history.begin()
        history.append(session, Turn(role="user", content=text))
        (kept,) = history.turns(session)
        assert kept.content == text.encode("utf-8", "replace").decode()
        assert len(history.sessions()[0].title) <= 80
        assert text.split() == [] or history.search(text)[0].turn == kept


def test_names(history: History) -> None:
    for name in ("a", "Trip_2", "größe", "2026-11-25", "v1.5", "東京", "x" * 64):
        number = conversation(history, name=name)
        assert history.find(name).id == number
    for name in ("", "7", "-x", ".x", "a b", "a/b", "x" * 65, "a\n", "\ud83d"):
        with pytest.raises(InvalidValueError, match="a conversation's name has"):
            history.begin(name)


# ---- to find --------------------------------------------------------------------------------


def test_those_that_did_not_change_since(history: History) -> None:
    conversation(history)
    now = datetime.now(UTC)
    assert history.sessions(updated_before=now - timedelta(hours=1)) == []
    assert len(history.sessions(updated_before=now + timedelta(hours=1))) == 1


def test_a_conversation_by_its_number_or_name(history: History) -> None:
    number = conversation(history, name="trip")
    assert history.find(str(number)).id == history.find("TRIP").id == number
    with pytest.raises(InvalidValueError, match="another conversation is called TRIP"):
        history.begin("TRIP")
    for name in ("tripp", "9" * 30, "0", "-1", "", "\ud83d", "' OR 1=1 --"):
        with pytest.raises(SessionNotFoundError, match="no conversation is called"):
            history.find(name)
    with pytest.raises(SessionNotFoundError, match=r"did you mean trip\?"):
        history.find("tripp")


def found(history: History, text: str) -> list[str]:
    return [hit.turn.content for hit in history.search(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PAR", ["Paris again", "Where is Paris?"]),
        ("paris where", ["Where is Paris?"]),
        ("aris?", ["Where is Paris?"]),
        ("where nothing", []),
        ("", []),
        (" \n", []),
        ("京", ["私は東京にいる"]),
        ("100%", ["100% of a_b"]),
        ("a", ["Paris again", "100% of a_b"]),
        ("\ud83d", ["Where is Paris?", "Wo liegt ZÜRICH?"]),  # kept as "?"
        ("b", ["100% of a_b", 'say "hi" \\ bye']),
        ("0_%", []),
        ("\\", ['say "hi" \\ bye']),
        ('hi" OR "x', []),
        ("zurich", ["Wo liegt ZÜRICH?"]),
        ("zürich", ["Wo liegt ZÜRICH?"]),
        ("strasse", ["Straße"]),
    ],
)
def test_search(history: History, text: str, expected: list[str]) -> None:
    for content in (
        "Wo liegt ZÜRICH?",
        "Straße",
        'say "hi" \\ bye',
        "Where is Paris?",
        "私は東京にいる",
        "100% of a_b",
        "Paris again",
    ):
        conversation(history, content)
    assert found(history, text) == expected


def test_an_excerpt_shows_the_word(history: History) -> None:
    number = conversation(history, "x " * 500 + "\nneedle " + "y " * 500)
    (hit,) = history.search("needle")
    assert "needle" in hit.excerpt
    assert hit.excerpt[0] == hit.excerpt[-1] == "…"
    assert len(hit.excerpt) <= 102
    assert hit.session.id == number


# ---- the file -------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_user_can_read_it(history: History, path: Path) -> None:
    conversation(history, "a")
    files = list(path.parent.iterdir())
    assert len(files) == 3  # the log and its index lie beside it
    assert {mode(file) for file in files} == {0o600}
    assert mode(path.parent) == 0o700
    path.parent.chmod(0o755)
    with History(path.parent / "empty"):  # a folder that is there stays as it is
        assert mode(path.parent) == 0o755


def use_sqlite(path: Path, *statements: str) -> None:
    """Do to the file what another program might."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def damage(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to be one\n" * 100)


def renew(path: Path) -> None:
    with History(path):
        pass
    use_sqlite(path, "PRAGMA journal_mode = DELETE", "PRAGMA user_version = 99")


def make_other(path: Path) -> None:
    use_sqlite(path, "CREATE TABLE session (id)")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (damage, "is damaged"),
        (renew, "is from a newer llmstream (version 99"),
        (make_other, "is the database of another program"),
    ],
)
def test_what_is_not_ours_is_left_as_it_is(tmp_path: Path, make: Any, reason: str) -> None:
    path = tmp_path / "history.db"
    make(path)
    before = path.read_bytes()
    with pytest.raises(HistoryError) as raised:
        History(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert f"{path} {reason}" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_of_the_first_version_goes_on(path: Path) -> None:
    with History(path) as history:
        conversation(history, "Zürich")
    use_sqlite(
        path,
        "CREATE VIRTUAL TABLE turn_words USING fts5 (content, content='turn', content_rowid='id')",
        "PRAGMA user_version = 1",
    )
    with History(path) as history:
        assert found(history, "zurich") == ["Zürich"]
        tables = "SELECT 1 FROM sqlite_master WHERE name LIKE 'turn_words%'"
        assert history._query(tables).fetchall() == []
        assert history._query("PRAGMA user_version").fetchone()[0] == 2


def test_a_truncated_file_is_told_of(path: Path) -> None:
    with History(path) as history:
        conversation(history, *["word " * 2000] * 9)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(HistoryError, match="is damaged"), History(path) as history:
        contents(history, history.sessions()[0].id)


def test_what_can_be_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "file" / "history.db"):
        (tmp_path / "file").touch()
        with pytest.raises(HistoryError, match="cannot use"):
            History(path)


@pytest.mark.parametrize(
    ("column", "value"),
    [("usage", "{"), ("usage", "7"), ("finish_reason", "tired"), ("created", "x")],
)
def test_a_turn_that_somebody_else_wrote(
    history: History, path: Path, column: str, value: str
) -> None:
    number = conversation(history, "a")
    use_sqlite(path, f"UPDATE turn SET {column} = '{value}'")
    with pytest.raises(HistoryError, match="has a row that makes no sense"):
        history.turns(number)


def test_usage_of_another_release(history: History, path: Path) -> None:
    number = conversation(history, "a")
    kept = {"prompt_tokens": 1, "completion_tokens": 2, "prompt_seconds": 1.0}
    more = json.dumps({**kept, "completion_seconds": 2.0, "joules": 3})
    use_sqlite(path, f"UPDATE turn SET usage = '{more}'")
    assert history.turns(number)[0].usage == Usage(1, 2, 1.0, 2.0)


# ---- several processes ----------------------------------------------------------------------


def write_many(path: Path, number: int) -> None:
    with History(path) as history:
        session = history.begin(f"process-{number}")
        for turn in range(20):
            history.append(session, Turn(role="user", content=f"{number} says {turn}"))


@pytest.mark.slow
def test_processes_may_write_at_once(path: Path) -> None:
    """Also when each of them finds no file yet."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write_many, args=(path, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT)
        assert process.exitcode == 0
    with History(path) as history:
        for number in range(4):
            said = contents(history, history.find(f"process-{number}").id)
            assert said == [f"{number} says {turn}" for turn in range(20)]


def test_a_writer_makes_writers_wait_and_no_readers(
    history: History, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.01)
    number = conversation(history, "a")
    with History(path) as other, history._transaction():
        assert contents(other, number) == ["a"]
        with pytest.raises(HistoryError, match="is in use by another program"):
            other.begin()


WRITER = """
import sys
from pathlib import Path
from llmstream_cli.history.records import Turn
from llmstream_cli.history.store import History
history = History(Path(sys.argv[1]))
session = history.begin()
for number in range(10**6):
    history.append(session, Turn(role="user", content=f"turn {number}"))
    print(number, flush=True)
"""


@pytest.mark.slow
def test_what_was_kept_survives_a_kill(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(random.randrange(1, 60)):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().splitlines()
    with History(path) as history:
        (session,) = history.sessions()
        said = contents(history, session.id)
        assert said == [f"turn {number}" for number in range(len(said))]
        assert len(said) > int((rest or ["-1"])[-1])
        assert history._query("PRAGMA integrity_check").fetchone()[0] == "ok"
