"""The machine that renews: it learns from its timer that something is due, and from a renewal what came of it.

It is told how to renew and does not know. The policy says when; only a renewal is a task.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, Required, TypeAlias, TypedDict, assert_never

from signalwire_tokens.errors import SignalWireTokenError
from signalwire_tokens.lifecycle import Adopted, Emit, Failed, Lifecycle, Phase, Refused, SubscriberChanged
from signalwire_tokens.policy import NO_QUIET, Ambiguous, Expire, Outcome, Present, RefreshPolicy, Reissue

from .events import Listener, SessionEvent

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable
    from datetime import timedelta

    from signalwire_tokens.clock import Clock, Timer
    from signalwire_tokens.lifecycle import Effect, EventKind
    from signalwire_tokens.models import TokenPair
    from signalwire_tokens.policy import Quiet, Step
    from signalwire_tokens.throttle import Throttle

    from .renewal import Renewal

__all__ = ["Landing", "Renewing", "Settings", "Turn"]

DEFAULT_POLICY = RefreshPolicy()
LIFT_SPREAD = 1.0  # seconds
Landing: TypeAlias = tuple[Present | Reissue, Outcome]

logger: logging.Logger = logging.getLogger("signalwire_tokens.session")


class Settings(TypedDict, total=False):
    """What a session is made with, besides its renewal and its store."""

    label: Required[str]
    life: Required[timedelta]
    clock: Required[Clock]
    policy: RefreshPolicy | None
    presents: bool
    reissues: bool
    keeps_all: bool
    throttle: tuple[Throttle, Clock] | None
    brought: TokenPair | None


class Renewing(ABC):
    """Renew a pair when it is due, and emit events."""

    __slots__ = (
        "__weakref__",
        "_brought",
        "_clock",
        "_flight",
        "_lifecycle",
        "_listeners",
        "_now",
        "_renewal",
        "_throttle",
        "_timer",
        "_waiters",
        "wakes_at",
    )

    def __init__(
        self,
        renewal: Renewal,
        *,
        label: str,
        life: timedelta,
        clock: Clock,
        policy: RefreshPolicy | None = None,
        presents: bool = True,
        reissues: bool = True,
        keeps_all: bool = False,
        throttle: tuple[Throttle, Clock] | None = None,
        brought: TokenPair | None = None,
    ) -> None:
        policy, seconds = DEFAULT_POLICY if policy is None else policy, life.total_seconds()
        if not keeps_all:
            policy.check_life(seconds)
        self._renewal: Renewal = renewal
        self._clock, self._now = clock, clock.now
        self._throttle = throttle
        self._brought = brought
        self._lifecycle: Lifecycle = Lifecycle(
            policy,
            label=label,
            life=seconds,
            draw=draw(),
            presents=presents,
            reissues=reissues,
            keeps_all=keeps_all,
        )
        self.wakes_at: float = math.inf
        self._flight: asyncio.Task[Landing] | None = None
        self._timer: Timer | None = None
        self._waiters: set[asyncio.Future[None]] | None = None
        self._listeners: tuple[Listener, ...] = ()

    @property
    def last_error(self) -> SignalWireTokenError | None:
        """What the last attempt to renew failed with; None where it did not."""
        return self._lifecycle.last_error

    @abstractmethod
    async def _renew(self, step: Present | Reissue) -> Landing:
        """Renew in one attempt, and say which way was gone and what came of it."""

    def _brought_at(self, pair: TokenPair) -> float:
        """Return when a pair from elsewhere was asked for. Only the wall clock shows that."""
        return self._now() - max(0.0, self._clock.wall() - pair.token.issued_at.timestamp())

    @property
    def _label(self) -> str:
        return self._lifecycle.label

    @property
    def _policy(self) -> RefreshPolicy:
        return self._lifecycle.policy

    @property
    def _reason(self) -> SignalWireTokenError | None:
        """Why there is no token, as far as that is known."""
        throttled = self._throttle
        return self.last_error or (None if throttled is None or self._may_renew() else throttled[0].error)

    def _may_renew(self) -> bool:
        """Return whether a renewal could begin now."""
        return self._throttled[1] <= self._now()

    @property
    def _throttled(self) -> Quiet:
        """When SignalWire asked to be left alone, and until when."""
        if self._throttle is None:
            return NO_QUIET
        throttle, clock = self._throttle
        apart = 0.0 if clock is self._clock else self._now() - clock.now()
        return throttle.asked_at + apart, throttle.until + apart

    def throttle_lifted(self) -> None:
        """Plan the next attempt without the throttle: within a second, so that not all sessions come at once."""
        if self._timer is not None and self._lifecycle.is_at_rest:
            self._timer.set(self, self._now() + self._lifecycle.draw * LIFT_SPREAD)

    def _next_step(self) -> Step:
        """Return what to do next, and when."""
        return self._lifecycle.next_step(self._throttled)

    def wake(self, timer: Timer) -> None:
        """Do what is due: renew, or give up."""
        step, now = self._next_step(), self._now()
        if step.at <= now and not isinstance(step, Expire):
            step = self._lifecycle.way(now)  # the machine may have slept since the step was planned
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
        if self._lifecycle.clock_leaped(seconds, now):
            self._plan()

    def _left(self) -> float:
        """Tell how much life the token at hand has left."""
        return self._lifecycle.left(self._now())

    def _plan(self) -> None:
        """Have the timer call when the next step is due."""
        if self._timer is None or not self._lifecycle.is_at_rest:
            return
        step = self._next_step()
        if isinstance(step, Expire) and step.at <= self._now():
            self._die(self._timer)
        else:
            self._timer.set(self, step.at)
        if self._throttle is not None and self._throttled[1] > self._now():
            self._throttle[0].watch(self)

    def _depart(self, renewal: Coroutine[Any, Any, Landing], step: Present | Reissue, timer: Timer) -> None:
        """Renew, in a task that nobody but the event loop's end cancels."""
        timer.unset(self)
        land = partial(self._land, step, self._lifecycle.pair, self._wall_ahead(), timer)
        flight = timer.begin(renewal, f"renew {self._label}")
        flight.add_done_callback(land)
        self._lifecycle.begin(step)
        self._flight = flight

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
            cycle = self._lifecycle
            logger.exception("session %s generation %d: a result could not be taken in", self._label, cycle.generation)
            self._flight = None
            self._abandon()
            failure = None
            if cycle.pair is pair:  # the refresh token may be used up
                what = f"the result of a renewal could not be taken in: {type(error).__name__}"
                failure = Ambiguous(SignalWireTokenError(what))
            self._carry_out(cycle.lose(step, failure, self._now()))
            if cycle.phase is Phase.OPEN:
                timer.set(self, self._now() + self._policy.floor_for(cycle.life))
            self._notify()

    def _abandon(self) -> None:  # noqa: B027 - most hold nothing
        """Release what a renewal holds whose result could not be taken in."""

    def _conclude(self, step: Present | Reissue, wall_ahead: float, flight: asyncio.Task[Landing]) -> None:
        """Publish an outcome, plan what follows, and wake the callers that wait."""
        self._flight = None
        way, outcome = outcome_of(flight, step)
        try:
            self._take_in(outcome, way)
        finally:
            # A leap of the wall clock in the meantime was reported to sessions at rest only.
            self.note_leap(self._wall_ahead() - wall_ahead, self._now())
            self._plan()
            self._notify()

    def _take_in(self, outcome: Outcome, way: Present | Reissue) -> None:
        self._carry_out(self._lifecycle.land(way, outcome, self._now(), draw()))

    def _wall_ahead(self) -> float:
        return self._clock.wall() - self._now()

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        """Log and emit what an event of the lifecycle led to."""
        label, generation = self._label, self._lifecycle.generation
        for effect in effects:
            match effect:
                case Emit(kind):
                    self._tell(kind)
                case Adopted():
                    logger.info("session %s generation %d: renewed, %r", label, generation, effect.renewed.pair.token)
                    self._adopted(effect)
                case Failed(failure, is_news):
                    level = logging.WARNING if is_news else logging.INFO  # one line an outage, not one an attempt
                    logger.log(level, "session %s generation %d: %s", label, generation, failure.error)
                case Refused(what, left):
                    logger.warning(
                        "session %s generation %d: the %s was refused %.0f s before its calculated expiry. It was used "
                        "or revoked elsewhere, or tokens have a shorter lifetime than assumed: see "
                        "SIGNALWIRE_TOKENS_LIFETIME",
                        label,
                        generation,
                        what,
                        left,
                    )
                case SubscriberChanged():
                    logger.warning("session %s generation %d: another subscriber than before", label, generation)
                case _:
                    assert_never(effect)

    def _adopted(self, adopted: Adopted) -> None:
        """Note that there is a new pair."""
        report = getattr(self._renewal, "adopted", None)
        if report is not None and adopted.left is not None:
            try:
                report(adopted.left)
            except Exception:  # whatever it is: a renewal may be a caller's code
                logger.exception("session %s: a renewal failed to note a new pair", self._label)

    def _die(self, timer: Timer) -> None:
        """Give up for good."""
        timer.unset(self)
        self._lifecycle.expire()
        logger.error("session %s generation %d: no way left to renew", self._label, self._lifecycle.generation)
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
        cycle = self._lifecycle
        if self._timer is None or (cycle.phase is Phase.CLOSED and kind != "closed"):
            return
        for listener in self._listeners:
            try:
                why = None if kind == "recovered" else error or self.last_error
                event = SessionEvent(kind=kind, generation=cycle.generation, pair=cycle.pair, error=why)
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


def draw() -> float:
    """Return a random number from 0 to 1: it spreads load and keeps no secret."""
    return random.random()  # noqa: S311 - as it says


def outcome_of(flight: asyncio.Task[Landing], step: Present | Reissue) -> Landing:
    """Read what a renewal said, or find words for one that said nothing."""
    if flight.cancelled():
        return step, Ambiguous(SignalWireTokenError("the renewal was cancelled from outside"))
    error = flight.exception()
    if error is not None:
        logger.error("a renewal failed with %s", type(error).__name__)
        return step, Ambiguous(SignalWireTokenError(f"the renewal failed with {type(error).__name__}"))
    return flight.result()
