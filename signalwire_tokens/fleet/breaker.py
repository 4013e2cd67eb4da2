"""What a fleet knows about SignalWire's health, from its own requests and from other processes. It reads no clock.

::

    from      to        when
    -------   -------   -------------------------------------------------------------------------
    CLOSED    OPEN      enough sessions have failed (ten), or SignalWire has asked for a pause
    OPEN      RAMPING   SignalWire has answered
    RAMPING   CLOSED    the ramp is over
    RAMPING   OPEN      as from CLOSED

While the breaker is closed, requests go out at the full rate. While it is open, the fleet sends one request at a
time, a *probe*, with growing pauses. Any answer that isn't a failure of SignalWire's own closes it, even one that
refuses a session. The rate then grows from a tenth to the full one, so that the sessions that had to wait don't come at
once.

Failures count by session, not by attempt: one session that fails again and again, for a reason of its own, doesn't open
the breaker.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import attrs

from signalwire_tokens.outcomes import Failure, Misconfigured, NotSent
from signalwire_tokens.policy import NEVER

if TYPE_CHECKING:
    from signalwire_tokens.errors import SignalWireTokenError

__all__ = ["Breaker", "BreakerState"]


FIRST_SHARE = 0.1  # the share of the full rate with which the ramp begins


class BreakerState(Enum):
    """What a fleet assumes about SignalWire's health."""

    CLOSED = "closed"  # SignalWire works: requests go out at the full rate
    OPEN = "open"  # SignalWire is down: one session at a time sends a request, to see whether it is back
    RAMPING = "ramping"  # SignalWire is back: the rate grows


@attrs.define(eq=False)
class Breaker:
    """A fleet's record of SignalWire's health.

    - `failed` has the ids of the sessions that have failed since SignalWire last answered, and `failure` is the latest
      failure.
    - `at_fault` is True if all of these failures are `Misconfigured`: then the settings are wrong, and waiting can't
      help.
    - `failed_probes` is how many probes have failed in a row. `probing` is True while one is under way, and `probe_at`
      is when the next one may begin.
    - `back_at` is when the breaker last closed, and the ramp began.

    Times are in seconds by the client's clock; -inf means "never so far".
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
        """Return the state at `now`. `ramp` is how many seconds it takes to return to the full rate."""
        if self.is_open:
            return BreakerState.OPEN
        return BreakerState.RAMPING if now < self.back_at + ramp else BreakerState.CLOSED

    def share(self, now: float, ramp: float) -> float:
        """Return which share of the full rate may be used at `now`, from 0 to 1. It is 0 while the breaker is open.

        With a ramp of 10 s, for example, it is 0.1 when SignalWire is back, 0.55 after 5 s, and 1.0 after 10 s.
        """
        if self.is_open:
            return 0.0
        passed = now - self.back_at
        return 1.0 if passed >= ramp else FIRST_SHARE + (1 - FIRST_SHARE) * passed / ramp

    def succeed(self, now: float) -> bool:
        """Record that SignalWire has answered, and close the breaker. Return whether it was open."""
        was_open, self.is_open = self.is_open, False
        self.failed.clear()
        self.failure, self.at_fault, self.failed_probes = None, False, 0
        if was_open:
            self.back_at = now
        return was_open

    def adopt(self, error: SignalWireTokenError, *, failed_probes: int, probe_at: float) -> None:
        """Record what all processes know: SignalWire is down. `error` is for a fleet that hasn't noticed itself."""
        self.failure = self.failure or NotSent(error)
        self.is_open, self.failed_probes, self.probe_at = True, failed_probes, probe_at

    def fail(self, session: int, failure: Failure, *, limit: float, was_probe: bool) -> bool:
        """Record that a session has failed, and open the breaker once `limit` sessions have.

        Return whether this has opened it. `session` is the id of the session's engine. `was_probe` is True if the
        session sent its request as a probe. A `limit` of 0 opens the breaker at once.
        """
        is_misconfigured = isinstance(failure, Misconfigured)
        self.at_fault = is_misconfigured and (self.failure is None or self.at_fault)
        self.failure = failure
        self.failed.add(session)
        self.failed_probes += was_probe
        was_open, self.is_open = self.is_open, self.is_open or len(self.failed) >= limit
        return self.is_open and not was_open
