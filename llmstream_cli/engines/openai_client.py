"""Requests to another server that speaks OpenAI's API, and what it answers.

They go to the given URL: a redirect is an error, so that neither key nor conversation ends up
elsewhere, and no proxy is asked for what is on this machine. Certificates are verified. What a
server sends is checked like any other input, bounded, and shown as one line without control
characters and without the key.

This module imports httpx2, whose start takes longer than that of `ask`: import it late.
"""

import contextlib
import json
import os
import socket
import ssl
from collections.abc import AsyncGenerator, Mapping
from http import HTTPStatus
from typing import Any

import httpx2

import llmstream_cli
from llmstream_cli.engines.openai_format import EventStream
from llmstream_cli.errors import (
    EngineNotReadyError,
    InvalidValueError,
    ModelNotFoundError,
    PromptError,
    QueueFullError,
    UpstreamError,
    one_line,
)
from llmstream_cli.machine import is_loopback

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 300.0  # a long queue in front of a slow model is no reason to give up

_MAX_BODY_BYTES = 8 << 20  # a list of all models that a large service has
_MAX_LINE_CHARS = 300  # of what somebody else wrote

# What errors call themselves, for programs: by a code for OpenAI and this project, by a type for
# llama-server, by the parameter at fault for vLLM.
_TOO_LONG = {"context_length_exceeded", "exceed_context_size_error", "input_tokens"}
_NO_MODEL = {"model_not_found"}


class Upstream:
    """A server that speaks OpenAI's API.

    Each request opens a connection of its own, and closes it with its end: to leave an answer
    cancels it.

    Args:
        url: where the server is, with or without `/v1` at its end.
        api_key: sent as a bearer token, never shown.
        idle_seconds: give up when nothing comes for so long.

    Raises:
        InvalidValueError: the URL or the key is none, or the environment names a proxy or
            certificates that cannot be used.
    """

    def __init__(
        self, url: str, *, api_key: str | None = None, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self.url = base_url(url)
        self._api_key = api_key
        self._idle_seconds = idle_seconds
        self._client = _client(self.url, _headers(api_key), idle_seconds)

    @property
    def no_api(self) -> str:
        """Say that this is not where OpenAI's API is, and what to write instead."""
        url = httpx2.URL(self.url)
        root = str(url.copy_with(path="/")).rstrip("/")
        advice = "give the URL that stands before /v1" + (f", such as {root}" * (url.path != "/"))
        return f"{self.url} has no API of OpenAI's; {advice}"

    async def get_json(self, path: str) -> object:
        """Return what the server has at a path; None where that is nothing, or no JSON."""
        async with self._response("GET", path) as response:
            if response.status_code == HTTPStatus.NOT_FOUND:
                return None
            await self._check(response)
            return _parse_json(await _read(response))

    async def post_json(self, path: str, body: Mapping[str, Any]) -> object:
        """Post a request whose answer is whole; None where it is no JSON. Raises as `events`."""
        content = json.dumps(body, allow_nan=False).encode()
        headers = {"Content-Type": "application/json"}
        async with self._response("POST", path, content=content, headers=headers) as response:
            await self._check(response)
            return _parse_json(await _read(response))

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """Post a request whose answer is streamed; yield the answer's events up to `[DONE]`.

        Closing the generator closes the connection.

        Raises:
            UpstreamError: the server cannot be reached, refuses, fails, or stops before the end.
            PromptError: the prompt is longer than the context.
            ModelNotFoundError: the server has no such model.
            QueueFullError: the server has too much to do.
            EngineNotReadyError: the server is starting, or not able to answer now.
        """
        content = json.dumps(body, allow_nan=False).encode()  # ASCII: any text can be sent
        headers = {"Content-Type": "application/json"}
        async with self._response("POST", path, content=content, headers=headers) as response:
            await self._check(response)
            content_type = response.headers.get("content-type", "nothing")
            if "text/event-stream" not in content_type:
                raise self._error(f"the answer is {content_type}, not an event stream")
            encoding = response.headers.get("content-encoding", "identity")
            if encoding != "identity":
                raise self._error(f"the answer is compressed ({encoding}) unasked")
            stream = EventStream()
            async for chunk in response.aiter_raw():
                for data in filter(bytes.strip, stream.feed(chunk)):
                    if data.strip() == b"[DONE]":
                        return
                    yield self._event(data)
        raise UpstreamError("the stream ended without [DONE]")

    async def aclose(self) -> None:
        """Close all connections; who reads from one gets an `UpstreamError`."""
        await self._client.aclose()

    def _line(self, text: str) -> str:
        """Make one short line of what a server sent; some of them send the key back."""
        if self._api_key:
            text = text.replace(self._api_key, "***")
        return one_line(text, _MAX_LINE_CHARS)

    def _error(self, text: str) -> UpstreamError:
        return UpstreamError(self._line(text))

    def _event(self, data: bytes) -> dict[str, Any]:
        event, text = _parse_json(data), data.decode("utf-8", "replace")
        if not isinstance(event, dict):
            raise self._error(f"the stream has an event that is no JSON object: {text}")
        if event.get("error") is not None or event.get("object") == "error":
            raise self._error(f"the server failed: {_error_message(event) or text}")
        return event

    async def _check(self, response: httpx2.Response) -> None:
        """Raise the error that the server's own words make, unless it has said yes."""
        if response.status_code == HTTPStatus.OK:
            return
        data = await _read(response)
        body = _parse_json(data)
        message = _error_message(body) or data.decode("utf-8", "replace")
        said = self._line(f"HTTP {response.status_code}: {message}")
        if response.has_redirect_location:
            location = response.headers["location"]
            raise self._error(f"HTTP {response.status_code}: the server has moved to {location}")
        names = _error_names(body)
        if names & _TOO_LONG:
            raise PromptError(self._line(message))
        if names & _NO_MODEL:
            raise ModelNotFoundError(self._line(message))
        seconds = response.headers.get("retry-after", "")
        retry = f"; try again in {seconds} s" if seconds.isdecimal() and len(seconds) < 6 else ""  # noqa: PLR2004
        match response.status_code:
            case HTTPStatus.TOO_MANY_REQUESTS:
                raise QueueFullError(f"the server has too much to do{retry} ({said})")
            case HTTPStatus.SERVICE_UNAVAILABLE:
                raise EngineNotReadyError(f"the server is not ready{retry} ({said})")
            case HTTPStatus.UNAUTHORIZED:
                problem = "does not take this API key" if self._api_key else "wants an API key"
            case HTTPStatus.FORBIDDEN:
                problem = "does not let this request in"
            case HTTPStatus.NOT_FOUND if not (isinstance(body, dict) and "error" in body):
                raise self._error(f"{self.no_api} ({said})")  # a path that no API answers at
            case _:
                problem = "refused the request" if response.is_client_error else "failed"
        raise UpstreamError(f"the server {problem} ({said})")

    @contextlib.asynccontextmanager
    async def _response(
        self, method: str, path: str, **content: Any
    ) -> AsyncGenerator[httpx2.Response]:
        """Send a request; turn what goes wrong into an error that a person can act on."""
        try:
            async with self._client.stream(method, self.url + path, **content) as response:
                yield response
        except httpx2.ReadTimeout as error:
            raise UpstreamError(f"{self.url} sent nothing for {self._idle_seconds:g} s") from error
        except httpx2.ConnectTimeout as error:
            raise UpstreamError(f"{self.url} did not answer in {CONNECT_SECONDS:g} s") from error
        except httpx2.ConnectError as error:
            raise self._error(self._unconnected(error)) from error
        except httpx2.HTTPError as error:
            message = str(error) or type(error).__name__
            raise self._error(f"the connection failed: {message}") from error

    def _unconnected(self, error: Exception) -> str:
        cause = _first_cause(error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"the certificate of {self.url} is not trusted: {cause.verify_message}; "
                "the variable SSL_CERT_FILE can name further ones"
            )
        return f"cannot connect to {self.url}: {_system_reason(cause) or error}"


# ---- what the user gives --------------------------------------------------------------------


def base_url(text: str) -> str:
    """Return a server's URL without the API's path; refuse what is none, or holds a secret.

    Without a scheme it is http on this machine; elsewhere the user decides who may read along.
    """
    try:
        if "://" not in text and is_loopback(httpx2.URL(f"http://{text}").host):
            text = f"http://{text}"
        url = httpx2.URL(text.rstrip("/").removesuffix("/v1"))
    except httpx2.InvalidURL as error:
        raise InvalidValueError(f"the server's URL is none: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host:
        hint = f"; did you mean http://{text} or https://{text}?" if "://" not in text else ""
        raise InvalidValueError(f"the server's URL must be like http://127.0.0.1:8080{hint}")
    if url.userinfo:
        raise InvalidValueError("the server's URL must have no password in it")
    if url.query or url.fragment:
        raise InvalidValueError("the server's URL must end with the host or a path")
    return str(url).rstrip("/")


def _headers(api_key: str | None) -> dict[str, str]:
    headers = {
        "User-Agent": f"llmstream/{llmstream_cli.__version__}",
        "Accept-Encoding": "identity",  # a compressor holds back what should stream
    }
    if api_key:
        if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
            raise InvalidValueError("the API key has characters that no key can have")
        headers["Authorization"] = f"Bearer {api_key}"
    return headers


def _client(url: str, headers: Mapping[str, str], idle_seconds: float) -> httpx2.AsyncClient:
    local = is_loopback(httpx2.URL(url).host)
    try:
        if local and url.startswith("http:"):  # no TLS; to read the system's certificates is slow
            certificates = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        else:
            certificates = httpx2.create_ssl_context()
        return httpx2.AsyncClient(
            headers=headers,
            verify=certificates,
            timeout=httpx2.Timeout(idle_seconds, connect=CONNECT_SECONDS, pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
            follow_redirects=False,
            trust_env=not local,
        )
    except OSError as error:
        raise InvalidValueError(
            one_line(f"cannot read the certificates that SSL_CERT_FILE names: {error}")
        ) from error
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        raise InvalidValueError(
            one_line(f"the proxy that the environment names cannot be used: {error}")
        ) from error


# ---- what the server sends ------------------------------------------------------------------


async def _read(response: httpx2.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            break
    return bytes(body)


def _parse_json(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _error_message(body: object) -> str:
    """Return what an error says, in OpenAI's shape or another that is in use."""
    match body:
        case {"error": {"message": str(message)}} | {"error": str(message)}:
            return message
        case {"message": str(message)} | {"detail": str(message)}:
            return message
        case _:
            return ""


def _error_names(body: object) -> set[str]:
    """Return the words of an error that are meant for programs."""
    match body:
        case {"error": {**fields}}:
            return {
                name
                for key in ("code", "type", "param")
                if isinstance(name := fields.get(key), str)
            }
        case _:
            return set()


def _system_reason(cause: BaseException) -> str | None:
    if not isinstance(cause, OSError):
        return None
    own_codes = isinstance(cause, socket.gaierror | ssl.SSLError)
    # asyncio puts a text of its own, with an address, in the place of the system's.
    return os.strerror(cause.errno) if cause.errno and not own_codes else cause.strerror


def _first_cause(error: BaseException) -> BaseException:
    below = error.__cause__ or error.__context__
    if isinstance(below, BaseExceptionGroup):  # one for each address of a name
        below = below.exceptions[0]
    return error if below is None else _first_cause(below)
