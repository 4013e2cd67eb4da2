"""Backends as they run in production: processes that are told to end, and several that share their sessions."""

import asyncio
import random
import signal
from collections import Counter
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
from aiohttp import ClientSession, TCPConnector

from signalwire_tokens import Lifetimes
from signalwire_tokens.emulator import Delay, Emulator
from signalwire_tokens.wire import read_header
from support.waiting import eventually
from system.backend_worker import run_worker

HEADERS = {"Content-Type": "application/json"}


def lives(seconds):
    return Lifetimes(access=timedelta(seconds=seconds), refresh=timedelta(seconds=seconds * 1.25))


async def ask(http, origin, who):
    async with http.post(f"{origin}/token", data=b"{}", headers={**HEADERS, "Cookie": f"who={who}"}) as response:
        return response.status, await response.json()


@pytest.mark.parametrize("framework", ["aiohttp", "fastapi"])
async def test_a_backend_that_is_told_to_end_finishes_what_it_has_begun(framework, tmp_path):
    """A refresh token that is being presented has its successor stored, and the next process goes on with that."""
    place, life = tmp_path / "tokens", 16
    async with Emulator(lifetimes=lives(life)) as emulator, ClientSession() as http:
        async with run_worker(framework, emulator, place, life) as (process, origin):
            assert (await ask(http, origin, "alice"))[0] == 200
            emulator.fail(Delay(1.7), operation="refresh_subscriber_token")
            await eventually(lambda: not emulator._faults)  # it has been met: the token is being presented
            process.send_signal(signal.SIGTERM)
            assert await process.wait() in (0, -signal.SIGTERM)
        operations = [entry.operation for entry in emulator.journal]
        assert operations == ["create_subscriber_token", "refresh_subscriber_token"]
        async with run_worker(framework, emulator, place, life) as (_, origin):
            status, said = await ask(http, origin, "alice")
            assert status == 200
            assert emulator.accepts(said["token"])
        assert [entry.operation for entry in emulator.journal].count("create_subscriber_token") == 1


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_workers_that_share_sessions_serve_a_crowd(redis_server, capsys):
    """200 clients poll four workers for a minute, in which each of 50 tokens is renewed several times."""
    life, lasts, people, clients = 16, 60, 50, 200
    told = Counter()
    async with AsyncExitStack() as stack:
        emulator = await stack.enter_async_context(Emulator(lifetimes=lives(life)))
        http = await stack.enter_async_context(ClientSession(connector=TCPConnector(limit=clients)))
        workers = [
            (await stack.enter_async_context(run_worker(framework, emulator, redis_server.url, life)))[1]
            for framework in ("aiohttp", "fastapi") * 2
        ]

        async def poll(number):
            while asyncio.get_running_loop().time() < ends:
                status, said = await ask(http, random.choice(workers), f"person-{number % people}")
                token = said.get("token", "")
                told[status, *said, read_header(token).kind, emulator.accepts(token)] += 1
                await asyncio.sleep(random.uniform(0.5, 1.5))

        ends = asyncio.get_running_loop().time() + lasts
        async with asyncio.TaskGroup() as crowd:
            for number in range(clients):
                crowd.create_task(poll(number))
        operations = Counter((entry.operation, entry.status) for entry in emulator.journal)
        busiest = max(Counter(int(entry.at.timestamp()) for entry in emulator.journal).values())
    refreshed = operations.pop(("refresh_subscriber_token", 201))
    with capsys.disabled():
        print(
            f"\n[{told.total()} tokens handed out, {people} issued, {refreshed} refreshed, "
            f"{busiest} requests in the busiest second]"
        )
    assert told.keys() == {(200, "token", "expiry_at", "SAT", True)}
    assert told.total() > 5000
    assert operations == {("create_subscriber_token", 201): people}, (
        "one worker for all has issued each, and none failed"
    )
    soonest = 0.6 * life
    assert people * (lasts // life) <= refreshed <= people * (lasts / soonest + 1)
    assert busiest <= people
