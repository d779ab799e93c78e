"""An error as the answer to a request, in the words of the API that was asked."""

import json
import re
from typing import Any

from quart import Response

from llmstream_cli.errors import (
    ContextLengthError,
    ContextMemoryError,
    EngineError,
    InvalidValueError,
    LLMStreamError,
    MethodError,
    PromptError,
    RequestError,
    UnauthorizedError,
)

_OLLAMA = "/api/"
_ANTHROPIC = "/v1/messages"

# https://platform.openai.com/docs/guides/error-codes, where OpenAI has a name for it.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
# https://docs.anthropic.com/en/api/errors
_ANTHROPIC_TYPES = {
    **_TYPES,
    413: "request_too_large",
    503: "overloaded_error",
    504: "timeout_error",
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
        path: of the request. Ollama's and Anthropic's routes have their own shape, all others
            OpenAI's.
        error: what went wrong.
    """
    message = " ".join(str(error).splitlines())
    is_ours = error.status >= 500  # noqa: PLR2004
    if path.startswith(_OLLAMA):
        return {"error": message}
    if path.startswith(_ANTHROPIC):
        default = "api_error" if is_ours else "invalid_request_error"
        type_ = _ANTHROPIC_TYPES.get(error.status, default)
        return {"type": "error", "error": {"type": type_, "message": message}}
    default = "server_error" if is_ours else "invalid_request_error"
    return {
        "error": {
            "message": message,
            "type": _TYPES.get(error.status, default),
            "param": error.field if isinstance(error, InvalidValueError) else None,
            "code": _code(error),
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


def _code(error: LLMStreamError) -> str:
    """Name an error for programs: `ModelNotFoundError` is `model_not_found`."""
    if isinstance(error, InvalidValueError) and error.field:
        return "invalid_field"
    words = re.findall("[A-Z][a-z]+", type(error).__name__.removesuffix("Error"))
    return _CODES.get(type(error), "_".join(words).lower())
