"""llama.cpp's own samplers."""

import weakref
from collections.abc import Sequence
from typing import Any

from llmstream_cli.core.llama.bindings import C
from llmstream_cli.core.llama.context import Context
from llmstream_cli.core.llama.model import Model
from llmstream_cli.errors import EngineError


class SamplerChain:
    """llama.cpp's samplers in a row, each narrowing or reweighting what the one before left.

    The last one added must choose a token: `add_greedy` or `add_draw`.
    """

    def __init__(self, model: Model) -> None:
        self._vocab_size = model.vocab_size
        self._pointer = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        if not self._pointer:
            raise EngineError("llama.cpp cannot make a sampler")
        weakref.finalize(self, C.llama_sampler_free, self._pointer)

    def add_logit_bias(self, biases: Sequence[tuple[int, float]]) -> None:
        """Add to the logits of some tokens; minus infinity rules a token out."""
        array = (C.llama_logit_bias * len(biases))(*(C.llama_logit_bias(*pair) for pair in biases))
        self._add(C.llama_sampler_init_logit_bias(self._vocab_size, len(biases), array))

    def add_penalties(
        self, window: int, *, repeat: float, frequency: float, presence: float
    ) -> None:
        """Penalize the tokens among the last `window` accepted ones."""
        self._add(
            C.llama_sampler_init_penalties(self._vocab_size, window, repeat, frequency, presence)
        )

    def add_top_k(self, k: int) -> None:
        """Keep the `k` largest logits."""
        self._add(C.llama_sampler_init_top_k(k))

    def add_top_p(self, p: float) -> None:
        """Keep the likeliest tokens that together reach probability `p`; at least one."""
        self._add(C.llama_sampler_init_top_p(p, 1))

    def add_min_p(self, p: float) -> None:
        """Keep tokens at least `p` times as likely as the likeliest."""
        self._add(C.llama_sampler_init_min_p(p, 1))

    def add_temperature(self, temperature: float) -> None:
        """Divide the logits."""
        self._add(C.llama_sampler_init_temp(temperature))

    def add_draw(self, seed: int) -> None:
        """Draw by probability."""
        self._add(C.llama_sampler_init_dist(seed))

    def add_greedy(self) -> None:
        """Take the largest logit."""
        self._add(C.llama_sampler_init_greedy())

    def accept(self, token: int) -> None:
        """Count a token that was not sampled here."""
        C.llama_sampler_accept(self._pointer, token)

    def sample(self, context: Context, row: int) -> int:
        """Choose a token from an output row of the context's last batch, and accept it."""
        return int(C.llama_sampler_sample(self._pointer, context.pointer, row))

    def _add(self, sampler: Any) -> None:
        if not sampler:  # a NULL pointer is an object too, but a false one
            raise EngineError("llama.cpp cannot make a sampler")
        C.llama_sampler_chain_add(self._pointer, sampler)
