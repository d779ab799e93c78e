"""From sampling parameters to tokens."""

import random
from collections.abc import Sequence

from llmstream_cli.core.api import SamplingParams
from llmstream_cli.core.llama import Context, Model, SamplerChain

_GREEDY_BELOW = 1e-4  # logits divided by less overflow single precision


class Sampler:
    """Draws the tokens of one sequence with llama.cpp's samplers.

    Args:
        model: whose vocabulary is drawn from.
        params: how to draw; without a seed a fresh one is taken.
        prompt: counts into the penalty window, as the answer will.
        ctx_size: the penalty window where `repeat_last_n` is -1.
    """

    def __init__(
        self, model: Model, params: SamplingParams, *, prompt: Sequence[int], ctx_size: int
    ) -> None:
        self._chain = SamplerChain(model)
        window = ctx_size if params.repeat_last_n < 0 else params.repeat_last_n
        if window and _penalizes(params):
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
        return self._chain.sample(context, row)


def _penalizes(params: SamplingParams) -> bool:
    penalties = (params.repeat_penalty, params.frequency_penalty, params.presence_penalty)
    return penalties != (1.0, 0.0, 0.0)
