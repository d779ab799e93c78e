"""What can go wrong while a file comes: nothing is lost, nothing wrong becomes visible."""

import errno
import os
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmstream_cli.errors import DownloadError, NoRoomError, UnreachableError
from llmstream_cli.models import download, hub_api
from llmstream_cli.models.hub import fetch
from llmstream_cli.models.hub_cache import RepoFolder, cached_files
from llmstream_cli.models.progress import Progress
from llmstream_cli.models.reference import HubModel
from tests.hub_server import CHUNK, HubServer, StoredFile, until
from tests.models.progress_log import ProgressLog

REPO = "user/tiny-GGUF"
NAME = "tiny-Q4_K_M.gguf"
MODEL = HubModel(REPO)
SIZE = 3_000_000
CONTENT = b"GGUF" + random.Random(0).randbytes(SIZE - 4)
SILENT = Progress()
ETAG = StoredFile(CONTENT, lfs=True).etag

# A command that fetches the model, and says how it ended.
FETCH = f"""
import sys
from llmstream_cli.cli.process import leave_on_interrupt
from llmstream_cli.errors import ModelError
from llmstream_cli.models.hub import fetch
from llmstream_cli.models.progress import Progress
from llmstream_cli.models.reference import HubModel
leave_on_interrupt()
try:
    print(fetch(HubModel("{REPO}"), Progress())[0])
except ModelError as error:
    sys.exit(str(error))
"""


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_PAUSES", (0.0, 0.0, 0.0))


@pytest.fixture
def model_hub(hub: HubServer) -> HubServer:
    hub.add(REPO, {NAME: CONTENT})
    return hub


@pytest.fixture
def partial(own_caches: Path) -> Path:
    return RepoFolder.of(REPO).partial(ETAG)


def start(script: str = FETCH) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", script], stdout=pipe, stderr=pipe, text=True)


def leave_part(partial: Path, content: bytes) -> None:
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(content)


def leavings(own_caches: Path) -> list[Path]:
    return [path for path in own_caches.rglob("*") if path.name.endswith(".llmstream")]


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_is_gone_on_with(
    model_hub: HubServer, partial: Path, signum: signal.Signals
) -> None:
    model_hub.pause_after = 2_000_000
    with start() as process:
        until(lambda: partial.exists() and partial.stat().st_size >= 1_000_000)
        process.send_signal(signum)
        assert process.wait() in {-signal.SIGKILL, 130}
    model_hub.pause_after = None
    model_hub.go.set()
    assert cached_files(MODEL) is None
    kept = partial.stat().st_size
    log = ProgressLog()
    (path,) = fetch(MODEL, log)
    assert path.read_bytes() == CONTENT
    first, second = model_hub.served
    assert first.start == 0
    assert second.start == kept >= 1_000_000
    assert second.num_bytes == SIZE - kept
    downloading, checking = log.works
    assert downloading.what == f"downloading {NAME}"
    assert downloading.done_bytes == kept + second.num_bytes == SIZE
    assert (checking.what, checking.done_bytes) == (f"checking {NAME}", SIZE)
    assert not partial.exists()


def test_cut_connections_are_gone_on_with(model_hub: HubServer) -> None:
    model_hub.cuts = [1_000_000, 500_000, 7, 7, 7]  # more often than it may fail in a row
    log = ProgressLog()
    (path,) = fetch(MODEL, log)
    assert path.read_bytes() == CONTENT
    assert [served.start for served in model_hub.served] == [
        *(0, 1_000_000, 1_500_000, 1_500_007, 1_500_014, 1_500_021)
    ]
    assert model_hub.bytes_served() == SIZE
    assert [work.done_bytes for work in log.works] == [SIZE, SIZE]


def test_a_busy_hub_is_asked_again(model_hub: HubServer) -> None:
    model_hub.statuses = [503, 429, 500]
    assert fetch(MODEL, SILENT)[0].read_bytes() == CONTENT


def test_a_hub_that_stays_away_ends_it_and_keeps_what_came(
    model_hub: HubServer, partial: Path
) -> None:
    leave_part(partial, CONTENT[:1_000_000])
    model_hub.statuses = [503] * 10
    with pytest.raises(UnreachableError, match=r"stopped at 1\.0 MB of 3\.0 MB: status 503"):
        fetch(MODEL, SILENT)
    assert partial.read_bytes() == CONTENT[:1_000_000]
    assert len(model_hub.statuses) == 6  # asked once, and once after each of three pauses


def test_a_stalled_connection_is_left_for_another(
    model_hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_api, "_STALL_SECONDS", 0.5)
    model_hub.pause_after = SIZE - 1000  # later answers are shorter than that
    assert fetch(MODEL, SILENT)[0].read_bytes() == CONTENT
    assert len(model_hub.served) > 1
    assert model_hub.served[1].start > 0


def test_a_server_without_ranges_sends_all_again(model_hub: HubServer, partial: Path) -> None:
    leave_part(partial, CONTENT[:1000])
    model_hub.ignores_ranges = True
    log = ProgressLog()
    assert fetch(MODEL, log)[0].read_bytes() == CONTENT
    assert log.works[-1].done_bytes == SIZE


@pytest.mark.parametrize("garbage", [b"", b"x" * 1000])
def test_content_that_changes_under_way_comes_anew(
    model_hub: HubServer, partial: Path, garbage: bytes
) -> None:
    model_hub.cuts = [1_000_000]
    model_hub.content_of[ETAG] = bytes(1000) + CONTENT[1000:]
    leave_part(partial, garbage)

    def mend(_: str) -> str:
        if len(model_hub.served) > 1:
            model_hub.content_of.clear()
        return '"tag"'

    model_hub.cdn_tag = mend
    log = ProgressLog()
    assert fetch(MODEL, log)[0].read_bytes() == CONTENT
    assert model_hub.served[-1].start == 0
    assert log.notes == [f"what was here of {NAME} was damaged; downloading it anew"]


def test_a_wrong_hash_is_deleted_and_told(model_hub: HubServer, own_caches: Path) -> None:
    model_hub.content_of[ETAG] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(DownloadError, match="another content than the Hub announced"):
        fetch(MODEL, SILENT)
    assert cached_files(MODEL) is None
    assert leavings(own_caches) == []
    assert len(model_hub.served) == 1
    model_hub.content_of.clear()
    assert fetch(MODEL, SILENT)[0].read_bytes() == CONTENT


def test_more_than_was_announced_is_not_even_written(model_hub: HubServer, partial: Path) -> None:
    model_hub.content_of[ETAG] = CONTENT + bytes(SIZE)
    with pytest.raises(DownloadError, match="longer than the Hub announced"):
        fetch(MODEL, SILENT)
    assert partial.stat().st_size <= SIZE


@pytest.mark.parametrize("damaged", [bytes(1_000_000), CONTENT[:-1] + b"!", CONTENT + b"more"])
def test_a_damaged_part_is_not_built_upon(
    model_hub: HubServer, partial: Path, damaged: bytes
) -> None:
    leave_part(partial, damaged)
    log = ProgressLog()
    assert fetch(MODEL, log)[0].read_bytes() == CONTENT
    assert model_hub.served[-1].start == 0
    assert len(log.notes) == (len(damaged) <= SIZE)


def test_a_file_in_git_is_checked_as_well(hub: HubServer) -> None:
    files = {"tokenizer.json": b'{"model": 1}'}
    file = hub.add(REPO, files).commits.popitem()[1]["tokenizer.json"]
    hub.add(REPO, files)
    hub.content_of[file.etag] = b'{"model": 2}'
    with pytest.raises(DownloadError, match=r"tokenizer\.json came with another content"):
        fetch(HubModel(REPO, file="tokenizer.json"), Progress())
    hub.content_of.clear()
    assert (
        fetch(HubModel(REPO, file="tokenizer.json"), Progress())[0].read_bytes() == b'{"model": 1}'
    )


@pytest.mark.slow
def test_four_processes_download_once(model_hub: HubServer) -> None:
    model_hub.pause_after = SIZE - CHUNK
    processes = [start() for _ in range(4)]
    until(lambda: model_hub.listings() == 4)
    model_hub.go.set()
    answers = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, answers
    assert len({path for path, _ in answers}) == 1
    assert Path(answers[0][0].strip()).read_bytes() == CONTENT
    assert [served.num_bytes for served in model_hub.served] == [SIZE]


def test_threads_download_once(model_hub: HubServer) -> None:
    logs = [ProgressLog() for _ in range(4)]
    model_hub.pause_after = SIZE - CHUNK
    with ThreadPoolExecutor(4) as pool:
        fetching = [pool.submit(fetch, MODEL, log) for log in logs]
        waiting = f"another process is downloading {NAME}; waiting for it"
        until(lambda: sum(waiting in log.notes for log in logs) == 3)
        model_hub.go.set()
        assert len({future.result() for future in fetching}) == 1
    assert [served.num_bytes for served in model_hub.served] == [SIZE]


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_keeps_what_came(model_hub: HubServer, partial: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
    with start(limit + FETCH) as process:
        _, complaint = process.communicate()
    assert process.returncode == 1
    assert complaint.startswith(
        f"no room for {NAME} in {partial.parent.parent}: File too large; what "
    )
    assert "came is kept: make room and run the command again" in complaint
    assert complaint.count("\n") == 1
    assert partial.read_bytes() == CONTENT[:1_000_000]
    fetch(MODEL, SILENT)
    assert model_hub.served[-1].start == 1_000_000


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_an_error_of_the_disk_is_told(
    model_hub: HubServer, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    expected = DownloadError if number == errno.EIO else NoRoomError
    with pytest.raises(expected, match=os.strerror(number)):
        fetch(MODEL, SILENT)
