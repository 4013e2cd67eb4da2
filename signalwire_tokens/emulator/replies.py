"""The HTTP form of replies and faults: headers, CORS, and answers that stop half-way."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, cast
from uuid import uuid4

from aiohttp import web

from .calls import OPERATIONS
from .faults import HttpFault, Huge, Raw, Redirect, Reset, Stall, Status

if TYPE_CHECKING:
    import asyncio

    from .calls import Reply

__all__ = [
    "answer",
    "flood",
    "hang_up",
    "http_date",
    "is_open_to_browsers",
    "preflight",
    "reset_connection",
    "start_response",
    "status_of",
]

BODY_CHUNK = b" " * 65536  # written at a time, so that a huge answer doesn't have to fit into memory
CREATED = 201
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, DPoP",
    "Access-Control-Max-Age": "600",
}
# Operations that take no API token, so that code in a browser can use them. The others would need the project's secret.
OPEN_TO_BROWSERS = (
    "create_invite_token",
    "create_embed_token",
    "create_device_token",
    "refresh_device_token",
    "subscriber_info",
    "addresses",
    "address",
)


def is_open_to_browsers(path: str) -> bool:
    """Return whether pages of other origins may send requests to a path."""
    return any(OPERATIONS[name][1].fullmatch(path) for name in OPEN_TO_BROWSERS)


def preflight() -> web.Response:
    """Return the answer to a CORS preflight request, which allows the real request."""
    return web.Response(status=204, headers=CORS)


def status_of(fault: HttpFault | None, reply: Reply) -> int | None:
    """Return the HTTP status that the client gets, or None if the fault sends no answer."""
    match fault:
        case Status(status) | Raw(_, status=status) | Redirect(_, status=status):
            return status
        case Huge():
            return CREATED
        case Stall() | Reset():
            return None
        case _:
            return reply.status


def answer(request: web.BaseRequest, reply: Reply, now: float, *, fault: Status | None = None) -> web.Response:
    """Return a reply as an HTTP response.

    `now` is the time for its `Date`, in seconds since the epoch. `fault` is the fault that has made the reply, if any:
    its `retry_after` becomes a header. Paths that are open to browsers get the headers of CORS.
    """
    headers = {"Date": http_date(now), "X-Request-Id": str(uuid4()), **reply.headers}
    if fault is not None and fault.retry_after is not None:
        headers["Retry-After"] = write_retry_after(fault.retry_after, now, as_date=fault.as_date)
    if is_open_to_browsers(request.rel_url.raw_path):
        headers |= CORS
    return web.json_response(reply.body, status=reply.status, headers=headers)


def write_retry_after(pause: float | str, now: float, *, as_date: bool) -> str:
    """Return the value of `Retry-After`: a text unchanged, and a number of seconds as such or as a date."""
    if isinstance(pause, str):
        return pause
    return http_date(now + pause) if as_date else f"{pause:.0f}"


def http_date(seconds: float) -> str:
    """Return a time, given in seconds since the epoch, as a date of an HTTP header."""
    return format_datetime(datetime.fromtimestamp(int(seconds), UTC), usegmt=True)


async def start_response(request: web.BaseRequest, whole: web.Response) -> web.StreamResponse:
    """Send the headers of a response and the first half of its body. Return what was begun.

    The headers announce the length of the whole body, so the client can see that it is incomplete. A client that has
    disconnected isn't an error.
    """
    body = cast("bytes", whole.body)
    half = web.StreamResponse(status=whole.status, headers={**whole.headers, "Content-Length": str(len(body))})
    with suppress(ConnectionError):
        await half.prepare(request)
        await half.write(body[: len(body) // 2])
    return half


async def flood(request: web.BaseRequest, size: int) -> web.StreamResponse:
    """Send a success with a body of `size` bytes, or as much of it as the client reads before it disconnects."""
    response = web.StreamResponse(status=CREATED, headers={"Content-Type": "application/json"})
    response.content_length = size
    with suppress(ConnectionError):
        await response.prepare(request)
        for sent in range(0, size, len(BODY_CHUNK)):
            await response.write(BODY_CHUNK[: size - sent])
    return response


def hang_up(request: web.BaseRequest, response: web.StreamResponse, *, reset: bool = False) -> web.StreamResponse:
    """Close the connection of a request, and return `response` to satisfy aiohttp. The client doesn't get it.

    The connection ends as usual (FIN), or with `reset` by a reset (RST), which clients report as another error.
    """
    if request.transport is not None:
        if reset:
            reset_connection(request.transport)
        else:
            request.transport.close()
    return response


def reset_connection(transport: asyncio.Transport) -> None:
    """Close a connection by a reset (RST)."""
    linger = struct.pack("ii", 1, 0)  # with no time to linger, closing sends a reset
    with suppress(OSError):  # the client has disconnected
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()
