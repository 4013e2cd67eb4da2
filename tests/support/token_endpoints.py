"""The backend on each framework, on a socket: what browsers, and what is none, may ask of it."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import uvicorn
from aiohttp import ClientSession, web
from fastapi import FastAPI
from starlette.applications import Starlette

from signalwire_tokens.integrations import aiohttp_server, asgi
from support.waiting import eventually


def who(request):
    """Identify whoever has a cookie: by what is in it."""
    return request.cookies.get("who")


@asynccontextmanager
async def serve_aiohttp(fleet, **settings):
    """Run aiohttp's own server."""
    backend = aiohttp_server.TokenBackend(fleet, **{"identify": who, **settings})
    app = web.Application()
    app.cleanup_ctx.append(backend.lifespan)
    app.router.add_route("*", "/token", backend.token)
    app.router.add_route("*", "/logout", backend.logout)
    app.router.add_get("/health", backend.health)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Page(f"http://127.0.0.1:{runner.addresses[0][1]}", backend)
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serve_fastapi(fleet, **settings):
    """Run FastAPI under uvicorn."""
    backend = asgi.TokenBackend(fleet, **{"identify": who, **settings})
    app = FastAPI()
    app.include_router(backend.router())
    async with run_uvicorn(app) as origin:
        yield Page(origin, backend)


@asynccontextmanager
async def serve_starlette(fleet, **settings):
    """Run Starlette under uvicorn."""
    backend = asgi.TokenBackend(fleet, **{"identify": who, **settings})
    async with run_uvicorn(Starlette(routes=backend.routes(), lifespan=backend.lifespan)) as origin:
        yield Page(origin, backend)


@asynccontextmanager
async def run_uvicorn(app):
    """Serve an application on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=1)
        server = PromptServer(settings)
        serving = asyncio.create_task(server.serve([listener]))
        await eventually(lambda: server.started or serving.done())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.ended.set()
            await serving


class PromptServer(uvicorn.Server):
    """A server that ends at once. uvicorn's own looks ten times a second whether it should."""

    def __init__(self, config):
        super().__init__(config)
        self.ended = asyncio.Event()

    async def main_loop(self):
        await self.on_tick(0)  # sets the `Date` header
        await self.ended.wait()


class Page:
    """Asks a backend as a page's script would, or a program that is no browser."""

    def __init__(self, origin, backend):
        self.origin, self.backend = origin, backend

    async def ask(self, path="/token", *, who="alice@example.com", method="POST", data=b"{}", **headers):
        named = {"Content-Type": "application/json"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        cookies = {} if who is None else {"who": who}
        async with (
            ClientSession(cookies=cookies) as http,
            http.request(
                method,
                f"{self.origin}{path}",
                data=data,
                headers={name: value for name, value in named.items() if value is not None},
                skip_auto_headers=["Content-Type"],
            ) as response,
        ):
            body = await response.read()
            said = json.loads(body) if body and "json" in response.content_type else None
            return Told(response.status, response.headers, said, body)


class Told:
    """What a backend has answered."""

    def __init__(self, status, headers, json, body):
        self.status, self.headers, self.json, self.body = status, headers, json, body


SERVERS = {"aiohttp.web": serve_aiohttp, "FastAPI": serve_fastapi, "Starlette": serve_starlette}
