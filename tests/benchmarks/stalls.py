"""How long the event loop runs without a turn for other work, when something happens to a hundred thousand sessions."""

import asyncio
import gc
import logging
import math
import time
from contextlib import asynccontextmanager

from signalwire_tokens import SessionFleet, SystemClock, TokenClient
from signalwire_tokens.clock import timer_of

from .accounts import Long
from .crowds import AT_A_TIME, start_some
from .days import LIFE, MINUTE
from .figures import Figure

MOST = 20.0  # ms


class MovableClock(SystemClock):
    """This machine's clock, which can be moved as a suspend or a paused virtual machine moves it."""

    def __init__(self):
        self.ahead = self.wall_ahead = 0.0

    def now(self):
        return SystemClock.now() + self.ahead

    def wall(self):
        return super().wall() + self.ahead + self.wall_ahead


class Alarm:
    """A sleeper that makes the timer ring now."""

    wakes_at = math.inf

    def wake(self, timer):
        """Do nothing."""

    def note_leap(self, seconds, now):
        """Do nothing."""


@asynccontextmanager
async def longest_turn(found):
    """Add to `found` how many milliseconds the longest turn of the event loop takes inside of the block."""
    longest = 0.0

    async def watch():
        nonlocal longest
        before = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        await asyncio.sleep(0)
        watching.cancel()
        found.append(1000 * longest)


async def crowd(total, seconds):
    """Return for each event the longest turns."""
    clock = MovableClock()
    service, alarm = Long(clock), Alarm()
    client = TokenClient("fleet.example", "project", "PTbenchmark", clock=clock)
    client.sender = service
    found = {what: [] for what in EVENTS}
    fleet = await SessionFleet(client, max_rate=math.inf, max_concurrency=AT_A_TIME).start()
    for number in range(0, total, 100):
        await start_some(fleet, [f"user-{number + one}@example.com" for one in range(100)])
    timer = timer_of(clock)
    async with longest_turn(found["a full run of Python's garbage collector"]):
        gc.collect()
    gc.disable()  # its runs would hide what the library does
    for _ in range(5):
        async with longest_turn(found["nothing"]):
            await asyncio.sleep(seconds / 5)
        async with longest_turn(found["snapshot()"]):
            fleet.snapshot()
    clock.wall_ahead += 5 * MINUTE
    async with longest_turn(found["a leap of the wall clock"]):
        timer.set(alarm, clock.now())
        await asyncio.sleep(seconds)
    clock.ahead += 0.9 * LIFE
    async with longest_turn(found["waking from a suspend, all are due"]):
        timer.set(alarm, clock.now())
        await asyncio.sleep(seconds)
    async with longest_turn(found["closing the fleet"]):
        await fleet.aclose()
    gc.enable()
    return found


EVENTS = (
    "nothing",
    "snapshot()",
    "a leap of the wall clock",
    "waking from a suspend, all are due",
    "closing the fleet",
    "a full run of Python's garbage collector",
)
NOT_OURS = ("nothing", "a full run of Python's garbage collector")


def measure(*, quick):
    logging.disable(logging.CRITICAL)
    total, seconds = (500, 0.2) if quick else (100_000, 4.0)
    found = asyncio.run(crowd(total, seconds))
    for what, values in found.items():
        yield Figure(
            what=f"longest turn of the event loop, {total:,} sessions: {what}",
            values=tuple(values),
            unit="ms",
            most=None if what in NOT_OURS else MOST,
        )
