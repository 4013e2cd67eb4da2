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
        self.answers_pings = True

    async def call(self, method, **params):
        id_ = next(self._ids)
        await self.socket.send_json({"jsonrpc": "2.0", "id": id_, "method": method, "params": params})
        while True:
            message = await self.hear()
            if message.get("id") == id_:
                return message

    async def hear(self):
        """Return what is said, after an answer to any ping."""
        while True:
            message = json.loads((await self.next()).data)
            if message.get("method") != "signalwire.ping" or not self.answers_pings:
                return message
            await self.socket.send_json({"jsonrpc": "2.0", "id": message["id"], "result": {"timestamp": 1}})

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
