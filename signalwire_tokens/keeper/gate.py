"""What stands around a session: who may renew when, and what the session belongs to.

A session of its own has a `Gate` and is `ALONE`. Those of a fleet share a governor and a context.
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
    """What a session has to expect, besides what it has planned itself.

    No renewal begins for the next `pause` seconds. `is_waiting` says whether the session waits for its turn, `is_shut`
    whether it is in vain to wait for its renewal. `fault` is what won't pass by itself.
    """

    pause: float = 0.0
    may_renew: bool = True
    is_waiting: bool = False
    is_shut: bool = False
    fault: SignalWireTokenError | None = None


CLEAR = Outlook()


class Gate:
    """Who may renew when: here any session at any time, unless its source wants to be left alone.

    A client notes that in its `throttle`, by its clock. Without one, the gate notes it from the session's own renewals.
    With `looks_first`, sessions without a valid token look into their store before they renew.
    """

    looks_first = False

    def __init__(self, throttle: Throttle | None, clock: Clock) -> None:
        self.throttle: Throttle = Throttle() if throttle is None else throttle
        self._notes = throttle is None
        self._clock = clock
        self._sent: float | None = None  # when the renewal under way asked its source

    @property
    def last_error(self) -> SignalWireTokenError | None:
        """What SignalWire last failed with, if that keeps sessions from renewing. Any thread may ask."""
        return self.throttle.error if self.throttle.until > self._clock.now() else None

    def throttle_period(self, engine: Engine) -> ThrottlePeriod:
        """Return when the source asked to be left alone, and until when. The engine hears if that ends earlier."""
        throttle = self.throttle
        if throttle.error is None:
            return NO_THROTTLE
        apart = 0.0 if self._clock is engine.clock else engine.now() - self._clock.now()
        asked, until = throttle.asked_at + apart, throttle.until + apart
        if until > engine.now():
            throttle.watch(engine)
        return asked, until

    def outlook(self, engine: Engine) -> Outlook:  # noqa: ARG002 - there is only one
        """Return what a session has to expect, besides what it has planned itself."""
        return Outlook(may_renew=False) if self.last_error else CLEAR

    def look(self, engine: Engine, begin: Callable[[], None]) -> None:  # noqa: ARG002 - as above
        """Have a session look into its store, by `begin`, now or later."""
        begin()

    def enter(self, engine: Engine) -> bool:  # noqa: ARG002 - as above
        """Return whether a session may renew now; if not, wake it in its turn."""
        return True

    def force(self, engine: Engine, step: RenewalStep) -> None:
        """Have a session renew whatever is planned: now, or as soon as it may."""
        engine.begin(step)

    def asks(self, engine: Engine) -> None:
        """Note that a renewal that entered is about to send a request; one that finds its pair in a store doesn't."""
        self._sent = engine.now()

    def wanted(self, engine: Engine) -> None:
        """Note that a caller waits for a session's token."""

    def ended(self, engine: Engine, outcome: Outcome | None) -> None:
        """Note the result of a renewal or a look; None if a look has found nothing or couldn't begin."""
        sent, self._sent = self._sent, None
        if self._notes and sent is not None and isinstance(outcome, Renewed | Throttled):
            error = outcome.error if isinstance(outcome, Throttled) else None
            self.throttle.note(error, sent=sent, now=engine.now())


class Owner:
    """What a session belongs to. This one is for sessions of their own.

    `another` says how to get another session, once this one is closed. `closers` are other tasks that close it. If it
    `is_fleet`, dropped sessions don't warn, and `token()` raises what won't pass by itself as it is.
    """

    __slots__ = ()
    another: ClassVar[str] = "make another one"
    is_fleet: ClassVar[bool] = False
    closers: Collection[asyncio.Task[None] | None] = ()

    def used(self, engine: Engine) -> None:
        """Note that somebody asks for the session."""

    def defers(self, engine: Engine) -> bool:  # noqa: ARG002 - no session of its own is idle
        """Return whether a session that is woken has nothing to do."""
        return False

    def adopted(self, engine: Engine, *, is_first: bool) -> None:
        """Note that a session has a new pair."""

    def expired(self, engine: Engine) -> None:
        """Note that a session has no way to renew."""

    def left(self, engine: Engine) -> None:
        """Note that a session is closing."""


ALONE = Owner()
