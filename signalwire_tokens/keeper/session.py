"""The public interface of a session: its token, its state, its events, and how it opens and closes."""

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
from .engine import Engine, random_draw
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
    """A session that keeps a token from your own source valid.

    While the session is open, `await session.token()` returns a valid token. The session renews it in the background.

    `renewal` is the source of tokens: an object with a method `renew(request)`. `lifetime` is how long its tokens are
    usually valid. Until the first token is there, the pauses between attempts depend on it. `policy` has the times of
    renewals and pauses. `pair` is a pair to begin with. `clock` is the machine's clock by default.

    With a `store`, the pair outlives the session under `store_key`. All sessions with the same key share it: one
    renews, and the others take the new pair from the store.

    Set `presents` if the source can exchange refresh tokens. Unset `reissues` if it can't issue a new pair without one;
    the first pair is requested in any case, unless you pass it.

    Unless `keeps_all` is False, the session keeps any token, however short-lived, but none that expires before the
    current one. With False, a token that is too short-lived for the policy counts as a failed renewal.

    `throttle` is the pause that SignalWire has asked a client for, with the client's clock; None gives the session its
    own. `longest` limits the lifetimes of a pair from the store: of the access token, and of the refresh token.

    Raises `ConfigurationError` if these don't fit together.
    """

    __slots__ = ("__weakref__", "_cycle", "_engine")

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
        check_session_settings(renewal, policy, pair, has_way=presents or reissues)
        if (store is None) != (not store_key):
            raise ConfigurationError(
                "store and store_key need each other: pass both, or neither. The key names the token in the store"
            )
        policy, clock, life = policy or DEFAULT_POLICY, clock or SYSTEM, positive_seconds("lifetime", lifetime)
        if not keeps_all:
            policy.check_lifetime(life)
        usual, brought = life if keeps_all else 0.0, pair if store is None else None
        cycle = Lifecycle(policy, presents, reissues, usual, pair=brought, lifetime=life, draw=random_draw())
        limits = positive_span("longest", longest[0]), positive_span("longest", longest[1])
        shared = None if store is None else SharedRenewal(store, store_key, cycle, clock, limits, pair)
        gate = Gate(None, clock) if throttle is None else Gate(*throttle)
        self._cycle: Lifecycle = cycle  # the engine's, for `SessionFleet.token()`
        self._engine: Engine = Engine(renewal, cycle, clock, gate, shared)

    async def token(self, min_ttl: Duration | None = None) -> str:
        """Return a valid access token.

        This takes no time as long as the current token has `min_ttl` seconds left. `min_ttl` is 30 s by default, or a
        tenth of the lifetime if that is less. Otherwise the call waits for a renewal: for ten seconds at most, and for
        no more than half of the time that a valid token has left. If no renewal succeeds in time, it returns the
        current token if that is still valid.

        Raises `TokenUnavailable` if no token is valid at the moment: call again later. Raises `SessionExpired` if no
        way to renew is left, and `SessionClosed` if the session isn't open. Raises `SessionError` in another process,
        or on another event loop, than the session's. Raises `ValueError` if no token ever has `min_ttl` seconds left.

        If you cancel the call, the renewal goes on for other callers.
        """
        engine = self._engine
        cycle = engine.cycle
        if min_ttl is None and engine.now() < cycle.fresh_until:
            return cycle.value
        return await live_token(engine, min_ttl)

    @property
    def pair(self) -> TokenPair:
        """The current pair, whether it is valid or not. Raises `SessionClosed` before the first one."""
        cycle = self._engine.cycle
        if cycle.pair is None or not cycle.generation:
            raise SessionClosed(f"session {self._engine.label} has no pair yet: open it with `async with` or `start()`")
        return cycle.pair

    @property
    def state(self) -> SessionState:
        """The state of the session at this moment."""
        return self._engine.cycle.state(self._engine.now())

    @property
    def expires_in(self) -> timedelta:
        """The time for which the current token is still valid; zero if it has expired."""
        return timedelta(seconds=max(0.0, min(self._engine.left(), timedelta.max.total_seconds() / 2)))

    @property
    def next_refresh_at(self) -> datetime | None:
        """The time of the next planned renewal; now if one is under way, None if none is planned."""
        engine, cycle = self._engine, self._engine.cycle
        step, outlook = engine.next_step(), engine.gate.outlook(engine)
        is_begun = isinstance(cycle.under_way, RenewalStep)
        is_planned = cycle.under_way is not None or engine.wakes_at < math.inf or outlook.is_waiting
        if cycle.phase is not Phase.OPEN or not is_planned or (isinstance(step, Expire) and not is_begun):
            return None
        return moment_in(engine.clock, 0.0 if is_begun else max(step.at - engine.now(), outlook.pause, 0.0))

    @property
    def generation(self) -> int:
        """The number of pairs that the session has had, the current one included."""
        return self._engine.cycle.generation

    @property
    def last_error(self) -> SignalWireTokenError | None:
        """The error of the last attempt to renew; None if it succeeded.

        Without a valid token, it may also be an error that stops a whole fleet, or the pause that SignalWire asked for.
        """
        engine = self._engine
        return reason_of(engine) if engine.left() <= 0 else engine.cycle.last_error

    @property
    def store_key(self) -> str | None:
        """The key of the session's pair in the store; None without a store."""
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
        """Yield the current pair, and then each new one.

        A slow reader gets the latest pair only. The iteration ends when the session closes. It raises `SessionExpired`
        if the session expires. In a fleet, a session with a waiting reader isn't idle.
        """
        self._engine.owner.used(self._engine)
        return self._rotations()

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Call `callback` with each `SessionEvent` from now on, and return a function that ends the subscription.

        The callback may be async. It gets the events in order, one at a time. If it raises, the exception is logged. If
        it hangs, only its own events wait. In a fleet, a session with a subscriber isn't idle.
        """
        engine = self._engine
        engine.owner.used(engine)
        if not callable(callback):
            raise TypeError(f"callback must be a function that takes a SessionEvent, not {type(callback).__name__}")
        listener = Listener(callback)
        engine.listeners = (*engine.listeners, listener)

        def unsubscribe() -> None:
            listener.forget(forgotten)

        def forgotten() -> None:
            engine.listeners = tuple(one for one in engine.listeners if one is not listener)

        return unsubscribe

    async def refresh(self) -> TokenPair:
        """Renew now, regardless of the policy, and return the new pair. A call during a renewal joins it.

        Raises `TokenUnavailable` if the renewal fails, and `SessionExpired` if no way to renew is left.
        """
        await next_pair(self._engine)
        return self.pair

    def invalidate(self, token: str | Token) -> None:
        """Report that SignalWire refused a token.

        If it is the current token, the session no longer returns it, and renews. It does so once a minute at most, so
        callers may be without a token until then. A token that isn't the current one is ignored.
        """
        engine = self._engine
        check(engine)
        if self._is_current(token):
            cycle = engine.cycle
            logger.warning(
                "session %s: the current token (generation %d) was reported as refused; the session renews it",
                engine.label,
                cycle.generation,
            )
            engine.invalidate()

    def report_unauthorized(self, token: str | Token) -> bool:
        """Report that a request with a token got a 401, and return whether to repeat the request with the next token.

        If a renewal may begin now, this invalidates the token and returns True. Otherwise the token stays in use and
        the result is False, because other callers would be without a token. That is so for a minute after the last
        invalidation, and while SignalWire wants a pause. For a token that isn't the current one, the result is True.

        Raises `SessionExpired` or `SessionClosed` if there will be no next token.
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
        """Return whether `token()` returns that token at the moment."""
        if not isinstance(token, str | Token):
            raise TypeError(f"token must be a string or a Token, not {type(token).__name__}")
        text = token.value if isinstance(token, Token) else token
        return text == self._engine.cycle.value and self._engine.left() > 0

    async def start(self) -> Self:
        """Open the session, and return once it has a valid token. `async with` calls this.

        If no token comes in time, the session closes and this raises the reason: the error of the source if it doesn't
        pass by itself, or else `TokenUnavailable`. If you cancel the call, the session closes, too. A session can be
        opened only once.
        """
        engine, cycle = self._engine, self._engine.cycle
        if cycle.phase >= Phase.SHUT:
            raise SessionClosed(f"session {engine.label} is closed: {engine.owner.another}")
        if cycle.phase is not Phase.NEW:
            raise SessionError(f"session {engine.label} is open already: open it only once")
        try:
            engine.open(timer_of(engine.clock))
            await self._first_token()
        except BaseException:
            await self.aclose()
            raise
        cycle.check_until(-math.inf)  # the next call may come from another event loop
        engine.emit("started")
        return self

    async def _first_token(self) -> None:
        """Wait for a valid token. An error that doesn't pass by itself is raised as it is."""
        engine = self._engine
        try:
            await live_token(engine, None)
        except (TokenUnavailable, SessionExpired) as error:
            await drain(engine)  # the renewal under way may still bring the pair
            if engine.left() > 0:
                return
            fault = fault_of(engine)
            if fault is not None:
                raise fault from None
            error.__cause__ = reason_of(engine) or error.__cause__  # the drained renewal may have brought a reason
            raise

    async def aclose(self) -> None:
        """Close the session, and then its source. `async with` calls this.

        From the first moment on, `token()` raises `SessionClosed`. A renewal under way isn't cancelled: this waits for
        it, up to the policy's limit (15 s). Then the source's `aclose()` is awaited, if it has one, for the same time
        at most. What that raises is logged. If the session is closing already, this returns when it is closed.
        """
        engine = self._engine
        engine.check_place()
        try:
            await close(engine)
        finally:
            await close_source(engine)

    async def wait_closed(self) -> None:
        """Return once the session is closed. Raise `SessionExpired` if it expires."""
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
        engine = getattr(self, "_engine", None)  # the constructor may have raised
        if engine is None or engine.timer is None or engine.cycle.phase is Phase.CLOSED:
            return
        if engine.timer.process != os.getpid():
            return
        if not engine.owner.is_fleet:  # a fleet warns once for all of its sessions
            warnings.warn(
                f"unclosed {self!r}: use `async with`, or await its aclose()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
        if engine.shared is not None:
            engine.shared.forget()
        engine.cycle.advance(Phase.CLOSED)  # a renewal under way still ends, but no other one follows


def check_session_settings(renewal: object, policy: object, pair: object, *, has_way: bool) -> None:
    """Raise `ConfigurationError` if no session can be made with these settings."""
    if isinstance(renewal, type) or not callable(getattr(renewal, "renew", None)):
        raise ConfigurationError(
            f"renewal must be an object with a method renew(request), not {type(renewal).__name__}"
        )
    for name, value, kind in (("policy", policy, RefreshPolicy), ("pair", pair, TokenPair)):
        if not isinstance(value, kind | None):
            raise ConfigurationError(f"{name} must be a {kind.__name__}, not {type(value).__name__}")
    if not has_way:
        raise ConfigurationError("with neither presents nor reissues, a session can't renew: set one of them")


def engine_of(session: TokenSession) -> Engine:
    """Return the engine of a session, for a fleet."""
    return session._engine  # noqa: SLF001 - the one place outside of the class that reads it
