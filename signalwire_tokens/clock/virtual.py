"""A clock that moves only when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import TYPE_CHECKING, cast

from signalwire_tokens.durations import passing_seconds

from .system import NOTHING_DUE

if TYPE_CHECKING:
    from signalwire_tokens.durations import Duration

    from .system import Alarm

__all__ = ["VirtualClock"]

NEW_YEAR_2030 = 1_893_456_000.0
# After everything that an alarm began has come to rest, those who waited for it get so many turns of the event loop.
TURNS = 6


class VirtualAlarm:
    """A call that was put off."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Let it not happen."""
        self.callback = None


class VirtualClock:
    """A clock for tests: hours pass in milliseconds, and only in `await clock.advance(seconds)`.

    While time advances, every alarm rings at its moment, and what it began is finished before time goes on: a session's
    request is answered at the time at which it was sent. What sleeps on this clock sleeps until time has come so far.
    """

    def __init__(self, wall: float = NEW_YEAR_2030) -> None:
        self._running = 0.0
        self._suspended = 0.0
        self._wall_ahead = wall
        self._order = 0
        self.alarms: list[tuple[float, int, VirtualAlarm]] = []  # by running time, then by order
        self._at_once = 0  # alarms that ring before time goes on
        self._begun: set[asyncio.Task[object]] = set()
        self._asleep: set[asyncio.Task[object] | None] = set()

    def now(self) -> float:
        """Return the seconds that have passed."""
        return self._running + self._suspended

    def wall(self) -> float:
        """Return seconds since the epoch."""
        return self.now() + self._wall_ahead

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Alarm:
        """Call back when so many seconds have passed; at once, if none have to."""
        alarm = VirtualAlarm(callback)
        if seconds <= 0:
            self._at_once += 1
            asyncio.get_running_loop().call_soon(self._ring_at_once, alarm)
        else:
            self._order += 1
            heappush(self.alarms, (self._running + seconds, self._order, alarm))
        return alarm

    async def sleep(self, seconds: float) -> None:
        """Return when so many seconds have passed."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        over = asyncio.Event()
        alarm = self.call_later(seconds, over.set)
        task = asyncio.current_task()
        self._asleep.add(task)
        try:
            await over.wait()
        finally:
            self._asleep.discard(task)
            alarm.cancel()

    async def advance(self, duration: Duration) -> None:
        """Let time pass."""
        until = self._running + passing_seconds(duration)
        await self._settle()
        while self.alarms and self.alarms[0][0] <= until:
            at, _, alarm = heappop(self.alarms)
            if alarm.callback is not None:
                self._running = max(self._running, at)
                if self._ring(alarm):
                    await self._settle()
        self._running = max(self._running, until)

    def suspend(self, duration: Duration) -> None:
        """Let time pass as it does on a machine that sleeps: no alarm rings, and none comes any closer."""
        self._suspended += passing_seconds(duration)

    def set_wall(self, seconds: float) -> None:
        """Set the wall clock alone, forth or back, as a user or an NTP daemon does."""
        self._wall_ahead = seconds - self.now()

    def _ring_at_once(self, alarm: VirtualAlarm) -> None:
        self._at_once -= 1
        self._ring(alarm)

    def _ring(self, alarm: VirtualAlarm) -> bool:
        """Call back; return False if there was nothing to do."""
        callback, alarm.callback = alarm.callback, None
        begun = NOTHING_DUE if callback is None else callback()
        if isinstance(begun, Iterable):
            self._begun.update(cast("Iterable[asyncio.Task[object]]", begun))
        return begun is not NOTHING_DUE

    async def _settle(self) -> None:
        """Return when no alarm is to ring at once, and all that alarms began is finished or sleeps on this clock."""
        turns = 0
        while turns < TURNS:
            await asyncio.sleep(0)
            self._begun = {task for task in self._begun if not task.done()}
            turns = turns + 1 if self._begun <= self._asleep and not self._at_once else 0
