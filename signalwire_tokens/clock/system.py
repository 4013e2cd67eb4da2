"""The machine's own time, and what the SDK needs to know of any."""

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

# An alarm's callback returns this if there was nothing to do, so that a virtual clock can go on at once.
NOTHING_DUE: tuple[()] = ()


class Alarm(Protocol):
    """A call that was put off."""

    def cancel(self) -> None:
        """Let it not happen."""
        ...


class Clock(Protocol):
    """What the SDK needs to know of time."""

    def now(self) -> float:
        """Return seconds since some moment, the time in which the machine was suspended included."""
        ...

    def wall(self) -> float:
        """Return seconds since the epoch, for what is compared with other machines."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Alarm:
        """Call back after so many seconds; those in which the machine was suspended need not count."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        ...


def counting_suspend(source: ModuleType, platform: str) -> Callable[[], float]:
    """Find the reading that goes on while the machine is suspended, or the best there is."""
    if hasattr(source, "CLOCK_BOOTTIME"):
        return partial(source.clock_gettime, source.CLOCK_BOOTTIME)
    if platform == "darwin":  # `time.monotonic` stands still in macOS's sleep, and this does not
        return partial(source.clock_gettime, source.CLOCK_MONOTONIC)
    return source.monotonic  # type: ignore[no-any-return]


class SystemClock:
    """The machine's own clock."""

    now: Callable[[], float] = staticmethod(counting_suspend(time, sys.platform))

    def wall(self) -> float:
        """Return the wall clock's reading."""
        return time.time()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Alarm:
        """Call back on the running event loop."""
        return asyncio.get_running_loop().call_later(seconds, callback)

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running event loop."""
        await asyncio.sleep(seconds)


SYSTEM = SystemClock()


def moment_in(clock: Clock, seconds: float) -> datetime | None:
    """Return the time that is `seconds` from now, or None if no datetime can represent it."""
    try:
        return datetime.fromtimestamp(clock.wall() + seconds, UTC)
    except (OverflowError, ValueError, OSError):  # the operating system decides which
        return None
