"""The session that renews from an application's backend."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

from . import wire
from .client import CallerFunction, make_client, report_renewal
from .errors import ConfigurationError, SignalWireTokenError
from .keeper import TokenSession, failure_of, only_later
from .models import Secret
from .outcomes import Misconfigured, Renewed, Spent

if TYPE_CHECKING:
    from .client import ClientSettings, TokenClient
    from .keeper import RenewalRequest
    from .outcomes import Failure, Outcome
    from .policy import RefreshPolicy

__all__ = ["BackendSession"]

Headers: TypeAlias = Mapping[str, str]
NOTHING: Headers = {}
ROUNDING = 1.0  # second, which is what a `Date` tells


class BackendSession(TokenSession):
    """A token that an application's backend gives out, kept alive by asking for the next one in time.

    `url` is asked by POST, with an empty JSON object, and answers `{"token", "expiry_at"}`, in milliseconds since the
    epoch: what `TokenBackend` answers. It is told who asks by `headers`, or by those that `auth` returns, a function,
    sync or async, that is asked before each request. Headers are sent to this URL and nowhere else.

    `http_session`, `ssl`, `proxy`, `timeout` and `clock` are as `TokenClient` has them. `client` is the one that the
    session makes with them, and closes; its origin is the backend's.
    """

    __slots__ = ("client",)

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
        client = make_client("BackendSession", Secret(origin), options)
        self.client: TokenClient = client
        function = None if hook.value is None else CallerFunction(hook, "auth")
        super().__init__(
            BackendRenewal(client, path, Secret(dict(given.value)), function),
            lifetime=client.lifetimes.access,
            policy=policy,
            clock=client.clock,
            throttle=(client.throttle, client.clock),
        )


class BackendRenewal:
    """Asks an application's backend for its token, with these headers and those that a function returns."""

    def __init__(
        self, client: TokenClient, path: Secret[str], headers: Secret[Headers], function: CallerFunction | None
    ) -> None:
        self._client = client
        self.label: str = f"of {client.origin}"
        self.adopted: Callable[[float], None] = partial(report_renewal, client)
        self.aclose: Callable[[], Awaitable[None]] = client.aclose
        self._path = path
        self._headers = headers
        self._function = function

    async def renew(self, request: RenewalRequest) -> Outcome:
        """Return the backend's token, if it expires later than the current one."""
        headers, client = self._headers, self._client
        if self._function is not None:
            headers = wire.add_headers(headers, await self._function.call(client.clock, client.timeout))
        pair = await client.send(wire.fetch_token(self._path, headers), retries=0, limit=request.timeout)
        return only_later(Renewed(pair, request.asked), request.current, client.clock.now(), margin=ROUNDING)

    def meaning(self, error: SignalWireTokenError, request: RenewalRequest) -> Failure:
        """Return what an error means: a backend that refuses a request has been set up so, or was asked wrongly."""
        meaning = failure_of(error, request.step)
        return Misconfigured(error) if isinstance(meaning, Spent) else meaning
