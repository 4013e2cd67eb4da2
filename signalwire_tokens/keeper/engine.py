"""The engine of a session: it renews its token when that is due, in one task, and carries out what follows.

The lifecycle holds all state of the token, and the policy says when it is due. The timer and the governor of a fleet
hold engines; users hold a `TokenSession`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, TypeAlias, assert_never

import attrs

from signalwire_tokens.clock import Clock, Timer
from signalwire_tokens.errors import SessionError, SignalWireTokenError
from signalwire_tokens.lifecycle import Adopted, Effect, Emit, EventKind, Failed, Lifecycle, Phase, Warn
from signalwire_tokens.models import TokenPair
from signalwire_tokens.outcomes import (
    Ambiguous,
    Answered,
    Expire,
    IssueNew,
    Look,
    NotSent,
    RenewalStep,
    Renewed,
)

from .events import Listener, SessionEvent, logged
from .gate import ALONE, Gate, Owner
from .renewal import Renewal, RenewalRequest, RenewalResult, asked_at, failure_of, only_later, result_of
from .shared import SharedRenewal
from .waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from signalwire_tokens.outcomes import Outcome, Step

    from .waiters import WaitDeadline

__all__ = ["Engine"]

LIFT_SPREAD = 1.0  # seconds
Flight: TypeAlias = "asyncio.Task[RenewalResult]"
Begun: TypeAlias = RenewalStep | Look
BROKEN = NotSent(SignalWireTokenError("a renewal could not be begun, or its result not be taken in"))

logger: logging.Logger = logging.getLogger("signalwire_tokens.session")


@attrs.define(eq=False, repr=False)
class Engine:
    """Renews a token when that is due, and emits events.

    `gate` decides who may renew when, `owner` is what the session belongs to, `shared` renews if there is a store, and
    `brought` is a pair to begin with. `used_at` is when a caller last used a session of a fleet. `flight` is the one
    task that renews, or looks into the store.
    """

    renewal: Renewal
    cycle: Lifecycle
    clock: Clock
    gate: Gate
    shared: SharedRenewal | None
    brought: TokenPair | None
    owner: Owner = ALONE
    used_at: float = -math.inf
    wakes_at: float = math.inf
    flight: Flight | None = None
    timer: Timer | None = None
    waiters: Waiters | None = None
    listeners: tuple[Listener, ...] = ()
    now: Callable[[], float] = attrs.field(
        init=False, default=attrs.Factory(lambda self: self.clock.now, takes_self=True)
    )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label}>"

    # Questions.

    @property
    def label(self) -> str:
        """How the session is named in logs and errors."""
        return getattr(self.renewal, "label", f"of {type(self.renewal).__name__}")

    def left(self) -> float:
        """Return how long the current token is still valid."""
        return self.cycle.left(self.now())

    def next_step(self) -> Step:
        """Return what to do next, and when, as long as SignalWire wants what it has said last."""
        return self.cycle.policy.next_step(self.cycle, self.gate.throttle_period(self))

    def opened(self) -> Timer:
        """Return the timer, which an engine has from `open()` on."""
        assert self.timer is not None  # noqa: S101 - it is set before any of its callers can run
        return self.timer

    def check_place(self) -> None:
        """Raise `SessionError` in another process, or on another event loop, than the session's."""
        if self.timer is not None and (misuse := self.timer.find_misuse()) is not None:
            raise SessionError(f"session {self.label} {misuse}")

    # What a fleet's governor asks and tells.

    def deadline(self) -> float:
        """Return when a renewal comes too late."""
        return self.cycle.policy.deadline(self.cycle, self.now())

    def has_failed(self) -> bool:
        """Return whether the last attempt failed, and the session wasn't told to try again."""
        return self.cycle.failing is not None and self.cycle.pressed == math.inf

    def press(self, *, is_forced: bool = False) -> None:
        """Renew as soon as it may, whatever was planned or has failed."""
        self.cycle.press(self.now(), is_forced=is_forced)
        self.plan()

    def throttle_lifted(self) -> None:
        """Plan the next attempt without the throttle: within a second, so that not all sessions come at once."""
        if self.timer is not None and self.cycle.is_at_rest:
            self.timer.set(self, self.now() + self.cycle.draw * LIFT_SPREAD)

    # The plan.

    def open(self, timer: Timer) -> None:
        """Begin to keep a token."""
        self.timer = timer
        pair, self.brought = self.brought, None
        self.cycle.open(self.now(), None if pair is None else Renewed(pair, asked_at(pair, self.clock)))
        if self.shared is not None:
            self.shared.watch(self.heard)
        self.plan()

    def plan(self) -> None:
        """Have the timer call when the next step is due."""
        if self.timer is not None and self.cycle.is_at_rest:
            self._follow(self.next_step(), self.timer)

    def wake(self, timer: Timer) -> None:
        """Do what is due."""
        cycle = self.cycle
        if self.owner.defers(self) or not cycle.is_at_rest:
            return
        step = self.next_step()
        if step.at <= self.now() and not isinstance(step, Expire):
            step = cycle.way(self.now())  # the machine may have slept since the step was planned
        self._follow(step, timer, may_begin=True)

    def _follow(self, step: Step, timer: Timer, *, may_begin: bool = False) -> None:
        """Do a step whose time has come, or have the timer call at that time. A renewal reads the store anyway."""
        now, shared = self.now(), self.shared
        is_over, is_turn = isinstance(step, Expire) and step.at <= now, may_begin and step.at <= now
        if shared is not None and self._is_lost(shared, now, is_over=is_over):
            self._want_look(shared, timer, is_last=is_over)
        elif is_over:
            self._expire(timer)
        elif isinstance(step, Expire) or not (is_turn and self._enter(step)):
            at = math.inf if is_turn else step.at  # the gate wakes it
            looks_at = shared.rests_until if shared is not None and shared.heard else math.inf
            if shared is not None and looks_at <= now < at:
                self._want_look(shared, timer, is_last=False)
            elif min(at, looks_at) < math.inf:
                timer.set(self, min(at, looks_at))

    def _want_look(self, shared: SharedRenewal, timer: Timer, *, is_last: bool) -> None:
        """Look into the store as soon as the gate allows it."""
        self.gate.look(self, partial(self._look, shared, is_last, timer.wall_ahead))
        self.cycle.begin(Look(self.now()))  # even if it is put off
        timer.unset(self)

    def _enter(self, step: RenewalStep) -> bool:
        """Renew if the gate allows it, and return whether it does. If not, the gate wakes the session later."""
        try:
            if self.gate.enter(self):
                self.begin(step)
        finally:
            if self.flight is None:  # it may have entered, and then something raised
                self.gate.ended(self, BROKEN)
        return self.flight is not None

    def _is_lost(self, shared: SharedRenewal, now: float, *, is_over: bool) -> bool:
        """Return whether to look into the store first, once for a token that has expired."""
        is_late = is_over or (self.gate.looks_first and self.cycle.access_until <= now)
        return is_late and not shared.has_looked(is_last=is_over)

    def note_leap(self, seconds: float, now: float) -> None:
        """Renew soon if the wall clock has leapt, since the age of the token is unknown then.

        A renewal under way compares the clocks itself when it ends.
        """
        if not isinstance(self.cycle.flying, RenewalStep) and self.cycle.clock_leaped(seconds, now):
            self.plan()

    def heard(self) -> None:
        """Look into the store, now or after what is under way, since another session has renewed."""
        shared, is_open = self.shared, self.cycle.phase is Phase.OPEN
        if shared is not None and is_open and self.opened().loop is asyncio.get_running_loop():
            shared.heard = True
            if not self.owner.defers(self):
                self.plan()

    def _expire(self, timer: Timer) -> None:
        """Give up for good."""
        timer.unset(self)
        self.cycle.advance(Phase.EXPIRED)
        logger.error("session %s generation %d: no way left to renew", self.label, self.cycle.generation)
        self.tell("expired")
        self.owner.expired(self)
        self.notify()

    # A renewal.

    def begin(self, step: RenewalStep) -> None:
        """Renew now."""
        self._depart(self._renew(step), step, "renew", self.opened().wall_ahead)

    def _look(self, shared: SharedRenewal, is_last: bool, wall_ahead: float) -> None:
        """Look for a pair that another process has saved, if the session is still open."""
        try:
            if self.flight is None and self.cycle.phase is Phase.OPEN:
                self._depart(shared.look(is_last=is_last), Look(self.now()), "look for", wall_ahead)
        finally:
            if self.flight is None:
                self._carry_out(self.cycle.lose(Look(self.now()), None, self.now()))
                self.gate.ended(self, None)
                self._plan_again()

    def _depart(self, work: Coroutine[Any, Any, RenewalResult], step: Begun, what: str, wall_ahead: float) -> None:
        """Begin a task that only the event loop's end cancels. `wall_ahead` is what the timer has last seen of it."""
        timer, cycle = self.opened(), self.cycle
        land = partial(self._land, step, cycle.pair, wall_ahead)
        flight = timer.begin(work, f"{what} {self.label}")
        flight.add_done_callback(land)
        cycle.begin(step)
        self.flight = flight
        timer.unset(self)

    async def _renew(self, step: RenewalStep) -> RenewalResult:
        if self.shared is not None:
            return await self.shared.renew(step, self._ask)
        return step, await self._ask(step, self.cycle.pair, None)

    async def _ask(self, way: RenewalStep, pair: TokenPair | None, limit: float | None) -> Outcome:
        """Return what came of asking for a pair."""
        self.gate.asks(self)
        request = RenewalRequest(step=way, pair=pair, current=self.cycle, asked=self.now(), timeout=limit)
        try:
            answer = self.renewal.renew(request)
            outcome = await answer if isawaitable(answer) else answer
        except SignalWireTokenError as error:
            meaning, error = getattr(self.renewal, "meaning", None), error.with_traceback(None)
            return failure_of(error, way) if meaning is None else meaning(error, request)
        if not isinstance(outcome, Renewed | Answered):
            what = f"renew() returned {type(outcome).__name__}: it must return Renewed or a failure"
            return Ambiguous(SignalWireTokenError(what))
        if isinstance(outcome, Renewed):
            if not math.isfinite(outcome.asked):
                earliest = request.asked if outcome.asked == math.inf else asked_at(outcome.pair, self.clock)
                outcome = attrs.evolve(outcome, asked=min(request.asked, earliest))
            if self.cycle.usual_lifetime and isinstance(way, IssueNew):  # a refresh may have used its token up
                return only_later(outcome, self.cycle, self.now())
        return outcome

    def _land(self, step: Begun, pair: TokenPair | None, wall_ahead: float, flight: Flight) -> None:
        """Publish what came of a renewal of a pair. Whatever raises here, the session plans its next attempt."""
        try:
            self._conclude(step, wall_ahead, flight)
        except Exception as error:  # whatever it is: the session must not stay without a plan
            cycle = self.cycle
            logger.exception("session %s generation %d: a result could not be taken in", self.label, cycle.generation)
            self.flight = None
            self.gate.ended(self, BROKEN)
            failure = None
            if cycle.pair is pair:  # the refresh token may be used up
                what = f"the result of a renewal could not be taken in: {type(error).__name__}"
                failure = Ambiguous(SignalWireTokenError(what))
            self._carry_out(cycle.lose(step, failure, self.now()))
            self._plan_again()
            self.notify()

    def _plan_again(self) -> None:
        """Have the timer call in a moment, after planning itself may have raised."""
        cycle = self.cycle
        if cycle.phase is Phase.OPEN:
            self.opened().set(self, self.now() + cycle.policy.min_interval_for(cycle.lifetime))

    def _conclude(self, step: Begun, wall_ahead: float, flight: Flight) -> None:
        """Publish an outcome, plan what follows, and wake the callers that wait."""
        self.flight = None
        way, outcome = result_of(flight, step)
        try:
            try:
                if isinstance(outcome, Renewed) and outcome.unsaved is not None:
                    self._carry_out([Warn(f"not saved, {outcome.unsaved}")])
                    self.tell("persist_failed", outcome.unsaved)
                if self.shared is not None and isinstance(outcome, Renewed) and not isinstance(step, Look):
                    self.shared.heard = False  # the news are its own
                self._carry_out(self.cycle.land(way, outcome, self.now(), draw()))
            finally:
                self.gate.ended(self, outcome)
        finally:
            # A leap of the wall clock in the meantime was reported to sessions at rest only.
            self.note_leap(self._wall_ahead() - wall_ahead, self.now())
            self.plan()
            self.notify()

    def _wall_ahead(self) -> float:
        return self.clock.wall() - self.now()

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        """Log and emit what an event of the lifecycle led to."""
        label, generation = self.label, self.cycle.generation
        for effect in effects:
            match effect:
                case Emit(kind):
                    self.tell(kind)
                case Adopted():
                    self._adopted(effect)
                case Failed(failure, is_news):
                    level = logging.WARNING if is_news else logging.INFO  # one line an outage, not one an attempt
                    logger.log(level, "session %s generation %d: %s", label, generation, failure.error)
                case Warn(what):
                    logger.warning("session %s generation %d: %s", label, generation, what)
                case _:
                    assert_never(effect)

    def _adopted(self, adopted: Adopted) -> None:
        """Save a new pair that isn't saved yet, and report it."""
        shared, token = self.shared, adopted.renewed.pair.access_token
        logger.info("session %s generation %d: renewed, %r", self.label, self.cycle.generation, token)
        if shared is not None and shared.adopted(adopted.renewed) and self.cycle.phase is not Phase.CLOSED:
            shared.saving = self.opened().begin(shared.save_later(self.heard), f"save {self.label}")
        report = getattr(self.renewal, "adopted", None)
        if report is not None and adopted.left is not None:
            with logged(f"session {self.label}: a new pair could not be noted"):
                report(adopted.left)
        self.owner.adopted(self, is_first=adopted.left is None)

    # Those who wait and listen.

    def invalidate(self) -> None:
        """Return the current token to nobody any more, and renew it."""
        self._carry_out(self.cycle.invalidate(self.now()))
        self.plan()
        self.notify()

    def hasten(self) -> None:
        """Bring the next attempt forward, since somebody waits for it."""
        now, shared = self.now(), self.shared
        if self.cycle.want(now) or (shared is not None and self._is_lost(shared, now, is_over=False)):
            self.plan()
        self.opened().look(now)
        self.gate.wanted(self)

    async def changed(self, deadline: WaitDeadline | None = None) -> None:
        """Wait until something happens, or the deadline is over."""
        if self.waiters is None:
            self.waiters = Waiters()
        await self.waiters.wait(deadline)

    def notify(self) -> None:
        """Let all who wait look again."""
        waiters, self.waiters = self.waiters, None
        if waiters is not None:
            waiters.wake()

    def tell(self, kind: EventKind, error: SignalWireTokenError | None = None) -> None:
        """Emit an event to the subscribers. It never raises, because its callers have more to do."""
        cycle = self.cycle
        if self.timer is None or (cycle.phase is Phase.CLOSED and kind != "closed"):
            return
        for listener in self.listeners:
            try:
                why = None if kind == "recovered" else error or cycle.last_error
                event = SessionEvent(kind=kind, generation=cycle.generation, pair=cycle.pair, error=why)
                listener.emit(event, self.timer)
            except Exception:  # whatever it is, such as a MemoryError
                logger.exception("session %s: the event %r could not be emitted", self.label, kind)


def draw() -> float:
    """Return a random number from 0 to 1: it spreads load and keeps no secret."""
    return random.random()  # noqa: S311 - as it says
