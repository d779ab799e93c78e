"""The one hint: that there are better models than the embedded one."""

import sys
from typing import TYPE_CHECKING

from llmstream_cli.cli.terminal import complain
from llmstream_cli.files import exists, user_folder
from llmstream_cli.models.preset import Preset
from llmstream_cli.models.presets import DEFAULT_PRESET, PRESETS
from llmstream_cli.models.resolve import ResolvedModel

if TYPE_CHECKING:
    from llmstream_cli.models.fit import Speed

_FILE = "hinted"


def hint_once(found: ResolvedModel, tokens_per_second: float) -> None:
    """Tell a person who was answered by the embedded model how to get a better one; once ever.

    That it was told is kept as a file in the user's state folder, such as
    `~/.local/state/llmstream`. Where that cannot be written, nothing is told, rather than each
    time. Nothing is measured for it: it must not be felt.

    Args:
        found: the model that answered.
        tokens_per_second: how fast it did; 0 is unknown, and then nothing is told yet.
    """
    if found.preset is None or found.preset.name != DEFAULT_PRESET:
        return
    if sys.stderr is None or not sys.stderr.isatty() or exists(user_folder("state") / _FILE):
        return
    if tokens_per_second <= 0:
        return
    line = _line(found.preset, tokens_per_second)
    if line is not None and _remember():
        complain(line + "\n")


def _remember() -> bool:
    """Keep that it is told; return whether it was not, and could be kept."""
    path = user_folder("state") / _FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("x").close()
    except OSError:  # it can only be read, or another process has just told it
        return False
    return True


def _line(preset: Preset, tokens_per_second: float) -> str | None:
    """Return the hint; None where no better model would run."""
    from llmstream_cli.machine import free_disk, memory
    from llmstream_cli.models.fit import assess, recommend
    from llmstream_cli.models.hub_cache import hub_folder
    from llmstream_cli.models.sizes import human_size

    found, free = memory(), free_disk(hub_folder())
    speed = _speed(preset, tokens_per_second)
    best = recommend(
        assess(
            preset,
            total_memory=found.total,
            available_memory=found.available,
            free_disk=free,
            speed=speed,
            present=False,
        )
        for preset in PRESETS.values()
    )
    if best is None or best.name == DEFAULT_PRESET:
        return None
    return (
        f"llmstream: that was the tiny {DEFAULT_PRESET}; `llmstream models pull {best.name}` "
        f"fetches a better one ({human_size(best.size_bytes)}), "
        "`llmstream models list` shows them all"
    )


def _speed(preset: Preset, tokens_per_second: float) -> "Speed":
    """Return the machine's speed as `models list` measured it, else as the answer suggests.

    The latter says too little: not all of the time went into reading weights.
    """
    from llmstream_cli.cli.speed import remembered_speed
    from llmstream_cli.models.fit import Speed

    by_answer = Speed(bytes_per_second=preset.size_bytes * tokens_per_second, layer_seconds=0.0)
    return remembered_speed() or by_answer
