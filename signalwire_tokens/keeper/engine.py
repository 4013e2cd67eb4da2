"""The engine of a session: it plans renewals, runs them, and carries out what follows.

The lifecycle holds the state of the token. The policy chooses the next step and its time, and the gate decides whether
the session may renew now. The engine connects them to the timer, the store, the source of tokens and the subscribers.

One renewal::

    plan()             the policy names the next step and its time; the timer gets that time
    wake()             the timer rings, and the policy names the step again, since time has passed
      gate.enter()     the gate lets the session renew, or wakes it later
      begin()          a task runs the renewal, and the lifecycle notes that it is under way
    _land()            the task is done
      _conclude()      the lifecycle adopts the outcome; its effects are logged, saved and emitted
        gate.ended()   the gate lets the next session renew
        plan()         the timer gets the time of the next step
        notify()       callers that wait look at the result

Two rules follow from this:

- **One task at a time.** `task` is the only task of a session that renews or looks into the store. All callers wait
  for it. No caller runs it in its own task, so a cancelled caller doesn't cancel the renewal. (P15)
- **The engine never cancels it.** Its answer may hold the only valid refresh token. (P21)

The timer and a fleet's gate hold engines. Your app holds a `TokenSession`, so a session that it drops can be
collected, although the timer knows its engine.
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
from signalwire_tokens.errors import SessionError, SignalWireTokenError, is_throttle
from signalwire_tokens.lifecycle import Adopted, Effect, Emit, EventKind, Failed, Lifecycle, Phase, Warn
from signalwire_tokens.outcomes import (
    Ambiguous,
    Expire,
    FailedAttempt,
    IssueNew,
    Look,
    NotSent,
    RenewalStep,
    Renewed,
    Throttled,
)

from .events import Listener, SessionEvent, logged
from .gate import ALONE, Gate, Owner
from .messages import NOT_PROCESSED, NOT_SAVED, UNUSABLE, log_expiry, log_failure, log_pair
from .renewal import Renewal, RenewalRequest, RenewalResult, asked_at, failure_of, only_later, result_of
from .shared import SharedRenewal
from .waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from signalwire_tokens.models import TokenPair
    from signalwire_tokens.outcomes import Outcome, Step

    from .waiters import WaitDeadline

__all__ = ["Engine"]

LIFT_SPREAD = 1.0  # seconds over which the sessions of a client renew after a throttle is lifted
RenewalTask: TypeAlias = "asyncio.Task[RenewalResult]"
Begun: TypeAlias = RenewalStep | Look
NOT_BEGUN = NotSent(SignalWireTokenError("a renewal couldn't begin, or its result couldn't be processed: see the log"))

logger: logging.Logger = logging.getLogger("signalwire_tokens.session")


@attrs.define(eq=False, repr=False)
class Engine:
    """The parts of one session, and what it has under way.

    - `renewal` is the source of tokens, and `cycle` the session's state.
    - `gate` decides when the session may renew, and `owner` is what the session belongs to. A fleet sets its own.
    - `shared` renews through the store; None without a store.
    - `counted` is the state and the name of the last error under which a fleet counts the session.
    - `used_at` is when a caller last used a session of a fleet.
    - `gained` is by how much the wall clock had gained on the session's clock when the pair was requested.
    - `wakes_at` is the deadline that the timer has for the session; inf if there is none.
    - `task` is the task of the renewal or look under way.
    - `timer` is None until the session is opened.
    - `waiters` are the callers that wait for the next change; None if none does.
    - `now` is the clock's method, which the engine calls often.
    """

    renewal: Renewal
    cycle: Lifecycle
    clock: Clock
    gate: Gate
    shared: SharedRenewal | None
    owner: Owner = ALONE
    counted: tuple[Any, ...] | None = None
    used_at: float = -math.inf
    gained: float = 0.0
    wakes_at: float = math.inf
    task: RenewalTask | None = None
    timer: Timer | None = None
    waiters: Waiters | None = None
    listeners: tuple[Listener[SessionEvent], ...] = ()
    now: Callable[[], float] = attrs.field(
        init=False, default=attrs.Factory(lambda self: self.clock.now, takes_self=True)
    )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label}>"

    # Reading the state.

    @property
    def label(self) -> str:
        """The name of the session in logs and errors."""
        return getattr(self.renewal, "label", f"of {type(self.renewal).__name__}")

    def left(self) -> float:
        """Return for how many seconds the current token is still valid. A negative number means that it has expired."""
        return self.cycle.left(self.now())

    def next_step(self) -> Step:
        """Return what to do next, and when, as long as nothing changes. The pause that SignalWire asked for counts."""
        return self.cycle.policy.next_step(self.cycle, self.gate.throttle_period(self))

    def opened(self) -> Timer:
        """Return the timer, which the engine has from `open()` on."""
        assert self.timer is not None  # noqa: S101 - it is set before any of its callers can run
        return self.timer

    def check_place(self) -> None:
        """Raise `SessionError` if this isn't the process and the event loop that the session was opened on."""
        if self.timer is not None and (misuse := self.timer.find_misuse()) is not None:
            raise SessionError(f"session {self.label} {misuse}")

    # For the gate of a fleet.

    def deadline(self) -> float:
        """Return when a renewal would come too late, in seconds by the session's clock."""
        return self.cycle.policy.deadline(self.cycle, self.now())

    def has_failed(self) -> bool:
        """Return whether the last attempt failed, unless the session must try again regardless."""
        return self.cycle.failing is not None and self.cycle.demanded == math.inf

    def demand(self, *, is_forced: bool = False) -> None:
        """Bring the next renewal forward to the earliest time that is allowed, regardless of the plan and of failures.

        `is_forced` lifts the interval between forced renewals, too.
        """
        self.cycle.demand(self.now(), is_forced=is_forced)
        self.plan()

    def throttle_lifted(self) -> None:
        """Plan the next attempt, since SignalWire accepts requests again.

        Each session waits for a random part of a second, so that not all of them send a request at once.
        """
        if self.timer is not None and self.cycle.is_at_rest:
            self.timer.set(self, self.now() + self.cycle.draw * LIFT_SPREAD)

    # Planning.

    def open(self, timer: Timer) -> None:
        """Open the session, with the timer of its event loop. The first attempt is due at once."""
        self.timer, self.gained = timer, timer.gained()
        pair = self.cycle.pair
        self.cycle.open(self.now(), None if pair is None else Renewed(pair, asked_at(pair, self.clock)))
        if pair is not None:
            log_pair(self, None, None)
        if self.shared is not None:
            self.shared.watch(self.on_store_change)
        self.plan()

    def plan(self) -> None:
        """Set the timer to the time of the next step. Without an open session at rest, do nothing.

        This may begin a look into the store, but never a renewal. If one is due, the timer rings at once, and `wake()`
        begins it.
        """
        if self.timer is not None and self.cycle.is_at_rest:
            self._follow(self.next_step(), self.timer)
        self.owner.changed(self)

    def wake(self, timer: Timer) -> None:
        """Begin the step that is due.

        The timer calls this at the session's deadline, and a gate when it is the session's turn.
        """
        try:
            if not self.owner.defers(self) and self.cycle.is_at_rest:
                step = self.next_step()
                if step.at <= self.now() and not isinstance(step, Expire):
                    step = self.cycle.way(self.now())  # the refresh token may have expired, during a suspend
                self._follow(step, timer, may_begin=True)
        finally:
            self.owner.changed(self)  # the token may have become due

    def _follow(self, step: Step, timer: Timer, *, may_begin: bool = False) -> None:
        """Begin a step if it is due, or set the timer to its time.

        The first line that fits decides::

            the step is                                            then
            ----------------------------------------------------   ----------------------------------------------------
            due, and the store should be read first (`_should_look_first`)   look into the store
            to expire, and due                                     the session expires
            a renewal, and due, with `may_begin`                   begin it; if the gate refuses, it wakes the session
            any other                                              wait for the timer, which rings at once if it is due

        Only `wake()` sets `may_begin`. A session that waits looks into the store if another session has saved a pair:
        at once, or at `rests_until` if that is later. A renewal needs no look before it, since it reads the store
        itself.
        """
        now, shared = self.now(), self.shared
        is_over, is_turn = isinstance(step, Expire) and step.at <= now, may_begin and step.at <= now
        if shared is not None and self._should_look_first(shared, now, is_over=is_over):
            self._want_look(shared, timer, is_last=is_over)
        elif is_over:
            self._expire(timer)
        elif isinstance(step, Expire) or not (is_turn and self._enter(step)):
            at = math.inf if is_turn else step.at  # if the gate has refused, it wakes the session
            looks_at = shared.rests_until if shared is not None and shared.has_news else math.inf
            if shared is not None and looks_at <= now < at:
                self._want_look(shared, timer, is_last=False)
            elif min(at, looks_at) < math.inf:
                timer.set(self, min(at, looks_at))

    def _want_look(self, shared: SharedRenewal, timer: Timer, *, is_last: bool) -> None:
        """Look into the store as soon as the gate allows it."""
        self.gate.look(self, partial(self._look, shared, is_last, timer.gained()))
        self.cycle.begin(Look(self.now()))  # from now on, even if the gate puts it off: no renewal begins before it
        timer.unset(self)

    def _enter(self, step: RenewalStep) -> bool:
        """Begin a renewal if the gate allows it, and return whether it has begun.

        If not, the gate wakes the session later.
        """
        is_in = True  # if `enter` raises, it may have let the session in
        try:
            if is_in := self.gate.enter(self):
                self.begin(step)
        finally:
            if is_in and self.task is None:  # one of them has raised: leave the gate again
                self.gate.ended(self, NOT_BEGUN)
        return self.task is not None

    def _should_look_first(self, shared: SharedRenewal, now: float, *, is_over: bool) -> bool:
        """Return whether a session without a valid token should look into the store before it goes on.

        In a fleet, it looks once for each expired token, because its renewal may have to wait for a turn. Any session
        looks once more before it expires for good (`is_over`), and another time if there is news.
        """
        is_late = is_over or (self.gate.looks_first and self.cycle.access_until <= now)
        return is_late and not shared.has_looked(is_last=is_over)

    def note_leap(self, seconds: float, now: float) -> None:
        """Bring the next renewal forward if the wall clock has gained too much: the age of the token is then unknown.

        `seconds` is the latest leap. All leaps since the pair was requested count. While a renewal is under way, this
        does nothing, and `_conclude` calls it when the renewal ends.
        """
        is_renewing = isinstance(self.cycle.under_way, RenewalStep)
        if not is_renewing and self.cycle.clock_leaped(self.opened().gained() - self.gained, now):
            self.gate.clock_leaped(seconds)
            self.plan()

    def note_fork(self) -> None:
        """Require that the next call of `token()` checks the process."""
        self.cycle.check_until(-math.inf)

    def on_store_change(self) -> None:
        """Look into the store soon, since another session has saved a pair. The store calls this."""
        shared, is_open = self.shared, self.cycle.phase is Phase.OPEN
        if shared is not None and is_open and self.opened().loop is asyncio.get_running_loop():
            shared.has_news = True
            if not self.owner.defers(self):
                self.plan()

    def _expire(self, timer: Timer) -> None:
        """End the session's attempts, since its token has expired and no way to renew is left.

        Closing is all that remains.
        """
        timer.unset(self)
        self.cycle.advance(Phase.EXPIRED)
        log_expiry(self)
        self.emit("expired")
        self.owner.expired(self)
        self.notify()

    # Renewing.

    def begin(self, step: RenewalStep) -> None:
        """Begin a renewal. The gate must have let the session in."""
        self._start_task(self._renew(step), step, "renew", self.opened().gained())

    def _look(self, shared: SharedRenewal, is_last: bool, gained: float) -> None:
        """Begin a look into the store, if the session is still open and at rest.

        `gained` is by how much the wall clock had gained when this was planned.
        """
        try:
            if self.task is None and self.cycle.phase is Phase.OPEN:
                self._start_task(shared.look(is_last=is_last), Look(self.now()), "look for", gained)
        finally:
            if self.task is None:
                self._carry_out(self.cycle.fail_to_process(Look(self.now()), None, self.now(), random_draw()))
                self.gate.ended(self, None)
                self._plan_again()
                self.owner.changed(self)

    def _start_task(self, work: Coroutine[Any, Any, RenewalResult], step: Begun, what: str, gained: float) -> None:
        """Run `work` as the session's task, and have `_land` process its result.

        `what` is a verb for the task's name. `gained` is by how much the wall clock had gained on the session's clock.
        Only the event loop itself cancels the task, when the program ends.
        """
        timer, cycle = self.opened(), self.cycle
        land = partial(self._land, step, cycle.pair, gained)
        task = timer.begin(work, f"{what} {self.label}")
        task.add_done_callback(land)
        cycle.begin(step)
        self.task = task
        timer.unset(self)

    async def _renew(self, step: RenewalStep) -> RenewalResult:
        """Return the outcome of a renewal, and the step that it took.

        A session with a store chooses the step by the record.
        """
        if self.shared is not None:
            return await self.shared.renew(step, self._ask)
        return step, await self._ask(step, self.cycle.pair, None, math.inf)

    async def _ask(self, way: RenewalStep, pair: TokenPair | None, limit: float | None, latest: float) -> Outcome:
        """Return the outcome of one request to the source. An error that it raises becomes a failure.

        `way` is the step, and `pair` has the refresh token for it. The source must answer within `limit` seconds; None
        means no limit. The request is sent until `latest`, or not at all. Exceptions that aren't a
        `SignalWireTokenError` pass through to `result_of`.
        """
        refusal = await self.gate.asks(self, latest - self.now())
        if refusal is not None:
            return Throttled(refusal) if is_throttle(refusal) else NotSent(refusal)
        request = RenewalRequest(step=way, pair=pair, current=self.cycle, asked=self.now(), timeout=limit)
        try:
            answer = self.renewal.renew(request)
            outcome = await answer if isawaitable(answer) else answer
        except SignalWireTokenError as error:
            meaning, error = getattr(self.renewal, "meaning", None), error.with_traceback(None)
            return failure_of(error, way) if meaning is None else meaning(error, request)
        if not isinstance(outcome, Renewed | FailedAttempt):
            what = f"renew() returned {type(outcome).__name__}: it must return Renewed or a failure"
            return Ambiguous(SignalWireTokenError(what))
        if isinstance(outcome, Renewed):
            if not math.isfinite(outcome.asked):
                earliest = request.asked if outcome.asked == math.inf else asked_at(outcome.pair, self.clock)
                outcome = attrs.evolve(outcome, asked=min(request.asked, earliest))
            # Your own source may return the current token again, because it has no later one yet. A refreshed pair
            # counts in any case, because the refresh token before it may be used up.
            if self.cycle.usual_lifetime and isinstance(way, IssueNew):
                return only_later(outcome, self.cycle, self.now())
        return outcome

    def _land(self, step: Begun, pair: TokenPair | None, gained: float, task: RenewalTask) -> None:
        """Process the result of the session's task.

        If that raises, the session plans its next attempt all the same. (P7)

        `pair` is the current pair from before. If it still is the current one after an exception, the result is lost,
        and the refresh token may be used up. The failure then is `Ambiguous`.
        """
        try:
            self._conclude(step, gained, task)
        except Exception as error:  # of any kind: the session must not stay without a plan
            cycle = self.cycle
            logger.exception(NOT_PROCESSED, self.label)
            self.task = None
            self.gate.ended(self, NOT_BEGUN)
            failure = None
            if cycle.pair is pair:
                failure = Ambiguous(SignalWireTokenError(UNUSABLE.format(error=type(error).__name__)))
            self._carry_out(cycle.fail_to_process(step, failure, self.now(), random_draw()))
            self._plan_again()
            self.owner.changed(self)
            self.notify()

    def _plan_again(self) -> None:
        """Set the timer to the earliest time for an attempt, in case the planning itself has raised."""
        if self.cycle.phase is Phase.OPEN:
            self.opened().set(self, self.now() + self.cycle.policy.min_interval_for(self.cycle.lifetime))

    def _conclude(self, step: Begun, gained: float, task: RenewalTask) -> None:
        """Process an outcome, leave the gate, plan the next step, and wake the callers that wait.

        The nested `finally` blocks keep this order: the session leaves the gate and plans even if its outcome can't be
        processed. Callers are woken last, so that they find everything done.
        """
        self.task = None
        way, outcome = result_of(task, step)
        try:
            try:
                if isinstance(outcome, Renewed) and outcome.unsaved is not None:
                    self._carry_out([Warn(NOT_SAVED.format(error=outcome.unsaved))])
                    self.emit("persist_failed", outcome.unsaved)
                self.gained = gained if isinstance(outcome, Renewed) else self.gained
                if self.shared is not None and isinstance(outcome, Renewed) and not isinstance(step, Look):
                    self.shared.has_news = False  # a renewal has read the store itself, or has saved the newest pair
                self._carry_out(self.cycle.land(way, outcome, self.now(), random_draw()), way)
            finally:
                self.gate.ended(self, outcome)
        finally:
            self.note_leap(0.0, self.now())  # during a renewal, it has done nothing
            self.plan()
            self.notify()

    def _carry_out(self, effects: Iterable[Effect], way: RenewalStep | None = None) -> None:
        """Log and emit the effects of an event of the lifecycle. `way` is the step that has brought a new pair."""
        for effect in effects:
            match effect:
                case Emit(kind):
                    self.emit(kind)
                case Adopted():
                    self._adopted(effect, way)
                case Failed():
                    log_failure(self, effect)
                case Warn(what):
                    logger.warning("session %s: %s", self.label, what)
                case _:
                    assert_never(effect)

    def _adopted(self, adopted: Adopted, way: RenewalStep | None) -> None:
        """Log a new pair, and save it later if the store doesn't have it yet. `way` is the step that has brought it.

        The source may report the renewal to metrics, by its method `adopted`.
        """
        shared = self.shared
        log_pair(self, adopted, way)
        if shared is not None and shared.adopted(adopted.renewed) and self.cycle.phase is not Phase.CLOSED:
            shared.saving = self.opened().begin(shared.save_later(self.on_store_change), f"save {self.label}")
        report = getattr(self.renewal, "adopted", None)
        if report is not None and adopted.left is not None:
            with logged(f"session {self.label}: adopted() of the token source failed, and the session goes on"):
                report(adopted.left)
        self.owner.adopted(self, is_first=adopted.left is None)

    # Callers and subscribers.

    def invalidate(self) -> None:
        """Treat the current token as expired, and renew it as soon as that is allowed."""
        self._carry_out(self.cycle.invalidate(self.now()))
        self.plan()
        self.notify()

    def caller_waits(self) -> None:
        """Bring the next attempt forward for a caller that waits for a token."""
        now, shared = self.now(), self.shared
        if self.cycle.caller_waits(now) or (shared is not None and self._should_look_first(shared, now, is_over=False)):
            self.plan()
        self.opened().look(now)
        self.gate.caller_waits(self)

    async def changed(self, deadline: WaitDeadline | None = None) -> None:
        """Wait for the next `notify()`, or for the deadline to end. The caller then has to look at what has changed."""
        self.waiters = self.waiters or Waiters()
        await self.waiters.wait(deadline)

    def notify(self) -> None:
        """Wake all callers that wait in `changed()`."""
        waiters, self.waiters = self.waiters, None
        if waiters is not None:
            waiters.wake()

    def emit(self, kind: EventKind, error: SignalWireTokenError | None = None) -> None:
        """Emit an event to the subscribers. This never raises, because the engine has more to do afterwards.

        `error` is the reason for the event; None stands for the last error of the session. Nothing is emitted before
        the session is opened. Once it is closed, only `closed` is.
        """
        cycle = self.cycle
        if self.timer is None or (cycle.phase is Phase.CLOSED and kind != "closed"):
            return
        for listener in self.listeners:
            try:
                why = None if kind == "recovered" else error or cycle.last_error
                event = SessionEvent(kind=kind, generation=cycle.generation, pair=cycle.pair, error=why)
                listener.emit(event, self.timer)
            except Exception:  # of any kind, such as a MemoryError
                logger.exception("session %s: the event %r couldn't be emitted; the session goes on", self.label, kind)


def random_draw() -> float:
    """Return a random number from 0 to 1."""
    return random.random()  # noqa: S311 - it spreads load and keeps no secret
