"""An error as the answer to a request, in OpenAI's words unless a dialect has others."""

import json
import re
from collections.abc import Callable
from typing import Any

from quart import Response

from llmstream_cli.errors import (
    InvalidValueError,
    LLMStreamError,
    RangeError,
    UnauthorizedError,
    one_line,
)

# https://platform.openai.com/docs/guides/error-codes, where OpenAI has a name for it.
ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
# By the name of the error, where its code is another: that of `ModelNotFoundError` is
# `model_not_found`.
_CODES = {
    "ContextLengthError": "context_length_exceeded",
    "ContextMemoryError": "no_room",
    "EngineError": "engine_failed",
    "MethodError": "method_not_allowed",
    "PromptError": "invalid_prompt",
    "RequestError": "bad_request",
    "UnauthorizedError": "invalid_api_key",
}
_RETRY_SECONDS = {429: 1, 503: 5}


def error_body(error: LLMStreamError) -> dict[str, Any]:
    """Return the JSON that tells of an error, as OpenAI's API does."""
    is_ours = error.status >= 500  # noqa: PLR2004
    name = type(error).__name__
    words = re.findall("[A-Z][a-z]+", name.removesuffix("Error"))
    field = error.field if isinstance(error, InvalidValueError) else None
    default = "server_error" if is_ours else "invalid_request_error"
    return {
        "error": {
            "message": one_line(error),
            "type": ERROR_TYPES.get(error.status, default),
            "param": field,
            "code": "invalid_field" if field else _CODES.get(name, "_".join(words).lower()),
        }
    }


def error_response(
    error: LLMStreamError, body: Callable[[LLMStreamError], dict[str, Any]] = error_body
) -> Response:
    """Return the response that tells of an error, with its status and what else belongs to it."""
    response = Response(json.dumps(body(error)), error.status, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    if error.status in _RETRY_SECONDS:
        response.headers["Retry-After"] = str(_RETRY_SECONDS[error.status])
    if isinstance(error, RangeError):
        response.headers["Content-Range"] = f"bytes */{error.length}"
    if isinstance(error, UnauthorizedError):
        response.headers["WWW-Authenticate"] = "Bearer"
    return response
