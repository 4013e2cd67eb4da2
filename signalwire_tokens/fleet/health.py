"""What a fleet does about SignalWire's health: when it may send requests, and which sessions try again.

It learns from three sources: the outcomes of the fleet's own requests (`Breaker`), the pauses that SignalWire asks for
(the client's `Throttle`), and what other processes have seen (`Account`).

- **Breaker.** While SignalWire is down, the breaker is open, and one session at a time sends a request, the probe. When
  SignalWire is back, rate and concurrency grow from a tenth to the full ones.
- **Throttle.** If SignalWire asks for a pause, no renewal begins until it ends, or a minute after SignalWire asked.
- **Other processes.** If SignalWire is down for all of them, only one sends a probe. So the fleet claims it first, and
  looks now and then at whether another process has got an answer. Each process draws its own time for a probe, later if
  its last request failed. So a process whose network is broken can't keep the probes from the others.

**Failed sessions.** A session that fails plans its own next attempt, which may be minutes away. If SignalWire was the
reason, that is too long. So the fleet remembers the sessions that have failed since SignalWire last answered. When
SignalWire is back, it has them all try again. While SignalWire is down and no other session wants to renew, one of them
becomes the probe.

A session that failed because of the settings gets one more try once another session has succeeded: the settings may
have been corrected. If it fails again, it keeps to its own plan until it has succeeded (`_retry_misconfigured`).
"""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from typing import TYPE_CHECKING

from signalwire_tokens.errors import StoreError
from signalwire_tokens.governors.health import CLOCK_WAS_SET
from signalwire_tokens.outcomes import Denied, Failure, Misconfigured, Outcome, Renewed, Spent, Throttled

from .account import Account, found_elsewhere
from .breaker import Breaker, BreakerState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from signalwire_tokens.client import TokenClient
    from signalwire_tokens.clock import Timer
    from signalwire_tokens.errors import SignalWireTokenError
    from signalwire_tokens.governors import Governor
    from signalwire_tokens.keeper import Engine
    from signalwire_tokens.policy import RefreshPolicy

__all__ = ["FleetHealth"]

PROBES_BEFORE_ERRORS = 2  # after this many failed probes in a row, callers get an error without waiting
CHECKED_EVERY = 1.0  # seconds between two looks at what other processes know, while SignalWire is down
MANY = 100  # failed probes after which the pause between probes no longer grows

BACK = "fleet: SignalWire answers again; the sessions renew at a growing rate"
DOWN = "fleet: SignalWire is down or wants a pause: %s; one session at a time tries again until it answers"

logger: logging.Logger = logging.getLogger("signalwire_tokens.fleet")


class FleetHealth:
    """What a fleet knows about SignalWire's health, and which of its sessions have failed.

    - `breaker` is what its own requests have shown, and `account` what other processes know.
    - `probe` is the session that sends the fleet's probe; None if none does.
    - `to_notify` are sessions whose waiting callers get an error. The gate notifies a few in each turn.

    `on_change` is called when other processes have something new.
    """

    def __init__(
        self,
        client: TokenClient,
        timer: Timer,
        policy: RefreshPolicy,
        governor: Governor,
        on_change: Callable[[], object],
    ) -> None:
        self.breaker: Breaker = Breaker()
        self.account: Account = Account(client, governor, timer, on_change)
        self.probe: Engine | None = None
        self.to_notify: deque[Engine] = deque()
        self._throttle, self._clock, self._policy = client.throttle, client.clock, policy
        self._lifetime = client.lifetimes.access.total_seconds()
        self._ramp = policy.recovery_for(self._lifetime)
        self._check_every = min(CHECKED_EVERY, self._probe_pause(1.0, MANY) / 2)
        self._followed = self.account.health  # what the breaker has followed so far
        self._draw = random_draw()
        self._probe_draw = early_draw()
        self._failed: dict[Engine, Failure] = {}  # sessions that have failed since SignalWire last answered
        self._pardoned: set[Engine] = set()  # sessions that have had their one more try, and haven't succeeded since
        self._was_open = self._was_shut = False

    # Reading.

    @property
    def state(self) -> BreakerState:
        """The state of the breaker."""
        return self.breaker.state(self._clock.now(), self._ramp)

    @property
    def last_error(self) -> SignalWireTokenError | None:
        """The last failure since SignalWire last answered, or else the error with which it asked for a pause."""
        failure = self.breaker.failure  # once, because another thread may ask
        if failure is not None:
            return failure.error
        return self._throttle.error if self.throttle_end() > self._clock.now() else None

    @property
    def fault(self) -> SignalWireTokenError | None:
        """The error if the settings are wrong, so that waiting can't help; None otherwise."""
        return self.last_error if self.breaker.is_open and self.breaker.at_fault else None

    def share(self, now: float) -> float:
        """Return which share of the full rate may be used, from 0 to 1. It is 0 while SignalWire is down."""
        return self.breaker.share(now, self._ramp) * self.account.own_share

    def is_shut(self, pause: float | None = None) -> bool:
        """Return whether callers should not wait for a renewal: SignalWire is down, and not only for a moment.

        `pause` is the result of `pause()`, if the caller has it already. The callers of the session that is the next
        probe may wait nevertheless; `FleetGate.outlook` makes that exception.
        """
        breaker, pause = self.breaker, self.pause() if pause is None else pause
        in_vain = breaker.failed_probes >= PROBES_BEFORE_ERRORS or breaker.at_fault
        return pause > 0 and (in_vain or pause > self._policy.wait_timeout)

    def pause(self) -> float:
        """Return for how many seconds no session of the fleet may renew, as far as it is known.

        The end of a probe under way isn't known. The longest pause before the next probe serves as an estimate.
        """
        now = self._clock.now()
        pause = self.throttle_end() - now
        if self.breaker.is_open:
            pause = max(pause, self.breaker.probe_at - now)
            if self.breaker.probing:
                pause = max(pause, self._probe_pause(1.0, self.breaker.failed_probes))
        return max(0.0, pause)

    def throttle_end(self) -> float:
        """Return when the fleet renews again after a throttle: a minute after SignalWire asked, at the latest."""
        asked, until = self._throttle.asked_at, self._throttle.until
        if until == -math.inf:
            return until
        return self._policy.throttle_end(asked=asked, until=until, lifetime=self._lifetime, draw=self._draw)

    def refusal(self, engine: Engine) -> SignalWireTokenError | None:
        """Return why a session that has its turn must not send its request; None if it may.

        The fleet may have learned of a pause or of an outage with this turn.
        """
        self.follow()
        failure = self.breaker.failure
        if self.throttle_end() > self._clock.now():
            return self._throttle.error
        may_probe = self.probe is engine and self.account.holds_probe
        if self.account.is_shared and not may_probe and failure is not None:
            self._failed[engine] = failure
            return failure.error
        return None

    # Probes.

    @property
    def may_probe(self) -> bool:
        """Return whether the fleet needs no claim for a probe, or has it."""
        return not (self.breaker.is_open and self.account.is_shared) or bool(self.account.claim)

    @property
    def needs_wake(self) -> bool:
        """Return whether the gate has to wake even if no session wants to renew.

        A session that has failed may be the next probe, or the fleet has a claim that no session uses.
        """
        has_idle_claim = bool(self.account.claim) and self.probe is None
        return self.breaker.is_open and (bool(self._failed) or has_idle_claim)

    def probe_at(self, now: float) -> float:
        """Return when the next probe may begin; inf if that depends on a probe under way."""
        if self.probe is not None:
            return math.inf
        if self.account.is_shared and self.account.is_busy:
            return now + self._check_every
        if self.breaker.probing:  # a probe of another process
            return now + self.pause()
        return self.breaker.probe_at

    def begins(self, engine: Engine) -> None:
        """Record that a session begins to renew. While SignalWire is down, it is the probe."""
        if self.breaker.is_open:
            self.probe, self.breaker.probing = engine, True

    def seek_probe(self, *, is_wanted: bool, is_time: bool) -> None:
        """Start the search for a probe, while SignalWire is down. `is_wanted` is true if a session wants to renew.

        If `is_time`, and none wants to, a failed session tries again. If other processes have to be asked first, claim
        the probe. If the fleet has a claim, but no session needs it any more, leave the probe to others.
        """
        account = self.account
        if self._failed and not is_wanted and is_time and self.may_probe:
            engine = next(iter(self._failed))
            del self._failed[engine]
            engine.demand()
        elif (is_wanted or self._failed) and is_time and account.is_shared and not account.claim:
            account.want_probe()
        elif account.claim and self.probe is None:
            account.probe_ended(None, failed=False)
        if (is_wanted or self._failed) and self._clock.now() >= self.check_at():
            account.look()

    def check_at(self) -> float:
        """Return when to look again at what other processes know; inf if that isn't necessary."""
        is_due = self.account.health.is_open and not self.account.is_busy
        return self.account.checked_at + self._check_every if is_due else math.inf

    # Learning.

    def leave(self, engine: Engine) -> bool:
        """Record that a session's renewal has ended, and return whether it was the probe."""
        was_probe = self.probe is engine
        if was_probe:
            self.probe, self.breaker.probing = None, False
        return was_probe

    def probe_was_not_sent(self, outcome: Outcome) -> None:
        """Leave the next probe to any process, since this one was not sent.

        If its session has found a pair in the store, the next one may begin at once. If it has failed, the store is
        slow or down, and would hold up one probe after another. So the next probe waits for a pause.
        """
        pause = None if isinstance(outcome, Renewed) else self._delay_probe()
        self.account.probe_ended(pause, failed=False)

    def learn(self, engine: Engine, outcome: Outcome, *, was_probe: bool, waiting: Iterable[Engine]) -> None:
        """Update the breaker by the outcome of a request. `waiting` are the sessions in the queue.

        `Spent` and `Denied` are answers: SignalWire works, even if it refuses the session. An error of the store means
        nothing.
        """
        self._draw = random_draw()
        self.follow()
        if isinstance(outcome, Renewed | Spent | Denied):  # SignalWire has answered, if not what was asked for
            self.forget(engine)
            if self.breaker.succeed(self._clock.now()):
                logger.info(BACK)
                self._probe_draw = early_draw()
            self.account.answered()
            self.react(waiting)
            self._retry_misconfigured()
        elif not isinstance(outcome.error, StoreError):
            self._failed[engine] = outcome
            self._note_failure(engine, outcome, was_probe=was_probe)
            self.react(waiting)

    def forget(self, engine: Engine) -> None:
        """Remove a session: it has succeeded, closed or expired."""
        self._failed.pop(engine, None)
        self._pardoned.discard(engine)

    def close(self) -> None:
        """Forget all sessions, and leave the probe to other processes."""
        self._failed.clear()
        self._pardoned.clear()
        self.account.close()

    def react(self, waiting: Iterable[Engine]) -> None:
        """React to a breaker that has changed, perhaps because of another process.

        If SignalWire is back, the sessions that have failed try again. If waiting can't help from now on, waiting
        callers are woken, and get an error.
        """
        self.follow()
        was_open, self._was_open = self._was_open, self.breaker.is_open
        was_shut, self._was_shut = self._was_shut, self.is_shut()
        if was_open and not self._was_open:
            failed, self._failed = self._failed, {}
            for engine in failed:
                engine.demand()
        if self._was_shut and not was_shut:
            self.to_notify.extend(engine for engine in (*waiting, *self._failed) if engine.waiters)

    def follow(self) -> None:
        """Update the breaker by what other processes know: SignalWire is down, or answers again.

        If an exception interrupts this, the next call does it again.
        """
        account, now = self.account, self._clock.now()
        health, breaker, before = account.health, self.breaker, self._followed
        is_theirs = health.is_open and account.is_probing and health.probe != account.claim
        breaker.probing = is_theirs or self.probe is not None
        # An answer that closes the breaker closes it for all. If it didn't, an exception has interrupted that.
        was_interrupted = account.is_shared and not breaker.is_open and not account.is_busy
        if (health is before or health == before) and not was_interrupted:  # mostly, it is the same object
            return
        if health.is_open:
            error = found_elsewhere(health.reason)
            if not breaker.is_open:
                logger.warning(DOWN, error)
            breaker.adopt(
                error,
                failed_probes=health.failed_probes,
                probe_at=account.probe_at + self._spread(health.failed_probes) * self._probe_draw,
            )
        elif before.is_open and breaker.succeed(now):
            logger.info(BACK)
        if (back_at := account.local(health.back_at)) <= now + CLOCK_WAS_SET:
            breaker.back_at = max(breaker.back_at, min(now, back_at))
        self._followed = health

    def _note_failure(self, engine: Engine, failure: Failure, *, was_probe: bool) -> None:
        """Count a failure of SignalWire's, and set the time of the next probe. A throttle opens the breaker at once."""
        limit = 0.0 if isinstance(failure, Throttled) else self._policy.tuning.outage_after
        is_news = self.breaker.fail(id(engine), failure, limit=limit, was_probe=was_probe)
        if is_news:
            logger.warning(DOWN, failure.error)
        if is_news or was_probe:
            pause = self._delay_probe()
            if was_probe:
                self.account.probe_ended(pause, failed=True)
            elif not self.breaker.at_fault:  # credentials are this process's own
                self.account.opened(failure.error, pause)

    def _delay_probe(self) -> float:
        """Set the time of the next probe. Return the pause after which other processes may probe at the earliest."""
        failed, self._probe_draw = self.breaker.failed_probes, late_draw()
        self.breaker.probe_at = self._clock.now() + self._probe_pause(self._probe_draw, failed)
        return self._probe_pause(0.0, failed)

    def _probe_pause(self, draw: float, failed: int) -> float:
        return self._policy.probe_pause(self._lifetime, failed, draw)

    def _spread(self, failed: int) -> float:
        """Return by how much later than others a process may probe."""
        return self._probe_pause(1.0, failed) - self._probe_pause(0.0, failed)

    def _retry_misconfigured(self) -> None:
        """Start one more try of sessions that failed because of the settings, since another session has succeeded."""
        failed, self._failed = self._failed, {}
        for engine, failure in failed.items():
            if isinstance(failure, Misconfigured) and engine not in self._pardoned:
                self._pardoned.add(engine)
                engine.demand()


def random_draw() -> float:
    """Return a random number from 0 to 1."""
    return random.random()  # noqa: S311 - it spreads load and keeps no secret


def early_draw() -> float:
    """Return where in the pause between two probes a process would probe that has had no failure: in its first half."""
    return random_draw() / 2


def late_draw() -> float:
    """Return the same for a process whose last request failed: in the second half."""
    return 0.5 + random_draw() / 2
