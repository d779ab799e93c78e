"""Errors below `/v1/messages`, which has no routes, as clients of Anthropic's API read them."""

from typing import Any

from llmstream_cli.errors import LLMStreamError, one_line
from llmstream_cli.server.dialects.common import Dialect
from llmstream_cli.server.http.failure import ERROR_TYPES

# https://docs.anthropic.com/en/api/errors
_ERROR_TYPES = {
    **ERROR_TYPES,
    413: "request_too_large",
    503: "overloaded_error",
    504: "timeout_error",
}


def _error_body(error: LLMStreamError) -> dict[str, Any]:
    default = "api_error" if error.status >= 500 else "invalid_request_error"  # noqa: PLR2004
    type_ = _ERROR_TYPES.get(error.status, default)
    return {"type": "error", "error": {"type": type_, "message": one_line(error)}}


DIALECT = Dialect("/v1/messages", _error_body)
