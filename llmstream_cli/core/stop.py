"""Stop strings in a stream of text."""

from collections.abc import Sequence


class StopMatcher:
    """Ends a stream before the first stop string in it.

    What comes out never depends on how the text was cut into pieces: the stop string that is
    complete first wins, and of several that end at the same character the longest. Only a suffix
    that could still become a stop string is held back, so text without one flows through at once.

    Args:
        stops: the stop strings, none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        assert all(stops)
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Add text; return what is certain to belong to the answer.

        After a stop string `stopped` is true and everything later is dropped.
        """
        if self.stopped:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        matches = [
            (start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0
        ]
        if matches:
            self.stopped = True
            self._held = ""
            return text[: min(matches)[1]]
        keep = max(suffix_that_begins(stop, text) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """End the stream; return what was held back for a stop string that never came."""
        held, self._held = self._held, ""
        return held


def suffix_that_begins(stop: str, text: str) -> int:
    """Return the length of the longest suffix of `text` that is a proper prefix of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
