"""`llmstream doctor`: what it finds, and what it says of it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmstream_cli import machine
from llmstream_cli.cli import doctor
from llmstream_cli.cli.doctor import Finding, examine
from llmstream_cli.machine import Memory

TIMEOUT = 600  # seconds; the machines that run this are slow at times
CHECKS = ["llmstream", "python", "llama.cpp", "cpu", "memory", "disk"]
CHECKS += ["folders", "settings", "model"]


def run_doctor(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "llmstream_cli", "doctor", *words],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=False,
    )


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What llama.cpp says of itself."""
    answer: dict[str, object] = {"system": "CPU : AVX = 1 | AVX2 = 1 | OPENMP = 1", "gpu": False}
    monkeypatch.setattr(doctor, "_built", lambda: answer)
    return answer


# ---- the command ----------------------------------------------------------------------------


@pytest.mark.usefixtures("own_caches")
def test_an_installation_that_works(tmp_path: Path) -> None:
    done = run_doctor("--json", XDG_DATA_HOME=str(tmp_path))
    report = json.loads(done.stdout)
    assert (done.returncode, done.stderr, report["ok"]) == (0, "", True)
    found = {check["check"]: check for check in report["checks"]}
    assert list(found) == CHECKS
    for name in ("llmstream", "python", "llama.cpp", "folders", "settings", "model"):
        assert (found[name]["verdict"], found[name]["advice"]) == ("ok", "")
    assert "Paris is the capital of France" in found["model"]["message"]


@pytest.mark.usefixtures("own_caches")
def test_what_does_not_work_is_told_and_is_the_exit_code() -> None:
    done = run_doctor(LLMSTREAM_THREADS="x")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines] == CHECKS  # it goes on to the end
    assert lines[-2:] == [
        "fail  settings   LLMSTREAM_THREADS: 'x' is not a valid int",
        "fail  model      LLMSTREAM_THREADS: 'x' is not a valid int",
    ]


# ---- the machine ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("here", "verdict", "message"),
    [
        ({"avx", "avx2"}, "ok", "llama.cpp uses AVX, AVX2: all that this machine has"),
        ({"avx"}, "fail", "llama.cpp was built for AVX2, which this machine has not"),
        (
            {"avx", "avx2", "avx512f", "f16c"},
            "warn",
            "this machine has AVX512, F16C, and llama.cpp was built without",
        ),
        (set(), "ok", "llama.cpp uses AVX, AVX2"),
    ],
)
@pytest.mark.usefixtures("built")
def test_the_processor_is_compared_with_the_kernels(
    monkeypatch: pytest.MonkeyPatch, here: set[str], verdict: str, message: str
) -> None:
    monkeypatch.setattr(doctor, "machine_features", lambda: here)
    found = doctor.cpu()
    assert found.verdict == verdict
    assert message in found.message
    assert ("pip install" in found.advice) is (verdict != "ok")


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx f16c\n\nflags : x", {"fpu", "avx", "f16c"}),
        ("processor\t: 0\nFeatures\t: fp asimd i8mm\n", {"fp", "asimd", "i8mm"}),
        ("processor\t: 0\n", set()),
    ],
)
def test_linux_tells_the_processors_features(tmp_path: Path, text: str, features: set[str]) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert doctor.machine_features(tmp_path / "cpuinfo") == features
    assert doctor.machine_features(tmp_path / "none") == set()


def test_the_build_is_told(monkeypatch: pytest.MonkeyPatch, built: dict[str, object]) -> None:
    assert doctor.build().message.endswith("built for the CPU alone, with OPENMP")
    built.update(gpu=True, system="CPU : AVX = 1")
    assert doctor.build().message.endswith("built for a GPU")
    monkeypatch.setattr(doctor, "_pinned", lambda: "llama-cpp-python==0.0.1")
    found = doctor.build()
    assert (found.verdict, found.advice) == ("fail", "pip install 'llama-cpp-python==0.0.1'")
    assert "and 0.0.1 is needed" in found.message


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "it dies of SIGILL"),
        ("raise OSError('libgomp.so.1 is missing')", "OSError: libgomp.so.1 is missing"),
        ("import time; time.sleep(60)", "it is not done within 2 s"),
    ],
)
def test_a_llama_cpp_that_does_not_load_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], script: str, reason: str
) -> None:
    doctor._built.cache_clear()
    monkeypatch.setattr(doctor, "_BUILD_SCRIPT", script)
    monkeypatch.setattr(doctor, "_PROCESS_SECONDS", 2)
    assert examine(json=True) == 1
    _, _, build, _, *rest = json.loads(capsys.readouterr().out)["checks"]
    assert (build["check"], build["verdict"]) == ("llama.cpp", "fail")
    assert build["message"].startswith(f"llama.cpp cannot be loaded: {reason}: pip install ")
    assert len(rest) == len(CHECKS) - 4


@pytest.mark.parametrize(("available", "verdict"), [(8_000_000_000, "ok"), (100_000_000, "warn")])
def test_little_memory_is_told(
    monkeypatch: pytest.MonkeyPatch, available: int, verdict: str
) -> None:
    monkeypatch.setattr(machine, "memory", lambda: Memory(10**10, available))
    assert doctor.memory().verdict == verdict


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_disk", lambda _: 10**6)
    assert doctor.disk().verdict == "warn"
    monkeypatch.setattr(machine, "free_disk", lambda _: 10**12)
    assert doctor.disk().verdict == "ok"


# ---- the user's -----------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["HF_HOME", "LLMSTREAM_CACHE", "LLMSTREAM_HISTORY"])
def test_a_folder_that_cannot_be_made_is_told(
    variable: str, own_caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMSTREAM_HISTORY", str(own_caches / "history.db"))
    assert doctor.folders().verdict == "ok"
    (tmp_path / "file").touch()
    monkeypatch.setenv(variable, str(tmp_path / "file" / "x"))
    found = doctor.folders()
    assert (found.verdict, found.advice) == ("warn", f"name another with {variable}")


def test_settings_that_are_odd_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.toml"
    monkeypatch.setenv("LLMSTREAM_CONFIG", str(config))
    config.write_text("[serve]\napi_key = 'sesame'\n")
    config.chmod(0o644)
    found = doctor.settings()
    assert found.verdict == "warn"
    assert f"chmod 600 {config}" in found.message
    config.chmod(0o600)
    assert doctor.settings() == Finding("ok", f"{config} is in order")
    monkeypatch.setenv("LLMSTREAM_QUEU", "1")
    found = doctor.settings()
    assert found.verdict == "warn"
    assert "did you mean LLMSTREAM_QUEUE?" in found.message


def with_variable(name: str, value: str) -> Callable[[pytest.MonkeyPatch, Path], None]:
    return lambda patch, _: patch.setenv(name, value)


def break_file(patch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "m.gguf").write_bytes(b"GGUF")
    patch.setenv("LLMSTREAM_MODEL", str(folder / "m.gguf"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (break_file, "m.gguf"),
        (with_variable("LLMSTREAM_MODEL", "no/such.gguf"), "no/such.gguf"),
        (with_variable("LLMSTREAM_FEATURES", "no-such"), "no model is called 'no-such'"),
        (with_variable("LLMSTREAM_URL", "http://127.0.0.1:1"), "cannot connect to http://127"),
        (with_variable("LLMSTREAM_FEATURES", "mistral"), "so no `ask` can work: 127.0.0.1:9"),
    ],
)
def test_the_model_of_the_configuration_is_examined(
    change: Callable[[pytest.MonkeyPatch, Path], None],
    reason: str,
    own_caches: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(monkeypatch, own_caches)
    assert examine(json=False) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("fail  model ")
    assert reason in last


@pytest.mark.usefixtures("hub")
def test_a_missing_model_is_no_failure_where_it_can_be_downloaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLMSTREAM_FEATURES", "mistral")
    found = doctor.model()
    assert found.verdict == "warn"
    assert "is not here; the first `ask` downloads it" in found.message
    assert "pip install" in found.advice
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert doctor.model().verdict == "fail"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_TOKEN", "hf_sesame")  # which is not sent in clear text
    monkeypatch.setenv("HF_ENDPOINT", "http://192.0.2.1")
    found = doctor.model()
    assert found.verdict == "fail"
    assert "in clear text" in found.message
    assert "hf_sesame" not in found.message
