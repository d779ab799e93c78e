"""How long clients want a model to stay loaded."""

from collections.abc import Iterator
from typing import NamedTuple

_MAX_CLIENTS = 1024  # whose keep-alive is remembered


class Wish(NamedTuple):
    """A client wants the model to stay so many seconds since it was answered last."""

    keep_alive: float
    since: float  # by the loop's clock

    @property
    def expiry(self) -> float:
        return self.since + self.keep_alive


class Wishes:
    """The latest wish of each client; `keep_alive` is that of clients that say nothing."""

    def __init__(self, keep_alive: float) -> None:
        self._keep_alive = keep_alive
        self._unasked = Wish(keep_alive, 0.0)
        self._wishes: dict[str, Wish] = {}  # the oldest first

    def reset(self, now: float) -> None:
        """Forget all wishes; the model has just been loaded."""
        self._wishes.clear()
        self._unasked = Wish(self._keep_alive, now)

    def note(self, client: str, keep_alive: float | None, now: float) -> None:
        """Take a client's wish in place of its former one; nobody's counts for another."""
        self._wishes.pop(client, None)
        self._wishes[client] = Wish(self._keep_alive if keep_alive is None else keep_alive, now)
        if len(self._wishes) > _MAX_CLIENTS:
            del self._wishes[next(iter(self._wishes))]

    def restart(self, client: str | None, now: float) -> None:
        """Let the time of a client's wish begin anew."""
        if client in self._wishes:
            self._wishes[client] = self._wishes[client]._replace(since=now)

    def __iter__(self) -> Iterator[Wish]:
        return iter(self._wishes.values())

    def longest(self) -> Wish:
        return max(self._wishes.values() or [self._unasked], key=lambda wish: wish.expiry)
