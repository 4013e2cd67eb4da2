"""The sessions of a fleet that wait for their turn to renew, the most urgent first."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from signalwire_tokens.clock import LazyHeap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from signalwire_tokens.clock import HeapEntry
    from signalwire_tokens.keeper import Engine

__all__ = ["Queue"]

DROPPED = 500  # stale entries at the front of a line that one call removes


class QueuePlace(NamedTuple):
    """Where a session waits: its line, its entry there, and its number in the order of arrival in either line."""

    line: LazyHeap[Engine]
    entry: HeapEntry[Engine]
    arrival: int


class Queue:
    """A priority queue of sessions, by the time at which their renewal would come too late.

    It has two lines: sessions whose last attempt failed wait in the second one. While SignalWire is down, the first
    line provides the probes. A session with a fault of its own would fail as a probe, even if SignalWire is back.

    An entry of a line is current if it is the one in `_places`.
    """

    def __init__(self) -> None:
        self._lines = LazyHeap(self._is_current), LazyHeap(self._is_current)  # the second one is for failed sessions
        self._places: dict[Engine, QueuePlace] = {}
        self._arrivals = count()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, engine: Engine) -> bool:
        return engine in self._places

    def __iter__(self) -> Iterator[Engine]:
        return iter(self._places)

    def add(self, engine: Engine) -> None:
        """Add a session, or move it forward if its renewal has become more urgent. It never moves back."""
        deadline, before = engine.deadline(), self._places.get(engine)
        if before is None or deadline < before.entry[0]:
            line = self._lines[engine.has_failed()]
            self._places[engine] = QueuePlace(line, line.push(deadline, engine), next(self._arrivals))
            if before is not None:
                before.line.note_stale()

    def remove(self, engine: Engine) -> None:
        """Remove a session, if it is in the queue."""
        place = self._places.pop(engine, None)
        if place is not None:
            place.line.note_stale()

    def first(self, *, healthy: bool) -> Engine | None:
        """Return the next session, or None if the queue is empty.

        If `healthy`, that is one whose last attempt didn't fail, as long as there is any.
        """
        firsts = [entry[2] for line in self._lines if (entry := self._first_of(line)) is not None]
        if len(firsts) < 2 or healthy:  # noqa: PLR2004 - there are two lines
            return firsts[0] if firsts else None
        return min(firsts, key=lambda engine: (self._places[engine].entry[0], self._places[engine].arrival))

    def _is_current(self, entry: HeapEntry[Engine]) -> bool:
        place = self._places.get(entry[2])
        return place is not None and place.entry is entry

    def _first_of(self, line: LazyHeap[Engine]) -> HeapEntry[Engine] | None:
        """Return the first entry of a line that is current; None if there is none."""
        while (entry := line.drop_stale(DROPPED)) is not None and not self._is_current(entry):
            pass
        return entry
