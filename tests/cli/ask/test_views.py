"""How an answer is shown; markdown has tests of its own."""

import json

import pytest

from llmstream_cli.api import Chunk, FinishReason, Usage
from llmstream_cli.cli.ask.answer import Answer
from llmstream_cli.cli.ask.views import View, make_view
from llmstream_cli.cli.options import AskOptions

USAGE = Usage(34, 3, 0.5, 0.25, cached_tokens=30)
CHUNKS = (
    Chunk("", (1,), reasoning="hm"),
    Chunk("é", (2,)),
    Chunk("\n", (3,)),
    Chunk("", (), FinishReason.STOP, USAGE),
)
USED = {"prompt_tokens": 34, "cached_tokens": 30, "completion_tokens": 3}
SECONDS = {"prompt_seconds": 0.5, "completion_seconds": 0.25, "tokens_per_second": 8.0}


def received(view: View, chunks: tuple[Chunk, ...] = CHUNKS) -> Answer:
    answer = Answer(0.0)
    answer.model = "tiny"
    for chunk in chunks:
        answer.add(chunk)
        view.show(chunk)
    answer.first_token_seconds = 1.5
    return answer


def test_text_is_the_answer_and_reasoning_goes_elsewhere(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    view = make_view(markdown=True, reasoning=True)
    view.end(received(view))
    assert capfdbinary.readouterr() == ("é\n".encode(), b"hm\n\n")


def test_reasoning_can_be_hidden(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    view = make_view(markdown=True, reasoning=False)
    view.end(received(view))
    assert capfdbinary.readouterr() == ("é\n".encode(), b"")


def test_reasoning_without_an_answer_is_ended(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    view = make_view(markdown=True, reasoning=True)
    view.end(received(view, CHUNKS[:1]))
    assert capfdbinary.readouterr() == (b"", b"hm\n\n")


def test_json_is_one_object(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    view = make_view(markdown=True, reasoning=True, how=AskOptions(json=True))
    answer = received(view)
    assert capfdbinary.readouterr().out == b""
    view.end(answer)
    out, err = capfdbinary.readouterr()
    assert err == b""
    assert out.endswith(b"}\n")
    assert "é" in out.decode()
    expected = {
        "model": "tiny",
        "text": "é\n",
        "reasoning": "hm",
        "finish_reason": "stop",
        "usage": USED,
        "timings": {"first_token_seconds": 1.5, **SECONDS},
    }
    assert json.loads(out) == expected


def test_json_lines_are_pieces_and_a_sum(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    view = make_view(markdown=True, reasoning=True, how=AskOptions(json_lines=True))
    view.end(received(view))
    lines = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert lines[:-1] == [{"reasoning": "hm"}, {"text": "é"}, {"text": "\n"}]
    assert lines[-1] == {
        "model": "tiny",
        "finish_reason": "stop",
        "usage": USED,
        "timings": {"first_token_seconds": 1.5, **SECONDS},
    }


@pytest.mark.parametrize("how", [AskOptions(json=True), AskOptions(json_lines=True)])
def test_an_answer_that_was_cut_says_so(
    how: AskOptions, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    view = make_view(markdown=True, reasoning=True, how=how)
    view.end(received(view, CHUNKS[:2]))
    words = json.loads(capfdbinary.readouterr().out.splitlines()[-1])
    assert (words["model"], words["finish_reason"]) == ("tiny", "cancelled")
    assert words["usage"] is None
    assert words["timings"] == {"first_token_seconds": 1.5, **dict.fromkeys(SECONDS)}
    assert words.get("text", "é") == "é"


def test_a_pipe_gets_nothing_behind_an_answer_that_was_cut(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    view = make_view(markdown=True, reasoning=True)
    view.end(received(view, CHUNKS[:2]))
    assert capfdbinary.readouterr().out == "é".encode()
