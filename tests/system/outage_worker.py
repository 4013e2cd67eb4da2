"""A process with a fleet of short-lived tokens, which it shares. `python outage_worker.py SETTINGS`, which are JSON.

It writes a line when it is ready, and then one for each new token: the subscriber's number, when it last returned the
token before, and the new token. A line with a null is a call that had to do without.
"""

import asyncio
import json
import random
import signal
import sys
from contextlib import AsyncExitStack, suppress
from datetime import timedelta

from governed_worker import use, write
from redis.asyncio import RedisCluster

from signalwire_tokens import Lifetimes, RefreshPolicy, RefreshTuning, SessionFleet, TokenClient, TokenUnavailable
from signalwire_tokens.stores.postgres import PostgresStore
from signalwire_tokens.stores.redis import RedisStore
from support.redis_server import connect_through_sentinel

LEASE = 2.0  # seconds


async def open_store(stack, settings, key):
    """Return the store that the settings name, which is closed with the stack."""
    match settings:
        case {"sentinel": port, "min_replicas": replicas}:
            redis = await stack.enter_async_context(connect_through_sentinel(port))
            store = RedisStore(redis, encryption_keys=key, min_replicas=replicas)
        case {"cluster": port}:
            store = RedisStore(await stack.enter_async_context(RedisCluster("127.0.0.1", port)), encryption_keys=key)
        case {"postgres": dsn, **more}:
            store = PostgresStore(dsn, encryption_keys=key, **more)
    return await stack.enter_async_context(store)


async def rotate(fleet, reference):
    """Ask for rotations of a subscriber's pair, one after another."""
    while True:
        await asyncio.sleep(random.uniform(0.5, 1.5))
        if reference in fleet:
            with suppress(TokenUnavailable):
                await fleet.session(reference).refresh()


async def main(settings):
    life, more = settings["life"], settings["refreshable"]
    lifetimes = Lifetimes(access=timedelta(seconds=life), refresh=timedelta(seconds=life + more))
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with AsyncExitStack() as stack:
        store = await open_store(stack, settings["store"], settings["key"])
        client = await stack.enter_async_context(TokenClient(*settings["client"], lifetimes=lifetimes))
        policy = RefreshPolicy(min_lifetime=life, tuning=RefreshTuning(lease=LEASE))
        fleet = await stack.enter_async_context(SessionFleet(client, store=store, policy=policy))
        write("ready")
        returned = {}
        users = [
            asyncio.create_task(use(fleet, number, reference, returned))
            for number, reference in enumerate(settings["references"])
        ]
        if settings["rotate"]:
            users += [asyncio.create_task(rotate(fleet, reference)) for reference in settings["references"]]
        await stopped.wait()
        for user in users:
            user.cancel()
        await asyncio.wait(users)
        for number, (_, at) in returned.items():
            write(number, at, "")


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
