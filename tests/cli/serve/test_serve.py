"""`llmstream serve` as a user runs it: a process, a socket, the real model."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmstream_cli.cli.app import run
from llmstream_cli.cli.serve import run as run_module

# One thread: several of them wait for each other at every step where the machine is busy.
COMMAND = [sys.executable, "-m", "llmstream_cli", "serve", "--port", "0", "--threads", "1"]
PARIS = "Paris is the capital of France and one of the most iconic cities in the world."
TIMEOUT = 300  # seconds; the machines that run this are slow at times


@dataclass
class Running:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    url: str  # as it printed it
    log: list[str] = field(default_factory=list)  # the lines of its standard error so far

    def wait_for(self, text: str) -> None:
        """Wait until the log says something."""
        deadline = time.monotonic() + TIMEOUT
        while not any(text in line for line in list(self.log)):
            assert time.monotonic() < deadline, self.log
            assert self.process.poll() is None, self.log
            time.sleep(0.02)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + TIMEOUT
        while httpx2.get(f"{self.url}/ready").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT)


@contextlib.contextmanager
def running(*arguments: str, **environment: str) -> Iterator[Running]:
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    server = Running(process, "")
    reader = threading.Thread(target=lambda: server.log.extend(process.stderr or ()), daemon=True)
    reader.start()
    try:
        server.url = process.stdout.readline().strip()
        yield server
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    """One server for all tests that only ask."""
    with running("--parallel", "16", "--ctx-size", "512") as server:
        server.wait_until_ready()
        yield server


def body(query: str, **fields: Any) -> dict[str, Any]:
    return {"query": query, "temperature": 0, "max_tokens": 24, **fields}


def ask(url: str, query: str, **fields: Any) -> str:
    reply = httpx2.post(f"{url}/token_stream", json=body(query, **fields), timeout=TIMEOUT)
    assert reply.status_code == 200, reply.text
    return reply.text


def failed(*arguments: str) -> tuple[int, str]:
    """Run a server that cannot start, in this process; return its exit code and what it says."""

    def start(*_: object, **__: object) -> None:
        raise AssertionError("it starts")

    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "_serve", start)
        code = run([*COMMAND[3:], *arguments])
    return code, stderr.getvalue()


@contextlib.contextmanager
def streaming(
    server: Running, query: str = "Count to a thousand.", **fields: Any
) -> Iterator[Iterator[bytes]]:
    """An answer of which the first piece has come."""
    asked = body(query, **{"ignore_eos": True, "max_tokens": 4000, **fields})
    with httpx2.stream("POST", f"{server.url}/token_stream", json=asked, timeout=TIMEOUT) as reply:
        assert reply.status_code == 200
        pieces = reply.iter_raw()
        next(pieces)
        yield pieces


# ---- the start ------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_launch_lines_say_what_is_served_and_how_to_ask(server: Running) -> None:
    server.wait_for("curl --no-buffer")
    port = server.url.rpartition(":")[2]
    patterns = [
        rf"listening on http://127\.0\.0\.1:{port}, loading the model",
        r"avx: \w+, neon: \w+, simd128: \w+, f16c: \w+",
        r"temp: 0\.20 repeat-penalty: 1\.10 repeat-last-n: 64",
        r"retrieved the files in [\d.]+(µs|ms|s)",
        r"loaded the model in [\d.]+(µs|ms|s)",
        r"context: \d+ tokens of 8192 that the model was trained with",
        rf"serving smollm2 at http://127\.0\.0\.1:{port}",
        rf"curl --no-buffer http://127\.0\.0\.1:{port}/token_stream .*",
    ]
    lines = [line.rstrip("\n") for line in server.log if " INFO " not in line]
    for pattern, line in zip(patterns, lines, strict=True):
        assert re.fullmatch(pattern, line)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("--features smolm2", 1, "no model is called 'smolm2'; did you mean smollm2?"),
        ("-f smollm2 -f smolm2", 1, "no model is called 'smolm2'"),
        ("--model nowhere.gguf", 1, "there is no file nowhere.gguf"),
        ("-f smollm2 -m", 2, "Option '-m' requires an argument"),
        ("-f smollm2 --file m.gguf", 2, "--file names a file of a repository"),
        ("-f smollm2 -m a/b --file m.gguf", 2, "--file and --tokenizer go with one model"),
        ("-f smollm2 -m a/b --tokenizer t.json", 2, "--file and --tokenizer go with one model"),
        ("--api-key-file nowhere", 1, "--api-key-file: there is no file nowhere"),
        ("--certfile nowhere", 2, "--certfile and --keyfile belong together"),
        ("--host 0.0.0.0", 2, "others can reach 0.0.0.0, and there is no key"),
        ("--port 70000", 2, "--port must be between"),
        ("--drain -1", 2, "--drain must be between"),
        ("--parallel 0", 2, "--parallel must be between"),
        ("--temperature nan", 2, "--temperature must be between"),
        ("--api-key two\twords", 2, "an API key has to be printable ASCII"),
        ("--memory much", 2, "'much' is no size; one reads 8G"),
        ("--keep-alive soon", 2, "--keep-alive is 'soon'"),
    ],
)
def test_a_server_that_cannot_start_says_why_in_one_line(
    arguments: str, code: int, message: str
) -> None:
    got, stderr = failed(*arguments.split(" "))
    assert (got, stderr.count("\n")) == (code, 1)
    assert stderr.startswith(f"llmstream: {message}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("--certfile nowhere --keyfile nowhere", 1, "cannot use the certificate in"),
        ("--host 192.0.2.1 --api-key k", 1, "cannot listen on 192.0.2.1"),
        ("--ctx-size 99999", 2, "--ctx-size is 99999, and the model was trained with"),
        ("--memory 1M", 1, "smollm2 needs 0."),
        ("--model {damaged}", 1, ""),
    ],
)
def test_a_process_that_cannot_serve_ends_and_says_why(
    arguments: str, code: int, message: str, tmp_path: Path, model_path: Path
) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(model_path.read_bytes()[:100_000])
    with running(*arguments.format(damaged=damaged).split()) as server:
        assert server.process.wait(TIMEOUT) == code
    assert server.log[-1].startswith(f"llmstream: {message}")
    assert "Traceback" not in "".join(server.log)


@pytest.mark.slow
def test_a_port_that_is_taken_is_an_error(server: Running) -> None:
    port = server.url.rpartition(":")[2]
    with running("--port", port) as second:
        assert second.process.wait(TIMEOUT) == 1
    (line,) = second.log
    assert line.startswith(f"llmstream: port {port} of 127.0.0.1 is taken; choose another one")


# ---- answers --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_answer_is_that_of_the_command(server: Running) -> None:
    assert ask(server.url, "Where is Paris?", max_tokens=17) == PARIS


QUESTIONS = [f"Name {n} {things}." for n in (2, 3, 4, 5) for things in (
    "colours", "animals", "cities", "rivers")]  # fmt: skip


@pytest.mark.slow
def test_sixteen_streams_at_once_get_what_each_gets_alone(server: Running) -> None:
    def answer(question: str) -> str:
        return ask(server.url, question, max_tokens=12)

    alone = [answer(question) for question in QUESTIONS]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(answer, QUESTIONS))
    assert together == alone
    assert len(set(alone)) > 8


# ---- keys -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_keys_come_from_the_environment_and_from_a_file(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# of the team\nfrom-the-file\n\n")
    with running(
        "--api-key-file", str(keys), "--log-json", LLMSTREAM_API_KEY="from-the-environment"
    ) as server:
        server.wait_until_ready()
        for key in ("from-the-file", "from-the-environment"):
            headers = {"Authorization": f"Bearer {key}", "X-Request-Id": key[-4:]}
            reply = httpx2.get(f"{server.url}/metrics", headers=headers)
            assert reply.status_code == 200
        assert httpx2.get(f"{server.url}/metrics").status_code == 401
        server.wait_for('"status": 401')
        assert server.stop() == 0
    assert not any("from-the" in line for line in server.log)
    lines = [json.loads(line) for line in server.log if line.startswith("{")]
    assert {line["route"] for line in lines} >= {"/metrics", "/ready"}


# ---- the end --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_answers_end(number: int) -> None:
    with running("--drain", "250") as server:
        server.wait_until_ready()
        with streaming(server, max_tokens=16) as pieces:
            server.process.send_signal(number)
            list(pieces)  # raises if it is cut
        assert server.process.wait(TIMEOUT) == 0


@pytest.mark.slow
def test_a_signal_cuts_answers_that_go_on_after_the_drain() -> None:
    with running("--drain", "0") as server:
        server.wait_until_ready()
        with streaming(server) as pieces:
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(httpx2.RemoteProtocolError):
                list(pieces)
        assert server.process.wait(TIMEOUT) == 0
    assert any("ended 1" in line for line in server.log)


@pytest.mark.slow
def test_a_second_interrupt_leaves_at_once() -> None:
    with running("--drain", "3600") as server:
        server.wait_until_ready()
        with streaming(server):
            server.process.send_signal(signal.SIGINT)
            with contextlib.suppress(httpx2.ConnectError):
                while True:  # until the first one has arrived, and the server listens no more
                    httpx2.get(f"{server.url}/health")
            assert server.stop(signal.SIGINT) == 130


@pytest.mark.slow
def test_a_signal_while_the_model_is_loaded_ends_the_server() -> None:
    with running() as server:
        assert server.stop() == 0


@pytest.mark.slow
def test_a_standard_error_that_nobody_reads_holds_nothing_up() -> None:
    """As the full pipe of a supervisor that does not read its log."""
    command = [*COMMAND, "--port", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().decode().strip()
        with httpx2.Client(timeout=TIMEOUT) as client:
            for _ in range(6000):  # lines of more than a hundred bytes; a pipe holds 64 KiB
                assert client.get(f"{url}/health").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
        process.stderr.close()


@pytest.mark.slow
def test_the_watchdog_ends_a_process_whose_loop_hangs() -> None:
    script = (
        "import time; from llmstream_cli.cli.serve.run import _leave_after\n"
        "_leave_after(0.1); time.sleep(3600)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert (done.returncode, done.stderr) == (1, "llmstream: could not stop in time\n")


@pytest.mark.slow
def test_a_server_outlives_its_engine() -> None:
    with running() as server:
        server.wait_until_ready()
        pid = server.process.pid
        with streaming(server) as pieces:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            os.kill(int(children[-1]), signal.SIGKILL)
            with pytest.raises(httpx2.RemoteProtocolError):
                list(pieces)
        server.wait_until_ready()
        assert ask(server.url, "Where is Paris?", max_tokens=17) == PARIS
        assert 'restarts_total{model="smollm2"} 1.0' in httpx2.get(f"{server.url}/metrics").text
        assert server.stop() == 0
