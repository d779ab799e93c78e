"""One file from the Hub to its blob in the cache: resumed, checked, visible only when whole.

What has come grows in a file beside the blob. It is named by the hash that its content shall have,
so whoever finds it, after a cut connection, a full disk or `kill -9`, can go on with it: what is
there is hashed again, the rest is asked for by a range request, and only if the whole has the hash
that the Hub publishes is it renamed to the blob.
"""

import errno
import hashlib
import io
import os
import time
from pathlib import Path
from typing import BinaryIO

import httpx2
from filelock import FileLock, Timeout
from huggingface_hub.errors import HfHubHTTPError

from llmstream_cli.errors import DownloadError, NoRoomError, UnreachableError, one_line
from llmstream_cli.models.hub_api import HubClient, RepoFile, may_pass
from llmstream_cli.models.progress import Progress
from llmstream_cli.models.sizes import human_size

# Between attempts, in seconds; the count begins anew whenever something has come.
_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)

# A lock ends with its process, so only one that is alive and stuck can hold it for long.
_LOCK_POLL_SECONDS = 5.0
_STUCK_SECONDS = 600.0

_CHUNK_BYTES = 1024 * 1024

_TRANSIENT = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Download:
    """A file to download.

    Args:
        client: the Hub.
        file: the file on it.
        url: its address.
        blob: where it shall be.
        partial: where it grows.
        lock: the lock file of the download.
        progress: is told how far it has come.
    """

    def __init__(
        self,
        client: HubClient,
        file: RepoFile,
        url: str,
        *,
        blob: Path,
        partial: Path,
        lock: Path,
        progress: Progress,
    ) -> None:
        self._client, self._file, self._url = client, file, url
        self._blob, self._partial, self._lock = blob, partial, lock
        self._progress = progress
        self._name = file.path.rsplit("/", 1)[-1]

    def run(self) -> None:
        """Download the file, or wait for whoever does already.

        Raises:
            UnreachableError: the connection failed again and again; what came is kept.
            NoRoomError: the disk is full; what came is kept.
            DownloadError: the Hub sent something else than it announced, or the cache cannot be
                written.
            huggingface_hub.errors.HfHubHTTPError: the Hub refuses.
        """
        try:
            self._blob.parent.mkdir(parents=True, exist_ok=True)
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._lock, mode=0o664)
            self._acquire(lock)
            try:
                self._fetch()
            finally:
                lock.release()
        except (HfHubHTTPError, httpx2.HTTPError):  # the first is an OSError, too
            raise
        except OSError as error:
            raise self._disk_error(error) from error

    def _fetch(self) -> None:
        """Download and check; once more from the beginning if what was here was damaged."""
        if self._blob.exists():
            return
        with self._partial.open("r+b" if self._partial.exists() else "x+b") as file:
            in_parts = file.seek(0, io.SEEK_END) > 0
            try:
                in_parts = self._receive_all(file) > 1 or in_parts
            finally:
                self._progress.end()
        if self._has_announced_hash():
            self._partial.replace(self._blob)
            return
        self._partial.unlink()
        if not in_parts:
            raise DownloadError(
                f"{self._name} came with another content than the Hub announced, and has been "
                "deleted; try again, and if it stays so, tell its authors"
            )
        self._progress.note(f"what was here of {self._name} was damaged; downloading it anew")
        self._fetch()

    def _receive_all(self, file: BinaryIO) -> int:
        """Ask for the rest until all is there, with pauses; return the number of requests.

        There is a limit to requests in a row that bring nothing.
        """
        failures = requests = 0
        size = self._begin(file, file.tell())
        while size < self._file.size:
            requests += 1
            before, reason = size, "the connection was closed"
            try:
                self._receive(file, size)
            except _TRANSIENT as error:
                reason = one_line(error)
            except HfHubHTTPError as error:
                if not may_pass(error):
                    raise
                reason = f"status {error.response.status_code}"
            file.flush()
            size = file.tell()
            if size == self._file.size:
                break
            failures = 0 if size > before else failures + 1
            if failures > len(_PAUSES):
                raise UnreachableError(
                    f"{self._name} stopped at {human_size(size)} of "
                    f"{human_size(self._file.size)}: {reason}; run the command again to go on"
                )
            time.sleep(_PAUSES[max(failures - 1, 0)])
        return requests

    def _receive(self, file: BinaryIO, size: int) -> None:
        """Make one request for what is missing, and write what comes."""
        headers = {"accept-encoding": "identity"} | ({"range": f"bytes={size}-"} if size else {})
        with self._client.stream(self._url, headers) as response:
            if response.status_code != httpx2.codes.PARTIAL_CONTENT and size:
                self._progress.end()
                size = self._begin(file, 0)
            for chunk in response.iter_raw():
                size += len(chunk)
                if size > self._file.size:
                    raise DownloadError(
                        f"{self._name} came longer than the Hub announced; try again"
                    )
                file.write(chunk)
                self._progress.advance(len(chunk))

    def _begin(self, file: BinaryIO, size: int) -> int:
        """Keep so much of the file, unless it cannot be a beginning; return how much."""
        size = size if size <= self._file.size else 0
        file.seek(size)
        file.truncate()
        self._progress.begin(f"downloading {self._name}", self._file.size, size)
        return size

    def _has_announced_hash(self) -> bool:
        if len(self._file.etag) == hashlib.sha256().digest_size * 2:
            digest = hashlib.sha256()
        else:
            # What is not in Git LFS is named by git itself, which hashes a header first.
            digest = hashlib.sha1(b"blob %d\0" % self._file.size, usedforsecurity=False)
        self._progress.begin(f"checking {self._name}", self._file.size)
        with self._partial.open("rb") as file:
            while data := file.read(_CHUNK_BYTES):
                digest.update(data)
                self._progress.advance(len(data))
            os.fsync(file.fileno())
        self._progress.end()
        return digest.hexdigest() == self._file.etag

    def _acquire(self, lock: FileLock) -> None:
        """Take the lock; while another process holds it, wait as long as its file grows."""
        moved_at, size = time.monotonic(), -1
        while True:
            try:
                lock.acquire(timeout=0 if size < 0 else _LOCK_POLL_SECONDS, poll_interval=0.1)
            except Timeout as error:
                if size < 0:
                    self._progress.note(
                        f"another process is downloading {self._name}; waiting for it"
                    )
                if (grown := self._bytes_written()) != size:
                    moved_at, size = time.monotonic(), grown
                elif time.monotonic() - moved_at > _STUCK_SECONDS:
                    raise DownloadError(
                        f"another process holds the download of {self._name} and makes no "
                        f"progress; end it, or delete {self._lock}"
                    ) from error
            else:
                return

    def _bytes_written(self) -> int:
        """Return how much has come, be the download ours or huggingface_hub's."""
        return sum(path.stat().st_size for path in self._blob.parent.glob(f"{self._blob.name}*"))

    def _disk_error(self, error: OSError) -> DownloadError | NoRoomError:
        reason = error.strerror or error
        if error.errno in _DISK_FULL:
            return NoRoomError(
                f"no room for {self._name} in {self._blob.parent}: {reason}; what came is kept: "
                "make room and run the command again, or set HF_HOME to a folder elsewhere"
            )
        return DownloadError(
            f"cannot write to {self._blob.parent}: {reason}; set HF_HOME to a folder elsewhere"
        )
