"""Who may ask: host names, origins, keys. Every request passes here before its handler.

A web page that the user happens to visit can send requests to this machine, too. Two checks keep
it out: a page of another origin may not POST (its browser says where it comes from), and a name
that is not this server's is not answered, so that no foreign name can be pointed at it (DNS
rebinding).
"""

import hashlib
import hmac
import ipaddress
import re

from quart import Quart, Response, request

from llmstream_cli.errors import ForbiddenError, UnauthorizedError
from llmstream_cli.server.http.exchange import current_exchange
from llmstream_cli.server.settings import ServerSettings, is_address

_PROBES = {"/health", "/ready"}
_OPEN_PATHS = _PROBES | {"/", "/docs", "/openapi.json"}
_OPEN_FOLDER = "/static/"

_ANY = "*"
_EVERYWHERE = {"0.0.0.0", "::", ""}  # noqa: S104  (compared with, not bound)
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
_HEADER_NAMES = re.compile(r"[A-Za-z0-9_\-, ]{1,1000}")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:@/\[\]]*)(?::\d*)?")  # the name, without its port
_BEARER = re.compile(r"\s*bearer\s+(.*\S)\s*", re.IGNORECASE)
_PREFLIGHT_SECONDS = "600"
_EXPOSED = "X-Request-Id, X-Model, X-Schema-Ignored, Retry-After, Location"


class Guards:
    """The checks, as Quart's hooks around each request."""

    def __init__(self, settings: ServerSettings) -> None:
        self._keys = [_digest(key.encode()) for key in dict.fromkeys(settings.api_keys)]
        self._scoped = not settings.share_prefixes
        self._origins = {origin.lower().rstrip("/") for origin in settings.cors_origins}
        hosts = ("localhost", "127.0.0.1", "::1", settings.host, *settings.allowed_hosts)
        self._hosts = {_canonical(host) for host in hosts}
        # A name can be pointed anywhere, an address cannot: who listens everywhere has many.
        self._any_address = settings.host in _EVERYWHERE

    def attach(self, app: Quart) -> None:
        """Put the checks around all requests of an application."""
        app.before_request(self._check)
        app.after_request(self._add_headers)

    async def _check(self) -> Response | None:
        exchange = current_exchange()
        if request.url_rule is not None:
            exchange.route = request.url_rule.rule
        host = request.headers.get("Host", "")  # HTTP/1.0 can do without
        if request.path not in _PROBES:  # which balancers ask by an address, or by no name at all
            self._check_host(host)
        origin = request.headers.get("Origin")
        if request.method == "OPTIONS" and origin and self._shares_with(origin):
            return _preflight()
        if origin and request.method not in _SAFE_METHODS:
            self._check_origin(origin, host)
        is_open = request.path in _OPEN_PATHS or request.path.startswith(_OPEN_FOLDER)
        if self._keys and not is_open:
            number = self._check_key()
            if len(self._keys) > 1:
                exchange.key = f"key {number}"
                exchange.cache_scope = exchange.key if self._scoped else ""
        return None

    def _check_host(self, host: str) -> None:
        match = _HOST.fullmatch(host)
        name = _canonical(match[1]) if match else host
        if _ANY in self._hosts or name in self._hosts or (self._any_address and is_address(name)):
            return
        raise ForbiddenError(
            f"this server does not go by the name {name[:100]!r}; "
            "start it with --allow-host NAME to let it"
        )

    def _check_origin(self, origin: str, host: str) -> None:
        _, _, authority = origin.lower().partition("://")
        if self._shares_with(origin) or authority == host.lower():
            return
        raise ForbiddenError(
            f"pages of {origin[:100]!r} may not ask this server; "
            "start it with --cors-origin ORIGIN to let them"
        )

    def _shares_with(self, origin: str) -> bool:
        return _ANY in self._origins or origin.lower() in self._origins

    def _check_key(self) -> int:
        """Return which of the keys the request has."""
        bearer = _BEARER.fullmatch(request.headers.get("Authorization", ""))
        # Clients that have a key of Anthropic's send it beside the token that is meant.
        given = [bearer[1] if bearer else "", request.headers.get("X-Api-Key", "")]
        if not any(given):
            raise UnauthorizedError("a key is needed: send Authorization: Bearer KEY")
        digests = [_digest(one.encode("utf-8", "surrogateescape")) for one in given if one]
        # All of them are compared: the time tells neither which one nor how far it is right.
        found = [[hmac.compare_digest(digest, key) for key in self._keys] for digest in digests]
        right = [numbers.index(True) for numbers in found if any(numbers)]
        if not right:
            raise UnauthorizedError("the key is not one of this server's")
        return right[0]

    async def _add_headers(self, response: Response) -> Response:
        response.headers["X-Content-Type-Options"] = "nosniff"
        origin = request.headers.get("Origin")
        if self._origins:
            response.headers.add("Vary", "Origin")
        if origin and self._shares_with(origin):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED
        return response


def _preflight() -> Response:
    """Tell a browser what a page that is let in may send. No cookies: there are none."""
    response = Response("", 204)
    response.headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE"
    asked = request.headers.get("Access-Control-Request-Headers", "")
    if _HEADER_NAMES.fullmatch(asked):
        response.headers["Access-Control-Allow-Headers"] = asked
    if request.headers.get("Access-Control-Request-Private-Network") == "true":
        response.headers["Access-Control-Allow-Private-Network"] = "true"
    response.headers["Access-Control-Max-Age"] = _PREFLIGHT_SECONDS
    return response


def _canonical(host: str) -> str:
    """Return a name in lower case, or an address in its short form, without brackets."""
    name = host.lower().removesuffix(".").removeprefix("[").removesuffix("]")
    return str(ipaddress.ip_address(name)) if is_address(name) else name


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
