"""The C functions of llama.cpp, its log, and how its threads wait."""

import ctypes
import importlib
import importlib.util
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

from llmstream_cli.errors import ModelError
from llmstream_cli.machine import usable_cpus

__all__ = ["C"]  # an alias only to type checkers

# A failed assertion in ggml otherwise starts a debugger to print its stack.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")

# How long libgomp's threads spin before they sleep: a thirtieth of its own default, which is as
# fast, and one that waits in vain gives up its core. Left alone where the user has said anything.
_SPIN_COUNT = "10000"
_openmp_is_users = any(name.startswith(("OMP_", "GOMP_")) for name in os.environ)


def _bindings() -> ModuleType:
    """Import `llama_cpp.llama_cpp` without running the package's own `__init__`.

    That one also loads numpy, jinja2 and the high-level class: 100 ms that a first token would
    wait for. The package is left unimported, so that `import llama_cpp` still means all of it.
    """
    if "llama_cpp" in sys.modules:
        return importlib.import_module("llama_cpp.llama_cpp")
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.submodule_search_locations is None:
        raise ModelError("llama-cpp-python is not installed")
    package = ModuleType("llama_cpp")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["llama_cpp"] = package
    if not _openmp_is_users:
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT
    try:
        return importlib.import_module("llama_cpp.llama_cpp")
    except (OSError, RuntimeError) as error:  # a library that does not load on this machine
        raise ModelError(f"llama-cpp-python cannot be loaded: {error}") from error
    finally:
        del sys.modules["llama_cpp"]
        if not _openmp_is_users:  # nor do processes that are started get it
            del os.environ["GOMP_SPINCOUNT"]


if TYPE_CHECKING:
    from llama_cpp import llama_cpp as C  # noqa: N812
else:
    C = _bindings()

# Runs a function in a team of OpenMP threads. dlsym finds it in the libgomp that llama.cpp was
# linked to, whatever that file is called; None without libgomp, or where the user has said how its
# threads shall wait.
_run_openmp_team = None if _openmp_is_users else getattr(C._lib, "GOMP_parallel", None)  # noqa: SLF001

_LOG_LEVEL_DEBUG, _LOG_LEVEL_ERROR, _LOG_LEVEL_CONTINUED = 1, 4, 5

recent_errors: deque[str] = deque(maxlen=8)  # messages of llama.cpp, the oldest first
kv_buffers: deque[float] = deque(maxlen=64)  # bytes; only the log tells how large a KV cache is
_KV_BUFFER = re.compile(rb"KV buffer size = +([\d.]+) MiB")
_log_sink: Callable[[str], object] | None = None
_last_level = 0


def set_log_sink(sink: Callable[[str], object] | None) -> None:
    """Hand llama.cpp's log, debug messages left out, to `sink` piece by piece; None drops it."""
    global _log_sink  # noqa: PLW0603  (llama.cpp's log is global as well)
    _log_sink = sink


@C.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _user_data: object) -> None:
    global _last_level  # noqa: PLW0603
    if level == _LOG_LEVEL_CONTINUED:
        level = _last_level
    _last_level = level
    if level == _LOG_LEVEL_DEBUG:
        return
    if level == _LOG_LEVEL_ERROR:
        recent_errors.append(text.decode("utf-8", "replace").strip())
    if buffer := _KV_BUFFER.search(text):
        kv_buffers.append(float(buffer[1]) * 2**20)
    if _log_sink is not None:
        _log_sink(text.decode("utf-8", "replace"))


def listen_to_log() -> None:
    """Take the log, which is global: another library in this process may have taken it since."""
    C.llama_log_set(_on_log, ctypes.c_void_p())


listen_to_log()
C.llama_backend_init()


def system_info() -> str:
    """Return what llama.cpp was built with and uses, as it words it: `CPU : AVX2 = 1 | …`."""
    return str(C.llama_print_system_info().decode())


def supports_gpu() -> bool:
    return bool(C.llama_supports_gpu_offload())


def cpu_features() -> dict[str, bool]:
    """Tell which vector extensions the kernels were compiled for."""
    compiled = system_info()
    keys = {"avx": "AVX", "neon": "NEON", "simd128": "WASM_SIMD", "f16c": "F16C"}
    return {name: f"{key} = 1" in compiled for name, key in keys.items()}


class SpinSwitch:
    """Lets libgomp's threads sleep while they wait at llama.cpp's barriers, and spin again.

    While a process has more OpenMP threads than CPUs, libgomp spins for at most 100 rounds, a
    microsecond or two, before it sleeps, whatever spin count it was loaded with. Threads that do
    nothing, in a team of their own, are thus a switch for all others.
    """

    works = _run_openmp_team is not None

    def __init__(self) -> None:
        self._team: tuple[threading.Thread, threading.Event] | None = None

    def set(self, *, spin: bool) -> None:
        if spin and self._team is not None:
            thread, release = self._team
            release.set()
            thread.join()
            self._team = None
        elif not spin and self._team is None and self.works:
            release, started = threading.Event(), threading.Event()
            thread = threading.Thread(
                target=_keep_team, args=(started, release), name="spin-switch", daemon=True
            )
            thread.start()
            started.wait()
            self._team = thread, release


def _keep_team(started: threading.Event, release: threading.Event) -> None:
    """Have one OpenMP thread more than there are CPUs; they end with this thread."""
    assert _run_openmp_team is not None
    harmless = ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p)
    _run_openmp_team(harmless, ctypes.c_char_p(b""), len(usable_cpus()) + 1, 0)
    started.set()
    release.wait()
