"""What the server is told when it starts."""

import ipaddress
import re
from dataclasses import dataclass

from llmstream_cli.errors import InvalidValueError

# Inclusive bounds; seconds may be fractions.
_BOUNDS: dict[str, tuple[float, float]] = {
    "port": (0, 65_535),
    "timeout_seconds": (0.01, 86_400.0),
    "drain_seconds": (0.0, 3_600.0),
    "heartbeat_seconds": (0.01, 3_600.0),
    "stall_seconds": (0.01, 3_600.0),
    "header_seconds": (0.01, 3_600.0),
    "body_seconds": (0.01, 3_600.0),
    "max_body_bytes": (1, 2**30),
    "max_connections": (1, 100_000),
}

# What browsers and other clients can send, and so all that can ever match. Names are in ASCII.
_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?")
_ORIGIN = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*)://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([1-9][0-9]{0,4}))?/?"
)
_DEFAULT_PORTS = {"http": "80", "https": "443"}  # which browsers leave out


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Where the server listens, whom it answers, and how much it takes."""

    host: str = "127.0.0.1"
    port: int = 3030  # 0 takes a free one
    # One of them is needed for all but the page and the probes; without any the server is open.
    api_keys: tuple[str, ...] = ()
    # Whether requests with different keys share what was computed of the same prompt, which tells
    # the one what the other has asked.
    share_prefixes: bool = False
    cors_origins: tuple[str, ...] = ()  # whose pages may call the API; `*` is any
    # What a `Host` header may be besides loopback names and `host`; `*` is any.
    allowed_hosts: tuple[str, ...] = ()
    certfile: str | None = None  # PEM of the certificate chain; with `keyfile` for TLS
    keyfile: str | None = None
    timeout_seconds: float = 1_800.0  # the most that an answer may take, its time queued included
    drain_seconds: float = 20.0  # how long answers go on after the server was told to stop
    heartbeat_seconds: float = 15.0  # the silence after which formats that can send a heartbeat
    stall_seconds: float = 30.0  # a reader that takes nothing for so long is cut off
    header_seconds: float = 15.0  # a connection without a complete head for so long is closed
    body_seconds: float = 30.0  # the most that the body of a request may take to arrive
    max_body_bytes: int = 1024 * 1024
    max_connections: int = 512  # one more is answered 503

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            if not low <= getattr(self, name) <= high:
                raise InvalidValueError(f"{name} must be between {low} and {high}", name)
        for host in self.allowed_hosts:
            if host != "*" and not _is_host(host):
                raise InvalidValueError(
                    f"--allow-host: {host[:100]!r} is no host name; one reads "
                    "llm.example.org, without scheme, port and path, or * for any",
                    "--allow-host",
                )
        for origin in self.cors_origins:
            if origin != "*" and not _is_origin(origin):
                raise InvalidValueError(
                    f"--cors-origin: {origin[:100]!r} is no origin; one reads "
                    "https://example.org, or * for any",
                    "--cors-origin",
                )


def is_address(text: str) -> bool:
    """Tell whether a text is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_host(text: str) -> bool:
    return _NAME.fullmatch(text) is not None or is_address(text.removeprefix("[").removesuffix("]"))


def _is_origin(text: str) -> bool:
    match = _ORIGIN.fullmatch(text)
    return match is not None and match[2] != _DEFAULT_PORTS.get(match[1].lower(), "")
