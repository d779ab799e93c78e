"""What all handlers of one application share."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from quart import Quart, current_app

from llmstream_cli.errors import LLMStreamError
from llmstream_cli.server.metrics import Metrics
from llmstream_cli.server.progress import ProgressRegistry
from llmstream_cli.server.served import ServedModels
from llmstream_cli.server.settings import ServerSettings

_KEY = "llmstream"


class Unfinished(Protocol):
    """Answers that are being generated."""

    def fail(self, error: LLMStreamError) -> None:
        """End them with this error."""


@dataclass(slots=True, eq=False)
class ServerContext:
    """The state of one server.

    Attributes:
        models: what is served.
        settings: how.
        contexts: system messages that requests can name.
        metrics: what has been counted and measured.
        draining: the server was told to stop, and takes no new request.
        generations: what is being generated for somebody.
        requests: how far they have come, and what became of those that ended lately.
        parsing: held by whoever parses a body, which blocks the event loop for a moment.
    """

    models: ServedModels
    settings: ServerSettings
    contexts: Mapping[str, str] = field(default_factory=dict)
    metrics: Metrics = field(init=False)
    draining: bool = False
    generations: set[Unfinished] = field(default_factory=set)
    requests: ProgressRegistry = field(default_factory=ProgressRegistry)
    parsing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.models)

    def attach(self, app: Quart) -> None:
        """Make this the context of an application."""
        app.extensions[_KEY] = self


def server_context() -> ServerContext:
    """Return the context of the application that handles the current request."""
    context = current_app.extensions[_KEY]
    assert isinstance(context, ServerContext)
    return context
