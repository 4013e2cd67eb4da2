"""A worker without the project's credentials, in a process of its own: `keyless_worker.py KIND BACKEND SPACE`.

Its kind is `device` or `endpoint`. It looks for a live token all the time, and asks the service with each that it gets;
it prints who the service says that it is, one line for each token, until it is told to end.
"""

import asyncio
import os
import sys
from datetime import timedelta

import aiohttp

from signalwire_tokens import EndpointSession, RefreshPolicy, TokenClient
from signalwire_tokens.device import DeviceKey, DeviceSession

WHO = {"Cookie": "who=alice"}
LIFE = timedelta(seconds=3)
SOON = RefreshPolicy(min_life=1, due_from=0.15, due_to=0.25)  # many rotations in little time


def open_device(backend, space):
    key = DeviceKey.from_pem(os.environ["DEVICE_KEY"], os.environ["DEVICE_KEY_PASSWORD"])

    async def fetch():
        async with (
            aiohttp.ClientSession(headers=WHO) as http,
            http.post(f"{backend}/token", json={"fingerprint": key.fingerprint}, raise_for_status=True) as answer,
        ):
            return (await answer.json())["token"]

    return DeviceSession(space, fetch, key, lifetime=LIFE, policy=SOON)


def open_endpoint(backend, _):
    return EndpointSession(f"{backend}/token", headers=WHO, policy=SOON)


async def main(kind, backend, space):
    opened = {"device": open_device, "endpoint": open_endpoint}[kind](backend, space)
    async with opened as session, TokenClient(space) as client, asyncio.TaskGroup() as tasks:
        tasks.create_task(look(session))
        async for pair in session.rotations():
            async with asyncio.timeout(pair.token.expires_at.timestamp() - client.clock.wall()):
                print((await ask(client, pair.token)).email, flush=True)


async def look(session):
    """End the worker where there is no live token for a moment."""
    while True:
        await session.token()
        if not session.runway:
            sys.exit("there was no live token")
        await asyncio.sleep(0.01)  # how often it looks


async def ask(client, token):
    """Ask who the token is for, for as long as it takes; a refusal ends the worker."""
    while True:
        try:
            return await client.subscriber_info(token)
        except (ConnectionError, TimeoutError):
            await asyncio.sleep(0.05)  # how soon it asks again


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
