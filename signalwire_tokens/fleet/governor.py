"""The gate of a fleet's sessions: it decides which session renews next, and when.

A session that wants to renew calls `enter`. It may begin at once if all of these limits allow it. If not, it waits in
the queue, and the governor wakes it in its turn: the most urgent session first.

- **Rate.** No second has more than `rate` renewals that begin in it. Each renewal moves `_next_at`, the time of the
  next free slot, by `_interval`. A late alarm may catch up on `SLACK` seconds of slots, no more. To make up for that,
  the interval is longer than `1 / rate` by the same share. With a rate of 150, for example, slots are 6.8 ms apart. If
  an alarm rings 15 ms late, three sessions begin at once. Within any second, at most 1.02 s of slots are used: 150.
- **Concurrency.** No more than `concurrency` renewals are under way.
- **Breaker.** While SignalWire is down, the breaker is open, and one session at a time sends a request, the probe. When
  SignalWire is back, rate and concurrency grow from a tenth to the full ones.
- **Throttle.** If SignalWire asks for a pause, no renewal begins until it ends, or a minute after SignalWire asked.

A renewal that finds its pair in the store sends no request, so it gives its slot back. Looks into the store need no
slot: only their number at a time is limited.

The breaker and the throttle belong to the client, and so to all its fleets. A fleet isn't notified when another one
changes the breaker, so each governor compares its state with the last one that it saw (`_look_at_breaker`).

**Failed sessions.** A session that fails plans its own next attempt, which may be minutes away. If SignalWire was the
reason, that is too long. So the governor remembers the sessions that have failed since SignalWire last
answered. When SignalWire is back, it has them all try again. While SignalWire is down and no other session wants to
renew, one of them becomes the probe.

A session that failed because of the settings gets one more try once another session has succeeded: the settings may
have been corrected. If it fails again, it keeps to its own plan until it has succeeded (`_retry_misconfigured`).
"""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from signalwire_tokens.errors import StoreError
from signalwire_tokens.keeper import Gate, Outlook
from signalwire_tokens.outcomes import Denied, Failure, Misconfigured, Outcome, RenewalStep, Renewed, Spent, Throttled
from signalwire_tokens.policy import NO_THROTTLE

from .breaker import Breaker, BreakerState
from .queue import Queue

if TYPE_CHECKING:
    from collections.abc import Callable

    from signalwire_tokens.client import TokenClient
    from signalwire_tokens.clock import Timer
    from signalwire_tokens.errors import SignalWireTokenError
    from signalwire_tokens.keeper import Engine
    from signalwire_tokens.policy import RefreshPolicy, ThrottlePeriod

__all__ = ["Governor"]

STARTS_PER_TURN = 100  # sessions that one call of `wake` starts, before the event loop runs other callbacks
SLACK = 0.02  # seconds by which an alarm may ring late without lowering the rate
PROBES_BEFORE_ERRORS = 2  # after this many failed probes in a row, callers get an error without waiting

DOWN = "fleet: SignalWire is down or wants a pause: %s; one session at a time tries again until it answers"

logger: logging.Logger = logging.getLogger("signalwire_tokens.fleet")

# One breaker for each client, because all its fleets send their requests to the same service.
BREAKERS: WeakKeyDictionary[TokenClient, Breaker] = WeakKeyDictionary()


class Flight(NamedTuple):
    """A renewal under way, and when the next slot was free before and after it took one."""

    next_before: float
    next_after: float
    has_asked: bool = False  # True once it has sent its request


class Governor(Gate):
    """The gate that the sessions of a fleet share.

    The timer wakes the governor when a session may renew, and the governor then wakes that session. The session calls
    `enter` in that moment, and gets in. Or it finds that it needn't renew any more, and the next one gets its turn.

    `policy` has the pauses and the ramp, and `rate` is how many renewals may begin in a second.
    """

    looks_first = True

    def __init__(
        self, client: TokenClient, timer: Timer, *, policy: RefreshPolicy, concurrency: int, rate: float
    ) -> None:
        super().__init__(client.throttle, client.clock)
        self.wakes_at: float = math.inf
        self.timer: Timer = timer
        self.breaker: Breaker = BREAKERS.setdefault(client, Breaker())
        self._draw = random.random()  # noqa: S311 - it spreads load and keeps no secret
        self._policy = policy
        self._lifetime = client.lifetimes.access.total_seconds()
        self._concurrency = concurrency
        # Longer than 1 / rate by SLACK, so that no second has more than `rate` renewals even after a late alarm.
        self._interval = (1 + SLACK) / rate
        self._next_at = -math.inf  # when the next slot is free, by the rate alone
        self._queue = Queue()
        self._flights: dict[Engine, Flight] = {}  # sessions that renew
        self._called: Engine | None = None  # the session whose turn it is, while it is woken
        self._probe: Engine | None = None  # the session of this fleet that sends the probe
        self._failed: dict[Engine, Failure] = {}  # sessions that have failed since SignalWire last answered
        self._pardoned: set[Engine] = set()  # sessions that have had their one more try, and haven't succeeded since
        self._was_open = self._was_shut = self._closed = False
        self._to_look: deque[tuple[Engine, Callable[[], None]]] = deque()  # looks that wait
        self._looking: set[Engine] = set()  # looks under way

    @property
    def in_flight(self) -> int:
        """The number of sessions that are renewing."""
        return len(self._flights)

    @property
    def waiting(self) -> int:
        """The number of sessions that wait for their turn."""
        return len(self._queue)

    @property
    def state(self) -> BreakerState:
        """The state of the breaker."""
        return self.breaker.state(self._now(), self._ramp)

    @property
    def last_error(self) -> SignalWireTokenError | None:
        """The last failure since SignalWire last answered, or else the error with which it asked for a pause."""
        if self.breaker.failure is not None:
            return self.breaker.failure.error
        return self.throttle.error if self._throttle_end() > self._now() else None

    def throttle_period(self, engine: Engine) -> ThrottlePeriod:  # noqa: ARG002 - it is the same for all
        """Return that no session has to wait by itself after a throttle. The governor waits for all of them."""
        return NO_THROTTLE

    def outlook(self, engine: Engine) -> Outlook:
        """Return what the governor adds to a session's own plan."""
        pause = self.pause()
        return Outlook(
            pause=pause,
            may_renew=pause <= 0,
            is_waiting=engine in self._queue,
            is_shut=self.is_shut(pause) and (engine.left() > 0 or engine.has_failed() or self._head() is not engine),
            fault=self.last_error if self.breaker.is_open and self.breaker.at_fault else None,
        )

    def is_shut(self, pause: float | None = None) -> bool:
        """Return whether callers should not wait for a renewal: SignalWire is down, and not only for a moment.

        `pause` is the result of `pause()`, if the caller has it already. The callers of the session that is the next
        probe may wait nevertheless; `outlook` makes that exception.
        """
        breaker, pause = self.breaker, self.pause() if pause is None else pause
        in_vain = breaker.failed_probes >= PROBES_BEFORE_ERRORS or breaker.at_fault
        return pause > 0 and (in_vain or pause > self._policy.wait_timeout)

    def pause(self) -> float:
        """Return for how many seconds no session of the fleet may renew, as far as the governor knows.

        The end of a probe under way isn't known. The longest pause before the next probe serves as an estimate.
        """
        now = self._now()
        pause = self._throttle_end() - now
        if self.breaker.is_open:
            pause = max(pause, self.breaker.probe_at - now)
            if self.breaker.probing:
                pause = max(pause, self._policy.probe_pause(self._lifetime, self.breaker.failed_probes, 1.0))
        return max(0.0, pause)

    def enter(self, engine: Engine) -> bool:
        """Return whether a session may renew now. If not, add it to the queue: the governor wakes it in its turn.

        A session that gets in takes a slot of the rate, or becomes the probe while SignalWire is down.
        """
        now = self._now()
        if self._closed:
            return False
        if engine is not self._called and (self._queue or not self._is_free(now)):
            self._queue.add(engine)
            self._arm(now)
            if self.is_shut():
                engine.notify()
            return False
        self._called = None
        self._queue.remove(engine)
        before = self._next_at
        self._next_at = max(before, now - SLACK) + self._interval / (self.breaker.share(now, self._ramp) or 1.0)
        self._flights[engine] = Flight(before, self._next_at)
        if self.breaker.is_open:
            self._probe, self.breaker.probing = engine, True
        return True

    def force(self, engine: Engine, step: RenewalStep) -> None:  # noqa: ARG002 - the plan chooses the step
        """Start a renewal that a caller has forced, in the session's turn."""
        engine.demand(is_forced=True)

    def caller_waits(self, engine: Engine) -> None:
        """Move a session in the queue forward, since a caller waits for its token now."""
        if engine in self._queue:
            self._queue.add(engine)
            self._arm(self._now())

    def asks(self, engine: Engine) -> SignalWireTokenError | None:
        """Record that a renewal sends its request, unless SignalWire has asked for a pause since it began.

        A renewal that sends none, or finds a pair in the store instead, gives its slot back.
        """
        error = self._pause_since_begin(engine)
        if error is None and engine in self._flights:
            self._flights[engine] = self._flights[engine]._replace(has_asked=True)
        return error

    def ended(self, engine: Engine, outcome: Outcome | None) -> None:
        """Release what a renewal or a look has taken, and learn from the outcome.

        A renewal without a request::

            the session was    the outcome            then
            ----------------   --------------------   ------------------------------------------------------
            not the probe      any                    its slot is given back, if no other one was taken since
            the probe          a pair from the store  the next session may be the probe at once
            the probe          a failure of the       the next probe waits for a pause: the store is slow or
                               store                  down, and would hold up one probe after another
        """
        if engine in self._looking:
            self._looking.discard(engine)
            self._arm(self._now())
        was_probe = self._probe is engine
        if was_probe:
            self._probe, self.breaker.probing = None, False
        flight = self._flights.pop(engine, None)
        if flight is None or outcome is None:
            return
        if flight.has_asked:
            self._record_outcome(engine, outcome, was_probe=was_probe)
        elif not was_probe:
            self._give_back(flight)
        elif not isinstance(outcome, Renewed):
            self._delay_probe(self._now())
        self._draw = random.random()  # noqa: S311 - as above
        self._arm(self._now())

    def _give_back(self, flight: Flight) -> None:
        """Free the slot of a session that sent no request, unless a later slot is taken.

        Otherwise, a second could have more renewals than the rate.
        """
        if self._next_at == flight.next_after:
            self._next_at = flight.next_before

    def throttle_lifted(self) -> None:
        """Wake the sessions whose turn it is, since SignalWire accepts requests again."""
        if not self._closed:
            self.timer.set(self, self._now())

    def forget(self, engine: Engine) -> None:
        """Remove a session that has closed or expired."""
        self._queue.remove(engine)
        self._failed.pop(engine, None)
        self._pardoned.discard(engine)

    def close(self) -> None:
        """Stop waking sessions, and leave the probe to other fleets of the client."""
        self._closed = True
        self._queue.clear()
        self._failed.clear()
        self._pardoned.clear()
        self._to_look.clear()
        self.timer.unset(self)
        if self._probe is not None:
            self._probe, self.breaker.probing = None, False

    def look(self, engine: Engine, begin: Callable[[], None]) -> None:
        """Call `begin`, which starts a look into the store, once fewer than `concurrency` looks are under way."""
        self._to_look.append((engine, begin))
        self._arm(self._now())

    def wake(self, timer: Timer) -> None:
        """Start the looks and renewals whose turn it is. The timer calls this."""
        now = self._now()
        self._look_at_breaker()
        for _ in range(min(STARTS_PER_TURN, len(self._to_look))):
            if len(self._looking) >= self._concurrency:
                break
            engine, begin = self._to_look[0]  # removed only after `begin`, so that an exception doesn't lose the look
            self._looking.add(engine)
            begin()
            self._to_look.popleft()
        for _ in range(STARTS_PER_TURN):
            head = self._head()
            if head is None or not self._is_free(now):
                break
            self._call(head, timer, now)
        if self.breaker.is_open and self._failed and self._head() is None and self._is_free(now):
            engine = next(iter(self._failed))
            del self._failed[engine]
            engine.demand()
        self._arm(now)

    def note_leap(self, seconds: float, now: float) -> None:
        """Ignore leaps of the wall clock: the timer notifies the sessions itself."""

    def _now(self) -> float:
        return self.timer.clock.now()

    @property
    def _ramp(self) -> float:
        return self._policy.recovery_for(self._lifetime)

    def _is_free(self, now: float) -> bool:
        """Return whether a session may renew now."""
        return self._free_at(now) <= now

    def _throttle_end(self) -> float:
        """Return when the fleet renews again after a throttle: a minute after SignalWire asked, at the latest."""
        asked, until = self.throttle.asked_at, self.throttle.until
        if until == -math.inf:
            return until
        return self._policy.throttle_end(asked=asked, until=until, lifetime=self._lifetime, draw=self._draw)

    def _head(self) -> Engine | None:
        """Return the session that is next, or None.

        While SignalWire is down, sessions that haven't failed come first.
        """
        return self._queue.first(healthy=self.breaker.is_open)

    def _call(self, engine: Engine, timer: Timer, now: float) -> None:
        """Wake a session in its turn. It calls `enter`, unless it needn't renew any more."""
        self._queue.remove(engine)
        self._called = engine
        timer.wake_now(engine, now)
        self._called = None

    def _arm(self, now: float) -> None:
        """Set the timer to when a look or a renewal may begin."""
        if self._to_look and len(self._looking) < self._concurrency:
            at = now
        else:
            is_needed = self._head() is not None or (self.breaker.is_open and bool(self._failed))
            at = self._free_at(now) if is_needed else math.inf
            if is_needed and self.throttle.until > now:
                self.throttle.watch(self)
        if at < self.wakes_at:
            self.timer.set(self, at)

    def _free_at(self, now: float) -> float:
        """Return when a session may renew, in seconds by the fleet's clock; inf if that depends on a renewal under way.

        When such a renewal ends, `ended` sets the timer again.
        """
        share = self.breaker.share(now, self._ramp)
        if share:
            at = self._next_at if len(self._flights) < max(1.0, self._concurrency * share) else math.inf
        elif self.breaker.probing:  # a probe of another fleet doesn't notify this one when it ends: look again later
            at = math.inf if self._probe is not None else now + self.pause()
        else:
            at = max(self.breaker.probe_at, self._next_at)
        return max(now, at, self._throttle_end())

    def _record_outcome(self, engine: Engine, outcome: Outcome, *, was_probe: bool) -> None:
        """Update the breaker by the outcome of a request.

        `Spent` and `Denied` are answers: SignalWire works, even if it refuses the session. An error of the store means
        nothing.
        """
        if isinstance(outcome, Renewed | Spent | Denied):  # SignalWire has answered, if not what was asked for
            self._failed.pop(engine, None)
            self._pardoned.discard(engine)
            if self.breaker.succeed(self._now()):
                logger.info("fleet: SignalWire answers again; the sessions renew at a growing rate")
            self._look_at_breaker()
            self._retry_misconfigured()
        elif not isinstance(outcome.error, StoreError):
            self._failed[engine] = outcome
            self._note_failure(engine, outcome, was_probe=was_probe)
            self._look_at_breaker()

    def _note_failure(self, engine: Engine, failure: Failure, *, was_probe: bool) -> None:
        """Count a failure of SignalWire's, and set the time of the next probe. A throttle opens the breaker at once."""
        limit = 0.0 if isinstance(failure, Throttled) else self._policy.tuning.outage_after
        is_news = self.breaker.fail(id(engine), failure, limit=limit, was_probe=was_probe)
        if is_news:
            logger.warning(DOWN, failure.error)
        if is_news or was_probe:
            self._delay_probe(self._now())

    def _delay_probe(self, now: float) -> None:
        """Set the time of the next probe."""
        draw = random.random()  # noqa: S311 - it spreads load and keeps no secret
        self.breaker.probe_at = now + self._policy.probe_pause(self._lifetime, self.breaker.failed_probes, draw)

    def _look_at_breaker(self) -> None:
        """React to a breaker that has changed, perhaps because of another fleet of the client.

        If SignalWire is back, the sessions that have failed try again. If waiting can't help from now on, waiting
        callers are woken, and get an error.
        """
        was_open, self._was_open = self._was_open, self.breaker.is_open
        was_shut, self._was_shut = self._was_shut, self.is_shut()
        if was_open and not self._was_open:
            failed, self._failed = self._failed, {}
            for engine in failed:
                engine.demand()
        if self._was_shut and not was_shut:
            for engine in (*self._queue, *self._failed):
                engine.notify()

    def _retry_misconfigured(self) -> None:
        """Start one more try of sessions that failed because of the settings, since another session has succeeded."""
        failed, self._failed = self._failed, {}
        for engine, failure in failed.items():
            if isinstance(failure, Misconfigured) and engine not in self._pardoned:
                self._pardoned.add(engine)
                engine.demand()
