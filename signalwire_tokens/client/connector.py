"""The client's own connections. A connection is reused only if nothing arrived while it was idle.

aiohttp treats bytes that arrived on an idle connection as the answer to the next request (aiohttp issue 13656). If a
server or proxy sent an answer twice, the second copy would be returned to another caller, with another subscriber's
token in it.

So the connector checks each connection twice: when it becomes idle, and before it is reused. It closes the connection
if one of these signs shows that something arrived:

=======================================  ===========================================================
sign                                     what it reveals
=======================================  ===========================================================
the socket has something to read         bytes or an end that the event loop hasn't read yet
aiohttp's `should_close` is set          a whole message that aiohttp has read
the kernel's count of bytes has grown    part of a message, or part of a TLS record, which aiohttp's
(Linux only)                             parser or the TLS layer has buffered
=======================================  ===========================================================

Before a reuse on Linux, the kernel's count and its state of the connection also show unread bytes and an end, so that
one system call is enough. That works because the count is read before the socket is polled when the connection becomes
idle: a byte that arrives in between is seen by the poll, and a later one by the count.

One case isn't detected: part of a TLS record that the event loop read together with the end of the last answer. It was
already counted when the connection became idle.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, cast

import aiohttp

if TYPE_CHECKING:
    import asyncio

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

__all__ = ["GuardedConnector", "abort"]

COUNTS = sys.platform == "linux"
# Of Linux's `struct tcp_info`: `tcpi_state`, and `tcpi_bytes_received`, which it has since 4.1.
COUNTERS = struct.Struct("=B127xQ")
ESTABLISHED = 1  # the state of a connection that neither side has ended
# In place of a count. A connection that was used has received bytes, so its count is more than 0.
UNCOUNTED, ENDED, IN_USE = 0, -1, -2
MOST_CLOSED = 100  # closed connections whose counts are kept, besides as many as there are open ones


class GuardedConnector(aiohttp.TCPConnector):
    """A connector that reuses a connection only if it has received nothing since its last answer."""

    def __init__(self) -> None:
        super().__init__()
        # For each connection, how many bytes it had received when it became idle, or `IN_USE`. Closed connections are
        # removed once there are more than `_most` entries.
        self._received: dict[ResponseHandler, int] = {}
        self._most = MOST_CLOSED

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp calls it so
    ) -> Connection:
        """Return a new connection, or an idle one that received nothing. Close all others that the pool offers."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = cast("ResponseHandler", connection.protocol)  # it is None only after the release
            before = self._received.get(protocol)
            if before is None or (not protocol.should_close and has_only(before, protocol.transport)):
                self._received[protocol] = IN_USE  # if `_note` raises, the connection isn't used again
                connection.add_callback(partial(self._note, protocol))
                return connection
            abort(connection.transport)
            connection.close()

    def _note(self, protocol: ResponseHandler) -> None:
        """Record how many bytes a connection has received when it becomes idle.

        If there is more to read already, close the connection instead of returning it to the pool.
        """
        open_socket = socket_of(protocol.transport)
        count = ENDED if open_socket is None else received(open_socket)  # before the poll: see above
        if open_socket is None or count == ENDED or is_readable(open_socket.fileno()):
            protocol.force_close()
            return
        self._received[protocol] = count
        if len(self._received) > self._most:
            self._received = {one: count for one, count in self._received.items() if one.transport is not None}
            self._most = 2 * len(self._received) + MOST_CLOSED


def abort(transport: asyncio.Transport | None) -> None:
    """Close a connection at once, without the TLS closing handshake, for which a faulty peer may never answer."""
    if transport is not None:
        transport.abort()


def socket_of(transport: asyncio.Transport | None) -> socket.socket | None:
    """Return the open socket of a connection, or None."""
    found: socket.socket | None = None if transport is None else transport.get_extra_info("socket")
    return None if found is None or found.fileno() < 0 else found


def has_only(count: int, transport: asyncio.Transport | None) -> bool:
    """Return whether a connection is open, and has received no more than `count` bytes in all."""
    open_socket = socket_of(transport)
    if open_socket is None or received(open_socket) != count:
        return False
    return count > UNCOUNTED or not is_readable(open_socket.fileno())


def received(open_socket: socket.socket) -> int:
    """Return how many bytes a connection has received in all, read or not.

    Return `ENDED` if either side has ended the connection, and `UNCOUNTED` if the system doesn't count.
    """
    if COUNTS:
        with suppress(OSError, struct.error):  # not TCP, or an old kernel
            counters = open_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, COUNTERS.size)
            state, count = COUNTERS.unpack(counters)
            return int(count) if state == ESTABLISHED else ENDED
    return UNCOUNTED


def is_readable(descriptor: int) -> bool:
    """Return whether a socket has bytes to read, has been closed by its peer, or has failed."""
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
