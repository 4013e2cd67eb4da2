"""The same work done with other clients: a fresh token, the memory of those held, and issuing as their users do.

It needs the group `bakeoff`. The official client has requirements of its own, so it runs under the Python of another
environment, which OFFICIAL_CLIENT_PYTHON names. What isn't installed is left out, and named on standard error.
"""

import asyncio
import io
import json
import os
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec

from signalwire_tokens import SubscriberSession, SystemClock, TokenClient

from . import served
from .calls import CREDENTIALS, LONG, PATIENT, Floor, rate, seconds_of
from .crowds import resident
from .figures import Figure

IN_FLIGHT = 64
SDK_PYTHON = "OFFICIAL_CLIENT_PYTHON"
# Issues so many pairs as each line of standard input says, in 64 threads, and prints how many seconds that took.
SDK_SCRIPT = f"""
import sys, time
from concurrent.futures import ThreadPoolExecutor
from signalwire.rest.client import RestClient
client = RestClient(host=sys.argv[1], project={CREDENTIALS[0]!r}, token={CREDENTIALS[1]!r})
issue = client.fabric.tokens.create_subscriber_token
with ThreadPoolExecutor({IN_FLIGHT}) as threads:
    for line in sys.stdin:
        start = time.perf_counter()
        list(threads.map(lambda _: issue(reference="alice@example.com"), range(int(line))))
        print(time.perf_counter() - start, flush=True)
"""


@asynccontextmanager
async def google(stack):
    """Yield a function that makes a client which holds a token, and returns how callers get it."""
    from gcloud.aio.auth import Token

    from tests.bakeoff.google import USER
    from tests.bakeoff.issuers import OAuth

    service = await stack.enter_async_context(OAuth(reusable=True))

    async def make():
        file = io.StringIO(json.dumps(USER | {"token_uri": service.url}))
        return (await stack.enter_async_context(Token(service_file=file))).get

    yield make


@asynccontextmanager
async def supabase(stack):
    from supabase_auth import AsyncGoTrueClient

    from tests.bakeoff.supabase import GoTrue

    service = await stack.enter_async_context(GoTrue())

    async def make():
        client = await stack.enter_async_context(AsyncGoTrueClient(url=service.origin, auto_refresh_token=False))
        await client.sign_in_with_password({"email": "alice@example.com", "password": "secret"})
        return client.get_session

    yield make


@asynccontextmanager
async def amazon(stack):
    from aiobotocore.credentials import AioContainerProvider, AioCredentialResolver
    from aiobotocore.session import get_session

    from tests.bakeoff.amazon import Container

    service = await stack.enter_async_context(Container())

    async def make():
        session = get_session()
        provider = AioContainerProvider(environ={AioContainerProvider.ENV_VAR_FULL: service.url})
        session.register_component("credential_provider", AioCredentialResolver([provider]))
        return (await session.get_credentials()).get_frozen_credentials

    yield make


@asynccontextmanager
async def azure(stack):
    import aiohttp
    from azure.core.pipeline import PipelineContext, PipelineRequest
    from azure.core.pipeline.policies import AsyncBearerTokenCredentialPolicy
    from azure.core.rest import HttpRequest

    from tests.bakeoff.azure import Credential
    from tests.bakeoff.issuers import OAuth

    service = await stack.enter_async_context(OAuth())
    http = await stack.enter_async_context(aiohttp.ClientSession())
    request = PipelineRequest(HttpRequest("GET", "https://127.0.0.1/resource"), PipelineContext(None))

    async def make():
        policy = AsyncBearerTokenCredentialPolicy(Credential(service.url, http), "scope")

        async def ask():
            await policy.on_request(request)

        return ask

    yield make


@asynccontextmanager
async def ours(stack):
    with served.running() as port:
        client = await stack.enter_async_context(TokenClient(f"127.0.0.1:{port}", *CREDENTIALS, timeout=LONG))
        number = 0

        async def make():
            nonlocal number
            number += 1
            session = SubscriberSession(client, f"user-{number}@example.com", policy=PATIENT)
            return (await stack.enter_async_context(session)).token

        yield make


# By what callers await: the client, its package, and how many clients are held to see what one takes.
PEERS = {
    "signalwire-tokens: session.token()": (ours, "signalwire_tokens", 1000),
    "gcloud-aio-auth: Token.get()": (google, "gcloud", 500),
    "supabase_auth: get_session()": (supabase, "supabase_auth", 50),
    "azure-core: AsyncBearerTokenCredentialPolicy.on_request()": (azure, "azure", 1000),
    "aiobotocore: get_frozen_credentials()": (amazon, "aiobotocore", 500),
}


def client_of(what):
    return what.partition(":")[0]


async def fresh_token(peer, *, held, calls, pairs):
    """Return the ratios of a fresh token to its floor, and the memory of each client, of so many that hold one."""
    floor = Floor("token", SystemClock().now() + 3600)
    async with AsyncExitStack() as stack, peer(stack) as make:
        ask = await make()
        await ask()
        ratios = []
        for _ in range(pairs):
            least = await seconds_of(floor.token, calls)
            ratios.append(await seconds_of(ask, calls) / least)
        base, kept = resident(), []
        for _ in range(held):
            kept.append(await make())
            await kept[-1]()
        return ratios, (resident() - base) / held


class OfficialClient:
    """A process that issues with the official client, in threads."""

    def __init__(self, port):
        command = [os.environ[SDK_PYTHON], "-c", SDK_SCRIPT, f"127.0.0.1:{port}"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds_of(self, calls):
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


async def issuing(port, *, calls, pairs):
    """Return how many more pairs a second this client issues than the official one, in turns."""
    official, ratios = OfficialClient(port), []
    try:
        async with TokenClient(f"127.0.0.1:{port}", *CREDENTIALS, timeout=LONG) as client:
            for _ in range(pairs):
                theirs = await asyncio.to_thread(official.seconds_of, calls)
                number = await rate(lambda: client.create_subscriber_token("alice@example.com"), IN_FLIGHT, calls)
                ratios.append(number * theirs / calls)
    finally:
        official.close()
    return ratios[1:]


def measure(*, quick):
    calls, pairs = (50, 3) if quick else (2000, 15)
    missing = [what for what, (_, package, _) in PEERS.items() if find_spec(package) is None]
    if missing:
        names = ", ".join(map(client_of, missing))
        print(f"left out: {names} (pip install --group bakeoff)", file=sys.stderr)
    for what, (peer, _, held) in PEERS.items():
        if what in missing:
            continue
        ratios, size = asyncio.run(fresh_token(peer, held=5 if quick else held, calls=calls, pairs=pairs))
        floor = "a coroutine that reads the clock and compares"
        yield Figure(what=f"fresh token, {what}", values=tuple(ratios), floor=floor)
        yield Figure(what=f"memory of a client that holds a token, {client_of(what)}", values=(size,), unit="B")
    if SDK_PYTHON not in os.environ:
        python = f"{SDK_PYTHON} must be the path of a Python that has signalwire-sdk"
        print(f"left out: the official client ({python})", file=sys.stderr)
    else:
        with served.running() as port:
            ratios = asyncio.run(issuing(port, calls=64 if quick else 512, pairs=4 if quick else 10))
        floor = f"the official client, in {IN_FLIGHT} threads"
        yield Figure(
            what=f"pairs issued a second, {IN_FLIGHT} at a time", values=tuple(ratios), floor=floor, rises=True
        )
