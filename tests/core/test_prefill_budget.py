"""The gaps of running streams on made-up machines, whose steps cost what the scheduler puts in."""

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.api import FinishReason
from llmstream_cli.core.prefill_budget import TARGET_SECONDS, PrefillBudget
from llmstream_cli.core.prefix_cache import PrefixCache
from llmstream_cli.core.scheduler import DrawnToken, Scheduler, Step
from llmstream_cli.core.sequence import Sequence

PROMPT_TOKENS = 1800


@dataclass(frozen=True)
class Machine:
    """Seconds of each thing in a step; they add up, and then vary."""

    base: float  # of decoding at all
    stream: float  # of each stream that decodes
    token: float  # of a prompt token at the start of its prompt
    position: float  # more for each token before it
    copy: float = 0.0045  # of a KV stream
    noise: float = 0.05  # standard deviation of a step, as a part of it

    def seconds(self, step: Step, rng: random.Random) -> float:
        seconds = self.base + self.stream * step.num_decoding if step.num_decoding else 0.0
        for part in step.parts[step.num_decoding :]:
            tokens, middle = part.end - part.start, (part.start + part.end) / 2
            seconds += tokens * (self.token + self.position * middle)
        seconds += self.copy * sum(reuse.is_copy for reuse in step.reuses)
        return seconds * rng.lognormvariate(0, self.noise)


# The first is the embedded model on two cores, as measured.
SMALL = Machine(base=0.004, stream=0.0034, token=0.003, position=2.9e-6)
FLAT = Machine(base=0.004, stream=0.002, token=0.001, position=1e-7)
LARGE = Machine(base=0.08, stream=0.01, token=0.008, position=2e-6)


class Traffic:
    """A scheduler whose steps take the machine's time."""

    def __init__(self, machine: Machine, *, max_seqs: int, max_batch_tokens: int = 64) -> None:
        self.machine = machine
        self.steps: list[tuple[Step, float]] = []
        self.scheduler = Scheduler(
            PrefixCache(max_seqs, min_copy_tokens=16),
            max_batch_tokens=max_batch_tokens,
            ctx_size=100_000,
        )
        self._rng = random.Random(7)
        self._fresh = count(1_000_000)

    def submit(self, num_tokens: int, prefix: list[int] | None = None) -> Sequence:
        tokens = [*(prefix or []), *(next(self._fresh) for _ in range(num_tokens))]
        sequence = Sequence(tokens)
        self.scheduler.add(sequence)
        return sequence

    def step(self, seconds: float | None = None) -> None:
        step = self.scheduler.schedule()
        if seconds is None:
            seconds = self.machine.seconds(step, self._rng)
        self.steps.append((step, seconds))
        drawn = {p.sequence: DrawnToken(0, ends_turn=False) for p in step.parts if p.samples}
        self.scheduler.update(step, drawn, seconds)

    def steps_until(self, done: Callable[[], bool]) -> list[float]:
        """Step on; return the seconds of these steps."""
        begun = len(self.steps)
        while not done():
            assert len(self.steps) - begun < 5000
            self.step()
        return [seconds for _, seconds in self.steps[begun:]]

    def decode(self, num_streams: int, num_steps: int = 60) -> list[float]:
        """Start streams; return the seconds of steps in which all decode and nothing else."""
        streams = [self.submit(34) for _ in range(num_streams)]
        self.steps_until(lambda: all(stream.num_output_tokens for stream in streams))
        end = len(self.steps) + num_steps
        return self.steps_until(lambda: len(self.steps) == end)

    def join(self, num_tokens: int = PROMPT_TOKENS, prefix: list[int] | None = None) -> list[float]:
        """Compute a prompt beside the streams; return the gaps that they see meanwhile."""
        sequence = self.submit(num_tokens, prefix)
        gaps = self.steps_until(lambda: sequence.num_output_tokens > 0)
        self.scheduler.finish(sequence, FinishReason.CANCELLED)
        return gaps


def limit(gaps: list[float]) -> float:
    return max(TARGET_SECONDS, 2 * statistics.median(gaps))


def prompt_tokens(step: Step) -> int:
    return sum(part.end - part.start for part in step.parts[step.num_decoding :])


@pytest.mark.parametrize("noise", [0.0, 0.05], ids="noise {}".format)
@pytest.mark.parametrize("num_streams", [1, 3, 8])
@pytest.mark.parametrize("machine", [SMALL, FLAT, LARGE], ids=["small", "flat", "large"])
def test_no_gap_is_longer_than_the_limit_and_the_time_is_used(
    machine: Machine, num_streams: int, noise: float
) -> None:
    traffic = Traffic(replace(machine, noise=noise), max_seqs=num_streams + 1)
    longest = limit(traffic.decode(num_streams))
    for num_tokens in (PROMPT_TOKENS, 300, 40, PROMPT_TOKENS):
        gaps = traffic.join(num_tokens)
        assert max(gaps) <= longest
    assert statistics.median(gaps) > 0.65 * longest


def test_a_prompt_that_begins_deep_in_a_known_prefix_is_known_to_be_dear() -> None:
    traffic = Traffic(SMALL, max_seqs=20)
    longest = limit(traffic.decode(8))
    prefix = list(range(PROMPT_TOKENS))
    traffic.join(50, prefix)
    for _ in range(10):
        traffic.join(40)
    gaps = traffic.join(100, prefix)
    begins = traffic.steps[-len(gaps)][0].parts[-1].start
    assert begins == PROMPT_TOKENS
    assert max(gaps) <= longest


def test_a_short_prompt_after_a_long_one_is_known_to_be_cheap() -> None:
    traffic = Traffic(replace(SMALL, noise=0.0), max_seqs=9)
    traffic.decode(8)
    before = len(traffic.join(40))
    traffic.join(PROMPT_TOKENS)
    assert len(traffic.join(40)) <= before


@pytest.mark.parametrize("num_streams", [1, 8])
def test_requests_with_a_common_prefix_do_not_all_copy_it_in_one_step(num_streams: int) -> None:
    traffic = Traffic(replace(SMALL, copy=0.02), max_seqs=num_streams + 12)
    traffic.decode(num_streams)
    prefix = list(range(500))
    followers = [traffic.submit(10, prefix) for _ in range(12)]
    begun = len(traffic.steps)
    traffic.steps_until(lambda: all(sequence.num_output_tokens for sequence in followers))
    steps = traffic.steps[begun:]
    assert sum(reuse.is_copy for step, _ in steps for reuse in step.reuses) == 11
    all_decoding = traffic.machine.base + traffic.machine.stream * (num_streams + 12)
    assert max(seconds for _, seconds in steps) <= max(TARGET_SECONDS, 2 * all_decoding)


def test_while_nobody_decodes_all_copies_are_made_at_once() -> None:
    traffic = Traffic(SMALL, max_seqs=4)
    prefix = list(range(50))
    leader, *_ = (traffic.submit(5, prefix) for _ in range(4))
    traffic.steps_until(lambda: leader.num_output_tokens > 0)
    traffic.scheduler.finish(leader, FinishReason.CANCELLED)
    traffic.step()
    step, _ = traffic.steps[-1]
    assert [reuse.is_copy for reuse in step.reuses] == [True] * 3


def test_one_step_that_took_very_long_does_not_stop_prompts_for_good() -> None:
    """The machine was suspended, say."""
    traffic = Traffic(SMALL, max_seqs=3)
    traffic.decode(2)
    traffic.submit(20_000)
    traffic.step()
    usual = prompt_tokens(traffic.steps[-1][0])
    traffic.step(seconds=5.0)
    for _ in range(60):
        traffic.step()
    assert prompt_tokens(traffic.steps[-2][0]) > usual / 2


def test_a_machine_that_gets_slower_is_followed_within_some_steps() -> None:
    traffic = Traffic(replace(SMALL, noise=0.0), max_seqs=3)
    longest = limit(traffic.decode(2))
    traffic.submit(20_000)
    for _ in range(10):
        traffic.step()
    slow = replace(traffic.machine, token=2 * traffic.machine.token)
    traffic.machine = slow
    for _ in range(6):
        traffic.step()
    assert traffic.steps[-1][1] <= longest


def test_streams_that_were_never_seen_alone_do_not_stop_a_prompt() -> None:
    """They come while prompts are computed all the time, so no step tells what they cost."""
    machine = replace(LARGE, base=0.01, noise=0.0)
    traffic = Traffic(machine, max_seqs=9)
    traffic.decode(1)
    traffic.submit(50_000)
    short = [traffic.submit(1) for _ in range(7)]
    traffic.steps_until(lambda: all(stream.num_output_tokens for stream in short))
    for _ in range(100):
        traffic.step()
    decode = machine.base + 8 * machine.stream
    sizes = [prompt_tokens(step) for step, _ in traffic.steps[-40:]]
    assert statistics.median(sizes) > 0.25 * decode / machine.token
    assert 0 in sizes


def test_steps_that_vary_more_are_aimed_lower() -> None:
    medians = []
    for noise in (0.0, 0.2):
        traffic = Traffic(replace(SMALL, noise=noise), max_seqs=2)
        traffic.decode(1)
        medians.append(statistics.median(traffic.join()))
    assert medians[1] < 0.85 * medians[0]
    assert medians[1] > 0.4 * TARGET_SECONDS  # but never so low that prompts starve


decoding = st.integers(0, 8)
seconds = st.floats(0, 10)
observations = st.lists(
    st.tuples(decoding, st.integers(0, 5000), st.integers(0, 63), seconds, st.integers(0, 3))
)


@given(observations, decoding, st.integers(0, 10_000), st.integers(1, 63))
def test_whatever_was_measured_a_step_stays_within_its_batch(
    observed: list[tuple[int, int, int, float, int]], num_decoding: int, start: int, wanted: int
) -> None:
    budget = PrefillBudget(16)
    for number, begin, size, took, copies in observed:
        parts = [(begin, begin + size)] if size else []
        budget.observe(number, parts, took, num_copies=copies)
    step = budget.step_budget(num_decoding)
    assert step.tokens == 16 - num_decoding
    while not step.is_spent:
        left = step.tokens
        assert 1 <= step.take_tokens(start, wanted) <= min(wanted, left)
    assert step.tokens >= 0
    if not num_decoding:
        assert step.tokens == 0  # nobody is kept waiting


@pytest.mark.parametrize("seconds", [0.0, 0.01])
def test_an_expensive_copy_leaves_one_token_or_such_as_cost_nothing(seconds: float) -> None:
    budget = PrefillBudget(64)
    budget.observe(1, [], 0.01)
    budget.observe(0, [(0, 10)], seconds)
    budget.observe(0, [(0, 10)], 5.0, num_copies=1)
    step = budget.step_budget(1)
    step.take_copy()
    assert step.take_tokens(0, 10) == (1 if seconds else 10)
    assert step.is_spent
