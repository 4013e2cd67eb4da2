"""Authentication for httpx2 and httpx that signs requests with a session's token.

::

    async with httpx2.AsyncClient(auth=SubscriberAuth(session)) as http:
        await http.get(f"{session.client.origin}/api/fabric/subscriber/info")
"""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from importlib import import_module
from typing import TYPE_CHECKING

from signalwire_tokens.errors import ConfigurationError

from .signing import Signer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterable

    from httpx2 import URL, Request, Response

    from signalwire_tokens.session import SubscriberSession

__all__ = ["SubscriberAuth"]

HTTP_CLIENTS = ("httpx2", "httpx")
HEADER = "Authorization"


def installed_classes(name: str) -> tuple[type, ...]:
    """Return the classes with a name in httpx2 and httpx. Raise `ModuleNotFoundError` if neither is installed."""
    found: list[type] = []
    for library in HTTP_CLIENTS:
        with suppress(ModuleNotFoundError):
            found.append(getattr(import_module(library), name))
    if not found:
        raise ModuleNotFoundError("SubscriberAuth needs httpx2 or httpx: pip install httpx2")
    return tuple(dict.fromkeys(found))  # one library may be an alias of the other


if TYPE_CHECKING:
    from httpx2 import Auth
else:
    Auth = type("Auth", installed_classes("Auth"), {})  # both libraries accept only an instance of their own class
REPLAYABLE = installed_classes("ByteStream")  # the bodies that can be sent twice


class SubscriberAuth(Auth):
    """The `auth` of an `AsyncClient` that signs requests with a session's token.

    Only requests to `origins` get the token. Each is an exact origin, such as "https://acme.signalwire.com". By
    default, it is the origin of the session's space. A redirect to another origin is followed without the token. A
    request that already has an `Authorization` header is sent as it is.

    One exception is the client's: on a redirect from plain http to https on the same host, it keeps the token. Only an
    address of this machine can be an origin with plain http.

    After a 401, the session renews the token, and the request is repeated once with the next one. Your app gets the 401
    in three cases:

    - The next token is refused as well.
    - The body can't be read twice, such as a generator. Only your next request has the next token.
    - The session may not renew now. It has replaced a refused token in the last minute, or SignalWire throttles the
      client.

    Requests raise what `session.token()` raises.
    """

    def __init__(self, session: SubscriberSession, *, origins: Iterable[str] | None = None) -> None:
        self._signer = Signer(session, origins)

    def sync_auth_flow(self, request: Request) -> Generator[Request, Response, None]:  # noqa: ARG002 - the client passes it
        """Raise `ConfigurationError`: a session needs an event loop, and a synchronous client has none."""
        raise ConfigurationError("SubscriberAuth works only with AsyncClient: the session renews on an event loop")

    async def async_auth_flow(self, request: Request) -> AsyncGenerator[Request, Response]:
        """Yield a request with the token, and again with the next token if the first was refused.

        Between a `yield` and its result, the client follows redirects itself. It drops the header on the way to another
        origin. So the answer may be that of another request, `last`, with or without the token:

        ======================================  =============================================================
        answer to `last`                        what follows
        ======================================  =============================================================
        not a 401, or not from a signed origin  the caller gets the answer
        a 401, and `last` had the token         the session renews it, and `last` is repeated once
        a 401, and `last` had no token          `last` is repeated with the token
        ======================================  =============================================================

        The third case follows a redirect from another origin to a signed one.

        Only `last` is repeated. The requests that led to it may have had their effect already.
        """
        if HEADER in request.headers:
            yield request
            return
        token = await self._signer.token() if self._signs(request.url) else None
        has_refused = False
        while True:  # the client raises `TooManyRedirects` in the end
            if token is not None:
                request.headers[HEADER] = f"Bearer {token.value}"
            try:
                response = yield request
            finally:
                request.headers.pop(HEADER, None)
            last = response.request
            refused = token if last is request or HEADER in last.headers else None
            remove_tokens(response)
            if response.status_code != HTTPStatus.UNAUTHORIZED or not self._signs(last.url):
                return
            if refused is not None and (has_refused or not self._signer.report_refused(refused)):
                return
            has_refused = refused is not None
            if not isinstance(last.stream, REPLAYABLE):
                return
            await response.aread()  # releases the connection, which the next request may need
            request, token = last, await self._signer.token()

    def _signs(self, url: URL) -> bool:
        return self._signer.signs(url.scheme, url.raw_host.decode("ascii"), url.port)


def remove_tokens(response: Response) -> None:
    """Remove the token from all requests of an exchange. A caller that sends one again gets the current token."""
    left = [response.request, response.next_request, *(one.request for one in response.history)]
    for request in left:
        if request is not None:
            request.headers.pop(HEADER, None)
