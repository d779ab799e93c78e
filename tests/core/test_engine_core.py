"""Requests in, chunks out, on a fake runner that answers from a script."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

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
from llmstream_cli.core.output import CallParser
from llmstream_cli.core.prefix_cache import PrefixCache
from llmstream_cli.core.reasoning import KNOWN_TAGS, ReasoningSplitter
from llmstream_cli.core.runner import Runner
from llmstream_cli.core.scheduler import DrawnToken, Scheduler, Step
from llmstream_cli.core.sequence import Sequence
from llmstream_cli.errors import ContextMemoryError, EngineError, StepRefusedError
from llmstream_cli.prompts.messages import ToolCallDelta
from tests.core.fakes import FakeClock, FakeRunner, piece, prompt, scripted


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
        calls: Callable[[], CallParser] | None = None,
    ) -> None:
        encoded = EncodedRequest(
            prompt(request, num_tokens),
            splitter=splitter,
            report_progress=report_progress,
            calls=calls,
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


@pytest.mark.parametrize(
    ("answer", "params", "texts", "reason"),
    [
        ("abc", {}, ["a", "b", "c", ""], FinishReason.STOP),
        ("", {}, [""], FinishReason.STOP),
        ("abcdef", {"max_tokens": 3}, ["a", "b", "c"], FinishReason.LENGTH),
        ("one, two", {"stop": (", t",)}, ["o", "n", "e", "", "", ""], FinishReason.STOP),
        # A stop string at the last allowed token counts, one that is cut short is text.
        ("one, two", {"stop": (", ",), "max_tokens": 5}, ["o", "n", "e", "", ""], "stop"),
        ("one, two", {"stop": (", ",), "max_tokens": 4}, ["o", "n", "e", ","], "length"),
        ("so on", {"stop": ("on!",)}, ["s", "", "o ", "", "", "on"], FinishReason.STOP),
        ("a€", {"max_tokens": 3}, ["a", "", "\N{REPLACEMENT CHARACTER}"], FinishReason.LENGTH),
    ],
)
def test_each_step_gives_a_chunk_with_the_token_and_its_text(
    answer: str, params: dict[str, Any], texts: list[str], reason: str
) -> None:
    bench = Bench({1: answer})
    bench.add(1, 2, SamplingParams(**params))
    bench.run()
    assert [chunk.text for chunk in bench.chunks[1]] == texts
    assert bench.reason(1) == reason
    ends_turn = "max_tokens" not in params and bench.chunks[1][-1].token_ids == ()
    assert [len(chunk.token_ids) for chunk in bench.chunks[1]] == [1] * (len(texts) - ends_turn) + (
        [0] * ends_turn
    )
    assert bench.usage(1).completion_tokens == len(bench.token_ids(1)) == len(texts) - ends_turn
    assert bench.core.cancel(1) is None
    assert bench.free_slots() == 2
    assert bench.runner.params == {}


@pytest.mark.parametrize(
    ("answer", "begins_inside", "params", "text", "thoughts", "reason", "num_reasoning"),
    [
        ("<think>hm</think>\n\nYes.", False, {"stop": ("m", ".")}, "Yes", "hm", "stop", 17),
        ("I think </t", True, {"max_tokens": 11}, "", "I think </t", "length", 11),
    ],
    ids=["apart", "cut off"],
)
def test_reasoning_comes_apart_from_the_answer_and_is_counted(
    answer: str,
    begins_inside: bool,
    params: dict[str, Any],
    text: str,
    thoughts: str,
    reason: str,
    num_reasoning: int,
) -> None:
    bench = Bench({1: answer})
    splitter = ReasoningSplitter(KNOWN_TAGS[0], begins_inside=begins_inside)
    bench.add(1, params=SamplingParams(**params), splitter=splitter)
    bench.run()
    reasoning = "".join(chunk.reasoning for chunk in bench.chunks[1])
    assert (bench.text(1), reasoning, bench.reason(1)) == (text, thoughts, reason)
    assert bench.usage(1).reasoning_tokens == num_reasoning
    assert bench.usage(1).completion_tokens == len(answer)


def test_a_text_that_ends_the_turn_is_a_stop_string_beside_the_requests_own() -> None:
    bench = Bench({1: "one, two", 2: "one, two", 3: "one, two"})
    for request, stop in ((1, ()), (2, (", t",)), (3, ("n",))):
        encoded = EncodedRequest(prompt(request, 1), turn_ends=(", tw", "wo"))
        bench.core.add(request, encoded, SamplingParams(stop=stop))
    bench.run()
    assert [bench.text(request) for request in (1, 2, 3)] == ["one", "one", "o"]
    assert bench.reason(1) is bench.reason(2) is bench.reason(3) is FinishReason.STOP
    # Which of its own it was is told.
    assert [bench.chunks[request][-1].stop_string for request in (1, 2, 3)] == ["", ", t", "n"]


# ---- progress -------------------------------------------------------------------------------


def progress(bench: Bench, request: int) -> list[Progress | None]:
    return [chunk.progress for chunk in bench.chunks[request]]


def test_a_request_that_reports_its_progress_does_until_its_first_token() -> None:
    bench = Bench({1: "ab"}, max_batch_tokens=4)
    bench.add(1, 9, report_progress=True)
    bench.run()
    assert progress(bench, 1) == [Progress(None, 4, 9), Progress(None, 8, 9), None, None, None]
    assert all(chunk.token_ids == () for chunk in bench.chunks[1] if chunk.progress)


def test_in_the_queue_progress_is_those_who_come_before_and_told_once() -> None:
    bench = Bench({1: "abc", 2: "a", 3: "ab", 4: "a"}, max_seqs=1)
    for request in (1, 2, 3, 4):
        bench.add(request, report_progress=request > 2)
    bench.cancel(4)
    bench.run()
    assert progress(bench, 3)[:3] == [Progress(1, 0, 1), Progress(0, 0, 1), None]
    assert progress(bench, 1) == progress(bench, 2) + [None] * 2 == [None] * 4
    assert progress(bench, 4) == [None]


# ---- room and grammars ----------------------------------------------------------------------


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
    assert (bench.text(2), bench.reason(2)) == ("klm", FinishReason.STOP)
    assert len(held.token_ids) == before
    bench.runner.waiting_for_grammar.clear()
    bench.run()
    assert bench.text(1) == "abcdefghij"


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


# ---- usage ----------------------------------------------------------------------------------


def test_usage_counts_tokens_and_the_clocks_seconds() -> None:
    bench = Bench({1: "abcdef", 2: "xyz", 3: "abcd"}, max_batch_tokens=4, max_seqs=1)
    bench.add(1, 10, SamplingParams(max_tokens=5))
    bench.add(2, 3, SamplingParams(max_tokens=2))
    bench.add(3)
    bench.clock.now += 50.0  # to wait costs no seconds, nor does the step that ends the turn
    bench.run()
    assert bench.usage(1) == Usage(10, 5, prompt_seconds=3.0, completion_seconds=4.0)
    assert bench.usage(1).tokens_per_second == 1.0
    assert bench.usage(2) == Usage(3, 2, prompt_seconds=1.0, completion_seconds=1.0)
    assert bench.usage(3) == Usage(1, 4, prompt_seconds=1.0, completion_seconds=3.0)


def test_a_prompt_that_was_cached_counts_as_such() -> None:
    bench = Bench({1: "abc"}, max_seqs=1)
    for _ in range(2):  # under an id that can be used again
        bench.add(1, 30)
        bench.run()
    assert bench.usage(1).cached_tokens == 29
    assert bench.text(1) == "abcabc"


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


# ---- cancellation and failures --------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_tokens", "num_steps", "rest", "usage"),
    [
        (5, 0, "", Usage(5, 0, 0.0, 0.0)),
        (20, 2, "", Usage(20, 0, 2.0, 0.0)),
        (2, 6, "no", Usage(2, 6, 1.0, 5.0)),
    ],
    ids=["queue", "prefill", "decode"],
)
def test_cancel_ends_a_request_wherever_it_is(
    num_tokens: int, num_steps: int, rest: str, usage: Usage
) -> None:
    bench = Bench({1: "say no more", 2: "xyz"}, max_seqs=1)
    bench.add(1, num_tokens, SamplingParams(stop=("no way",)))
    bench.add(2)
    bench.steps(num_steps)
    assert bench.cancel(1) == Chunk(rest, (), FinishReason.CANCELLED, usage)
    assert bench.core.cancel(1) is None
    assert len(bench.runner.removed) == 1
    bench.steps(1)
    assert bench.text(2) == "x"  # its slot is free for the next step


def test_a_cancelled_answer_stays_cancelled_though_its_rest_be_a_stop_string() -> None:
    bench = Bench({1: "\N{EURO SIGN}"})
    bench.add(1, params=SamplingParams(stop=("\N{REPLACEMENT CHARACTER}",)))
    bench.steps(1)
    assert bench.cancel(1).finish_reason is FinishReason.CANCELLED


def test_a_request_that_the_runner_refuses_harms_no_other_and_can_be_tried_again() -> None:
    bench = Bench({1: "abc", 2: "xyz"})
    params = SamplingParams(temperature=0.7, seed=3)
    bench.add(1, 1, params)
    assert list(bench.runner.params.values()) == [params]
    bench.steps(1)
    bench.runner.add_error = EngineError("no memory")
    with pytest.raises(EngineError, match="no memory"):
        bench.add(2)
    assert bench.core.cancel(2) is None
    bench.add(2)
    bench.run()
    assert (bench.text(1), bench.text(2)) == ("abc", "xyz")
    assert bench.free_slots() == 2


def test_a_refused_step_ends_its_requests_and_no_other() -> None:
    bench = Bench({1: "abc", 2: "def", 3: "ghi"}, max_seqs=2)
    for request in (1, 2, 3):
        bench.add(request)
    bench.steps(1)
    bench.runner.run_error = StepRefusedError("an invalid batch")
    results = dict(bench.core.step())
    assert {request: type(error) for request, error in results.items()} == {
        1: StepRefusedError,
        2: StepRefusedError,
    }
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


# ---- log probabilities ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("ab", "ab"),  # none for the token that ends the turn
        ("<think>hm</think>\nYes", "Yes"),
        ("<th is no tag", "<th is no tag"),
        ("<thi", "<thi"),
    ],
)
def test_reasoning_has_no_log_probabilities_and_the_answer_has_all(answer: str, text: str) -> None:
    bench = Bench({1: answer})
    plain = bench.runner.run

    def described(step: Step) -> dict[Sequence, DrawnToken | EngineError]:
        return {
            sequence: replace(token, logprob=DrawnLogprob(TokenLogprob(token.token_id, b"x", -1.0)))
            for sequence, token in plain(step).items()
            if isinstance(token, DrawnToken)
        }

    bench.runner.run = described  # type: ignore[method-assign]
    bench.add(1, splitter=ReasoningSplitter(KNOWN_TAGS[0]))
    bench.run()
    tokens = [entry.drawn.token_id for chunk in bench.chunks[1] for entry in chunk.logprobs]
    assert b"".join(map(piece, tokens)).decode() == bench.text(1) == text


# ---- calls of tools -----------------------------------------------------------------------------


class CallsBehindHash:
    """Takes what stands behind a `#` for the arguments of a call."""

    def __init__(self) -> None:
        self.num_calls = 0
        self.rest: str | None = None

    def push(self, text: str) -> tuple[str, tuple[ToolCallDelta, ...]]:
        if self.num_calls:
            return "", (ToolCallDelta(0, arguments=text),) if text else ()
        text, mark, arguments = text.partition("#")
        if not mark:
            return text, ()
        self.num_calls, self.rest = 1, arguments
        return text, (ToolCallDelta(0, "tool", arguments),)

    def flush(self) -> tuple[str, tuple[ToolCallDelta, ...]]:
        return "", ()


@pytest.mark.parametrize(
    ("answer", "params", "text", "arguments", "reason"),
    [
        ("so#{}", {}, "so", "{}", FinishReason.TOOL_CALLS),
        ("#{}", {"stop": ("}",)}, "", "{}", FinishReason.TOOL_CALLS),
        ("so#{}", {"stop": ("o!",)}, "so", "{}", FinishReason.TOOL_CALLS),
        ("so#{}", {"stop": ("o",)}, "s", "", FinishReason.STOP),
        ("so#{}", {"max_tokens": 4}, "so", "{", FinishReason.LENGTH),
        ("so", {}, "so", "", FinishReason.STOP),
    ],
)
def test_calls_come_apart_from_the_text(
    answer: str, params: dict[str, Any], text: str, arguments: str, reason: FinishReason
) -> None:
    bench = Bench({1: answer})
    bench.add(1, params=SamplingParams(**params), calls=CallsBehindHash)
    bench.run()
    deltas = [delta for chunk in bench.chunks[1] for delta in chunk.tool_calls]
    assert bench.text(1) == text
    assert "".join(delta.arguments for delta in deltas) == arguments
    assert [delta.name for delta in deltas] == ["tool", *[""] * (len(deltas) - 1)][: len(deltas)]
    assert bench.reason(1) is reason
    assert bench.runner.begun == [""] * bool(arguments)
