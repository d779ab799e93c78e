"""One request as the scheduler sees it: its tokens and how far they are computed."""

from array import array
from enum import IntEnum

from llmstream_cli.api import FinishReason

_TOKEN_BYTES = array("i").itemsize


class SequenceStatus(IntEnum):
    """Where a sequence is in its life; it only ever moves up."""

    WAITING = 0  # in the queue, without a slot
    RUNNING = 1  # holds a slot
    FINISHED = 2  # holds nothing and never runs again


class Sequence:
    """The tokens of one request.

    There are no phases: a step computes some of the tokens that are not computed yet. As long as
    these are tokens of the prompt that is called prefill; when only the last drawn token is left,
    decode.
    """

    def __init__(
        self, prompt: list[int], *, max_tokens: int | None = None, cache_scope: str = ""
    ) -> None:
        assert prompt
        self.token_ids = list(prompt)  # then what is drawn
        self.num_prompt_tokens = len(prompt)
        self.num_computed_tokens = 0  # from the first on, whose keys and values are in the KV cache
        self.num_cached_tokens = 0  # of these, taken over instead of computed
        self.max_tokens = max_tokens  # to draw; None is without a limit
        self.cache_scope = cache_scope  # it shares prefixes with sequences of the same scope only
        self.slot: int | None = None  # the KV stream that it owns while it runs
        self.status = SequenceStatus.WAITING
        self.finish_reason: FinishReason | None = None
        self._packed = bytearray()

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        """Tokens that the next steps still have to compute; at least one while it runs."""
        return len(self.token_ids) - self.num_computed_tokens

    def common_prefix(self, other: "Sequence", num_tokens: int) -> int:
        """Return how many of another's first `num_tokens` tokens begin this prompt, but its last.

        None do where the other's scope is not this one's.

        By halving, and on packed numbers: a long prompt is compared with every slot when it comes,
        which takes too long with Python's integers.
        """
        if self.cache_scope != other.cache_scope:
            return 0
        mine, theirs = self.packed_tokens(), other.packed_tokens()
        low, high = 0, min(num_tokens, self.num_prompt_tokens - 1)
        while low < high:
            middle = (low + high + 1) // 2
            span = slice(low * _TOKEN_BYTES, middle * _TOKEN_BYTES)
            if mine[span] == theirs[span]:
                low = middle
            else:
                high = middle - 1
        return low

    def packed_tokens(self) -> bytearray:
        """Return `token_ids` as C's integers, one after the other; the caller only reads them."""
        known = len(self._packed) // _TOKEN_BYTES
        if known < len(self.token_ids):
            self._packed += array("i", self.token_ids[known:]).tobytes()
        return self._packed
