"""What two thousand realtime connections cost in one process, and how they come back when all are cut at once."""

import asyncio
import gc
import logging
import math
import subprocess
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, contextmanager

import aiohttp

from signalwire_tokens import SessionFleet, TokenClient
from signalwire_tokens.emulator import Emulator
from signalwire_tokens.realtime import RealtimeConnection

from .calls import LONG, PATIENT
from .crowds import AT_A_TIME, resident
from .figures import Figure

SEED = "connections"
SECONDS = 10
SPREAD = 3  # seconds over which they are spread


async def serve():
    """Serve until standard input is closed. Each line that arrives there cuts all connections."""
    loop = asyncio.get_running_loop()
    async with Emulator(seed=SEED) as emulator:
        print(emulator.port, flush=True)
        lines = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while await lines.readline():
            emulator._gateway.cut()


@contextmanager
def running():
    """Run the gateway in a process of its own, and yield that and its port."""
    command = [sys.executable, "-m", "tests.benchmarks.connections"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.stdin.close()


async def in_turns(calls):
    """Await all of them, some at a time."""
    limit = asyncio.Semaphore(AT_A_TIME)

    async def one(call):
        async with limit:
            return await call

    return await asyncio.gather(*(one(call) for call in calls))


async def bare_sockets(url, total):
    """Return what a bare WebSocket of aiohttp takes, of so many."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http, AsyncExitStack() as sockets:
        base = resident()
        opened = await in_turns([http.ws_connect(url) for _ in range(total)])
        for one in opened:
            sockets.push_async_callback(one.close)
        return (resident() - base) / total


async def connections(process, port, total):
    """Return what a connection takes, and in which seconds the connections are made again after a cut."""
    credentials, url = Emulator(seed=SEED), f"ws://127.0.0.1:{port}/"
    floor = await bare_sockets(url, total)
    client = TokenClient(f"127.0.0.1:{port}", credentials.project_id, credentials.api_token, timeout=LONG)
    http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    fleet = SessionFleet(client, max_rate=math.inf, max_concurrency=AT_A_TIME, policy=PATIENT)
    async with client, http, fleet:
        sessions = [fleet.session(f"user-{number}") for number in range(total)]
        await in_turns([session.token() for session in sessions])
        gc.collect()
        base = resident()
        opened = [RealtimeConnection(one, host=url, http_session=http, connect_timeout=LONG) for one in sessions]
        await in_turns([one.start() for one in opened])
        size = (resident() - base) / total
        back, again = Counter(), [asyncio.Event() for _ in opened]
        cut_at = time.perf_counter()

        def note(change, event):
            if change.state.value == "connected":
                back[int(time.perf_counter() - cut_at)] += 1
                event.set()

        for one, event in zip(opened, again, strict=True):
            one.subscribe(lambda change, event=event: note(change, event))
        process.stdin.write("cut\n")
        process.stdin.flush()
        await asyncio.gather(*(event.wait() for event in again))
        await in_turns([one.aclose() for one in opened])
    return size, floor, [back[second] for second in range(SECONDS)]


def measure(*, quick):
    total = 20 if quick else 2000
    logging.getLogger("signalwire_tokens.realtime").setLevel(logging.ERROR)  # it names each lost connection
    with running() as (process, port):
        size, floor, back = asyncio.run(connections(process, port, total))
    yield Figure(
        what=f"memory of a realtime connection, of {total:,}",
        values=(size,),
        unit="B",
        floor=f"a bare WebSocket of aiohttp takes {floor:,.0f} B",
    )
    yield Figure(
        what=f"busiest second of the return of {total:,} connections that were cut",
        values=(max(back) * SPREAD / total,),
        floor=f"the average of {SPREAD} s",
    )


if __name__ == "__main__":
    asyncio.run(serve())
