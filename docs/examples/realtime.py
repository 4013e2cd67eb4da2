"""Stay connected to the realtime gateway: one connection, whose token is swapped in place at each rotation."""

import asyncio
import itertools
import logging
import random
import time

import aiohttp

from signalwire_tokens import SubscriberSession, TokenClient, TokenUnavailable

log = logging.getLogger(__name__)


class RefusedError(Exception):
    """The gateway answered with an error."""


class Line:
    """JSON-RPC over one WebSocket."""

    def __init__(self, socket):
        self.socket, self.numbers, self.answers = socket, itertools.count(1), {}

    async def call(self, method, **params):
        """Ask, and return the result."""
        id_ = str(next(self.numbers))
        self.answers[id_] = asyncio.get_running_loop().create_future()
        try:
            await self.socket.send_json({"jsonrpc": "2.0", "id": id_, "method": method, "params": params})
            return await asyncio.wait_for(self.answers[id_], 10)
        finally:
            del self.answers[id_]

    async def listen(self, on_event):
        """Take in answers, and answer pings, until the connection is lost."""
        async for frame in self.socket:
            message = frame.json()
            answer = self.answers.get(message.get("id"))
            if answer is not None and not answer.done():
                error = message.get("error")
                answer.set_exception(RefusedError(error["message"])) if error else answer.set_result(message["result"])
            elif "method" in message:
                result = {"timestamp": time.time()} if message["method"] == "signalwire.ping" else {}
                await self.socket.send_json({"jsonrpc": "2.0", "id": message["id"], "result": result})
                on_event(message)
        raise ConnectionError("the gateway has hung up")


async def converse(line, session, on_event):
    """Connect, register for calls, and show each new token as it comes; return when the session is closed."""
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(line.listen(on_event))
        token = await session.token()
        version = {"major": 4, "minor": 0, "revision": 0}
        about = {"version": version, "agent": "a-bot/1.0", "event_acks": True}
        try:
            result = await line.call("signalwire.connect", **about, authentication={"jwt_token": token})
        except RefusedError:
            session.invalidate(token)  # the next attempt comes with another
            raise
        project = result["authorization"]["project_id"]
        await line.call("subscriber.online")
        async for pair in session.rotations():  # which begins with the pair at hand
            if pair.token.value != token:
                token = pair.token.value
                await line.call("signalwire.reauthenticate", authentication={"project": project, "jwt_token": token})
        listening.cancel()


async def stay_connected(session, on_event=lambda _: None, url=None):
    """Connect, and again whenever the connection is lost, until the session is closed; raise if it dies."""
    pause = 1.0
    async with aiohttp.ClientSession() as http:
        while True:
            began = time.monotonic()
            try:
                await session.token()
                gateway = url or f"wss://{session.pair.token.channel or 'puc.signalwire.com'}/"
                async with http.ws_connect(gateway, heartbeat=30) as socket:
                    await converse(Line(socket), session, on_event)
            except* (OSError, aiohttp.ClientError, RefusedError, TokenUnavailable) as failed:
                log.warning("the connection was lost: %s", "; ".join(map(repr, failed.exceptions)))
            else:
                return
            pause = 1.0 if time.monotonic() - began > 60 else min(2 * pause, 30)
            await asyncio.sleep(random.uniform(0.1, pause))


async def main():
    """Run on the space that the environment names."""
    logging.basicConfig(level=logging.INFO)
    async with TokenClient.from_env() as client, SubscriberSession(client, "bot@example.com") as session:
        await stay_connected(session, lambda message: log.info("%s", message["method"]))


if __name__ == "__main__":
    asyncio.run(main())
