"""How much prompt a step may compute beside the streams that are decoding.

A running stream waits for the whole step, prompts included. On a CPU the times add up: a step takes
the decoding's time, plus that of each prompt token, plus that of each KV stream that is copied for
a new sequence. All are measured as they come, so the budget follows the model, the machine and its
load.

Rules:

1. The gap that a stream sees is to stay below 100 ms or twice its usual one, whichever is larger.
2. No two steps take the same time, so the aim lies below that by some mean deviations, as TCP sets
   its time-outs above the mean (RFC 6298). However they vary, half of the free time is used.
3. A prompt token costs the more the more stand before it, because it attends to all of them: the
   cost is a straight line over the position (measured; at 2,000 tokens it can be the threefold).
4. What has become dearer is believed sooner than what has become cheaper: the longest gap counts.
5. A step with prompts does not tell the decoding's time from theirs. So after `_PROBE_STEPS` of
   them one only decodes, or a wrong share would stay wrong for as long as prompts come.
"""

from collections.abc import Sequence
from dataclasses import dataclass

TARGET_SECONDS = 0.1  # a gap between two tokens that a reader does not notice
_HIGHEST_AIM = 0.75  # of that, however steady the steps are
_DEVIATIONS = 5
_FIRST_DEVIATION = 0.125  # as a part of a step's time
_PROBE_STEPS = 16
_RISING, _FALLING = 0.3, 0.1  # how much of what a step tells is believed

# Until something has been measured.
_FIRST_TOKEN_SECONDS = 0.003
_FIRST_COPY_SECONDS = 0.02

_POSITIONS = 1024  # the unit of positions, which makes both numbers of the line alike in size


@dataclass(slots=True)
class StepBudget:
    """What is left of one step for prompts."""

    tokens: int  # how many more the batch holds
    seconds: float  # how much more time they may take
    _costs: "PrefillBudget"
    _fresh: bool = True

    @property
    def is_spent(self) -> bool:
        return self.tokens <= 0 or self.seconds <= 0

    def take_copy(self) -> bool:
        """Pay for the copy of a KV stream; False if it has to wait for the next step.

        A copy for which no budget would do gets a fresh one. Nobody overtakes whoever has to wait.
        """
        if self.seconds < self._costs.copy_seconds and not self._fresh:
            self.seconds = 0.0
            return False
        self.seconds = max(self.seconds - self._costs.copy_seconds, 0.0)
        self._fresh = False
        return True

    def take_tokens(self, start: int, wanted: int) -> int:
        """Pay for tokens from position `start` on; return how many, at least one."""
        per_token = self._costs.token_seconds(start)
        count = min(wanted, self.tokens)
        if count * per_token > self.seconds:
            count = max(1, int(self.seconds / per_token))
        self.tokens -= count
        self.seconds -= count * per_token
        self._fresh = False
        return count


class PrefillBudget:
    """A running estimate of what a step costs, which has at most `max_tokens` tokens."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._decode_seconds: dict[int, float] = {}  # of a step, by how many streams decode in it
        self._line: tuple[float, float] | None = None  # of a token: at the start, more per position
        self.copy_seconds = _FIRST_COPY_SECONDS  # of a KV stream
        self._deviation = _FIRST_DEVIATION  # mean, of steps with prompts from their estimate
        self._num_mixed = 0  # steps with prompts and decoding since one that only decoded

    def step_budget(self, num_decoding: int) -> StepBudget:
        """Return what a step has for prompts beside `num_decoding` streams."""
        left = self._max_tokens - num_decoding
        if not num_decoding:
            return StepBudget(left, float("inf"), self)
        if self._num_mixed >= _PROBE_STEPS:
            return StepBudget(left, 0.0, self)  # it is to measure the decoding
        decode = self._decode(num_decoding)
        target = max(TARGET_SECONDS, 2 * decode)
        aim = target * min(_HIGHEST_AIM, 1 / (1 + _DEVIATIONS * self._deviation))
        return StepBudget(left, max(aim - decode, (target - decode) / 2), self)

    def token_seconds(self, position: float) -> float:
        """Return what a prompt token costs with `position` tokens before it."""
        if self._line is None:
            return _FIRST_TOKEN_SECONDS
        first, more = self._line
        return first + more * position / _POSITIONS

    def observe(
        self,
        num_decoding: int,
        prefill: Sequence[tuple[int, int]],
        seconds: float,
        *,
        num_copies: int = 0,
    ) -> None:
        """Learn from a step with such parts of prompts, from start to end, after such copies."""
        if not prefill:
            self._num_mixed = 0
            known = self._decode_seconds.get(num_decoding, seconds)
            self._decode_seconds[num_decoding] = known + _RISING * (seconds - known)
            return
        decode = self._decode(num_decoding)
        num_tokens = sum(end - start for start, end in prefill)
        position = sum((end - start) * (start + end) / 2 for start, end in prefill) / num_tokens
        expected = decode + num_tokens * self.token_seconds(position)
        if num_decoding:
            self._num_mixed += 1
        if num_copies:
            per_copy = max(seconds - expected, 0.0) / num_copies
            self.copy_seconds += _gain(per_copy - self.copy_seconds)
            return
        if num_decoding and expected:
            error = min(abs(seconds - expected) / expected, 1.0)
            self._deviation += _FALLING * (error - self._deviation)
        self._learn_line(position, max(seconds - decode, 0.1 * seconds) / num_tokens)

    def _learn_line(self, position: float, per_token: float) -> None:
        """Move the line towards a point, by normalized least mean squares."""
        if self._line is None:
            self._line = per_token, 0.0
            return
        first, more = self._line
        x = position / _POSITIONS
        step = _gain(per_token - self.token_seconds(position)) / (1 + x * x)
        self._line = max(first + step, 0.0), max(more + step * x, 0.0)

    def _decode(self, num_decoding: int) -> float:
        """Return the seconds of decoding so many streams, or the nearest number measured."""
        known = self._decode_seconds
        if not num_decoding or not known:
            return 0.0
        return known[min(known, key=lambda number: abs(number - num_decoding))]


def _gain(difference: float) -> float:
    return difference * (_RISING if difference > 0 else _FALLING)
