"""The machine that renews: it learns from its timer that something is due, and from a renewal what came of it.

It is told how to renew and does not know. The policy says when; only a renewal is a task.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from abc import ABC, abstractmethod
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import attrs

from signalwire_tokens.errors import SignalWireTokenError, UnexpectedResponse
from signalwire_tokens.policy import (
    ROUNDING,
    Ambiguous,
    Denied,
    Expire,
    Failure,
    NotSent,
    Outcome,
    Present,
    RefreshPolicy,
    Reissue,
    Renewed,
    Situation,
    Spent,
)
from signalwire_tokens.wire import TOKEN_EXPIRED

from .events import Listener, SessionEvent

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from signalwire_tokens.clock import Clock, Timer
    from signalwire_tokens.models import Token, TokenPair

    from .events import EventKind

__all__ = ["Landing", "Renewing", "Turn"]

NEVER = -math.inf
MOST_SEEN = 4  # access tokens whose repetition is noticed, the current one included
Landing: TypeAlias = tuple[Present | Reissue, Outcome]

logger: logging.Logger = logging.getLogger("signalwire_tokens.session")


class Renewing(ABC):
    """Renew a pair when it is due, in a way that a subclass knows, and tell what happens."""

    _has_least_life: ClassVar[bool] = True  # whether tokens may be too short-lived to be kept
    __slots__ = (
        "__weakref__",
        "_access_until",
        "_clock",
        "_closed",
        "_closing",
        "_dead",
        "_degraded",
        "_draw",
        "_due",
        "_ending",
        "_failure",
        "_failures",
        "_flight",
        "_forced",
        "_fresh_until",
        "_generation",
        "_kept",
        "_life",
        "_listeners",
        "_not_before",
        "_now",
        "_pair",
        "_policy",
        "_presentable",
        "_presents",
        "_refresh_until",
        "_reissuable",
        "_reissues",
        "_replays",
        "_seen",
        "_timer",
        "_tried",
        "_value",
        "_waiters",
        "_wanted",
        "wakes_at",
    )

    def __init__(self, *, policy: RefreshPolicy, clock: Clock, life: float, presents: bool, reissues: bool) -> None:
        self._policy, self._clock, self._now = policy, clock, clock.now
        self._fresh_until = NEVER  # until then, `token()` returns the token without any further check
        self._value = ""
        self._seen: tuple[int, ...] = ()  # hashes of the last access tokens
        self._kept = True  # whether the current token is long-lived enough to be kept
        self._pair: TokenPair | None = None
        self._generation = 0
        self._life = life
        self._due = self._access_until = self._refresh_until = NEVER
        self._presents, self._reissues = presents, reissues  # the ways there are
        self._presentable, self._reissuable = False, True  # those that are open: a first pair is always issued
        self._draw = random.random()  # noqa: S311 - it spreads load and keeps no secret
        self._failure: Failure | None = None
        self._failures = self._replays = 0
        self._tried = self._not_before = self._forced = NEVER
        self._wanted = math.inf
        self.wakes_at: float = math.inf
        self._flight: asyncio.Task[Landing] | None = None
        self._timer: Timer | None = None
        self._closing = self._ending = self._closed = self._dead = self._degraded = False
        self._waiters: set[asyncio.Future[None]] | None = None
        self._listeners: tuple[Listener, ...] = ()

    @property
    def last_error(self) -> SignalWireTokenError | None:
        """What the last attempt to renew failed with; None where it did not."""
        return None if self._failure is None else self._failure.error

    @abstractmethod
    async def _renew(self, step: Present | Reissue) -> Landing:
        """Renew in one attempt, and say which way was gone and what came of it."""

    def _begin(self) -> None:  # noqa: B027 - most begin with nothing
        """Take up what there is at the start: a pair from elsewhere, or nothing."""

    @property
    @abstractmethod
    def _label(self) -> str:
        """What names this session where anybody may read it."""

    @property
    def _reason(self) -> SignalWireTokenError | None:
        """Why there is no token, as far as that is known."""
        return self.last_error

    def _may_renew(self) -> bool:
        """Return whether a renewal could begin now."""
        return self._throttled[1] <= self._now()

    @property
    @abstractmethod
    def _throttled(self) -> tuple[float, float]:
        """When SignalWire asked to be left alone, and until when."""

    def wake(self, timer: Timer) -> None:
        """Do what is due: renew, or give up."""
        situation, now = self._situation(), self._now()
        step = self._policy.next_step(situation)
        if step.at <= now and not isinstance(step, Expire):
            step = self._policy.way(situation, now)  # the machine may have slept since the step was planned
        if step.at > now:
            self._plan()  # SignalWire has asked to be left alone in the meantime
        elif isinstance(step, Expire):
            self._die(timer)
        elif self._may_depart():
            self._depart(self._renew(step), step, timer)

    def _may_depart(self) -> bool:
        """Tell whether a renewal that is due may begin; if not, whoever forbids it wakes the session again."""
        return True

    def note_leap(self, seconds: float, now: float) -> None:
        """Renew soon when the wall clock has leapt: nobody knows how old the token is."""
        if seconds > self._policy.leap and self._pair is not None:
            self._due = min(self._due, self._policy.due_after_leap(now=now, life=self._life, draw=self._draw))
            self._plan()

    def _situation(self) -> Situation:
        throttled_at, throttled_until = self._throttled
        return Situation(
            life=self._life,
            due=self._due,
            access_until=self._access_until,
            refresh_until=self._refresh_until,
            presentable=self._presentable,
            reissuable=self._reissuable,
            draw=self._draw,
            failure=self._failure,
            failures=self._failures,
            replays=self._replays,
            tried=self._tried,
            throttled_at=throttled_at,
            throttled_until=throttled_until,
            not_before=self._not_before,
            wanted=self._wanted,
            kept=self._kept,
        )

    def _left(self) -> float:
        """Tell how much life the token at hand has left."""
        return self._access_until - self._now()

    def _plan(self) -> None:
        """Have the timer call when the next step is due."""
        if self._timer is None or self._closing or self._dead or self._flight is not None:
            return
        step = self._policy.next_step(self._situation())
        if isinstance(step, Expire) and step.at <= self._now():
            self._die(self._timer)
        else:
            self._timer.set(self, step.at)

    def _depart(self, renewal: Coroutine[Any, Any, Landing], step: Present | Reissue, timer: Timer) -> None:
        """Renew, in a task that nobody but the event loop's end cancels."""
        timer.unset(self)
        land = partial(self._land, step, self._pair, self._wall_ahead(), timer)
        flight = timer.begin(renewal, f"renew {self._label}")
        flight.add_done_callback(land)
        self._wanted, self._flight = math.inf, flight  # later callers aren't served by this attempt, if it fails

    def _land(
        self,
        step: Present | Reissue,
        pair: TokenPair | None,
        wall_ahead: float,
        timer: Timer,
        flight: asyncio.Task[Landing],
    ) -> None:
        """Publish what came of a renewal of a pair. Whatever raises here, the session plans its next attempt."""
        try:
            self._conclude(step, wall_ahead, flight)
        except Exception as error:  # whatever it is: the session must not stay without a plan
            logger.exception("session %s generation %d: a result could not be taken in", self._label, self._generation)
            self._flight = None
            self._abandon()
            if self._pair is pair:  # the refresh token may be used up
                what = f"the result of a renewal could not be taken in: {type(error).__name__}"
                self._note_failure(Ambiguous(SignalWireTokenError(what)), step)
            if not self._closing and not self._dead:
                timer.set(self, self._now() + self._policy.floor_for(self._life))
            self._notify()

    def _abandon(self) -> None:  # noqa: B027 - most hold nothing
        """Release what a renewal holds whose result could not be taken in."""

    def _conclude(self, step: Present | Reissue, wall_ahead: float, flight: asyncio.Task[Landing]) -> None:
        """Publish an outcome, plan what follows, and wake the callers that wait."""
        self._flight = None
        way, outcome = outcome_of(flight, step)
        self._tried = self._now()
        self._draw = random.random()  # noqa: S311 - as above
        try:
            self._take_in(outcome, way)
        finally:
            # A leap of the wall clock in the meantime was reported to sessions at rest only.
            self.note_leap(self._wall_ahead() - wall_ahead, self._now())
            self._plan()
            self._notify()

    def _take_in(self, outcome: Outcome, way: Present | Reissue) -> None:
        if isinstance(outcome, Renewed):
            self._rotate(outcome, way)
        else:
            self._note_failure(outcome, way)

    def _wall_ahead(self) -> float:
        return self._clock.wall() - self._now()

    def _rotate(self, renewed: Renewed, way: Present | Reissue) -> None:
        """Publish a new pair."""
        pair, before = renewed.pair, self._pair
        self._adopt(pair, asked=renewed.asked)
        if self._generation == 1:
            self._degraded = False  # no event has reported what went wrong before
        life = (pair.token.expires_at - pair.token.issued_at).total_seconds()
        if not self._keeps(life):
            message = f"session {self._label} was given a token that lives {life:g} s"
            self._note_failure(NotSent(UnexpectedResponse(message)), way)
        else:
            self._failure, self._failures = None, 0
        logger.info("session %s generation %d: renewed, %r", self._label, self._generation, pair.token)
        if self._generation > 1:
            self._tell("rotated" if isinstance(way, Present) else "reissued")
        known = None if before is None else before.subscriber_id
        if None not in (known, pair.subscriber_id) and known != pair.subscriber_id:
            logger.warning("session %s generation %d: another subscriber than before", self._label, self._generation)
            self._tell("subscriber_changed")
        if self._failure is None:
            self._recover()

    def _recover(self) -> None:
        """Be well again, and say so."""
        if self._degraded:
            self._degraded = False
            self._tell("recovered")

    def _keeps(self, life: float) -> bool:
        """Return whether tokens that are valid for so long are kept."""
        return not self._has_least_life or self._policy.keeps(life)

    def _adopt(self, pair: TokenPair, *, asked: float) -> None:
        """Make a pair the current one; keep the current access token if the new one expires sooner.

        An exception between two of these lines leaves a token in use that is valid for longer than is assumed.
        """
        life = (pair.token.expires_at - pair.token.issued_at).total_seconds()
        refresh_until = asked + (pair.refresh_token.expires_at - pair.refresh_token.issued_at).total_seconds()
        access_until, due = asked + life, self._policy.due(asked=asked, life=life, draw=self._draw)
        seen, kept = (*self._seen[1 - MOST_SEEN :], hash(pair.token.value)), self._keeps(life)
        if self._pair is not None and self._access_until > max(self._now(), access_until + ROUNDING):
            kept = True
            life = self._life
            pair = attrs.evolve(pair, token=self._redate(self._pair.token, pair.token.issued_at, asked))
            access_until = self._access_until
        self._pair, self._value = pair, pair.token.value
        self._access_until, self._refresh_until = access_until, refresh_until
        self._life = life if kept else self._life  # one of nothing would mean pauses of next to nothing
        self._seen, self._kept = seen, kept
        self._presentable, self._reissuable, self._replays = self._presents, self._reissues, 0
        self._not_before, self._wanted = NEVER, math.inf
        self._due = due
        self._generation += 1
        self._fresh_until = NEVER

    def _redate(self, token: Token, issued_at: datetime, asked: float) -> Token:
        """Return the current access token as one that was asked for later, and expires when it does."""
        return attrs.evolve(
            token, issued_at=issued_at, expires_at=issued_at + timedelta(seconds=self._access_until - asked)
        )

    def _note_failure(self, failure: Failure, way: Present | Reissue) -> None:
        """Remember why there is no new pair, and which way it has closed."""
        self._failure, self._failures = failure, self._failures + 1
        match failure, way:
            case Spent(), Reissue():
                self._reissuable = False
            case Spent(), Present():
                self._presentable = False
            case Ambiguous() | Denied(), Present() if self._reissuable:
                self._presentable = False  # it may be used up, or refused again
            case Ambiguous(), Present():
                self._replays += 1
            case _:
                pass
        is_early = self._policy.is_early(failure, left=self._left(), life=self._life)
        if is_early:  # whoever was asked is well
            self._failures = 0
            self._recover()
        is_news = not (is_early or self._degraded)
        self._degraded = self._degraded or is_news
        level = logging.WARNING if is_news else logging.INFO  # one line an outage, not one an attempt
        logger.log(level, "session %s generation %d: %s", self._label, self._generation, failure.error)
        if isinstance(way, Present) and any(one.code == TOKEN_EXPIRED for one in failure.error.errors):
            self._doubt_lifetimes("refresh token", self._refresh_until)
        if is_news and self._generation > 0:
            self._tell("degraded")

    def _doubt_lifetimes(self, what: str, until: float) -> None:
        """Log a warning if a token was refused long before its calculated expiry."""
        left = until - self._now()
        if left > self._policy.reserve(self._life):
            logger.warning(
                "session %s generation %d: the %s was refused %.0f s before its calculated expiry. It was used or "
                "revoked elsewhere, or tokens have a shorter lifetime than assumed: see SIGNALWIRE_TOKENS_LIFETIME",
                self._label,
                self._generation,
                what,
                left,
            )

    def _die(self, timer: Timer) -> None:
        """Give up for good."""
        timer.unset(self)
        self._dead, self._fresh_until = True, NEVER
        logger.error("session %s generation %d: no way left to renew", self._label, self._generation)
        self._tell("dead")
        self._notify()

    async def _changed(self, turn: Turn | None = None) -> None:
        """Wait until something happens, or the turn is over."""
        turn = Turn() if turn is None else turn
        future = turn.future = asyncio.get_running_loop().create_future()
        waiters = self._waiters = self._waiters if self._waiters is not None else set()
        waiters.add(future)
        try:
            await future
        finally:
            waiters.discard(future)

    def _notify(self) -> None:
        """Let all who wait look again."""
        waiters, self._waiters = self._waiters, None
        for future in waiters or ():
            resolve(future)

    def _tell(self, kind: EventKind, error: SignalWireTokenError | None = None) -> None:
        """Emit an event to the subscribers. It never raises, because its callers have more to do."""
        if self._timer is None or (self._closed and kind != "closed"):
            return
        for listener in self._listeners:
            try:
                why = None if kind == "recovered" else error or self.last_error
                event = SessionEvent(kind=kind, generation=self._generation, pair=self._pair, error=why)
                listener.emit(event, self._timer)
            except Exception:  # whatever it is, such as a MemoryError
                logger.exception("session %s: the event %r could not be emitted", self._label, kind)


class Turn:
    """How long somebody waits: through any number of waits."""

    __slots__ = ("future", "over")

    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.over: bool = False

    def end(self) -> None:
        """Wait no longer."""
        self.over = True
        resolve(self.future)


def resolve(future: asyncio.Future[None]) -> None:
    """End a wait, if it has not ended."""
    if not future.done():
        future.set_result(None)


def outcome_of(flight: asyncio.Task[Landing], step: Present | Reissue) -> Landing:
    """Read what a renewal said, or find words for one that said nothing."""
    if flight.cancelled():
        return step, Ambiguous(SignalWireTokenError("the renewal was cancelled from outside"))
    error = flight.exception()
    if error is not None:
        logger.error("a renewal failed with %s", type(error).__name__)
        return step, Ambiguous(SignalWireTokenError(f"the renewal failed with {type(error).__name__}"))
    return flight.result()
