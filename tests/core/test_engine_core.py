"""Requests in, chunks out, on a fake runner that answers from a script."""

from dataclasses import dataclass, replace
from itertools import count
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.api import (
    Chunk,
    DrawnLogprob,
    EngineMetrics,
    FinishReason,
    Progress,
    SamplingParams,
    TokenLogprob,
    Usage,
)
from llmstream_cli.core.engine_core import EngineCore
from llmstream_cli.core.model import EncodedRequest
from llmstream_cli.core.output import KNOWN_TAGS, ReasoningSplitter
from llmstream_cli.core.prefix_cache import PrefixCache
from llmstream_cli.core.runner import Runner
from llmstream_cli.core.scheduler import DrawnToken, Scheduler, Step
from llmstream_cli.core.sequence import Sequence
from llmstream_cli.errors import ContextMemoryError, EngineError, StepRefusedError
from tests.core.fakes import TOKENS, FakeClock, FakeRunner, piece, prompt, scripted
from tests.core.test_output import oracle


class Bench:
    """A core on a fake runner, and all the chunks that came out of it."""

    def __init__(
        self,
        answers: dict[int, str],
        *,
        max_seqs: int = 2,
        max_batch_tokens: int = 4,
        ctx_size: int = 64,
    ) -> None:
        self.clock = FakeClock()
        model = scripted({request: text.encode() for request, text in answers.items()})
        self.runner = FakeRunner(model, self.clock)
        self.scheduler = Scheduler(
            PrefixCache(max_seqs, min_copy_tokens=16),
            max_batch_tokens=max_batch_tokens,
            ctx_size=ctx_size,
        )
        self.core = EngineCore(cast(Runner, self.runner), self.scheduler, piece, self.clock)
        self.chunks: dict[int, list[Chunk]] = {}

    def add(
        self,
        request: int,
        num_tokens: int = 1,
        params: SamplingParams | None = None,
        splitter: ReasoningSplitter | None = None,
        *,
        report_progress: bool = False,
    ) -> None:
        encoded = EncodedRequest(
            prompt(request, num_tokens), splitter=splitter, report_progress=report_progress
        )
        self.core.add(request, encoded, params or SamplingParams())

    def steps(self, number: int) -> None:
        for _ in range(number):
            for request, chunk in self.core.step():
                assert isinstance(chunk, Chunk)
                self.chunks.setdefault(request, []).append(chunk)

    def cancel(self, request: int) -> Chunk:
        chunk = self.core.cancel(request)
        assert chunk is not None
        self.chunks.setdefault(request, []).append(chunk)
        return chunk

    def run(self) -> None:
        while self.core.has_work:
            self.steps(1)

    def text(self, request: int) -> str:
        return "".join(chunk.text for chunk in self.chunks[request])

    def token_ids(self, request: int) -> list[int]:
        return [token for chunk in self.chunks[request] for token in chunk.token_ids]

    def reason(self, request: int) -> FinishReason | None:
        return self.chunks[request][-1].finish_reason

    def usage(self, request: int) -> Usage:
        usage = self.chunks[request][-1].usage
        assert usage is not None
        return usage

    def free_slots(self) -> int:
        return self.scheduler.cache.num_idle


@pytest.mark.parametrize("num_tokens", [1, 9])
def test_one_that_waits_for_its_grammar_holds_no_other(num_tokens: int) -> None:
    bench = Bench({1: "abcdefghij", 2: "klm"})
    bench.add(1, num_tokens)
    bench.add(2)
    bench.steps(1)
    (held,) = [s for s in bench.scheduler.running if s.num_prompt_tokens == num_tokens][:1]
    bench.runner.waiting_for_grammar.add(held)
    before = len(held.token_ids)
    bench.steps(10)
    assert bench.text(2) == "klm"
    assert bench.reason(2) is FinishReason.STOP
    assert len(held.token_ids) == before
    bench.runner.waiting_for_grammar.clear()
    bench.run()
    assert bench.text(1) == "abcdefghij"


def test_each_step_gives_a_chunk_with_the_token_and_its_text() -> None:
    bench = Bench({1: "abc"})
    bench.add(1)
    bench.run()
    assert [chunk.text for chunk in bench.chunks[1]] == ["a", "b", "c", ""]
    assert [piece(token) for token in bench.token_ids(1)] == [b"a", b"b", b"c"]


def test_the_token_that_ends_the_turn_is_not_part_of_the_answer() -> None:
    bench = Bench({1: "ab"})
    bench.add(1)
    bench.run()
    assert bench.chunks[1][-1].token_ids == ()
    assert bench.reason(1) is FinishReason.STOP
    assert bench.usage(1).completion_tokens == 2


def test_an_answer_may_be_empty() -> None:
    bench = Bench({1: ""})
    bench.add(1, 3)
    bench.run()
    assert bench.chunks[1] == [Chunk("", (), FinishReason.STOP, Usage(3, 0, 1.0, 0.0))]


def test_reasoning_comes_apart_from_the_answer_and_is_counted() -> None:
    bench = Bench({1: "<think>hm</think>\n\nYes."})
    bench.add(1, params=SamplingParams(stop=("m", ".")), splitter=ReasoningSplitter(KNOWN_TAGS[0]))
    bench.run()
    assert bench.text(1) == "Yes"
    assert "".join(chunk.reasoning for chunk in bench.chunks[1]) == "hm"
    assert all(len(chunk.token_ids) == 1 for chunk in bench.chunks[1])
    assert bench.reason(1) is FinishReason.STOP
    assert bench.usage(1).reasoning_tokens == len("<think>hm</think>")
    assert bench.usage(1).completion_tokens == len("<think>hm</think>\n\nYes.")


def test_reasoning_that_max_tokens_cuts_off_leaves_no_answer() -> None:
    bench = Bench({1: "I think </t"})
    splitter = ReasoningSplitter(KNOWN_TAGS[0], begins_inside=True)
    bench.add(1, params=SamplingParams(max_tokens=11), splitter=splitter)
    bench.run()
    assert bench.text(1) == ""
    assert "".join(chunk.reasoning for chunk in bench.chunks[1]) == "I think </t"
    assert bench.reason(1) is FinishReason.LENGTH
    assert bench.usage(1).reasoning_tokens == bench.usage(1).completion_tokens == 11


def test_prefill_gives_no_chunks() -> None:
    bench = Bench({1: "a"}, max_batch_tokens=4)
    bench.add(1, 9)
    bench.steps(2)
    assert bench.chunks == {}
    bench.steps(1)
    assert bench.text(1) == "a"


def progress(bench: Bench, request: int) -> list[Progress | None]:
    return [chunk.progress for chunk in bench.chunks[request]]


def test_a_request_that_reports_its_progress_does_until_its_first_token() -> None:
    bench = Bench({1: "ab"}, max_batch_tokens=4)
    bench.add(1, 9, report_progress=True)
    bench.run()
    assert progress(bench, 1) == [Progress(None, 4, 9), Progress(None, 8, 9), None, None, None]
    assert all(chunk.token_ids == () for chunk in bench.chunks[1] if chunk.progress)
    assert bench.text(1) == "ab"


def test_in_the_queue_progress_is_those_who_come_before() -> None:
    bench = Bench({1: "a", 2: "a", 3: "ab"}, max_seqs=1)
    for request in (1, 2, 3):
        bench.add(request, report_progress=request == 3)
    bench.run()
    assert progress(bench, 3)[:2] == [Progress(1, 0, 1), Progress(0, 0, 1)]
    assert progress(bench, 1) == progress(bench, 2) == [None, None]
    assert bench.text(3) == "ab"


def test_progress_is_told_once() -> None:
    bench = Bench({1: "abcdef", 2: "x"}, max_seqs=1)
    bench.add(1)
    bench.add(2, report_progress=True)
    bench.steps(4)
    assert progress(bench, 2) == [Progress(0, 0, 1)]


def test_a_request_that_is_cancelled_reports_nothing_any_more() -> None:
    bench = Bench({1: "abc", 2: "x"}, max_seqs=1)
    bench.add(1)
    bench.add(2, report_progress=True)
    bench.cancel(2)
    bench.run()
    assert progress(bench, 2) == [None]


def test_max_tokens_reports_length() -> None:
    bench = Bench({1: "abcdef"})
    bench.add(1, 2, SamplingParams(max_tokens=3))
    bench.run()
    assert bench.text(1) == "abc"
    assert bench.reason(1) is FinishReason.LENGTH
    assert bench.chunks[1][-1].text == "c"
    assert bench.usage(1).completion_tokens == 3


def test_a_full_context_reports_length() -> None:
    bench = Bench({1: "abcdef"}, ctx_size=4)
    bench.add(1, 2)
    bench.run()
    assert bench.text(1) == "ab"
    assert bench.reason(1) is FinishReason.LENGTH
    usage = bench.usage(1)
    assert usage.prompt_tokens + usage.completion_tokens == 4


def test_nobody_waits_while_the_context_grows_for_another() -> None:
    bench = Bench({1: "abcdefgh", 2: "xy"})
    bench.runner.ctx_size, bench.runner.growth_steps = 20, 2
    bench.add(1)
    bench.steps(1)
    bench.add(2, 30)
    bench.steps(2)
    assert bench.text(1) == "abc"
    assert {part.sequence.num_prompt_tokens for part in bench.runner.step.parts} == {1}
    bench.run()
    assert (bench.text(1), bench.text(2)) == ("abcdefgh", "xy")


def test_what_there_is_no_memory_for_ends_alone() -> None:
    bench = Bench({1: "abcdefgh", 2: "xy", 3: "z", 4: "!"}, max_seqs=3)
    bench.runner.ctx_size = bench.runner.memory_tokens = 5
    bench.add(1)
    bench.add(3)
    bench.add(2, 30)
    bench.add(4, 31)  # gets the slot of the one before it, in the same step
    refused = dict(bench.core.step())
    assert [type(refused.pop(request)) for request in (2, 4)] == [ContextMemoryError] * 2
    bench.chunks = {request: [chunk] for request, chunk in refused.items()}  # type: ignore[list-item]
    bench.run()
    # An answer that has begun is kept, as in a context that is full.
    assert (bench.text(1), bench.reason(1)) == ("abcde", FinishReason.LENGTH)
    assert (bench.text(3), bench.reason(3)) == ("z", FinishReason.STOP)
    assert bench.free_slots() == 3
    assert bench.runner.params == {}


def test_a_stop_string_ends_the_answer_before_it() -> None:
    bench = Bench({1: "one, two, three"})
    bench.add(1, 1, SamplingParams(stop=(", t",)))
    bench.run()
    assert bench.text(1) == "one"
    assert bench.reason(1) is FinishReason.STOP
    assert bench.usage(1).completion_tokens == len("one, t")
    assert bench.free_slots() == 2


def test_a_text_that_ends_the_turn_is_a_stop_string_beside_the_requests_own() -> None:
    bench = Bench({1: "one, two", 2: "one, two", 3: "one, two"})
    for request, stop in ((1, ()), (2, (", t",)), (3, ("n",))):
        encoded = EncodedRequest(prompt(request, 1), turn_ends=(", tw", "wo"))
        bench.core.add(request, encoded, SamplingParams(stop=stop))
    bench.run()
    assert [bench.text(request) for request in (1, 2, 3)] == ["one", "one", "o"]
    assert bench.reason(1) is bench.reason(2) is bench.reason(3) is FinishReason.STOP


def test_a_stop_string_at_the_last_allowed_token_reports_stop() -> None:
    bench = Bench({1: "one, two"})
    bench.add(1, 1, SamplingParams(stop=(", ",), max_tokens=5))
    bench.run()
    assert bench.text(1) == "one"
    assert bench.reason(1) is FinishReason.STOP


def test_a_stop_string_that_is_cut_short_by_max_tokens_is_text() -> None:
    bench = Bench({1: "one, two"})
    bench.add(1, 1, SamplingParams(stop=(", ",), max_tokens=4))
    bench.run()
    assert [chunk.text for chunk in bench.chunks[1]] == ["o", "n", "e", ","]
    assert bench.reason(1) is FinishReason.LENGTH


def test_held_back_text_comes_with_the_end_of_the_turn() -> None:
    bench = Bench({1: "so on"})
    bench.add(1, 1, SamplingParams(stop=("on!",)))
    bench.run()
    assert [chunk.text for chunk in bench.chunks[1]] == ["s", "", "o ", "", "", "on"]


def test_a_character_that_max_tokens_cuts_becomes_a_replacement_character() -> None:
    bench = Bench({1: "a€"})
    bench.add(1, 1, SamplingParams(max_tokens=3))
    bench.run()
    assert [chunk.text for chunk in bench.chunks[1]] == ["a", "", "\N{REPLACEMENT CHARACTER}"]


def test_usage_counts_tokens_and_the_clocks_seconds() -> None:
    bench = Bench({1: "abcdef"}, max_batch_tokens=4)
    bench.add(1, 10, SamplingParams(max_tokens=5))
    bench.run()
    assert bench.usage(1) == Usage(
        prompt_tokens=10, completion_tokens=5, prompt_seconds=3.0, completion_seconds=4.0
    )
    assert bench.usage(1).tokens_per_second == 1.0


def test_waiting_for_a_slot_costs_no_seconds() -> None:
    bench = Bench({1: "abcdef", 2: "xyz"}, max_seqs=1)
    bench.add(1, 1, SamplingParams(max_tokens=6))
    bench.add(2, 3, SamplingParams(max_tokens=2))
    bench.run()
    assert bench.usage(2) == Usage(3, 2, prompt_seconds=1.0, completion_seconds=1.0)


def test_seconds_before_the_first_step_are_not_counted() -> None:
    bench = Bench({1: "ab"})
    bench.add(1, 1, SamplingParams(max_tokens=2))
    bench.clock.now += 50.0
    bench.run()
    assert bench.usage(1) == Usage(1, 2, prompt_seconds=1.0, completion_seconds=1.0)


def test_the_parameters_go_to_the_runner() -> None:
    bench = Bench({1: "a"})
    params = SamplingParams(temperature=0.7, seed=3)
    bench.add(1, 1, params)
    assert list(bench.runner.params.values()) == [params]


def test_the_runner_forgets_a_sequence_that_has_ended() -> None:
    bench = Bench({1: "a", 2: "abc"})
    bench.add(1)
    bench.add(2)
    bench.steps(2)
    assert len(bench.runner.removed) == len(bench.runner.params) == 1
    bench.run()
    assert len(bench.runner.removed) == 2
    assert bench.runner.params == {}


def test_there_is_work_from_the_first_request_to_the_end_of_the_last() -> None:
    bench = Bench({1: "a"})
    work = [bench.core.has_work]
    bench.add(1)
    for _ in range(2):
        work.append(bench.core.has_work)
        bench.steps(1)
    work.append(bench.core.has_work)
    assert work == [False, True, True, False]


def test_an_id_can_be_used_again_when_its_request_has_ended() -> None:
    bench = Bench({1: "ab"})
    bench.add(1)
    bench.run()
    bench.add(1)
    bench.run()
    assert bench.text(1) == "abab"


def test_cancel_in_the_queue() -> None:
    bench = Bench({1: "abc", 2: "xyz"}, max_seqs=1)
    bench.add(1)
    bench.add(2, 5)
    bench.steps(1)
    assert bench.cancel(2) == Chunk("", (), FinishReason.CANCELLED, Usage(5, 0, 0.0, 0.0))
    assert len(bench.runner.removed) == 1
    bench.run()
    assert bench.text(1) == "abc"


def test_cancel_in_prefill() -> None:
    bench = Bench({1: "abc"}, max_batch_tokens=4)
    bench.add(1, 20)
    bench.steps(2)
    assert bench.cancel(1) == Chunk("", (), FinishReason.CANCELLED, Usage(20, 0, 2.0, 0.0))
    assert bench.free_slots() == 2
    assert bench.runner.params == {}
    assert not bench.core.has_work


def test_cancel_in_decode_returns_the_text_that_was_held_back() -> None:
    bench = Bench({1: "say no more"})
    bench.add(1, 2, SamplingParams(stop=("no way",)))
    bench.steps(6)
    assert bench.text(1) == "say "
    chunk = bench.cancel(1)
    assert chunk == Chunk("no", (), FinishReason.CANCELLED, Usage(2, 6, 1.0, 5.0))
    assert bench.free_slots() == 2
    assert bench.runner.params == {}
    assert not bench.core.has_work


def test_cancel_frees_the_slot_for_the_next_step() -> None:
    bench = Bench({1: "abc", 2: "xyz"}, max_seqs=1)
    bench.add(1)
    bench.add(2)
    bench.steps(1)
    bench.cancel(1)
    bench.steps(1)
    assert bench.text(2) == "x"


def test_cancel_leaves_the_neighbours_alone() -> None:
    bench = Bench({1: "abcdef", 2: "uvwxyz", 3: "123456"}, max_seqs=2)
    for request in (1, 2, 3):
        bench.add(request, 3)
    bench.steps(3)
    bench.cancel(1)
    bench.run()
    assert "abcdef".startswith(bench.text(1))
    assert (bench.text(2), bench.text(3)) == ("uvwxyz", "123456")


def test_cancel_of_an_unknown_id_returns_none() -> None:
    bench = Bench({1: "ab"})
    bench.add(1)
    assert bench.core.cancel(2) is None
    bench.run()
    assert bench.text(1) == "ab"


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(max_tokens=1)])
def test_cancel_of_a_finished_request_returns_none(params: SamplingParams) -> None:
    bench = Bench({1: "ab"})
    bench.add(1, 1, params)
    bench.run()
    assert bench.core.cancel(1) is None
    assert bench.free_slots() == 2


def test_a_second_cancel_returns_none() -> None:
    bench = Bench({1: "ab"})
    bench.add(1)
    bench.cancel(1)
    assert bench.core.cancel(1) is None
    assert len(bench.runner.removed) == 1


def test_a_request_that_the_runner_refuses_harms_no_other() -> None:
    bench = Bench({1: "abc", 2: "xyz"})
    bench.add(1)
    bench.steps(1)
    bench.runner.add_error = EngineError("no memory")
    with pytest.raises(EngineError, match="no memory"):
        bench.add(2)
    assert bench.core.cancel(2) is None
    bench.run()
    assert bench.text(1) == "abc"
    assert bench.free_slots() == 2


def test_a_request_that_the_runner_refused_can_be_tried_again() -> None:
    bench = Bench({1: "abc"})
    bench.runner.add_error = EngineError("no memory")
    with pytest.raises(EngineError):
        bench.add(1)
    assert not bench.core.has_work
    bench.add(1)
    bench.run()
    assert bench.text(1) == "abc"


def test_the_failure_of_a_step_is_raised() -> None:
    bench = Bench({1: "abc"})
    bench.add(1)
    bench.steps(1)
    bench.runner.run_error = EngineError("lost the GPU")
    with pytest.raises(EngineError, match="lost the GPU"):
        bench.steps(1)


# Each request writes with letters of its own, so that text in the wrong place is seen at once.
ALPHABETS = ("aá🎈", "bß€", "cç😀", "dð東", "eé👍")


@dataclass(frozen=True)
class Request:
    """A request of random traffic: when it comes, what it asks, and when it is given up."""

    number: int
    text: str
    num_prompt_tokens: int
    params: SamplingParams
    arrives: int
    cancelled: int | None

    def expect(self, ctx_size: int) -> tuple[bytes, str, FinishReason]:
        """The bytes that are drawn, the answer in them, and why it ends, if nobody cancels."""
        data, stop = self.text.encode(), self.params.stop
        limit = min(self.params.max_tokens or len(data) + 1, ctx_size - self.num_prompt_tokens)
        reason = FinishReason.STOP if len(data) < limit else FinishReason.LENGTH
        for length in range(limit + 1):
            answer, stopped = oracle(stop, data[:length].decode("utf-8", "replace"))
            if stopped:
                return data[:length], answer, FinishReason.STOP
        return data[:limit], data[:limit].decode("utf-8", "replace"), reason


@st.composite
def traffic(draw: st.DrawFn) -> list[Request]:
    requests = []
    for number, alphabet in enumerate(ALPHABETS[: draw(st.integers(1, len(ALPHABETS)))], 1):
        stops = st.lists(st.text(alphabet, min_size=1, max_size=3), max_size=2).map(tuple)
        requests.append(
            Request(
                number=number,
                text=draw(st.text(alphabet, max_size=10)),
                num_prompt_tokens=draw(st.integers(1, 15)),
                params=SamplingParams(
                    max_tokens=draw(st.none() | st.integers(1, 12)), stop=draw(stops)
                ),
                arrives=draw(st.integers(0, 10)),
                cancelled=draw(st.none() | st.integers(0, 30)),
            )
        )
    return requests


@given(
    traffic(), st.integers(1, 3), st.integers(0, 4), st.sampled_from([1, 5, 16]), st.integers(0, 3)
)
def test_every_request_gets_its_own_answer_whatever_the_others_do(
    requests: list[Request], max_seqs: int, more_tokens: int, first_ctx_size: int, growth_steps: int
) -> None:
    bench = Bench(
        {request.number: request.text for request in requests},
        max_seqs=max_seqs,
        max_batch_tokens=max_seqs + more_tokens,
        ctx_size=16,
    )
    bench.runner.ctx_size, bench.runner.growth_steps = first_ctx_size, growth_steps
    for time in count():
        for request in requests:
            if request.arrives == time:
                bench.add(request.number, request.num_prompt_tokens, request.params)
            if request.cancelled == time:
                chunk = bench.core.cancel(request.number)
                if chunk is not None:
                    bench.chunks.setdefault(request.number, []).append(chunk)
        if bench.core.has_work:
            bench.steps(1)
        elif time > 10:
            break

    assert bench.free_slots() == max_seqs
    assert bench.runner.params == {}
    for request in requests:
        check_answer(bench, request)


def check_answer(bench: Bench, request: Request) -> None:
    number = request.number
    *before, last = bench.chunks[number]
    assert all(chunk.finish_reason is None and chunk.usage is None for chunk in before)
    assert {token // TOKENS for token in bench.token_ids(number)} <= {number}
    assert bench.usage(number).prompt_tokens == request.num_prompt_tokens
    assert bench.usage(number).completion_tokens == len(bench.token_ids(number))

    drawn, answer, reason = request.expect(ctx_size=16)
    got = b"".join(map(piece, bench.token_ids(number)))
    if last.finish_reason is FinishReason.CANCELLED:
        assert request.cancelled is not None
        assert drawn.startswith(got)
        assert bench.text(number) == got.decode("utf-8", "replace")
    else:
        assert (got, bench.text(number), last.finish_reason) == (drawn, answer, reason)


def test_the_step_that_ends_the_turn_is_no_tokens_time() -> None:
    bench = Bench({1: "abcd"})
    bench.add(1)
    bench.run()
    usage = bench.usage(1)
    assert (usage.completion_tokens, usage.completion_seconds) == (4, 3.0)
    assert usage.tokens_per_second == 1.0


def test_a_cancelled_answer_stays_cancelled_though_its_rest_be_a_stop_string() -> None:
    bench = Bench({1: "\N{EURO SIGN}"})
    bench.add(1, params=SamplingParams(stop=("\N{REPLACEMENT CHARACTER}",)))
    bench.steps(1)
    assert bench.cancel(1).finish_reason is FinishReason.CANCELLED


def test_a_refused_step_ends_its_requests_and_no_other() -> None:
    bench = Bench({1: "abc", 2: "def", 3: "ghi"}, max_seqs=2)
    for request in (1, 2, 3):
        bench.add(request)
    bench.steps(1)
    bench.runner.run_error = StepRefusedError("an invalid batch")
    results = dict(bench.core.step())
    assert set(results) == {1, 2}
    assert all(isinstance(error, StepRefusedError) for error in results.values())
    assert bench.free_slots() == 2
    assert bench.core.cancel(1) is None
    bench.run()
    assert bench.text(3) == "ghi"
    assert len(bench.runner.removed) == 3


def test_a_token_that_cannot_be_drawn_ends_its_request_and_no_other() -> None:
    bench = Bench({1: "abc", 2: "def"})
    for request in (1, 2):
        bench.add(request)
    bench.steps(1)
    failing = bench.scheduler.running[0]
    bench.runner.draw_errors[failing] = error = EngineError("no token fits")
    results = dict(bench.core.step())
    assert results[1] is error
    assert isinstance(results[2], Chunk)
    assert bench.core.cancel(1) is None
    assert bench.free_slots() == 1
    bench.run()
    assert bench.text(2) == "df"  # "e" was in the step above
    assert failing in bench.runner.removed


def with_logprobs(bench: Bench) -> Bench:
    """Let the runner tell of each token how likely it was."""
    plain = bench.runner.run

    def described(step: Step) -> dict[Sequence, DrawnToken | EngineError]:
        drawn = plain(step)
        assert all(isinstance(token, DrawnToken) for token in drawn.values())
        return {
            sequence: replace(token, logprob=DrawnLogprob(TokenLogprob(token.token_id, b"x", -1.0)))
            for sequence, token in drawn.items()
            if isinstance(token, DrawnToken)
        }

    bench.runner.run = described  # type: ignore[method-assign]
    return bench


def test_log_probabilities_come_with_their_tokens() -> None:
    bench = with_logprobs(Bench({1: "ab"}))
    bench.add(1)
    bench.run()
    entries = [entry.drawn.token_id for chunk in bench.chunks[1] for entry in chunk.logprobs]
    assert entries == bench.token_ids(1)  # none for the token that ends the turn
    assert len(entries) == 2


@pytest.mark.parametrize(
    ("answer", "text"),
    [("<think>hm</think>\nYes", "Yes"), ("<th is no tag", "<th is no tag"), ("<thi", "<thi")],
)
def test_reasoning_has_no_log_probabilities_and_the_answer_has_all(answer: str, text: str) -> None:
    bench = with_logprobs(Bench({1: answer}))
    bench.add(1, splitter=ReasoningSplitter(KNOWN_TAGS[0]))
    bench.run()
    tokens = [entry.drawn.token_id for chunk in bench.chunks[1] for entry in chunk.logprobs]
    assert b"".join(map(piece, tokens)).decode() == bench.text(1) == text


def test_the_metrics_count_what_was_done() -> None:
    bench = Bench({1: "abc", 2: "de", 3: ""}, max_seqs=2, max_batch_tokens=8)
    assert bench.core.metrics() == EngineMetrics(slots=2, cache_capacity=128)
    for request in (1, 2, 3):
        bench.add(request, 3)
    bench.steps(2)
    metrics = bench.core.metrics()
    assert (metrics.running, metrics.waiting, metrics.steps) == (2, 1, 2)
    assert (metrics.prompt_tokens, metrics.generated_tokens) == (6, 4)
    assert metrics.cache_tokens == 2 * (3 + 1)
    bench.run()
    metrics = bench.core.metrics()
    assert (metrics.running, metrics.waiting) == (0, 0)
    assert (metrics.prompt_tokens, metrics.cached_tokens, metrics.generated_tokens) == (9, 0, 5)
    assert metrics.step_seconds == float(metrics.steps)


def test_a_prompt_that_was_cached_counts_as_such() -> None:
    bench = Bench({1: "abc"}, max_seqs=1)
    for _ in range(2):
        bench.add(1, 30)
        bench.run()
    assert bench.usage(1).cached_tokens == 29
    assert bench.core.metrics().cached_tokens == 29
