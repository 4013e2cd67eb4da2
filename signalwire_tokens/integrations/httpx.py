"""Requests of httpx2, or of httpx, signed as a subscriber.

::

    async with httpx2.AsyncClient(auth=authorize(session)) as http:
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

__all__ = ["authorize"]

HTTP_CLIENTS = ("httpx2", "httpx")


def authorize(session: SubscriberSession, *, origins: Iterable[str] | None = None) -> Auth:
    """Make an `auth` that signs the requests of an `AsyncClient` with a session's token.

    Only requests to `origins` are signed, each of them exact, such as "https://acme.signalwire.com"; that of the
    session's space, where none are given. A token that is refused there (401) is not used again: the request is
    repeated once with the next one, unless its body cannot be. A request that has an `Authorization` of its own is left
    as it is.
    """
    return SubscriberAuth(Signer(session, origins))


def find_bases() -> tuple[type, ...]:
    """Find what `auth=` must be an instance of, for each of the two that is installed."""
    found: list[type] = []
    for name in HTTP_CLIENTS:
        with suppress(ModuleNotFoundError):
            found.append(import_module(name).Auth)
    if not found:
        raise ModuleNotFoundError("neither httpx2 nor httpx is installed")
    return tuple(dict.fromkeys(found))  # one may stand in for the other


if TYPE_CHECKING:
    from httpx2 import Auth
else:
    Auth = type("Auth", find_bases(), {})


class SubscriberAuth(Auth):
    """Signs requests, and answers for a token that is refused."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def sync_auth_flow(self, request: Request) -> Generator[Request, Response, None]:  # noqa: ARG002 - as it is called
        """Refuse to work without an event loop."""
        raise ConfigurationError("a session's token is for asyncio: use an AsyncClient")

    async def async_auth_flow(self, request: Request) -> AsyncGenerator[Request, Response]:
        """Sign a request, and once more where its token is refused."""
        if not self._signs(request.url) or "Authorization" in request.headers:
            yield request
            return
        token = await self._signer.token()
        request.headers["Authorization"] = f"Bearer {token.value}"
        response = yield request
        if not self._has_refused(response):
            return
        if not self._signer.refuse(token) or not is_replayable(request):
            return
        await response.aread()  # which releases its connection
        token = await self._signer.token()
        request.headers["Authorization"] = f"Bearer {token.value}"
        response = yield request
        if self._has_refused(response):
            self._signer.doubt(token)

    def _signs(self, url: URL) -> bool:
        return self._signer.signs(url.scheme, url.raw_host.decode("ascii"), url.port)

    def _has_refused(self, response: Response) -> bool:
        """Tell whether a token was refused where it was sent: redirects are followed in between."""
        is_signed = "Authorization" in response.request.headers and self._signs(response.request.url)
        return response.status_code == HTTPStatus.UNAUTHORIZED and is_signed


def is_replayable(request: Request) -> bool:
    """Tell whether a request's body is all there, so that it can be sent once more."""
    try:
        return isinstance(request.content, bytes)
    except RuntimeError:  # what both have for a body that was never read as a whole
        return False
