"""What users ask of a session, whatever keeps it alive: its token, how it stands, its beginning and its end."""

from __future__ import annotations

import logging
import math
import os
import warnings
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from signalwire_tokens.clock import SYSTEM, moment_in, timer_of
from signalwire_tokens.durations import Duration, positive_seconds, positive_span
from signalwire_tokens.errors import (
    ConfigurationError,
    SessionClosed,
    SessionError,
    SessionExpired,
    SignalWireTokenError,
    TokenUnavailable,
)
from signalwire_tokens.lifecycle import Lifecycle, Phase
from signalwire_tokens.models import Token, TokenPair
from signalwire_tokens.outcomes import Expire, RenewalStep
from signalwire_tokens.policy import RefreshPolicy, SessionState

from .closing import close, close_source, drain
from .engine import Engine, draw
from .events import Listener
from .gate import Gate
from .shared import SharedRenewal
from .sharing_rules import UNBOUNDED
from .waiters import check, fault_of, live_token, next_pair, reason_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime

    from signalwire_tokens.clock import Clock
    from signalwire_tokens.stores import TokenStore
    from signalwire_tokens.throttle import Throttle

    from .events import Callback
    from .renewal import Renewal

__all__ = ["TokenSession", "engine_of"]

DEFAULT_POLICY = RefreshPolicy()

logger: logging.Logger = logging.getLogger("signalwire_tokens.session")


class TokenSession:
    """A token that is kept valid: while the session is open, `await session.token()` returns a valid one.

    `renewal` brings the next token; it may be your own. `lifetime` is how long its tokens usually live. `pair` is one
    to begin with. In a `store`, the pair outlives the session under `store_key`, and is shared by all sessions with
    that key.

    A renewal that can use refresh tokens says so by `presents`. Without `reissues` it can do nothing else. Unless
    `keeps_all` is False, a token is kept even if it lives shorter than the policy's `min_lifetime`, and one that
    doesn't expire later than the current token is not. `throttle` is until when SignalWire wants to be left alone, by
    a clock. `longest` limits the lifetimes of a stored pair.
    """

    __slots__ = ("__weakref__", "_engine")

    def __init__(
        self,
        renewal: Renewal,
        *,
        lifetime: Duration,
        policy: RefreshPolicy | None = None,
        pair: TokenPair | None = None,
        store: TokenStore | None = None,
        store_key: str = "",
        clock: Clock | None = None,
        presents: bool = False,
        reissues: bool = True,
        keeps_all: bool = True,
        throttle: tuple[Throttle, Clock] | None = None,
        longest: tuple[Duration, Duration] = UNBOUNDED,
    ) -> None:
        check_settings(renewal, policy, pair, has_way=presents or reissues)
        if (store is None) != (not store_key):
            raise ConfigurationError("store and store_key need each other: the key names the token in the store")
        policy, clock, life = policy or DEFAULT_POLICY, clock or SYSTEM, positive_seconds("lifetime", lifetime)
        if not keeps_all:
            policy.check_lifetime(life)
        usual = life if keeps_all else 0.0
        cycle = Lifecycle(
            policy, lifetime=life, draw=draw(), presents=presents, reissues=reissues, usual_lifetime=usual
        )
        limits = positive_span("longest", longest[0]), positive_span("longest", longest[1])
        shared = None if store is None else SharedRenewal(store, store_key, cycle, clock, limits, pair)
        gate = Gate(None, clock) if throttle is None else Gate(*throttle)
        self._engine: Engine = Engine(renewal, cycle, clock, gate, shared, pair if shared is None else None)

    async def token(self, min_ttl: Duration | None = None) -> str:
        """Return a token that is live.

        It waits only where the token at hand has less than `min_ttl` seconds left (30 by default), and then no longer
        than the policy's `patience`; a token that is still live is returned rather than none. Raises `TokenUnavailable`
        where there is no live one at this moment, `SessionExpired` where there will be none any more.
        """
        engine = self._engine
        cycle = engine.cycle
        if min_ttl is None and engine.now() < cycle.fresh_until:
            return cycle.value
        return await live_token(engine, min_ttl)

    @property
    def pair(self) -> TokenPair:
        """The current pair."""
        pair = self._engine.cycle.pair
        if pair is None:
            raise SessionClosed(f"session {self._engine.label} has no pair yet: open it with `async with` or `start()`")
        return pair

    @property
    def state(self) -> SessionState:
        """How the session stands."""
        return self._engine.cycle.state(self._engine.now())

    @property
    def expires_in(self) -> timedelta:
        """How long the token at hand is live for."""
        return timedelta(seconds=max(0.0, min(self._engine.left(), timedelta.max.total_seconds() / 2)))

    @property
    def next_refresh_at(self) -> datetime | None:
        """When the next renewal is planned; None if none is."""
        engine, cycle = self._engine, self._engine.cycle
        step, outlook = engine.next_step(), engine.gate.outlook(engine)
        is_begun = isinstance(cycle.flying, RenewalStep)
        is_planned = cycle.flying is not None or engine.wakes_at < math.inf or outlook.is_waiting
        if cycle.phase is not Phase.OPEN or not is_planned or (isinstance(step, Expire) and not is_begun):
            return None
        return moment_in(engine.clock, 0.0 if is_begun else max(step.at - engine.now(), outlook.pause, 0.0))

    @property
    def generation(self) -> int:
        """How many pairs the session has had, the current one included."""
        return self._engine.cycle.generation

    @property
    def last_error(self) -> SignalWireTokenError | None:
        """What the last attempt to renew failed with, or why there is none; None if it succeeded."""
        engine = self._engine
        return reason_of(engine) if engine.left() <= 0 else engine.cycle.last_error

    @property
    def store_key(self) -> str | None:
        """The key under which the store keeps the session's pair; None without a store."""
        shared = self._engine.shared
        return None if shared is None else shared.key

    async def _rotations(self) -> AsyncIterator[TokenPair]:
        engine, seen = self._engine, 0
        while engine.cycle.phase < Phase.SHUT:
            check(engine)
            if engine.cycle.generation != seen:
                seen = engine.cycle.generation
                yield self.pair
            else:
                await engine.changed()

    def rotations(self) -> AsyncIterator[TokenPair]:
        """Iterate over the pairs as they come, beginning with the current one. A task that waits counts as asking.

        Who is slow gets the latest only. It ends when the session is closed, and raises `SessionExpired` if it dies.
        """
        self._engine.owner.used(self._engine)
        return self._rotations()

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Call or await `callback` on every event; return a function that ends that. A subscriber counts as asking.

        An exception in the callback is logged. A callback that hangs delays no other.
        """
        engine = self._engine
        engine.owner.used(engine)
        if not callable(callback):
            raise TypeError("callback must be a function that takes a SessionEvent")
        listener = Listener(callback)
        engine.listeners = (*engine.listeners, listener)

        def unsubscribe() -> None:
            listener.forget(forgotten)

        def forgotten() -> None:
            engine.listeners = tuple(one for one in engine.listeners if one is not listener)

        return unsubscribe

    async def refresh(self) -> TokenPair:
        """Renew now, whatever the policy says, or join the renewal that is under way; return the new pair."""
        await next_pair(self._engine)
        return self.pair

    def invalidate(self, token: str | Token) -> None:
        """Learn that the service refused a token: it is not handed out again, and renewed. Any other is ignored."""
        engine = self._engine
        check(engine)
        if self._is_current(token):
            cycle = engine.cycle
            logger.warning("session %s generation %d: the token was refused", engine.label, cycle.generation)
            engine.invalidate()

    def report_unauthorized(self, token: str | Token) -> bool:
        """Invalidate a token that a request got a 401 for; return whether to repeat the request with the next token.

        If no renewal may begin now, the token stays in use, and the result is False: other callers would be without a
        token. That is so for a minute after another one was invalidated, and while SignalWire is left alone. Raises
        `SessionExpired` or `SessionClosed` if there will be no next token.
        """
        engine = self._engine
        check(engine)
        if self._is_current(token):
            may_renew = engine.gate.outlook(engine).may_renew
            if not (engine.cycle.may_force(engine.now()) and may_renew):
                return False
        self.invalidate(token)
        return True

    def _is_current(self, token: str | Token) -> bool:
        """Return whether callers get that token."""
        if not isinstance(token, str | Token):
            raise TypeError(f"token must be a string or a Token, and is {type(token).__name__}")
        text = token.value if isinstance(token, Token) else token
        return text == self._engine.cycle.value and self._engine.left() > 0

    async def start(self) -> Self:
        """Open the session: return when there is a live token. `async with` does it for you."""
        engine, cycle = self._engine, self._engine.cycle
        if cycle.phase >= Phase.SHUT:
            raise SessionClosed(f"session {engine.label} was closed: {engine.owner.another}")
        if cycle.phase is not Phase.NEW:
            raise SessionError(f"session {engine.label} is open already")
        try:
            engine.open(timer_of(engine.clock))
            await self._first_token()
        except BaseException:
            await self.aclose()
            raise
        cycle.check_until(-math.inf)  # the next call may come from another event loop
        engine.tell("started")
        return self

    async def _first_token(self) -> None:
        """Wait for a live token; a fault that will not pass is raised as it is."""
        engine = self._engine
        try:
            await live_token(engine, None)
        except (TokenUnavailable, SessionExpired) as error:
            await drain(engine)  # what is still under way may bring the pair
            if engine.left() > 0:
                return
            fault = fault_of(engine)
            if fault is not None:
                raise fault from None
            error.__cause__ = reason_of(engine) or error.__cause__  # it may have become known by now
            raise

    async def aclose(self) -> None:
        """Close the session. A renewal under way is not cancelled, but waited for, up to the policy's `drain`.

        Its source gets that time once more for its own `aclose()`. What that raises is logged.
        """
        engine = self._engine
        engine.check_place()
        try:
            await close(engine)
        finally:
            await close_source(engine)

    async def wait_closed(self) -> None:
        """Return when the session is closed; raise `SessionExpired` if it dies."""
        engine = self._engine
        while engine.cycle.phase is not Phase.CLOSED:
            if engine.cycle.phase < Phase.SHUT:
                check(engine)
            await engine.changed()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._engine.label} {self.state.value}, generation {self.generation}>"

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)  # the constructor may have refused what it was given
        if engine is None or engine.timer is None or engine.timer.process != os.getpid():
            return
        if engine.cycle.phase is Phase.CLOSED:
            return
        if not engine.owner.is_fleet:  # which warns itself
            warnings.warn(
                f"unclosed {self!r}: use `async with`, or await its aclose()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
        if engine.shared is not None:
            engine.shared.forget()
        engine.cycle.advance(Phase.CLOSED)  # a renewal under way lands, and nothing follows


def check_settings(renewal: object, policy: object, pair: object, *, has_way: bool) -> None:
    """Refuse what no session can be made with."""
    if isinstance(renewal, type) or not callable(getattr(renewal, "renew", None)):
        raise ConfigurationError("renewal must be an object with a method renew(request)")
    for name, value, kind in (("policy", policy, RefreshPolicy), ("pair", pair, TokenPair)):
        if not isinstance(value, kind | None):
            raise ConfigurationError(f"{name} must be a {kind.__name__}")
    if not has_way:
        raise ConfigurationError("with neither presents nor reissues, a session has no way to renew")


def engine_of(session: TokenSession) -> Engine:
    """Return the engine of a session, for a fleet."""
    return session._engine  # noqa: SLF001 - the one place outside of the class, beside it
