"""A server that answers as it is told, byte for byte; enough of HTTP for one request."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

PIECES = ("Once", " upon", " a", " time", ".")
USAGE: dict[str, Any] = {
    "prompt_tokens": 40,
    "completion_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 16},
}
MODELS = {"object": "list", "data": [{"id": "tiny", "object": "model"}]}


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    line: str
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Reply:
    """What to send, one write each, before the connection is closed.

    With `hang` it is left open, in silence, until the client closes it.
    """

    writes: tuple[bytes, ...]
    hang: bool = False


@dataclass
class FakeServer:
    """Answers each POST with what `reply` makes of its number, from 0; each GET from `pages`."""

    reply: Callable[[int], Reply]
    pages: Mapping[str, Reply]
    requests: list[Request] = field(default_factory=list)
    gets: list[Request] = field(default_factory=list)
    url: str = ""
    connections: set["asyncio.Task[None]"] = field(default_factory=set)

    def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(asyncio.create_task(self.handle(reader, writer)))

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            request = await read_request(reader)
            method, path, _ = request.line.split(" ")
            if method == "GET":
                reply = self.pages.get(path, NOT_FOUND)
                self.gets.append(request)
            else:
                reply = self.reply(len(self.requests))
                self.requests.append(request)
            for data in reply.writes:
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(0.001)  # or the system may join them into one
            if reply.hang:
                await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {
        name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)
    }
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(head[0], headers, json.loads(body) if body else None)


@contextlib.asynccontextmanager
async def serving(
    reply: Reply | Callable[[int], Reply],
    *,
    models: object = MODELS,
    pages: Mapping[str, Reply] | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[FakeServer]:
    """Run a server; leaving the block waits until all connections have ended.

    Args:
        reply: to each POST.
        models: what `/v1/models` lists.
        pages: replies to each GET by its path, with or instead of the list of models.
        tls: speak TLS.
    """
    fake = FakeServer(
        (lambda _: reply) if isinstance(reply, Reply) else reply,
        {"/v1/models": answer_json(models), **(pages or {})},
    )
    async with await asyncio.start_server(fake.connect, "127.0.0.1", 0, ssl=tls) as server:
        port = server.sockets[0].getsockname()[1]
        fake.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        try:
            yield fake
        finally:
            await asyncio.gather(*fake.connections)


def answer(content_type: str, *writes: bytes, status: str = "200 OK", hang: bool = False) -> Reply:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nConnection: close\r\n\r\n"
    return Reply((head.encode(), *writes), hang)


def answer_json(body: object, status: str = "200 OK") -> Reply:
    return answer("application/json", json.dumps(body).encode(), status=status)


NOT_FOUND = answer_json({"detail": "Not Found"}, "404 Not Found")


def answer_events(*writes: bytes, hang: bool = False) -> Reply:
    return answer("text/event-stream; charset=utf-8", *writes, hang=hang)


def event(body: object) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def delta(**fields: object) -> bytes:
    return event({"choices": [{"index": 0, "delta": fields, "finish_reason": None}]})


ROLE = delta(role="assistant", content="")
DONE = b"data: [DONE]\n\n"


def story(usage: object = USAGE) -> list[bytes]:
    """The events of a complete answer; `usage` None reports none."""
    last = {"index": 0, "delta": {}, "finish_reason": "length"}
    return [
        ROLE,
        *(delta(content=piece) for piece in PIECES),
        event({"choices": [last]}),
        *([event({"choices": [], "usage": usage})] if usage else []),
        DONE,
    ]
