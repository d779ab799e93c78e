"""Does a model fit this machine, and how fast is it at best?"""

from enum import StrEnum

from llmstream_cli.models.preset import Preset

_RESERVE = 10  # one part in so many of the memory is left to others


class Fit(StrEnum):
    """Whether a model has room in memory."""

    YES = "yes"
    TIGHT = "tight"  # only if other programs make room
    NO = "no"


def fit(needed: int, total: int, available: int) -> Fit:
    """Compare what a model needs with the machine's memory, in bytes; a tenth stays free."""
    reserve = total // _RESERVE
    if needed <= available - reserve:
        return Fit.YES
    return Fit.TIGHT if needed <= total - reserve else Fit.NO


def tokens_per_second(preset: Preset, bytes_per_second: float) -> float:
    """Estimate an answer's speed: for each token all weights that it needs are read once."""
    return bytes_per_second / preset.read_bytes
