"""What is being stored, by ticket, and what is known to be there."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from kvferry_vllm import wire

KNOWN_MAX = 262_144  # keys, about 30 MB
TICKETS_MAX = 65_536
TICKET_S_MAX = 60.0  # without an answer after this, a batch was dropped
AWAITED_S_MAX = 5.0  # how long an idle engine goes on stepping for the answer


@dataclass(slots=True)
class Ticket:
    keys: list[bytes]
    deadline: float


class Stores:
    """Batches that the workers gather, until the server has told what became of them."""

    def __init__(self) -> None:
        self._tickets: dict[int, Ticket] = {}
        self._ticket_of: dict[bytes, int] = {}
        self._known: dict[bytes, None] = {}  # in order of arrival
        self._next = 0
        self._awaited_until = 0.0

    @property
    def is_awaited(self) -> bool:
        """Whether an answer is worth waiting for with nothing else to do."""
        return bool(self._tickets) and time.monotonic() < self._awaited_until

    def unknown(self, keys: Iterable[bytes]) -> list[bytes]:
        """Those that are neither there nor under way."""
        return [key for key in keys if key not in self._known and key not in self._ticket_of]

    def begin(self, keys: list[bytes], batch_keys: int) -> int:
        """Gives each batch of `batch_keys` keys a ticket, one after the other. Returns the first."""
        first = self._next
        deadline = time.monotonic() + TICKET_S_MAX
        for at in range(0, len(keys), batch_keys):
            batch = keys[at : at + batch_keys]
            self._tickets[self._next] = Ticket(batch, deadline)
            self._ticket_of.update(dict.fromkeys(batch, self._next))
            self._next = 0 if self._next == wire.TICKET_MAX else self._next + 1
        return first

    def gathered(self) -> None:
        """The workers are done with some: the tiers' answer comes soon, if any does."""
        self._awaited_until = time.monotonic() + AWAITED_S_MAX

    def answered(self, number: int, outcomes: bytes) -> list[bytes] | None:
        """The keys of a ticket, which is over; None for one that nobody waits for, or whose answer does not fit."""
        ticket = self._tickets.get(number)
        if ticket is None or len(ticket.keys) != len(outcomes):
            return None
        self._forget(number)
        self.there(key for key, outcome in zip(ticket.keys, outcomes) if outcome in (wire.STORED, wire.PRESENT))
        return ticket.keys

    def there(self, keys: Iterable[bytes]) -> None:
        self._known.update(dict.fromkeys(keys))
        while len(self._known) > KNOWN_MAX:
            del self._known[next(iter(self._known))]

    def removed(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._known.pop(key, None)

    def expire(self) -> int:
        """Gives up tickets whose time is over: their batches were dropped. Returns how many keys they had."""
        now = time.monotonic()
        due = [number for number, ticket in self._tickets.items() if ticket.deadline <= now]
        due += list(self._tickets)[: max(0, len(self._tickets) - TICKETS_MAX)]
        return sum(self._forget(number) for number in dict.fromkeys(due))

    def lost(self) -> int:
        """The server is gone, and what it had. Returns how many keys were under way."""
        self._known.clear()
        return sum(self._forget(number) for number in list(self._tickets))

    def _forget(self, number: int) -> int:
        ticket = self._tickets.pop(number)
        for key in ticket.keys:
            if self._ticket_of.get(key) == number:
                del self._ticket_of[key]
        return len(ticket.keys)
