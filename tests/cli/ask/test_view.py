"""One answer: what of it goes where, in which form, and what is waited for before it."""

import json
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from llmstream_cli.api import Chunk, FinishReason, GenerationRequest, Progress, Usage
from llmstream_cli.cli.ask import waiting as waiting_module
from llmstream_cli.cli.ask.answer import Answer, duration, print_usage
from llmstream_cli.cli.ask.engine import OpenEngine
from llmstream_cli.cli.ask.options import AskOptions, EngineOptions
from llmstream_cli.cli.ask.view import JsonView, ReasoningWriter, make_view, show_answer
from llmstream_cli.cli.ask.waiting import WaitingLine
from llmstream_cli.errors import EngineDiedError
from llmstream_cli.prompts.messages import Message
from tests.cli.test_terminal import Stream
from tests.server.fakes import FakeEngine

USAGE = Usage(34, 4, 0.5, 0.25, cached_tokens=30)
CHUNKS = (
    Chunk("", progress=Progress(0, 0, 9)),
    Chunk("", progress=Progress(None, 5, 9)),
    Chunk("", (1,)),
    Chunk("", (2,), reasoning="hm"),
    Chunk("é", (3,), reasoning="!"),
    Chunk("\n.", (4,)),
    Chunk("", (), FinishReason.STOP, USAGE),
)


class Scripted(FakeEngine):
    """Answers with the chunks that it is given, and fails then if there is an error."""

    def __init__(self, chunks: Sequence[Chunk] = CHUNKS) -> None:
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
    monkeypatch: pytest.MonkeyPatch,
    engine: FakeEngine,
    *,
    tty: bool = False,
    error: type[BaseException] | None = None,
    **options: Any,
) -> tuple[str, str]:
    """What standard output and standard error got."""
    out, err = Stream(tty=tty), Stream(tty=tty)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", out)
        patch.setattr("sys.stderr", err)
        view = make_view(**{"markdown": False, "reasoning": True, **options})
        opened = OpenEngine(EngineOptions(), engine, "tiny", "")
        request = GenerationRequest((Message("user", "hi"),))
        answering = show_answer(opened, request, Answer(time.perf_counter()), view, stats=False)
        if error is None:
            await answering
        else:
            with pytest.raises(error):
                await answering
        err.flush()
    return out.bytes.getvalue().decode(), err.bytes.getvalue().decode()


# ---- as text --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tty", "reasoning", "expected"),
    [
        (False, True, ("é\n.", "hm!\n\n")),
        (True, True, ("é\n.\n", "\x1b[2mhm\x1b[m\x1b[2m!\x1b[m\n\n")),
        (False, False, ("é\n.", "")),
        (True, False, ("é\n.\n", "")),
    ],
)
async def test_text_is_the_answer_and_reasoning_goes_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tty: bool, reasoning: bool, expected: tuple[str, str]
) -> None:
    assert await shown(monkeypatch, Scripted(), tty=tty, reasoning=reasoning) == expected


async def test_an_answer_that_ends_in_its_reasoning_leaves_the_cursor_below(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Scripted([*CHUNKS[:4], Chunk("", (), FinishReason.LENGTH)])
    assert await shown(monkeypatch, engine, tty=True) == ("", "\x1b[2mhm\x1b[m\n\n")


@pytest.mark.parametrize(("tty", "out"), [(True, "é\n"), (False, "é")])
async def test_an_answer_that_fails_is_shown_as_far_as_it_came(
    monkeypatch: pytest.MonkeyPatch, tty: bool, out: str
) -> None:
    engine = Scripted(CHUNKS[:5])
    engine.error = EngineDiedError("gone")
    assert (await shown(monkeypatch, engine, tty=tty, error=EngineDiedError))[0] == out


@pytest.mark.parametrize(
    ("term", "tty", "expected"),
    [
        ("xterm", True, "\x1b[2mhm[2J\x1b[m\x1b[2m so\x1b[m\n\n"),
        ("dumb", True, "hm[2J so\n\n"),
        ("xterm", False, "hm\x1b[2J\x1b so\n\n"),
    ],
)
def test_reasoning_cannot_control_a_terminal(
    monkeypatch: pytest.MonkeyPatch, term: str, tty: bool, expected: str
) -> None:
    stream = Stream(tty=tty)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr("sys.stderr", stream)
    writer = ReasoningWriter(stream)
    writer.end()
    for piece in ("hm\x1b[2J", "\x1b", " so"):
        writer.write(piece)
    writer.end()
    writer.end()
    stream.flush()
    assert stream.bytes.getvalue().decode() == expected


# ---- as JSON --------------------------------------------------------------------------------


def without_time(line: str) -> dict[str, Any]:
    """An object of JSON, without how long the first token took."""
    content: dict[str, Any] = json.loads(line)
    first_token_seconds = content["timings"].pop("first_token_seconds")
    assert first_token_seconds > 0
    return content


SUMMARY = {
    "model": "tiny",
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 34, "cached_tokens": 30, "completion_tokens": 4},
    "timings": {"prompt_seconds": 0.5, "completion_seconds": 0.25, "tokens_per_second": 12.0},
}
CUT = {
    "model": "tiny",
    "finish_reason": "cancelled",
    "usage": None,
    "timings": {"prompt_seconds": None, "completion_seconds": None, "tokens_per_second": None},
}


async def test_json_is_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    how = AskOptions(json=True)
    out, err = await shown(monkeypatch, Scripted(), how=how)
    assert (out[-2:], "é" in out, err) == ("}\n", True, "")
    assert without_time(out) == {**SUMMARY, "text": "é\n.", "reasoning": "hm!"}
    assert "\\u00e9" in (await shown(monkeypatch, Scripted(), how=how, tty=True))[0]


async def test_json_lines_are_pieces_and_a_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = await shown(monkeypatch, Scripted(), how=AskOptions(json_lines=True))
    *pieces, last = out.splitlines()
    assert [json.loads(piece) for piece in pieces] == [
        {"reasoning": "hm"},
        {"reasoning": "!"},
        {"text": "é"},
        {"text": "\n."},
    ]
    assert (without_time(last), err) == (SUMMARY, "")


@pytest.mark.parametrize("lines", [True, False])
async def test_json_of_an_answer_that_was_cut_says_so(
    monkeypatch: pytest.MonkeyPatch, lines: bool
) -> None:
    engine = Scripted(CHUNKS[:6])
    engine.error = EngineDiedError("gone")
    how = AskOptions(json=not lines, json_lines=lines)
    out, _ = await shown(monkeypatch, engine, how=how, error=EngineDiedError)
    said = {} if lines else {"text": "é\n.", "reasoning": "hm!"}
    assert without_time(out.splitlines()[-1]) == {**CUT, **said}


# ---- what is waited for ---------------------------------------------------------------------


@pytest.mark.parametrize(("reasoning", "more"), [(True, []), (False, ["thinking"])])
async def test_what_is_not_shown_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, reasoning: bool, more: list[str]
) -> None:
    began: list[str] = []
    monkeypatch.setattr(WaitingLine, "begin", lambda _, what: began.append(what))
    engine = Scripted([*CHUNKS[:4], *CHUNKS[3:]])
    await shown(monkeypatch, engine, tty=True, reasoning=reasoning)
    assert began == ["waiting for the server", "reading the prompt", *more]


@pytest.mark.parametrize("tty", [True, False])
async def test_an_engine_reports_its_progress_to_those_who_see_it(
    monkeypatch: pytest.MonkeyPatch, tty: bool
) -> None:
    engine = Scripted()
    await shown(monkeypatch, engine, tty=tty)
    assert engine.requests[0].report_progress is tty


# ---- what has come of it --------------------------------------------------------------------


async def test_a_reader_that_has_left_ends_the_generation() -> None:
    class Gone(JsonView):
        def show(self, chunk: Chunk) -> None:
            raise BrokenPipeError

        def end(self, answer: Answer) -> None:
            raise AssertionError

    engine, answer = FakeEngine(), Answer(0.0)
    opened = OpenEngine(EngineOptions(), engine, "", "")
    request = GenerationRequest((Message("user", "hi"),))
    with pytest.raises(BrokenPipeError):
        await show_answer(opened, request, answer, Gone(pieces=True), stats=False)
    assert (answer.model, answer.text, engine.running) == ("fake", "one ", 0)


@pytest.mark.parametrize(
    "chunk", [Chunk("", (7,)), Chunk("text"), Chunk("", reasoning="thought")], ids=str
)
def test_the_first_token_is_whatever_comes_of_it_first(chunk: Chunk) -> None:
    answer = Answer(time.perf_counter() - 5)
    answer.add(Chunk(""))
    assert [answer.first_token_seconds] == [None]
    answer.add(chunk)
    first: float | None = answer.first_token_seconds
    assert (first or 0) >= 5
    answer.add(chunk)
    assert answer.first_token_seconds == first


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.0, "0.000µs"), (102.103e-6, "102.103µs"), (0.001, "1.000ms"), (75.5, "75.500s")],
)
def test_a_duration_has_the_unit_that_suits_it(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_an_answer_without_tokens_has_no_time_to_first_token(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = Answer(0.0)
    answer.add(Chunk("", (), FinishReason.STOP, Usage(10, 0, 0.0, 0.0)))
    print_usage(answer)
    assert capsys.readouterr().err == (
        "10 prompt tokens (0.00 token/s)\n0 tokens generated (0.00 token/s)\nfinish reason: stop\n"
    )
