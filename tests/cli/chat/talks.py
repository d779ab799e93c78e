"""A chat with an engine that is made up, and what it says on standard error."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmstream_cli.cli.ask.engine import OpenEngine
from llmstream_cli.cli.chat.conversation import Conversation
from llmstream_cli.cli.chat.recorder import Recorder
from llmstream_cli.cli.chat.talk import Talk
from llmstream_cli.cli.options import RecordOptions, Setup
from llmstream_cli.models.preset import Preset
from llmstream_cli.models.resolve import ResolvedModel
from tests.server.fakes import FakeEngine

_FILE = Path("fake.gguf")
FOUND = ResolvedModel(_FILE, "fake", 0.0, Preset("fake", _FILE, sampling={"top_p": 0.5}))


@contextmanager
def talking(engine: FakeEngine, *, history: Path | None = None, **said: Any) -> Iterator[Talk]:
    """A chat of that engine, kept in that file; `said` sets attributes of `Talk`."""
    setup = Setup(record=RecordOptions(no_history=True))
    with asyncio.Runner() as runner:
        attributes: dict[str, Any] = {
            "setup": setup,
            "engine": setup.engine,
            "opened": OpenEngine(engine=engine, name="fake", found=FOUND),
            "conversation": Conversation(),
            "recorder": Recorder(history),
            "sampling": setup.sampling,
            "typed": True,
            "runner": runner,
        }
        yield Talk(**{**attributes, **said})
