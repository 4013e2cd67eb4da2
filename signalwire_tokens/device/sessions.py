"""The session that renews with a device's key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, Unpack

from signalwire_tokens import wire
from signalwire_tokens.errors import ConfigurationError, SignalWireTokenError, Unauthorized
from signalwire_tokens.keeper import Asking
from signalwire_tokens.models import SatClaims, Secret, Token
from signalwire_tokens.policy import Ambiguous, Misconfigured, NotSent, Reissue, Spent

from .key import DeviceKey

if TYPE_CHECKING:
    from signalwire_tokens.client import ClientSettings
    from signalwire_tokens.models import TokenPair
    from signalwire_tokens.policy import Failure, Present, RefreshPolicy

__all__ = ["DeviceSession"]

TokenSource: TypeAlias = str | Token | Callable[[], str | Token | Awaitable[str | Token]]
Bearer: TypeAlias = Secret[str] | Token

EXCHANGE, REFRESH = "create_device_token", "refresh_device_token"
SCOPE = "sat:refresh"
QUARTER_OF_AN_HOUR = timedelta(minutes=15)


class DeviceSession(Asking):
    """A token that is bound to a device's key, kept alive without the project's credentials.

    `token` is an access token that a backend had issued with `scope="sat:refresh"` and this key's fingerprint. The
    session exchanges it for one that is bound to the key, and that lives for `lifetime` each time that it is renewed.
    Given as a function, sync or async, it is asked at the start, and again wherever the bound token has come to its
    end or is refused; otherwise the session has then expired.

    `http`, `ssl`, `proxy`, `timeout` and `clock` are as `TokenClient` has them. `client` is the one that the session
    makes with them, and closes.
    """

    __slots__ = ("_ahead", "_lifetime", "_source", "key")
    _owns_client: ClassVar[bool] = True

    def __init__(
        self,
        space: str,
        token: TokenSource,
        key: DeviceKey,
        *,
        lifetime: timedelta = QUARTER_OF_AN_HOUR,
        policy: RefreshPolicy | None = None,
        **settings: Unpack[ClientSettings],
    ) -> None:
        place, hidden, options = Secret(space), Secret[Any](token), Secret(settings.copy())
        del space, token
        settings.clear()  # type: ignore[attr-defined]  # a proxy's password must not stand in this frame; it is a dict
        if not isinstance(key, DeviceKey):
            raise ConfigurationError("key must be a DeviceKey: DeviceKey.generate() makes one")
        if not isinstance(lifetime, timedelta):
            raise ConfigurationError("lifetime must be a timedelta")
        self._make_client(place, options)
        self.key = key
        self._ahead = 0.0  # how many seconds the service's clock is ahead of this machine's, as far as is known
        self._lifetime = lifetime
        self._source: Secret[Any] = hidden
        has_function = callable(hidden.value)
        self._keep(lifetime, policy, self.client.clock, presents=True, reissues=has_function)
        # Refuses what is wrong with the arguments now, and not when it is too late.
        self._exchange(Secret("x") if has_function else masked(hidden))

    def rpc_proof(self, method: str) -> str:
        """Prove to have the key, for one call over a realtime connection, whatever this machine's clock says."""
        return self.key.rpc_proof(method, now=self._service_time())

    @property
    def _label(self) -> str:
        return f"of key #{self.key.fingerprint[:8]}"

    def _service_time(self) -> float:
        return self._clock.wall() + self._ahead

    def _exchange(self, token: Bearer) -> wire.Request[TokenPair]:
        """Describe how a token becomes one that is bound to the key."""
        return wire.create_device_token(token, prove=self._prover(), lifetime=self._lifetime)

    def _refresh(self, token: Bearer) -> wire.Request[TokenPair]:
        """Describe how a bound token becomes the next one."""
        return wire.refresh_device_token(token, prove=self._prover(token), lifetime=self._lifetime)

    def _prover(self, token: Bearer | None = None) -> Callable[[str, str], Secret[str]]:
        return lambda method, path: Secret(
            self.key.proof(method, path, None if token is None else token.value, now=self._service_time())
        )

    async def _request(self, way: Present | Reissue, pair: TokenPair | None, limit: float | None) -> TokenPair:
        held = None if isinstance(way, Reissue) else pair
        token = await self._fetch() if held is None else held.token
        describe = self._exchange if held is None else self._refresh
        try:
            return await self.client.send(describe(token), retries=0, limit=limit)
        except Unauthorized as error:
            self._set_clock(error)
        try:
            return await self.client.send(describe(token), retries=0, limit=limit)
        except Unauthorized as error:
            refused = error.with_traceback(None)
        raise Unauthorized(
            await self._find_fault(token),
            operation=refused.operation,
            status=refused.status,
            request_id=refused.request_id,
        )

    def _set_clock(self, refused: Unauthorized) -> None:
        """Go by the service's clock, where it told the time: a proof is to be in time there."""
        wall = self._clock.wall()
        self._ahead = (refused.server_time or wall) - wall

    async def _fetch(self) -> Bearer:
        """Find the token that is to be exchanged: as it was given, or by asking for it."""
        if not callable(self._source.value):
            return masked(self._source)
        return masked(await self._ask_caller(self._source, "token"))

    async def _find_fault(self, token: Bearer) -> str:
        """Ask what a token is that was refused twice, and say what is to be done."""
        try:
            info = await self.client.send(wire.subscriber_info(token), retries=0)
        except Unauthorized:
            return why_refused(None, self.key.fingerprint)
        except SignalWireTokenError:
            return why_refused(SatClaims(scope=(SCOPE,)), self.key.fingerprint)
        return why_refused(info.sat_claims or SatClaims(scope=(SCOPE,)), self.key.fingerprint)

    def _meaning_of(self, error: SignalWireTokenError) -> Failure:
        """Say what an error means: a token whose proof is refused twice is refused for good.

        Only whoever gives another token each time may give a better one. And a bound token is good to its end, whatever
        became of an answer: it is presented again.
        """
        if isinstance(error, Unauthorized) and error.operation in (EXCHANGE, REFRESH):
            may_change = error.operation == EXCHANGE and callable(self._source.value)
            return Misconfigured(error) if may_change else Spent(error)
        meaning = super()._meaning_of(error)
        return NotSent(error) if isinstance(meaning, Ambiguous) else meaning


def masked(given: Secret[Any]) -> Bearer:
    """Take a token as it was given; a string must not stand in any frame."""
    return given.value if isinstance(given.value, Token) else given


def why_refused(claims: SatClaims | None, fingerprint: str) -> str:
    """Say what is wrong with a token that was refused with a key's proof; `claims` is None for one that is dead."""
    if claims is None:
        fault = "it has expired or was withdrawn, or is of another space"
    elif SCOPE not in claims.scope:
        fault = f"it has no scope {SCOPE}"
    elif claims.fingerprint not in (None, fingerprint):
        fault = "it is bound to another key"
    else:
        return "the key's proof is not accepted (401), though nothing is known to be wrong with the token"
    return (
        f"the token is not accepted (401): {fault}; have one issued with scope={SCOPE!r} and "
        f"fingerprint={fingerprint!r}, and exchange it before it ends"
    )
