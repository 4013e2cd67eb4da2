"""Lengths of time as people write them, and the variable that sets how long a space's tokens live."""

from __future__ import annotations

import re
from datetime import timedelta

from signalwire_tokens.errors import ConfigurationError
from signalwire_tokens.models import Lifetimes

__all__ = ["read_duration", "read_lifetimes"]

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def read_duration(text: str) -> timedelta | None:
    """Return the length of time that a text such as "90s", "15m", "2h" or "1d" names; None if it names none."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text.strip())
    return None if match is None else timedelta(seconds=int(match[1]) * UNITS[match[2]])


def read_lifetimes(text: str | None) -> Lifetimes:
    """Return the lifetimes that SIGNALWIRE_TOKENS_LIFETIME sets with a text, or the usual ones if it is not set."""
    if text is None:
        return Lifetimes()
    access = read_duration(text)
    if not access:
        raise ConfigurationError(
            "SIGNALWIRE_TOKENS_LIFETIME must be how long the space's access tokens live, such as 90s, 15m, 2h or 1d"
        )
    return Lifetimes.of(access)
