"""One file from the Hub to its blob in the cache: resumed, checked, visible only when whole.

What has come grows in a file beside the blob. It is named by the hash that its content shall have,
so whoever finds it, after a cut connection, a full disk or `kill -9`, can go on with it: the rest
is asked for by a range request, the whole is hashed, and only if it has the hash that the Hub
publishes is it renamed to the blob.

`huggingface_hub.file_download.http_get` does not serve for this: when a connection is cut it loses
up to 10 MB that had come, and it does not repeat a request that was answered with a status such as
503.
"""

import errno
import hashlib
import io
import os
import time
from dataclasses import dataclass
from typing import BinaryIO

import httpx2
from huggingface_hub.errors import HfHubHTTPError

from llmstream_cli.errors import DownloadError, NoRoomError, UnreachableError, one_line
from llmstream_cli.models.hub_api import HubClient, Listing, RepoFile, may_pass
from llmstream_cli.models.hub_cache import RepoFolder
from llmstream_cli.models.progress import Progress, locked
from llmstream_cli.models.sizes import human_size

# Between attempts, in seconds; the count begins anew whenever something has come.
_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
_CHUNK_BYTES = 1024 * 1024
_TRANSIENT = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def download(
    client: HubClient, listing: Listing, file: RepoFile, folder: RepoFolder, progress: Progress
) -> None:
    """Download a file and let its revision link to it, or wait for whoever does already.

    Raises:
        UnreachableError: the connection failed again and again; what came is kept.
        NoRoomError: the disk is full; what came is kept.
        DownloadError: the Hub sent something else than it announced, or the cache cannot be
            written.
        huggingface_hub.errors.HfHubHTTPError: the Hub refuses.
    """
    one = _Download(client, client.file_url(listing, file), file, folder, progress)
    try:
        folder.blob(file.etag).parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.lock(file.etag), progress, f"is downloading {one.name}"):
            one.run()
        folder.link(listing.commit, file.path, file.etag)
    except (HfHubHTTPError, httpx2.HTTPError):  # the first is an OSError, too
        raise
    except OSError as error:
        reason = error.strerror or error
        if error.errno in _DISK_FULL:
            raise NoRoomError(
                f"no room for {one.name} in {folder.path}: {reason}; what came is kept: "
                "make room and run the command again, or set HF_HOME to a folder elsewhere"
            ) from error
        raise DownloadError(
            f"cannot write to {folder.path}: {reason}; set HF_HOME to a folder elsewhere"
        ) from error


@dataclass(slots=True)
class _Download:
    client: HubClient
    url: str
    file: RepoFile
    folder: RepoFolder
    progress: Progress

    @property
    def name(self) -> str:
        return self.file.path.rsplit("/", 1)[-1]

    def run(self) -> None:
        """Download and check; once more from the beginning if what was here was damaged."""
        blob, partial = self.folder.blob(self.file.etag), self.folder.partial(self.file.etag)
        if blob.exists():
            return
        with partial.open("r+b" if partial.exists() else "x+b") as file:
            in_parts = file.seek(0, io.SEEK_END) > 0
            try:
                in_parts = self._receive_all(file) > 1 or in_parts
            finally:
                self.progress.end()
            is_right = self._has_announced_hash(file)
        if is_right:
            partial.replace(blob)
            return
        partial.unlink()
        if not in_parts:
            raise DownloadError(
                f"{self.name} came with another content than the Hub announced, and has been "
                "deleted; try again, and if it stays so, tell its authors"
            )
        self.progress.note(f"what was here of {self.name} was damaged; downloading it anew")
        self.run()

    def _receive_all(self, file: BinaryIO) -> int:
        """Ask for the rest until all is there, with pauses; return the number of requests.

        There is a limit to requests in a row that bring nothing.
        """
        failures = requests = 0
        size = self._truncate(file, file.tell())
        while size < self.file.size:
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
            if size == self.file.size:
                break
            failures = 0 if size > before else failures + 1
            if failures > len(_PAUSES):
                raise UnreachableError(
                    f"{self.name} stopped at {human_size(size)} of "
                    f"{human_size(self.file.size)}: {reason}; run the command again to go on"
                )
            time.sleep(_PAUSES[max(failures - 1, 0)])
        return requests

    def _receive(self, file: BinaryIO, size: int) -> None:
        """Make one request for what is missing, and write what comes."""
        headers = {"accept-encoding": "identity"} | ({"range": f"bytes={size}-"} if size else {})
        with self.client.stream(self.url, headers) as response:
            if response.status_code != httpx2.codes.PARTIAL_CONTENT and size:
                self.progress.end()
                size = self._truncate(file, 0)
            for chunk in response.iter_raw():
                size += len(chunk)
                if size > self.file.size:
                    raise DownloadError(
                        f"{self.name} came longer than the Hub announced; try again"
                    )
                file.write(chunk)
                self.progress.advance(len(chunk))

    def _truncate(self, file: BinaryIO, size: int) -> int:
        """Keep so much of the file, unless it cannot be a beginning; return how much."""
        size = size if size <= self.file.size else 0
        file.seek(size)
        file.truncate()
        self.progress.begin(f"downloading {self.name}", self.file.size, size)
        return size

    def _has_announced_hash(self, file: BinaryIO) -> bool:
        """Hash what came, and let the disk have it."""
        if len(self.file.etag) == hashlib.sha256().digest_size * 2:
            digest = hashlib.sha256()
        else:
            # What is not in Git LFS is named by git itself, which hashes a header first.
            digest = hashlib.sha1(b"blob %d\0" % self.file.size, usedforsecurity=False)
        self.progress.begin(f"checking {self.name}", self.file.size)
        file.seek(0)
        while data := file.read(_CHUNK_BYTES):
            digest.update(data)
            self.progress.advance(len(data))
        os.fsync(file.fileno())
        self.progress.end()
        return digest.hexdigest() == self.file.etag
