"""Whether libgomp's threads spin or sleep while they wait for each other at llama.cpp's barriers.

While a process has more OpenMP threads than CPUs, libgomp spins for at most 100 rounds, a
microsecond or two, before it sleeps, whatever spin count it was loaded with. Threads that do
nothing, in a team of their own, are thus a switch for all others.
"""

import ctypes
import threading

from llmstream_cli.core.cpu import usable_cpus
from llmstream_cli.core.llama.bindings import run_openmp_team


class SpinSwitch:
    """Lets the OpenMP threads of this process sleep while they wait, and spin again.

    Attributes:
        works: whether there is a libgomp whose threads it switches.
    """

    works = run_openmp_team is not None

    def __init__(self) -> None:
        self._team: tuple[threading.Thread, threading.Event] | None = None

    def set(self, *, spin: bool) -> None:
        """Let threads spin or sleep while they wait, from now on."""
        if spin and self._team is not None:
            thread, release = self._team
            release.set()
            thread.join()
            self._team = None
        elif not spin and self._team is None and self.works:
            release, started = threading.Event(), threading.Event()
            thread = threading.Thread(
                target=_keep_team, args=(started, release), name="spin-switch", daemon=True
            )
            thread.start()
            started.wait()
            self._team = thread, release


def _keep_team(started: threading.Event, release: threading.Event) -> None:
    """Have one OpenMP thread more than there are CPUs, beside others; they end with this thread."""
    assert run_openmp_team is not None
    harmless = ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p)
    run_openmp_team(harmless, ctypes.c_char_p(b""), len(usable_cpus()) + 1, 0)
    started.set()
    release.wait()
