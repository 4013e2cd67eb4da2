"""What a call costs: a fresh token, a request, the import of the package, the start of the command."""

import asyncio
import os
import resource
import subprocess
import sys
import time
from importlib.util import find_spec
from statistics import median

import aiohttp

from signalwire_tokens import RefreshPolicy, SessionFleet, SubscriberSession, SystemClock, TokenClient

from . import served
from .figures import Figure

CREDENTIALS = ("5e1f0a4e-9a3e-4d0f-8b0a-1d2f3c4b5a69", "PTbenchmark")
AUTHORIZATION = {"Authorization": "Basic " + "NWUxZjBhNGU" * 8}
BARE = "bare requests"
IN_FLIGHT = (1, 8, 64)
REACHED = 0.7  # of the goal for 64 requests in flight: see the page on performance
LONG = 300.0  # seconds: figures are wanted however slow the machine is
PATIENT = RefreshPolicy(wait_timeout=LONG)


class Floor:
    """The least that a valid token can cost: read the clock, compare, return."""

    __slots__ = ("now", "until", "value")

    def __init__(self, value, until):
        self.now, self.value, self.until = SystemClock().now, value, until

    async def token(self):
        if self.now() < self.until:
            return self.value
        raise AssertionError


async def seconds_of(token, calls, *arguments):
    start = time.perf_counter()
    for _ in range(calls):
        await token(*arguments)
    return time.perf_counter() - start


async def fresh_tokens(port, *, calls, pairs):
    """Compare a fresh token with its floor, in turns, so that both meet the same machine."""
    client = TokenClient(f"127.0.0.1:{port}", *CREDENTIALS, timeout=LONG)
    session = SubscriberSession(client, "alice", policy=PATIENT)
    async with client, session, SessionFleet(client, policy=PATIENT) as fleet:
        floor = Floor(await session.token(), SystemClock().now() + 3600)
        await fleet.token("alice")
        alone, together = [], []
        for _ in range(pairs):
            least = await seconds_of(floor.token, calls)
            alone.append(await seconds_of(session.token, calls) / least)
            together.append(await seconds_of(fleet.token, calls, "alice") / least)
    against = "a coroutine that reads the clock, compares and returns"
    return [
        Figure(what="session.token() while fresh", values=tuple(alone), floor=against, most=1.1),
        Figure(what="fleet.token(reference) while fresh", values=tuple(together), floor=against, most=1.2),
    ]


async def rate(call, in_flight, calls):
    """Call so often, so many at a time; return the calls a second."""

    async def work(times):
        for _ in range(times):
            await call()

    start = time.perf_counter()
    await asyncio.gather(*(work(calls // in_flight) for _ in range(in_flight)))
    return calls / (time.perf_counter() - start)


async def request_ratios(port, *, calls, pairs):
    """Compare issuing and refreshing with bare requests that carry the same; by what is done and how many at a time."""
    url = f"http://127.0.0.1:{port}/api/fabric/subscribers/tokens"
    client = TokenClient(f"127.0.0.1:{port}", *CREDENTIALS, timeout=LONG)
    async with client, aiohttp.ClientSession() as http:
        pair = await client.create_subscriber_token("alice@example.com")

        async def without_tracebacks(path, body):
            async with http.post(url + path, json=body, headers=AUTHORIZATION) as response:
                return await response.json()

        bodies = {"reference": "alice@example.com"}, {"refresh_token": pair.refresh_token.value}
        ways = {
            "pairs issued": (
                lambda: client.create_subscriber_token("alice@example.com"),
                lambda: without_tracebacks("", bodies[0]),
            ),
            "pairs refreshed": (
                lambda: client.refresh_subscriber_token(pair.refresh_token),
                lambda: without_tracebacks("/refresh", bodies[1]),
            ),
        }
        ways[BARE] = (ways["pairs issued"][1],) * 2  # whose ratio shows how noisy the machine is
        ratios = {(way, in_flight): [] for way in ways for in_flight in IN_FLIGHT}
        for _ in range(pairs):
            for (way, in_flight), found in ratios.items():
                ours, floor = ways[way]
                found.append(await rate(ours, in_flight, calls) / await rate(floor, in_flight, calls))
    return ratios


def requests(port, *, calls, pairs):
    """Take the ratios on asyncio's own event loop, and where it is there on uvloop's."""
    ratios = asyncio.run(request_ratios(port, calls=calls, pairs=pairs))
    others = {}
    if find_spec("uvloop"):
        import uvloop  # noqa: PLC0415 - it need not be there

        others = uvloop.run(request_ratios(port, calls=calls, pairs=max(3, pairs // 3)))
    return [
        Figure(
            what=f"{way}, {in_flight} at a time",
            values=tuple(values),
            floor="the same requests" if way == BARE else "session.post(url, json=, headers=) and .json()",
            least=0.95 if (way, in_flight) == ("pairs issued", 64) else None,
            reached=REACHED if (way, in_flight) == ("pairs issued", 64) else None,
            rises=True,
            uvloop=median(others[way, in_flight]) if others else None,
        )
        for (way, in_flight), values in ratios.items()
    ]


def processor_seconds(*arguments):
    """Return what a run of Python costs, in a process of its own, with what was compiled before."""
    cached = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=cached, check=True, capture_output=True, input=TOKEN)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


AIOHTTP, CLICK = "import aiohttp, attrs", "import click"
NAMES = "from signalwire_tokens import SessionFleet, SubscriberSession, TokenClient"
TOKEN = b"eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwidHlwIjoiU0FUIn0..aXY.Y2lwaGVy.VFRUVFRUVFRUVFRUVFRUVA"
STARTS = (
    ("import signalwire_tokens", ("-c", "import signalwire_tokens"), AIOHTTP, 1.1),
    (NAMES, ("-c", NAMES), AIOHTTP, None),
    ("signalwire-tokens --help", ("-m", "signalwire_tokens", "--help"), CLICK, 1.5),
    ("signalwire-tokens inspect", ("-m", "signalwire_tokens", "inspect"), CLICK, 1.5),
)


def starting(*, pairs):
    """Compare imports and commands with the imports that they stand on: the processor time of whole processes."""
    for what, arguments, floor, most in STARTS:
        if floor == CLICK and not find_spec("click"):
            continue
        ratios = [processor_seconds(*arguments) / processor_seconds("-c", floor) for _ in range(pairs + 1)]
        yield Figure(what=what, values=tuple(ratios[1:]), floor=floor, most=most)


def measure(*, quick):
    with served.running() as port:
        yield from asyncio.run(fresh_tokens(port, calls=2000 if quick else 20_000, pairs=7 if quick else 31))
        yield from requests(port, calls=256 if quick else 1024, pairs=5 if quick else 15)
    yield from starting(pairs=5 if quick else 15)
