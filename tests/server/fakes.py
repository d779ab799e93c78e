"""An engine without a model, and a server around it in this process."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quart import Quart

from llmstream_cli.api import (
    Chunk,
    EmbeddingRequest,
    Embeddings,
    EngineMetrics,
    EngineState,
    EngineStatus,
    FinishReason,
    GenerationRequest,
    ModelInfo,
    SamplingParams,
    TokenizeRequest,
    Tokens,
    Usage,
)
from llmstream_cli.errors import EngineNotReadyError, LLMStreamError
from llmstream_cli.prompts.messages import ToolCallDelta
from llmstream_cli.server.app import create_app
from llmstream_cli.server.context import ServerContext
from llmstream_cli.server.http.listener import Listener
from llmstream_cli.server.served import ServedModel, ServedModels
from llmstream_cli.server.settings import ServerSettings

# A certificate for localhost that was made for these tests, and its key; nothing trusts it.
TLS = Path(__file__).parent / "tls"
CERTIFICATE: dict[str, Any] = {"certfile": str(TLS / "cert.pem"), "keyfile": str(TLS / "key.pem")}
BODY = b'{"query": "?"}'
TIMEOUT = 60  # seconds; the machines that run this are slow at times


@dataclass
class FakeEngine:
    """Answers with the pieces it was given, or with the question itself, word by word.

    Attributes:
        pieces: the answer; None repeats the question.
        reasoning: what comes before it.
        calls: of tools, what comes after it.
        repeat: how often the pieces come.
        pause: seconds before each piece.
        error: raised after the last piece, instead of the end.
        gate: pieces come only while it is set.
        requests: all that were ever asked.
        running: how many generate now.
        closed: `aclose` was called.
    """

    pieces: Sequence[str] | None = ("one ", "two ", "three")
    reasoning: Sequence[str] = ()
    calls: Iterable[ToolCallDelta] = ()
    repeat: int = 1
    pause: float = 0.0
    error: Exception | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    status: EngineStatus = EngineStatus(EngineState.READY)  # noqa: RUF009
    metrics: EngineMetrics = EngineMetrics(slots=4)  # noqa: RUF009
    requests: list[GenerationRequest] = field(default_factory=list)
    running: int = 0
    closed: bool = False

    def __post_init__(self) -> None:
        self.gate.set()

    def start(self) -> None:
        """Void: there is nothing to load."""

    async def ready(self) -> ModelInfo:
        return ModelInfo("fake", "a fake", 1024, 0.0, {})

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        if self.status.state is not EngineState.READY:
            raise EngineNotReadyError(self.status.reason)
        self.requests.append(request)
        self.running += 1
        num_tokens = 0
        try:
            for piece, reasoning in self._answer(request):
                await asyncio.sleep(self.pause)
                await self.gate.wait()
                yield Chunk(piece, (num_tokens,), reasoning=reasoning)
                num_tokens += 1
            for call in self.calls:
                yield Chunk("", (num_tokens,), tool_calls=(call,))
                num_tokens += 1
            await self.gate.wait()
            if self.error is not None:
                raise self.error
            usage = Usage(7, num_tokens, 0.1, 0.1, 3, len(self.reasoning))
            reason = FinishReason.TOOL_CALLS if self.calls else FinishReason.STOP
            yield Chunk("", (), reason, usage)
        finally:
            self.running -= 1

    def _answer(self, request: GenerationRequest) -> Iterator[tuple[str, str]]:
        yield from (("", piece) for piece in self.reasoning)
        pieces = self.pieces
        if pieces is None:
            pieces = request.messages[-1].content.split(" ")
        for _ in range(self.repeat):
            yield from ((piece, "") for piece in pieces)

    async def count_tokens(self, request: GenerationRequest) -> int:
        self.requests.append(request)
        return 7

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """Make a token of each byte, and of one that is given, that byte."""
        given = request.content
        data = given.encode() if isinstance(given, str) else bytes(one % 256 for one in given)
        return Tokens(tuple(data), tuple(bytes([byte]) for byte in data))

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        width = 4 if request.query is None else 1
        return Embeddings((struct.pack("<f", 0.5) * width,) * len(request.inputs), 7)

    async def aclose(self) -> None:
        self.closed = True


@dataclass
class Served:
    """A server on a socket of this machine.

    Attributes:
        engine: behind it.
        app: the application.
        context: of the application.
        listener: its sockets.
    """

    engine: FakeEngine
    app: Quart
    context: ServerContext
    listener: Listener

    @property
    def model(self) -> ServedModel:
        """The model that the engine is of."""
        return self.context.models.default

    @property
    def port(self) -> int:
        return self.listener.port

    @property
    def url(self) -> str:
        return self.listener.url


def new_context(
    engine: FakeEngine,
    defaults: SamplingParams | None = None,
    contexts: Mapping[str, str] | None = None,
    sampling_if: Mapping[bool, SamplingParams] | None = None,
    **settings: Any,
) -> ServerContext:
    names = ("fake", "alias")
    model = ServedModel(names, engine, 0, defaults or SamplingParams(), sampling_if or {})
    settings = {"port": 0, **settings}
    return ServerContext(ServedModels([model]), ServerSettings(**settings), contexts or {})


@contextlib.asynccontextmanager
async def serving(engine: FakeEngine | None = None, **settings: Any) -> AsyncGenerator[Served]:
    """Serve an engine; at the end, nothing may be left of any request."""
    engine = engine or FakeEngine()
    context = new_context(engine, **settings)
    app = create_app(context)
    listener = Listener(app, context.settings)
    await listener.start()
    try:
        yield Served(engine, app, context, listener)
    finally:
        engine.gate.set()
        await listener.stop_accepting()
        listener.abort()
        assert await listener.wait_closed(TIMEOUT)
        await context.answers.close()
        assert not context.requests.active
        await until(lambda: engine.running == 0)


async def until(condition: Any) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110  (of anything, so nobody could set an event)
            await asyncio.sleep(0.005)


@dataclass
class Reply:
    """A response as it came over the socket.

    Attributes:
        status: of it.
        headers: names in lower case.
        body: without the framing of its chunks.
        complete: it ended as HTTP says, and not with the connection.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool


async def connect(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", served.port)


async def talk(served: Served, data: bytes) -> bytes:
    """Send bytes, and return all that comes back until the server closes."""
    reader, writer = await connect(served)
    try:
        writer.write(data)
        async with asyncio.timeout(TIMEOUT):
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while part := await reader.read(65536):
                    received += part
            return received
    finally:
        writer.close()


def head(method: str = "GET", path: str = "/health", *extra: str, host: str = "localhost") -> bytes:
    lines = (f"{method} {path} HTTP/1.1", f"Host: {host}", *extra)
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def post(body: bytes, *extra: str, path: str = "/token_stream") -> bytes:
    """The bytes of a request with a JSON body, the only one of its connection."""
    lines = ("Content-Type: application/json", f"Content-Length: {len(body)}", *extra)
    return head("POST", path, *lines) + body


async def ask(served: Served, data: bytes) -> Reply:
    """Send one request, and return its response; the server closes the connection after it."""
    request, _, body = data.partition(b"\r\n\r\n")
    return parse(await talk(served, request + b"\r\nConnection: close\r\n\r\n" + body))


def parse(received: bytes) -> Reply:
    top, _, rest = received.partition(b"\r\n\r\n")
    first, *lines = top.decode("latin1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    status = int(first.split(" ")[1])
    if headers.get("transfer-encoding") != "chunked":
        length = int(headers.get("content-length", len(rest)))
        return Reply(status, headers, rest, len(rest) == length)
    body, complete = b"", False
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if not int(size, 16):
            complete = rest == b"\r\n"
            break
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return Reply(status, headers, body, complete)


def fail_with(error: LLMStreamError, *pieces: str) -> FakeEngine:
    return FakeEngine(pieces, error=error)
