"""What the machine has, also in containers."""

import os
from pathlib import Path

import psutil
import pytest

from llmstream_cli import machine
from llmstream_cli.machine import Memory, cgroup_memory, free_disk, is_loopback, memory
from llmstream_cli.models.sizes import human_size

GIB = 2**30


def group(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def v2(limit: str, used: int, inactive: int) -> dict[str, str]:
    stat = f"anon 1\ninactive_file {inactive}\n"
    return {"memory.max": f"{limit}\n", "memory.current": f"{used}\n", "memory.stat": stat}


def test_version_2_counts_all_groups_around(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/outer/inner\n")
    mount = tmp_path / "mount"
    group(mount / "outer" / "inner", v2("max", 1, 0))
    (mount / "outer" / "memory.max").write_text(f"{4 * GIB}")
    (mount / "outer" / "memory.current").write_text(f"{3 * GIB}")
    (mount / "outer" / "memory.stat").write_text(f"inactive_file {GIB}")
    assert cgroup_memory(membership, mount) == [Memory(4 * GIB, 2 * GIB)]


def test_version_1_has_a_hierarchy_for_memory(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("5:cpu,cpuacct:/x\n4:memory:/docker/abc\n1:name=systemd:/\n")
    files = {
        "memory.limit_in_bytes": str(2 * GIB),
        "memory.usage_in_bytes": str(3 * GIB),
        "memory.stat": "total_inactive_file 0",
    }
    group(tmp_path / "mount" / "memory", files)  # the host's path is not there in a container
    assert cgroup_memory(membership, tmp_path / "mount") == [Memory(2 * GIB, 0)]


def test_no_groups_no_limits(tmp_path: Path) -> None:
    assert cgroup_memory(tmp_path / "none", tmp_path) == []
    membership = tmp_path / "cgroup"
    membership.write_text("0::/\n")
    assert cgroup_memory(membership, tmp_path / "none") == []


def test_memory_is_the_systems_or_the_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/\n")
    monkeypatch.setattr(machine, "_PROC", membership)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path / "mount")
    found = memory()
    assert found.total == psutil.virtual_memory().total
    assert 0 < found.available <= found.total
    group(tmp_path / "mount", v2("1000000", 400_000, 100_000))
    assert memory() == Memory(1_000_000, 700_000)


def test_free_disk_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert free_disk(tmp_path / "not" / "yet") > 0


# ---- processors -----------------------------------------------------------------------------


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
        ({0: None, 1: None, 2: None}, None, 3),  # without a topology every CPU counts
    ],
)
def test_physical_cores_that_may_be_used(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    siblings: dict[int, str | None],
    quota: str | None,
    threads: int,
) -> None:
    for number, text in siblings.items():
        if text is not None:
            group(tmp_path / f"cpu{number}" / "topology", {"thread_siblings_list": f"{text}\n"})
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(machine, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(machine, "_CGROUP_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(siblings))
    assert machine.default_threads() == threads


def test_without_affinity_the_machine_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(machine, "_CGROUP_QUOTA", tmp_path / "cpu.max")
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.default_threads() == 6


def test_others_running_leaves_out_the_reader(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "_LOAD", tmp_path / "loadavg")
    assert machine.others_running() == 0  # not Linux
    (tmp_path / "loadavg").write_text("0.20 0.18 0.12 4/807 11206\n")
    assert machine.others_running() == 3


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (98_200_000, "98.2 MB"),
        (797_843_616, "798 MB"),
        (4_368_439_584, "4.4 GB"),
        (150e12, "150 TB"),
        (2e15, "2000 TB"),
    ],
)
def test_sizes_have_three_digits_at_most(num_bytes: float, text: str) -> None:
    assert human_size(num_bytes) == text


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("api.localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("localhost.example.org", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_loopback(host: str, own: bool) -> None:
    assert is_loopback(host) is own
