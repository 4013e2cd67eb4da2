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
from weakref import WeakKeyDictionary

import aiohttp

if TYPE_CHECKING:
    import asyncio

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

__all__ = ["GuardedConnector", "abort"]

COUNTS = sys.platform == "linux"
BYTES_RECEIVED = struct.Struct("=128xQ")  # `tcpi_bytes_received` in Linux's `struct tcp_info`, since 4.1


class GuardedConnector(aiohttp.TCPConnector):
    """A connector that reuses a connection only if it has received nothing since its last answer."""

    def __init__(self) -> None:
        super().__init__()
        # For each connection, how many bytes it had received when it last became idle.
        self._received: WeakKeyDictionary[ResponseHandler, int] = WeakKeyDictionary()

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
            if self._may_carry_a_request(protocol):
                connection.add_callback(partial(self._note, protocol))
                return connection
            abort(connection.transport)
            connection.close()

    def _may_carry_a_request(self, protocol: ResponseHandler) -> bool:
        """Return whether a connection is new, or received nothing while it was idle."""
        before = self._received.get(protocol)
        return before is None or (not protocol.should_close and received(protocol.transport) == before)

    def _note(self, protocol: ResponseHandler) -> None:
        """Record how many bytes a connection has received when it becomes idle.

        If there is more to read already, close the connection instead of returning it to the pool.
        """
        count = received(protocol.transport)
        if count is None:
            protocol.force_close()
        else:
            self._received[protocol] = count


def abort(transport: asyncio.Transport | None) -> None:
    """Close a connection at once, without the TLS closing handshake, for which a faulty peer may never answer."""
    if transport is not None:
        transport.abort()


def received(transport: asyncio.Transport | None) -> int | None:
    """Return how many bytes a connection has received in all, or 0 if the system doesn't count them.

    Return None if the socket has bytes or an end that the event loop hasn't read, or if the connection has no open
    socket.
    """
    found: socket.socket | None = None if transport is None else transport.get_extra_info("socket")
    if found is None or found.fileno() < 0 or is_readable(found.fileno()):
        return None
    if COUNTS:
        with suppress(OSError, struct.error):  # not TCP, or an old kernel
            counters = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_RECEIVED.size)
            return int(BYTES_RECEIVED.unpack(counters)[0])
    return 0


def is_readable(descriptor: int) -> bool:
    """Return whether a socket has bytes to read, has been closed by its peer, or has failed."""
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
