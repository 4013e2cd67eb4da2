"""One HTTP request, over the client's own connections or those of a given `aiohttp.ClientSession`.

The two kinds of session need different care:

========================  ================================  ====================================================
                          the client's own session          a given session
========================  ================================  ====================================================
default headers, cookies  none besides `HEADERS`            unknown: `strip_added_headers` removes all added headers
idle connections          checked by `GuardedConnector`     not checked: each request closes its connection
TLS                       `ssl` or the system's default     the session may have turned verification off, so
                                                            each request names a context that verifies
closing                   by `aclose()`                     never
========================  ================================  ====================================================

Redirects are never followed and bodies never decompressed. `TokenClient` sets the time limits.
"""

from __future__ import annotations

import asyncio
import os
import ssl as tls
from base64 import b64encode
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import aiohttp
from yarl import URL

from signalwire_tokens._version import __version__
from signalwire_tokens.errors import ConfigurationError, ConnectionFailed, TimedOut, TransportError
from signalwire_tokens.secret import Secret

from .connector import GuardedConnector, abort
from .reasons import NETWORK, network_reason, system_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.http import StreamWriter
    from multidict import CIMultiDictProxy

    from signalwire_tokens import wire

__all__ = ["SendProgress", "Sender"]

LARGEST_ANSWER = 64 * 1024
NO_LIMIT = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",  # a compressed body is refused, because it may unfold to any size
    "User-Agent": f"signalwire-tokens/{__version__}",
}
OUR_HEADERS = frozenset({"host", "accept", "accept-encoding", "user-agent"})
BODY_HEADERS = frozenset({"content-type", "content-length"})
CREDENTIALS = ("Authorization", "Proxy-Authorization", "Cookie")
FRAMING = ("Content-Encoding", "Expect", "Transfer-Encoding")
OTHER_LOOP = (
    "this TokenClient was first used on another event loop or before a fork: create one per event loop and process, or "
    "call it on its own loop with asyncio.run_coroutine_threadsafe(). See 'Celery, RQ and Django' in the documentation"
)
NEVER_LEFT = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.ConnectionTimeoutError)


class SendProgress:
    """A record of how far a request has come, and of the connection that it uses.

    `sent` has the meaning of `TransportError.sent`: False until the request is written, then None, because it may have
    arrived, and True once an answer begins. `status` is the status of that answer. `authorization` is the header that
    was sent. A record is passed in, rather than returned, so that it survives a timeout or a cancellation.
    """

    __slots__ = ("authorization", "sent", "status", "transport")

    def __init__(self) -> None:
        self.start(None)

    def start(self, authorization: Secret[str] | None) -> None:
        """Reset the record for the next request, which carries `authorization`."""
        self.authorization: Secret[str] | None = authorization
        self.sent: bool | None = False
        self.status: int | None = None
        self.transport: asyncio.Transport | None = None

    def drop(self) -> None:
        """Close the connection that the request used, so that no pool offers it again."""
        abort(self.transport)


class Sender:
    """Sends requests to one origin, with exactly the headers that an operation needs.

    `_http` is the `aiohttp.ClientSession` that is used. `_loop` is None as long as the sender has no session of its
    own, so it also shows whether `_http` is a given session. The sender's own session is made by the first request,
    because it belongs to the event loop on which it is made.
    """

    _http: aiohttp.ClientSession | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _process: int = 0

    def __init__(
        self, origin: str, http: aiohttp.ClientSession | None, ssl: tls.SSLContext | None, proxy: Secret[str | None]
    ) -> None:
        self._origin = origin
        self._host = origin.partition("://")[2]
        self._ssl = verifying(ssl)
        self._proxy, self._proxy_headers = split_proxy(proxy)
        if self._proxy is not None and origin.startswith("http:"):
            raise ConfigurationError(
                f"proxy can't be used with {origin}: plain http must stay on this machine; omit proxy, or use https"
            )
        self._closed = False
        if http is not None:
            if not isinstance(http, aiohttp.ClientSession):
                raise ConfigurationError(f"http_session must be an aiohttp.ClientSession, not {type(http).__name__}")
            check_given_session(http, origin)
            self._http = http

    @property
    def closed(self) -> bool:
        """True after `stop()`."""
        return self._closed

    @property
    def leaks(self) -> bool:
        """True if the sender's own session is open, so that `aclose()` is still needed."""
        return self._loop is not None and self._http is not None and not self._http.closed

    def stop(self) -> None:
        """Block all further requests. Requests under way go on."""
        self._closed = True

    async def aclose(self) -> None:
        """Close the sender's own session. A given session stays open."""
        if self._loop is not None and self._http is not None:
            await self._http.close()

    async def send(
        self, request: wire.Request[Any], progress: SendProgress
    ) -> tuple[int, CIMultiDictProxy[str], Secret[bytes | None]]:
        """Send a request once and return its answer's status, headers and body. The body is None if it is too large.

        `progress` records the progress. Raise `ConnectionFailed` or `TimedOut` if no complete answer arrives.
        """
        http = self._open()
        failure: TransportError | None = None
        try:
            response = await http.request(
                request.method,
                URL(self._origin + request.path, encoded=True),
                data=RecordingBody(request.body or b"", progress, is_pooled=self._loop is not None),
                headers=self._headers(request, progress.authorization),
                ssl=True if self._ssl is None else self._ssl,
                proxy=self._proxy,
                proxy_headers=None if self._proxy_headers is None else self._proxy_headers.value,
                # Even the client's own session adds the headers of a body, which a request without one must not have.
                middlewares=(
                    ()
                    if self._loop and request.body is not None
                    else (partial(strip_added_headers, progress.authorization is not None, request),)
                ),
                timeout=NO_LIMIT,
                allow_redirects=False,
                raise_for_status=False,
                auto_decompress=False,  # some versions of aiohttp don't limit the decompressed size
            )
            progress.sent, progress.status = True, response.status
            return response.status, response.headers, await read_answer_body(response)
        except asyncio.CancelledError as cancelled:
            # aiohttp cancels the requests that wait for a free connection when its session closes.
            task = asyncio.current_task()
            if not http.closed or task is None or task.cancelling():
                raise cancelled.with_traceback(None)  # noqa: B904 - the frames below hold the headers
            failure = self._closed_before(request, progress)
        except (aiohttp.ClientError, OSError) as error:
            failure = self._failure(error, request, progress)
        raise failure

    def check(self) -> None:
        """Raise `ConfigurationError` if `stop()` was called."""
        if self._closed:
            raise ConfigurationError("this TokenClient is closed: create a new one")

    def _open(self) -> aiohttp.ClientSession:
        """Return the HTTP session, and make one on the first call if none was given."""
        self.check()
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=GuardedConnector(), headers=HEADERS, cookie_jar=aiohttp.DummyCookieJar()
            )
            self._loop, self._process = asyncio.get_running_loop(), os.getpid()
        if self._http.closed:
            raise ConfigurationError(
                "the aiohttp.ClientSession given as http_session is closed: keep it open as long as the client"
            )
        if self._loop is not None and (self._loop, self._process) != (asyncio.get_running_loop(), os.getpid()):
            raise ConfigurationError(OTHER_LOOP)
        if self._loop is None and self._ssl is None and self._origin.startswith("https:"):
            self._ssl = tls.create_default_context()  # the given session's connector may not verify certificates
        return self._http

    def _headers(self, request: wire.Request[Any], authorization: Secret[str] | None) -> dict[str, str]:
        """Return the headers to pass with a request.

        The sender's own session adds the common headers itself. A given session would add its own defaults, so all
        headers are passed.
        """
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

    def timed_out(self, request: wire.Request[Any], progress: SendProgress, within: str, advice: str) -> TimedOut:
        """Return the error for a request that took too long. `within` names the limit, and `advice` what to check."""
        if progress.sent:
            message = f"the answer from {self._host} wasn't complete {within}"
        elif progress.sent is None:
            message = f"no answer from {self._host} {within}"
        else:
            message = f"cannot connect to {self._host} (no answer {within})"
        return TimedOut(message, sent=progress.sent, operation=request.operation, status=progress.status, advice=advice)

    def _failure(self, error: Exception, request: wire.Request[Any], progress: SendProgress) -> TransportError:
        """Return the error that stands for one of aiohttp's.

        Its cause is the operating system's error at most. aiohttp's error isn't kept, because its frames hold headers.
        """
        if self._http is not None and self._http.closed:
            return self._closed_before(request, progress)
        progress.sent = False if isinstance(error, NEVER_LEFT) else progress.sent or None
        if isinstance(error, TimeoutError):
            return self.timed_out(request, progress, "within the system's limit", NETWORK)
        cause = system_error(error)
        text, advice = network_reason(error, cause)
        is_unsent = progress.sent is False
        failure = ConnectionFailed(
            f"cannot connect to {self._host} ({text})"
            if is_unsent
            else f"the connection to {self._host} broke ({text})",
            sent=progress.sent,
            operation=request.operation,
            status=progress.status,
            advice=advice.format(setting=request.address_setting),
        )
        failure.__cause__ = cause
        return failure

    def _closed_before(self, request: wire.Request[Any], progress: SendProgress) -> ConnectionFailed:
        """Return the error for a request whose session was closed."""
        closed = "TokenClient" if self._loop else "aiohttp.ClientSession given as http_session"
        return ConnectionFailed(
            f"the {closed} was closed before {self._host} had answered",
            sent=progress.sent,
            operation=request.operation,
            status=progress.status,
            advice="close it after its calls, sessions and fleets",
        )


class RecordingBody(aiohttp.BytesPayload):
    """A request body, perhaps empty, that records in a `SendProgress` when it is written and over which connection.

    If `is_pooled` is False, the connection is closed after the answer. It would go back to the pool of a given session
    otherwise, which doesn't check idle connections.
    """

    def __init__(self, body: bytes, progress: SendProgress, *, is_pooled: bool) -> None:
        super().__init__(body, content_type="application/json")
        self._progress, self._is_pooled = progress, is_pooled

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Record that the request is being written, then write the body. aiohttp calls this method."""
        protocol = cast("ResponseHandler", cast("StreamWriter", writer).protocol)
        self._progress.sent, self._progress.transport = None, protocol.transport
        if not self._is_pooled:
            protocol.force_close()
        await super().write_with_length(writer, content_length)


async def read_answer_body(response: aiohttp.ClientResponse) -> Secret[bytes | None]:
    """Return the body of an answer, or None in the `Secret` if it is larger than `LARGEST_ANSWER`.

    An answer that is read to its end releases its connection. In any other case, including a cancellation, the
    connection is closed.
    """
    content, body = response.content, Secret[Any](b"")
    try:
        while not content.at_eof():
            body.value += await content.readany()
            if len(body.value) > LARGEST_ANSWER:
                return Secret(None)
    finally:
        if not content.at_eof():
            response.close()
    return body


async def strip_added_headers(
    authorized: bool,
    described: wire.Request[Any],
    request: aiohttp.ClientRequest,
    handler: aiohttp.ClientHandlerType,
) -> aiohttp.ClientResponse:
    """Remove from a request everything that a session added: cookies, default headers, credentials.

    This is an aiohttp middleware, so it runs after the session has completed the headers.
    """
    added = {} if described.headers is None else described.headers.value
    kept = OUR_HEADERS.union(
        (name.lower() for name in added),
        ("authorization",) if authorized else (),
        () if described.body is None else BODY_HEADERS,
    )
    for name in list(request.headers):
        if name.lower() not in kept:
            request.headers.popall(name, None)
    request.headers.update(added)  # the session may have added its cookies to a `Cookie` header of the request
    return await handler(request)


def verifying(context: tls.SSLContext | None) -> tls.SSLContext | None:
    """Return a TLS context, or raise `ConfigurationError` if it doesn't verify certificates and host names."""
    if context is None:
        return None
    if not isinstance(context, tls.SSLContext):
        raise ConfigurationError(
            f"ssl must be an ssl.SSLContext, not {type(context).__name__}: certificates are always verified"
        )
    if context.verify_mode is not tls.CERT_REQUIRED or not context.check_hostname:
        raise ConfigurationError(
            "ssl must verify certificates and host names: to trust a CA of your own, pass "
            "ssl.create_default_context(cafile=…)"
        )
    return context


def split_proxy(proxy: Secret[str | None]) -> tuple[URL | None, Secret[Mapping[str, str]] | None]:
    """Return a proxy's URL without its credentials, and the header that carries them, or None for each.

    Errors and logs would show credentials in the URL.
    """
    if proxy.value is None:
        return None, None
    url: Secret[URL] = Secret(URL())
    with suppress(ValueError, TypeError):
        url.value = URL(proxy.value)
    if url.value.scheme not in ("http", "https") or not url.value.host:
        raise ConfigurationError(
            "proxy must be the URL of an http or https proxy, such as http://proxy.example.com:3128"
        )
    if url.value.user is None:
        return url.value, None
    credentials = Secret(f"{url.value.user}:{url.value.password or ''}".encode())
    header = f"Basic {b64encode(credentials.value).decode()}"
    return url.value.with_user(None), Secret({"Proxy-Authorization": header})


def check_given_session(http: aiohttp.ClientSession, origin: str) -> None:
    """Raise `ConfigurationError` if a given session adds credentials to requests, or changes their framing.

    `strip_added_headers` runs too late for some of these: aiohttp has chosen the proxy and the framing by then.
    """
    added = [f"a default {name} header" for name in (*CREDENTIALS, *FRAMING) if name in http.headers]
    if http.auth is not None:
        added.append("auth")
    if http.trust_env:
        added.append("trust_env (netrc and proxy variables)")
    if http.cookie_jar.filter_cookies(URL(origin)):
        added.append(f"cookies for {origin}")
    if added:
        raise ConfigurationError(
            f"http_session adds {', '.join(added)} to every request: pass a session without them, or omit http_session"
        )
