"""A page, its backend and an emulator of SignalWire: `python backend.py DIST`, where DIST holds the SDK's bundles."""

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from signalwire_tokens import SessionFleet
from signalwire_tokens.emulator import Emulator, Status
from signalwire_tokens.integrations.aiohttp_server import TokenBackend

COMMAND = "chromium --user-data-dir=$(mktemp -d) --ignore-certificate-errors-spki-list={} https://localhost:8000/"
SIGNED_IN = {"a-session-id": "alice@example.com"}  # your app's own sessions


def identify(request):
    """Return the user who is signed in, or None."""
    return SIGNED_IN.get(request.cookies.get("session"))


def build(emulator, client, sdk):
    """Return the app: the page, its token, and a way to make SignalWire fail."""
    backend = TokenBackend(lambda: SessionFleet(client), identify=identify, allow_device_tokens=True)

    async def page(_):
        response = web.FileResponse(Path(__file__).with_name("index.html"))
        response.set_cookie("session", "a-session-id", httponly=True, samesite="Strict")  # as a sign-in does
        return response

    async def fail(request):
        emulator.fail(Status(503), operation="refresh_device_token", times=int(request.query["times"]))
        return web.Response(status=204)

    app = web.Application()
    app.cleanup_ctx.append(backend.lifespan)
    app.add_routes([web.get("/", page), web.post("/fail", fail), web.static("/sdk", sdk)])
    app.add_routes([web.route("*", "/token", backend.token), web.get("/health", backend.health)])
    return app


async def main(sdk):
    """Serve until interrupted."""
    emulator = Emulator(tls=True, channel="puc.localhost:{port}")
    async with emulator, emulator.client() as client:
        runner = web.AppRunner(build(emulator, client, sdk))
        try:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 8000, ssl_context=emulator.server_context).start()
            print(COMMAND.format(emulator.browser_pin), flush=True)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1]) if sys.argv[1:] else sys.exit(__doc__))
