"""What each stage of issuing a pair costs, and of starting a session: the processor time with one stage more each."""

import asyncio
import gc
import json
import math
import time
from statistics import mean, median

import aiohttp
from yarl import URL

from signalwire_tokens import SessionFleet, TokenClient, wire
from signalwire_tokens.client import sender
from signalwire_tokens.client.connector import GuardedConnector
from signalwire_tokens.clock import SYSTEM
from signalwire_tokens.secret import Secret

from . import served
from .calls import AUTHORIZATION, CREDENTIALS, LONG, PATIENT, rate
from .crowds import start_some
from .days import Service, client_of
from .figures import Figure

REFERENCE = "alice@example.com"
IN_FLIGHT = 64
BARE = "a bare request: session.post(url, json=, headers=) and .json()"
CHUNK = 1000


async def stages(port, *, calls, rounds):
    """Return the microseconds of each stage's calls, by what the stage adds."""
    url = URL(f"http://127.0.0.1:{port}/api/fabric/subscribers/tokens", encoded=True)
    described = wire.create_subscriber_token(REFERENCE, now=time.time())
    header = Secret(AUTHORIZATION["Authorization"])
    settings = {"headers": sender.HEADERS, "cookie_jar": aiohttp.DummyCookieJar()}
    client = TokenClient(f"127.0.0.1:{port}", *CREDENTIALS, timeout=LONG)
    async with (
        client,
        aiohttp.ClientSession() as usual,
        aiohttp.ClientSession(**settings) as lean,
        aiohttp.ClientSession(connector=GuardedConnector(), **settings) as guarded,
    ):
        await client.create_subscriber_token(REFERENCE)

        async def bare():
            async with usual.post(url, json={"reference": REFERENCE}, headers=AUTHORIZATION) as response:
                return await response.json()

        def with_settings(http):
            async def request():
                response = await http.request(
                    "POST",
                    url,
                    data=described.body,
                    headers={**AUTHORIZATION, "Content-Type": "application/json"},
                    timeout=sender.NO_LIMIT,
                    allow_redirects=False,
                    auto_decompress=False,
                )
                return await response.read()

            return request

        async def sent():
            progress = sender.SendProgress()
            progress.start(header)
            return await client.sender.send(described, progress)

        async def decoded():
            return json.loads((await sent())[2].value.decode())

        async def read():
            status, headers, body = await sent()
            answer = wire.Answer(
                status=status, headers=headers, body=body.value, sent=time.time(), lifetimes=client.lifetimes
            )
            return wire.read(described, answer)

        ways = {
            BARE: bare,
            "a request with the client's settings of aiohttp, without JSON": with_settings(lean),
            "and checked idle connections": with_settings(guarded),
            "and a record of how far it has come": sent,
            "and JSON": decoded,
            "and tokens, checked, with their times": read,
            "and the time limit, credentials and throttle": lambda: client.send(described),
            "and checked arguments: create_subscriber_token()": lambda: client.create_subscriber_token(REFERENCE),
        }
        found = {what: [] for what in ways}
        for _ in range(rounds + 1):
            for what, call in ways.items():
                before = time.process_time()
                await rate(call, IN_FLIGHT, calls)
                found[what].append((time.process_time() - before) / calls * 1e6)
    return {what: values[1:] for what, values in found.items()}


class AtOnce(Service):
    """A service that answers without a network, in the next turn of the event loop."""

    body = served.answer().partition(b"\r\n\r\n")[2]

    async def send(self, _request, _progress):
        await asyncio.sleep(0)
        return 201, {}, Secret(self.body)


async def starts(*, sessions, is_collecting):
    """Return the microseconds of calls without a network, and of starts of sessions, in chunks."""
    calls, started = [], []
    client = client_of(AtOnce(SYSTEM))
    gc.collect()
    if not is_collecting:
        gc.disable()
    async with client, SessionFleet(client, max_rate=math.inf, max_concurrency=IN_FLIGHT, policy=PATIENT) as fleet:
        for first in range(0, sessions, CHUNK):
            before = time.process_time()
            await rate(lambda: client.create_subscriber_token(REFERENCE), IN_FLIGHT, CHUNK)
            between = time.process_time()
            await start_some(fleet, [f"user-{number}@example.com" for number in range(first, first + CHUNK)])
            calls.append((between - before) / CHUNK * 1e6)
            started.append((time.process_time() - between) / CHUNK * 1e6)
        gc.enable()
    return calls, started


def measure(*, quick):
    with served.running() as port:
        found = asyncio.run(stages(port, calls=128 if quick else 1024, rounds=3 if quick else 15))
    sessions = CHUNK if quick else 100 * CHUNK
    calls, alone = asyncio.run(starts(sessions=sessions, is_collecting=False))
    _, collected = asyncio.run(starts(sessions=sessions, is_collecting=True))
    bare = median(found[BARE])
    found["a call without the network"] = calls
    found["the start of a session without the network"] = alone
    found["the same, with Python's garbage collector"] = [mean(collected)]  # it runs in few chunks
    for what, values in found.items():
        yield Figure(what=what, values=values, unit="us", floor=f"{median(values) / bare:.2f} of a bare request")
