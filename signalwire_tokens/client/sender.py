"""One request over HTTP, by the client's own connections or a caller's."""

from __future__ import annotations

import asyncio
import ssl as tls
from base64 import b64encode
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import aiohttp
from yarl import URL

from signalwire_tokens._version import __version__
from signalwire_tokens.errors import ConfigurationError, ConnectionFailed, TimedOut, TransportError
from signalwire_tokens.models import Secret

from .connector import GuardedConnector, abort
from .credentials import bare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.http import StreamWriter

    from signalwire_tokens import wire

__all__ = ["Sender", "Trip"]

LARGEST_BODY = 64 * 1024
NO_LIMIT = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",  # what is compressed all the same is neither decompressed nor read
    "User-Agent": f"signalwire-tokens/{__version__}",
}
OUR_HEADERS = frozenset({"host", "accept", "accept-encoding", "user-agent"})
BODY_HEADERS = frozenset({"content-type", "content-length"})
CREDENTIALS = ("Authorization", "Proxy-Authorization", "Cookie")
FRAMING = ("Content-Encoding", "Expect", "Transfer-Encoding")
NEVER_LEFT = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.ConnectionTimeoutError)


class Trip:
    """How far a request has come, and the connection that it went over.

    `sent` is False until the request is written, then None, since it may have arrived, and True when an answer begins.
    """

    __slots__ = ("authorization", "sent", "status", "transport")

    def __init__(self) -> None:
        self.start(None)

    def start(self, authorization: Secret[str] | None) -> None:
        """Begin again."""
        self.authorization: Secret[str] | None = authorization
        self.sent: bool | None = False
        self.status: int | None = None
        self.transport: asyncio.Transport | None = None

    def drop(self) -> None:
        """Close the connection that the request went over, which may be idle by now: no pool offers it again."""
        abort(self.transport)


class Sender:
    """Send requests to one origin, and put nothing into them that is not theirs."""

    _http: aiohttp.ClientSession | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(
        self, origin: str, http: aiohttp.ClientSession | None, ssl: tls.SSLContext | None, proxy: Secret[str | None]
    ) -> None:
        self._origin = origin
        self._host = origin.partition("://")[2]
        self._ssl = verifying(ssl)
        self._proxy, self._proxy_headers = split_proxy(proxy)
        if self._proxy is not None and origin.startswith("http:"):
            raise ConfigurationError(f"a proxy would carry plain http away from this machine: give none with {origin}")
        self._closed = False
        if http is not None:
            if not isinstance(http, aiohttp.ClientSession):
                raise ConfigurationError("http_session must be an aiohttp.ClientSession")
            refuse_additions(http, origin)
            self._http = http

    @property
    def closed(self) -> bool:
        """Tell whether nothing may be sent any more."""
        return self._closed

    @property
    def leaks(self) -> bool:
        """Tell whether connections of our own are open."""
        return self._loop is not None and self._http is not None and not self._http.closed

    def stop(self) -> None:
        """Send nothing more."""
        self._closed = True

    async def aclose(self) -> None:
        """Close the connections, where they are our own."""
        if self._loop is not None and self._http is not None:
            await self._http.close()

    async def send(self, request: wire.Request[Any], trip: Trip) -> tuple[int, Mapping[str, str], Secret[bytes | None]]:
        """Send a request and return its answer's status, headers and body; None stands for a body that is too large."""
        http = self._open()
        failure: TransportError | None = None
        try:
            response = await http.request(
                request.method,
                URL(self._origin + request.path, encoded=True),
                data=NotedBody(request.body or b"", trip, is_pooled=self._loop is not None),
                headers=self._headers(request, trip.authorization),
                ssl=True if self._ssl is None else self._ssl,
                proxy=self._proxy,
                proxy_headers=None if self._proxy_headers is None else self._proxy_headers.value,
                middlewares=(
                    ()
                    if self._loop and request.body is not None
                    else (partial(send_ours_alone, trip.authorization is not None, request),)
                ),
                timeout=NO_LIMIT,
                allow_redirects=False,
                raise_for_status=False,
                auto_decompress=False,  # not every aiohttp bounds what an answer unfolds to
            )
            trip.sent, trip.status = True, response.status
            return response.status, response.headers, await read_body(response)
        except asyncio.CancelledError as cancelled:
            raise cancelled.with_traceback(None)  # noqa: B904 - the frames below hold the headers
        except (aiohttp.ClientError, OSError) as error:
            failure = self._failure(error, request.operation, trip)
        raise failure

    def check(self) -> None:
        """Refuse to be used once closed."""
        if self._closed:
            raise ConfigurationError("the client was closed: make another one")

    def _open(self) -> aiohttp.ClientSession:
        """Return the HTTP session, made on first use: it belongs to the event loop that is running then."""
        self.check()
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=GuardedConnector(), headers=HEADERS, cookie_jar=aiohttp.DummyCookieJar()
            )
            self._loop = asyncio.get_running_loop()
        if self._http.closed:
            raise ConfigurationError("the aiohttp.ClientSession given as http was closed")
        if self._loop not in (None, asyncio.get_running_loop()):
            raise ConfigurationError("a client belongs to the event loop it was first used on: make one for each")
        if self._loop is None and self._ssl is None and self._origin.startswith("https:"):
            self._ssl = tls.create_default_context()  # the session's connector may have been told not to verify
        return self._http

    def _headers(self, request: wire.Request[Any], authorization: Secret[str] | None) -> dict[str, str]:
        """Write what our own session does not know; for a caller's, all, lest its defaults take their place."""
        added = {} if request.headers is None else request.headers.value
        if self._loop:
            return {**added, **({} if authorization is None else {"Authorization": authorization.value})}
        theirs = {name.lower() for name in added}
        return {
            **{name: value for name, value in HEADERS.items() if name.lower() not in theirs},
            **added,
            "Host": self._host,
            **(
                {}
                if request.body is None
                else {"Content-Type": "application/json", "Content-Length": f"{len(request.body)}"}
            ),
            **({} if authorization is None else {"Authorization": authorization.value}),
        }

    def _failure(self, error: Exception, operation: str, trip: Trip) -> TransportError:
        """Say what aiohttp's error means; keep only what the system said: its frames hold headers."""
        sent = False if isinstance(error, NEVER_LEFT) else trip.sent or None
        if isinstance(error, TimeoutError):
            message = f"the connection to {self._origin} timed out"
            return TimedOut(message, sent=sent, operation=operation, status=trip.status)
        cause = system_error(error)
        reason = reason_of(error) if cause is None else str(cause)
        what = f"cannot connect to {self._origin}" if sent is False else f"the connection to {self._origin} broke"
        failure = ConnectionFailed(f"{what}: {reason}", sent=sent, operation=operation, status=trip.status)
        failure.__cause__ = cause
        return failure


def system_error(error: Exception) -> OSError | None:
    """Find what the system itself said, if it did."""
    found: Exception | None = None
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        found = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        found = error.os_error
    if isinstance(found, OSError):
        bare(found)
        return found
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror)
    return None


def reason_of(error: Exception) -> str:
    """Say what went wrong where the system said nothing; aiohttp's own words may quote the answer."""
    match error:
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answered {error.status}"
        case aiohttp.ClientResponseError():
            return "the answer is not HTTP"
        case aiohttp.ClientPayloadError():
            return "the answer broke off, or cannot be decoded"
        case aiohttp.ServerDisconnectedError():
            return "it was closed without an answer"
        case _:
            return type(error).__name__


class NotedBody(aiohttp.BytesPayload):
    """A body, empty or not, that notes when a request is written, and over which connection.

    A connection of a borrowed session isn't pooled: that session's pool doesn't look at what it offers.
    """

    def __init__(self, body: bytes, trip: Trip, *, is_pooled: bool) -> None:
        super().__init__(body, content_type="application/json")
        self._trip, self._is_pooled = trip, is_pooled

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Write the body."""
        protocol = cast("ResponseHandler", cast("StreamWriter", writer).protocol)
        self._trip.sent, self._trip.transport = None, protocol.transport
        if not self._is_pooled:
            protocol.force_close()
        await super().write_with_length(writer, content_length)


async def read_body(response: aiohttp.ClientResponse) -> Secret[bytes | None]:
    """Read a body, or None where it is larger than any that the service gives.

    Read to its end, an answer gives its connection back; otherwise, that is closed.
    """
    body = Secret(bytearray())
    try:
        while not response.content.at_eof():
            body.value.extend(await response.content.readany())
            if len(body.value) > LARGEST_BODY:
                return Secret(None)
        return Secret(bytes(body.value))
    finally:
        if not response.content.at_eof():
            response.close()


async def send_ours_alone(
    authorized: bool,
    described: wire.Request[Any],
    request: aiohttp.ClientRequest,
    handler: aiohttp.ClientHandlerType,
) -> aiohttp.ClientResponse:
    """Take out of a request what a caller's session has put in: cookies, default headers, credentials."""
    added = {} if described.headers is None else described.headers.value
    kept = OUR_HEADERS.union(
        (name.lower() for name in added),
        ("authorization",) if authorized else (),
        () if described.body is None else BODY_HEADERS,
    )
    for name in list(request.headers):
        if name.lower() not in kept:
            request.headers.popall(name, None)
    request.headers.update(added)  # to whose cookies the session's own may have been added
    return await handler(request)


def verifying(context: tls.SSLContext | None) -> tls.SSLContext | None:
    """Refuse a TLS context that would talk to anybody."""
    if context is None:
        return None
    if not isinstance(context, tls.SSLContext):
        raise ConfigurationError("ssl must be an ssl.SSLContext: certificates are always verified")
    if context.verify_mode is not tls.CERT_REQUIRED or not context.check_hostname:
        raise ConfigurationError("ssl must verify certificates and host names; name a CA of your own as its cafile")
    return context


def split_proxy(proxy: Secret[str | None]) -> tuple[URL | None, Secret[Mapping[str, str]] | None]:
    """Take a proxy's credentials out of its URL, where errors and logs would show them."""
    if proxy.value is None:
        return None, None
    url: Secret[URL] = Secret(URL())
    with suppress(ValueError, TypeError):
        url.value = URL(proxy.value)
    if url.value.scheme not in ("http", "https") or not url.value.host:
        raise ConfigurationError("proxy must be the URL of an http or https proxy")
    if url.value.user is None:
        return url.value, None
    credentials = Secret(f"{url.value.user}:{url.value.password or ''}".encode())
    header = f"Basic {b64encode(credentials.value).decode()}"
    return url.value.with_user(None), Secret({"Proxy-Authorization": header})


def refuse_additions(http: aiohttp.ClientSession, origin: str) -> None:
    """Refuse a session that would add credentials of its own, or another framing, to what an operation must carry."""
    added = [f"a default {name} header" for name in (*CREDENTIALS, *FRAMING) if name in http.headers]
    if http.auth is not None:
        added.append("auth")
    if http.trust_env:
        added.append("trust_env (netrc and proxy variables)")
    if http.cookie_jar.filter_cookies(URL(origin)):
        added.append(f"cookies for {origin}")
    if added:
        raise ConfigurationError(
            f"the aiohttp.ClientSession given as http adds {', '.join(added)} to every request: "
            "give one that does not, or none, and the client makes its own"
        )
