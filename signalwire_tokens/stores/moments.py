"""How much time has certainly passed between two moments, even if clocks are wrong or the machine restarts.

`SqliteStore` needs this to remove expired records. A record that is removed too late costs some disk space. One that is
removed too early may have held the only valid refresh token. Neither of a machine's clocks is enough:

- The running clock starts again when the machine restarts, and stops while a virtual machine is paused.
- The wall clock can be set to any time.

So `passed` counts what both clocks confirm, which is the smaller of their differences. Across a restart, only the wall
clock remains, and a minute counts at most. In seconds:

========================================  =============  ==========  =======
between the two moments                   running clock  wall clock  counted
========================================  =============  ==========  =======
an hour passes                            3600           3600        3600
... and the wall clock is put on a day    3600           90000       3600
... and the wall clock is put back a day  3600           -82800      0
the machine is paused for an hour         0              3600        0
the machine restarts after an hour        unknown        3600        60
========================================  =============  ==========  =======
"""

from __future__ import annotations

import time
from pathlib import Path

import attrs

from signalwire_tokens.clock import SYSTEM

__all__ = ["Moment", "is_same_boot", "passed", "timeline"]

SAME_BOOT = 60.0  # seconds: calculated start times that are closer than this are of the same start
MOST_ACROSS_RESTART = 60.0  # seconds that count across a restart at most: the wall clock may have been set meanwhile


@attrs.frozen
class Moment:
    """A moment by this machine's clocks, in seconds: `at` by the running clock, `wall` by the wall clock.

    `timeline` names the start of the machine after which the running clock began.
    """

    at: float
    wall: float
    timeline: str


def passed(since: Moment, until: Moment) -> float:
    """Return how many seconds have certainly passed between two moments, and never less than 0.

    The result may be too small: if the wall clock is set back, a virtual machine is paused, or the machine restarts.
    Setting the wall clock doesn't make it too large, except by a minute at most across a restart.
    """
    most = until.at - since.at if is_same_boot(since.timeline, until.timeline) else MOST_ACROSS_RESTART
    return max(0.0, min(most, until.wall - since.wall))


def timeline() -> str:
    """Return the name of the machine's current start: Linux's boot ID.

    If that can't be read, it is the calculated time of the start, in whole seconds since the epoch.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{time.time() - SYSTEM.now():.0f}"


def is_same_boot(one: str, other: str) -> bool:
    """Return whether two timelines name the same start of the machine.

    Calculated start times need not be equal, since the wall clock is adjusted now and then.
    """
    if one == other:
        return True
    try:
        return abs(float(one) - float(other)) < SAME_BOOT
    except ValueError:
        return False
