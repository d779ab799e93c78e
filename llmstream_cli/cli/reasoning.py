"""What a model thinks before it answers: on standard error, dimmed where that is a terminal."""

import os
import sys

from llmstream_cli.cli.terminal import complain, without_controls

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class ReasoningWriter:
    """Writes reasoning piece by piece, and an empty line between it and the answer."""

    def __init__(self) -> None:
        stream = sys.stderr
        self._terminal = stream is not None and stream.isatty()
        self._dimmed = self._terminal and can_style()
        self._begun = False

    def write(self, text: str) -> None:
        """Write a piece, and leave the terminal plain: anything may come next."""
        if not text:
            return
        self._begun = True
        shown = without_controls(text) if self._terminal else text
        complain(f"{_DIM}{shown}{_PLAIN}" if self._dimmed else shown)

    def end(self) -> None:
        """End the reasoning, if there was some: the answer begins, or there is none."""
        if self._begun:
            self._begun = False
            complain("\n\n")


def can_style() -> bool:
    """Tell whether a terminal may be sent colours and the like: https://no-color.org."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in {"dumb", "unknown"}
