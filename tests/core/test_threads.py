"""With how many threads a step runs, on simulated machines, and what a step lost to others."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstream_cli.core import threads
from llmstream_cli.core.threads import LostTime, Mode, ThreadControl, modes

ALL, SLEEPING, ONE = modes(2, fixed=False, can_sleep=True)
Machine = Callable[[Mode, int], tuple[float, float]]  # a step's seconds, and those that it loses


def quiet(mode: Mode, num_tokens: int) -> tuple[float, float]:
    seconds = {ALL: 0.009, SLEEPING: 0.013, ONE: 0.013}[mode] * num_tokens**0.7
    return seconds, 0.1 * seconds


def two_loops(mode: Mode, num_tokens: int) -> tuple[float, float]:
    """Others in both cores, as measured with one token a step."""
    seconds = {ALL: 0.02, SLEEPING: 0.027, ONE: 0.022}[mode] * num_tokens**0.7
    seconds += 0.4 if mode == ALL else 0.0  # as often as threads wait, whatever they compute
    return seconds, {ALL: 1.0, SLEEPING: 0.8, ONE: 0.4}[mode] * seconds


def one_loop(mode: Mode, num_tokens: int) -> tuple[float, float]:
    """One core is the others'; a single thread loses nothing."""
    seconds = {ALL: 0.01, SLEEPING: 0.018, ONE: 0.013}[mode] * num_tokens**0.7
    seconds += 0.3 if mode == ALL else 0.0
    return seconds, {ALL: 1.0, SLEEPING: 0.8, ONE: 0.0}[mode] * seconds


def controlled(choice: list[Mode] | None = None, *, contended: bool = False) -> ThreadControl:
    control = ThreadControl(choice or [ALL, SLEEPING, ONE])
    control.restart(contended=contended)
    return control


def run(
    control: ThreadControl, machine: Machine, seconds: float, num_tokens: int = 1
) -> list[tuple[Mode, float]]:
    """Step for some seconds; return each step's mode and time."""
    steps: list[tuple[Mode, float]] = []
    while seconds > 0:
        mode = control.choose(num_tokens)
        took, lost = machine(mode, num_tokens)
        control.observe(num_tokens, took, lost)
        seconds -= took
        steps.append((mode, took))
    return steps


def efficiency(steps: list[tuple[Mode, float]], fastest: float) -> float:
    return fastest * len(steps) / sum(seconds for _, seconds in steps)


@pytest.mark.parametrize(
    ("num_threads", "fixed", "can_sleep", "expected"),
    [
        (1, False, True, ["1 spin"]),
        (2, False, True, ["2 spin", "2", "1"]),
        (2, True, True, ["2 spin", "2"]),
        (2, False, False, ["2 spin", "1 spin"]),
        (2, True, False, ["2 spin"]),
        (12, False, True, ["12 spin", "12", "11", "6", "3", "1"]),
        (64, False, False, [f"{n} spin" for n in (64, 63, 32, 16, 8, 4, 2, 1)]),
    ],
)
def test_modes(num_threads: int, fixed: bool, can_sleep: bool, expected: list[str]) -> None:
    found = modes(num_threads, fixed=fixed, can_sleep=can_sleep)
    assert [f"{mode.threads}{' spin' * mode.spin}" for mode in found] == expected


def test_a_quiet_machine_has_all_threads_spinning_whatever_disturbs_it_shortly() -> None:
    control = controlled()
    for _ in range(100):
        control.observe(1, 0.011, 0.005)
        assert {mode for mode, _ in run(control, quiet, 0.1)} == {ALL}
    assert not control.contended


@pytest.mark.parametrize("seed", range(20))
def test_a_server_beside_its_engine_takes_time_but_no_speed(seed: int) -> None:
    """As measured on two cores, with a client there, too; the clock of CPU time has 4 ms ticks."""
    chance = random.Random(seed)

    def machine(mode: Mode, _: int) -> tuple[float, float]:
        if chance.random() < 0.02:
            return 0.03, 0.02  # another program for a moment
        seconds = {ALL: 0.0105, SLEEPING: 0.029, ONE: 0.017}[mode] * chance.uniform(0.97, 1.25)
        return seconds, seconds * (chance.uniform(0.1, 0.55) if mode == ALL else 0.02)

    control = controlled(contended=seed % 2 == 1)
    run(control, machine, 1)
    steps = run(control, machine, 20)
    assert [mode for mode, _ in steps].count(ALL) > 0.9 * len(steps)


@pytest.mark.parametrize("machine", [one_loop, two_loops])
@pytest.mark.parametrize("num_tokens", [1, 8, 64])
def test_a_contended_machine_gets_its_fastest_mode(machine: Machine, num_tokens: int) -> None:
    control = controlled()
    run(control, quiet, 1, num_tokens)
    steps = run(control, machine, 20, num_tokens)
    assert [mode for mode, _ in steps].count(ALL) <= 3  # the step that noticed it, and trials
    assert efficiency(steps[1:], machine(ONE, num_tokens)[0]) > 0.9


@pytest.mark.parametrize("machine", [one_loop, two_loops])
@pytest.mark.parametrize("num_tokens", [1, 8])
def test_all_threads_spin_again_within_a_second_of_quiet(machine: Machine, num_tokens: int) -> None:
    control = controlled()
    for _ in range(20):  # however often they come and go
        run(control, machine, 2, num_tokens)
        assert control.contended
        run(control, quiet, 1, num_tokens)
        assert not control.contended


@given(
    st.integers(2, 64),
    st.booleans(),
    st.booleans(),
    st.lists(
        st.tuples(st.integers(1, 600), st.floats(1e-4, 2.0), st.floats(0.0, 1.0)), max_size=300
    ),
)
def test_whatever_steps_take_the_mode_is_one_of_those(
    num_threads: int, fixed: bool, can_sleep: bool, steps: list[tuple[int, float, float]]
) -> None:
    choice = modes(num_threads, fixed=fixed, can_sleep=can_sleep)
    control = controlled(choice)
    for num_tokens, seconds, lost in steps:
        mode = control.choose(num_tokens)
        assert mode in choice
        assert mode == choice[0] or control.contended
        control.observe(num_tokens, seconds, lost * seconds * mode.threads)


@settings(max_examples=15)
@given(st.floats(0.5, 2.0).filter(lambda ratio: abs(ratio - 1) > 0.02))
def test_what_trials_cost_is_bounded(ratio: float) -> None:
    """However much faster or slower each mode is than the one before, the fastest is found."""
    choice = modes(4, fixed=False, can_sleep=True)
    costs = {mode: 0.02 * ratio**index for index, mode in enumerate(choice[1:])}
    costs[choice[0]] = 0.5
    steps = run(controlled(choice, contended=True), lambda mode, _: (costs[mode], costs[mode]), 40)
    assert efficiency(steps, min(costs.values())) > 0.85


def test_threads_that_spin_run_where_they_lose_less_than_others() -> None:
    """As beside processes of low priority: whoever sleeps has to wait to be woken, no other."""
    costs = {ALL: (0.010, 0.001), SLEEPING: (0.02, 0.016), ONE: (0.013, 0.0)}
    steps = run(controlled(contended=True), lambda mode, _: costs[mode], 30)
    assert {mode for mode, _ in steps[-500:]} == {ALL}


def test_a_machine_that_only_seemed_quiet_has_to_be_so_for_longer_the_next_time() -> None:
    control, waits = controlled([ALL, SLEEPING], contended=True), []
    for quiet_seconds in (0.1, 0.1, 0.1, 0.1, 2.0, 0.1):
        steps = 0
        while control.contended:
            control.choose(1)
            control.observe(1, 0.005, 0.0)
            steps += 1
        waits.append(steps)
        run(control, quiet, quiet_seconds)
        while not control.contended:
            control.observe(1, 0.03, 0.06)
    assert waits == [4, 8, 16, 32, 32, 4]


def test_far_fewer_threads_are_tried_only_where_fewer_are_faster() -> None:
    control = controlled(modes(64, fixed=False, can_sleep=True), contended=True)
    steps = run(control, lambda mode, _: (1.3 / mode.threads, 0.6), 20)
    assert {mode.threads for mode, _ in steps} == {64, 63}
    control.restart(contended=True)
    steps = run(control, lambda mode, _: (0.001 * mode.threads, 0.6), 20)
    assert steps[-1][0].threads <= 2


def test_where_threads_cannot_sleep_fewer_run() -> None:
    control = controlled(modes(2, fixed=False, can_sleep=False))
    steps = run(control, lambda m, _: (0.4, 0.4) if m.threads == 2 else (0.02, 0.0), 30)
    assert efficiency(steps, 0.02) > 0.7
    run(control, lambda m, _: (0.01, 0.0) if m.threads == 2 else (0.02, 0.0), 10)
    assert not control.contended


def test_a_fixed_number_of_threads_can_still_sleep() -> None:
    control = controlled(modes(2, fixed=True, can_sleep=True))
    assert {mode for mode, _ in run(control, two_loops, 5)[1:]} == {SLEEPING}
    assert {mode for mode, _ in run(control, quiet, 2)[-50:]} == {ALL}
    nothing_to_choose = controlled(modes(2, fixed=True, can_sleep=False))
    assert {mode for mode, _ in run(nothing_to_choose, two_loops, 5)} == {ALL}


@pytest.mark.parametrize("machine", [one_loop, two_loops])
def test_a_step_may_need_all_threads(machine: Machine) -> None:
    control, found = controlled(contended=True), set()
    for number in range(2000):
        only = number % 3 == 0 or number > 1000
        mode = control.choose(1, all_threads=only)
        control.observe(1, *machine(mode, 1))
        found.add((only, mode))
    assert {mode for only, mode in found if only} <= {ALL, SLEEPING}
    assert (False, ONE) in found


def test_after_a_pause_it_begins_as_it_is_told() -> None:
    control = controlled(contended=True)
    assert control.choose(34) == SLEEPING
    control.restart(contended=False)
    assert control.choose(34) == ALL
    assert controlled([ALL], contended=True).choose(1) == ALL


# ---- lost time ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_threads", "spin", "cpu", "schedstat", "lost"),
    [
        (4, True, 5.0, ("0 1000000000 0", "0 2000000000 0"), 3.0),
        (4, True, 9.0, ("0 1000000000 0", "0 2000000000 0"), 0.0),  # other threads ran as well
        (2, False, 1.0, ("123 5000000000 7", "123 5750000000 9"), 0.75),
        (2, False, 1.0, (None, None), 3.0),
        (2, False, 1.0, ("", ""), 3.0),
        (2, False, 1.0, ("no statistics", "no statistics"), 3.0),
    ],
    ids=["spin", "others", "sleep", "not Linux", "empty", "no statistics"],
)
def test_lost_time(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    num_threads: int,
    spin: bool,
    cpu: float,
    schedstat: tuple[str | None, str | None],
    lost: float,
) -> None:
    clocks = {"perf_counter": 0.0, "process_time": 0.0}
    for name in ("perf_counter", "process_time"):
        monkeypatch.setattr(time, name, lambda name=name: clocks[name])
    monkeypatch.setattr(threads, "_TASKS", tmp_path / "task")
    (tmp_path / ("task" if schedstat[0] is not None else "other") / "2").mkdir(parents=True)

    def account(text: str | None) -> None:
        if text is not None:
            (tmp_path / "task" / "1").mkdir(exist_ok=True)  # 2 is a thread that has just ended
            (tmp_path / "task" / "1" / "schedstat").write_text(text)

    account(schedstat[0])
    step = LostTime(num_threads, spin=spin)
    clocks |= {"perf_counter": 2.0, "process_time": cpu}
    account(schedstat[1])
    assert step.stop() == (2.0, lost)
