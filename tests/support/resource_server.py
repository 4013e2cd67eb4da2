"""An API that takes subscribers' tokens, and remembers with which it was asked."""

import asyncio
from contextlib import AsyncExitStack

import attrs
from aiohttp import web

from support.waiting import HANG


@attrs.frozen
class Asked:
    method: str
    path: str
    token: str | None
    body: bytes


class Api:
    """Answers who asks with a live token; `/closed` answers nobody; `/to` and `/done` lead elsewhere."""

    def __init__(self, emulator, *, context=None):
        self._emulator, self._context = emulator, context
        self.asked: list[Asked] = []
        self._arrivals = asyncio.Semaphore(0)
        self.gate = asyncio.Event()
        self.gate.set()
        self._stack = AsyncExitStack()
        self.origin = ""

    async def __aenter__(self):
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=1)
        self._stack.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._context).start()
        self.origin = f"http{'s' if self._context else ''}://127.0.0.1:{runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_):
        await self._stack.aclose()

    @property
    def tokens(self):
        return [asked.token for asked in self.asked]

    async def heard(self, number):
        """Wait until so many have asked."""
        async with asyncio.timeout(HANG):
            for _ in range(number):
                await self._arrivals.acquire()

    async def _answer(self, request):
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        self.asked.append(Asked(request.method, request.path, token or None, await request.read()))
        self._arrivals.release()
        await self.gate.wait()
        if request.path == "/to":
            raise web.HTTPTemporaryRedirect(request.query["url"])
        if request.path == "/done":
            raise web.HTTPSeeOther(request.query["url"])
        taken = scheme == "Bearer" and self._emulator.accepts(token) and request.path != "/closed"
        if taken and request.headers.get("Upgrade") == "websocket":
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await socket.close()
            return socket
        return web.json_response({"taken": taken}, status=200 if taken else 401)
