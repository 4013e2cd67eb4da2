"""A priority queue whose entries may become stale. It removes them a few at a time.

An entry can't be removed from the middle of a heap. So it stays, and `is_current` returns False for it from then on. A
stale entry is removed when it comes first. Once most entries are stale, the current ones move to a second heap, a few
with each further change. So no call takes long, however many entries there are.
"""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["HeapEntry", "LazyHeap"]

MOST_STALE = 100  # stale entries that the heap may have, however small it is
MOVED = 4  # entries of the old heap that each change looks at

T = TypeVar("T")
HeapEntry: TypeAlias = tuple[float, int, T]  # when or how urgent, the order of arrival for equal ones, and the item


class LazyHeap(Generic[T]):
    """A priority queue of entries with a number, the smallest first.

    Push an entry before `is_current` becomes True for it, and remove it only after that has become False. Then an
    exception in any line, for example `MemoryError`, loses no entry. (P7)
    """

    __slots__ = ("_heap", "_is_current", "_old", "_stale", "order")

    def __init__(self, is_current: Callable[[HeapEntry[T]], bool]) -> None:
        self._is_current = is_current
        self._heap: list[HeapEntry[T]] = []
        self._old: list[HeapEntry[T]] = []  # entries that move to `_heap`, from the end of this list
        self._stale = 0  # stale entries, approximately
        self.order: int = 0  # of the last entry

    def __len__(self) -> int:
        return len(self._heap) + len(self._old)

    def __iter__(self) -> Iterator[HeapEntry[T]]:
        return iter(self._heap + self._old)

    def push(self, number: float, item: T) -> HeapEntry[T]:
        """Add an entry and return it."""
        self.order += 1
        entry = (number, self.order, item)
        heappush(self._heap, entry)
        return entry

    def first(self) -> HeapEntry[T] | None:
        """Return the first entry, which may be stale, or None."""
        if self._old and (not self._heap or self._old[0] < self._heap[0]):
            return self._old[0]
        return self._heap[0] if self._heap else None

    def first_number(self) -> float:
        """Return the number of the first entry; inf if there is none."""
        entry = self.first()
        return math.inf if entry is None else entry[0]

    def remove_first(self, entry: HeapEntry[T]) -> None:
        """Remove an entry that has become stale, if it is the first one."""
        for heap in (self._heap, self._old):
            if heap and heap[0] is entry:
                heappop(heap)
                self._stale = max(0, self._stale - 1)
                return

    def find(self, is_wanted: Callable[[HeapEntry[T]], bool], most: int) -> float:
        """Return the smallest number of an entry that is wanted, or inf. Only the first `most` entries are looked at.

        If none of them is wanted, and there are more, return the number of the last one.
        """
        while True:  # another thread may call this
            old, new = self._old, self._heap
            heaps = [old.copy(), new.copy()]  # in this order, an entry that moves in between is in both
            if self._old is old and self._heap is new:
                break
        nexts = [(heap[0], heap, 0) for heap in heaps if heap]
        heapify(nexts)
        number = -math.inf
        for _ in range(most):
            if not nexts:
                return math.inf
            entry, heap, place = heappop(nexts)
            number = entry[0]
            if is_wanted(entry):
                return number
            for child in range(2 * place + 1, min(2 * place + 3, len(heap))):
                heappush(nexts, (heap[child], heap, child))
        return number if nexts else math.inf

    def drop_stale(self, most: int) -> HeapEntry[T] | None:
        """Remove up to `most` stale entries that come first. Return the entry that is first then, or None."""
        for _ in range(most):
            entry = self.first()
            if entry is None or self._is_current(entry):
                return entry
            self.remove_first(entry)
        return self.first()

    def note_stale(self) -> None:
        """Record that an entry has become stale."""
        self._stale += 1
        if not self._old and self._stale > MOST_STALE and self._stale > len(self._heap) / 2:
            self._old, self._heap, self._stale = self._heap, [], 0
        for _ in range(min(MOVED, len(self._old))):
            entry = self._old[-1]
            if self._is_current(entry):
                heappush(self._heap, entry)
            self._old.pop()
