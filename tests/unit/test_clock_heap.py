"""The priority queue of timers and fleets: its order, and that it forgets what is stale without ever taking long."""

import math
import sys
import threading

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from signalwire_tokens.clock.heap import MOST_STALE, MOVED, LazyHeap


class Items:
    """A heap whose entries are current until their item is taken back, and what it must have."""

    def __init__(self):
        self.looks = 0
        self.entries = {}  # those that are current, by item
        self.heap = LazyHeap(self.is_current)

    def is_current(self, entry):
        self.looks += 1
        return self.entries.get(entry[2]) is entry

    def add(self, number, item):
        before = self.entries.get(item)
        self.entries[item] = self.heap.push(number, item)
        if before is not None:
            self.heap.note_stale()

    def discard(self, item):
        if self.entries.pop(item, None) is not None:
            self.heap.note_stale()

    def pop(self):
        entry = self.heap.drop_stale(10**6)
        if entry is None:
            return None
        del self.entries[entry[2]]
        self.heap.remove_first(entry)
        return entry


CHANGES = st.lists(
    st.tuples(st.just("add"), st.integers(0, 9), st.integers(0, 30))
    | st.tuples(st.just("discard"), st.integers(0, 30))
    | st.tuples(st.just("pop")),
    max_size=400,
)


@given(CHANGES)
def test_entries_come_in_their_order(changes):
    """The smallest number first, and of equal ones the one that was added first."""
    items = Items()
    for what, *arguments in changes:
        if what == "pop":
            expected = min(items.entries.values(), default=None)
            assert items.pop() == expected
        else:
            getattr(items, what)(*arguments)
    assert sorted(items.entries.values()) == [items.pop() for _ in range(len(items.entries))]
    assert items.pop() is None


@pytest.mark.parametrize("total", [1000, 20_000])
def test_a_change_never_looks_at_many_entries(total):
    """However many there are, and however many are stale."""
    items = Items()
    for number in range(total):
        items.add(number, number)
    most = 0
    for later in range(total, 4 * total):
        items.looks = 0
        items.add(later, later % total)
        most = max(most, items.looks)
    assert most == MOVED
    assert [items.pop()[2] for _ in range(total)] == list(range(total))


def test_stale_entries_are_forgotten():
    """At most as many stay as there are current ones, and a hundred besides, and those of the last move."""
    items = Items()
    for number in range(100):
        items.add(10**6, f"kept-{number}")
    for number in range(10_000):
        items.add(10**6 + 1, number)
        items.discard(number)
        assert len(items.heap) <= 2 * (100 + MOST_STALE) + 50


def test_no_more_stale_entries_are_dropped_than_was_asked():
    """The rest is left to the next call, and the entry that is first then may be stale."""
    items = Items()
    for number in range(10):
        items.add(number, number)
    items.entries = {9: items.entries[9]}
    assert items.heap.drop_stale(5)[0] == 5
    assert items.heap.first_number() == 5
    assert items.heap.drop_stale(5)[0] == 9


@example([], 0, 1)
@example([1, 2, 3], 3, 2)
@example([1, 2], 3, 5)
@given(st.lists(st.integers(0, 99)), st.integers(0, 99), st.integers(1, 120))
def test_the_first_wanted_entry_is_found(numbers, wanted, most):
    """If it isn't among the first ones, the result is earlier."""
    items = Items()
    for place, number in enumerate(numbers):
        items.add(number, place)
    found = items.heap.find(lambda entry: entry[0] >= wanted, most)
    ordered = sorted(numbers)
    expected = [number for number in ordered[:most] if number >= wanted] or ordered[most - 1 : most]
    assert found == (expected[0] if expected and (expected[0] >= wanted or len(numbers) > most) else math.inf)


def test_another_thread_finds_what_moves_meanwhile():
    """An entry is never in neither heap."""
    items, wrong, is_over = Items(), [], threading.Event()
    for number in range(3000):
        items.add(number, number)
    items.add(-1, "first")

    def look():
        while not is_over.is_set():
            if (found := items.heap.find(lambda entry: entry[2] == "first", 10)) != -1:
                wrong.append(found)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=look)
    thread.start()
    try:
        for later in range(3000, 30_000):
            items.add(later, later % 3000)
    finally:
        is_over.set()
        thread.join()
        sys.setswitchinterval(before)
    assert not wrong
