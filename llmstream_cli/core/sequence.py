"""One request as the scheduler sees it: its tokens and how far they are computed."""

from enum import IntEnum

from llmstream_cli.core.api import FinishReason


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

    Attributes:
        token_ids: the prompt, then what was drawn.
        num_prompt_tokens: length of the prompt; constant.
        num_computed_tokens: tokens, from the first, whose keys and values are in the KV cache.
        num_cached_tokens: how many of these were taken over instead of computed.
        max_tokens: draw at most so many; None is without a limit.
        slot: the KV stream it owns while it runs.
        status: see `SequenceStatus`.
        finish_reason: set when it is finished.
    """

    def __init__(self, prompt: list[int], *, max_tokens: int | None = None) -> None:
        assert prompt
        self.token_ids = list(prompt)
        self.num_prompt_tokens = len(prompt)
        self.num_computed_tokens = 0
        self.num_cached_tokens = 0
        self.max_tokens = max_tokens
        self.slot: int | None = None
        self.status = SequenceStatus.WAITING
        self.finish_reason: FinishReason | None = None

    @property
    def num_output_tokens(self) -> int:
        """Tokens drawn so far."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        """Tokens that the next steps still have to compute; at least one while it runs."""
        return len(self.token_ids) - self.num_computed_tokens
