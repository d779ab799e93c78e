"""`llmstream serve` as a user runs it: a process, a socket, the real model."""

import contextlib
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

# One thread: several of them wait for each other at every step where the machine is busy.
COMMAND = [sys.executable, "-m", "llmstream_cli", "serve", "--port", "0", "--threads", "1"]
PARIS = "Paris is the capital of France and one of the most iconic cities in the world."
TIMEOUT = 300  # seconds; the machines that run this are slow at times


@dataclass
class Running:
    """A server in a process of its own.

    Attributes:
        process: the server's.
        url: as it printed it.
        log: the lines of its standard error so far.
    """

    process: subprocess.Popen[str]
    url: str
    log: list[str] = field(default_factory=list)

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


def failed(*arguments: str, **environment: str) -> tuple[int, str]:
    """Run a server that cannot start; return its exit code and what it says."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stderr


# ---- the start ------------------------------------------------------------------------------


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
        (["--features", "smolm2"], 1, "no model is called 'smolm2'; did you mean smollm2?"),
        (["--model", "nowhere.gguf"], 1, "there is no file nowhere.gguf"),
        (["--api-key-file", "nowhere"], 1, "--api-key-file: there is no file nowhere"),
        (["--certfile", "nowhere", "--keyfile", "nowhere"], 1, "cannot use the certificate in"),
        (["--certfile", "nowhere"], 2, "--certfile and --keyfile belong together"),
        (["--host", "0.0.0.0"], 2, "others can reach 0.0.0.0, and there is no key"),
        (["--host", "192.0.2.1", "--api-key", "k"], 1, "cannot listen on 192.0.2.1"),
        (["--port", "70000"], 2, "--port must be between"),
        (["--drain", "-1"], 2, "--drain must be between"),
        (["--parallel", "0"], 2, "--parallel must be between"),
        (["--temperature", "nan"], 2, "--temperature must be between"),
        (["--api-key", "two words"], 2, "an API key has to be printable ASCII"),
        (["--ctx-size", "99999"], 2, "--ctx-size is 99999, and the model was trained with"),
    ],
)
def test_a_server_that_cannot_start_says_why_in_one_line(
    arguments: list[str], code: int, message: str
) -> None:
    got, stderr = failed(*arguments)
    assert (got, stderr.splitlines()[-1].startswith(f"llmstream: {message}")) == (code, True), (
        stderr
    )
    assert "Traceback" not in stderr


def test_a_port_that_is_taken_is_an_error(server: Running) -> None:
    port = server.url.rpartition(":")[2]
    code, stderr = failed("--port", port)
    assert code == 1
    assert stderr.startswith(f"llmstream: port {port} of 127.0.0.1 is taken; choose another one")
    assert stderr.count("\n") == 1


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path: Path, model_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(model_path.read_bytes()[:100_000])
    code, stderr = failed("--model", str(damaged))
    assert code == 1
    assert stderr.splitlines()[-1].startswith("llmstream: ")
    assert "Traceback" not in stderr


# ---- answers --------------------------------------------------------------------------------


def test_the_answer_is_that_of_the_command(server: Running) -> None:
    assert ask(server.url, "Where is Paris?", max_tokens=17) == PARIS


def test_tokens_arrive_one_by_one(server: Running) -> None:
    with httpx2.stream(
        "POST", f"{server.url}/token_stream", json=body("Where is Paris?"), timeout=TIMEOUT
    ) as reply:
        pieces = [piece for piece in reply.iter_raw() if piece]
    assert len(pieces) > 5
    assert b"".join(pieces).decode().startswith(PARIS)


def test_the_message_of_a_question_that_is_too_long_has_both_numbers(server: Running) -> None:
    reply = httpx2.post(f"{server.url}/token_stream", json=body("word " * 2000), timeout=TIMEOUT)
    assert reply.status_code == 400
    assert re.search(r"length is 512 tokens .* has at least \d+", reply.json()["error"]["message"])


QUESTIONS = [f"Name {n} {things}." for n in (2, 3, 4, 5) for things in (
    "colours", "animals", "cities", "rivers")]  # fmt: skip


def test_sixteen_streams_at_once_get_what_each_gets_alone(server: Running) -> None:
    def answer(question: str) -> str:
        return ask(server.url, question, max_tokens=12)

    alone = [answer(question) for question in QUESTIONS]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(answer, QUESTIONS))
    assert together == alone
    assert len(set(alone)) > 8


def test_who_leaves_frees_the_slot(server: Running) -> None:
    for _ in range(8):
        with httpx2.stream(
            "POST",
            f"{server.url}/token_stream",
            json=body("Count to a thousand.", max_tokens=400, ignore_eos=True),
            timeout=TIMEOUT,
        ) as reply:
            next(reply.iter_raw())
    deadline = time.monotonic() + TIMEOUT
    while (
        'llmstream_engine_running{model="smollm2"} 0.0'
        not in httpx2.get(f"{server.url}/metrics").text
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_log_has_a_line_for_the_request(server: Running) -> None:
    httpx2.get(f"{server.url}/health", headers={"X-Request-Id": "find-me"})
    server.wait_for("find-me")


# ---- keys -----------------------------------------------------------------------------------


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


@contextlib.contextmanager
def streaming(server: Running, max_tokens: int) -> Iterator[Iterator[bytes]]:
    """An answer of which the first piece has come."""
    fields = body("Count to a thousand.", max_tokens=max_tokens, ignore_eos=True)
    with httpx2.stream("POST", f"{server.url}/token_stream", json=fields, timeout=TIMEOUT) as reply:
        pieces = reply.iter_raw()
        next(pieces)
        yield pieces


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_answers_end(number: int) -> None:
    with running("--drain", "250") as server:
        server.wait_until_ready()
        with streaming(server, 16) as pieces:
            server.process.send_signal(number)
            list(pieces)  # raises if it is cut
        assert server.process.wait(TIMEOUT) == 0


def test_a_signal_cuts_answers_that_go_on_after_the_drain() -> None:
    with running("--drain", "0") as server:
        server.wait_until_ready()
        with streaming(server, 4000) as pieces:
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(httpx2.RemoteProtocolError):
                list(pieces)
        assert server.process.wait(TIMEOUT) == 0
    assert any("ended 1" in line for line in server.log)


def test_a_second_interrupt_leaves_at_once() -> None:
    with running("--drain", "3600") as server:
        server.wait_until_ready()
        with streaming(server, 4000):
            server.process.send_signal(signal.SIGINT)
            with contextlib.suppress(httpx2.ConnectError):
                while True:  # until the first one has arrived, and the server listens no more
                    httpx2.get(f"{server.url}/health")
            assert server.stop(signal.SIGINT) == 130


def test_a_signal_while_the_model_is_loaded_ends_the_server() -> None:
    with running() as server:
        assert server.stop() == 0


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


def test_the_watchdog_ends_a_process_whose_loop_hangs() -> None:
    script = (
        "import time; from llmstream_cli.cli.serve.run import _leave_after\n"
        "_leave_after(0.1); time.sleep(3600)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert (done.returncode, done.stderr) == (1, "llmstream: could not stop in time\n")


def test_a_server_outlives_its_engine() -> None:
    with running() as server:
        server.wait_until_ready()
        pid = server.process.pid
        with streaming(server, 4000) as pieces:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            os.kill(int(children[-1]), signal.SIGKILL)
            with pytest.raises(httpx2.RemoteProtocolError):
                list(pieces)
        server.wait_until_ready()
        assert ask(server.url, "Where is Paris?", max_tokens=17) == PARIS
        assert 'restarts_total{model="smollm2"} 1.0' in httpx2.get(f"{server.url}/metrics").text
        assert server.stop() == 0
