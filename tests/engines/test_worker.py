"""The engine's process from outside: its threads, its signals, its environment, its end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from llmstream_cli.api import Chunk, EngineConfig, EngineMetrics
from llmstream_cli.engines import child as child_module
from llmstream_cli.engines.ipc import (
    Cancel,
    Ended,
    Load,
    Loaded,
    Report,
    Results,
    Submit,
    parse_report,
    spawn,
)
from llmstream_cli.errors import ModelError
from tests.engines.processes import ENDLESS, SHORT, Reader, is_alive, pid, running, until
from tests.engines.test_in_process import collect, question

pytestmark = pytest.mark.slow

# ---- the process alone ----------------------------------------------------------------------


class Process:
    """A worker whose parent is this test."""

    def __init__(self, config: EngineConfig) -> None:
        self.process, ours = spawn("llmstream_cli.engines.worker", stderr=subprocess.PIPE)
        self.connection = Connection(ours.detach())
        self.reports = self._reports()
        self.connection.send(Load(config, log=False))

    def _reports(self) -> Iterator[Report]:
        with suppress(EOFError):
            while True:
                yield parse_report(self.connection.recv_bytes())

    def close(self) -> None:
        self.connection.close()
        self.process.wait(300)
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def process(tiny_path: Path) -> Iterator[Process]:
    process = Process(EngineConfig(model_path=str(tiny_path), threads=1, ctx_size=1024))
    yield process
    process.close()


def chunks_of(report: Report) -> list[Chunk]:
    assert isinstance(report, Results)
    assert all(isinstance(result, Chunk) for _, result in report.results)
    return [result for _, result in report.results if isinstance(result, Chunk)]


def test_it_loads_answers_and_leaves(process: Process) -> None:
    assert isinstance(next(process.reports), Loaded)
    process.connection.send(Submit(7, question("the of", SHORT)))
    chunks: list[Chunk] = []
    while not chunks or chunks[-1].finish_reason is None:
        chunks += chunks_of(next(process.reports))
    assert sum(len(chunk.token_ids) for chunk in chunks) == 8
    process.close()
    assert process.process.returncode == 0


def test_a_request_cancelled_with_its_submission_holds_no_slot(process: Process) -> None:
    assert isinstance(next(process.reports), Loaded)
    for number in range(50):
        process.connection.send(Submit(number, question("the of", ENDLESS)))
        process.connection.send(Cancel(number))
    process.connection.send(Submit(50, question("the of", SHORT)))
    last = EngineMetrics(running=1)
    for report in process.reports:
        if isinstance(report, Results):
            last = report.metrics
            if any(number == 50 and c.finish_reason for number, c in report.results):  # type: ignore[union-attr]
                break
    assert (last.running, last.waiting) == (0, 0)


def test_it_tells_why_a_model_cannot_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    process = Process(EngineConfig(model_path=str(path)))
    *_, last = process.reports
    assert isinstance(last, Ended)
    assert isinstance(last.failure.error(), ModelError)
    process.close()
    assert process.process.returncode == 1


def test_garbage_from_the_parent_ends_it_with_a_reason(process: Process) -> None:
    assert isinstance(next(process.reports), Loaded)
    process.connection.send_bytes(b"{}")
    assert not any(chunks_of(report) for report in process.reports)
    assert process.process.wait(300) == 1
    assert process.process.stderr is not None
    assert b"UnpicklingError" in process.process.stderr.read()


def test_a_parent_that_does_not_read_stops_no_step(process: Process) -> None:
    assert isinstance(next(process.reports), Loaded)
    for number in range(300):  # whose answers are far more than the socket holds
        process.connection.send(Submit(number, question("the of", SHORT)))
    ended: set[int] = set()
    while len(ended) < 300:
        report = next(process.reports)
        assert isinstance(report, Results)
        ended |= {number for number, chunk in report.results if chunk.finish_reason}  # type: ignore[union-attr]


# ---- the process and its parent -------------------------------------------------------------


async def test_it_ignores_ctrl_c_and_the_service_manager(tiny_path: Path) -> None:
    async with running(tiny_path) as engine:
        await engine.ready()
        process = pid(engine)
        reader = Reader(engine, question("the of", ENDLESS))
        await until(lambda: bool(reader.chunks))
        assert os.getpgid(process) == process != os.getpgid(0)
        os.kill(process, signal.SIGINT)
        os.kill(process, signal.SIGTERM)
        await reader.task
        assert reader.error is None
        assert await collect(engine.generate(question("the of", SHORT)))
        assert pid(engine) == process


def test_its_environment_has_no_secrets_and_no_surprises(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        *("HF_TOKEN", "SOME_API_KEY", "DB_URL", "GITHUB_PAT", "MY_AUTH", "AWS_PROFILE", "PGUSER"),
        *("LANGSMITH_PROJECT", "PATHS_OF_SECRETS", "PYTHONSTARTUP", "HTTPS_PROXY"),
    }
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    needed = {"LC_ALL", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "TMPDIR", "GOMP_SPINCOUNT"}
    for name in needed:
        monkeypatch.setenv(name, "needed")
    monkeypatch.setenv("GGML_NO_BACKTRACE", "0")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    environment = child_module._environment()
    assert environment["OMP_WAIT_POLICY"] == "passive"
    assert environment["GGML_NO_BACKTRACE"] == "1"
    assert needed < set(environment)
    assert not secrets & set(environment)


async def test_no_module_of_the_current_folder_comes_before_the_programs_own(
    tiny_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("queue.py", "json.py", "llmstream_cli.py"):
        (tiny_path.parent / name).write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tiny_path.parent)
    async with running(tiny_path) as engine:
        await engine.ready()


PARENT = """\
import asyncio, contextlib, sys
from llmstream_cli.engines import child
from llmstream_cli.api import EngineConfig
from llmstream_cli.engines.supervised import SupervisedEngine
from tests.engines.processes import ENDLESS
from tests.engines.test_in_process import question

child.WORKER_MODULE = "tests.engines.faulty_worker"

async def main(path, when):
    engine = SupervisedEngine(EngineConfig(model_path=path, threads=1, ctx_size=1024))
    engine.start()
    if when == "decoding":
        await engine.ready()
        chunks = engine.generate(question("the of", ENDLESS))
        await anext(chunks)
    print(engine._child.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("when", ["loading", "decoding"])
@pytest.mark.parametrize("name", ["", "outlives-parent"])
def test_it_ends_when_its_parent_is_killed(
    tiny_path: Path,
    fault: Callable[[str], None],
    when: str,
    name: str,
) -> None:
    """By the kernel's signal, or without it by the end of the connection."""
    fault(name)
    assert killed_with_parent(tiny_path, when, lambda _: None)


if sys.platform == "linux":

    def test_the_kernel_ends_it_even_where_no_thread_can_run(tiny_path: Path) -> None:
        assert killed_with_parent(
            tiny_path, "decoding", lambda process: os.kill(process, signal.SIGSTOP)
        )


def killed_with_parent(path: Path, when: str, prepare: Callable[[int], object]) -> bool:
    """Kill a parent, and wait until its child is gone as well."""
    command = [sys.executable, "-c", PARENT, str(path), when]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        process = int(parent.stdout.readline())
        assert is_alive(process)
        prepare(process)
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 60
    while is_running(process):
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
            return False
        time.sleep(0.01)
    return True


def is_running(process: int) -> bool:
    """Whether it runs: nobody may be there to reap an orphan that has ended."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:  # gone, or a system without /proc
        return is_alive(process)
    return status.rpartition(")")[2].split()[0] != "Z"
