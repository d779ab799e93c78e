"""The conversations in their file: kept, found, and really deleted."""

import json
import multiprocessing
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstream_cli.api import FinishReason, Usage
from llmstream_cli.errors import HistoryError, InvalidValueError, SessionNotFoundError
from llmstream_cli.history import schema
from llmstream_cli.history.records import Turn
from llmstream_cli.history.store import History

TIMEOUT = 300  # seconds; the machines that run this are slow at times

QUESTION = Turn(role="user", content="Where is Paris?")
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
    with History.open(path) as history:
        yield history


def conversation(history: History, *contents: str, name: str | None = None) -> int:
    """Keep a conversation of questions and answers in turn; return its id."""
    session = history.begin(name)
    for number, content in enumerate(contents):
        role: Any = "assistant" if number % 2 else "user"
        history.append(session.id, Turn(role=role, content=content))
    return session.id


def contents(history: History, session_id: int) -> list[str]:
    return [turn.content for turn in history.turns(session_id)]


# ---- to keep --------------------------------------------------------------------------------


def test_a_conversation_is_there_when_the_file_is_opened_again(path: Path) -> None:
    with History.open(path) as history:
        session = history.begin("trip")
        kept = [history.append(session.id, turn) for turn in (QUESTION, ANSWER)]
    with History.open(path) as history:
        assert history.turns(session.id) == kept
        (again,) = history.sessions()
    assert [turn.content for turn in kept] == ["Where is Paris?", "In France.\n"]
    assert kept[1].usage == ANSWER.usage
    assert kept[1].sampling == ANSWER.sampling
    assert (again.name, again.title, again.model) == ("trip", "Where is Paris?", "smollm2")
    assert (again.id, again.num_turns, again.created) == (session.id, 2, session.created)
    assert again.updated >= again.created


def test_an_interrupted_answer_is_kept_as_such(history: History) -> None:
    session = history.begin()
    history.append(session.id, QUESTION)
    cut = Turn(role="assistant", content="In", finish_reason=FinishReason.CANCELLED)
    history.append(session.id, cut)
    assert history.turns(session.id)[-1].finish_reason is FinishReason.CANCELLED


@given(st.text(st.characters(exclude_categories=())))
@settings(max_examples=30)
def test_any_text_is_kept(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    with History.open(tmp_path_factory.mktemp("history") / "h.db") as history:
        session = history.begin()
        kept = history.append(session.id, Turn(role="user", content=text))
        assert kept.content == text.encode("utf-8", "replace").decode()
        assert history.turns(session.id) == [kept]
        assert len(history.sessions()[0].title) <= 80


def test_the_title_is_the_first_question_in_a_line(history: History) -> None:
    number = conversation(history, "\n  Where\tis\nParis?  " + "x" * 200)
    (session,) = history.sessions()
    assert session.title == "Where is Paris? " + "x" * 63 + "…"
    history.undo(number)
    assert history.sessions()[0].title == ""


def test_undo_takes_back_a_question_and_its_answer(history: History) -> None:
    session = history.begin()
    history.append(session.id, Turn(role="system", content="Be brief."))
    for content in ("1", "2"):
        history.append(session.id, Turn(role="user", content=content))
        history.append(session.id, Turn(role="assistant", content=content * 2))
    assert [turn.content for turn in history.undo(session.id)] == ["2", "22"]
    assert contents(history, session.id) == ["Be brief.", "1", "11"]
    assert [turn.content for turn in history.undo(session.id)] == ["1", "11"]
    assert history.undo(session.id) == []
    assert contents(history, session.id) == ["Be brief."]


def test_numbers_are_never_used_twice(history: History) -> None:
    first = conversation(history, "a")
    history.delete([first])
    assert conversation(history, "b") > first


@pytest.mark.parametrize("name", ["a", "Trip_2", "größe", "2026-11-25", "v1.5", "東京", "x" * 64])
def test_names(history: History, name: str) -> None:
    number = conversation(history, "a", name=name)
    assert history.find(name).id == number


@pytest.mark.parametrize("name", ["", "7", "-x", ".x", "a b", "a/b", "x" * 65, "a\n", "\ud83d"])
def test_names_that_are_none(history: History, name: str) -> None:
    with pytest.raises(InvalidValueError, match="a conversation's name has"):
        history.begin(name)
    number = conversation(history, "a")
    with pytest.raises(InvalidValueError, match="a conversation's name has"):
        history.rename(number, name)
    assert [session.name for session in history.sessions()] == [None]


def test_a_name_is_that_of_one_conversation(history: History) -> None:
    first = conversation(history, "a", name="Trip")
    second = conversation(history, "b")
    with pytest.raises(InvalidValueError, match="another conversation is called trip"):
        history.begin("trip")
    with pytest.raises(InvalidValueError, match="another conversation is called TRIP"):
        history.rename(second, "TRIP")
    assert history.rename(first, "tour").name == "tour"
    assert history.rename(second, "trip").name == "trip"
    assert history.rename(first, None).name is None
    assert len(history.sessions()) == 2


def test_a_conversation_that_another_process_has_deleted(history: History, path: Path) -> None:
    number = conversation(history, "a")
    with History.open(path) as other:
        other.delete([number])
    for use in (
        lambda: history.append(number, QUESTION),
        lambda: history.undo(number),
        lambda: history.rename(number, "x"),
    ):
        with pytest.raises(SessionNotFoundError, match=f"conversation {number} has been deleted"):
            use()
    assert history.turns(number) == []
    assert history.delete([number]) == 0


# ---- to find --------------------------------------------------------------------------------


def test_the_latest_is_the_one_that_changed_last(history: History) -> None:
    assert history.latest() is None
    first, second = conversation(history, "a"), conversation(history, "b")
    assert [session.id for session in history.sessions()] == [second, first]
    history.append(first, QUESTION)
    latest = history.latest()
    assert latest is not None
    assert latest.id == first
    assert [session.id for session in history.sessions(limit=1)] == [first]


def test_those_that_did_not_change_since(history: History) -> None:
    conversation(history, "a")
    now = datetime.now(UTC)
    assert history.sessions(updated_before=now - timedelta(hours=1)) == []
    assert len(history.sessions(updated_before=now + timedelta(hours=1))) == 1


def test_a_conversation_by_its_number_or_name(history: History) -> None:
    number = conversation(history, "a", name="trip")
    assert history.find(str(number)).id == history.find("TRIP").id == number
    for name in ("tripp", "9" * 30, "0", "-1", "", "\ud83d", "' OR 1=1 --"):
        with pytest.raises(SessionNotFoundError, match="no conversation is called"):
            history.find(name)
    with pytest.raises(SessionNotFoundError, match=r"did you mean trip\?"):
        history.find("tripp")


def found(history: History, text: str) -> list[str]:
    return [hit.turn.content for hit in history.search(text)]


@pytest.fixture(params=["words", "no words"])
def searched(request: pytest.FixtureRequest, path: Path) -> Iterator[History]:
    """A history with an index of words, and one of an SQLite that cannot have it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "no words":
            patch.setattr(schema, "_WORDS", ("CREATE VIRTUAL TABLE x USING none (y)",))
        with History.open(path) as history:
            assert schema.has_words(history._connection) is (request.param == "words")
            yield history


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("paris", ["Paris again", "Where is Paris?"]),
        ("PAR", ["Paris again", "Where is Paris?"]),
        ("paris where", ["Where is Paris?"]),
        ("aris?", ["Where is Paris?"]),
        ("where nothing", []),
        ("", []),
        (" \n", []),
        ("京", ["私は東京にいる"]),
        ("100%", ["100% of a_b"]),
        ("a_b", ["100% of a_b"]),
        ("0_%", []),
        ('"', ['say "hi" \\ bye']),
        ("\\", ['say "hi" \\ bye']),
        ('hi" OR "x', []),
        ("NEAR(a b)", []),
        ("content:paris", []),
    ],
)
def test_search(searched: History, text: str, expected: list[str]) -> None:
    for content in (
        "Where is Paris?",
        "私は東京にいる",
        "100% of a_b",
        'say "hi" \\ bye',
        "Paris again",
    ):
        conversation(searched, content)
    assert found(searched, text) == expected
    assert len(searched.search("a", limit=1)) == 1


def test_words_are_found_whatever_their_accents(history: History) -> None:
    conversation(history, "Wo liegt ZÜRICH?")
    assert found(history, "zurich") == found(history, "zürich") == ["Wo liegt ZÜRICH?"]


def test_an_excerpt_shows_the_word(history: History) -> None:
    number = conversation(history, "x " * 500 + "\nneedle " + "y " * 500)
    (hit,) = history.search("needle")
    assert "needle" in hit.excerpt
    assert hit.excerpt.startswith("…")
    assert hit.excerpt.endswith("…")
    assert len(hit.excerpt) <= 102
    assert hit.session.id == number


words = st.text("abAB ", max_size=8)


@given(st.lists(words, max_size=8), words)
@settings(max_examples=50)
def test_search_finds_the_beginnings_of_words(
    tmp_path_factory: pytest.TempPathFactory, kept: list[str], text: str
) -> None:
    sought = text.lower().split()

    def has(content: str) -> bool:
        return all(any(w.startswith(s) for w in content.lower().split()) for s in sought)

    def has_inside(content: str) -> bool:
        return all(s in content.lower() for s in sought)

    with History.open(tmp_path_factory.mktemp("history") / "h.db") as history:
        conversation(history, *kept)
        expected = [content for content in reversed(kept) if has(content)]
        expected = expected or [content for content in reversed(kept) if has_inside(content)]
        assert found(history, text) == (expected if sought else [])


def test_what_was_kept_without_an_index_is_found_later(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "_WORDS", ("CREATE VIRTUAL TABLE x USING none (y)",))
        with History.open(path) as history:
            number = conversation(history, "Zürich", "Bern")
            history.undo(number)
            conversation(history, "Genève")
    with History.open(path) as history:
        assert found(history, "geneve") == ["Genève"]
        assert found(history, "zurich") == []


# ---- to delete ------------------------------------------------------------------------------


def bytes_of(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_what_is_deleted_is_in_no_file_any_more(history: History, path: Path) -> None:
    secret, other = "xylophonist", "bystander"
    keep = conversation(history, f"the {other} stays", "yes " * 3000)
    gone = conversation(history, f"the {secret} goes", f"{secret} " * 3000)
    assert secret.encode() in bytes_of(path)
    assert history.delete([gone, gone, 999]) == 1
    assert secret.encode() not in bytes_of(path)
    assert secret[:6].encode() not in bytes_of(path)
    assert contents(history, keep)[0] == f"the {other} stays"
    assert found(history, other) == [f"the {other} stays"]
    conversation(history, "plain", f"{secret} again")
    history.undo(history.sessions()[0].id)
    assert secret[:6].encode() not in bytes_of(path)


def test_all_is_deleted_and_the_file_is_good_as_new(history: History) -> None:
    for number in range(20):
        conversation(history, f"question {number}", "answer")
    assert history.delete(session.id for session in history.sessions()) == 20
    assert history.sessions() == []
    assert found(history, "question") == []
    assert history._query("PRAGMA integrity_check")[0][0] == "ok"
    assert conversation(history, "again")


# ---- the file -------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_user_can_read_it(history: History, path: Path) -> None:
    conversation(history, "a")
    files = list(path.parent.iterdir())
    assert len(files) == 3  # the log and its index lie beside it
    assert {mode(file) for file in files} == {0o600}
    assert mode(path.parent) == 0o700


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    History.open(tmp_path / "history.db").close()
    assert mode(tmp_path) == 0o755
    assert mode(tmp_path / "history.db") == 0o600


def refused(path: Path) -> str:
    before = path.read_bytes()
    with pytest.raises(HistoryError) as raised:
        History.open(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    message = str(raised.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_damaged_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    path.write_bytes(b"not a database, but long enough to be one\n" * 100)
    assert "is damaged" in refused(path)


def test_a_truncated_file_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with History.open(path) as history:
        conversation(history, *["word " * 2000] * 9)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def read_all() -> None:
        with History.open(path) as history:
            for session in history.sessions():
                history.turns(session.id)

    with pytest.raises(HistoryError, match="is damaged"):
        read_all()


def test_a_newer_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    History.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "is from a newer llmstream (version 99" in refused(path)


def test_a_database_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE session (id)")
    connection.close()
    assert "is the database of another program" in refused(path)


@pytest.mark.parametrize("place", ["", "file/history.db"])
def test_what_can_be_no_file(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HistoryError, match="cannot use"):
        History.open(tmp_path / place)


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    path.touch()
    with History.open(path) as history:
        assert conversation(history, "a")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("usage", "{"),
        ("usage", "7"),
        ("sampling", "x"),
        ("finish_reason", "tired"),
        ("created", "x"),
    ],
)
def test_a_turn_that_somebody_else_wrote(
    history: History, path: Path, column: str, value: str
) -> None:
    number = conversation(history, "a")
    connection = sqlite3.connect(path)
    connection.execute(f"UPDATE turn SET {column} = ?", (value,))
    connection.commit()
    connection.close()
    with pytest.raises(HistoryError, match="of the history makes no sense"):
        history.turns(number)


def test_usage_of_another_release(history: History, path: Path) -> None:
    session = history.begin()
    history.append(session.id, ANSWER)
    connection = sqlite3.connect(path)
    kept = json.dumps({"prompt_tokens": 1, "completion_tokens": 2, "prompt_seconds": 1.0})
    more = json.dumps({**json.loads(kept), "completion_seconds": 2.0, "joules": 3})
    connection.execute("UPDATE turn SET usage = ?", (more,))
    connection.commit()
    connection.close()
    assert history.turns(session.id)[0].usage == Usage(1, 2, 1.0, 2.0)


# ---- several processes ----------------------------------------------------------------------


def write_many(path: Path, number: int) -> None:
    with History.open(path) as history:
        session = history.begin(f"process-{number}")
        for turn in range(20):
            history.append(session.id, Turn(role="user", content=f"{number} says {turn}"))


def test_processes_may_write_at_once(path: Path) -> None:
    """Also when each of them finds no file yet."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write_many, args=(path, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT)
        assert process.exitcode == 0
    with History.open(path) as history:
        sessions = {session.name: session.id for session in history.sessions()}
        assert len(sessions) == 4
        for number in range(4):
            said = contents(history, sessions[f"process-{number}"])
            assert said == [f"{number} says {turn}" for turn in range(20)]
        assert len(history.search("says")) == 80


def test_a_reader_does_not_wait_for_a_writer(history: History, path: Path) -> None:
    number = conversation(history, "a")
    with History.open(path) as other, schema.transaction(other._connection):
        assert contents(history, number) == ["a"]


def test_a_file_that_is_in_use_for_long(
    history: History, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.01)
    with (
        History.open(path) as other,
        schema.transaction(history._connection),
        pytest.raises(HistoryError, match="is in use by another program"),
    ):
        other.begin()


WRITER = """
import sys
from pathlib import Path
from llmstream_cli.history.records import Turn
from llmstream_cli.history.store import History
history = History.open(Path(sys.argv[1]))
session = history.begin()
for number in range(10**6):
    history.append(session.id, Turn(role="user", content=f"turn {number}"))
    print(number, flush=True)
"""


@pytest.mark.parametrize("seed", range(3))
def test_what_was_kept_survives_a_kill(path: Path, seed: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(random.Random(seed).randrange(1, 60)):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().splitlines()
    with History.open(path) as history:
        (session,) = history.sessions()
        said = contents(history, session.id)
        assert said == [f"turn {number}" for number in range(len(said))]
        if rest:
            assert len(said) > int(rest[-1])
        assert history._query("PRAGMA integrity_check")[0][0] == "ok"
