"""A middleware for aiohttp's client that signs requests with a session's token.

::

    async with aiohttp.ClientSession(middlewares=(subscriber_auth(session),)) as http:
        await http.get(f"{session.client.origin}/api/fabric/subscriber/info")
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import BytesPayload, hdrs

from .signing import Signer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from aiohttp import ClientRequest, ClientResponse

    from signalwire_tokens.models import Token
    from signalwire_tokens.session import SubscriberSession

    Handler = Callable[[ClientRequest], Awaitable[ClientResponse]]

__all__ = ["subscriber_auth"]


def subscriber_auth(
    session: SubscriberSession, *, origins: Iterable[str] | None = None
) -> Callable[[ClientRequest, Handler], Awaitable[ClientResponse]]:
    """Return a middleware that signs requests with a session's token.

    Only requests to `origins` get the token. A redirect to another origin is followed without it. Each is an exact
    origin, such as "https://acme.signalwire.com". By default, it is the origin of the session's space. A request that
    already has an `Authorization` header is sent as it is.

    After a 401, the session renews the token, and the request is repeated once with the next one. Your app gets the 401
    in three cases:

    - The next token is refused as well.
    - The body can't be read twice, such as a generator. Only your next request has the next token.
    - The session may not renew now. It has replaced a refused token in the last minute, or SignalWire throttles the
      client.

    Requests raise what `session.token()` raises.
    """
    signer = Signer(session, origins)

    async def send(request: ClientRequest, handler: Handler, token: Token) -> ClientResponse:
        request.headers[hdrs.AUTHORIZATION] = f"Bearer {token.value}"
        try:
            return await handler(request)
        finally:  # errors show a request's headers; and a repeated request gets the token that is current then
            request.headers.popall(hdrs.AUTHORIZATION, None)

    async def sign(request: ClientRequest, handler: Handler) -> ClientResponse:
        url = request.url
        if not signer.signs(url.scheme, url.raw_host or "", url.port) or hdrs.AUTHORIZATION in request.headers:
            return await handler(request)
        token = await signer.token()
        response = await send(request, handler, token)
        if response.status != HTTPStatus.UNAUTHORIZED:
            return response
        is_replayable = not request.body or isinstance(request.body, BytesPayload)
        if not signer.report_refused(token) or not is_replayable:
            return response
        response.release()
        return await send(request, handler, await signer.token())

    return sign
