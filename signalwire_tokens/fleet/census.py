"""Counts of a fleet's sessions by state and by error, kept up to date as they change.

A snapshot of a hundred thousand sessions would take a fifth of a second if it looked at each of them. So each session
is counted again whenever something happens to it. A token also ages by itself: its session becomes DUE, EXPIRING and
UNAVAILABLE if no renewal succeeds. A session at rest wakes when it becomes DUE. For all other changes of this kind, the
timer wakes the census.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias
from weakref import ref

from signalwire_tokens.clock import LazyHeap
from signalwire_tokens.policy import SessionState

if TYPE_CHECKING:
    from signalwire_tokens.clock import HeapEntry, Timer
    from signalwire_tokens.keeper import Engine

__all__ = ["Census"]

COUNTED_PER_TURN = 200  # sessions that one call of `wake` counts, before the event loop runs other callbacks
AGEING = (SessionState.FRESH, SessionState.DUE, SessionState.EXPIRING)
ROUNDING = 0.001  # seconds after the calculated time at which a state has certainly changed
Counted: TypeAlias = "tuple[SessionState, str | None]"


class Census:
    """The counts. `Engine.counted` has the state and the error under which a session is counted; None if it isn't."""

    def __init__(self, timer: Timer) -> None:
        self.wakes_at: float = math.inf
        self._timer, self._closed = timer, False
        self._counts: Counter[Counted] = Counter()
        self._kinds: dict[Counted, Counted] = {}  # so that all sessions of a kind share one object
        self._changes: LazyHeap[ref[Engine]] = LazyHeap(self._is_current)
        self._pending: dict[Engine, HeapEntry[ref[Engine]]] = {}  # those that wait in `_changes`

    def counts(self) -> dict[Counted, int]:
        """Return how many sessions there are, by their state and the name of their last error. Any thread may ask."""
        return self._counts.copy()

    def join(self, engine: Engine) -> None:
        """Count a session from now on."""
        counted = (SessionState.UNAVAILABLE, None)
        self._counts[counted] += 1
        engine.counted = counted
        self.note(engine)

    def leave(self, engine: Engine) -> None:
        """Stop counting a session."""
        counted, engine.counted = engine.counted, None
        if counted is not None:
            self._counts[counted] -= 1
            self._forget(engine)

    def note(self, engine: Engine) -> None:
        """Count a session again, since something has happened to it."""
        before, cycle, now = engine.counted, engine.cycle, engine.now()
        if before is None:
            return
        error = cycle.last_error
        counted = (cycle.state(now), None if error is None else type(error).__name__)
        if counted != before:
            counted = self._kinds.setdefault(counted, counted)
            self._counts[counted] += 1  # first, because a new key may raise
            self._counts[before] -= 1
            engine.counted = counted
        self._forget(engine)
        if counted[0] in AGEING:
            at = cycle.policy.ages_at(cycle, now)
            if at < engine.wakes_at:  # otherwise, the session wakes by then, and is counted again
                self._await(engine, at + ROUNDING)

    def close(self) -> None:
        """Stop the timer."""
        self._closed = True
        self._timer.unset(self)

    def wake(self, timer: Timer) -> None:
        """Count the sessions whose state has changed by itself. The timer calls this."""
        now = timer.clock.now()
        for _ in range(COUNTED_PER_TURN):
            entry = self._changes.drop_stale(COUNTED_PER_TURN)
            if entry is None or entry[0] > now:
                break
            if (engine := entry[2]()) is not None and self._is_current(entry):
                self.note(engine)
        first = self._changes.first_number()
        if first < self.wakes_at:
            timer.set(self, first)

    def note_leap(self, seconds: float, now: float) -> None:
        """Ignore leaps of the wall clock: the timer notifies the sessions itself."""

    def note_fork(self) -> None:
        """Ignore forks, for the same reason."""

    def _await(self, engine: Engine, at: float) -> None:
        """Plan to count a session again at a time."""
        self._pending[engine] = self._changes.push(at, ref(engine))
        if at < self.wakes_at and not self._closed:
            self._timer.set(self, at)

    def _forget(self, engine: Engine) -> None:
        """Cancel the planned count of a session."""
        if self._pending.pop(engine, None) is not None:
            self._changes.note_stale()

    def _is_current(self, entry: HeapEntry[ref[Engine]]) -> bool:
        engine = entry[2]()
        return engine is not None and self._pending.get(engine) is entry
