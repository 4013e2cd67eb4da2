"""`BackendSession`: keeps a token valid that your app's backend issues.

A backend has the project's credentials, and the session's process doesn't. The session sends one POST request for each
renewal, and the backend decides by the request's headers which subscriber's token it returns. See
`integrations.aiohttp_server.TokenBackend` for such a backend.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

from . import wire
from .client import CallerFunction, TokenClient, make_client, report_renewal
from .errors import ConfigurationError, SignalWireTokenError
from .keeper import TokenSession, failure_of, only_later
from .outcomes import Misconfigured, Renewed, Spent
from .secret import Secret

if TYPE_CHECKING:
    from .client import ClientSettings
    from .keeper import RenewalRequest
    from .outcomes import Failure, Outcome
    from .policy import RefreshPolicy

__all__ = ["BackendSession"]

Headers: TypeAlias = Mapping[str, str]
NO_HEADERS: Headers = {}
DATE_RESOLUTION = 1.0  # seconds: expiries are calculated with the answer's `Date`, which has only whole seconds


class BackendSession(TokenSession):
    """A session that keeps a token from your app's backend valid, without the project's credentials.

    The session sends an empty JSON object to `url` by POST. The backend answers `{"token": …, "expiry_at": …}`, with
    the expiry in milliseconds since the epoch, as `TokenBackend` does.

    A request's headers show the backend who is asking. `headers` are sent with each request. `auth` is a function, sync
    or async, that returns more headers. It is called before each request, and must return within `timeout` seconds. Its
    headers replace those of `headers` with the same name. The session sends all of them only to `url`.

    A backend that refuses a request never ends the session: the session tries again after a longer pause.

    `http_session`, `ssl`, `proxy`, `timeout` and `clock` are the arguments of `TokenClient`. The session makes a client
    with them, offers it as `client`, and closes it. The client's `origin` is the backend's.
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
        place, given, options = Secret(url), Secret(NO_HEADERS if headers is None else headers), Secret(settings.copy())
        hook = Secret[Any](auth)
        del url, headers, auth
        settings.clear()  # type: ignore[attr-defined]  # a proxy's password must not stand in this frame; it is a dict
        if isinstance(place.value, TokenClient):
            raise ConfigurationError("BackendSession makes its own client: pass the URL of your app's backend as url")
        if hook.value is not None and not callable(hook.value):
            raise ConfigurationError(f"auth must be a function that returns headers, not {type(hook.value).__name__}")
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
    """A `Renewal` that fetches tokens from a backend, with fixed headers and those that a function returns.

    `path` is a `Secret`, because the query of a backend's URL may hold one.
    """

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
        """Return the backend's token, or `NotYet` if it doesn't expire later than the current one.

        A backend such as `TokenBackend` keeps one token for each subscriber, so it may return the current one again.
        `DATE_RESOLUTION` allows for expiries that differ only because of whole seconds.
        """
        headers, client = self._headers, self._client
        if self._function is not None:
            headers = wire.add_headers(headers, await self._function.call(client.clock, client.timeout))
        pair = await client.send(wire.fetch_token(self._path, headers), retries=0, limit=request.timeout)
        return only_later(Renewed(pair, request.asked), request.current, client.clock.now(), margin=DATE_RESOLUTION)

    def meaning(self, error: SignalWireTokenError, request: RenewalRequest) -> Failure:
        """Return the failure that an error stands for.

        A refusal by the backend comes from its settings or from the request's headers, and both can be corrected. So
        `Spent`, which would end the session, becomes `Misconfigured`, after which the session tries again later.
        """
        meaning = failure_of(error, request.step)
        return Misconfigured(error) if isinstance(meaning, Spent) else meaning
