"""The scheduler's rules one by one, and its invariants under random traffic."""

from collections.abc import Collection

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llmstream_cli.core.api import FinishReason
from llmstream_cli.core.scheduler import DrawnToken, ScheduledTokens, Scheduler
from llmstream_cli.core.sequence import Sequence, SequenceStatus

DRAWN = 1000


def make(*, max_seqs: int = 2, max_batch_tokens: int = 8, ctx_size: int = 32) -> Scheduler:
    return Scheduler(max_seqs=max_seqs, max_batch_tokens=max_batch_tokens, ctx_size=ctx_size)


def submit(
    scheduler: Scheduler, num_prompt_tokens: int, *, max_tokens: int | None = None
) -> Sequence:
    sequence = Sequence(list(range(num_prompt_tokens)), max_tokens=max_tokens)
    scheduler.add(sequence)
    return sequence


def run_step(scheduler: Scheduler, *, ending: Collection[Sequence] = ()) -> list[ScheduledTokens]:
    """Compute one step, in which the sequences `ending` draw the token that ends their turn."""
    step = scheduler.schedule()
    scheduler.update(
        step,
        {
            part.sequence: DrawnToken(DRAWN, ends_turn=part.sequence in ending)
            for part in step
            if part.samples
        },
    )
    return step


def counts(step: list[ScheduledTokens]) -> list[tuple[Sequence, int]]:
    return [(part.sequence, part.end - part.start) for part in step]


def test_a_new_sequence_waits_without_a_slot_and_has_computed_nothing() -> None:
    sequence = Sequence([5, 6, 7])
    assert sequence.status is SequenceStatus.WAITING
    assert sequence.slot is None
    assert sequence.finish_reason is None
    assert sequence.num_output_tokens == 0
    assert sequence.num_uncomputed_tokens == 3


def test_a_sequence_keeps_its_own_list_of_the_prompt() -> None:
    prompt = [5, 6]
    sequence = Sequence(prompt)
    sequence.token_ids.append(9)
    assert prompt == [5, 6]
    assert (sequence.num_prompt_tokens, sequence.num_output_tokens) == (2, 1)


def test_rule_1_no_more_sequences_run_than_there_are_slots() -> None:
    scheduler = make(max_seqs=2)
    sequences = [submit(scheduler, 2) for _ in range(3)]
    scheduler.schedule()
    assert [sequence.status for sequence in sequences] == [
        SequenceStatus.RUNNING,
        SequenceStatus.RUNNING,
        SequenceStatus.WAITING,
    ]
    assert sequences[2].slot is None


def test_rule_1_running_sequences_have_slots_of_their_own() -> None:
    scheduler = make(max_seqs=3)
    sequences = [submit(scheduler, 2) for _ in range(3)]
    scheduler.schedule()
    assert {sequence.slot for sequence in sequences} == {0, 1, 2}


def test_rule_2_a_free_slot_goes_to_whoever_came_first() -> None:
    scheduler = make(max_seqs=1)
    first, second, third = (submit(scheduler, 1) for _ in range(3))
    assert counts(run_step(scheduler, ending=[first])) == [(first, 1)]
    assert counts(run_step(scheduler, ending=[second])) == [(second, 1)]
    assert counts(run_step(scheduler)) == [(third, 1)]


def test_rule_2_a_cancelled_waiter_gives_its_turn_to_the_next() -> None:
    scheduler = make(max_seqs=1)
    first, second, third = (submit(scheduler, 1) for _ in range(3))
    scheduler.schedule()
    scheduler.finish(second, FinishReason.CANCELLED)
    scheduler.finish(first, FinishReason.CANCELLED)
    assert counts(scheduler.schedule()) == [(third, 1)]


def test_rule_3_a_step_goes_on_where_the_last_one_ended() -> None:
    scheduler = make(max_batch_tokens=3)
    sequence = submit(scheduler, 7)
    steps = [run_step(scheduler) for _ in range(4)]
    assert [(part.start, part.end) for step in steps for part in step] == [
        (0, 3),
        (3, 6),
        (6, 7),
        (7, 8),
    ]
    assert sequence.token_ids[7:] == [DRAWN, DRAWN]


def test_rule_3_only_the_step_that_reaches_the_last_token_samples() -> None:
    scheduler = make(max_batch_tokens=3)
    submit(scheduler, 7)
    samples = []
    for _ in range(4):
        samples += [part.samples for part in scheduler.schedule()]
        run_step(scheduler)
    assert samples == [False, False, True, True]


def test_rule_3_who_decodes_comes_before_an_older_prompt() -> None:
    scheduler = make(max_batch_tokens=4)
    long = submit(scheduler, 20)
    run_step(scheduler)
    short = submit(scheduler, 1)
    assert counts(run_step(scheduler)) == [(short, 1), (long, 3)]
    assert counts(run_step(scheduler)) == [(short, 1), (long, 3)]


def test_rule_3_the_last_token_of_a_prompt_counts_as_decoding() -> None:
    scheduler = make(max_batch_tokens=4)
    long, other = submit(scheduler, 20), submit(scheduler, 5)
    run_step(scheduler)
    scheduler.finish(long, FinishReason.CANCELLED)
    run_step(scheduler)
    assert other.num_uncomputed_tokens == 1
    newcomer = submit(scheduler, 9)
    assert counts(scheduler.schedule()) == [(other, 1), (newcomer, 3)]


def test_rule_4_a_step_is_never_larger_than_the_batch() -> None:
    scheduler = make(max_seqs=3, max_batch_tokens=8)
    first, second, third = submit(scheduler, 5), submit(scheduler, 6), submit(scheduler, 7)
    assert counts(run_step(scheduler)) == [(first, 5), (second, 3)]
    assert counts(run_step(scheduler)) == [(first, 1), (second, 3), (third, 4)]


def test_rule_4_the_older_prompt_is_finished_before_the_younger_begins() -> None:
    scheduler = make(max_batch_tokens=4)
    older, younger = submit(scheduler, 6), submit(scheduler, 3)
    assert counts(run_step(scheduler)) == [(older, 4)]
    assert counts(run_step(scheduler)) == [(older, 2), (younger, 2)]


def test_rule_4_an_answer_goes_on_in_every_step_of_a_long_prompt() -> None:
    scheduler = make(max_batch_tokens=2, ctx_size=100)
    answer = submit(scheduler, 1)
    run_step(scheduler)
    submit(scheduler, 20)
    for number in range(20):
        assert counts(run_step(scheduler))[0] == (answer, 1)
        assert answer.num_output_tokens == number + 2


def test_rule_5_the_last_token_ends_a_sequence_and_is_no_part_of_it() -> None:
    scheduler = make()
    sequence = submit(scheduler, 2)
    run_step(scheduler)
    run_step(scheduler, ending=[sequence])
    assert sequence.finish_reason is FinishReason.STOP
    assert sequence.token_ids == [0, 1, DRAWN]
    assert not scheduler.has_work


def test_rule_5_max_tokens_ends_a_sequence() -> None:
    scheduler = make()
    sequence = submit(scheduler, 2, max_tokens=3)
    for _ in range(2):
        run_step(scheduler)
        assert sequence.status is SequenceStatus.RUNNING
    run_step(scheduler)
    assert sequence.finish_reason is FinishReason.LENGTH
    assert sequence.num_output_tokens == 3


def test_rule_5_the_token_that_ends_the_turn_wins_over_max_tokens() -> None:
    scheduler = make()
    sequence = submit(scheduler, 2, max_tokens=1)
    run_step(scheduler, ending=[sequence])
    assert sequence.finish_reason is FinishReason.STOP
    assert sequence.num_output_tokens == 0


def test_rule_5_a_full_context_ends_a_sequence_with_one_token_that_is_not_computed() -> None:
    scheduler = make(ctx_size=4)
    sequence = submit(scheduler, 3)
    run_step(scheduler)
    assert sequence.status is SequenceStatus.RUNNING
    run_step(scheduler)
    assert sequence.finish_reason is FinishReason.LENGTH
    assert (len(sequence.token_ids), sequence.num_computed_tokens) == (5, 4)


@pytest.mark.parametrize("num_steps", [0, 1, 5], ids=["waiting", "prefill", "decode"])
def test_rule_5_finish_ends_a_sequence_wherever_it_is(num_steps: int) -> None:
    scheduler = make(max_batch_tokens=2)
    sequence = submit(scheduler, 6)
    for _ in range(num_steps):
        run_step(scheduler)
    scheduler.finish(sequence, FinishReason.CANCELLED)
    assert sequence.status is SequenceStatus.FINISHED
    assert sequence.finish_reason is FinishReason.CANCELLED
    assert sequence.slot is None
    assert not scheduler.has_work
    assert scheduler.schedule() == []


def test_rule_5_only_the_first_end_counts() -> None:
    scheduler = make(max_seqs=1)
    sequence = submit(scheduler, 2)
    run_step(scheduler, ending=[sequence])
    scheduler.finish(sequence, FinishReason.CANCELLED)
    assert sequence.finish_reason is FinishReason.STOP
    assert scheduler._free_slots == [0]


def test_rule_5_the_slot_is_free_for_the_very_next_step() -> None:
    scheduler = make(max_seqs=1)
    first, second = submit(scheduler, 1), submit(scheduler, 1)
    scheduler.schedule()
    slot = first.slot
    scheduler.finish(first, FinishReason.CANCELLED)
    scheduler.schedule()
    assert (first.slot, second.slot) == (None, slot)


def test_nothing_to_do_makes_an_empty_step() -> None:
    scheduler = make()
    assert not scheduler.has_work
    assert scheduler.schedule() == []


def test_a_waiting_sequence_is_work() -> None:
    scheduler = make()
    submit(scheduler, 1)
    assert scheduler.has_work


class RandomTraffic(RuleBasedStateMachine):
    """Requests come, are cancelled, and are stepped, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.max_seqs = self.max_batch_tokens = 1
        self.ctx_size = 2
        self.scheduler = make(max_seqs=1, max_batch_tokens=1, ctx_size=2)
        self.arrived: list[Sequence] = []
        self.slots: dict[Sequence, int] = {}  # the slot that each sequence was given
        self.ends: dict[Sequence, FinishReason] = {}  # as this model of the scheduler expects them

    @initialize(
        max_seqs=st.integers(1, 4), more_tokens=st.integers(0, 6), ctx_size=st.integers(2, 12)
    )
    def start(self, max_seqs: int, more_tokens: int, ctx_size: int) -> None:
        self.max_seqs = max_seqs
        self.max_batch_tokens = max_seqs + more_tokens
        self.ctx_size = ctx_size
        self.scheduler = make(
            max_seqs=max_seqs, max_batch_tokens=self.max_batch_tokens, ctx_size=ctx_size
        )

    @rule(num_prompt_tokens=st.integers(1, 11), max_tokens=st.none() | st.integers(1, 6))
    def submit(self, num_prompt_tokens: int, max_tokens: int | None) -> None:
        num_prompt_tokens = min(num_prompt_tokens, self.ctx_size - 1)
        self.arrived.append(submit(self.scheduler, num_prompt_tokens, max_tokens=max_tokens))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.arrived:
            sequence = data.draw(st.sampled_from(self.arrived))
            self.scheduler.finish(sequence, FinishReason.CANCELLED)
            self.ends.setdefault(sequence, FinishReason.CANCELLED)

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        step = self.scheduler.schedule()
        self.check_slots_are_given()
        self.check_plan(step)
        drawn = {
            part.sequence: DrawnToken(data.draw(st.integers(0, 9)), data.draw(st.booleans()))
            for part in step
            if part.end == len(part.sequence.token_ids)
        }
        self.update(step, drawn)

    def update(self, step: list[ScheduledTokens], drawn: dict[Sequence, DrawnToken]) -> None:
        expected = {part.sequence: part.sequence.token_ids[:] for part in step}
        for sequence, token in drawn.items():
            if token.ends_turn:
                self.ends[sequence] = FinishReason.STOP
                continue
            expected[sequence].append(token.token_id)
            num_output = len(expected[sequence]) - sequence.num_prompt_tokens
            if num_output == sequence.max_tokens or len(expected[sequence]) == self.ctx_size + 1:
                self.ends[sequence] = FinishReason.LENGTH
        self.scheduler.update(step, drawn)
        for part in step:
            assert part.sequence.num_computed_tokens == part.end
            assert part.sequence.token_ids == expected[part.sequence]

    def check_slots_are_given(self) -> None:
        """No slot stays free while somebody waits; nobody moves from one slot to another."""
        unfinished = [sequence for sequence in self.arrived if sequence not in self.ends]
        assert self.scheduler.running == unfinished[: self.max_seqs]
        assert list(self.scheduler.waiting) == unfinished[self.max_seqs :]
        for sequence in self.scheduler.running:
            assert sequence.slot is not None
            assert self.slots.setdefault(sequence, sequence.slot) == sequence.slot

    def check_plan(self, step: list[ScheduledTokens]) -> None:
        assert bool(step) == self.scheduler.has_work
        assert sum(part.end - part.start for part in step) <= self.max_batch_tokens
        for part in step:
            assert part.start == part.sequence.num_computed_tokens
            assert part.samples == (part.end == len(part.sequence.token_ids))
        # First those that lack one token, all of them; then prompts until the batch is full.
        expected = [(s, 1) for s in self.scheduler.running if s.num_uncomputed_tokens == 1]
        left = self.max_batch_tokens - len(expected)
        assert left >= 0
        for sequence in self.scheduler.running:
            if sequence.num_uncomputed_tokens > 1 and left:
                expected.append((sequence, min(left, sequence.num_uncomputed_tokens)))
                left -= expected[-1][1]
        assert counts(step) == expected

    @invariant()
    def slots_are_free_or_in_use_by_one(self) -> None:
        used = [sequence.slot for sequence in self.scheduler.running]
        assert sorted([*used, *self.scheduler._free_slots], key=str) == [*range(self.max_seqs)]

    @invariant()
    def nobody_overtakes(self) -> None:
        """Slots were given in the order of arrival, except to those who left the queue."""
        running_or_waiting = [*self.scheduler.running, *self.scheduler.waiting]
        assert running_or_waiting == [s for s in self.arrived if s not in self.ends]

    @invariant()
    def a_sequence_ends_once_for_the_right_reason(self) -> None:
        for sequence in self.arrived:
            assert sequence.finish_reason is self.ends.get(sequence)
            finished = sequence.status is SequenceStatus.FINISHED
            assert finished == (sequence in self.ends)
            if finished:
                assert sequence.slot is None

    @invariant()
    def nobody_outgrows_its_limits(self) -> None:
        for sequence in self.arrived:
            assert len(sequence.token_ids) <= self.ctx_size + 1
            assert sequence.num_computed_tokens <= self.ctx_size
            if sequence.max_tokens is not None:
                assert sequence.num_output_tokens <= sequence.max_tokens

    def teardown(self) -> None:
        """Whatever is left ends by its limits, and every slot is free in the end."""
        while step := self.scheduler.schedule():
            self.update(
                step, {p.sequence: DrawnToken(0, ends_turn=False) for p in step if p.samples}
            )
        assert not self.scheduler.has_work
        assert sorted(self.scheduler._free_slots) == list(range(self.max_seqs))
        self.a_sequence_ends_once_for_the_right_reason()
        assert set(self.ends) == set(self.arrived)


TestInvariantsUnderRandomTraffic = RandomTraffic.TestCase
TestInvariantsUnderRandomTraffic.settings = settings(max_examples=100, stateful_step_count=40)
