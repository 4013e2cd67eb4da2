"""How processes renew a pair that they share through a store.

The danger: a refresh token may work only once. If two processes present it, or one presents it and stops before it has
saved the answer, the only valid refresh token may be lost. A second use may even end all tokens of the same issue. So
one process renews at a time, and leaves a *mark* in the record before it presents a refresh token. If the process
stops, the next one finds the mark and issues a new pair instead. (P20, P32, P33)

A renewal takes these steps::

    1. read     a later pair is stored already: adopt it, and end here
    2. lease    only one process holds the lease; the others use their current token, and read again in a moment
    3. read     under the lease: only a refresh token that was read here may be presented
    4. mark     for a refresh: save the record with a random mark, before presenting its refresh token
    5. request  refresh or issue: it must begin in the first half of the lease, and take half of it at most
    6. save     save the new pair in place of the record from step 4
    7. release  release the lease; adopt the pair

Steps 4 and 6 compare and set: the store saves only if it still holds the record that was read. A process that was
stopped for longer than its lease then saves nothing. It finds the pair of another process, and adopts that.

After a failed request, the mark depends on what SignalWire may have done::

    outcome                 the mark
    ---------------------   ----------------------------------------------------------------------------------
    Ambiguous               stays: the refresh token may be used up
    Spent                   stays: the refresh token is of no use to other processes, either
    any other failure       is removed: nothing was done, so the next process may present the refresh token

**Without the store.** If it fails or doesn't answer, the session uses its current token almost to the end. Then it
issues a pair of its own, since other processes may be presenting the shared refresh token. It saves that pair in the
background once the store answers again. (P34)

**News.** A store calls `watch`'s callback when another process has saved a pair. The session then *looks*: it reads the
store, and adopts a later pair, without the lease.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeAlias, TypeVar
from uuid import uuid4
from weakref import WeakMethod

import attrs

from signalwire_tokens.clock import Clock
from signalwire_tokens.durations import spoken
from signalwire_tokens.errors import ConfigurationError, StoreError, UnreadableRecord
from signalwire_tokens.lifecycle import Lifecycle, Phase
from signalwire_tokens.models import TokenPair
from signalwire_tokens.outcomes import (
    Ambiguous,
    IssueNew,
    NotSent,
    Outcome,
    RenewalStep,
    Renewed,
    Spent,
    UseRefreshToken,
)
from signalwire_tokens.stores import TokenStore

from .events import is_cancelled, logged
from .messages import CLOSED, FASTER, LEASED, MARKED, NO_STORE, PAIR_LOST, TOO_SLOW, UNWATCHED
from .renewal import RenewalResult, asked_at
from .sharing_rules import UNBOUNDED, Lives, TimedReading, choose, find_better, find_other, holds, is_sound, shortened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from signalwire_tokens.stores import Record

__all__ = ["Ask", "SharedRenewal"]

REST_OF_STORE = 10  # after a look that failed, the next one waits this many times longer than usual
METHODS = ("delete", "lease", "load", "save", "watch")
# Requests a pair: with this step, the pair that has the refresh token, a limit in seconds, and until when to begin.
Ask: TypeAlias = "Callable[[RenewalStep, TokenPair | None, float | None, float], Awaitable[Outcome]]"
T = TypeVar("T")

logger: logging.Logger = logging.getLogger("signalwire_tokens.session")


def nothing() -> None:
    """Return None: the `unwatch` of a session that doesn't watch a store."""


@attrs.define(eq=False, repr=False, weakref_slot=False)
class SharedRenewal:
    """The renewal of a pair that a store holds under a key.

    - `cycle` is the session's state, and `clock` its clock.
    - `longest` limits the lifetimes of a stored pair, because another session may have stored it with other settings.
    - `brought` is a pair from elsewhere that the session was created with, until the store has it. Any record under the
      key then holds a successor of that pair.
    - `ahead` is by how much the wall clock was ahead of the session's clock when the current pair was requested.
      `answer` has the last pair that this session requested, with the same difference. They show whether a virtual
      machine was paused since then, so that a pair that is saved late gets the right age.
    - `mark` is this session's last mark. A session that can't issue may present a refresh token again despite its own
      mark, because no other process is presenting it.
    - `offered` is `brought` while it is being adopted, for the log.
    - `has_news` is True if there is news to look at. A look may begin at `rests_until`.
    - `looked_for` limits the looks of a session without a valid token. It holds the expiry of the token for which it
      has looked, and the number of *last looks*, before the session would expire. There is one, and another one after
      news.
    - `is_unreadable` is True if the store held a record at the last sight that this process can't read.
    - `saving` is the task that saves a pair in the background, and `unwatch` ends the callbacks of the store.
    """

    store: TokenStore = attrs.field(repr=False)
    key: str
    cycle: Lifecycle
    clock: Clock
    longest: Lives = UNBOUNDED
    brought: TokenPair | None = None
    ahead: float = 0.0
    answer: tuple[TokenPair | None, float] = (None, 0.0)
    mark: str | None = None
    offered: TokenPair | None = None
    has_news: bool = False
    rests_until: float = -math.inf
    looked_for: tuple[float, int] = (math.inf, 0)
    is_unreadable: bool = False
    saving: asyncio.Task[None] | None = None
    unwatch: Callable[[], object] = nothing

    def __attrs_post_init__(self) -> None:
        if isinstance(self.store, type) or not all(callable(getattr(self.store, name, None)) for name in METHODS):
            raise ConfigurationError(NO_STORE.format(methods=", ".join(METHODS)))

    # Renewing.

    async def renew(self, step: RenewalStep, ask: Ask) -> RenewalResult:
        """Return a new pair, or a failure: from a request, or from the store if another process has renewed.

        The result also has the step that was taken. The record decides it, so it may differ from `step`.
        """
        try:
            return await self._renew_alone(step, ask)
        except StoreError as error:
            failure = error.with_traceback(None)
        return await self._renew_without(step, ask, failure)

    async def _renew_alone(self, step: RenewalStep, ask: Ask) -> RenewalResult:
        """Renew under the lease, or adopt the pair of the process that holds it. Raise `StoreError` if the store fails.

        While another process holds the lease, the session reads the store again and again, for the time of two leases.
        If that brings nothing, it raises `StoreError`, so that it renews without the store. A session that can't issue
        a pair of its own, or was shut, returns `NotSent` instead.
        """
        policy, cycle = self.cycle.policy, self.cycle
        ttl = policy.lease_for(cycle.lifetime)
        give_up = self.clock.now() + 2 * ttl
        while self.clock.now() < give_up and not self._is_shut:
            found = self._better(await self._read())
            if found is not None:
                return UseRefreshToken(step.at), found
            taken = self.clock.now()
            async with self._leased(ttl) as held:
                result = await self._renew_leased(step, ask, taken + ttl / 2) if held else None
            if result is not None:
                return result
            await self.clock.sleep(policy.poll_for(cycle.lifetime))
        failure = self._complaint(CLOSED if self._is_shut else LEASED.format(time=spoken(2 * ttl)))
        if self._is_shut or not cycle.can_issue:
            return step, NotSent(failure)
        raise failure

    async def _renew_leased(self, step: RenewalStep, ask: Ask, latest: float) -> RenewalResult | None:
        """Renew under the lease. Return None if another process has changed the record nevertheless.

        `latest` is until when a request may begin, so that it can end before the lease does. A process that was stopped
        for longer than its lease goes on as if it still held it. This is why each save names the record that it
        replaces.

        A session that can't issue has to present even a refresh token that another process has marked. It waits with
        that until its own token is about to expire.
        """
        cycle, policy, timed = self.cycle, self.cycle.policy, await self._read()
        held, found = timed.reading.record, self._better(timed)
        if found is not None:
            return UseRefreshToken(step.at), found
        if held is None and cycle.pair is None and self.brought is not None:
            renewed = Renewed(self.brought, asked_at(self.brought, self.clock))
            self.offered = self.brought
            adopted = await self._commit(renewed, timed, None)
            self.brought = None if adopted.unsaved is None else self.brought
            return UseRefreshToken(step.at), adopted
        way, plain = choose(timed, cycle, step, brought=self.brought, ahead=self.ahead)
        mark = None
        if isinstance(way, UseRefreshToken) and plain is not None:
            reserve = policy.needed_ttl(cycle.lifetime)
            if plain.presenting not in (None, self.mark) and cycle.left(self.clock.now()) > reserve:
                return way, NotSent(self._complaint(MARKED))
            mark = attrs.evolve(plain, presenting=uuid4().hex)
            self.mark = mark.presenting
            if not await self._save(mark, None if held is None else held.digest):
                return None
        if self.clock.now() > latest or self._is_shut:
            outcome: Outcome = NotSent(self._complaint(CLOSED if self._is_shut else TOO_SLOW))
        else:
            pair = None if plain is None else plain.pair
            outcome = await self._ask_dated(ask, way, pair, policy.lease_for(cycle.lifetime) / 2, latest)
        if isinstance(outcome, Renewed):
            replaces = mark or held
            return way, await self._commit(outcome, timed, None if replaces is None else replaces.digest)
        if mark is not None and plain is not None:
            with suppress(StoreError):
                found = await self._after_failure(outcome, plain, mark)
        return way, found or outcome

    async def _after_failure(self, outcome: Outcome, plain: Record, mark: Record) -> Renewed | None:
        """Remove the mark if SignalWire did nothing. Otherwise, return a later pair if the store holds one.

        After `Ambiguous` or `Spent`, another process may have used the refresh token, and saved the answer.
        """
        if not isinstance(outcome, Ambiguous | Spent | Renewed):
            await self._save(plain, mark.digest)
            return None
        return self._better(await self._read())

    async def _renew_without(self, step: RenewalStep, ask: Ask, error: StoreError) -> RenewalResult:
        """Renew without the store if the current token is about to expire.

        Before that, the result is the store's error, as `NotSent`.

        The session issues a pair of its own, since other processes may be presenting the shared refresh token. If it
        can't issue, it presents that refresh token as the last way left. But it doesn't if the store may hold the
        pair's successor: if it has a record that this process can't read, or if the pair is from elsewhere and was
        never found in the store.
        """
        cycle = self.cycle
        may_have_successor = (self.is_unreadable and not cycle.can_issue) or cycle.pair is self.brought is not None
        has_time = cycle.left(self.clock.now()) > cycle.policy.needed_ttl(cycle.lifetime)
        if has_time or self._is_shut or may_have_successor:
            return step, NotSent(error)
        way = IssueNew(step.at) if cycle.can_issue else step
        if cycle.pair is None and self.brought is not None:
            self.offered = self.brought
            outcome: Outcome = Renewed(self.brought, asked_at(self.brought, self.clock))
        else:
            outcome = await self._ask_dated(ask, way, cycle.pair, None, math.inf)
        return way, attrs.evolve(outcome, unsaved=error) if isinstance(outcome, Renewed) else outcome

    async def _ask_dated(
        self, ask: Ask, way: RenewalStep, pair: TokenPair | None, limit: float | None, latest: float
    ) -> Outcome:
        """Request a pair, and record how far the wall clock was ahead of the session's clock when the request began."""
        ahead = self._wall_ahead()
        outcome = await ask(way, pair, limit, latest)
        if isinstance(outcome, Renewed):
            self.answer = outcome.pair, ahead
        return outcome

    async def _commit(self, renewed: Renewed, timed: TimedReading, replaces: str | None) -> Renewed:
        """Save a new pair, and return it. If another process was faster and has a later pair, return that one.

        `replaces` is the digest of the record that the pair replaces; None if the store held none. If the store fails,
        the result has the error as `unsaved`: the session uses the pair, and saves it later.
        """
        try:
            record = timed.record(renewed.pair, renewed.asked, self._ahead_of(renewed.pair))
            if await self._save(record, replaces):
                return renewed
            found = self._better(await self._read())
            if found is not None:
                return found
            failure = self._complaint(FASTER)
        except StoreError as error:
            failure = error.with_traceback(None)
        return attrs.evolve(renewed, unsaved=failure)

    # Looking for news, and saving in the background.

    def has_looked(self, *, is_last: bool) -> bool:
        """Return whether no further look is needed for the expired token.

        `is_last` asks for the look before the session expires.
        """
        expired, last = self.looked_for
        return expired == self.cycle.access_until and (not is_last or last > (1 if self.has_news else 0))

    async def look(self, *, is_last: bool) -> RenewalResult:
        """Return the pair that another process has saved, if it is later than the current one.

        `is_last` is True before the session expires. A pair then also counts if only its refresh token is valid. The
        result has a step, which means nothing, and None if nothing was found.
        """
        cycle, found, rest = self.cycle, None, self.cycle.policy.poll_for(self.cycle.lifetime)
        had_news, self.has_news = self.has_news, False
        if cycle.left(self.clock.now()) <= 0:
            expired, last = self.looked_for
            self.looked_for = cycle.access_until, (last if expired == cycle.access_until else 0) + is_last
        try:
            timed = await self._read()
            find = find_other if is_last else find_better
            found = find(timed, cycle, now=self.clock.now(), wall=self.clock.wall())
        except StoreError:
            self.has_news, rest = self.has_news or had_news, REST_OF_STORE * rest
        now = self.clock.now()
        self.rests_until = now + rest
        return UseRefreshToken(now), found

    def adopted(self, renewed: Renewed) -> bool:
        """Record that there is a new current pair, and return whether to begin a task that saves it later."""
        self.offered = None
        self.ahead = self._ahead_of(renewed.pair)
        return renewed.unsaved is not None and (self.saving is None or self.saving.done())

    async def save_later(self, on_change: Callable[[], None]) -> None:
        """Save the current pair in the background, and try again until that succeeds.

        If the store holds a later pair, call `on_change`, so that the session adopts it, and end. This goes on after
        the session is dropped, as long as its refresh token is valid. Closing the session cancels it.
        """
        cycle = self.cycle
        pause, longest = cycle.policy.store_pauses(cycle.lifetime)
        while cycle.phase is not Phase.CLOSED or self.clock.now() < cycle.refresh_until:
            await self.clock.sleep(pause)
            pause = min(longest, 2 * pause)
            with suppress(StoreError):
                pair = cycle.pair
                if await self._has_better():
                    on_change()
                if cycle.pair is pair:
                    return

    async def _has_better(self) -> bool:
        """Return whether the store holds a later pair than the current one. If it doesn't, save the current one."""
        timed = await self._read()
        held, pair, asked, latest = timed.reading.record, self.cycle.pair, self.cycle.asked, timed.latest
        oldest = asked - timed.unsure_by(self.ahead)
        if pair is None or holds(held, pair):
            return False
        if self._better(timed) is not None:
            return True
        if (latest is not None and latest >= oldest) or (held is not None and pair is self.brought):
            return False  # the store holds a successor of the current pair, even if its token expires earlier
        if not await self._save(timed.record(pair, asked, self.ahead), None if held is None else held.digest):
            raise self._complaint(FASTER)
        self.brought = None
        return False

    def watch(self, on_change: Callable[[], None]) -> None:
        """Start watching the store, which calls `on_change` when another session has saved a pair.

        `on_change` is a method, and its object is held weakly.
        """
        method = WeakMethod(on_change)
        with logged(f"key #{self.key[:8]}: {UNWATCHED}"):
            self.unwatch = self.store.watch(self.key, lambda: (call := method()) and call())

    def forget(self) -> None:
        """Stop watching the store. A task that saves a pair goes on."""
        unwatch, self.unwatch = self.unwatch, nothing
        with logged(f"key #{self.key[:8]}: the function that watch() returned failed"):
            unwatch()

    def stop(self) -> None:
        """Stop watching the store and saving. The event loop may be closed already."""
        if self.saving is not None and not self.saving.get_loop().is_closed():
            self.saving.cancel()
        self.forget()

    async def finish(self) -> None:
        """Release the store, which may be closed next. Save a pair that isn't saved yet in one last attempt."""
        saving = self.saving
        is_saved = saving is None or saving.done()
        self.stop()
        if saving is None or is_saved:
            return
        await asyncio.wait([saving], timeout=self.cycle.policy.store_limit(self.cycle.lifetime))
        try:
            await self._has_better()
        except StoreError as error:
            logger.warning(PAIR_LOST, self.key[:8], error)

    # Access to the store.

    @property
    def _is_shut(self) -> bool:
        return self.cycle.phase >= Phase.SHUT

    def _wall_ahead(self) -> float:
        return self.clock.wall() - self.clock.now()

    def _ahead_of(self, pair: TokenPair) -> float:
        """Return by how much the wall clock was ahead of the session's clock when a new pair was requested.

        For a pair from elsewhere, the present difference serves, since its age was calculated just now.
        """
        answer, ahead = self.answer
        return ahead if pair is answer else self._wall_ahead()

    def _better(self, timed: TimedReading) -> Renewed | None:
        return find_better(timed, self.cycle, now=self.clock.now(), wall=self.clock.wall())

    async def _read(self) -> TimedReading:
        """Return a reading of the store, with the times by both clocks around it.

        Raise `StoreError` if it isn't sound.
        """
        before, ahead = self.clock.now(), self._wall_ahead()
        reading = await self._use(lambda: self.store.load(self.key))
        self.is_unreadable = False
        if not is_sound(reading):
            raise self._complaint(
                f"load() must return a Reading with finite times, and returned {type(reading).__name__}"
            )
        after, wall = self.clock.now(), self.clock.wall()
        gained, leap = wall - after - ahead, self.cycle.policy.tuning.clock_jump
        return TimedReading(
            shortened(reading, self.longest), before=before, after=after, wall=wall, gained=gained, leap=leap
        )

    async def _save(self, record: Record, replaces: str | None) -> bool:
        return await self._use(lambda: self.store.save(self.key, record, replaces))

    @asynccontextmanager
    async def _leased(self, ttl: float) -> AsyncIterator[bool]:
        """Yield whether this session holds the lease. It is released in limited time; otherwise it ends by itself."""
        leases = AsyncExitStack()
        held = await self._use(lambda: leases.enter_async_context(self.store.lease(self.key, ttl)))
        try:
            yield held
        finally:
            with suppress(StoreError):
                await self._use(leases.aclose)

    async def _use(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return the result of a store's method, or raise `StoreError` if it takes too long or raises anything.

        A store may be your own code, which may also raise `CancelledError` by mistake. Only a cancellation of the
        current task passes through.
        """
        limit = self.cycle.policy.store_limit(self.cycle.lifetime)
        try:
            async with asyncio.timeout(limit):
                return await call()
        except StoreError as error:
            self.is_unreadable |= isinstance(error, UnreadableRecord)
            raise
        except TimeoutError:
            reason = f"no answer within {spoken(limit)}"
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            reason = f"raised {type(error).__name__}"
        raise self._complaint(reason)

    def _complaint(self, reason: str) -> StoreError:
        """Return a `StoreError` that names the store and the first digits of the key, but no content."""
        try:
            store = repr(self.store)
        except Exception:  # noqa: BLE001 - a store may be your app's code, and its `repr` may fail as well
            store = type(self.store).__name__
        return StoreError(f"{store}: #{self.key[:8]}: {reason}")
