"""What all handlers of one application share."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from quart import Quart, current_app

from llmstream_cli.server.http.answers import Answers
from llmstream_cli.server.metrics import Metrics
from llmstream_cli.server.progress import ProgressRegistry
from llmstream_cli.server.served import ServedModels
from llmstream_cli.server.settings import ServerSettings

_KEY = "llmstream"


@dataclass(slots=True, eq=False)
class ServerContext:
    """The state of one server."""

    models: ServedModels
    settings: ServerSettings
    contexts: Mapping[str, str] = field(default_factory=dict)  # system messages, by name
    metrics: Metrics = field(init=False)
    draining: bool = False  # the server was told to stop, and takes no new request
    requests: ProgressRegistry = field(default_factory=ProgressRegistry)
    answers: Answers = field(default_factory=Answers)  # that may be resumed
    # Held by whoever parses a body, which blocks the event loop for a moment.
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
