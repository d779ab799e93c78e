"""How many threads are worth starting, and what others leave of the machine."""

import os
from pathlib import Path

import pytest

from llmstream_cli import machine as cpu
from llmstream_cli.core import threads as steps


def machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, siblings: dict[int, str], quota: str | None
) -> None:
    for number, group in siblings.items():
        topology = tmp_path / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(group + "\n")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(cpu, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(cpu, "_CGROUP_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(siblings))


@pytest.mark.parametrize(
    ("siblings", "quota", "threads"),
    [
        ({0: "0", 1: "1"}, None, 2),
        ({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, None, 2),  # two cores of two threads
        ({0: "0-1", 1: "0-1"}, None, 1),
        ({0: "0", 1: "1", 2: "2", 3: "3"}, "200000 100000", 2),
        ({0: "0", 1: "1", 2: "2", 3: "3"}, "50000 100000", 1),
        ({0: "0", 1: "1"}, "max 100000", 2),
        ({5: "5,37"}, None, 1),  # pinned to one thread
    ],
)
def test_physical_cores_that_may_be_used(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    siblings: dict[int, str],
    quota: str | None,
    threads: int,
) -> None:
    machine(monkeypatch, tmp_path, siblings, quota)
    assert cpu.default_threads() == threads


def test_without_a_topology_every_cpu_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(monkeypatch, tmp_path, {}, None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert cpu.default_threads() == 3


def test_without_affinity_the_machine_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(monkeypatch, tmp_path, {}, None)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cpu.default_threads() == 6


def test_others_running_leaves_out_the_reader(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cpu, "_LOAD", tmp_path / "loadavg")
    assert cpu.others_running() == 0  # not Linux
    (tmp_path / "loadavg").write_text("0.20 0.18 0.12 4/807 11206\n")
    assert cpu.others_running() == 3


class Times:
    """The clocks and the kernel's books of a process, as far as `LostTime` reads them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tasks: Path) -> None:
        self.wall = self.cpu = 0.0
        self._tasks = tasks
        monkeypatch.setattr("llmstream_cli.core.threads.time.perf_counter", lambda: self.wall)
        monkeypatch.setattr("llmstream_cli.core.threads.time.process_time", lambda: self.cpu)
        monkeypatch.setattr(steps, "_TASKS", tasks)

    def delay(self, task: int, seconds: float) -> None:
        (self._tasks / str(task)).mkdir(parents=True, exist_ok=True)
        line = f"123 {round(seconds * 1e9)} 7\n"
        (self._tasks / str(task) / "schedstat").write_text(line)


def test_lost_time_of_threads_that_spin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    times = Times(monkeypatch, tmp_path)
    times.delay(1, 1)
    step = steps.LostTime(4, spin=True)
    times.wall, times.cpu = 2.0, 5.0
    times.delay(1, 2)
    assert step.stop() == (2.0, 3.0)
    times.cpu = 9.0  # other threads of the process ran as well
    assert step.stop() == (2.0, 0.0)


def test_lost_time_of_threads_that_sleep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    times = Times(monkeypatch, tmp_path)
    times.delay(1, 5.0)
    times.delay(2, 1.0)
    (tmp_path / "3").mkdir()  # a thread that has just ended
    step = steps.LostTime(2, spin=False)
    times.wall, times.cpu = 2.0, 1.0
    times.delay(1, 5.5)
    times.delay(2, 1.25)
    assert step.stop() == (2.0, 0.75)


@pytest.mark.parametrize("content", [None, "", "0\n", "no statistics"])
def test_lost_time_without_the_kernels_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    times = Times(monkeypatch, tmp_path / "task")
    if content is not None:
        (tmp_path / "task" / "1").mkdir(parents=True)
        (tmp_path / "task" / "1" / "schedstat").write_text(content)
    step = steps.LostTime(2, spin=False)
    times.wall, times.cpu = 2.0, 1.0
    assert step.stop() == (2.0, 3.0)
