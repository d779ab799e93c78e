"""From sampling parameters to tokens."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmstream_cli.core.api import SamplingParams
from llmstream_cli.core.llama import Context, Model, SamplerChain

if TYPE_CHECKING:
    from llmstream_cli.core.preselect import Preselector

_GREEDY_BELOW = 1e-4  # logits divided by less overflow single precision
_WORTH_IT = 16  # preselect where at most this part of the vocabulary is wanted


class Sampler:
    """Draws the tokens of one sequence with llama.cpp's samplers.

    Args:
        model: whose vocabulary is drawn from.
        params: how to draw; without a seed a fresh one is taken.
        prompt: counts into the penalty window, as the answer will.
        ctx_size: the penalty window where `repeat_last_n` is -1.
        preselect: whether to look for the few logits that matter first. The tokens are the same; it
            is faster, but for numpy's import.
    """

    def __init__(
        self,
        model: Model,
        params: SamplingParams,
        *,
        prompt: Sequence[int],
        ctx_size: int,
        preselect: bool,
    ) -> None:
        self._chain = SamplerChain(model)
        window = ctx_size if params.repeat_last_n < 0 else params.repeat_last_n
        if not _penalizes(params):
            window = 0
        if window:
            self._chain.add_penalties(
                window,
                repeat=params.repeat_penalty,
                frequency=params.frequency_penalty,
                presence=params.presence_penalty,
            )
            for token in prompt[-window:]:
                self._chain.accept(token)
        if params.temperature < _GREEDY_BELOW:
            self._chain.add_greedy()
        else:
            self._add_draw(params)
        wanted = _num_candidates(params, window)
        self._preselector: Preselector | None = None
        if preselect and wanted is not None and wanted <= model.vocab_size // _WORTH_IT:
            from llmstream_cli.core import preselect as late

            self._preselector = late.Preselector(wanted)

    def _add_draw(self, params: SamplingParams) -> None:
        if params.top_k:
            self._chain.add_top_k(params.top_k)
        if params.top_p < 1.0:
            self._chain.add_top_p(params.top_p)
        if params.min_p:
            self._chain.add_min_p(params.min_p)
        self._chain.add_temperature(params.temperature)
        self._chain.add_draw(random.getrandbits(31) if params.seed is None else params.seed)

    def sample(self, context: Context, row: int) -> int:
        """Draw a token from an output row of the last batch, and count it into the window."""
        if self._preselector is None:
            return self._chain.sample(context, row)
        candidates = self._preselector.candidates(context.logits(row))
        return self._chain.choose(candidates.data, len(candidates))


def _penalizes(params: SamplingParams) -> bool:
    penalties = (params.repeat_penalty, params.frequency_penalty, params.presence_penalty)
    return penalties != (1.0, 0.0, 0.0)


def _num_candidates(params: SamplingParams, window: int) -> int | None:
    """Return how many of the largest logits can be drawn; None if any token can."""
    penalties = (params.repeat_penalty - 1.0, params.frequency_penalty, params.presence_penalty)
    if window and min(penalties) < 0.0:
        return None  # a logit can be raised, and so come up from anywhere
    if params.temperature < _GREEDY_BELOW:
        return 1 + window
    return params.top_k + window if params.top_k else None
