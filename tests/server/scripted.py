"""An engine that says what it is told to, and the chunks to tell it."""

import struct
from collections.abc import AsyncGenerator, Sequence

from quart.typing import TestClientProtocol

from llmstream_cli.api import (
    Chunk,
    DrawnLogprob,
    EmbeddingRequest,
    Embeddings,
    EngineMetrics,
    EngineState,
    EngineStatus,
    FinishReason,
    GenerationRequest,
    ModelInfo,
    TokenizeRequest,
    TokenLogprob,
    Tokens,
    Usage,
)
from llmstream_cli.errors import EngineClosedError, EngineNotReadyError
from llmstream_cli.server.app import create_app
from llmstream_cli.server.context import ServerContext
from llmstream_cli.server.served import ServedModel, ServedModels
from llmstream_cli.server.settings import ServerSettings

USAGE = Usage(
    prompt_tokens=12,
    completion_tokens=3,
    prompt_seconds=0.25,
    completion_seconds=0.5,
    cached_tokens=4,
)
INFO = ModelInfo(
    name="tiny",
    description="llama 7B Q4_K - Medium",
    ctx_size=2048,
    load_seconds=0.5,
    cpu_features={},
    ctx_train=8192,
    vocab_size=49152,
    num_parameters=134_515_008,
    size_bytes=96_000_000,
    metadata={
        "general.architecture": "llama",
        "general.file_type": "15",
        "general.license": "apache-2.0",
        "general.name": "Tiny",
        "general.version": "2",
        "llama.context_length": "8192",
        "llama.rope.freq_base": "100000.000000",
        "tokenizer.ggml.add_bos_token": "false",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.chat_template": "{{ messages }}",
    },
    chat_template="{{ messages }}",
)


def last(text: str = "", reason: FinishReason = FinishReason.STOP, usage: Usage = USAGE) -> Chunk:
    return Chunk(text, finish_reason=reason, usage=usage)


def logprob(piece: bytes, value: float = -0.5, top: Sequence[bytes] = ()) -> DrawnLogprob:
    """A drawn token with that piece, and others at its place, each half as likely as the last."""
    return DrawnLogprob(
        TokenLogprob(sum(piece), piece, value),
        tuple(TokenLogprob(sum(other), other, -0.5 - index) for index, other in enumerate(top)),
    )


class ScriptedEngine:
    """Gives each request the same chunks; implements `api.Engine`.

    Args:
        script: chunks, and an error to raise where it stands.

    Attributes:
        requests: what was asked for.
        status: may be set.
    """

    def __init__(self, script: Sequence[Chunk | Exception] = ()) -> None:
        self.script = script
        self.requests: list[GenerationRequest] = []
        self.embedded: list[EmbeddingRequest] = []
        self.status = EngineStatus(EngineState.READY)
        self.metrics = EngineMetrics()

    def start(self) -> None:
        raise AssertionError("it has been started")

    async def ready(self) -> ModelInfo:
        if self.status.state is EngineState.CLOSED:
            raise EngineClosedError("closed")
        return INFO

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        if self.status.state is not EngineState.READY:
            raise EngineNotReadyError(self.status.reason)
        self.requests.append(request)
        for item in self.script:
            if isinstance(item, Exception):
                raise item
            yield item

    async def count_tokens(self, request: GenerationRequest) -> int:
        if self.status.state is not EngineState.READY:
            raise EngineNotReadyError(self.status.reason)
        self.requests.append(request)
        return USAGE.prompt_tokens

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """Make a token of each byte, and of one that is given, that byte."""
        given = request.content
        data = given.encode() if isinstance(given, str) else bytes(one % 256 for one in given)
        return Tokens(tuple(data), tuple(bytes([byte]) for byte in data))

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Make a vector, or a score, of how long each input is."""
        if self.status.state is not EngineState.READY:
            raise EngineNotReadyError(self.status.reason)
        self.embedded.append(request)
        for item in self.script:
            if isinstance(item, Exception):
                raise item
        numbers = [float(len(one)) for one in request.inputs]
        if request.query is None:
            vectors = [struct.pack("<3f", 0.5, 0.75, number) for number in numbers]
        else:
            vectors = [struct.pack("<f", number) for number in numbers]
        return Embeddings(tuple(vectors), int(sum(numbers)))

    async def aclose(self) -> None:
        self.status = EngineStatus(EngineState.CLOSED)


def client(engine: ScriptedEngine, names: tuple[str, ...] = ("tiny",)) -> TestClientProtocol:
    """A client of an application that serves the engine by these names."""
    served = ServedModel(names, engine, created=1_700_000_000)
    context = ServerContext(ServedModels([served]), ServerSettings())
    return create_app(context).test_client()
