"""`TokenClient`: one method for each of SignalWire's operations.

A call goes through these steps::

    create_subscriber_token(…)   wraps its secret arguments
      _ask                       checks them and describes the request with `wire`, and returns a coroutine
        send → _send             bounds the whole call by the timeout
          _attempt               sends the request once, and reads the answer with `wire`
          _ask_again             sends it again, as `wire.pause_before_retry` and `_may_ask_again` allow

`_attempt` returns errors instead of raising them. An error that was raised there would have frames in its traceback
that hold the answer's body.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl as tls
import warnings
from base64 import b64decode
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, Self, TypeAlias, TypedDict, TypeVar, Unpack, assert_never

import attrs

from signalwire_tokens import wire
from signalwire_tokens.clock import SYSTEM, Clock
from signalwire_tokens.durations import seconds_of, spoken
from signalwire_tokens.errors import (
    ConfigurationError,
    InvalidRequest,
    SignalWireTokenError,
    TimedOut,
    TransportError,
    Unauthorized,
    UnexpectedResponse,
)
from signalwire_tokens.models import Address, Lifetimes, SubscriberInfo, Token, TokenPair
from signalwire_tokens.secret import Secret
from signalwire_tokens.throttle import LONGEST_THROTTLE, Throttle

from . import environment
from .credentials import ProjectCredentials, without_tracebacks
from .limits import CallLimits
from .observing import observe, show_hint
from .sender import Sender, SendProgress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from uuid import UUID

    import aiohttp

    from signalwire_tokens.durations import Duration

    from .observing import Observer

__all__ = ["ClientSettings", "TokenClient", "context_trusting", "make_client"]

P = ParamSpec("P")
T = TypeVar("T")
ApiToken: TypeAlias = str | Callable[[], str | Awaitable[str]]
Route: TypeAlias = tuple[str, Sender, Throttle]

logger: logging.Logger = logging.getLogger("signalwire_tokens.client")


class ClientSettings(TypedDict, total=False):
    """The arguments of `TokenClient` that `BackendSession` and `DeviceSession` accept for the client that they make."""

    http_session: aiohttp.ClientSession | None
    ssl: tls.SSLContext | None
    proxy: str | None
    timeout: Duration
    clock: Clock | None


class TokenClient:
    """A client for SignalWire's token API. It issues each kind of token, and looks up subscribers and addresses.

    `space` is a space's name, its host or its origin. `project_id` and `api_token` are the project's credentials.
    Without them, only the operations that send other credentials, or none, work. `api_token` may be a function, sync or
    async, that returns the current API token. The client keeps the returned token, and calls the function again when
    SignalWire refuses that token. `embed_origin` is the host or origin to which `create_embed_token` sends its request,
    such as `https://embeds.signalwire.com`. None means the space.

    `timeout` bounds a whole call, including up to `retries` repetitions and the pauses between them. `lifetimes` is how
    long the space's tokens are valid; None means SignalWire's standard lifetimes. `clock` is the time by which expiries
    and pauses are calculated, and tests pass their own. `origin` is the space's origin.

    A client belongs to the event loop on which it sends its first request. Close it with `async with` or `aclose()`.

    An `aiohttp.ClientSession` that you give as `http_session` is used and never closed. The client's own session reuses
    a connection only if nothing arrived while it was idle. aiohttp's connectors don't check that, so the client leaves
    no connection in the pool of a given session. It can't check a connection that your app left there: if your app
    calls the same space through that session, a stray answer to your app may be returned to the client.
    """

    origin: str = "not set up"
    embed_origin: str = "not set up"
    project_id: str | None = None
    lifetimes: Lifetimes
    clock: Clock
    throttle: Throttle
    observers: tuple[Observer, ...] = ()

    def __init__(
        self,
        space: str,
        project_id: str | None = None,
        api_token: ApiToken | None = None,
        *,
        embed_origin: str | None = None,
        http_session: aiohttp.ClientSession | None = None,
        ssl: tls.SSLContext | None = None,
        proxy: str | None = None,
        timeout: Duration = 10.0,
        retries: int = 3,
        lifetimes: Lifetimes | None = None,
        clock: Clock | None = None,
    ) -> None:
        place, token, hidden_proxy = Secret(space), Secret[Any](api_token), Secret(proxy)
        embeds_place = Secret(embed_origin)
        del space, api_token, proxy, embed_origin
        self.lifetimes = Lifetimes() if lifetimes is None else lifetimes
        self.origin, self.embed_origin = wire.check_client_settings(
            place,
            project_id,
            token,
            embed_origin=embeds_place,
            timeout=timeout,
            retries=retries,
            lifetimes=self.lifetimes,
        )
        self.project_id = project_id
        self.timeout: float = seconds_of(timeout)
        self._limits = CallLimits(self.timeout)
        self._retries = retries
        self.clock = SYSTEM if clock is None else clock
        self._credentials = ProjectCredentials(project_id, token)
        self.throttle = Throttle()
        self.sender: Sender = Sender(self.origin, http_session, ssl, hidden_proxy)
        self._embeds: Route | None = None  # if embed requests don't go to the space
        if self.embed_origin != self.origin:
            self._embeds = self.embed_origin, Sender(self.embed_origin, http_session, ssl, hidden_proxy), Throttle()

    @classmethod
    def from_env(
        cls,
        *,
        embed_origin: str | None = None,
        http_session: aiohttp.ClientSession | None = None,
        ssl: tls.SSLContext | None = None,
        proxy: str | None = None,
        timeout: Duration = 10.0,
        retries: int = 3,
        lifetimes: Lifetimes | None = None,
        clock: Clock | None = None,
    ) -> Self:
        """Return a client with the settings in `SIGNALWIRE_SPACE`, `SIGNALWIRE_PROJECT_ID` and `SIGNALWIRE_API_TOKEN`.

        Only the space is required. Without one of the other two, an operation that sends the project's credentials
        raises a `ConfigurationError` that names the missing variables.

        Three more variables are optional:

        - `SIGNALWIRE_REST_CA_FILE`: a PEM file with the certificates to trust in place of the system's
        - `SIGNALWIRE_TOKENS_LIFETIME`: how long access tokens live, such as `15m`, if not two hours
        - `SIGNALWIRE_TOKENS_EMBED_ORIGIN`: where embed requests go, if not to the space

        Blanks around a value are ignored. A variable that is empty or blank counts as one that isn't set. An argument
        takes precedence over its variable.
        """
        space, ca_file = environment.space(), environment.ca_file()
        if space is None:
            names = ", ".join(environment.missing())
            raise ConfigurationError(f"not set: {names}. The space is a name, a host or an origin")
        hidden_proxy = Secret(proxy)
        embeds_place = Secret(environment.embed_origin() if embed_origin is None else embed_origin)
        del proxy, embed_origin
        lifetimes = environment.lifetimes() if lifetimes is None else lifetimes
        client = cls(
            space,
            environment.project_id(),
            environment.api_token(),
            embed_origin=embeds_place.value,
            http_session=http_session,
            ssl=context_trusting(ca_file) if ssl is None and ca_file else ssl,
            proxy=hidden_proxy.value,
            timeout=timeout,
            retries=retries,
            lifetimes=lifetimes,
            clock=clock,
        )
        client._credentials.from_environment = True
        return client

    def __repr__(self) -> str:
        return f"<TokenClient {self.origin} project {self.project_id or 'not set'}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client and its own connections. A given `http_session` stays open.

        Close sessions and fleets first. A call that waits for its answer on a connection of the client's own raises
        `ConnectionFailed`; one that still connects does so once it has, or at its time limit. A call that pauses before
        its next attempt isn't repeated any more, and fails with its last error. A closed client can't be used again.
        """
        self._limits.close()
        async with AsyncExitStack() as stack:
            for sender in self._senders():
                sender.stop()
                stack.push_async_callback(sender.aclose)
            stack.push_async_callback(self._credentials.aclose)

    def _senders(self) -> list[Sender]:
        return [self.sender] if self._embeds is None else [self.sender, self._embeds[1]]

    def __del__(self) -> None:
        # `_embeds` is missing if the constructor raised an error.
        if hasattr(self, "_embeds") and any(sender.leaks for sender in self._senders()):
            warnings.warn(
                f"unclosed {self!r}: use `async with`, or await its aclose()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def create_subscriber_token(
        self,
        reference: str,
        *,
        expire_at: wire.When | None = None,
        **token_fields: Unpack[wire.TokenFields],
    ) -> Coroutine[Any, Any, TokenPair]:
        """Issue a pair for a subscriber: an access token (SAT) and a refresh token.

        `reference` is your app's name for the subscriber. SignalWire creates a subscriber if the reference is new.
        `expire_at` is when the access token expires: unix seconds, a datetime with a time zone, or a timedelta from
        now. None means the standard lifetime of two hours.

        `token_fields` are the fields of `TokenFields`. `password` and the profile (`first_name` to `company_name`) are
        saved in the subscriber. A field that is None keeps its old value there. `fingerprint` and `scope="sat:refresh"`
        return a token that is bound to a device's key. `extra` holds fields that are newer than this library, by their
        names in SignalWire's API.
        """
        hidden = wire.with_secrets_hidden(token_fields, "TokenClient.create_subscriber_token")
        token_fields.clear()  # type: ignore[attr-defined]  # this frame must not hold a password; it is a dict
        now = self.clock.wall()
        return self._ask(wire.create_subscriber_token, reference, now=now, expire_at=expire_at, **hidden)

    def refresh_subscriber_token(self, refresh_token: str | Token) -> Coroutine[Any, Any, TokenPair]:
        """Exchange a refresh token for a new pair.

        Save both tokens of the new pair, because the old refresh token can't be used again. The new pair has the
        standard lifetimes, even if the old one was issued with `expire_at`.

        If the answer is lost, the client doesn't repeat the request, because the refresh token may be used up. Look at
        `sent` of the error. If it isn't False, issue a new pair.

        Pass the refresh token as a `Token` if its pair has the scope `sat:refresh` and no fingerprint. Such a pair
        lives for a minute. The client can't see that from a string, and would assume the standard lifetimes for the new
        pair.
        """
        hidden = wire.mask(refresh_token)
        del refresh_token
        return self._ask(wire.refresh_subscriber_token, hidden)

    def create_guest_token(
        self,
        allowed_addresses: Iterable[UUID | str],
        *,
        expire_at: wire.When | None = None,
        region: str | None = None,
        ch: str | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> Coroutine[Any, Any, TokenPair]:
        """Issue a pair for a guest, who may call only the given 1 to 10 addresses.

        `allowed_addresses` are the addresses' ids. `expire_at` and `extra` are as for `create_subscriber_token`.
        `region` and `ch` are passed to SignalWire as they are.
        """
        more = Secret(extra)
        del extra
        return self._ask(
            wire.create_guest_token,
            allowed_addresses,
            now=self.clock.wall(),
            expire_at=expire_at,
            region=region,
            ch=ch,
            extra=more,
        )

    def create_invite_token(
        self,
        address_id: UUID | str,
        *,
        subscriber_token: str | Token,
        expires_at: wire.When | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> Coroutine[Any, Any, Token]:
        """Issue a token that invites its holder to an address, in the name of a subscriber.

        The request is authorized by the subscriber's access token, not by the project's API token. `expires_at` and
        `extra` are as `expire_at` and `extra` of `create_subscriber_token`.
        """
        hidden, more = wire.mask(subscriber_token), Secret(extra)
        del subscriber_token, extra
        return self._ask(
            wire.create_invite_token,
            address_id,
            subscriber_token=hidden,
            now=self.clock.wall(),
            expires_at=expires_at,
            extra=more,
        )

    def create_embed_token(self, token: str) -> Coroutine[Any, Any, Token]:
        """Exchange a public click-to-call token (`c2c_…` or `c2t_…`) for a guest's token.

        The request goes to `embed_origin` and carries no other credentials.
        """
        hidden = wire.mask(token)
        del token
        return self._ask(wire.create_embed_token, hidden)

    def subscriber_addresses(self, subscriber_id: UUID | str) -> AsyncIterator[Address]:
        """Yield a subscriber's addresses. `create_guest_token` and `create_invite_token` take their ids.

        Pages are fetched as they are needed. Each page is a call with its own timeout and retries.
        """
        return self._pages(wire.subscriber_addresses(subscriber_id, origin=self.origin))

    def addresses(self, access_token: str | Token) -> AsyncIterator[Address]:
        """Yield the addresses that the holder of an access token can call: a subscriber, or a guest.

        The requests are authorized by the access token itself, and fetch pages as they are needed. SignalWire refuses a
        token that is bound to a device's key, because they carry no proof.
        """
        hidden = wire.mask(access_token)
        del access_token
        return self._pages(wire.addresses(hidden, origin=self.origin))

    def address(self, address_id: UUID | str, *, access_token: str | Token) -> Coroutine[Any, Any, Address]:
        """Return one of the addresses that the holder of an access token can call.

        Any other address raises `NotFound`. The token is as for `addresses`.
        """
        hidden = wire.mask(access_token)
        del access_token
        return self._ask(wire.address, address_id, access_token=hidden)

    def subscriber_info(self, subscriber_token: str | Token) -> Coroutine[Any, Any, SubscriberInfo]:
        """Return the subscriber that an access token is for, and the token's scope and expiry.

        The request is authorized by the access token itself.
        """
        hidden = wire.mask(subscriber_token)
        del subscriber_token
        return self._ask(wire.subscriber_info, hidden)

    # The methods above aren't coroutine functions, because a coroutine function keeps its arguments until its first
    # step. If it is cancelled before that, its traceback shows them. A plain function has wrapped them by then.
    def _ask(
        self, describe: Callable[P, wire.Request[T]], *arguments: P.args, **named: P.kwargs
    ) -> Coroutine[Any, Any, T]:
        try:
            return self.send(describe(*arguments, **named))
        except InvalidRequest as error:
            return fail(error.with_traceback(None))
        except Exception as error:  # noqa: BLE001 - of an argument of your own, such as an iterable
            return fail(error)

    async def _pages(self, request: wire.Request[wire.Page]) -> AsyncIterator[Address]:
        seen: set[str] = set()  # a page that links back to an earlier one must not cause an endless loop
        following: str | None = request.path
        while following is not None and following not in seen:
            seen.add(following)
            page = await self.send(attrs.evolve(request, path=following))
            for address in page.addresses:
                yield address
            following = page.next

    def send(
        self, request: wire.Request[T], *, retries: int | None = None, limit: float | None = None
    ) -> Coroutine[Any, Any, T]:
        """Send a request that `wire` describes, and return what its answer holds.

        `retries` is how often the request may be repeated, and None means the client's `retries`. `limit` is in
        seconds. The call ends after the shorter of `limit` and the client's `timeout`.
        """
        return (self._send_watched if self.observers else self._send)(request, retries, limit)

    async def _send_watched(self, request: wire.Request[T], retries: int | None, limit: float | None) -> T:
        with observe(self.observers, request.operation, self._route(request)[0]):
            return await self._send(request, retries, limit)

    async def _send(self, request: wire.Request[T], retries: int | None, limit: float | None) -> T:
        progress = SendProgress()
        seconds = self.timeout if limit is None else min(limit, self.timeout)
        try:
            with self._limits.limit(seconds) as limited:
                outcome = await self._attempt(request, progress)
                if not isinstance(outcome, SignalWireTokenError):
                    return outcome
                most = self._retries if retries is None else retries
                outcome = await self._ask_again(request, progress, outcome, most, limited.ends_at)
        except TimeoutError:
            outcome = self._timed_out(request, progress, seconds)
        if isinstance(outcome, SignalWireTokenError):
            raise outcome
        return outcome

    def _timed_out(self, request: wire.Request[T], progress: SendProgress, seconds: float) -> TimedOut:
        """Return the error for a call that took longer than `seconds`."""
        within = f"within {spoken(seconds)}"
        if request.auth is wire.Auth.PROJECT and self._credentials.kept is None:
            message = f"the api_token function hasn't returned {within}"
            return TimedOut(message, sent=progress.sent, operation=request.operation, status=progress.status)
        # A session with a store has a limit of its own, which may be shorter.
        advice = "check the network" if seconds < self.timeout else "check the network, or raise timeout"
        return self._route(request)[1].timed_out(request, progress, within, advice)

    async def _ask_again(
        self,
        request: wire.Request[T],
        progress: SendProgress,
        outcome: T | SignalWireTokenError,
        retries: int,
        ends_at: float,
    ) -> T | SignalWireTokenError:
        """Repeat a request after an error, until it succeeds or must not be repeated, and return the last outcome.

        After `Unauthorized`, the request is repeated once without a pause, if there is another API token. That doesn't
        count as one of the `retries`. After any other error, `wire.pause_before_retry` decides.
        """
        failures, asked_again = 0, False
        while isinstance(outcome, SignalWireTokenError):
            if isinstance(outcome, Unauthorized) and not asked_again and await self._may_ask_again(request, progress):
                asked_again = True
                outcome = await self._attempt(request, progress)
                continue
            left = ends_at - asyncio.get_running_loop().time()
            draw = random.random()  # noqa: S311 - it spreads load and keeps no secret
            quiet = self._route(request)[2].left(self.clock.now(), longest=LONGEST_THROTTLE)
            pause = wire.pause_before_retry(request, outcome, failures=failures, draw=draw, left=left, quiet=quiet)
            failures += 1
            if pause is None or failures > retries or self.sender.closed:
                return outcome
            logger.debug("%s; repeating the request in %s", outcome, spoken(pause))
            await self.clock.sleep(pause)
            if self.sender.closed:
                return outcome
            outcome = await self._attempt(request, progress)
        return outcome

    async def _attempt(self, request: wire.Request[T], progress: SendProgress) -> T | SignalWireTokenError:
        """Send a request once, and return its result or its error.

        Every answer is also reported to the throttle of its origin, which all users of the client share. Observers get
        what it reports about the rate limit.
        """
        origin, sender, throttle = self._route(request)
        sender.check()
        kept = self._credentials.kept if request.auth is wire.Auth.PROJECT else None
        progress.start(kept or await self._authorize(request))
        sent, sent_at = self.clock.now(), self.clock.wall()
        try:
            status, headers, body = await sender.send(request, progress)
        except TransportError as error:
            return error.with_traceback(None)
        logger.debug("%s: answered with status %d", request.operation, status)
        answer = wire.Answer(status=status, headers=headers, body=body.value, sent=sent_at, lifetimes=self.lifetimes)
        outcome = wire.read(request, answer, secrets=lambda: (*self._credentials.secrets, *credentials_of(progress)))
        failure = outcome if isinstance(outcome, SignalWireTokenError) else None
        throttle.note(failure, sent=sent, now=self.clock.now())
        if (self.observers or throttle.followers) and (hint := wire.read_hint(answer)) is not None:
            show_hint(self.observers, request.operation, origin, hint)
            for follower in tuple(throttle.followers):
                follower.rate_limit_reported(hint)
        if isinstance(outcome, UnexpectedResponse):
            progress.drop()  # more answers to other requests may arrive on the same connection
        return outcome

    def _route(self, request: wire.Request[Any]) -> Route:
        """Return the origin that a request goes to, with the sender and the throttle for it."""
        if request.for_embeds and self._embeds is not None:
            return self._embeds
        return self.origin, self.sender, self.throttle

    async def _authorize(self, request: wire.Request[T]) -> Secret[str] | None:
        """Return the `Authorization` header of a request, or None if its operation sends none."""
        match request.auth:
            case wire.Auth.PROJECT:
                return await self._credentials.header(request.operation)
            case wire.Auth.SUBSCRIBER:
                return Secret(f"Bearer {request.bearer.value}") if request.bearer else None
            case wire.Auth.NONE:
                return None
            case _:
                assert_never(request.auth)

    async def _may_ask_again(self, request: wire.Request[T], progress: SendProgress) -> bool:
        """Return whether the project has another API token than the one that SignalWire refused.

        If `api_token` is a function, this calls it.
        """
        if request.auth is not wire.Auth.PROJECT or progress.authorization is None:
            return False
        return await self._credentials.changed(progress.authorization, request.operation)


async def fail(error: Exception) -> NoReturn:
    """Raise an error once the call is awaited, as a coroutine function would."""
    raise error


def make_client(kind: str, place: Secret[str], settings: Secret[ClientSettings]) -> TokenClient:
    """Return a new client for a session, which owns it and closes it.

    `kind` is the session's class, for the `TypeError` about an unknown setting.
    """
    unknown = settings.value.keys() - ClientSettings.__annotations__.keys()
    if unknown:
        raise TypeError(f"{kind} got an unexpected keyword argument {min(unknown)!r}")
    return TokenClient(place.value, **settings.value)


def credentials_of(progress: SendProgress) -> tuple[Secret[str], ...]:
    """Return the credentials that a request carried, so that they can be removed from error texts.

    They may be older than the client's current ones. For basic authentication, the API token is returned as well.
    """
    if progress.authorization is None:
        return ()
    value = Secret(progress.authorization.value.partition(" ")[2])
    with suppress(ValueError):
        return (value, Secret(b64decode(value.value, validate=True).decode().partition(":")[2]))
    return (value,)


def context_trusting(ca_file: str) -> tls.SSLContext:
    """Return a TLS context that trusts only the certificates in a PEM file."""
    try:
        return tls.create_default_context(cafile=ca_file)
    except OSError as error:
        failure, reason = without_tracebacks(error), error.strerror
    if isinstance(failure, tls.SSLError):
        reason = "it holds none"
    raise ConfigurationError(
        f"SIGNALWIRE_REST_CA_FILE: can't read certificates from {ca_file} ({reason}): it must be a PEM file"
    ) from failure
