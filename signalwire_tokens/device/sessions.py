"""The session that renews with a device's key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

from signalwire_tokens import wire
from signalwire_tokens.client import CallerFunction, make_client, report_renewal
from signalwire_tokens.errors import ConfigurationError, Problem, RateLimited, SignalWireTokenError, Unauthorized
from signalwire_tokens.keeper import TokenSession, failure_of
from signalwire_tokens.models import Secret, Token
from signalwire_tokens.outcomes import Ambiguous, IssueNew, Misconfigured, NotSent, Renewed, Spent

from .key import DeviceKey

if TYPE_CHECKING:
    from signalwire_tokens.client import ClientSettings, TokenClient
    from signalwire_tokens.durations import Duration
    from signalwire_tokens.keeper import RenewalRequest
    from signalwire_tokens.models import TokenPair
    from signalwire_tokens.outcomes import Failure
    from signalwire_tokens.policy import RefreshPolicy

__all__ = ["DeviceSession"]

TokenSource: TypeAlias = str | Token | Callable[[], str | Token | Awaitable[str | Token]]
Bearer: TypeAlias = Secret[str] | Token

EXCHANGE, REFRESH = "create_device_token", "refresh_device_token"
SCOPE = "sat:refresh"
NOT_ACCEPTED = f"the token is not accepted (401): have one issued with scope={SCOPE!r}"
UNKNOWN = (
    "the key's proof is not accepted (401), and nothing is known to be wrong with the token: look at this machine's "
    "clock, and at whatever stands between it and the service"
)
QUARTER_OF_AN_HOUR = timedelta(minutes=15)


class DeviceSession(TokenSession):
    """A token that is bound to a device's key, kept alive without the project's credentials.

    `token` is an access token that a backend had issued with `scope="sat:refresh"` and this key's fingerprint. The
    session exchanges it for one that is bound to the key, and that lives for `lifetime` each time that it is renewed.
    Where the bound token has come to its end or is refused, the first one is exchanged again, as long as that is good;
    given as a function, sync or async, it is asked for anew each time, and so the session never ends by itself.

    `http_session`, `ssl`, `proxy`, `timeout` and `clock` are as `TokenClient` has them. `client` is the one that the
    session makes with them, and closes.
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
        if not isinstance(held.value, DeviceKey):
            raise ConfigurationError("key must be a DeviceKey: DeviceKey.generate() makes one")
        client = make_client("DeviceSession", place, options)
        # Refuses what is wrong with the arguments now, and not when it is too late.
        first = Secret("later") if callable(source.value) else masked(source)
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
        """Prove to have the key, for one request with the token at hand, whatever this machine's clock says."""
        return self.key.proof(method, uri, self.pair.access_token, now=self._renewal.service_time())

    def rpc_proof(self, method: str) -> str:
        """Prove to have the key, for one call over a realtime connection, whatever this machine's clock says."""
        return self.key.rpc_proof(method, now=self._renewal.service_time())


class DeviceRenewal:
    """Exchanges a token for one that is bound to a key, and refreshes that one."""

    def __init__(self, client: TokenClient, key: DeviceKey, source: Secret[Any], lifetime: Duration) -> None:
        self._client = client
        self.label: str = f"of key #{key.fingerprint[:8]}"
        self.adopted: Callable[[float], None] = partial(report_renewal, client)
        self.aclose: Callable[[], Awaitable[None]] = client.aclose
        self._key = key
        self._source = source
        self._function = CallerFunction(source, "token") if callable(source.value) else None
        self._lifetime = lifetime
        self._epoch: float | None = None  # when the session's clock began, by the service's, if that is known

    def service_time(self) -> float:
        """Return the time by SignalWire's clock, as far as it is known."""
        clock = self._client.clock
        return clock.wall() if self._epoch is None else self._epoch + clock.now()

    def _exchange(self, token: Bearer) -> wire.Request[TokenPair]:
        """Describe how a token becomes one that is bound to the key."""
        # The path alone, as the service's own client has it: what else the service would take is not known.
        proof = Secret(self._key.proof("POST", wire.DEVICE_EXCHANGE, now=self.service_time()))
        return wire.create_device_token(token, proof=proof, lifetime=self._lifetime)

    def _refresh(self, pair: TokenPair, seen: set[int]) -> wire.Request[TokenPair]:
        """Describe how a bound token becomes the next one."""
        proof = Secret(self._key.proof("POST", wire.DEVICE_REFRESH, pair.refresh_token, now=self.service_time()))
        request = wire.refresh_device_token(pair.refresh_token, proof=proof, lifetime=self._lifetime)
        return wire.replacing(request, pair, seen)

    async def renew(self, request: RenewalRequest) -> Renewed:
        """Return a token that is bound to the key."""
        token: Bearer
        client, pair = self._client, request.pair
        if pair is None or isinstance(request.step, IssueNew):
            token = await self._fetch()
            describe = partial(self._exchange, token)
        else:
            token = pair.refresh_token  # the newest, which is the access token too, unless that expires later
            describe = partial(self._refresh, pair, set(request.current.seen))
        try:
            bound = await client.send(describe(), retries=0, limit=request.timeout)
        except Unauthorized as error:
            bound = await self._ask_once_more(describe, token, error.with_traceback(None))
        if self._epoch is None:  # the proof was in time: from now on, this machine's clock may be set to whatever
            self._epoch = client.clock.wall() - client.clock.now()
        return Renewed(bound, request.asked)

    async def _ask_once_more(
        self, describe: Callable[[], wire.Request[TokenPair]], token: Bearer, refused: Unauthorized
    ) -> TokenPair:
        """Ask with a proof by the service's clock, and find out what is wrong where that is refused, too."""
        client = self._client
        if refused.server_time is not None:
            self._epoch = refused.server_time - client.clock.now()
        try:
            return await client.send(describe(), retries=0)
        except Unauthorized as error:
            refused = error.with_traceback(None)
        if wire.about(refused.errors) is wire.About.TOKEN:
            raise refused  # its code names what is wrong
        fault = await self._find_fault(token)
        raise Unauthorized(
            UNKNOWN if fault is None else f"{NOT_ACCEPTED} and fingerprint={self._key.fingerprint!r}",
            operation=refused.operation,
            status=refused.status,
            errors=() if fault is None else (Problem(code="invalid_parameter", attribute="token", message=fault),),
            request_id=refused.request_id,
        )

    async def _fetch(self) -> Bearer:
        """Return the token to exchange: as it was given, or what the function returns."""
        if self._function is None:
            return masked(self._source)
        return masked(await self._function.call(self._client.clock, self._client.timeout))

    async def _find_fault(self, token: Bearer) -> str | None:
        """Ask what a token is that was refused twice; say what is wrong with it, if that is known."""
        try:
            info = await self._client.send(wire.subscriber_info(token), retries=0)
        except Unauthorized:
            return "has expired or was withdrawn, or is of another space"
        except RateLimited:
            raise
        except SignalWireTokenError:
            return None
        claims = info.sat_claims
        if claims is not None and SCOPE not in claims.scope:
            return f"has no scope {SCOPE}"
        if claims is not None and claims.fingerprint not in (None, self._key.fingerprint):
            return "is bound to another key"
        return None

    def meaning(self, error: SignalWireTokenError, request: RenewalRequest) -> Failure:
        """Return what an error means.

        A token whose proof is refused twice is refused for good, and a bound one is good to its end, whatever became of
        an answer. What is exchanged may be better the next time: where a function brings it, where nothing is known to
        be wrong with it, and as long as there is time to see.
        """
        is_refused = isinstance(error, Unauthorized) and error.operation in (EXCHANGE, REFRESH)
        meaning = Spent(error) if is_refused else failure_of(error, request.step)
        is_valid = request.current.left(self._client.clock.now()) > 0
        may_change = self._function is not None or not error.errors or is_valid
        if isinstance(meaning, Spent) and isinstance(request.step, IssueNew) and may_change:
            return Misconfigured(error)
        return NotSent(error) if isinstance(meaning, Ambiguous) else meaning


def masked(given: Secret[Any]) -> Bearer:
    """Take a token as it was given; a string must not stand in any frame."""
    return given.value if isinstance(given.value, Token) else given
