"""`llmstream doctor`: what it finds, and what it says of it."""

import json
import subprocess
from pathlib import Path

import pytest

from llmstream_cli import machine
from llmstream_cli.cli import doctor
from llmstream_cli.cli.app import run
from llmstream_cli.cli.doctor import CHECKS, Finding
from llmstream_cli.machine import Memory

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What llama.cpp says of itself."""
    answer: dict[str, object] = {"system": "CPU : AVX = 1 | AVX2 = 1 | OPENMP = 1", "gpu": False}
    monkeypatch.setattr(doctor, "_built", lambda: answer)
    return answer


def set_process(
    monkeypatch: pytest.MonkeyPatch, code: int, stdout: str = "", stderr: str = ""
) -> None:
    """Let processes end so."""

    def end(command: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(command, code, stdout, stderr)

    monkeypatch.setattr(subprocess, "run", end)


# ---- the command ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("own_caches")
def test_an_installation_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert run(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    found = {check["check"]: check for check in report["checks"]}
    for name in ("llmstream", "python", "llama.cpp", "folders", "settings", "model"):
        assert (found[name]["verdict"], found[name]["advice"]) == ("ok", "")
    assert "Paris is the capital of France" in found["model"]["message"]


@pytest.mark.slow
@pytest.mark.usefixtures("own_caches")
def test_what_does_not_work_is_told_and_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("LLMSTREAM_THREADS", "x")
    assert run(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [*CHECKS]  # it goes on to the end
    assert lines[-2:] == [
        "fail  settings   LLMSTREAM_THREADS: 'x' is not a valid int",
        "fail  model      LLMSTREAM_THREADS: 'x' is not a valid int",
    ]


def test_only_what_does_not_work_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    checks = {"a": lambda: Finding("warn", "slow\n\x1b[2J", "buy another")}
    monkeypatch.setattr(doctor, "CHECKS", checks)
    assert run(["doctor"]) == 0
    assert capsys.readouterr().out == "warn  a          slow [2J: buy another\n"
    assert run(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]


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
        ("import time; time.sleep(60)", "it is not done within 0 s"),
    ],
)
def test_a_llama_cpp_that_does_not_load_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, script: str, reason: str
) -> None:
    doctor._built.cache_clear()
    monkeypatch.setattr(doctor, "_BUILD_SCRIPT", script)
    monkeypatch.setattr(doctor, "_PROCESS_SECONDS", 0.4 if "sleep" in script else 60)
    monkeypatch.setattr(doctor, "CHECKS", {"llama.cpp": doctor.build, "disk": doctor.disk})
    assert run(["doctor", "--json"]) == 1
    build, disk = json.loads(capsys.readouterr().out)["checks"]
    assert (build["check"], build["verdict"]) == ("llama.cpp", "fail")
    assert build["message"].startswith(f"llama.cpp cannot be loaded: {reason}: pip install ")
    assert disk["check"] == "disk"


def test_little_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, free, verdict in ((8 * 10**9, 10**12, "ok"), (10**8, 10**6, "warn")):
        monkeypatch.setattr(machine, "memory", lambda number=available: Memory(10**10, number))
        monkeypatch.setattr(machine, "free_disk", lambda _, number=free: number)
        assert (doctor.memory().verdict, doctor.disk().verdict) == (verdict, verdict)


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


def test_settings_that_are_odd_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for stdout, stderr, expected in (
        ('{"exists": true, "path": "x"}', "", Finding("ok", "x is in order")),
        ('{"exists": false, "path": "x"}', "", Finding("ok", "there is no x: defaults")),
        (
            "{}",
            "llmstream: LLMSTREAM_X is no setting\n",
            Finding("warn", "LLMSTREAM_X is no setting"),
        ),
    ):
        set_process(monkeypatch, 0, stdout, stderr)
        assert doctor.settings() == expected


def test_an_answer_is_told_and_an_empty_one_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    set_process(monkeypatch, 0, '{"model": "m", "text": "", "reasoning": "hm"}')
    assert doctor.model().message.endswith("s: hm")
    set_process(monkeypatch, 0, '{"model": "m", "text": " "}')
    assert doctor.model() == Finding("fail", "m has loaded, and its answer is empty")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("MODEL", "no/such.gguf", "no/such.gguf"),
        ("FEATURES", "no-such", "no model is called 'no-such'"),
        ("URL", "http://127.0.0.1:1", "cannot connect to http://127"),
        ("FEATURES", "mistral", "so no `ask` can work: 127.0.0.1:9"),
    ],
)
@pytest.mark.usefixtures("own_caches")
def test_the_model_of_the_configuration_is_examined(
    variable: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv(f"LLMSTREAM_{variable}", value)
    monkeypatch.setattr(doctor, "CHECKS", {"model": doctor.model})
    assert run(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("fail  model ")
    assert reason in shown


@pytest.mark.usefixtures("hub")
def test_a_missing_model_is_no_failure_where_it_can_be_downloaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_process(monkeypatch, 1, stderr="llmstream: m is not here, and HF_HUB_OFFLINE is set\n")
    found = doctor.model()
    assert (found.verdict, found.message) == ("warn", "m is not here; the first `ask` downloads it")
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
