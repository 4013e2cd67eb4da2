"""The sessions of a fleet that wait for their turn to renew, those that need it soonest first."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    from signalwire_tokens.keeper import Engine

__all__ = ["Queue"]

MOST_FALLEN = 100
Place: TypeAlias = tuple[float, int]


class Queue:
    """Who waits, by how soon they need a renewal. Those that have failed by themselves stand in a line of their own."""

    def __init__(self) -> None:
        self._order = count()
        self._lines: tuple[list[tuple[float, int, Engine]], ...] = ([], [])  # the second is of those that have failed
        self._places: dict[Engine, Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, engine: Engine) -> bool:
        return engine in self._places

    def __iter__(self) -> Iterator[Engine]:
        return iter(self._places)

    def add(self, engine: Engine) -> None:
        """Add a session, or move it forward if it needs a renewal sooner than before."""
        deadline, before = engine.deadline(), self._places.get(engine)
        if before is None or deadline < before[0]:
            place = self._places[engine] = (deadline, next(self._order))
            heappush(self._lines[engine.has_failed()], (*place, engine))

    def remove(self, engine: Engine) -> None:
        """Remove a session. Its entries in the lines are removed later."""
        self._places.pop(engine, None)
        if sum(map(len, self._lines)) > 2 * len(self._places) + MOST_FALLEN:
            for line in self._lines:
                line[:] = [entry for entry in line if self._places.get(entry[2]) == entry[:2]]
                heapify(line)

    def first(self, *, healthy: bool) -> Engine | None:
        """Return who is next: if `healthy`, one that hasn't failed by itself, as long as there is any."""
        firsts = [line[0] for line in self._lines if self._has_first(line)]
        if not firsts:
            return None
        return firsts[0][2] if healthy else min(firsts)[2]

    def _has_first(self, line: list[tuple[float, int, Engine]]) -> bool:
        while line and self._places.get(line[0][2]) != line[0][:2]:
            heappop(line)
        return bool(line)

    def clear(self) -> None:
        """Remove all sessions."""
        self._places.clear()
        for line in self._lines:
            line.clear()
