"""`DeviceSession`: keeps a token valid that is bound to a device's key.

A renewal is an exchange that carries a proof, which the key signs:

- The first token, from a backend, is exchanged for a bound one. The policy's name for this step is `IssueNew`.
- A bound token is exchanged for the next bound one. The policy's name for this step is `UseRefreshToken`.

A proof contains the time, and SignalWire accepts it only within about a minute of that. A device's wall clock is often
wrong, so the session learns SignalWire's time. `DeviceRenewal` explains how.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

from signalwire_tokens import wire
from signalwire_tokens.client import CallerFunction, TokenClient, make_client, report_renewal
from signalwire_tokens.errors import ConfigurationError, Problem, RateLimited, SignalWireTokenError, Unauthorized
from signalwire_tokens.keeper import TokenSession, failure_of
from signalwire_tokens.models import Token
from signalwire_tokens.outcomes import Ambiguous, IssueNew, Misconfigured, NotSent, Renewed, Spent
from signalwire_tokens.secret import Secret

from .key import DeviceKey

if TYPE_CHECKING:
    from signalwire_tokens.client import ClientSettings
    from signalwire_tokens.durations import Duration
    from signalwire_tokens.keeper import RenewalRequest
    from signalwire_tokens.models import TokenPair
    from signalwire_tokens.outcomes import Failure
    from signalwire_tokens.policy import RefreshPolicy

__all__ = ["DeviceSession"]

TokenSource: TypeAlias = str | Token | Callable[[], str | Token | Awaitable[str | Token]]
Bearer: TypeAlias = Secret[str] | Token

EXCHANGE, REFRESH = "create_device_token", "refresh_device_token"
REFRESH_SCOPE = "sat:refresh"
NOT_ACCEPTED = f"SignalWire refused the token (401): issue one with scope={REFRESH_SCOPE!r}"
UNKNOWN_FAULT = (
    "SignalWire refused the key's proof (401), and no fault of the token is known: check this machine's clock, and any "
    "proxy"
)
QUARTER_OF_AN_HOUR = timedelta(minutes=15)


class DeviceSession(TokenSession):
    """A session that keeps a token valid that a device's key binds, without the project's credentials.

    `token` is the first token: an access token that a backend issued with `scope="sat:refresh"` and the fingerprint of
    `key`. The session exchanges it for a token that is bound to the key, and exchanges each bound token for the next
    one. A bound token lives for `lifetime`.

    If a bound token expires or is refused, the session exchanges the first token again, as long as that one is
    accepted. `token` may also be a function, sync or async, that returns a first token. The session calls it each time
    that it needs one, and must get it within `timeout` seconds. With a function, the session never expires.

    `http_session`, `ssl`, `proxy`, `timeout` and `clock` are the arguments of `TokenClient`. The session makes a client
    with them, offers it as `client`, and closes it.
    """

    __slots__ = ("_renewal", "client", "key")

    def __init__(
        self,
        space: str,
        token: TokenSource,
        key: DeviceKey,
        *,
        lifetime: Duration = QUARTER_OF_AN_HOUR,
        policy: RefreshPolicy | None = None,
        **settings: Unpack[ClientSettings],
    ) -> None:
        place, source, held, options = Secret(space), Secret[Any](token), Secret[Any](key), Secret(settings.copy())
        del space, token, key
        settings.clear()  # type: ignore[attr-defined]  # a proxy's password must not stand in this frame; it is a dict
        if isinstance(place.value, TokenClient):
            raise ConfigurationError("DeviceSession makes its own client: pass the space, such as 'acme', as space")
        if not isinstance(held.value, DeviceKey):
            raise ConfigurationError(
                f"key must be a DeviceKey, not {type(held.value).__name__}: create one with DeviceKey.generate()"
            )
        client = make_client("DeviceSession", place, options)
        # Raises now, rather than in the background, if an argument is wrong.
        first = Secret("later") if callable(source.value) else as_bearer(source)
        wire.create_device_token(first, proof=Secret("later"), lifetime=lifetime)
        self.client: TokenClient = client
        self.key: DeviceKey = held.value
        self._renewal: DeviceRenewal = DeviceRenewal(client, self.key, source, lifetime)
        super().__init__(
            self._renewal,
            lifetime=lifetime,
            policy=policy,
            clock=client.clock,
            presents=True,
            keeps_all=False,
            throttle=(client.throttle, client.clock),
        )

    def proof(self, method: str, uri: str) -> str:
        """Return a proof of possession of the key, for one HTTP request that carries the current token.

        The proof has SignalWire's time, so this machine's clock may be wrong. `DeviceKey.proof` explains the arguments.
        """
        return self.key.proof(method, uri, self.pair.access_token, now=self._renewal.service_time())

    def rpc_proof(self, method: str) -> str:
        """Return a proof of possession of the key, for one call of `method` over a realtime connection.

        The proof has SignalWire's time, so this machine's clock may be wrong.
        """
        return self.key.rpc_proof(method, now=self._renewal.service_time())


class DeviceRenewal:
    """A `Renewal` that exchanges tokens with proofs, which are signed by a device's key.

    `_epoch` is what SignalWire's clock showed when the session's clock showed 0, or None if it is unknown. With it, a
    later change of this machine's wall clock doesn't matter. It is set:

    - after the first success, from the wall clock, which can't be far off if the proof was accepted
    - after a refusal (401), from the `Date` of the answer; the exchange is then repeated once with a new proof

    SignalWire may answer 401 without a reason, whether the proof or the token is wrong. If the repetition is refused,
    too, the renewal looks the token up with `subscriber_info`, which needs no proof. So the error can name the cause.
    """

    def __init__(self, client: TokenClient, key: DeviceKey, source: Secret[Any], lifetime: Duration) -> None:
        self._client = client
        self.label: str = f"of key #{key.fingerprint[:8]}"
        self.adopted: Callable[[float], None] = partial(report_renewal, client)
        self.aclose: Callable[[], Awaitable[None]] = client.aclose
        self._key = key
        self._source = source
        self._function = CallerFunction(source, "token") if callable(source.value) else None
        self._lifetime = lifetime
        self._epoch: float | None = None

    def service_time(self) -> float:
        """Return the time by SignalWire's clock, in unix seconds, or by the wall clock if that is unknown."""
        clock = self._client.clock
        return clock.wall() if self._epoch is None else self._epoch + clock.now()

    def _exchange(self, token: Bearer) -> wire.Request[TokenPair]:
        """Return the request that exchanges a first token for a bound one."""
        # The proof names only the path instead of the whole URL, as SignalWire's own SDK does.
        proof = Secret(self._key.proof("POST", wire.DEVICE_EXCHANGE, now=self.service_time()))
        return wire.create_device_token(token, proof=proof, lifetime=self._lifetime)

    def _refresh(self, pair: TokenPair, seen: set[int]) -> wire.Request[TokenPair]:
        """Return the request that exchanges a bound token for the next one.

        `seen` is as in `wire.accepting_only_successor`.
        """
        proof = Secret(self._key.proof("POST", wire.DEVICE_REFRESH, pair.refresh_token, now=self.service_time()))
        request = wire.refresh_device_token(pair.refresh_token, proof=proof, lifetime=self._lifetime)
        return wire.accepting_only_successor(request, pair, seen)

    async def renew(self, request: RenewalRequest) -> Renewed:
        """Return the next bound token, as a pair whose fields both hold it, or raise the client's error."""
        token: Bearer
        client, pair = self._client, request.pair
        if pair is None or isinstance(request.step, IssueNew):
            token = await self._fetch()
            describe = partial(self._exchange, token)
        else:
            # The newest token. It is also the access token, unless an older one that expires later stays in use.
            token = pair.refresh_token
            describe = partial(self._refresh, pair, set(request.current.seen))
        try:
            bound = await client.send(describe(), retries=0, limit=request.timeout)
        except Unauthorized as error:
            bound = await self._ask_once_more(describe, token, error.with_traceback(None))
        if self._epoch is None:  # the proof was accepted, so the wall clock is right now; it may be changed later
            self._epoch = client.clock.wall() - client.clock.now()
        return Renewed(bound, request.asked)

    async def _ask_once_more(
        self, describe: Callable[[], wire.Request[TokenPair]], token: Bearer, refused: Unauthorized
    ) -> TokenPair:
        """Repeat an exchange once after a 401, with a new proof by SignalWire's clock, and return the bound token.

        `describe` returns the request with a new proof. If SignalWire refuses that, too, raise `Unauthorized` with the
        cause as far as it can be found out. `refused` is the error of the first request.
        """
        client = self._client
        if refused.server_time is not None:
            self._epoch = refused.server_time - client.clock.now()
        try:
            return await client.send(describe(), retries=0)
        except Unauthorized as error:
            refused = error.with_traceback(None)
        if wire.about(refused.errors) is wire.Subject.TOKEN:
            raise refused  # its code shows that the token is wrong
        fault = await self._find_fault(token)
        raise Unauthorized(
            UNKNOWN_FAULT if fault is None else f"{NOT_ACCEPTED} and fingerprint={self._key.fingerprint!r}",
            operation=refused.operation,
            status=refused.status,
            errors=() if fault is None else (Problem(code="invalid_parameter", attribute="token", message=fault),),
            request_id=refused.request_id,
        )

    async def _fetch(self) -> Bearer:
        """Return the first token: as it was given, or from the function."""
        if self._function is None:
            return as_bearer(self._source)
        return as_bearer(await self._function.call(self._client.clock, self._client.timeout))

    async def _find_fault(self, token: Bearer) -> str | None:
        """Return what is wrong with a token that was refused twice, or None if that isn't known.

        Raise `RateLimited` if the lookup is throttled, so that the session makes the pause that SignalWire asks for.
        """
        try:
            info = await self._client.send(wire.subscriber_info(token), retries=0)
        except Unauthorized:
            return "has expired, was revoked, or belongs to another space"
        except RateLimited:
            raise
        except SignalWireTokenError:
            return None
        claims = info.sat_claims
        if claims is not None and REFRESH_SCOPE not in claims.scope:
            return f"lacks the scope {REFRESH_SCOPE}"
        if claims is not None and claims.fingerprint not in (None, self._key.fingerprint):
            return "is bound to another key"
        return None

    def meaning(self, error: SignalWireTokenError, request: RenewalRequest) -> Failure:
        """Return the failure that an error stands for.

        It differs from `failure_of` in three cases:

        - A 401 for an exchange counts as `Spent`, because the exchange was already repeated with a new proof.
        - A `Spent` first token counts as `Misconfigured` if a later attempt may succeed, so that the session doesn't
          expire. That is so if a function returns the token, if no fault of the token is known, or if the current token
          is still valid.
        - An unknown result (`Ambiguous`) counts as `NotSent`. An exchange doesn't use up the token, so it can be
          repeated.
        """
        is_refused = isinstance(error, Unauthorized) and error.operation in (EXCHANGE, REFRESH)
        meaning = Spent(error) if is_refused else failure_of(error, request.step)
        is_valid = request.current.left(self._client.clock.now()) > 0
        may_change = self._function is not None or not error.errors or is_valid
        if isinstance(meaning, Spent) and isinstance(request.step, IssueNew) and may_change:
            return Misconfigured(error)
        return NotSent(error) if isinstance(meaning, Ambiguous) else meaning


def as_bearer(given: Secret[Any]) -> Bearer:
    """Return a given `Token` as it is. A string stays in its `Secret`, so that no frame holds it."""
    return given.value if isinstance(given.value, Token) else given
