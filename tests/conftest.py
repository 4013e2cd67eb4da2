"""What every test stands on: nothing may leak, and aioresponses works with the newest aiohttp."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import ssl

import aiohttp
import pytest
import trustme
from commands import served
from servers import RedisServer

# aioresponses 0.7.9 makes aiohttp's responses without an argument that aiohttp 3.14 wants.
if "stream_writer" in inspect.signature(aiohttp.ClientResponse.__init__).parameters:
    import aioresponses.core

    class Response(aiohttp.ClientResponse):
        def __init__(self, *args, writer=None, **kwargs):
            super().__init__(*args, writer=writer, stream_writer=_Writer(), **kwargs)

    class _Writer:
        output_size = 0

    aioresponses.core.ClientResponse = Response


FOREIGN = ("CLICOLOR_FORCE", "FORCE_COLOR", "NOTIFY_SOCKET")


def pytest_collection_modifyitems(config, items):
    """Leave what needs a real space to whoever asks for it: `pytest -m live`."""
    if "live" not in config.option.markexpr:
        away = [item for item in items if item.get_closest_marker("live")]
        config.hook.pytest_deselected(items=away)
        items[:] = [item for item in items if not item.get_closest_marker("live")]


@pytest.fixture(autouse=True)
async def leaks(request):
    """Fail a test that leaves a task, a connection or an unread failure behind."""
    loop = asyncio.get_running_loop()
    lost = []
    loop.set_exception_handler(lambda _, context: lost.append(context))
    yield
    if not inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        return
    await asyncio.sleep(0)
    gc.collect()  # whatever is dropped unclosed warns now, and a warning is an error
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    sockets = [key for key in loop._selector.get_map().values() if key.fd != loop._ssock.fileno()]
    assert not tasks, f"tasks were left behind: {tasks}"
    assert not sockets, f"connections were left open: {sockets}"
    assert not lost, f"the event loop was left with failures: {lost}"


@pytest.fixture
def clock(virtual_clock):
    return virtual_clock


@pytest.fixture
def emulator(signalwire_emulator):
    return signalwire_emulator


@pytest.fixture
async def client(emulator):
    async with emulator.client(retries=0) as client:
        yield client


@pytest.fixture
def plain_environment(monkeypatch):
    """Forget whatever stands in the developer's own."""
    for name in os.environ:
        if name.startswith(("SIGNALWIRE_", "TOKEN_SEALING_KEY")) or name in FOREIGN:
            monkeypatch.delenv(name)


@pytest.fixture
def service(plain_environment):
    """Run an emulator for commands that run in the test's process."""
    with served() as emulator:
        yield emulator


@pytest.fixture(scope="session")
def redis_server():
    """Run a server for the whole of the tests; each of them uses a prefix of its own."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def tls():
    """Make a certificate for this machine: a server's context, and one of a client that trusts it."""
    authority, server = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(server)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return server, trusting
