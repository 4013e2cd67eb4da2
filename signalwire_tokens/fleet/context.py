"""What the sessions of a fleet belong to: they are asked for, become idle, and leave."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import attrs

from signalwire_tokens.keeper import Owner, drop, engine_of
from signalwire_tokens.lifecycle import Phase
from signalwire_tokens.outcomes import Denied
from signalwire_tokens.session import SubscriberSession

from .governor import Governor

if TYPE_CHECKING:
    from signalwire_tokens.keeper import Engine
    from signalwire_tokens.session import SubscriberRenewal

__all__ = ["FleetContext", "renewal_of"]


@attrs.define(eq=False, repr=False)
class FleetContext(Owner):
    """What the sessions of a fleet share.

    `leaving` are those that are closed and have something under way, and their references; `closers` are the tasks that
    close the fleet. `fields` holds the token fields of closed sessions, by reference, for opening them again.
    """

    another: ClassVar[str] = "get it from an open fleet again"
    is_fleet: ClassVar[bool] = True
    governor: Governor
    sessions: dict[str, SubscriberSession]
    idle_timeout: float
    leaving: dict[SubscriberSession, str] = attrs.Factory(dict)
    closers: set[asyncio.Task[None] | None] = attrs.Factory(set)
    fields: dict[str, Mapping[str, Any]] = attrs.Factory(dict)

    def used(self, engine: Engine) -> None:
        """Note that a caller uses the session, and plan its renewal if it was idle."""
        engine.check_place()  # planning sets the event loop's alarm
        was_idle, engine.used_at = self._is_idle(engine), engine.now()
        if was_idle:
            engine.plan()

    def defers(self, engine: Engine) -> bool:
        """Close a session that has expired, or that is idle and whose token has expired."""
        is_idle = self._is_idle(engine)
        if is_idle and engine.left() > 0:
            engine.opened().set(engine, engine.cycle.access_until)
        elif is_idle or engine.cycle.phase is Phase.EXPIRED:
            drop(engine)
        return is_idle or engine.cycle.phase is not Phase.OPEN

    def adopted(self, engine: Engine, *, is_first: bool) -> None:
        """Emit the event that the session has started."""
        if is_first:
            engine.used_at = engine.cycle.tried  # which is now
            engine.tell("started")

    def expired(self, engine: Engine) -> None:
        """Close the session after a while. The next call then opens another one."""
        self.governor.forget(engine)
        engine.opened().set(engine, engine.now() + engine.cycle.policy.expired_kept_for(engine.cycle.lifetime))

    def left(self, engine: Engine) -> None:
        """Remove the session from its fleet, which keeps its fields for opening it again."""
        renewal = renewal_of(engine)
        session = self.sessions.get(renewal.reference)
        if session is not None and engine_of(session) is engine:
            del self.sessions[renewal.reference]
            if engine.flight is not None:
                self.leaving[session] = renewal.reference
                engine.flight.add_done_callback(lambda _: self.leaving.pop(session, None))
            if renewal.fields:
                self.fields[renewal.reference] = renewal.fields
        self.governor.forget(engine)

    def _is_idle(self, engine: Engine) -> bool:
        """Return whether callers haven't asked for a while, and no subscriber or waiter is left.

        A session that waits for its first turn isn't idle. A session that SignalWire refused before its first token
        becomes idle after five minutes at most.
        """
        cycle = engine.cycle
        if engine.listeners or engine.waiters or (cycle.generation == 0 and cycle.failing is None):
            return False
        longest = self.idle_timeout
        if cycle.generation == 0 and isinstance(cycle.failure, Denied):
            longest = min(longest, cycle.policy.expired_kept_for(cycle.lifetime))
        return engine.now() - engine.used_at > longest


def renewal_of(engine: Engine) -> SubscriberRenewal:
    """Return how a session of a fleet's is renewed."""
    return cast("SubscriberRenewal", engine.renewal)
