"""What the KV streams hold, and what a new sequence can take over from them.

A slot is one KV stream. It belongs to a running sequence, or it is idle and keeps what the last one
computed until it is needed: that is the cache, and its memory is the slots' own.

Rules:

1. A prefix is reused token by token: what counts is the longest common prefix of token ids, of
   sequences of one scope. One of another scope is neither taken over, nor copied, nor waited for.
2. At least the last token of a prompt is computed, because its logits are wanted.
3. To take over a slot with its tokens costs nothing. To copy another slot's stream costs as much as
   computing `min_copy_tokens` tokens, so it must save more.
4. A prefix that another sequence is about to compute is waited for, not computed twice. Only one
   that computes is waited for, never one that waits itself, so nobody waits in a circle; when it
   ends early, whoever waited looks again.
5. The slot that was idle longest is overwritten first.
6. Some models cannot forget a part of what they have read (recurrent ones, sliding windows). With
   `partial=False` a slot is taken over whole or not at all, and never copied.

Pure: no clock, no thread, no model.
"""

from collections import OrderedDict
from dataclasses import dataclass

from llmstream_cli.core.sequence import Sequence

MIN_COPY_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Reuse:
    """How a slot is prepared for its new sequence."""

    slot: int  # the sequence's slot
    source: int  # the slot whose stream is copied; the same one if it is kept in place
    num_tokens: int  # how many tokens are kept; 0 empties the slot

    @property
    def is_copy(self) -> bool:
        return self.source != self.slot


class PrefixCache:
    """The slots, who owns them, and what they hold.

    `partial` tells whether the model can forget the tail of a stream.
    """

    def __init__(
        self, num_slots: int, *, min_copy_tokens: int = MIN_COPY_TOKENS, partial: bool = True
    ) -> None:
        self.min_copy_tokens = min_copy_tokens  # may be changed at any time
        self._partial = partial
        # The sequence whose first `num_computed_tokens` tokens are in the slot, finished or not.
        self._holds: list[Sequence | None] = [None] * num_slots
        self._idle = OrderedDict.fromkeys(range(num_slots))  # the longest idle first
        # Whom a sequence waits for, and until how many tokens are computed.
        self._awaited: dict[Sequence, tuple[Sequence, int]] = {}

    @property
    def num_slots(self) -> int:
        return len(self._holds)

    @property
    def num_idle(self) -> int:
        return len(self._idle)

    @property
    def num_cached_tokens(self) -> int:
        return sum(held.num_computed_tokens for held in self._holds if held is not None)

    def acquire(self, sequence: Sequence) -> None:
        """Give a sequence an idle slot: the one whose tokens it can best go on with."""
        slot = next(iter(self._idle))
        source, matched = self._longest_match(sequence)
        held = self._holds[source]
        if source in self._idle and matched and held is not None:
            if held.num_computed_tokens - matched < self.min_copy_tokens:
                slot = source  # little of what it holds is lost
            elif matched >= self.min_copy_tokens:
                self._idle.move_to_end(source)  # it will be copied, so it is in use
                slot = next(iter(self._idle))  # itself, where no other is idle
        del self._idle[slot]
        sequence.slot = slot

    def must_wait(self, sequence: Sequence) -> bool:
        """Tell whether another sequence computes a prefix that is worth waiting for."""
        leader, common = self._awaited.get(sequence, (None, 0))
        if leader is None or leader.slot is None or leader.num_computed_tokens >= common:
            leader, common = self._leader(sequence)
            if leader is not None:
                self._awaited[sequence] = leader, common
        return leader is not None

    def _leader(self, sequence: Sequence) -> tuple[Sequence | None, int]:
        """Return who will have the longest prefix, where waiting for it saves enough."""
        leader = None
        longest = self.find_reuse(sequence).num_tokens + self.min_copy_tokens - 1
        for held in self._holds if self._partial else ():
            if held is None or held.slot is None:
                continue
            common = sequence.common_prefix(held, held.num_prompt_tokens)
            if common > max(longest, held.num_computed_tokens):
                leader, longest = held, common
        return leader, longest

    def find_reuse(self, sequence: Sequence) -> Reuse:
        """Return how the sequence's slot is best prepared for it now."""
        slot = sequence.slot
        assert slot is not None
        own = self._match(sequence, slot)
        source, matched = self._longest_match(sequence)
        if self._partial and matched - own >= self.min_copy_tokens:
            return Reuse(slot, source, matched)
        return Reuse(slot, slot, own)

    def place(self, sequence: Sequence, reuse: Reuse) -> None:
        """Make the sequence the content of its slot; it begins with what is reused."""
        sequence.num_computed_tokens = sequence.num_cached_tokens = reuse.num_tokens
        self._holds[reuse.slot] = sequence
        self._awaited.pop(sequence, None)

    def is_placed(self, sequence: Sequence) -> bool:
        return sequence.slot is not None and self._holds[sequence.slot] is sequence

    def release(self, sequence: Sequence) -> None:
        """Take a finished sequence's slot back; its tokens stay until they are overwritten."""
        assert sequence.slot is not None
        self._idle[sequence.slot] = None
        self._awaited.pop(sequence, None)
        sequence.slot = None

    def _longest_match(self, sequence: Sequence) -> tuple[int, int]:
        """Return the slot with the longest common prefix, rather an idle one, and its length."""
        matched, _, slot = max(
            (self._match(sequence, slot), slot in self._idle, slot)
            for slot in range(self.num_slots)
        )
        return slot, matched

    def _match(self, sequence: Sequence, slot: int) -> int:
        held = self._holds[slot]
        if held is None or held is sequence:
            return 0
        common = sequence.common_prefix(held, held.num_computed_tokens)
        if self._partial:
            return common
        # Whole or not at all, and in place.
        in_place = slot in self._idle or slot == sequence.slot
        return common if common == held.num_computed_tokens and in_place else 0
