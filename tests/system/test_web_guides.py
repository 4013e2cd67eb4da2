"""The programs of the guides to web frameworks, as readers run them: under their servers, against an emulator."""

import json
import signal
import sys
from asyncio.subprocess import STDOUT, Process
from collections.abc import Callable
from contextlib import asynccontextmanager

import attrs
import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout

from signalwire_tokens.emulator import Emulator
from support.cli_runner import started
from support.pages import files_of, paste
from support.presented import note_presented
from support.processes import noting, settings_of
from support.waiting import HANG, eventually

AIOHTTP, FASTAPI = "docs/guides/aiohttp.md", "docs/guides/fastapi.md"
# What the page's `python app.py` does, on a port that nothing else takes.
RUN_APP = "from aiohttp import web; from {module} import app; web.run_app(app, host='127.0.0.1', port={port})"
SERVERS = {AIOHTTP: ["-c", RUN_APP], FASTAPI: ["-m", "uvicorn", "{module}:app", "--port", "{port}"]}
SERVICE, ALICE = "service@example.com", "alice@example.com"
SIGNED_IN = {"X-User": ALICE}


@attrs.frozen
class Program:
    """A program of a page. It calls SignalWire as `email`, or gives tokens at paths below `prefix`."""

    page: str
    module: str
    email: str = ALICE
    prefix: str = ""

    def __str__(self):
        return f"{self.module} of {self.page}"


CALLING = [Program(AIOHTTP, "app", SERVICE), Program(FASTAPI, "app", SERVICE), Program(FASTAPI, "users")]
GIVING = [
    Program(AIOHTTP, "tokens"),
    Program(FASTAPI, "tokens", prefix="/signalwire"),
    Program(FASTAPI, "starlette_app", prefix="/signalwire"),
]


@attrs.frozen(kw_only=True)
class Server:
    """A program that serves, and the emulator that it uses. `presented` has the token of each request to that."""

    process: Process
    origin: str
    emulator: Emulator
    presented: list[str]
    http: ClientSession
    read_output: Callable[[], str]

    async def ask(self, method, path, **request):
        """Return the status and the JSON of an answer."""
        async with self.http.request(method, f"{self.origin}{path}", **request) as response:
            return response.status, json.loads(await response.read())

    async def is_up(self):
        """Return whether it serves; fail if it has ended."""
        assert self.process.returncode is None, "the program has ended"
        try:
            async with self.http.get(self.origin):
                return True
        except ClientError:
            return False

    async def stop(self):
        """Stop it as a supervisor does, and check that it closes what it has opened."""
        self.process.send_signal(signal.SIGTERM)
        assert await self.process.wait() in (0, -signal.SIGTERM)
        printed = self.read_output()
        assert not [word for word in ("Traceback", "Unclosed", "ResourceWarning") if word in printed]
        assert ("Uvicorn running" in printed) == ("Application shutdown complete." in printed)


@asynccontextmanager
async def serving(program, folder, port):
    """Run a program of a page with an emulator's settings in its environment."""
    paste(program.page, folder)
    output = folder / "output"
    words = [word.format(module=program.module, port=port) for word in SERVERS[program.page]]
    async with Emulator() as emulator, ClientSession(timeout=ClientTimeout(total=HANG)) as http:
        presented = note_presented(emulator)
        with output.open("wb") as file, noting(f"{program} printed", output.read_text):
            command = [sys.executable, "-X", "dev", *words]
            async with started(*command, stdout=file, stderr=STDOUT, cwd=folder, **settings_of(emulator)) as process:
                server = Server(
                    process=process,
                    origin=f"http://127.0.0.1:{port}",
                    emulator=emulator,
                    presented=presented,
                    http=http,
                    read_output=output.read_text,
                )
                await eventually(server.is_up)
                yield server


@pytest.mark.slow  # it starts a process
@pytest.mark.parametrize("program", CALLING, ids=str)
async def test_an_app_that_calls_signalwire_recovers_from_a_401(program, tmp_path, reserved_port):
    """Its token is revoked, and the next request is answered all the same."""
    async with serving(program, tmp_path, reserved_port) as server:
        assert await server.ask("GET", "/me", headers=SIGNED_IN) == (200, {"email": program.email})
        server.emulator.revoke(server.presented[-1])
        assert await server.ask("GET", "/me", headers=SIGNED_IN) == (200, {"email": program.email})
        first, refused, repeated = server.presented
        assert first == refused != repeated
        await server.stop()


@pytest.mark.slow  # it starts a process
@pytest.mark.parametrize("program", CALLING[:2], ids=str)
async def test_an_app_asks_its_callers_to_wait_while_signalwire_is_down(program, tmp_path, reserved_port):
    """Its own health is good, because it still has a token. After the outage, it answers again."""
    async with serving(program, tmp_path, reserved_port) as server:
        async with server.emulator.unreachable():
            assert (await server.ask("GET", "/me"))[0] == 503
            assert await server.ask("GET", "/health") == (200, {"session": "fresh"})
        assert (await server.ask("GET", "/me"))[0] == 200
        await server.stop()


@pytest.mark.slow  # it starts a process
@pytest.mark.parametrize("program", GIVING, ids=str)
async def test_an_app_gives_tokens_to_browsers(program, tmp_path, reserved_port):
    """To a user who is signed in; the others get a 401."""
    async with serving(program, tmp_path, reserved_port) as server:
        status, answer = await server.ask("POST", f"{program.prefix}/token", json={}, headers=SIGNED_IN)
        assert status == 200
        assert server.emulator.accepts(answer["token"])
        assert (await server.ask("POST", f"{program.prefix}/token", json={}))[0] == 401
        status, health = await server.ask("GET", f"{program.prefix}/health")
        assert (status, health["sessions"]["fresh"]) == (200, 1)
        await server.stop()


@pytest.mark.parametrize("page", SERVERS)
def test_each_program_of_the_pages_is_run(page):
    """By one of these tests."""
    run = {f"{program.module}.py" for program in CALLING + GIVING if program.page == page}
    assert run == files_of(page).keys()
