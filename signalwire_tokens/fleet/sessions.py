"""The public interface of a fleet: tokens by reference, its sessions, a snapshot, and how it opens and closes."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import warnings
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, Unpack

import attrs

from signalwire_tokens import wire
from signalwire_tokens.clock import moment_in, timer_of
from signalwire_tokens.durations import positive_seconds, shown, spoken
from signalwire_tokens.errors import ConfigurationError, SessionClosed, SessionError, SignalWireTokenError
from signalwire_tokens.governors import LocalGovernor
from signalwire_tokens.governors.local import check_rate
from signalwire_tokens.keeper import CHECKED_EVERY, drop, engine_of, shut
from signalwire_tokens.policy import RefreshPolicy, SessionState
from signalwire_tokens.session import EACH_ISSUE, SubscriberSession, check_client

from .breaker import BreakerState
from .census import Census
from .context import FleetContext, renewal_of
from .gate import FleetGate

if TYPE_CHECKING:
    from signalwire_tokens.client import TokenClient
    from signalwire_tokens.durations import Duration
    from signalwire_tokens.governors import Governor
    from signalwire_tokens.stores import TokenStore

__all__ = ["FleetSnapshot", "SessionFleet"]

MAX_RATE = 150.0  # renewals in a second, of a fleet without a governor
WITHOUT_TOKEN = (SessionState.UNAVAILABLE, SessionState.EXPIRED)
GOVERNOR_METHODS = ("read", "replace", "turn")
CLOSES_PER_TURN = 50  # sessions that a closing fleet handles, with their waiting callers, in a turn of the event loop

NOT_DRAINED = "%r: closing took longer than %s; the sessions that are left are closed without waiting for renewals"

logger: logging.Logger = logging.getLogger("signalwire_tokens.fleet")


@attrs.frozen(kw_only=True)
class FleetSnapshot:
    """The state of a fleet at one moment.

    `sessions` counts the open sessions by state. A session that still waits for its first token is UNAVAILABLE.
    `waiting` of them wait for their turn to renew, and `in_flight` are renewing. `breaker` is what the fleet assumes
    about SignalWire's health. `next_due` is when the next session acts: now if one waits for its turn, None if no
    session has a plan. `errors` counts the sessions by the error of their last attempt, by the name of its class.
    `last_error` is the last failure since SignalWire last answered; None if it has answered.
    """

    sessions: Mapping[SessionState, int]
    waiting: int
    in_flight: int
    breaker: BreakerState
    next_due: datetime | None
    errors: Mapping[str, int]
    last_error: SignalWireTokenError | None


class SessionFleet:
    """A session for each of many subscribers, below one limit of requests.

    While the fleet is open, `await fleet.token(reference)` returns a valid token of the subscriber with that reference.
    The first call opens a session for it, which stays open until `close_session()`. With an `idle_timeout`, it also
    closes when it was without calls for that long and its token expires.

    Sessions renew in turn, those first whose tokens expire soonest. At most `max_concurrency` renew at a time, and
    `max_rate` send their requests in a second: 150, if you don't say. While SignalWire is down, one session at a time
    sends a request, to see whether it is back. With a `governor` in place of `max_rate`, several fleets or processes
    share one rate, and what they know about SignalWire's health.

    All sessions share the `client`, the `policy` and the `store`. `reference in fleet` is true while a session is open
    for that subscriber.

    Raises `ConfigurationError` if the settings don't fit together.
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
        max_rate: float | None = None,
        idle_timeout: Duration | None = None,
        governor: Governor | None = None,
    ) -> None:
        check_fleet_settings(client, policy, max_concurrency)
        self.client: TokenClient = client
        self._now = client.clock.now
        self._store: TokenStore | None = store
        self._policy: RefreshPolicy = RefreshPolicy() if policy is None else policy
        self._concurrency: int = max_concurrency
        self._governor: Governor = choose_governor(client, max_rate, governor)
        self._sessions: dict[str, SubscriberSession] = {}
        idle = math.inf if idle_timeout is None else positive_seconds("idle_timeout", idle_timeout)
        # For CHECKED_EVERY, `token()` may return without a call of `FleetContext.used`.
        self._idle_timeout: float = idle + CHECKED_EVERY
        # Settings with which no session can be opened raise an error here, and not at the first call.
        SubscriberSession(client, "example", policy=self._policy, store=store)

    async def token(self, reference: str, min_ttl: Duration | None = None) -> str:
        """Return a valid access token of a subscriber, as `SubscriberSession.token` does.

        The first call for a subscriber opens a session: it issues a pair, or adopts the one that the store has.

        Raises `TokenUnavailable` if no token is valid at the moment; at once if SignalWire is down. An error that
        doesn't pass by itself is raised as it is: for example, if SignalWire refuses this reference, or the project's
        credentials.
        """
        if min_ttl is None:
            try:
                cycle = self._sessions[reference]._cycle  # noqa: SLF001 - a call would cost a tenth of this method
            except KeyError:
                pass
            else:
                if self._now() < cycle.fresh_until:
                    return cycle.value
        session = self._sessions.get(reference) or self._open_session(reference, {})
        return await session.token(min_ttl)

    def __contains__(self, reference: str) -> bool:
        """Return whether a session is open for a subscriber."""
        return reference in self._sessions

    def session(self, reference: str, **token_fields: Unpack[wire.TokenFields]) -> SubscriberSession:
        """Return the session of a subscriber, and open it if necessary. It gets its token in the background.

        `token_fields` are those of `SubscriberSession`, for a session that isn't open yet. If none of them shapes the
        token, the fields of the last session for this reference apply, until you call `close_session()`.

        Raises `ConfigurationError` if the session is open with other fields that shape its token.
        """
        fields = wire.with_secrets_hidden(token_fields, "SessionFleet.session")
        token_fields.clear()  # type: ignore[attr-defined]  # a password must not stay in this frame; it is a dict
        session = self._sessions.get(reference)
        if session is None:
            return self._open_session(reference, fields)
        engine = engine_of(session)
        if fields:
            other = engine_of(self._new_session(reference, fields))  # raises an error for fields that are wrong
            if has_shape(fields) and renewal_of(engine).key != renewal_of(other).key:
                raise ConfigurationError(
                    f"session {engine.label} is open with other fields that shape its token: await close_session() "
                    "first, then open it with the new fields"
                )
        engine.owner.used(engine)
        return session

    async def close_session(self, reference: str) -> None:
        """Close the session of a subscriber, if one is open, and drop its fields. The pair stays in the store.

        Callers that wait for its token get `SessionClosed`. Later calls open another session. A renewal under way isn't
        cancelled: this waits for it, up to the policy's limit (15 s).
        """
        context = self._opened()
        self._check_place(context)
        if not isinstance(reference, str):
            raise TypeError(f"reference must be a string, not {type(reference).__name__}")
        session = self._sessions.get(reference)
        earlier = [one for one, name in context.leaving.items() if name == reference]
        until = asyncio.get_running_loop().time() + self._policy.close_timeout
        if session is not None:
            context.closing(engine_of(session))
        context.fields.pop(reference, None)
        if session is not None:
            await session.aclose()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                for one in earlier:  # sessions for the same reference that closed before, with a renewal under way
                    await one.aclose()

    def snapshot(self) -> FleetSnapshot:
        """Return the state of the fleet, which is counted as it changes. Any thread may call this. It takes no time.

        After the machine was suspended, the counts may be those from before for up to half a minute.
        """
        context = self._opened()
        gate, states, errors = context.gate, Counter[SessionState](), Counter[str]()
        last_error = gate.last_error
        for (state, error), number in context.census.counts().items():
            states[state] += number
            reason = error or (last_error and state in WITHOUT_TOKEN and type(last_error).__name__)
            if reason and number:
                errors[reason] += number
        pause = 0.0 if gate.waiting else max(0.0, context.next_due() - self.client.clock.now())
        return FleetSnapshot(
            sessions={state: states[state] for state in SessionState},
            waiting=gate.waiting,
            in_flight=gate.in_flight,
            breaker=gate.health.state,
            next_due=moment_in(self.client.clock, pause),
            errors=dict(errors.most_common()),
            last_error=last_error,
        )

    async def start(self) -> Self:
        """Open the fleet. `async with` calls this. A fleet can be opened only once."""
        if self._closing:
            raise SessionClosed("the fleet is closed: open another one")
        if self._context is not None:
            raise SessionError("the fleet is open already: open it only once")
        timer = timer_of(self.client.clock)
        gate = FleetGate(
            self.client, timer, policy=self._policy, concurrency=self._concurrency, governor=self._governor
        )
        self._context = FleetContext(gate, self._sessions, self._idle_timeout, Census(timer))
        return self

    async def aclose(self) -> None:
        """Close the fleet and all its sessions. `async with` calls this.

        Renewals under way aren't cancelled: this waits for them, for 15 s in all by default. Sessions that aren't
        closed by then, or when you cancel the call, are closed without waiting, a few in each turn of the event loop.
        """
        context = self._context
        if context is not None:
            self._check_place(context)
        self._closing = True
        if context is None:
            return
        context.gate.close()
        context.census.close()
        context.closers.add(asyncio.current_task())
        try:
            async with asyncio.timeout(self._policy.close_timeout):
                await self._close_all(context)
        except TimeoutError:
            logger.warning(NOT_DRAINED, self, spoken(self._policy.close_timeout))
        except GeneratorExit:  # the coroutine is destroyed: it can't wait any more
            self._drop(deque(self._sessions.items()), len(self._sessions))
            raise
        finally:
            await self._drop_all(context)  # those that are left after a timeout, a cancellation or an error

    async def _close_all(self, context: FleetContext) -> None:
        """Close all sessions, a few at a time.

        All of them are shut first, so that callers that wait get `SessionClosed` at once.
        """
        left = deque((*self._sessions.values(), *context.leaving))
        try:
            for number, session in enumerate(tuple(self._sessions.values())):
                shut(engine_of(session))
                if number % CLOSES_PER_TURN == 0:
                    await asyncio.sleep(0)
            await asyncio.gather(*(close_some(left) for _ in range(min(self._concurrency, CLOSES_PER_TURN))))
        finally:
            left.clear()  # a traceback holds this frame, and would free all sessions in one turn
        await context.gate.health.account.finish()

    async def _drop_all(self, context: FleetContext) -> None:
        """Close all sessions without waiting for renewals. If this is cancelled, close those that are left at once."""
        left = deque(self._sessions.items())
        try:
            while left:
                self._drop(left, CLOSES_PER_TURN)
                await asyncio.sleep(0)
        finally:
            self._drop(left, len(left))
            context.closers.discard(asyncio.current_task())
            context.fields.clear()

    def _drop(self, left: deque[tuple[str, SubscriberSession]], most: int) -> None:
        """Remove up to `most` sessions from `left`, and close them."""
        for _ in range(min(most, len(left))):
            reference, session = left.popleft()
            if self._sessions.get(reference) is session:  # otherwise, it was closed in the meantime
                drop(engine_of(session))

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
        if context is not None and not self._closing and context.gate.timer.process == os.getpid():
            warnings.warn(
                f"unclosed {self!r}: use `async with`, or await its aclose()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def _opened(self) -> FleetContext:
        """Return what the sessions share, or raise `SessionClosed` if the fleet isn't open."""
        if self._closing:
            raise SessionClosed("the fleet is closed: open another one")
        if self._context is None:
            raise SessionClosed("the fleet isn't open yet: use `async with`, or await its start()")
        return self._context

    def _check_place(self, context: FleetContext) -> None:
        """Raise `SessionError` if this isn't the process and the event loop that the fleet was opened on."""
        misuse = context.gate.timer.find_misuse()
        if misuse is not None:
            raise SessionError(f"the fleet {misuse}")

    def _new_session(self, reference: str, fields: Mapping[str, Any]) -> SubscriberSession:
        return SubscriberSession(self.client, reference, policy=self._policy, store=self._store, **fields)

    def _open_session(self, reference: str, fields: Mapping[str, Any]) -> SubscriberSession:
        """Open a session and return it.

        It has the fields of the last one for this reference, unless `fields` shape the token.
        """
        context = self._opened()
        self._check_place(context)
        last = context.fields.get(reference)
        if last is not None and not has_shape(fields):
            fields = {**last, **fields}
        session = self._new_session(reference, fields)
        engine, gate = engine_of(session), context.gate
        engine.gate, engine.owner, engine.used_at = gate, context, engine.now()
        engine.open(gate.timer)
        self._sessions[reference] = session
        context.census.join(engine)
        context.fields.pop(reference, None)
        return session


def has_shape(fields: Mapping[str, Any]) -> bool:
    """Return whether any of the fields shapes the token. A field that is None counts, too."""
    return not fields.keys().isdisjoint(EACH_ISSUE)


async def close_some(sessions: deque[SubscriberSession]) -> None:
    """Close one session after another, and drop it. Several tasks share the sessions.

    To drop a hundred thousand of them in one turn of the event loop would take a quarter of a second.
    """
    while sessions:
        await sessions.popleft().aclose()
        await asyncio.sleep(0)


def check_fleet_settings(client: object, policy: object, concurrency: object) -> None:
    """Raise `ConfigurationError` if no fleet can be made with these settings."""
    check_client("SessionFleet", client)
    if policy is not None and not isinstance(policy, RefreshPolicy):
        raise ConfigurationError(f"policy must be a RefreshPolicy, not {type(policy).__name__}")
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise ConfigurationError(f"max_concurrency must be a whole number, 1 or more: got {shown(concurrency)}")


def choose_governor(client: TokenClient, max_rate: float | None, governor: Governor | None) -> Governor:
    """Return the governor of a fleet: its own one, if none is given. Raise `ConfigurationError` for a wrong one."""
    if governor is None:
        return LocalGovernor(MAX_RATE if max_rate is None else max_rate, clock=client.clock)
    if max_rate is not None:
        raise ConfigurationError("pass either max_rate or governor to a fleet: the governor has a max_rate of its own")
    if isinstance(governor, type) or not all(callable(getattr(governor, name, None)) for name in GOVERNOR_METHODS):
        methods = ", ".join(GOVERNOR_METHODS)
        raise ConfigurationError(f"governor must be an object with the methods {methods}, such as a LocalGovernor")
    check_rate("the governor's max_rate", getattr(governor, "max_rate", None))
    return governor
