"""Fleets of several processes that share one governor, in virtual time."""

import asyncio
import gc
import logging
import math
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count, pairwise
from weakref import ref

import attrs
import pytest

from signalwire_tokens import (
    BreakerState,
    ConfigurationError,
    RateLimited,
    SessionFleet,
    StoreError,
    TokenClient,
    TokenUnavailable,
)
from signalwire_tokens.fleet import account
from signalwire_tokens.governors import AccountHealth, HealthReading, LocalGovernor
from support.fake_transport import make_client, most_in_a_second

MINUTE, HOUR = 60.0, 3600.0
RATE = 50.0


class Process:
    """A process, as its governor sees it: a client, a line to the service, and a fleet."""

    def __init__(self, client, line, fleet):
        self.client, self.line, self.fleet, self.numbers = client, line, fleet, count(1)

    def open(self, number):
        """Open sessions of other subscribers than before."""
        return [self.fleet.session(f"{id(self)}-{next(self.numbers)}") for _ in range(number)]

    @property
    def breaker(self):
        return self.fleet.snapshot().breaker

    def sent_since(self, time):
        return [at for at in self.line.times if at >= time]


class Remote:
    """One process's view of a governor on a server: each call takes a while, and turns bring what was read last."""

    def __init__(self, inner, clock, trip, members):
        self.inner, self.clock, self.trip, self.members = inner, clock, trip, members
        self.max_rate, self.known = inner.max_rate, None

    async def turn(self, rate, within):
        await self.read()
        turn = await self.inner.turn(rate, within)
        return turn and attrs.evolve(self.known, at=turn.at)

    async def read(self):
        self.known = attrs.evolve(await self._sent(self.inner.read), members=self.members)
        return self.known

    async def replace(self, health, by):
        return await self._sent(self.inner.replace, health, by)

    async def _sent(self, call, *arguments):
        await self.clock.sleep(self.trip / 2)
        answer = await call(*arguments)
        await self.clock.sleep(self.trip / 2)
        return answer


@asynccontextmanager
async def processes(clock, number, governor=None, *, trip=0.0, **settings):
    """Yield processes that share a governor, which is as far away as a round trip takes."""
    governor = governor or LocalGovernor(RATE, clock=clock)
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(number):
            client, line = make_client(clock)
            own = Remote(governor, clock, trip, number) if trip else governor
            fleet = SessionFleet(client, governor=own, **settings)
            made.append(Process(client, line, await stack.enter_async_context(fleet)))
        yield made


def times_of(made, since=0.0):
    return sorted(at for process in made for at in process.sent_since(since))


# Turns.


async def test_no_second_has_more_requests_of_all_processes_than_the_rate(clock):
    """And hardly fewer, as long as sessions wait. (P26)"""
    async with processes(clock, 5) as made:
        for process in made:
            process.open(100)
        await clock.advance(MINUTE)
        times = times_of(made)
        assert len(times) == 500
        assert most_in_a_second(times) <= RATE
        assert times[-1] - times[0] <= 1.03 * 500 / RATE


async def test_a_busy_process_leaves_the_others_their_share(clock):
    """Sessions of a quiet process don't wait behind the thousands of a busy one. (P43)"""
    async with processes(clock, 2) as (busy, quiet):
        busy.open(2000)
        await clock.advance(5)
        for _ in range(10):
            began = clock.now()
            quiet.open(1)
            await clock.advance(1)
            assert quiet.sent_since(began)
            assert quiet.sent_since(began)[0] - began <= 2 * 0.1 + 0.02
        assert most_in_a_second(times_of([busy, quiet])) <= RATE


async def test_equally_busy_processes_get_equal_shares(clock):
    """As long as all of them have sessions that wait. (P43)"""
    async with processes(clock, 4) as made:
        for process in made:
            process.open(500)
        await clock.advance(20)
        shares = [len(process.line.sent) for process in made]
        assert min(shares) >= 0.9 * max(shares)
        assert sum(shares) >= 0.95 * 20 * RATE


async def test_the_rate_of_a_fleet_without_a_governor_is_its_own(clock):
    """Two fleets of one client don't limit each other."""
    client, line = make_client(clock)
    async with SessionFleet(client, max_rate=10) as one, SessionFleet(client, max_rate=10) as other:
        for number in range(40):
            one.session(f"one-{number}")
            other.session(f"other-{number}")
        await clock.advance(MINUTE)
    assert 18 <= most_in_a_second(line.times) <= 20


# Pauses.


TRIPS = [0.005, 0.02, 0.05, 0.2]


async def ask_for_pause(process, retry_after=30):
    """Have a direct call of a process find that SignalWire asks for a pause; return when it did."""
    process.line.status, process.line.headers = 429, {"Retry-After": str(retry_after)}
    with pytest.raises(RateLimited):
        await process.client.create_subscriber_token("alice")
    process.line.status, process.line.headers = 201, {}
    return process.client.clock.now()


@pytest.mark.parametrize("trip", TRIPS)
async def test_a_pause_is_kept_however_far_away_the_governor_is(clock, trip):
    """The others send requests until they have heard of it. Turns that are older don't end it. (P44)"""
    async with processes(clock, 4, trip=trip) as made:
        for process in made:
            process.open(150)
        await clock.advance(3)
        asked = await ask_for_pause(made[1])
        await clock.advance(29)
        assert len(times_of(made, asked + 0.001)) <= (0.1 + 4 * trip) * RATE
        assert all(isinstance(process.client.throttle.error, RateLimited) for process in made)
        await clock.advance(MINUTE)
        assert len({who for process in made for _, who in process.line.sent}) == 601


async def test_an_older_pause_of_another_process_does_not_replace_a_later_one(clock):
    """SignalWire asked this process last, and the governor doesn't have that yet. (P44)"""
    async with processes(clock, 1, trip=1.0) as (process,):
        await clock.advance(10)
        asked = await ask_for_pause(process, 20)
        older = AccountHealth().paused(asked - 1, asked + 50)
        account = process.fleet._context.gate.health.account
        account._see(HealthReading(health=older, at=asked))
        assert process.client.throttle.until == asked + 20
        await clock.advance(5)
        assert account.health.paused_until == pytest.approx(asked + 20, abs=1)


async def test_a_pause_is_shared_soon_although_many_requests_succeed(clock):
    """What they show is shared once, and doesn't hold up other news. (P44)"""
    governor = LocalGovernor(100, clock=clock)
    async with processes(clock, 2, governor, trip=0.04) as (one, other):
        one.open(5000)
        await clock.advance(2)
        one.line.headers = few_left(850, 10)  # a hint, whose sharing is under way while other requests succeed
        await clock.advance(1)
        one.line.headers = {}
        await clock.advance(20)
        await ask_for_pause(one)
        await clock.advance(0.1)
        other.open(10)
        await clock.advance(0.5)
        assert other.line.sent == []
        assert isinstance(other.client.throttle.error, RateLimited)


async def test_a_pause_outlives_the_data_of_the_governor(clock):
    """A server that was replaced by an empty one is told again. (P44)"""
    governor = LocalGovernor(RATE, clock=clock)
    async with processes(clock, 3, governor, trip=0.01) as made:
        for process in made:
            process.open(200)
        await clock.advance(1)
        asked = await ask_for_pause(made[0])
        await clock.advance(1)
        governor._health = AccountHealth()
        begun = clock.now()
        for process in made:
            process.fleet._context.gate.health.account.look()
        await clock.advance(asked + 29 - begun)
        assert times_of(made, begun) == []
        assert (await governor.read()).health.paused_until == pytest.approx(asked + 30, abs=0.1)
        await clock.advance(MINUTE)
        assert len({who for process in made for _, who in process.line.sent}) == 601


@pytest.mark.parametrize("retry_after", [20, 45])
async def test_a_pause_that_one_process_was_asked_for_holds_for_all(clock, retry_after):
    """Not one request is sent, by whichever process, until it ends. (P44)"""
    async with processes(clock, 5) as made:
        made[0].line.status, made[0].line.headers = 429, {"Retry-After": str(retry_after)}
        for process in made:
            process.open(100)
        await clock.advance(1)
        (asked,) = made[0].line.times
        made[0].line.status = 201
        before = len(times_of(made))
        await clock.advance(asked + retry_after - clock.now() - 0.01)
        assert len(times_of(made)) == before
        assert all(isinstance(process.client.throttle.error, RateLimited) for process in made)
        assert times_of(made, asked + 0.001) == []
        await clock.advance(3 * MINUTE)
        assert len(times_of(made)) == 501
        assert all(process.breaker is BreakerState.CLOSED for process in made)


async def test_a_pause_that_ends_early_ends_for_all(clock):
    """The answer to a later request of any process lifts it. (P44)"""
    async with processes(clock, 3) as made:
        made[0].line.status, made[0].line.headers = 429, {"Retry-After": "50"}
        for process in made:
            process.open(50)
        await clock.advance(5)
        made[0].line.status = 201
        sent = len(times_of(made))
        await made[1].client.create_subscriber_token("alice")  # a direct call doesn't wait
        await clock.advance(20)
        assert len(times_of(made)) > sent + 100
        assert all(process.client.throttle.error is None for process in made)


async def test_a_pause_that_a_direct_call_was_asked_for_holds_for_all(clock):
    """The process has no session that would have noticed. (P44)"""
    async with processes(clock, 2) as (caller, other):
        began = await ask_for_pause(caller)
        other.open(20)
        await clock.advance(29)
        assert other.sent_since(began) == []
        await clock.advance(MINUTE)
        assert len(other.sent_since(began)) == 20


# Outages.


async def test_one_process_at_a_time_asks_whether_signalwire_is_back(clock, caplog):
    """One probe for all, and afterwards one ramp for all. (P45)"""
    async with processes(clock, 5) as made:
        for process in made:
            process.open(200)
        await clock.advance(2)
        for process in made:
            process.line.status, process.line.takes = None, 0.05
        await clock.advance(10)
        assert all(process.breaker is BreakerState.OPEN for process in made)
        assert caplog.text.count("SignalWire is down or wants a pause") == 5  # each says so once
        begun = clock.now()
        await clock.advance(5 * MINUTE)
        probes = times_of(made, begun)
        assert 5 * MINUTE / 5.5 <= len(probes) <= 5 * MINUTE / 2.5 + 8
        assert most_in_a_second(probes) == 1
        assert sum(bool(process.sent_since(begun)) for process in made) >= 2
        back = clock.now()
        for process in made:
            process.line.status = 201
        await clock.advance(MINUTE)
        times = times_of(made, back)
        assert len(times) >= 5 * 200 - 2.1 * RATE
        first = times[1]
        assert sum(first <= at < first + 1 for at in times) <= 0.25 * RATE
        assert most_in_a_second(times) <= RATE
        assert all(process.breaker is BreakerState.CLOSED for process in made)


async def test_an_idle_process_learns_of_an_outage_with_its_first_turn(clock):
    """It sends nothing but probes, and only while no other process sends one. (P45)"""
    async with processes(clock, 2) as (busy, idle):
        busy.line.status = idle.line.status = None
        busy.open(20)
        await clock.advance(2)
        assert busy.breaker is BreakerState.OPEN
        governor, began = busy.fleet._governor, clock.now()
        health = (await governor.read()).health
        assert await governor.replace(health, attrs.evolve(health, probe="a long one", probe_until=began + 8))
        (session,) = idle.open(1)
        waiting = asyncio.ensure_future(session.token())
        await clock.advance(7)
        assert idle.breaker is BreakerState.OPEN
        assert times_of([busy, idle], began) == []
        with pytest.raises(TokenUnavailable, match="as another process has found: ConnectionFailed"):
            await waiting
        await clock.advance(20)
        probes = times_of([busy, idle], began)
        assert all(later - sooner >= 0.25 for sooner, later in pairwise(probes))
        busy.line.status = idle.line.status = 201
        await clock.advance(20)
        assert await session.token()


async def test_a_process_whose_network_is_broken_slows_down_the_others_once(clock):
    """They find at once that SignalWire answers, and the broken one then acts alone. (P45)"""
    async with processes(clock, 3) as (broken, *well):
        broken.line.status = None
        broken.open(50)
        for process in well:
            process.open(1000)
        opened = 0
        for _ in range(300):
            await clock.advance(0.1)
            opened += any(process.breaker is BreakerState.OPEN for process in well)
        assert opened <= 20
        assert broken.breaker is BreakerState.OPEN
        assert sum(len(process.line.sent) for process in well) >= 20 * RATE
        broken.line.status = 201
        await clock.advance(MINUTE)
        assert broken.breaker is BreakerState.CLOSED
        for process in (broken, *well):
            process.line.status = None
            process.open(100)
        await clock.advance(2)
        assert all(process.breaker is BreakerState.OPEN for process in (broken, *well))  # it is believed again


async def test_wrong_credentials_of_one_process_do_not_stop_the_others(clock):
    """They are its own. (P45)"""
    async with processes(clock, 2) as (wrong, right):
        wrong.line.status = 401
        wrong.open(30)
        right.open(30)
        await clock.advance(MINUTE)
        assert (wrong.breaker, right.breaker) == (BreakerState.OPEN, BreakerState.CLOSED)
        assert len(right.line.sent) == 30


async def test_a_probe_of_another_process_does_not_hold_up_those_after_the_outage(clock):
    """The process that has had to wait for it sends its own probes when it needs some. (P45)"""
    governor = LocalGovernor(RATE, clock=clock)
    async with processes(clock, 1, governor) as (process,):
        process.line.status = None
        process.open(20)
        await clock.advance(0.5)
        health = (await governor.read()).health
        theirs = attrs.evolve(health, probe="another process's", probe_until=clock.now() + 10)
        assert await governor.replace(health, theirs)
        await clock.advance(5)
        assert process.fleet._context.gate.health.breaker.probing
        assert await governor.replace(theirs, theirs.answered(clock.now()))
        process.line.status = 401
        await clock.advance(MINUTE)
        assert process.breaker is BreakerState.OPEN
        process.line.status = 201
        await clock.advance(MINUTE)
        assert process.breaker is BreakerState.CLOSED


async def test_a_probe_whose_process_has_stopped_is_replaced(clock):
    """Its claim ends when its request would have. (P45)"""
    governor = LocalGovernor(RATE, clock=clock)
    async with processes(clock, 1, governor) as (process,):
        process.line.status = None
        process.open(20)
        await clock.advance(2)
        health = (await governor.read()).health
        killed = health.claimed("of a process that was killed", clock.now() + 100, until=clock.now() + 11)
        assert killed != health
        assert await governor.replace(health, killed)
        process.line.status = 201
        await clock.advance(10)
        assert process.breaker is BreakerState.OPEN
        await clock.advance(10)
        assert process.breaker is not BreakerState.OPEN


# What SignalWire says of its limit.


def few_left(remaining, seconds):
    return {"X-RateLimit-Limit": "500", "X-RateLimit-Remaining": str(remaining), "X-RateLimit-Reset": str(seconds)}


@pytest.mark.parametrize(("headers", "most"), [(few_left(200, 10), 20), (few_left(0, 3600), 5)])
async def test_a_hint_that_few_requests_are_left_lowers_the_rate_of_all(clock, headers, most):
    """To what is left until the reset, but never below a tenth, nor for longer than a minute. (P43)"""
    async with processes(clock, 2) as (hinted, other):
        hinted.line.headers = headers
        hinted.open(1)
        await clock.advance(1)
        hinted.line.headers = {}
        began = clock.now()
        for process in (hinted, other):
            process.open(250)
        await clock.advance(8)
        assert 0.8 * most * 8 <= len(times_of([hinted, other], began)) <= most * 8 + 6
        await clock.advance(MINUTE)
        later = clock.now()
        for process in (hinted, other):
            process.open(250)
        await clock.advance(5)
        assert len(times_of([hinted, other], later)) >= 0.9 * 5 * RATE


@pytest.mark.parametrize(
    "headers",
    [few_left(13_000, 1), few_left(500, 10), {"X-RateLimit-Remaining": "1"}, {"X-RateLimit-Reset": "10"}],
)
async def test_a_hint_never_raises_the_rate(clock, headers):
    """Nor does one that says little. (P43)"""
    async with processes(clock, 2) as made:
        for process in made:
            process.line.headers = headers
            process.open(200)
        await clock.advance(5)
        assert most_in_a_second(times_of(made)) <= RATE
        assert len(times_of(made)) >= 0.9 * 5 * RATE


async def test_a_hint_is_compared_with_what_the_others_have_reported(clock):
    """Not only with what this process has read so far. (P43)"""
    governor = LocalGovernor(RATE, clock=clock)
    async with processes(clock, 2, governor, trip=0.1) as (one, other):
        one.line.headers, other.line.headers = few_left(0, 60), few_left(200, 10)
        one.open(1)
        await clock.advance(0.04)
        other.open(1)
        await clock.advance(1)
        assert (await governor.read()).health.slow_rate == RATE / 10


# Governors that fail.


class Faulty(LocalGovernor):
    """A governor whose methods fail while it is told so: `fault` is an exception, or "hangs"."""

    fault = None

    async def turn(self, rate, within):
        await self._fail()
        return await super().turn(rate, within)

    async def read(self):
        await self._fail()
        return await super().read()

    async def replace(self, health, by):
        await self._fail()
        return await super().replace(health, by)

    async def _fail(self):
        if isinstance(self.fault, BaseException):
            raise self.fault


@pytest.mark.parametrize("fault", [RuntimeError("hush"), asyncio.CancelledError("hush")], ids=["raises", "cancels"])
async def test_a_fleet_goes_on_without_a_governor_that_fails(clock, fault, caplog):
    """It keeps to the rate by itself, says so once, and comes back. Nothing of the error is shown. (P46)"""
    governor = Faulty(RATE, clock=clock)
    async with processes(clock, 1, governor) as (process,):
        governor.fault = fault
        with caplog.at_level(logging.INFO):
            process.open(300)
            await clock.advance(10)
            assert len(process.line.sent) == 300
            assert most_in_a_second(process.line.times) <= RATE
            process.line.status = None
            process.open(30)
            await clock.advance(10)
            assert process.breaker is BreakerState.OPEN
            process.line.status = 201
            await clock.advance(MINUTE)
            assert process.breaker is BreakerState.CLOSED
            governor.fault = None
            process.open(10)
            await clock.advance(10)
    messages = [record.getMessage() for record in caplog.records if "governor" in record.getMessage()]
    assert len(messages) == 2
    assert f"Faulty.turn: {type(fault).__name__}" in messages[0]
    assert "works again" in messages[1]
    assert "hush" not in caplog.text


class Scripted:
    """A governor of an application, which does what a test wants."""

    max_rate = RATE

    def __init__(self, clock):
        self.clock, self.health, self.turns = clock, AccountHealth(), []
        self.result = True

    async def turn(self, rate, within):
        self.turns.append((rate, within))
        return await self.read() if self.result else None

    async def read(self):
        return HealthReading(health=self.health, at=self.clock.now() + 1e6, members=4)

    async def replace(self, health, by):
        return False


async def test_a_governor_that_never_accepts_anything_does_not_keep_the_fleet_busy(clock, caplog):
    """The fleet gives up after a while, and acts alone. (P46)"""
    governor = Scripted(clock)
    async with processes(clock, 1, governor) as (process,):
        process.line.status = None
        process.open(30)
        await clock.advance(5)
        assert process.breaker is BreakerState.OPEN
        assert "accepts no change" in caplog.text
        process.line.status = 201
        await clock.advance(MINUTE)
        assert len({who for _, who in process.line.sent}) == 30


async def test_without_a_turn_in_time_nothing_is_sent(clock):
    """A session says so, and tries again."""
    governor = Scripted(clock)
    async with processes(clock, 1, governor) as (process,):
        governor.result = False
        (session,) = process.open(1)
        waiting = asyncio.ensure_future(session.token())
        await clock.advance(MINUTE)
        with pytest.raises(TokenUnavailable, match="left no turn in time"):
            await waiting
        assert process.line.sent == []
        governor.result = True
        waiting = asyncio.ensure_future(session.token())
        await clock.advance(MINUTE)
        assert await waiting


async def test_readings_that_arrive_out_of_order_are_ignored(clock):
    """Unless they are so old that the governor's clock must have been set back."""
    governor = Scripted(clock)
    async with processes(clock, 1, governor) as (process,):
        account = process.fleet._context.gate.health.account
        down = AccountHealth().opened("ServerError", probe_at=1e6)
        for at, health, seen in ((10.0, down, True), (9.0, AccountHealth(), True), (4.0, AccountHealth(), False)):
            account._see(HealthReading(health=health, at=at))
            assert account.health.is_open is seen


@pytest.mark.parametrize("kind", [LocalGovernor, Faulty])
async def test_a_fleet_that_closes_ends_the_waits_for_turns(clock, kind, caplog):
    """However long the line is, closing doesn't wait for it, and nothing is sent any more."""
    governor = kind(0.5, clock=clock)
    caplog.set_level(logging.INFO)
    async with processes(clock, 5, governor) as made:
        for process in made:
            process.open(3)
        await clock.advance(1)
        sent = len(times_of(made))
        caplog.clear()
        for process in made:
            await process.fleet.aclose()
        await clock.advance(HOUR)
        assert len(times_of(made)) == sent
    assert caplog.text == ""


@pytest.mark.parametrize("turns_of_the_loop", range(6))
async def test_a_fleet_that_closes_as_a_session_opens_does_not_wait_for_its_turn(clock, turns_of_the_loop, caplog):
    """The session may ask for one only after the fleet has begun to close."""
    governor = LocalGovernor(0.01, clock=clock)
    assert await governor.turn(1, math.inf)
    client, line = make_client(clock)
    fleet = await SessionFleet(client, governor=governor).start()
    fleet.session("alice")
    for _ in range(turns_of_the_loop):
        await asyncio.sleep(0)
    await fleet.aclose()
    assert line.sent == []
    assert caplog.text == ""  # the time for renewals to finish hasn't passed


async def test_a_probe_whose_claim_has_ended_is_not_sent(clock):
    """Its turn came so late that another process may be sending one. (P45)"""
    governor = Own(clock)
    async with processes(clock, 2, governor) as made:
        for process in made:
            process.line.status, process.line.takes = None, 3
            process.open(30)
        await clock.advance(10)
        began, turn, late = clock.now(), governor.turn, []

        async def late_once(rate, within):
            if not late:
                late.append(True)
                await clock.sleep(13)
            return await turn(rate, within)

        governor.turn = late_once
        await clock.advance(MINUTE)
        assert late
        probes = times_of(made, began)
        assert all(later - sooner >= 3 for sooner, later in pairwise(probes))


async def test_without_its_governor_a_fleet_sends_its_part_of_the_rate(clock):
    """It divides the rate by the processes that it last knew of. (P46)"""
    governor = Own(clock, members=5)
    async with processes(clock, 1, governor) as (process,):
        process.open(1)
        await clock.advance(1)
        governor.faults = {"turn"}
        process.open(200)
        await clock.advance(15)
        assert most_in_a_second(process.line.times) <= RATE / 5 + 2  # two more, before it has noticed
        governor.faults = set()
        await clock.advance(15)
        assert len(process.line.sent) == 201


@pytest.mark.parametrize(("method", "result"), [("turn", "x"), ("turn", True), ("read", None), ("replace", None)])
async def test_a_governor_that_returns_something_else_has_failed(clock, method, result, caplog):
    """The fleet says so, and goes on. (P46)"""
    governor = Own(clock)

    async def wrong(*_):
        return result

    setattr(governor, method, wrong)
    async with processes(clock, 1, governor) as (process,):
        process.line.status = None
        process.open(20)
        await clock.advance(5)
        process.line.status = 201
        await clock.advance(MINUTE)
        assert len({who for _, who in process.line.sent}) == 20
    assert f"Own.{method}: it returned {type(result).__name__}" in caplog.text


async def test_an_error_of_the_library_is_logged_with_its_advice(clock, caplog):
    """It shows no secrets; the text of any other exception isn't logged. (P46)"""
    governor = Faulty(RATE, clock=clock)
    governor.fault = StoreError("create one RedisGovernor per event loop and process")
    async with processes(clock, 1, governor) as (process,):
        process.open(1)
        await clock.advance(1)
    assert "Faulty.turn: StoreError: create one RedisGovernor per event loop and process" in caplog.text


async def test_few_renewals_wait_for_a_turn_if_there_are_many_processes(clock):
    """All together, they have a tenth of a second's worth of turns in the line. (P43)"""
    governor, most = Own(clock, members=10), 0
    turn, waiting = governor.turn, []

    async def counted(rate, within):
        nonlocal most
        waiting.append(None)
        most = max(most, len(waiting))
        try:
            return await turn(rate, within)
        finally:
            waiting.pop()

    governor.turn = counted
    async with processes(clock, 1, governor) as (process,):
        process.open(1)
        await clock.advance(1)
        process.open(100)
        await clock.advance(1)
        assert most == 1


async def test_a_fleet_that_is_gone_follows_its_client_no_more(clock):
    """Neither one that was closed, nor one that was dropped."""
    client, _ = make_client(clock)
    async with SessionFleet(client) as fleet:
        assert len(client.throttle.followers) == 1
    assert len(client.throttle.followers) == 0
    fleet = await SessionFleet(client).start()
    known = ref(fleet._context.gate)
    fleet._closing = True  # so that dropping it isn't reported
    del fleet
    gc.collect()
    assert known() is None


class Own:
    """A governor of an application: `faults` are the methods that raise, and its clock was set back by `back`."""

    def __init__(self, clock, rate=RATE, members=1):
        self.max_rate, self.members, self.faults, self.back = rate, members, set(), 0.0
        self.held, self.reads = None, 0
        self.inner = LocalGovernor(rate, clock=clock)

    async def turn(self, rate, within):
        self._fail("turn")
        return self._seen(await self.inner.turn(rate, within))

    async def read(self):
        self.reads += 1
        if self.held is not None:
            await self.held.wait()
        self._fail("read")
        return self._seen(await self.inner.read())

    async def replace(self, health, by):
        self._fail("replace")
        return await self.inner.replace(health, by)

    def _fail(self, method):
        if method in self.faults:
            raise RuntimeError(method)

    def _seen(self, reading):
        return reading and attrs.evolve(reading, members=self.members, at=reading.at - self.back)


async def test_slow_answers_do_not_lower_the_rate(clock):
    """The next session takes the place of one that has got its turn, not only of one that has got its answer. (P43)"""
    async with processes(clock, 5, Own(clock, rate=10, members=5)) as made:
        for process in made:
            process.line.takes = 2
            process.open(100)
        await clock.advance(30)
        assert len(times_of(made)) >= 0.95 * 30 * 10


async def test_a_fleet_whose_governor_fails_during_an_outage_finds_the_end_of_it(clock):
    """What the governor said last no longer counts. (P46)"""
    governor = Own(clock)
    async with processes(clock, 1, governor) as (process,):
        process.line.status = None
        process.open(30)
        await clock.advance(5)
        assert process.breaker is BreakerState.OPEN
        governor.faults = {"turn", "read", "replace"}
        await clock.advance(5)
        process.line.status = 201
        await clock.advance(MINUTE)
        assert process.breaker is BreakerState.CLOSED


@pytest.mark.parametrize("rate", [0.5, RATE])
async def test_a_turn_is_not_waited_for_without_end(clock, rate):
    """A governor has time for a turn of each process. After that, it counts as one that fails."""
    governor = Scripted(clock)
    governor.max_rate = rate
    async with processes(clock, 1, governor) as (process,):
        process.open(1)
        await clock.advance(10)
        process.open(1)
        await clock.advance(10)
        assert 4 / rate < governor.turns[-1][1] < 60


async def test_a_hint_of_few_requests_does_not_stop_a_fleet_without_a_limit(clock):
    """A tenth of no limit is none. (P43)"""
    async with processes(clock, 1, LocalGovernor(math.inf, clock=clock)) as (process,):
        process.line.headers = few_left(1, 3600)
        process.open(1)
        await clock.advance(1)
        process.line.headers = {}
        process.open(100)
        await clock.advance(10)
        assert len(process.line.sent) == 101


async def test_what_a_governor_did_not_answer_for_is_not_kept(clock):
    """Otherwise, the changes would become more and more while it fails again and again. (P46)"""
    governor = Own(clock)
    async with processes(clock, 1, governor) as (process,):
        process.open(1)
        await clock.advance(1)
        governor.held = asyncio.Event()
        process.line.headers = few_left(10, 10)
        process.open(100)
        await clock.advance(5)
        account = process.fleet._context.gate.health.account
        reads = governor.reads
        governor.faults = {"read"}
        governor.held.set()
        await clock.advance(0.1)
        assert not account.is_busy
        assert governor.reads <= reads + 1


async def test_one_method_that_fails_is_logged_once(clock, caplog):
    """Although the others work. (P46)"""
    governor = Own(clock)
    caplog.set_level(logging.INFO, "signalwire_tokens.fleet")
    async with processes(clock, 1, governor) as (process,):
        governor.faults = {"replace"}
        process.line.headers = few_left(50, 10)
        process.open(200)
        await clock.advance(10)
        assert len(process.line.sent) == 200
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        governor.faults = set()
        process.open(100)
        await clock.advance(5)
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_a_fleet_that_closes_leaves_the_probe_to_others(clock):
    """Even if its claim is accepted only then. (P45)"""
    governor = Own(clock)
    async with processes(clock, 1, governor) as (process,):
        process.line.status = None
        process.open(30)
        await clock.advance(0.4)
        replace, closing = governor.replace, []

        async def claim(health, by):
            if by.probe and not closing:
                closing.append(asyncio.ensure_future(process.fleet.aclose()))
                await asyncio.sleep(0)
            return await replace(health, by)

        governor.replace = claim
        await clock.advance(20)
        await closing[0]
        health = (await governor.read()).health
        assert (health.is_open, health.probe) == (True, "")


async def test_a_change_that_was_accepted_counts_although_a_turn_came_meanwhile(clock):
    """Otherwise, a fleet wouldn't know of its own claim, and would never release it. (P45)"""
    governor = Own(clock)
    async with processes(clock, 1, governor) as (process,):
        account = process.fleet._context.gate.health.account
        replace = governor.replace

        async def slow(health, by):
            account._see(HealthReading(health=health, at=clock.now() + 0.5))
            return await replace(health, by)

        governor.replace = slow
        account.opened(RateLimited("too many"), 0.0)
        await clock.advance(0.1)
        assert account.health.is_open


@pytest.mark.parametrize("back", [10 * MINUTE, 2 * HOUR])
async def test_a_clock_of_the_governor_that_is_set_back_does_not_prolong_an_outage(clock, back):
    """Nor does the claim of a probe from before. (P45)"""
    governor = Own(clock)
    async with processes(clock, 2, governor) as made:
        for process in made:
            process.line.status = None
            process.open(30)
        await clock.advance(5)
        governor.back = back
        for process in made:
            process.line.status = 201
        await clock.advance(MINUTE)
        assert all(process.breaker is BreakerState.CLOSED for process in made)


async def test_a_pause_after_the_clock_of_the_governor_was_set_back_holds_for_all(clock):
    """Although one from before seems to be newer. (P44)"""
    governor = Own(clock)
    async with processes(clock, 2, governor) as (asked, other):
        for governor.back in (0.0, 10 * MINUTE):
            asked.line.status, asked.line.headers = 429, {"Retry-After": "20"}
            asked.open(1)
            await clock.advance(1)
            asked.line.status, began = 201, clock.now()
            other.open(20)
            await clock.advance(10)
            assert times_of([asked, other], began) == []
            await clock.advance(2 * MINUTE)
            assert other.sent_since(began)


async def test_a_fleet_that_is_closed_wakes_no_more(clock):
    """Although a renewal under way has failed since, and SignalWire is down. (P45)"""
    governor = Own(clock)
    async with processes(clock, 1, governor) as (process,):
        gate = process.fleet._context.gate
        process.line.status, process.line.takes = None, 2.0
        process.open(60)
        await clock.advance(1.5)
        closing = asyncio.ensure_future(process.fleet.aclose())
        for _ in range(50):
            await clock.advance(0.1)
            assert gate.wakes_at == math.inf
        await closing
        assert gate.health.breaker.is_open


class NoGovernor:
    """An object that has only some of the methods."""

    max_rate = 1.0

    async def turn(self, rate, within):
        """Give no turn."""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"governor": LocalGovernor(), "max_rate": 5}, "either max_rate or governor"),
        ({"governor": NoGovernor()}, "the methods read, replace, turn"),
        ({"governor": LocalGovernor}, "the methods read, replace, turn"),
        ({"governor": "redis://127.0.0.1"}, "the methods read, replace, turn"),
    ],
)
async def test_a_wrong_governor_is_refused(settings, words):
    """When the fleet is made, and not at its first request."""
    async with TokenClient("fleet.example", "project", "PTsecret") as client:
        with pytest.raises(ConfigurationError, match=words):
            SessionFleet(client, **settings)


@pytest.mark.parametrize("rate", [0, -1, math.nan, "150", True, None])
def test_a_wrong_rate_is_refused(rate):
    """A rate is a number of requests in a second."""
    with pytest.raises(ConfigurationError, match="max_rate must be a number"):
        LocalGovernor(rate)


async def test_turns_that_come_too_late_are_taken_again(clock):
    """A process that was paused between its turn and its request doesn't send with all others at once."""
    governor = LocalGovernor(10, clock=clock)
    taken = []

    async def take():
        await governor.turn(10, math.inf)
        taken.append(clock.now())

    tasks = [asyncio.ensure_future(take()) for _ in range(30)]
    await clock.advance(0.5)
    clock.suspend(1.0)
    await clock.advance(10)
    await asyncio.wait(tasks)
    assert most_in_a_second(taken) <= 10


async def test_a_call_that_takes_too_long_counts_as_failed(clock, monkeypatch, caplog):
    """The fleet goes on by itself. (P46)"""
    monkeypatch.setattr(account, "LONGEST_CALL", 0.01)
    governor = Own(clock)
    async with processes(clock, 1, governor) as (process,):
        governor.held = asyncio.Event()
        known = process.fleet._context.gate.health.account
        known.look()
        await asyncio.wait([known._task])
        assert "no result within" in caplog.text
        governor.held.set()


async def test_a_call_that_is_cancelled_ends(clock):
    """When the program ends, its event loop cancels all tasks."""
    governor = Own(clock)
    async with processes(clock, 1, governor) as (process,):
        governor.held = asyncio.Event()
        known = process.fleet._context.gate.health.account
        known.look()
        await asyncio.sleep(0)
        task = known._task
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert not known.is_busy
        governor.held.set()
