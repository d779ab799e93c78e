"""What comes where of one answer: what is waited for, what the model thinks, what it says."""

import time
from collections.abc import AsyncGenerator, Sequence

import pytest

from llmstream_cli.api import Chunk, FinishReason, GenerationRequest, Progress
from llmstream_cli.cli.ask import waiting as waiting_module
from llmstream_cli.cli.ask.answer import Answer
from llmstream_cli.cli.ask.engine import OpenEngine
from llmstream_cli.cli.ask.exchange import show_answer
from llmstream_cli.cli.ask.views import make_view
from llmstream_cli.cli.ask.waiting import WaitingLine
from llmstream_cli.errors import EngineDiedError
from llmstream_cli.prompts.messages import Message
from tests.cli.test_terminal import Stream
from tests.server.fakes import FakeEngine

CHUNKS = [
    Chunk("", progress=Progress(0, 0, 9)),
    Chunk("", progress=Progress(None, 5, 9)),
    Chunk("", (1,)),
    Chunk("", (2,), reasoning="hm"),
    Chunk("Yes", (3,), reasoning="!"),
    Chunk(".", (4,), FinishReason.STOP),
]


class Scripted(FakeEngine):
    """Answers with the chunks that it is given."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        super().__init__()
        self.chunks = chunks

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        self.requests.append(request)
        for chunk in self.chunks:
            yield chunk
        if self.error is not None:
            raise self.error


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show no wait by itself, however slow the machine is."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(waiting_module, "_PATIENCE_SECONDS", 600)


async def shown(
    monkeypatch: pytest.MonkeyPatch, engine: FakeEngine, *, tty: bool, reasoning: bool = True
) -> tuple[str, str]:
    """What standard output and standard error got."""
    out, err = Stream(tty=tty), Stream(tty=tty)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", out)
        patch.setattr("sys.stderr", err)
        view = make_view(markdown=False, reasoning=reasoning)
        opened = OpenEngine(engine=engine, name="tiny")
        request = GenerationRequest((Message("user", "hi"),))
        await show_answer(opened, request, Answer(time.perf_counter()), view, stats=False)
        err.flush()
    return out.bytes.getvalue().decode(), err.bytes.getvalue().decode()


async def test_the_text_alone_goes_to_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await shown(monkeypatch, Scripted(CHUNKS), tty=False) == ("Yes.", "hm!\n\n")


async def test_a_terminal_shows_thoughts_dimmed_and_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = await shown(monkeypatch, Scripted(CHUNKS), tty=True)
    assert (out, err) == ("Yes.\n", "\x1b[2mhm\x1b[m\x1b[2m!\x1b[m\n\n")


@pytest.mark.parametrize(("tty", "out"), [(True, "Yes.\n"), (False, "Yes.")])
async def test_thoughts_can_be_hidden(monkeypatch: pytest.MonkeyPatch, tty: bool, out: str) -> None:
    assert await shown(monkeypatch, Scripted(CHUNKS), tty=tty, reasoning=False) == (out, "")


async def test_an_answer_that_ends_in_its_reasoning_leaves_the_cursor_below(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Scripted([*CHUNKS[:4], Chunk("", (), FinishReason.LENGTH)])
    assert await shown(monkeypatch, engine, tty=True) == ("", "\x1b[2mhm\x1b[m\n\n")


@pytest.mark.parametrize(
    ("reasoning", "waits"),
    [
        (True, ["waiting for the server", "reading the prompt"]),
        (False, ["waiting for the server", "reading the prompt", "thinking"]),
    ],
)
async def test_what_is_not_shown_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, reasoning: bool, waits: list[str]
) -> None:
    began: list[str] = []
    monkeypatch.setattr(WaitingLine, "begin", lambda _, what: began.append(what))
    engine = Scripted([*CHUNKS[:4], *CHUNKS[3:]])
    await shown(monkeypatch, engine, tty=True, reasoning=reasoning)
    assert began == waits


@pytest.mark.parametrize("tty", [True, False])
async def test_an_engine_reports_its_progress_to_those_who_see_it(
    monkeypatch: pytest.MonkeyPatch, tty: bool
) -> None:
    engine = Scripted(CHUNKS)
    await shown(monkeypatch, engine, tty=tty)
    assert engine.requests[0].report_progress is tty


async def test_a_line_that_is_cut_by_an_error_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Scripted(CHUNKS[:5])
    engine.error = EngineDiedError("gone")
    out = Stream(tty=True)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", out)
        view = make_view(markdown=False, reasoning=True)
        opened = OpenEngine(engine=engine, name="tiny")
        request = GenerationRequest((Message("user", "hi"),))
        with pytest.raises(EngineDiedError):
            await show_answer(opened, request, Answer(0.0), view, stats=False)
    assert out.bytes.getvalue() == b"Yes\n"
