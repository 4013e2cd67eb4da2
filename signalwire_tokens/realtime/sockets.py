"""The way to the gateway, and one open socket."""

from __future__ import annotations

import asyncio
import ssl as tls
from collections import deque
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import aiohttp
import attrs
from yarl import URL

from signalwire_tokens.client.connector import abort
from signalwire_tokens.client.sender import split_proxy, verifying
from signalwire_tokens.errors import ConfigurationError
from signalwire_tokens.origins import HTTP_ALLOWED, is_loopback, read_place, write_origin
from signalwire_tokens.secret import Secret

if TYPE_CHECKING:
    from signalwire_tokens.gateway import Lost, Refused, Send
    from signalwire_tokens.models import Token

__all__ = ["Line", "Route", "Socket", "open_session"]

USUAL_HOST = "puc.signalwire.com"  # if a token's header names none
OPEN_TIMEOUT = 10.0  # seconds in which a socket must be open
LONGEST_MESSAGE = 16 * 1024 * 1024  # bytes
CLOSE_TIMEOUT = 2.0  # seconds for the last messages, and again for the closing handshake


class Socket(aiohttp.ClientWebSocketResponse):
    """A WebSocket of aiohttp that keeps its transport, which is needed to abort it after it was closed."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - aiohttp's own
        super().__init__(*arguments, **options)
        connection = arguments[3].connection  # of the response to the handshake
        self.transport: asyncio.Transport | None = None if connection is None else connection.transport


async def refuse_redirect(_: object, __: object, redirect: aiohttp.TraceRequestRedirectParams) -> None:
    """Raise the error of a failed handshake. A redirect could lead the token to any host."""
    answer = redirect.response
    answer.close()
    raise aiohttp.WSServerHandshakeError(answer.request_info, answer.history, status=answer.status)


NO_REDIRECTS = aiohttp.TraceConfig()
NO_REDIRECTS.on_request_redirect.append(refuse_redirect)
NO_REDIRECTS.freeze()


@cache
def default_context() -> tls.SSLContext:
    """Return the TLS context that all connections share if they have none of their own."""
    return tls.create_default_context()


def open_session(given: aiohttp.ClientSession | None) -> aiohttp.ClientSession:
    """Return an HTTP session that adds nothing to a handshake. It uses the connector of a given session."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0) if given is None else given.connector,
        connector_owner=given is None,
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[NO_REDIRECTS],
        ws_response_class=Socket,
    )


@attrs.frozen
class Route:
    """The way to the gateway. `origin` is its address; without one, the token names the host."""

    origin: str | None
    ssl: tls.SSLContext | None
    proxy: URL | None
    proxy_headers: Secret[Mapping[str, str]] | None

    @classmethod
    def of(cls, host: str | None, ssl: tls.SSLContext | None, proxy: Secret[str | None]) -> Route:
        """Return the way that the arguments of a connection describe, or raise `ConfigurationError`."""
        return cls(None if host is None else origin_of(host), verifying(ssl), *split_proxy(proxy))

    def url_for(self, token: Token) -> str:
        """Return the URL of the gateway for a token."""
        origin = self.origin or f"https://{token.channel or USUAL_HOST}"
        return f"ws{origin.removeprefix('http')}/"

    async def open(self, http: aiohttp.ClientSession, url: str) -> Socket:
        """Return an open socket. Raise aiohttp's error, or `TimeoutError`, if there is none in time."""
        async with asyncio.timeout(OPEN_TIMEOUT):
            return await http.ws_connect(  # type: ignore[return-value]  # as `open_session` has it
                url,
                ssl=default_context() if self.ssl is None else self.ssl,
                proxy=self.proxy,
                proxy_headers=None if self.proxy_headers is None else self.proxy_headers.value,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT),
                max_msg_size=LONGEST_MESSAGE,
            )


def origin_of(host: object) -> str:
    """Return the origin of a gateway, which is given as a host, a host and a port, or a URL."""
    given = host.strip() if isinstance(host, str) else ""
    place = read_place(f"http{given[2:]}" if given.startswith(("ws://", "wss://")) else given)
    if place is None:
        raise ConfigurationError("host must be the gateway's host, such as 'puc.signalwire.com', or its URL")
    is_local = is_loopback(place.host)
    if place.scheme == "http" and not is_local:
        raise ConfigurationError(f"host must be reached by wss; {HTTP_ALLOWED.replace('http', 'ws', 1)}")
    return write_origin(place.scheme or ("http" if is_local else "https"), place.host, place.port)


class Line:
    """One open socket: the messages to send, and why it has ended.

    `lost` has the reason once there is one. With `Refused`, the whole connection is given up.
    """

    def __init__(self, opened: Socket) -> None:
        self.socket: Socket = opened
        self.lost: asyncio.Future[Lost | Refused] = asyncio.get_running_loop().create_future()
        self._outbox: deque[Send | None] = deque()
        self._filled = asyncio.Event()

    def send(self, message: Send | None) -> None:
        """Queue a message for `write`. None ends `write` after all messages before it."""
        self._outbox.append(message)
        self._filled.set()

    def end(self, lost: Lost | Refused) -> None:
        """Set why the socket has ended. Only the first reason counts."""
        if not self.lost.done():
            self.lost.set_result(lost)

    async def write(self, may_send: Callable[[str], bool]) -> None:
        """Send the messages in their order, except calls for which `may_send(call_id)` is False."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._outbox:
                message = self._outbox.popleft()
                if message is None:
                    return
                if message.call_id is None or may_send(message.call_id):
                    await self.socket.send_str(message.message.value)

    async def close(self, tasks: list[asyncio.Task[None]]) -> None:
        """Send what is left, end the tasks that read and write, and close the socket.

        If the other side doesn't take part in this, it ends after four seconds.
        """
        reading, writing = tasks
        self.send(None)
        try:
            await asyncio.wait([writing], timeout=CLOSE_TIMEOUT)
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self.socket.close()
        except TimeoutError:
            pass
        finally:
            abort(self.socket.transport)
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
