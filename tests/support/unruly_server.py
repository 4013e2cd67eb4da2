"""A server that sends what it likes, when a test says so, over plain HTTP or TLS.

It shares the test's event loop. `Link.send` and `Link.send_raw` hand the bytes to the kernel at once, so a test that
calls them and doesn't await is an event loop that was blocked when the bytes came.
"""

import asyncio
import json
import os
import select
import socket
import ssl
from contextlib import asynccontextmanager, suppress

from support.streams import serving
from support.waiting import HANG, eventually

HEAD = "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
SUBSCRIBERS = {"alice": "0193c9a8-0c55-7d7e-8a3e-2f1f0a9be001", "bob": "0193c9a8-0c55-7d7e-8a3e-2f1f0a9be002"}


def response(value, status="200 OK"):
    """Return a response with a JSON body."""
    body = json.dumps(value).encode()
    return HEAD.format(status=status, length=len(body)).encode() + body


def answer_for(name):
    """Return what the service answers for a subscriber: a pair and the subscriber's data in one."""
    id_ = SUBSCRIBERS[name]
    return response(
        {"id": id_, "subscriber_id": id_, "email": name, "token": f"access-{name}", "refresh_token": f"refresh-{name}"}
    )


class Link:
    """One connection, as the server sees it; `requests` are the names of the subscribers that it was asked about."""

    def __init__(self, server, reader, writer):
        self.requests = []
        self.before_answer = b""  # sent as it is, once the next request is there
        self._server, self._reader, self._writer = server, reader, writer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = server.context and server.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._port = writer.get_extra_info("peername")[1]

    def encode(self, data):
        """Return the bytes that carry `data` over this connection."""
        if self._tls is None:
            return data
        self._tls.write(data)
        return self._outgoing.read()

    def send(self, data):
        self.send_raw(self.encode(data))

    def send_raw(self, data):
        """Send bytes as they are, and block until they are in the client's kernel, unless the client has closed."""
        self._writer.write(data)
        self._wait_until_readable()

    def close(self):
        """Close the connection, and block until the client's kernel knows."""
        self._writer.transport.abort()
        self._writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._wait_until_readable()

    async def read(self):
        """Wait until the client's event loop has read all that was sent."""
        await eventually(lambda: (fd := self._client_fd()) is None or not select.select([fd], [], [], 0)[0])

    def _wait_until_readable(self):
        if (fd := self._client_fd()) is not None:
            assert select.select([fd], [], [], HANG)[0]

    def _client_fd(self):
        for key in asyncio.get_running_loop()._selector.get_map().values():
            with socket.socket(fileno=os.dup(key.fd)) as one, suppress(OSError):
                if one.getsockname()[1:2] == (self._port,):
                    return key.fd
        return None

    async def serve(self):
        buffer = b""
        while chunk := await self._receive():
            buffer += chunk
            head, end, body = buffer.partition(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            if end and len(body) >= int(fields.get(b"content-length", 0)):
                buffer = b""
                self.requests.append(subscriber_of(fields, body))
                self._writer.write(self.before_answer)
                if self._server.answers:
                    special = self._server.special.pop(0) if self._server.special else None
                    self._writer.write(self.encode(special or answer_for(self.requests[-1])))

    async def _receive(self):
        if self._tls is None:
            return await self._reader.read(65536)
        while self._server.shakes_hands:
            with suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
                return self._tls.read(65536)
            self._writer.write(self._outgoing.read())
            self._incoming.write(await self._reader.read(65536))
            if self._reader.at_eof():
                return b""
        await self._reader.read()
        return b""


def subscriber_of(fields, body):
    """Return whom a request is about."""
    if body:
        return json.loads(body)["reference"]
    return fields[b"authorization"].decode().removeprefix("bearer access-")


class UnrulyServer:
    """Answers each request, over as many connections as the client opens; `special` are the next answers instead."""

    def __init__(self, context):
        self.context = context
        self.links, self.special = [], []
        self.answers = self.shakes_hands = True

    async def _serve(self, reader, writer):
        link = Link(self, reader, writer)
        self.links.append(link)
        await link.serve()

    @property
    def requests(self):
        return [link.requests for link in self.links]


@asynccontextmanager
async def unruly_server(context=None):
    """Run the server; with a server's TLS context, it speaks TLS."""
    unruly = UnrulyServer(context)
    async with serving(unruly._serve) as port:
        scheme = "http" if context is None else "https"
        unruly.space = f"{scheme}://127.0.0.1:{port}"
        yield unruly
