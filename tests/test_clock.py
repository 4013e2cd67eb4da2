"""The machine's clock, as an argument."""

import time

from signalwire_tokens import SystemClock


async def test_the_system_clock_reads_the_wall_and_sleeps():
    """It tells the time that everybody tells, and waits no less than it was told to."""
    clock = SystemClock()
    before = time.time()
    assert before <= clock.wall() <= time.time()
    start = time.monotonic()
    await clock.sleep(0.01)
    assert time.monotonic() - start >= 0.009
