"""A process with a fleet of short-lived tokens. `python governed_worker.py SETTINGS`, which are JSON.

It writes a line when it is ready, and begins once it reads one. Then it asks for each subscriber's token again and
again. It writes a line for each new token: the subscriber's number, when it last returned the token before, and the new
token. A line with a null is a call that had to do without.
"""

import asyncio
import json
import random
import signal
import sys
import time
from contextlib import AsyncExitStack
from datetime import timedelta

from signalwire_tokens import Lifetimes, RefreshPolicy, RefreshTuning, SessionFleet, TokenClient, TokenUnavailable
from signalwire_tokens.governors.redis import RedisGovernor
from signalwire_tokens.stores.redis import RedisStore

REFRESHABLE = 5.0  # seconds that a refresh token lives longer
LEASE = 2.0  # seconds after which the subscribers of a process that was killed can renew
ASKED_EVERY = 0.5  # seconds between two calls for a subscriber


def write(*line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def use(fleet, number, reference, returned):
    """Ask for the tokens of one subscriber; note in `returned` when which token was returned last."""
    while True:
        try:
            token = await fleet.token(reference)
        except TokenUnavailable as error:
            write(number, None, str(error))
        else:
            before, at = returned.get(number, (None, 0.0))
            returned[number] = token, time.time()
            if token != before:
                write(number, at, token)
        await asyncio.sleep(random.uniform(0.5, 1.5) * ASKED_EVERY)


async def main(settings):
    life = settings["life"]
    lifetimes = Lifetimes(access=timedelta(seconds=life), refresh=timedelta(seconds=life + REFRESHABLE))
    loop, begun, stopped = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, lambda: (begun.set(), stopped.set()))
    loop.add_reader(sys.stdin, begun.set)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            RedisStore(settings["redis"], encryption_keys=settings["key"], prefix=settings["prefix"])
        )
        client = await stack.enter_async_context(TokenClient(*settings["client"], lifetimes=lifetimes))
        limit = {"max_rate": settings["rate"]}
        if settings["governed"]:
            limit |= {"account": settings["prefix"], "processes": settings["processes"]}
            governor = RedisGovernor(settings["redis"], **limit)
            limit = {"governor": await stack.enter_async_context(governor)}
        policy = RefreshPolicy(min_lifetime=life, tuning=RefreshTuning(lease=LEASE))
        fleet = SessionFleet(client, store=store, policy=policy, max_concurrency=settings["concurrency"], **limit)
        await stack.enter_async_context(fleet)
        write("ready")
        await begun.wait()
        loop.remove_reader(sys.stdin)
        returned = {}
        users = [
            asyncio.create_task(use(fleet, number, reference, returned))
            for number, reference in enumerate(settings["references"])
        ]
        await stopped.wait()
        for user in users:
            user.cancel()
        await asyncio.wait(users)
        for number, (_, at) in returned.items():
            write(number, at, "")


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
