"""Who may renew when: first those who need it soonest, so many at a time, so many a second, and none in vain."""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from typing import TYPE_CHECKING
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

MOST_AT_ONCE = 100  # are called before the event loop gets its turn
SLACK = 0.02  # seconds by which an alarm may ring late without lowering the rate
PROBES_IN_VAIN = 2  # and whoever asks for a token is told at once that there is none

logger: logging.Logger = logging.getLogger("signalwire_tokens.fleet")

# Of all sessions of a client, in whatever fleets they are.
BREAKERS: WeakKeyDictionary[TokenClient, Breaker] = WeakKeyDictionary()


class Governor(Gate):
    """The gate of a fleet's sessions: they renew in turn. The timer wakes it when one may, and it wakes that one."""

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
        # A window of a second has no more than `rate` of them in it, though an alarm was late before it.
        self._interval = (1 + SLACK) / rate
        self._next_at = -math.inf  # by the rate alone
        self._queue = Queue()
        self._flights: dict[Engine, bool] = {}  # and whether they have asked the service yet
        self._called: Engine | None = None
        self._probe: Engine | None = None
        self._failed: dict[Engine, Failure] = {}  # since the service last answered
        self._pardoned: set[Engine] = set()  # once, and have not succeeded since
        self._was_open = self._was_shut = self._closed = False
        self._to_look: deque[tuple[Engine, Callable[[], None]]] = deque()
        self._looking: set[Engine] = set()

    @property
    def in_flight(self) -> int:
        """How many are renewing."""
        return len(self._flights)

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._queue)

    @property
    def state(self) -> BreakerState:
        """How the service is taken to be."""
        return self.breaker.state(self._now(), self._ramp)

    @property
    def last_error(self) -> SignalWireTokenError | None:
        """What the service was last found to be ill with, if it has not answered since."""
        if self.breaker.failure is not None:
            return self.breaker.failure.error
        return self.throttle.error if self._throttle_end() > self._now() else None

    def throttle_period(self, engine: Engine) -> ThrottlePeriod:  # noqa: ARG002 - it is the same for all
        """Return that no session is to wait by itself: the governor does for all of them."""
        return NO_THROTTLE

    def outlook(self, engine: Engine) -> Outlook:
        """Return what a session has to expect."""
        pause = self.pause()
        return Outlook(
            pause=pause,
            may_renew=pause <= 0,
            is_waiting=engine in self._queue,
            is_shut=self.is_shut(pause) and (engine.left() > 0 or engine.has_failed() or self._head() is not engine),
            fault=self.last_error if self.breaker.is_open and self.breaker.at_fault else None,
        )

    def is_shut(self, pause: float | None = None) -> bool:
        """Return whether callers wait in vain, except those of the session that probes the service next.

        It is down, and not for a moment only.
        """
        breaker, pause = self.breaker, self.pause() if pause is None else pause
        in_vain = breaker.failed_probes >= PROBES_IN_VAIN or breaker.at_fault
        return pause > 0 and (in_vain or pause > self._policy.wait_timeout)

    def pause(self) -> float:
        """Say for how long nobody may renew at all, as far as that is known."""
        now = self._now()
        pause = self._throttle_end() - now
        if self.breaker.is_open:
            pause = max(pause, self.breaker.probe_at - now)
            if self.breaker.probing:
                pause = max(pause, self._policy.probe_pause(self._lifetime, self.breaker.failed_probes, 1.0))
        return max(0.0, pause)

    def enter(self, engine: Engine) -> bool:
        """Let somebody renew now, or wake them when it is their turn."""
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
        self._flights[engine] = False
        if self.breaker.is_open:
            self._probe, self.breaker.probing = engine, True
        else:
            self._next_at = max(self._next_at, now - SLACK) + self._interval / self.breaker.share(now, self._ramp)
        return True

    def force(self, engine: Engine, step: RenewalStep) -> None:  # noqa: ARG002 - the plan chooses the step
        """Have a session renew in its turn, as soon as possible."""
        engine.press(is_forced=True)

    def wanted(self, engine: Engine) -> None:
        """Learn that somebody who waits has come to need it sooner."""
        if engine in self._queue:
            self._queue.add(engine)
            self._arm(self._now())

    def asks(self, engine: Engine) -> None:
        """Learn that a renewal is about to ask the service; one that finds its pair in a store does not."""
        if engine in self._flights:
            self._flights[engine] = True

    def ended(self, engine: Engine, outcome: Outcome | None) -> None:
        """Note the result of a renewal, or that a look into the store has ended."""
        if engine in self._looking:
            self._looking.discard(engine)
            self._arm(self._now())
        was_probe = self._probe is engine
        if was_probe:
            self._probe, self.breaker.probing = None, False
        asked = self._flights.pop(engine, None)
        if asked is None or outcome is None:
            return
        if asked:
            self._judge(engine, outcome, was_probe=was_probe)
        elif not was_probe:
            self._next_at -= self._interval
        elif not isinstance(outcome, Renewed):
            self._put_off(self._now())
        self._draw = random.random()  # noqa: S311 - as above
        self._arm(self._now())

    def throttle_lifted(self) -> None:
        """Wake the sessions whose turn it is, since SignalWire accepts requests again."""
        if not self._closed:
            self.timer.set(self, self._now())

    def forget(self, engine: Engine) -> None:
        """Call a session no more."""
        self._queue.remove(engine)
        self._failed.pop(engine, None)
        self._pardoned.discard(engine)

    def close(self) -> None:
        """Call nobody any more."""
        self._closed = True
        self._queue.clear()
        self._failed.clear()
        self._pardoned.clear()
        self._to_look.clear()
        self.timer.unset(self)
        if self._probe is not None:
            self._probe, self.breaker.probing = None, False

    def look(self, engine: Engine, begin: Callable[[], None]) -> None:
        """Have a session look into the store. So many look at a time, and a look takes no slot of a renewal."""
        self._to_look.append((engine, begin))
        self._arm(self._now())

    def wake(self, timer: Timer) -> None:
        """Call those whose turn it is."""
        now = self._now()
        self._look_at_breaker()
        for _ in range(min(MOST_AT_ONCE, len(self._to_look))):
            if len(self._looking) >= self._concurrency:
                break
            engine, begin = self._to_look[0]  # and stays there until it looks, whatever raises
            self._looking.add(engine)
            begin()
            self._to_look.popleft()
        for _ in range(MOST_AT_ONCE):
            head = self._head()
            if head is None or not self._is_free(now):
                break
            self._call(head, timer, now)
        if self.breaker.is_open and self._failed and self._head() is None and self._is_free(now):
            engine = next(iter(self._failed))
            del self._failed[engine]
            engine.press()
        self._arm(now)

    def note_leap(self, seconds: float, now: float) -> None:
        """Leave leaps of the wall clock to those whom they concern."""

    def _now(self) -> float:
        return self.timer.clock.now()

    @property
    def _ramp(self) -> float:
        return self._policy.recovery_for(self._lifetime)

    def _is_free(self, now: float) -> bool:
        """Return whether a session may renew now."""
        return self._free_at(now) <= now

    def _throttle_end(self) -> float:
        """Return when the whole fleet asks SignalWire again after a throttle."""
        asked, until = self.throttle.asked_at, self.throttle.until
        if until == -math.inf:
            return until
        return self._policy.throttle_end(asked=asked, until=until, lifetime=self._lifetime, draw=self._draw)

    def _head(self) -> Engine | None:
        """Return who is next. While the service is down, one that fails by itself is no use for finding out."""
        return self._queue.first(healthy=self.breaker.is_open)

    def _call(self, engine: Engine, timer: Timer, now: float) -> None:
        """Wake somebody, who enters, or has no need to any more."""
        self._queue.remove(engine)
        self._called = engine
        timer.rouse(engine, now)
        self._called = None

    def _arm(self, now: float) -> None:
        """Have the timer call when there is something to do next."""
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
        """Return when a session may renew, as far as that is known. A renewal that ends brings it forward."""
        share = self.breaker.share(now, self._ramp)
        if share:
            at = self._next_at if len(self._flights) < max(1.0, self._concurrency * share) else math.inf
        elif self.breaker.probing:  # if another fleet is, that doesn't tell
            at = math.inf if self._probe is not None else now + self.pause()
        else:
            at = self.breaker.probe_at
        return max(now, at, self._throttle_end())

    def _judge(self, engine: Engine, outcome: Outcome, *, was_probe: bool) -> None:
        """Learn from an outcome how the service is."""
        if isinstance(outcome, Renewed | Spent | Denied):  # SignalWire has answered, if not what was asked for
            self._failed.pop(engine, None)
            self._pardoned.discard(engine)
            if self.breaker.succeed(self._now()):
                logger.info("the service is back")
            self._look_at_breaker()
            self._pardon()
        elif not isinstance(outcome.error, StoreError):
            self._failed[engine] = outcome
            self._note_failure(engine, outcome, was_probe=was_probe)
            self._look_at_breaker()

    def _note_failure(self, engine: Engine, failure: Failure, *, was_probe: bool) -> None:
        limit = 0.0 if isinstance(failure, Throttled) else self._policy.tuning.outage_after
        is_news = self.breaker.fail(id(engine), failure, limit=limit, was_probe=was_probe)
        if is_news:
            logger.warning("the service is down, and asked after by one session at a time: %s", failure.error)
        if is_news or was_probe:
            self._put_off(self._now())

    def _put_off(self, now: float) -> None:
        """Let the service be for a while."""
        draw = random.random()  # noqa: S311 - it spreads load and keeps no secret
        self.breaker.probe_at = now + self._policy.probe_pause(self._lifetime, self.breaker.failed_probes, draw)

    def _look_at_breaker(self) -> None:
        """Let nobody wait for a service that is down; when it is back, let those try again whom it has failed."""
        was_open, self._was_open = self._was_open, self.breaker.is_open
        was_shut, self._was_shut = self._was_shut, self.is_shut()
        if was_open and not self._was_open:
            failed, self._failed = self._failed, {}
            for engine in failed:
                engine.press()
        if self._was_shut and not was_shut:
            for engine in (*self._queue, *self._failed):
                engine.notify()

    def _pardon(self) -> None:
        """Let those try again, once, whom the settings have kept from it, since they are good for somebody else."""
        failed, self._failed = self._failed, {}
        for engine, failure in failed.items():
            if isinstance(failure, Misconfigured) and engine not in self._pardoned:
                self._pardoned.add(engine)
                engine.press()
