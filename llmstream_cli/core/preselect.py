"""The few logits that can matter, found with numpy before llama.cpp's samplers see them.

llama.cpp copies and scans the whole vocabulary for each token it draws. Only the `k` largest logits
survive top-k, and penalties that never raise a logit can push at most as many tokens below others
as the penalty window holds. So the largest `k + window` logits contain all that can be drawn, and
the samplers, applied to these alone, draw the same token.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

_SLACK = 1.3  # next time, look a little lower than was needed last time
_MOST = 2  # times as many as wanted are still cheaper than to part them

# What `core.llama.SamplerChain.choose` takes.
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Preselector:
    """Finds the largest logits of one sequence's rows.

    Rows of a sequence resemble each other, so the distance from the largest logit to the last one
    wanted is remembered, and one comparison with a threshold is enough for most rows.

    Args:
        count: how many are wanted; fewer than a row has.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._depth = 0.0

    def candidates(self, row: memoryview) -> npt.NDArray[Any]:
        """Return records of the `count` largest logits, and maybe of more, by ascending token.

        Args:
            row: float32, one a token.
        """
        logits = np.frombuffer(row, dtype=np.float32)
        top = logits.max()
        tokens = np.flatnonzero(logits >= top - self._depth)
        if len(tokens) < self._count:
            tokens = np.arange(len(logits))  # too shallow: look at the whole row
        if len(tokens) > _MOST * self._count:
            some = logits[tokens]
            least = np.partition(some, -self._count)[-self._count]
            self._depth = float(top - least) * _SLACK
            tokens = tokens[some >= least]
        records = np.empty(len(tokens), _CANDIDATE)
        records["id"] = tokens
        records["logit"] = logits[tokens]
        return records
