"""Several models in a memory that does not hold them all at once.

Each is a `PooledEngine`, which loads when a request comes and unloads when none has come for a
while. The pool decides who may load:

1. Models take no more than `max_bytes` together. What one needs is estimated first, and raised to
   what its process was seen to take.
2. For one that does not fit, others are unloaded: first such as answer nobody, the one first that
   has not been used for the longest time. No answer is ever interrupted: one that must give way
   and still answers takes no more requests, and is unloaded after the last answer.
3. Models load in the order in which they were first asked for. The requests for one that has to
   give way wait behind the request it gives way to, so that none waits for ever. Once a model is
   loaded, all requests that wait for it begin.

Everything here runs in one event loop, and all bookkeeping between two awaits: `reschedule` finds
the books balanced whoever calls it.
"""

import asyncio
import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmstream_cli.engines.pooled_engine import Phase, PooledEngine
from llmstream_cli.errors import LLMStreamError, copy_error


@dataclass(slots=True, eq=False)
class _Ticket:
    """A request that waits; `outcome` is None once it holds a lease, else why it never will."""

    member: PooledEngine
    outcome: "asyncio.Future[LLMStreamError | None]"


class EnginePool:
    """The memory that engines share; `max_bytes` is what all loaded models may take together."""

    def __init__(self, max_bytes: float = math.inf) -> None:
        self.max_bytes = max_bytes
        self.members: list[PooledEngine] = []
        self._tickets: list[_Ticket] = []  # in the order in which they came
        self._giving_way: frozenset[PooledEngine] = frozenset()

    async def aclose(self) -> None:
        """Close all engines; see `Engine.aclose`."""
        await asyncio.gather(*(member.aclose() for member in self.members))

    # ---- what the engines ask ---------------------------------------------------------------

    def waiting(self, member: PooledEngine) -> int:
        """Return how many requests wait for a model to be loaded."""
        return sum(ticket.member is member for ticket in self._tickets)

    async def enter(self, member: PooledEngine) -> None:
        """Wait for a lease on a model, which is loaded if it is not.

        Raises:
            LLMStreamError: it cannot be loaded, or was closed.
        """
        if member.phase is Phase.LOADED and member not in self._giving_way:
            member.lease()
            return
        ticket = _Ticket(member, asyncio.get_running_loop().create_future())
        self._tickets.append(ticket)
        self.reschedule()
        try:
            error = await ticket.outcome
        except asyncio.CancelledError:
            self._give_up(ticket)
            raise
        if error is not None:
            raise error

    def reject(self, member: PooledEngine, error: LLMStreamError) -> None:
        """Tell all requests that wait for a model why they wait in vain."""
        for ticket in self._take_tickets(member):
            ticket.outcome.set_result(copy_error(error))

    def reschedule(self) -> None:
        """Do what can be done now: let requests begin, load models, and unload others for them."""
        self._trim()
        self._giving_way = frozenset()
        blocked = False
        for member in dict.fromkeys(ticket.member for ticket in self._tickets):
            match member.phase:
                case Phase.LOADED if member not in self._giving_way:
                    for ticket in self._take_tickets(member):
                        member.lease()
                        ticket.outcome.set_result(None)
                case Phase.ABSENT if not blocked:
                    blocked = not self._load(member)

    # ---- memory -----------------------------------------------------------------------------

    def _load(self, member: PooledEngine) -> bool:
        """Load a model, or begin to make room for it; return whether it is being loaded."""
        missing = min(member.needed_bytes, self.max_bytes) - self._free_bytes()
        if missing <= 0:
            member.begin_loading()
            return True
        leaving = self._bytes_of(Phase.UNLOADING)
        if missing > leaving:
            loaded = [one for one in self.members if one.phase is Phase.LOADED]
            victims = _choose_victims(loaded, missing - leaving)
            self._giving_way = frozenset(victims)
            for victim in victims:
                if not victim.leases:
                    victim.begin_unloading(f"{member.name} needs its memory")
        return False

    def _trim(self) -> None:
        """Unload what nobody uses where models took more than they were thought to need."""
        for member in sorted(self.members, key=lambda one: one.last_used):
            if self._free_bytes() + self._bytes_of(Phase.UNLOADING) >= 0:
                return
            if member.phase is Phase.LOADED and not member.leases and not self.waiting(member):
                member.begin_unloading("memory ran short")

    def _free_bytes(self) -> float:
        return self.max_bytes - sum(member.memory_bytes for member in self.members)

    def _bytes_of(self, phase: Phase) -> int:
        return sum(member.memory_bytes for member in self.members if member.phase is phase)

    # ---- tickets ----------------------------------------------------------------------------

    def _take_tickets(self, member: PooledEngine) -> list[_Ticket]:
        """Take those from the queue that belong to a model."""
        taken = [ticket for ticket in self._tickets if ticket.member is member]
        self._tickets = [ticket for ticket in self._tickets if ticket.member is not member]
        # A request that was cancelled in this very moment has yet to give its ticket up.
        return [ticket for ticket in taken if not ticket.outcome.done()]

    def _give_up(self, ticket: _Ticket) -> None:
        """Undo what was done for a request that was cancelled, however far it came."""
        member = ticket.member
        if not ticket.outcome.cancelled():  # it had an answer already
            if ticket.outcome.result() is None:
                member.release()
            return
        with contextlib.suppress(ValueError):
            self._tickets.remove(ticket)
        if not self.waiting(member):
            member.give_up_loading()
        self.reschedule()


def _choose_victims(loaded: Iterable[PooledEngine], missing: float) -> Sequence[PooledEngine]:
    """Choose whom to unload for so many bytes, no more than needed; none if all have too little."""
    victims: list[PooledEngine] = []
    for member in sorted(loaded, key=lambda one: (one.leases > 0, one.last_used)):
        if missing <= 0:
            break
        victims.append(member)
        missing -= member.memory_bytes
    if missing > 0:
        return ()
    for member in reversed(victims[:-1]):  # the last one may have more than was missing
        if missing + member.memory_bytes <= 0:
            missing += member.memory_bytes
            victims.remove(member)
    return victims
