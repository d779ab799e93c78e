"""A chat with an engine that is made up, and what it says on standard error."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmstream_cli.cli.ask.engine import OpenEngine
from llmstream_cli.cli.ask.options import EngineOptions, RecordOptions, Setup
from llmstream_cli.cli.chat.conversation import Conversation
from llmstream_cli.cli.chat.talk import Talk
from llmstream_cli.cli.options import SamplingOptions
from llmstream_cli.models.presets import Preset
from llmstream_cli.models.resolve import ResolvedModel
from tests.server.fakes import FakeEngine

_FILE = Path("fake.gguf")
FOUND = ResolvedModel(_FILE, "fake", 0.0, Preset("fake", _FILE, sampling={"top_p": 0.5}))


@contextmanager
def talking(
    engine: FakeEngine,
    *,
    opened: OpenEngine | None = None,
    system: str | None = None,
    history: Path | None = None,
    typed: bool = True,
    **sampling: Any,
) -> Iterator[Talk]:
    """A chat of that engine, kept in that file."""
    setup = Setup(record=RecordOptions(no_history=True), sampling=SamplingOptions(**sampling))
    opened = opened or OpenEngine(EngineOptions(), engine, "fake", "", FOUND)
    with asyncio.Runner() as runner:
        yield Talk(setup, opened, Conversation(system, path=history), runner, typed=typed)
