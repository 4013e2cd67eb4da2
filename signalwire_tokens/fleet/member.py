"""A session of a fleet's: it renews when the governor lets it, and lapses when nobody asks for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from signalwire_tokens.errors import SessionExpired, SignalWireTokenError, TokenUnavailable
from signalwire_tokens.session import SubscriberSession

if TYPE_CHECKING:
    from signalwire_tokens.client import TokenClient
    from signalwire_tokens.clock import Timer
    from signalwire_tokens.models import Secret, TokenPair
    from signalwire_tokens.policy import Outcome, Present, RefreshPolicy, Reissue, Renewed
    from signalwire_tokens.session import TokenFields
    from signalwire_tokens.stores import TokenStore

    from .governor import Governor

__all__ = ["Household", "Member"]

NEVER = -math.inf
NOTED_EVERY = 0.25  # of the time after which a session counts as idle: so exactly is known when it was last asked


class Household:
    """What the sessions of a fleet share."""

    def __init__(self, governor: Governor, members: dict[str, Member], idle_after: float) -> None:
        self.governor: Governor = governor
        self.members: dict[str, Member] = members
        self.noted_every: float = idle_after * NOTED_EVERY
        self.idle_after: float = idle_after + self.noted_every


class Member(SubscriberSession):
    """A session that renews in its turn."""

    __slots__ = ("_asked_at", "_household", "_reference")

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
        self._household, self._reference = household, reference
        self._asked_at = self._now()

    def open(self) -> None:
        """Begin to keep a pair, without waiting for it."""
        timer = self._household.governor.timer
        self._check_place(timer)
        self._timer = timer
        self._open()

    def is_like(self, other: Member) -> bool:
        """Tell whether another session would have the same kind of token."""
        return self._key() == other._key()

    @property
    def last_error(self) -> SignalWireTokenError | None:
        """What the last attempt to renew failed with, or why there is none; None where it did not."""
        governor = self._household.governor
        return super().last_error or (governor.last_error if governor.is_waiting(self) else None)

    async def aclose(self) -> None:
        """Close the session, and take it out of its fleet."""
        self._leave()
        await super().aclose()

    def let_go(self) -> None:
        """Close the session without waiting for what is under way."""
        self._leave()
        self._household.governor.timer.unset(self)
        self._closing, self._fresh_until = True, NEVER
        self._stop_sharing()
        self._tell("closed")
        self._closed = True
        self._notify()

    def deadline(self) -> float:
        """Say when a renewal comes too late; -inf where somebody is waiting for it already."""
        if self._left() > 0:
            return self._access_until
        return NEVER if self._waiters else self._now() + self._policy.reserve(self._life)

    def next_attempt(self) -> float:
        """Say when a renewal that has failed would be tried again."""
        return self._policy.next_step(self._situation()).at

    def forgive(self) -> None:
        """Try again at once: what has failed was the service's fault, and it is back."""
        self._tried = NEVER
        self._plan()

    def look_again(self) -> None:
        """Let those who wait for a token see whether that makes sense."""
        if self._waiters:
            self._notify()

    def wake(self, timer: Timer) -> None:
        """Do what is due; nothing for a session that nobody asks for."""
        if self._dead:
            self.let_go()
        elif not self._is_idle():
            super().wake(timer)
        elif self._left() > 0:
            timer.set(self, self._access_until)
        else:
            self.let_go()

    async def _live_token(self, min_ttl: float | None) -> str:
        was_idle, self._asked_at = self._is_idle(), self._now()
        if was_idle:
            self._plan()
        try:
            token = await super()._live_token(min_ttl)
        except (TokenUnavailable, SessionExpired):
            fault = self._fault()
            if fault is not None and self._left() <= 0:
                raise fault.with_traceback(None) from None  # it may have been raised for others before
            raise
        self._note_asked()
        return token

    def _force(self, step: Present | Reissue, timer: Timer) -> None:  # noqa: ARG002 - it is chosen anew when it begins
        """Renew in turn, but as soon as may be."""
        self._due, self._tried, self._not_before = self._now(), NEVER, NEVER
        self._plan()

    def _is_renewing(self) -> bool:
        """Tell whether a renewal is under way, or has been forced and is to come."""
        if super()._is_renewing():
            return True
        is_to_come = self._tried == NEVER and not self._closing and not self._dead
        return is_to_come and not self._is_hopeless(self._policy.patience)

    def _is_idle(self) -> bool:
        """Tell whether nobody has asked for a while, and nobody listens."""
        idle = self._now() - self._asked_at > self._household.idle_after
        return idle and not self._listeners and not self._waiters

    def _note_asked(self) -> None:
        """Have the next token but those of the next moments asked for where that is noted."""
        if self._left() > 0 and self._now() < self._due:
            self._fresh_until = min(self._due, self._asked_at + self._household.noted_every)

    def _adopt(self, pair: TokenPair, *, asked: float) -> None:
        super()._adopt(pair, asked=asked)
        self._fresh_until = min(self._fresh_until, self._asked_at + self._household.noted_every)

    def _rotate(self, renewed: Renewed, way: Present | Reissue) -> None:
        super()._rotate(renewed, way)
        if self._generation == 1:
            self._tell("started")

    def _may_depart(self) -> bool:
        return self._household.governor.enter(self)

    async def _ask(self, way: Present | Reissue, pair: TokenPair | None, limit: float | None) -> Outcome:
        self._household.governor.note_request(self)
        return await super()._ask(way, pair, limit)

    def _take_in(self, outcome: Outcome, way: Present | Reissue) -> None:
        try:
            super()._take_in(outcome, way)
        finally:
            self._household.governor.leave(self, outcome)

    def _pause(self) -> float:
        governor = self._household.governor
        return governor.pause() if governor.is_waiting(self) else super()._pause()

    def _is_hopeless(self, seconds: float) -> bool:
        if self._flight is None and self._household.governor.is_shut():
            return True
        return super()._is_hopeless(seconds)

    def _fault(self) -> SignalWireTokenError | None:
        governor = self._household.governor
        return governor.fault if governor.is_waiting(self) else super()._fault()

    def _die(self, timer: Timer) -> None:
        """Give up, and be forgotten after a while: whoever asks then begins anew."""
        super()._die(timer)
        if self._dead:
            timer.set(self, self._now() + self._policy.lapse_for(self._life))

    def _leave(self) -> None:
        """Be in the fleet no longer."""
        members = self._household.members
        if members.get(self._reference) is self:
            del members[self._reference]
        self._household.governor.forget(self)

    def __del__(self) -> None:
        # It is the fleet that warns of not being closed.
        if getattr(self, "_share", None) is not None:
            self._stop_sharing()
