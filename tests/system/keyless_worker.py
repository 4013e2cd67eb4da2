"""A worker without the project's credentials, in a process of its own: `keyless_worker.py KIND BACKEND SPACE`.

Its kind is `device` or `backend`. For each line on its standard input it renews its token, and prints each failure on
the way as a line; then it asks the service with the token, and prints who the service says that it is. It ends if it
has no valid token for a moment.
"""

import asyncio
import os
import sys
import threading

import aiohttp

from signalwire_tokens import BackendSession, SignalWireTokenError, TokenClient
from signalwire_tokens.device import DeviceKey, DeviceSession
from support.waiting import HANG

WHO = {"Cookie": "who=alice"}
AGAIN = 0.05  # seconds from one attempt to the next


def open_device(backend, space):
    key = DeviceKey.from_pem(os.environ["DEVICE_KEY"], os.environ["DEVICE_KEY_PASSWORD"])

    async def fetch():
        async with (
            aiohttp.ClientSession(headers=WHO) as http,
            http.post(f"{backend}/token", json={"fingerprint": key.fingerprint}, raise_for_status=True) as answer,
        ):
            return (await answer.json())["token"]

    return DeviceSession(space, fetch, key, timeout=HANG)


def open_endpoint(backend, _):
    return BackendSession(f"{backend}/token", headers=WHO, timeout=HANG)


async def lines():
    """Yield for each line of the standard input, which another thread reads."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue()

    def read():
        for line in sys.stdin:
            loop.call_soon_threadsafe(queue.put_nowait, line)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield await queue.get()


async def main(kind, backend, space):
    opened = {"device": open_device, "endpoint": open_endpoint}[kind](backend, space)
    async with opened as session, TokenClient(space, timeout=HANG) as client, asyncio.TaskGroup() as tasks:
        tasks.create_task(look(session))
        print(await ask(client, session), flush=True)
        async for _ in lines():
            await renew(session)
            print(await ask(client, session), flush=True)


async def look(session):
    """End the worker if there is no valid token for a moment."""
    while True:
        await session.token()
        if not session.expires_in:
            sys.exit("there was no valid token")
        await asyncio.sleep(0.01)  # how often it looks


async def renew(session):
    """Renew, however often that fails."""
    while True:
        try:
            await session.refresh()
        except SignalWireTokenError as error:
            print(f"failed: {error}", flush=True)
            await asyncio.sleep(AGAIN)
        else:
            return


async def ask(client, session):
    """Ask who the token is for, for as long as it takes; a refusal ends the worker."""
    while True:
        try:
            return (await client.subscriber_info(await session.token())).email
        except (ConnectionError, TimeoutError):
            await asyncio.sleep(AGAIN)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
