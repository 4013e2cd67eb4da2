"""What a backend does for its browsers, whatever the framework: `token_rules` decides, and a fleet has the tokens."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar, cast

import attrs

from signalwire_tokens import wire
from signalwire_tokens.errors import (
    ConfigurationError,
    SessionClosed,
    SignalWireTokenError,
    TokenUnavailable,
)
from signalwire_tokens.fleet import BreakerState, FleetSnapshot, SessionFleet
from signalwire_tokens.keeper import engine_of
from signalwire_tokens.models import digest_of

from . import token_rules

if TYPE_CHECKING:
    from signalwire_tokens.client import TokenClient
    from signalwire_tokens.models import Token

__all__ = ["Backend", "FleetSource", "Identity", "Visit"]

LEAST_LEFT = 60.0  # seconds that a token has left at least: a browser comes back five seconds before its end
LOOK_EVERY = 1.0  # seconds for which a look at all sessions is good: anybody may ask after a backend's health

CLIENT_ERRORS, NOT_NOW = range(400, 500), 503

R = TypeVar("R")
Identity: TypeAlias = str | Awaitable[str | None] | None
FleetSource: TypeAlias = SessionFleet | Callable[[], AbstractAsyncContextManager[SessionFleet]]

logger: logging.Logger = logging.getLogger("signalwire_tokens.backend")


@attrs.frozen
class Visit(Generic[R]):
    """A request, as the framework has it and as `token_rules` reads it, and how to read its body."""

    request: R
    asked: token_rules.Asked
    read: Callable[[], Awaitable[bytes]]


class Backend(Generic[R]):
    """Give browsers their tokens, and keep those alive in a fleet; each framework's own says with what it is made."""

    _snapshot: FleetSnapshot | None = None
    _snapshot_at: float = 0.0
    _binding: int = 0

    def __init__(
        self,
        fleet: FleetSource,
        *,
        identify: Callable[[R], Identity],
        allowed_origins: Iterable[str] = (),
        public_origin: str | None = None,
        allow_device_tokens: bool = False,
        issues_per_minute: int = 20,
    ) -> None:
        if not isinstance(fleet, SessionFleet) and not callable(fleet):
            raise ConfigurationError("a backend needs a SessionFleet, or a function that opens one")
        if not callable(identify):
            raise ConfigurationError("identify must be a function from a request to a subscriber's reference, or None")
        self._source: FleetSource = fleet
        self._fleet: SessionFleet | None = fleet if isinstance(fleet, SessionFleet) else None
        self._identify = identify
        self._rules = token_rules.Rules(
            allowed_origins=allowed_origins, public_origin=public_origin, allow_device_tokens=allow_device_tokens
        )
        self._limit = token_rules.IssueLimit(issues_per_minute)

    @property
    def fleet(self) -> SessionFleet:
        """The fleet, while it is open."""
        if self._fleet is None:
            raise ConfigurationError("the backend has no open fleet: give its `lifespan` to the application")
        return self._fleet

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        """Hold the fleet open; at the end, what is being renewed is waited for, so that no refresh token is lost."""
        if isinstance(self._source, SessionFleet):  # whoever opened it closes it
            yield
            return
        opening: object = self._source()
        if not isinstance(opening, AbstractAsyncContextManager):
            raise ConfigurationError("what opens the fleet must be for `async with`: is it an @asynccontextmanager?")
        async with cast("AbstractAsyncContextManager[object]", opening) as fleet:
            if not isinstance(fleet, SessionFleet):
                raise ConfigurationError("what opens the fleet must give a SessionFleet")
            self._fleet, self._snapshot = fleet, None
            self._limit = token_rules.IssueLimit(self._limit.most)  # the clock may be another one
            try:
                yield
            finally:
                self._fleet = None

    async def _hand_out(self, visit: Visit[R]) -> token_rules.Answer:
        """Answer with the token of whoever asks."""
        return await self._admit(visit, self._give)

    async def _log_out(self, visit: Visit[R]) -> token_rules.Answer:
        """Keep the token of whoever asks alive no longer."""
        return await self._admit(visit, self._discard)

    def _tell_health(self, method: str) -> token_rules.Answer:
        """Answer how the fleet stands, without naming anybody."""
        asked = token_rules.Asked(method, {})  # without the request's headers: no page of another origin gets CORS
        return token_rules.finish(token_rules.admit_look(method) or self._answer_health(), asked, self._rules)

    def _answer_health(self) -> token_rules.Answer:
        try:
            return token_rules.answer_with(describe(self._look_at(self.fleet)))
        except (ConfigurationError, SessionClosed):
            return token_rules.refuse(NOT_NOW, "The fleet is not open.")

    def _look_at(self, fleet: SessionFleet) -> FleetSnapshot:
        now = fleet.client.clock.now()
        if self._snapshot is None or not 0 <= now - self._snapshot_at < LOOK_EVERY:
            self._snapshot, self._snapshot_at = fleet.snapshot(), now
        return self._snapshot

    async def _admit(
        self, visit: Visit[R], go_on: Callable[[str, token_rules.Wish], Awaitable[token_rules.Answer]]
    ) -> token_rules.Answer:
        """Let the application's own pages go on, once it is known who asks, and for what."""
        answer = token_rules.admit(visit.asked, self._rules) or await self._hear(visit, go_on)
        if answer.status in CLIENT_ERRORS:
            logger.debug("a request of the origin %.200r: %d", visit.asked.headers.get("origin"), answer.status)
        return token_rules.finish(answer, visit.asked, self._rules)

    async def _hear(
        self, visit: Visit[R], go_on: Callable[[str, token_rules.Wish], Awaitable[token_rules.Answer]]
    ) -> token_rules.Answer:
        found = self._identify(visit.request)
        reference = await found if inspect.isawaitable(found) else found
        if reference is None:
            return token_rules.refuse(401, "Sign in first.")
        if not isinstance(reference, str):
            raise TypeError(
                f"identify must return a subscriber's reference or None, and not a {type(reference).__name__}"
            )
        wish = token_rules.read_wish(await visit.read(), self._rules)
        if isinstance(wish, token_rules.Answer):
            return wish
        try:
            return await go_on(reference, wish)
        except SignalWireTokenError as error:
            answer = token_rules.answer_for(error)
            level = logging.DEBUG if answer.status == NOT_NOW else logging.ERROR  # the fleet has told of an outage
            logger.log(level, "no token for a browser of #%s: %s", digest_of(reference), error)
            return answer

    async def _give(self, reference: str, wish: token_rules.Wish) -> token_rules.Answer:
        fleet = self.fleet
        if wish.fingerprint is not None:
            return await self._bind(fleet.client, reference, wish.fingerprint)
        if reference not in fleet and (refusal := self._count(fleet.client, reference)) is not None:
            return refusal
        session = fleet.session(reference)
        await session.token(min(LEAST_LEFT, engine_of(session).cycle.longest_ttl))
        # By the clock that counts, which a step of the wall clock since the token was issued does not mislead.
        return give(session.pair.access_token, fleet.client.clock.wall() + session.expires_in.total_seconds())

    async def _bind(self, client: TokenClient, reference: str, fingerprint: str) -> token_rules.Answer:
        """Answer with a new token that a device's key binds, asked for once; never too many at a time."""
        now = client.clock.now()
        pause = token_rules.pause_before_binding(client.throttle, now=now, under_way=self._binding)
        if pause is not None:
            throttled = client.throttle.left(now) > 0
            reason = "SignalWire asked to be left alone" if throttled else "too many are being issued"
            raise TokenUnavailable(f"no token is issued now: {reason}", retry_after=pause)
        request = wire.create_subscriber_token(
            reference, now=client.clock.wall(), fingerprint=fingerprint, scope="sat:refresh"
        )
        if (refusal := self._count(client, reference)) is not None:
            return refusal
        self._binding += 1
        try:
            pair = await client.send(request, retries=0)
        finally:
            self._binding -= 1
        return give(pair.access_token, pair.access_token.expires_at.timestamp())

    def _count(self, client: TokenClient, reference: str) -> token_rules.Answer | None:
        """Count a token that is issued for a reference, or return the refusal if it has had too many."""
        pause = self._limit.take(reference, now=client.clock.now())
        return None if pause is None else token_rules.ask_later(429, "Too many new tokens: ask again later.", pause)

    async def _discard(self, reference: str, _: token_rules.Wish) -> token_rules.Answer:
        await self.fleet.close_session(reference)
        return token_rules.Answer(status=204)


def give(token: Token, ends: float) -> token_rules.Answer:
    """Answer with a token, and when it ends: in milliseconds, as pages reckon."""
    return token_rules.answer_with({"token": token.value, "expiry_at": int(ends * 1000)})


def describe(snapshot: FleetSnapshot) -> dict[str, object]:
    """Say how a fleet stands, in what JSON has. That one subscriber is refused says nothing of the service."""
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
