"""A store that lives as long as the process: for sessions that come and go within it, and for tests."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from signalwire_tokens.clock import SYSTEM

from .records import Reading, Record
from .watchers import Watchers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from signalwire_tokens.clock import Clock

__all__ = ["MemoryStore"]


class MemoryStore:
    """Keep pairs in this process, unsealed.

    A client or session that has a clock of its own, as in tests, needs a store with the same: `clock=client.clock`.
    """

    def __init__(self, *, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._records: dict[str, Record] = {}
        self._leases: dict[str, tuple[object, float]] = {}
        self._watchers = Watchers()

    def __repr__(self) -> str:
        return "<MemoryStore>"

    async def load(self, key: str) -> Reading:
        """Read what is kept under a key."""
        return Reading(record=self._records.get(key), at=self._clock.now(), wall=self._clock.wall())

    async def save(self, key: str, record: Record, replaces: str | None) -> bool:
        """Keep a record in place of the one with the digest `replaces`."""
        self._sweep()
        held = self._records.get(key)
        if held is not None and held.digest not in (replaces, record.digest):
            return False
        self._records.pop(key, None)
        self._records[key] = record
        if record.presenting is None:
            self._watchers.call(key)
        return True

    async def delete(self, key: str) -> None:
        """Keep nothing under a key."""
        self._records.pop(key, None)

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
        return self._watchers.add(key, callback)

    def _sweep(self) -> None:
        """Forget the oldest records as they come to their end; a record that is saved moves to the end of the line."""
        now = self._clock.now()
        while self._records and next(iter(self._records.values())).until <= now:
            del self._records[next(iter(self._records))]
