"""The account's rate limit, as an answer reports it in `X-RateLimit-Limit`, `-Remaining` and `-Reset`.

SignalWire doesn't document these headers, so they are only hints: observers and errors show them, and a fleet sends
fewer requests if few are left.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from signalwire_tokens.errors import RateLimitHint

if TYPE_CHECKING:
    from .exchange import Answer

__all__ = ["read_hint"]

NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)
MOST_REQUESTS = 1_000_000_000
# Servers send the reset either as seconds from now, or as a time in unix seconds. The number's size shows which.
LONGEST_WINDOW = 366 * 86400  # seconds from now, at most: about 32 million
FIRST_MOMENT = 1_000_000_000  # unix seconds, at least: the year 2001. Numbers in between are ignored.


def read_hint(answer: Answer) -> RateLimitHint | None:
    """Return what an answer reports about the rate limit, or None if it reports nothing that can be read."""
    limit, remaining = requests(answer, "x-ratelimit-limit"), requests(answer, "x-ratelimit-remaining")
    reset = reset_at(answer)
    if limit is None and remaining is None and reset is None:
        return None
    return RateLimitHint(limit=limit, remaining=remaining, reset_at=reset)


def header_number(answer: Answer, name: str) -> int | None:
    """Return the number that a header holds, or None if it is missing, repeated or anything else."""
    if name not in answer.headers:
        return None
    values = [value.strip() for key, value in answer.headers.items() if key.lower() == name]
    return int(values[0]) if len(values) == 1 and NUMBER.fullmatch(values[0]) else None


def requests(answer: Answer, name: str) -> int | None:
    """Return the number of requests that a header holds, or None if it has none or an implausible one."""
    found = header_number(answer, name)
    return found if found is not None and found <= MOST_REQUESTS else None


def reset_at(answer: Answer) -> datetime | None:
    """Return when the limit is reset, or None if the header is missing or can't be read."""
    found = header_number(answer, "x-ratelimit-reset")
    if found is None:
        return None
    if found <= LONGEST_WINDOW:
        return answer.issued_at + timedelta(seconds=found)
    return datetime.fromtimestamp(found, UTC) if found >= FIRST_MOMENT else None
