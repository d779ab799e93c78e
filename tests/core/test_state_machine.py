"""Random traffic through the whole core: every rule at any time, and what always holds.

The fake model draws each token from all that is in the slot, so whatever goes wrong with a slot
changes an answer; and every answer is known beforehand from its prompt alone.
"""

import zlib
from array import array
from collections import deque
from dataclasses import dataclass, field
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from llmstream_cli.api import Chunk, FinishReason, SamplingParams
from llmstream_cli.core.engine_core import EngineCore
from llmstream_cli.core.model import EncodedRequest
from llmstream_cli.core.prefix_cache import PrefixCache
from llmstream_cli.core.runner import Runner
from llmstream_cli.core.scheduler import MAX_PART_TOKENS, DrawnToken, Scheduler
from llmstream_cli.core.sequence import SequenceStatus
from llmstream_cli.errors import EngineError, StepRefusedError
from tests.core.fakes import FakeClock, FakeRunner
from tests.core.test_output import oracle

CTX_SIZE = 140
PIECES = [b"a", b"b", b"ab", b"\xc3", b"\xa9", b"\xe2\x82", b"\xac", b"", b"\xff"]
FIRST_PIECE = 10  # prompts are made of the tokens below

# Two long texts that part in the middle, so prompts share short and long prefixes.
TEXTS = [[1, 2] * 45, [1, 2] * 20 + [3] * 50]
prompts = st.builds(
    lambda text, length, rest: [*text[:length], *rest],
    st.sampled_from(TEXTS),
    st.integers(0, 90),
    st.lists(st.integers(4, 6), min_size=1, max_size=30),
)
params = st.builds(
    SamplingParams,
    max_tokens=st.none() | st.integers(1, 12),
    stop=st.lists(st.text("abé€", min_size=1, max_size=3), max_size=2).map(tuple),
)


def draw(tokens: list[int]) -> DrawnToken:
    """The fake model: a hash of everything before decides, and one in ten tokens is the last."""
    number = zlib.crc32(array("i", tokens).tobytes())
    return DrawnToken(FIRST_PIECE + number // 10 % len(PIECES), ends_turn=number % 10 == 0)


def piece(token: int) -> bytes:
    return PIECES[token - FIRST_PIECE]


@dataclass
class Request:
    """A request that was taken, what it has to answer, and what has come of it."""

    number: int
    prompt: list[int]
    params: SamplingParams
    slow: bool  # its consumer takes the chunks late, or never
    chunks: list[Chunk] = field(default_factory=list)  # that the consumer has taken
    untaken: deque[Chunk] = field(default_factory=deque)
    num_ends: int = 0

    def expect(self) -> tuple[list[int], str, FinishReason]:
        """The tokens, the text and the reason, if it is left alone."""
        drawn: list[int] = []
        data = b""
        while True:
            token = draw([*self.prompt, *drawn])
            if token.ends_turn:
                return drawn, data.decode("utf-8", "replace"), FinishReason.STOP
            drawn.append(token.token_id)
            data += piece(token.token_id)
            answer, stopped = oracle(self.params.stop, data.decode("utf-8", "replace"))
            if stopped:
                return drawn, answer, FinishReason.STOP
            full = len(self.prompt) + len(drawn) == CTX_SIZE
            if full or len(drawn) == self.params.max_tokens:
                return drawn, answer, FinishReason.LENGTH

    @property
    def has_begun(self) -> bool:
        return bool(self.chunks or self.untaken)

    def receive(self, result: Chunk | EngineError) -> None:
        assert self.num_ends == 0
        if isinstance(result, Chunk):
            self.untaken.append(result)
            self.num_ends += result.finish_reason is not None
        else:
            self.num_ends += 1
        if not self.slow:
            self.take(len(self.untaken))

    def take(self, number: int) -> None:
        for _ in range(min(number, len(self.untaken))):
            self.chunks.append(self.untaken.popleft())
        self.check()

    def check(self) -> None:
        """What was taken so far is how the answer has to begin, or all of it."""
        tokens, text, reason = self.expect()
        got = [token for chunk in self.chunks for token in chunk.token_ids]
        assert got == tokens[: len(got)]
        assert all(chunk.finish_reason is None for chunk in self.chunks[:-1])
        answer = "".join(chunk.text for chunk in self.chunks)
        end = self.chunks[-1].finish_reason if self.chunks else None
        if end is FinishReason.CANCELLED:
            data = b"".join(map(piece, got))
            assert answer == data.decode("utf-8", "replace")
        elif end is not None:
            assert (got, answer, end) == (tokens, text, reason)
        else:
            assert text.startswith(answer)


class Traffic(RuleBasedStateMachine):
    """Requests come, are read, given up, and fail, in any order."""

    @initialize(
        max_seqs=st.integers(1, 5),
        more_tokens=st.sampled_from([0, 1, 4, 15, 40, 90]),
        min_copy_tokens=st.integers(1, 20),
        partial=st.booleans(),
        first_ctx_size=st.sampled_from([1, 60, CTX_SIZE]),
        growth_steps=st.integers(0, 3),
    )
    def start(
        self,
        max_seqs: int,
        more_tokens: int,
        min_copy_tokens: int,
        partial: bool,
        first_ctx_size: int,
        growth_steps: int,
    ) -> None:
        self.first_ctx_size, self.growth_steps = first_ctx_size, growth_steps
        self.max_seqs = max_seqs
        self.max_batch_tokens = max_seqs + more_tokens
        self.min_copy_tokens = min_copy_tokens
        self.partial = partial
        self.requests: list[Request] = []
        self.start_core()

    def start_core(self) -> None:
        self.clock = FakeClock()
        self.runner = FakeRunner(draw, self.clock, partial=self.partial)
        self.runner.ctx_size = self.first_ctx_size
        self.runner.growth_steps = self.growth_steps
        self.cache = PrefixCache(
            self.max_seqs, min_copy_tokens=self.min_copy_tokens, partial=self.partial
        )
        self.scheduler = Scheduler(
            self.cache,
            max_batch_tokens=self.max_batch_tokens,
            ctx_size=CTX_SIZE,
        )
        self.core = EngineCore(cast(Runner, self.runner), self.scheduler, piece, self.clock)
        self.live: dict[int, Request] = {}  # in the order of their arrival
        self.prompts_waited = 0  # steps in a row without a token of the prompts that wait

    @rule(prompt=prompts, params=params, slow=st.booleans())
    def submit(self, prompt: list[int], params: SamplingParams, slow: bool) -> None:
        request = Request(len(self.requests), prompt, params, slow)
        self.core.add(request.number, EncodedRequest(prompt), params)
        self.requests.append(request)
        self.live[request.number] = request

    @rule(data=st.data())
    @precondition(lambda self: self.requests)
    def go_on(self, data: st.DataObject) -> None:
        """A conversation's next turn: the prompt is all that an earlier answer had."""
        earlier = data.draw(st.sampled_from(self.requests))
        tokens = [token for chunk in earlier.chunks for token in chunk.token_ids]
        self.submit([*earlier.prompt, *tokens, 5][: CTX_SIZE - 1], SamplingParams(), slow=False)

    @rule(prompt=prompts)
    def submit_what_the_runner_refuses(self, prompt: list[int]) -> None:
        self.runner.add_error = EngineError("no memory")
        with pytest.raises(EngineError, match="no memory"):
            self.core.add(len(self.requests), EncodedRequest(prompt), SamplingParams())
        assert self.core.cancel(len(self.requests)) is None

    @rule(data=st.data())
    @precondition(lambda self: self.live)
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.live)))
        chunk = self.core.cancel(number)
        assert chunk is not None
        assert chunk.finish_reason is FinishReason.CANCELLED
        self.live.pop(number).receive(chunk)

    @rule(data=st.data())
    @precondition(lambda self: len(self.live) < len(self.requests))
    def cancel_what_has_ended(self, data: st.DataObject) -> None:
        ended = [request.number for request in self.requests if request.num_ends]
        assert self.core.cancel(data.draw(st.sampled_from(ended))) is None

    @rule(data=st.data(), number=st.integers(1, 5))
    @precondition(lambda self: any(request.untaken for request in self.requests))
    def read_late(self, data: st.DataObject, number: int) -> None:
        behind = [request for request in self.requests if request.untaken]
        data.draw(st.sampled_from(behind)).take(number)

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.02, 0.3, 5.0]), number=st.integers(1, 6))
    @precondition(lambda self: self.core.has_work)
    def step(self, seconds: float, number: int) -> None:
        self.runner.step_seconds = seconds
        for _ in range(number):
            if self.core.has_work:
                self.step_once()

    def step_once(self) -> None:
        decoding = {number for number, request in self.live.items() if request.has_begun}
        self.scheduler.admit()
        lengths = [len(sequence.token_ids) for sequence in self.scheduler.running]
        grows = max(lengths) > self.runner.ctx_size
        results = self.core.step()
        assert len({number for number, _ in results}) == len(results)
        if not grows:  # else those who need more room wait
            assert decoding <= {number for number, _ in results}  # however slow their consumers
        for number, result in results:
            assert isinstance(result, Chunk)
            self.live[number].receive(result)
            if result.finish_reason is not None:
                del self.live[number]
        self.check_step(grows)

    def check_step(self, grows: bool) -> None:
        step = self.runner.step
        sizes = [part.end - part.start for part in step.parts]
        assert sum(sizes) <= self.max_batch_tokens
        assert all(0 < size <= MAX_PART_TOKENS for size in sizes)
        assert sizes[: step.num_decoding] == [1] * step.num_decoding
        assert len({part.sequence for part in step.parts}) == len(sizes)
        # Prompts may pause for a step that measures the decoding, and for no longer.
        if grows:
            return
        prefill = step.parts[step.num_decoding :]
        wait = any(s.num_uncomputed_tokens > 1 for s in self.scheduler.running)
        self.prompts_waited = 0 if prefill or not wait else self.prompts_waited + 1
        assert self.prompts_waited <= 1

    @rule()
    @precondition(lambda self: self.core.has_work)
    def step_that_is_refused(self) -> None:
        self.runner.run_error = StepRefusedError("no free cell in the KV cache")
        results = self.core.step()
        assert len(results) == len(self.runner.step.parts) > 0
        for number, result in results:
            assert isinstance(result, StepRefusedError)
            self.live.pop(number).receive(result)

    @rule()
    @precondition(lambda self: self.core.has_work)
    def crash(self) -> None:
        """The engine is lost, which its owner tells everybody; a new one starts empty."""
        self.runner.run_error = EngineError("lost")
        with pytest.raises(EngineError, match="lost") as caught:
            self.core.step()
        for request in self.live.values():
            request.receive(caught.value)
        self.start_core()

    @invariant()
    def nobody_overtakes(self) -> None:
        """Slots are given in the order of arrival, to all who have not ended."""
        order = list(self.runner.params)  # the sequences of `live`
        if self.scheduler.waiting:
            assert len(self.scheduler.running) + self.cache.num_idle == self.max_seqs
        assert [*self.scheduler.running, *self.scheduler.waiting] == order
        assert [sequence.num_prompt_tokens for sequence in order] == [
            len(request.prompt) for request in self.live.values()
        ]

    @invariant()
    def a_slot_is_free_or_somebodys(self) -> None:
        slots = [sequence.slot for sequence in self.scheduler.running]
        assert None not in slots
        assert len(set(slots)) == len(slots)
        assert len(slots) + self.cache.num_idle == self.max_seqs

    @invariant()
    def every_request_runs_or_waits(self) -> None:
        metrics = self.core.metrics()
        assert metrics.running + metrics.waiting == len(self.live)

    @invariant()
    def the_books_balance(self) -> None:
        held = {slot: s for slot, s in enumerate(self.cache._holds) if s is not None}
        assert set(self.runner.cache) == set(held)
        for slot, sequence in held.items():
            assert self.runner.cache[slot] == sequence.token_ids[: sequence.num_computed_tokens]
            assert len(self.runner.cache[slot]) == sequence.num_computed_tokens <= CTX_SIZE
        assert self.core.metrics().cache_tokens == sum(map(len, self.runner.cache.values()))
        for sequence in self.runner.params:
            assert sequence.num_uncomputed_tokens > 0
            assert sequence.num_cached_tokens <= sequence.num_computed_tokens

    @invariant()
    def whoever_waits_for_a_prefix_waits_for_one_who_computes_it(self) -> None:
        for follower, (leader, common) in self.cache._awaited.items():
            assert follower.status is SequenceStatus.RUNNING
            assert not self.cache.is_placed(follower)
            assert common <= leader.num_prompt_tokens
            if leader.slot is not None:
                assert self.cache.is_placed(leader)

    @invariant()
    def each_request_ends_once(self) -> None:
        for request in self.requests:
            assert request.num_ends == (request.number not in self.live)

    def teardown(self) -> None:
        """Whatever is left comes to its end, and leaves nothing behind."""
        if not hasattr(self, "core"):
            return  # not even started
        for _ in range(10_000):
            if not self.core.has_work:
                break
            self.step_once()
        assert not self.live
        for request in self.requests:
            request.take(len(request.untaken))
        self.each_request_ends_once()
        self.the_books_balance()
        assert self.cache.num_idle == self.max_seqs
        assert not self.cache._awaited
        assert not self.runner.params


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=30, stateful_step_count=40)
