"""A process that shares sessions with others through a store. `python replica.py SETTINGS`, which are JSON.

It writes a line for each token that it is given: when that was, how long the token is said to live, and the token.
"""

import asyncio
import json
import os
import signal
import sys
import time
from datetime import timedelta

from signalwire_tokens import RefreshPolicy, SqliteStore, SubscriberSession, TokenClient, TokenUnavailable
from signalwire_tokens.models import Lifetimes
from signalwire_tokens.stores.redis import RedisStore

PAUSE = 0.005  # seconds between two tokens


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
        return SqliteStore(settings["path"], keys=settings["key"])
    return RedisStore(settings["redis"], keys=settings["key"], prefix=settings["prefix"])


async def ask(session):
    """Write down what a session gives."""
    try:
        token = await session.token()
    except TokenUnavailable as error:
        line = [time.time(), 0, None, str(error)]
    else:
        line = [time.time(), session.runway.total_seconds(), token]
    sys.stdout.write(json.dumps(line) + "\n")


async def serve(sessions, holder):
    """Ask each session in turn, until the process is told to end."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    sys.stdout.write(f"{holder}\n")
    sys.stdout.flush()
    await asyncio.gather(*(session.start() for session in sessions))
    while not stopped.is_set():
        for session in sessions:
            await ask(session)
            sys.stdout.flush()
            await asyncio.sleep(PAUSE)
    await asyncio.gather(*(session.aclose() for session in sessions))


async def rotate(session):
    """Give a token, and another after a rotation."""
    async with session:
        await ask(session)
        sys.stdout.flush()
        await session.refresh()
        await ask(session)


async def main(settings):
    lifetimes = Lifetimes(
        access=timedelta(seconds=settings["access"]), refresh=timedelta(seconds=settings["access"] + settings["window"])
    )
    policy = RefreshPolicy(min_life=0.5, lease=settings["lease"])
    store, step = make_store(settings), settings.get("dies")
    async with store, TokenClient(*settings["client"], lifetimes=lifetimes) as client:
        sessions = [
            SubscriberSession(client, f"subscriber-{n}", store=Doomed(store, step) if step else store, policy=policy)
            for n in range(settings["sessions"])
        ]
        if settings["sessions"] > 1:
            await serve(sessions, store._holder)
        else:
            await rotate(*sessions)


asyncio.run(main(json.loads(sys.argv[1])))
