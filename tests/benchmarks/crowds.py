"""What a hundred thousand sessions cost in one process: to start, to hold and to close."""

import asyncio
import gc
import math
import sys
import time
from pathlib import Path
from statistics import median

import aiohttp
import attrs

from signalwire_tokens import SessionFleet, SessionState, TokenClient

from . import served
from .calls import AUTHORIZATION, CREDENTIALS, LONG, PATIENT, rate
from .figures import Figure

PAGE = 4096
AT_A_TIME = 64
REACHED = 2.6  # of the goal for starts: see the page on performance


def resident():
    """Return how much memory this process has."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@attrs.frozen
class Crowd:
    """What was seen of it."""

    starts: list[float]  # of each chunk, to as many bare requests
    started: float  # seconds, all in all
    sizes: dict[int, float]  # of a session, by how many there were
    tokens: int  # bytes that a session's tokens take
    at_rest: list[float]  # share of a processor, without sessions and with them
    closing: float  # seconds, all in all
    closing_ratio: float


async def start_some(fleet, references):
    """Open sessions, and return when all have a token."""
    opened = [fleet.session(reference) for reference in references]
    for session in opened:
        await session.token()


async def crowd(port, *, total, chunk, idle):
    """Start sessions in chunks, each beside as many bare requests; look at memory on the way, and then at peace."""
    url = f"http://127.0.0.1:{port}/api/fabric/subscribers/tokens"
    client = TokenClient(f"127.0.0.1:{port}", *CREDENTIALS, timeout=LONG)
    starts, sizes, seconds = [], {}, 0.0
    async with client, aiohttp.ClientSession() as http:

        async def without_tracebacks():
            async with http.post(url, json={"reference": "alice@example.com"}, headers=AUTHORIZATION) as response:
                return await response.json()

        async with SessionFleet(client, max_rate=math.inf, max_concurrency=AT_A_TIME, policy=PATIENT) as fleet:
            await rate(lambda: client.create_subscriber_token("alice@example.com"), AT_A_TIME, 2 * chunk)
            await rate(without_tracebacks, AT_A_TIME, 2 * chunk)
            at_rest = [await share_of_processor(idle)]
            base = resident()
            for first in range(0, total, chunk):
                floor = chunk / await rate(without_tracebacks, AT_A_TIME, chunk)
                start = time.perf_counter()
                await start_some(fleet, [f"user-{number}@example.com" for number in range(first, first + chunk)])
                seconds += time.perf_counter() - start
                starts.append((time.perf_counter() - start) / floor)
                count = first + chunk
                if count in (total // 100, total // 10, total):
                    sizes[count] = (resident() - base) / count
            assert fleet.snapshot().sessions[SessionState.FRESH] == total
            at_rest.append(await share_of_processor(idle))
            pair = fleet.session("user-0@example.com").pair
            tokens = sys.getsizeof(pair.access_token.value) + sys.getsizeof(pair.refresh_token.value)
            start = time.perf_counter()
        closing = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(total):
            await asyncio.sleep(0)
        yields = time.perf_counter() - start
    return Crowd(starts, seconds, sizes, tokens, at_rest, closing, closing / yields)


async def share_of_processor(seconds):
    """Return which share of a processor is used while nothing is due."""
    await asyncio.sleep(1)
    used, start = time.process_time(), time.perf_counter()
    await asyncio.sleep(seconds)
    return (time.process_time() - used) / (time.perf_counter() - start)


def measure(*, quick):
    total, chunk, idle = (1280, 128, 0.5) if quick else (100_000, 1000, 5)
    with served.running() as port:
        seen = asyncio.run(crowd(port, total=total, chunk=chunk, idle=idle))
    fifth = len(seen.starts) // 5
    growth = [later / median(seen.starts[:fifth]) for later in seen.starts[-fifth:]]
    yield Figure(
        what=f"start of {total:,} sessions, {chunk:,} at a time",
        values=tuple(seen.starts),
        floor=f"as many bare requests, in turns; {seen.started:.0f} s in all",
        most=1.5,
        reached=REACHED,
    )
    yield Figure(what="cost of a start, last fifth to first", values=tuple(growth), floor="1: it is flat")
    for count, size in seen.sizes.items():
        yield Figure(
            what=f"memory of a session, of {count:,}",
            values=(size,),
            unit="B",
            floor=f"its tokens alone: {seen.tokens:,} B",
            most=3000 if count == 100_000 else None,
        )
    without, with_all = (100 * share for share in seen.at_rest)
    floor = f"the event loop without any: {without:.2f} %"
    yield Figure(what=f"processor share of {total:,} at rest", values=(with_all,), unit="%", floor=floor, most=1.0)
    yield Figure(
        what=f"close of {total:,} sessions",
        values=(seen.closing_ratio,),
        floor=f"as many asyncio.sleep(0); {seen.closing:.1f} s in all",
    )
