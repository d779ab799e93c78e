"""The server from its start to its end."""

import asyncio
import contextlib

from llmstream_cli.errors import EngineClosedError
from llmstream_cli.server.app import create_app
from llmstream_cli.server.context import ServerContext
from llmstream_cli.server.http.listener import Listener

_CUT_SECONDS = 0.5  # for the last words of answers that are ended
_CLOSE_SECONDS = 0.8  # for the engines

STOP_SECONDS = 2.0
"""The most that stopping takes beyond the drain; whatever hangs by then has to be left behind."""


class Server:
    """Serves models over HTTP. The engines are started by whoever made them."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._listener = Listener(create_app(context), context.settings)

    @property
    def url(self) -> str:
        """Where the server is; the port is the real one once it has started."""
        return self._listener.url

    async def start(self) -> None:
        """Listen; requests are answered, with an error until their model is loaded."""
        await self._listener.start()

    async def stop(self) -> int:
        """Let answers end for a while, end those that do not, close; return how many those were."""
        self._context.draining = True
        await self._listener.stop_accepting()
        drain_seconds = self._context.settings.drain_seconds
        deadline = asyncio.get_running_loop().time() + drain_seconds
        closed = await self._listener.wait_closed(drain_seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._context.answers.wait_ended()
        active = [*self._context.requests.active]
        for progress in active:
            progress.fail(EngineClosedError("the server is shutting down"))
        if not closed and not await self._listener.wait_closed(_CUT_SECONDS):
            self._listener.abort()
            await self._listener.wait_closed(_CUT_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._context.answers.close()
                await asyncio.gather(*(m.engine.aclose() for m in self._context.models.models))
        return len(active)
