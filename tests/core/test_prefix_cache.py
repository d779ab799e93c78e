"""What a new sequence takes over, which slot it gets, and how prefixes are compared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.core.prefix_cache import PrefixCache, Reuse
from llmstream_cli.core.sequence import Sequence

MIN_COPY = 4

# Few different tokens, so that prefixes are common; some that differ in their last byte alone.
tokens = st.lists(st.sampled_from([0, 1, 256, 65536, 2**31 - 1]), min_size=1, max_size=12)


def make(num_slots: int, *, partial: bool = True) -> PrefixCache:
    return PrefixCache(num_slots, min_copy_tokens=MIN_COPY, partial=partial)


def begin(cache: PrefixCache, sequence: Sequence) -> Reuse:
    cache.acquire(sequence)
    reuse = cache.find_reuse(sequence)
    cache.place(sequence, reuse)
    return reuse


def finished(cache: PrefixCache, tokens: list[int]) -> int:
    """Run a sequence to its end; return the slot that keeps its tokens."""
    sequence = Sequence(tokens)
    slot = begin(cache, sequence).slot
    sequence.num_computed_tokens = len(tokens)
    cache.release(sequence)
    return slot


@pytest.mark.parametrize(
    ("held", "prompt", "expected"),
    [
        ([[0] * 10, [1] * 10, [2] * 10], [1] * 10 + [7], Reuse(1, 1, 10)),
        # What others may need is copied, to the slot that was idle longest.
        ([[0] * 10, [1] * 10, [2] * 10], [2] * 5 + [7], Reuse(0, 2, 5)),
        ([[0] * 10, [1] * 10, [2] * 10], [0] * 5 + [7], Reuse(1, 0, 5)),
        ([[0] * 10, [1] * 10, [2] * 10], [2] * 4 + [7], Reuse(0, 2, MIN_COPY)),
        ([[0] * 10, [1] * 10, [2] * 10], [2] * 3 + [7], Reuse(0, 0, 0)),
        ([[1] * 20], [1] * 5 + [7], Reuse(0, 0, 5)),  # there is no other slot
        # Every prompt of a chat begins alike; that keeps no slot from being overwritten in turn.
        ([[1, 1, *range(100, 110)], [2] * 10], [1, 1, 7, 8], Reuse(0, 0, 2)),
    ],
    ids=["goes on", "copied", "the oldest", "just enough", "too little", "tail given up", "shared"],
)
def test_the_slot_and_its_source(held: list[list[int]], prompt: list[int], expected: Reuse) -> None:
    cache = make(len(held))
    assert [finished(cache, tokens) for tokens in held] == list(range(len(held)))
    assert begin(cache, Sequence(prompt)) == expected


def test_a_copied_slot_counts_as_used() -> None:
    cache = make(3)
    for number in range(3):
        finished(cache, [number] * 10)
    assert begin(cache, Sequence([0] * 5 + [7])) == Reuse(1, 0, 5)
    assert begin(cache, Sequence([9] * 5)) == Reuse(2, 2, 0)


@pytest.mark.parametrize(("prompt", "kept"), [([1] * 12, 10), ([1] * 9 + [7], 0)])
def test_a_model_that_cannot_forget_goes_on_with_all_or_nothing(
    prompt: list[int], kept: int
) -> None:
    cache = make(2, partial=False)
    finished(cache, [1] * 10)
    assert begin(cache, Sequence(prompt)).num_tokens == kept


def test_a_model_that_cannot_forget_takes_over_the_longest_of_the_idle_slots() -> None:
    cache = make(3, partial=False)
    earlier = [Sequence(tokens) for tokens in ([9] * 10, [1] * 6, [1] * 10)]
    for sequence in earlier:
        begin(cache, sequence)
        sequence.num_computed_tokens = sequence.num_prompt_tokens
    _, shorter, longer = (sequence.slot for sequence in earlier)
    for sequence in earlier:
        cache.release(sequence)
    first, second = Sequence([1] * 12), Sequence([1] * 12)
    cache.acquire(first)
    cache.acquire(second)
    assert (first.slot, second.slot) == (longer, shorter)
    assert cache.find_reuse(second).num_tokens == 6


def test_a_model_that_cannot_forget_never_copies_a_slot_that_became_idle() -> None:
    cache = make(2, partial=False)
    running, late = Sequence([1] * 10), Sequence([1] * 12)
    begin(cache, running)
    running.num_computed_tokens = 10
    cache.acquire(late)
    cache.release(running)
    assert cache.find_reuse(late) == Reuse(1, 1, 0)


def test_whoever_waits_for_a_leader_that_ends_waits_for_the_next() -> None:
    cache = make(3)
    first, second, follower = (Sequence([*range(20), 100 + number]) for number in range(3))
    begin(cache, first)
    begin(cache, second)
    cache.acquire(follower)
    assert cache.must_wait(follower)
    cache.release(first)
    assert cache.must_wait(follower)
    second.num_computed_tokens = 20
    assert not cache.must_wait(follower)
    assert cache.find_reuse(follower) == Reuse(2, 1, 20)


def test_a_prefix_that_saves_less_than_a_copy_is_not_waited_for() -> None:
    cache = make(2)
    begin(cache, Sequence([1, 2, 3, 4, 5]))
    follower = Sequence([1, 2, 3, 9])
    cache.acquire(follower)
    assert not cache.must_wait(follower)


def test_nothing_is_taken_from_another_scope() -> None:
    cache = make(3)
    finished(cache, [1] * 20)  # of no scope
    leader, follower, same = (Sequence([1] * 21, cache_scope=scope) for scope in "aba")
    assert begin(cache, leader).num_tokens == 0
    cache.acquire(follower)
    assert not cache.must_wait(follower)
    leader.num_computed_tokens = 21
    assert cache.find_reuse(follower).num_tokens == 0
    cache.release(follower)
    cache.acquire(same)
    assert cache.find_reuse(same).num_tokens == 20


@given(tokens, tokens, st.lists(tokens, max_size=3), st.data())
def test_the_common_prefix_is_that_of_a_plain_loop(
    prompt: list[int], other: list[int], drawn: list[list[int]], data: st.DataObject
) -> None:
    """Also when the other one has grown since it was last compared; the last token never counts."""
    sequence, held = Sequence(prompt), Sequence(other)
    sequence.token_ids += other
    for more in [[], *drawn]:
        held.token_ids += more
        num_tokens = data.draw(st.integers(0, len(held.token_ids)))
        expected = 0
        for mine, theirs in zip(prompt[:-1], held.token_ids[:num_tokens], strict=False):
            if mine != theirs:
                break
            expected += 1
        assert sequence.common_prefix(held, num_tokens) == expected
