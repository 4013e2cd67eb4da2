"""The surroundings of a session: the gate that decides when it may renew, and the owner that it belongs to.

The engine calls both at fixed moments. A session on its own has a `Gate` and the owner `ALONE`, which let it renew at
any time. The sessions of a fleet share a `FleetGate` and a `FleetContext`. That gate lets them renew in turn, and the
context is an owner that closes idle sessions.

One renewal calls its gate in this order::

    enter(engine)            may it begin? If not, the gate wakes the session later, and the engine asks again
    asks(engine, within)     may it send its request? Skipped if the store has a better pair
    ended(engine, outcome)   it has ended; also called if `enter`, or the start of the renewal, has raised
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from signalwire_tokens.outcomes import RenewalStep, Renewed, Throttled
from signalwire_tokens.policy import NO_THROTTLE
from signalwire_tokens.throttle import Throttle

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection

    from signalwire_tokens.clock import Clock
    from signalwire_tokens.errors import SignalWireTokenError
    from signalwire_tokens.outcomes import Outcome
    from signalwire_tokens.policy import ThrottlePeriod

    from .engine import Engine

__all__ = ["ALONE", "Gate", "Outlook", "Owner"]


class Outlook(NamedTuple):
    """What the gate adds to a session's own plan.

    No renewal begins for the next `pause` seconds. `may_renew` is False if a renewal that is forced now would have to
    wait. `is_waiting` is True while the session waits for its turn. `is_shut` is True if callers should not wait for
    the session's renewal. `fault` is an error that doesn't pass by itself, such as wrong credentials.
    """

    pause: float = 0.0
    may_renew: bool = True
    is_waiting: bool = False
    is_shut: bool = False
    fault: SignalWireTokenError | None = None


CLEAR = Outlook()


class Gate:
    """The gate of a session on its own: it may renew at any time, except while its source wants a pause.

    A client keeps that pause in its `throttle`, by `clock`. With None, the gate has a throttle of its own, and updates
    it by the session's renewals.

    If `looks_first`, a session without a valid token looks into the store before it waits for a renewal.
    """

    looks_first = False

    def __init__(self, throttle: Throttle | None, clock: Clock) -> None:
        self.throttle: Throttle = Throttle() if throttle is None else throttle
        self._notes = throttle is None
        self._clock = clock
        self._sent: float | None = None  # when the renewal under way sent its request; None if it hasn't

    @property
    def last_error(self) -> SignalWireTokenError | None:
        """The error with which the source asked for the current pause; None without a pause. Any thread may read it."""
        return self.throttle.error if self.throttle.until > self._clock.now() else None

    def throttle_period(self, engine: Engine) -> ThrottlePeriod:
        """Return when the source asked for a pause, and until when, by the engine's clock; -inf twice without a pause.

        If the pause ends earlier than announced, the throttle calls the engine's `throttle_lifted()`.
        """
        throttle = self.throttle
        if throttle.error is None:
            return NO_THROTTLE
        apart = 0.0 if self._clock is engine.clock else engine.now() - self._clock.now()
        asked, until = throttle.asked_at + apart, throttle.until + apart
        if until > engine.now():
            throttle.watch(engine)
        return asked, until

    def clock_leaped(self, seconds: float) -> None:
        """React to a wall clock that has gained so much that a virtual machine may have been paused."""
        self.throttle.clock_leaped(seconds, self._clock.now())

    def outlook(self, engine: Engine) -> Outlook:  # noqa: ARG002 - this gate has one session
        """Return what the gate adds to the session's own plan."""
        return Outlook(may_renew=False) if self.last_error else CLEAR

    def look(self, engine: Engine, begin: Callable[[], None]) -> None:  # noqa: ARG002 - as above
        """Call `begin`, with which a session looks into its store, now or later."""
        begin()

    def enter(self, engine: Engine) -> bool:  # noqa: ARG002 - as above
        """Return whether a session may renew now. If not, the gate wakes it when it may."""
        return True

    def force(self, engine: Engine, step: RenewalStep) -> None:
        """Start a renewal that a caller has forced: now, or as soon as the session may renew."""
        engine.begin(step)

    async def asks(self, engine: Engine, within: float) -> SignalWireTokenError | None:  # noqa: ARG002 - it never waits
        """Record that the renewal under way sends its request now, and return None.

        If the source has asked for a pause since the renewal began, return that error instead: the renewal must not
        send its request. It may have waited for another process for half a minute. A renewal that finds a better pair
        in the store sends no request. A gate may wait here for `within` seconds.
        """
        error = self._pause_since_begin(engine)
        if error is None:
            self._sent = engine.now()
        return error

    def _pause_since_begin(self, engine: Engine) -> SignalWireTokenError | None:
        """Return the error with which the source has asked for a pause since the renewal under way began, or None."""
        throttle, step = self.throttle, engine.cycle.under_way
        if step is None or throttle.until <= (now := self._clock.now()):
            return None
        return throttle.error if throttle.asked_at - now > step.at - engine.now() else None

    def caller_waits(self, engine: Engine) -> None:
        """React to a caller that waits for a session's token. This gate does nothing."""

    def ended(self, engine: Engine, outcome: Outcome | None) -> None:
        """React to the end of a renewal or a look. `outcome` is None if a look found nothing or couldn't begin."""
        sent, self._sent = self._sent, None
        if self._notes and sent is not None and isinstance(outcome, Renewed | Throttled):
            error = outcome.error if isinstance(outcome, Throttled) else None
            self.throttle.note(error, sent=sent, now=engine.now())


class Owner:
    """The owner of a session, which the engine informs of events. This one, for a session on its own, does nothing.

    `another` is the advice in error messages on how to get another session after this one is closed. `closers` are
    other tasks that close the session, which must not wait for themselves. If it `is_fleet`, dropped sessions don't
    warn, and `token()` raises an error that doesn't pass by itself as it is.
    """

    __slots__ = ()
    another: ClassVar[str] = "open another one"
    is_fleet: ClassVar[bool] = False
    closers: Collection[asyncio.Task[None] | None] = ()

    def used(self, engine: Engine) -> None:
        """React to a call for the session."""

    def defers(self, engine: Engine) -> bool:  # noqa: ARG002 - only a fleet has idle sessions
        """Return whether a session must not act on its deadline now. The owner may close it instead."""
        return False

    def changed(self, engine: Engine) -> None:
        """React to anything that may have changed the session's state or its last error."""

    def adopted(self, engine: Engine, *, is_first: bool) -> None:
        """React to a new pair of a session. `is_first` is True for its first pair."""

    def expired(self, engine: Engine) -> None:
        """React to a session that has expired: its token, and every way to renew it."""

    def closing(self, engine: Engine) -> None:
        """React to a session that begins to close."""


ALONE = Owner()
