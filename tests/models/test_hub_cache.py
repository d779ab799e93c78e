"""The Hugging Face cache: what is in it, and how it leaves."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from llmstream_cli.errors import ModelError
from llmstream_cli.models.hub import fetch
from llmstream_cli.models.hub_cache import (
    RepoFolder,
    cached_files,
    hub_folder,
    list_cached,
    remove,
)
from llmstream_cli.models.progress import Progress
from llmstream_cli.models.reference import HubModel
from tests.hub_server import HubServer

REPO = "user/tiny-GGUF"
FILE = "m-Q4_K_M.gguf"
MODEL = HubModel(REPO)
SILENT = Progress()


def gguf(seed: int, size: int = 10_000) -> bytes:
    return b"GGUF" + random.Random(seed).randbytes(size - 4)


def names(paths: tuple[Path, ...] | None) -> list[str]:
    return [path.name for path in paths or ()]


def put(repo: str, commit: str, file: str, content: bytes) -> Path:
    """Put a file into the cache as another program does."""
    folder = RepoFolder.of(repo)
    etag = f"{hash(content) & (2**64 - 1):064x}"
    folder.blob(etag).parent.mkdir(parents=True, exist_ok=True)
    folder.blob(etag).write_bytes(content)
    folder.link(commit, file, etag)
    folder.set_commit("main", commit)
    return folder.pointer(commit, file)


def test_models_are_listed_whoever_fetched_them(hub: HubServer) -> None:
    hub.add(REPO, {FILE: gguf(1), "README.md": b"#"})
    fetch(MODEL, SILENT)
    put("others/Big", "a" * 40, "folder/x-F16.gguf", gguf(2, 5000))
    others, ours = list_cached()
    assert (ours.repo, ours.file, ours.size_bytes, ours.complete) == (REPO, FILE, 10_000, True)
    assert ours.paths == cached_files(MODEL)
    assert ours.last_used > 0
    assert (others.repo, others.file) == ("others/Big", "folder/x-F16.gguf")
    assert others.revision == "a" * 40


def test_what_was_left_open_is_chosen_from_what_is_here(own_caches: Path) -> None:
    put(REPO, "a" * 40, "a-Q5_0.gguf", gguf(1))
    assert names(cached_files(MODEL)) == ["a-Q5_0.gguf"]
    put(REPO, "a" * 40, "b-Q8_0.gguf", gguf(2))
    assert names(cached_files(MODEL)) == ["b-Q8_0.gguf"]
    assert names(cached_files(HubModel(REPO, quant="q5_0"))) == ["a-Q5_0.gguf"]
    assert cached_files(HubModel(REPO, quant="Q4_K_M")) is None
    put(REPO, "b" * 40, "a-Q5_0.gguf", gguf(1))
    assert names(cached_files(MODEL)) == ["a-Q5_0.gguf"]
    wanted = HubModel(REPO, quant="Q8_0")
    assert cached_files(wanted) is None
    assert names(cached_files(wanted, any_revision=True)) == ["b-Q8_0.gguf"]


def test_a_split_model_is_one(own_caches: Path) -> None:
    for index in (1, 2, 3):
        put(REPO, "a" * 40, f"m-0000{index}-of-00003.gguf", gguf(index))
    put(REPO, "a" * 40, "other-00002-of-00002.gguf", gguf(9))
    whole, part = list_cached()
    assert (whole.file, len(whole.paths), whole.size_bytes) == ("m-00001-of-00003.gguf", 3, 30_000)
    assert whole.complete
    assert (part.file, len(part.paths), part.complete) == ("other-00001-of-00002.gguf", 1, False)
    assert remove(part) == 10_000
    assert remove(whole) == 30_000
    assert list(hub_folder().iterdir()) == []


def test_a_reference_goes_with_its_revision_and_leavings_of_others_stay(own_caches: Path) -> None:
    put(REPO, "a" * 40, FILE, gguf(1))
    put(REPO, "b" * 40, "m-Q8_0.gguf", gguf(2))
    folder = RepoFolder.of(REPO)
    folder.set_commit("refs/pr/1", "a" * 40)
    orphan = folder.blob("1234.incomplete")
    orphan.write_bytes(b"part")
    first, second = list_cached()
    remove(first)
    assert folder.commit("refs/pr/1") is None
    assert folder.commit("main") == "b" * 40
    remove(second)
    assert orphan.exists()


def test_removing_the_last_file_leaves_nothing(hub: HubServer) -> None:
    hub.add(REPO, {f"a/{FILE}": gguf(1)})
    fetch(MODEL, SILENT)
    (model,) = list_cached()
    assert remove(model) == 10_000
    assert list_cached() == []
    assert cached_files(MODEL) is None
    assert not RepoFolder.of(REPO).path.exists()
    with pytest.raises(ModelError, match="cannot remove"):
        remove(model)


def test_removing_one_file_leaves_the_others(hub: HubServer) -> None:
    hub.add(REPO, {FILE: gguf(1), "m-Q8_0.gguf": gguf(2), "README.md": b"#"})
    fetch(MODEL, SILENT)
    fetch(HubModel(REPO, quant="Q8_0"), SILENT)
    fetch(HubModel(REPO, file="README.md"), SILENT)
    first, _ = list_cached()
    remove(first)
    assert cached_files(HubModel(REPO, file=FILE)) is None
    assert names(cached_files(MODEL)) == ["m-Q8_0.gguf"]
    assert cached_files(HubModel(REPO, file="README.md")) is not None


def test_a_blob_stays_while_another_revision_links_to_it(hub: HubServer) -> None:
    old = hub.add(REPO, {FILE: gguf(1)}).refs["main"]
    fetch(MODEL, SILENT)
    fetch(HubModel(REPO, revision=old), SILENT)
    hub.add(REPO, {"README.md": b"new"})
    (path,) = fetch(MODEL, SILENT)
    first, second = sorted(list_cached(), key=lambda model: model.revision == old)
    assert remove(second) == 0
    assert path.read_bytes() == gguf(1)
    assert not (RepoFolder.of(REPO).path / "snapshots" / old).exists()
    assert remove(first) == 10_000


def test_a_cache_without_links_works(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, own_caches: Path
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    hub.add(REPO, {FILE: gguf(1)})
    (path,) = fetch(MODEL, SILENT)
    assert path.read_bytes() == gguf(1)
    assert not path.is_symlink()
    assert fetch(MODEL, SILENT) == (path,)
    (model,) = list_cached()
    assert remove(model) == 10_000
    assert list_cached() == []


@pytest.mark.parametrize("commit", ["", "main", "../../x", "a" * 39])
def test_a_damaged_reference_is_none(own_caches: Path, commit: str) -> None:
    put(REPO, "a" * 40, FILE, gguf(1))
    (RepoFolder.of(REPO).path / "refs" / "main").write_text(commit)
    assert cached_files(MODEL) is None


@pytest.mark.slow
def test_the_folder_is_the_one_of_huggingface_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    for variables in (
        {},
        {"HF_HOME": "~/elsewhere"},
        {"HF_HOME": "$HOME/x", "XDG_CACHE_HOME": "/other"},
        {"XDG_CACHE_HOME": "/xdg"},
        {"HF_HUB_CACHE": "/cache/hub", "HF_HOME": "/home"},
        {"HUGGINGFACE_HUB_CACHE": "/old/hub"},
    ):
        for name in ("HF_HOME", "XDG_CACHE_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"HOME": str(tmp_path), **variables}.items():
            monkeypatch.setenv(name, value)
        theirs = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
        assert str(hub_folder()) == theirs.stdout.decode().strip()


@pytest.mark.slow
def test_a_cached_model_is_found_without_the_library(hub: HubServer) -> None:
    hub.add(REPO, {FILE: gguf(1)})
    fetch(MODEL, SILENT)
    script = (
        "import sys\n"
        "from llmstream_cli.models.hub_cache import cached_files\n"
        "from llmstream_cli.models.reference import HubModel\n"
        f"assert cached_files(HubModel({REPO!r}))\n"
        "print(*sys.modules, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    slow = {"huggingface_hub", "httpx2", "filelock", "psutil", "asyncio", "ssl"}
    assert not slow & set(done.stdout.decode().split())
