"""Which tokens of which sequences the next step computes.

A step is three verbs: `schedule` plans it, the runner computes it, `update` books what came of it.

Rules:

1. A sequence runs in a slot, which is a KV stream of its own with room for `ctx_size` tokens. The
   number of slots is fixed, so no sequence can run another out of memory.
2. Whoever came first gets the next free slot. How many may wait is the caller's to bound.
3. A sequence begins with what the `PrefixCache` can give it, and waits for a prefix that another
   one is computing.
4. Every running sequence catches up with its tokens. One that lacks a single token, which is how
   a sequence decodes, comes before all that lack more: a long prompt never stops an answer.
5. A step computes at most `max_batch_tokens` tokens, and `MAX_PART_TOKENS` of one sequence. What
   the `PrefillBudget` leaves beside the decoding sequences goes to prompts, the oldest first. A
   stream that is copied for a prompt is paid for like its tokens.
6. A sequence ends once: by its last token, by its limits, or by `finish`. Its slot is free at once.

Pure: no clock, no thread, no model.
"""

from collections import deque
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from llmstream_cli.api import DrawnLogprob, FinishReason
from llmstream_cli.core.prefill_budget import PrefillBudget, StepBudget
from llmstream_cli.core.prefix_cache import PrefixCache, Reuse
from llmstream_cli.core.sequence import Sequence, SequenceStatus

# From 64 rows of one sequence on, ggml's attention takes another kernel, which rounds differently.
# Below, down to some sixteen rows, how a prompt is cut does not change a bit of its logits. Larger
# parts are not faster.
MAX_PART_TOKENS = 63


@dataclass(frozen=True, slots=True)
class ScheduledTokens:
    """A sequence's part of a step: `token_ids[start:end]`."""

    sequence: Sequence
    start: int
    end: int
    samples: bool  # whether that reaches the last token, after which the next one is drawn


@dataclass(frozen=True, slots=True)
class Step:
    # How to prepare the slots of sequences that begin; in this order, before all parts.
    reuses: list[Reuse] = field(default_factory=list)
    parts: list[ScheduledTokens] = field(default_factory=list)
    num_decoding: int = 0  # how many of the parts, the first ones, decode


@dataclass(frozen=True, slots=True)
class DrawnToken:
    """What the runner drew after a sequence's last token."""

    token_id: int
    ends_turn: bool  # whether it ends the turn, and so is no part of the answer
    logprob: DrawnLogprob | None = None  # how likely it was, where the request asks for that


class Scheduler:
    """The waiting and the running sequences."""

    def __init__(self, cache: PrefixCache, *, max_batch_tokens: int, ctx_size: int) -> None:
        assert cache.num_slots <= max_batch_tokens
        self.cache = cache
        self.ctx_size = ctx_size
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in the order of their arrival
        self._budget = PrefillBudget(max_batch_tokens)

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence whose prompt leaves room in the context."""
        assert sequence.num_prompt_tokens < self.ctx_size
        self.waiting.append(sequence)

    def admit(self) -> None:
        """Give free slots to waiting sequences."""
        while self.waiting and self.cache.num_idle:
            sequence = self.waiting.popleft()
            self.cache.acquire(sequence)
            sequence.status = SequenceStatus.RUNNING
            self.running.append(sequence)

    def schedule(self, held: Set[Sequence] = frozenset()) -> Step:
        """Plan the next step, without those `held`, which wait for room or a grammar."""
        self.admit()
        running = [sequence for sequence in self.running if sequence not in held]
        decoding = [s for s in running if s.num_uncomputed_tokens == 1]
        step = Step(num_decoding=len(decoding))
        budget = self._budget.step_budget(len(decoding))
        for sequence in decoding:
            self._place(step, sequence, budget)
            self._plan(step, sequence, 1)
        for sequence in running:
            if budget.is_spent:
                break
            if sequence.num_uncomputed_tokens > 1 and self._place(step, sequence, budget):
                wanted = min(sequence.num_uncomputed_tokens, MAX_PART_TOKENS)
                count = budget.take_tokens(sequence.num_computed_tokens, wanted)
                self._plan(step, sequence, count)
        return step

    def _place(self, step: Step, sequence: Sequence, budget: StepBudget) -> bool:
        """Place a sequence in its slot; False while it waits for a prefix or for time to copy."""
        if self.cache.is_placed(sequence):
            return True
        if self.cache.must_wait(sequence):
            return False
        reuse = self.cache.find_reuse(sequence)
        if reuse.is_copy and not budget.take_copy():
            return False
        self.cache.place(sequence, reuse)
        step.reuses.append(reuse)
        return True

    def _plan(self, step: Step, sequence: Sequence, count: int) -> None:
        start, missing = sequence.num_computed_tokens, sequence.num_uncomputed_tokens
        step.parts.append(ScheduledTokens(sequence, start, start + count, count == missing))

    def update(self, step: Step, drawn: Mapping[Sequence, DrawnToken], seconds: float) -> None:
        """Book a computed step, and the token drawn for each sequence whose part `samples`.

        One for which none could be drawn is missing, and has to be finished.
        """
        self._budget.observe(
            step.num_decoding,
            [(part.start, part.end) for part in step.parts[step.num_decoding :]],
            seconds,
            num_copies=sum(reuse.is_copy for reuse in step.reuses),
        )
        for part in step.parts:
            part.sequence.num_computed_tokens = part.end
            if part.sequence in drawn:
                self._append(part.sequence, drawn[part.sequence])

    def _append(self, sequence: Sequence, token: DrawnToken) -> None:
        if token.ends_turn:
            self.finish(sequence, FinishReason.STOP)
            return
        sequence.token_ids.append(token.token_id)
        full = len(sequence.token_ids) == self.ctx_size
        if full or sequence.num_output_tokens == sequence.max_tokens:
            self.finish(sequence, FinishReason.LENGTH)

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """End a sequence wherever it is; nothing happens to one that has ended."""
        if sequence.status is SequenceStatus.FINISHED:
            return
        if sequence.slot is None:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
            self.cache.release(sequence)
        sequence.status = SequenceStatus.FINISHED
        sequence.finish_reason = reason
