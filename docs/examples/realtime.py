"""Stay connected to the realtime gateway. At each rotation, the connection gets the new token and stays open."""

import asyncio
import itertools
import json
import logging
import random
import time

import aiohttp

from signalwire_tokens import SessionClosed, SessionExpired, SubscriberSession, TokenClient

log = logging.getLogger(__name__)
NOT_AUTHENTICATED = -32002


class RefusedError(Exception):
    """The gateway answered with an error."""


class Line:
    """JSON-RPC over one WebSocket."""

    def __init__(self, socket, on_event):
        self.socket, self.on_event, self.numbers, self.answers = socket, on_event, itertools.count(1), {}

    async def call(self, method, **params):
        """Send a request, and return its result."""
        id_ = str(next(self.numbers))
        self.answers[id_] = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"jsonrpc": "2.0", "id": id_, "method": method, "params": params})
        async with asyncio.timeout(10):  # wait_for() could lose a cancellation that comes with the answer, before 3.12
            message = await self.answers[id_]
        if "error" in message:
            raise RefusedError(message["error"].get("code"), message["error"].get("message"))
        return message["result"]

    async def listen(self):
        """Receive answers and events, and acknowledge events, until the connection is lost."""
        async for frame in self.socket:
            match json.loads(frame.data) if frame.type is aiohttp.WSMsgType.TEXT else None:
                case {"method": method, "id": id_} as event:
                    result = {"timestamp": time.time()} if method == "signalwire.ping" else {}
                    await self.socket.send_json({"jsonrpc": "2.0", "id": id_, "result": result})
                    self.on_event(event)
                case {"id": str(id_)} as answer if id_ in self.answers and not self.answers[id_].done():
                    self.answers[id_].set_result(answer)
        raise ConnectionError("the gateway closed the connection")

    async def speak(self, session):
        """Connect, register for calls, and send each new token. Return when the session is closed."""
        token = await session.token()
        about = {"version": {"major": 4, "minor": 0, "revision": 0}, "agent": "a-bot/1.0", "event_acks": True}
        try:
            result = await self.call("signalwire.connect", **about, authentication={"jwt_token": token})
        except RefusedError as refused:
            if refused.args[0] == NOT_AUTHENTICATED:
                session.invalidate(token)  # the next attempt has another token
            raise
        project = result["authorization"]["project_id"]
        await self.call("subscriber.online")
        async for pair in session.rotations():  # the current pair, then each new one
            if pair.access_token.value != token:
                token = pair.access_token.value
                await self.call("signalwire.reauthenticate", authentication={"project": project, "jwt_token": token})


async def converse(line, session):
    """Run `listen` and `speak` until one of them ends."""
    tasks = [asyncio.create_task(line.listen()), asyncio.create_task(line.speak(session))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await done.pop()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def stay_connected(session, on_event=lambda _: None, url=None, ssl=True):
    """Connect, and reconnect when the connection is lost. Return when the session closes; raise when it expires."""
    pause = 1.0
    async with aiohttp.ClientSession() as http:
        while True:
            began = time.monotonic()
            try:
                await session.token()
                gateway = url or f"wss://{session.pair.access_token.channel or 'puc.signalwire.com'}/"
                async with http.ws_connect(gateway, heartbeat=30, ssl=ssl) as socket:
                    await converse(Line(socket, on_event), session)
            except SessionClosed:
                return
            except SessionExpired:
                raise
            except Exception as error:  # such as an answer that isn't JSON-RPC: a bot runs for weeks
                log.warning("the connection was lost: %s: %s", type(error).__name__, error)
            pause = 1.0 if time.monotonic() - began > 60 else min(2 * pause, 30)
            await asyncio.sleep(random.uniform(0.1, pause))


async def main():
    """Run on the space that the environment names."""
    logging.basicConfig(level=logging.INFO)
    async with TokenClient.from_env() as client, SubscriberSession(client, "bot@example.com") as session:
        await stay_connected(session, lambda event: log.info("%s", event["method"]))


if __name__ == "__main__":
    asyncio.run(main())
