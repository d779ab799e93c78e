"""A chat with an engine that is made up, and what it says on standard error."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmstream_cli.cli.conversation import Conversation
from llmstream_cli.cli.engine_options import EngineOptions, OpenEngine
from llmstream_cli.cli.recording import Recorder
from llmstream_cli.cli.sampling import SamplingOptions
from llmstream_cli.cli.setup import RecordOptions, Setup, ViewOptions
from llmstream_cli.cli.talk import Talk
from llmstream_cli.models.preset import Preset
from llmstream_cli.models.resolve import ModelChoice, ResolvedModel
from tests.server.fakes import FakeEngine

_FILE = Path("fake.gguf")
FOUND = ResolvedModel(_FILE, "fake", 0.0, Preset("fake", _FILE, sampling={"top_p": 0.5}))


@contextmanager
def talking(engine: FakeEngine, *, history: Path | None = None, **said: Any) -> Iterator[Talk]:
    """A chat of that engine, kept in that file; `said` sets attributes of `Talk`."""
    setup = Setup(
        engine=EngineOptions(model=ModelChoice()),
        system=None,
        context=None,
        sampling=SamplingOptions(),
        think=None,
        view=ViewOptions(),
        record=RecordOptions(off=True),
        stats=False,
    )
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
