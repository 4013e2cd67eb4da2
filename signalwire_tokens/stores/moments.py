"""How much time has certainly passed between two moments, though clocks may be wrong and a machine may restart."""

from __future__ import annotations

import time
from pathlib import Path

import attrs

from signalwire_tokens.clock import SYSTEM

__all__ = ["Moment", "is_same_boot", "passed", "timeline"]

SAME_BOOT = 60.0  # seconds by which two calculations of when the machine was started may differ
RESTART = 60.0  # seconds that count at most for a restart, which stops the only clock that can't be set


@attrs.frozen
class Moment:
    """A moment by the clock of a machine since its start, by the wall clock, and the name of that start."""

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
    """Return a name for the time since this machine was started; if it has no name, when that was."""
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
