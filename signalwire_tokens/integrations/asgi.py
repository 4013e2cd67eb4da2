"""A token endpoint for browsers, on FastAPI, Starlette and other ASGI frameworks.

::

    backend = TokenBackend(open_fleet, identify=identify)
    app = FastAPI(lifespan=backend.lifespan)
    app.routes.append(Route("/token", backend.token))
    app.routes.append(Route("/logout", backend.logout))
    app.routes.append(Route("/health", backend.health))
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
from multidict import CIMultiDict

from . import token_rules
from .token_endpoint import Backend, BackendRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Request", "TokenBackend"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]


class ClientDisconnectedError(Exception):
    """The client closed the connection before it had sent the whole request."""


@attrs.frozen
class Request:
    """The request that `identify` gets.

    `scope` is the ASGI scope. Your framework can make its own request object from it, such as
    `starlette.requests.Request(request.scope)`. The names in `headers` are case-insensitive. A header that occurs more
    than once has one value, joined by ", ".
    """

    scope: MutableMapping[str, Any] = attrs.field(repr=False)
    headers: token_rules.Headers = attrs.field(repr=False)

    @property
    def cookies(self) -> dict[str, str]:
        """The request's cookies, by name. Of several with the same name, the first one counts.

        Browsers send the cookie with the most specific path first.
        """
        found: dict[str, str] = {}
        for pair in self.headers.get("cookie", "").split(";"):
            name, equals, value = pair.partition("=")
            if equals:
                found.setdefault(name.strip(), value.strip().strip('"'))
        return found


class Handler:
    """One endpoint of the backend, as an ASGI application."""

    def __init__(self, answer: Callable[[BackendRequest[Request]], Awaitable[token_rules.EndpointAnswer]]) -> None:
        self._answer = answer

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one HTTP request. Raise `ValueError` for a WebSocket or a lifespan scope."""
        if scope["type"] != "http":
            raise ValueError(f"the token endpoint got a {scope['type']} scope: mount it as an HTTP route")
        headers = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        asked = token_rules.read_request(scope["method"], headers)
        try:
            answer = await self._answer(
                BackendRequest(Request(scope, CIMultiDict(asked.headers)), asked, lambda: read_request_body(receive))
            )
        except ClientDisconnectedError:
            return
        head = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": head})
        await send({"type": "http.response.body", "body": answer.body})


class TokenBackend(Backend[Request]):
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

    `token`, `logout` and `health` are ASGI applications. Mount each at a path of its own, for all HTTP methods.
    """

    @property
    def token(self) -> Handler:
        """The endpoint that returns the signed-in user's token as JSON: `{"token", "expiry_at"}`.

        `expiry_at` is in milliseconds since the epoch.
        """
        return Handler(self._hand_out)

    @property
    def logout(self) -> Handler:
        """The endpoint that closes the signed-in user's session, so that its token isn't renewed.

        A token that the browser already has stays valid until it expires. Other workers close the user's session once
        their fleet's `idle_timeout` has passed.
        """
        return Handler(self._log_out)

    @property
    def health(self) -> Handler:
        """The endpoint that returns the fleet's health as JSON, without naming any user: 503 if it isn't open."""
        return Handler(self._look)

    @asynccontextmanager
    async def lifespan(self, _: object = None) -> AsyncIterator[None]:
        """Open the fleet when the application starts, and close it when it stops: `FastAPI(lifespan=backend.lifespan)`.

        Closing waits for renewals under way, so that their refresh tokens aren't lost. A fleet that your app opens
        itself stays as it is.
        """
        async with self._open():
            yield

    async def _look(self, visit: BackendRequest[Request]) -> token_rules.EndpointAnswer:
        return self._health(visit.asked.method)


async def read_request_body(receive: Receive) -> bytes:
    """Return a request's body, or the start of it if it exceeds the limit.

    Raise `ClientDisconnectedError` if the client left.
    """
    body, more = bytearray(), True
    while more and len(body) <= token_rules.LARGEST_REQUEST:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnectedError
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)
