"""The `Clock` protocol, and the clock of this machine.

The library needs two kinds of time, because each fails in its own way::

    clock      counts from          jumps   counts a suspended machine   counts a paused virtual machine
    --------   ------------------   -----   --------------------------   -------------------------------
    `now()`    an arbitrary start   never   yes, on the usual systems    no
    `wall()`   the epoch            yes     yes                          yes, once it is set right again

All deadlines are by `now()`. `wall()` serves to compare times with other machines, and to notice that a virtual machine
was paused: the wall clock then gains on `now()`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

__all__ = ["NOTHING_DUE", "SYSTEM", "Alarm", "Clock", "SystemClock", "moment_in"]

# An alarm's callback returns this if nothing was due. A virtual clock then goes on without waiting for any task.
NOTHING_DUE: tuple[()] = ()


class Alarm(Protocol):
    """A planned call of a function, as `Clock.call_later` returns it."""

    def cancel(self) -> None:
        """Cancel the call. This does nothing if it has happened already."""
        ...


class Clock(Protocol):
    """The source of time for a client and its sessions.

    `SystemClock` is the default, and `VirtualClock` is for tests.
    """

    def now(self) -> float:
        """Return the seconds since an arbitrary start.

        They never decrease, and they count the time of a suspended machine.
        """
        ...

    def wall(self) -> float:
        """Return the seconds since the epoch, to compare with times of other machines."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Alarm:
        """Call `callback` on the running event loop in `seconds`, and return the alarm.

        The alarm may be late by the time that the machine was suspended. The timer allows for that.
        """
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        ...


def counting_suspend(source: ModuleType, platform: str) -> Callable[[], float]:
    """Return the best monotonic clock of a platform: one that counts the time of a suspended machine, if it has one.

    On Linux that is `CLOCK_BOOTTIME`. Without it, the result is `time.monotonic`, which counts that time on Windows.
    """
    if hasattr(source, "CLOCK_BOOTTIME"):
        return partial(source.clock_gettime, source.CLOCK_BOOTTIME)
    if platform == "darwin":  # on macOS, `time.monotonic` stops while the machine sleeps, and this clock doesn't
        return partial(source.clock_gettime, source.CLOCK_MONOTONIC)
    return source.monotonic  # type: ignore[no-any-return]


class SystemClock:
    """The clock of this machine. `now` counts the time of a suspended machine, where the system has such a clock."""

    now: Callable[[], float] = staticmethod(counting_suspend(time, sys.platform))

    def wall(self) -> float:
        """Return the seconds since the epoch."""
        return time.time()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Alarm:
        """Call `callback` on the running event loop in `seconds`, and return the alarm."""
        return asyncio.get_running_loop().call_later(seconds, callback)

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`, without blocking the event loop."""
        await asyncio.sleep(seconds)


SYSTEM = SystemClock()


def moment_in(clock: Clock, seconds: float) -> datetime | None:
    """Return the UTC time in `seconds` from now by the wall clock, or None if a `datetime` can't represent it."""
    try:
        return datetime.fromtimestamp(clock.wall() + seconds, UTC)
    except (OverflowError, ValueError, OSError):  # which of them depends on the operating system
        return None
