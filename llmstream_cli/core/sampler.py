"""From sampling parameters to tokens.

llama.cpp's penalties look up every token of the vocabulary, which takes longer than all the rest
of a draw. Only the `k` largest logits survive top-k, and penalties that never raise a logit can
push at most as many tokens below others as the penalty window holds. So the `k + window` largest
logits contain all that can be drawn: they are chosen first, and what follows draws the same token.
Only between tokens whose logits are equal may the choice differ: llama.cpp's sorting is not stable.
"""

import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from llmstream_cli.api import DrawnLogprob, SamplingParams, TokenLogprob
from llmstream_cli.core.llama import Context, Model, SamplerChain

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Row = npt.NDArray[np.float32]

_GREEDY_BELOW = 1e-4  # logits divided by less overflow single precision
_WORTH_IT = 4  # narrow where at most this part of the vocabulary is left


class TokenConstraint(Protocol):
    """Follows an answer through its grammar; see `constraint.Constraint`."""

    def is_ready(self, seconds: float) -> bool: ...
    def allowed(self) -> "npt.NDArray[np.bool_]": ...
    def accept(self, token: int) -> None: ...


class Sampler:
    """Draws the tokens of one sequence with llama.cpp's samplers.

    Args:
        model: whose vocabulary is drawn from.
        params: how to draw; without a seed a fresh one is taken.
        prompt: counts into the penalty window, as the answer will.
        ctx_size: the longest penalty window, and the one that `repeat_last_n` of -1 means.
        constraint: which tokens the grammar of `params` allows; None without one.
    """

    def __init__(
        self,
        model: Model,
        params: SamplingParams,
        *,
        prompt: Sequence[int],
        ctx_size: int,
        constraint: TokenConstraint | None = None,
    ) -> None:
        self._model = model
        self._num_top = params.logprobs
        self.constraint = constraint
        self._chain = SamplerChain(model)
        window = _penalty_window(params, ctx_size)
        if biases := _biases(model, params):
            self._chain.add_logit_bias(biases)
        if window:
            self._add_penalties(params, window, prompt)
        if params.temperature < _GREEDY_BELOW:
            self._chain.add_greedy()
        else:
            self._add_draw(params)

    def _add_penalties(self, params: SamplingParams, window: int, prompt: Sequence[int]) -> None:
        count = _num_candidates(params, window)
        if count is not None and count <= self._model.vocab_size // _WORTH_IT:
            self._chain.add_top_k(count)
        self._chain.add_penalties(
            window,
            repeat=params.repeat_penalty,
            frequency=params.frequency_penalty,
            presence=params.presence_penalty,
        )
        for token in prompt[-window:]:
            self._chain.accept(token)

    def _add_draw(self, params: SamplingParams) -> None:
        if params.top_k:
            self._chain.add_top_k(params.top_k)
        if params.top_p < 1.0:
            self._chain.add_top_p(params.top_p)
        if params.min_p:
            self._chain.add_min_p(params.min_p)
        self._chain.add_temperature(params.temperature)
        self._chain.add_draw(random.getrandbits(31) if params.seed is None else params.seed)

    def sample(self, context: Context, row: int) -> tuple[int, DrawnLogprob | None]:
        """Draw a token from an output row of the last batch, and count it into the window.

        Returns:
            The token and, where the parameters ask for it, how likely it was.

        Raises:
            EngineError: the grammar cannot tell which tokens may come next.
        """
        if self.constraint is None and self._num_top is None:
            return self._chain.sample(context, row), None
        values = view(context.logits(row))
        raw = values if self.constraint is None or self._num_top is None else values.copy()
        if self.constraint is not None:
            rule_out(values, self.constraint.allowed())
        token = self._chain.sample(context, row)
        if self.constraint is not None:
            self.constraint.accept(token)
        if self._num_top is None:
            return token, None
        return token, describe(raw, token, self._num_top, self._model.piece)


def _biases(model: Model, params: SamplingParams) -> list[tuple[int, float]]:
    if not params.ignore_eos:
        return list(params.logit_bias)
    ends = model.end_tokens()
    kept = [(token, bias) for token, bias in params.logit_bias if token not in ends]
    return kept + [(token, -math.inf) for token in ends]


def _penalty_window(params: SamplingParams, ctx_size: int) -> int:
    """Return how many tokens back the penalties reach; 0 where they change nothing."""
    penalties = (params.repeat_penalty, params.frequency_penalty, params.presence_penalty)
    if penalties == (1.0, 0.0, 0.0):
        return 0
    # No sequence is longer than the context, and llama.cpp takes memory for all of a window.
    return ctx_size if params.repeat_last_n < 0 else min(params.repeat_last_n, ctx_size)


def _num_candidates(params: SamplingParams, window: int) -> int | None:
    """Return how many of the largest logits can be drawn; None if any token can."""
    penalties = (params.repeat_penalty - 1.0, params.frequency_penalty, params.presence_penalty)
    if min(penalties) < 0.0:
        return None  # a logit can be raised, and so come up from anywhere
    if params.temperature < _GREEDY_BELOW:
        return 1 + window
    return params.top_k + window if params.top_k else None


# ---- a row of logits as a numpy array, which is imported only where it is wanted ---------------


def view(row: memoryview) -> "Row":
    """Return a row, float32 and one a token of the vocabulary, as an array over the same memory."""
    import numpy as np

    return np.frombuffer(row, dtype=np.float32)


def rule_out(row: "Row", allowed: "npt.NDArray[np.bool_]") -> None:
    """Make all tokens impossible that are not allowed, in place."""
    import numpy as np

    np.copyto(row, np.float32(-np.inf), where=~allowed)


def describe(
    row: "Row", token_id: int, num_top: int, piece: Callable[[int], bytes]
) -> DrawnLogprob:
    """Return a token's log probability and the most likely tokens at its place.

    Args:
        row: logits as the model computed them.
        token_id: the token that was drawn.
        num_top: how many of the most likely ones to name, the likeliest first; of two that are as
            likely the one with the smaller id.
        piece: gives a token's bytes.
    """
    import numpy as np

    top = row.max()
    # The logarithm of the softmax's denominator; exponents of differences cannot overflow.
    normalizer = float(top) + float(np.log(np.exp(row - top).sum(dtype=np.float64)))

    def logprob(token: int) -> TokenLogprob:
        return TokenLogprob(token, piece(token), min(0.0, float(row[token]) - normalizer))

    return DrawnLogprob(logprob(token_id), tuple(map(logprob, _largest(row, num_top))))


def _largest(row: "Row", count: int) -> list[int]:
    import numpy as np

    count = min(count, len(row))
    if not count:
        return []
    least = np.partition(row, -count)[-count]
    candidates = np.flatnonzero(row >= least)
    order = np.argsort(-row[candidates], kind="stable")
    return [int(token) for token in candidates[order][:count]]
