"""A page, its backend and the service, all on this machine: `python backend.py DIST`, the SDK's folder of bundles."""

import asyncio
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from aiohttp import web

from signalwire_tokens import Lifetimes, SessionFleet
from signalwire_tokens.emulator import Emulator, Status
from signalwire_tokens.integrations.aiohttp_server import TokenBackend

MINUTE = Lifetimes(access=timedelta(seconds=60), refresh=timedelta(seconds=75))


def build(emulator, client, sdk):
    """Make the application: the page, its token, and a button that takes the token service down for ten seconds."""
    backend = TokenBackend(lambda: SessionFleet(client), identify=lambda request: request.cookies.get("who"))

    async def page(_):
        response = web.FileResponse(Path(__file__).with_name("index.html"))
        response.set_cookie("who", "alice@example.com", httponly=True, samesite="Strict")  # as signing in would
        return response

    async def outage(_):
        for operation in ("create_subscriber_token", "refresh_subscriber_token"):
            emulator.fail(Status(503), operation=operation, times=None)
        asyncio.get_running_loop().call_later(10, emulator.clear_faults)
        return web.Response(status=204)

    app = web.Application()
    app.cleanup_ctx.append(backend.lifespan)
    app.add_routes([web.get("/", page), web.post("/outage", outage), web.static("/sdk", sdk)])
    app.add_routes([web.route("*", "/token", backend.token), web.get("/health", backend.health)])
    return app


async def main(sdk):
    """Serve until interrupted."""
    emulator = Emulator(tls=True, channel="puc.localhost:{port}", lifetimes=MINUTE)
    async with emulator, emulator.client() as client:
        runner = web.AppRunner(build(emulator, client, sdk))
        try:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 8000, ssl_context=emulator.server_context).start()
            print(f"https://localhost:8000/ with --ignore-certificate-errors-spki-list={emulator.browser_pin}")
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1]) if sys.argv[1:] else sys.exit(__doc__))
