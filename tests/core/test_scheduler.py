"""The scheduler's rules one by one, and its invariants under random traffic."""

from collections.abc import Collection
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llmstream_cli.api import FinishReason
from llmstream_cli.core.prefix_cache import PrefixCache
from llmstream_cli.core.scheduler import DrawnToken, ScheduledTokens, Scheduler, Step
from llmstream_cli.core.sequence import Sequence, SequenceStatus

DRAWN = 1000
FRESH = count()


def make(
    *,
    max_seqs: int = 2,
    max_batch_tokens: int = 8,
    ctx_size: int = 32,
    min_copy_tokens: int = 2,
    partial: bool = True,
) -> Scheduler:
    return Scheduler(
        PrefixCache(max_seqs, min_copy_tokens=min_copy_tokens, partial=partial),
        max_batch_tokens=max_batch_tokens,
        ctx_size=ctx_size,
    )


def submit(
    scheduler: Scheduler, num_prompt_tokens: int, *, max_tokens: int | None = None
) -> Sequence:
    """A sequence that shares no prefix with any other."""
    first = next(FRESH) * DRAWN * 2
    sequence = Sequence(list(range(first, first + num_prompt_tokens)), max_tokens=max_tokens)
    scheduler.add(sequence)
    return sequence


def run_step(scheduler: Scheduler, *, ending: Collection[Sequence] = ()) -> list[ScheduledTokens]:
    """Compute one step, in which the sequences `ending` draw the token that ends their turn."""
    step = scheduler.schedule()
    scheduler.update(
        step,
        {
            part.sequence: DrawnToken(DRAWN, ends_turn=part.sequence in ending)
            for part in step.parts
            if part.samples
        },
        seconds=0.0,
    )
    return step.parts


def counts(step: list[ScheduledTokens]) -> list[tuple[Sequence, int]]:
    return [(part.sequence, part.end - part.start) for part in step]


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
    assert counts(scheduler.schedule().parts) == [(third, 1)]


def test_rule_4_a_step_goes_on_where_the_last_one_ended() -> None:
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


def test_rule_4_only_the_step_that_reaches_the_last_token_samples() -> None:
    scheduler = make(max_batch_tokens=3)
    submit(scheduler, 7)
    samples = []
    for _ in range(4):
        samples += [part.samples for part in scheduler.schedule().parts]
        run_step(scheduler)
    assert samples == [False, False, True, True]


def test_rule_4_who_decodes_comes_before_an_older_prompt() -> None:
    scheduler = make(max_batch_tokens=4)
    long = submit(scheduler, 20)
    run_step(scheduler)
    short = submit(scheduler, 1)
    assert counts(run_step(scheduler)) == [(short, 1), (long, 3)]
    assert counts(run_step(scheduler)) == [(short, 1), (long, 3)]


def test_rule_4_the_last_token_of_a_prompt_counts_as_decoding() -> None:
    scheduler = make(max_batch_tokens=4)
    long, other = submit(scheduler, 20), submit(scheduler, 5)
    run_step(scheduler)
    scheduler.finish(long, FinishReason.CANCELLED)
    run_step(scheduler)
    assert other.num_uncomputed_tokens == 1
    newcomer = submit(scheduler, 9)
    assert counts(scheduler.schedule().parts) == [(other, 1), (newcomer, 3)]


def test_rule_5_a_step_is_never_larger_than_the_batch() -> None:
    scheduler = make(max_seqs=3, max_batch_tokens=8)
    first, second, third = submit(scheduler, 5), submit(scheduler, 6), submit(scheduler, 7)
    assert counts(run_step(scheduler)) == [(first, 5), (second, 3)]
    assert counts(run_step(scheduler)) == [(first, 1), (second, 3), (third, 4)]


def test_rule_5_the_older_prompt_is_finished_before_the_younger_begins() -> None:
    scheduler = make(max_batch_tokens=4)
    older, younger = submit(scheduler, 6), submit(scheduler, 3)
    assert counts(run_step(scheduler)) == [(older, 4)]
    assert counts(run_step(scheduler)) == [(older, 2), (younger, 2)]


def test_rule_5_an_answer_goes_on_in_every_step_of_a_long_prompt() -> None:
    scheduler = make(max_batch_tokens=2, ctx_size=100)
    answer = submit(scheduler, 1)
    run_step(scheduler)
    submit(scheduler, 20)
    for number in range(20):
        assert counts(run_step(scheduler))[0] == (answer, 1)
        assert answer.num_output_tokens == number + 2


def test_rule_6_the_last_token_ends_a_sequence_and_is_no_part_of_it() -> None:
    scheduler = make()
    sequence = submit(scheduler, 2)
    run_step(scheduler)
    run_step(scheduler, ending=[sequence])
    assert sequence.finish_reason is FinishReason.STOP
    assert sequence.token_ids[2:] == [DRAWN]
    assert not scheduler.has_work


def test_rule_6_max_tokens_ends_a_sequence() -> None:
    scheduler = make()
    sequence = submit(scheduler, 2, max_tokens=3)
    for _ in range(2):
        run_step(scheduler)
        assert sequence.status is SequenceStatus.RUNNING
    run_step(scheduler)
    assert sequence.finish_reason is FinishReason.LENGTH
    assert sequence.num_output_tokens == 3


def test_rule_6_the_token_that_ends_the_turn_wins_over_max_tokens() -> None:
    scheduler = make()
    sequence = submit(scheduler, 2, max_tokens=1)
    run_step(scheduler, ending=[sequence])
    assert sequence.finish_reason is FinishReason.STOP
    assert sequence.num_output_tokens == 0


def test_rule_6_a_full_context_ends_a_sequence() -> None:
    scheduler = make(ctx_size=4)
    sequence = submit(scheduler, 2)
    run_step(scheduler)
    assert sequence.status is SequenceStatus.RUNNING
    run_step(scheduler)
    assert sequence.finish_reason is FinishReason.LENGTH
    assert (len(sequence.token_ids), sequence.num_computed_tokens) == (4, 3)


@pytest.mark.parametrize("num_steps", [0, 1, 5], ids=["waiting", "prefill", "decode"])
def test_rule_6_finish_ends_a_sequence_wherever_it_is(num_steps: int) -> None:
    scheduler = make(max_batch_tokens=2)
    sequence = submit(scheduler, 6)
    for _ in range(num_steps):
        run_step(scheduler)
    scheduler.finish(sequence, FinishReason.CANCELLED)
    assert sequence.status is SequenceStatus.FINISHED
    assert sequence.finish_reason is FinishReason.CANCELLED
    assert sequence.slot is None
    assert not scheduler.has_work
    assert scheduler.schedule() == Step()


def test_rule_6_only_the_first_end_counts() -> None:
    scheduler = make(max_seqs=1)
    sequence = submit(scheduler, 2)
    run_step(scheduler, ending=[sequence])
    scheduler.finish(sequence, FinishReason.CANCELLED)
    assert sequence.finish_reason is FinishReason.STOP
    assert scheduler.cache.num_idle == 1


def test_rule_6_the_slot_is_free_for_the_very_next_step() -> None:
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
    assert scheduler.schedule() == Step()


def test_a_waiting_sequence_is_work() -> None:
    scheduler = make()
    submit(scheduler, 1)
    assert scheduler.has_work


def test_rule_3_a_common_prefix_is_computed_once() -> None:
    scheduler = make(max_seqs=3, max_batch_tokens=8)
    prefix = list(range(20))
    sequences = [Sequence([*prefix, 100 + number, 7, 7]) for number in range(3)]
    for sequence in sequences:
        scheduler.add(sequence)
    computed = 0
    while any(sequence.num_output_tokens == 0 for sequence in sequences):
        computed += sum(size for _, size in counts(run_step(scheduler)))
    assert [sequence.num_cached_tokens for sequence in sequences] == [0, 20, 20]
    assert computed < 2 * len(prefix)


def test_rule_3_a_leader_that_is_cancelled_is_followed_by_the_next() -> None:
    scheduler = make(max_seqs=3, max_batch_tokens=8)
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


def test_rule_5_the_budget_leaves_running_answers_their_pace() -> None:
    scheduler = make(max_batch_tokens=64, ctx_size=1000)
    answer = submit(scheduler, 1)
    for _ in range(3):
        scheduler.update(
            scheduler.schedule(), {answer: DrawnToken(DRAWN, ends_turn=False)}, seconds=0.01
        )
    prompt = submit(scheduler, 900)
    for _ in range(5):  # each prompt token turns out to take 5 ms
        step = scheduler.schedule()
        size = dict(counts(step.parts))[prompt]
        scheduler.update(
            step, {answer: DrawnToken(DRAWN, ends_turn=False)}, seconds=0.01 + 0.005 * size
        )
    assert 0.01 + 0.005 * size <= 0.1


class RandomTraffic(RuleBasedStateMachine):
    """Requests come, are cancelled, and are stepped, in any order; many share prefixes.

    The KV streams are modelled as plain lists, so a token that is reused wrongly is seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.max_seqs = self.max_batch_tokens = 1
        self.ctx_size = 2
        self.scheduler = make(max_seqs=1, max_batch_tokens=1, ctx_size=2)
        self.partial = True
        self.arrived: list[Sequence] = []
        self.slots: dict[Sequence, int] = {}  # the slot that each sequence was given
        self.streams: dict[int, list[int]] = {}  # the tokens computed in each slot
        self.ends: dict[Sequence, FinishReason] = {}  # as this model of the scheduler expects them

    @initialize(
        max_seqs=st.integers(1, 4),
        more_tokens=st.integers(0, 6),
        ctx_size=st.integers(2, 12),
        min_copy_tokens=st.integers(1, 4),
        partial=st.booleans(),
    )
    def start(
        self, max_seqs: int, more_tokens: int, ctx_size: int, min_copy_tokens: int, partial: bool
    ) -> None:
        self.max_seqs = max_seqs
        self.max_batch_tokens = max_seqs + more_tokens
        self.ctx_size = ctx_size
        self.partial = partial
        self.scheduler = make(
            max_seqs=max_seqs,
            max_batch_tokens=self.max_batch_tokens,
            ctx_size=ctx_size,
            min_copy_tokens=min_copy_tokens,
            partial=partial,
        )

    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=11),
        max_tokens=st.none() | st.integers(1, 6),
    )
    def submit(self, prompt: list[int], max_tokens: int | None) -> None:
        self.arrived.append(Sequence(prompt[: self.ctx_size - 1], max_tokens=max_tokens))
        self.scheduler.add(self.arrived[-1])

    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        """A conversation's next turn: the prompt is all that an earlier sequence had."""
        if self.arrived:
            self.submit([*data.draw(st.sampled_from(self.arrived)).token_ids, 1], None)

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
        if not step.parts:
            return  # nothing to do, so nothing is computed
        drawn = {
            part.sequence: DrawnToken(data.draw(st.integers(0, 1)), data.draw(st.booleans()))
            for part in step.parts
            if part.end == len(part.sequence.token_ids)
        }
        self.update(step, drawn)

    def update(self, step: Step, drawn: dict[Sequence, DrawnToken]) -> None:
        self.compute(step)
        expected = {part.sequence: part.sequence.token_ids[:] for part in step.parts}
        for sequence, token in drawn.items():
            if token.ends_turn:
                self.ends[sequence] = FinishReason.STOP
                continue
            expected[sequence].append(token.token_id)
            num_output = len(expected[sequence]) - sequence.num_prompt_tokens
            if num_output == sequence.max_tokens or len(expected[sequence]) == self.ctx_size:
                self.ends[sequence] = FinishReason.LENGTH
        self.scheduler.update(step, drawn, seconds=0.0)
        for part in step.parts:
            assert part.sequence.num_computed_tokens == part.end
            assert part.sequence.token_ids == expected[part.sequence]

    def compute(self, step: Step) -> None:
        """What the runner does to the KV streams."""
        for reuse in step.reuses:
            source = self.streams.get(reuse.source, [])
            assert len(source) >= reuse.num_tokens
            if not self.partial:  # such a model keeps all it has read, or nothing
                assert reuse.num_tokens in {0, len(source)}
                assert reuse.source == reuse.slot
            self.streams[reuse.slot] = source[: reuse.num_tokens]
        for part in step.parts:
            slot = part.sequence.slot
            assert slot is not None
            assert self.streams[slot] == part.sequence.token_ids[: part.start]
            self.streams[slot] += part.sequence.token_ids[part.start : part.end]

    def check_slots_are_given(self) -> None:
        """No slot stays free while somebody waits; nobody moves from one slot to another."""
        unfinished = [sequence for sequence in self.arrived if sequence not in self.ends]
        assert self.scheduler.running == unfinished[: self.max_seqs]
        assert list(self.scheduler.waiting) == unfinished[self.max_seqs :]
        for sequence in self.scheduler.running:
            assert sequence.slot is not None
            assert self.slots.setdefault(sequence, sequence.slot) == sequence.slot

    def check_plan(self, step: Step) -> None:
        """Whoever runs and does not wait for a prefix gets its share; somebody always does."""
        assert bool(step.parts) == self.scheduler.has_work
        assert sum(part.end - part.start for part in step.parts) <= self.max_batch_tokens
        planned = [part.sequence for part in step.parts]
        assert len(set(planned)) == len(planned)
        for part in step.parts:
            assert part.start == part.sequence.num_computed_tokens < part.end
            assert part.samples == (part.end == len(part.sequence.token_ids))
        for sequence in self.scheduler.running:
            if sequence.num_output_tokens:
                assert sequence in planned

    @invariant()
    def slots_are_free_or_in_use_by_one(self) -> None:
        used = [sequence.slot for sequence in self.scheduler.running]
        assert len(set(used)) == len(used)
        assert set(used) <= set(range(self.max_seqs))
        assert self.scheduler.cache.num_idle + len(used) == self.max_seqs

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
            assert len(sequence.token_ids) <= self.ctx_size
            assert sequence.num_computed_tokens < self.ctx_size
            if sequence.max_tokens is not None:
                assert sequence.num_output_tokens <= sequence.max_tokens

    def teardown(self) -> None:
        """Whatever is left ends by its limits, and every slot is free in the end."""
        while self.scheduler.has_work:
            step = self.scheduler.schedule()
            self.check_plan(step)
            self.update(
                step, {p.sequence: DrawnToken(0, ends_turn=False) for p in step.parts if p.samples}
            )
        assert self.scheduler.cache.num_idle == self.max_seqs
        assert self.scheduler.cache.num_cached_tokens == sum(map(len, self.streams.values()))
        self.a_sequence_ends_once_for_the_right_reason()
        assert set(self.ends) == set(self.arrived)


TestInvariantsUnderRandomTraffic = RandomTraffic.TestCase
TestInvariantsUnderRandomTraffic.settings = settings(max_examples=100, stateful_step_count=40)
