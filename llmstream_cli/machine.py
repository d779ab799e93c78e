"""This machine: its memory and how fast that is read, its processors, disks and names."""

import ipaddress
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from llmstream_cli.files import nearest_existing

_PROC = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_CGROUP_QUOTA = _CGROUP / "cpu.max"
_TOPOLOGY = Path("/sys/devices/system/cpu")
_LOAD = Path("/proc/loadavg")

_READ_BYTES = 128 << 20  # far beyond the caches of the processors that are meant
_READ_COLUMNS = 4096
_READ_REPEATS = 4


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory for programs, in bytes."""

    total: int  # what there is, or what a container may use if that is less
    available: int  # what can be taken without pushing others out


def memory() -> Memory:
    """Ask the system, and on Linux the control groups that this process is in."""
    found = _system_memory()
    for limit in cgroup_memory(_PROC, _CGROUP):
        found = Memory(min(found.total, limit.total), min(found.available, limit.available))
    return found


def _system_memory() -> Memory:
    try:  # what psutil reads on Linux; to import it takes some 20 ms
        lines = [line.split() for line in _MEMINFO.read_text().splitlines()]
        kilobytes = {line[0]: int(line[1]) for line in lines}
        return Memory(1024 * kilobytes["MemTotal:"], 1024 * kilobytes["MemAvailable:"])
    except (OSError, LookupError, ValueError):
        import psutil

        system = psutil.virtual_memory()
        return Memory(system.total, system.available)


def cgroup_memory(membership: Path, mount: Path) -> list[Memory]:
    """Return the limits of the control groups of a process and of all groups around them.

    Version 2: https://docs.kernel.org/admin-guide/cgroup-v2.html; version 1, which has its
    memory controller in a hierarchy of its own: cgroup-v1/memory.html beside it.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not Linux
        return []
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, names = mount, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = mount / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = root / path.lstrip("/")
        # In a container the path can be the host's, and then is not there: the root is.
        limits += [_limit(folder, *names) for folder in (group, *group.parents) if folder >= root]
    return [limit for limit in limits if limit is not None]


def _limit(folder: Path, limit: str, usage: str, reclaimable: str) -> Memory | None:
    try:
        total = int((folder / limit).read_text())
        used = int((folder / usage).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group, or `max`
        return None
    # Pages of files are counted as used, but are given back when memory is wanted.
    return Memory(total, max(0, total - used + int(stat.get(reclaimable, 0))))


def free_disk(folder: Path) -> int:
    """Return the bytes that a user may still write where the folder is, or will be."""
    return shutil.disk_usage(nearest_existing(folder)).free


def memory_bandwidth(threads: int) -> float:
    """Measure how many bytes a second so many threads read, in some 0.2 s.

    They multiply a matrix that is too large for any cache with a vector, which is what generating
    a token is too.
    """
    for name in ("OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
        os.environ.setdefault(name, str(threads))
    import numpy as np

    matrix = np.ones((_READ_BYTES // (4 * _READ_COLUMNS), _READ_COLUMNS), dtype=np.float32)
    vector = np.ones(_READ_COLUMNS, dtype=np.float32)
    seconds = []
    for _ in range(_READ_REPEATS):
        started = time.perf_counter()
        matrix @ vector
        seconds.append(time.perf_counter() - started)
    return matrix.nbytes / min(seconds)


# ---- processors -----------------------------------------------------------------------------


def default_threads() -> int:
    """One thread for each physical core that this process may use, and at least one.

    Matrix kernels saturate a core's vector units: a second hardware thread on it only takes turns
    with the first. A container's CPU quota (cgroup v2) counts as fewer cores.
    """
    return max(1, min(_physical_cores(), _quota()))


def _physical_cores() -> int:
    usable = usable_cpus()
    siblings = set()
    for cpu in usable:
        try:
            path = _TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list"
            siblings.add(path.read_text(encoding="ascii"))
        except OSError:  # not Linux, or a sandbox that hides it
            return len(usable)
    return len(siblings)


def usable_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _quota() -> int:
    try:
        quota, period = _CGROUP_QUOTA.read_text(encoding="ascii").split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return 2**16


def others_running() -> int:
    """Return how many threads of other processes run or wait for a CPU at this moment.

    The parent's main thread does not count: it has just sent a request.
    """
    try:
        running = int(_LOAD.read_text(encoding="ascii").split()[3].split("/")[0])
        parent = Path(f"/proc/{os.getppid()}/stat").read_text(encoding="utf-8", errors="replace")
        return max(0, running - 1 - parent.rpartition(")")[2].startswith(" R"))
    except (OSError, ValueError, IndexError):  # not Linux
        return 0


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        name = host.lower()
        return name == "localhost" or name.endswith(".localhost")
