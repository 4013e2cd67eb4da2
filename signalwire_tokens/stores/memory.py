"""A store that lives as long as the process: for sessions that come and go within it, and for tests."""

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

MOST_AT_ONCE = 100  # records that one save removes, so that it never takes long
SPARE = 100  # entries that the heap may have beyond twice the records


@attrs.frozen
class Held:
    """A record, and the time of its entry in the heap: its expiry time, or earlier."""

    record: Record
    due: float


class MemoryStore:
    """Keep pairs in this process, unsealed.

    A client or session that has a clock of its own, as in tests, needs a store with the same: `clock=client.clock`.
    """

    def __init__(self, *, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self.records: dict[str, Held] = {}
        self._due: list[tuple[float, str]] = []  # a heap of expiry times and keys
        self._leases: dict[str, tuple[object, float]] = {}
        self.watchers: Watchers = Watchers()

    def __repr__(self) -> str:
        return "<MemoryStore>"

    async def load(self, key: str) -> Reading:
        """Read what is kept under a key."""
        held = self.records.get(key)
        return Reading(record=None if held is None else held.record, at=self._clock.now(), wall=self._clock.wall())

    async def save(self, key: str, record: Record, replaces: str | None) -> bool:
        """Keep a record in place of the one with the digest `replaces`."""
        now = self._clock.now()
        self._sweep(now)
        held = self.records.get(key)
        if held is not None and held.record.until > now and held.record.digest not in (replaces, record.digest):
            return False
        self._keep(key, record, record.until if held is None else min(held.due, record.until))
        if record.presenting is None:
            self.watchers.call(key)
        return True

    async def delete(self, key: str) -> None:
        """Keep nothing under a key."""
        self.records.pop(key, None)

    @asynccontextmanager
    async def lease(self, key: str, ttl: float) -> AsyncIterator[bool]:
        """Be the only one who holds a key's lease."""
        now, owner = self._clock.now(), object()
        if key in self._leases and self._leases[key][1] > now:
            yield False
            return
        self._leases[key] = (owner, now + ttl)
        try:
            yield True
        finally:
            if self._leases.get(key, (None, 0.0))[0] is owner:
                del self._leases[key]

    def watch(self, key: str, callback: Callable[[], object]) -> Callable[[], None]:
        """Call back when a new pair was saved."""
        return self.watchers.add(key, callback)

    def _keep(self, key: str, record: Record, due: float) -> None:
        """Keep a record, with one entry in the heap for each key."""
        held = self.records.get(key)
        self.records[key] = Held(record, due)
        if held is None or held.due != due:
            heappush(self._due, (due, key))
        if len(self._due) > 2 * len(self.records) + SPARE:  # most entries belong to deleted or replaced records
            self._due = [(kept.due, name) for name, kept in self.records.items()]
            heapify(self._due)

    def _sweep(self, now: float) -> None:
        """Remove records that have expired; put back those that were replaced and expire later."""
        for _ in range(MOST_AT_ONCE):
            if not self._due or self._due[0][0] > now:
                break
            due, key = heappop(self._due)
            held = self.records.get(key)
            if held is not None and held.due == due:  # otherwise it has another entry, or was deleted
                del self.records[key]
                if held.record.until > now:
                    self._keep(key, held.record, held.record.until)
