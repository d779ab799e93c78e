"""Answers in markdown, rendered for a terminal while they stream.

What is printed once stays: an answer is a sequence of ordinary lines in the scrollback. Only what
may still change is drawn again, and that is little: the word that is being written, markup that is
not closed yet, or a table that is not complete.

    text → `blocks` (what a line is) → `inline` (its markup) → `flow` (words in rows) → `page`
    → `writer` (the terminal)
"""

import codecs
import os
from typing import TYPE_CHECKING, TextIO

from llmstream_cli.cli.terminal import AnswerWriter, shows_sequences

if TYPE_CHECKING:
    from llmstream_cli.cli.markdown.writer import MarkdownWriter


def answer_writer(stream: TextIO | None, *, raw: bool = False) -> "AnswerWriter | MarkdownWriter":
    """Return what writes an answer: rendered on a terminal that can show it, else as it is.

    To import the renderer takes some milliseconds: call it while a model is being loaded.

    Args:
        stream: standard output; None where it is closed.
        raw: never render.

    Raises:
        OutputError: it is closed.
    """
    if raw or stream is None or not shows_sequences(stream):
        return AnswerWriter(stream)
    from llmstream_cli.cli.markdown.style import Palette
    from llmstream_cli.cli.markdown.writer import MarkdownWriter

    palette = Palette(
        color=not os.environ.get("NO_COLOR"),  # see no-color.org: empty does not count
        unicode=codecs.lookup(stream.encoding).name.startswith("utf"),
    )
    return MarkdownWriter(stream, palette)
