"""The fleet as its users see it."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import warnings
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, Unpack

import attrs

from signalwire_tokens.client import TokenClient
from signalwire_tokens.clock import moment_in, timer_of
from signalwire_tokens.durations import positive_seconds
from signalwire_tokens.errors import ConfigurationError, SessionClosed, SessionError, SignalWireTokenError
from signalwire_tokens.keeper import CHECKED_EVERY, drop, engine_of, shut
from signalwire_tokens.policy import RefreshPolicy, SessionState
from signalwire_tokens.session import SHAPING, SubscriberSession, TokenFields, masked

from .breaker import BreakerState
from .context import FleetContext, renewal_of
from .governor import Governor

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from signalwire_tokens.durations import Duration
    from signalwire_tokens.stores import TokenStore

__all__ = ["FleetSnapshot", "SessionFleet"]

MOST_AT_ONCE = 1000  # are told that the fleet is closing before the event loop gets its turn

logger: logging.Logger = logging.getLogger("signalwire_tokens.fleet")


@attrs.frozen(kw_only=True)
class FleetSnapshot:
    """How a fleet stood at a moment.

    `sessions` counts them by state; one that has yet to get its first token is late. `waiting` of them are due and wait
    for their turn, `in_flight` are being renewed. `errors` counts what they failed with last, by the error's name;
    `last_error` is what the service itself was last found to be ill with, and None when it has answered since.
    """

    sessions: Mapping[SessionState, int]
    waiting: int
    in_flight: int
    breaker: BreakerState
    next_due: datetime | None
    errors: Mapping[str, int]
    last_error: SignalWireTokenError | None


class SessionFleet:
    """Many subscribers' tokens, kept alive together: `await fleet.token(reference)` gives a live one.

    A session is opened for a subscriber who is asked for. It stays open until `close_session()`, or until no caller has
    asked for it for `idle_timeout`. At most `max_concurrency` sessions renew at a time, and `max_rate` begin to in a
    second, first those whose tokens expire soonest. While the service is down, one at a time asks after it. `client` is
    the one that it was given. `reference in fleet` is true while a session is open for that subscriber.
    """

    _context: FleetContext | None = None
    _closing = False

    def __init__(
        self,
        client: TokenClient,
        *,
        store: TokenStore | None = None,
        policy: RefreshPolicy | None = None,
        max_concurrency: int = 32,
        max_rate: float = 150.0,
        idle_timeout: Duration | None = None,
    ) -> None:
        check_settings(client, policy, max_concurrency, max_rate)
        self.client: TokenClient = client
        self._store: TokenStore | None = store
        self._policy: RefreshPolicy = RefreshPolicy() if policy is None else policy
        self._concurrency: int = max_concurrency
        self._rate: float = max_rate
        self._sessions: dict[str, SubscriberSession] = {}
        idle = math.inf if idle_timeout is None else positive_seconds("idle_timeout", idle_timeout)
        self._idle_timeout: float = idle + CHECKED_EVERY  # for which `token()` may return without asking
        # Refuses now what no session could be opened with, and not when the first one is asked for.
        SubscriberSession(client, "anybody", policy=self._policy, store=store)

    def token(self, reference: str, min_ttl: Duration | None = None) -> Coroutine[Any, Any, str]:
        """Return a subscriber's token, which is live, as `SubscriberSession.token` does.

        The first call for a subscriber opens a session, or takes up what the store has. Raises `TokenUnavailable` where
        there is no live token at this moment, and at once where the service is down; what will not pass by itself, such
        as a reference that the service refuses, is raised as it is.
        """
        session = self._sessions.get(reference)
        return self._first_token(reference, min_ttl) if session is None else session.token(min_ttl)

    def __contains__(self, reference: str) -> bool:
        """Return whether a session is open for a subscriber."""
        return reference in self._sessions

    def session(self, reference: str, **token_fields: Unpack[TokenFields]) -> SubscriberSession:
        """Return a subscriber's session, opened if it was not: it gets its token in the background.

        `token_fields` are those of `SubscriberSession`, for one that isn't open yet. If none of them shapes the token,
        the fields of the last session for this reference apply, until you call `close_session()`.
        """
        fields = masked(token_fields, "SessionFleet.session")
        token_fields.clear()  # type: ignore[attr-defined]  # a password must not stand in this frame; it is a dict
        session = self._sessions.get(reference)
        if session is None:
            return self._open(reference, fields)
        engine = engine_of(session)
        if fields:
            other = engine_of(self._make(reference, fields))  # refuses fields that are wrong
            if has_shape(fields) and renewal_of(engine).key != renewal_of(other).key:
                raise ConfigurationError(
                    f"session {engine.label} is open with other fields that shape its token: close_session() it, and "
                    "open it anew"
                )
        engine.owner.used(engine)
        return session

    async def close_session(self, reference: str) -> None:
        """Close a subscriber's session, if there is one, and forget its fields. What a store holds stays there.

        Callers that wait for its token get `SessionClosed`. Callers that ask from now on get another session.
        """
        context = self._opened()
        self._check_place(context)
        if not isinstance(reference, str):
            raise TypeError("reference must be a string")
        session = self._sessions.get(reference)
        earlier = [one for one, name in context.leaving.items() if name == reference]
        until = asyncio.get_running_loop().time() + self._policy.close_timeout
        if session is not None:
            context.left(engine_of(session))
        context.fields.pop(reference, None)
        if session is not None:
            await session.aclose()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                for one in earlier:  # whose renewals are still under way
                    await one.aclose()

    def snapshot(self) -> FleetSnapshot:
        """Look at all sessions: a hundred thousand take a tenth of a second or two."""
        governor = self._opened().governor
        states, errors, due = Counter[SessionState](), Counter[str](), math.inf
        for session in tuple(self._sessions.values()):  # an exporter of metrics may call this in another thread
            state, error = session.state, session.last_error
            states[state] += 1
            if error is not None:
                errors[type(error).__name__] += 1
            if state is not SessionState.EXPIRED:
                due = min(due, engine_of(session).wakes_at)
        pause = 0.0 if governor.waiting else max(0.0, due - self.client.clock.now())
        return FleetSnapshot(
            sessions={state: states[state] for state in SessionState},
            waiting=governor.waiting,
            in_flight=governor.in_flight,
            breaker=governor.state,
            next_due=moment_in(self.client.clock, pause),
            errors=dict(errors.most_common()),
            last_error=governor.last_error,
        )

    async def start(self) -> Self:
        """Open the fleet. `async with` does it for you."""
        if self._closing:
            raise SessionClosed("the fleet was closed: make another one")
        if self._context is not None:
            raise SessionError("the fleet is open already")
        timer = timer_of(self.client.clock)
        governor = Governor(self.client, timer, policy=self._policy, concurrency=self._concurrency, rate=self._rate)
        self._context = FleetContext(governor, self._sessions, self._idle_timeout)
        return self

    async def aclose(self) -> None:
        """Close all sessions. Renewals under way are not cancelled, but waited for, up to the policy's `drain`."""
        context = self._context
        if context is not None:
            self._check_place(context)
        self._closing = True
        if context is None:
            return
        context.governor.close()
        closer = asyncio.current_task()
        context.closers.add(closer)
        try:
            async with asyncio.timeout(self._policy.close_timeout):
                await self._close_all(context)
        except TimeoutError:
            logger.warning("%r was closed before all that was under way had ended", self)
        finally:
            for session in list(self._sessions.values()):  # the time is up, or the closing task was cancelled
                drop(engine_of(session))
            context.closers.discard(closer)
            context.fields.clear()

    async def _close_all(self, context: FleetContext) -> None:
        """Tell all who wait for a token, and then let end what is under way, at so many sessions at a time."""
        sessions = list(self._sessions.values())
        for number, session in enumerate(sessions):
            shut(engine_of(session))
            if number % MOST_AT_ONCE == 0:
                await asyncio.sleep(0)
        left = iter((*sessions, *context.leaving))
        await asyncio.gather(*(close_some(left) for _ in range(self._concurrency)))

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        context = self._context
        state = "not open" if context is None or self._closing else f"{len(self._sessions)} sessions"
        return f"<SessionFleet {self.client.origin} {state}>"

    def __del__(self) -> None:
        context = self._context
        if context is not None and not self._closing and context.governor.timer.process == os.getpid():
            warnings.warn(
                f"unclosed {self!r}: use `async with`, or await its aclose()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def _opened(self) -> FleetContext:
        """Refuse to be used where the fleet does not live, before it does, and after."""
        if self._closing:
            raise SessionClosed("the fleet was closed: make another one")
        if self._context is None:
            raise SessionClosed("the fleet is not open: use `async with`, or await its start()")
        return self._context

    def _check_place(self, context: FleetContext) -> None:
        """Raise `SessionError` in another process, or on another event loop, than the fleet's."""
        misuse = context.governor.timer.find_misuse()
        if misuse is not None:
            raise SessionError(f"the fleet {misuse}")

    async def _first_token(self, reference: str, min_ttl: Duration | None) -> str:
        session = self._sessions.get(reference) or self._open(reference, {})
        return await session.token(min_ttl)

    def _make(self, reference: str, fields: Mapping[str, Any]) -> SubscriberSession:
        return SubscriberSession(self.client, reference, policy=self._policy, store=self._store, **fields)

    def _open(self, reference: str, fields: Mapping[str, Any]) -> SubscriberSession:
        """Return a new open session. It has the fields of the last one for this reference, unless `fields` shape it."""
        context = self._opened()
        self._check_place(context)
        last = context.fields.get(reference)
        if last is not None and not has_shape(fields):
            fields = {**last, **fields}
        session = self._make(reference, fields)
        engine, governor = engine_of(session), context.governor
        engine.gate, engine.owner, engine.used_at = governor, context, engine.now()
        engine.open(governor.timer)
        self._sessions[reference] = session
        context.fields.pop(reference, None)
        return session


def has_shape(fields: Mapping[str, Any]) -> bool:
    """Return whether any of the fields shapes the token. A field that is None counts, too."""
    return not fields.keys().isdisjoint(SHAPING)


async def close_some(sessions: Iterator[SubscriberSession]) -> None:
    """Close one session after another; others do so, too."""
    for session in sessions:
        await session.aclose()
        await asyncio.sleep(0)


def check_settings(client: object, policy: object, concurrency: object, rate: object) -> None:
    """Refuse what a fleet cannot be made with."""
    if not isinstance(client, TokenClient):
        raise ConfigurationError("a fleet needs a TokenClient")
    if policy is not None and not isinstance(policy, RefreshPolicy):
        raise ConfigurationError("policy must be a RefreshPolicy")
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise ConfigurationError("max_concurrency must be a whole number, and 1 or more")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0:
        raise ConfigurationError("max_rate must be a positive number of renewals a second")
