"""The machine's clock, as an argument."""

import asyncio
import time
from types import SimpleNamespace

from signalwire_tokens import SystemClock
from signalwire_tokens.clock.system import counting_suspend


async def test_the_system_clock_reads_the_wall_and_sleeps():
    """It tells the time that everybody tells, and waits no less than it was told to."""
    clock = SystemClock()
    before = time.time()
    assert before <= clock.wall() <= time.time()
    start = clock.now()
    await clock.sleep(0.01)
    assert clock.now() - start >= 0.009


async def test_the_system_clock_calls_back():
    """Unless it is told not to."""
    clock, called = SystemClock(), asyncio.Event()
    cancelled = clock.call_later(0.001, lambda: called.set() or 1 / 0)
    cancelled.cancel()
    clock.call_later(0.002, called.set)
    await called.wait()


def test_now_counts_the_time_in_which_the_machine_was_suspended():
    """By the reading that each system has for it, or the best there is. (P27)"""

    def source(**ids):
        return SimpleNamespace(clock_gettime=lambda id_: f"read {id_}", monotonic=lambda: "monotonic", **ids)

    assert counting_suspend(source(CLOCK_BOOTTIME=7, CLOCK_MONOTONIC=1), "linux")() == "read 7"
    assert counting_suspend(source(CLOCK_MONOTONIC=6), "darwin")() == "read 6"
    assert counting_suspend(source(), "win32")() == "monotonic"
    if hasattr(time, "CLOCK_BOOTTIME"):
        assert abs(SystemClock().now() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 60
