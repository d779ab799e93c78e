"""The listening sockets, and all connections that came in through them."""

import asyncio
import errno
import json
import logging
import os
import resource
import socket
import ssl
import sys
from typing import Any

from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.utils import wrap_app
from quart import Quart

from llmstream_cli.errors import BusyError, ListenError
from llmstream_cli.server.http.connection import Connection
from llmstream_cli.server.http.failure import error_body
from llmstream_cli.server.settings import ServerSettings

_log = logging.getLogger(__name__)

_READ_BUFFER = 32 * 1024
_TLS_SECONDS = 15.0
_RETRY_SECONDS = 0.5  # until a connection is accepted again, where one could not be
_TELL_SECONDS = 60.0  # between two lines in the log about that
_SPARE_FILES = 32  # for pages, late imports and the engine's process
_SEND_BUFFER = 128 * 1024  # bytes in the kernel: a slow reader shows sooner
_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (where listening everywhere is here)


class Listener:
    """Accepts connections for an application."""

    def __init__(self, app: Quart, settings: ServerSettings) -> None:
        self._config = Config()
        self._config.accesslog = None
        self._config.errorlog = None  # the application logs its failures itself
        self._config.include_server_header = False
        self._app = wrap_app(app, self._config.wsgi_max_body_size, "asgi")
        self._context = WorkerContext(None)
        self._settings = settings
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._serving: set[asyncio.Task[None]] = set()  # with those still in their TLS handshake
        self._connections: dict[Connection, asyncio.Task[None]] = {}
        self._told_at = -_TELL_SECONDS
        self.port = settings.port

    @property
    def url(self) -> str:
        """Where the server is, for a client on this machine where it listens everywhere."""
        scheme = "http" if self._settings.certfile is None else "https"
        host = _LOCAL.get(self._settings.host, self._settings.host)
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def num_connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    async def start(self) -> None:
        """Listen.

        Raises:
            ListenError: the address cannot be bound, or the certificate not be used.
        """
        tls = _tls(self._settings)
        self._sockets = _bind(self._settings.host, self._settings.port)
        self.port = self._sockets[0].getsockname()[1]
        for sock in self._sockets:
            sock.setblocking(False)
            sock.listen(self._settings.max_connections)
            self._accepting.append(asyncio.create_task(self._accept(sock, tls)))

    async def stop_accepting(self) -> None:
        """Take no more connections, and close each when it waits for its next request."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for sock in self._sockets:
            sock.close()
        await self._context.terminated.set()
        for connection in self._connections:
            connection.stop()

    async def wait_closed(self, seconds: float) -> bool:
        """Wait until all connections are closed; return whether they were within the time."""
        if self._connections:
            await asyncio.wait(self._connections.values(), timeout=seconds)
        return not self._connections

    def abort(self) -> None:
        """Close all connections at once; whoever answers a request is cancelled."""
        for connection in self._connections:
            connection.abort()

    async def _accept(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Accept connections; asyncio's own server tries on and on where it is out of files."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                if len(self._serving) >= _num_free_files(listening):
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                sock, _ = await loop.sock_accept(listening)
            except ConnectionAbortedError:  # the client left before
                continue
            except OSError as error:  # no file descriptors, no memory
                if loop.time() - self._told_at > _TELL_SECONDS:
                    self._told_at = loop.time()
                    _log.error("connections have to wait: %s", error.strerror)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            task = loop.create_task(self._serve(sock, tls))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
            await asyncio.sleep(0)  # `sock_accept` does not wait while there is one

    async def _serve(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_READ_BUFFER)
        protocol = asyncio.StreamReaderProtocol(reader)
        seconds = _TLS_SECONDS if tls else None
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, sock, ssl=tls, ssl_handshake_timeout=seconds
            )
        except OSError:  # no TLS, or none that both speak
            sock.close()
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        connection = Connection(
            self._app, self._config, self._context, self._settings, reader, writer
        )
        if len(self._connections) >= self._settings.max_connections:
            await connection.refuse(_refusal())
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections[connection] = task
        try:
            await connection.serve()
        finally:
            del self._connections[connection]


def _num_free_files(listening: socket.socket) -> int:
    """Return how many connections the process may hold beside the files that it needs."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize
    # The system gives the lowest number that is free: about so many were open before it listened.
    return max(1, limit - listening.fileno() - min(_SPARE_FILES, limit // 2))


def _refusal() -> bytes:
    body = json.dumps(error_body(BusyError("the server has too many connections"))).encode()
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        b"Retry-After: 5\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )


def _bind(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address of the host that the machine has, all on the same port."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenError(f"cannot find the address {host}: {error.strerror}") from error
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        chosen = sockets[0].getsockname()[1] if sockets else port
        try:
            sockets.append(_bound(family, kind, protocol, (address[0], chosen, *address[2:])))
        except OSError as error:
            failure = error
            # `localhost` has an IPv6 address where the machine speaks none.
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                break
    else:
        if sockets:
            return sockets
    for sock in sockets:
        sock.close()
    assert failure is not None
    raise ListenError(_explain(failure, host, port)) from failure


def _bound(family: int, kind: int, protocol: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is taken; choose another one, or 0 for any that is free"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights than this user has; choose one from 1024 up"
    return f"cannot listen on {host}, port {port}: {error.strerror}"


def _tls(settings: ServerSettings) -> ssl.SSLContext | None:
    if settings.certfile is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.certfile, settings.keyfile)
    except OSError as error:  # `ssl.SSLError` among them
        files = " and ".join(filter(None, (settings.certfile, settings.keyfile)))
        raise ListenError(f"cannot use the certificate in {files}: {error.strerror}") from error
    return context
