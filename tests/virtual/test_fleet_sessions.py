"""The fleet as its users see it: on the emulator where it crosses a socket, in virtual time where that is the point."""

import asyncio
import gc
import itertools
import logging
import math
import re
import weakref
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from signalwire_tokens import (
    ApiError,
    BreakerState,
    ConfigurationError,
    ConnectionFailed,
    Forbidden,
    InvalidRequest,
    MemoryStore,
    RateLimited,
    RefreshPolicy,
    ServerError,
    SessionClosed,
    SessionError,
    SessionExpired,
    SessionFleet,
    SessionState,
    SignalWireTokenError,
    SubscriberSession,
    TokenUnavailable,
    Unauthorized,
    ValidationFailed,
)
from signalwire_tokens.emulator import Emulator, Status
from signalwire_tokens.fleet.queue import Queue
from signalwire_tokens.fleet.sessions import CLOSES_PER_TURN
from signalwire_tokens.keeper import engine_of
from support.fake_transport import make_client, most_in_a_second, settle
from support.loop_time import LoopClock

LIFE = 7200.0


@pytest.fixture
def line(clock):
    """A client, and what stands in for the network and the service behind it."""
    client, line = make_client(clock)
    line.client = client
    return line


async def failure(task):
    await asyncio.wait([task])
    return task.exception()


async def test_a_token_is_given_for_whoever_is_asked_for(emulator, client):
    """The service takes it, and is asked once for each."""
    async with SessionFleet(client) as fleet:
        tokens = await asyncio.gather(*(fleet.token(name) for name in ("alice", "bob", "alice")))
        assert tokens[0] == tokens[2] != tokens[1]
        assert all(emulator.accepts(token) for token in tokens)
        assert len(emulator.requests) == 2


async def test_tokens_are_kept_alive(clock, emulator, client):
    """Days later, each is live, whoever asks."""
    async with SessionFleet(client, max_rate=math.inf) as fleet:
        first = [await fleet.token(f"user-{number}") for number in range(5)]
        for _ in range(48):
            await clock.advance(3600)
            tokens = [await fleet.token(f"user-{number}") for number in range(5)]
            assert all(emulator.accepts(token) for token in tokens)
        assert not set(first) & set(tokens)
        assert fleet.snapshot().sessions[SessionState.UNAVAILABLE] == 0


async def test_a_session_of_a_fleet_is_a_session(clock, line):
    """Opened in the background, it has all that sessions have, and is the same for all who ask."""
    async with SessionFleet(line.client) as fleet:
        session = fleet.session("alice", application_id="5e1f0a4e-9a3e-4d0f-8b0a-1d2f3c4b5a69", first_name="Alice")
        events = []
        session.subscribe(lambda event: events.append(event.kind))
        assert isinstance(session, SubscriberSession)
        assert await session.token() == await fleet.token("alice")
        await settle()
        await clock.advance(LIFE)
        await settle()
        assert events == ["started", "rotated"]
        assert fleet.session("alice") is session
        assert fleet.session("alice", application_id="5E1F0A4E-9A3E-4D0F-8B0A-1D2F3C4B5A69") is session
        assert session.generation == 2


async def test_a_session_with_other_fields_is_refused(line):
    """Rather than given with a token of another kind; what is sent with the first issue only does not matter."""
    async with SessionFleet(line.client) as fleet:
        session = fleet.session("alice", region="us-central")
        assert fleet.session("alice", region="us-central", display_name="Alice") is session
        with pytest.raises(ConfigurationError, match="other fields"):
            fleet.session("alice", region="us-east")
        with pytest.raises(InvalidRequest):
            fleet.session("alice", scope="everything")
        with pytest.raises(InvalidRequest):
            fleet.session("")


APPLICATION = {"application_id": "5e1f0a4e-9a3e-4d0f-8b0a-1d2f3c4b5a69", "extra": {"audience": "us"}}


async def be_idle(fleet, clock, line):
    await clock.advance(2 * LIFE)


async def close(fleet, clock, line):
    await fleet.session("alice").aclose()


async def expire(fleet, clock, line):
    line.refused["alice"] = 422
    refresh = asyncio.create_task(fleet.session("alice").refresh())
    await clock.advance(LIFE)
    assert isinstance(await failure(refresh), SignalWireTokenError)
    del line.refused["alice"]
    await clock.advance(2 * LIFE)


@pytest.mark.parametrize("end", [be_idle, close, expire])
async def test_one_that_is_opened_again_has_its_fields(clock, line, end):
    """`token()` can't name them, and without its application or scope a token would be another kind of token."""
    async with SessionFleet(line.client, idle_timeout=timedelta(minutes=30)) as fleet:
        session = fleet.session("alice", **APPLICATION, password="secret")
        await session.token()
        await end(fleet, clock, line)
        assert session.state is SessionState.CLOSED
        line.bodies.clear()
        await fleet.token("alice")
        shape = {"application_id": APPLICATION["application_id"], "audience": "us"}
        assert line.bodies == [{"reference": "alice", **shape}]
        with pytest.raises(ConfigurationError, match="other fields"):
            fleet.session("alice", application_id=None)


async def test_one_that_never_had_a_token_is_opened_again_with_all_its_fields(clock, line):
    """SignalWire does not know who the subscriber is."""
    line.refused["alice"] = 403
    async with SessionFleet(line.client) as fleet:
        fleet.session("alice", region="us-central", password="secret", display_name="Alice")
        await clock.advance(LIFE)
        line.refused.clear()
        await fleet.token("alice")
        fields = {"region": "us-central", "password": "secret", "display_name": "Alice"}
        assert line.bodies[-1] == {"reference": "alice", **fields}


@pytest.mark.parametrize("fields", [{"region": "us-east"}, {"region": None}])
async def test_a_session_that_is_closed_may_be_opened_with_other_fields(line, fields):
    """What `session()` is given counts, now and later, and not what an earlier session had."""
    async with SessionFleet(line.client) as fleet:
        await fleet.session("alice", region="us-central").token()
        await fleet.session("alice").aclose()
        await fleet.session("alice", **fields).token()
        await fleet.session("alice").aclose()
        await fleet.token("alice")
        assert [body.get("region") for body in line.bodies] == ["us-central", fields["region"], fields["region"]]


async def test_a_fleet_that_was_closed_keeps_no_fields(line):
    """A password may be among them."""
    async with SessionFleet(line.client) as fleet:
        fleet.session("alice", region="us-central", password="secret")
        context = fleet._context
    assert context.fields == {}


@pytest.mark.parametrize("call", ["open", "new", "subscribe", "rotations"])
@pytest.mark.parametrize("has_loop", [True, False])
async def test_a_fleet_belongs_to_one_event_loop(clock, line, call, has_loop):
    """Elsewhere its methods raise, and leave the alarm of all sessions where it is."""
    async with SessionFleet(line.client, idle_timeout=timedelta(minutes=5)) as fleet:
        alice = fleet.session("alice")
        await clock.advance(0.9 * LIFE)  # it is due, and idle
        alarm = engine_of(alice).timer._alarm

        def use():
            with pytest.raises(SessionError, match="call_soon_threadsafe"):
                {
                    "open": lambda: fleet.session("alice"),
                    "new": lambda: fleet.session("bob"),
                    "subscribe": lambda: alice.subscribe(print),
                    "rotations": alice.rotations,
                }[call]()

        async def elsewhere():
            use()

        await (asyncio.to_thread(asyncio.run, elsewhere()) if has_loop else asyncio.to_thread(use))
        assert engine_of(alice).timer._alarm is alarm


async def test_fields_that_do_not_shape_the_token_change_nothing_of_its_shape(clock, line):
    """Whether the session is open, or opened again."""
    async with SessionFleet(line.client, idle_timeout=timedelta(minutes=5)) as fleet:
        alice = fleet.session("alice", region="us-central")
        await alice.token()
        assert fleet.session("alice", display_name="Alice") is alice
        with pytest.raises(InvalidRequest):
            fleet.session("alice", display_name=7)
        await clock.advance(2 * LIFE)
        await fleet.session("alice", display_name="Alice").token()
        assert line.bodies[-1] == {"reference": "alice", "region": "us-central", "display_name": "Alice"}


async def test_discarding_takes_no_longer_than_its_bound(clock, line):
    """A renewal that doesn't end is left behind."""
    loop = asyncio.get_running_loop()
    async with SessionFleet(line.client, policy=RefreshPolicy(close_timeout=2.0)) as fleet:
        line.takes = 2000.0
        for _ in range(3):  # the sessions before have renewals under way, too
            asking = asyncio.create_task(fleet.token("alice"))
            await clock.advance(0)
            begun = loop.time()
            discarding = asyncio.create_task(fleet.close_session("alice"))
            assert isinstance(await failure(asking), SessionClosed)
            assert loop.time() - begun < 1.0
            await discarding
            assert loop.time() - begun < 3.0
        await clock.advance(2000)


async def test_discarding_forgets_the_fields(clock, line):
    """Of an open session, and of one that was closed before. So a fleet's memory can be kept small."""
    async with SessionFleet(line.client, idle_timeout=timedelta(minutes=30)) as fleet:
        for wait in (0, 2 * LIFE):
            await fleet.session("alice", region="us-central").token()
            await clock.advance(wait)
            await fleet.close_session("alice")
            await fleet.token("alice")
            assert line.bodies[-1] == {"reference": "alice"}
            await fleet.close_session("alice")


async def test_a_session_that_is_open_cannot_be_opened(line):
    """It is the fleet that opens and closes it."""
    async with SessionFleet(line.client) as fleet:
        with pytest.raises(SessionError, match="open already"):
            await fleet.session("alice").start()


async def test_one_that_is_discarded_is_opened_anew(emulator, client):
    """It is closed for those who hold it, and whoever asks gets another; who is unknown may be discarded, too."""
    async with SessionFleet(client) as fleet:
        session = fleet.session("alice")
        first = await session.token()
        await fleet.close_session("alice")
        await fleet.close_session("nobody")
        with pytest.raises(SessionClosed):
            await session.token()
        assert await fleet.token("alice") != first
        assert len(emulator.requests) == 2


async def test_a_fleet_contains_the_references_whose_sessions_are_open(client):
    """Asking whether it does opens none."""
    async with SessionFleet(client) as fleet:
        assert "alice" not in fleet
        fleet.session("alice")
        assert ("alice" in fleet, "bob" in fleet) == (True, False)
        await fleet.close_session("alice")
        assert "alice" not in fleet


async def test_one_that_its_holder_closes_is_opened_anew(line):
    """As if it had been discarded."""
    async with SessionFleet(line.client) as fleet:
        session = fleet.session("alice")
        await session.aclose()
        assert fleet.session("alice") is not session
        await session.aclose()
        assert await fleet.token("alice")


async def test_a_reference_that_is_refused_is_not_asked_about_again(clock, line):
    """Whoever asks is told why; some minutes later, or once it is discarded, the service is asked anew."""
    line.refused["ghost"] = 422
    async with SessionFleet(line.client) as fleet:
        for _ in range(3):
            with pytest.raises(ValidationFailed, match="odd"):
                await fleet.token("ghost")
        assert len(line.sent) == 1
        assert fleet.snapshot().sessions[SessionState.EXPIRED] == 1
        await fleet.close_session("ghost")
        with pytest.raises(ValidationFailed):
            await fleet.token("ghost")
        assert len(line.sent) == 2
        await clock.advance(301)
        del line.refused["ghost"]
        assert await fleet.token("ghost")


async def test_one_that_dies_says_so_and_is_forgotten_after_a_while(clock, line):
    """To those who hold it, it has expired; whoever asks the fleet later begins anew."""
    async with SessionFleet(line.client) as fleet:
        session = fleet.session("alice")
        await session.token()
        line.refused["alice"] = 422
        await clock.advance(LIFE + 1)
        with pytest.raises(SessionExpired):
            await fleet.token("alice")
        with pytest.raises(SessionExpired):
            await session.refresh()
        line.refused.clear()
        await clock.advance(300)
        assert await fleet.token("alice")
        assert fleet.session("alice") is not session


async def test_one_that_has_no_way_left_is_served_to_its_end(clock, line):
    """With a store, after a last look into it; a refresh that is forced is refused before."""
    async with SessionFleet(line.client, store=MemoryStore(clock=clock)) as fleet:
        session = fleet.session("alice")
        first = await session.token()
        line.refused["alice"] = 422
        await clock.advance(0.9 * LIFE)
        assert await fleet.token("alice") == first
        with pytest.raises(SessionExpired, match="can't be renewed"):
            await session.refresh()
        await clock.advance(0.1 * LIFE)
        assert session.state is SessionState.EXPIRED


async def test_settings_that_are_at_fault_are_told_at_once(emulator, client, clock):
    """To all callers, even if no request was made for theirs. Once the settings are right, all recover. (P5)"""
    async with SessionFleet(client, max_rate=math.inf) as fleet:
        token = emulator.api_token
        emulator.rotate_api_token()
        asking = [asyncio.create_task(fleet.token(f"user-{number}")) for number in range(100)]
        errors = [await failure(task) for task in asking]
        assert {type(error) for error in errors} == {Unauthorized}
        assert len(emulator.requests) <= 10 + 32
        emulator.service.api_token = token
        await clock.advance(30)
        assert fleet.snapshot().sessions[SessionState.FRESH] == 100


async def test_a_service_that_cannot_be_reached_is_told_promptly_and_not_overrun(clock, line):
    """A thousand ask: each hears within seconds why there is no token, and the service is tried a few times only."""
    line.status = None
    async with SessionFleet(line.client) as fleet:
        asking = [asyncio.create_task(fleet.token(f"user-{number}")) for number in range(1000)]
        await clock.advance(4)
        assert sum(not task.done() for task in asking) <= 1  # who is to find out waits for that
        await clock.advance(10)
        errors = [await failure(task) for task in asking]
        assert {type(error) for error in errors} == {TokenUnavailable}
        assert {type(error.cause) for error in errors} == {ConnectionFailed}
        assert all(error.retry_after is not None for error in errors)
        again = fleet.token("user-7")
        with pytest.raises(TokenUnavailable, match="no valid token"):
            await again
        await clock.advance(600)
        assert len(line.sent) <= 10 + 32 + 600 / 2.5 + 4
        snapshot = fleet.snapshot()
        assert snapshot.breaker is BreakerState.OPEN
        assert isinstance(snapshot.last_error, ConnectionFailed)
        assert sum(snapshot.errors.values()) == 1000

        line.status, before = 201, len(line.sent)
        await clock.advance(5 + 10 + 1000 / 150)
        snapshot = fleet.snapshot()
        assert snapshot.sessions[SessionState.FRESH] == 1000
        assert (snapshot.breaker, snapshot.errors, snapshot.last_error) == (BreakerState.CLOSED, {}, None)
        assert most_in_a_second(line.times[before:]) <= 150


async def test_a_fleet_opens_on_a_service_that_refuses_connections(clock, emulator, client):
    """On a real socket: everybody hears why, and when it listens again, all recover."""
    async with SessionFleet(client, max_rate=math.inf) as fleet:
        async with emulator.unreachable():
            asking = [asyncio.create_task(fleet.token(f"user-{number}")) for number in range(60)]
            await clock.advance(14)
            errors = [await failure(task) for task in asking]
            assert {type(error.cause) for error in errors} == {ConnectionFailed}
        await clock.advance(20)
        assert fleet.snapshot().sessions[SessionState.FRESH] == 60
        assert len(emulator.requests) == 60


@pytest.mark.parametrize("status", [None, 401, 500])
async def test_the_first_call_while_the_service_is_down_raises_why(status):
    """For a new subscriber too: the error has the cause, and when to ask again."""
    async with AsyncExitStack() as stack:
        emulator = await stack.enter_async_context(Emulator(clock=LoopClock()))
        client = await stack.enter_async_context(emulator.client(retries=0))
        await stack.enter_async_context(emulator.unreachable()) if status is None else emulator.fail(
            Status(status), times=None
        )
        fleet = await stack.enter_async_context(SessionFleet(client, max_rate=math.inf))
        asking = [asyncio.create_task(fleet.token(f"user-{number}")) for number in range(40)]
        errors = [await failure(task) for task in asking]
        with pytest.raises(Unauthorized if status == 401 else TokenUnavailable) as caught:
            await fleet.token("stranger")
        if status == 401:
            assert len({id(error) for error in errors}) == 40  # each has one of its own, with none of others' frames
        else:
            assert isinstance(caught.value.cause, ConnectionFailed if status is None else ServerError)
            assert caught.value.retry_after > 0


async def test_nobody_is_told_to_ask_again_at_once(clock, line):
    """Not even while the service is being asked after: whoever heeds it does not spin."""
    line.status = None
    async with SessionFleet(line.client, max_rate=math.inf) as fleet:
        for number in range(40):
            fleet.session(f"user-{number}")
        await clock.advance(30)
        line.takes = 8.0
        await clock.advance(6)
        assert fleet.snapshot().in_flight == 1
        with pytest.raises(TokenUnavailable) as caught:
            await fleet.token("user-39")
        assert caught.value.retry_after >= 0.5
        await clock.advance(10)


@pytest.mark.parametrize("hours", [1, pytest.param(8, marks=[pytest.mark.slow, pytest.mark.heavy])])
async def test_a_few_whom_the_service_fails_harm_nobody_else(clock, line, hours):
    """They are tried after all others, and do not make the service pass for down for long."""
    async with SessionFleet(line.client, max_rate=50) as fleet:
        bad = [f"bad-{number}" for number in range(30)]
        line.refused.update(dict.fromkeys(bad, 500))
        for reference in (*(f"good-{number}" for number in range(100)), *bad):
            fleet.session(reference)
        for _ in range(hours * 60):
            await clock.advance(60)
            late = fleet.snapshot().sessions[SessionState.UNAVAILABLE]
            assert late <= len(bad)
        asking = asyncio.create_task(fleet.token("newcomer"))
        await clock.advance(10)
        assert await asking


async def test_a_service_that_asks_for_hours_of_quiet_is_not_left_alone_for_longer_than_tokens_live(clock, line):
    """Each session waits for half of what is left of its own token at most, as it does outside of a fleet."""
    async with SessionFleet(line.client, max_rate=math.inf) as fleet:
        for number in range(100):
            fleet.session(f"user-{number}")
        await clock.advance(0.6 * LIFE + 200)
        line.status, line.headers = 429, {"Retry-After": "86400"}
        await clock.advance(100)
        line.status, line.headers = 201, {}
        for _ in range(120):
            await clock.advance(60)
            assert fleet.snapshot().sessions[SessionState.UNAVAILABLE] == 0
        newcomer = asyncio.create_task(fleet.token("newcomer"))
        await clock.advance(70)
        assert newcomer.done()
        await asyncio.wait([newcomer])
        assert newcomer.exception() is None or newcomer.exception().retry_after <= 60


async def test_settings_that_were_mended_are_mended_for_a_small_fleet(clock, line):
    """One whom the service accepts is enough for those whom it did not."""
    line.status = 401
    async with SessionFleet(line.client, max_rate=math.inf) as fleet:
        for number in range(5):
            fleet.session(f"user-{number}")
        await clock.advance(1)
        line.status = 201
        with pytest.raises(Unauthorized):
            await fleet.token("user-1")
        await asyncio.gather(fleet.token("newcomer"), clock.advance(1))
        await clock.advance(1)
        assert fleet.snapshot().sessions[SessionState.FRESH] == 6


async def test_settings_that_were_mended_are_noticed_though_all_were_tried(clock, line):
    """Each would pause for minutes."""
    line.status = 401
    async with SessionFleet(line.client, max_rate=math.inf, max_concurrency=100) as fleet:
        for number in range(40):
            fleet.session(f"user-{number}")
        await clock.advance(60)
        line.status = 201
        await clock.advance(30)
        assert fleet.snapshot().sessions[SessionState.FRESH] == 40


async def test_one_that_is_dead_says_so_whatever_has_befallen_the_others(clock, line):
    """It does not hide behind the fault of all."""
    async with SessionFleet(line.client, max_rate=math.inf) as fleet:
        session = fleet.session("alice")
        await session.token()
        line.refused["alice"] = 422
        await clock.advance(LIFE + 1)
        line.status = 401
        for number in range(20):
            fleet.session(f"user-{number}")
        await clock.advance(1)
        with pytest.raises(SessionExpired):
            await fleet.token("alice")


async def test_one_bad_reference_does_not_spoil_a_batch(clock, line):
    """It is refused when it is awaited, and where it is no string."""
    async with SessionFleet(line.client, max_rate=math.inf) as fleet:
        results = await asyncio.gather(*(fleet.token(name) for name in ("a", "", "b", 5)), return_exceptions=True)
        assert [type(result) for result in results] == [str, InvalidRequest, str, InvalidRequest]
        with pytest.raises(TypeError, match="string"):
            await fleet.close_session(5)
        with pytest.raises(TypeError, match=r"SessionFleet\.session .*'store'"):
            fleet.session("a", store=MemoryStore())


async def test_who_asks_while_the_service_is_away_for_a_moment_waits(clock, line):
    """Nobody is turned away for a second's outage."""
    line.status = None
    async with SessionFleet(line.client, max_rate=math.inf) as fleet:
        asking = [asyncio.create_task(fleet.token(f"user-{number}")) for number in range(100)]
        await clock.advance(0.2)
        line.status = 201
        await clock.advance(15)
        assert all([await task for task in asking])


async def test_a_live_token_is_given_while_the_service_is_down(clock, line):
    """Even one that is about to end, and without waiting for what will not come."""
    async with SessionFleet(line.client, max_rate=math.inf) as fleet:
        first = [await fleet.token(f"user-{number}") for number in range(50)]
        line.status = None
        await clock.advance(LIFE - 5)
        assert fleet.snapshot().breaker is BreakerState.OPEN
        for number in range(50):
            call = fleet.token(f"user-{number}")
            with pytest.raises(StopIteration, match=first[number]):
                call.send(None)


@pytest.mark.parametrize("sessions", [50, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.heavy])])
async def test_no_second_sees_more_than_the_rate_and_no_moment_more_than_the_concurrency(clock, line, sessions):
    """From the first issue on, through a day."""
    line.takes = 0.5
    async with SessionFleet(line.client, max_rate=20, max_concurrency=7) as fleet:
        for number in range(sessions):
            fleet.session(f"user-{number}")
        await clock.advance(24 * 3600)
        assert most_in_a_second(line.times) <= 20
        assert line.busiest == 7
        assert fleet.snapshot().sessions[SessionState.UNAVAILABLE] == 0


async def test_whoever_waits_comes_before_those_who_do_not(clock, line):
    """A caller does not stand behind a thousand sessions that nobody asks for yet."""
    async with SessionFleet(line.client, max_rate=10) as fleet:
        for number in range(1000):
            fleet.session(f"user-{number}")
        await clock.advance(1)
        asking = asyncio.create_task(fleet.token("user-999"))
        await clock.advance(1)
        assert await asking


async def test_a_refresh_that_is_forced_waits_for_its_turn(clock, line):
    """However many are."""
    async with SessionFleet(line.client, max_rate=10, max_concurrency=2) as fleet:
        sessions = [fleet.session(f"user-{number}") for number in range(30)]
        await clock.advance(10)
        forced = [asyncio.create_task(session.refresh()) for session in sessions]
        await clock.advance(10)
        pairs = [await task for task in forced]
        assert [session.pair for session in sessions] == pairs
        assert all(session.generation == 2 for session in sessions)
        assert most_in_a_second(line.times) <= 10


async def test_a_refresh_that_is_forced_joins_the_one_under_way(clock, line):
    """And says so if that fails, or if the service is down."""
    async with SessionFleet(line.client) as fleet:
        session = fleet.session("alice")
        await session.token()
        line.takes = 5.0
        joined = [asyncio.create_task(session.refresh()) for _ in range(2)]
        await clock.advance(1)
        joined.append(asyncio.create_task(session.refresh()))
        await clock.advance(5)
        assert len({(await task).access_token for task in joined}) == 1
        assert len(line.sent) == 2
        line.status = None
        refused = asyncio.create_task(session.refresh())
        await clock.advance(5)
        assert isinstance(await failure(refused), TokenUnavailable)


async def test_a_refresh_that_is_forced_ends_with_its_session(clock, line):
    """It does not wait for a turn that never comes."""
    async with SessionFleet(line.client, max_rate=0.01) as fleet:
        session = fleet.session("alice")
        await session.token()
        forced = asyncio.create_task(session.refresh())
        await clock.advance(1)
        await fleet.close_session("alice")
        assert isinstance(await failure(forced), SessionClosed)


async def test_one_that_nobody_asks_for_lapses(clock, line):
    """It is not renewed, and gone when its token has ended; whoever asks then begins anew."""
    async with SessionFleet(line.client, idle_timeout=timedelta(minutes=30)) as fleet:
        session = fleet.session("alice")
        first = await session.token()
        await clock.advance(LIFE - 60)
        assert len(line.sent) == 1
        assert session.state is SessionState.DUE
        await clock.advance(61)
        assert session.state is SessionState.CLOSED
        assert sum(fleet.snapshot().sessions.values()) == 0
        with pytest.raises(SessionClosed):
            await session.token()
        assert await fleet.token("alice") != first


async def test_one_that_is_asked_for_now_and_then_does_not_lapse(clock, line):
    """Whether by the fleet or the session, and a token that is fresh costs no more for it."""
    async with SessionFleet(line.client, idle_timeout=timedelta(minutes=30)) as fleet:
        await fleet.token("alice")
        for minutes in range(0, 24 * 60, 29):
            await (fleet if minutes % 2 else fleet.session("alice")).token(*["alice"] * (minutes % 2))
            await clock.advance(29 * 60)
        session = fleet.session("alice")
        assert session.generation > 12
        assert len(line.sent) == session.generation
        await session.token()
        assert engine_of(session).cycle.fresh_until > clock.now()


async def test_one_that_is_asked_for_while_it_lapses_is_renewed(clock, line):
    """Its token is still live, and the next one comes."""
    async with SessionFleet(line.client, idle_timeout=timedelta(minutes=30)) as fleet:
        first = await fleet.token("alice")
        await clock.advance(LIFE - 60)
        assert await fleet.token("alice") == first
        await clock.advance(1)
        assert await fleet.token("alice") != first


async def test_one_that_is_taken_out_is_asked_for(clock, line):
    """Whoever gets the session itself cares for it."""
    async with SessionFleet(line.client, idle_timeout=timedelta(minutes=30)) as fleet:
        session = fleet.session("alice")
        for _ in range(100):
            await clock.advance(29 * 60)
            assert fleet.session("alice") is session


async def test_one_that_waits_for_its_first_token_does_not_lapse(clock, line):
    """However long it takes to warm a fleet up, and nobody asks."""
    async with SessionFleet(line.client, idle_timeout=timedelta(seconds=10), max_rate=1) as fleet:
        for number in range(60):
            fleet.session(f"user-{number}")
        await clock.advance(65)
        assert fleet.snapshot().sessions[SessionState.FRESH] == 60


@pytest.mark.parametrize("number", [8, 40])
@pytest.mark.parametrize("status", [401, 403, 500, None])
async def test_one_that_failed_to_get_a_first_token_closes_too(clock, line, status, number):
    """A reference that SignalWire refuses isn't asked for all day, if callers don't ask for it."""
    line.status = status
    async with SessionFleet(line.client, idle_timeout=timedelta(minutes=30)) as fleet:
        asking = [asyncio.create_task(fleet.token(f"user-{one}")) for one in range(number)]
        await clock.advance(3600)
        for task in asking:
            assert isinstance(await failure(task), SignalWireTokenError)
        sent = len(line.sent)
        await clock.advance(24 * 3600)
        assert len(line.sent) == sent
        assert sum(fleet.snapshot().sessions.values()) == 0


async def test_one_that_was_refused_before_its_first_token_is_kept_for_as_long_as_callers_ask(clock, line):
    """Without `idle_timeout`, it is closed five to ten minutes after the last call, as one that has expired is."""
    line.refused["alice"] = 403
    async with SessionFleet(line.client) as fleet:
        await fleet.token("bob")
        session = fleet.session("alice")
        for _ in range(60):
            await clock.advance(60)
            with pytest.raises(Forbidden):
                await fleet.token("alice")
        assert fleet.session("alice") is session
        await clock.advance(900)
        assert session.state is SessionState.CLOSED
        assert list(fleet._sessions) == ["bob"]
        del line.refused["alice"]
        assert await fleet.token("alice")


async def test_one_whose_subscriber_has_left_closes(clock, line):
    """A callback that unsubscribes itself leaves nothing that keeps the session open."""
    events = []

    def receive_one(event):
        events.append(event.kind)
        unsubscribe()

    async with SessionFleet(line.client, idle_timeout=timedelta(minutes=30)) as fleet:
        unsubscribe = fleet.session("alice").subscribe(receive_one)
        await clock.advance(2 * LIFE)
        assert events == ["started"]
        assert fleet._sessions == {}


@pytest.mark.parametrize("listen", ["subscribe", "rotations"])
async def test_who_begins_to_listen_is_told_before_the_token_ends(clock, line, listen):
    """Though the session was about to lapse."""
    async with SessionFleet(line.client, idle_timeout=timedelta(minutes=30)) as fleet:
        session, seen = fleet.session("alice"), []
        await clock.advance(0.9 * LIFE)
        if listen == "subscribe":
            session.subscribe(lambda event: seen.append(event.pair))
        else:
            following = session.rotations()
            seen.append(await anext(following))
        await clock.advance(1)
        assert session.generation == 2
        if listen == "rotations":
            await following.aclose()


@pytest.mark.parametrize("listen", ["subscribe", "rotations"])
async def test_one_that_somebody_listens_to_does_not_lapse(clock, line, listen):
    """Who is told of each new token asks for none."""
    async with SessionFleet(line.client, idle_timeout=timedelta(minutes=30)) as fleet:
        session, seen = fleet.session("alice"), []

        async def follow():
            seen.extend([pair async for pair in session.rotations()])

        if listen == "subscribe":
            session.subscribe(lambda event: seen.append(event.pair))
            await clock.advance(10 * LIFE)
        else:
            following = asyncio.create_task(follow())
            await clock.advance(10 * LIFE)
            await fleet.close_session("alice")
            await following
        assert len(seen) > 10


async def test_a_fleet_takes_up_what_its_store_has(clock, line):
    """After a restart the service is not asked, and the rate does not hold anybody up."""
    store = MemoryStore(clock=clock)
    async with SessionFleet(line.client, store=store, max_rate=math.inf) as fleet:
        first = await asyncio.gather(*(fleet.token(f"user-{number}") for number in range(200)))
    async with SessionFleet(line.client, store=store, max_rate=1) as fleet:
        asking = [asyncio.create_task(fleet.token(f"user-{number}")) for number in range(200)]
        await clock.advance(0)
        assert [await task for task in asking] == first
    assert len(line.sent) == 200


async def test_what_the_store_has_is_taken_up_while_the_service_is_down(clock, line):
    """It needs neither the service nor a turn."""
    store = MemoryStore(clock=clock)
    async with SessionFleet(line.client, store=store, max_rate=math.inf) as fleet:
        first = await asyncio.gather(*(fleet.token(f"user-{number}") for number in range(100)))
    line.status = None
    async with SessionFleet(line.client, store=store) as fleet:
        strangers = [asyncio.create_task(fleet.token(f"stranger-{number}")) for number in range(20)]
        await clock.advance(60)
        assert {type(await failure(task)) for task in strangers} == {TokenUnavailable}
        assert fleet.snapshot().breaker is BreakerState.OPEN
        asking = [asyncio.create_task(fleet.token(f"user-{number}")) for number in range(100)]
        await clock.advance(0)
        assert [await task for task in asking] == first


async def test_closing_while_the_store_is_looked_into_leaves_nothing(clock, line):
    """Those that look, and those that have yet to."""

    class Slow(MemoryStore):
        async def load(self, key):
            await clock.sleep(0.5)
            return await super().load(key)

    async with SessionFleet(line.client, store=Slow(clock=clock), max_concurrency=2) as fleet:
        sessions = [fleet.session(f"user-{number}") for number in range(5)]
        await clock.advance(0)
        assert sessions[0].next_refresh_at is not None
        asking = asyncio.create_task(fleet.token("user-1"))
        await clock.advance(0.1)
        await fleet.close_session("user-0")
        await fleet.close_session("user-4")
        await clock.advance(0.6)
    assert isinstance(await failure(asking), SessionClosed)
    assert not line.sent


async def test_a_session_whose_fleet_closes_has_no_next_refresh(clock, line):
    """It waits for its turn, which doesn't come any more."""
    async with SessionFleet(line.client, max_concurrency=1, max_rate=1) as fleet:
        sessions = [fleet.session(f"user-{number}") for number in range(3)]
        await clock.advance(0)
        assert sessions[-1].next_refresh_at is not None
        closing = asyncio.create_task(fleet.aclose())
        if sessions[0].state is not SessionState.CLOSED:  # an eager task has closed the first already
            await asyncio.sleep(0)
        assert sessions[-1].state is SessionState.UNAVAILABLE  # its own turn to be closed has yet to come
        assert sessions[-1].next_refresh_at is None
        await closing


async def test_sessions_that_are_discarded_while_they_look_keep_nobody_from_looking(clock, line):
    """Whenever that is."""
    async with SessionFleet(line.client, store=MemoryStore(clock=clock), max_concurrency=2, max_rate=math.inf) as fleet:
        for turns in range(12):
            fleet.session("alice")
            for _ in range(turns):
                await asyncio.sleep(0)
            await fleet.close_session("alice")
        asking = asyncio.create_task(fleet.token("bob"))
        await clock.advance(0)
        assert await asking


async def test_a_caller_finds_what_the_store_has_though_another_waited_in_vain(clock, line):
    """The first one asked while the token was still valid, and so nothing was looked for."""
    store = MemoryStore(clock=clock)
    store.watch = lambda *_: lambda: None
    other, _ = make_client(clock)
    async with SessionFleet(line.client, store=store) as fleet, SessionFleet(other, store=store) as another:
        await fleet.token("alice")
        await another.token("bob")  # whose number no token of alice's has
        limited = RateLimited("slow down", retry_after=LIFE)
        while clock.now() < LIFE - 20:
            line.client.throttle.note(limited, sent=clock.now(), now=clock.now())
            await clock.advance(10)
        asking = asyncio.create_task(fleet.token("alice", 60))
        await clock.advance(10)
        assert asking.done()
        another.session("alice")
        await clock.advance(10)
        assert await fleet.token("alice") == await another.token("alice")
        assert len(line.sent) == 1


async def test_an_idle_session_takes_no_pair_that_another_process_has_saved(clock, line):
    """It closes when its token expires, even if another process renews."""
    store = MemoryStore(clock=clock)
    other, _ = make_client(clock)
    idle = timedelta(seconds=60)
    async with (
        SessionFleet(line.client, store=store, idle_timeout=idle) as fleet,
        SessionFleet(other, store=store) as another,
    ):
        await fleet.token("alice")
        alice = fleet.session("alice")
        await another.token("bob")  # whose number no token of alice's has
        await asyncio.gather(another.token("alice"), clock.advance(100))
        renewal = asyncio.create_task(another.session("alice").refresh())
        await clock.advance(1)
        await renewal
        await clock.advance(1)
        assert alice.generation == 1


async def test_who_waits_for_a_turn_takes_a_pair_that_another_process_has_saved(clock, line):
    """Without its turn."""
    store = MemoryStore(clock=clock)
    other, _ = make_client(clock)
    async with (
        SessionFleet(line.client, store=store, max_concurrency=1) as fleet,
        SessionFleet(other, store=store) as another,
    ):
        line.takes = 100.0
        fleet.session("bob")
        await clock.advance(0.5)
        alice = fleet.session("alice")
        await clock.advance(0.1)
        await another.token("alice")
        await clock.advance(1)
        assert alice.generation == 1


async def test_news_at_every_read_keep_no_session_from_its_turn(clock, line):
    """Whose turn has come renews, and reads the store then."""

    class Noisy(MemoryStore):
        key = None

        async def load(self, key):
            reading = await super().load(key)
            if key == self.key:
                self.watchers.call(key)
            return reading

    store = Noisy(clock=clock)
    async with SessionFleet(line.client, store=store, max_concurrency=1, max_rate=math.inf) as fleet:
        line.takes = 1.0
        fleet.session("bob")
        await clock.advance(0.1)
        store.key = SubscriberSession(line.client, "alice", store=store).store_key
        for name in ("alice", *(f"user-{number}" for number in range(50))):
            fleet.session(name)
        await clock.advance(0)
        asking = asyncio.create_task(fleet.token("alice"))
        await clock.advance(5)
        await asking


async def test_a_leap_of_the_wall_clock_is_noticed_by_those_whose_look_is_put_off(clock, line):
    """The store may be slow just then."""
    store = MemoryStore(clock=clock)
    async with SessionFleet(line.client, store=store, max_concurrency=1) as fleet:
        sessions = [fleet.session(name) for name in ("alice", "bob")]
        for session in sessions:
            await session.token()
        await clock.advance(60)
        load, answered = store.load, asyncio.Event()

        async def load_slowly(key):
            await answered.wait()
            return await load(key)

        store.load = load_slowly
        for session in sessions:
            store.watchers.call(session.store_key)
            await settle()
        clock.set_wall(clock.wall() + LIFE - 200)
        await clock.advance(0.5)
        answered.set()
        await clock.advance(120)
        assert [session.generation for session in sessions] == [2, 2]


async def test_who_asks_for_a_renewal_takes_what_the_store_has(clock, line):
    """A session that has just been opened has not looked into the store yet."""
    store = MemoryStore(clock=clock)
    other, asked = make_client(clock)
    async with SessionFleet(line.client, store=store) as fleet, SessionFleet(other, store=store) as another:
        token = await fleet.token("alice")
        assert (await another.session("alice").refresh()).access_token.value == token
        assert asked.sent == []


async def test_with_a_store_too_it_is_noticed_when_the_service_is_back(clock, line):
    """After an outage in which all tokens have ended."""
    async with SessionFleet(line.client, store=MemoryStore(clock=clock), max_rate=math.inf) as fleet:
        for number in range(40):
            fleet.session(f"user-{number}")
        await clock.advance(0.6 * LIFE)
        line.status = None
        await clock.advance(0.45 * LIFE)
        before = len(line.sent)
        await clock.advance(120)
        assert 120 / 5 <= len(line.sent) - before <= 120 / 2.5 + 4
        line.status = 201
        await clock.advance(30)
        assert fleet.snapshot().sessions[SessionState.FRESH] == 40


@pytest.mark.parametrize("store", [False, True])
async def test_who_cannot_be_helped_is_told_at_once(clock, line, store):
    """With a store or without: the service asks for quiet, and the store has nothing."""
    line.status, line.headers = 429, {"Retry-After": "3600"}
    async with SessionFleet(line.client, store=MemoryStore(clock=clock) if store else None) as fleet:
        for name in ("alice", "bob"):
            asking = asyncio.create_task(fleet.token(name))
            await clock.advance(0.2)
            assert isinstance(await failure(asking), TokenUnavailable)
            assert asking.exception().retry_after > 30
        refreshing = asyncio.create_task(fleet.session("alice").refresh())
        await clock.advance(0.2)
        assert isinstance(await failure(refreshing), TokenUnavailable)


async def test_live_tokens_are_taken_up_while_the_service_asks_for_quiet(clock, line):
    """The store is not the service."""
    store = MemoryStore(clock=clock)
    async with SessionFleet(line.client, store=store) as fleet:
        first = await fleet.token("alice")
    line.status, line.headers = 429, {"Retry-After": "3600"}
    async with SessionFleet(line.client, store=store) as fleet:
        assert isinstance(await failure(asyncio.create_task(fleet.token("bob"))), TokenUnavailable)
        asking = asyncio.create_task(fleet.token("alice"))
        await clock.advance(0)
        assert await asking == first


async def test_a_refresh_that_is_forced_ends_when_another_fleet_has_renewed(clock, line):
    """What came by way of the store is as new."""
    store = MemoryStore(clock=clock)
    async with (
        SessionFleet(line.client, store=store, max_rate=math.inf) as one,
        SessionFleet(line.client, store=store, max_rate=0.01) as other,
    ):
        await one.token("alice")
        session = other.session("alice")
        await session.token()
        await asyncio.gather(*(clock.advance(0), other.token("bob")))
        forced = asyncio.create_task(session.refresh())
        await clock.advance(1)
        assert not forced.done()
        pair = await one.session("alice").refresh()
        await clock.advance(1)
        assert (await forced).access_token.value == pair.access_token.value


async def test_two_fleets_share_a_store(clock, line):
    """One renews, and the other takes that up."""
    store = MemoryStore(clock=clock)
    async with SessionFleet(line.client, store=store) as one, SessionFleet(line.client, store=store) as other:
        assert await one.token("alice") == await other.token("alice")
        await clock.advance(LIFE)
        assert await one.token("alice") == await other.token("alice")
        assert len(line.sent) == 2


async def test_closing_waits_for_what_is_under_way(clock, line):
    """A pair that is on its way is not lost, and nobody is left waiting."""
    line.takes = 5.0
    async with SessionFleet(line.client, store=MemoryStore(clock=clock), max_rate=math.inf, max_concurrency=4) as fleet:
        asking = [asyncio.create_task(fleet.token(f"user-{number}")) for number in range(50)]
        await clock.advance(0)
        closing = [asyncio.create_task(fleet.aclose()) for _ in range(2)]
        await settle()
        assert not closing[0].done()
        assert {type(await failure(task)) for task in asking} == {SessionClosed}
        await clock.advance(5)
        await asyncio.wait(closing)
        assert len(line.sent) == 4
        with pytest.raises(SessionClosed, match="is closed: "):
            await fleet.token("user-0")
        with pytest.raises(SessionClosed, match="is closed: "):
            fleet.session("user-0")
    await fleet.aclose()


async def test_whoever_closes_waits_for_what_is_under_way(clock, line):
    """Beside another, after one that was cancelled, and after a session was discarded: its pair is not lost."""
    line.takes = 5.0
    store = MemoryStore(clock=clock)
    fleet = await SessionFleet(line.client, store=store, max_rate=math.inf).start()
    sessions = [fleet.session(name) for name in ("alice", "bob")]
    await clock.advance(0)
    closing = [asyncio.create_task(fleet.close_session("alice")) for _ in range(2)]
    await settle()
    closing.append(asyncio.create_task(fleet.aclose()))
    await settle()
    closing[2].cancel()
    closing.append(asyncio.create_task(fleet.aclose()))
    await settle()
    assert [task.done() for task in closing] == [False, False, True, False]
    await clock.advance(5)
    await asyncio.wait(closing)
    for session in sessions:
        assert (await store.load(session.store_key)).record is not None


async def test_a_fleet_that_closes_begins_nothing_and_tells_all_who_wait(clock, line):
    """At once, while what is under way takes its time."""
    line.takes = 5.0
    fleet = await SessionFleet(line.client, max_rate=math.inf, max_concurrency=2).start()
    asking = [asyncio.create_task(fleet.token(f"user-{number}")) for number in range(20)]
    fleet.session("user-0").subscribe(lambda _: None)
    await clock.advance(0)
    closing = asyncio.create_task(fleet.aclose())
    await settle()
    assert all(task.done() for task in asking)
    await clock.advance(5)
    await closing
    assert {type(await failure(task)) for task in asking} == {SessionClosed}
    assert len(line.sent) == 2


async def test_a_subscriber_may_close_the_fleet(clock, line):
    """It goes on when that is done, and what is under way has ended."""
    done = []
    fleet = await SessionFleet(line.client, max_rate=math.inf).start()

    async def close(event):
        if event.kind == "started":
            await fleet.aclose()
            done.append(len(line.sent))

    fleet.session("alice").subscribe(close)
    line.takes = 0.0
    await clock.advance(0)
    await settle()
    assert done == [1]


async def test_subscribers_that_hang_are_ended_with_the_fleet(clock, line):
    """However many there are, when its time is up."""
    started = []

    async def hang(event):
        started.append(event)
        await asyncio.Event().wait()

    fleet = await SessionFleet(
        line.client, max_rate=math.inf, max_concurrency=1, policy=RefreshPolicy(close_timeout=0.3)
    ).start()
    for number in range(5):
        fleet.session(f"user-{number}").subscribe(hang)
    await clock.advance(0)
    await settle()
    await fleet.aclose()
    await settle()
    assert len(started) >= 5
    assert len(asyncio.all_tasks()) == 1


async def test_closing_takes_no_longer_than_its_bound(clock, line, caplog):
    """A renewal that does not end is left behind."""
    line.takes = 1000.0
    fleet = await SessionFleet(line.client, policy=RefreshPolicy(close_timeout=0.2)).start()
    session = fleet.session("alice")
    await clock.advance(0)
    await fleet.aclose()
    assert session.state is SessionState.CLOSED
    assert "closing took longer than 0.2 s; the sessions that are left are closed without waiting" in caplog.text
    await clock.advance(1000)


async def test_closing_that_is_cancelled_leaves_nothing_open(clock, line):
    """Whatever was still to be waited for, all sessions are closed, and nobody warns."""
    line.takes = 5.0
    fleet = await SessionFleet(line.client, max_concurrency=4, max_rate=math.inf).start()
    sessions = [fleet.session(f"user-{number}") for number in range(50)]
    await clock.advance(0)
    closing = asyncio.create_task(fleet.aclose())
    await settle()
    closing.cancel()
    assert isinstance(await failure_or_cancelled(closing), asyncio.CancelledError)
    assert {session.state for session in sessions} == {SessionState.CLOSED}
    await clock.advance(5)
    del fleet, sessions
    gc.collect()


@pytest.mark.parametrize("cancellations", [1, 2])
async def test_closing_that_is_cancelled_lets_other_work_run(clock, line, cancellations):
    """It closes a few sessions in each turn of the event loop, unless it is cancelled once more."""
    fleet = await SessionFleet(line.client, max_concurrency=4, max_rate=math.inf).start()
    sessions = [fleet.session(f"user-{number}") for number in range(1000)]
    await clock.advance(60)
    closing, closed = asyncio.create_task(fleet.aclose()), [0]
    await asyncio.sleep(0)
    for _ in range(cancellations):
        closing.cancel()
        await asyncio.sleep(0)
        closed.append(1000 - len(fleet._sessions))
    while not closing.done():
        await asyncio.sleep(0)
        closed.append(1000 - len(fleet._sessions))
    most = max(later - earlier for earlier, later in itertools.pairwise(closed))
    assert most <= CLOSES_PER_TURN + 4 if cancellations == 1 else most >= 800
    assert {session.state for session in sessions} == {SessionState.CLOSED}
    assert isinstance(await failure_or_cancelled(closing), asyncio.CancelledError)


async def test_a_closing_fleet_lets_other_work_run(clock, line):
    """However many sessions may renew at a time."""
    fleet = await SessionFleet(line.client, max_concurrency=1000, max_rate=math.inf).start()
    for number in range(1000):
        fleet.session(f"user-{number}")
    await clock.advance(60)
    closing, closed = asyncio.create_task(fleet.aclose()), [0]
    while not closing.done():
        await asyncio.sleep(0)
        closed.append(1000 - len(fleet._sessions))
    assert max(later - earlier for earlier, later in itertools.pairwise(closed)) <= CLOSES_PER_TURN


async def test_the_error_of_a_cancelled_close_keeps_no_session(clock, line):
    """They would all be freed in the turn in which the error is."""
    fleet = await SessionFleet(line.client, max_concurrency=4, max_rate=math.inf).start()
    sessions = [weakref.ref(fleet.session(f"user-{number}")) for number in range(100)]
    await clock.advance(60)
    closing = asyncio.create_task(fleet.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    error = await failure_or_cancelled(closing)
    assert isinstance(error, asyncio.CancelledError)
    gc.collect()
    assert len([session for session in sessions if session() is not None]) <= 1  # the one that is shut at that moment


async def test_a_close_that_is_destroyed_closes_all_sessions(clock, line):
    """It can't wait any more."""
    fleet = await SessionFleet(line.client, max_concurrency=4, max_rate=math.inf).start()
    sessions = [fleet.session(f"user-{number}") for number in range(200)]
    await clock.advance(60)
    closing = fleet.aclose()
    closing.send(None)
    closing.close()
    assert {session.state for session in sessions} == {SessionState.CLOSED}


async def test_a_session_that_is_closed_while_a_cancelled_close_goes_on_closes_once(clock, line):
    """Its subscribers get one event."""
    fleet = await SessionFleet(line.client, max_concurrency=4, max_rate=math.inf).start()
    sessions = [fleet.session(f"user-{number}") for number in range(500)]
    await clock.advance(60)
    events = []
    sessions[-1].subscribe(lambda event: events.append(event.kind))
    closing = asyncio.create_task(fleet.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.sleep(0)
    await sessions[-1].aclose()
    assert isinstance(await failure_or_cancelled(closing), asyncio.CancelledError)
    assert events == ["closed"]


async def failure_or_cancelled(task):
    try:
        await task
    except asyncio.CancelledError as error:
        return error


def drop(things):
    things.clear()
    gc.collect()


async def test_a_snapshot_leaves_the_queue_alone(clock, line, monkeypatch):
    """Another thread may take it, while the service is down and many wait."""
    async with SessionFleet(line.client) as fleet:
        line.status = None
        for number in range(100):
            fleet.session(f"user-{number}")
        await clock.advance(30)
        monkeypatch.delattr(Queue, "first")
        assert fleet.snapshot().waiting > 0
        monkeypatch.undo()


async def test_a_fleet_that_is_dropped_warns_once(line):
    """For all of its sessions. (P19)"""
    fleet = await SessionFleet(line.client, store=MemoryStore()).start()
    for number in range(3):
        await fleet.token(f"user-{number}")
    gone = [fleet]
    del fleet
    with pytest.warns(ResourceWarning, match="unclosed <SessionFleet") as warned:
        drop(gone)
    assert len(warned) == 1


async def test_a_fleet_is_used_while_it_is_open(line):
    """Before and after, it says what to do."""
    fleet = SessionFleet(line.client)
    for use in (lambda: fleet.session("alice"), fleet.snapshot):
        with pytest.raises(SessionClosed, match="isn't open yet"):
            use()
    for call in (fleet.token("alice"), fleet.close_session("alice")):
        with pytest.raises(SessionClosed, match="isn't open yet"):
            await call
    async with fleet:
        with pytest.raises(SessionError, match="open already"):
            await fleet.start()
        assert re.fullmatch(r"<SessionFleet https://fleet\.example 0 sessions>", repr(fleet))
    with pytest.raises(SessionClosed, match="is closed: open another one"):
        await fleet.start()
    with pytest.raises(SessionClosed, match="is closed: open another one"):
        await fleet.token("alice")
    assert "not open" in repr(fleet)
    await SessionFleet(line.client).aclose()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"max_concurrency": 1.5}, "max_concurrency"),
        ({"max_concurrency": True}, "max_concurrency"),
        ({"max_rate": 0}, "max_rate"),
        ({"max_rate": math.nan}, "max_rate"),
        ({"max_rate": "150"}, "max_rate"),
        ({"max_rate": True}, "max_rate"),
        ({"idle_timeout": "60"}, "idle_timeout"),
        ({"idle_timeout": timedelta(0)}, "idle_timeout"),
        ({"policy": RefreshPolicy(min_lifetime=9000)}, "too short for a session"),
        ({"policy": RefreshPolicy}, "policy"),
        ({"store": "redis://localhost"}, "store"),
    ],
)
async def test_settings_that_make_no_fleet_are_refused(line, settings, says):
    """When it is made, and not when the first token is asked for."""
    with pytest.raises(ConfigurationError, match=says):
        SessionFleet(line.client, **settings)
    with pytest.raises(ConfigurationError, match="TokenClient"):
        SessionFleet("https://acme.signalwire.com")


async def test_a_fleet_belongs_to_its_event_loop(line):
    """Elsewhere it says so, and nothing has changed."""
    async with SessionFleet(line.client) as fleet:
        session = fleet.session("alice")
        await session.token()
        for elsewhere in (fleet.token("bob"), fleet.close_session("alice"), fleet.aclose(), session.aclose()):
            with pytest.raises(SessionError, match="event loop"):
                await asyncio.to_thread(asyncio.run, elsewhere)
        assert fleet.session("alice") is session
    assert session.state is SessionState.CLOSED


async def test_a_snapshot_says_how_the_fleet_stands(clock, line):
    """Counts by state, what is next, what is under way, and what went wrong."""
    async with SessionFleet(line.client, max_rate=math.inf, max_concurrency=2) as fleet:
        assert fleet.snapshot().next_due is None
        await fleet.token("alice")
        line.takes = 5.0
        for number in range(5):
            fleet.session(f"user-{number}")
        await clock.advance(0)
        snapshot = fleet.snapshot()
        assert snapshot.sessions[SessionState.FRESH] == 1
        assert snapshot.sessions[SessionState.UNAVAILABLE] == 5
        assert (snapshot.waiting, snapshot.in_flight, snapshot.breaker) == (3, 2, BreakerState.CLOSED)
        assert snapshot.next_due.timestamp() == clock.wall()
        await clock.advance(20)
        snapshot = fleet.snapshot()
        assert snapshot.sessions[SessionState.FRESH] == 6
        assert 0.6 * LIFE - 20 <= snapshot.next_due.timestamp() - clock.wall() <= 0.8 * LIFE
        line.refused["ghost"] = 422
        with pytest.raises(ValidationFailed):
            await asyncio.gather(fleet.token("ghost"), clock.advance(10))
        assert fleet.snapshot().next_due >= snapshot.next_due


async def test_an_outage_is_one_line_in_the_log(clock, line, caplog):
    """And so is its end, for the whole fleet."""
    line.status = None
    async with SessionFleet(line.client) as fleet:
        with caplog.at_level(logging.INFO, logger="signalwire_tokens.fleet"):
            for number in range(100):
                fleet.session(f"user-{number}")
            await clock.advance(60)
            line.status = 201
            await clock.advance(60)
        said = [record.message for record in caplog.records if record.name == "signalwire_tokens.fleet"]
    assert [text.partition(";")[0].partition(": create")[0] for text in said] == [
        "fleet: SignalWire is down or wants a pause",
        "fleet: SignalWire answers again",
    ]


async def test_a_fleet_rides_out_an_outage_on_the_emulator(clock, emulator, client):
    """Twenty minutes of failures, and nobody is ever without a live token."""
    async with SessionFleet(client, max_rate=50) as fleet:
        references = [f"user-{number}" for number in range(10)]
        await clock.advance(0)
        for reference in references:
            fleet.session(reference)
        await clock.advance(0.6 * LIFE + 300)
        emulator.fail(Status(503), times=None)
        for _ in range(20):
            await clock.advance(60)
            assert all([emulator.accepts(await fleet.token(reference)) for reference in references])
        emulator.clear_faults()
        await clock.advance(60)
        snapshot = fleet.snapshot()
        assert snapshot.sessions[SessionState.FRESH] + snapshot.sessions[SessionState.DUE] == 10
        assert snapshot.breaker is BreakerState.CLOSED


@pytest.mark.parametrize("status", [403, 404, 400])
async def test_references_that_are_refused_turn_no_newcomer_away(clock, line, status):
    """Twenty of them, and a newcomer each minute: each error reaches its own callers alone. (P5, P25)"""
    bad = [f"refused-{number}" for number in range(20)]
    line.refused.update(dict.fromkeys(bad, status))
    async with SessionFleet(line.client, max_rate=math.inf) as fleet:
        for name in bad:
            with pytest.raises(ApiError) as caught:
                await fleet.token(name)
            assert caught.value.status == status
        for number in range(60):
            assert await fleet.token(f"newcomer-{number}") == f"access-newcomer-{number}-{next(line.numbers) - 1}"
            for name in bad:
                with pytest.raises(ApiError):
                    await fleet.token(name)
            await clock.advance(60)
        snapshot = fleet.snapshot()
    assert (snapshot.last_error, snapshot.breaker) == (None, BreakerState.CLOSED)
    asked = sum(who in bad for _, who in line.sent)
    assert asked <= 13 * len(bad)  # every five to ten minutes


async def test_a_refused_reference_is_asked_for_every_few_minutes_once_its_token_has_expired(clock, line):
    """With pauses that double. (P25)"""
    async with SessionFleet(line.client, max_rate=math.inf) as fleet:
        await fleet.token("alice")
        line.refused["alice"] = 404
        await clock.advance(2 * LIFE)
    times = [at for at, _ in line.sent if at > LIFE]
    assert 8 < len(times) < 30
    assert all(after - before > 300 - 1e-9 for before, after in itertools.pairwise(times[-6:]))


async def test_a_refused_reference_does_not_hold_the_breaker_open(clock, line):
    """SignalWire has answered: it is up. (P5)"""
    async with SessionFleet(line.client, max_rate=math.inf) as fleet:
        line.status = None
        early = [asyncio.ensure_future(fleet.token(f"early-{number}")) for number in range(12)]
        await clock.advance(20)
        assert all(isinstance(task.exception(), TokenUnavailable) for task in early)
        assert fleet.snapshot().breaker is BreakerState.OPEN
        line.status = 404
        await clock.advance(60)
        assert fleet.snapshot().breaker is BreakerState.CLOSED


async def test_a_refresh_that_waits_for_a_look_ends_with_its_session(clock, line):
    """The look may not have had its turn yet."""
    store = Hanging(clock=clock)
    async with SessionFleet(line.client, store=store, max_concurrency=1) as fleet:
        fleet.session("alice")
        await settle()
        bob = fleet.session("bob")  # whose look waits for alice's
        refresh = asyncio.create_task(bob.refresh())
        await settle()
        await fleet.close_session("bob")
        await settle()
        assert refresh.done()
        assert isinstance(refresh.exception(), SessionClosed)


async def test_what_a_fleet_s_sessions_share_shows_no_reference(line):
    """Frames of a traceback may hold it."""
    async with SessionFleet(line.client) as fleet:
        owner = engine_of(fleet.session("alice-smith")).owner
        assert "alice-smith" not in repr(owner)


class Hanging(MemoryStore):
    """A store that takes long to answer."""

    async def load(self, key):
        await asyncio.Event().wait()
