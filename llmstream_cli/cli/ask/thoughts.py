"""What a model thinks before it answers, on standard error and never in the answer."""

from typing import TextIO

from llmstream_cli.cli.terminal import complain, shows_sequences, without_controls

_DIM, _PLAIN = "\x1b[2m", "\x1b[m"  # ECMA-48: SGR


class ThoughtWriter:
    """Writes reasoning piece by piece: dimmed on a terminal, plain elsewhere.

    Args:
        stream: standard error, to see what it is.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._is_terminal = stream is not None and stream.isatty()
        self._dims = shows_sequences(stream)
        self._begun = False

    def write(self, text: str) -> None:
        """Write a piece."""
        if self._is_terminal:
            text = without_controls(text)
        if not text:
            return
        self._begun = True
        complain(f"{_DIM}{text}{_PLAIN}" if self._dims else text)

    def end(self) -> None:
        """End it, with an empty line before what follows. Void when called again."""
        if self._begun:
            complain("\n\n")
            self._begun = False
