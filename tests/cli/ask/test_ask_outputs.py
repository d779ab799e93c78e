"""What `llmstream ask` can be asked for besides plain text, with the real model."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmstream_cli.history.records import Turn
from llmstream_cli.history.store import History
from tests.cli.ask.test_ask import COMMAND, PARIS, TIMEOUT, modules_loaded_by
from tests.cli.conftest import Cli
from tests.cli.serve.test_serve import Running, running

pytestmark = pytest.mark.slow

PARIS_ASKED = ("Where is Paris?", "-n", "17")

Answer = Callable[..., str]


@pytest.fixture
def answer(cli: Cli) -> Answer:
    """Ask, see that nothing is complained of, and return the answer."""

    def answer(*arguments: str, **options: Any) -> str:
        code, told, complaints = cli("ask", "-t", "0", *arguments, **options)
        assert (code, complaints) == (0, "")
        return told

    return answer


# ---- JSON, forms, counts, input -------------------------------------------------------------


def test_json_is_one_object_or_pieces(answer: Answer) -> None:
    told = json.loads(answer(*PARIS_ASKED, "--json"))
    assert told["text"] == PARIS
    assert (told["model"], told["finish_reason"]) == ("smollm2", "length")
    assert told["usage"] == {"prompt_tokens": 34, "cached_tokens": 0, "completion_tokens": 17}
    assert all(value > 0 for value in told["timings"].values())
    *pieces, last = map(json.loads, answer(*PARIS_ASKED, "--json-lines").splitlines())
    assert ("".join(piece["text"] for piece in pieces), len(pieces)) == (PARIS, 17)
    assert {**last, "timings": None} == {
        "model": "smollm2",
        "finish_reason": "length",
        "usage": told["usage"],
        "timings": None,
    }


SCHEMA = '{"type": "object", "properties": {"city": {"enum": ["Paris"]}}, "required": ["city"]}'


def test_an_answer_follows_a_schema_or_a_grammar(answer: Answer, tmp_path: Path) -> None:
    told = answer("Name a city.", "--schema", SCHEMA, "-n", "60")
    assert json.loads(told)["city"] == "Paris"
    (tmp_path / "city.json").write_text(SCHEMA)
    assert answer("Name a city.", "--schema", str(tmp_path / "city.json"), "-n", "60") == told
    told = answer("Is Paris in France?", "--grammar", 'root ::= "yes, it is" | "no, it is not"')
    assert told in ("yes, it is", "no, it is not")


def test_what_a_schema_asks_in_vain_is_said(cli: Cli) -> None:
    schema = json.dumps({"type": "array", "uniqueItems": True, "items": {"enum": [1, 2]}})
    code, told, complaints = cli("ask", "Hi", "--schema", schema, "-n", "20", "--stop", "]")
    assert (code, complaints) == (0, "llmstream: --schema: not followed: /uniqueItems\n")
    assert told.startswith("[")
    assert "]" not in told


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--json", "--json-lines"), "--json and --json-lines"),
        (("--schema", "no/such.json"), "--schema: there is no file no/such.json"),
        (("--schema", "{]"), "schema"),
        (("--schema", "{}", "--grammar", "root ::= [a]"), "exclude each other"),
        (("--schema", '{"items": {"type": "strin"}}'), "JSON schema at /items: type"),
        (("--grammar", "root ::= ("), "grammar"),
        (("--count", "--url", "http://127.0.0.1:1"), "--count needs the model itself"),
        (("--think",), "--think is not supported by SmolLM2-135M-Instruct"),
        (("--raw", "--no-think"), "--raw leaves --think and --no-think to the prompt"),
        (("--raw", "-c"), "--raw goes on with no conversation"),
        (("--raw", "--context", "sql"), "--raw leaves no place for --system, --context"),
        (("-s", "x", "--context", "sql"), "--system and --context both give the system message"),
        (("-a", "no/such.txt"), "--attach: there is no file no/such.txt"),
        (("--session", "a b"), "a conversation's name"),
        (("--url", "ftp://x"), "the server's URL must be"),
        (("--api-key", "x"), "--api-key is the key of another server; give its --url, too"),
        (("--url", "http://127.0.0.1:1", "--ctx-size", "99"), "--ctx-size is the server's own"),
    ],
)
def test_what_cannot_be_is_one_line(cli: Cli, options: tuple[str, ...], complaint: str) -> None:
    code, told, complaints = cli("ask", "hi", *options)
    assert (code, told, complaints.count("\n")) == (2, "", 1)
    assert complaint in complaints


def test_tokens_are_counted_and_nothing_is_asked(answer: Answer) -> None:
    assert answer("Where is Paris?", "--count") == "34\n"
    assert answer("Where is Paris?", "--count", "--raw") == "4\n"
    assert answer("word " * 300, "--count", "--ctx-size", "64").strip().isdecimal()


def test_a_file_is_attached(answer: Answer, tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("apples and pears\n")
    composed = f"{note}:\n\n```txt\napples and pears\n```\n\nRepeat this."
    expected = answer(composed, "-n", "12")
    assert answer("Repeat this.", "-a", str(note), "-n", "12") == expected
    assert answer("Repeat this.", "-n", "12") != expected


def test_a_question_is_written_in_an_editor(cli: Cli, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i s/Rome/Paris/ "$1"\n')
    editor.chmod(0o700)
    asked = ("ask", "-t", "0", "-n", "17", "Where is Rome?", "-e")
    assert cli(*asked, VISUAL=str(editor))[:2] == (0, PARIS)


# ---- what is kept ---------------------------------------------------------------------------


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "history.db"
    monkeypatch.setenv("LLMSTREAM_HISTORY", str(path))
    return path


def kept(path: Path) -> list[list[str]]:
    with History(path) as history:
        return [
            [turn.content for turn in history.turns(session.id)] for session in history.sessions()
        ]


def test_a_conversation_goes_on_by_itself_and_by_name(answer: Answer, history: Path) -> None:
    first = answer(*PARIS_ASKED, "--session", "paris", "-s", "Be brief.")
    more = answer("Say that again.", "-n", "8", "-c")
    answer("Something else.", "-n", "4")
    assert len(kept(history)) == 2
    assert kept(history)[1] == ["Be brief.", "Where is Paris?", first, "Say that again.", more]
    answer("And now?", "-n", "4", "--session", "paris", "--no-history")
    assert len(kept(history)[1]) == 5
    assert answer("Say that again.", "-n", "8", "-s", "Be brief.", "--no-history") != more


def test_the_model_of_a_conversation_goes_on(
    answer: Answer, history: Path, model_path: Path
) -> None:
    answer("hi", "-n", "2", "-m", str(model_path))
    told = json.loads(answer("hi", "-n", "2", "-c", "--json"))
    assert told["model"] == model_path.stem
    told = json.loads(answer("hi", "-n", "2", "-c", "-f", "smollm2", "--json"))
    assert told["model"] == "smollm2"


def test_a_model_that_is_gone_is_told_and_another_goes_on(cli: Cli, history: Path) -> None:
    with History(history) as opened:
        session = opened.begin()
        opened.append(session, Turn(role="user", content="hi"))
        opened.append(session, Turn(role="assistant", content="yes", model="/no/such.gguf"))
    code, _, complaints = cli("ask", "hi", "-n", "2", "-c")
    assert code == 0
    assert complaints.startswith("llmstream: another model goes on: there is no file")


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_what_came_before_ctrl_c_is_shown_and_kept(history: Path, form: tuple[str, ...]) -> None:
    with subprocess.Popen(
        [*COMMAND, "ask", "-t", "0", "Where is Paris?", "-n", "5000", "--stats", *form],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while not process.stderr.readline().startswith(b"context:"):
            assert process.poll() is None
        begun = b"" if form else os.read(process.stdout.fileno(), 4096)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    if form:
        told = json.loads(rest)
        assert (told["finish_reason"], told["model"]) == ("cancelled", "smollm2")
        return
    (question, told) = kept(history)[0]
    assert question == "Where is Paris?"
    assert told.encode() in (begun + rest, begun + rest + told.split(" ")[-1].encode())
    with History(history) as opened:
        assert opened.turns(1)[1].finish_reason == "cancelled"


def test_nothing_is_kept_without_history(cli: Cli, answer: Answer, history: Path) -> None:
    answer("hi", "-n", "2", "--no-history")
    answer("hi", "-n", "2", LLMSTREAM_HISTORY="off")
    assert not history.exists()
    complaint = f"llmstream: no conversations are kept in {history}\n"
    assert cli("ask", "hi", "-c") == (1, "", complaint)


# ---- another server -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running("-t", "0") as server:
        server.wait_until_ready()
        yield server


def test_a_server_gives_the_same_answer(cli: Cli, answer: Answer, server: Running) -> None:
    assert answer(*PARIS_ASKED, "--url", server.url) == PARIS
    told = json.loads(answer(*PARIS_ASKED, "--json", LLMSTREAM_URL=server.url))
    assert (told["text"], told["model"]) == (PARIS, "smollm2")
    code, _, complaints = cli("ask", "hi", "-m", "smolm2", "--url", server.url)
    assert (code, "smollm2" in complaints) == (1, True)


def test_asking_a_server_loads_no_model(server: Running) -> None:
    loaded = modules_loaded_by("ask", "hi", "-n", "2", "--url", server.url)
    assert not {"llama_cpp", "llama_cpp.llama_cpp", "numpy"} & loaded


def test_no_server_is_one_line(cli: Cli) -> None:
    code, told, complaints = cli("ask", "hi", "--url", "http://127.0.0.1:1")
    assert (code, told, complaints.count("\n")) == (1, "", 1)
    assert complaints.startswith("llmstream: cannot connect to http://127.0.0.1:1")
