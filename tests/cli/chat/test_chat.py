"""`llmstream chat` off a terminal, and what a conversation costs as it grows: the real model."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmstream_cli.cli.ask.engine import open_engine
from llmstream_cli.cli.ask.options import EngineOptions
from llmstream_cli.history.store import History
from tests.cli.ask.test_ask import COMMAND, PARIS, TIMEOUT
from tests.cli.chat.talks import talking
from tests.cli.conftest import Cli
from tests.server.fakes import FakeEngine

pytestmark = pytest.mark.slow

CHAT = ("chat", "-t", "0", "-n", "17")


def test_each_line_of_a_pipe_is_a_question(cli: Cli) -> None:
    code, told, notes = cli(*CHAT, stdin=b'Where is Paris?\n\n/clear\n"""Where is\nParis?"""\n')
    first, second = told.splitlines()
    assert (code, first, second != "") == (0, PARIS, True)
    assert notes == "a new conversation; the system message and the settings stay\n"
    assert cli(*CHAT) == cli(*CHAT, stdin=b"/exit\nWhere is Paris?\n") == (0, "", "")


def test_mistakes_end_a_turn_and_are_told_at_the_end(cli: Cli) -> None:
    lines = f"/hlep\n/context nope\n{'word ' * 200}\n/clear\nWhere is Paris?\n".encode()
    code, told, complaints = cli(*CHAT, "--ctx-size", "128", stdin=b"\xff\n" + lines)
    assert (code, told) == (1, f"{PARIS}\n")
    not_text, unknown, no_context, too_long, _ = complaints.splitlines()
    assert not_text == "llmstream: a line is not UTF-8 text: byte 0"
    assert unknown.startswith("llmstream: there is no /hlep")
    assert no_context.startswith("llmstream: no context is called")
    assert "maximum context length is 128 tokens" in too_long
    assert too_long.endswith("/undo takes back the last turn, /clear begins anew")
    assert cli(*CHAT, stdin=b"/hlep\n")[0] == 2


def test_what_cannot_begin_is_one_line(cli: Cli) -> None:
    asked = b"Where is Paris?\n"
    complaint = "llmstream: there is no file no/such.gguf\n"
    assert cli(*CHAT, "-m", "no/such.gguf", stdin=asked) == (1, "", complaint)
    complaint = "llmstream: cannot connect to http://127.0.0.1:1: Connection refused\n"
    assert cli(*CHAT, "--url", "127.0.0.1:1") == (1, "", complaint)  # before the first question
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, *CHAT],
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    assert done.stderr.startswith(b"llmstream: standard input is closed")


def test_ctrl_c_off_a_terminal_leaves_and_keeps(tmp_path: Path) -> None:
    history = tmp_path / "history.db"
    with subprocess.Popen(
        [*COMMAND, "chat", "-t", "0"],
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
import llmstream_cli.cli.chat.command
"""
    subprocess.run([sys.executable, "-c", program], timeout=TIMEOUT, check=True)


def test_a_turn_costs_no_more_for_what_was_said_before(model_path: Path) -> None:
    opened = open_engine(EngineOptions(model=str(model_path), threads=1))
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
