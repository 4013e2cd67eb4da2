"""The emulator's rate limit, and the headers that report it.

The limit works in fixed periods. A period begins with the first request after the previous period has ended, and lasts
`RateLimit.seconds` by the emulator's wall clock. With `RateLimit(2, 10)`:

| time | request | answer | `Remaining` | `Reset` |
| --- | --- | --- | --- | --- |
| 0 s | POST | accepted; the period lasts until 10 s | 1 | 10 |
| 3 s | GET | accepted, and not counted | 1 | 7 |
| 4 s | POST | accepted | 0 | 6 |
| 9 s | POST | 429, `Retry-After: 1` | 0 | 1 |
| 12 s | POST | accepted; a new period lasts until 22 s | 1 | 10 |
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

from signalwire_tokens.durations import seconds_of
from signalwire_tokens.wire.hints import LONGEST_WINDOW

from .arguments import whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Meter", "RateLimit"]

LIMITED_METHODS = ("POST", "PUT", "PATCH")


@attrs.frozen
class RateLimit:
    """A limit of `requests` POST, PUT and PATCH requests in each period of `seconds`.

    `seconds` is at most 366 days. The defaults are SignalWire's. A request counts even if the service refuses it.
    Requests with other methods don't count and are never refused.
    """

    requests: int = attrs.field(default=13_800, validator=[whole, attrs.validators.ge(0)])
    seconds: float = attrs.field(
        default=10.0, converter=seconds_of, validator=[attrs.validators.gt(0), attrs.validators.le(LONGEST_WINDOW)]
    )


class Meter:
    """A counter of requests. Without a limit, it accepts every request and returns no headers.

    `now` returns the emulator's time, in seconds since the epoch.
    """

    def __init__(self, limit: RateLimit | None, now: Callable[[], float]) -> None:
        self._now = now
        self.begin(limit)

    def begin(self, limit: RateLimit | None) -> None:
        """Set the limit and discard the count. None removes the limit. Raise a `TypeError` for anything else."""
        if not isinstance(limit, RateLimit | None):
            raise TypeError("rate_limit must be a RateLimit or None, such as RateLimit(100, 10)")
        self.limit: RateLimit | None = limit
        self._until = -math.inf
        self._count = 0

    def accept(self, method: str) -> tuple[bool, Mapping[str, str]]:
        """Count a request. Return whether it is accepted, and the headers for its answer."""
        if self.limit is None:
            return True, {}
        now = self._now()
        # A period that ends later than a whole period from now is from before the clock was set back: begin another.
        if not now < self._until <= now + self.limit.seconds:
            self._until, self._count = now + self.limit.seconds, 0
        is_counted = method in LIMITED_METHODS
        self._count += is_counted
        left = math.ceil(self._until - now)
        headers = {
            "X-RateLimit-Limit": str(self.limit.requests),
            "X-RateLimit-Remaining": str(max(0, self.limit.requests - self._count)),
            "X-RateLimit-Reset": str(left),
        }
        if is_counted and self._count > self.limit.requests:
            return False, {**headers, "Retry-After": str(left)}
        return True, headers
