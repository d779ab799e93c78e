"""An error in the words of the API that was asked, and what was likely meant."""

from typing import Any

import pytest

from llmstream_cli.errors import (
    BodyTooLargeError,
    EngineError,
    EngineNotReadyError,
    InvalidValueError,
    LLMStreamError,
    ModelNotFoundError,
    QueueFullError,
    RequestError,
    TimeLimitError,
    UnauthorizedError,
)
from llmstream_cli.server.dialects import error_shape
from tests.server.scripted import ScriptedEngine, client


@pytest.mark.parametrize(
    ("error", "openai", "anthropic"),
    [
        (InvalidValueError("no", "seed"), "invalid_request_error", "invalid_request_error"),
        (RequestError("no"), "invalid_request_error", "invalid_request_error"),
        (UnauthorizedError("no"), "authentication_error", "authentication_error"),
        (ModelNotFoundError("no"), "not_found_error", "not_found_error"),
        (BodyTooLargeError("no"), "invalid_request_error", "request_too_large"),
        (QueueFullError("no"), "rate_limit_error", "rate_limit_error"),
        (EngineError("no"), "server_error", "api_error"),
        (EngineNotReadyError("no"), "server_error", "overloaded_error"),
        (TimeLimitError("no"), "server_error", "timeout_error"),
    ],
)
def test_each_api_has_its_own_shape(error: LLMStreamError, openai: str, anthropic: str) -> None:
    assert error_shape("/api/chat")(error) == {"error": "no"}
    assert error_shape("/v1/messages")(error) == {
        "type": "error",
        "error": {"type": anthropic, "message": "no"},
    }
    body = error_shape("/v1/chat/completions")(error)["error"]
    assert (body["message"], body["type"]) == ("no", openai)


@pytest.mark.parametrize(
    ("error", "param", "code"),
    [
        (InvalidValueError("no", "seed"), "seed", "invalid_field"),
        (InvalidValueError("no"), None, "invalid_value"),
        (RequestError("no"), None, "bad_request"),
    ],
)
def test_the_field_is_named(error: LLMStreamError, param: str | None, code: str) -> None:
    body = error_shape("/")(error)["error"]
    assert (body["param"], body["code"]) == (param, code)


@pytest.mark.parametrize("path", ["/", "/api/chat", "/v1/messages"])
def test_a_message_is_one_line(path: str) -> None:
    assert "a b" in str(error_shape(path)(RequestError("a\nb")))


async def message(method: str, path: str) -> tuple[int, Any]:
    server = client(ScriptedEngine())
    response = await (server.post(path) if method == "POST" else server.get(path))
    return response.status_code, await response.get_json()


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/chat/completions", "/v1/chat/completions? Let the client's base URL end in /v1"),
        ("/completions", "/v1/completions? Let the client's base URL end in /v1"),
        ("/chat", "/api/chat? Let the client's base URL end in /api"),
        ("/models", "/v1/models? Let the client's base URL end in /v1"),
        ("/v1/v1/chat/completions", "/v1/chat/completions? Leave /v1 out of the client's base URL"),
        ("/api/v1/models", "/v1/models? Leave /api out of the client's base URL"),
        ("/openai/v1/models", "/v1/models? Leave /openai out of the client's base URL"),
        ("/v1/api/tags", "/api/tags? Leave /v1 out of the client's base URL"),
        ("/v1/chat/completions/", "/v1/chat/completions?"),
        ("/v1/chat/completion", "/v1/chat/completions?"),
        ("/completion", "/v1/completions?"),
        ("/token-stream", "/token_stream?"),
        ("/api/tag", "/api/tags?"),
    ],
)
async def test_a_near_miss_of_a_route(path: str, hint: str) -> None:
    status, body = await message("POST", path)
    error = body["error"]
    text = error if isinstance(error, str) else error["message"]
    assert status == 404
    assert text == f"there is no route {path}; did you mean {hint}"


@pytest.mark.parametrize("path", ["/v1/messages/batches", "/v1/messages/batches/1/cancel"])
async def test_a_route_of_anthropics_that_there_is_not(path: str) -> None:
    status, body = await message("POST", path)
    assert len(body.pop("request_id")) == 32
    assert (status, body) == (
        404,
        {
            "type": "error",
            "error": {
                "type": "not_found_error",
                "message": f"there is no route {path}; see /docs for those there are",
            },
        },
    )


async def test_a_path_cannot_break_the_line() -> None:
    status, body = await message("GET", "/a%0Ab")
    assert status == 404
    assert "/a%0Ab" in body["error"]["message"]


async def test_another_method_is_named() -> None:
    assert await message("GET", "/api/chat") == (
        405,
        {"error": "/api/chat has no method GET; send POST"},
    )
