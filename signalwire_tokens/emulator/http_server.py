"""aiohttp's server, adapted so that it never reveals a request. Also the check of the form of requests.

By default, aiohttp logs a request that it can't parse, and repeats it in the answer. Both would show the credentials in
it. Here, such a request gets the same JSON as other failures, and the log has only errors of the emulator itself: their
type and their place in the code, but not their message.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http import HttpProcessingError

from .calls import Call, Reply, failure
from .gateway import is_handshake, is_right_handshake

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Server", "read_call"]

LARGEST_LINE = 128 * 1024  # bytes of a header line. aiohttp's default of 8190 would refuse long tokens
OPTIONS: dict[str, Any] = {
    "access_log": None,
    "auto_decompress": False,
    "max_line_size": LARGEST_LINE,
    "max_field_size": LARGEST_LINE,
}
# These aren't errors of the emulator: the client has sent something that isn't HTTP, or has disconnected.
FAULTS_OF_CLIENTS = (HttpProcessingError, web.RequestPayloadError, ConnectionError)

logger: logging.Logger = logging.getLogger("signalwire_tokens.emulator")


class Server(web.Server):
    """An HTTP server. `handler` handles requests, and `answer` makes the responses if that fails.

    `answer` gets the request and a reply of status 400 or 500.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        answer: Callable[[web.BaseRequest, Reply], web.Response],
    ) -> None:
        super().__init__(handler)
        self._answer = answer

    def __call__(self) -> web.RequestHandler:
        """Return the protocol for the next connection. asyncio calls this."""
        return RequestHandler(self, self._answer)


class RequestHandler(web.RequestHandler):
    """The protocol of one connection, with aiohttp's reports of errors replaced."""

    __slots__ = ("_answer",)

    def __init__(self, server: Server, answer: Callable[[web.BaseRequest, Reply], web.Response]) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **OPTIONS)
        self._answer = answer

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,  # noqa: ARG002 - aiohttp passes it
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - as above; it quotes the request
    ) -> web.StreamResponse:
        """Return the response to a request that can't be parsed (400), or whose handler failed (500).

        The connection is closed after it. Raise a `ConnectionError` if another response has already begun. aiohttp then
        closes the connection, because a second response can't follow.
        """
        log_handler_error(exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has already begun")
        response = self._answer(request, failure(400 if isinstance(exc, FAULTS_OF_CLIENTS) else 500))
        response.force_close()
        return response

    def log_exception(self, *_: object, exc_info: BaseException | None = None, **__: object) -> None:
        """Log an error by its type and place."""
        log_handler_error(exc_info)


def log_handler_error(error: BaseException | None) -> None:
    """Log an error of the emulator by its type and place, because its message may quote a request.

    Errors of clients are not logged. Of a group of errors, each is logged by itself.
    """
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            log_handler_error(one)
    elif error is not None and not isinstance(error, FAULTS_OF_CLIENTS):
        place = "".join(traceback.format_tb(error.__traceback__))
        logger.error("the emulator failed with %s:\n%s", type(error).__name__, place)


async def read_call(request: web.BaseRequest) -> Call:
    """Return a request as a `Call` for the service, with its body read.

    If the form of the request is wrong, the call has a `malformed_because`. A body of more than 1 MiB, aiohttp's limit,
    isn't kept.
    """
    body, malformed_because = b"", find_flaw(request)
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        malformed_because = "the body is larger than 1 MiB"
    return Call(
        method=request.method,
        path=request.rel_url.raw_path,  # as it was sent: an escaped slash isn't one
        query=dict(request.query),
        authorization=request.headers.get("Authorization"),
        malformed_because=malformed_because,
        content_type=request.headers.get("Content-Type", ""),
        body=body,
    )


def find_flaw(request: web.BaseRequest) -> str | None:
    """Return what is wrong with the form of a request, or None if nothing is. The body isn't looked at.

    These forms are ambiguous: servers and proxies differ in how they read them. SignalWire may accept some of them.
    """
    headers = request.headers
    if len(headers.getall("Authorization", [])) > 1:
        return "more than one Authorization header"
    if any(value.lower() != "identity" for value in headers.getall("Content-Encoding", [])):
        return "the body has a Content-Encoding"
    if len(request.query) > len(set(request.query)):
        return "a parameter of the query is repeated"
    if is_handshake(request) and not is_right_handshake(request):
        return "the handshake of a WebSocket is wrong"
    return None
