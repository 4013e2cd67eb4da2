"""The state machine of one kept token: every field that changes, and every rule that changes it.

The session's engine reports *events* to a `Lifecycle`. Each event changes the record, and may return *effects*: what
the engine has to log, emit or save, in this order. No other module writes to the record. The policy, the gates and the
waiters only read it.

This module does no I/O, reads no clock and draws no random numbers. Callers pass `now`, in seconds by the session's
clock, and `draw`, a random number from 0 to 1. So a test can put a session into any state without waiting for it.

Phases::

    NEW ── open ──> OPEN ──> EXPIRED
     └───────────────┴──────────┴──> SHUT ──> ENDING ──> CLOSED

A session only moves to a later phase. It may skip phases: a session that was never opened goes from NEW to CLOSED.

Events::

    event             the engine reports it when
    ----------------  -------------------------------------------------------------------------------------
    open              the session opens, with or without a pair from elsewhere
    begin             a renewal begins, or a look into the store for a pair that another process has saved
    land              a renewal or a look has ended
    fail_to_process   the result of a renewal or a look couldn't be processed, because something raised
    invalidate        SignalWire has refused the current token
    clock_leaped      the wall clock has gained on the session's clock
    caller_waits      a caller begins to wait for a token
    demand            the session must renew as soon as it may, regardless of its plan
    check_until       `token()` has checked that it runs in the right process and on the right event loop
    advance           the session moves on to a later phase

Effects are `Emit` (an event for the subscribers), `Adopted`, `Failed` and `Warn`.

No event returns a schedule. After an event, the engine asks the policy for the next step and its time, and the policy
calculates both from this record. Nothing is copied, so the plan can't disagree with the state.

The lifecycle adopts a pair in every phase, even if the session was shut while the request was under way. Its refresh
token may be the only valid one, and a store must get it.
"""

from __future__ import annotations

import math
from datetime import timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

from .durations import spoken
from .errors import SignalWireTokenError, UnexpectedResponse
from .models import Token, TokenPair, life_of
from .outcomes import Ambiguous, Denied, Failure, IssueNew, Look, NotSent, RenewalStep, Renewed, Spent, UseRefreshToken
from .policy import CLOCK_TOLERANCE, NEVER, Failing, RefreshPolicy, SessionState, renewable_until
from .wire import TOKEN_EXPIRED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .outcomes import Outcome, Step

__all__ = ["Adopted", "Effect", "Emit", "EventKind", "Failed", "Lifecycle", "Phase", "Warn"]

MOST_SEEN = 4  # access tokens that a renewal must not return again: the current one and the three before it (P10)

#: What happened to a session.
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
    """The stages of a session, in order. A session never goes back to an earlier one."""

    NEW = 0
    OPEN = 1
    EXPIRED = 2  # the token has expired, and no way to renew it is left
    SHUT = 3  # `token()` raises, and no renewal begins; a renewal under way may still bring a pair
    ENDING = 4  # `aclose()` waits for what is under way
    CLOSED = 5


@attrs.frozen
class Emit:
    """The effect that the subscribers get an event of this kind, with the last error."""

    kind: EventKind


@attrs.frozen
class Adopted:
    """The effect that the session has a new pair, which the engine logs and saves.

    `left` is for how many seconds the token before it was still valid: 0.0 if it had expired, None for a first pair.
    """

    renewed: Renewed
    left: float | None


@attrs.frozen
class Failed:
    """The effect that an attempt failed, for the log.

    `is_news` is True for the first failure after a success. So the log has one warning for each outage, not one for
    each attempt.
    """

    failure: Failure
    is_news: bool


@attrs.frozen
class Warn:
    """The effect that the log gets a warning."""

    what: str


Effect: TypeAlias = Emit | Adopted | Failed | Warn
EARLY_REFUSAL = (
    "the {what} was refused {left} before its calculated expiry. It was used or revoked elsewhere, or tokens "
    "have a shorter lifetime than assumed"
)
SEE = ": see SIGNALWIRE_TOKENS_LIFETIME"  # a setting for SignalWire's tokens, so not for those of another source


@attrs.define(eq=False, repr=False, weakref_slot=False)
class Lifecycle:
    """The record of one kept token.

    All times are in seconds by the session's clock. A time of -inf means "never so far". For `awaited` and `demanded`,
    inf means "not at the moment".

    Settings, which never change:

    - `presents` and `reissues` are the ways to renew: to exchange a refresh token, and to issue a new pair. A session
      issues its first pair even without `reissues`, unless it opens with a pair.
    - `usual_lifetime` is how long the tokens of your own source usually live. If it isn't 0, the session keeps tokens
      of any life. If it is 0, a token that is too short-lived for the policy counts as a failed renewal.

    The current pair:

    - `pair` is the pair itself. Before the session opens, it is one from elsewhere to open with, or None.
    - `value` is the text of its access token, which `token()` returns.
    - `lifetime` is how long that token is valid in all, and `access_until` is when it expires. Before the first pair,
      `lifetime` is what the session expects.
    - `asked` is when the pair was requested: lifetimes count from there, since SignalWire can't have counted from
      earlier.
    - `due` is when the token is due for renewal.
    - `earlier` has the hashes of up to three access tokens before the current one.
    - `generation` is how many pairs the session has had.
    - `fresh_until` is until when `token()` returns `value` without any other check.

    Attempts to renew:

    - `can_refresh` and `can_issue` are the ways that are still open. A refusal may close one, and a new pair opens
      both again, as far as the settings allow.
    - `under_way` is the renewal or look under way. None means that the session is at rest.
    - `failing` describes the failures since the last success. None means that the last attempt succeeded.
    - `tried_at` is when the last attempt ended.
    - `draw` is the random number for the next plan, replaced after each attempt.

    What callers want:

    - `awaited` is since when a caller waits for a token.
    - `demanded` is since when the session must renew as soon as it may. It overrides the pause after a failure.
    - `forced_at` and `not_before` keep `invalidate()` from forcing renewals too often. `not_before` is when the next
      renewal may begin, and `forced_at` is when the latest forced one may.
    """

    policy: RefreshPolicy
    lifetime: float = attrs.field(kw_only=True)
    draw: float = attrs.field(kw_only=True)
    presents: bool = True
    reissues: bool = True
    usual_lifetime: float = 0.0
    phase: Phase = Phase.NEW
    pair: TokenPair | None = None
    value: str = attrs.field(default="", repr=False)  # a secret: traceback printers show the fields of attrs classes
    earlier: tuple[int, ...] = ()
    generation: int = 0
    fresh_until: float = NEVER
    asked: float = NEVER
    due: float = NEVER
    access_until: float = NEVER
    can_refresh: bool = False
    can_issue: bool = True
    under_way: RenewalStep | Look | None = None
    failing: Failing | None = None
    tried_at: float = NEVER
    awaited: float = math.inf
    demanded: float = math.inf
    forced_at: float = NEVER
    not_before: float = NEVER

    # Reading the record.

    @property
    def refresh_until(self) -> float:
        """The time at which the refresh token expires; -inf without a pair."""
        return NEVER if self.pair is None else self.asked + life_of(self.pair.refresh_token)

    @property
    def seen(self) -> tuple[int, ...]:
        """The hashes of the last access tokens, the current one included. No renewal must return one of them again."""
        return (*self.earlier, hash(self.value))

    @property
    def failure(self) -> Failure | None:
        """The failure of the last attempt; None if it succeeded."""
        return None if self.failing is None else self.failing.failure

    @property
    def is_at_rest(self) -> bool:
        """True if a renewal may begin: the session is open, and nothing is under way."""
        return self.phase is Phase.OPEN and self.under_way is None

    @property
    def last_error(self) -> SignalWireTokenError | None:
        """The error of the last attempt; None if it succeeded."""
        return None if self.failing is None else self.failing.failure.error

    def left(self, now: float) -> float:
        """Return for how many seconds the current token is still valid. A negative number means that it has expired."""
        return self.access_until - now

    def state(self, now: float) -> SessionState:
        """Return the session's state, as callers see it."""
        if self.phase is Phase.OPEN:
            return self.policy.state(self, now)
        return SessionState.EXPIRED if self.phase is Phase.EXPIRED else SessionState.CLOSED

    def way(self, now: float) -> Step:
        """Return the step that a renewal would take if it began now; `Expire` if no way is left."""
        return self.policy.step_at(self, now)

    @property
    def longest_ttl(self) -> float:
        """The longest `min_ttl` that callers can ask for, in seconds: what a token has left at its latest due time."""
        return self.policy.longest_ttl(max(self.lifetime, self.usual_lifetime))

    def may_force(self, now: float) -> bool:
        """Return whether `invalidate` would lead to a renewal at once, and not only after a while."""
        return now >= self.forced_at + self.policy.invalidate_interval(self.lifetime)

    def keeps(self, lifetime: float) -> bool:
        """Return whether the session keeps tokens that are valid for `lifetime` seconds in all."""
        return self.usual_lifetime > 0 or self.policy.accepts(lifetime)

    def can_present(self, pair: TokenPair) -> bool:
        """Return whether the session can present the refresh token of a pair.

        A pair from `Renewed.valid_for` has no refresh token, and so holds the access token twice. Only a source of your
        own returns such pairs. A device's bound token is also both halves of its pair, but it does refresh itself.
        """
        return self.presents and (not self.usual_lifetime or pair.refresh_token.value != pair.access_token.value)

    # Events.

    def open(self, now: float, brought: Renewed | None = None) -> None:
        """Open the session. `brought` is a pair from elsewhere, which becomes the current one, or None."""
        self.phase, self.due = Phase.OPEN, now
        if brought is not None:
            self._replace_pair(brought.pair, brought.asked, now)

    def begin(self, step: RenewalStep | Look) -> None:
        """Record that a step begins.

        A renewal serves all callers that wait now, so it clears `awaited` and `demanded`. A caller that comes while it
        is under way sets `awaited` again. If the renewal fails, that brings the next attempt forward.
        """
        if not isinstance(step, Look):
            self.awaited = self.demanded = math.inf
        self.under_way = step

    def land(self, step: RenewalStep, outcome: Outcome | None, now: float, draw: float) -> Sequence[Effect]:
        """End the step under way, and return the effects of its outcome.

        `step` is the way that was taken. It may differ from the planned one, because a session with a store chooses by
        what the store holds. `draw` is the random number for the next plan.

        `outcome` is None if a look found nothing. That changes nothing while the token is valid or can still be
        renewed. Otherwise the look was the last hope, and the refresh token counts as spent.
        """
        self.under_way = None
        if outcome is None:
            if max(self.access_until, renewable_until(self)) > now:
                return ()
            error = self.last_error or SignalWireTokenError("the refresh token has expired")
            outcome = Spent(error)
        self.tried_at, self.draw = now, draw
        return self._adopt(outcome, step, now) if isinstance(outcome, Renewed) else self._fail(outcome, step, now)

    def fail_to_process(
        self, step: RenewalStep | Look, failure: Failure | None, now: float, draw: float
    ) -> Sequence[Effect]:
        """End the step under way without an outcome, because its result couldn't be processed.

        `failure` counts as the result of a renewal. If it is None, a pair was adopted before the error. A look leaves
        everything but `under_way` as it is.
        """
        self.under_way = None
        if isinstance(step, Look):
            return ()
        self.tried_at, self.draw = now, draw
        return () if failure is None else self._fail(failure, step, now)

    def invalidate(self, now: float) -> Sequence[Effect]:
        """Treat the current token as expired, and make the session due. Return a warning if the refusal came early.

        The policy sets an interval for renewals that are forced in this way: a minute for tokens of two hours. For
        example::

            invalidated at   renewal allowed from   then `forced_at` is
            --------------   --------------------   ----------------
                   0                 at once                0
                  10                   60                  60
                 130                  at once             130

        A new pair lifts the restriction for its planned renewals, since it sets `not_before` back. It leaves
        `forced_at` as it is.
        """
        effects = self._doubt("access token", self.access_until, now)
        self.access_until, self.fresh_until, self.due = now, NEVER, now
        self.not_before = self.forced_at + self.policy.invalidate_interval(self.lifetime)
        self.forced_at = max(now, self.not_before)
        return effects

    def clock_leaped(self, seconds: float, now: float) -> bool:
        """Bring the due time forward if the wall clock has gained too much. Return whether it has.

        `seconds` is how much the wall clock has gained on the session's clock since the pair was requested. More than a
        minute, by default, may mean that a virtual machine was paused, which the session's clock doesn't count. The
        token may then be older than the session assumes.
        """
        if seconds <= self.policy.tuning.clock_jump or self.pair is None:
            return False
        self.due = min(self.due, self.policy.due_after_jump(now=now, lifetime=self.lifetime, draw=self.draw))
        return True

    def caller_waits(self, now: float) -> bool:
        """Bring the next attempt forward for a caller that waits. Return False if another caller already has."""
        is_first = self.awaited == math.inf
        if is_first:
            self.awaited = now
        return is_first

    def demand(self, now: float, *, is_forced: bool = False) -> None:
        """Bring the next renewal forward to the earliest time that is allowed, regardless of the plan.

        `is_forced` lifts the interval between forced renewals, too. A fleet sets it for `refresh()`.
        """
        self.demanded = now
        if is_forced:
            self.not_before = NEVER

    def check_until(self, until: float) -> None:
        """Set until when `token()` returns the current token without another check, but no later than the due time."""
        self.fresh_until = min(self.due, until)

    def advance(self, phase: Phase) -> None:
        """Move on to a phase, unless the session is past it. The next call of `token()` then checks the phase."""
        self.phase, self.fresh_until = max(self.phase, phase), NEVER

    # Changing the record.

    def _replace_pair(self, pair: TokenPair, asked: float, now: float) -> bool:
        """Replace the current pair, and return whether the new access token is long-lived enough to be kept.

        The refresh token is always taken, since the one before it may be used up. The access token isn't if the current
        one expires later, by more than rounding explains: then that one stays, with the new refresh token. (P6)

        The order of the assignments matters, because any of them may raise, for example `MemoryError`. The new token is
        in place before its expiry is. Until then, the expiry of the token before it counts, which is the earlier one.
        """
        lifetime = life_of(pair.access_token)
        access_until, due = asked + lifetime, self.policy.due_at(asked=asked, lifetime=lifetime, draw=self.draw)
        is_kept, replaced = self.keeps(lifetime), self.value
        if self.pair is not None and self.access_until > max(now, access_until + CLOCK_TOLERANCE):
            is_kept, lifetime, replaced = True, self.lifetime, pair.access_token.value
            token = with_expiry_of(self.pair.access_token, pair.access_token, self.access_until - asked)
            pair = attrs.evolve(pair, access_token=token)
            access_until = self.access_until
        earlier = (*self.earlier[2 - MOST_SEEN :], hash(replaced)) if replaced else ()
        self.pair, self.value = pair, pair.access_token.value
        self.access_until, self.asked = access_until, asked
        self.lifetime = lifetime if is_kept else self.lifetime  # pauses scale with it: 0 s would mean no pauses
        self.earlier = earlier
        if self.failing is not None:
            self.failing.replays = 0
        self.can_refresh, self.can_issue = self.can_present(pair), self.reissues
        self.not_before, self.awaited, self.demanded = NEVER, math.inf, math.inf
        self.due = due
        self.generation += 1
        self.fresh_until = NEVER
        return is_kept

    def _adopt(self, renewed: Renewed, step: RenewalStep, now: float) -> Sequence[Effect]:
        """Adopt a new pair, and return the effects.

        A token that is too short-lived to be kept is adopted all the same, because it is better than none. It also
        counts as a failure, so the session tries again after a short pause.
        """
        pair, before, left = renewed.pair, self.pair, self.left(now)
        is_short = not self._replace_pair(pair, renewed.asked, now)
        effects: list[Effect] = []
        failing = self.failing
        if failing is not None and self.generation == 1:
            failing.is_degraded = False  # before the first pair, no event reported a failure: nothing to recover from
        lifetime = life_of(pair.access_token)
        if self.keeps(lifetime):
            self.failing = None
        else:
            error = UnexpectedResponse(
                f"the new token is valid for only {spoken(lifetime)}, less than the policy's minimum: check the "
                "lifetimes"
            )
            effects.extend(self._fail(NotSent(error), step, now, is_short=is_short))
        effects.append(Adopted(renewed, None if before is None else max(0.0, left)))
        if self.generation > 1:
            effects.append(Emit("rotated" if isinstance(step, UseRefreshToken) else "reissued"))
        known = None if before is None else before.subscriber_id
        if None not in (known, pair.subscriber_id) and known != pair.subscriber_id:
            effects += [
                Warn("the new token belongs to another subscriber; was the subscriber created again?"),
                Emit("subscriber_changed"),
            ]
        if self.failing is None and failing is not None and failing.is_degraded:
            effects.append(Emit("recovered"))
        return effects

    def _fail(
        self, failure: Failure, step: RenewalStep, now: float, *, is_short: bool | None = None
    ) -> Sequence[Effect]:
        """Record a failed attempt, and return the effects.

        A failure may close the way that was tried::

            failure               of         closes
            -------------------   --------   -------------------------------------------------------------------
            Spent                 an issue   issuing
            Spent                 a refresh  refreshing
            Ambiguous or Denied   a refresh  refreshing, if the session may issue
            Ambiguous             a refresh  nothing, if it may not: the next attempt replays the refresh token
            any other             either     nothing

        After `Ambiguous`, the refresh token may be used up, and some services punish a second use. (P20)

        A `NotYet` while the token is valid for long enough isn't a failure of the source. It resets the count of
        failures, and emits `recovered` if an earlier failure was reported.

        `is_short` is True if a new token was too short-lived to be kept. None keeps the value of the failure before.
        """
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
                self.can_refresh = False
            case Ambiguous(), UseRefreshToken():
                failing.replays += 1
            case _:
                pass
        effects: list[Effect] = []
        is_early = self.policy.is_early(failure, left=self.left(now), lifetime=self.lifetime)
        if is_early:  # the source works, and has no later token yet
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
        """Return a warning if a token was refused long before its expiry, so that it wasn't merely a little early.

        `what` is the kind of token, and `until` the time at which the session expected it to expire.
        """
        left = until - now
        if left <= self.policy.needed_ttl(self.lifetime):
            return []
        return [Warn(EARLY_REFUSAL.format(what=what, left=spoken(left)) + ("" if self.usual_lifetime else SEE))]


def with_expiry_of(token: Token, later: Token, left: float) -> Token:
    """Return `token` with the time of issue of `later`, and an expiry `left` seconds after that."""
    return attrs.evolve(token, issued_at=later.issued_at, expires_at=later.issued_at + timedelta(seconds=left))
