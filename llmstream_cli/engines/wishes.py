"""How long the clients of a model want it to stay loaded.

Pure: no clock.
"""

from dataclasses import dataclass

_MAX_CLIENTS = 1024  # whose wishes are remembered


@dataclass(slots=True)
class Wish:
    """A client wants the model for so many seconds since it was answered last."""

    keep_alive: float
    since: float

    @property
    def expiry(self) -> float:
        """When it is over."""
        return self.since + self.keep_alive


class Wishes:
    """The latest wish of each client; nobody's counts for another.

    Args:
        usual: seconds, where a request says nothing, and before anybody has asked.
    """

    def __init__(self, usual: float) -> None:
        self._usual = usual
        self._by_client: dict[str, Wish] = {}  # the latest last
        self._loaded_at = 0.0

    def begin(self, now: float) -> None:
        """Forget all wishes: the model has just been loaded."""
        self._by_client.clear()
        self._loaded_at = now

    def note(self, client: str, keep_alive: float | None, now: float) -> None:
        """Take a client's wish in place of its former one."""
        self._by_client.pop(client, None)
        self._by_client[client] = Wish(self._usual if keep_alive is None else keep_alive, now)
        if len(self._by_client) > _MAX_CLIENTS:
            del self._by_client[next(iter(self._by_client))]

    def note_answered(self, client: str, now: float) -> None:
        """Let the time of a client's wish begin anew."""
        if client in self._by_client:
            self._by_client[client].since = now

    def longest(self) -> Wish:
        """Return the wish for which the model stays the longest."""
        wishes = self._by_client.values() or (Wish(self._usual, self._loaded_at),)
        return max(wishes, key=lambda wish: wish.expiry)
