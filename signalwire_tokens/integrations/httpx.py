"""Requests of httpx2, or of httpx, signed as a subscriber.

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


def find(name: str) -> tuple[type, ...]:
    """Find a class of each of the two that is installed."""
    found: list[type] = []
    for library in HTTP_CLIENTS:
        with suppress(ModuleNotFoundError):
            found.append(getattr(import_module(library), name))
    if not found:
        raise ModuleNotFoundError("neither httpx2 nor httpx is installed")
    return tuple(dict.fromkeys(found))  # one may stand in for the other


if TYPE_CHECKING:
    from httpx2 import Auth
else:
    Auth = type("Auth", find("Auth"), {})  # what `auth=` must be an instance of, for both
REPLAYABLE = find("ByteStream")


class SubscriberAuth(Auth):
    """The `auth` of an `AsyncClient` that signs requests with a session's token.

    Only requests to `origins` are signed, each an exact origin such as "https://acme.signalwire.com". By default, that
    is the origin of the session's space. The token never follows a redirect to another origin.

    If an origin refuses the token with a 401, the session renews it, and the request is repeated once. A request whose
    body can't be sent again isn't repeated. A request that has an `Authorization` header of its own isn't changed.
    """

    def __init__(self, session: SubscriberSession, *, origins: Iterable[str] | None = None) -> None:
        self._signer = Signer(session, origins)

    def sync_auth_flow(self, request: Request) -> Generator[Request, Response, None]:  # noqa: ARG002 - the client passes it
        """Refuse to work without an event loop."""
        raise ConfigurationError("a session's token is for asyncio: use an AsyncClient")

    async def async_auth_flow(self, request: Request) -> AsyncGenerator[Request, Response]:
        """Sign a request, and what it was redirected to; once more where the token is refused.

        The client follows redirects by itself, and drops the token on the way to another origin. What is repeated is
        the request that was refused, and never the one that led there: it may have been carried out.
        """
        if HEADER in request.headers:
            yield request
            return
        token = await self._signer.token() if self._signs(request.url) else None
        has_refused = False
        while True:  # the client itself bounds how often it is led on
            if token is not None:
                request.headers[HEADER] = f"Bearer {token.value}"
            try:
                response = yield request
            finally:
                request.headers.pop(HEADER, None)
            last = response.request
            refused = token if last is request or HEADER in last.headers else None
            clean(response)
            if response.status_code != HTTPStatus.UNAUTHORIZED or not self._signs(last.url):
                return
            if refused is not None and (has_refused or not self._signer.refuse(refused)):
                return
            has_refused = refused is not None
            if not isinstance(last.stream, REPLAYABLE):
                return
            await response.aread()  # which releases its connection
            request, token = last, await self._signer.token()

    def _signs(self, url: URL) -> bool:
        return self._signer.signs(url.scheme, url.raw_host.decode("ascii"), url.port)


def clean(response: Response) -> None:
    """Take the token out of what is left of an exchange: whoever sends a part of it again gets that of then."""
    left = [response.request, response.next_request, *(one.request for one in response.history)]
    for request in left:
        if request is not None:
            request.headers.pop(HEADER, None)
