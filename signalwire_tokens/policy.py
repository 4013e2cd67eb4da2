"""When to renew, and how: from a pair's times, what failed so far and a random draw, the next step.

It reads no clock, does no I/O and draws nothing by itself. All times are seconds by one clock, which is the caller's.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Protocol, TypeAlias, assert_never

import attrs

from .errors import ConfigurationError
from .outcomes import (
    Ambiguous,
    Denied,
    Expire,
    Failure,
    Misconfigured,
    NotSent,
    NotYet,
    Present,
    Reissue,
    Spent,
    Step,
    Throttled,
)
from .throttle import LONGEST_THROTTLE

__all__ = ["NO_QUIET", "ROUNDING", "Failing", "Quiet", "RefreshPolicy", "SessionState", "Situation"]

NEVER = -math.inf
MOST_DOUBLINGS = 10
ROUNDING = 2.0  # seconds by which times may differ through rounding alone: a `Date` has whole seconds


class SessionState(Enum):
    """How a session stands."""

    FRESH = "fresh"  # the token is valid, and not due for renewal
    DUE = "due"  # it is valid, and due
    EXPIRING = "expiring"  # it is valid for a few moments more
    UNAVAILABLE = "unavailable"  # there is no valid token, but a way to get one
    EXPIRED = "expired"  # there is no way to get one
    CLOSED = "closed"  # the session isn't open: not yet, or not any more


Quiet: TypeAlias = tuple[float, float]  # when SignalWire asked to be left alone, and until when
NO_QUIET: Quiet = (NEVER, NEVER)


@attrs.define(eq=False)
class Failing:
    """What is known of attempts that failed since the last success.

    `count` is how many failed in a row, `replays` how often the refresh token was presented with an unknown result.
    `is_degraded` says whether the failure was reported: by an event or, before the first pair, only in the log.
    `is_short` says whether the current token is too short-lived to be kept.
    """

    failure: Failure
    count: int = 0
    replays: int = 0
    is_degraded: bool = False
    is_short: bool = False


class Situation(Protocol):
    """What the policy decides by: the record of a kept token, which `Lifecycle` explains.

    `life` is how long the access token is valid in all. `access_until` is -inf if there was no token yet. `draw` is
    uniform in 0 to 1, and new after each attempt. `tried` is when the last attempt ended.
    """

    life: float
    due: float
    access_until: float
    presentable: bool
    reissuable: bool
    draw: float
    tried: float
    not_before: float
    wanted: float
    pressed: float
    failing: Failing | None

    @property
    def refresh_until(self) -> float:
        """When the refresh token expires."""


@attrs.frozen(kw_only=True)
class RefreshPolicy:
    """When a session renews, and what it does when it cannot. All times are in seconds.

    Short lives scale the pauses down: those marked *scaled* are multiplied by `min(1, life / full_pace_life)`.
    """

    due_from: float = 0.6
    """A token is due for renewal at a random point of its life: no sooner than this share of it."""
    due_to: float = 0.8
    """And no later than this share."""
    min_ttl: float = 30.0
    """With less than this left, `token()` waits for the renewal."""
    min_ttl_share: float = 0.1
    """But never with more than this share of the life left."""
    min_life: float = 30.0
    """A token that lives shorter than this is not kept."""
    patience: float = 10.0
    """How long `token()` waits for a renewal."""
    drain: float = 15.0
    """How long closing waits for a request in flight."""
    floor: float = 0.5
    """Attempts are never closer than this."""
    floor_share: float = 1 / 200
    """Or than this share of the life, where that is less."""
    backoff_from: float = 0.5
    """The shortest pause after a failure; scaled."""
    backoff_to: float = 60.0
    """The longest, reached by doubling; scaled."""
    backoff_share: float = 0.25
    """While the token lives, no pause is longer than this share of what is left."""
    late_from: float = 5.0
    """Once the token is dead, pauses double no further than to something between this; scaled."""
    late_to: float = 15.0
    """And this; scaled."""
    full_pace_life: float = 360.0
    """The shortest life with which pauses are not scaled down."""
    throttle_share: float = 0.5
    """SignalWire, if it asks to be left alone, gets at most this share of what is left of a valid token."""
    throttle_late: float = LONGEST_THROTTLE
    """Without a valid token, at most this from when it asked; scaled."""
    throttle_spread: float = 5.0
    """Sessions spread their next attempt over this, or over the time SignalWire asked for if that is less; scaled."""
    misconfigured_from: float = 300.0
    """After a 401, 403 or 404, while the token is valid: the shortest pause; scaled."""
    misconfigured_to: float = 600.0
    """And the longest; scaled."""
    forced_every: float = 60.0
    """`invalidate()` forces at most one renewal in this time."""
    forced_share: float = 0.1
    """Or in this share of the life, where that is less."""
    leap: float = 60.0
    """A wall clock that gains more than this on the session's clock makes the session due."""
    leap_spread: float = 60.0
    """Within this; scaled."""
    lease: float = 20.0
    """How long one process may take to renew a pair that is shared through a store; half of it is the request's."""
    lease_share: float = 0.25
    """But never longer than this share of the life."""
    poll: float = 0.25
    """How often the others look whether it has, or has died; at most a tenth of the lease."""
    store_patience: float = 1.0
    """How long a store gets for an answer; at most half of the lease."""
    trip_after: float = 10.0
    """So many sessions that fail in a row, and a fleet takes the service to be down."""
    probe_to: float = 5.0
    """While it is, one request at a time asks after it: the longest pause between two, reached by doubling; scaled."""
    ramp: float = 10.0
    """Once it is back, a fleet comes back to its full rate within this; scaled."""

    def __attrs_post_init__(self) -> None:
        for name in (field.name for field in attrs.fields(RefreshPolicy)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ConfigurationError(f"{name} must be a positive number")
            if value >= 1 and (name.endswith("_share") or name == "due_to"):
                raise ConfigurationError(f"{name} must be a share, less than 1")
        for name in ("due", "backoff", "late", "misconfigured"):
            if getattr(self, f"{name}_from") > getattr(self, f"{name}_to"):
                raise ConfigurationError(f"{name}_from must not be more than {name}_to")
        if self.min_ttl_share > self.longest_ttl(1.0):
            raise ConfigurationError("min_ttl_share must not be more than 1 - due_to: a fresh token must suffice")

    def longest_ttl(self, life: float) -> float:
        """Say how much life may be asked of every token: what a fresh one has left at least."""
        return round(life * (1 - self.due_to), 6)

    def check_life(self, life: float) -> None:
        """Refuse tokens that are not to live long enough to be kept."""
        if life < self.min_life:
            raise ConfigurationError(
                f"a token that lives {life:g} s is too short-lived to be kept alive: "
                f"lower RefreshPolicy(min_life={self.min_life:g}) if that is meant"
            )

    def keeps(self, life: float) -> bool:
        """Tell whether a token is worth having that was to live longer, but for what the service's clock took off."""
        return life >= self.min_life / 2

    def due(self, *, asked: float, life: float, draw: float) -> float:
        """Say when a new token is due for renewal."""
        return asked + life * between(self.due_from, self.due_to, draw)

    def due_after_leap(self, *, now: float, life: float, draw: float) -> float:
        """Say when a token is due of which nobody knows how old it is."""
        return now + self._pace(life) * self.leap_spread * draw

    def reserve(self, life: float) -> float:
        """Say how much life a token must have left to be handed out without waiting."""
        return min(self.min_ttl, life * self.min_ttl_share)

    def is_early(self, failure: Failure | None, *, left: float, life: float) -> bool:
        """Tell whether nothing is wrong but that it was too early, with so much left of the token."""
        return isinstance(failure, NotYet) and left > self.reserve(life)

    def forced_interval(self, life: float) -> float:
        """Say how far apart forced renewals are."""
        return min(self.forced_every, self._sound(life) * self.forced_share)

    def lease_for(self, life: float) -> float:
        """Say how long a pair is leased for its renewal."""
        return min(self.lease, self._sound(life) * self.lease_share)

    def poll_for(self, life: float) -> float:
        """Say how long to wait before looking again whether another has renewed."""
        return min(self.poll, self.lease_for(life) / 10)

    def store_limit(self, life: float) -> float:
        """Say how long a store gets for an answer."""
        return min(self.store_patience, self.lease_for(life) / 2)

    def store_pauses(self, life: float) -> tuple[float, float]:
        """Say how long to wait before saving again what could not be saved: first, and at the longest."""
        return self._pace(life) * self.backoff_from, self._pace(life) * self.backoff_to

    def deadline(self, situation: Situation, now: float) -> float:
        """Return when a renewal comes too late, where many wait for theirs.

        A session without a valid token counts as one with its last reserve, if a caller waits for it, and otherwise as
        one that is due at the latest.
        """
        if situation.access_until > now:
            return situation.access_until
        is_awaited, life = situation.wanted < math.inf, situation.life
        return now + (self.reserve(life) if is_awaited else self.longest_ttl(life))

    def probe_pause(self, life: float, failed: int, draw: float) -> float:
        """Say how long to wait before the service is asked again that did not answer so many probes."""
        doubled = self.backoff_from * 2.0 ** min(failed, MOST_DOUBLINGS)
        return self._pace(life) * min(self.probe_to, doubled) * between(0.5, 1.0, draw)

    def ramp_for(self, life: float) -> float:
        """Say how long it takes to come back to the full rate."""
        return self._pace(life) * self.ramp

    def lapse_for(self, life: float) -> float:
        """Say for how long a fleet remembers a session that has died."""
        return self._pace(life) * self.misconfigured_from

    def state(self, situation: Situation, now: float) -> SessionState:
        """Return how an open session stands."""
        left = situation.access_until - now
        if left <= 0:
            return SessionState.UNAVAILABLE
        if left < self.reserve(situation.life):
            return SessionState.EXPIRING
        return SessionState.FRESH if now < situation.due else SessionState.DUE

    def next_step(self, situation: Situation, quiet: Quiet) -> Step:
        """Return what to do next, and when, while SignalWire wants to be left alone as `quiet` says."""
        at = self._earliest(situation, quiet)
        if at < way_ends(situation):
            return self.way(situation, at)
        return Expire(situation.access_until)

    def way(self, situation: Situation, at: float) -> Step:
        """Return what could be done at a time."""
        if situation.presentable and at < situation.refresh_until:
            return Present(at)
        if situation.reissuable:
            return Reissue(at)
        return Expire(situation.access_until)

    def _earliest(self, situation: Situation, quiet: Quiet) -> float:
        """Return when the next attempt may be: it does not move until something happens."""
        failing = situation.failing if situation.pressed == math.inf else None
        failure = None if failing is None else failing.failure
        if failing is None:
            at = min(situation.due, situation.pressed)
        else:
            at = situation.tried + self._pause(situation, failing)
        left = situation.access_until - situation.tried
        is_early = self.is_early(failure, left=left, life=situation.life)
        if not (is_early or isinstance(failure, Misconfigured | Denied)):  # asking sooner does not help
            at = min(at, situation.wanted)
        at = max(at, situation.tried + self.floor_for(situation.life))
        if at < quiet[1]:
            at = max(at, self._throttle_end(situation, quiet, at))
        return max(at, situation.not_before)

    def _pause(self, situation: Situation, failing: Failing) -> float:
        """Return how long to wait after a failure."""
        failure, doublings = failing.failure, 2.0 ** min(failing.count, MOST_DOUBLINGS)
        pace, left = self._pace(situation.life), situation.access_until - situation.tried
        late = left <= 0 and situation.access_until != NEVER  # with a first token to come, it isn't late
        match failure:
            case Spent():
                pause = 0.0
            case Misconfigured() | Denied() if not late:
                pause = pace * between(self.misconfigured_from, self.misconfigured_to, situation.draw)
            case Ambiguous() if failing.replays == 1:
                pause = pace * between(self.backoff_from, 2 * self.backoff_from, situation.draw)
            case NotYet() if left > 0:
                longest = min(self.misconfigured_to, left * self.backoff_share)
                pause = between(longest / 2, longest, situation.draw)
            case Misconfigured():
                pause = pace * between(self.late_from, self.late_to, situation.draw)
            case Denied():
                longest = min(self.misconfigured_to, self.late_to * doublings)
                pause = pace * between(longest / 2, longest, situation.draw)
            case NotSent() | NotYet() | Ambiguous() | Throttled():
                doubled = self.backoff_from * doublings
                shortest = min(self.late_from, doubled / 2) if late else self.backoff_from
                longest = min(self.late_to if late else self.backoff_to, doubled)
                pause = pace * between(shortest, longest, situation.draw)
            case _:
                assert_never(failure)
        horizon = way_ends(situation) - situation.tried
        if left > 0 and not failing.is_short:
            horizon = min(horizon, left)
        return min(pause, horizon * self.backoff_share)

    def _throttle_end(self, situation: Situation, quiet: Quiet, at: float) -> float:
        """Return when a session may ask SignalWire again after a throttle."""
        horizon, left = way_ends(situation) - at, situation.access_until - at
        longest = at + max(0.0, min(horizon, left) if left > 0 else horizon) * self.throttle_share
        (asked, until), life, draw = quiet, situation.life, situation.draw
        end = until + self._throttle_spread(asked, until, life) * draw
        return min(longest, end if left > 0 else self.throttle_end(asked=asked, until=until, life=life, draw=draw))

    def throttle_end(self, *, asked: float, until: float, life: float, draw: float) -> float:
        """Return when SignalWire is asked again without a valid token: never later than `throttle_late` after it asked.

        It asked at `asked` to be left alone until `until`. `draw` spreads the sessions that wait.
        """
        pace = self._pace(life)
        end = until + self._throttle_spread(asked, until, life) * draw
        return min(end, asked + pace * (self.throttle_late - self.throttle_spread * (1 - draw)))

    def _throttle_spread(self, asked: float, until: float, life: float) -> float:
        return min(self._pace(life) * self.throttle_spread, until - asked)

    def floor_for(self, life: float) -> float:
        """Say how far apart attempts are at least."""
        return min(self.floor, self._sound(life) * self.floor_share)

    def _pace(self, life: float) -> float:
        return min(1.0, self._sound(life) / self.full_pace_life)

    def _sound(self, life: float) -> float:
        """Take a life for no shorter than any that is kept: one of nothing must not mean pauses of nothing."""
        return max(life, self.min_life)


def way_ends(situation: Situation) -> float:
    """Return when trying stops making sense."""
    if situation.reissuable:
        return math.inf
    return situation.refresh_until if situation.presentable else NEVER


def between(low: float, high: float, draw: float) -> float:
    """Take a draw from 0 to 1 to a range."""
    return low + (high - low) * draw
