"""A backend in a process of its own, until it is told to end: `backend_worker.py FRAMEWORK STORE LIFE`.

The space and its credentials come from the environment; whoever has a cookie `who` is who it says. It prints its port.
"""

import socket
import sys
from contextlib import asynccontextmanager
from datetime import timedelta

import uvicorn
from aiohttp import web
from fastapi import FastAPI
from starlette.routing import Route

from signalwire_tokens import Lifetimes, RefreshPolicy, SessionFleet, SqliteStore, TokenClient
from signalwire_tokens.integrations import asgi
from signalwire_tokens.integrations import web as aiohttp_web
from signalwire_tokens.stores.redis import RedisStore
from support.processes import run_program


def identify(request):
    return request.cookies.get("who")


def open_store(place):
    if place.startswith("redis:"):
        return RedisStore(place, plaintext=True)
    return SqliteStore(place, plaintext=True)


def opener(place, life):
    lifetimes = Lifetimes(access=timedelta(seconds=life), refresh=timedelta(seconds=life * 1.25))

    @asynccontextmanager
    async def open_fleet():
        async with (
            open_store(place) as store,
            TokenClient.from_env(lifetimes=lifetimes) as client,
            SessionFleet(client, store=store, policy=RefreshPolicy(min_life=1)) as fleet,
        ):
            yield fleet

    return open_fleet


def serve_fastapi(open_fleet, listener):
    backend = asgi.TokenBackend(open_fleet, identify=identify, fingerprints=True)
    app = FastAPI(lifespan=backend.lifespan)
    app.routes.append(Route("/token", backend.token))
    app.routes.append(Route("/health", backend.health))
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])


def serve_aiohttp(open_fleet, listener):
    backend = aiohttp_web.TokenBackend(open_fleet, identify=identify, fingerprints=True)
    app = web.Application()
    app.cleanup_ctx.append(backend.lifespan)
    app.router.add_route("*", "/token", backend.token)
    app.router.add_get("/health", backend.health)
    web.run_app(app, sock=listener, print=None, access_log=None)


def main(framework, place, life):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        serve = {"aiohttp": serve_aiohttp, "fastapi": serve_fastapi}[framework]
        serve(opener(place, float(life)), listener)


@asynccontextmanager
async def run_worker(framework, emulator, place, life):
    """Run this as a program; give the process, and where it serves."""
    settings = {
        "SIGNALWIRE_SPACE": emulator.space,
        "SIGNALWIRE_PROJECT_ID": emulator.project_id,
        "SIGNALWIRE_API_TOKEN": emulator.api_token,
    }
    async with run_program(__file__, framework, str(place), str(life), env=settings) as process:
        yield process, f"http://127.0.0.1:{int(await process.stdout.readline())}"


if __name__ == "__main__":
    main(*sys.argv[1:])
