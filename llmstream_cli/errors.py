"""Every error that llmstream raises on purpose.

    LLMStreamError               HTTP  exit   meaning
    ├── InvalidValueError         422     2   a parameter or a field is out of its bounds; names it
    │   └── SchemaError           422     2   a JSON schema is none, or no answer can fulfil it
    ├── PromptError               400     1   no prompt can be made of the messages
    │   └── ContextLengthError    400     1   the prompt does not fit into the context
    ├── ModelError                500     1   the model cannot be used
    │   ├── ModelNotFoundError    404     1   there is no model of that name
    │   ├── DownloadError         502     1   the model cannot be downloaded
    │   │   └── UnreachableError  503     1   the Hub does not answer
    │   └── NoRoomError           507     1   the disk or the memory is too small for the model
    ├── EngineError               500     1   the engine failed while it generated
    │   ├── EngineClosedError     503     1   the engine is closed and takes no request
    │   ├── EngineNotReadyError   503     1   the engine is loading, or being started again
    │   ├── EngineDiedError       503     1   the engine's process died while it generated
    │   ├── QueueFullError        429     1   too many requests wait already
    │   ├── StepRefusedError      500     1   llama.cpp refused a step; the engine goes on
    │   ├── ContextMemoryError    507     1   there is no memory for a context of that length
    │   ├── UpstreamError         502     1   the server that generates for us failed
    │   ├── TimeLimitError        504     1   the answer took longer than it may
    │   └── SlowReaderError       500     1   the client does not take its answer
    ├── RequestError              400     1   an HTTP request cannot be understood
    │   ├── UnauthorizedError     401     1   it has no key, or a wrong one
    │   ├── ForbiddenError        403     1   its host or origin is not allowed
    │   ├── NotFoundError         404     1   there is no such route
    │   ├── MethodError           405     1   the route has another method
    │   ├── SlowRequestError      408     1   its body did not arrive in time
    │   ├── BodyTooLargeError     413     1   its body is longer than it may be
    │   ├── MediaTypeError        415     1   its body is not said to be JSON
    │   └── BusyError             503     1   the server takes no more of them now
    ├── HistoryError              500     1   the kept conversations cannot be read or written
    │   └── SessionNotFoundError  404     1   none of them has that name or number
    ├── EditorError               500     1   the editor failed, or left no question
    ├── ListenError               500     1   the server cannot listen as it should
    ├── OutputError               500     1   the answer cannot be written
    └── ConfigError               500     2   the configuration file says what it cannot say

The message of each is one line that a person can act on: a command prints it as it is, a server
sends it as it is. Anything else that escapes is a bug and keeps its traceback.
"""

import re
from collections.abc import Iterable
from copy import copy
from typing import ClassVar


class LLMStreamError(Exception):
    """Base of the tree above.

    Attributes:
        status: the HTTP status that a server answers with.
        exit_code: the exit code that the command ends with.
    """

    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __reduce__(self) -> tuple[object, ...]:
        """Copy and pickle the message and the attributes: `__init__` may want others."""
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(
    cls: type[LLMStreamError], args: tuple[object, ...], attributes: dict[str, object]
) -> LLMStreamError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(attributes)
    return error


class InvalidValueError(LLMStreamError):
    """A parameter, or a field of a request, is unknown, missing, or out of its bounds.

    Attributes:
        field: which one, where it is one's alone.
    """

    status = 422
    exit_code = 2

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field

    def renamed(self, field: str) -> "InvalidValueError":
        """Return the error with another name of the field, in the message too if it begins so."""
        message = str(self)
        if self.field and re.match(rf"{re.escape(self.field)}\b", message):
            message = field + message[len(self.field) :]
        return InvalidValueError(message, field)


class SchemaError(InvalidValueError):
    """A JSON schema is none, or no answer can fulfil it; the message says where."""


class PromptError(LLMStreamError):
    """The messages cannot be turned into a prompt for this model."""

    status = 400


class ContextLengthError(PromptError):
    """The prompt has more tokens than the context can hold beside one token of answer."""

    def __init__(self, prompt_tokens: int, ctx_size: int, *, at_least: bool = False) -> None:
        some = f"at least {prompt_tokens}" if at_least else prompt_tokens
        super().__init__(
            f"this model's maximum context length is {ctx_size} tokens for prompt and answer, and "
            f"the prompt has {some}: shorten it, drop earlier messages, or give --ctx-size more, "
            "where the model was trained with more"
        )
        self.prompt_tokens = prompt_tokens
        self.ctx_size = ctx_size


class ModelError(LLMStreamError):
    """The model exists but cannot be loaded or cannot generate text."""


class ModelNotFoundError(ModelError):
    """No model goes by that name."""

    status = 404


class DownloadError(ModelError):
    """The model's files could not be downloaded, or not as they are meant to be."""

    status = 502


class UnreachableError(DownloadError):
    """The Hub does not answer, or only that it cannot now."""

    status = 503


class NoRoomError(ModelError):
    """The model is larger than the room for it on the disk or in memory."""

    status = 507


class EngineError(LLMStreamError):
    """The engine failed; the request that sees it got no complete answer."""


class EngineClosedError(EngineError):
    """The engine has been closed."""

    status = 503

    def __init__(self, message: str = "the engine has been closed") -> None:
        super().__init__(message)


class EngineNotReadyError(EngineError):
    """The engine's model is being loaded, for the first time or again; a later request may do."""

    status = 503


class EngineDiedError(EngineError):
    """The engine's process died under the request; it is being started again."""

    status = 503


class QueueFullError(EngineError):
    """Too many requests wait already; a later one may find room."""

    status = 429


class StepRefusedError(EngineError):
    """llama.cpp refused to compute a step, and is as it was before."""


class ContextMemoryError(EngineError):
    """The context cannot grow to what the request needs; other requests go on."""

    status = 507


class UpstreamError(EngineError):
    """Another server, to which the request was passed on, refused, failed, or cannot be reached."""

    status = 502


class TimeLimitError(EngineError):
    """The answer took longer than the server lets one take."""

    status = 504


class SlowReaderError(EngineError):
    """So much of the answer waits for its reader that the server gives up."""


class RequestError(LLMStreamError):
    """A request over HTTP is malformed."""

    status = 400


class UnauthorizedError(RequestError):
    """The request bears no key, or one that the server does not know."""

    status = 401


class ForbiddenError(RequestError):
    """The server does not answer to that host name, or to pages of that origin."""

    status = 403


class NotFoundError(RequestError):
    """The server has no such route."""

    status = 404


class MethodError(RequestError):
    """The route does not have that method."""

    status = 405


class SlowRequestError(RequestError):
    """The body of the request did not arrive in time."""

    status = 408


class BodyTooLargeError(RequestError):
    """The body of the request is longer than the server takes."""

    status = 413


class MediaTypeError(RequestError):
    """The body of the request is of another type than JSON."""

    status = 415


class BusyError(RequestError):
    """The server takes no more requests, or connections, now."""

    status = 503


class HistoryError(LLMStreamError):
    """The file of kept conversations cannot be used; it is left as it is."""


class SessionNotFoundError(HistoryError):
    """No kept conversation goes by that name or number."""

    status = 404


class EditorError(LLMStreamError):
    """The editor could not be run, failed, or left no text."""


class ListenError(LLMStreamError):
    """The server cannot listen at that address, or not with that certificate or those keys."""


class OutputError(LLMStreamError):
    """The answer cannot be written to where it should go."""


class ConfigError(LLMStreamError):
    """The configuration file cannot be read, or says what it cannot say."""

    exit_code = 2


def copy_error(error: LLMStreamError) -> LLMStreamError:
    """Copy an error: an exception object belongs to one raise, which writes its traceback to it."""
    return copy(error)


# ---- to say what is wrong -------------------------------------------------------------------


def did_you_mean(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """Return `did you mean NAME?` of the nearest of the known names; without one, `otherwise`.

    That is all names there are if it is None.
    """
    import difflib  # for mistakes alone

    names = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name[:100].lower(), names, n=1)
    if near:
        return f"did you mean {names[near[0]]}?"
    return f"known: {', '.join(names.values())}" if otherwise is None else otherwise


def one_line(message: str | Exception, max_chars: int | None = None) -> str:
    """Return a message, which may quote anybody, as one line that a terminal may be shown."""
    text = message if isinstance(message, str) else str(message) or type(message).__name__
    visible = "".join(c for c in text if c.isprintable() or c.isspace())
    line = " ".join(visible.split())
    return line if max_chars is None or len(line) <= max_chars else line[: max_chars - 1] + "…"
