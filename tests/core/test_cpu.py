"""How many threads are worth starting."""

import os
from pathlib import Path

import pytest

from llmstream_cli.core import cpu


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
