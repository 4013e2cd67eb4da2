"""When calls must end."""

from __future__ import annotations

import asyncio

__all__ = ["Deadlines"]


class Deadlines:
    """End each call in time, by one timer for all that are under way: one for each would cost as much as a tenth."""

    def __init__(self) -> None:
        self._ends: dict[asyncio.Timeout, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: asyncio.Timeout, seconds: float) -> float:
        """Let a call end after so many seconds, and return when that is."""
        loop = asyncio.get_running_loop()
        end = self._ends[call] = loop.time() + seconds
        if self._timer is None or loop is not self._loop or end < self._timer.when():
            self._watch(loop, end)
        return end

    def drop(self, call: asyncio.Timeout) -> None:
        """Forget a call, which has ended."""
        self._ends.pop(call, None)

    def _watch(self, loop: asyncio.AbstractEventLoop, until: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop, self._timer = loop, loop.call_at(until, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, now = None, loop.time()
        for call in [call for call, end in self._ends.items() if end <= now]:
            del self._ends[call]
            call.reschedule(now)
        if self._ends:
            self._watch(loop, min(self._ends.values()))
