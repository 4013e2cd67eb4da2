"""The owner of a fleet's sessions: it knows which are idle, closes them, and remembers how to open them again."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import attrs

from signalwire_tokens.keeper import Engine, Owner, drop, engine_of
from signalwire_tokens.lifecycle import Phase
from signalwire_tokens.outcomes import Denied
from signalwire_tokens.session import SubscriberSession

from .census import Census
from .gate import FleetGate

if TYPE_CHECKING:
    from signalwire_tokens.session import SubscriberRenewal

__all__ = ["FleetContext", "renewal_of"]

logger: logging.Logger = logging.getLogger("signalwire_tokens.fleet")


@attrs.define(eq=False, repr=False)
class FleetContext(Owner):
    """What the sessions of a fleet share.

    - `sessions` are the open sessions, by reference.
    - `leaving` are closed sessions with a renewal or look still under way, and their references.
    - `closers` are the tasks that close the fleet.
    - `fields` are the token fields of closed sessions, by reference, for the session that is opened next.
    - `census` counts the sessions by state and error.
    - `idle_timeout` is after how many seconds without a call a session is idle.
    """

    another: ClassVar[str] = "get it from the fleet again"
    is_fleet: ClassVar[bool] = True
    gate: FleetGate
    sessions: dict[str, SubscriberSession]
    idle_timeout: float
    census: Census
    leaving: dict[SubscriberSession, str] = attrs.Factory(dict)
    closers: set[asyncio.Task[None] | None] = attrs.Factory(set)
    fields: dict[str, Mapping[str, Any]] = attrs.Factory(dict)

    def used(self, engine: Engine) -> None:
        """Record that a caller uses the session, and plan its renewal if it was idle."""
        engine.check_place()  # planning sets an alarm of the event loop, which must be this one
        if self.idle_timeout == math.inf and engine.cycle.generation:
            return  # it is never idle, and needn't keep a time
        was_idle, engine.used_at = self._is_idle(engine), engine.now()
        if was_idle:
            engine.plan()

    def defers(self, engine: Engine) -> bool:
        """Return whether a session must not act on its deadline, because it is idle or not open.

        An idle session doesn't renew. It closes when its token expires, so that a caller that comes before gets the
        token. An expired session closes now: `expired` has set its deadline.
        """
        is_idle = self._is_idle(engine)
        if is_idle and engine.left() > 0:
            engine.opened().set(engine, engine.cycle.access_until)
        elif is_idle or engine.cycle.phase is Phase.EXPIRED:
            drop(engine)
        return is_idle or engine.cycle.phase is not Phase.OPEN

    def next_due(self) -> float:
        """Return when the next session acts, in seconds by the client's clock; inf if none has a plan.

        The timer may serve other sessions, too. If it has very many earlier entries, the result is too early.
        """
        return self.gate.timer.next_deadline(self._acts)

    def _acts(self, sleeper: object) -> bool:
        """Return whether a sleeper is a session of this fleet that hasn't expired."""
        return isinstance(sleeper, Engine) and sleeper.owner is self and sleeper.cycle.phase is Phase.OPEN

    def changed(self, engine: Engine) -> None:
        """Count a session again. This never raises, because the engine has more to do afterwards."""
        try:
            self.census.note(engine)
        except Exception:  # of any kind, such as a MemoryError
            logger.exception("session %s couldn't be counted; the session goes on", engine.label)

    def adopted(self, engine: Engine, *, is_first: bool) -> None:
        """Emit `started` when a session has its first pair."""
        if is_first:
            engine.used_at = engine.cycle.tried_at  # now: the wait for the first turn doesn't count as idle
            engine.emit("started")

    def expired(self, engine: Engine) -> None:
        """Set the time at which an expired session closes. The next call for its reference then opens another session.

        Until then, calls raise its error, so a reference that can't have a token doesn't cost a request with each call.
        """
        self.gate.forget(engine)
        self.census.note(engine)
        engine.opened().set(engine, engine.now() + engine.cycle.policy.expired_kept_for(engine.cycle.lifetime))

    def closing(self, engine: Engine) -> None:
        """Remove a closing session from its fleet, which keeps its fields."""
        renewal = renewal_of(engine)
        session = self.sessions.get(renewal.reference)
        if session is not None and engine_of(session) is engine:
            del self.sessions[renewal.reference]
            if engine.task is not None:
                self.leaving[session] = renewal.reference
                engine.task.add_done_callback(lambda _: self.leaving.pop(session, None))
            if renewal.fields:
                self.fields[renewal.reference] = renewal.fields
        self.census.leave(engine)
        self.gate.forget(engine)

    def _is_idle(self, engine: Engine) -> bool:
        """Return whether no caller has used the session for a while, and it has no subscriber and no waiting caller.

        A session that waits for its first turn isn't idle. If SignalWire has refused a session before its first token,
        it becomes idle after five minutes at the latest. Otherwise references that don't exist would stay in the fleet.
        """
        cycle = engine.cycle
        if engine.listeners or engine.waiters or (cycle.generation == 0 and cycle.failing is None):
            return False
        longest = self.idle_timeout
        if cycle.generation == 0 and isinstance(cycle.failure, Denied):
            longest = min(longest, cycle.policy.expired_kept_for(cycle.lifetime))
        return engine.now() - engine.used_at > longest


def renewal_of(engine: Engine) -> SubscriberRenewal:
    """Return the renewal of a session that belongs to a fleet."""
    return cast("SubscriberRenewal", engine.renewal)
