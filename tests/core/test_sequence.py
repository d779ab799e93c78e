"""A sequence, and what its prompt has in common with another."""

from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.core.sequence import Sequence, SequenceStatus

# Few different tokens, so that prefixes are common; some that differ in their last byte alone.
tokens = st.lists(st.sampled_from([0, 1, 256, 65536, 2**31 - 1]), min_size=1, max_size=12)


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


@given(tokens, tokens, st.lists(tokens, max_size=3), st.data())
def test_the_common_prefix_is_that_of_a_plain_loop(
    prompt: list[int], other: list[int], drawn: list[list[int]], data: st.DataObject
) -> None:
    """Also when the other one has grown since it was last compared."""
    sequence, held = Sequence(prompt), Sequence(other)
    for more in [[], *drawn]:
        held.token_ids += more
        num_tokens = data.draw(st.integers(0, len(held.token_ids)))
        expected = 0
        for mine, theirs in zip(prompt[:-1], held.token_ids[:num_tokens], strict=False):
            if mine != theirs:
                break
            expected += 1
        assert sequence.common_prefix(held, num_tokens) == expected


def test_what_was_drawn_is_no_part_of_the_prompt_that_is_compared() -> None:
    sequence, held = Sequence([1, 2, 3]), Sequence([1, 2, 3, 4, 5])
    sequence.token_ids += [4, 5]
    assert sequence.common_prefix(held, 5) == 2
