"""One request and its response, from the outside: its id, its line in the log, how it ended."""

import json
import logging
import re
import time
import uuid
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import quote

from prometheus_client import Counter

from llmstream_cli.sampling import PARAMETERS

_log = logging.getLogger(__name__)
access_log = logging.getLogger("llmstream_cli.access")

_NO_RESPONSE = 499  # as nginx calls it when the client closed first
_GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_MAX_LOGGED_PATH = 200
_MAX_LISTED = 1000  # characters


class CutError(Exception):
    """Ends a response in the middle: the connection closes without the final chunk."""


@dataclass(slots=True, eq=False)
class Exchange:
    """A request and what became of it."""

    method: str
    path: str  # as it came, percent-encoded: no byte of it can forge a line of the log
    client: str  # its address
    request_id: str  # the client's own, if it gave a decent one
    route: str = "unmatched"  # the pattern that matched; there are few of them, unlike paths
    status: int = _NO_RESPONSE
    # `complete`, `cut` in the middle by the server, with an error where the format has one, or
    # `left` by the client.
    ended: str = "left"
    prompt_tokens: int = 0  # of all its answers
    generated_tokens: int = 0
    model: str = ""  # that answered
    schema_field: str = "json_schema"  # what the client calls the JSON schema of its answer
    # Pointers to what in schemas the answer need not fulfil; in a tool's, from the body's root on.
    schema_ignored: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()  # sampling parameters that the client did not give
    key: str = ""  # which of the server's keys it bears, by number, where there are several
    cache_scope: str = ""  # of its answers; see `GenerationRequest`
    started: float = field(default_factory=time.perf_counter)

    @property
    def owner(self) -> str:
        """Who asks, as far as that can be told: a key, else an address."""
        return self.key or self.client

    def log(self) -> None:
        """Write the line. What was asked and answered stays out of it, and so do keys."""
        seconds = time.perf_counter() - self.started
        access_log.info(
            "%s %s %d %s %.3fs %d+%d tokens %s %s %s",
            *(self.method, self.path, self.status, self.ended, seconds),
            *(self.prompt_tokens, self.generated_tokens, self.model or "-"),
            *(self.client, self.request_id),
            extra={"exchange": self, "seconds": seconds},
        )


_current: ContextVar[Exchange] = ContextVar("exchange")


def current_exchange() -> Exchange:
    """Return the exchange of the current request."""
    return _current.get()


def current_request_id() -> str:
    """Return the id of the current request; empty outside of one."""
    exchange = _current.get(None)
    return "" if exchange is None else exchange.request_id


def note_schema_field(name: str) -> None:
    """Keep what the client of the current request, if there is one, calls its JSON schema."""
    if (exchange := _current.get(None)) is not None:
        exchange.schema_field = name


def note_ignored(pointers: Iterable[str]) -> None:
    """Name what calls of a tool need not fulfil in the current response, if there is one."""
    if (exchange := _current.get(None)) is not None:
        exchange.schema_ignored += tuple(pointers)


def note_given(names: Iterable[str]) -> None:
    """Keep which sampling parameters the client of the current request gave."""
    given = {*names}
    current_exchange().unset = tuple(name for name in PARAMETERS if name not in given)


class Exchanges:
    """ASGI middleware: gives each request its exchange, and ends, counts and logs it."""

    def __init__(self, app: Any, requests: Counter) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one request."""
        # A base URL that ends in a slash brings two.
        scope = {**scope, "path": re.sub("//+", "/", scope["path"])}
        exchange = Exchange(
            method=scope["method"][:20],
            path=_logged_path(scope["raw_path"]),
            client=(scope.get("client") or ("unknown", 0))[0],
            request_id=_request_id(scope["headers"]),
        )
        _current.set(exchange)

        async def observed(message: Any) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message["headers"], *_headers(exchange)]
            await send(message)
            last = message["type"] == "http.response.body" and not message.get("more_body")
            if last and exchange.ended != "cut":
                exchange.ended = "complete"

        try:
            await self._app(scope, receive, observed)
        except CutError:
            pass
        except Exception:  # noqa: BLE001  (a bug, and its traceback is all that is left to give)
            exchange.ended = "cut"
            if exchange.status == _NO_RESPONSE:
                exchange.status = 500  # the connection's own
            _log.exception("a request failed")
        finally:
            labels = exchange.route, str(exchange.status), exchange.ended, exchange.model
            self._requests.labels(*labels).inc()
            exchange.log()


def _logged_path(raw: bytes) -> str:
    """Return a path as it came, but for the id of an answer, by which anyone may read it."""
    path = raw.decode("ascii", "backslashreplace")[:_MAX_LOGGED_PATH]
    return re.sub(r"(/answers/+).+", r"\1...", path)


def _headers(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    headers = [(b"x-request-id", exchange.request_id.encode())]
    if exchange.schema_ignored:
        headers.append((b"x-schema-ignored", _listed(exchange.schema_ignored)))
    return headers


def _listed(pointers: Sequence[str]) -> bytes:
    """Write JSON pointers as a header: percent-encoded, no more than a proxy lets through."""
    listed = ""
    for number, pointer in enumerate(quote(pointer, safe="/$~") for pointer in pointers):
        if len(listed) + len(pointer) > _MAX_LISTED:
            listed += f", and {len(pointers) - number} more"
            break
        listed += f", {pointer}" if listed else pointer
    return listed.removeprefix(", ").encode()


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    return given.decode() if _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex


_NOT_LOGGED = {"started", "schema_field", "schema_ignored", "unset"}
_LOGGED = [field.name for field in fields(Exchange) if field.name not in _NOT_LOGGED]


class JsonFormatter(logging.Formatter):
    """One JSON object on a line."""

    def format(self, record: logging.LogRecord) -> str:
        time_ = self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z")
        line: dict[str, Any] = {"time": time_, "level": record.levelname.lower()}
        exchange = getattr(record, "exchange", None)
        if isinstance(exchange, Exchange):
            line |= {name: getattr(exchange, name) for name in _LOGGED}
            line["seconds"] = round(getattr(record, "seconds", 0.0), 6)
        else:
            line["message"] = record.getMessage()
            if record.exc_info:
                line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
