"""`llmstream chat`: questions and answers by turns."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator

from llmstream_cli.cli.ask.engine import check_engine
from llmstream_cli.cli.ask.setup import begin
from llmstream_cli.cli.ask.views import make_view
from llmstream_cli.cli.chat.lines import Lines, open_lines, without_quotes
from llmstream_cli.cli.chat.slash import complete, run_command
from llmstream_cli.cli.chat.talk import Talk
from llmstream_cli.cli.options import Setup
from llmstream_cli.cli.terminal import check_text, complain
from llmstream_cli.errors import LLMStreamError, OutputError, PromptError, one_line


def run_chat(setup: Setup) -> int:
    """Talk until the user leaves or the input ends; return the exit code."""
    check_engine(setup.engine)
    begun = begin(setup)
    # While the model loads: what edits lines and what renders answers take time to import.
    lines, typed = open_lines(begun.recorder.recent_questions, complete)
    make_view(markdown=setup.markdown, reasoning=True)
    with asyncio.Runner() as runner:
        if begun.opened.found is None:
            runner.run(begun.opened.engine.ready())  # a server that is not there: say so now
        talk = Talk(
            setup=setup,
            engine=begun.engine,
            opened=begun.opened,
            conversation=begun.conversation,
            recorder=begun.recorder,
            sampling=setup.sampling,
            typed=typed,
            runner=runner,
        )
        if not typed:
            return _converse(talk, lines)
        complain(f"{_greeting(talk)}: /help lists the commands, Ctrl-D leaves\n")
        with _interrupts_raised():
            _converse(talk, lines)
    return 0


def _greeting(talk: Talk) -> str:
    num_turns = len(talk.conversation.turns)
    before = f", {num_turns} turns of a conversation" if num_turns else ""
    return (talk.opened.name or str(talk.engine.url)) + before


def _converse(talk: Talk, lines: Lines) -> int:
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
            complain("\n")
        except OutputError:
            raise
        except LLMStreamError as error:
            code = error.exit_code
            complain(f"llmstream: {one_line(_advice(error))}\n")


def _advice(error: LLMStreamError) -> str:
    if isinstance(error, PromptError):
        return f"{error}; /undo takes back the last turn, /clear begins anew"
    return str(error)


@contextlib.contextmanager
def _interrupts_raised() -> Iterator[None]:
    """Have Ctrl-C raise KeyboardInterrupt; in an answer the event loop cancels it first."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
