"""`llmstream doctor`: what it finds, and what it says of it."""

import json
import os
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from llmstream_cli import machine
from llmstream_cli.cli import doctor_machine, doctor_setup
from llmstream_cli.cli.doctor import Finding
from llmstream_cli.errors import LLMStreamError, ModelError
from llmstream_cli.machine import Memory
from llmstream_cli.models.presets import PRESETS
from tests.cli.config.test_settings import COMMANDS
from tests.hub_server import HubServer

TIMEOUT = 600  # seconds; the machines that run this are slow at times
CHECKS = ["llmstream", "python", "llama.cpp", "cpu", "threads", "memory", "disk", "cache", "hub"]
CHECKS += ["token", "settings", "history", "port", "model"]


def doctor(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
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
    monkeypatch.setattr(doctor_machine, "_built", lambda: answer)
    return answer


# ---- the command ----------------------------------------------------------------------------


def test_an_installation_that_works_is_well(hub: HubServer, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free as soon as this is closed
    done = doctor("--json", LLMSTREAM_PORT=str(port), XDG_DATA_HOME=str(tmp_path))
    report = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert report["ok"] is True
    verdicts = {check["check"]: check["verdict"] for check in report["checks"]}
    assert list(verdicts) == CHECKS
    depends_on_the_machine = {"cpu", "threads", "memory", "disk"}
    assert {
        verdict for name, verdict in verdicts.items() if name not in depends_on_the_machine
    } == {"ok"}
    messages = {check["check"]: check["message"] for check in report["checks"]}
    assert "Paris is the capital of France" in messages["model"]
    assert messages["hub"] == f"{hub.endpoint.removeprefix('http://')} answers"
    assert messages["port"] == f"{port} of 127.0.0.1 is free for `llmstream serve`"


def test_what_does_not_work_is_told_and_is_the_exit_code(own_caches: Path) -> None:
    done = doctor(LLMSTREAM_THREADS="x", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines] == CHECKS
    assert "fail  settings   LLMSTREAM_THREADS: 'x' is not a valid int" in lines
    assert "ok    hub        is not asked: HF_HUB_OFFLINE is set" in lines
    assert lines[-1].startswith("ok    model      smollm2 answers after ")  # goes on to the end


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
def test_the_processor_is_compared_with_the_kernels(
    monkeypatch: pytest.MonkeyPatch,
    built: dict[str, object],
    here: set[str],
    verdict: str,
    message: str,
) -> None:
    monkeypatch.setattr(doctor_machine, "machine_features", lambda: here)
    found = doctor_machine.cpu()
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
    assert doctor_machine.machine_features(tmp_path / "cpuinfo") == features
    assert doctor_machine.machine_features(tmp_path / "none") == set()


def test_the_build_is_told(built: dict[str, object]) -> None:
    assert doctor_machine.build().message.endswith("built for the CPU alone, with OPENMP")
    built.update(gpu=True, system="CPU : AVX = 1")
    assert doctor_machine.build().message.endswith("built for a GPU")


def test_another_release_of_llama_cpp_is_told(
    monkeypatch: pytest.MonkeyPatch, built: dict[str, object]
) -> None:
    monkeypatch.setattr(doctor_machine, "_pinned", lambda: "llama-cpp-python==0.0.1")
    found = doctor_machine.build()
    assert found.verdict == "fail"
    assert "and 0.0.1 is needed" in found.message
    assert found.advice == "pip install 'llama-cpp-python==0.0.1'"


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "dies of SIGILL"),
        ("raise OSError('libgomp.so.1 is missing')", "libgomp.so.1 is missing"),
    ],
)
def test_a_llama_cpp_that_does_not_load_takes_nobody_with_it(
    monkeypatch: pytest.MonkeyPatch, script: str, complaint: str
) -> None:
    doctor_machine._built.cache_clear()
    monkeypatch.setattr(doctor_machine, "_BUILD_SCRIPT", script)
    with pytest.raises(ModelError, match=complaint) as caught:
        doctor_machine.build()
    assert "pip install" in str(caught.value)


def test_a_busy_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_machine, "default_threads", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0.0, 0.0))
    assert doctor_machine.threads().verdict == "ok"
    monkeypatch.setattr(os, "getloadavg", lambda: (9.0, 0.0, 0.0))
    assert doctor_machine.threads().verdict == "warn"


@pytest.mark.parametrize(
    ("available", "limit", "verdict"),
    [(8_000_000_000, None, "ok"), (100_000_000, None, "warn"), (8_000_000_000, 10**8, "warn")],
)
def test_memory_and_its_limits(
    monkeypatch: pytest.MonkeyPatch, available: int, limit: int | None, verdict: str
) -> None:
    monkeypatch.setattr(machine, "memory", lambda: Memory(1, available))
    monkeypatch.setattr(doctor_machine, "_address_space", lambda: limit)
    found = doctor_machine.memory()
    assert found.verdict == verdict
    assert "as much as a control group allows" in found.message


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_disk", lambda _: 10**6)
    assert doctor_machine.disk().verdict == "warn"
    monkeypatch.setattr(machine, "free_disk", lambda _: 10**12)
    assert doctor_machine.disk().verdict == "ok"


# ---- the user's -----------------------------------------------------------------------------


def test_a_cache_that_cannot_be_written_is_told(
    own_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor_setup.cache().message.startswith("0 models, 0 B, in ")
    monkeypatch.setattr(doctor_setup, "_is_writable", lambda path: "huggingface" not in str(path))
    assert doctor_setup.cache().advice == "name another folder with HF_HOME"
    monkeypatch.setattr(doctor_setup, "_is_writable", lambda path: "huggingface" in str(path))
    assert doctor_setup.cache().advice == "name another folder with LLMSTREAM_CACHE"


def test_a_hub_out_of_reach_is_no_failure(own_caches: Path) -> None:
    found = doctor_setup.hub()
    assert found.verdict == "warn"
    assert found.message.startswith("127.0.0.1:9 cannot be reached: ")


def test_the_token_is_guarded_and_not_told(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor_setup.token().message.startswith("there is none")
    monkeypatch.setenv("HF_TOKEN", "hf_sesame")
    assert doctor_setup.token().message.startswith("there is one")
    done = doctor("--json", HF_ENDPOINT="http://192.0.2.1")
    assert "hf_sesame" not in done.stdout + done.stderr
    checks = {check["check"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["hub"]["verdict"] == "warn"
    assert checks["token"]["verdict"] == "fail"
    assert "in clear text" in checks["token"]["message"]


def test_settings_that_are_odd_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[serve]\napi_key = 'sesame'\n")
    config.chmod(0o644)
    monkeypatch.setenv("LLMSTREAM_CONFIG", str(config))
    found = doctor_setup.settings(COMMANDS)
    assert (found.verdict, found.advice) == ("warn", f"chmod 600 {config}")
    config.chmod(0o600)
    assert doctor_setup.settings(COMMANDS) == Finding("settings", "ok", f"{config} is in order")
    monkeypatch.setenv("LLMSTREAM_QUEU", "1")
    assert doctor_setup.settings(COMMANDS).advice == "did you mean LLMSTREAM_QUEUE?"


@pytest.mark.parametrize(
    ("content", "verdict", "message"),
    [
        (None, "ok", "is empty; it will be in "),
        (b"SQLite format 3\0 and more", "ok", "25 B in "),
        (b"something else", "fail", " is no SQLite database"),
    ],
)
def test_the_file_of_the_history(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | None,
    verdict: str,
    message: str,
) -> None:
    if content is not None:
        (tmp_path / "h.db").write_bytes(content)
    config = tmp_path / "config.toml"
    config.write_text(f"[history]\npath = '{tmp_path / 'h.db'}'\n")
    monkeypatch.setenv("LLMSTREAM_CONFIG", str(config))
    found = doctor_setup.history()
    assert found.verdict == verdict
    assert message in found.message
    config.write_text("[history]\nenabled = false\n")
    assert doctor_setup.history() == Finding(
        "history", "ok", "is not kept: the history is switched off"
    )
    config.write_text("broken")
    assert doctor_setup.history().verdict == "warn"


def test_a_port_that_is_taken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("LLMSTREAM_PORT", str(server.getsockname()[1]))
        found = doctor_setup.port(COMMANDS)
        assert found.verdict == "warn"
        assert "Address already in use" in found.message
    assert doctor_setup.port(COMMANDS).verdict == "ok"
    monkeypatch.setenv("LLMSTREAM_HOST", "no.such.host.invalid")
    assert doctor_setup.port(COMMANDS).verdict == "fail"


Bare = namedtuple("Bare", ["name", "packaged_file", "source", "chat_format"])


def replace_default(monkeypatch: pytest.MonkeyPatch, file: Path | None) -> None:
    """Have the default preset's package bring that file."""
    usual = PRESETS["smollm2"]
    bare = Bare("smollm2", lambda: file, usual.source, None)
    monkeypatch.setitem(PRESETS, "smollm2", bare)


def test_a_missing_model_is_a_failure_where_it_cannot_be_downloaded(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_default(monkeypatch, None)
    found = doctor_setup.model(COMMANDS)
    assert (found.verdict, found.message) == (
        "warn",
        "smollm2 is not here; the first `ask` downloads it",
    )
    assert "pip install" in found.advice
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = doctor_setup.model(COMMANDS)
    assert found.verdict == "fail"
    assert "no `ask` can work" in found.message
    assert "pip install" in found.advice


def test_a_model_that_does_not_load_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    replace_default(monkeypatch, tmp_path / "m.gguf")
    with pytest.raises(ModelError):
        doctor_setup.model(COMMANDS)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("MODEL", "no/such.gguf", "failed to open GGUF file"),
        ("FEATURES", "no-such", "no model is called 'no-such'"),
        ("URL", "http://127.0.0.1:1", "cannot connect to http://127.0.0.1:1"),
    ],
)
def test_the_model_that_is_kept_is_examined(
    name: str, value: str, reason: str, own_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"LLMSTREAM_{name}", value)
    with pytest.raises(LLMStreamError) as raised:
        doctor_setup.model(COMMANDS)
    assert reason in str(raised.value)
