"""How many threads are worth starting on this machine."""

import os
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def default_threads() -> int:
    """One thread for each physical core that this process may use, and at least one.

    Matrix kernels saturate a core's vector units: a second hardware thread on the same core only
    takes turns with the first. A container's CPU quota (cgroup v2) counts as fewer cores.
    """
    return max(1, min(_physical_cores(), _quota()))


def _physical_cores() -> int:
    usable = _usable_cpus()
    siblings = set()
    for cpu in usable:
        try:
            path = _TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list"
            siblings.add(path.read_text(encoding="ascii"))
        except OSError:  # not Linux, or a sandbox that hides it
            return len(usable)
    return len(siblings)


def _usable_cpus() -> list[int]:
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
