"""HTTP requests as bytes, for those that clients don't send."""

import asyncio
from email.parser import BytesParser

from support.streams import close
from support.waiting import HANG

TOKENS = b"/api/fabric/subscribers/tokens"


def request(*headers, method=b"POST", target=TOKENS, body=b"{}"):
    """Return a request with these lines among its headers."""
    lines = (b"%b %b HTTP/1.1" % (method, target), b"Host: x", *headers, b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(body, target=TOKENS):
    """Return a request with a body in chunks, as they are given."""
    return b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%b" % (target, body)


async def send(emulator, data):
    """Send bytes, and return the status, the type and the body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", emulator.port)
    try:
        writer.write(data)
        async with asyncio.timeout(HANG):
            head = await reader.readuntil(b"\r\n\r\n")
            status, _, fields = head.partition(b"\r\n")
            headers = BytesParser().parsebytes(fields)
            body = await reader.readexactly(int(headers["Content-Length"]))
    finally:
        await close(writer)
    return int(status.split()[1]), headers.get_content_type(), body
