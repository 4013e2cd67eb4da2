"""What an answer reports about the account's rate limit, in `X-RateLimit-Limit`, `-Remaining` and `-Reset`.

SignalWire doesn't document these headers, so they are only hints to show. No decision depends on them.
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
LONGEST_WINDOW = 366 * 86400  # seconds; a larger reset is a moment in unix seconds
FIRST_MOMENT = 1_000_000_000  # of the year 2001; no reset between these two makes sense


def read_hint(answer: Answer) -> RateLimitHint | None:
    """Return what an answer reports about the rate limit, or None if there is nothing that can be read."""
    limit, remaining = requests(answer, "x-ratelimit-limit"), requests(answer, "x-ratelimit-remaining")
    hint = RateLimitHint(limit=limit, remaining=remaining, reset_at=reset_at(answer))
    return None if hint == RateLimitHint() else hint


def number(answer: Answer, name: str) -> int | None:
    """Return the number that a header holds, or None if it is missing, repeated or anything else."""
    values = [value for key, value in answer.headers.items() if key.lower() == name]
    text = values[0].strip() if len(values) == 1 else ""
    return int(text) if NUMBER.fullmatch(text) else None


def requests(answer: Answer, name: str) -> int | None:
    """Return the number of requests that a header holds, or None if it isn't credible."""
    found = number(answer, name)
    return found if found is not None and found <= MOST_REQUESTS else None


def reset_at(answer: Answer) -> datetime | None:
    """Return when the limit is reset. A small number means seconds from now, a large one unix seconds."""
    found = number(answer, "x-ratelimit-reset")
    if found is None:
        return None
    if found <= LONGEST_WINDOW:
        return answer.issued_at + timedelta(seconds=found)
    return datetime.fromtimestamp(found, UTC) if found >= FIRST_MOMENT else None
