"""What `llmstream ask` can be asked for besides plain text, with the real model."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmstream_cli.history.records import Turn
from llmstream_cli.history.store import History
from tests.cli.serve.test_serve import Running, running

COMMAND = [sys.executable, "-m", "llmstream_cli", "ask", "-t", "0"]
PARIS = "Paris is the capital of France and one of the most iconic cities in the world."
PARIS_ASKED = ("Where is Paris?", "-n", "17")
TIMEOUT = 300  # seconds; the machines that run this are slow at times


def ask(
    *arguments: str, here: bool = True, stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Ask a model `here`, on one thread, or whatever else the arguments name."""
    return subprocess.run(
        [*COMMAND, *arguments, *(("--threads", "1") if here else ())],
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
        env={**os.environ, **environment},
    )


def answer(*arguments: str, **options: Any) -> str:
    done = ask(*arguments, **options)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def refusal(*arguments: str, code: int = 2, **options: Any) -> str:
    done = ask(*arguments, **options)
    assert (done.returncode, done.stdout) == (code, b"")
    (line,) = done.stderr.decode().splitlines()
    return line.removeprefix("llmstream: ")


# ---- JSON -----------------------------------------------------------------------------------


def test_json_is_one_object() -> None:
    told = json.loads(answer(*PARIS_ASKED, "--json"))
    assert told["text"] == PARIS
    assert (told["model"], told["finish_reason"]) == ("smollm2", "length")
    assert told["usage"] == {"prompt_tokens": 34, "cached_tokens": 0, "completion_tokens": 17}
    assert all(value > 0 for value in told["timings"].values())


def test_json_lines_are_the_same_in_pieces() -> None:
    lines = [json.loads(line) for line in answer(*PARIS_ASKED, "--json-lines").splitlines()]
    assert "".join(line["text"] for line in lines[:-1]) == PARIS
    assert len(lines) == 18
    assert lines[-1]["finish_reason"] == "length"
    assert lines[-1]["usage"]["completion_tokens"] == 17


def test_json_of_an_answer_that_is_interrupted_has_what_came() -> None:
    with subprocess.Popen(
        [*COMMAND, "Where is Paris?", "--json", "--stats", "--threads", "1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith(b"loaded the model"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    told = json.loads(out)
    assert told["finish_reason"] == "cancelled"
    assert told["model"] == "smollm2"


def test_two_kinds_of_json_exclude_each_other() -> None:
    assert "--json and --json-lines" in refusal("hi", "--json", "--json-lines")


# ---- structured output, counting, input -----------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}


def test_an_answer_follows_a_schema(tmp_path: Path) -> None:
    text = json.dumps(SCHEMA)
    told = answer("Name a city.", "--schema", text, "-n", "60")
    assert list(json.loads(told)) == ["city"]
    (tmp_path / "city.json").write_text(text)
    assert answer("Name a city.", "--schema", str(tmp_path / "city.json"), "-n", "60") == told


def test_what_a_schema_asks_in_vain_is_said() -> None:
    schema = json.dumps({"type": "array", "uniqueItems": True, "items": {"enum": [1, 2]}})
    done = ask("Hi", "--schema", schema, "-n", "20", "--stop", "]")
    assert done.returncode == 0
    assert done.stderr == b"llmstream: --schema: not followed: /uniqueItems\n"
    assert done.stdout.startswith(b"[")
    assert b"]" not in done.stdout


def test_an_answer_follows_a_grammar() -> None:
    told = answer("Is Paris in France?", "--grammar", 'root ::= "yes, it is" | "no, it is not"')
    assert told in ("yes, it is", "no, it is not")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--schema", "no/such.json"), "--schema: there is no file no/such.json"),
        (("--schema", "{]"), "schema"),
        (("--schema", "{}", "--grammar", "root ::= [a]"), "exclude each other"),
        (("--schema", '{"items": {"type": "strin"}}'), "JSON schema at /items: type"),
        (("--grammar", "root ::= ("), "grammar"),
        (("--count", "--url", "http://127.0.0.1:1"), "--count needs the model itself"),
        (("--think",), "--think is not supported by SmolLM2-135M-Instruct"),
        (("--raw", "--no-think"), "--raw leaves --think and --no-think to the prompt"),
        (("--raw", "-c"), "--raw goes on with no conversation"),
        (("-a", "no/such.txt"), "--attach: there is no file no/such.txt"),
        (("--session", "a b"), "a conversation's name"),
        (("--url", "ftp://x"), "the server's URL must be"),
        (("--api-key", "x"), "--api-key is the key of another server; give its --url, too"),
        (("--url", "http://127.0.0.1:1", "--ctx-size", "99"), "--ctx-size is the server's own"),
    ],
)
def test_what_cannot_be_is_one_line(options: tuple[str, ...], complaint: str) -> None:
    assert complaint in refusal("hi", *options, here="--url" not in options)


def test_tokens_are_counted_and_nothing_is_asked() -> None:
    assert answer("Where is Paris?", "--count") == "34\n"
    assert answer("Where is Paris?", "--count", "--raw") == "4\n"
    assert answer("word " * 300, "--count", "--ctx-size", "64").strip().isdecimal()


def test_a_file_is_attached(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("apples and pears\n")
    note = str(tmp_path / "note.txt")
    composed = f"{note}:\n\n```txt\napples and pears\n```\n\nRepeat this."
    expected = answer(composed, "-n", "12")
    assert answer("Repeat this.", "-a", note, "-n", "12") == expected
    assert answer("Repeat this.", "-n", "12") != expected
    assert answer("--attach", note, "-n", "4") != ""


def test_a_question_is_written_in_an_editor(tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i s/Rome/Paris/ "$1"\n')
    editor.chmod(0o700)
    done = ask("Where is Rome?", "-n", "17", "-e", VISUAL=str(editor))
    assert (done.returncode, done.stdout.decode()) == (0, PARIS)


# ---- what is kept ---------------------------------------------------------------------------


@pytest.fixture
def history(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


def kept(path: Path) -> list[list[str]]:
    with History(path) as history:
        return [
            [turn.content for turn in history.turns(session.id)] for session in history.sessions()
        ]


def test_a_conversation_goes_on_by_itself_and_by_name(history: Path) -> None:
    environment = {"LLMSTREAM_HISTORY": str(history)}
    first = answer(*PARIS_ASKED, "--session", "paris", "-s", "Be brief.", **environment)
    more = answer("Say that again.", "-n", "8", "-c", **environment)
    answer("Something else.", "-n", "4", **environment)
    assert len(kept(history)) == 2
    assert kept(history)[1] == ["Be brief.", "Where is Paris?", first, "Say that again.", more]
    answer("And now?", "-n", "4", "--session", "paris", "--no-history", **environment)
    assert len(kept(history)[1]) == 5
    alone = answer("Say that again.", "-n", "8", "-s", "Be brief.", "--no-history", **environment)
    assert alone != more


def test_the_model_of_a_conversation_goes_on(history: Path, model_path: Path) -> None:
    environment = {"LLMSTREAM_HISTORY": str(history)}
    answer("hi", "-n", "2", "-m", str(model_path), **environment)
    told = json.loads(answer("hi", "-n", "2", "-c", "--json", **environment))
    assert told["model"] == model_path.stem
    told = json.loads(answer("hi", "-n", "2", "-c", "-f", "smollm2", "--json", **environment))
    assert told["model"] == "smollm2"


def test_a_model_that_is_gone_is_told_and_another_goes_on(history: Path) -> None:
    with History(history) as opened:
        session = opened.begin()
        opened.append(session, Turn(role="user", content="hi"))
        opened.append(session, Turn(role="assistant", content="yes", model="/no/such.gguf"))
    done = ask("hi", "-n", "2", "-c", LLMSTREAM_HISTORY=str(history))
    assert done.returncode == 0
    assert done.stderr.decode().startswith("llmstream: another model goes on: there is no file")


def test_what_came_before_ctrl_c_is_kept(history: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "Where is Paris?", "-n", "5000", "--threads", "1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "LLMSTREAM_HISTORY": str(history)},
        bufsize=0,
    ) as process:
        assert process.stdout is not None
        begun = os.read(process.stdout.fileno(), 4096)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    (question, told) = kept(history)[0]
    assert question == "Where is Paris?"
    assert told.encode() in (begun + rest, begun + rest + told.split(" ")[-1].encode())
    with History(history) as opened:
        assert opened.turns(1)[1].finish_reason == "cancelled"


def test_nothing_is_kept_without_history(history: Path) -> None:
    answer("hi", "-n", "2", "--no-history", LLMSTREAM_HISTORY=str(history))
    answer("hi", "-n", "2", LLMSTREAM_HISTORY="off")
    assert not history.exists()
    refused = refusal("hi", "-c", code=1, LLMSTREAM_HISTORY=str(history))
    assert refused == f"no conversations are kept in {history}"


# ---- another server -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running("-t", "0") as server:
        server.wait_until_ready()
        yield server


def test_a_server_gives_the_same_answer(server: Running) -> None:
    assert answer(*PARIS_ASKED, "--url", server.url, here=False) == PARIS
    assert answer(*PARIS_ASKED, here=False, LLMSTREAM_URL=server.url) == PARIS
    told = json.loads(answer(*PARIS_ASKED, "--json", "--url", server.url, here=False))
    assert (told["text"], told["model"]) == (PARIS, "smollm2")


def test_asking_a_server_loads_no_model(server: Running) -> None:
    program = f"""
import sys
from llmstream_cli.cli.app import run
code = run(["ask", "hi", "-n", "2", "--url", {server.url!r}])
sys.stderr.write("\\n".join(sys.modules))
sys.exit(code)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=TIMEOUT, check=True
    )
    assert not {"llama_cpp", "llama_cpp.llama_cpp", "numpy"} & set(done.stderr.decode().split())


def test_a_server_has_no_such_model(server: Running) -> None:
    complaint = refusal("hi", "-m", "smolm2", "--url", server.url, code=1, here=False)
    assert "smollm2" in complaint


def test_no_server_is_one_line() -> None:
    complaint = refusal("hi", "--url", "http://127.0.0.1:1", code=1, here=False)
    assert complaint.startswith("cannot connect to http://127.0.0.1:1")
