"""`llmstream chat` off a terminal, and what a conversation costs as it grows: the real model."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from llmstream_cli.cli.ask.engine import open_engine
from llmstream_cli.cli.options import EngineOptions
from llmstream_cli.history.store import History
from tests.cli.chat.talks import talking
from tests.server.fakes import FakeEngine

COMMAND = [sys.executable, "-m", "llmstream_cli", "chat", "-t", "0", "--threads", "1"]
PARIS = "Paris is the capital of France and one of the most iconic cities in the world."
TIMEOUT = 300  # seconds; the machines that run this are slow at times


def chat(stdin: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, "-n", "17", *arguments],
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )


def test_each_line_of_a_pipe_is_a_question() -> None:
    done = chat(b'Where is Paris?\n\n/clear\n"""Where is\nParis?"""\n')
    assert done.returncode == 0
    first, second = done.stdout.decode().splitlines()
    assert first == PARIS
    assert second != ""
    assert done.stderr == b"a new conversation; the system message and the settings stay\n"


def test_an_empty_input_is_an_end() -> None:
    assert chat(b"").returncode == 0
    assert chat(b"/exit\nWhere is Paris?\n").stdout == b""


def test_mistakes_are_told_at_the_end() -> None:
    done = chat(b"/hlep\n/context nope\n\xff\nWhere is Paris?\n")
    assert done.stdout.decode() == f"{PARIS}\n"
    assert done.returncode == 2
    assert [line[:10] for line in done.stderr.decode().splitlines()] == ["llmstream:"] * 3


def test_a_full_context_ends_a_turn_and_not_the_chat() -> None:
    question = "word " * 200
    done = chat(f"{question}\n/clear\nWhere is Paris?\n".encode(), "--ctx-size", "128")
    assert done.returncode == 1
    assert done.stdout.decode() == f"{PARIS}\n"
    complaint = done.stderr.decode().splitlines()[0]
    assert "maximum context length is 128 tokens" in complaint
    assert complaint.endswith("/undo takes back the last turn, /clear begins anew")


def test_a_model_that_is_none_ends_the_chat() -> None:
    done = chat(b"Where is Paris?\n", "-m", "no/such.gguf")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"llmstream: there is no file no/such.gguf\n"


def test_a_server_that_is_not_there_ends_the_chat_before_the_first_question() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmstream_cli", "chat", "--url", "127.0.0.1:1"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"llmstream: cannot connect to http://127.0.0.1:1: Connection refused\n"


def test_no_standard_input_is_one_line() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND],
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"llmstream: standard input is closed")
    assert done.stderr.count(b"\n") == 1


def test_ctrl_c_off_a_terminal_leaves_and_keeps(tmp_path: Path) -> None:
    history = tmp_path / "history.db"
    with subprocess.Popen(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "LLMSTREAM_HISTORY": str(history)},
        bufsize=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"Where is Paris?\n")
        assert os.read(process.stdout.fileno(), 4096)
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 130
    with History(history) as kept:
        question, answer = kept.turns(1)
    assert question.content == "Where is Paris?"
    assert PARIS.startswith(answer.content[:5])


def test_importing_the_chat_needs_no_posix() -> None:
    program = """
import sys
for name in ("termios", "tty", "fcntl", "pty", "resource"):
    sys.modules[name] = None  # as on Windows
import llmstream_cli.cli.chat.command, llmstream_cli.cli.chat.slash, llmstream_cli.cli.ask.view
"""
    subprocess.run([sys.executable, "-c", program], timeout=TIMEOUT, check=True)


# ---- a long conversation --------------------------------------------------------------------


def test_a_turn_costs_no_more_for_what_was_said_before(model_path: Path) -> None:
    options = EngineOptions(model=str(model_path), threads=1)
    opened = open_engine(options)
    cached, computed = [], []
    with talking(FakeEngine(), opened=opened, temperature=0.0, max_tokens=24) as talk:
        for question in ("Where is Paris?", "And Rome?", "And Berlin?", "And Oslo?"):
            talk.ask(question)
            assert talk.last is not None
            usage = talk.last.usage
            assert usage is not None
            cached.append(usage.cached_tokens)
            computed.append(usage.prompt_tokens - usage.cached_tokens)
        talk._runner.run(opened.engine.aclose())
    assert cached == sorted(set(cached))
    assert cached[-1] > 100
    assert max(computed[1:]) < computed[0]
