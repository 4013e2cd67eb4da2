"""The gate of a fleet's sessions: it decides which session renews next, and when.

A session that wants to renew calls `enter`. It may begin at once if all of these limits allow it. If not, it waits in
the queue, and the gate wakes it in its turn: the most urgent session first.

- **Rate.** No second has more than `max_rate` renewals that begin in it. Each renewal moves `_next_at`, the time of the
  next free slot, by `_interval`, as `LocalGovernor` does with its turns.
- **Turns.** Just before a renewal sends its request, it waits for a turn from the governor, which may serve other
  fleets and processes, too. Only few may wait at a time, `AHEAD` seconds' worth of the fleet's part of the rate. So no
  fleet can keep turns from the others, and a session that becomes urgent needn't wait behind many.
- **Concurrency.** No more than `concurrency` renewals are under way.
- **Health.** While SignalWire is down or has asked for a pause, no renewal begins, except for one at a time, the probe.
  `FleetHealth` has these rules.

A renewal that finds its pair in the store sends no request, so it gives its slot back. Looks into the store need no
slot: only their number at a time is limited.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from signalwire_tokens.errors import SignalWireTokenError
from signalwire_tokens.governors.local import AHEAD, SLACK, interval_for
from signalwire_tokens.keeper import CLOSED, Gate, Outlook
from signalwire_tokens.policy import NO_THROTTLE

from .health import FleetHealth
from .queue import Queue

if TYPE_CHECKING:
    from collections.abc import Callable

    from signalwire_tokens.client import TokenClient
    from signalwire_tokens.clock import Timer
    from signalwire_tokens.governors import Governor
    from signalwire_tokens.keeper import Engine
    from signalwire_tokens.outcomes import Outcome, RenewalStep
    from signalwire_tokens.policy import RefreshPolicy, ThrottlePeriod

__all__ = ["FleetGate"]

STARTS_PER_TURN = 100  # sessions that one call of `wake` starts or notifies, before the event loop runs other callbacks

NO_TURN = "the limit of requests left no turn in time: raise max_rate, or keep fewer sessions"


class Flight(NamedTuple):
    """A renewal under way, and when the next slot was free before and after it took one."""

    next_before: float
    next_after: float
    has_asked: bool = False  # True once it has sent its request


class FleetGate(Gate):
    """The gate that the sessions of a fleet share.

    The timer wakes the gate when a session may renew, and the gate then wakes that session. The session calls `enter`
    in that moment, and gets in. Or it finds that it needn't renew any more, and the next one gets its turn.

    `policy` has the pauses and the ramp, and `governor` gives the turns.
    """

    looks_first = True

    def __init__(
        self, client: TokenClient, timer: Timer, *, policy: RefreshPolicy, concurrency: int, governor: Governor
    ) -> None:
        super().__init__(client.throttle, client.clock)
        self.wakes_at: float = math.inf
        self.timer: Timer = timer
        self.health: FleetHealth = FleetHealth(client, timer, policy, governor, self.wake_soon)
        self._rate = governor.max_rate
        self._concurrency = concurrency
        self._interval = interval_for(self._rate, SLACK)
        self._next_at = -math.inf  # when the next slot is free, by the rate alone
        self._queue = Queue()
        self._flights: dict[Engine, Flight] = {}  # sessions that renew
        self._called: Engine | None = None  # the session whose turn it is, while it is woken
        self._turning = 0  # renewals that wait for a turn
        self._closed = False
        self._to_look: deque[tuple[Engine, Callable[[], None]]] = deque()  # looks that wait
        self._looking: set[Engine] = set()  # looks under way

    @property
    def in_flight(self) -> int:
        """The number of sessions that are renewing."""
        return len(self._flights)

    @property
    def waiting(self) -> int:
        """The number of sessions that wait for their turn."""
        return 0 if self._closed else len(self._queue)

    @property
    def last_error(self) -> SignalWireTokenError | None:
        """The last failure since SignalWire last answered, or else the error with which it asked for a pause."""
        return self.health.last_error

    def throttle_period(self, engine: Engine) -> ThrottlePeriod:  # noqa: ARG002 - it is the same for all
        """Return that no session has to wait by itself after a throttle. The gate waits for all of them."""
        return NO_THROTTLE

    def outlook(self, engine: Engine) -> Outlook:
        """Return what the gate adds to a session's own plan."""
        pause = self.health.pause()
        may_be_next = engine.left() <= 0 and not engine.has_failed() and self._head() is engine
        return Outlook(
            pause=pause,
            may_renew=pause <= 0,
            is_waiting=engine in self._queue and not self._closed,
            is_shut=self.health.is_shut(pause) and not may_be_next,
            fault=self.health.fault,
        )

    def enter(self, engine: Engine) -> bool:
        """Return whether a session may renew now. If not, add it to the queue: the gate wakes it in its turn.

        A session that gets in takes a slot of the rate, or becomes the probe while SignalWire is down.
        """
        now = self._now()
        if self._closed:
            return False
        if engine is not self._called and (self._queue or not self._is_free(now)):
            self._queue.add(engine)
            self._arm(now)
            if self.health.is_shut():
                engine.notify()
            return False
        self._called = None
        self._queue.remove(engine)
        before = self._next_at
        self._next_at = max(before, now - SLACK) + self._interval / (self.health.share(now) or 1.0)
        self._flights[engine] = Flight(before, self._next_at)
        self.health.begins(engine)
        return True

    def force(self, engine: Engine, step: RenewalStep) -> None:  # noqa: ARG002 - the plan chooses the step
        """Start a renewal that a caller has forced, in the session's turn."""
        engine.demand(is_forced=True)

    def caller_waits(self, engine: Engine) -> None:
        """Move a session in the queue forward, since a caller waits for its token now."""
        if engine in self._queue:
            self._queue.add(engine)
            self._arm(self._now())

    async def asks(self, engine: Engine, within: float) -> SignalWireTokenError | None:
        """Wait for a turn, and return None once the renewal may send its request.

        Return an error instead if there is no turn within so many seconds, if SignalWire has asked for a pause since
        the renewal began, or if the governor says that SignalWire is down. A renewal that sends no request, or finds a
        pair in the store instead, gives its slot back.
        """
        error = self._pause_since_begin(engine)
        if error is not None:
            return error
        share = self.health.share(self._now()) or 1.0
        self._turning += 1
        try:
            has_turn = await self.health.account.turn(self._rate * share, within)
        finally:
            was_full = self._may_not_wait(share)
            self._turning -= 1
            if was_full:
                self._arm(self._now())
        error = self.health.refusal(engine)
        if not has_turn:
            error = SignalWireTokenError(CLOSED if self._closed else NO_TURN)
        if error is None and engine in self._flights:
            self._flights[engine] = self._flights[engine]._replace(has_asked=True)
        return error

    def _may_not_wait(self, share: float) -> bool:
        """Return whether as many renewals wait for a turn as may."""
        return self._turning >= max(1.0, AHEAD * self._rate * share / self.health.account.members)

    def ended(self, engine: Engine, outcome: Outcome | None) -> None:
        """Release what a renewal or a look has taken, and learn from the outcome.

        A renewal that has sent no request gives its slot back, if no other one was taken since.
        """
        if engine in self._looking:
            self._looking.discard(engine)
            self._arm(self._now())
        was_probe = self.health.leave(engine)
        flight = self._flights.pop(engine, None)
        if flight is None or outcome is None:
            return
        if flight.has_asked:
            self.health.learn(engine, outcome, was_probe=was_probe, waiting=self._queue)
        elif was_probe:
            self.health.probe_was_not_sent(outcome)
        else:
            self._give_back(flight)
        self._arm(self._now())

    def _give_back(self, flight: Flight) -> None:
        """Free the slot of a session that sent no request, unless a later slot is taken.

        Otherwise, a second could have more renewals than the rate.
        """
        if self._next_at == flight.next_after:
            self._next_at = flight.next_before

    def throttle_lifted(self) -> None:
        """Wake the sessions whose turn it is, since SignalWire accepts requests again."""
        self.wake_soon()

    def forget(self, engine: Engine) -> None:
        """Remove a session that has closed or expired."""
        self._queue.remove(engine)
        self.health.forget(engine)

    def close(self) -> None:
        """Stop waking sessions. Each session leaves the queue when it closes."""
        self._closed = True
        self.timer.unset(self)
        self.health.close()

    def look(self, engine: Engine, begin: Callable[[], None]) -> None:
        """Call `begin`, which starts a look into the store, once fewer than `concurrency` looks are under way."""
        self._to_look.append((engine, begin))
        self._arm(self._now())

    def wake(self, timer: Timer) -> None:
        """Start the looks and renewals whose turn it is, and notify callers of an outage. The timer calls this."""
        now = self._now()
        self.health.react(self._queue)
        for _ in range(min(STARTS_PER_TURN, len(self.health.to_notify))):
            self.health.to_notify.popleft().notify()
        for _ in range(min(STARTS_PER_TURN, len(self._to_look))):
            if len(self._looking) >= self._concurrency:
                break
            engine, begin = self._to_look[0]  # removed only after `begin`, so that an exception doesn't lose the look
            self._looking.add(engine)
            begin()
            self._to_look.popleft()
            engine.owner.changed(engine)
        for _ in range(STARTS_PER_TURN):
            head = self._head()
            if head is None or not self._is_free(now):
                break
            self._call(head, timer, now)
        if not self.health.share(now):
            self.health.seek_probe(is_wanted=self._head() is not None, is_time=self._free_at(now) <= now)
        self._arm(now)

    def wake_soon(self) -> None:
        """Wake the gate in the next turn of the event loop, since the limits have changed."""
        if not self._closed:
            self.timer.set(self, self._now())

    def note_leap(self, seconds: float, now: float) -> None:
        """Ignore leaps of the wall clock: the timer notifies the sessions itself."""

    def note_fork(self) -> None:
        """Ignore forks, for the same reason."""

    def _now(self) -> float:
        return self.timer.clock.now()

    def _is_free(self, now: float) -> bool:
        """Return whether a session may renew now."""
        return self._free_at(now) <= now and self.health.may_probe

    def _head(self) -> Engine | None:
        """Return the session that is next, or None.

        While SignalWire is down, sessions that haven't failed come first.
        """
        return self._queue.first(healthy=self.health.breaker.is_open)

    def _call(self, engine: Engine, timer: Timer, now: float) -> None:
        """Wake a session in its turn. It calls `enter`, unless it needn't renew any more."""
        self._called = engine
        timer.wake_now(engine, now)
        self._called = None
        self._queue.remove(engine)  # last: an exception must not lose its place, since it has no deadline of its own

    def _arm(self, now: float) -> None:
        """Set the timer to when a look or a renewal may begin."""
        if self._closed or self.wakes_at <= now:  # the timer wakes it at once, and nothing can begin earlier
            return
        if self.health.to_notify or (self._to_look and len(self._looking) < self._concurrency):
            at = now
        else:
            is_needed = self._head() is not None or self.health.needs_wake
            at = min(self._free_at(now), self.health.check_at()) if is_needed else math.inf
            if is_needed and self.throttle.until > now:
                self.throttle.watch(self)
        if at < self.wakes_at:
            self.timer.set(self, at)

    def _free_at(self, now: float) -> float:
        """Return when a session may renew, in seconds by the fleet's clock; inf if that depends on a renewal under way.

        When such a renewal ends, `ended` sets the timer again.
        """
        share = self.health.share(now)
        if not share:
            at = max(self.health.probe_at(now), self._next_at)
        elif len(self._flights) >= max(1.0, self._concurrency * share) or self._may_not_wait(share):
            at = math.inf
        else:
            at = self._next_at
        return max(now, at, self.health.throttle_end())
