"""aiohttp's server, without what it logs and answers by itself, and what is wrong with the form of a request.

aiohttp logs a request that it can't parse and repeats it in the answer, with any credentials in it.
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

LARGEST_LINE = 128 * 1024  # of a header, which a long token fits in
OPTIONS: dict[str, Any] = {
    "access_log": None,
    "auto_decompress": False,
    "max_line_size": LARGEST_LINE,
    "max_field_size": LARGEST_LINE,
}
# These aren't errors of the emulator: the client sent what isn't HTTP, or has disconnected.
FAULTS_OF_CLIENTS = (HttpProcessingError, web.RequestPayloadError, ConnectionError)

logger: logging.Logger = logging.getLogger("signalwire_tokens.emulator")


class Server(web.Server):
    """Serves HTTP with `handler`. `answer` makes the answers to requests that can't be parsed or that fail."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        answer: Callable[[web.BaseRequest, Reply], web.Response],
    ) -> None:
        super().__init__(handler)
        self._answer = answer

    def __call__(self) -> web.RequestHandler:
        """Return what serves the next connection."""
        return RequestHandler(self, self._answer)


class RequestHandler(web.RequestHandler):
    """Serves one connection."""

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
        """Return the answer to a request that can't be parsed, or whose handler failed."""
        log_failure(exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has already begun")
        response = self._answer(request, failure(400 if isinstance(exc, FAULTS_OF_CLIENTS) else 500))
        response.force_close()
        return response

    def log_exception(self, *_: object, exc_info: BaseException | None = None, **__: object) -> None:
        """Log an error by its kind and place."""
        log_failure(exc_info)


def log_failure(error: BaseException | None) -> None:
    """Log an error of the emulator by its kind and place, because its message may quote a request."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            log_failure(one)
    elif error is not None and not isinstance(error, FAULTS_OF_CLIENTS):
        place = "".join(traceback.format_tb(error.__traceback__))
        logger.error("the emulator failed with %s:\n%s", type(error).__name__, place)


async def read_call(request: web.BaseRequest) -> Call:
    """Return a request as the service takes it."""
    body, flaw = b"", find_flaw(request)
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        flaw = "the body is larger than 1 MiB"
    return Call(
        method=request.method,
        path=request.rel_url.raw_path,  # as it was sent: an escaped slash isn't one
        query=dict(request.query),
        authorization=request.headers.get("Authorization"),
        flaw=flaw,
        content_type=request.headers.get("Content-Type", ""),
        body=body,
    )


def find_flaw(request: web.BaseRequest) -> str | None:
    """Return what is wrong with the form of a request, apart from its body; None if nothing is."""
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
