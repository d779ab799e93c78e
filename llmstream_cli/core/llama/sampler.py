"""From sampling parameters to tokens, by llama.cpp's samplers.

llama.cpp's penalties look up every token of the vocabulary, which takes longer than all the rest
of a draw. Only the `k` largest logits survive top-k, and penalties that never raise a logit can
push at most as many tokens below others as the penalty window holds. So the `k + window` largest
logits contain all that can be drawn: they are chosen first, and what follows draws the same token.
Only between tokens whose logits are equal may the choice differ: llama.cpp's sorting is not stable.
"""

import math
import random
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from llmstream_cli.api import DrawnLogprob, SamplingParams, TokenLogprob
from llmstream_cli.core.llama.bindings import C
from llmstream_cli.core.llama.context import Context
from llmstream_cli.core.llama.model import Model
from llmstream_cli.errors import EngineError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Row = npt.NDArray[np.float32]

_GREEDY_BELOW = 1e-4  # logits divided by less overflow single precision
_WORTH_IT = 4  # narrow where at most this part of the vocabulary is left


class TokenConstraint(Protocol):
    """Follows an answer through its grammar; see `constraint.Constraint`."""

    @property
    def is_active(self) -> bool: ...
    def begin(self, text: str) -> None: ...
    def is_ready(self, seconds: float) -> bool: ...
    def allowed(self) -> "npt.NDArray[np.bool_]": ...
    def accept(self, token: int) -> None: ...


class SamplerChain:
    """llama.cpp's samplers in a row; the last chooses a token."""

    def __init__(self, samplers: Iterator[Any]) -> None:
        self._pointer = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        weakref.finalize(self, C.llama_sampler_free, self._pointer)
        for sampler in samplers:
            if not sampler:  # a NULL pointer is an object too, but a false one
                raise EngineError("llama.cpp cannot make a sampler")
            C.llama_sampler_chain_add(self._pointer, sampler)

    def accept(self, token: int) -> None:
        C.llama_sampler_accept(self._pointer, token)

    def sample(self, context: Context, row: int) -> int:
        """Choose a token from an output row of the context's last batch, and accept it."""
        return int(C.llama_sampler_sample(self._pointer, context.pointer, row))


class Sampler:
    """Draws the tokens of one sequence, of those that the constraint allows.

    `constrained` is how it draws while the constraint is active. The prompt counts into the penalty
    window, as the answer will; the window is at most the context. Without a seed a fresh one is
    taken.
    """

    def __init__(
        self,
        model: Model,
        params: SamplingParams,
        *,
        prompt: Sequence[int],
        ctx_size: int,
        constraint: TokenConstraint | None = None,
        constrained: SamplingParams | None = None,
    ) -> None:
        if constraint is not None and constraint.is_active:
            params = constrained or params
        self._constrained = constrained
        self._model = model
        self._num_top = params.logprobs
        self.constraint = constraint
        self.is_reproducible = params.seed is not None or params.temperature == 0
        self._ctx_size = ctx_size
        self._chain = self._begin_chain(params, prompt)

    def _begin_chain(self, params: SamplingParams, tokens: Sequence[int]) -> SamplerChain:
        window = _penalty_window(params, self._ctx_size)
        chain = SamplerChain(_samplers(self._model, params, window))
        for token in tokens[-window:] if window else ():
            chain.accept(token)
        return chain

    def sample(self, context: Context, row: int) -> tuple[int, DrawnLogprob | None]:
        """Draw a token, count it into the window, and tell how likely it was if asked."""
        constraint = self.constraint
        if constraint is not None and not constraint.is_active:
            constraint = None
        if constraint is None and self._num_top is None:
            return self._chain.sample(context, row), None
        values = view(context.logits(row))
        raw = values if constraint is None or self._num_top is None else values.copy()
        if constraint is not None:
            rule_out(values, constraint.allowed())
        token = self._chain.sample(context, row)
        if constraint is not None:
            constraint.accept(token)
        if self._num_top is None:
            return token, None
        return token, describe(raw, token, self._num_top, self._model.piece)

    def begin_constraint(self, text: str, tokens: Sequence[int]) -> None:
        """Let the constraint hold from the next token on, behind a text that has come already.

        `tokens` are those of the prompt and of the answer so far.
        """
        if self.constraint is None or self.constraint.is_active:
            return  # it holds for what comes after its first call as well
        self.constraint.begin(text)
        if self._constrained is not None:
            self._chain = self._begin_chain(self._constrained, tokens)


def _samplers(model: Model, params: SamplingParams, window: int) -> Iterator[Any]:
    size = model.vocab_size
    if biases := _biases(model, params):
        array = (C.llama_logit_bias * len(biases))(*(C.llama_logit_bias(*pair) for pair in biases))
        yield C.llama_sampler_init_logit_bias(size, len(biases), array)
    if window:
        penalties = params.repeat_penalty, params.frequency_penalty, params.presence_penalty
        count = _num_candidates(params, window)
        if count is not None and count <= size // _WORTH_IT:
            yield C.llama_sampler_init_top_k(count)
        yield C.llama_sampler_init_penalties(size, window, *penalties)
    if params.temperature < _GREEDY_BELOW:
        yield C.llama_sampler_init_greedy()
        return
    if params.top_k:
        yield C.llama_sampler_init_top_k(params.top_k)
    if params.top_p < 1.0:
        yield C.llama_sampler_init_top_p(params.top_p, 1)
    if params.min_p:
        yield C.llama_sampler_init_min_p(params.min_p, 1)
    yield C.llama_sampler_init_temp(params.temperature)
    yield C.llama_sampler_init_dist(random.getrandbits(31) if params.seed is None else params.seed)


def _biases(model: Model, params: SamplingParams) -> list[tuple[int, float]]:
    if not params.ignore_eos:
        return list(params.logit_bias)
    ends = model.end_tokens
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
    """Return a drawn token's log probability, and those of the `num_top` most likely tokens.

    The likeliest comes first; of two that are as likely, the one with the smaller id.
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
