"""All state of one kept token. Everything that changes it is in this module: events come in, effects go out.

It does no I/O, reads no clock and draws no random numbers: callers pass `now`, in seconds by one clock, and `draw`,
from 0 to 1. The policy decides by this record itself: nothing is copied.

::

    NEW ── open ──> OPEN ──> EXPIRED
     └───────────────┴──────────┴──> SHUT ──> ENDING ──> CLOSED

Events are `open`, `begin` (a renewal or a look), `land`, `lose` (a renewal whose result couldn't be taken in),
`invalidate`, `clock_leaped`, `want` (a caller waits), `press` (renew, whatever was planned), `check_until` (when
`token()` checks again), and `advance` (to a later phase). A pair that lands after the session was shut is adopted like
any other.

Effects are `Emit` (an event to subscribers), `Adopted`, `Failed` and `Warn`. No event returns a schedule: the policy's
`next_step` answers what to do next, and when.
"""

from __future__ import annotations

import math
from datetime import timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

from .errors import SignalWireTokenError, UnexpectedResponse
from .models import Token, TokenPair, life_of
from .outcomes import Ambiguous, Denied, Failure, IssueNew, Look, NotSent, RenewalStep, Renewed, Spent, UseRefreshToken
from .policy import ROUNDING, Failing, RefreshPolicy, SessionState, renewable_until
from .wire import TOKEN_EXPIRED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .outcomes import Outcome, Step

__all__ = ["Adopted", "Effect", "Emit", "EventKind", "Failed", "Lifecycle", "Phase", "Warn"]

NEVER = -math.inf
MOST_SEEN = 4  # access tokens whose repetition is noticed, the current one included

EventKind: TypeAlias = Literal[
    "started",
    "rotated",
    "reissued",
    "subscriber_changed",
    "degraded",
    "recovered",
    "persist_failed",
    "expired",
    "closed",
]


class Phase(IntEnum):
    """How far a session has come."""

    NEW = 0
    OPEN = 1
    EXPIRED = 2  # no way to renew is left
    SHUT = 3  # it returns no token, and begins no renewal
    ENDING = 4
    CLOSED = 5


@attrs.frozen
class Emit:
    """Emit an event with the last error to the subscribers."""

    kind: EventKind


@attrs.frozen
class Adopted:
    """There is a new pair. `left` is how long the token before was still valid; None for a first one."""

    renewed: Renewed
    left: float | None


@attrs.frozen
class Failed:
    """An attempt failed. It is news if the session was well before."""

    failure: Failure
    is_news: bool


@attrs.frozen
class Warn:
    """Log a warning."""

    what: str


Effect: TypeAlias = Emit | Adopted | Failed | Warn
REFUSED = (
    "the {what} was refused {left:.0f} s before its calculated expiry. It was used or revoked elsewhere, or tokens "
    "have a shorter lifetime than assumed"
)
SEE = ": see SIGNALWIRE_TOKENS_LIFETIME"  # which is about SignalWire's own answers


@attrs.define(eq=False, repr=False, weakref_slot=False)
class Lifecycle:
    """The record of one kept token, and the only writer of it.

    `presents` and `reissues` are the ways there are to renew, `can_refresh` and `can_issue` those that are open. A
    first pair is always issued. If `usual_lifetime` isn't 0, no token is too short-lived to be kept. `earlier` has the
    hashes of the last access tokens before the current one. `fresh_until` is until when callers get `value` without any
    further check. `wanted` is since when a caller waits, `pressed` since when the token is to be renewed whatever was
    planned, and `not_before` when a forced renewal is allowed.
    """

    policy: RefreshPolicy
    lifetime: float = attrs.field(kw_only=True)
    draw: float = attrs.field(kw_only=True)
    presents: bool = True
    reissues: bool = True
    usual_lifetime: float = 0.0
    phase: Phase = Phase.NEW
    pair: TokenPair | None = None
    value: str = attrs.field(default="", repr=False)  # pretty printers of tracebacks ask each field
    earlier: tuple[int, ...] = ()
    generation: int = 0
    fresh_until: float = NEVER
    asked: float = NEVER
    due: float = NEVER
    access_until: float = NEVER
    can_refresh: bool = False
    can_issue: bool = True
    flying: RenewalStep | Look | None = None
    failing: Failing | None = None
    tried: float = NEVER
    wanted: float = math.inf
    pressed: float = math.inf
    forced: float = NEVER
    not_before: float = NEVER

    # Questions.

    @property
    def refresh_until(self) -> float:
        """When the refresh token expires."""
        return NEVER if self.pair is None else self.asked + life_of(self.pair.refresh_token)

    @property
    def seen(self) -> tuple[int, ...]:
        """The hashes of the last access tokens."""
        return (*self.earlier, hash(self.value))

    @property
    def failure(self) -> Failure | None:
        """What the last attempt failed with."""
        return None if self.failing is None else self.failing.failure

    @property
    def is_at_rest(self) -> bool:
        """Whether a renewal may begin: the session is open, and none is under way."""
        return self.phase is Phase.OPEN and self.flying is None

    @property
    def last_error(self) -> SignalWireTokenError | None:
        """What the last attempt failed with; None if it succeeded."""
        return None if self.failing is None else self.failing.failure.error

    def left(self, now: float) -> float:
        """Return how long the current token is still valid."""
        return self.access_until - now

    def state(self, now: float) -> SessionState:
        """Return how the session stands."""
        if self.phase is Phase.OPEN:
            return self.policy.state(self, now)
        return SessionState.EXPIRED if self.phase is Phase.EXPIRED else SessionState.CLOSED

    def way(self, now: float) -> Step:
        """Return what could be done now."""
        return self.policy.step_at(self, now)

    @property
    def longest_ttl(self) -> float:
        """The longest `min_ttl` that callers can ask for, in seconds."""
        return self.policy.longest_ttl(max(self.lifetime, self.usual_lifetime))

    def may_force(self, now: float) -> bool:
        """Return whether `invalidate` would have the token renewed at once."""
        return now >= self.forced + self.policy.invalidate_interval(self.lifetime)

    def keeps(self, lifetime: float) -> bool:
        """Return whether tokens that are valid for so long are kept."""
        return self.usual_lifetime > 0 or self.policy.accepts(lifetime)

    def can_present(self, pair: TokenPair) -> bool:
        """Return whether a pair has a refresh token to present: one of a source's own may lack it."""
        return self.presents and (not self.usual_lifetime or pair.refresh_token.value != pair.access_token.value)

    # Events.

    def open(self, now: float, brought: Renewed | None = None) -> None:
        """Begin to keep a token, with a pair from elsewhere if there is one."""
        self.phase, self.due = Phase.OPEN, now
        if brought is not None:
            self._take(brought.pair, brought.asked, now)

    def begin(self, step: RenewalStep | Look) -> None:
        """Begin a renewal, or look for a pair elsewhere. Callers that come later aren't served by it, if it fails."""
        if not isinstance(step, Look):
            self.wanted = self.pressed = math.inf
        self.flying = step

    def land(self, step: RenewalStep, outcome: Outcome | None, now: float, draw: float) -> Sequence[Effect]:
        """End what was begun. `step` is the one that was taken; without an outcome, a look has found nothing.

        That means something only for a token that has expired and can't be renewed.
        """
        self.flying = None
        if outcome is None:
            if max(self.access_until, renewable_until(self)) > now:
                return ()
            error = self.last_error or SignalWireTokenError("the refresh token has come to its end")
            outcome = Spent(error)
        self.tried, self.draw = now, draw
        return self._adopt(outcome, step, now) if isinstance(outcome, Renewed) else self._fail(outcome, step, now)

    def lose(self, step: RenewalStep | Look, failure: Failure | None, now: float) -> Sequence[Effect]:
        """End a renewal whose result couldn't be taken in, or a look. Without a `failure`, nothing else is known."""
        self.flying = None
        return () if failure is None or isinstance(step, Look) else self._fail(failure, step, now)

    def invalidate(self, now: float) -> Sequence[Effect]:
        """Return the current token to no caller any more, and have it renewed as soon as that may be forced."""
        effects = self._doubt("access token", self.access_until, now)
        self.access_until, self.fresh_until, self.due = now, NEVER, now
        self.not_before = self.forced + self.policy.invalidate_interval(self.lifetime)
        self.forced = max(now, self.not_before)
        return effects

    def clock_leaped(self, seconds: float, now: float) -> bool:
        """Renew soon if the wall clock has leaped, since nothing shows how old the token is. Return whether it has."""
        if seconds <= self.policy.tuning.clock_jump or self.pair is None:
            return False
        self.due = min(self.due, self.policy.due_after_jump(now=now, lifetime=self.lifetime, draw=self.draw))
        return True

    def want(self, now: float) -> bool:
        """Bring the next attempt forward for a caller that waits. Return whether it is the first one."""
        is_first = self.wanted == math.inf
        if is_first:
            self.wanted = now
        return is_first

    def press(self, now: float, *, is_forced: bool = False) -> None:
        """Renew now, whatever was planned."""
        self.pressed = now
        if is_forced:
            self.not_before = NEVER

    def check_until(self, until: float) -> None:
        """Return the token to callers without any further check for a while."""
        self.fresh_until = min(self.due, until)

    def advance(self, phase: Phase) -> None:
        """Come to a later phase, from which on no token is returned without a check, or none at all."""
        self.phase, self.fresh_until = max(self.phase, phase), NEVER

    # How the record changes.

    def _take(self, pair: TokenPair, asked: float, now: float) -> bool:
        """Make a pair the current one, and return whether its token is kept.

        If the new access token expires sooner than the current one, that stays. An exception between two of these lines
        leaves a token in use that is valid for longer than is assumed.
        """
        lifetime = life_of(pair.access_token)
        access_until, due = asked + lifetime, self.policy.due_at(asked=asked, lifetime=lifetime, draw=self.draw)
        is_kept, replaced = self.keeps(lifetime), self.value
        if self.pair is not None and self.access_until > max(now, access_until + ROUNDING):
            is_kept, lifetime, replaced = True, self.lifetime, pair.access_token.value
            token = redated(self.pair.access_token, pair.access_token, self.access_until - asked)
            pair = attrs.evolve(pair, access_token=token)
            access_until = self.access_until
        earlier = (*self.earlier[2 - MOST_SEEN :], hash(replaced)) if replaced else ()
        self.pair, self.value = pair, pair.access_token.value
        self.access_until, self.asked = access_until, asked
        self.lifetime = lifetime if is_kept else self.lifetime  # one of nothing would mean pauses of next to nothing
        self.earlier = earlier
        if self.failing is not None:
            self.failing.replays, self.failing.is_short = 0, not is_kept
        self.can_refresh, self.can_issue = self.can_present(pair), self.reissues
        self.not_before, self.wanted, self.pressed = NEVER, math.inf, math.inf
        self.due = due
        self.generation += 1
        self.fresh_until = NEVER
        return is_kept

    def _adopt(self, renewed: Renewed, step: RenewalStep, now: float) -> Sequence[Effect]:
        """Make a new pair the current one."""
        pair, before, left = renewed.pair, self.pair, self.left(now)
        is_short = not self._take(pair, renewed.asked, now)
        effects: list[Effect] = []
        failing = self.failing
        if failing is not None and self.generation == 1:
            failing.is_degraded = False  # no event has reported what went wrong before
        lifetime = life_of(pair.access_token)
        if self.keeps(lifetime):
            self.failing = None
        else:
            error = UnexpectedResponse(f"the token that was given lives {lifetime:g} s")
            effects.extend(self._fail(NotSent(error), step, now, is_short=is_short))
        effects.append(Adopted(renewed, None if before is None else max(0.0, left)))
        if self.generation > 1:
            effects.append(Emit("rotated" if isinstance(step, UseRefreshToken) else "reissued"))
        known = None if before is None else before.subscriber_id
        if None not in (known, pair.subscriber_id) and known != pair.subscriber_id:
            effects += [Warn("another subscriber than before"), Emit("subscriber_changed")]
        if self.failing is None and failing is not None and failing.is_degraded:
            effects.append(Emit("recovered"))
        return effects

    def _fail(
        self, failure: Failure, step: RenewalStep, now: float, *, is_short: bool | None = None
    ) -> Sequence[Effect]:
        """Note why there is no new pair, and which way it has closed."""
        failing = self.failing = self.failing or Failing(failure)
        failing.failure = failure
        failing.count += 1
        if is_short is not None:
            failing.is_short = is_short
        match failure, step:
            case Spent(), IssueNew():
                self.can_issue = False
            case Spent(), UseRefreshToken():
                self.can_refresh = False
            case Ambiguous() | Denied(), UseRefreshToken() if self.can_issue:
                self.can_refresh = False  # it may be used up, or refused again
            case Ambiguous(), UseRefreshToken():
                failing.replays += 1
            case _:
                pass
        effects: list[Effect] = []
        is_early = self.policy.is_early(failure, left=self.left(now), lifetime=self.lifetime)
        if is_early:  # nothing is wrong with what was asked
            failing.count = 0
            if failing.is_degraded:
                failing.is_degraded = False
                effects.append(Emit("recovered"))
        is_news = not (is_early or failing.is_degraded)
        failing.is_degraded = failing.is_degraded or is_news
        effects.append(Failed(failure, is_news))
        if isinstance(step, UseRefreshToken) and any(one.code == TOKEN_EXPIRED for one in failure.error.errors):
            effects += self._doubt("refresh token", self.refresh_until, now)
        if is_news and self.generation > 0:
            effects.append(Emit("degraded"))
        return effects

    def _doubt(self, what: str, until: float, now: float) -> list[Effect]:
        """Warn of a token that was refused long before its expiry."""
        left = until - now
        if left <= self.policy.needed_ttl(self.lifetime):
            return []
        return [Warn(REFUSED.format(what=what, left=left) + ("" if self.usual_lifetime else SEE))]


def redated(token: Token, later: Token, left: float) -> Token:
    """Return a token as one that was issued with a later one, and expires in so many seconds."""
    return attrs.evolve(token, issued_at=later.issued_at, expires_at=later.issued_at + timedelta(seconds=left))
