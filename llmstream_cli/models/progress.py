"""How long work on large files tells of its progress."""

from typing import Protocol


class Progress(Protocol):
    """Is told what goes on; whoever shows it decides how."""

    def begin(self, what: str, total_bytes: int, done_bytes: int = 0) -> None:
        """Tell that a piece of work begins, such as `downloading model.gguf`.

        Args:
            what: the work, in a few words.
            total_bytes: all that is to be done.
            done_bytes: what had been done before, as when a download goes on.
        """

    def advance(self, num_bytes: int) -> None:
        """Tell that so many more bytes are done."""

    def end(self) -> None:
        """Tell that the piece of work has ended, done or not."""

    def note(self, line: str) -> None:
        """Tell something in one line, such as that somebody else's download is waited for."""


class Silent:
    """Shows nothing; implements `Progress`."""

    def begin(self, what: str, total_bytes: int, done_bytes: int = 0) -> None:
        """Ignore it."""

    def advance(self, num_bytes: int) -> None:
        """Ignore it."""

    def end(self) -> None:
        """Ignore it."""

    def note(self, line: str) -> None:
        """Ignore it."""
