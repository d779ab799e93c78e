"""Processes of this package: how one is started, what server and engine say to each other.

A message is a frame: the length of its body in four bytes, the most significant first, then the
body; `multiprocessing.connection.Connection` reads and writes the same frames.

1. The engine's process trusts the server, which started it: commands are pickled.
2. It parses files from strangers, so the server does not trust it: reports are JSON, bounded in
   length, and each field is checked against its type.
3. An error is its class, its message and its attributes. A class that is not in `errors` arrives
   as its closest ancestor that is.
"""

import pickle
import socket
import subprocess
import sys
from collections import ChainMap
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from llmstream_cli.api import (
    Chunk,
    EmbeddingRequest,
    Embeddings,
    EngineConfig,
    EngineMetrics,
    GenerationRequest,
    ModelInfo,
    TokenizeRequest,
    Tokens,
)
from llmstream_cli.errors import InvalidValueError, LLMStreamError

MAX_COMMAND_BYTES = 64 * 1024 * 1024  # a request with its whole conversation
MAX_REPORT_BYTES = 16 * 1024 * 1024  # a step of 256 streams with logprobs, a file's metadata
HEADER_BYTES = 4

Request = GenerationRequest | EmbeddingRequest | TokenizeRequest


class WireError(ValueError):
    """A report breaks the rules."""


def spawn(module: str, **options: Any) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """Start a process that runs a module, with a socket to this one as its standard input."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-m", module],
                stdin=theirs.fileno(),
                process_group=0,  # Ctrl-C in the terminal is for the foremost process alone
                **options,
            )
        except OSError:
            ours.close()
            raise
    return process, ours


# ---- commands, to the engine's process ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """Load a model; comes first, and once."""

    config: EngineConfig
    log: bool  # whether llama.cpp's log is wanted


@dataclass(frozen=True, slots=True)
class Submit:
    """Generate, embed, or tokenize. Results name the request by its id."""

    request_id: int
    request: Request


@dataclass(frozen=True, slots=True)
class Count:
    """Count the tokens of a request's prompt; `Counted` answers, or a failure in `Results`."""

    request_id: int
    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody waits for this request any more."""

    request_id: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Answer with a `Pong`."""


Command = Load | Submit | Count | Cancel | Ping


def pack_command(command: Command) -> bytes:
    """Return a command's frame; one that would be too long is an `InvalidValueError`."""
    body = pickle.dumps(command)
    if len(body) > MAX_COMMAND_BYTES:
        raise InvalidValueError(
            f"the message has {len(body)} bytes, and {MAX_COMMAND_BYTES} are allowed"
        )
    return len(body).to_bytes(HEADER_BYTES, "big") + body


# ---- reports, from the engine's process -----------------------------------------------------

_Plain = str | bool | int | float | None


@dataclass(frozen=True, slots=True)
class Failure:
    """An error on its way; see rule 3."""

    kind: str
    message: str
    attributes: dict[str, _Plain]

    @classmethod
    def of(cls, error: LLMStreamError) -> "Failure":
        known = next(one for one in type(error).__mro__ if one.__name__ in _ERRORS)
        attributes = {
            name: encodable(value) if isinstance(value, str) else value
            for name, value in vars(error).items()
            if isinstance(value, _Plain)
        }
        return cls(known.__name__, encodable(str(error)), attributes)

    def error(self) -> LLMStreamError:
        """Return the error; one of a class that is not there is a `WireError`."""
        cls = _ERRORS.get(self.kind)
        if cls is None or not all(k.isidentifier() and k[0] != "_" for k in self.attributes):
            raise WireError(f"no error: {self.kind}")
        error = cls.__new__(cls, self.message)  # `__init__` may want other arguments
        vars(error).update(self.attributes)
        return error


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model is loaded."""

    info: ModelInfo
    type: Literal["loaded"] = "loaded"


@dataclass(frozen=True, slots=True)
class Results:
    """All that a step produced, and the state after it."""

    results: tuple[tuple[int, Chunk | Embeddings | Tokens | Failure], ...]
    metrics: EngineMetrics
    type: Literal["results"] = "results"


@dataclass(frozen=True, slots=True)
class Counted:
    """What a `Count` asked for."""

    request_id: int
    num_tokens: int
    type: Literal["counted"] = "counted"


@dataclass(frozen=True, slots=True)
class Ended:
    """The engine has failed, and the process leaves."""

    failure: Failure
    type: Literal["ended"] = "ended"


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a `Ping`."""

    type: Literal["pong"] = "pong"


Report = Loaded | Results | Counted | Ended | Pong


def dump_report(report: Report) -> bytes:
    """Return the body of a report's frame."""
    from pydantic_core import to_json

    return to_json(report, bytes_mode="base64")


def parse_report(body: bytes) -> Report:
    """Return the report that a frame's body is; if it is none that is a `WireError`."""
    try:
        report: Report = _reports().validate_json(body)
    except ValueError as error:
        raise WireError(f"a frame that makes no sense: {error}") from error
    return report


@cache
def _reports() -> Any:
    from pydantic import ConfigDict, Field, TypeAdapter

    config = ConfigDict(strict=True, extra="forbid", val_json_bytes="base64")
    return TypeAdapter(Annotated[Report, Field(discriminator="type")], config=config)


def encodable(text: str) -> str:
    """Replace lone surrogates, which JSON cannot carry; paths may have some."""
    return text.encode("utf-8", "replace").decode()


def _tree(cls: type[LLMStreamError]) -> dict[str, type[LLMStreamError]]:
    """Return the errors of `errors.py` by their names, from one downwards."""
    below = (_tree(sub) for sub in cls.__subclasses__() if sub.__module__ == cls.__module__)
    return dict(ChainMap({cls.__name__: cls}, *below))


_ERRORS = _tree(LLMStreamError)
