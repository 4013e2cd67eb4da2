"""A session of a fleet's: it renews when the governor lets it, and lapses when nobody asks for it."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, ClassVar, cast

from signalwire_tokens.errors import ConfigurationError, SessionExpired, SignalWireTokenError, TokenUnavailable
from signalwire_tokens.keeper import CHECKED_EVERY
from signalwire_tokens.lifecycle import Phase
from signalwire_tokens.models import Secret
from signalwire_tokens.policy import Denied, NotSent
from signalwire_tokens.session import SubscriberSession

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable

    from signalwire_tokens.client import TokenClient
    from signalwire_tokens.clock import Timer
    from signalwire_tokens.keeper.events import Callback
    from signalwire_tokens.lifecycle import Adopted
    from signalwire_tokens.models import TokenPair
    from signalwire_tokens.policy import Outcome, Present, RefreshPolicy, Reissue
    from signalwire_tokens.session import TokenFields
    from signalwire_tokens.stores import TokenStore

    from .governor import Governor

__all__ = ["FleetSession", "Household"]

BROKEN = NotSent(SignalWireTokenError("a renewal could not be begun, or its result not be taken in"))


class Household:
    """What the sessions of a fleet share.

    `leaving` are those that are closed and have a renewal under way, `closers` the tasks that close the fleet. `fields`
    holds the token fields of closed sessions, by reference, for opening them again.
    """

    def __init__(self, governor: Governor, members: dict[str, FleetSession], idle_after: float) -> None:
        self.governor: Governor = governor
        self.members: dict[str, FleetSession] = members
        self.leaving: set[FleetSession] = set()
        self.closers: set[asyncio.Task[None] | None] = set()
        self.fields: dict[str, Secret[TokenFields]] = {}
        self.idle_after: float = idle_after + CHECKED_EVERY  # `token()` may return for that long without `ask()`


class FleetSession(SubscriberSession):
    """A session that renews in its turn."""

    _another: ClassVar[str] = "get it from an open fleet again"
    __slots__ = ("_asked_at", "_household", "_is_looking", "_looked", "reference")

    def __init__(
        self,
        household: Household,
        client: TokenClient,
        reference: str,
        *,
        policy: RefreshPolicy,
        store: TokenStore | None,
        fields: Secret[TokenFields],
    ) -> None:
        super().__init__(client, reference, policy=policy, store=store, **fields.value)
        self._throttle = None  # the governor leaves SignalWire alone for the whole fleet
        self._household: Household = household
        self.reference: str = reference
        self._asked_at: float = self._now()
        self._looked = self._is_looking = False

    def open(self) -> None:
        """Begin to keep a pair, without waiting for it."""
        timer = self._household.governor.timer
        self._check_place(timer)
        self._timer = timer
        self._open()
        self._look_first()

    def ask(self) -> None:
        """Note that the session is asked for, and plan its renewal if it was idle."""
        self._check_place(self._household.governor.timer)  # planning sets the event loop's alarm
        was_idle, self._asked_at = self._is_idle(), self._now()
        if was_idle:
            self._plan()

    def refuse_other(self, other: FleetSession) -> None:
        """Refuse to stand for a session that would have another kind of token."""
        if self._renewal.key != other._renewal.key:
            raise ConfigurationError(
                f"session {self._label} is open with other fields that shape its token: discard it, and open it anew"
            )

    @property
    def last_error(self) -> SignalWireTokenError | None:
        """What the last attempt to renew failed with, or why there is none; None where it did not."""
        return super().last_error or (self._household.governor.last_error if self._left() <= 0 else None)

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Call or await `callback` on every event; return a function that ends that. A subscriber counts as asking."""
        self.ask()
        return super().subscribe(callback)

    def rotations(self) -> AsyncIterator[TokenPair]:
        """Iterate over the pairs as they come. A waiting task counts as asking."""
        self.ask()
        return super().rotations()

    def shut(self) -> None:
        """Give no token any more, and begin no renewal: the fleet is closing."""
        self._shut(self._household.governor.timer)

    async def aclose(self) -> None:
        """Close the session, and take it out of its fleet."""
        self._check_place(self._household.governor.timer)
        self.leave()
        await super().aclose()

    def let_go(self) -> None:
        """Close the session without waiting for what is under way."""
        self.leave()
        self.shut()
        self._lifecycle.end()
        self._silence()
        self._end()

    def deadline(self) -> float:
        """Say when a renewal comes too late."""
        cycle = self._lifecycle
        return cycle.policy.deadline(
            access_until=cycle.access_until, life=cycle.life, awaited=cycle.wanted < math.inf, now=self._now()
        )

    def has_failed(self) -> bool:
        """Tell whether the last attempt failed, and nobody has forgiven that."""
        return self._lifecycle.failing is not None and self._lifecycle.pressed == math.inf

    def forgive(self) -> None:
        """Try again at once: what has failed was the service's fault, and it is back."""
        self._lifecycle.press(self._now())
        self._plan()

    def look(self) -> None:
        """Begin to look into the store, and tell the governor when that is done."""
        share = self._share
        if share is None or self._is_shut:
            self._has_looked()
            return
        share.heard = True
        share.looking = self._household.governor.timer.begin(self._look(share), f"look for {self._label}")
        share.looking.add_done_callback(lambda _: self._has_looked())

    def look_again(self) -> None:
        """Let those who wait for a token see whether that makes sense."""
        if self._waiters:
            self._notify()

    def wake(self, timer: Timer) -> None:
        """Do what is due; nothing for a session that nobody asks for."""
        if self._lifecycle.phase is Phase.EXPIRED:
            self.let_go()
        elif not self._is_idle():
            try:
                super().wake(timer)
            finally:
                if self._flight is None:  # it may have entered, and then something raised
                    self._abandon()
        elif self._left() > 0:
            timer.set(self, self._lifecycle.access_until)
        else:
            self.let_go()

    async def _live_token(self, min_ttl: float | None) -> str:
        self.ask()
        try:
            return await super()._live_token(min_ttl)
        except (TokenUnavailable, SessionExpired):
            fault = self._fault()
            if fault is None or self._left() > 0:
                raise
        # A copy for each: one that was raised for somebody holds their frames.
        raise copy.copy(fault) from fault.__cause__

    def _look_first(self) -> None:
        """Look into the store once, where it may have a token for a session that has none."""
        if self._share is not None and self._left() <= 0 and not self._looked:
            self._looked = self._is_looking = True
            self._household.governor.let_look(self)

    def _has_looked(self) -> None:
        self._is_looking = False
        self._household.governor.has_looked()
        self._plan()
        self.look_again()

    def _force(self, step: Present | Reissue, timer: Timer) -> None:  # noqa: ARG002 - it is chosen anew when it begins
        """Renew in turn, but as soon as may be."""
        self._look_first()
        self._lifecycle.press(self._now(), is_forced=True)
        self._plan()

    def _is_renewing(self) -> bool:
        """Tell whether a renewal is under way, or has been forced and is to come."""
        if super()._is_renewing():
            return True
        is_to_come = self._lifecycle.pressed < math.inf and self._lifecycle.phase is Phase.OPEN
        return is_to_come and not self._is_hopeless(self._policy.patience)

    def _is_idle(self) -> bool:
        """Return whether callers haven't asked for a while, and no subscriber or waiter is left.

        A session that waits for its first turn isn't idle. A session that SignalWire refused before its first token
        becomes idle after five minutes at most.
        """
        cycle = self._lifecycle
        if self._listeners or self._waiters or (cycle.generation == 0 and cycle.failing is None):
            return False
        longest = self._household.idle_after
        if cycle.generation == 0 and isinstance(cycle.failure, Denied):
            longest = min(longest, cycle.policy.lapse_for(cycle.life))
        return self._now() - self._asked_at > longest

    @property
    def _reason(self) -> SignalWireTokenError | None:
        return super()._reason or (None if self._may_renew() else self.client.throttle.error)

    def _may_renew(self) -> bool:
        return self._household.governor.pause() <= 0

    def _adopted(self, adopted: Adopted) -> None:
        super()._adopted(adopted)
        self._looked = False
        if adopted.left is None:
            self._asked_at = self._now()
            self._tell("started")

    def _may_depart(self) -> bool:
        """Enter, once it is known that the store has nothing for a session without a token."""
        self._look_first()
        return not self._is_looking and self._household.governor.enter(self)

    async def _ask(self, way: Present | Reissue, pair: TokenPair | None, limit: float | None) -> Outcome:
        self._household.governor.note_request(self)
        return await super()._ask(way, pair, limit)

    def _take_in(self, outcome: Outcome, way: Present | Reissue) -> None:
        try:
            super()._take_in(outcome, way)
        finally:
            self._household.leaving.discard(self)
            self._household.governor.leave(self, outcome)

    def _abandon(self) -> None:
        self._household.leaving.discard(self)
        self._household.governor.leave(self, BROKEN)

    def _hasten(self, timer: Timer) -> None:
        self._look_first()
        super()._hasten(timer)
        self._household.governor.hurry(self)

    def _pause(self) -> float:
        governor = self._household.governor
        if self._is_looking:
            return 0.0
        is_waiting = governor.is_waiting(self)
        own = self._next_step().at - self._now() if is_waiting else super()._pause()
        return max(0.0, own, governor.pause())

    def _is_hopeless(self, seconds: float) -> bool:
        governor = self._household.governor
        if self._flight is not None or self._is_looking:
            return False
        if self._left() > 0:
            return governor.is_shut() or super()._is_hopeless(seconds)
        if self.wakes_at <= self._now():
            return False  # it is about to line up
        has_fault = governor.is_waiting(self) and self._fault() is not None
        return governor.is_shut_to(self) or has_fault or super()._is_hopeless(seconds)

    def _fault(self) -> SignalWireTokenError | None:
        own = None if self._lifecycle.pressed < math.inf else super()._fault()
        is_expired = self._lifecycle.phase is Phase.EXPIRED
        return own or (self._household.governor.fault if self._left() <= 0 and not is_expired else None)

    def _die(self, timer: Timer) -> None:
        """Give up, and be forgotten after a while: whoever asks then begins anew."""
        self._household.governor.forget(self)
        super()._die(timer)
        if self._lifecycle.phase is Phase.EXPIRED:
            timer.set(self, self._now() + self._policy.lapse_for(self._lifecycle.life))

    def _told(self) -> set[asyncio.Task[None]]:
        return super()._told() - self._household.closers

    def leave(self) -> None:
        """Remove the session from its fleet, which keeps its fields for opening it again."""
        household = self._household
        if household.members.get(self.reference) is self:
            del household.members[self.reference]
            fields = self._renewal.fields
            if fields:
                plain = {name: value.value if isinstance(value, Secret) else value for name, value in fields.items()}
                household.fields[self.reference] = Secret(cast("TokenFields", plain))
        if self._flight is not None:
            household.leaving.add(self)
        household.governor.forget(self)

    def __del__(self) -> None:
        # It is the fleet that warns of not being closed.
        if getattr(self, "_share", None) is not None:
            self._stop_sharing()
