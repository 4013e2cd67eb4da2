"""A token endpoint for browsers, on aiohttp's server.

::

    backend = TokenBackend(open_fleet, identify=identify)
    app.cleanup_ctx.append(backend.lifespan)
    app.router.add_route("*", "/token", backend.token)
    app.router.add_route("*", "/logout", backend.logout)
    app.router.add_get("/health", backend.health)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import web

from . import token_rules
from .token_endpoint import Backend, BackendRequest, Identity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["TokenBackend"]


class TokenBackend(Backend[Callable[[web.Request], Identity]]):
    """The token endpoint of your app: it returns the signed-in user's token to browsers, and a fleet renews the tokens.

    `fleet` is a function that returns a `SessionFleet`, or a context manager that yields one. Write it with
    `@asynccontextmanager` if it also opens the client and the store. `fleet` can also be a `SessionFleet` that your app
    opens and closes itself.

    `identify(request)` is a function or coroutine function of your app. It returns the signed-in user's reference, or
    None if no user is signed in. The answer is then 401.

    By default, only pages of your app's own origin get tokens. `allowed_origins` lists other origins whose pages may
    request them. `public_origin` is the origin at which browsers reach your app. It serves browsers that don't send the
    header `Sec-Fetch-Site`.

    With `allow_device_tokens`, a device can request a token that is bound to its key.

    `issues_per_minute` limits how many tokens SignalWire issues for one reference through this backend. Requests beyond
    the limit get 429. Requests for a token that the fleet already keeps don't count.
    """

    async def lifespan(self, _: web.Application) -> AsyncIterator[None]:
        """Open the fleet when the application starts, and close it when it stops. Append this to its `cleanup_ctx`.

        Closing waits for renewals under way, so that their refresh tokens aren't lost. A fleet that your app opens
        itself stays as it is.
        """
        async with self._open():
            yield

    async def token(self, request: web.Request) -> web.Response:
        """Return the signed-in user's token as JSON: `{"token", "expiry_at"}`. Route all HTTP methods to it.

        `expiry_at` is in milliseconds since the epoch. Browsers send `OPTIONS` before a `POST` from another origin.
        """
        return web_response(await self._hand_out(self._visit(request)))

    async def logout(self, request: web.Request) -> web.Response:
        """Close the signed-in user's session, so that its token isn't renewed. Route all HTTP methods to it.

        A token that the browser already has stays valid until it expires. Other workers close the user's session once
        their fleet's `idle_timeout` has passed.
        """
        return web_response(await self._log_out(self._visit(request)))

    async def health(self, request: web.Request) -> web.Response:
        """Return the fleet's health as JSON, without naming any user. The status is 503 if the fleet isn't open."""
        return web_response(self._health(request.method))

    def _visit(self, request: web.Request) -> BackendRequest:
        head = token_rules.read_request(request.method, request.headers.items())
        return BackendRequest(head, lambda: self._identify(request), lambda: read_body(request))


async def read_body(request: web.Request) -> bytes:
    """Return a request's body, or the start of it if it exceeds the limit."""
    content = request.content
    if content.at_eof():
        return await request.read()  # if your app has read the body, aiohttp has kept it
    body = bytearray()
    try:
        while len(body) <= token_rules.LARGEST_REQUEST and (chunk := await content.readany()):
            body += chunk
    except (ConnectionError, web.RequestPayloadError):
        return b""  # the connection broke: the answer is 400, but it reaches no client
    return bytes(body)


def web_response(answer: token_rules.EndpointAnswer) -> web.Response:
    """Return an answer as aiohttp's response."""
    return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
