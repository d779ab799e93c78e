"""What `llmstream doctor` looks at of the machine, and of what was built for it."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import llmstream_cli
from llmstream_cli import machine
from llmstream_cli.cli.doctor import Finding
from llmstream_cli.core.cpu import default_threads
from llmstream_cli.errors import ModelError
from llmstream_cli.models.hub_cache import hub_folder
from llmstream_cli.models.presets import DEFAULT_PRESET, PRESETS
from llmstream_cli.models.sizes import human_size

_CPU_INFO = Path("/proc/cpuinfo")
_BUILD_SECONDS = 120.0
_LOW_DISK = 3_000_000_000  # bytes; a model of four billion parameters takes less
_REINSTALL = "pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python"

# Vector extensions by llama.cpp's names and by Linux's, where both tell of them.
_FEATURES = {
    "SSE3": "pni",
    "SSSE3": "ssse3",
    "AVX": "avx",
    "AVX2": "avx2",
    "AVX_VNNI": "avx_vnni",
    "F16C": "f16c",
    "FMA": "fma",
    "BMI2": "bmi2",
    "AVX512": "avx512f",
    "AVX512_VBMI": "avx512vbmi",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
    "AMX_INT8": "amx_int8",
    "NEON": "asimd",
    "FP16_VA": "asimdhp",
    "DOTPROD": "asimddp",
    "MATMUL_INT8": "i8mm",
    "SVE": "sve",
}

_BUILD_SCRIPT = """\
import json
from llmstream_cli.core.llama import supports_gpu, system_info
print(json.dumps({"system": system_info(), "gpu": supports_gpu()}))
"""


def version() -> Finding:
    """Tell the version of this program, and where it is installed."""
    folder = Path(llmstream_cli.__file__).parent
    return Finding("llmstream", "ok", f"{llmstream_cli.__version__} in {folder}")


def python() -> Finding:
    """Tell the interpreter and the platform."""
    implementation = f"{platform.python_implementation()} {platform.python_version()}"
    return Finding("python", "ok", f"{implementation} on {platform.platform()}")


@cache
def _built() -> dict[str, Any]:
    """Ask llama.cpp how it was built, in a process that may die of it.

    Raises:
        ModelError: it cannot be loaded.
    """
    try:
        done = subprocess.run(  # noqa: S603  (this program, with no words of others)
            [sys.executable, "-c", _BUILD_SCRIPT],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_BUILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"llama.cpp does not load within {_BUILD_SECONDS:.0f} s") from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise ModelError(f"llama.cpp dies of {name} when it is loaded: {_REINSTALL} {_pinned()}")
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason"]
        raise ModelError(f"llama.cpp cannot be loaded: {lines[-1]}: {_REINSTALL} {_pinned()}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _pinned() -> str:
    """Return the requirement of llama-cpp-python, as this distribution has it."""
    try:
        needed = metadata.requires("llmstream-cli") or []
    except metadata.PackageNotFoundError:  # run from a folder
        needed = []
    found = (line.partition(";")[0].strip() for line in needed)
    return next((line for line in found if line.startswith("llama-cpp-python")), "llama-cpp-python")


def build() -> Finding:
    """Tell which llama.cpp there is, and what it can use.

    Raises:
        ModelError: it cannot be loaded.
    """
    installed = metadata.version("llama-cpp-python")
    _, _, version = _pinned().partition("==")
    if version and version != installed:
        return Finding(
            "llama.cpp",
            "fail",
            f"llama-cpp-python {installed} is installed, and {version} is needed",
            f"pip install '{_pinned()}'",
        )
    built = _built()
    others = [name for name in _switches(built["system"]) if name not in _FEATURES]
    gpu = "for a GPU" if built["gpu"] else "for the CPU alone"
    used = f", with {', '.join(others)}" if others else ""
    return Finding("llama.cpp", "ok", f"llama-cpp-python {installed}, built {gpu}{used}")


def _switches(system: str) -> list[str]:
    """Return what is on in llama.cpp's description of itself."""
    return re.findall(r"(\w+) = [1-9]", system)


def cpu() -> Finding:
    """Compare the vector extensions of this machine with those that the kernels use.

    Raises:
        ModelError: llama.cpp cannot be loaded.
    """
    compiled = {name for name in _switches(_built()["system"]) if name in _FEATURES}
    words = ", ".join(sorted(compiled)) or "no vector extensions"
    here = machine_features()
    if not here:
        return Finding("cpu", "ok", f"{platform.machine()}; llama.cpp uses {words}")
    missing = sorted(name for name in compiled if _FEATURES[name] not in here)
    if missing:
        message = f"llama.cpp was built for {', '.join(missing)}, which this machine has not"
        return Finding("cpu", "fail", message, f"{_REINSTALL} {_pinned()}")
    unused = sorted(
        name for name, flag in _FEATURES.items() if flag in here and name not in compiled
    )
    if unused:
        message = f"this machine has {', '.join(unused)}, and llama.cpp was built without"
        return Finding("cpu", "warn", message, f"{_REINSTALL} {_pinned()} makes it faster")
    return Finding("cpu", "ok", f"llama.cpp uses {words}: all that this machine has")


def machine_features(cpu_info: Path = _CPU_INFO) -> set[str]:
    """Return the CPU's features by Linux's names; nothing where the system does not tell."""
    try:
        text = cpu_info.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()


def threads() -> Finding:
    """Tell how many threads an answer takes, and whether others want the processor too."""
    number = default_threads()
    message = f"{number} for an answer, of {os.cpu_count()} CPUs"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > number:
        return Finding(
            "threads",
            "warn",
            f"{message}; others keep {load:.1f} busy",
            "answers take the longer; threads adapt by themselves, unless --threads is given",
        )
    return Finding("threads", "ok", message)


def memory() -> Finding:
    """Tell the memory, a container's limit considered."""
    import psutil

    found = machine.memory()
    message = f"{human_size(found.available)} of {human_size(found.total)} are free"
    if found.total < psutil.virtual_memory().total:
        message += ", as much as a control group allows"
    limit = _address_space()
    if limit is not None:
        message += f"; `ulimit -v` allows {human_size(limit)}"
        found = machine.Memory(found.total, min(found.available, limit))
    if found.available < PRESETS[DEFAULT_PRESET].memory_bytes():
        return Finding("memory", "warn", message, "end other programs, or give a small --ctx-size")
    return Finding("memory", "ok", message)


def _address_space() -> int | None:
    """Return the most memory that a process may map, if that is limited."""
    try:
        import resource
    except ImportError:  # not POSIX
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def disk() -> Finding:
    """Tell the room for downloads."""
    free = machine.free_disk(hub_folder())
    message = f"{human_size(free)} are free for downloads"
    if free < _LOW_DISK:
        return Finding(
            "disk", "warn", message, "`llmstream models remove` makes room, HF_HOME names another"
        )
    return Finding("disk", "ok", message)
