"""The session that renews from an application's backend."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, Unpack

from . import wire
from .errors import ConfigurationError, SignalWireTokenError, UnexpectedResponse
from .keeper import Asking
from .models import Secret, TokenPair, life_of
from .policy import Misconfigured, NotYet, Outcome, Present, RefreshPolicy, Reissue, Renewed, Spent

if TYPE_CHECKING:
    from .client import ClientSettings
    from .policy import Failure

__all__ = ["EndpointSession"]

Headers: TypeAlias = Mapping[str, str]
NOTHING: Headers = {}
ROUNDING = 1.0  # second, which is what a `Date` tells


class EndpointSession(Asking):
    """A token that an application's backend gives out, kept alive by asking for the next one in time.

    `url` is asked by POST, with an empty JSON object, and answers `{"token", "expiry_at"}`, in milliseconds since the
    epoch: what `TokenBackend` answers. It is told who asks by `headers`, or by those that `auth` returns, a function,
    sync or async, that is asked before each request. Headers are sent to this URL and nowhere else.

    `http`, `ssl`, `proxy`, `timeout` and `clock` are as `TokenClient` has them. `client` is the one that the session
    makes with them, and closes; its origin is the backend's.
    """

    __slots__ = ("_auth", "_headers", "_path")
    _owns_client: ClassVar[bool] = True
    _has_least_life: ClassVar[bool] = False  # the backend has kept its token for a while already, and gives no other

    def __init__(
        self,
        url: str,
        *,
        headers: Headers | None = None,
        auth: Callable[[], Headers | Awaitable[Headers]] | None = None,
        policy: RefreshPolicy | None = None,
        **settings: Unpack[ClientSettings],
    ) -> None:
        place, given, options = Secret(url), Secret(NOTHING if headers is None else headers), Secret(settings.copy())
        hook = Secret[Any](auth)
        del url, headers, auth
        settings.clear()  # type: ignore[attr-defined]  # a proxy's password must not stand in this frame; it is a dict
        if hook.value is not None and not callable(hook.value):
            raise ConfigurationError("auth must be a function that returns headers")
        origin, path = wire.check_endpoint(place, given)
        self._make_client(Secret(origin), options)
        self._path = path
        self._headers: Secret[Headers] = Secret(dict(given.value))
        self._auth: Secret[Any] = hook
        self._keep(self.client.lifetimes.access, policy, self.client.clock, presents=False, reissues=True)

    @property
    def longest_ttl(self) -> float:
        """The most that can be asked for as `min_ttl`, in seconds. How much is left of a token, the backend decides."""
        return max(super().longest_ttl, self._policy.longest_ttl(self.client.lifetimes.access.total_seconds()))

    @property
    def _label(self) -> str:
        return f"of {self.client.origin}"

    async def _ask(self, way: Present | Reissue, pair: TokenPair | None, limit: float | None) -> Outcome:
        outcome = await super()._ask(way, pair, limit)
        if not isinstance(outcome, Renewed):
            return outcome
        token = outcome.pair.token
        until = outcome.asked + life_of(token)
        is_other = token.value != self._lifecycle.value
        fault = find_fault(until, now=self._now(), access_until=self._lifecycle.access_until, is_other=is_other)
        return outcome if fault is None else NotYet(UnexpectedResponse(fault, operation="fetch_token"))

    async def _request(self, way: Present | Reissue, pair: TokenPair | None, limit: float | None) -> TokenPair:  # noqa: ARG002 - there is one way to ask
        headers = self._headers
        if self._auth.value is not None:
            headers = wire.add_headers(headers, await self._ask_caller(self._auth, "auth"))
        return await self.client.send(wire.fetch_token(self._path, headers), retries=0, limit=limit)

    def _meaning_of(self, error: SignalWireTokenError, way: Present | Reissue) -> Failure:
        """Say what an error means: a backend that refuses a request has been set up so, or was asked wrongly."""
        meaning = super()._meaning_of(error, way)
        return Misconfigured(error) if isinstance(meaning, Spent) else meaning


def find_fault(until: float, *, now: float, access_until: float, is_other: bool) -> str | None:
    """Say why a backend's token is not to take the place of the one at hand, which ends at `access_until`."""
    if until <= now:
        return "the backend's token has ended, by its expiry_at and by the time that the backend tells"
    if not is_other or until <= access_until + ROUNDING:
        return "the backend has no later token yet"
    return None
