"""With how many threads the next step runs, and how they wait, on a machine that others use too.

llama.cpp's threads wait for each other after every operation, hundreds of times a step. Spinning
is the fastest way to wait while each thread has a core of its own. Where another process takes one
of the cores, those that spin use up the time that the delayed thread needs: a step then takes up
to a hundred times as long. There the threads must sleep while they wait, or be fewer.

Rules:

1. All threads spin until steps lose CPU time to others, and take longer than is usual for their
   size. Then the machine is contended. (A server's own processes take time without slowing it.)
2. While it is, all modes are tried in turn, and the fastest runs. Their speeds depend on how many
   tokens a step has, so they are kept by the size of the step.
3. Its neighbours, and all threads, are tried again for a step every `_INTERVAL` seconds, more
   rarely the more time the last trial cost: a step of threads that spin can take a second.
4. If all threads run and lose no time, or spin and are faster than all else, the machine is quiet
   again. Where that proved wrong soon afterwards, they must do so for longer the next time.

`ThreadControl` is pure: time is what the steps took, which `LostTime` measures.
"""

import contextlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_TASKS = Path("/proc/self/task")

_INTERVAL = 0.4  # seconds; a quiet machine is to be noticed within one
_COST_FACTOR = 32  # a trial's excess may take this part of the time
_FIRST_TRIAL = 2.0  # seconds until the quiet mode is tried on a machine that only seems busy
_GAIN = 0.3  # how much of what a step tells of its mode's speed is believed
_RELAPSE = 1.0  # seconds; contended again so soon, the machine was not quiet
_FIRST_PATIENCE, _LONGEST_PATIENCE = 0.02, 0.16  # seconds without a loss that mean quiet
_LOST, _CLEAN = 0.4, 0.25  # CPU seconds lost in a second, of a contended and of a quiet machine
_DELAYED = 0.4  # the part of the time, of late, by which steps that lost some were too long
_LOST_PER_THREAD = 0.01
_DIRT = 2.0  # how much a second with a loss weighs against one without
_BLIP = 0.1  # seconds; what is shorter counts for less
_DRIFT = 0.02  # how much of what a step takes becomes usual: contexts grow


class Mode(NamedTuple):
    threads: int  # how many
    spin: bool  # whether they spin while they wait for each other; else they sleep


def modes(threads: int, *, fixed: bool, can_sleep: bool) -> list[Mode]:
    """Return the mode for a quiet machine, then those for a contended one.

    A quiet machine has cores for so many `threads`; `fixed` never takes fewer.
    """
    if threads == 1:
        return [Mode(1, spin=True)]
    all_threads = [Mode(threads, spin=True)]
    if can_sleep:
        all_threads.append(Mode(threads, spin=False))
    halves = {threads >> shift for shift in range(1, threads.bit_length())}
    fewer = sorted(halves | {threads - 1}, reverse=True)
    return all_threads + [Mode(n, not can_sleep) for n in fewer if not fixed]


class ThreadControl:
    """Chooses a step's mode, of those that `modes` returns, by what the steps before it took."""

    def __init__(self, modes: Sequence[Mode]) -> None:
        self._modes = modes
        self._quiet = modes[0]
        self._num_full = sum(mode.threads == self._quiet.threads for mode in modes)
        self._allowance = _LOST_PER_THREAD * self._quiet.threads
        self._elapsed = self._quiet_since = 0.0
        self._patience = _FIRST_PATIENCE
        self._usual: dict[int, float] = {}  # seconds a token on a quiet machine, by the step's size
        self.restart(contended=False)

    def restart(self, *, contended: bool) -> None:
        """Begin anew, after a pause in which the machine may have changed."""
        self.contended = contended and len(self._modes) > 1
        self._mode = self._quiet
        self._costs: dict[tuple[int, Mode], float] = {}  # seconds a token, by the step's size
        self._due = dict.fromkeys(self._modes, 0.0)  # when a mode is to be tried again
        self._due[self._quiet] = self._elapsed + _FIRST_TRIAL
        self._delayed = 0.0  # by others, the part of the time of late, on a quiet machine
        self._clean_seconds = 0.0  # in which all threads lost nothing, less the others

    def choose(self, num_tokens: int, *, all_threads: bool = False) -> Mode:
        """Return the mode for a step of `num_tokens`, maybe one with all threads."""
        if not self.contended:
            self._mode = self._quiet
        elif not self._clean_seconds:
            choice = self._modes[: self._num_full] if all_threads else self._modes
            self._mode = self._next(num_tokens.bit_length(), choice)
        return self._mode

    def observe(self, num_tokens: int, seconds: float, lost: float) -> None:
        """Learn from a step in the mode that was chosen for it; all its threads lost so much."""
        self._elapsed += seconds
        size, per_token = num_tokens.bit_length(), seconds / num_tokens
        if not self.contended:
            self._compare(
                size, seconds, num_tokens, disturbed=lost > (_LOST + self._allowance) * seconds
            )
            return
        known = self._costs.get((size, self._mode), per_token)
        self._costs[size, self._mode] = known + _GAIN * (per_token - known)
        costs = {mode: cost for (s, mode), cost in self._costs.items() if s == size}
        fastest = min(costs.values())
        excess = seconds - fastest * num_tokens
        self._due[self._mode] = self._elapsed + max(_INTERVAL, _COST_FACTOR * excess)
        if self._mode in self._modes[: self._num_full]:
            del costs[self._mode]
            spins_fastest = self._mode == self._quiet and per_token < min(costs.values(), default=0)
            clean = lost < (_CLEAN + self._allowance) * seconds or spins_fastest
            self._look_for_quiet(seconds, clean=clean)

    def _compare(self, size: int, seconds: float, num_tokens: int, *, disturbed: bool) -> None:
        """Compare a step on a quiet machine with what is usual for its size."""
        usual = self._usual.get(size)
        excess = seconds - (usual or 0.0) * num_tokens
        delayed = max(0.0, excess / seconds) if disturbed else 0.0
        self._delayed += min(1.0, seconds / _BLIP) * (delayed - self._delayed)
        if self._delayed > _DELAYED and len(self._modes) > 1:
            self._enter(excess)
        elif usual is not None:
            per_token = seconds / num_tokens
            self._usual[size] = min(per_token, usual + _DRIFT * (per_token - usual))
        elif not disturbed:
            self._usual[size] = seconds / num_tokens

    def _enter(self, seconds: float) -> None:
        """Leave the quiet mode after a step that others delayed for so long."""
        relapse = self._elapsed - self._quiet_since < _RELAPSE
        self._patience = min(2 * self._patience, _LONGEST_PATIENCE) if relapse else _FIRST_PATIENCE
        costs, due = self._costs, self._due
        self.restart(contended=True)
        if relapse:  # into what is known
            self._costs, self._due = costs, due
        self._due[self._quiet] = self._elapsed + _COST_FACTOR * seconds

    def _look_for_quiet(self, seconds: float, *, clean: bool) -> None:
        self._clean_seconds += seconds if clean else -_DIRT * seconds
        self._clean_seconds = max(0.0, self._clean_seconds)
        if self._clean_seconds >= self._patience:
            self.contended = False
            self._quiet_since, self._delayed = self._elapsed, 0.0

    def _next(self, size: int, choice: Sequence[Mode]) -> Mode:
        """Return a mode of the choice that is to be tried, else the fastest."""
        costs = [self._costs.get((size, mode), math.inf) for mode in choice]
        fastest = costs.index(min(costs)) if min(costs) < math.inf else self._num_full - 1
        near = {*range(self._num_full), fastest - 1, fastest, fastest + 1} & {*range(len(costs))}
        due = [i for i in near if self._due[choice[i]] <= self._elapsed]
        unknown = [i for i in near if costs[i] == math.inf and i]
        return choice[min(unknown or due, default=fastest)]


class LostTime:
    """Measures for how long the threads of a step wanted a CPU that others had.

    Threads that spin want one all the time, so what they did not get tells it. For those that may
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
