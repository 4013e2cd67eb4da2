"""The backend that browsers ask for their tokens, on any ASGI server: FastAPI, Starlette, and what else speaks it.

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
from .token_endpoint import Backend, Visit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Request", "TokenBackend"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]


class GoneError(Exception):
    """Whoever asked has not waited for the answer."""


@attrs.frozen
class Request:
    """A request as `identify` sees it.

    `scope` is ASGI's own, from which each framework makes its request: `starlette.requests.Request(request.scope)`.
    `headers` are found by their names in upper or lower case, `cookies` are as they came.
    """

    scope: MutableMapping[str, Any] = attrs.field(repr=False)
    headers: token_rules.Headers = attrs.field(repr=False)

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies that came with it; of several that have one name the first, which is the most specific."""
        found: dict[str, str] = {}
        for pair in self.headers.get("cookie", "").split(";"):
            name, equals, value = pair.partition("=")
            if equals:
                found.setdefault(name.strip(), value.strip().strip('"'))
        return found


class Handler:
    """A part of the backend as an ASGI application of its own."""

    def __init__(self, answer: Callable[[Visit[Request]], Awaitable[token_rules.Answer]]) -> None:
        self._answer = answer

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise ValueError(f"this is an endpoint for HTTP, and not for {scope['type']}")
        headers = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        asked = token_rules.read_request(scope["method"], headers)
        try:
            answer = await self._answer(
                Visit(Request(scope, CIMultiDict(asked.headers)), asked, lambda: read_body(receive))
            )
        except GoneError:
            return
        head = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": head})
        await send({"type": "http.response.body", "body": answer.body})


class TokenBackend(Backend[Request]):
    """Give browsers their tokens, and keep those alive in a fleet.

    `fleet` is a function that makes a `SessionFleet` for an `async with`, together with its client and store; or one
    that the application has opened, and closes, by itself.
    `identify(request)` says by the application's own means who asks: the subscriber's reference, or None for nobody;
    it may be a coroutine function. Pages of `allowed_origins` may ask from other sites. `public_origin` is where
    browsers reach the application, for those that do not say by themselves that a request comes from the same origin.
    With `allow_device_tokens`, a device may ask for a token that its key binds. `issues_per_minute` is how many tokens
    one subscriber may have issued through this backend; requests beyond that are answered with 429.

    `token`, `logout` and `health` are ASGI applications, each to be put on a path of its own.
    """

    @property
    def token(self) -> Handler:
        """Answers with the token of whoever asks: `{"token", "expiry_at"}`."""
        return Handler(self._hand_out)

    @property
    def logout(self) -> Handler:
        """Keeps the token of whoever asks alive no longer."""
        return Handler(self._log_out)

    @property
    def health(self) -> Handler:
        """Tells how the fleet stands: 503 where it is not open."""
        return Handler(self._look)

    @asynccontextmanager
    async def lifespan(self, _: object = None) -> AsyncIterator[None]:
        """Keep the fleet open as long as the application runs: `FastAPI(lifespan=backend.lifespan)`."""
        async with self._open():
            yield

    async def _look(self, visit: Visit[Request]) -> token_rules.Answer:
        return self._tell_health(visit.asked.method)


async def read_body(receive: Receive) -> bytes:
    """Read a body, and no more of it than it may have."""
    body, more = bytearray(), True
    while more and len(body) <= token_rules.LARGEST_BODY:
        message = await receive()
        if message["type"] != "http.request":
            raise GoneError
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)
