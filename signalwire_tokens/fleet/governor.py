"""Who may renew when: first those who need it soonest, so many at a time, so many a second, and none in vain."""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Protocol, TypeAlias
from weakref import WeakKeyDictionary

from signalwire_tokens.clock import Sleeper
from signalwire_tokens.errors import StoreError
from signalwire_tokens.policy import Denied, Failure, Misconfigured, Outcome, RefreshPolicy, Renewed, Spent, Throttled

from .breaker import Breaker, BreakerState

if TYPE_CHECKING:
    from signalwire_tokens.client import TokenClient
    from signalwire_tokens.clock import Timer
    from signalwire_tokens.errors import SignalWireTokenError

__all__ = ["Entrant", "Governor"]

MOST_AT_ONCE = 100  # are called before the event loop gets its turn
MOST_FALLEN = 100
SLACK = 0.02  # seconds by which an alarm may ring late without lowering the rate
PROBES_IN_VAIN = 2  # and whoever asks for a token is told at once that there is none

logger: logging.Logger = logging.getLogger("signalwire_tokens.fleet")

# Of all sessions of a client, in whatever fleets they are.
BREAKERS: WeakKeyDictionary[TokenClient, Breaker] = WeakKeyDictionary()


class Entrant(Sleeper, Protocol):
    """Who waits for a turn, and is woken when it has come."""

    def deadline(self) -> float:
        """Say when a renewal comes too late."""
        ...

    def has_failed(self) -> bool:
        """Tell whether the last attempt failed, and nobody has forgiven that."""
        ...

    def forgive(self) -> None:
        """Try again at once: what has failed was the service's fault, and it is back."""
        ...

    def look(self) -> None:
        """Begin to look into the store, and tell the governor when that is done."""
        ...

    def look_again(self) -> None:
        """Let those who wait for a token see whether that makes sense."""
        ...


Place: TypeAlias = tuple[float, int]
Queue: TypeAlias = list[tuple[float, int, Entrant]]


class Governor:
    """Let sessions renew in turn. It is woken by the timer when the next one may, and wakes that one."""

    def __init__(
        self, client: TokenClient, timer: Timer, *, policy: RefreshPolicy, concurrency: int, rate: float
    ) -> None:
        self.wakes_at: float = math.inf
        self.timer: Timer = timer
        self.breaker: Breaker = BREAKERS.setdefault(client, Breaker())
        self._throttle = client.throttle
        self._draw = random.random()  # noqa: S311 - it spreads load and keeps no secret
        self._policy = policy
        self._life = client.lifetimes.access.total_seconds()
        self._concurrency = concurrency
        # A window of a second has no more than `rate` of them in it, though an alarm was late before it.
        self._interval = (1 + SLACK) / rate
        self._next_at = -math.inf  # by the rate alone
        self._order = count()
        self._queues: dict[bool, Queue] = {False: [], True: []}  # the second is of those that have failed by themselves
        self._waiting: dict[Entrant, Place] = {}  # who stands in a queue, and where
        self._flights: dict[Entrant, bool] = {}  # and whether they have asked the service yet
        self._called: Entrant | None = None
        self._probe: Entrant | None = None
        self._failed: dict[Entrant, Failure] = {}  # since the service last answered
        self._pardoned: set[Entrant] = set()  # once, and have not succeeded since
        self._was_open = self._was_shut = self._closed = False
        self._to_look: deque[Entrant] = deque()
        self._looking = 0

    @property
    def in_flight(self) -> int:
        """How many are renewing."""
        return len(self._flights)

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    @property
    def state(self) -> BreakerState:
        """How the service is taken to be."""
        return self.breaker.state(self._now(), self._ramp)

    @property
    def last_error(self) -> SignalWireTokenError | None:
        """What the service was last found to be ill with, if it has not answered since."""
        if self.breaker.failure is not None:
            return self.breaker.failure.error
        return self._throttle.error if self._throttle_end() > self._now() else None

    @property
    def fault(self) -> SignalWireTokenError | None:
        """What keeps everybody from a token and will not pass by itself: the settings."""
        return self.last_error if self.breaker.is_open and self.breaker.at_fault else None

    def is_waiting(self, entrant: Entrant) -> bool:
        """Tell whether somebody has yet to be called."""
        return entrant in self._waiting

    def is_shut(self) -> bool:
        """Tell whether nobody should wait for a renewal: the service is down, and not for a moment only."""
        breaker, pause = self.breaker, self.pause()
        in_vain = breaker.failed_probes >= PROBES_IN_VAIN or breaker.at_fault
        return pause > 0 and (in_vain or pause > self._policy.patience)

    def is_shut_to(self, entrant: Entrant) -> bool:
        """Tell whether that holds for somebody: not for the next one who asks after the service."""
        return self.is_shut() and (entrant.has_failed() or self._head() is not entrant)

    def pause(self) -> float:
        """Say for how long nobody may renew at all, as far as that is known."""
        now = self._now()
        pause = self._throttle_end() - now
        if self.breaker.is_open:
            pause = max(pause, self.breaker.probe_at - now)
            if self.breaker.probing:
                pause = max(pause, self._policy.probe_pause(self._life, self.breaker.failed_probes, 1.0))
        return max(0.0, pause)

    def enter(self, entrant: Entrant) -> bool:
        """Let somebody renew now, or wake them when it is their turn."""
        now = self._now()
        if self._closed:
            return False
        if entrant is not self._called and (self._waiting or not self._is_free(now)):
            self._line_up(entrant)
            self._arm(now)
            if self.is_shut():
                entrant.look_again()
            return False
        self._called = None
        self._waiting.pop(entrant, None)
        self._flights[entrant] = False
        if self.breaker.is_open:
            self._probe, self.breaker.probing = entrant, True
        else:
            self._next_at = max(self._next_at, now - SLACK) + self._interval / self.breaker.share(now, self._ramp)
        return True

    def hurry(self, entrant: Entrant) -> None:
        """Learn that somebody who waits has come to need it sooner."""
        if entrant in self._waiting:
            self._line_up(entrant)
            self._arm(self._now())

    def note_request(self, entrant: Entrant) -> None:
        """Learn that a renewal is about to ask the service; one that finds its pair in a store does not."""
        if entrant in self._flights:
            self._flights[entrant] = True

    def leave(self, entrant: Entrant, outcome: Outcome) -> None:
        """Learn what came of a renewal."""
        was_probe = self._probe is entrant
        if was_probe:
            self._probe, self.breaker.probing = None, False
        asked = self._flights.pop(entrant, None)
        if asked is None:
            return
        if asked:
            self._judge(entrant, outcome, was_probe=was_probe)
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

    def forget(self, entrant: Entrant) -> None:
        """Call somebody no more."""
        self._waiting.pop(entrant, None)
        self._failed.pop(entrant, None)
        self._pardoned.discard(entrant)
        if sum(map(len, self._queues.values())) > 2 * len(self._waiting) + MOST_FALLEN:
            for queue in self._queues.values():
                queue[:] = [entry for entry in queue if self._waiting.get(entry[2]) == entry[:2]]
                heapify(queue)

    def close(self) -> None:
        """Call nobody any more."""
        self._closed = True
        self._waiting.clear()
        self._failed.clear()
        self._pardoned.clear()
        self._to_look.clear()
        for queue in self._queues.values():
            queue.clear()
        self.timer.unset(self)
        if self._probe is not None:
            self._probe, self.breaker.probing = None, False

    def let_look(self, entrant: Entrant) -> None:
        """Let somebody look into the store, so many at a time: that needs neither the service nor a turn of its."""
        self._to_look.append(entrant)
        self._arm(self._now())

    def has_looked(self) -> None:
        """Learn that somebody has looked into the store."""
        self._looking -= 1
        self._arm(self._now())

    def wake(self, timer: Timer) -> None:
        """Call those whose turn it is."""
        now = self._now()
        self._look_at_breaker()
        while self._to_look and self._looking < self._concurrency:
            self._looking += 1
            self._to_look.popleft().look()
        for _ in range(MOST_AT_ONCE):
            head = self._head()
            if head is None or not self._is_free(now):
                break
            self._call(head, timer, now)
        if self._may_send_one_back(now):
            entrant = next(iter(self._failed))
            del self._failed[entrant]
            entrant.forgive()
        self._arm(now)

    def note_leap(self, seconds: float, now: float) -> None:
        """Leave leaps of the wall clock to those whom they concern."""

    def _now(self) -> float:
        return self.timer.clock.now()

    @property
    def _ramp(self) -> float:
        return self._policy.ramp_for(self._life)

    def _is_free(self, now: float) -> bool:
        """Return whether a session may renew now."""
        if self._throttle_end() > now:
            return False
        share = self.breaker.share(now, self._ramp)
        if not share:
            return not self.breaker.probing and self.breaker.probe_at <= now
        return len(self._flights) < self._limit(share) and self._next_at <= now

    def _throttle_end(self) -> float:
        """Return when the whole fleet asks SignalWire again after a throttle."""
        asked, until = self._throttle.asked_at, self._throttle.until
        if until == -math.inf:
            return until
        return self._policy.throttle_end(asked=asked, until=until, life=self._life, draw=self._draw)

    def _limit(self, share: float) -> float:
        return max(1.0, self._concurrency * share)

    def _line_up(self, entrant: Entrant) -> None:
        """Let somebody wait, among those who need a renewal just as soon; never further behind than before."""
        deadline, before = entrant.deadline(), self._waiting.get(entrant)
        if before is None or deadline < before[0]:
            place = self._waiting[entrant] = (deadline, next(self._order))
            heappush(self._queues[entrant.has_failed()], (*place, entrant))

    def _head(self) -> Entrant | None:
        """Find who is next. While the service is down, one that fails by itself is no use for finding out."""
        firsts = [queue[0] for queue in self._queues.values() if self._drop_fallen(queue)]
        if not firsts:
            return None
        return firsts[0][2] if self.breaker.is_open else min(firsts)[2]

    def _drop_fallen(self, queue: Queue) -> bool:
        """Take out those who do not wait any more; tell whether anybody is left."""
        while queue and self._waiting.get(queue[0][2]) != queue[0][:2]:
            heappop(queue)
        return bool(queue)

    def _call(self, entrant: Entrant, timer: Timer, now: float) -> None:
        """Wake somebody, who enters, or has no need to any more."""
        self._waiting.pop(entrant)
        self._called = entrant
        timer.rouse(entrant, now)
        self._called = None

    def _may_send_one_back(self, now: float) -> bool:
        """Tell whether the service is to be asked after, and all who could have been tried."""
        return self.breaker.is_open and bool(self._failed) and self._head() is None and self._is_free(now)

    def _arm(self, now: float) -> None:
        """Have the timer call when there is something to do next."""
        if self._to_look and self._looking < self._concurrency:
            at = now
        else:
            is_needed = self._head() is not None or (self.breaker.is_open and bool(self._failed))
            at = self._free_at(now) if is_needed else math.inf
            if is_needed and (end := self._throttle_end()) > now:
                at = max(at, end)
                self._throttle.watch(self)
        if at < self.wakes_at:
            self.timer.set(self, at)

    def _free_at(self, now: float) -> float:
        """Say when somebody may renew, as far as that is known; whoever lands brings it forward."""
        share = self.breaker.share(now, self._ramp)
        if share:
            return max(now, self._next_at) if len(self._flights) < self._limit(share) else math.inf
        if self._probe is not None:
            return math.inf
        if self.breaker.probing:  # another fleet is, and does not tell
            return now + self.pause()
        return max(now, self.breaker.probe_at)

    def _judge(self, entrant: Entrant, outcome: Outcome, *, was_probe: bool) -> None:
        """Learn from an outcome how the service is."""
        if isinstance(outcome, Renewed | Spent | Denied):  # SignalWire has answered, if not what was asked for
            self._failed.pop(entrant, None)
            self._pardoned.discard(entrant)
            if self.breaker.succeed(self._now()):
                logger.info("the service is back")
            self._look_at_breaker()
            self._pardon()
        elif not isinstance(outcome.error, StoreError):
            self._failed[entrant] = outcome
            self._note_failure(entrant, outcome, was_probe=was_probe)
            self._look_at_breaker()

    def _note_failure(self, entrant: Entrant, failure: Failure, *, was_probe: bool) -> None:
        limit = 0.0 if isinstance(failure, Throttled) else self._policy.trip_after
        is_news = self.breaker.fail(id(entrant), failure, limit=limit, was_probe=was_probe)
        if is_news:
            logger.warning("the service is down, and asked after by one session at a time: %s", failure.error)
        if is_news or was_probe:
            self._put_off(self._now())

    def _put_off(self, now: float) -> None:
        """Let the service be for a while."""
        draw = random.random()  # noqa: S311 - it spreads load and keeps no secret
        self.breaker.probe_at = now + self._policy.probe_pause(self._life, self.breaker.failed_probes, draw)

    def _look_at_breaker(self) -> None:
        """Let nobody wait for a service that is down; when it is back, let those try again whom it has failed."""
        was_open, self._was_open = self._was_open, self.breaker.is_open
        was_shut, self._was_shut = self._was_shut, self.is_shut()
        if was_open and not self._was_open:
            failed, self._failed = self._failed, {}
            for entrant in failed:
                entrant.forgive()
        if self._was_shut and not was_shut:
            for entrant in (*self._waiting, *self._failed):
                entrant.look_again()

    def _pardon(self) -> None:
        """Let those try again, once, whom the settings have kept from it, since they are good for somebody else."""
        failed, self._failed = self._failed, {}
        for entrant, failure in failed.items():
            if isinstance(failure, Misconfigured) and entrant not in self._pardoned:
                self._pardoned.add(entrant)
                entrant.forgive()
