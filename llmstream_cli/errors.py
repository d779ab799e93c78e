"""Every error that llmstream raises on purpose.

    LLMStreamError               HTTP  exit   meaning
    ├── InvalidValueError         422     2   a parameter or a field is out of its bounds; names it
    │   └── SchemaError           422     2   a JSON schema is none, or no answer can fulfil it
    ├── PromptError               400     1   no prompt can be made of the messages
    │   └── ContextLengthError    400     1   the prompt does not fit into the context
    ├── ModelError                500     1   the model cannot be used
    │   ├── ModelKindError        422     1   it is no model for what is asked of it
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
    │   ├── GoneError             410     1   the answer that it goes on reading was cut there
    │   ├── BodyTooLargeError     413     1   its body is longer than it may be
    │   ├── MediaTypeError        415     1   its body is not said to be JSON
    │   ├── RangeError            416     1   the range of bytes that it wants is not there
    │   └── BusyError             503     1   the server takes no more of them now
    ├── HistoryError              500     1   the kept conversations cannot be read or written
    │   └── SessionNotFoundError  404     1   none of them has that name or number
    ├── EditorError               500     1   the editor failed, or left no question
    ├── ListenError               500     1   the server cannot listen as it should
    ├── OutputError               500     1   the answer cannot be written
    └── ConfigError               500     2   the configuration is invalid

The message of each is one line that a person can act on: a command prints it as it is, a server
sends it as it is. Anything else that escapes is a bug and keeps its traceback.
"""

import copyreg
import re
from collections.abc import Iterable
from copy import copy
from typing import ClassVar


class LLMStreamError(Exception):
    """Base of the tree above."""

    status: ClassVar[int] = 500  # that a server answers with
    exit_code: ClassVar[int] = 1  # that the command ends with

    def __reduce__(self) -> tuple[object, ...]:
        """Copy and pickle the message and the attributes: `__init__` may want others."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class InvalidValueError(LLMStreamError):
    status = 422
    exit_code = 2

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field  # which one is invalid, where it is one's alone

    def renamed(self, field: str) -> "InvalidValueError":
        """Return the error with another name of the field, in the message too if it begins so."""
        message = str(self)
        if self.field and re.match(rf"{re.escape(self.field)}\b", message):
            message = field + message[len(self.field) :]
        return InvalidValueError(message, field)


class SchemaError(InvalidValueError): ...


class PromptError(LLMStreamError):
    status = 400


class ContextLengthError(PromptError):
    def __init__(self, prompt_tokens: int, ctx_size: int, *, at_least: bool = False) -> None:
        some = f"at least {prompt_tokens}" if at_least else prompt_tokens
        super().__init__(
            f"this model's maximum context length is {ctx_size} tokens for prompt and answer, and "
            f"the prompt has {some}: shorten it, drop earlier messages, or give --ctx-size more, "
            "where the model was trained with more"
        )
        self.prompt_tokens = prompt_tokens
        self.ctx_size = ctx_size


class ModelError(LLMStreamError): ...


class ModelKindError(ModelError):
    status = 422


class ModelNotFoundError(ModelError):
    status = 404


class DownloadError(ModelError):
    status = 502


class UnreachableError(DownloadError):
    status = 503


class NoRoomError(ModelError):
    status = 507


class EngineError(LLMStreamError): ...


class EngineClosedError(EngineError):
    status = 503

    def __init__(self, message: str = "the engine has been closed") -> None:
        super().__init__(message)


class EngineNotReadyError(EngineError):
    status = 503


class EngineDiedError(EngineError):
    status = 503


class QueueFullError(EngineError):
    status = 429


class StepRefusedError(EngineError): ...


class ContextMemoryError(EngineError):
    status = 507


class UpstreamError(EngineError):
    status = 502


class TimeLimitError(EngineError):
    status = 504


class SlowReaderError(EngineError): ...


class RequestError(LLMStreamError):
    status = 400


class UnauthorizedError(RequestError):
    status = 401


class ForbiddenError(RequestError):
    status = 403


class NotFoundError(RequestError):
    status = 404


class MethodError(RequestError):
    status = 405


class GoneError(RequestError):
    status = 410


class SlowRequestError(RequestError):
    status = 408


class BodyTooLargeError(RequestError):
    status = 413


class MediaTypeError(RequestError):
    status = 415


class RangeError(RequestError):
    """The range that a client wants is not there; `length` is what there is, in bytes."""

    status = 416

    def __init__(self, message: str, length: int) -> None:
        super().__init__(message)
        self.length = length


class BusyError(RequestError):
    status = 503


class HistoryError(LLMStreamError): ...


class SessionNotFoundError(HistoryError):
    status = 404


class EditorError(LLMStreamError): ...


class ListenError(LLMStreamError): ...


class OutputError(LLMStreamError): ...


class ConfigError(LLMStreamError):
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
