"""An error as the answer to a request, in the words of the API that was asked."""

import json
import re
from typing import Any

from quart import Response

from llmstream_cli.errors import (
    ContextLengthError,
    ContextMemoryError,
    EngineError,
    InvalidFieldError,
    LLMStreamError,
    MethodError,
    PromptError,
    RequestError,
    UnauthorizedError,
)

_OLLAMA = "/api/"

# https://platform.openai.com/docs/guides/error-codes, where OpenAI has a name for it.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_CODES: dict[type[LLMStreamError], str] = {
    ContextLengthError: "context_length_exceeded",
    ContextMemoryError: "no_room",
    EngineError: "engine_failed",
    MethodError: "method_not_allowed",
    PromptError: "invalid_prompt",
    RequestError: "bad_request",
    UnauthorizedError: "invalid_api_key",
}

_RETRY_SECONDS = {429: 1, 503: 5}


def error_body(path: str, error: LLMStreamError) -> dict[str, Any]:
    """Return the JSON that tells of an error.

    Args:
        path: of the request. Ollama's routes have Ollama's shape, all others OpenAI's.
        error: what went wrong.
    """
    if path.startswith(_OLLAMA):
        return {"error": str(error)}
    default = "invalid_request_error" if error.status < 500 else "server_error"  # noqa: PLR2004
    return {
        "error": {
            "message": str(error),
            "type": _TYPES.get(error.status, default),
            "param": error.field if isinstance(error, InvalidFieldError) else None,
            "code": _code(type(error)),
        }
    }


def error_response(path: str, error: LLMStreamError) -> Response:
    """Return the response that tells of an error, with its status and what else belongs to it."""
    response = Response(
        json.dumps(error_body(path, error)), error.status, content_type="application/json"
    )
    response.headers["Cache-Control"] = "no-store"
    if error.status in _RETRY_SECONDS:
        response.headers["Retry-After"] = str(_RETRY_SECONDS[error.status])
    if isinstance(error, UnauthorizedError):
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _code(type_: type[LLMStreamError]) -> str:
    """Name an error for programs: `ModelNotFoundError` is `model_not_found`."""
    words = re.findall("[A-Z][a-z]+", type_.__name__.removesuffix("Error"))
    return _CODES.get(type_, "_".join(words).lower())
