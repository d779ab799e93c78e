"""How many threads are worth starting on this machine, and what others leave of it."""

import contextlib
import os
import time
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_TASKS = Path("/proc/self/task")
_LOAD = Path("/proc/loadavg")


def default_threads() -> int:
    """One thread for each physical core that this process may use, and at least one.

    Matrix kernels saturate a core's vector units: a second hardware thread on the same core only
    takes turns with the first. A container's CPU quota (cgroup v2) counts as fewer cores.
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
    """Return the numbers of the CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _quota() -> int:
    """Return the whole CPUs of this container's quota, or a very large number without one."""
    try:
        quota, period = _CGROUP_QUOTA.read_text(encoding="ascii").split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return 2**16


def others_running() -> int:
    """Return how many threads of other processes run or wait for a CPU at this moment."""
    try:
        return int(_LOAD.read_text(encoding="ascii").split()[3].split("/")[0]) - 1
    except (OSError, ValueError, IndexError):  # not Linux
        return 0


class LostTime:
    """Measures for how long the threads of a step wanted a CPU that others had.

    Args:
        threads: of the step.
        spin: they want one all the time, so what they did not get tells it. For threads that may
            sleep while they wait for each other, Linux counts how long they waited for a CPU.
    """

    def __init__(self, threads: int, *, spin: bool) -> None:
        self._threads = threads
        self._delay = None if spin else _run_delay()
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self) -> tuple[float, float]:
        """Return how long the step took, and what it lost, in seconds."""
        seconds, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        if self._delay is not None and (delay := _run_delay()) is not None:
            return seconds, max(0.0, delay - self._delay)  # a thread takes its own with it
        return seconds, max(0.0, self._threads * seconds - cpu)


def _run_delay() -> float | None:
    """Return the seconds that this process's threads have waited for a CPU; None if not known."""
    nanoseconds = 0
    try:
        tasks = list(_TASKS.iterdir())
        for task in tasks:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                nanoseconds += int((task / "schedstat").read_bytes().split()[1])
    except (OSError, ValueError, IndexError):  # not Linux, or without statistics
        return None
    return nanoseconds / 1e9
