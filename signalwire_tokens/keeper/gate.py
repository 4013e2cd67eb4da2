"""What stands around a session: who may renew when, and what the session belongs to.

A session of its own has an `OpenGate` and is `ALONE`. Those of a fleet share a governor and a context.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from signalwire_tokens.outcomes import Renewed, Throttled
from signalwire_tokens.policy import NO_QUIET
from signalwire_tokens.throttle import Throttle

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection

    from signalwire_tokens.clock import Clock
    from signalwire_tokens.errors import SignalWireTokenError
    from signalwire_tokens.outcomes import Outcome, Present, Reissue
    from signalwire_tokens.policy import Quiet

    from .engine import Engine

__all__ = ["ALONE", "Gate", "OpenGate", "Outlook", "Owner"]


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
    """Who may renew when: here any session at any time. With `looks_first`, those without a valid token look first."""

    looks_first = False

    @property
    def last_error(self) -> SignalWireTokenError | None:
        """What SignalWire last failed with, if that keeps sessions from renewing. Any thread may ask."""
        return None

    def quiet(self, engine: Engine) -> Quiet:  # noqa: ARG002 - it is the same for all
        """Return when SignalWire asked to be left alone, and until when. The engine hears if that ends earlier."""
        return NO_QUIET

    def outlook(self, engine: Engine) -> Outlook:  # noqa: ARG002 - as above
        """Return what a session has to expect."""
        return CLEAR

    def look(self, engine: Engine, begin: Callable[[], None]) -> None:  # noqa: ARG002 - as above
        """Have a session look into its store, by `begin`, now or later."""
        begin()

    def enter(self, engine: Engine) -> bool:  # noqa: ARG002 - as above
        """Return whether a session may renew now; if not, wake it in its turn."""
        return True

    def force(self, engine: Engine, step: Present | Reissue) -> None:
        """Have a session renew whatever is planned: now, or as soon as it may."""
        engine.begin(step)

    def asks(self, engine: Engine) -> None:
        """Note that a renewal that entered is about to send a request; one that finds its pair in a store doesn't."""

    def wanted(self, engine: Engine) -> None:
        """Note that a caller waits for a session's token."""

    def ended(self, engine: Engine, outcome: Outcome | None) -> None:
        """Note the result of a renewal or a look; None if a look has found nothing or couldn't begin."""


class OpenGate(Gate):
    """Lets a session renew at any time, unless its source wants to be left alone, by a clock.

    A client notes that in its `throttle`. Without one, the gate notes it from the session's own renewals.
    """

    def __init__(self, throttle: Throttle | None, clock: Clock) -> None:
        self._notes = throttle is None
        self._throttle = Throttle() if throttle is None else throttle
        self._clock = clock
        self._sent: float | None = None  # when the renewal under way asked its source

    @property
    def last_error(self) -> SignalWireTokenError | None:
        """What the throttle began with, while it lasts."""
        return self._throttle.error if self._throttle.until > self._clock.now() else None

    def quiet(self, engine: Engine) -> Quiet:
        """Return the throttle, by the session's clock."""
        throttle = self._throttle
        if throttle.error is None:
            return NO_QUIET
        apart = 0.0 if self._clock is engine.clock else engine.now() - self._clock.now()
        asked, until = throttle.asked_at + apart, throttle.until + apart
        if until > engine.now():
            throttle.watch(engine)
        return asked, until

    def outlook(self, engine: Engine) -> Outlook:  # noqa: ARG002 - as above
        """Return whether a renewal could begin now: the session itself has planned for that."""
        return Outlook(may_renew=False) if self.last_error else CLEAR

    def asks(self, engine: Engine) -> None:
        """Note when the source is asked."""
        self._sent = engine.now()

    def ended(self, engine: Engine, outcome: Outcome | None) -> None:
        """Note what the source asked for, if nobody else does. A pair from a store says nothing of the source."""
        sent, self._sent = self._sent, None
        if self._notes and sent is not None and isinstance(outcome, Renewed | Throttled):
            error = outcome.error if isinstance(outcome, Throttled) else None
            self._throttle.note(error, sent=sent, now=engine.now())


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
