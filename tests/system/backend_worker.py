"""A backend in a process of its own, until it is told to end: `backend_worker.py FRAMEWORK STORE`.

The space and its credentials come from the environment. The cookie `who` says who asks. It prints its port.

Tokens live for two hours, and no timeout is short, so nothing depends on how fast the machine is. `POST /renew`
begins to renew a token and answers at once; `POST /renew?wait` answers when that is done.
"""

import asyncio
import socket
import sys
from contextlib import asynccontextmanager

import uvicorn
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from fastapi import FastAPI, Request, Response

from signalwire_tokens import RefreshPolicy, RefreshTuning, SessionFleet, SignalWireTokenError, SqliteStore, TokenClient
from signalwire_tokens.integrations import aiohttp_server, asgi
from signalwire_tokens.stores.redis import RedisStore
from support.processes import run_program, settings_of
from support.waiting import HANG

PATIENT = RefreshPolicy(
    store_timeout=HANG, wait_timeout=HANG, close_timeout=HANG, tuning=RefreshTuning(lease=4 * HANG, min_interval=0.01)
)


def identify(request):
    return request.cookies.get("who")


def open_store(place):
    if place.startswith("redis:"):
        return RedisStore(place, plaintext=True, timeout=HANG)
    return SqliteStore(place, plaintext=True)


def opener(place):
    @asynccontextmanager
    async def open_fleet():
        async with (
            open_store(place) as store,
            TokenClient.from_env(timeout=HANG) as client,
            SessionFleet(client, store=store, policy=PATIENT) as fleet,
        ):
            yield fleet

    return open_fleet


class Renewals:
    """Renewals that clients have asked for, which go on in the background."""

    def __init__(self, backend):
        self._backend, self._tasks = backend, set()

    async def renew(self, who, *, wait):
        """Renew a subscriber's token; return the status to answer with."""
        task = asyncio.create_task(self._renew(who))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await task if wait else 202

    async def _renew(self, who):
        try:
            await self._backend.fleet.session(who).refresh()
        except SignalWireTokenError:  # it failed, or the fleet has closed
            return 503
        return 204


def serve_fastapi(open_fleet, listener):
    backend = asgi.TokenBackend(open_fleet, identify=identify, allow_device_tokens=True)
    app = FastAPI()
    app.include_router(backend.router(logout=None, health=None))
    renewals = Renewals(backend)

    @app.post("/renew")
    async def renew(request: Request):
        status = await renewals.renew(request.cookies["who"], wait="wait" in request.query_params)
        return Response(status_code=status)

    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])


def serve_aiohttp(open_fleet, listener):
    backend = aiohttp_server.TokenBackend(open_fleet, identify=identify, allow_device_tokens=True)
    app = web.Application()
    app.cleanup_ctx.append(backend.lifespan)
    app.router.add_route("*", "/token", backend.token)
    renewals = Renewals(backend)

    async def renew(request):
        return web.Response(status=await renewals.renew(request.cookies["who"], wait="wait" in request.query))

    app.router.add_post("/renew", renew)
    web.run_app(app, sock=listener, print=None, access_log=None)


def main(framework, place):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        serve = {"aiohttp": serve_aiohttp, "fastapi": serve_fastapi}[framework]
        serve(opener(place), listener)


@asynccontextmanager
async def run_worker(framework, emulator, place):
    """Run this as a program; yield the process, and where it serves."""
    async with run_program(__file__, framework, place, env=settings_of(emulator)) as process:
        yield process, f"http://127.0.0.1:{int(await process.stdout.readline())}"


def http_client():
    """Return a client of such a process, which waits as long as it takes.

    It uses each connection once: where a slow machine leaves one unused for a while, the server may just be closing it.
    """
    return ClientSession(timeout=ClientTimeout(total=HANG), connector=TCPConnector(limit=0, force_close=True))


async def renew(http, origin, who, *, wait=True):
    """Renew a subscriber's token; return the status of the worker's answer."""
    query = "?wait" if wait else ""
    async with http.post(f"{origin}/renew{query}", headers={"Cookie": f"who={who}"}) as response:
        return response.status


if __name__ == "__main__":
    main(*sys.argv[1:])
