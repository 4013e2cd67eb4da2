"""A process that shares sessions with others through a store. `python replica.py SETTINGS`, which are JSON.

It writes a line for each token that it gets: the session's number, when it asked, how long the session says that the
token lives, and the token. A line of a number, a time and a text is a failure.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time

from signalwire_tokens import (
    RefreshPolicy,
    RefreshTuning,
    SqliteStore,
    SubscriberSession,
    TokenClient,
    TokenUnavailable,
)
from signalwire_tokens.stores.redis import RedisStore
from support.waiting import HANG

WORKERS = 4  # of each process, which ask for tokens and rotations at the same time
# However slow the machine is, no lease ends while its holder lives: the test ends the leases of those that it stops.
PATIENT = RefreshPolicy(
    store_timeout=HANG, wait_timeout=HANG, close_timeout=HANG, tuning=RefreshTuning(lease=4 * HANG, lease_poll=0.02)
)


class Doomed:
    """A store in whose hands the process dies, at a step of a rotation."""

    def __init__(self, store, step):
        self._store, self._step, self._marked = store, step, False

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def save(self, key, record, replaces):
        marks = record.presenting is not None
        if self._step == "before save" and self._marked and not marks:
            die()
        saved = await self._store.save(key, record, replaces)
        if (self._step == "before POST" and marks) or (self._step == "before publish" and self._marked and not marks):
            die()
        self._marked = marks
        return saved


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def make_store(settings):
    if "path" in settings:
        return SqliteStore(settings["path"], encryption_keys=settings["key"])
    return RedisStore(settings["redis"], encryption_keys=settings["key"], prefix=settings["prefix"], timeout=HANG)


def write(*line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def ask(number, session):
    """Write down what a session gives."""
    asked = time.time()
    try:
        token = await session.token()
    except TokenUnavailable as error:
        write(number, asked, f"no token: {error}")
    else:
        write(number, asked, session.expires_in.total_seconds(), token)


async def rotate(number, session):
    """Give a token, and then rotate."""
    await ask(number, session)
    asked = time.time()
    try:
        await session.refresh()
    except TokenUnavailable as error:
        write(number, asked, f"no rotation: {error}, {error.cause}")


async def serve(sessions, holder):
    """Rotate one session after another, several at a time, until the process is told to end."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await asyncio.gather(*(session.start() for session in sessions))
    write(holder)

    async def work():
        while not stopped.is_set():
            number = random.randrange(len(sessions))
            await rotate(number, sessions[number])

    await asyncio.gather(*(work() for _ in range(WORKERS)))
    await asyncio.gather(*(session.aclose() for session in sessions))


async def main(settings):
    store, step = make_store(settings), settings.get("dies")
    async with store, TokenClient(*settings["client"], timeout=HANG) as client:
        sessions = [
            SubscriberSession(client, reference, store=Doomed(store, step) if step else store, policy=PATIENT)
            for reference in settings["references"]
        ]
        if len(sessions) > 1:
            await serve(sessions, store._holder)
        else:
            async with sessions[0]:
                await rotate(0, sessions[0])
                await ask(0, sessions[0])


asyncio.run(main(json.loads(sys.argv[1])))
