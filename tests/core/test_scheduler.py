"""The scheduler's rules one by one; `test_state_machine` holds its invariants under any traffic."""

from collections.abc import Collection
from itertools import count

import pytest

from llmstream_cli.api import FinishReason
from llmstream_cli.core.prefix_cache import PrefixCache
from llmstream_cli.core.scheduler import DrawnToken, ScheduledTokens, Scheduler, Step
from llmstream_cli.core.sequence import Sequence, SequenceStatus

DRAWN = 1000
FRESH = count()


def make(*, max_seqs: int = 2, max_batch_tokens: int = 8, ctx_size: int = 32) -> Scheduler:
    cache = PrefixCache(max_seqs, min_copy_tokens=2)
    return Scheduler(cache, max_batch_tokens=max_batch_tokens, ctx_size=ctx_size)


def submit(
    scheduler: Scheduler, num_prompt_tokens: int, *, max_tokens: int | None = None
) -> Sequence:
    """A sequence that shares no prefix with any other."""
    first = next(FRESH) * DRAWN * 2
    sequence = Sequence(list(range(first, first + num_prompt_tokens)), max_tokens=max_tokens)
    scheduler.add(sequence)
    return sequence


def run_step(
    scheduler: Scheduler, *, ending: Collection[Sequence] = (), seconds: float = 0.0
) -> list[ScheduledTokens]:
    """Compute one step, in which the sequences `ending` draw the token that ends their turn."""
    step = scheduler.schedule()
    drawn = {
        part.sequence: DrawnToken(DRAWN, ends_turn=part.sequence in ending)
        for part in step.parts
        if part.samples
    }
    scheduler.update(step, drawn, seconds)
    return step.parts


def counts(parts: list[ScheduledTokens]) -> list[tuple[Sequence, int]]:
    return [(part.sequence, part.end - part.start) for part in parts]


def test_a_free_slot_goes_to_whoever_came_first() -> None:
    scheduler = make(max_seqs=1)
    first, second, third = (submit(scheduler, 1) for _ in range(3))
    assert counts(run_step(scheduler, ending=[first])) == [(first, 1)]
    scheduler.finish(second, FinishReason.CANCELLED)
    assert counts(run_step(scheduler)) == [(third, 1)]


def test_a_step_goes_on_where_the_last_one_ended_and_draws_at_the_end() -> None:
    scheduler = make(max_batch_tokens=3)
    sequence = submit(scheduler, 7)
    parts = [part for _ in range(4) for part in run_step(scheduler)]
    assert [(part.start, part.end) for part in parts] == [(0, 3), (3, 6), (6, 7), (7, 8)]
    assert [part.samples for part in parts] == [False, False, True, True]
    assert sequence.token_ids[7:] == [DRAWN, DRAWN]


def test_who_decodes_comes_before_an_older_prompt_in_every_step() -> None:
    scheduler = make(max_batch_tokens=4)
    long = submit(scheduler, 20)
    run_step(scheduler)
    short = submit(scheduler, 1)
    for _ in range(4):
        assert counts(run_step(scheduler)) == [(short, 1), (long, 3)]


def test_the_last_token_of_a_prompt_counts_as_decoding() -> None:
    scheduler = make(max_batch_tokens=4)
    long, other = submit(scheduler, 20), submit(scheduler, 5)
    run_step(scheduler)
    scheduler.finish(long, FinishReason.CANCELLED)
    run_step(scheduler)
    newcomer = submit(scheduler, 9)
    assert counts(scheduler.schedule().parts) == [(other, 1), (newcomer, 3)]


def test_the_older_prompt_is_finished_before_the_younger_begins() -> None:
    scheduler = make(max_seqs=3, max_batch_tokens=8)
    first, second, third = submit(scheduler, 5), submit(scheduler, 6), submit(scheduler, 7)
    assert counts(run_step(scheduler)) == [(first, 5), (second, 3)]
    assert counts(run_step(scheduler)) == [(first, 1), (second, 3), (third, 4)]


def test_the_budget_leaves_running_answers_their_pace() -> None:
    scheduler = make(max_batch_tokens=64, ctx_size=1000)
    submit(scheduler, 1)
    for _ in range(3):
        run_step(scheduler, seconds=0.01)
    prompt = submit(scheduler, 900)
    for _ in range(5):  # each prompt token turns out to take 5 ms
        step = scheduler.schedule()
        seconds = 0.01 + 0.005 * dict(counts(step.parts))[prompt]
        answer = step.parts[0].sequence
        scheduler.update(step, {answer: DrawnToken(DRAWN, ends_turn=False)}, seconds)
    assert seconds <= 0.1


@pytest.mark.parametrize(
    ("ctx_size", "max_tokens", "ends_in", "reason", "num_output"),
    [
        (32, None, 2, FinishReason.STOP, 1),
        (32, 3, None, FinishReason.LENGTH, 3),
        (32, 1, 1, FinishReason.STOP, 0),  # the token that ends the turn wins over max_tokens
        (4, None, None, FinishReason.LENGTH, 2),
    ],
    ids=["end of turn", "max_tokens", "both at once", "full context"],
)
def test_a_sequence_ends_by_its_last_token_or_its_limits(
    ctx_size: int,
    max_tokens: int | None,
    ends_in: int | None,
    reason: FinishReason,
    num_output: int,
) -> None:
    scheduler = make(ctx_size=ctx_size)
    sequence = submit(scheduler, 2, max_tokens=max_tokens)
    steps = 0
    while scheduler.has_work:
        steps += 1
        run_step(scheduler, ending=[sequence] if steps == ends_in else [])
    assert (sequence.finish_reason, sequence.num_output_tokens) == (reason, num_output)


@pytest.mark.parametrize("num_steps", [0, 1, 5], ids=["waiting", "prefill", "decode"])
def test_finish_ends_a_sequence_wherever_it_is(num_steps: int) -> None:
    scheduler = make(max_batch_tokens=2)
    sequence = submit(scheduler, 6)
    for _ in range(num_steps):
        run_step(scheduler)
    scheduler.finish(sequence, FinishReason.CANCELLED)
    scheduler.finish(sequence, FinishReason.STOP)  # only the first end counts
    assert sequence.status is SequenceStatus.FINISHED
    assert sequence.finish_reason is FinishReason.CANCELLED
    assert sequence.slot is None
    assert not scheduler.has_work
    assert scheduler.schedule() == Step()


def test_the_slot_is_free_for_the_very_next_step() -> None:
    scheduler = make(max_seqs=1)
    first, second = submit(scheduler, 1), submit(scheduler, 1)
    scheduler.schedule()
    slot = first.slot
    scheduler.finish(first, FinishReason.CANCELLED)
    scheduler.schedule()
    assert (first.slot, second.slot) == (None, slot)


def test_a_common_prefix_is_computed_once() -> None:
    scheduler = make(max_seqs=3)
    sequences = [Sequence([*range(20), 100 + number, 7, 7]) for number in range(3)]
    for sequence in sequences:
        scheduler.add(sequence)
    computed = 0
    while any(sequence.num_output_tokens == 0 for sequence in sequences):
        computed += sum(size for _, size in counts(run_step(scheduler)))
    assert [sequence.num_cached_tokens for sequence in sequences] == [0, 20, 20]
    assert computed < 40


def test_a_leader_that_is_cancelled_is_followed_by_the_next() -> None:
    scheduler = make(max_seqs=3)
    leader, heir, third = (Sequence([*range(20), 100 + number]) for number in range(3))
    for sequence in (leader, heir, third):
        scheduler.add(sequence)
    assert counts(run_step(scheduler)) == [(leader, 8)]
    scheduler.finish(leader, FinishReason.CANCELLED)
    assert counts(run_step(scheduler)) == [(heir, 8)]
    assert heir.num_cached_tokens == 8  # what the leader had computed is not lost
    while third.num_output_tokens == 0:
        run_step(scheduler)
    assert third.num_cached_tokens == 20
