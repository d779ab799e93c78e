"""How many prompt tokens a step may compute beside the streams that are decoding.

A running stream waits for the whole step, prompts included. On a CPU the times add up: a step takes
the decoding's time, plus that of each prompt token, plus that of each stream that is copied for a
new sequence. All are measured as they come, so the budget follows the model, the machine and its
load, and what a token costs more the more stand before it.

Rules:

1. The gap that a stream sees is to stay below 100 ms or twice its usual one, whichever is larger.
2. No two steps take the same time, so the aim lies below that by some deviations, as TCP waits
   some above the mean (RFC 6298). At least half of the free time is used, however they vary.
3. What has become dearer is believed sooner than what has become cheaper: the longest gap counts.
4. A step with prompts does not tell the decoding's time from theirs. So after `_PROBE_STEPS` of
   them one only decodes, or a wrong share of the time would stay wrong as long as prompts come.
"""

TARGET_SECONDS = 0.1  # a gap between two tokens that a reader does not notice
_HIGHEST_AIM = 0.8  # of that, however steady the steps are
_DEVIATIONS = 5
_FIRST_DEVIATION = 0.125  # as a part of the step's time
_FIRST_GUESS = 32  # tokens, until something has been measured
_PROBE_STEPS = 16
_SMOOTHING = 0.3
_SLOW_SMOOTHING = 0.1


class PrefillBudget:
    """A running estimate of what a step costs.

    Args:
        max_tokens: never more than so many tokens in a step, decoding ones included.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._decode_seconds: dict[int, float] = {}  # of a step, by how many streams decode in it
        self._token_seconds: float | None = None  # of one prompt token
        self._copy_seconds: float | None = None  # of one copied stream
        self._deviation = _FIRST_DEVIATION  # mean, of steps with prompts from their estimate
        self._num_mixed = 0  # steps with prompts and decoding since one that only decoded

    def tokens(self, num_decoding: int) -> int:
        """Return how many prompt tokens fit beside `num_decoding` streams.

        At least one, but none at all in a step that is to measure the decoding.
        """
        left = self._max_tokens - num_decoding
        if not num_decoding:
            return left
        if not self._token_seconds:
            return max(1, min(left, _FIRST_GUESS))
        if self._num_mixed >= _PROBE_STEPS:
            return 0
        decode = self._decode(num_decoding)
        target = max(TARGET_SECONDS, 2 * decode)
        aim = target * min(_HIGHEST_AIM, 1 / (1 + _DEVIATIONS * self._deviation))
        spare = max(aim - decode, (target - decode) / 2)
        return max(1, min(left, int(spare / self._token_seconds)))

    @property
    def copy_tokens(self) -> int:
        """What the copy of a stream costs, in prompt tokens."""
        if not self._token_seconds or self._copy_seconds is None:
            return _FIRST_GUESS
        return round(self._copy_seconds / self._token_seconds)

    def observe(
        self, num_decoding: int, num_prefill: int, seconds: float, *, num_copies: int = 0
    ) -> None:
        """Learn from a step.

        Args:
            num_decoding: streams that decoded in it.
            num_prefill: prompt tokens in it.
            seconds: how long it took.
            num_copies: streams that were copied before it.
        """
        if num_decoding and not num_prefill:
            self._num_mixed = 0
            self._decode_seconds[num_decoding] = _smooth(
                self._decode_seconds.get(num_decoding), seconds
            )
            return
        self._num_mixed += 1 if num_decoding else 0
        decode = self._decode(num_decoding)
        if num_copies:
            tokens = num_prefill * (self._token_seconds or 0.0)
            per_copy = max(seconds - decode - tokens, 0.0) / num_copies
            self._copy_seconds = _smooth(self._copy_seconds, per_copy)
            return
        if num_decoding and self._token_seconds:
            expected = decode + num_prefill * self._token_seconds
            error = min(abs(seconds / expected - 1), 1.0)
            self._deviation += _SLOW_SMOOTHING * (error - self._deviation)
        per_token = max(seconds - decode, 0.1 * seconds) / num_prefill
        self._token_seconds = _smooth(self._token_seconds, per_token, falling=_SLOW_SMOOTHING)

    def _decode(self, num_decoding: int) -> float:
        """Return the seconds of decoding so many streams, or the nearest number measured."""
        known = self._decode_seconds
        if not num_decoding or not known:
            return 0.0
        return known[min(known, key=lambda number: abs(number - num_decoding))]


def _smooth(old: float | None, new: float, *, falling: float = _SMOOTHING) -> float:
    if old is None:
        return new
    return old + (_SMOOTHING if new > old else falling) * (new - old)
