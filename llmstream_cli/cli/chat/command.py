"""`llmstream chat`: questions and answers by turns."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from llmstream_cli.cli.ask.engine import begin, check_engine
from llmstream_cli.cli.ask.options import Setup
from llmstream_cli.cli.ask.view import make_view
from llmstream_cli.cli.chat.lines import PipedLines, without_quotes
from llmstream_cli.cli.chat.slash import run_command
from llmstream_cli.cli.chat.talk import Talk
from llmstream_cli.cli.terminal import check_text, write_stderr
from llmstream_cli.errors import (
    InvalidValueError,
    LLMStreamError,
    OutputError,
    PromptError,
    one_line,
)

if TYPE_CHECKING:
    from llmstream_cli.cli.chat.line_editor import LineEditor

    Lines = PipedLines | LineEditor


def run_chat(setup: Setup) -> int:
    """Talk until the user leaves or the input ends; return the exit code."""
    check_engine(setup.engine)
    opened, conversation = begin(setup)
    # While the model loads: what edits lines and what renders answers take time to import.
    lines, typed = open_lines(conversation.recent_questions)
    make_view(markdown=setup.markdown, reasoning=True)
    with asyncio.Runner() as runner:
        if opened.found is None:
            runner.run(opened.engine.ready())  # a server that is not there: say so now
        talk = Talk(setup, opened, conversation, runner, typed=typed)
        if not typed:
            return _converse(talk, lines)
        num_turns = len(conversation.turns)
        before = f", {num_turns} turns of a conversation" if num_turns else ""
        greeting = (opened.name or str(setup.engine.url)) + before
        write_stderr(f"{greeting}: /help lists the commands, Ctrl-D leaves\n")
        with _interrupts_raised():
            _converse(talk, lines)
    return 0


def open_lines(recent_questions: Callable[[], Sequence[str]]) -> "tuple[Lines, bool]":
    """Return where lines come from, and whether a person types them.

    Raises:
        InvalidValueError: there is no standard input.
    """
    if sys.stdin is None:
        raise InvalidValueError("standard input is closed; a chat reads its questions there")
    screen = next((s for s in (sys.stdout, sys.stderr) if s is not None and s.isatty()), None)
    if not sys.stdin.isatty() or screen is None:
        return PipedLines(sys.stdin.buffer), False
    if os.name != "nt" and os.environ.get("TERM", "dumb") in {"dumb", "unknown"}:
        return PipedLines(sys.stdin.buffer, prompt_on=screen), True
    from llmstream_cli.cli.chat.line_editor import LineEditor

    return LineEditor(screen, recent_questions()), True


def _converse(talk: Talk, lines: "Lines") -> int:
    """Answer each line, or do what it commands; return the exit code.

    An error ends a turn and never the chat, unless nothing can be written any more.
    """
    code = 0
    while True:
        try:
            text = check_text(lines.read(), "the line")
            if text.startswith("/"):
                if not run_command(talk, text):
                    return code
            elif text.strip():
                talk.ask(without_quotes(text))
        except EOFError:
            return code
        except KeyboardInterrupt:
            write_stderr("\n")
        except OutputError:
            raise
        except LLMStreamError as error:
            code = error.exit_code
            advice = "; /undo takes back the last turn, /clear begins anew"
            advice = advice if isinstance(error, PromptError) else ""
            write_stderr(f"llmstream: {one_line(error)}{advice}\n")


@contextlib.contextmanager
def _interrupts_raised() -> Iterator[None]:
    """Have Ctrl-C raise KeyboardInterrupt; in an answer the event loop cancels it first."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
