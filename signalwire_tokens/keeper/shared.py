"""How a pair that is shared through a store is renewed: one process at a time, and by what the store holds.

Whoever holds the lease reads the record, marks it if it is about to present its refresh token, asks, and saves.
Everybody else goes on with the current token and adopts the new pair. A mark that is found says that a refresh token
may be used up, and so a new pair is issued in its place.
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
from signalwire_tokens.errors import ConfigurationError, StoreError
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
from .renewal import RenewalResult, asked_at
from .sharing_rules import UNBOUNDED, Lives, Sight, choose, find_better, find_other, holds, is_sound, shortened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from signalwire_tokens.stores import Record

__all__ = ["Ask", "SharedRenewal"]

REST_OF_STORE = 10  # times the usual pause until a store that has failed is read again
METHODS = ("delete", "lease", "load", "save", "watch")
# Asks for a pair: by that way, with the refresh token of that pair, within so many seconds.
Ask: TypeAlias = "Callable[[RenewalStep, TokenPair | None, float | None], Awaitable[Outcome]]"
T = TypeVar("T")

logger: logging.Logger = logging.getLogger("signalwire_tokens.session")


def nothing() -> None:
    """Do nothing."""


@attrs.define(eq=False, repr=False, weakref_slot=False)
class SharedRenewal:
    """Renews the pair that a store holds under a key.

    `brought` is a pair that the session didn't issue, until the store has it: whatever it holds under the key before is
    a successor. `longest` limits the lifetimes of a stored pair, which may have been stored with other settings.
    `ahead` is by how much the wall clock was ahead of the session's clock when the current pair was asked for, and
    `answer` is the last pair that was asked for here, with the same of that. `mark` is the last mark of its own.
    `heard` says that there is a new pair to look at, which is done from `rests_until` on. `looked_for` is the expiry of
    the token for which a look was made after that, and how many of these were the last one before the session expires:
    a second one follows if there are news.
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
    heard: bool = False
    rests_until: float = -math.inf
    looked_for: tuple[float, int] = (math.inf, 0)
    saving: asyncio.Task[None] | None = None
    unwatch: Callable[[], object] = nothing

    def __attrs_post_init__(self) -> None:
        if isinstance(self.store, type) or not all(callable(getattr(self.store, name, None)) for name in METHODS):
            raise ConfigurationError("store must be one, such as SqliteStore(path, encryption_keys=…)")

    # A renewal.

    async def renew(self, step: RenewalStep, ask: Ask) -> RenewalResult:
        """Renew, or adopt what another process has renewed."""
        try:
            return await self._renew_alone(step, ask)
        except StoreError as error:
            failure = error.with_traceback(None)
        return await self._renew_without(step, ask, failure)

    async def _renew_alone(self, step: RenewalStep, ask: Ask) -> RenewalResult:
        """Renew as the only one who does."""
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
        failure = self._complaint("others have been renewing for too long")
        if self._is_shut or not cycle.can_issue:
            return step, NotSent(failure)
        raise failure

    async def _renew_leased(self, step: RenewalStep, ask: Ask, latest: float) -> RenewalResult | None:
        """Renew by what the store holds now; None if somebody has changed that all the same."""
        cycle, policy, sight = self.cycle, self.cycle.policy, await self._read()
        held, found = sight.reading.record, self._better(sight)
        if found is not None:
            return UseRefreshToken(step.at), found
        if held is None and cycle.pair is None and self.brought is not None:
            renewed = Renewed(self.brought, asked_at(self.brought, self.clock))
            adopted = await self._commit(renewed, sight, None)
            self.brought = None if adopted.unsaved is None else self.brought
            return UseRefreshToken(step.at), adopted
        way, plain = choose(sight, cycle, step, brought=self.brought, ahead=self.ahead)
        mark = None
        if isinstance(way, UseRefreshToken) and plain is not None:
            reserve = policy.needed_ttl(cycle.lifetime)
            if plain.presenting not in (None, self.mark) and cycle.left(self.clock.now()) > reserve:
                return way, NotSent(self._complaint("another may be presenting the refresh token"))
            mark = attrs.evolve(plain, presenting=uuid4().hex)
            self.mark = mark.presenting
            if not await self._save(mark, None if held is None else held.digest):
                return None
        if self.clock.now() > latest or self._is_shut:
            outcome: Outcome = NotSent(self._complaint("no time was left for a request"))
        else:
            pair = None if plain is None else plain.pair
            outcome = await self._ask_dated(ask, way, pair, policy.lease_for(cycle.lifetime) / 2)
        if isinstance(outcome, Renewed):
            replaces = mark or held
            return way, await self._commit(outcome, sight, None if replaces is None else replaces.digest)
        if mark is not None and plain is not None:
            with suppress(StoreError):
                found = await self._after_failure(outcome, plain, mark)
        return way, found or outcome

    async def _after_failure(self, outcome: Outcome, plain: Record, mark: Record) -> Renewed | None:
        """Take the mark back if nothing was done; if something may have been, look whether somebody did that."""
        if not isinstance(outcome, Ambiguous | Spent | Renewed):
            await self._save(plain, mark.digest)
            return None
        return self._better(await self._read())

    async def _renew_without(self, step: RenewalStep, ask: Ask, error: StoreError) -> RenewalResult:
        """Renew without the store, once that can't be put off: with a pair of its own rather than the shared one."""
        cycle = self.cycle
        may_have_successor = cycle.pair is not None and cycle.pair is self.brought
        has_time = cycle.left(self.clock.now()) > cycle.policy.needed_ttl(cycle.lifetime)
        if has_time or self._is_shut or may_have_successor:
            return step, NotSent(error)
        way = IssueNew(step.at) if cycle.can_issue else step
        if cycle.pair is None and self.brought is not None:
            outcome: Outcome = Renewed(self.brought, asked_at(self.brought, self.clock))
        else:
            outcome = await self._ask_dated(ask, way, cycle.pair, None)
        return way, attrs.evolve(outcome, unsaved=error) if isinstance(outcome, Renewed) else outcome

    async def _ask_dated(self, ask: Ask, way: RenewalStep, pair: TokenPair | None, limit: float | None) -> Outcome:
        """Return what asking came to, and note by how much the wall clock was ahead when it began."""
        ahead = self._wall_ahead()
        outcome = await ask(way, pair, limit)
        if isinstance(outcome, Renewed):
            self.answer = outcome.pair, ahead
        return outcome

    async def _commit(self, renewed: Renewed, sight: Sight, replaces: str | None) -> Renewed:
        """Save a new pair; if another process was faster, take its pair."""
        try:
            record = sight.record(renewed.pair, renewed.asked, self._ahead_of(renewed.pair))
            if await self._save(record, replaces):
                return renewed
            found = self._better(await self._read())
            if found is not None:
                return found
            failure = self._complaint("somebody else has just saved another pair")
        except StoreError as error:
            failure = error.with_traceback(None)
        return attrs.evolve(renewed, unsaved=failure)

    # Outside of renewals.

    def has_looked(self, *, is_last: bool) -> bool:
        """Return whether the session has looked for another pair since its own expired."""
        expired, last = self.looked_for
        return expired == self.cycle.access_until and (not is_last or last > (1 if self.heard else 0))

    async def look(self, *, is_last: bool) -> RenewalResult:
        """Return a better pair that another process has saved; if it's the last chance, one that can be refreshed."""
        cycle, found, rest = self.cycle, None, self.cycle.policy.poll_for(self.cycle.lifetime)
        was_heard, self.heard = self.heard, False
        if cycle.left(self.clock.now()) <= 0:
            expired, last = self.looked_for
            self.looked_for = cycle.access_until, (last if expired == cycle.access_until else 0) + is_last
        try:
            sight = await self._read()
            find = find_other if is_last else find_better
            found = find(sight, cycle, now=self.clock.now(), wall=self.clock.wall())
        except StoreError:
            self.heard, rest = self.heard or was_heard, REST_OF_STORE * rest
        now = self.clock.now()
        self.rests_until = now + rest
        return UseRefreshToken(now), found

    def adopted(self, renewed: Renewed) -> bool:
        """Note that there is a new current pair, and return whether it is to be saved later."""
        self.ahead = self._ahead_of(renewed.pair)
        return renewed.unsaved is not None and (self.saving is None or self.saving.done())

    async def save_later(self, heard: Callable[[], None]) -> None:
        """Save the current pair behind its users, until that is done or there is a better one, which `heard` is for."""
        cycle = self.cycle
        pause, longest = cycle.policy.store_pauses(cycle.lifetime)
        while cycle.phase is not Phase.CLOSED or self.clock.now() < cycle.refresh_until:
            await self.clock.sleep(pause)
            pause = min(longest, 2 * pause)
            with suppress(StoreError):
                pair = cycle.pair
                if await self._has_better():
                    heard()
                if cycle.pair is pair:
                    return

    async def _has_better(self) -> bool:
        """Return whether the store holds a better pair than the current one, which is saved if it doesn't."""
        sight = await self._read()
        held, pair, asked, latest = sight.reading.record, self.cycle.pair, self.cycle.asked, sight.latest
        if pair is None or holds(held, pair):
            return False
        if self._better(sight) is not None:
            return True
        if (latest is not None and latest >= asked) or (held is not None and pair is self.brought):
            return False  # a successor, whatever the clocks say
        if not await self._save(sight.record(pair, asked, self.ahead), None if held is None else held.digest):
            raise self._complaint("somebody else has just saved another pair")
        self.brought = None
        return False

    def watch(self, heard: Callable[[], None]) -> None:
        """Call a method, as long as its object is in use, when somebody has saved a pair."""
        method = WeakMethod(heard)
        with logged("a store cannot be watched"):
            self.unwatch = self.store.watch(self.key, lambda: (call := method()) and call())

    def forget(self) -> None:
        """Stop watching. What isn't saved yet still is."""
        unwatch, self.unwatch = self.unwatch, nothing
        with logged("a store failed to forget a session"):
            unwatch()

    def stop(self) -> None:
        """Stop watching and saving. The event loop may be closed already."""
        if self.saving is not None and not self.saving.get_loop().is_closed():
            self.saving.cancel()
        self.forget()

    async def finish(self) -> None:
        """Let go of the store, which may be closed next; save what was not saved yet, in one last attempt."""
        saving = self.saving
        is_saved = saving is None or saving.done()
        self.stop()
        if saving is None or is_saved:
            return
        await asyncio.wait([saving], timeout=self.cycle.policy.store_limit(self.cycle.lifetime))
        try:
            await self._has_better()
        except StoreError as error:
            logger.warning("a session was closed with its pair not saved: %s", error)

    # The store.

    @property
    def _is_shut(self) -> bool:
        return self.cycle.phase >= Phase.SHUT

    def _wall_ahead(self) -> float:
        return self.clock.wall() - self.clock.now()

    def _ahead_of(self, pair: TokenPair) -> float:
        """Return by how much the wall clock was ahead of the session's when a pair that is new here was asked for."""
        answer, ahead = self.answer
        return ahead if pair is answer else self._wall_ahead()

    def _better(self, sight: Sight) -> Renewed | None:
        return find_better(sight, self.cycle, now=self.clock.now(), wall=self.clock.wall())

    async def _read(self) -> Sight:
        before, ahead = self.clock.now(), self._wall_ahead()
        reading = await self._use(lambda: self.store.load(self.key))
        if not is_sound(reading):
            raise self._complaint("answered with something else than a reading")
        after, wall = self.clock.now(), self.clock.wall()
        gained, leap = wall - after - ahead, self.cycle.policy.tuning.clock_jump
        return Sight(shortened(reading, self.longest), before=before, after=after, wall=wall, gained=gained, leap=leap)

    async def _save(self, record: Record, replaces: str | None) -> bool:
        return await self._use(lambda: self.store.save(self.key, record, replaces))

    @asynccontextmanager
    async def _leased(self, ttl: float) -> AsyncIterator[bool]:
        """Hold the lease, if nobody else does. It is given back in bounded time, and ends by itself otherwise."""
        leases = AsyncExitStack()
        held = await self._use(lambda: leases.enter_async_context(self.store.lease(self.key, ttl)))
        try:
            yield held
        finally:
            with suppress(StoreError):
                await self._use(leases.aclose)

    async def _use(self, call: Callable[[], Awaitable[T]]) -> T:
        """Ask the store, and wait for as long as a store gets; whatever goes wrong is a `StoreError`."""
        limit = self.cycle.policy.store_limit(self.cycle.lifetime)
        try:
            async with asyncio.timeout(limit):
                return await call()
        except StoreError:
            raise
        except TimeoutError:
            reason = f"no answer within {limit:g} s"
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            reason = f"failed with {type(error).__name__}"
        raise self._complaint(reason)

    def _complaint(self, reason: str) -> StoreError:
        try:
            store = repr(self.store)
        except Exception:  # noqa: BLE001 - a store is anybody's code, and its state may be what failed
            store = type(self.store).__name__
        return StoreError(f"{store}: #{self.key[:8]}: {reason}")
