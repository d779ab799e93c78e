"""What the time of a benchmark is enough for, and how it is told."""

from collections.abc import Callable

import pytest

from llmstream_cli.cli.bench.progress import Plan


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that stands still but for this."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_a_run_is_taken_to_last_as_long_as_the_last_for_each_stream(
    pass_time: Callable[[float], None],
) -> None:
    plan = Plan([1, 1, 2, 4], seconds=10.0)
    assert (plan.left, plan.allows(4)) == (None, True)
    plan.start_run("warming up")
    assert plan.line == "warming up"
    pass_time(1.0)
    plan.end_run(1)
    assert (plan.pending, plan.elapsed, plan.left) == ([1, 2, 4], 1.0, 7.0)
    assert (plan.allows(4, runs=2), plan.allows(4, runs=3)) == (True, False)
    assert plan.line == "[###---------------------] 7 s left, warming up"
    plan.start_run("distinct")
    pass_time(0.5)
    assert plan.left == 6.5
    pass_time(1.5)
    plan.end_run(1)
    assert plan.left == 7.0  # of the twelve seconds that the rest would take
    assert (plan.allows(4), plan.allows(3)) == (False, True)


def test_without_a_limit_all_runs_are_allowed() -> None:
    assert Plan([1, 256], seconds=None).allows(256, runs=1000)
