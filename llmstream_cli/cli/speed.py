"""How fast this machine is: measured once, then remembered in the cache folder."""

import contextlib
import dataclasses
import json
import math
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import llmstream_cli
from llmstream_cli.core.cpu import default_threads
from llmstream_cli.files import cache_folder, replace_file
from llmstream_cli.models.fit import Speed, speed_from
from llmstream_cli.models.preset import Preset

_FILE = "speed.json"
_CPU_INFO = Path("/proc/cpuinfo")

_READ_BYTES = 128 << 20  # far beyond any cache of a processor that these models are for
_READ_COLUMNS = 4096
_READ_REPEATS = 8
_BENCH_TIMEOUT = 120.0  # seconds
_BENCH = "--streams 1 --prefix distinct --prompt-tokens 192 --max-tokens 32 --repeat 1 --json"


@dataclass(frozen=True, slots=True)
class Probe:
    """A model on this machine that can be measured.

    Attributes:
        preset: which it is.
        path: its file.
    """

    preset: Preset
    path: Path


def remembered_speed() -> Speed | None:
    """Return what was measured on this machine before, if anything."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        content = json.loads((cache_folder() / _FILE).read_text(encoding="utf-8"))
        if content["machine"] == _machine():
            speed = Speed(**content["speed"])
            return speed if _is_sound(speed) else None
    return None


def _is_sound(speed: Speed) -> bool:
    """Whether the figures from a file can be those of a machine."""
    figures = [speed.bytes_per_second, speed.layer_seconds]
    if speed.weights_per_second is not None:
        figures.append(speed.weights_per_second)
    return all(isinstance(figure, float) and 0.0 <= figure < math.inf for figure in figures) and (
        speed.bytes_per_second > 0.0 and speed.weights_per_second != 0.0
    )


def is_busy() -> bool:
    """Whether others use so much of the processor that nothing measured would be true for long."""
    return os.getloadavg()[0] > default_threads() / 2


def measure_speed(probe: Probe | None) -> Speed:
    """Measure, and remember it; takes some three seconds.

    On a busy machine memory alone is measured, and not remembered: llama.cpp's threads wait for
    each other, and a model may seem ten times as slow as it is.

    Args:
        probe: a model to measure; None measures memory alone, which tells less.
    """
    busy = is_busy()
    bytes_per_second = _read_bandwidth()
    speed = Speed(bytes_per_second=bytes_per_second)
    if busy:
        return speed
    if probe is not None and (figures := _bench(probe)) is not None:
        decode, prefill = figures
        speed = speed_from(
            probe.preset,
            size_bytes=probe.path.stat().st_size,
            bytes_per_second=bytes_per_second,
            decode_tokens_per_second=decode,
            prefill_tokens_per_second=prefill,
        )
    _remember(speed)
    return speed


def _remember(speed: Speed) -> None:
    """Write it, whole or not at all; where that is impossible it will be measured again."""
    content = {"machine": _machine(), "speed": dataclasses.asdict(speed)}
    with contextlib.suppress(OSError):
        replace_file(cache_folder() / _FILE, json.dumps(content, indent=2) + "\n")


def _machine() -> dict[str, object]:
    """Return what the figures depend on."""
    return {
        "cpu": _cpu_name(),
        "threads": default_threads(),
        "llmstream": llmstream_cli.__version__,
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _read_bandwidth() -> float:
    """Return how many bytes a second all threads together read, multiplying with each.

    A matrix too large for any cache times a vector, which is what generating a token is too.
    """
    for name in ("OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
        os.environ.setdefault(name, str(default_threads()))
    import numpy as np

    matrix = np.ones((_READ_BYTES // (4 * _READ_COLUMNS), _READ_COLUMNS), dtype=np.float32)
    vector = np.ones(_READ_COLUMNS, dtype=np.float32)
    fastest = float("inf")
    for _ in range(_READ_REPEATS):
        started = time.perf_counter()
        matrix @ vector
        fastest = min(fastest, time.perf_counter() - started)
    return matrix.nbytes / fastest


def _bench(probe: Probe) -> tuple[float, float] | None:
    """Return tokens per second of an answer and of a prompt; None if the benchmark fails.

    A process of its own: whatever the model does to it, this one goes on.
    """
    command = [sys.executable, "-m", "llmstream_cli", "bench", "--model", str(probe.path)]
    if probe.preset.chat_format is not None:
        command += ["--template", probe.preset.chat_format]
    try:
        done = subprocess.run(  # noqa: S603  (this program, with no words of others)
            [*command, *_BENCH.split()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=_without_settings(),
            timeout=_BENCH_TIMEOUT,
            check=True,
        )
        run = json.loads(done.stdout)["results"][0]["median"]
        decode = run["decode_tokens_per_second"]
        computed = run["prompt_tokens"] - run["cached_tokens"]
        prefill = computed / run["first_token_p50_seconds"]
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError):
        return None
    return (decode, prefill) if decode and prefill > 0 else None


def _without_settings() -> dict[str, str]:
    """Return the environment for a process that has only the options it is given."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("LLMSTREAM_") or name == "LLMSTREAM_CACHE"
    }
    return {**kept, "LLMSTREAM_CONFIG": ""}
