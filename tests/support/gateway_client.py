"""Somebody who speaks with the realtime gateway, as a client does."""

import asyncio
import json
from contextlib import asynccontextmanager
from itertools import count

import aiohttp

from support.waiting import HANG


class Caller:
    """Speaks with the gateway, as a client does."""

    def __init__(self, socket, project_id):
        self.socket, self.project_id = socket, project_id
        self._ids = (str(number) for number in count(1))
        self.answers_pings = self.acknowledges = True
        self.events = []  # what the gateway sent, the last one at the end

    async def call(self, method, **params):
        id_ = next(self._ids)
        await self.socket.send_json({"jsonrpc": "2.0", "id": id_, "method": method, "params": params})
        while True:
            message = await self.hear()
            if message.get("id") == id_:
                return message

    async def hear(self):
        """Return the next message that is neither an event nor a ping to answer."""
        while True:
            message = await self.read()
            if message is not None:
                return message

    async def read(self):
        """Answer or keep the next message if it is a ping or an event; return any other."""
        message = json.loads((await self.next()).data)
        if message.get("method") == "signalwire.event":
            self.events.append(message)
            if self.acknowledges:
                await self.answer(message, {})
            return None
        if message.get("method") != "signalwire.ping" or not self.answers_pings:
            return message
        await self.answer(message, {"timestamp": 1})
        return None

    async def answer(self, message, result):
        await self.socket.send_json({"jsonrpc": "2.0", "id": message["id"], "result": result})

    async def hear_event(self):
        """Return the next event, after it was kept."""
        number = len(self.events)
        while len(self.events) == number:
            assert await self.read() is None
        return self.events[-1]

    async def hear_state(self):
        """Return the `authorization_state` that the gateway sends next."""
        params = (await self.hear_event())["params"]
        assert params["event_type"] == "signalwire.authorization.state"
        return params["params"]["authorization_state"]

    async def settle(self):
        """Return when all that was heard is answered, and the answers have arrived."""
        for _ in range(3):
            await self.call("signalwire.ping", timestamp=1)

    async def next(self):
        async with asyncio.timeout(HANG):
            return await self.socket.receive()

    async def connect(self, token, **more):
        version = {"major": 4, "minor": 0, "revision": 0}
        params = {"version": version, "agent": "tests", "authentication": {"jwt_token": token}, **more}
        return await self.call("signalwire.connect", **params)

    async def reauthenticate(self, token, *, dpop_token=None, **more):
        given = {"project": self.project_id, "jwt_token": token, **more}
        return await self.call("signalwire.reauthenticate", authentication=given, dpop_token=dpop_token)

    async def hear_the_end(self):
        """Return the error that comes before the close."""
        message = await self.hear()
        assert (await self.next()).type is aiohttp.WSMsgType.CLOSE
        return message


@asynccontextmanager
async def call_in(emulator):
    async with aiohttp.ClientSession() as http, http.ws_connect(emulator.gateway) as socket:
        yield Caller(socket, emulator.project_id)
