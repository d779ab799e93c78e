"""Does a model fit this machine, how fast is it likely to be, and which one is worth having?

A token costs what the slower of two things takes, as in the roofline model (Williams et al. 2009,
doi:10.1145/1498765.1498785): to read all weights from memory once, or to multiply with them; and
something for every layer, in which threads wait for each other. `Speed` has the three figures of a
machine. They are measured elsewhere; here is only arithmetic.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from llmstream_cli.models.preset import Preset

MIN_TOKENS_PER_SECOND = 8.0  # about as fast as one reads aloud; a slower model is not recommended

_RESERVE = 10  # one part in so many of the memory is left to others

# Of a layer, where no model could be measured: two to four threads on a desktop processor.
ASSUMED_LAYER_SECONDS = 150e-6


class Fit(StrEnum):
    """Whether a model has room in memory."""

    YES = "yes"
    TIGHT = "tight"  # only if other programs make room
    NO = "no"


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast a machine computes tokens, one at a time.

    Attributes:
        bytes_per_second: how fast all threads together read memory.
        layer_seconds: what a layer costs beside its weights.
        weights_per_second: how many weights are multiplied with; None where that is unknown.
    """

    bytes_per_second: float
    layer_seconds: float = ASSUMED_LAYER_SECONDS
    weights_per_second: float | None = None

    def tokens_per_second(self, preset: Preset) -> float:
        """Estimate how fast the model generates an answer, with little context behind it."""
        seconds = preset.size_bytes / self.bytes_per_second
        if self.weights_per_second is not None:
            seconds = max(seconds, preset.num_parameters / self.weights_per_second)
        return 1 / (seconds + preset.kv.layers * self.layer_seconds)


def speed_from(
    probe: Preset,
    *,
    size_bytes: int,
    bytes_per_second: float,
    decode_tokens_per_second: float,
    prefill_tokens_per_second: float,
) -> Speed:
    """Derive a machine's figures from what one model did on it.

    Args:
        probe: the model.
        size_bytes: of the file that was measured, which may be another than the preset's own.
        bytes_per_second: how fast memory is read, measured apart.
        decode_tokens_per_second: of one answer.
        prefill_tokens_per_second: of one prompt. Its weights are read once for many tokens, so
            that only multiplying takes time.
    """
    weights_per_second = probe.num_parameters * prefill_tokens_per_second
    streaming = max(size_bytes / bytes_per_second, probe.num_parameters / weights_per_second)
    rest = max(0.0, 1 / decode_tokens_per_second - streaming)
    return Speed(
        bytes_per_second=bytes_per_second,
        layer_seconds=rest / probe.kv.layers,
        weights_per_second=weights_per_second,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What a preset is on this machine.

    Attributes:
        preset: the model.
        memory_bytes: what a conversation with it takes, estimated.
        fit: whether there is memory for that.
        disk_bytes: what it takes on the disk; a repacked copy counts.
        fits_disk: whether the disk has room for it, or it is there already.
        tokens_per_second: likely speed of an answer; None where nothing is known.
        present: whether its file is on this machine.
    """

    preset: Preset
    memory_bytes: int
    fit: Fit
    disk_bytes: int
    fits_disk: bool
    tokens_per_second: float | None
    present: bool


def assess(
    preset: Preset,
    *,
    total_memory: int,
    available_memory: int,
    free_disk: int,
    speed: Speed | None,
    present: bool,
) -> Assessment:
    """Hold a preset against a machine; sizes in bytes."""
    memory_bytes = preset.memory_bytes()
    disk_bytes = preset.disk_bytes
    return Assessment(
        preset=preset,
        memory_bytes=memory_bytes,
        fit=_fit(memory_bytes, total_memory, available_memory),
        disk_bytes=disk_bytes,
        fits_disk=present or disk_bytes <= free_disk,
        tokens_per_second=speed.tokens_per_second(preset) if speed is not None else None,
        present=present,
    )


def _fit(needed: int, total: int, available: int) -> Fit:
    reserve = total // _RESERVE
    if needed <= available - reserve:
        return Fit.YES
    return Fit.TIGHT if needed <= total - reserve else Fit.NO


def recommend(assessments: Iterable[Assessment]) -> Preset | None:
    """Return the model to take, or None where none will do.

    The one of highest quality among those that fit in memory with a tenth to spare and on the disk,
    and are likely to generate at least `MIN_TOKENS_PER_SECOND`. Where nothing is known of the
    machine's speed, that condition falls away.
    """
    good = [
        assessment.preset
        for assessment in assessments
        if assessment.fit is Fit.YES
        and assessment.fits_disk
        and (
            assessment.tokens_per_second is None
            or assessment.tokens_per_second >= MIN_TOKENS_PER_SECOND
        )
    ]
    return max(good, key=lambda preset: preset.quality, default=None)
