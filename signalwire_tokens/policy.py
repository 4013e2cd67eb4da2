"""When a session renews its token, and in which way. `RefreshPolicy.next_step` is the whole answer.

The policy is a function of values: of the pair's times, what has failed so far, what callers want, and a random draw.
It reads no clock, does no I/O and draws no random number itself, so tests cover every case without waiting. All times
are seconds by the session's clock. The lifecycle record is the `Situation` that the policy reads.

A normal life of a two-hour token, with the default settings::

    asked                             refresh_from  refresh_to        needed_ttl    access_until  refresh_until
      |---------------- FRESH -------------|--- DUE ----|------ DUE -------|- EXPIRING -|- UNAVAILABLE -|
      0                                  72 min       96 min           119.5 min     120 min         125 min

The renewal starts at a random moment between `refresh_from` and `refresh_to`. That leaves at least 24 minutes for
further attempts if it fails. From 119.5 minutes on, `token()` waits for the renewal before it returns. After 120
minutes there is no valid token. For five more minutes, the refresh token still brings one. A session with the
project's credentials can also issue a new pair at any time.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeAlias, assert_never, cast

import attrs

from .durations import positive_seconds, seconds_of, shown, spoken
from .errors import ConfigurationError
from .outcomes import (
    Ambiguous,
    Denied,
    Expire,
    Failure,
    IssueNew,
    Misconfigured,
    NotSent,
    NotYet,
    Spent,
    Step,
    Throttled,
    UseRefreshToken,
)
from .throttle import LONGEST_THROTTLE

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "CLOCK_TOLERANCE",
    "NEVER",
    "NO_THROTTLE",
    "Failing",
    "RefreshPolicy",
    "RefreshTuning",
    "SessionState",
    "Situation",
    "ThrottlePeriod",
    "renewable_until",
]

NEVER = -math.inf  # the time of what has never happened
MAX_DOUBLINGS = 1000  # more would change nothing, since every pause has an upper bound, and a float can't hold 2**1024
CLOCK_TOLERANCE = 2.0  # seconds by which two times may differ through rounding alone: a `Date` header has whole seconds


class SessionState(Enum):
    """The state of a session, which decides what `token()` does."""

    FRESH = "fresh"  # the token is valid, and not due for renewal
    DUE = "due"  # the token is valid, and due for renewal
    EXPIRING = "expiring"  # the token expires in moments: `token()` waits for the next one
    UNAVAILABLE = "unavailable"  # there is no valid token, but the session can get one
    EXPIRED = "expired"  # there is no valid token, and no way to get one
    CLOSED = "closed"  # the session isn't open yet, or was closed


ThrottlePeriod: TypeAlias = tuple[float, float]  # when SignalWire asked for a pause, and until when
NO_THROTTLE: ThrottlePeriod = (NEVER, NEVER)


@attrs.define(eq=False)
class Failing:
    """The attempts that have failed since the last success.

    `failure` is the latest one, and `count` how many failed in a row. `replays` counts how often the refresh token was
    sent with an unknown result. `is_degraded` is true once the failure was reported: by an event or, before the first
    pair, in the log. `is_short` is true while the current token has a shorter lifetime than a session accepts.
    """

    failure: Failure
    count: int = 0
    replays: int = 0
    is_degraded: bool = False
    is_short: bool = False


class Situation(Protocol):
    """What the policy decides by: the record of a kept token, which `Lifecycle` implements.

    | attribute | meaning |
    | --- | --- |
    | `lifetime` | how long the access token is valid in all, in seconds |
    | `due` | when the pair is due for renewal |
    | `access_until` | when the access token expires; -inf before the first token |
    | `refresh_until` | when the refresh token expires |
    | `can_refresh` | whether the refresh token may still be used |
    | `can_issue` | whether a new pair may be issued |
    | `draw` | a random number from 0 to 1, drawn again after each attempt |
    | `tried_at` | when the last attempt ended; -inf before the first one |
    | `not_before` | when the next renewal may start at the earliest |
    | `awaited` | since when a caller waits; inf if none does |
    | `demanded` | when a renewal was demanded, whatever was planned; inf if none was |
    | `failing` | the failures since the last success, if any |
    """

    lifetime: float
    due: float
    access_until: float
    can_refresh: bool
    can_issue: bool
    draw: float
    tried_at: float
    not_before: float
    awaited: float
    demanded: float
    failing: Failing | None

    @property
    def refresh_until(self) -> float:
        """When the refresh token expires."""


def check_numbers(
    settings: RefreshPolicy | RefreshTuning, *, ranges: Sequence[str], shares: Sequence[str] = ()
) -> None:
    """Raise `ConfigurationError` for a number that isn't positive, a share of 1 or more, or a range upside down."""
    prefix = "tuning." if isinstance(settings, RefreshTuning) else ""
    for name in (field.name for field in attrs.fields(type(settings)) if field.name != "tuning"):
        value: object = getattr(settings, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name.endswith("_share") or name in shares:
            if not (is_number and 0 < cast("float", value) < 1):
                raise ConfigurationError(
                    f"{prefix}{name} must be a share of the lifetime, more than 0 and less than 1: got {shown(value)}"
                )
        elif name == "outage_after":
            if not (is_number and isinstance(value, int) and value >= 1):
                raise ConfigurationError(f"{prefix}{name} must be a whole number, 1 or more: got {shown(value)}")
        else:
            positive_seconds(prefix + name, value)
    for name in ranges:
        if getattr(settings, f"{name}_min") > getattr(settings, f"{name}_max"):
            raise ConfigurationError(f"{prefix}{name}_min must not be more than {prefix}{name}_max")


@attrs.frozen(kw_only=True)
class RefreshTuning:
    """Settings of `RefreshPolicy(tuning=…)` that few applications change.

    Durations are in seconds, or a `timedelta`. Bounds are as in `RefreshPolicy`. A *share* is a part of a lifetime. If
    a duration and a share bound the same thing, the smaller result counts. *Scaled* settings shrink for short
    lifetimes: they are multiplied by `min(1, lifetime / full_pace_lifetime)`.

    - `min_ttl_share`: `RefreshPolicy.min_ttl` is at most this share of the lifetime; 1 - `refresh_to` at most.
    - `min_interval`: the shortest time between two attempts.
    - `min_interval_share`: `min_interval` is at most this share of the lifetime.
    - `backoff_share`: while the token is valid, a pause is at most this share of the time left.
    - `expired_backoff_min`: without a valid token, the shortest pause after several failures; scaled.
    - `expired_backoff_max`: without a valid token, the longest pause after a failure; scaled.
    - `full_pace_lifetime`: the lifetime from which on scaled settings apply in full.
    - `throttle_share`: with a valid token, a pause that SignalWire wants takes at most this share of the time left.
    - `throttle_max`: without a valid token, a pause that SignalWire wants takes at most this long; scaled.
    - `throttle_spread`: after such a pause, sessions spread their attempts over this time; scaled.
    - `rejected_backoff_min`: with a valid token, the shortest pause after a 400, 401, 403 or 404; scaled.
    - `rejected_backoff_max`: with a valid token, the longest pause after a 400, 401, 403 or 404; scaled.
    - `invalidate_interval`: `invalidate()` starts at most one renewal in this time.
    - `invalidate_interval_share`: `invalidate_interval` is at most this share of the lifetime.
    - `clock_jump`: if the wall clock jumps ahead by more, each session renews soon.
    - `clock_jump_spread`: sessions spread these renewals over this time; scaled.
    - `lease`: how long one process may take to renew a shared pair. Its request gets half of that.
    - `lease_share`: `lease` is at most this share of the lifetime.
    - `lease_poll`: how often other processes look for the new pair; at most a tenth of the lease.
    - `outage_after`: a fleet assumes an outage when this many sessions in a row have failed.
    - `outage_backoff_max`: during an outage, the longest pause between a fleet's requests; scaled.
    - `recovery`: how long a fleet takes to reach its full rate after an outage; scaled.
    """

    min_ttl_share: float = 0.1
    min_interval: float = attrs.field(default=0.5, converter=seconds_of)
    min_interval_share: float = 1 / 200
    backoff_share: float = 0.25
    expired_backoff_min: float = attrs.field(default=5.0, converter=seconds_of)
    expired_backoff_max: float = attrs.field(default=15.0, converter=seconds_of)
    full_pace_lifetime: float = attrs.field(default=360.0, converter=seconds_of)
    throttle_share: float = 0.5
    throttle_max: float = attrs.field(default=LONGEST_THROTTLE, converter=seconds_of)
    throttle_spread: float = attrs.field(default=5.0, converter=seconds_of)
    rejected_backoff_min: float = attrs.field(default=300.0, converter=seconds_of)
    rejected_backoff_max: float = attrs.field(default=600.0, converter=seconds_of)
    invalidate_interval: float = attrs.field(default=60.0, converter=seconds_of)
    invalidate_interval_share: float = 0.1
    clock_jump: float = attrs.field(default=60.0, converter=seconds_of)
    clock_jump_spread: float = attrs.field(default=60.0, converter=seconds_of)
    lease: float = attrs.field(default=20.0, converter=seconds_of)
    lease_share: float = 0.25
    lease_poll: float = attrs.field(default=0.25, converter=seconds_of)
    outage_after: int = 10
    outage_backoff_max: float = attrs.field(default=5.0, converter=seconds_of)
    recovery: float = attrs.field(default=10.0, converter=seconds_of)

    def __attrs_post_init__(self) -> None:
        check_numbers(self, ranges=("expired_backoff", "rejected_backoff"))


@attrs.frozen(kw_only=True)
class RefreshPolicy:
    """When a session renews its token, and how long it waits.

    Durations are in seconds, or a `timedelta`. Each number is more than 0, and each share less than 1. A `…_min` is at
    most its `…_max`.

    - `refresh_from`: the earliest time to renew, as a share of the lifetime; at most `refresh_to`.
    - `refresh_to`: the latest time to renew, as a share of the lifetime. Each pair gets a random time between the two.
    - `min_ttl`: `token()` waits for a renewal if the token is valid for less than this.
    - `min_lifetime`: the shortest token lifetime that a session accepts.
    - `wait_timeout`: how long `token()` waits before it raises `TokenUnavailable`.
    - `close_timeout`: how long closing waits for a request under way.
    - `backoff_min`: the shortest pause after a failure. Pauses are random, and their upper bound doubles.
    - `backoff_max`: the longest pause after a failure; shorter for lifetimes under six minutes.
    - `store_timeout`: how long to wait for the store; at most half of the lease.
    - `tuning`: further settings.
    """

    refresh_from: float = 0.6
    refresh_to: float = 0.8
    min_ttl: float = attrs.field(default=30.0, converter=seconds_of)
    min_lifetime: float = attrs.field(default=30.0, converter=seconds_of)
    wait_timeout: float = attrs.field(default=10.0, converter=seconds_of)
    close_timeout: float = attrs.field(default=15.0, converter=seconds_of)
    backoff_min: float = attrs.field(default=0.5, converter=seconds_of)
    backoff_max: float = attrs.field(default=60.0, converter=seconds_of)
    store_timeout: float = attrs.field(default=1.0, converter=seconds_of)
    tuning: RefreshTuning = RefreshTuning()

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.tuning, RefreshTuning):
            raise ConfigurationError(f"tuning must be a RefreshTuning, not {type(self.tuning).__name__}")
        check_numbers(self, ranges=("backoff",), shares=("refresh_from", "refresh_to"))
        if self.refresh_from > self.refresh_to:
            raise ConfigurationError("refresh_from must not be more than refresh_to")
        if self.tuning.min_ttl_share > self.longest_ttl(1.0):
            raise ConfigurationError(
                "tuning.min_ttl_share must not be more than 1 - refresh_to: otherwise a token that isn't due is too old"
            )

    def longest_ttl(self, lifetime: float) -> float:
        """Return the longest `min_ttl` that a caller can ask for: each token has that long left until it is renewed."""
        return round(lifetime * (1 - self.refresh_to), 6)

    def check_lifetime(self, lifetime: float) -> None:
        """Raise `ConfigurationError` if tokens with this lifetime are too short-lived for a session."""
        if lifetime < self.min_lifetime:
            raise ConfigurationError(
                f"a token lifetime of {spoken(lifetime)} is too short for a session: the policy accepts "
                f"{spoken(self.min_lifetime)} or more. To allow it, pass RefreshPolicy(min_lifetime={lifetime:g})"
            )

    def accepts(self, lifetime: float) -> bool:
        """Return whether a session accepts a token with this lifetime, which an answer gave.

        A wrong clock at SignalWire can make a lifetime look shorter than it is, so half of `min_lifetime` is enough.
        """
        return lifetime >= self.min_lifetime / 2

    def due_at(self, *, asked: float, lifetime: float, draw: float) -> float:
        """Return when a pair that was asked for at `asked` is due for renewal."""
        return asked + lifetime * between(self.refresh_from, self.refresh_to, draw)

    def due_after_jump(self, *, now: float, lifetime: float, draw: float) -> float:
        """Return when a token is due after the wall clock jumped ahead, which leaves its age unknown."""
        return now + self._pace(lifetime) * self.tuning.clock_jump_spread * draw

    def needed_ttl(self, lifetime: float) -> float:
        """Return how long a token must be valid for `token()` to return it without waiting."""
        return min(self.min_ttl, lifetime * self.tuning.min_ttl_share)

    def is_early(self, failure: Failure | None, *, left: float, lifetime: float) -> bool:
        """Return whether an attempt failed only because it came too early, with `left` seconds of validity left."""
        return isinstance(failure, NotYet) and left > self.needed_ttl(lifetime)

    def invalidate_interval(self, lifetime: float) -> float:
        """Return the shortest time between two renewals that `invalidate()` starts."""
        tuning = self.tuning
        return min(tuning.invalidate_interval, self._at_least_min(lifetime) * tuning.invalidate_interval_share)

    def lease_for(self, lifetime: float) -> float:
        """Return how long a process leases a shared pair in order to renew it."""
        return min(self.tuning.lease, self._at_least_min(lifetime) * self.tuning.lease_share)

    def poll_for(self, lifetime: float) -> float:
        """Return how long to wait before checking again whether another process has renewed the pair."""
        return min(self.tuning.lease_poll, self.lease_for(lifetime) / 10)

    def store_limit(self, lifetime: float) -> float:
        """Return how long a store may take for an answer."""
        return min(self.store_timeout, self.lease_for(lifetime) / 2)

    def store_pauses(self, lifetime: float) -> tuple[float, float]:
        """Return the first and the longest pause before saving a pair again, after the store failed."""
        return self._pace(lifetime) * self.backoff_min, self._pace(lifetime) * self.backoff_max

    def deadline(self, situation: Situation, now: float) -> float:
        """Return by when a session in a fleet's queue needs its renewal. The queue is ordered by it.

        With a valid token, that is when the token expires. Without one, a session that a caller waits for is as urgent
        as one whose token is valid for `needed_ttl` more. A session that no caller waits for is as urgent as one whose
        token is due at the latest.
        """
        if situation.access_until > now:
            return situation.access_until
        is_awaited, lifetime = situation.awaited < math.inf, situation.lifetime
        return now + (self.needed_ttl(lifetime) if is_awaited else self.longest_ttl(lifetime))

    def probe_pause(self, lifetime: float, failed: int, draw: float) -> float:
        """Return the pause before a fleet's next single request during an outage, after `failed` of them failed."""
        doubled = self.backoff_min * 2.0 ** min(failed, MAX_DOUBLINGS)
        return self._pace(lifetime) * min(self.tuning.outage_backoff_max, doubled) * between(0.5, 1.0, draw)

    def recovery_for(self, lifetime: float) -> float:
        """Return how long a fleet takes to return to its full rate after an outage."""
        return self._pace(lifetime) * self.tuning.recovery

    def expired_kept_for(self, lifetime: float) -> float:
        """Return for how long a fleet keeps a session that has expired."""
        return self._pace(lifetime) * self.tuning.rejected_backoff_min

    def state(self, situation: Situation, now: float) -> SessionState:
        """Return the state of an open session."""
        left = situation.access_until - now
        if left <= 0:
            return SessionState.UNAVAILABLE
        if left < self.needed_ttl(situation.lifetime):
            return SessionState.EXPIRING
        return SessionState.FRESH if now < situation.due else SessionState.DUE

    def ages_at(self, situation: Situation, now: float) -> float:
        """Return when the state of a session with a valid token changes, if nothing happens to it."""
        expiring_at = situation.access_until - self.needed_ttl(situation.lifetime)
        if now >= min(situation.due, expiring_at):
            return expiring_at if now <= expiring_at else situation.access_until
        return min(situation.due, expiring_at)

    def next_step(self, situation: Situation, throttle: ThrottlePeriod) -> Step:
        """Return what to do next, and when. `throttle` is the pause that SignalWire last asked for."""
        return self.step_at(situation, self._earliest(situation, throttle))

    def step_at(self, situation: Situation, at: float) -> Step:
        """Return how the pair can be renewed at a time: with its refresh token, by a new issue or not at all."""
        if situation.can_refresh and at < situation.refresh_until:
            return UseRefreshToken(at)
        if situation.can_issue:
            return IssueNew(at)
        return Expire(situation.access_until)

    def _earliest(self, situation: Situation, throttle: ThrottlePeriod) -> float:
        """Return when the next attempt may start. The result changes only when the situation does, not as time passes.

        The rules apply in this order, each to the result of those before it:

        1. Without a failure: when the pair is due, or when a renewal was demanded.
           After a failure: after the pause for that failure.
        2. A caller that waits brings the attempt forward, unless trying sooner can't help.
        3. Two attempts are at least `min_interval` apart.
        4. A pause that SignalWire asked for is kept, within limits.
        5. `not_before` limits how often `invalidate()` starts renewals.
        """
        failing = situation.failing if situation.demanded == math.inf else None
        failure = None if failing is None else failing.failure
        if failing is None:
            at = min(situation.due, situation.demanded)
        else:
            at = situation.tried_at + self._pause(situation, failing)
        left = situation.access_until - situation.tried_at
        is_early = self.is_early(failure, left=left, lifetime=situation.lifetime)
        if not (is_early or isinstance(failure, Misconfigured | Denied)):  # trying sooner does not help
            at = min(at, situation.awaited)
        at = max(at, situation.tried_at + self.min_interval_for(situation.lifetime))
        if at < throttle[1]:
            at = max(at, self._throttle_end(situation, throttle, at))
        return max(at, situation.not_before)

    def _pause(self, situation: Situation, failing: Failing) -> float:
        """Return how long to wait after a failure.

        | failure | pause while the token is valid | pause without a valid token |
        | --- | --- | --- |
        | `Spent` | none: the other way is tried | none |
        | `Misconfigured` | 5 to 10 min | 5 to 15 s |
        | `Denied` | 5 to 10 min | doubling, up to 10 min |
        | `NotYet` | an eighth to a quarter of the time left, up to 10 min | doubling, up to 15 s |
        | the first `Ambiguous` of a refresh token | 0.5 to 1 s | 0.5 to 1 s |
        | others | doubling, 0.5 s to 1 min | doubling, up to 5 to 15 s |

        In all cases, a pause takes at most a quarter of the time in which a renewal is still of use. So there are
        always several attempts before the token, or the last way to renew it, expires.
        """
        tuning = self.tuning
        failure, doublings = failing.failure, 2.0 ** min(failing.count, MAX_DOUBLINGS)
        pace, left = self._pace(situation.lifetime), situation.access_until - situation.tried_at
        has_expired = left <= 0 and situation.access_until != NEVER  # before the first token, nothing has expired
        match failure:
            case Spent():
                pause = 0.0
            case Misconfigured() | Denied() if not has_expired:
                pause = pace * between(tuning.rejected_backoff_min, tuning.rejected_backoff_max, situation.draw)
            case Ambiguous() if failing.replays == 1:
                pause = pace * between(self.backoff_min, 2 * self.backoff_min, situation.draw)
            case NotYet() if left > 0:
                longest = min(tuning.rejected_backoff_max, left * tuning.backoff_share)
                pause = between(longest / 2, longest, situation.draw)
            case Misconfigured():
                pause = pace * between(tuning.expired_backoff_min, tuning.expired_backoff_max, situation.draw)
            case Denied():
                longest = min(tuning.rejected_backoff_max, tuning.expired_backoff_max * doublings)
                pause = pace * between(longest / 2, longest, situation.draw)
            case NotSent() | NotYet() | Ambiguous() | Throttled():
                doubled = self.backoff_min * doublings
                shortest = min(tuning.expired_backoff_min, doubled / 2) if has_expired else self.backoff_min
                longest = min(tuning.expired_backoff_max if has_expired else self.backoff_max, doubled)
                pause = pace * between(shortest, longest, situation.draw)
            case _:
                assert_never(failure)
        horizon = renewable_until(situation) - situation.tried_at
        if left > 0 and not failing.is_short:
            horizon = min(horizon, left)
        return min(pause, horizon * tuning.backoff_share)

    def _throttle_end(self, situation: Situation, throttle: ThrottlePeriod, at: float) -> float:
        """Return when a session may send a request again, though it could from `at` on without the throttle.

        A session with a valid token waits for the end that SignalWire named, but keeps half of the remaining validity
        for its own attempts. A session without one waits as `throttle_end` says. It waits for at most half of the
        time in which it can still be renewed.
        """
        horizon, left = renewable_until(situation) - at, situation.access_until - at
        longest = at + max(0.0, min(horizon, left) if left > 0 else horizon) * self.tuning.throttle_share
        (asked, until), lifetime, draw = throttle, situation.lifetime, situation.draw
        end = until + self._throttle_spread(asked, until, lifetime) * draw
        if left <= 0:
            end = self.throttle_end(asked=asked, until=until, lifetime=lifetime, draw=draw)
        return min(longest, end)

    def throttle_end(self, *, asked: float, until: float, lifetime: float, draw: float) -> float:
        """Return when a session without a valid token sends its next request after a throttle.

        SignalWire asked at `asked` for a pause until `until`. The session waits `throttle_max` at most, counted from
        `asked`. `draw` spreads the sessions, so that they don't all send at the same moment.
        """
        pace = self._pace(lifetime)
        end = until + self._throttle_spread(asked, until, lifetime) * draw
        return min(end, asked + pace * (self.tuning.throttle_max - self.tuning.throttle_spread * (1 - draw)))

    def _throttle_spread(self, asked: float, until: float, lifetime: float) -> float:
        return min(self._pace(lifetime) * self.tuning.throttle_spread, until - asked)

    def min_interval_for(self, lifetime: float) -> float:
        """Return the shortest time between two attempts."""
        return min(self.tuning.min_interval, self._at_least_min(lifetime) * self.tuning.min_interval_share)

    def _pace(self, lifetime: float) -> float:
        return min(1.0, self._at_least_min(lifetime) / self.tuning.full_pace_lifetime)

    def _at_least_min(self, lifetime: float) -> float:
        """Return the lifetime, or `min_lifetime` if that is longer: a lifetime of 0 must not lead to pauses of 0."""
        return max(lifetime, self.min_lifetime)


def renewable_until(situation: Situation) -> float:
    """Return until when the pair can be renewed: inf if it can be issued, otherwise when its refresh token expires."""
    if situation.can_issue:
        return math.inf
    return situation.refresh_until if situation.can_refresh else NEVER


def between(low: float, high: float, draw: float) -> float:
    """Return the value that a draw from 0 to 1 picks from a range."""
    return low + (high - low) * draw
