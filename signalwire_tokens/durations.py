"""Lengths of time. Callers pass seconds or a `timedelta`, texts such as "2h" name one, and messages show one."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from typing import TypeAlias, cast

from .duration_text import DAY, HOUR, MINUTE, spoken
from .errors import ConfigurationError

__all__ = [
    "MINUTE",
    "Duration",
    "parse_duration",
    "passing_seconds",
    "positive_seconds",
    "positive_span",
    "seconds_of",
    "shown",
    "span_of",
    "spoken",
]

Duration: TypeAlias = float | timedelta
"""A length of time: a number of seconds, or a `timedelta`."""

UNITS = {"s": 1, "m": MINUTE, "h": HOUR, "d": DAY}


@lru_cache(maxsize=64)
def _shared_seconds(duration: timedelta) -> float:
    return duration.total_seconds()


def seconds_of(duration: Duration) -> float:
    """Return a duration in seconds. A number is returned as it is, without any check.

    Equal timedeltas give one float object, because a hundred thousand sessions keep theirs.
    """
    return _shared_seconds(duration) if isinstance(duration, timedelta) else duration


def span_of(duration: Duration) -> timedelta:
    """Return a duration as a `timedelta`. Anything that isn't a duration is returned as it is, without any check."""
    if not isinstance(duration, timedelta | bool):
        with suppress(TypeError, ValueError, OverflowError):
            return timedelta(seconds=duration)
    return cast("timedelta", duration)


def positive_seconds(name: str, duration: object, *, longest: float = math.inf) -> float:
    """Return a duration in seconds, or raise `ConfigurationError` unless it is positive and finite."""
    seconds = seconds_of(duration) if isinstance(duration, timedelta) else duration
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ConfigurationError(f"{name} must be seconds or a timedelta, more than 0: got {shown(duration)}")
    if seconds > longest:
        raise ConfigurationError(f"{name} must be at most {spoken(longest)}: got {spoken(seconds)}")
    return seconds


def positive_span(name: str, duration: object, *, longest: timedelta = timedelta.max) -> timedelta:
    """Return a duration as a `timedelta`, or raise `ConfigurationError` unless it is positive and in range."""
    span = span_of(positive_seconds(name, duration, longest=longest.total_seconds()))
    if not span:
        raise ConfigurationError(f"{name} must be at least a microsecond: got {shown(duration)}")
    return span


def passing_seconds(duration: Duration) -> float:
    """Return by how many seconds a test's clock advances, or raise `ValueError` for a negative or infinite duration."""
    seconds = seconds_of(duration)
    if not 0 <= seconds < math.inf:
        raise ValueError(f"a clock can't advance by {duration!r}: pass 0 or more seconds, or a timedelta")
    return seconds


def parse_duration(text: str) -> timedelta | None:
    """Return the duration that a text such as "90s", "15m", "2h" or "1d" names; None if it names none."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text.strip())
    return None if match is None else timedelta(seconds=int(match[1]) * UNITS[match[2]])


def shown(value: object) -> str:
    """Return a wrong value for a message: a number or a duration as it is, anything else by its type alone."""
    return repr(value) if isinstance(value, int | float | timedelta) else type(value).__name__
