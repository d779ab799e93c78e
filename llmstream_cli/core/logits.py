"""One row of logits as a numpy array: what a grammar rules out, and how likely a token was."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from llmstream_cli.api import DrawnLogprob, TokenLogprob

Row = npt.NDArray[np.float32]


def view(row: memoryview) -> Row:
    """Return a row, float32 and one a token of the vocabulary, as an array over the same memory."""
    return np.frombuffer(row, dtype=np.float32)


def rule_out(row: Row, allowed: npt.NDArray[np.bool_]) -> None:
    """Make all tokens impossible that are not allowed, in place."""
    np.copyto(row, np.float32(-np.inf), where=~allowed)


def describe(row: Row, token_id: int, num_top: int, piece: Callable[[int], bytes]) -> DrawnLogprob:
    """Return a token's log probability and the most likely tokens at its place.

    Args:
        row: logits as the model computed them.
        token_id: the token that was drawn.
        num_top: how many of the most likely ones to name, the likeliest first; of two that are as
            likely the one with the smaller id.
        piece: gives a token's bytes.
    """
    top = row.max()
    # The logarithm of the softmax's denominator; exponents of differences cannot overflow.
    normalizer = float(top) + float(np.log(np.exp(row - top).sum(dtype=np.float64)))

    def logprob(token: int) -> TokenLogprob:
        return TokenLogprob(token, piece(token), min(0.0, float(row[token]) - normalizer))

    return DrawnLogprob(logprob(token_id), tuple(map(logprob, _largest(row, num_top))))


def _largest(row: Row, count: int) -> list[int]:
    count = min(count, len(row))
    if not count:
        return []
    least = np.partition(row, -count)[-count]
    candidates = np.flatnonzero(row >= least)
    order = np.argsort(-row[candidates], kind="stable")
    return [int(token) for token in candidates[order][:count]]
