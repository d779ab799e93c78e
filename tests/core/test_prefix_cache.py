"""What a new sequence takes over, and which slot it gets."""

from llmstream_cli.core.prefix_cache import PrefixCache, Reuse
from llmstream_cli.core.sequence import Sequence

MIN_COPY = 4


def finished(cache: PrefixCache, tokens: list[int]) -> int:
    """Run a sequence to its end; return the slot that keeps its tokens."""
    sequence = Sequence(tokens)
    cache.acquire(sequence)
    cache.place(sequence, cache.find_reuse(sequence))
    sequence.num_computed_tokens = len(tokens)
    slot = sequence.slot
    assert slot is not None
    cache.release(sequence)
    return slot


def begun(cache: PrefixCache, tokens: list[int]) -> Reuse:
    sequence = Sequence(tokens)
    cache.acquire(sequence)
    reuse = cache.find_reuse(sequence)
    cache.place(sequence, reuse)
    return reuse


def test_a_conversation_goes_on_in_its_own_slot() -> None:
    cache = PrefixCache(3, min_copy_tokens=MIN_COPY)
    slots = [finished(cache, [number] * 10) for number in range(3)]
    assert begun(cache, [1] * 10 + [7]) == Reuse(slots[1], slots[1], 10)


def test_a_prefix_that_others_may_need_is_copied_into_the_slot_idle_longest() -> None:
    cache = PrefixCache(3, min_copy_tokens=MIN_COPY)
    slots = [finished(cache, [number] * 10) for number in range(3)]
    assert begun(cache, [2] * 5 + [7]) == Reuse(slots[0], slots[2], 5)


def test_with_no_other_idle_slot_the_tail_is_given_up() -> None:
    cache = PrefixCache(1, min_copy_tokens=MIN_COPY)
    slot = finished(cache, [1] * 20)
    assert begun(cache, [1] * 5 + [7]) == Reuse(slot, slot, 5)


def test_a_prefix_too_short_to_copy_does_not_count_as_use() -> None:
    """Every prompt of a chat begins alike; that keeps no slot from being overwritten in turn."""
    cache = PrefixCache(2, min_copy_tokens=MIN_COPY)
    oldest = finished(cache, [1, 1, *range(100, 110)])
    finished(cache, [2] * 10)
    assert begun(cache, [1, 1, 7, 8]) == Reuse(oldest, oldest, 2)


def test_a_copied_slot_counts_as_used() -> None:
    cache = PrefixCache(3, min_copy_tokens=MIN_COPY)
    first, second, third = (finished(cache, [number] * 10) for number in range(3))
    assert begun(cache, [0] * 5 + [7]) == Reuse(second, first, 5)
    assert begun(cache, [9] * 5) == Reuse(third, third, 0)


def test_a_model_that_cannot_forget_goes_on_with_all_or_nothing() -> None:
    cache = PrefixCache(2, min_copy_tokens=MIN_COPY, partial=False)
    slot = finished(cache, [1] * 10)
    assert begun(cache, [1] * 12) == Reuse(slot, slot, 10)
    cache = PrefixCache(2, min_copy_tokens=MIN_COPY, partial=False)
    finished(cache, [1] * 10)
    assert begun(cache, [1] * 9 + [7]).num_tokens == 0


def test_a_model_that_cannot_forget_takes_over_the_longest_of_the_idle_slots() -> None:
    cache = PrefixCache(3, min_copy_tokens=MIN_COPY, partial=False)
    finished(cache, [9] * 10)
    earlier = [Sequence(tokens) for tokens in ([9] * 10, [1] * 6, [1] * 10)]
    for sequence in earlier:
        cache.acquire(sequence)
        cache.place(sequence, cache.find_reuse(sequence))
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
    cache = PrefixCache(2, min_copy_tokens=MIN_COPY, partial=False)
    running, late = Sequence([1] * 10), Sequence([1] * 12)
    cache.acquire(running)
    cache.place(running, cache.find_reuse(running))
    running.num_computed_tokens = 10
    cache.acquire(late)
    cache.release(running)
    assert cache.find_reuse(late) == Reuse(1, 1, 0)


def test_whoever_waited_for_a_leader_that_ended_waits_for_the_next() -> None:
    cache = PrefixCache(3, min_copy_tokens=MIN_COPY)
    first, second, follower = (Sequence([*range(20), 100 + number]) for number in range(3))
    for leader in (first, second):
        cache.acquire(leader)
        cache.place(leader, cache.find_reuse(leader))
    cache.acquire(follower)
    assert cache.must_wait(follower)
    cache.release(first)
    assert cache.must_wait(follower)
    second.num_computed_tokens = 20
    assert not cache.must_wait(follower)
    assert cache.find_reuse(follower) == Reuse(2, 1, 20)


def test_a_prefix_that_saves_less_than_a_copy_is_not_waited_for() -> None:
    cache = PrefixCache(2, min_copy_tokens=MIN_COPY)
    leader, follower = Sequence([1, 2, 3, 4, 5]), Sequence([1, 2, 3, 9])
    cache.acquire(leader)
    cache.place(leader, cache.find_reuse(leader))
    cache.acquire(follower)
    assert not cache.must_wait(follower)


def test_nothing_is_taken_from_another_scope() -> None:
    cache = PrefixCache(3, min_copy_tokens=MIN_COPY)
    finished(cache, [1] * 20)  # of no scope
    leader, follower = (Sequence([1] * 21, cache_scope=scope) for scope in ("a", "b"))
    cache.acquire(leader)
    cache.place(leader, cache.find_reuse(leader))
    assert leader.num_cached_tokens == 0
    cache.acquire(follower)
    assert not cache.must_wait(follower)
    leader.num_computed_tokens = 21
    assert cache.find_reuse(follower).num_tokens == 0
    cache.release(follower)
    same = Sequence([1] * 21, cache_scope="a")
    cache.acquire(same)
    assert cache.find_reuse(same).num_tokens == 20


def test_a_sequence_that_ends_while_it_waits_is_forgotten() -> None:
    cache = PrefixCache(2, min_copy_tokens=MIN_COPY)
    leader, follower = Sequence([*range(20), 100]), Sequence([*range(20), 101])
    cache.acquire(leader)
    cache.place(leader, cache.find_reuse(leader))
    cache.acquire(follower)
    assert cache.must_wait(follower)
    cache.release(follower)
    assert not cache._awaited
