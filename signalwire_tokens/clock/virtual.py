"""A clock for tests, which moves only in `advance()`."""

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
# Turns of the event loop after the last task has come to rest, in which tasks that waited for its result can run.
TURNS = 6


class VirtualAlarm:
    """A planned call of a function."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Cancel the call. This does nothing if it has happened already."""
        self.callback = None


class VirtualClock:
    """A clock for tests: hours pass in milliseconds, and only in `await clock.advance(duration)`.

    While time advances, each alarm rings at its own moment. The tasks that it begins finish, or sleep on this clock,
    before time goes on. So SignalWire's answer to a request comes at the same virtual time as the request.
    `clock.sleep()` returns once another task has advanced time far enough.

    `wall` is the time of the wall clock at the start, in seconds since the epoch: the first moment of 2030 by default.
    """

    def __init__(self, wall: float = NEW_YEAR_2030) -> None:
        self._running = 0.0
        self._suspended = 0.0
        self._wall_ahead = wall
        self._order = 0
        self.alarms: list[tuple[float, int, VirtualAlarm]] = []  # a heap, by running time and then in order of calls
        self._at_once = 0  # alarms that ring in the next turn of the event loop
        self._begun: set[asyncio.Task[object]] = set()
        self._asleep: set[asyncio.Task[object] | None] = set()

    def now(self) -> float:
        """Return the seconds that have passed since the clock was created, suspended ones included."""
        return self._running + self._suspended

    def wall(self) -> float:
        """Return the seconds since the epoch, by the virtual wall clock."""
        return self.now() + self._wall_ahead

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Alarm:
        """Call `callback` once `seconds` have passed, and return the alarm.

        With 0 or less, that is the loop's next turn.
        """
        alarm = VirtualAlarm(callback)
        if seconds <= 0:
            self._at_once += 1
            asyncio.get_running_loop().call_soon(self._ring_at_once, alarm)
        else:
            self._order += 1
            heappush(self.alarms, (self._running + seconds, self._order, alarm))
        return alarm

    async def sleep(self, seconds: float) -> None:
        """Return once `seconds` have passed. With 0 or less, return in the next turn of the event loop."""
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
        """Advance the time by `duration`, ring each alarm at its moment, and wait for the tasks that it begins."""
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
        """Advance the time as on a suspended machine: `duration` passes, but no alarm rings or comes closer."""
        self._suspended += passing_seconds(duration)

    def set_wall(self, seconds: float) -> None:
        """Set the wall clock alone, forward or back, as a user or an NTP daemon does. `seconds` are since the epoch."""
        self._wall_ahead = seconds - self.now()

    def _ring_at_once(self, alarm: VirtualAlarm) -> None:
        self._at_once -= 1
        self._ring(alarm)

    def _ring(self, alarm: VirtualAlarm) -> bool:
        """Call the callback of an alarm, and return False if nothing was due."""
        callback, alarm.callback = alarm.callback, None
        begun = NOTHING_DUE if callback is None else callback()
        if isinstance(begun, Iterable):
            self._begun.update(cast("Iterable[asyncio.Task[object]]", begun))
        return begun is not NOTHING_DUE

    async def _settle(self) -> None:
        """Return once no alarm is about to ring, and all tasks that alarms began are done or sleep on this clock."""
        turns = 0
        while turns < TURNS:
            await asyncio.sleep(0)
            self._begun = {task for task in self._begun if not task.done()}
            turns = turns + 1 if self._begun <= self._asleep and not self._at_once else 0
