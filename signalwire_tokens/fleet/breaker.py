"""What is known of the service's health, from what came of all sessions' requests. It reads no clock."""

from __future__ import annotations

import math
from enum import Enum

import attrs

from signalwire_tokens.outcomes import Failure, Misconfigured

__all__ = ["Breaker", "BreakerState"]

NEVER = -math.inf
FIRST_SHARE = 0.1  # of the full rate, when the service is back


class BreakerState(Enum):
    """How a fleet takes the service to be."""

    CLOSED = "closed"  # well: requests go out at the full rate
    OPEN = "open"  # down: one at a time asks after it
    RAMPING = "ramping"  # back: the rate grows


@attrs.define(eq=False)
class Breaker:
    """Open when the service is down, and closed little by little when it is back.

    `failed` names the sessions that have failed since the service last answered: one that fails by itself, however
    often, says nothing of the service. `failure` is the last one, and `at_fault` tells whether each was the settings'.
    """

    failed: set[int] = attrs.Factory(set)
    failure: Failure | None = None
    at_fault: bool = False
    failed_probes: int = 0
    is_open: bool = False
    probing: bool = False
    probe_at: float = NEVER
    back_at: float = NEVER

    def state(self, now: float, ramp: float) -> BreakerState:
        """Say how the service is taken to be."""
        if self.is_open:
            return BreakerState.OPEN
        return BreakerState.RAMPING if now < self.back_at + ramp else BreakerState.CLOSED

    def share(self, now: float, ramp: float) -> float:
        """Say which share of the full rate may be used now."""
        if self.is_open:
            return 0.0
        passed = now - self.back_at
        return 1.0 if passed >= ramp else FIRST_SHARE + (1 - FIRST_SHARE) * passed / ramp

    def succeed(self, now: float) -> bool:
        """Learn that the service has answered; tell whether that is news."""
        was_open, self.is_open = self.is_open, False
        self.failed.clear()
        self.failure, self.at_fault, self.failed_probes = None, False, 0
        if was_open:
            self.back_at = now
        return was_open

    def fail(self, session: int, failure: Failure, *, limit: float, was_probe: bool) -> bool:
        """Learn that it has failed a session; when it has failed so many, it is down. Tell whether that is news."""
        is_misconfigured = isinstance(failure, Misconfigured)
        self.at_fault = is_misconfigured and (self.failure is None or self.at_fault)
        self.failure = failure
        self.failed.add(session)
        self.failed_probes += was_probe
        was_open, self.is_open = self.is_open, self.is_open or len(self.failed) >= limit
        return self.is_open and not was_open
