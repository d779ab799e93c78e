"""Which tokens of which sequences the next step computes.

A step is three verbs: `schedule` plans it, the runner computes it, `update` books what came of it.

Rules:

1. A sequence runs in a slot, which is a KV stream of its own; there are `max_seqs` slots.
2. Whoever came first gets the next free slot.
3. Every running sequence catches up with its tokens. One that lacks a single token, which is how
   a sequence decodes, comes before all that lack more: a long prompt never stops an answer.
4. A step computes at most `max_batch_tokens` tokens. What decoding leaves goes to prompts, the
   oldest first.
5. A sequence ends once: by its last token, by its limits, or by `finish`. Its slot is free at once.

Pure: no clock, no thread, no model.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from llmstream_cli.core.api import FinishReason
from llmstream_cli.core.sequence import Sequence, SequenceStatus


@dataclass(frozen=True, slots=True)
class ScheduledTokens:
    """A sequence's part of a step.

    Attributes:
        sequence: whose tokens.
        start: compute `token_ids[start:end]`.
        end: see `start`.
        samples: whether that reaches the last token, after which the next one is drawn.
    """

    sequence: Sequence
    start: int
    end: int
    samples: bool


@dataclass(frozen=True, slots=True)
class DrawnToken:
    """What the runner drew after a sequence's last token."""

    token_id: int
    ends_turn: bool


class Scheduler:
    """The waiting and the running sequences.

    Args:
        max_seqs: how many sequences run at once.
        max_batch_tokens: the most tokens of one step, at least `max_seqs`.
        ctx_size: the most tokens of one sequence.
    """

    def __init__(self, *, max_seqs: int, max_batch_tokens: int, ctx_size: int) -> None:
        assert 0 < max_seqs <= max_batch_tokens
        self.max_batch_tokens = max_batch_tokens
        self.ctx_size = ctx_size
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in the order of their arrival
        self._free_slots = list(range(max_seqs))[::-1]

    @property
    def has_work(self) -> bool:
        """Whether `schedule` has anything to plan."""
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence whose prompt leaves room in the context."""
        assert sequence.num_prompt_tokens < self.ctx_size
        self.waiting.append(sequence)

    def schedule(self) -> list[ScheduledTokens]:
        """Plan the next step; give free slots to waiting sequences first."""
        while self.waiting and self._free_slots:
            sequence = self.waiting.popleft()
            sequence.slot = self._free_slots.pop()
            sequence.status = SequenceStatus.RUNNING
            self.running.append(sequence)
        budget = self.max_batch_tokens
        step = []
        # Sorting is stable: first come, first served within each of the two groups.
        for sequence in sorted(self.running, key=lambda s: s.num_uncomputed_tokens > 1):
            count = min(sequence.num_uncomputed_tokens, budget)
            if count:
                start = sequence.num_computed_tokens
                samples = count == sequence.num_uncomputed_tokens
                step.append(ScheduledTokens(sequence, start, start + count, samples))
                budget -= count
        return step

    def update(self, step: list[ScheduledTokens], drawn: Mapping[Sequence, DrawnToken]) -> None:
        """Book a computed step.

        Args:
            step: what was computed.
            drawn: the token drawn for each sequence whose part of the step `samples`.
        """
        for part in step:
            sequence = part.sequence
            sequence.num_computed_tokens = part.end
            if not part.samples:
                continue
            token = drawn[sequence]
            if token.ends_turn:
                self.finish(sequence, FinishReason.STOP)
                continue
            sequence.token_ids.append(token.token_id)
            # The context is full when the token just drawn could not be computed any more.
            if sequence.num_output_tokens == sequence.max_tokens or (
                len(sequence.token_ids) > self.ctx_size
            ):
                self.finish(sequence, FinishReason.LENGTH)

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """End a sequence wherever it is; nothing happens to one that has ended."""
        if sequence.status is SequenceStatus.FINISHED:
            return
        if sequence.slot is None:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
            self._free_slots.append(sequence.slot)
            sequence.slot = None
        sequence.status = SequenceStatus.FINISHED
        sequence.finish_reason = reason
