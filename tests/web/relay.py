"""A network between a browser and its server that can be lost."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator


class Relay:
    """Passes connections on to a port.

    Attributes:
        cuts: how many connections are still to be cut, each within a character of three bytes.
        is_lost: nobody gets through.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.cuts = 0
        self.is_lost = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lose(self) -> None:
        self.is_lost = True
        for writer in self._writers:
            writer.close()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_lost:
            writer.close()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, back}
        await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer))
        self._writers -= {writer, back}

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(65536):
                place = part.find(b"\xe2") if self.cuts else -1
                writer.write(part if place < 0 else part[: place + 1])
                await writer.drain()
                if place >= 0:
                    self.cuts -= 1
                    break
        writer.close()


@contextlib.asynccontextmanager
async def relaying(port: int) -> AsyncGenerator[Relay]:
    relay = Relay(port)
    server = await asyncio.start_server(relay.connect, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        relay.lose()
