"""Requests of aiohttp's client, signed as a subscriber.

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
    """Make a middleware that signs requests with a session's token.

    Only requests to `origins` are signed, each of them exact, such as "https://acme.signalwire.com"; that of the
    session's space, where none are given. Wherever a redirect leads, the token goes to these alone. A token that is
    refused there (401) is not used again: the request is repeated once with the next one, unless its body cannot be.
    A request that has an `Authorization` of its own is left as it is.
    """
    signer = Signer(session, origins)

    async def send(request: ClientRequest, handler: Handler, token: Token) -> ClientResponse:
        request.headers[hdrs.AUTHORIZATION] = f"Bearer {token.value}"
        try:
            return await handler(request)
        finally:  # an error shows a request's headers, and whoever repeats a request does so with the token of then
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
        if not signer.refuse(token) or not is_replayable:
            return response
        response.release()
        return await send(request, handler, await signer.token())

    return sign
