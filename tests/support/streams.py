"""Servers of asyncio's streams, and how their connections end."""

import asyncio
from contextlib import asynccontextmanager, suppress


async def close(writer):
    """Close a connection and retrieve its error. Otherwise, asyncio may report the error as never retrieved."""
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


@asynccontextmanager
async def serving(serve):
    """Yield the port of a server. At its end, it resets the connections that are still open."""
    writers, running = [], []

    async def run(reader, writer):
        writers.append(writer)
        running.append(asyncio.current_task())
        with suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        await close(writer)

    async with await asyncio.start_server(run, "127.0.0.1", 0) as server:
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            for writer in writers:
                writer.transport.abort()
            await asyncio.gather(*running)
