"""What a hundred thousand sessions cost in one process: to start, to hold and to close."""

import asyncio
import gc
import math
import time
from pathlib import Path
from statistics import median

import aiohttp

from signalwire_tokens import SessionFleet, SessionState, TokenClient

from . import served
from .calls import AUTHORIZATION, CREDENTIALS, rate
from .figures import Figure

PAGE = 4096
AT_A_TIME = 64


def resident():
    """Tell how much memory this process has."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


async def start_some(fleet, references):
    """Open sessions, and return when all have a token."""
    opened = [fleet.session(reference) for reference in references]
    for session in opened:
        await session.token()


async def crowd(port, *, total, chunk, idle):
    """Start sessions in chunks, each beside as many bare requests; look at memory on the way, and then at peace."""
    url = f"http://127.0.0.1:{port}/api/fabric/subscribers/tokens"
    client = TokenClient(f"127.0.0.1:{port}", *CREDENTIALS, timeout=60)
    starts, sizes, base = [], {}, 0
    async with client, aiohttp.ClientSession() as http:

        async def bare():
            async with http.post(url, json={"reference": "alice@example.com"}, headers=AUTHORIZATION) as response:
                return await response.json()

        async with SessionFleet(client, rate=math.inf, concurrency=AT_A_TIME) as fleet:
            await rate(lambda: client.create_subscriber_token("alice@example.com"), AT_A_TIME, 2 * chunk)
            await rate(bare, AT_A_TIME, 2 * chunk)
            base = resident()
            for first in range(0, total, chunk):
                floor = chunk / await rate(bare, AT_A_TIME, chunk)
                start = time.perf_counter()
                await start_some(fleet, [f"user-{number}@example.com" for number in range(first, first + chunk)])
                starts.append((time.perf_counter() - start) / floor)
                count = first + chunk
                if count in (total // 100, total // 10, total):
                    sizes[count] = (resident() - base) / count
            assert fleet.snapshot().sessions[SessionState.FRESH] == total
            at_rest = await share_of_processor(idle)
            looking = time.perf_counter()
            fleet.snapshot()
            looking = time.perf_counter() - looking
            start = time.perf_counter()
        closing = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(total):
            await asyncio.sleep(0)
        yields = time.perf_counter() - start
    return starts, sizes, at_rest, looking, closing / yields, closing


async def share_of_processor(seconds):
    """Tell which share of a processor is used while nothing is due."""
    await asyncio.sleep(1)
    used, start = time.process_time(), time.perf_counter()
    await asyncio.sleep(seconds)
    return (time.process_time() - used) / (time.perf_counter() - start)


def measure(*, quick):
    total, chunk, idle = (1000, 10, 1) if quick else (100_000, 1000, 60)
    with served.running() as port:
        starts, sizes, at_rest, looking, closing, closed = asyncio.run(crowd(port, total=total, chunk=chunk, idle=idle))
    growth = [later / median(starts[: len(starts) // 5]) for later in starts[-(len(starts) // 5) :]]
    yield Figure(what=f"seconds to start {total:,} sessions", values=tuple(starts), floor="as many bare requests")
    yield Figure(what="cost of a start, last fifth to first", values=tuple(growth), floor="1: it is flat")
    for count, size in sizes.items():
        yield Figure(
            what=f"memory of a session, of {count:,}",
            values=(size,),
            unit="B",
            floor="about 1,300 B are its tokens",
            most=3584 if count == total else None,
        )
    yield Figure(what=f"processor share of {total:,} at rest", values=(100 * at_rest,), unit="%", most=1.0)
    yield Figure(what=f"snapshot() of {total:,}", values=(1000 * looking,), unit="ms")
    yield Figure(
        what=f"seconds to close {total:,}", values=(closed,), unit="s", floor=f"{closing:.1f} times as many sleep(0)"
    )
