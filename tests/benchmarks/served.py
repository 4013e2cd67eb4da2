"""A service that costs as little as may be: the same answer to every request, from a process of its own."""

import asyncio
import json
import secrets
import subprocess
import sys
from base64 import urlsafe_b64encode
from contextlib import contextmanager
from uuid import uuid4


def token(kind):
    """Make something of a token's form and length."""
    header = urlsafe_b64encode(json.dumps({"alg": "dir", "enc": "A256GCM", "typ": kind}).encode()).decode().rstrip("=")
    parts = (secrets.token_urlsafe(size) for size in (12, 400, 16))
    return f"{header}..{'.'.join(parts)}"


def answer():
    """Return an answer that fits every issue and every refresh."""
    pair = {"subscriber_id": str(uuid4()), "token": token("SAT"), "refresh_token": token("Refresh")}
    body = json.dumps(pair).encode()
    head = (
        f"HTTP/1.1 201 Created\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Answering(asyncio.Protocol):
    """Answer each request, however it is cut into pieces."""

    answer = answer()

    def __init__(self):
        self.seen = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.seen += data
        while (end := self.seen.find(b"\r\n\r\n")) >= 0:
            length = int(self.seen[:end].lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            if len(self.seen) < end + 4 + length:
                return
            self.seen = self.seen[end + 4 + length :]
            self.transport.write(self.answer)


async def serve():
    """Serve until standard input is closed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answering, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    gone = asyncio.Event()
    loop.add_reader(sys.stdin, gone.set)
    await gone.wait()
    server.close()


@contextmanager
def running():
    """Run the service in a process of its own, and yield its port."""
    command = [sys.executable, "-m", "tests.benchmarks.served"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()


if __name__ == "__main__":
    asyncio.run(serve())
