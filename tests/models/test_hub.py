"""From a name on the Hub to a file, with the real client against a stand-in for the Hub."""

import hashlib
import os
import random
from pathlib import Path

import pytest

from llmstream_cli.errors import DownloadError, ModelNotFoundError, NoRoomError, UnreachableError
from llmstream_cli.models import hub as hub_module
from llmstream_cli.models.hub import fetch
from llmstream_cli.models.hub_cache import RepoFolder, cached_files
from llmstream_cli.models.progress import Progress
from llmstream_cli.models.reference import HubModel
from tests.hub_server import HubServer
from tests.models.progress_log import ProgressLog

REPO = "user/tiny-GGUF"
FILE = "m-Q4_K_M.gguf"
MODEL = HubModel(REPO)
SILENT = Progress()


def gguf(seed: int, size: int = 100_000) -> bytes:
    return b"GGUF" + random.Random(seed).randbytes(size - 4)


def test_a_model_is_fetched_once_and_found_without_a_network(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, {FILE: gguf(1), "README.md": b"# tiny", "empty.json": b""})
    assert cached_files(MODEL) is None
    log = ProgressLog()
    (path,) = fetch(MODEL, log)
    assert path.read_bytes() == gguf(1)
    assert [work.what for work in log.works] == [f"downloading {FILE}", f"checking {FILE}"]
    assert log.works[0].done_bytes == log.works[0].total_bytes == 100_000
    assert log.works[0].ended
    assert fetch(MODEL, SILENT) == (path,)
    assert hub.bytes_served() == 100_000
    (empty,) = fetch(HubModel(REPO, file="empty.json"), SILENT)
    assert empty.read_bytes() == b""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for model in (MODEL, HubModel(REPO, quant="q4_k_m"), HubModel(REPO, file=FILE)):
        assert cached_files(model) == (path,)
    assert cached_files(HubModel(REPO, quant="Q8_0")) is None


def test_huggingface_hub_finds_what_was_fetched_and_the_other_way_round(
    hub: HubServer, own_caches: Path
) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir, try_to_load_from_cache

    hub.add(REPO, {FILE: gguf(1), "tokenizer.json": b"{}"})
    hub.add("other/m", {"m-Q8_0.gguf": gguf(2)})
    folder = own_caches / "huggingface" / "hub"
    (path,) = fetch(MODEL, SILENT)
    (tokenizer,) = fetch(HubModel(REPO, file="tokenizer.json"), SILENT)
    assert try_to_load_from_cache(REPO, FILE, cache_dir=folder) == str(path)
    assert try_to_load_from_cache(REPO, "tokenizer.json", cache_dir=folder) == str(tokenizer)
    theirs = hf_hub_download(
        "other/m", "m-Q8_0.gguf", cache_dir=folder, endpoint=hub.endpoint, token=False
    )
    served = hub.bytes_served()
    for model in (HubModel("other/m"), HubModel("other/m", quant="Q8_0")):
        assert cached_files(model) == fetch(model, SILENT) == (Path(theirs),)
    assert hub.bytes_served() == served
    scanned = scan_cache_dir(folder)
    assert not scanned.warnings
    assert {repo.repo_id for repo in scanned.repos} == {REPO, "other/m"}


def test_a_split_model_comes_with_all_its_parts(hub: HubServer) -> None:
    parts = {f"Q8_0/m-Q8_0-0000{i}-of-00003.gguf": gguf(i) for i in (1, 2, 3)}
    hub.add(REPO, {**parts, "mmproj-F16.gguf": gguf(9)})
    for model in (MODEL, HubModel(REPO, file="Q8_0/m-Q8_0-00002-of-00003.gguf")):
        paths = fetch(model, SILENT)
        assert [path.read_bytes() for path in paths] == list(parts.values())
        assert cached_files(model) == paths
    assert hub.bytes_served() == 300_000
    paths[1].unlink()
    assert cached_files(MODEL) is None
    hub.add("user/part", {"m-00001-of-00002.gguf": gguf(1)})
    with pytest.raises(ModelNotFoundError, match=r"lacks m-00002-of-00002\.gguf"):
        fetch(HubModel("user/part"), SILENT)


def test_revisions_are_kept_apart_and_share_what_they_have_in_common(hub: HubServer) -> None:
    old = hub.add(REPO, {FILE: gguf(1)}).refs["main"]
    fetch(MODEL, SILENT)
    hub.add(REPO, {"README.md": b"new"})
    assert fetch(MODEL, SILENT)[0].read_bytes() == gguf(1)
    assert hub.bytes_served() == 100_000
    hub.add(REPO, {FILE: gguf(2), "other-Q8_0.gguf": gguf(3)})
    (new,) = fetch(MODEL, SILENT)
    assert new.read_bytes() == gguf(2)
    assert cached_files(MODEL) == (new,)
    found = cached_files(HubModel(REPO, revision=old))
    assert found is not None
    assert found[0].read_bytes() == gguf(1)


# ---- what the Hub refuses -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (HubModel("user/none"), "there is no model user/none on 127.0.0.1"),
        (HubModel(REPO, revision="v9"), "user/tiny-GGUF has no revision v9"),
        (HubModel(REPO, file="m-Q4_K.gguf"), r"no file m-Q4_K.gguf; did you mean m-Q4_K_M"),
        (HubModel(REPO, file="zzz.gguf"), "no file zzz.gguf; it has Q4_K_M, F16"),
        (HubModel(REPO, quant="Q9"), "no quantization Q9; it has Q4_K_M, F16"),
        (HubModel("user/no-gguf"), "user/no-gguf has no GGUF file"),
    ],
)
def test_what_is_not_there_is_named(hub: HubServer, model: HubModel, complaint: str) -> None:
    hub.add(REPO, {FILE: gguf(1), "x-F16.gguf": gguf(1), "mmproj-F16.gguf": gguf(2)})
    hub.add("user/no-gguf", {"model.safetensors": b"x"})
    with pytest.raises(ModelNotFoundError, match=complaint) as raised:
        fetch(model, SILENT)
    assert "\n" not in str(raised.value)
    assert not hub.served


@pytest.mark.parametrize(
    ("field", "error", "complaint"),
    [
        ("private", ModelNotFoundError, "private and needs HF_TOKEN"),
        ("gated", DownloadError, rf"gated: accept its terms at \S+/{REPO}; then set"),
    ],
)
def test_a_model_that_needs_a_token(
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    field: str,
    error: type[Exception],
    complaint: str,
) -> None:
    setattr(hub.add(REPO, {FILE: gguf(1)}), field, True)
    with pytest.raises(error, match=complaint):
        fetch(MODEL, SILENT)
    assert cached_files(MODEL) is None
    hub.tokens.add("hf_good")
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with pytest.raises(DownloadError, match="refuses your token"):
        fetch(MODEL, SILENT)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert fetch(MODEL, SILENT)


@pytest.mark.parametrize(
    ("status", "token", "error", "complaint"),
    [
        (401, "", DownloadError, "does not let you read user/tiny-GGUF: set HF_TOKEN"),
        (401, "hf_good", DownloadError, "refuses your token: renew or unset HF_TOKEN"),
        (403, "hf_good", DownloadError, "does not let you read user/tiny-GGUF: your token has no"),
        (418, "", DownloadError, "answers to user/tiny-GGUF with status 418"),
        (429, "", UnreachableError, "not in the cache, and .* answers with status 429; try again"),
        (500, "", UnreachableError, "not in the cache, and .* answers with status 500; try again"),
    ],
)
def test_a_refusal_is_one_line(
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    token: str,
    error: type[DownloadError],
    complaint: str,
) -> None:
    hub.add(REPO, {FILE: gguf(1)})
    hub.tokens.add("hf_good")
    hub.description_status = status
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(error, match=complaint) as raised:
        fetch(MODEL, SILENT)
    assert type(raised.value) is error
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "body", [b" ", b"<html>", b"[]", b"{}", b'{"id": "user/tiny-GGUF", "sha": "../.."}', b'"\xff"']
)
def test_an_answer_that_is_not_the_hub_s_is_one_line(hub: HubServer, body: bytes) -> None:
    hub.add(REPO, {FILE: gguf(1)})
    hub.description = body
    with pytest.raises(DownloadError, match="does not answer as the Hub does"):
        fetch(MODEL, SILENT)


def test_names_that_would_leave_the_cache_are_ignored(hub: HubServer, own_caches: Path) -> None:
    hub.add(REPO, {"../../../../evil-Q4_K_M.gguf": gguf(1), "good-Q8_0.gguf": gguf(2)})
    assert fetch(MODEL, SILENT)[0].name == "good-Q8_0.gguf"
    assert not list(own_caches.parent.rglob("evil*"))


# ---- tokens and endpoints -------------------------------------------------------------------


def test_the_token_stays_with_the_hub_and_nothing_is_told_of_the_machine(
    hub: HubServer, own_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, {FILE: gguf(1)})
    hub.tokens |= {"hf_stored", "hf_set"}
    (own_caches / "token").write_text("hf_stored\n")
    fetch(MODEL, SILENT)
    tokens = [asked.headers.get("authorization") for asked in hub.asked]
    assert [asked.server for asked in hub.asked] == ["hub", "hub", "cdn"]
    assert tokens == ["Bearer hf_stored", "Bearer hf_stored", None]
    monkeypatch.setenv("HF_TOKEN", "hf_set")
    fetch(MODEL, SILENT)
    assert hub.asked[-1].headers["authorization"] == "Bearer hf_set"
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    fetch(MODEL, SILENT)
    assert "authorization" not in hub.asked[-1].headers
    assert {asked.headers["user-agent"] for asked in hub.asked} == {"llmstream"}


@pytest.mark.parametrize("endpoint", ["http://hub.example", "http://192.0.2.1:8080/mirror"])
def test_a_token_is_not_sent_in_clear_text(
    own_caches: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setattr("httpx2.Client.send", lambda *_, **__: pytest.fail("asked"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(DownloadError, match="in clear text: use https") as raised:
        fetch(MODEL, SILENT)
    assert "hf_secret" not in str(raised.value)
    monkeypatch.delenv("HF_TOKEN")
    (own_caches / "token").write_text("hf_secret")
    with pytest.raises(DownloadError, match="in clear text: use https"):
        fetch(MODEL, SILENT)


@pytest.mark.parametrize("token", ["hf_\N{LATIN SMALL LETTER U WITH DIAERESIS}", "hf a", "hf\x01"])
def test_a_token_that_is_none_is_not_sent_nor_shown(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(DownloadError, match="characters that no token has") as raised:
        fetch(MODEL, SILENT)
    assert token not in str(raised.value)
    assert not hub.asked


@pytest.mark.parametrize(
    "endpoint", ["hub.example", "ftp://hub.example", "http://[::1", "https://"]
)
def test_an_endpoint_that_is_no_address_is_refused(
    own_caches: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(DownloadError, match="HF_ENDPOINT is no address"):
        fetch(MODEL, SILENT)


# ---- without a network, or room -------------------------------------------------------------


def test_offline_takes_what_there_is_or_says_what_to_do(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, {FILE: gguf(1), "m-Q8_0.gguf": gguf(2)})
    paths = fetch(HubModel(REPO, quant="Q8_0"), SILENT)
    asked, missing = len(hub.asked), HubModel(REPO, file=FILE)
    log = ProgressLog()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(MODEL, log) == paths  # the best there is
    with pytest.raises(UnreachableError, match="HF_HUB_OFFLINE is set; unset it, or name a file"):
        fetch(missing, log)
    assert len(hub.asked) == asked
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch(MODEL, log) == paths
    (note,) = log.notes
    assert note.endswith("taking m-Q8_0.gguf from the cache")
    with pytest.raises(UnreachableError, match=r":9 cannot be reached.*; connect, or name"):
        fetch(missing, log)


def test_memory_is_checked_before_the_first_byte(hub: HubServer) -> None:
    sizes = {FILE: 400_000, "m-Q3_K_S.gguf": 300_000, "m-Q2_K.gguf": 200_000}
    hub.add(REPO, {name: gguf(size, size) for name, size in sizes.items()})
    with pytest.raises(NoRoomError) as raised:
        fetch(MODEL, SILENT, max_bytes_in_memory=350_000)
    assert str(raised.value) == (
        "user/tiny-GGUF has 400 kB, more than the 350 kB of memory for it; "
        "user/tiny-GGUF:Q3_K_S would fit, with 300 kB"
    )
    with pytest.raises(NoRoomError, match=r"for it$"):
        fetch(MODEL, SILENT, max_bytes_in_memory=100_000)
    assert not hub.served
    assert fetch(MODEL, SILENT, max_bytes_in_memory=400_000)


def test_the_disk_is_checked_before_the_first_byte(
    hub: HubServer, own_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = gguf(2, 200_000)
    hub.add(REPO, {FILE: gguf(1), "m-Q8_0.gguf": content})
    monkeypatch.setattr(hub_module, "free_disk", lambda _: 150_000)
    needs = r"needs 200 kB more and .* has 150 kB free.*:Q4_K_M would"
    with pytest.raises(NoRoomError, match=needs):
        fetch(HubModel(REPO, quant="Q8_0"), SILENT)
    assert not hub.served
    partial = RepoFolder.of(REPO).partial(hashlib.sha256(content).hexdigest())
    partial.parent.mkdir(parents=True)
    partial.write_bytes(content[:60_000])  # only the rest of it needs room
    assert fetch(HubModel(REPO, quant="Q8_0"), SILENT)
    assert hub.bytes_served() == 140_000


def test_a_cache_that_cannot_be_written_is_one_line(hub: HubServer, own_caches: Path) -> None:
    hub.add(REPO, {FILE: gguf(1)})
    (own_caches / "huggingface").write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match=r"cannot write to .*; set HF_HOME"):
        fetch(MODEL, SILENT)


def test_old_leavings_are_swept_and_only_ours(hub: HubServer, own_caches: Path) -> None:
    blobs = own_caches / "huggingface" / "hub" / "models--some--one" / "blobs"
    blobs.mkdir(parents=True)
    for name in ("old.llmstream", "fresh.llmstream", "old.1234.incomplete"):
        (blobs / name).write_bytes(b"part")
        os.utime(blobs / name, (0, 0) if name.startswith("old") else None)
    hub.add(REPO, {FILE: gguf(1)})
    fetch(MODEL, SILENT)
    assert sorted(path.name for path in blobs.iterdir()) == [
        *("fresh.llmstream", "old.1234.incomplete")
    ]
