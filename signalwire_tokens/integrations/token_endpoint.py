"""The token endpoint for browsers, without a web framework. `aiohttp_server` and `asgi` connect it to one.

A request goes through these steps. The first one that refuses it gives the answer:

====  =============================================================  ===============================================
step  what happens                                                   answer if it ends here
====  =============================================================  ===============================================
1     `token_rules.admit` checks the method, origin and body type    204 to a preflight; 405, 403, 415, 413
2     the app's `identify` returns the user's reference              401; its exceptions are the framework's to answer
3     `token_rules.parse_body` reads the body                         413, 400, 422
4     the limit per user, then the fleet, which may ask SignalWire   200, 204 (logout); 429, 500, 502, 503
====  =============================================================  ===============================================

`token_rules.with_headers` adds the common headers to each answer.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar, cast

import attrs

from signalwire_tokens import wire
from signalwire_tokens.errors import (
    ConfigurationError,
    SessionClosed,
    SignalWireTokenError,
    TokenUnavailable,
    is_transient,
)
from signalwire_tokens.fleet import BreakerState, FleetSnapshot, SessionFleet
from signalwire_tokens.keeper import engine_of
from signalwire_tokens.secret import digest_of

from . import token_rules

if TYPE_CHECKING:
    from signalwire_tokens.client import TokenClient
    from signalwire_tokens.models import Token

__all__ = ["Backend", "BackendRequest", "FleetSource", "Identity"]

# Seconds that a returned token has left at least, if a renewal can get it. SignalWire's browser SDK asks again five
# seconds before the expiry, and must not get the same token again.
LEAST_LEFT = 60.0
# Seconds for which `health` returns the same snapshot. A snapshot visits all sessions, and `health` needs no sign-in.
SNAPSHOT_AGE = 1.0

CLIENT_ERRORS, FORBIDDEN, NOT_NOW = range(400, 500), 403, 503
MOST_REFUSED, LONGEST_ORIGIN = 32, 200  # refused origins that are logged as warnings, and their characters

Identity: TypeAlias = str | Awaitable[str | None] | None
Identify = TypeVar("Identify", bound=Callable[..., Identity])
FleetSource: TypeAlias = SessionFleet | Callable[[], AbstractAsyncContextManager[SessionFleet]]

OPENER = "it must return an async context manager that yields a SessionFleet: is it an @asynccontextmanager?"

logger: logging.Logger = logging.getLogger("signalwire_tokens.backend")


@attrs.frozen
class BackendRequest:
    """One request: its head, and functions that return the signed-in user's reference and the body.

    Both are called only if the rules admit the head, and `identify` is called first.
    """

    asked: token_rules.RequestHead
    identify: Callable[[], Identity]
    read: Callable[[], Awaitable[bytes]]


class Backend(Generic[Identify]):
    """The base of each framework's `TokenBackend`, which documents the arguments. `Identify` is the type of `identify`.

    `_binding` counts the requests under way for tokens that are bound to a device's key. `_is_down` is true if the last
    of them that SignalWire answered, or should have, failed because of an outage.
    """

    _snapshot: FleetSnapshot | None = None
    _snapshot_at: float = 0.0
    _binding: int = 0
    _is_down: bool = False

    def __init__(
        self,
        fleet: FleetSource,
        *,
        identify: Identify,
        allowed_origins: Iterable[str] = (),
        public_origin: str | None = None,
        allow_device_tokens: bool = False,
        issues_per_minute: int = 20,
    ) -> None:
        if not isinstance(fleet, SessionFleet) and not callable(fleet):
            raise ConfigurationError(
                f"fleet must be a SessionFleet, or a function that opens one, not {type(fleet).__name__}"
            )
        if not callable(identify):
            raise ConfigurationError(
                "identify must be a function that takes a request and returns the subscriber's reference or None"
            )
        self._source: FleetSource = fleet
        self._fleet: SessionFleet | None = fleet if isinstance(fleet, SessionFleet) else None
        self._identify = identify
        self._rules = token_rules.Rules(
            allowed_origins=allowed_origins, public_origin=public_origin, allow_device_tokens=allow_device_tokens
        )
        self._limit = token_rules.IssueLimit(issues_per_minute)
        self._refused: set[str | None] = set()  # origins whose refusal was logged as a warning
        self._blocks = 0  # of `_open` that are under way
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()

    @property
    def fleet(self) -> SessionFleet:
        """The open fleet. Raise `ConfigurationError` if it isn't open."""
        if self._fleet is None:
            raise ConfigurationError("the fleet isn't open: pass the backend's `lifespan` to the application")
        return self._fleet

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        """Open the fleet for the block.

        Blocks may overlap, such as those of several applications. The first one opens the fleet, and the last one
        closes it.
        """
        if isinstance(self._source, SessionFleet):  # the app opens and closes it
            yield
            return
        self._blocks += 1
        try:
            async with self._opening:
                if self._fleet is None:
                    await self._stack.enter_async_context(self._opened(self._source))
            yield
        finally:
            self._blocks -= 1
            async with self._opening:
                if self._blocks == 0:
                    await self._stack.aclose()

    @asynccontextmanager
    async def _opened(self, source: Callable[[], object]) -> AsyncIterator[None]:
        """Open the fleet. Closing it waits for renewals under way, up to `close_timeout`.

        A renewal that is cut off could lose the only valid refresh token.
        """
        opening = source()
        if not isinstance(opening, AbstractAsyncContextManager):
            raise ConfigurationError(f"fleet() returned a {type(opening).__name__}: {OPENER}")
        async with cast("AbstractAsyncContextManager[object]", opening) as fleet:
            if not isinstance(fleet, SessionFleet):
                raise ConfigurationError(f"fleet() yielded a {type(fleet).__name__}: {OPENER}")
            self._fleet, self._snapshot = fleet, None
            self._limit = token_rules.IssueLimit(self._limit.most)  # the new fleet may have another clock
            try:
                yield
            finally:
                self._fleet = None

    async def _hand_out(self, visit: BackendRequest) -> token_rules.EndpointAnswer:
        """Return the answer to a request for the signed-in user's token."""
        return await self._admit(visit, self._token_answer)

    async def _log_out(self, visit: BackendRequest) -> token_rules.EndpointAnswer:
        """Close the signed-in user's session, and return the answer to the request for it."""
        return await self._admit(visit, self._discard)

    def _health(self, method: str) -> token_rules.EndpointAnswer:
        """Return the answer to a request for the fleet's health. It names no user."""
        asked = token_rules.RequestHead(method, {})  # without an `Origin`: other origins' pages can't read the answer
        return token_rules.with_headers(token_rules.admit_health(method) or self._answer_health(), asked, self._rules)

    def _answer_health(self) -> token_rules.EndpointAnswer:
        try:
            return token_rules.answer_with(health_report(self._fresh_snapshot(self.fleet)))
        except (ConfigurationError, SessionClosed):
            return token_rules.problem_answer(NOT_NOW, "The fleet is not open.")

    def _fresh_snapshot(self, fleet: SessionFleet) -> FleetSnapshot:
        now = fleet.client.clock.now()
        if self._snapshot is None or not 0 <= now - self._snapshot_at < SNAPSHOT_AGE:
            self._snapshot, self._snapshot_at = fleet.snapshot(), now
        return self._snapshot

    async def _admit(
        self,
        visit: BackendRequest,
        go_on: Callable[[str, token_rules.TokenRequest], Awaitable[token_rules.EndpointAnswer]],
    ) -> token_rules.EndpointAnswer:
        """Return the answer to a request. Call `go_on` with the user's reference and the body if both are accepted."""
        return self._refuse(visit.asked) or self._complete(await self._handle_admitted(visit, go_on), visit.asked)

    def _refuse(self, asked: token_rules.RequestHead) -> token_rules.EndpointAnswer | None:
        """Return the answer to a request if the rules refuse its head or it is a preflight, or None to proceed."""
        answer = token_rules.admit(asked, self._rules)
        return None if answer is None else self._complete(answer, asked)

    def _complete(
        self, answer: token_rules.EndpointAnswer, asked: token_rules.RequestHead
    ) -> token_rules.EndpointAnswer:
        """Return an answer with the common headers. Log it if it is a rejection."""
        if answer.status in CLIENT_ERRORS:
            origin, detail = asked.headers.get("origin"), token_rules.answer_detail(answer)
            level = logging.WARNING if answer.status == FORBIDDEN and self._is_new(origin) else logging.DEBUG
            logger.log(level, "rejected a token request from origin %.200r with %d: %s", origin, answer.status, detail)
        return token_rules.with_headers(answer, asked, self._rules)

    def _is_new(self, origin: str | None) -> bool:
        """Return whether an origin is refused for the first time. Return False once many have been refused.

        Each new one is a warning, and a client can invent as many as it likes.
        """
        shown = None if origin is None else origin[:LONGEST_ORIGIN]
        if shown in self._refused or len(self._refused) >= MOST_REFUSED:
            return False
        self._refused.add(shown)
        return True

    async def _handle_admitted(
        self,
        visit: BackendRequest,
        go_on: Callable[[str, token_rules.TokenRequest], Awaitable[token_rules.EndpointAnswer]],
    ) -> token_rules.EndpointAnswer:
        """Return the answer to a request from an admitted page, without the common headers."""
        found = visit.identify()
        reference = await found if inspect.isawaitable(found) else found
        if reference is None:
            return token_rules.problem_answer(401, "Sign in first.")
        if not isinstance(reference, str):
            raise TypeError(
                f"identify must return a subscriber's reference, a string, or None: got {type(reference).__name__}. "
                "For the id of a user, return str(id)"
            )
        wish = token_rules.parse_body(await visit.read(), self._rules)
        if isinstance(wish, token_rules.EndpointAnswer):
            return wish
        try:
            return await go_on(reference, wish)
        except SignalWireTokenError as error:
            answer = token_rules.answer_for(error)
            level = level_for(error)
            logger.log(level, "subscriber #%s: a browser got no token: %s", digest_of(reference), error)
            return answer

    async def _token_answer(self, reference: str, wish: token_rules.TokenRequest) -> token_rules.EndpointAnswer:
        """Return a token for a reference: a new one that the device's key binds, or the fleet's."""
        fleet = self.fleet
        if wish.fingerprint is not None:
            return await self._issue_bound(fleet.client, reference, wish.fingerprint)
        if reference not in fleet:
            wire.create_subscriber_token(reference, now=fleet.client.clock.wall())  # checks it before it is counted
            if (refusal := self._count(fleet.client, reference)) is not None:
                return refusal
        session = fleet.session(reference)
        await session.token(min(LEAST_LEFT, engine_of(session).cycle.longest_ttl))
        # The session's clock knows what is left. The wall clock may have been set since the token was issued.
        return format_token(session.pair.access_token, fleet.client.clock.wall() + session.expires_in.total_seconds())

    async def _issue_bound(self, client: TokenClient, reference: str, fingerprint: str) -> token_rules.EndpointAnswer:
        """Return a new token that is bound to a device's key. SignalWire is asked once, without retries.

        Raise `TokenUnavailable` while too many such requests are under way, because the fleet's limits don't apply to
        them. Raise it as well while SignalWire throttles the client.
        """
        now = client.clock.now()
        pause = token_rules.pause_before_bound_token(client.throttle, now=now, under_way=self._binding)
        if pause is not None:
            throttled = client.throttle.left(now) > 0
            reason = "SignalWire asked for a pause" if throttled else "too many requests are under way"
            raise TokenUnavailable(f"no token can be issued for a device now: {reason}", retry_after=pause)
        request = wire.create_subscriber_token(
            reference, now=client.clock.wall(), fingerprint=fingerprint, scope="sat:refresh"
        )
        if (refusal := self._count(client, reference)) is not None:
            return refusal
        self._binding += 1
        try:
            pair = await client.send(request, retries=0)
        except SignalWireTokenError as error:
            self._note_bound(error)
            raise
        finally:
            self._binding -= 1
        self._note_bound(None)
        return format_token(pair.access_token, pair.access_token.expires_at.timestamp())

    def _note_bound(self, error: SignalWireTokenError | None) -> None:
        """Log the start and the end of an outage. The fleet doesn't, because it doesn't issue these tokens."""
        if error is None:
            if self._is_down:
                logger.info("tokens can be issued for devices again")
            self._is_down = False
        elif is_transient(error):
            if not self._is_down:
                logger.warning("no tokens can be issued for devices: %s", error)
            self._is_down = True

    def _count(self, client: TokenClient, reference: str) -> token_rules.EndpointAnswer | None:
        """Count a token that SignalWire is about to issue for a reference. Return a 429 if the limit is reached."""
        pause = self._limit.take(reference, now=client.clock.now())
        return (
            None
            if pause is None
            else token_rules.ask_later(429, "Too many new tokens: retry after the time in Retry-After.", pause)
        )

    async def _discard(self, reference: str, _: token_rules.TokenRequest) -> token_rules.EndpointAnswer:
        await self.fleet.close_session(reference)
        return token_rules.EndpointAnswer(status=204)


def level_for(error: SignalWireTokenError) -> int:
    """Return the level at which to log an error that kept a browser from getting a token.

    =====================================================  ==========================================================
    answer                                                 level
    =====================================================  ==========================================================
    503, because the error is transient (`is_transient`)   DEBUG: an outage is logged once, and not per browser
    503, because of any other error                        WARNING: nothing else logs it, and it may not pass alone
    500 or 502                                             ERROR: the app or its project must be corrected
    =====================================================  ==========================================================
    """
    if is_transient(error):
        return logging.DEBUG
    return logging.WARNING if token_rules.answer_for(error).status == NOT_NOW else logging.ERROR


def format_token(token: Token, ends: float) -> token_rules.EndpointAnswer:
    """Return the answer with a token. `ends` is when it expires, in seconds since the epoch.

    The answer has milliseconds, as JavaScript's `Date` does.
    """
    return token_rules.answer_with({"token": token.value, "expiry_at": int(ends * 1000)})


def health_report(snapshot: FleetSnapshot) -> dict[str, object]:
    """Return a fleet's health, ready for JSON.

    The status is "ok", or "degraded" while SignalWire fails or throttles requests, or has only just recovered. It stays
    "ok" if SignalWire refuses a single subscriber.
    """
    is_well = snapshot.breaker is BreakerState.CLOSED and snapshot.last_error is None
    return {
        "status": "ok" if is_well else "degraded",
        "sessions": {state.value: count for state, count in snapshot.sessions.items()},
        "waiting": snapshot.waiting,
        "in_flight": snapshot.in_flight,
        "breaker": snapshot.breaker.value,
        "next_due": None if snapshot.next_due is None else snapshot.next_due.isoformat(),
        "errors": dict(snapshot.errors),
        "last_error": None if snapshot.last_error is None else type(snapshot.last_error).__name__,
    }
