"""A token endpoint for browsers, on FastAPI, Starlette and other ASGI frameworks.

::

    backend = TokenBackend(open_fleet, identify=identify)

    app = FastAPI()
    app.include_router(backend.router(), prefix="/signalwire")

    app = Starlette(routes=backend.routes(), lifespan=backend.lifespan)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
from multidict import CIMultiDict

from . import token_rules
from .token_endpoint import Backend, BackendRequest, Identity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import APIRouter
    from starlette.routing import Route

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

    def __init__(
        self,
        answer: Callable[[BackendRequest], Awaitable[token_rules.EndpointAnswer]],
        identify: Callable[[Request], Identity],
    ) -> None:
        self._answer = answer
        self._identify = identify

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one HTTP request. Raise `ValueError` for a WebSocket or a lifespan scope."""
        if scope["type"] != "http":
            raise ValueError(f"the token endpoint got a {scope['type']} scope: mount it as an HTTP route")
        visit = BackendRequest(
            read_head(scope), lambda: self._identify(request_of(scope)), lambda: read_request_body(receive)
        )
        try:
            answer = await self._answer(visit)
        except ClientDisconnectedError:
            return
        head = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": head})
        await send({"type": "http.response.body", "body": answer.body})


class TokenBackend(Backend[Callable[..., Identity]]):
    """The token endpoint of your app: it returns the signed-in user's token to browsers, and a fleet renews the tokens.

    `fleet` is a function that returns a `SessionFleet`, or a context manager that yields one. Write it with
    `@asynccontextmanager` if it also opens the client and the store. `fleet` can also be a `SessionFleet` that your app
    opens and closes itself.

    `identify` is a function or coroutine function of your app. It returns the signed-in user's reference, or None if no
    user is signed in. The answer is then 401. With `router`, it is a FastAPI dependency, whose parameters FastAPI
    resolves. A single parameter without a type gets a `Request`, and so it does without `router`.

    By default, only pages of your app's own origin get tokens. `allowed_origins` lists other origins whose pages may
    request them. `public_origin` is the origin at which browsers reach your app. It serves browsers that don't send the
    header `Sec-Fetch-Site`.

    With `allow_device_tokens`, a device can request a token that is bound to its key.

    `issues_per_minute` limits how many tokens SignalWire issues for one reference through this backend. Requests beyond
    the limit get 429. Requests for a token that the fleet already keeps don't count.

    `router` is for FastAPI, and `routes` for Starlette. For other frameworks, `token`, `logout` and `health` are ASGI
    applications: mount each at a path of its own, for all HTTP methods.
    """

    def router(
        self,
        *,
        token: str | None = "/token",  # noqa: S107 - a path
        logout: str | None = "/logout",
        health: str | None = "/health",
    ) -> APIRouter:
        """Return the endpoints as a FastAPI router: `app.include_router(backend.router(), prefix="/signalwire")`.

        The arguments are the endpoints' paths. With None, the router doesn't have that endpoint.

        The router opens the fleet when the application starts, and closes it when it stops. FastAPI doesn't do that in
        an application that is mounted into another one: pass `lifespan` to the outer one.
        """
        from .fastapi_router import RouterBuilder  # noqa: PLC0415 - it needs FastAPI, which only its apps have

        builder = RouterBuilder(self._identify, refuse=self._refuse, lifespan=self.lifespan)
        if token is not None:
            builder.add_token(token, self._hand_out, takes_fingerprint=self._rules.allow_device_tokens)
        if logout is not None:
            builder.add_logout(logout, self._log_out)
        if health is not None:
            builder.add_health(health, self._health)
        return builder.router

    def routes(
        self,
        *,
        token: str | None = "/token",  # noqa: S107 - a path
        logout: str | None = "/logout",
        health: str | None = "/health",
    ) -> list[Route]:
        """Return the endpoints as Starlette routes: `Starlette(routes=backend.routes(), lifespan=backend.lifespan)`.

        The arguments are the endpoints' paths. With None, there is no route for that endpoint.
        """
        from starlette.routing import Route  # noqa: PLC0415 - other frameworks' apps may not have Starlette

        endpoints = {
            "signalwire_token": (token, self.token),
            "signalwire_logout": (logout, self.logout),
            "signalwire_health": (health, self.health),
        }
        return [Route(path, endpoint, name=name) for name, (path, endpoint) in endpoints.items() if path is not None]

    @property
    def token(self) -> Handler:
        """The endpoint that returns the signed-in user's token as JSON: `{"token", "expiry_at"}`.

        `expiry_at` is in milliseconds since the epoch.
        """
        return Handler(self._hand_out, self._identify)

    @property
    def logout(self) -> Handler:
        """The endpoint that closes the signed-in user's session, so that its token isn't renewed.

        A token that the browser already has stays valid until it expires. Other workers close the user's session once
        their fleet's `idle_timeout` has passed.
        """
        return Handler(self._log_out, self._identify)

    @property
    def health(self) -> Handler:
        """The endpoint that returns the fleet's health as JSON, without naming any user: 503 if it isn't open."""
        return Handler(self._look, self._identify)

    @asynccontextmanager
    async def lifespan(self, _: object = None) -> AsyncIterator[None]:
        """Open the fleet when the application starts, and close it when it stops: `Starlette(…, lifespan=…)`.

        Closing waits for renewals under way, so that their refresh tokens aren't lost. A fleet that your app opens
        itself stays as it is. If several lifespans of the backend overlap, the last one closes the fleet.
        """
        async with self._open():
            yield

    async def _look(self, visit: BackendRequest) -> token_rules.EndpointAnswer:
        return self._health(visit.asked.method)


def read_head(scope: MutableMapping[str, Any]) -> token_rules.RequestHead:
    """Return the head of the request that an ASGI scope describes."""
    headers = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    return token_rules.read_request(scope["method"], headers)


def request_of(scope: MutableMapping[str, Any]) -> Request:
    """Return the request that an ASGI scope describes."""
    return Request(scope, CIMultiDict(read_head(scope).headers))


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
