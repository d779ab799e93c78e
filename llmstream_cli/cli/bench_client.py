"""A client of the OpenAI API, no larger than `llmstream bench --url` needs.

https://platform.openai.com/docs/api-reference/chat/streaming

It talks to the given URL and to nothing else: no proxy, no redirect. What a server sends is
checked like any other input, bounded, and shown as one line without control characters.
"""

import contextlib
import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx2

import llmstream_cli
from llmstream_cli.cli.bench_figures import Cost
from llmstream_cli.errors import EngineError, InvalidValueError

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 300.0  # a long queue in front of a slow model is no reason to give up

_MAX_LINE_BYTES = 1 << 20
_MAX_BODY_BYTES = 1 << 20
_MAX_LINE_CHARS = 300
_MAX_MODELS_SHOWN = 5
_MAX_TOKENS = 2**40  # beyond that it is no count
_OK = 200


class OpenAIClient:
    """Streams answers of a server that speaks the OpenAI API.

    Each request opens a connection of its own.

    Args:
        url: where the server is, with or without `/v1` at its end.
        model: the name to ask for; None takes the only one that the server has.
        max_tokens: length of an answer at most.
        api_key: sent as a bearer token, never shown.
        idle_seconds: give up when nothing comes for so long.

    Raises:
        InvalidValueError: the URL or the key is none.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None,
        max_tokens: int,
        api_key: str | None = None,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self.url = base_url(url)
        self._model = model
        self._max_tokens = max_tokens
        self._api_key = api_key
        self._idle_seconds = idle_seconds
        self._client = httpx2.AsyncClient(
            headers=_headers(api_key),
            timeout=httpx2.Timeout(idle_seconds, connect=CONNECT_SECONDS, pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,
        )

    async def ready(self) -> str:
        """Return the model's name as one line, asking the server for it if need be.

        Raises:
            EngineError: the server cannot be reached, or names no model.
            InvalidValueError: it names several.
        """
        if self._model is None:
            self._model = _only_model(await self._get_json("/v1/models"))
        return one_line(self._model)

    async def stream(self, prompt: str) -> AsyncGenerator[str | Cost]:
        """Yield the answer's pieces of text as they come and, if it is reported, what it cost.

        Raises:
            EngineError: the server refused, failed, or did not finish.
        """
        await self.ready()
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "max_tokens": self._max_tokens,
        }
        url = self.url + "/v1/chat/completions"
        with self._explained():
            async with self._client.stream("POST", url, json=body) as response:
                await self._check(response)
                async with contextlib.aclosing(self._events(response)) as events:
                    async for event in events:
                        if text := _text(event):
                            yield text
                        if cost := _cost(event):
                            yield cost

    async def aclose(self) -> None:
        """Close what connections there are."""
        await self._client.aclose()

    async def _events(self, response: httpx2.Response) -> AsyncGenerator[dict[str, Any]]:
        """Yield the events up to `[DONE]`; raise `EngineError` on an error or a missing end."""
        content_type = response.headers.get("content-type", "nothing")
        if "text/event-stream" not in content_type:
            raise EngineError(self._line(f"the answer is {content_type}, not an event stream"))
        lines = DataLines()
        async for chunk in response.aiter_bytes():
            for data in lines.feed(chunk):
                if data == b"[DONE]":
                    return
                yield self._event(data)
        raise EngineError("the stream ended without [DONE]")

    def _event(self, data: bytes) -> dict[str, Any]:
        event = _parse_json(data)
        if not isinstance(event, dict):
            text = data.decode("utf-8", "replace")
            raise EngineError(self._line(f"the stream has an event that is no JSON object: {text}"))
        if event.get("error") is not None:
            raise EngineError(self._line(_error_message(event) or data.decode("utf-8", "replace")))
        return event

    async def _get_json(self, path: str) -> object:
        with self._explained():
            async with self._client.stream("GET", self.url + path) as response:
                await self._check(response)
                return _parse_json(await _read(response))

    async def _check(self, response: httpx2.Response) -> None:
        """Raise `EngineError` with the server's own words unless it has said yes."""
        if response.status_code == _OK:
            return
        body = await _read(response)
        message = _error_message(_parse_json(body)) or body.decode("utf-8", "replace")
        raise EngineError(self._line(f"HTTP {response.status_code}: {message}"))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what goes wrong on the network into an `EngineError` that a person can act on."""
        try:
            yield
        except httpx2.ReadTimeout as error:
            raise EngineError(f"{self.url} sent nothing for {self._idle_seconds:g} s") from error
        except httpx2.ConnectTimeout as error:
            raise EngineError(f"{self.url} did not answer in {CONNECT_SECONDS:g} s") from error
        except httpx2.ConnectError as error:
            raise EngineError(self._line(f"cannot connect to {self.url}: {error}")) from error
        except httpx2.HTTPError as error:
            message = str(error) or type(error).__name__
            raise EngineError(self._line(f"the connection failed: {message}")) from error

    def _line(self, text: str) -> str:
        """Make one short line of what a server sent; some of them send the key back."""
        if self._api_key:
            text = text.replace(self._api_key, "***")
        return one_line(text)


def one_line(text: str) -> str:
    """Return what somebody else wrote as one line of no great length, safe for a terminal."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _MAX_LINE_CHARS else line[: _MAX_LINE_CHARS - 1] + "…"


def base_url(text: str) -> str:
    """Return a server's URL without the API's path; refuse what is none, or holds a secret."""
    try:
        url = httpx2.URL(text.rstrip("/").removesuffix("/v1"))
    except httpx2.InvalidURL as error:
        raise InvalidValueError(f"--url is no URL: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise InvalidValueError("--url must be like http://127.0.0.1:8080")
    if url.userinfo:
        raise InvalidValueError("--url must have no password in it; see --api-key")
    if url.query or url.fragment:
        raise InvalidValueError("--url must end with the host or a path")
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


class DataLines:
    """Takes the bytes of an event stream as they come; gives the values of its `data` fields.

    An event of the OpenAI API is one line of JSON, so a line is taken for an event.
    """

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the values that `chunk` completes.

        Raises:
            EngineError: a line has no end.
        """
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        if len(self._pending) > _MAX_LINE_BYTES:
            raise EngineError(f"the stream has a line longer than {_MAX_LINE_BYTES >> 20} MiB")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]


async def _read(response: httpx2.Response) -> bytes:
    """Return the body, or as much of it as is reasonable."""
    body = b""
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            break
    return body


def _parse_json(data: bytes) -> object:
    """Return the value; None if it is no JSON, or nested without end."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _error_message(body: object) -> str:
    """Return what an error says, in the shape of OpenAI or of those who differ; "" for others."""
    match body:
        case {"error": {"message": str(message)}} | {"error": str(message)}:
            return message
        case {"message": str(message)} | {"detail": str(message)}:
            return message
        case _:
            return ""


def _only_model(body: object) -> str:
    match body:
        case {"data": [*entries]}:
            names = [str(entry.get("id")) for entry in entries if isinstance(entry, dict)]
        case _:
            names = []
    if not names:
        raise EngineError("the server does not say what model it has; name it with --url-model")
    if len(names) > 1:
        shown = ", ".join(names[:_MAX_MODELS_SHOWN]) + ", …" * (len(names) > _MAX_MODELS_SHOWN)
        raise InvalidValueError(
            one_line(f"choose one of the server's models with --url-model: {shown}")
        )
    return names[0]


def _text(event: dict[str, Any]) -> str:
    """Return the text of an event; what a model thinks aloud took as long as what it says."""
    match event:
        case {"choices": [{"delta": {"content": str(text)}}, *_]} if text:
            return text
        case {"choices": [{"delta": {"reasoning_content": str(text)}}, *_]} if text:
            return text
        case {"choices": [{"delta": {"reasoning": str(text)}}, *_]} if text:
            return text
        case _:
            return ""


def _cost(event: dict[str, Any]) -> Cost | None:
    """Return the usage in an event; None where there is none, or it is none."""
    usage = event.get("usage")
    match usage:
        case {"prompt_tokens": int(prompt), "completion_tokens": int(completion)}:
            cached = _cached_tokens(usage)
        case _:
            return None
    possible = all(0 <= count <= _MAX_TOKENS for count in (prompt, completion, cached or 0))
    return Cost(prompt, completion, cached) if possible else None


def _cached_tokens(usage: object) -> int | None:
    match usage:
        case {"prompt_tokens_details": {"cached_tokens": int(cached)}}:
            return cached
        case _:
            return None
