"""The process that encodes: `python -m llmstream_cli.engines.encoder`.

It knows a model's vocabulary and chat template, and forks for each request a process that makes
the prompt, compiles the grammar, and follows it. What that one computes is limited by the kernel,
in time and in memory, whoever holds the GIL, and it ends when nobody waits for it any more.

Its standard input is a socket to the engine's process, an `EncodingPool`. Over it comes the
configuration, then, for each request, one byte with the file descriptor of a connection.

It is forked from a process that has one thread and has never computed with llama.cpp, whose OpenMP
would not survive that. What both processes say is pickled: neither knows more than the other.
"""

import contextlib
import ctypes
import fcntl
import gc
import os
import resource
import signal
import socket
import sys
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from llmstream_cli.api import (
    EmbeddingRequest,
    EngineConfig,
    GenerationRequest,
    TokenizeRequest,
    Tokens,
)
from llmstream_cli.core.model import EncodedRequest, EncodedTexts, LoadedModel
from llmstream_cli.engines.ipc import Request
from llmstream_cli.errors import EngineError, LLMStreamError

if TYPE_CHECKING:
    from llmstream_cli.core.grammar.constraint import Constraint

PLAIN, CONSTRAINED = b"p", b"c"  # what the byte beside a file descriptor says of the request
COMPILING = "compiling"  # is sent before a grammar is compiled

PROMPT_BYTES = 256 * 1024 * 1024  # that making a prompt may take
COMPILE_BYTES = 64 * 1024 * 1024  # that compiling and following a grammar may take
COMPILE_SECONDS = 1.0  # of CPU time
MASK_SECONDS = 0.5  # of CPU time, from one token to what may follow it
_LOW_PRIORITY = 10


@dataclass(frozen=True, slots=True)
class Job:
    """What a process is forked for."""

    request: Request
    ctx_size: int  # the most tokens of prompt and answer together
    seconds: float  # CPU time for it
    low_priority: bool  # whether whatever else runs on the machine comes first


class _Encoder(LoadedModel):
    """A model without its weights."""

    _connection: Connection
    _job: Job
    _constraint: "Constraint | None" = None

    def prepare(self) -> None:
        """Do once what every request would have to."""
        import llmstream_cli.prompts.encode  # noqa: F401

        with contextlib.suppress(LLMStreamError):  # whoever needs the template will hear of it
            _ = self._template

    def prepare_grammars(self) -> None:
        """Read the vocabulary for grammars and calls of tools, once."""
        with contextlib.suppress(LLMStreamError):
            _ = self._calls
            self._grammars.read_vocabulary()

    def serve(self, connection: Connection) -> None:
        """Encode the request that the connection brings, and follow its grammar."""
        self._connection = connection
        self._job = connection.recv()
        self.info = replace(self.info, ctx_size=self._job.ctx_size)
        if self._job.low_priority:
            os.nice(_LOW_PRIORITY)
        _end_with(connection, True)
        if connection.poll():  # it was closed before that
            return
        _limit(self._job.seconds, PROMPT_BYTES)
        outcome = self._outcome()
        _end_with(connection, False)
        connection.send(outcome)
        if self._constraint is not None:
            try:
                self._follow(self._constraint, connection)
            except EngineError as error:
                connection.send(error)

    def _follow(self, constraint: "Constraint", connection: Connection) -> None:
        """Tell what may come next; hear what came, or the text after which the grammar holds."""
        while True:
            if constraint.is_active:
                _limit(MASK_SECONDS, COMPILE_BYTES)
                connection.send(constraint.bits())
            came: int | str = connection.recv()
            _limit(MASK_SECONDS, COMPILE_BYTES)
            if isinstance(came, int):
                constraint.accept(came)
                continue
            constraint.begin(came)
            if not constraint.is_active:
                connection.send(constraint.bits())

    def _outcome(self) -> EncodedRequest | EncodedTexts | Tokens | LLMStreamError:
        request = self._job.request
        try:
            if isinstance(request, EmbeddingRequest):
                return self.encode_texts(request)
            if isinstance(request, TokenizeRequest):
                return self.tokenize(request)
            return replace(self.encode(request), constraint=None)
        except LLMStreamError as error:
            return error
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  (a bug; the request must hear of it)
            return EngineError(f"the prompt could not be encoded: {error!r}")

    def _compile(self, request: GenerationRequest) -> "Constraint":
        self._connection.send(COMPILING)
        _limit(min(self._job.seconds, COMPILE_SECONDS), COMPILE_BYTES)
        self._constraint = super()._compile(request)
        return self._constraint


_base_bytes = 0  # of data, when the process was forked


def _limit(seconds: float, growth_bytes: int) -> None:
    """Have the kernel end this process after so much CPU time, and refuse it so much memory."""
    signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF kills
    with contextlib.suppress(OSError, ValueError):  # a system without /proc, or a lower limit
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (_base_bytes + growth_bytes, hard))


def _data_bytes() -> int:
    """Return what counts against RLIMIT_DATA; 0 where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[5]
    except OSError:
        return 0
    return int(pages) * resource.getpagesize()


def _end_with(connection: Connection, armed: bool) -> None:
    """Have the kernel end this process when the other side closes the connection, or not.

    SIGIO tells of it, and kills. It also tells of messages, so none may be on its way.
    """
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(connection, fcntl.F_GETFL)
    flags = flags | fcntl.FASYNC if armed else flags & ~fcntl.FASYNC
    fcntl.fcntl(connection, fcntl.F_SETFL, flags)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, whatever it is doing then.

    Where the system has no such service, the end of the connection tells; then a call into C that
    keeps the GIL comes to its end first.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # <linux/prctl.h>
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def main() -> NoReturn:
    """Run the process."""
    global _base_bytes  # noqa: PLW0603  (of this process, for those that it forks)
    die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the children need not be waited for
    control = socket.socket(fileno=0)
    config: EngineConfig = Connection(os.dup(0)).recv()
    encoder = _Encoder(config, vocab_only=True)
    encoder.prepare()
    while True:
        kind, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not kind:
            os._exit(0)
        if kind == CONSTRAINED:
            encoder.prepare_grammars()
        gc.freeze()
        _base_bytes = _data_bytes()
        with Connection(descriptors[0]) as connection, contextlib.suppress(OSError):
            # Where there are no more processes, the end of the connection tells.
            if os.fork() == 0:
                control.close()
                _serve(encoder, connection)


def _serve(encoder: _Encoder, connection: Connection) -> NoReturn:
    try:
        with contextlib.suppress(EOFError, OSError):  # nobody waits for it any more
            encoder.serve(connection)
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
