"""What the time of a benchmark is enough for, and how it is told."""

import asyncio
import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.cli import bench_progress
from llmstream_cli.cli.bench_progress import Plan, Progress


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that stands still but for this."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def left(plan: Plan) -> float | None:
    return plan.left


async def test_a_run_is_taken_to_last_as_long_as_the_last_for_each_stream(
    pass_time: Callable[[float], None],
) -> None:
    plan = Plan([1, 1, 2, 4], seconds=10.0)
    assert left(plan) is None
    assert plan.allows(4)
    async with plan.run(1):
        pass_time(1.0)
    assert (plan.pending, plan.elapsed, left(plan)) == ([1, 2, 4], 1.0, 7.0)
    assert plan.allows(4, runs=2)
    assert not plan.allows(4, runs=3)
    async with plan.run(1):
        pass_time(0.5)
        assert left(plan) == 6.5
        pass_time(1.5)
    assert left(plan) == 7.0  # of the twelve seconds that the rest would take
    assert not plan.allows(4)
    assert plan.allows(3)


async def test_a_run_ends_with_the_time() -> None:
    plan = Plan([1], seconds=0.0)
    with pytest.raises(TimeoutError):
        async with plan.run(1):
            await asyncio.sleep(60)
    assert plan.pending == [1]


async def test_without_a_limit_all_runs_are_allowed(pass_time: Callable[[float], None]) -> None:
    plan = Plan([1, 256], seconds=None)
    async with plan.run(1):
        pass_time(1e6)
    assert plan.allows(256, runs=1000)
    assert left(plan) == 256e6


@given(st.floats(0, 1))
def test_a_bar_has_one_length(fraction: float) -> None:
    assert len(bench_progress._bar(fraction)) == 26


async def test_a_terminal_sees_a_bar_and_the_time_left(
    pass_time: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", screen)
    plan = Plan([1, 1], seconds=60.0)
    progress = Progress(plan)
    progress.show("warming up")
    assert screen.getvalue() == "\r\x1b[Kwarming up"
    async with plan.run(1):
        pass_time(3.0)
    progress.show("run 1")
    assert screen.getvalue().endswith("\r\x1b[K[############------------] 3 s left, run 1")


def test_elsewhere_nothing_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(Plan([1], None))
    progress.show("warming up")
    progress.clear()
    assert capsys.readouterr().err == ""
