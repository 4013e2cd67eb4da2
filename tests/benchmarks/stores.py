"""What a renewal costs on each store: statements, and bytes on the way to its server; and what idle processes cost."""

import asyncio
import itertools
import sys
import tempfile
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' helpers are there
from signalwire_tokens import RefreshPolicy, RefreshTuning, SqliteStore, SubscriberSession
from signalwire_tokens.emulator import Emulator
from signalwire_tokens.stores import generate_encryption_key
from signalwire_tokens.stores.postgres import PostgresStore
from signalwire_tokens.stores.redis import RedisStore
from support.faulty_redis import Proxy
from support.postgres_server import DATABASE, PostgresServer
from support.redis_server import RedisServer
from support.waiting import eventually

from .figures import Figure

RENEWALS = 20
IDLE = 130.0  # seconds, with two heartbeats of each store
HOUR = 3600.0
SETTLED_AFTER = 0.2  # seconds in which a renewal's last statements are counted; on a slow machine, a few may be missing
KEY = generate_encryption_key()
EAGER = RefreshPolicy(store_timeout=60.0, tuning=RefreshTuning(min_interval=0.001))


class Counted:
    """A store that counts its statements: one for each call, and two for a lease that was held."""

    def __init__(self, store):
        self._store, self.statements = store, 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    def __repr__(self):
        return repr(self._store)

    async def load(self, key):
        self.statements += 1
        return await self._store.load(key)

    async def save(self, key, record, replaces):
        self.statements += 1
        return await self._store.save(key, record, replaces)

    @asynccontextmanager
    async def lease(self, key, ttl):
        self.statements += 1
        async with self._store.lease(key, ttl) as held:
            yield held
            self.statements += held


def store_at(name, port, directory):
    """Return a store of one process."""
    match name:
        case "RedisStore":
            return RedisStore(f"redis://127.0.0.1:{port}/0", encryption_keys=KEY, timeout=60.0)
        case "PostgresStore":
            return PostgresStore(f"postgresql://owner@127.0.0.1:{port}/{DATABASE}", encryption_keys=KEY, timeout=60.0)
        case _:
            return SqliteStore(Path(directory, "tokens.db"), encryption_keys=KEY)


async def observe(name, port, directory, *, renewals, idle):
    """Yield what a store costs, by what it is."""
    async with AsyncExitStack() as stack:
        emulator = await stack.enter_async_context(Emulator())
        client = await stack.enter_async_context(emulator.client())
        proxies = [await stack.enter_async_context(Proxy(port)) for _ in range(2)]
        stores = [Counted(await stack.enter_async_context(store_at(name, proxy.port, directory))) for proxy in proxies]
        if name == "PostgresStore":
            await stores[0].create_schema()
        sessions = [
            await stack.enter_async_context(SubscriberSession(client, "alice", store=store, policy=EAGER))
            for store in stores
        ]
        first, second = sessions
        watched = name != "SqliteStore"

        async def renew():
            await first.refresh()
            if watched:
                await eventually(lambda: second.pair.access_token.value == first.pair.access_token.value)

        await first.refresh()
        await asyncio.sleep(SETTLED_AFTER)
        while watched and second.pair.access_token.value != first.pair.access_token.value:
            await first.refresh()  # the other process didn't listen yet
            await asyncio.sleep(SETTLED_AFTER)
        before = [(store.statements, len(proxy.heard)) for store, proxy in zip(stores, proxies, strict=True)]
        for _ in range(renewals):
            await renew()
        await asyncio.sleep(SETTLED_AFTER)
        costs = [
            ((store.statements - statements) / renewals, (len(proxy.heard) - heard) / renewals)
            for (statements, heard), store, proxy in zip(before, stores, proxies, strict=True)
        ]
        for who, (statements, heard) in zip(("renews", "adopts"), costs, strict=True):
            yield f"`{name}`: statements of the process that {who}", statements, ""
            if watched:
                yield f"`{name}`: bytes of the process that {who}", heard, "B"
        heard = len(proxies[1].heard)
        statements = stores[1].statements
        await asyncio.sleep(idle)
        yield (
            f"`{name}`: statements for an idle session in an hour",
            (stores[1].statements - statements) / idle * HOUR,
            "",
        )
        if watched:
            yield (
                f"`{name}`: kB for an idle process in an hour",
                (len(proxies[1].heard) - heard) / idle * HOUR / 1e3,
                "kB",
            )


async def observe_all(*, quick):
    renewals, idle = (3, 0.5) if quick else (RENEWALS, IDLE)
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        ports = {
            "RedisStore": stack.enter_context(RedisServer()).port,
            "PostgresStore": stack.enter_context(PostgresServer()).port,
            "SqliteStore": 1,
        }
        observed = [observe(name, port, directory, renewals=renewals, idle=idle) for name, port in ports.items()]

        async def collect(costs):
            return [cost async for cost in costs]

        return list(itertools.chain(*await asyncio.gather(*map(collect, observed))))


def measure(*, quick):
    """Return the figures."""
    return [
        Figure(what=what, values=(value,), unit=unit) for what, value, unit in asyncio.run(observe_all(quick=quick))
    ]
