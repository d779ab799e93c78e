"""The line editor of a chat, made of prompt-toolkit. It takes a tenth of a second to import."""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.data_structures import Size
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus, is_searching
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth, Output, create_output
from prompt_toolkit.shortcuts import CompleteStyle

from llmstream_cli.cli.chat.lines import CONTINUATION, PROMPT, is_open
from llmstream_cli.cli.chat.slash import complete
from llmstream_cli.cli.terminal import write_stderr

_LEAVE_HINT = "Ctrl-C once more leaves, and so does Ctrl-D; /help lists the commands\n"


class LineEditor:
    """Reads lines from a terminal, as `PipedLines` does from a pipe.

    Enter sends. Alt-Enter breaks the line, and so does Enter between triple quotes; what is pasted
    keeps its line breaks. Ctrl-C clears the line, and leaves where there is none.

    Args:
        screen: the terminal to draw on.
        recent: what the arrow keys and Ctrl-R find, the latest last.
    """

    def __init__(self, screen: TextIO, recent: Sequence[str]) -> None:
        self._session: PromptSession[str] = PromptSession(
            message=PROMPT,
            multiline=True,
            prompt_continuation=CONTINUATION,
            history=InMemoryHistory(recent),
            completer=_CommandCompleter(),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            enable_open_in_editor=True,
            reserve_space_for_menu=0,
            key_bindings=_key_bindings(),
            output=_output(screen),
        )

    def read(self) -> str:
        hinted = False
        while True:
            try:
                return self._session.prompt()
            except KeyboardInterrupt as interrupt:
                if hinted:
                    raise EOFError from interrupt
                hinted = True
                write_stderr(_LEAVE_HINT)


def _output(screen: TextIO) -> Output:
    """Draw on the screen; without asking a terminal where its cursor is, which not all answer."""
    if sys.platform == "win32":
        return create_output(stdout=screen)
    from prompt_toolkit.output.vt100 import Vt100_Output

    return Vt100_Output(
        screen,
        lambda: _size(screen),
        term=os.environ.get("TERM"),
        default_color_depth=ColorDepth.from_env(),  # NO_COLOR for one
        enable_cpr=False,
    )


def _size(screen: TextIO) -> Size:
    size = os.get_terminal_size(screen.fileno())
    return Size(rows=size.lines or 24, columns=size.columns or 80)


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()
    writing = has_focus(DEFAULT_BUFFER) & ~is_searching

    @bindings.add("enter", filter=writing)
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter", filter=writing)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @bindings.add("c-c", filter=writing)
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

    return bindings


class _CommandCompleter(Completer):
    """Completes commands and what follows them; a question is the user's own."""

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        *before, begun = text.split(" ")
        for word in complete(tuple(before)):
            if word.startswith(begun):
                yield Completion(word, start_position=-len(begun))
