"""A proxy that breaks connections to Redis or PostgreSQL on purpose, and a server that breaks their protocols."""

import asyncio
import contextlib

from support.streams import close, serving


class Proxy:
    """Stands between a client and its server, and does what it is told to what passes.

    `mode` is "pass", "refuse" (connections are reset as they come), "reset" (the connection is reset when the next
    command has arrived, before it is passed on), "lose" (the same, once the server has answered), "stall" (answers
    are held back), "half-close" (instead of the next answer, the client gets the end of the stream, and nothing that
    it sends is passed on) or "deaf" (what the client sends isn't read any more). `delay` holds each answer back for so
    many seconds. `heard` is all that has passed, in both directions. With `tls`, a server's context, stores speak TLS
    to the proxy.
    """

    def __init__(self, port, *, tls=None):
        self._target, self.mode, self.delay = port, "pass", 0.0
        self._tls = tls
        self.connections, self.heard, self.is_holding = 0, bytearray(), False
        self._server = None
        self._pipes, self._writers = set(), set()
        self._released = asyncio.Event()

    @property
    def url(self):
        scheme = "redis" if self._tls is None else "rediss"
        return f"{scheme}://127.0.0.1:{self.port}/0"

    @property
    def port(self):
        return self._server.sockets[0].getsockname()[1]

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
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

    def lead_to(self, port):
        """Connect to another server from now on; connections to the one before stay open."""
        self._target = port

    def heal(self):
        """Let everything pass again, what was held back included."""
        self.mode, self.delay = "pass", 0.0
        self._released.set()
        self._released = asyncio.Event()

    def _accept(self, reader, writer):
        """Begin a task that `__aexit__` may cancel at any time. A server's own tasks fail if they are cancelled."""
        self.connections += 1
        self._writers.add(writer)
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._pipes.add(task)
        task.add_done_callback(self._pipes.discard)

    async def _serve(self, reader, writer):
        try:
            if self.mode != "refuse":
                await self._join(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            await close(writer)
            self._writers.discard(writer)

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
            await close(back)
            self._writers.discard(back)

    async def _forth(self, reader, writer):
        while data := await reader.read(65536):
            self.heard += data
            if self.mode == "reset":
                return
            if self.mode == "half-close":
                continue
            while self.mode == "deaf":
                await self._released.wait()
            writer.write(data)
            await writer.drain()

    async def _back(self, reader, writer):
        while data := await reader.read(65536):
            self.heard += data
            if self.mode == "lose":
                return
            if self.delay:
                await asyncio.sleep(self.delay)
            if self.mode == "half-close":
                writer.write_eof()
            while self.mode in ("stall", "half-close"):
                self.is_holding = True
                await self._released.wait()
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def nonsense(answer):
    """Yield the URL of a server that answers each command with the same bytes."""

    async def serve(reader, writer):
        while commands := await reader.read(65536):
            writer.write(answer * commands.count(b"*"))  # each begins with one

    async with serving(serve) as port:
        yield f"redis://127.0.0.1:{port}/0"


def wait_no_longer_than(seconds, store):
    """Change how long a store waits for an answer.

    Its connections wait twice as long: on a busy machine, Python 3.11 may lose the store's own cancellation, and a call
    then lasts as long as its connection waits.
    """
    pool, store._server.timeout = store._server.redis.connection_pool, seconds
    for name in ("socket_timeout", "socket_connect_timeout"):
        pool.connection_kwargs[name] = 2 * seconds
        for connection in (*pool._available_connections, *pool._in_use_connections):
            setattr(connection, name, 2 * seconds)
