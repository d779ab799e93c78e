"""How many prompt tokens a step may compute beside the streams that are decoding.

A running stream waits for the whole step, prompts included. On a CPU the times add up: a step takes
the decoding's time plus that of each prompt token. Both are measured as they come, so the budget
follows the model, the machine and its load.
"""

TARGET_SECONDS = 0.1  # a gap between two tokens that a reader does not notice
_MARGIN = 0.75  # steps vary; aim below the target
_FIRST_GUESS = 32  # tokens, until something has been measured
_SMOOTHING = 0.3


class PrefillBudget:
    """A running estimate of what a prompt token costs.

    Args:
        max_tokens: never more than so many tokens in a step, decoding ones included.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._decode_seconds: float | None = None  # of a step that only decodes
        self._token_seconds: float | None = None  # of one prompt token

    def tokens(self, num_decoding: int) -> int:
        """Return how many prompt tokens fit beside `num_decoding` streams; at least one.

        The gap that a stream sees is to stay below 100 ms or twice its usual one, whichever is
        larger.
        """
        left = self._max_tokens - num_decoding
        if not num_decoding:
            return left
        if not self._token_seconds:
            return max(1, min(left, _FIRST_GUESS))
        decode = self._decode_seconds or 0.0
        spare = max(TARGET_SECONDS, 2 * decode) * _MARGIN - decode
        return max(1, min(left, int(spare / self._token_seconds)))

    def observe(self, num_decoding: int, num_prefill: int, seconds: float) -> None:
        """Learn from a step of `num_decoding` streams and `num_prefill` prompt tokens."""
        if not num_prefill:
            self._decode_seconds = _smooth(self._decode_seconds, seconds)
            return
        decode = (self._decode_seconds or 0.0) if num_decoding else 0.0
        per_token = max(seconds - decode, 0.1 * seconds) / num_prefill
        self._token_seconds = _smooth(self._token_seconds, per_token)


def _smooth(old: float | None, new: float) -> float:
    return new if old is None else old + _SMOOTHING * (new - old)
