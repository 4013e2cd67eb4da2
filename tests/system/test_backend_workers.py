"""Backends as they run in production: processes that are told to end, and several that share their sessions."""

import asyncio
import random
import signal
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from signalwire_tokens.emulator import Delay, Emulator
from signalwire_tokens.wire import read_header
from support.processes import is_open
from support.waiting import HANG, eventually
from system.backend_worker import http_client, renew, run_worker

HEADERS = {"Content-Type": "application/json"}
ISSUE, REFRESH = "create_subscriber_token", "refresh_subscriber_token"
PEOPLE, CLIENTS, VISITS = 50, 100, 20
RENEWS_EVERY = 5  # visits


async def ask(http, origin, who):
    async with http.post(f"{origin}/token", data=b"{}", headers={**HEADERS, "Cookie": f"who={who}"}) as response:
        return response.status, await response.json()


@pytest.mark.parametrize("framework", ["aiohttp", "fastapi"])
async def test_a_backend_that_is_told_to_end_finishes_what_it_has_begun(framework, tmp_path, monkeypatch):
    """A refresh token that is being presented has its successor stored, and the next process goes on with that."""
    place, released = tmp_path / "tokens", asyncio.Event()
    async with Emulator() as emulator, http_client() as http:
        monkeypatch.setattr(emulator, "_wait", lambda _: released.wait())  # how long a `Delay` is
        async with run_worker(framework, emulator, place) as (process, origin):
            assert (await ask(http, origin, "alice"))[0] == 200
            emulator.fail(Delay(HANG), operation=REFRESH)
            assert await renew(http, origin, "alice", wait=False) == 202
            await eventually(lambda: not emulator.faults)  # it has been met: the token is being presented
            process.send_signal(signal.SIGTERM)
            await eventually(lambda: not is_open(int(origin.rpartition(":")[2])))
            released.set()
            assert await process.wait() in (0, -signal.SIGTERM)
        assert [entry.operation for entry in emulator.requests] == [ISSUE, REFRESH]
        async with run_worker(framework, emulator, place) as (_, origin):
            status, said = await ask(http, origin, "alice")
            assert status == 200
            assert emulator.accepts(said["token"])
            assert await renew(http, origin, "alice") == 204, "it has the successor of the refresh token"
        assert [(entry.operation, entry.status) for entry in emulator.requests] == [(ISSUE, 200), *[(REFRESH, 201)] * 2]


@pytest.mark.redis
async def test_workers_that_share_sessions_serve_a_crowd(redis_server, capsys):
    """100 clients ask four workers for tokens, and have them renewed now and then."""
    told, renewed = Counter(), Counter()
    async with AsyncExitStack() as stack:
        emulator = await stack.enter_async_context(Emulator())
        http = await stack.enter_async_context(http_client())
        workers = await asyncio.gather(
            *(
                stack.enter_async_context(run_worker(framework, emulator, redis_server.url))
                for framework in ("aiohttp", "fastapi") * 2
            )
        )
        origins = [origin for _, origin in workers]

        async def visit(number):
            who = f"person-{number % PEOPLE}"
            for count in range(VISITS):
                status, said = await ask(http, random.choice(origins), who)
                token = said.get("token", "")
                told[status, *said, read_header(token).kind, emulator.accepts(token)] += 1
                if (number + count) % RENEWS_EVERY == 0:
                    renewed[await renew(http, random.choice(origins), who)] += 1

        async with asyncio.TaskGroup() as crowd:
            for number in range(CLIENTS):
                crowd.create_task(visit(number))
        operations = Counter((entry.operation, entry.status) for entry in emulator.requests)
    refreshed = operations.pop((REFRESH, 201))
    with capsys.disabled():
        print(f"\n[{told.total()} tokens handed out, {PEOPLE} issued, {refreshed} refreshed]")
    assert told == {(200, "token", "expiry_at", "SAT", True): CLIENTS * VISITS}
    assert renewed == {204: CLIENTS * VISITS // RENEWS_EVERY}
    assert operations == {(ISSUE, 200): PEOPLE}, "one worker for all has issued each, and none failed"
    assert PEOPLE <= refreshed <= renewed.total()
