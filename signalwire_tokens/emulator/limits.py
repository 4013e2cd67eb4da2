"""How many requests the emulator accepts, and the headers that report it."""

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
    """How many POST, PUT and PATCH requests are accepted in each period of `seconds`, which are at most 366 days.

    The defaults are SignalWire's. Requests with other methods don't count and are never refused. Requests that fail or
    are refused count like others.
    """

    requests: int = attrs.field(default=13_800, validator=[whole, attrs.validators.ge(0)])
    seconds: float = attrs.field(
        default=10.0, converter=seconds_of, validator=[attrs.validators.gt(0), attrs.validators.le(LONGEST_WINDOW)]
    )


class Meter:
    """Counts requests in consecutive periods. Without a limit, it accepts all and sends no headers."""

    def __init__(self, limit: RateLimit | None, now: Callable[[], float]) -> None:
        self._now = now
        self.begin(limit)

    def begin(self, limit: RateLimit | None) -> None:
        """Begin a period with a limit, or with none. Raise a `TypeError` for what is neither."""
        if not isinstance(limit, RateLimit | None):
            raise TypeError("rate_limit must be a RateLimit or None, such as RateLimit(100, 10)")
        self.limit: RateLimit | None = limit
        self._until = -math.inf
        self._count = 0

    def accept(self, method: str) -> tuple[bool, Mapping[str, str]]:
        """Count a request, and return whether it is accepted, and the headers of its answer."""
        if self.limit is None:
            return True, {}
        now = self._now()
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
