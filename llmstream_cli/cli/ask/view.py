"""How an answer is received and shown: as text, as markdown on a terminal, as JSON."""

import codecs
import contextlib
import json
import os
import sys
from asyncio import CancelledError
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

from llmstream_cli.api import Chunk, FinishReason, GenerationRequest
from llmstream_cli.cli.ask.answer import Answer, print_settings
from llmstream_cli.cli.ask.engine import OpenEngine
from llmstream_cli.cli.ask.options import AskOptions
from llmstream_cli.cli.ask.waiting import DIM, PLAIN, WaitingLine
from llmstream_cli.cli.terminal import AnswerWriter, shows_sequences, without_controls, write_stderr
from llmstream_cli.errors import LLMStreamError

if TYPE_CHECKING:
    from llmstream_cli.cli.ask.markdown import MarkdownWriter

_AS_TEXT = AskOptions()


async def show_answer(
    opened: OpenEngine, request: GenerationRequest, answer: Answer, view: "View", *, stats: bool
) -> None:
    """Wait for the model, ask it, and show its answer as it comes.

    On a terminal, standard error tells what is waited for, until the first token.

    Raises:
        LLMStreamError: the model cannot be loaded, or the answer failed; what came is shown.
        CancelledError: Ctrl-C has ended it; what came is shown.
    """
    waiting = WaitingLine(sys.stderr)
    thinking = False
    try:
        waiting.begin("loading the model" if opened.found else "waiting for the server")
        info = await opened.engine.ready()
        answer.model = opened.name or info.name
        if stats and opened.found is not None:  # else they are the server's own
            waiting.end()
            print_settings(info, request.sampling, opened.found.seconds)
        waiting.begin("reading the prompt")
        if shows_sequences(sys.stderr):
            request = replace(request, report_progress=True)
        async with contextlib.aclosing(opened.engine.generate(request)) as chunks:
            async for chunk in chunks:
                if chunk.progress is not None:
                    waiting.follow(chunk.progress)
                elif (
                    chunk.text or chunk.finish_reason or (view.shows_reasoning and chunk.reasoning)
                ):
                    waiting.end()
                elif chunk.reasoning and not thinking:
                    waiting.begin("thinking")
                    thinking = True
                answer.add(chunk)
                view.show(chunk)
    except (LLMStreamError, CancelledError) as error:
        waiting.end()
        if answer.text or isinstance(error, CancelledError):
            view.end(answer)
        raise
    finally:
        waiting.end()
    view.end(answer)


def make_view(*, markdown: bool, reasoning: bool, how: AskOptions = _AS_TEXT) -> "View":
    if how.json or how.json_lines:
        return JsonView(pieces=how.json_lines)
    return TextView(markdown=markdown and not how.raw, reasoning=reasoning)


class TextView:
    """Shows the answer's text as it comes, and the reasoning before it on standard error.

    Args:
        markdown: whether a terminal that can gets it rendered.
        reasoning: whether that is shown at all.
    """

    def __init__(self, *, markdown: bool = True, reasoning: bool = True) -> None:
        self._writer = answer_writer(sys.stdout, markdown=markdown)
        self._reasoning_writer = ReasoningWriter(sys.stderr)
        self.shows_reasoning = reasoning

    def show(self, chunk: Chunk) -> None:
        if self.shows_reasoning:
            self._reasoning_writer.write(chunk.reasoning)
        if chunk.text:
            self._reasoning_writer.end()
        self._writer.write(chunk.text)

    def end(self, answer: Answer) -> None:
        self._reasoning_writer.end()
        self._writer.end(cut=answer.finish_reason is None)


class ReasoningWriter:
    """Writes reasoning to standard error: dimmed on a terminal, plain elsewhere."""

    def __init__(self, stderr: TextIO | None) -> None:
        self._is_terminal = stderr is not None and stderr.isatty()
        self._dims = shows_sequences(stderr)
        self._begun = False

    def write(self, text: str) -> None:
        if self._is_terminal:
            text = without_controls(text)
        if text:
            self._begun = True
            write_stderr(f"{DIM}{text}{PLAIN}" if self._dims else text)

    def end(self) -> None:
        """End it, with an empty line before what follows; idempotent."""
        if self._begun:
            write_stderr("\n\n")
            self._begun = False


class JsonView:
    """Writes the answer as one JSON object at its end.

    Args:
        pieces: write an object on a line for each piece instead, and at the end one that sums up.
    """

    def __init__(self, *, pieces: bool) -> None:
        self._writer = AnswerWriter(sys.stdout)
        self.shows_reasoning = pieces

    def show(self, chunk: Chunk) -> None:
        if self.shows_reasoning:
            for name in ("reasoning", "text"):
                if piece := getattr(chunk, name):
                    self._write({name: piece})

    def end(self, answer: Answer) -> None:
        whole = {"model": answer.model}
        if not self.shows_reasoning:
            whole["text"] = answer.text
            if answer.reasoning:
                whole["reasoning"] = answer.reasoning
        self._write(whole | _summary(answer))

    def _write(self, value: dict[str, Any]) -> None:
        # As ASCII where a terminal could be controlled by it: escapes are text to everyone.
        self._writer.write(json.dumps(value, ensure_ascii=sys.stdout.isatty()) + "\n")


View = TextView | JsonView  # whose methods raise as `write_through` does


def _summary(answer: Answer) -> dict[str, Any]:
    """Return why an answer ended, what it cost and how long it took; what is unknown is null."""
    usage = answer.usage
    tokens = ("prompt_tokens", "cached_tokens", "completion_tokens")
    times = {"first_token_seconds": answer.first_token_seconds} | {
        name: None if usage is None else getattr(usage, name)
        for name in ("prompt_seconds", "completion_seconds", "tokens_per_second")
    }
    return {
        "finish_reason": answer.finish_reason or FinishReason.CANCELLED,
        "usage": None if usage is None else {name: getattr(usage, name) for name in tokens},
        "timings": {
            name: None if value is None else round(value, 6) for name, value in times.items()
        },
    }


def answer_writer(stream: TextIO | None, *, markdown: bool) -> "AnswerWriter | MarkdownWriter":
    """Return what writes an answer: rendered on a terminal that can show it, else as it is.

    To import the renderer takes some 40 milliseconds: call it while a model is being loaded.

    Raises:
        OutputError: the stream is closed.
    """
    if not markdown or stream is None or not shows_sequences(stream):
        return AnswerWriter(stream)
    if codecs.lookup(stream.encoding).name != "utf-8":
        return AnswerWriter(stream)
    from llmstream_cli.cli.ask.markdown import MarkdownWriter

    # https://no-color.org: an empty value does not count.
    return MarkdownWriter(stream, color=not os.environ.get("NO_COLOR"))
