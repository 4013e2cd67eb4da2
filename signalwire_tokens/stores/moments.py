"""How much time has certainly passed between two moments, though clocks may be wrong and a machine may restart."""

from __future__ import annotations

import time
from pathlib import Path

import attrs

from signalwire_tokens.clock import SYSTEM

__all__ = ["Moment", "is_same_boot", "passed", "timeline"]

SAME_BOOT = 60.0  # seconds by which two calculations of when the machine was started may differ
RESTART = 60.0  # the most seconds that count across a restart, where the running clock starts again


@attrs.frozen
class Moment:
    """A moment by the machine's running clock and by its wall clock, and the name of the machine's start."""

    at: float
    wall: float
    timeline: str


def passed(since: Moment, until: Moment) -> float:
    """Return how many seconds have certainly passed: never too many, whatever was done to the wall clock.

    Both clocks have to agree. A wall clock that is set back, and a clock that stops with a virtual machine, make the
    result too small. So does a restart in between, of which a minute counts at most.
    """
    most = until.at - since.at if is_same_boot(since.timeline, until.timeline) else RESTART
    return max(0.0, min(most, until.wall - since.wall))


def timeline() -> str:
    """Return the name of this start of the machine, or its calculated time if it has no name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{time.time() - SYSTEM.now():.0f}"


def is_same_boot(one: str, other: str) -> bool:
    """Return whether two timelines are of one start of the machine."""
    if one == other:
        return True
    try:
        return abs(float(one) - float(other)) < SAME_BOOT
    except ValueError:
        return False
