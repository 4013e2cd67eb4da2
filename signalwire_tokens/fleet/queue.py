"""The sessions of a fleet that wait for their turn to renew, the most urgent first."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    from signalwire_tokens.keeper import Engine

__all__ = ["Queue"]

MOST_STALE = 100  # stale entries that the lines may have, however few sessions wait
QueuePlace: TypeAlias = tuple[float, int]  # the deadline of a session, and the order of arrival for equal ones


class Queue:
    """A priority queue of sessions, by the time at which their renewal would come too late.

    It has two lines: sessions whose last attempt failed wait in the second one. While SignalWire is down, the first
    line provides the probes. A session with a fault of its own would fail as a probe, even if SignalWire is back.

    A line is a heap, and to remove or move an entry in its middle would be slow. So the entry stays. It is *stale* if
    its place isn't the one in `_places`. Stale entries are skipped, and cleared once there are too many.
    """

    def __init__(self) -> None:
        self._order = count()
        self._lines: tuple[list[tuple[float, int, Engine]], ...] = ([], [])  # the second one is for failed sessions
        self._places: dict[Engine, QueuePlace] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, engine: Engine) -> bool:
        return engine in self._places

    def __iter__(self) -> Iterator[Engine]:
        return iter(self._places)

    def add(self, engine: Engine) -> None:
        """Add a session, or move it forward if its renewal has become more urgent. It never moves back."""
        deadline, before = engine.deadline(), self._places.get(engine)
        if before is None or deadline < before[0]:
            place = (deadline, next(self._order))
            heappush(self._lines[engine.has_failed()], (*place, engine))  # first: if this raises, the place isn't taken
            self._places[engine] = place

    def remove(self, engine: Engine) -> None:
        """Remove a session, if it is in the queue."""
        self._places.pop(engine, None)
        if sum(map(len, self._lines)) > 2 * len(self._places) + MOST_STALE:
            for line in self._lines:
                line[:] = [entry for entry in line if self._places.get(entry[2]) == entry[:2]]
                heapify(line)

    def first(self, *, healthy: bool) -> Engine | None:
        """Return the next session, or None if the queue is empty.

        If `healthy`, that is one whose last attempt didn't fail, as long as there is any.
        """
        firsts = [line[0] for line in self._lines if self._has_first(line)]
        if not firsts:
            return None
        return firsts[0][2] if healthy else min(firsts)[2]

    def _has_first(self, line: list[tuple[float, int, Engine]]) -> bool:
        """Return whether a line has a session, after the stale entries at its front are removed."""
        while line and self._places.get(line[0][2]) != line[0][:2]:
            heappop(line)
        return bool(line)

    def clear(self) -> None:
        """Remove all sessions."""
        self._places.clear()
        for line in self._lines:
            line.clear()
