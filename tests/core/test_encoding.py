"""Prompts encoded within a time limit, on threads that can be stopped."""

import threading
import time
from collections.abc import Callable

import pytest

from llmstream_cli.core.api import GenerationRequest
from llmstream_cli.core.encoding import EncodingPool, EncodingStuckError
from llmstream_cli.errors import EngineError, InvalidValueError, LLMStreamError, PromptError

Outcome = list[int] | LLMStreamError


def burn() -> None:
    while True:
        sum(range(100))


class Bench:
    """A pool whose encodings do what their prompts say."""

    def __init__(self, *, places: int = 4, seconds: float = 300.0) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self.started: list[str] = []
        self.go_on = threading.Event()
        self.stopped = threading.Event()
        self.pool = EncodingPool(self._encode, self._deliver, places=places, seconds=seconds)

    def submit(self, request_id: int, prompt: str) -> None:
        self.pool.submit(request_id, GenerationRequest(prompt=prompt))

    def _encode(self, request: GenerationRequest) -> list[int]:
        prompt = request.prompt
        assert isinstance(prompt, str)
        self.started.append(prompt)
        match prompt:
            case "burn":
                try:
                    burn()
                finally:
                    self.stopped.set()
            case "wait":  # one call, which a thread cannot be made to leave
                self.go_on.wait(300)
            case "refuse":
                raise InvalidValueError("a foreign token")
            case "bug":
                raise ZeroDivisionError("a bug")
        return [len(prompt)]

    def _deliver(self, request_id: int, request: GenerationRequest, outcome: Outcome) -> None:
        assert request_id not in self.outcomes
        self.outcomes[request_id] = outcome

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < deadline
            self.pool.check()
            time.sleep(0.005)


def test_outcomes_are_tokens_or_errors() -> None:
    bench = Bench()
    for request_id, prompt in enumerate(["four", "refuse", "bug"]):
        bench.submit(request_id, prompt)
    bench.until(lambda: len(bench.outcomes) == 3)
    assert bench.outcomes[0] == [4]
    assert isinstance(bench.outcomes[1], InvalidValueError)
    assert isinstance(bench.outcomes[2], EngineError)
    assert "ZeroDivisionError" in str(bench.outcomes[2])


def test_only_so_many_run_at_once_and_in_order() -> None:
    bench = Bench(places=2)
    for request_id, prompt in enumerate(["wait", "wait", "c", "d"]):
        bench.submit(request_id, prompt)
    bench.until(lambda: len(bench.started) == 2)
    assert bench.started == ["wait", "wait"]
    bench.go_on.set()
    bench.until(lambda: len(bench.outcomes) == 4)
    assert set(bench.started[2:]) == {"c", "d"}
    bench.until(lambda: not bench.pool.busy)


def test_one_that_takes_too_long_is_stopped_and_harms_no_other() -> None:
    bench = Bench(places=1, seconds=0.2)
    bench.submit(0, "burn")
    bench.submit(1, "four")
    bench.until(lambda: len(bench.outcomes) == 2)
    assert isinstance(bench.outcomes[0], PromptError)
    assert "in 0.2 seconds" in str(bench.outcomes[0])
    assert bench.outcomes[1] == [4]
    assert bench.stopped.wait(300)
    bench.until(lambda: not bench.pool.busy)


def test_a_cancelled_one_is_stopped_and_never_heard_of() -> None:
    bench = Bench(places=1)
    bench.submit(0, "burn")
    bench.submit(1, "waits for the place")
    bench.until(lambda: bool(bench.started))
    bench.pool.cancel(1)
    bench.pool.cancel(0)
    bench.pool.cancel(99)
    bench.submit(2, "four")
    assert bench.stopped.wait(300)
    bench.until(lambda: not bench.pool.busy)
    assert bench.outcomes == {2: [4]}


def test_one_that_cannot_be_stopped_is_reported() -> None:
    bench = Bench(seconds=0.1)
    bench.submit(0, "wait")
    with pytest.raises(EncodingStuckError):
        bench.until(lambda: False)
    assert isinstance(bench.outcomes[0], PromptError)
    bench.go_on.set()
    deadline = time.monotonic() + 300
    while bench.pool._stopping[0].thread.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert list(bench.outcomes) == [0]
