"""A stand-in for the Hugging Face Hub on real sockets: what HF_ENDPOINT can point to in tests.

It speaks the routes that huggingface_hub and llmstream ask for: a model's description with its
files, and files by revision. Large ones are redirected to a second server, the content delivery
network, which knows neither names nor tokens. Faults are set as attributes.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

CHUNK = 16 * 1024


@dataclass
class StoredFile:
    """A file of a repository, its content in memory or in a file."""

    content: bytes | Path
    lfs: bool

    def read(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()

    @cached_property
    def size(self) -> int:
        return len(self.read())

    @cached_property
    def sha1(self) -> str:
        content = self.read()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.read()).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.sha1


@dataclass
class StoredRepo:
    """A repository: its commits, and who may see it."""

    commits: dict[str, dict[str, StoredFile]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    server: str  # hub or cdn
    method: str
    path: str
    headers: Mapping[str, str]


@dataclass
class Served:
    """How much of a file went out in answer to one request."""

    path: str
    start: int
    num_bytes: int = 0


class HubServer:
    """The Hub and its content delivery network.

    Attributes:
        tokens: those that are known; others are refused.
        asked: all requests.
        served: all answers with content.
        cuts: for each next answer with content, after how many bytes the connection is cut.
        statuses: the status that each next answer with content has, and nothing else.
        content_of: other content than the announced for an etag.
        ignores_ranges: whether all content comes from its beginning.
        pause_after: bytes after which an answer waits for `go`.
        go: lets waiting answers go on.
        cdn_tag: the delivery network's own tag for an etag.
        content_headers: what answers with content say besides, or instead.
        description_status: another status than 200 for the description of every model.
        description: another body for the description of every model.
    """

    def __init__(self) -> None:
        self.repos: dict[str, StoredRepo] = {}
        self.tokens: set[str] = set()
        self.asked: list[Asked] = []
        self.served: list[Served] = []
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.content_of: dict[str, bytes] = {}
        self.ignores_ranges = False
        self.pause_after: int | None = None
        self.go = threading.Event()
        self.cdn_tag: Callable[[str], str] = lambda etag: f'"md5-of-{etag[:8]}"'
        self.content_headers: dict[str, str] = {}
        self.description_status = 200
        self.description: bytes | None = None
        self._hub = _Server(self, _HubHandler)
        self._cdn = _Server(self, _CdnHandler)

    @property
    def endpoint(self) -> str:
        return self._hub.address

    @property
    def cdn(self) -> str:
        return self._cdn.address

    def add(
        self, repo: str, files: Mapping[str, bytes | Path], *, revision: str = "main"
    ) -> StoredRepo:
        """Commit files to a repository: `.gguf` files in LFS, others in git."""
        stored = self.repos.setdefault(repo, StoredRepo())
        before = stored.commits.get(stored.refs.get(revision, ""), {})
        commit = hashlib.sha1(f"{repo} {len(stored.commits)}".encode()).hexdigest()
        added = {path: StoredFile(data, path.endswith(".gguf")) for path, data in files.items()}
        stored.commits[commit] = dict(sorted({**before, **added}.items()))
        stored.refs[revision] = commit
        return stored

    def bytes_served(self) -> int:
        return sum(served.num_bytes for served in self.served)

    def listings(self) -> int:
        return sum(asked.path.startswith("/api/models/") for asked in self.asked)

    @contextmanager
    def running(self) -> Iterator["HubServer"]:
        with self._hub.running(), self._cdn.running():
            try:
                yield self
            finally:
                self.go.set()

    def find(self, etag: str) -> StoredFile:
        """Return the file of any repository with that etag."""
        return next(
            file
            for repo in self.repos.values()
            for files in repo.commits.values()
            for file in files.values()
            if file.etag == etag
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: HubServer, handler: type["_Handler"]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.hub = hub

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            thread.join()
            self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: tests kill clients in mid-answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    name = ""

    @property
    def hub(self) -> HubServer:
        return self.server.hub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base's name
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.asked.append(Asked(self.name, self.command, self.path, headers))
        self.route(unquote(urlsplit(self.path).path).strip("/").split("/"))

    def route(self, segments: list[str]) -> None:
        raise NotImplementedError

    def reply(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_content(self, path: str, file: StoredFile, tag: str, commit: str = "") -> None:
        """Answer with a file, or the part asked for, or as the faults want it."""
        hub = self.hub
        if hub.statuses and self.command == "GET":
            self.reply(hub.statuses.pop(0), {"Retry-After": "0"})
            return
        content = hub.content_of.get(file.etag) or file.read()
        wanted = self.headers.get("Range")
        if hub.ignores_ranges or self.headers.get("If-Range", tag) != tag:
            wanted = None
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        rest = content[start:]
        headers = {"Content-Length": str(len(rest)), "ETag": tag, "X-Repo-Commit": commit}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.reply(206 if start else 200, {**headers, **hub.content_headers})
        if self.command == "GET":
            self.send_content(Served(path, start), rest)

    def send_content(self, served: Served, content: bytes) -> None:
        hub = self.hub
        hub.served.append(served)
        cut = hub.cuts.pop(0) if hub.cuts else None
        stops = {stop for stop in (cut, hub.pause_after) if stop is not None}
        while served.num_bytes < len(content):
            stop = min((stop for stop in stops if stop > served.num_bytes), default=len(content))
            end = min(served.num_bytes + CHUNK, stop)
            piece = content[served.num_bytes : end]
            served.num_bytes = end
            self.wfile.write(piece)
            if end == cut:
                self.close_connection = True
                return
            if end == hub.pause_after:
                hub.go.wait(300)


class _HubHandler(_Handler):
    name = "hub"

    def route(self, segments: list[str]) -> None:
        match segments:
            case ["api", "models", user, name]:
                self.describe(f"{user}/{name}", "main")
            case ["api", "models", user, name, "revision", *revision]:
                self.describe(f"{user}/{name}", "/".join(revision))
            case [user, name, "resolve", revision, *path]:
                self.resolve(f"{user}/{name}", revision, "/".join(path))
            case _:
                self.reply(404, {})

    def describe(self, name: str, revision: str) -> None:
        found = self.find(name, revision)
        if found is None:
            return
        commit, files = found
        body = {"_id": "1", "id": name, "sha": commit, "private": False, "tags": []}
        siblings = [_sibling(path, file) for path, file in files.items()]
        written = json.dumps({**body, "siblings": siblings}).encode()
        headers = {"Content-Type": "application/json"}
        self.reply(self.hub.description_status, headers, self.hub.description or written)

    def resolve(self, name: str, revision: str, path: str) -> None:
        found = self.find(name, revision)
        if found is None:
            return
        commit, files = found
        if self.hub.repos[name].gated and not self.is_known():
            self.refuse(403 if "Authorization" in self.headers else 401, "GatedRepo")
        elif path not in files:
            self.refuse(404, "EntryNotFound")
        elif files[path].lfs:
            file = files[path]
            self.reply(
                302,
                {
                    "Location": f"{self.hub.cdn}/{file.sha256}?signature=abc",
                    "X-Repo-Commit": commit,
                    "X-Linked-ETag": f'"{file.sha256}"',
                    "X-Linked-Size": str(file.size),
                },
            )
        else:
            self.reply_content(path, files[path], f'"{files[path].sha1}"', commit)

    def find(self, name: str, revision: str) -> tuple[str, dict[str, StoredFile]] | None:
        """Find a commit, or answer that there is none."""
        if "Authorization" in self.headers and not self.is_known():
            self.refuse(401, "", "Invalid credentials in Authorization header")
            return None
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self.is_known()):
            self.refuse(404 if self.is_known() else 401, "RepoNotFound")
            return None
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            self.refuse(404, "RevisionNotFound")
            return None
        return commit, repo.commits[commit]

    def is_known(self) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return token in self.hub.tokens

    def refuse(self, status: int, code: str, message: str = "") -> None:
        self.reply(status, {"X-Error-Code": code, "X-Error-Message": message})


class _CdnHandler(_Handler):
    name = "cdn"

    def route(self, segments: list[str]) -> None:
        (etag,) = segments
        self.reply_content(etag, self.hub.find(etag), self.hub.cdn_tag(etag))


def _sibling(path: str, file: StoredFile) -> dict[str, object]:
    sibling: dict[str, object] = {"rfilename": path, "size": file.size, "blobId": file.sha1}
    if file.lfs:
        sibling["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": 134}
    return sibling


def until(condition: Callable[[], bool], seconds: float = 300) -> None:
    """Wait until a condition of other threads or processes holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
