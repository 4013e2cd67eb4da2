"""How messages show a length of time. Errors use it, so this module imports nothing of the library."""

from __future__ import annotations

import math

__all__ = ["DAY", "HOUR", "MINUTE", "spoken"]

MINUTE, HOUR, DAY = 60, 3600, 86400
TINY = 0.001  # seconds, below which a duration is shown as 0
SMALL = 0.095  # seconds, below which one decimal isn't enough


def spoken(seconds: float) -> str:
    """Return a duration as messages show it: "0.04 s", "0.4 s", "23.9 s", "1 min 30 s", "1 h 59 min" or "9 d 4 h"."""
    if not math.isfinite(seconds) or seconds < TINY:
        return f"{seconds:.0f} s"
    if seconds < SMALL:
        return f"{seconds:.2g} s"
    if round(seconds, 1) < MINUTE:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    if round(seconds) < HOUR:
        large, small, units = *divmod(round(seconds), 60), ("min", "s")
    elif round(seconds / MINUTE) * MINUTE < DAY:
        large, small, units = *divmod(round(seconds / MINUTE), 60), ("h", "min")
    else:
        large, small, units = *divmod(round(seconds / HOUR), 24), ("d", "h")
    return f"{large} {units[0]} {small} {units[1]}" if small else f"{large} {units[0]}"
