"""How a pair that is shared through a store is renewed: one process at a time, and by what the store holds.

Whoever holds the lease reads the record, marks it where it is about to present its refresh token, asks the service, and
saves. Everybody else goes on with the token at hand and adopts the new pair. A mark that is found says that a refresh
token may be used up, and so a new pair is issued in its place.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar, Unpack
from uuid import uuid4
from weakref import WeakMethod

import attrs

from signalwire_tokens.errors import SignalWireTokenError, StoreError
from signalwire_tokens.lifecycle import Phase
from signalwire_tokens.policy import (
    Denied,
    Misconfigured,
    NotSent,
    Outcome,
    Present,
    Reissue,
    Renewed,
    Spent,
    Throttled,
)

from .events import is_cancelled
from .renewal import RenewalRequest
from .renewing import Renewing
from .share import Share, complaint, is_over, logged
from .sharing_rules import Sight, choose, find_better, find_other, holds, is_sound, shortened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from signalwire_tokens.clock import Timer
    from signalwire_tokens.lifecycle import Adopted
    from signalwire_tokens.models import TokenPair
    from signalwire_tokens.stores import Record

    from .renewal import Renewal
    from .renewing import Landing, Settings

__all__ = ["Sharing"]

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("signalwire_tokens.session")


class Sharing(Renewing):
    """Renew a pair that may be shared."""

    __slots__ = ("_share",)

    def __init__(self, renewal: Renewal, *, share: Share | None = None, **settings: Unpack[Settings]) -> None:
        super().__init__(renewal, **settings)
        self._share = share
        if share is not None:
            share.brought, self._brought = self._brought, None

    @property
    def store_key(self) -> str | None:
        """The key under which the store keeps the session's pair; None without a store."""
        return None if self._share is None else self._share.key

    async def _ask(self, way: Present | Reissue, pair: TokenPair | None, limit: float | None) -> Outcome:
        """Return what came of asking for a pair, with the refresh token of `pair` or without."""
        request = RenewalRequest(step=way, pair=pair, current=self._lifecycle, asked=self._now(), timeout=limit)
        return await self._renewal.renew(request)

    async def _renew(self, step: Present | Reissue) -> Landing:
        share = self._share
        if share is None:
            return step, await self._ask(step, self._lifecycle.pair, None)
        try:
            return await self._renew_shared(share, step)
        except StoreError as error:
            failure = error.with_traceback(None)
        return await self._renew_alone(share, step, failure)

    async def _renew_shared(self, share: Share, step: Present | Reissue) -> Landing:
        """Renew as the only one who does, or adopt what another has renewed."""
        ttl = self._policy.lease_for(self._lifecycle.life)
        give_up = self._now() + 2 * ttl
        while self._now() < give_up and not self._is_shut:
            found = self._better(await self._read(share))
            if found is not None:
                return Present(step.at), found
            taken = self._now()
            async with self._leased(share, ttl) as held:
                landing = await self._renew_leased(share, step, taken + ttl / 2) if held else None
            if landing is not None:
                return landing
            await self._clock.sleep(self._policy.poll_for(self._lifecycle.life))
        failure = complaint(share, "others have been renewing for too long")
        if self._is_shut or not self._lifecycle.reissuable:
            return step, NotSent(failure)
        raise failure

    async def _renew_leased(self, share: Share, step: Present | Reissue, latest: float) -> Landing | None:
        """Renew by what the store holds now; None where somebody has changed it all the same."""
        sight = await self._read(share)
        held = sight.reading.record
        found = self._better(sight)
        if found is not None:
            return Present(step.at), found
        if held is None and self._lifecycle.pair is None and share.brought is not None:
            brought = Renewed(share.brought, self._brought_at(share.brought))
            adopted = await self._commit(share, brought, sight, None)
            share.brought = None if adopted.saved else share.brought
            return Present(step.at), adopted
        way, plain = choose(sight, self._lifecycle, step, brought=share.brought, ahead=share.ahead)
        mark = None
        if isinstance(way, Present) and plain is not None:
            if plain.presenting not in (None, share.mark) and self._left() > self._policy.reserve(self._lifecycle.life):
                return way, NotSent(complaint(share, "another may be presenting the refresh token"))
            mark = attrs.evolve(plain, presenting=uuid4().hex)
            share.mark = mark.presenting
            if not await self._save(share, mark, None if held is None else held.digest):
                return None
        if self._now() > latest or self._is_shut:
            outcome: Outcome = NotSent(complaint(share, "no time was left for a request"))
        else:
            limit = self._policy.lease_for(self._lifecycle.life) / 2
            outcome = await self._ask_dated(share, way, None if plain is None else plain.pair, limit)
        if isinstance(outcome, Renewed):
            replaces = mark or held
            return way, await self._commit(share, outcome, sight, None if replaces is None else replaces.digest)
        if mark is not None and plain is not None:
            with suppress(StoreError):
                found = await self._after_failure(share, outcome, plain, mark)
        return way, found or outcome

    async def _after_failure(self, share: Share, outcome: Outcome, plain: Record, mark: Record) -> Renewed | None:
        """Take the mark back where nothing was done; where something may have been, look whether somebody did that."""
        if isinstance(outcome, NotSent | Throttled | Misconfigured | Denied):
            await self._save(share, plain, mark.digest)
            return None
        return self._better(await self._read(share))

    async def _renew_alone(self, share: Share, step: Present | Reissue, error: StoreError) -> Landing:
        """Renew without the store, once it cannot be put off: with a pair of one's own rather than the shared one."""
        may_have_successor = self._lifecycle.pair is not None and self._lifecycle.pair is share.brought
        if self._left() > self._policy.reserve(self._lifecycle.life) or self._is_shut or may_have_successor:
            return step, NotSent(error)
        way = Reissue(step.at) if self._lifecycle.reissuable else step
        outcome: Outcome
        if self._lifecycle.pair is None and share.brought is not None:
            outcome = Renewed(share.brought, self._brought_at(share.brought))
        else:
            outcome = await self._ask_dated(share, way, self._lifecycle.pair, None)
        if isinstance(outcome, Renewed):
            self._note_unsaved(error)
            outcome = attrs.evolve(outcome, saved=False)
        return way, outcome

    async def _ask_dated(
        self, share: Share, way: Present | Reissue, pair: TokenPair | None, limit: float | None
    ) -> Outcome:
        """Return what asking came to, and note by how much the wall clock was ahead when it began."""
        ahead = self._wall_ahead()
        outcome = await self._ask(way, pair, limit)
        if isinstance(outcome, Renewed):
            share.answer = outcome.pair, ahead
        return outcome

    def _ahead_of(self, share: Share, pair: TokenPair) -> float:
        """Return by how much the wall clock was ahead of the session's when a pair that is new here was asked for."""
        answer, ahead = share.answer
        return ahead if pair is answer else self._wall_ahead()

    async def _commit(self, share: Share, renewed: Renewed, sight: Sight, replaces: str | None) -> Renewed:
        """Save a new pair; where another was faster, take that."""
        try:
            record = sight.record(renewed.pair, renewed.asked, self._ahead_of(share, renewed.pair))
            if await self._save(share, record, replaces):
                return renewed
            found = self._better(await self._read(share))
            if found is not None:
                return found
            failure = complaint(share, "somebody else has just saved another pair")
        except StoreError as error:
            failure = error.with_traceback(None)
        self._note_unsaved(failure)
        return attrs.evolve(renewed, saved=False)

    def _better(self, sight: Sight) -> Renewed | None:
        return find_better(sight, self._lifecycle, now=self._now(), wall=self._clock.wall())

    async def _read(self, share: Share) -> Sight:
        before, ahead = self._now(), self._wall_ahead()
        reading = await self._use(share, lambda: share.store.load(share.key))
        if not is_sound(reading):
            raise complaint(share, "answered with something else than a reading")
        after, wall = self._now(), self._clock.wall()
        gained = wall - after - ahead
        return Sight(
            shortened(reading, share.longest),
            before=before,
            after=after,
            wall=wall,
            gained=gained,
            leap=self._policy.leap,
        )

    async def _save(self, share: Share, record: Record, replaces: str | None) -> bool:
        return await self._use(share, lambda: share.store.save(share.key, record, replaces))

    @asynccontextmanager
    async def _leased(self, share: Share, ttl: float) -> AsyncIterator[bool]:
        """Hold the lease, if nobody else does. It is given back in bounded time, and ends by itself otherwise."""
        leases = AsyncExitStack()
        held = await self._use(share, lambda: leases.enter_async_context(share.store.lease(share.key, ttl)))
        try:
            yield held
        finally:
            with suppress(StoreError):
                await self._use(share, leases.aclose)

    async def _use(self, share: Share, call: Callable[[], Awaitable[T]]) -> T:
        """Ask the store, and wait for as long as a store gets; whatever goes wrong is a `StoreError`."""
        limit = self._policy.store_limit(self._lifecycle.life)
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
        raise complaint(share, reason)

    def _die(self, timer: Timer) -> None:
        """Give up for good, unless somebody else has kept the pair alive."""
        share = self._share
        if share is None or share.looked:
            super()._die(timer)
            return
        share.looked = True
        step = Present(self._now())
        self._depart(self._look_for_a_way_out(share, step), step, timer)

    async def _look_for_a_way_out(self, share: Share, step: Present) -> Landing:
        error = self.last_error or SignalWireTokenError("the refresh token has come to its end")
        with suppress(StoreError):
            sight = await self._read(share)
            found = find_other(sight, self._lifecycle, now=self._now(), wall=self._clock.wall())
            if found is not None:
                return step, found
        return step, Spent(error)

    def _adopted(self, adopted: Adopted) -> None:
        share, timer, renewed = self._share, self._timer, adopted.renewed
        if share is not None:
            share.looked, share.ahead = False, self._ahead_of(share, renewed.pair)
            is_closed = self._lifecycle.phase is Phase.CLOSED
            if timer is not None and not renewed.saved and not is_closed and is_over(share.saving):
                share.saving = timer.begin(self._save_in_the_end(share), f"save {self._label}")
        super()._adopted(adopted)

    def _note_unsaved(self, error: StoreError) -> None:
        logger.warning("session %s generation %d: not saved, %s", self._label, self._lifecycle.generation, error)
        self._tell("persist_failed", error)

    def _begin_sharing(self) -> None:
        """Hear of what others renew."""
        share = self._share
        if share is not None:
            heard = WeakMethod(self._heard)
            with logged("a store cannot be watched"):
                share.unwatch = share.store.watch(share.key, lambda: (call := heard()) and call())

    def _stop_sharing(self) -> None:
        if self._share is not None:
            self._share.stop()

    async def _end_sharing(self) -> None:
        """Let go of the store, which may be closed next; save what was not saved yet, in one last attempt."""
        share = self._share
        if share is None:
            return
        is_unsaved = not is_over(share.saving)
        share.stop()
        await share.stopped(self._policy.store_limit(self._lifecycle.life))
        if is_unsaved:
            try:
                await self._reconcile(share)
            except StoreError as error:
                logger.warning("session %s was closed with its pair not saved: %s", self._label, error)

    def _heard(self) -> None:
        """Look into the store, since somebody has renewed."""
        share, timer = self._share, self._timer
        if (
            share is not None
            and timer is not None
            and self._lifecycle.is_at_rest
            and timer.loop is asyncio.get_running_loop()
        ):
            share.heard = True
            if is_over(share.looking):
                share.looking = timer.begin(self._look(share), f"look for {self._label}")

    async def _look(self, share: Share) -> None:
        while share.heard:
            share.heard = False
            with suppress(StoreError):
                self._take(self._better(await self._read(share)))

    def _take(self, found: Renewed | None) -> None:
        """Adopt a pair from the store outside a renewal."""
        if found is not None and self._lifecycle.is_at_rest:
            now = self._now()
            self._carry_out(self._lifecycle.adopt(found, Present(now), now))
            self._plan()
            self._notify()

    @property
    def _is_shut(self) -> bool:
        return self._lifecycle.phase >= Phase.SHUT

    async def _save_in_the_end(self, share: Share) -> None:
        """Save the pair at hand behind its users, until that is done or there is another."""
        pause, longest = self._policy.store_pauses(self._lifecycle.life)
        while True:
            await self._clock.sleep(pause)
            pause = min(longest, 2 * pause)
            with suppress(StoreError):
                await self._reconcile(share)
                return

    async def _reconcile(self, share: Share) -> None:
        """Let the store hold the later of two pairs: its own, or the one at hand."""
        sight = await self._read(share)
        held, pair, latest = sight.reading.record, self._lifecycle.pair, sight.latest
        if pair is None or holds(held, pair):
            return
        found = self._better(sight)
        if found is not None or (latest is not None and latest >= self._lifecycle.asked):
            self._take(found)
            return
        if held is not None and pair is share.brought:
            return  # a successor, whatever the clocks say
        mine = sight.record(pair, self._lifecycle.asked, share.ahead)
        if not await self._save(share, mine, None if held is None else held.digest):
            raise complaint(share, "somebody else has just saved another pair")
        share.brought = None
