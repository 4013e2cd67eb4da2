"""The backend that browsers ask for their tokens, on aiohttp's server.

::

    backend = TokenBackend(open_fleet, identify=identify)
    app.cleanup_ctx.append(backend.lifespan)
    app.router.add_route("*", "/token", backend.token)
    app.router.add_route("*", "/logout", backend.logout)
    app.router.add_get("/health", backend.health)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from . import token_rules
from .token_endpoint import Backend, Visit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["TokenBackend"]


class TokenBackend(Backend[web.Request]):
    """Give browsers their tokens, and keep those alive in a fleet.

    `fleet` is a function that makes a `SessionFleet` for an `async with`, together with its client and store; or one
    that the application has opened, and closes, by itself.
    `identify(request)` says by the application's own means who asks: the subscriber's reference, or None for nobody;
    it may be a coroutine function. Pages of `allowed_origins` may ask from other sites. `public_origin` is where
    browsers reach the application, for those that do not say by themselves that a request comes from the same origin.
    With `allow_device_tokens`, a device may ask for a token that its key binds. `issues_per_minute` is how many tokens
    one subscriber may have issued through this backend; requests beyond that are answered with 429.
    """

    async def lifespan(self, _: web.Application) -> AsyncIterator[None]:
        """Keep the fleet open as long as the application runs: append this to its `cleanup_ctx`."""
        async with self._open():
            yield

    async def token(self, request: web.Request) -> web.Response:
        """Answer with the token of whoever asks: `{"token", "expiry_at"}`. Add it for all methods."""
        return write(await self._hand_out(read(request)))

    async def logout(self, request: web.Request) -> web.Response:
        """Keep the token of whoever asks alive no longer. Add it for all methods."""
        return write(await self._log_out(read(request)))

    async def health(self, request: web.Request) -> web.Response:
        """Tell how the fleet stands: 503 where it is not open."""
        return write(self._tell_health(request.method))


def read(request: web.Request) -> Visit[web.Request]:
    """Take a request's head; its body is read where it is wanted, and no more of it than it may have."""

    async def read_body() -> bytes:
        content = request.content
        if content.at_eof():
            return await request.read()  # the application may have read it, and this is what aiohttp kept of it
        body = bytearray()
        try:
            while len(body) <= token_rules.LARGEST_BODY and (chunk := await content.readany()):
                body += chunk
        except (ConnectionError, web.RequestPayloadError):
            return b""  # what breaks off is no JSON; whoever has hung up does not hear so
        return bytes(body)

    return Visit(request, token_rules.read_request(request.method, request.headers.items()), read_body)


def write(answer: token_rules.Answer) -> web.Response:
    """Give an answer the framework's form."""
    return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
