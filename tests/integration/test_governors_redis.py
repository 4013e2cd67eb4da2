"""The governor on a Redis or Valkey server: a real one, and a proxy that harms what passes."""

import asyncio
import gc
import json
import logging
import re
import subprocess
import sys
import time
import traceback
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain
from uuid import uuid4

import pytest
import redis.asyncio

from signalwire_tokens import ConfigurationError, SessionFleet, StoreError
from signalwire_tokens.emulator import Emulator, Status
from signalwire_tokens.governors import AccountHealth
from signalwire_tokens.governors import redis as redis_governor
from signalwire_tokens.governors.redis import BACK_AFTER, GONE_AFTER, REMEMBERED_FOR, RedisGovernor, ServerTimes
from support.faulty_redis import Proxy, nonsense
from support.paths import ROOT
from support.processes import reserve_port
from support.redis_server import RedisServer
from support.waiting import HANG, eventually

pytestmark = pytest.mark.redis
RATE = 50.0
LONG = 600.0
MARK = "hush"  # in everything that must not be shown
DOWN = AccountHealth().opened("ServerError (status 503)", probe_at=0.0)


@pytest.fixture
def account():
    return str(uuid4())


def governor_at(server, account, **settings):
    return RedisGovernor(server, **{"account": account, "timeout": HANG, "max_rate": RATE, **settings})


@asynccontextmanager
async def governors_at(server, account, number, **settings):
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(governor_at(server, account, **settings)) for _ in range(number)]


async def disconnect(governor):
    """Close the connections, which would warn, too, and in a later test."""
    await governor._server.redis.connection_pool.disconnect()


async def take(governor, number, within=LONG):
    """Return when each of so many turns came, one after another."""
    turns = []
    for _ in range(number):
        assert await governor.turn(governor.max_rate, within) is not None
        turns.append(time.monotonic())
    return turns


def most_in_a_second(turns):
    return max(sum(start <= turn < start + 1 for turn in turns) for start in turns)


@pytest.fixture
def quickly(monkeypatch):
    """The server is looked for often, and is soon trusted again."""
    monkeypatch.setattr(redis_governor, "RETRY_EVERY", 0.02)
    monkeypatch.setattr(redis_governor, "BACK_AFTER", 0.2)


async def test_a_cancelled_close_closes_all_the_same(redis_server, account):
    """Even if the tasks of the governor are slow to end."""
    governor = governor_at(redis_server.url, account)
    await take(governor, 1)
    closing = asyncio.ensure_future(governor.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    assert not governor._server.owner.is_used


def test_a_governor_whose_event_loop_is_closed_can_be_closed(redis_server, account):
    """And used on another one."""
    governor = governor_at(redis_server.url, account)

    async def use():
        await take(governor, 1)
        await disconnect(governor)  # the client's connections would warn

    async def close():
        await governor.aclose()
        await take(governor, 1)
        await governor.aclose()

    asyncio.run(use())
    asyncio.run(close())


# What the server holds.


async def test_processes_are_counted(redis_server, account):
    """Those that have left aren't, and neither are those that nothing was seen of for a while."""
    async with governors_at(redis_server.url, account, 3) as (one, other, third):
        for governor in (one, other, third):
            await governor.read()
        one._members_at -= REMEMBERED_FOR
        assert (await one.read()).members == 3
        await third.aclose()
        one._members_at -= REMEMBERED_FOR + 1
        assert (await one.read()).members == 2
        with redis_server.client() as client:
            key = f"signalwire-tokens:{{{account}}}:members"
            client.zincrby(key, -1e6 * (GONE_AFTER + 1), other._me)
            one._members_at -= REMEMBERED_FOR + 1
            assert (await one.read()).members == 1


async def test_before_the_processes_are_known_there_are_as_many_as_the_setting_says(redis_server, account):
    """A process that starts first must not take the whole rate for itself if the server fails at once."""
    async with governor_at(redis_server.url, account, processes=7) as governor:
        assert (await governor.read()).members == 7
        governor._members_at -= REMEMBERED_FOR + 1
        assert (await governor.read()).members == 1


async def test_accounts_have_limits_of_their_own(redis_server, account):
    """And so have prefixes."""
    settings = [{"account": account}, {"account": f"{account}-2"}, {"account": account, "prefix": "another:"}]
    async with AsyncExitStack() as stack:
        governors = [
            await stack.enter_async_context(RedisGovernor(redis_server.url, timeout=HANG, max_rate=0.001, **one))
            for one in settings
        ]
        for governor in governors:
            assert await governor.turn(1.0, 1.0) is not None
            assert await governor.turn(1.0, 1.0) is None


async def test_a_client_of_the_application_is_used_and_left_open(redis_server, account):
    """Whether it decodes answers or not."""
    for decodes in (True, False):
        client = redis.asyncio.Redis.from_url(redis_server.url, decode_responses=decodes)
        async with governor_at(client, f"{account}{decodes}") as governor:
            assert await governor.replace(AccountHealth(), DOWN)
            assert (await governor.turn(RATE, LONG)).health == DOWN
        assert await client.ping()
        await client.aclose()


async def test_a_health_of_another_version_is_read_as_far_as_it_is_known(redis_server, account):
    """And is replaced by one of this version."""
    key = f"signalwire-tokens:{{{account}}}:turns"
    async with governor_at(redis_server.url, account) as governor:
        with redis_server.client() as client:
            for text, known in (
                (json.dumps({"is_open": True, "colour": "red"}), AccountHealth(is_open=True)),
                (json.dumps({"is_open": "yes"}), AccountHealth()),
                ("no JSON", AccountHealth()),
                ("[]", AccountHealth()),
                ("[" * 100_000, AccountHealth()),
                (f'{{"probe_at": 1{"0" * 400}}}', AccountHealth()),
            ):
                client.hset(key, "health", text)
                assert (await governor.read()).health == known
                assert await governor.replace(known, DOWN)
                assert (await governor.read()).health == DOWN


@pytest.mark.parametrize("back", [10.0, 55.0, 1e9])
async def test_a_clock_of_the_server_that_was_set_back_keeps_no_turns(redis_server, account, back):
    """The next turn is as far away as before, also by the new time."""
    key = f"signalwire-tokens:{{{account}}}:turns"
    async with governor_at(redis_server.url, account) as governor:
        assert await governor.turn(RATE, LONG) is not None
        with redis_server.client() as client:
            later = int((time.time() + back) * 1e6)
            client.hset(key, mapping={"next": later + 1_000_000, "seen": later})
            assert await governor.turn(RATE, 0.1) is None
            assert int(client.hget(key, "next")) <= time.time() * 1e6 + 1_000_000
            assert await governor.turn(RATE, LONG) is not None


async def test_what_the_server_keeps_is_removed_a_day_later(redis_server, account):
    """Both keys, whichever script wrote them last."""
    keys = [f"signalwire-tokens:{{{account}}}:{kind}" for kind in ("turns", "members")]
    async with governor_at(redis_server.url, account) as governor:
        with redis_server.client() as client:
            for use in (governor.read, lambda: governor.replace(AccountHealth(), DOWN)):
                for key in keys:
                    client.persist(key)
                await use()
                assert 86_000_000 < client.pttl(keys[0]) <= 86_400_000
            await governor.read()
            assert 86_000_000 < client.pttl(keys[1]) <= 86_400_000


async def test_a_server_without_data_begins_a_moment_later(redis_server, account):
    """The one before may have given away turns of the next moments."""
    async with governor_at(redis_server.url, account) as governor:
        await governor.read()
        with redis_server.client() as client:
            client.flushall()
        began = time.monotonic()
        assert await governor.turn(RATE, LONG) is not None
        assert time.monotonic() - began >= 0.1 - redis_governor.SLACK


async def test_a_replacement_that_arrives_twice_is_accepted(redis_server, account):
    """The client sends a command again if its connection breaks."""
    async with governor_at(redis_server.url, account) as governor:
        assert await governor.replace(AccountHealth(), DOWN)
        governor._health, governor._text = AccountHealth(), ""
        assert await governor.replace(AccountHealth(), DOWN)


async def test_processes_that_were_seen_in_the_future_are_not_counted(redis_server, account):
    """The server's clock was set back, and they may have ended since."""
    async with governor_at(redis_server.url, account, processes=1) as governor:
        with redis_server.client() as client:
            key = f"signalwire-tokens:{{{account}}}:members"
            client.zadd(key, {"another": (time.time() + GONE_AFTER + 60) * 1e6})
            assert (await governor.read()).members == 1


def test_the_difference_of_the_clocks_is_narrowed():
    """By each answer that was faster than those before; and it follows a clock that is set."""
    times = ServerTimes()
    assert times.here(5.0) == 5.0
    times.note(0.0, 100.0, 0.3)  # the server is 99.7 to 100 ahead
    assert times.here(100.0) == pytest.approx(0.3)
    times.note(1.0, 101.0, 1.1)  # 99.9 to 100
    assert times.here(101.0) == pytest.approx(1.1)
    times.note(2.0, 102.0, 2.5)  # a slow answer says no more
    assert times.here(102.0) == pytest.approx(2.1)
    times.note(3.0, 53.0, 3.1)  # it was set back
    assert times.there(3.0) == pytest.approx(53.0)


# Turns.


async def test_several_turns_are_taken_with_one_command(redis_server, account):
    """As many as requests wait."""
    async with governor_at(redis_server.url, account, max_rate=1e6) as governor:
        await governor.read()
        taken, original = [], governor._take

        async def noting(turns=0, *arguments):
            taken.append(turns)
            return await original(turns, *arguments)

        governor._take = noting
        await asyncio.gather(*(governor.turn(1e6, LONG) for _ in range(50)))
        assert taken[0] == 50


async def test_without_a_limit_turns_come_at_once(redis_server, account):
    """An infinite rate is one."""
    async with governor_at(redis_server.url, account, max_rate=float("inf")) as governor:
        await asyncio.gather(*(governor.turn(float("inf"), 1.0) for _ in range(100)))


async def test_a_turn_that_was_missed_is_taken_again(redis_server, account, monkeypatch):
    """A process that was stopped in between doesn't send at a time that belongs to others."""
    sleep, has_overslept = asyncio.sleep, False

    async def oversleep(seconds):
        nonlocal has_overslept
        await sleep(seconds)
        if seconds < 1 and not has_overslept:
            has_overslept = True
            time.sleep(0.2)  # noqa: ASYNC251 - the process is stopped

    async with governor_at(redis_server.url, account) as governor:
        monkeypatch.setattr(redis_governor.asyncio, "sleep", oversleep)
        taken = 0
        original = governor._take

        async def counting(turns=0, *arguments):
            nonlocal taken
            taken += turns
            return await original(turns, *arguments)

        governor._take = counting
        assert await governor.turn(RATE, LONG) is not None
        assert taken >= 2


async def test_the_clocks_are_compared_before_the_first_turn(redis_server, account):
    """To open a connection takes long, so its answer says little about the clock."""
    async with governor_at(redis_server.url, account) as governor:
        taken, original = [], governor._take

        async def noting(turns=0, *arguments):
            taken.append(turns)
            return await original(turns, *arguments)

        governor._take = noting
        for _ in range(2):
            assert await governor.turn(RATE, LONG) is not None
        assert taken[:2] == [0, 1]


async def test_an_answer_from_before_a_replacement_does_not_undo_it(redis_server, account):
    """Answers on two connections may arrive in another order than the server sent them."""
    async with governor_at(redis_server.url, account) as governor:
        await governor.read()
        original, sent, may_arrive = governor._eval, asyncio.Event(), asyncio.Event()

        async def late(script, *arguments):
            answer = await original(script, *arguments)
            if script is redis_governor.TAKE:
                sent.set()
                await may_arrive.wait()
            return answer

        governor._eval = late
        turn = asyncio.ensure_future(governor.turn(RATE, LONG))
        await sent.wait()
        assert await governor.replace(AccountHealth(), DOWN)
        may_arrive.set()
        assert (await turn).health == DOWN


async def test_an_older_answer_that_arrives_later_changes_nothing(redis_server, account):
    """Another process has replaced the health since."""
    async with governors_at(redis_server.url, account, 2) as (governor, other):
        for one in (governor, other):
            await one.read()
        original, was_sent, may_arrive = governor._eval, asyncio.Event(), asyncio.Event()

        async def late(script, *arguments):
            answer = await original(script, *arguments)
            if not was_sent.is_set():
                was_sent.set()
                await may_arrive.wait()
            return answer

        governor._eval = late
        slow = asyncio.ensure_future(governor.read())
        await was_sent.wait()
        assert await other.replace(AccountHealth(), DOWN)
        assert (await governor.read()).health == DOWN
        may_arrive.set()
        assert (await slow).health == DOWN


async def test_wrong_arguments_are_refused(redis_server, account):
    """At once, and for this call alone."""
    async with governor_at(redis_server.url, account) as governor:
        for rate in (0, -1, "x", None):
            with pytest.raises(ConfigurationError, match="rate must be a number"):
                await governor.turn(rate, 1.0)
        turn = asyncio.ensure_future(governor.turn(1e-320, 1.0))  # no interval can be that long
        with pytest.raises(OverflowError):
            await turn
        assert await governor.turn(RATE, LONG) is not None


def test_processes_that_were_forked_count_separately(redis_server, account):
    """Although the governor was made before. One that was used is refused, and says why."""
    code = """
import asyncio, os, sys

from signalwire_tokens import StoreError
from signalwire_tokens.governors.redis import RedisGovernor

governor = RedisGovernor(sys.argv[1], account=sys.argv[2], processes=1)

async def show():
    await governor.read()

def forked():
    if os.fork():
        os.wait()
        return
    try:
        asyncio.run(show())
        print("counted", flush=True)
    except StoreError as error:
        print(error, flush=True)
    finally:
        os._exit(0)

for _ in range(3):
    forked()
asyncio.run(show())
forked()
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, redis_server.url, account],
        capture_output=True,
        text=True,
        timeout=HANG,
        check=True,
    )
    with redis_server.client() as client:
        assert client.zcard(f"signalwire-tokens:{{{account}}}:members") == 4
    *counted, refused = run.stdout.splitlines()
    assert counted == ["counted"] * 3
    assert "before a fork: create one RedisGovernor per event loop and process" in refused


async def test_a_user_needs_no_more_commands_than_are_listed(account, caplog):
    """The how-to lists them, for a user with restricted rights."""
    (listed,) = re.findall(r"Commands of a `RedisGovernor`.*", (ROOT / "docs/guides/redis-postgres.md").read_text())
    commands = [f"+{name.lower()}" for name in re.findall(r"`([A-Z]+)`", listed)]
    with RedisServer() as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "restricted", "on", f">{MARK}", "~*", "&*", "-@all", *commands)
        async with governor_at(server.url.replace("//", f"//restricted:{MARK}@"), account) as governor:
            assert await governor.turn(RATE, LONG) is not None
            assert await governor.replace(AccountHealth(), DOWN)
            assert (await governor.read()).health == DOWN
        assert not governor.is_away
        with server.client() as client:
            assert client.zcard(governor._keys[1]) == 0  # it has left
    assert "failed" not in caplog.text


# Without the server.


async def test_without_the_server_each_process_has_its_share(redis_server, account, caplog, quickly):
    """It says so once, gives no more than its share, and comes back. (P46)"""
    number, rate = 4, 40.0
    async with Proxy(redis_server.port) as proxy, governors_at(proxy.url, account, number, max_rate=rate) as governors:
        for governor in (*governors, *governors):
            governor._members_at -= REMEMBERED_FOR + 1
            assert await governor.turn(rate, LONG) is not None
        assert {(await governor.read()).members for governor in governors} == {number}
        proxy.mode = "refuse"
        proxy.cut()
        with caplog.at_level(logging.INFO, "signalwire_tokens.governors"):
            turns = sorted(chain(*await asyncio.gather(*(take(governor, 15) for governor in governors))))
            assert most_in_a_second(turns) <= rate + 1  # the test itself may be interrupted
            assert turns[-1] - turns[0] >= 15 * number / rate - 1
            lines = [record.getMessage() for record in caplog.records]
            assert len(lines) == number
            assert all("at most 10 requests a second, as one of 4" in line for line in lines)
            caplog.clear()
            proxy.mode = "pass"
            await eventually(lambda: not any(governor.is_away for governor in governors))
            assert {record.getMessage().partition(") ")[2] for record in caplog.records} == {"works again"}
        for governor in governors:
            assert await governor.turn(rate, LONG) is not None
            await eventually(lambda governor=governor: governor._own_limit() is None)


@pytest.mark.parametrize("mode", ["stall", "reset", "lose", "half-close", "deaf"])
async def test_a_server_that_fails_in_any_way_stops_nobody(redis_server, account, mode):
    """Turns still come, and what is known is kept in this process meanwhile."""
    async with Proxy(redis_server.port) as proxy:
        async with governor_at(proxy.url, account, processes=1, max_rate=1000.0) as governor:
            assert await governor.replace(AccountHealth(), DOWN)
            governor._server.timeout = 0.1
            proxy.mode = mode
            assert (await governor.turn(1000.0, LONG)).health == DOWN
            reading = await governor.read()
            assert reading.health == DOWN
            assert not await governor.replace(AccountHealth(), AccountHealth())
            assert await governor.replace(DOWN, DOWN.answered(reading.at))
            assert not (await governor.read()).health.is_open
            governor._server.timeout = HANG
            proxy.heal()
        assert await governor_state(redis_server, account) == DOWN


async def governor_state(redis_server, account):
    async with governor_at(redis_server.url, account) as governor:
        return (await governor.read()).health


@pytest.mark.parametrize("begin", ["replace", "close"])
async def test_a_server_is_looked_for_however_it_was_lost(redis_server, account, quickly, begin):
    """By the first call of all, or before the governor was closed and used again."""
    async with Proxy(redis_server.port) as proxy, governor_at(proxy.url, account, max_rate=1000.0) as governor:
        if begin == "close":
            await governor.read()
        proxy.mode = "refuse"
        proxy.cut()
        assert not await governor.replace(AccountHealth(), DOWN)
        assert governor.is_away
        if begin == "close":
            await governor.aclose()
        proxy.mode = "pass"
        await governor.read()
        await eventually(lambda: not governor.is_away)


async def test_a_server_that_is_lost_twice_does_not_double_the_share(redis_server, account, quickly):
    """Requests that wait from the first time count, too. (P46)"""
    rate, number = 20.0, 30
    settings = {"max_rate": rate, "processes": 1}
    async with Proxy(redis_server.port) as proxy, governor_at(proxy.url, account, **settings) as governor:
        await governor.read()
        takers = []
        for _ in range(2):
            proxy.mode = "refuse"
            proxy.cut()
            await governor.read()
            assert governor.is_away
            takers += [asyncio.ensure_future(take(governor, 1)) for _ in range(number)]
            await asyncio.sleep(0)
            proxy.mode = "pass"
            await eventually(lambda: not governor.is_away)
        proxy.mode = "refuse"
        proxy.cut()
        turns = sorted(chain(*await asyncio.gather(*takers)))
        assert most_in_a_second(turns) <= rate + 1  # the test itself may be interrupted


async def test_without_the_server_the_first_turn_comes_after_those_that_were_given_away(account, monkeypatch):
    """And not at the same time in all processes."""
    draw = 0.5
    monkeypatch.setattr(redis_governor.random, "random", lambda: draw)
    with reserve_port() as port:
        async with governor_at(f"redis://127.0.0.1:{port}/0", account, processes=10, max_rate=50) as governor:
            began = time.monotonic()
            first, second, third = await take(governor, 3)
            earliest, share = began + 0.1 + 10 / 50 + draw * 10 / 50, 50 / 10
            assert first >= earliest
            assert second >= earliest + 1 / share
            assert third >= earliest + 2 / share
            for _ in range(2):
                assert await governor.turn(10, LONG) is not None  # a rate that is shared as well
            assert time.monotonic() >= earliest + 3 / share + 10 / 10


async def test_a_server_whose_answers_come_too_late_is_left_until_it_is_fast(
    redis_server, account, quickly, monkeypatch
):
    """Otherwise, each turn would be over when it arrives. (P46)"""
    monkeypatch.setattr(redis_governor, "SLOW_AFTER", 0.1)
    async with governor_at(redis_server.url, account, processes=1) as governor:
        for _ in range(20):  # the fastest answer says how far apart the clocks are
            await governor.read()
        original, delay = governor._eval, 10 * redis_governor.SLACK

        async def slow(script, *arguments):
            answer = await original(script, *arguments)
            await asyncio.sleep(delay)
            return answer

        governor._eval = slow
        assert await governor.turn(RATE, LONG) is not None
        assert governor.is_away
        await asyncio.sleep(3 * delay)
        assert governor.is_away
        delay = 0
        await eventually(lambda: not governor.is_away)


async def test_a_replacement_fails_with_the_server(redis_server, account):
    """And is tried again in this process alone."""
    async with Proxy(redis_server.port) as proxy, governor_at(proxy.url, account) as governor:
        await governor.read()
        proxy.mode = "refuse"
        proxy.cut()
        assert not await governor.replace(AccountHealth(), DOWN)
        assert await governor.replace(AccountHealth(), DOWN)
        assert (await governor.read()).health == DOWN
        proxy.mode = "pass"


async def test_a_server_that_starts_later_is_found(account, quickly):
    """Until then, the rate is divided by the number of processes that the setting names."""
    with reserve_port() as port:
        async with governor_at(f"redis://127.0.0.1:{port}/0", account, processes=5) as governor:
            reading = await governor.turn(RATE, LONG)
            assert (reading.health, reading.members) == (AccountHealth(), 5)
            assert governor._alone.max_rate == RATE / 5
    with RedisServer() as server:
        async with governor_at(server.url, account, processes=5) as governor:
            server.kill()
            assert await governor.turn(RATE, LONG) is not None
            assert governor.is_away
            server.start()
            await eventually(lambda: not governor.is_away)
            assert await governor.turn(RATE, LONG) is not None


async def test_a_server_that_fails_is_looked_for_at_once(redis_server, account, quickly, monkeypatch):
    """Not only when the process would have shown itself: until then, it sends its share beside what others send."""
    monkeypatch.setattr(redis_governor, "SEEN_EVERY", 1e6)
    async with Proxy(redis_server.port) as proxy, governor_at(proxy.url, account, max_rate=1000.0) as governor:
        await governor.read()
        await asyncio.sleep(0)
        proxy.mode = "refuse"
        proxy.cut()
        await governor.read()
        assert governor.is_away
        proxy.mode = "pass"
        await eventually(lambda: not governor.is_away)


async def test_a_share_of_less_than_a_turn_a_second_is_a_share(account):
    """With more processes than turns in a second, each gets one now and then."""
    with reserve_port() as port:
        async with governor_at(f"redis://127.0.0.1:{port}/0", account, processes=100, max_rate=50) as governor:
            assert await governor.turn(50, 60.0) is not None
            assert governor._alone.max_rate == 0.5
            assert await governor.turn(50, 0.01) is None


async def test_what_is_no_redis_server_counts_as_away(account, caplog):
    """A proxy that changes answers, or something else altogether."""
    for answer in (
        b"$5\r\nhello\r\n",
        b"*1\r\n:1\r\n",
        b"*5\r\n:1\r\n:1\r\n:1\r\n$3\r\nabc\r\n$-1\r\n",
        b"HTTP/1.1 400\r\n\r\n",
    ):
        async with nonsense(answer) as url, governor_at(url, account, max_rate=1000.0, timeout=1.0) as governor:
            assert await governor.turn(1000.0, LONG) is not None
            assert governor.is_away


# Fleets.


async def test_fleets_of_two_processes_share_what_they_know(redis_server, account):
    """A pause that SignalWire asks one of them for, by way of the server. (P44)"""
    async with (
        Emulator() as emulator,
        governors_at(redis_server.url, account, 2, max_rate=1000.0) as (one, other),
        emulator.client() as first,
        emulator.client() as second,
        SessionFleet(first, governor=one) as asked,
        SessionFleet(second, governor=other) as told,
    ):
        await asked.token("alice")
        await told.token("bob")
        emulator.fail(Status(429, retry_after=30))
        asked.session("carol")
        await eventually(lambda: first.throttle.error is not None)
        await eventually(lambda: not asked._context.gate.health.account.is_busy)
        requests = len(emulator.requests)
        told.session("dave")
        await eventually(lambda: second.throttle.error is not None)
        assert len(emulator.requests) == requests


# Misuse, and what is shown.


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"account": ""}, "account must be a string"),
        ({"account": "a{b}"}, "account must be a string"),
        ({"account": 5}, "account must be a string"),
        ({"prefix": "}"}, "prefix must be a string"),
        ({"processes": 0}, "processes must be a whole number"),
        ({"processes": True}, "processes must be a whole number"),
        ({"processes": 1.5}, "processes must be a whole number"),
        ({"max_rate": 0}, "max_rate must be a number"),
        ({"timeout": 0}, "timeout must be seconds"),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    """When the governor is made."""
    with pytest.raises(ConfigurationError, match=f"RedisGovernor: {words}"):
        RedisGovernor("redis://127.0.0.1/0", **settings)


@pytest.mark.parametrize("server", [f"{MARK}://x", f"redis://:{MARK}@x:nonsense", 5, None, b"redis://x"])
def test_a_wrong_server_is_refused(server):
    """Nothing of it is shown."""
    with pytest.raises(ConfigurationError, match=r"RedisGovernor: .* URL") as caught:
        RedisGovernor(server)
    error = caught.value
    frames = error.__traceback__.tb_next  # without this test's own
    text = "".join(traceback.TracebackException(type(error), error, frames, capture_locals=True).format())
    assert MARK not in text
    assert repr(RedisGovernor.__new__(RedisGovernor)) == "RedisGovernor()"


async def test_a_governor_shows_its_server_but_no_password(account, caplog):
    """Neither in its name, nor when the server fails."""
    with reserve_port() as port:
        async with governor_at(f"redis://user:{MARK}@127.0.0.1:{port}/0", account) as governor:
            assert repr(governor) == f"RedisGovernor(127.0.0.1:{port}/0)"
            await governor.read()
    assert "failed" in caplog.text
    assert MARK not in caplog.text


async def test_another_event_loop_is_refused(redis_server, account):
    """It isn't taken for a failure of the server."""
    async with governor_at(redis_server.url, account) as governor:
        await governor.read()

        async def elsewhere():
            for call in (governor.read(), governor.turn(1, 1), governor.replace(DOWN, DOWN), governor.aclose()):
                with pytest.raises(StoreError, match="create one RedisGovernor per event loop"):
                    await call

        await asyncio.to_thread(asyncio.run, elsewhere())
        assert not governor.is_away


def drop(governors):
    governors.clear()
    gc.collect()  # a failure inside the client may have left its frames in a cycle


def test_a_governor_that_was_closed_is_used_on_the_next_event_loop(redis_server, account):
    """One that was not warns."""

    async def use(governor):
        await governor.turn(RATE, LONG)

    async def use_and_close(governor):
        async with governor:
            await use(governor)

    async def use_and_leave(governor):
        await use(governor)
        await disconnect(governor)

    governor = governor_at(redis_server.url, account)
    for _ in range(2):
        asyncio.run(use_and_close(governor))
    asyncio.run(use_and_leave(governor))
    governors = [governor]
    del governor
    with pytest.warns(ResourceWarning, match=r"unclosed RedisGovernor\(127"):
        drop(governors)


async def test_a_governor_that_was_dropped_leaves_no_task(redis_server, account, quickly):
    """Although its task would go on for as long as the process."""
    governors = [governor_at(redis_server.url, account)]
    await governors[0].read()
    await disconnect(governors[0])
    task = governors[0]._keeping
    with pytest.warns(ResourceWarning, match=r"unclosed RedisGovernor\(127"):
        drop(governors)
    await eventually(task.done)


async def test_a_governor_that_is_closed_ends_the_calls_that_wait(redis_server, account):
    """They get no turn, and open no connection again."""
    async with Proxy(redis_server.port) as proxy, governor_at(proxy.url, account, max_rate=1000.0) as governor:
        await governor.read()
        proxy.mode = "stall"
        waiting = asyncio.ensure_future(governor.turn(1000.0, LONG))
        await eventually(lambda: governor._taking is not None)
        closing = asyncio.ensure_future(governor.aclose())
        await asyncio.sleep(0)
        proxy.heal()
        await closing
        assert await waiting is None
        assert not governor._server.owner.is_used


def test_processes_use_the_server_again_after_the_others_have_found_it():
    """A process that is back early keeps to its share until the last one is."""
    assert BACK_AFTER > 2 * redis_governor.RETRY_EVERY
