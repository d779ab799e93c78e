"""How an answer is shown: as text, as markdown on a terminal, or as JSON."""

import json
import sys
from typing import Any, Protocol

from llmstream_cli.api import Chunk, FinishReason
from llmstream_cli.cli.ask.answer import Answer
from llmstream_cli.cli.ask.thoughts import ThoughtWriter
from llmstream_cli.cli.options import AskOptions
from llmstream_cli.cli.terminal import AnswerWriter, answer_writer

_AS_TEXT = AskOptions()


class View(Protocol):
    """Shows one answer on standard output.

    Attributes:
        shows_reasoning: whether what the model thinks is shown as it comes.
    """

    shows_reasoning: bool

    def show(self, chunk: Chunk) -> None:
        """Show what has just come.

        Raises:
            BrokenPipeError: the reader of the pipe has left.
            OutputError: it cannot be written, to a full disk for one.
        """

    def end(self, answer: Answer) -> None:
        """Show that the answer has ended, complete or by an error."""


def make_view(*, markdown: bool, reasoning: bool, how: AskOptions = _AS_TEXT) -> View:
    """Return a view of one answer.

    Args:
        markdown: whether a terminal gets the text rendered.
        reasoning: whether to show what the model thinks before it answers.
        how: whether it is to be JSON, or the text as it comes.

    Raises:
        OutputError: standard output is closed.
    """
    if how.json:
        return JsonView()
    if how.json_lines:
        return JsonLinesView()
    return TextView(markdown=markdown and not how.raw, reasoning=reasoning)


class TextView:
    """Shows the answer's text as it comes, and the reasoning before it on standard error.

    Args:
        markdown: whether a terminal that can gets it rendered.
        reasoning: whether that is shown at all.

    Raises:
        OutputError: standard output is closed.
    """

    def __init__(self, *, markdown: bool = True, reasoning: bool = True) -> None:
        self._writer = answer_writer(sys.stdout, raw=not markdown)
        self._thoughts = ThoughtWriter(sys.stderr)
        self.shows_reasoning = reasoning

    def show(self, chunk: Chunk) -> None:
        """Write the new text; see `View.show`."""
        if self.shows_reasoning:
            self._thoughts.write(chunk.reasoning)
        if chunk.text:
            self._thoughts.end()
        self._writer.write(chunk.text)

    def end(self, answer: Answer) -> None:
        """Leave a terminal's cursor at the beginning of a line."""
        self._thoughts.end()
        self._writer.end(cut=answer.finish_reason is None)


class JsonView:
    """Writes the whole answer as one JSON object, at its end.

    Raises:
        OutputError: standard output is closed.
    """

    shows_reasoning = False

    def __init__(self) -> None:
        self._writer = AnswerWriter(sys.stdout)

    def show(self, chunk: Chunk) -> None:
        """Wait for the end."""

    def end(self, answer: Answer) -> None:
        """Write the object."""
        self._writer.write(_whole(answer))


class JsonLinesView:
    """Writes a JSON object on a line for each piece, and at the end one that sums up.

    Raises:
        OutputError: standard output is closed.
    """

    shows_reasoning = True

    def __init__(self) -> None:
        self._writer = AnswerWriter(sys.stdout)

    def show(self, chunk: Chunk) -> None:
        """Write what is new."""
        if chunk.reasoning:
            self._writer.write(_line({"reasoning": chunk.reasoning}))
        if chunk.text:
            self._writer.write(_line({"text": chunk.text}))

    def end(self, answer: Answer) -> None:
        """Write the model, why the answer ended, and what it cost."""
        self._writer.write(_line({"model": answer.model} | summary(answer)))


def _whole(answer: Answer) -> str:
    said = {"model": answer.model, "text": answer.text}
    if answer.reasoning:
        said["reasoning"] = answer.reasoning
    return _line(said | summary(answer))


def summary(answer: Answer) -> dict[str, Any]:
    """Return why an answer ended, what it cost and how long it took, for JSON.

    An answer that was cut has `cancelled` as its reason; what is unknown is null.
    """
    usage = answer.usage
    tokens = ("prompt_tokens", "cached_tokens", "completion_tokens")
    seconds = ("prompt_seconds", "completion_seconds", "tokens_per_second")
    return {
        "finish_reason": answer.finish_reason or FinishReason.CANCELLED,
        "usage": None if usage is None else {name: getattr(usage, name) for name in tokens},
        "timings": {"first_token_seconds": _rounded(answer.first_token_seconds)}
        | {name: None if usage is None else _rounded(getattr(usage, name)) for name in seconds},
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _line(value: dict[str, Any]) -> str:
    # As ASCII where a terminal could be controlled by it: escapes are text to everyone.
    return json.dumps(value, ensure_ascii=sys.stdout.isatty()) + "\n"
