"""A store in memory: for sessions that open and close while the process runs, and for tests.

Each `save` also removes records whose refresh token has expired. A heap orders the keys by expiry, so that a save
doesn't look at every record. A new record usually expires later than the one it replaces. The key's heap entry then
stays where it is:

- When an entry's time comes and its record expires later, the record gets a new entry.
- An entry is ignored if its record was deleted, or has another entry by now.
- When most entries are ignored ones, the heap is built again from the records.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

import attrs

from signalwire_tokens.clock import SYSTEM

from .records import Reading, Record
from .watchers import Watchers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from signalwire_tokens.clock import Clock

__all__ = ["MemoryStore"]

MOST_SWEPT = 100  # heap entries that one save handles at most, so that it doesn't block the event loop
SPARE = 100  # entries that the heap may have beyond twice the number of records before it is built again


@attrs.frozen
class HeldLease:
    """A record, and the time of its heap entry: when the record expires, or earlier."""

    record: Record
    due: float


class MemoryStore:
    """A store in the memory of this process, without encryption. Its pairs are lost when the process ends.

    `clock` must be the clock of the client and the sessions that use the store. If they have one of their own, as in
    tests, pass `clock=client.clock`.
    """

    def __init__(self, *, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self.records: dict[str, HeldLease] = {}
        self._due: list[tuple[float, str]] = []  # a heap of expiry times and keys
        self._leases: dict[str, tuple[object, float]] = {}
        self.watchers: Watchers = Watchers()

    def __repr__(self) -> str:
        return "<MemoryStore>"

    async def load(self, key: str) -> Reading:
        """Return a reading: the record under the key, or None if there is none, and the clock's time."""
        held = self.records.get(key)
        return Reading(record=None if held is None else held.record, at=self._clock.now(), wall=self._clock.wall())

    async def save(self, key: str, record: Record, replaces: str | None) -> bool:
        """Save a record in place of the one with the digest `replaces`. Return whether the store holds it now.

        A record whose refresh token has expired counts as none.
        """
        now = self._clock.now()
        self._sweep(now)
        held = self.records.get(key)
        if held is not None and held.record.until > now and held.record.digest not in (replaces, record.digest):
            return False
        self._keep(key, record, record.until if held is None else min(held.due, record.until))
        if record.presenting is None:  # a mark isn't a new pair
            self.watchers.call(key)
        return True

    async def delete(self, key: str) -> None:
        """Remove the record under a key, if there is one."""
        self.records.pop(key, None)

    @asynccontextmanager
    async def lease(self, key: str, ttl: float) -> AsyncIterator[bool]:
        """Yield True and hold the key's lease for the block, or yield False if another caller holds it."""
        now, owner = self._clock.now(), object()
        if key in self._leases and self._leases[key][1] > now:
            yield False
            return
        self._leases[key] = (owner, now + ttl)
        try:
            yield True
        finally:  # the lease may have expired, and another caller may hold it now
            if self._leases.get(key, (None, 0.0))[0] is owner:
                del self._leases[key]

    def watch(self, key: str, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback` during each save of a pair under the key. Return a function that ends this."""
        return self.watchers.add(key, callback)

    def _keep(self, key: str, record: Record, due: float) -> None:
        """Save a record whose heap entry is at `due`. Add that entry if the key doesn't have it yet."""
        held = self.records.get(key)
        self.records[key] = HeldLease(record, due)
        if held is None or held.due != due:
            heappush(self._due, (due, key))
        if len(self._due) > 2 * len(self.records) + SPARE:  # most belong to deleted or replaced records
            self._due = [(kept.due, name) for name, kept in self.records.items()]
            heapify(self._due)

    def _sweep(self, now: float) -> None:
        """Remove records that have expired by `now`. Add a new entry for each that expires later than its old entry."""
        for _ in range(MOST_SWEPT):
            if not self._due or self._due[0][0] > now:
                break
            due, key = heappop(self._due)
            held = self.records.get(key)
            if held is not None and held.due == due:  # otherwise the record has another entry, or was deleted
                del self.records[key]
                if held.record.until > now:
                    self._keep(key, held.record, held.record.until)
