"""`llmstream history`: what it prints into a pipe and on a terminal, and what it deletes."""

import json
import os
import re
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import pexpect
import pytest

from llmstream_cli.cli.config.file import HISTORY_VARIABLE
from llmstream_cli.cli.history import parse_age
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.history.records import Turn
from llmstream_cli.history.store import History
from tests.cli.ask.test_ask import COMMAND, TIMEOUT
from tests.cli.conftest import Cli

EVIL = "In \x1b]0;title\x07France\x1b[2J."


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "history.db"
    monkeypatch.setenv(HISTORY_VARIABLE, str(path))
    return path


@pytest.fixture
def talks(path: Path) -> Path:
    with History(path) as history:
        trip = history.begin("trip")
        history.append(trip, Turn(role="user", content="Where is Paris?"))
        history.append(trip, Turn(role="assistant", content=EVIL, model="my model"))
        other = history.begin()
        history.append(other, Turn(role="user", content="Who sings?\n" + "la " * 99))
    return path


@pytest.fixture
def run(cli: Cli) -> Cli:
    return partial(cli, "history")


def names(path: Path) -> list[str | None]:
    with History(path) as history:
        return [session.name for session in history.sessions()]


# ---- list, show, search ---------------------------------------------------------------------


@pytest.mark.usefixtures("talks")
def test_the_list(run: Cli) -> None:
    code, output, complaints = run("list")
    assert (code, complaints) == (0, "")
    headings, *rows = [line.split(maxsplit=5) for line in output.splitlines()]
    assert headings == ["number", "name", "changed", "turns", "model", "question"]
    assert [row[:2] + row[3:5] for row in rows] == [
        ["2", "-", "1", "-"],
        ["1", "trip", "2", "my_model"],
    ]
    assert rows[1][5] == "Where is Paris?"
    assert len(run("list", "--limit", "1")[1].splitlines()) == 2
    latest, trip = json.loads(run("list", "--json")[1])
    assert (latest["id"], latest["name"], latest["num_turns"]) == (2, None, 1)
    assert (trip["name"], trip["title"], trip["model"]) == ("trip", "Where is Paris?", "my model")


@pytest.mark.usefixtures("talks")
def test_a_conversation_is_shown(run: Cli) -> None:
    for name in ("trip", "TRIP", "1"):
        assert run("show", name) == (
            0,
            f"# trip\n\n## Question\n\nWhere is Paris?\n\n## Answer (my model)\n\n{EVIL}\n",
            "",
        )
    assert "Who sings?" in run("show")[1]
    shown = json.loads(run("show", "trip", "--json")[1])
    assert shown["id"] == 1
    assert [turn["content"] for turn in shown["turns"]] == ["Where is Paris?", EVIL]


@pytest.mark.usefixtures("talks")
def test_search(run: Cli) -> None:
    code, output, complaints = run("search", "where", "PAR")
    assert (code, complaints) == (0, "")
    headings, row = [line.split(maxsplit=4) for line in output.splitlines()]
    assert headings == ["number", "name", "said", "by", "text"]
    assert (row[0], row[1], row[3], row[4]) == ("1", "trip", "user", "Where is Paris?")
    (hit,) = json.loads(run("search", "sings", "--json")[1])
    assert (hit["session"]["id"], hit["turn"]["role"]) == (2, "user")
    assert hit["excerpt"].startswith("Who sings? la la")
    assert run("search", "nobody") == (0, "", "nothing is found\n")
    assert run("search", "nobody", "--json") == (0, "[]\n", "")


def spawn(*arguments: str, columns: int = 80, term: str = "dumb") -> "pexpect.spawn[str]":
    return pexpect.spawn(
        sys.executable,
        [*COMMAND[1:], "history", *arguments],
        timeout=TIMEOUT,
        encoding="utf-8",
        dimensions=(24, columns),
        env={**os.environ, "TERM": term},
    )


@pytest.mark.slow
@pytest.mark.usefixtures("talks")
def test_a_terminal_gets_a_table_that_fits() -> None:
    shown = spawn("list", columns=60, term="xterm").read()
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert lines[0].split() == ["number", "name", "changed", "turns", "model", "question"]
    assert lines[1].startswith("2       -     20")
    assert len(lines) == 3
    assert all(len(line) <= 60 for line in lines)


@pytest.mark.slow
@pytest.mark.usefixtures("talks")
@pytest.mark.parametrize("command", [("show", "trip"), ("search", "france")])
def test_what_is_kept_cannot_control_the_terminal(command: tuple[str, ...]) -> None:
    shown = spawn(*command).read()
    assert not {"\x1b", "\x07"} & set(shown)
    assert "]0;titleFrance[2J." in shown


def test_no_history_is_an_empty_one_and_stays_none(path: Path, run: Cli) -> None:
    assert run("list") == (0, "", f"no conversations are kept in {path}\n")
    assert run("list", "--json") == (0, "[]\n", "")
    assert run("search", "x") == (0, "", "nothing is found\n")
    assert run("delete", "--all") == (0, "", "there is nothing to delete\n")
    complaint = f"llmstream: no conversations are kept in {path}\n"
    assert run("show") == run("delete", "x") == (1, "", complaint)
    assert not path.exists()


# ---- delete ---------------------------------------------------------------------------------


def test_delete(talks: Path, run: Cli) -> None:
    code, _, complaints = run("delete", "--all")
    assert (code, names(talks)) == (2, [None, "trip"])
    assert "give --yes" in complaints  # nobody can be asked
    assert run("delete", "trip", "1", "--yes") == (0, "", "1 deleted\n")
    assert names(talks) == [None]
    assert run("delete", "--all", "-y") == (0, "", "1 deleted\n")
    assert names(talks) == []


def test_delete_what_is_old(talks: Path, run: Cli) -> None:
    assert run("delete", "--older-than", "1d", "--yes") == (0, "", "there is nothing to delete\n")
    with History(talks) as history:
        history._query("UPDATE session SET updated = updated - 90000 WHERE id = 1")
    assert run("delete", "--older-than", "1d", "--yes") == (0, "", "1 deleted\n")
    assert names(talks) == [None]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "code", "left"), [("Yes\n", 0, 0), ("\n", 1, 2), ("\x03", 130, 2)]
)
def test_a_terminal_is_asked(talks: Path, answer: str, code: int, left: int) -> None:
    child = spawn("delete", "--all")
    child.expect_exact("Delete 2 conversations for good? [y/N] ")
    child.send(answer)
    shown = child.read()
    child.close()
    assert child.exitstatus == code
    assert code == 130 or ("2 deleted" if code == 0 else "nothing is deleted") in shown
    assert len(names(talks)) == left


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("show", "trap"), 1, "no conversation is called 'trap'; did you mean trip?"),
        (("delete", "9", "--yes"), 1, "no conversation is called '9'"),
        (("delete",), 2, "give either names of conversations, or --all, or --older-than"),
        (("delete", "--all", "trip"), 2, "give either names"),
        (("delete", "--older-than", "soon"), 2, "--older-than must be like 12h"),
        (("list", "--limit", "0"), 2, "not in the range"),
        (("search",), 2, "Missing argument"),
    ],
)
@pytest.mark.usefixtures("talks")
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], code: int, complaint: str, run: Cli
) -> None:
    got, output, complaints = run(*arguments)
    assert (got, output) == (code, "")
    assert complaints.startswith("llmstream: ")
    assert complaint in complaints
    assert complaints.count("\n") == 1


def test_a_history_that_cannot_be_used_is_one_line(
    path: Path, monkeypatch: pytest.MonkeyPatch, run: Cli
) -> None:
    path.write_bytes(b"x" * 5000)
    code, output, complaints = run("list")
    assert (code, output, complaints.count("\n")) == (1, "", 1)
    assert f"{path} is damaged" in complaints
    monkeypatch.setenv(HISTORY_VARIABLE, "off")
    complaint = "llmstream: no conversations are kept: the history is switched off\n"
    assert run("list") == (1, "", complaint)


def test_ages() -> None:
    hours = {"12h": 12, "30d": 720, "8w": 1344, "1y": 8760, "0h": 0}
    assert {text: parse_age(text) for text in hours} == {
        text: timedelta(hours=number) for text, number in hours.items()
    }
    for text in ("", "30", "d", "-1d", "1.5d", "30 d", "1m", "9999y", "٣d"):
        with pytest.raises(InvalidValueError, match="--older-than must be like"):
            parse_age(text)
