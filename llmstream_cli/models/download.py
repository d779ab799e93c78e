"""One file from the Hub to its blob in the cache: resumed, checked, visible only when whole.

What has come grows in a file beside the blob. It is named by the hash that its content shall have,
so whoever finds it, after a cut connection, a full disk or `kill -9`, can go on with it: what is
there is hashed again, the rest is asked for by a range request, and only if the whole has the hash
that the Hub publishes is it renamed to the blob.
"""

import contextlib
import errno
import hashlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx2
from filelock import FileLock, Timeout
from huggingface_hub.errors import HfHubHTTPError

from llmstream_cli.errors import DownloadError, NoRoomError, UnreachableError, one_line
from llmstream_cli.models.hub_api import HubClient, RepoFile, may_pass
from llmstream_cli.models.progress import Progress
from llmstream_cli.models.sizes import human_size

if TYPE_CHECKING:
    from hashlib import _Hash

# Between attempts, in seconds; the count begins anew whenever something has come.
_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
_MAX_RETRY_AFTER = 60.0

# A lock ends with its process, so only one that is alive and stuck can hold it for long.
_LOCK_POLL_SECONDS = 5.0
_STUCK_SECONDS = 600.0

_CHUNK_BYTES = 1024 * 1024

_TRANSIENT = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Download:
    """A file to download.

    Attributes:
        file: the file on the Hub.
        url: where it is.
        blob: where it shall be.
        partial: where it grows.
        lock: the lock file of the download.
    """

    file: RepoFile
    url: str
    blob: Path
    partial: Path
    lock: Path

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.file.path.rsplit("/", 1)[-1]


def download(item: Download, client: HubClient, progress: Progress) -> None:
    """Download a file, or wait for whoever does already.

    Raises:
        UnreachableError: the connection failed again and again; what came is kept.
        NoRoomError: the disk is full; what came is kept.
        DownloadError: the Hub sent something else than it announced, or the cache cannot be
            written.
        huggingface_hub.errors.HfHubHTTPError: the Hub refuses.
    """
    try:
        item.blob.parent.mkdir(parents=True, exist_ok=True)
        item.lock.parent.mkdir(parents=True, exist_ok=True)
        with _locked(item, progress):
            if item.blob.exists():
                return
            resumed = _attempt(item, client, progress)
            if resumed and not item.blob.exists():
                progress.note(f"what was here of {item.name} was damaged; downloading it anew")
                _attempt(item, client, progress)
            if not item.blob.exists():
                raise DownloadError(
                    f"{item.name} came with another content than the Hub announced, and has been "
                    "deleted; try again, and if it stays so, tell its authors"
                )
    except (HfHubHTTPError, httpx2.HTTPError):  # the first is an OSError, too
        raise
    except OSError as error:
        raise _disk_error(item, error) from error


def _attempt(item: Download, client: HubClient, progress: Progress) -> bool:
    """Download and check; the blob is there afterwards if the hash was right.

    Returns:
        whether a part of it was here before.
    """
    with _Partial.open(item, progress) as partial:
        resumed = partial.size > 0
        progress.begin(f"downloading {item.name}", item.file.size, partial.size)
        try:
            _receive_all(item, client, partial, progress)
        finally:
            progress.end()
        if partial.has_announced_hash():
            partial.publish()
        else:
            item.partial.unlink(missing_ok=True)
    return resumed


def _receive_all(
    item: Download, client: HubClient, partial: "_Partial", progress: Progress
) -> None:
    """Ask for the rest until all is there; with pauses, and a limit to attempts without a byte."""
    failures = 0
    while partial.size < item.file.size:
        before = partial.size
        pause = None
        try:
            _receive(item, client, partial, progress)
            reason = "the connection was closed"
        except _TRANSIENT as error:
            reason = one_line(error)
        except HfHubHTTPError as error:
            if not may_pass(error):
                raise
            reason = f"status {error.response.status_code}"
            pause = _retry_after(error.response)
        if partial.size == item.file.size:
            return
        failures = 0 if partial.size > before else failures + 1
        if failures > len(_PAUSES):
            raise UnreachableError(
                f"{item.name} stopped at {human_size(partial.size)} of "
                f"{human_size(item.file.size)}: {reason}; run the command again to go on"
            )
        time.sleep(_PAUSES[max(failures - 1, 0)] if pause is None else pause)


def _receive(item: Download, client: HubClient, partial: "_Partial", progress: Progress) -> None:
    """Make one request for what is missing and write what comes."""
    headers = {"accept-encoding": "identity"}
    if partial.size:
        headers["range"] = f"bytes={partial.size}-"
        if partial.entity_tag is not None:
            headers["if-range"] = partial.entity_tag
    with client.stream(item.url, headers) as response:
        _check_announced(item, response)
        if response.status_code != httpx2.codes.PARTIAL_CONTENT and partial.size:
            partial.restart()
            progress.end()
            progress.begin(f"downloading {item.name}", item.file.size)
        elif partial.size:
            _check_range(item, response, partial.size)
        etag: str = response.headers.get("etag", "")
        partial.entity_tag = etag if etag.startswith('"') else None
        for chunk in response.iter_raw():
            if partial.size + len(chunk) > item.file.size:
                raise DownloadError(f"{item.name} came longer than the Hub announced; try again")
            partial.write(chunk)
            progress.advance(len(chunk))


def _check_announced(item: Download, response: httpx2.Response) -> None:
    """Refuse at once what says itself that it is another content or cannot be told apart."""
    for hop in (*response.history, response):
        etag = hop.headers.get("x-linked-etag")
        if etag is not None and etag.removeprefix("W/").strip('"') != item.file.etag:
            raise DownloadError(f"the Hub has another {item.name} by now; try again")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise DownloadError(f"{item.name} came compressed, though that was not asked for")


def _check_range(item: Download, response: httpx2.Response, start: int) -> None:
    content_range = response.headers.get("content-range", "")
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
    if match is None or int(match[1]) != start or match[2] not in {"*", str(item.file.size)}:
        raise DownloadError(f"{item.name} came in another part than was asked for; try again")


def _retry_after(response: httpx2.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return min(float(value), _MAX_RETRY_AFTER) if value.isdecimal() else None


class _Partial:
    """What has come of a file, and its hash.

    It is written by position, never appended to: where a file system grants a lock to two
    processes at once, both write the same bytes to the same places.

    Attributes:
        size: how many bytes have come.
        entity_tag: what the server calls their content, if it vouches for each byte: the next
            request names it, and if the content has changed by then, all of it comes (RFC 9110,
            section 13.1.5).
    """

    def __init__(self, item: Download, fd: int) -> None:
        self._item = item
        self._fd = fd
        self._hash = self._new_hash()
        self.size = 0
        self.entity_tag: str | None = None

    @classmethod
    @contextlib.contextmanager
    def open(cls, item: Download, progress: Progress) -> Iterator[Self]:
        """Open the file of an earlier download and hash what is there, or begin a new one."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(item.partial, flags, 0o666)
        try:
            partial = cls(item, fd)
            partial._rehash(progress)
            yield partial
        finally:
            os.close(fd)

    def write(self, data: bytes) -> None:
        """Write what comes next."""
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._fd, rest, self.size)
            self._hash.update(rest[:written])
            self.size += written
            rest = rest[written:]

    def restart(self) -> None:
        """Forget what has come."""
        os.ftruncate(self._fd, 0)
        self._hash = self._new_hash()
        self.size = 0

    def has_announced_hash(self) -> bool:
        """Whether the content is what the Hub announced."""
        return self._hash.hexdigest() == self._item.file.etag

    def publish(self) -> None:
        """Make the file the blob, so that it is whole there even if the power fails now."""
        os.fsync(self._fd)
        try:
            self._item.partial.replace(self._item.blob)
        except FileNotFoundError:
            if not self._item.blob.exists():  # else another process was as fast
                raise
        folder = os.open(self._item.blob.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _rehash(self, progress: Progress) -> None:
        found = os.fstat(self._fd).st_size
        if found > self._item.file.size:
            self.restart()
            return
        if found == 0:
            return
        progress.begin(f"checking what is here of {self._item.name}", found)
        try:
            while data := os.pread(self._fd, _CHUNK_BYTES, self.size):
                self._hash.update(data)
                self.size += len(data)
                progress.advance(len(data))
        finally:
            progress.end()

    def _new_hash(self) -> "_Hash":
        file = self._item.file
        if len(file.etag) == hashlib.sha256().digest_size * 2:
            return hashlib.sha256()
        # What is not in Git LFS is named by git itself, which hashes a header before the content.
        return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)


@contextlib.contextmanager
def _locked(item: Download, progress: Progress) -> Iterator[None]:
    """Hold the download's lock; while another process does, wait for it as long as it moves."""
    lock = FileLock(item.lock, mode=0o664)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.note(f"another process is downloading {item.name}; waiting for it")
        _wait(lock, item)
    try:
        yield
    finally:
        lock.release()


def _wait(lock: FileLock, item: Download) -> None:
    moved_at, newest = time.monotonic(), _newest_change(item)
    while True:
        try:
            lock.acquire(timeout=_LOCK_POLL_SECONDS, poll_interval=0.1)
        except Timeout as error:
            if (change := _newest_change(item)) != newest:
                moved_at, newest = time.monotonic(), change
            elif time.monotonic() - moved_at > _STUCK_SECONDS:
                raise DownloadError(
                    f"another process holds the download of {item.name} and makes no progress; "
                    f"end it, or delete {item.lock}"
                ) from error
        else:
            return


def _newest_change(item: Download) -> float:
    """When the download last grew, be it ours or huggingface_hub's."""
    newest = 0.0
    for path in item.blob.parent.glob(f"{item.blob.name}*"):
        with contextlib.suppress(OSError):
            newest = max(newest, path.stat().st_mtime)
    return newest


def _disk_error(item: Download, error: OSError) -> DownloadError | NoRoomError:
    if error.errno in _DISK_FULL:
        try:
            kept = item.partial.stat().st_size
        except OSError:
            kept = 0
        return NoRoomError(
            f"no room for {item.name} in {item.blob.parent}: {error.strerror} after "
            f"{human_size(kept)} of {human_size(item.file.size)}, which are kept; make room and "
            "run the command again, or set HF_HOME to a folder elsewhere"
        )
    reason = error.strerror or error
    return DownloadError(
        f"cannot write to {item.blob.parent}: {reason}; set HF_HOME to a folder elsewhere"
    )
