"""One request and its response, from the outside: its id, its line in the log, how it ended."""

import json
import logging
import re
import time
import uuid
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, Scope

if TYPE_CHECKING:
    from llmstream_cli.server.metrics import Metrics

_log = logging.getLogger(__name__)
access_log = logging.getLogger("llmstream_cli.access")

UNMATCHED = "unmatched"
_NO_RESPONSE = 499  # as nginx calls it when the client closed first
_GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_MAX_LOGGED_PATH = 200
_MAX_LISTED = 1000  # characters

_current: ContextVar["Exchange"] = ContextVar("exchange")


class CutError(Exception):
    """Ends a response in the middle: the connection closes without the final chunk."""


@dataclass(slots=True, eq=False)
class Exchange:
    """A request and what became of it.

    Attributes:
        method: of the request.
        path: as it came, percent-encoded: no byte of it can forge a line of the log.
        client: the address it came from.
        request_id: the client's own, if it gave a decent one.
        route: the pattern that matched; there are few of them, unlike paths.
        status: of the response; 499 where the client left before it began.
        ended: `complete`, `cut` in the middle by the server, with an error where the format has
            one, or `left` by the client.
        prompt_tokens: of all its answers.
        generated_tokens: of all its answers.
        model: that answered; empty where none did.
        schema_field: what the client calls the JSON schema of its answer.
        schema_ignored: JSON pointers to what in it the answer need not fulfil.
        key: which of the server's keys it bears, by number; empty where there are not several.
        cache_scope: of its answers; see `GenerationRequest`.
    """

    method: str
    path: str
    client: str
    request_id: str
    route: str = UNMATCHED
    status: int = _NO_RESPONSE
    ended: str = "left"
    prompt_tokens: int = 0
    generated_tokens: int = 0
    model: str = ""
    schema_field: str = "json_schema"
    schema_ignored: tuple[str, ...] = ()
    key: str = ""
    cache_scope: str = ""
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
            self.method,
            self.path,
            self.status,
            self.ended,
            seconds,
            self.prompt_tokens,
            self.generated_tokens,
            self.model or "-",
            self.client,
            self.request_id,
            extra={"exchange": self, "seconds": seconds},
        )


def current_exchange() -> Exchange:
    """Return the exchange of the current request."""
    return _current.get()


def note_schema_field(name: str) -> None:
    """Keep what the client of the current request, if there is one, calls its JSON schema."""
    if (exchange := _current.get(None)) is not None:
        exchange.schema_field = name


class Exchanges:
    """ASGI middleware: gives each request its exchange, and ends it whatever happens.

    Args:
        app: answers the requests.
        metrics: counts them.
    """

    def __init__(self, app: ASGIFramework, metrics: "Metrics") -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(
            method=scope["method"][:20],
            path=scope["raw_path"].decode("ascii", "backslashreplace")[:_MAX_LOGGED_PATH],
            client=(scope.get("client") or ("unknown", 0))[0],
            request_id=_request_id(scope["headers"]),
        )
        _current.set(exchange)
        try:
            await self._app(scope, receive, _observe(exchange, send))
        except CutError:
            pass
        except Exception:  # noqa: BLE001  (a bug, and its traceback is all that is left to give)
            exchange.ended = "cut"
            if exchange.status == _NO_RESPONSE:
                exchange.status = 500  # Hypercorn's own
            _log.exception("a request failed")
        finally:
            labels = exchange.route, str(exchange.status), exchange.ended, exchange.model
            self._metrics.requests.labels(*labels).inc()
            exchange.log()


def _observe(exchange: Exchange, send: ASGISendCallable) -> ASGISendCallable:
    async def observed(message: Any) -> None:
        if message["type"] == "http.response.start":
            exchange.status = message["status"]
            message["headers"] = [
                *message["headers"],
                (b"x-request-id", exchange.request_id.encode()),
            ]
            if exchange.schema_ignored:
                message["headers"].append((b"x-schema-ignored", _listed(exchange.schema_ignored)))
        await send(message)
        last = message["type"] == "http.response.body" and not message.get("more_body")
        if last and exchange.ended != "cut":
            exchange.ended = "complete"

    return cast(ASGISendCallable, observed)


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


_NOT_LOGGED = {"started", "schema_field", "schema_ignored"}
_LOGGED = [field.name for field in fields(Exchange) if field.name not in _NOT_LOGGED]


class JsonFormatter(logging.Formatter):
    """One JSON object on a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
        }
        exchange = getattr(record, "exchange", None)
        if isinstance(exchange, Exchange):
            line |= {name: getattr(exchange, name) for name in _LOGGED}
            line["seconds"] = round(getattr(record, "seconds", 0.0), 6)
        else:
            line["message"] = record.getMessage()
            if record.exc_info:
                line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
