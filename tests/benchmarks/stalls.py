"""How long the event loop runs without a turn for other work, when something happens to a hundred thousand sessions."""

import asyncio
import gc
import logging
import math
import time
from contextlib import asynccontextmanager, suppress

from signalwire_tokens import SessionClosed, SessionFleet, SystemClock
from signalwire_tokens.clock import timer_of

from .accounts import Long
from .calls import PATIENT
from .crowds import AT_A_TIME, start_some
from .days import LIFE, MINUTE, client_of
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
    clock, alarm = MovableClock(), Alarm()
    found = {what: [] for what in EVENTS}
    fleet = await make_fleet(Long(clock))
    await start_all(fleet, total)
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
    async with longest_turn(found["closing"]):
        await fleet.aclose()
    gc.enable()
    return found


async def make_fleet(service):
    """Open a fleet whose requests this service answers."""
    client = client_of(service)
    return await SessionFleet(client, max_rate=math.inf, max_concurrency=AT_A_TIME, policy=PATIENT).start()


async def start_all(fleet, total):
    """Start all sessions, a hundred at a time."""
    for number in range(0, total, 100):
        await start_some(fleet, [f"user-{number + one}@example.com" for one in range(100)])


async def cancelled_close(total):
    """Return the longest turn of a close that is cancelled at once."""
    found = []
    fleet = await make_fleet(Long(SystemClock()))
    await start_all(fleet, total)
    gc.disable()
    async with longest_turn(found):
        closing = asyncio.create_task(fleet.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
    gc.enable()
    return found


class Hanging(Long):
    """A service that answers no request before `answers` is set."""

    def __init__(self, clock):
        super().__init__(clock)
        self.answers = asyncio.Event()

    async def send(self, request, progress):
        await self.answers.wait()
        return await super().send(request, progress)


async def close_with_callers(total):
    """Return the longest turn of a close while a caller of each session waits for its first token."""
    found, service = [], Hanging(SystemClock())
    fleet = await make_fleet(service)

    async def call(number):
        with suppress(SessionClosed):
            await fleet.token(f"user-{number}@example.com")

    calls = [asyncio.create_task(call(number)) for number in range(total)]
    while fleet.snapshot().waiting < total - AT_A_TIME:  # noqa: ASYNC110 - a fleet has no event for it
        await asyncio.sleep(0.1)
    gc.disable()
    async with longest_turn(found):
        closing = asyncio.create_task(fleet.aclose())
        await asyncio.sleep(0)
        service.answers.set()  # the renewals under way end
        await closing
    gc.enable()
    assert all(call.done() for call in calls)
    return found


EVENTS = (
    "nothing",
    "snapshot()",
    "a leap of the wall clock",
    "waking from a suspend, all are due",
    "closing",
    "a full run of Python's garbage collector",
)
NOT_OURS = ("nothing", "a full run of Python's garbage collector")


def measure(*, quick):
    logging.disable(logging.CRITICAL)
    total, seconds = (500, 0.2) if quick else (100_000, 4.0)
    found = asyncio.run(crowd(total, seconds))
    found["closing, cancelled at once"] = asyncio.run(cancelled_close(total))
    found["closing while all callers wait"] = asyncio.run(close_with_callers(total))
    for what, values in found.items():
        yield Figure(
            what=f"longest turn of the event loop, {total:,} sessions: {what}",
            values=tuple(values),
            unit="ms",
            most=None if what in NOT_OURS else MOST,
        )
