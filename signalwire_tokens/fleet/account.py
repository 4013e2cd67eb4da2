"""What a fleet knows of its account through its governor, and how it shares what it has seen with other processes.

Everything that the fleet shares is a *change*: a function from one `AccountHealth` to the next. One task applies the
changes in order. It reads the latest health, applies the change, and has the governor replace the one by the other.
If another process was faster, the task tries again. Of the changes that wait, only the latest about each subject is
kept. So they never become many, and news is shared soon, however slow the governor is.

**Probes.** While SignalWire is down for all, a fleet has to `claim` the next probe before it may send it.

**A process that is wrong.** SignalWire may be down for one process only, whose network is broken. Its failures would
slow down all others again and again. So it reports once that SignalWire is down. If another process then gets an answer
first, the process acts alone, and reports no outage until SignalWire has answered it, too. Credentials that SignalWire
refuses are never shared: they are a process's own.

**A governor that fails.** If a method raises an exception or takes too long, the fleet logs that once, and goes on as
if it were alone: requests are sent, and probes begin, without the governor's consent. The gate then keeps to the
fleet's own part of the rate.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial
from types import NoneType
from typing import TYPE_CHECKING, TypeAlias, TypeVar
from uuid import uuid4

import attrs

from signalwire_tokens.durations import spoken
from signalwire_tokens.errors import ApiError, RateLimited, SignalWireTokenError
from signalwire_tokens.governors import AccountHealth, HealthReading, LocalGovernor
from signalwire_tokens.governors.health import LONGEST_AHEAD, is_outdated
from signalwire_tokens.keeper import is_cancelled
from signalwire_tokens.policy import NEVER
from signalwire_tokens.throttle import LONGEST_THROTTLE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from signalwire_tokens.client import TokenClient
    from signalwire_tokens.clock import Timer
    from signalwire_tokens.errors import RateLimitHint
    from signalwire_tokens.governors import Governor

__all__ = ["Account"]

LONGEST_CALL = 15.0  # seconds that a governor's method may take, apart from the wait that was asked for
RETRIED_EVERY = 1.0  # seconds between two tries of a method that fails, while others work
LEAST_SHARE = 0.1  # of the rate: a hint never lowers it further, since it is only a hint
SHORTEST_WINDOW = 1.0  # seconds: the time until a rate limit is reset comes in whole seconds
NOTICEABLE = 0.9  # of the rate so far: a hint that lowers it by less isn't shared
MOST_TRIES = 100  # to apply one change. Other processes can't be faster so often.
CHANGES = "replace()"  # what fails if `replace` works, but accepts nothing

FAILS = "the governor of a fleet failed, and the fleet goes on by itself: %s.%s: %s"
WORKS = "the governor of a fleet works again"
Change: TypeAlias = "Callable[[AccountHealth, float], AccountHealth]"
T = TypeVar("T")

logger: logging.Logger = logging.getLogger("signalwire_tokens.fleet")


class Account:
    """What a fleet knows of its account.

    - `health` is the latest health that the governor has returned.
    - `members` is how many processes share the governor.
    - `claim` is the name of the probe that this fleet may send, or is sending; empty if it may not.
    - `checked_at` is when the health was last read, or was about to be. Times are in seconds by the client's clock.
    """

    def __init__(self, client: TokenClient, governor: Governor, timer: Timer, on_change: Callable[[], object]) -> None:
        self.health: AccountHealth = AccountHealth()
        self.members: int = 1
        self.claim: str = ""
        self.checked_at: float = NEVER
        self._client, self._governor, self._timer, self._on_change = client, governor, timer, on_change
        self._read_at = NEVER  # by the governor's clock
        self._apart = 0.0  # by how much the client's clock is ahead of the governor's
        self._changes: dict[str, Change] = {}  # those that wait, by their subjects
        self._task: asyncio.Task[None] | None = None  # applies the changes
        self._wanted = ""  # the claim that this fleet last wanted
        self._accuses = False  # True from when this fleet reported an outage until it has an answer
        self._was_wrong = False  # True if another process then found that SignalWire answers
        self._pause: SignalWireTokenError | None = None  # the error of the latest pause that was shared or adopted
        self._pause_known = NEVER  # its `paused_at`
        self._failing: set[str] = set()  # the governor's methods whose last call failed
        self._waits: set[asyncio.Timeout] = set()  # the limits of the waits for turns
        self._is_closed = False
        client.throttle.followers.add(self)

    # Turns.

    async def turn(self, rate: float, within: float) -> bool:
        """Wait until a request may be sent. Return False if its turn doesn't come within so many seconds.

        A governor in memory can't hang. With any other, the wait is also limited to 15 seconds and the time that all
        processes need for two turns each.
        """
        if self._is_closed:
            return False
        rate = self.health.rate(rate, self._now() - self._apart)
        reading = None if self._local is None else self._local.take(rate)
        if reading is not None:
            self._works("turn")
        else:
            longest = RETRIED_EVERY if "turn" in self._failing else LONGEST_CALL + 2 * self.members / rate
            within = within if self._local is not None else min(within, longest)
            limit = within + min(longest, LONGEST_CALL)
            turn = partial(self._governor.turn, rate, within)
            reading = await self._use("turn", turn, (HealthReading, NoneType), limit)
        if reading is None or self._is_closed:
            return "turn" in self._failing and not self._is_closed
        self._see(reading)
        if self._failing and not self.is_busy and self._now() >= self.checked_at + RETRIED_EVERY:
            self.look()
        return True

    @property
    def _local(self) -> LocalGovernor | None:
        """The governor if it is a `LocalGovernor`, which can't hang; None for any other, also for a subclass."""
        return self._governor if type(self._governor) is LocalGovernor else None

    @property
    def own_share(self) -> float:
        """Return which share of the rate this fleet may use: all of it, as long as the governor divides it."""
        return 1 / self.members if "turn" in self._failing else 1.0

    # Sharing.

    def opened(self, error: SignalWireTokenError, pause: float) -> None:
        """Share that SignalWire is down. `pause` is the time until the first probe."""
        if not self._was_wrong:
            self._accuses = True
            reason = reason_of(error)
            self._share("outage", lambda health, at: health.opened(reason, probe_at=at + pause))

    def answered(self) -> None:
        """Share that SignalWire has answered, if other processes take it to be down."""
        is_news = self.health.is_open or self._accuses  # its report may be under way
        self._accuses = self._was_wrong = False
        self.claim = ""
        if is_news:
            self._share("outage", lambda health, at: health.answered(at))

    def probe_ended(self, pause: float | None, *, failed: bool) -> None:
        """Share that the probe has ended: it has `failed`, or else has sent no request.

        `pause` is the time until the next probe; None if it may begin at once.
        """
        claim, self.claim = self.claim, ""
        if claim:
            wait = NEVER if pause is None else pause
            self._share(claim, lambda health, at: health.unclaimed(claim, probe_at=at + wait, failed=failed))

    def want_probe(self) -> None:
        """Claim the next probe. `on_change` is called once that has succeeded or failed."""
        self._wanted = claim = uuid4().hex
        longest = min(self._client.timeout + 1, LONGEST_AHEAD)
        self._share(claim, lambda health, at: health.claimed(claim, at, until=at + longest))

    def look(self) -> None:
        """Read the health."""
        self._share("", lambda health, _: health)

    @property
    def is_busy(self) -> bool:
        """Return whether a change is under way."""
        return self._task is not None and not self._task.done()

    @property
    def probe_at(self) -> float:
        """Return when the next probe may begin, in seconds by the client's clock; -inf if it isn't known."""
        at = self.local(self.health.probe_at)
        return at if at <= self._now() + LONGEST_AHEAD else NEVER

    @property
    def is_probing(self) -> bool:
        """Return whether a process is sending a probe."""
        return self.health.is_probing(self._now() - self._apart)

    @property
    def holds_probe(self) -> bool:
        """Return whether the fleet's claim is in force."""
        return self.health.probe == self.claim and self.is_probing

    @property
    def is_shared(self) -> bool:
        """Return whether a probe has to be claimed: SignalWire is down for all processes."""
        return self.health.is_open and not self._failing

    def close(self) -> None:
        """Stop following the client. The waits for turns end without one."""
        self._client.throttle.followers.discard(self)
        self._is_closed = True
        for wait in self._waits:
            with suppress(RuntimeError):  # its time has come already
                wait.reschedule(0.0)

    async def finish(self) -> None:
        """Wait until everything is shared. A probe that this fleet has claimed is left to other processes."""
        self.probe_ended(None, failed=False)
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])
            self.probe_ended(None, failed=False)

    # As a follower of the client's throttle.

    def throttle_changed(self) -> None:
        """Share a pause that SignalWire has asked for, or that it was lifted."""
        self._share("pause", self._with_pause)

    def _with_pause(self, health: AccountHealth, at: float) -> AccountHealth:
        """Return the health with the pause of the client's throttle, or without the last one if that was lifted."""
        throttle = self._client.throttle
        if throttle.error is None:
            return health.lifted(self._pause_known)
        if throttle.error is not self._pause:
            self._pause, self._pause_known = throttle.error, at - (self._now() - throttle.asked_at)
        return health.paused(self._pause_known, self._pause_known + throttle.until - throttle.asked_at)

    def rate_limit_reported(self, hint: RateLimitHint) -> None:
        """Lower the rate for all processes if SignalWire says that only few requests are left.

        A hint never raises the rate, and never lowers it below a tenth. So it means nothing if there is no limit. While
        a change is under way, it isn't shared, since the next answer holds another one.
        """
        if self.is_busy or hint.remaining is None or hint.reset_at is None:
            return
        left = hint.reset_at.timestamp() - self._client.clock.wall()
        seconds = min(max(left, SHORTEST_WINDOW), LONGEST_THROTTLE)
        most = self._governor.max_rate
        rate = max(hint.remaining / seconds, LEAST_SHARE * most)

        def lower(health: AccountHealth, at: float) -> AccountHealth:
            return health.slowed(rate, at + seconds) if rate < NOTICEABLE * health.rate(most, at) else health

        at = self._now() - self._apart
        if lower(self.health, at) is not self.health:
            self._share("rate", lower)

    # Reading and replacing.

    def _now(self) -> float:
        return self._client.clock.now()

    def _share(self, subject: str, change: Change) -> None:
        """Apply a change, after those that are under way. It replaces one about the same subject that still waits."""
        self.checked_at = self._now()
        self._changes.pop(subject, None)
        self._changes[subject] = change
        if not self.is_busy and not self._timer.loop.is_closed():
            self._task = self._timer.begin(self._apply_all(), "share with the governor")

    async def _apply_all(self) -> None:
        """Apply all changes in turn, until the governor fails. Then have the gate act on what was read."""
        try:
            while self._changes and await self._apply(self._changes.pop(next(iter(self._changes)))):
                pass
        finally:
            self._changes.clear()
        if self._wanted and self.health.probe == self._wanted:
            self.claim, self._wanted = self._wanted, ""
        self._on_change()

    async def _apply(self, change: Change) -> bool:
        """Apply a change to the latest health, again and again until no other process is faster.

        Return False if the governor has failed.
        """
        for _ in range(MOST_TRIES):
            reading = await self._use("read", self._governor.read, HealthReading)
            if reading is None:
                return False
            health, by = reading.health, change(reading.health, reading.at)
            if by == health and not self._failing:  # otherwise, see whether `replace` works again
                self._see(reading)
                return True
            accepted = await self._use("replace", partial(self._governor.replace, health, by), bool)
            if accepted is None:
                return False
            if accepted:
                self._works(CHANGES)
                self._see(attrs.evolve(reading, health=by), is_latest=True)
                return True
        self._failed(CHANGES, f"it accepts no change, {MOST_TRIES} times in a row")
        return False

    def _see(self, reading: HealthReading, *, is_latest: bool = False) -> None:
        """Adopt a reading, unless a later one has come before it.

        `is_latest` is true for a change that was accepted just now, although its time is that of the reading before.
        """
        now = self._now()
        if not is_latest and is_outdated(reading.at, self._read_at):
            return
        before, health, apart = self.health, reading.health, now - reading.at
        self.health, self.members, self._read_at, self._apart = health, max(1, reading.members), reading.at, apart
        throttle = self._client.throttle
        if health.paused_at != self._pause_known and health.paused_until + apart > now:
            until = min(health.paused_until + apart, now + health.paused_until - health.paused_at)
            error = RateLimited("SignalWire asked another process for a pause", retry_after=until - now)
            if throttle.adopt(error, asked=min(now, health.paused_at + apart), until=until):
                self._pause, self._pause_known = error, health.paused_at
        elif self._pause is not None and health.paused_until == NEVER and health.paused_at >= self._pause_known:
            throttle.release(self._pause)
        elif throttle.error is not None and throttle.error is self._pause and health.paused_at < self._pause_known:
            self._share("pause", self._with_pause)  # the governor may have lost it, with all that it kept
        if before.is_open and not health.is_open and self._accuses:
            self._accuses, self._was_wrong = False, True
        if before != health and not self._changes:  # otherwise, `_apply_all` does it once all changes are applied
            self._on_change()

    def local(self, time: float) -> float:
        """Return a time of the health by the client's clock."""
        return time + self._apart

    async def _use(
        self,
        method: str,
        call: Callable[[], Awaitable[T]],
        kind: type | tuple[type, ...],
        limit: float = LONGEST_CALL,
    ) -> T | None:
        """Return the result of a governor's method, which must be of a kind, or None after logging that it failed.

        A governor may be your own code, which may also raise `CancelledError` by mistake.
        """
        bound = asyncio.timeout(limit if self._local is None else None)
        try:
            async with bound:
                if method == "turn":
                    self._waits.add(bound)
                result = await call()
        except TimeoutError:
            if self._is_closed:
                return None
            reason = f"no result within {spoken(limit)}"
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            reason = type(error).__name__
            if isinstance(error, SignalWireTokenError):  # others may have said anything in their texts
                reason = f"{reason}: {error}"
        else:
            if isinstance(result, kind):
                self._works(method)
                return result
            reason = f"it returned {type(result).__name__}"
        finally:
            self._waits.discard(bound)
        self._failed(method, reason)
        return None

    def _works(self, what: str) -> None:
        """Record that a method works. Log it if all of them work again."""
        if what in self._failing:
            self._failing.discard(what)
            if not self._failing:
                logger.info(WORKS)

    def _failed(self, what: str, reason: str) -> None:
        """Record that a method has failed. Log it if it is the first one."""
        if not self._failing:
            logger.warning(FAILS, type(self._governor).__name__, what, reason)
        self._failing.add(what)


def reason_of(error: SignalWireTokenError) -> str:
    """Return what failed, in words without content: the kind of error, and the status of the answer."""
    status = f" (status {error.status})" if isinstance(error, ApiError) and error.status else ""
    return f"{type(error).__name__}{status}"


def found_elsewhere(reason: str) -> SignalWireTokenError:
    """Return the error of an outage that another process has found. `reason` comes from `reason_of`."""
    return SignalWireTokenError(f"SignalWire is down, as another process has found: {reason}")
