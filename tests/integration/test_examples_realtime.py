"""The example of a realtime client, on the emulator's gateway."""

import asyncio
import runpy

import aiohttp
import aiohttp.web
import pytest

from signalwire_tokens import SessionExpired, SubscriberSession
from signalwire_tokens.emulator import Emulator, Status
from support.paths import ROOT
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("loop_time")

EXAMPLE = ROOT / "docs/examples/realtime.py"
LIFE = 7200.0


@pytest.fixture
async def emulator():
    """Serve in real time, which is moved: a socket knows no other."""
    async with Emulator() as emulator:
        yield emulator


@pytest.fixture
async def session(emulator):
    async with emulator.client() as client, SubscriberSession(client, "bot") as session:
        yield session


@pytest.fixture
def stay_connected():
    return runpy.run_path(str(EXAMPLE))["stay_connected"]


def calls(emulator):
    return [(entry.operation, entry.status) for entry in emulator.requests if entry.auth == "JWT"]


async def test_it_stays_connected_through_twenty_rotations_and_a_drop(emulator, session, stay_connected):
    """One connection, whose token is swapped in place; after the drop another one, with the token at hand."""
    task = asyncio.create_task(stay_connected(session, url=emulator.gateway))
    await eventually(lambda: emulator.connections and emulator.connections[0].is_online)
    first = emulator.connections[0]
    for number in range(1, 21):
        emulator.advance(0.85 * LIFE)
        await session.token()
        await eventually(lambda number=number: [one.reauthenticated for one in emulator.connections] == [number])
    assert emulator.connections[0].id == first.id, "never a connection but the first"
    assert calls(emulator) == [("signalwire.connect", 200), *[("signalwire.reauthenticate", 200)] * 20]
    async with emulator.unreachable():
        assert emulator.connections == ()
    await eventually(lambda: emulator.connections and emulator.connections[0].is_online)
    assert emulator.connections[0].id != first.id
    assert session.generation == 21
    emulator.advance(0.85 * LIFE)
    await session.token()
    await eventually(lambda: emulator.connections[0].reauthenticated == 1)
    await session.aclose()
    await task
    assert {status for _, status in calls(emulator)} == {200}


async def test_a_token_that_is_refused_is_replaced(emulator, session, stay_connected):
    """It was withdrawn, though it would live for long."""
    emulator.revoke(session.pair.access_token)
    task = asyncio.create_task(stay_connected(session, url=emulator.gateway))
    await eventually(lambda: emulator.connections)
    assert session.generation == 2
    assert calls(emulator) == [("signalwire.connect", 401), ("signalwire.connect", 200)]
    task.cancel()
    await asyncio.wait([task])


async def test_a_session_that_dies_is_told_of(emulator, stay_connected):
    """There is nothing left to connect with."""
    async with emulator.client() as client:
        pair = await client.create_subscriber_token("bot")
        async with SubscriberSession.from_pair(client, pair) as session:
            task = asyncio.create_task(stay_connected(session, url=emulator.gateway))
            await eventually(lambda: emulator.connections)
            emulator.fail(Status(422), operation="refresh_subscriber_token", times=None)
            emulator.advance(2 * LIFE)
            with pytest.raises(SessionExpired):
                await session.token()
            with pytest.raises(SessionExpired):
                await task


@pytest.mark.parametrize("when", ["connected", "in between"])
async def test_it_returns_when_the_session_is_closed(emulator, session, stay_connected, when):
    """Whatever it is doing at that moment."""
    task = asyncio.create_task(stay_connected(session, url=emulator.gateway))
    await eventually(lambda: emulator.connections)
    if when == "connected":
        await session.aclose()
    else:
        async with emulator.unreachable():
            await session.aclose()
    await task


ODD = [
    "<html>",
    "[]",
    '{"id": [1], "result": {}}',
    '{"id": "9", "result": {}}',
    '{"jsonrpc": "2.0", "method": "signalwire.disconnect"}',
    b"bytes",
    b"\x83\x00",
    '{"id": "1"}',
    '{"id": "1", "error": "boom"}',
    '{"id": "1", "error": null}',
    '{"id": "1", "result": null}',
    '{"id": "1", "result": []}',
    '{"id": "1", "result": {"authorization": null}}',
    "[" * 100_000,
    '{"id": "1", "error": {}}',
    '{"id": "1", "error": {"code": -32603, "message": "internal error"}}',
]
OFTEN = ("<html>", '{"id": "9", "result": {}}', '{"id": "1", "error": {}}')


@pytest.mark.parametrize(
    "odd",
    # Each takes up to half a second of real time.
    [odd if odd in OFTEN else pytest.param(odd, marks=pytest.mark.slow) for odd in ODD],
    ids=lambda odd: repr(odd)[:40],
)
async def test_no_message_ends_it(session, stay_connected, odd, caplog):
    """A bot is to live for weeks: what it does not understand is skipped, or makes it connect anew."""
    connects = []

    async def gateway(request):
        socket = aiohttp.web.WebSocketResponse()
        await socket.prepare(request)
        connects.append(await socket.receive_json())
        if isinstance(odd, str):
            await socket.send_str(odd)
        elif odd == b"bytes":
            await socket.send_bytes(odd)
        else:
            request.transport.write(odd)  # a frame of a kind that there is not
        if len(connects) > 1:
            await socket.receive()
        await socket.close()
        return socket

    app = aiohttp.web.Application()
    app.router.add_get("/", gateway)
    runner = aiohttp.web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
    task = asyncio.create_task(stay_connected(session, url=f"ws://127.0.0.1:{runner.addresses[0][1]}/"))
    await eventually(lambda: len(connects) == 2)
    assert not task.done()
    assert {one["method"] for one in connects} == {"signalwire.connect"}
    assert session.generation == 1, "the token was not at fault"
    assert session.pair.access_token.value not in caplog.text
    task.cancel()
    await asyncio.wait([task])
    await runner.cleanup()


def test_it_is_one_page_of_code():
    """Whoever wants to know how is to read it at a glance."""
    assert len(EXAMPLE.read_text().splitlines()) <= 110
