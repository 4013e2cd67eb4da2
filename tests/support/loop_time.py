"""An event loop whose time depends on its work, and not on the machine's speed.

A timeout of half a second is long where a request takes a millisecond, and too short on a machine that is a
thousand times slower. With the fixture `loop_time`, every turn of the event loop takes the same short time by the
loop's own clock, however long it really takes. When nothing is left to do, the time of the next timer comes at
once.

This is for tests whose servers and clients share one event loop. Another process or thread may be busy while this
loop is idle.
"""

import asyncio

import pytest

from signalwire_tokens.clock import SystemClock

TURN = 0.0002  # seconds of the loop's own time
NEW_YEAR_2030 = 1_893_456_000.0
IDLE = 0.02  # real seconds without an event, after which everything that was sent must have arrived


class LoopTime:
    """Stands in front of the loop's selector, since the loop calls that once in every turn."""

    def __init__(self, loop):
        self._selector, self._now = loop._selector, loop.time()

    def __getattr__(self, name):
        return getattr(self._selector, name)

    def time(self):
        return self._now

    def select(self, timeout=None):
        self._now += TURN
        events = self._selector.select(0)
        if events or timeout == 0:
            return events
        if timeout is None:
            return self._selector.select(None)
        events = self._selector.select(min(timeout, IDLE))
        if not events:
            self._now += timeout
        return events


def is_in_loop_time():
    """Return whether the running test uses the fixture."""
    return isinstance(asyncio.get_running_loop()._selector, LoopTime)


class LoopClock(SystemClock):
    """The event loop's time, as a clock for the emulator, a client or a session."""

    def now(self):
        return asyncio.get_running_loop().time()

    def wall(self):
        return NEW_YEAR_2030 + self.now()


@pytest.fixture
async def loop_time():
    """Let the event loop's time pass with its work; timers come early when there is nothing else to do."""
    loop = asyncio.get_running_loop()
    selector = loop._selector
    loop._selector = LoopTime(loop)
    loop.time = loop._selector.time
    yield
    loop._selector = selector
    del loop.time
