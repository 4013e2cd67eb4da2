"""Realtime connections, on the emulator's gateway."""

import asyncio
import gc
import logging
import ssl
import weakref
from collections import Counter
from contextlib import asynccontextmanager
from datetime import timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import aiohttp
import aiohttp.test_utils
import aiohttp.web
import pytest

from signalwire_tokens import (
    BackendSession,
    CallInterrupted,
    CallRefused,
    ConfigurationError,
    InvalidRequest,
    Lifetimes,
    RealtimeError,
    SessionError,
    SessionExpired,
    SessionFleet,
    SubscriberSession,
)
from signalwire_tokens.device import DeviceKey, DeviceSession
from signalwire_tokens.emulator import Delay, Emulator, Reset, RpcFailure, Stall, Status
from signalwire_tokens.gateway import Answered, Lost, Send
from signalwire_tokens.integrations.aiohttp_server import TokenBackend
from signalwire_tokens.keeper import SessionEvent, engine_of
from signalwire_tokens.realtime import RealtimeConnection, RealtimeState
from signalwire_tokens.realtime.link import PendingCall
from signalwire_tokens.realtime.sockets import Route
from signalwire_tokens.secret import Secret
from support.faulty_redis import Proxy
from support.loop_time import LoopClock
from support.streams import serving
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("loop_time")

LIFE = 120.0
CONNECT, REAUTHENTICATE, PING = "signalwire.connect", "signalwire.reauthenticate", "signalwire.ping"
WINDOW = 3.0  # seconds in which a lost connection is made again, if nothing else goes wrong
SLACK = 2.0  # seconds for handshakes


@pytest.fixture
def clock():
    return LoopClock()


@pytest.fixture
async def emulator(clock):
    async with Emulator(clock=clock, lifetimes=Lifetimes.of(timedelta(seconds=LIFE))) as emulator:
        yield emulator


@pytest.fixture
async def client(emulator, clock):
    async with emulator.client(clock=clock, retries=0) as client:
        yield client


@pytest.fixture
async def session(client):
    async with SubscriberSession(client, "bot") as session:
        yield session


@pytest.fixture
async def connection(emulator, session):
    async with RealtimeConnection(session, host=emulator.gateway) as connection:
        yield connection


@pytest.fixture
def changes(connection):
    """The changes of the connection's state, as its subscriber gets them."""
    seen = []
    connection.subscribe(seen.append)
    return seen


async def settled(connection):
    """Wait until the gateway has handled what was sent, and the connection what it answered."""
    for _ in range(3):
        await connection.call("subscriber.online")


async def rotate(session, emulator):
    """Renew the session's token, and wait until the gateway has the new one."""
    (before,) = emulator.connections
    await session.refresh()
    await eventually(lambda: emulator.connections[0].reauthenticated == before.reauthenticated + 1)


def methods(emulator):
    return [(entry.operation, entry.status) for entry in emulator.requests if entry.auth == "JWT"]


# The usual course.


async def test_a_connection_calls_and_receives(emulator, connection):
    """It goes online, and gets an event. (R3) (R8)"""
    assert connection.state is RealtimeState.CONNECTED
    assert connection.connected_since is not None
    assert connection.last_error is None
    assert await connection.call("subscriber.online") == {}
    assert emulator.connections[0].is_online
    emulator.send_event("call.state", {"x": 1})
    async for event in connection.events():
        assert (event.type, event.params, event.missed) == ("call.state", {"x": 1}, 0)
        break
    assert "x" not in repr(event)
    await eventually(lambda: emulator.connections[0].acknowledged == 2)  # with the authorization's state


async def test_fifty_rotations_lose_no_event(emulator, session, connection):
    """An event comes every 100 ms meanwhile. There is one connect. (R1) (R3)"""
    received, sent, rotations = [], 0, asyncio.Event()

    async def read():
        received.extend([event.params["number"] async for event in connection.events()])

    async def rotate_again_and_again():
        for _ in range(50):
            await rotate(session, emulator)
            await asyncio.sleep(0.25)
        rotations.set()

    tasks = [asyncio.create_task(read()), asyncio.create_task(rotate_again_and_again())]
    while not rotations.is_set():
        emulator.send_event("tick", {"number": sent})
        sent += 1
        await asyncio.sleep(0.1)
    await eventually(lambda: emulator.connections[0].acknowledged == sent + 51)  # one state for each token
    assert connection.reauthenticated == 50
    await connection.aclose()
    await asyncio.gather(*tasks)
    assert received == list(range(sent))
    assert sent >= 100
    assert methods(emulator) == [(CONNECT, 200), *[(REAUTHENTICATE, 200)] * 50]
    print(f"{sent} events through 50 rotations: none lost, none twice, 1 connect")  # noqa: T201 - `pytest -s` shows it


async def test_a_connection_outlives_its_first_token(emulator, session, connection, clock):
    """The session renews the token in the background. (R1)"""
    await clock.sleep(5 * LIFE)
    assert connection.state is RealtimeState.CONNECTED
    assert len(connection.losses) == 0
    assert connection.reauthenticated == session.generation - 1 >= 5
    assert methods(emulator)[0] == (CONNECT, 200)
    assert methods(emulator).count((CONNECT, 200)) == 1


async def test_renewal_trouble_does_not_end_a_connection(emulator, session, connection, clock):
    """As long as the token is valid, the gateway keeps it, and a later renewal reaches it. (R2)"""
    emulator.fail(Status(503), operation="refresh_subscriber_token", times=None)
    emulator.fail(Status(503), operation="create_subscriber_token", times=None)
    await clock.sleep(0.95 * LIFE)
    assert connection.state is RealtimeState.CONNECTED
    emulator.clear_faults()
    await eventually(lambda: connection.reauthenticated == 1)
    assert len(connection.losses) == 0


async def test_the_reason_for_a_close_is_reported(emulator, session, connection, changes):
    """The gateway names it right before."""
    emulator.expire(session.pair.access_token)
    await eventually(lambda: changes)
    assert "the gateway closed the connection (code 1008): 'the token has expired' (-32002)" in str(changes[0].error)


async def test_a_refused_reauthentication_reaches_the_next_connection(emulator, session, connection):
    """The gateway ends the connection, and it is made again with the new token."""
    emulator.fail(RpcFailure(-32002, closes=True), operation=REAUTHENTICATE)
    await session.refresh()
    await eventually(lambda: connection.losses)
    await connection.wait_connected()
    await settled(connection)
    assert session.generation == 2
    (line,) = emulator.connections
    assert line.expires_at == session.pair.access_token.expires_at.replace(microsecond=line.expires_at.microsecond)


async def test_only_the_newest_of_several_tokens_is_presented(emulator, session, connection):
    """A reauthentication is under way while two more tokens come. (R1)"""
    emulator.fail(Delay(5), operation=REAUTHENTICATE)
    for _ in range(3):
        await session.refresh()
    await eventually(lambda: emulator.connections[0].reauthenticated == 2)
    await settled(connection)
    assert connection.reauthenticated == 2


# Losses.


async def break_off(emulator, _):
    emulator._gateway.cut()


async def disconnect(emulator, _):
    emulator.disconnect()


async def disconnect_to_restart(emulator, _):
    emulator.disconnect(restart=True)


async def refuse_resume(emulator, _):
    emulator.fail(RpcFailure(-32003, closes=True), operation=CONNECT)
    emulator._gateway.cut()


async def fail_connect(emulator, _):
    emulator.fail(RpcFailure(-32603), operation=CONNECT)
    emulator._gateway.cut()


async def drop_after_accepting(emulator, _):
    emulator.fail(Reset(applied=True), operation=CONNECT)
    emulator._gateway.cut()


async def no_answer_to_connect(emulator, _):
    emulator.fail(Stall(), operation=CONNECT)
    emulator._gateway.cut()


async def hold_a_pong(emulator, _):
    emulator.fail(Stall(), operation=PING)


async def expire_the_token(emulator, session):
    emulator.expire(session.pair.access_token)


async def revoke_the_token(emulator, session):
    emulator.revoke(session.pair.access_token)
    emulator.disconnect(restart=True)


async def reset(_, proxy):
    proxy.mode = "reset"


async def lose(_, proxy):
    proxy.mode = "lose"


async def stall(_, proxy):
    proxy.mode = "stall"


async def half_close(_, proxy):
    proxy.mode = "half-close"


async def read_nothing(_, proxy):
    proxy.mode = "deaf"


MATRIX = {  # the fault, why connections are lost, and within how many seconds there is another one
    "the connection breaks": (break_off, ["closed"], WINDOW),
    "disconnect": (disconnect, ["disconnect"], WINDOW),
    "disconnect with restart": (disconnect_to_restart, ["disconnect"], WINDOW),
    "the resume is refused": (refuse_resume, ["closed", "resume_refused"], WINDOW),
    "connecting fails with -32603": (fail_connect, ["closed", "refused"], 3 * WINDOW),
    "dropped after accepting": (drop_after_accepting, ["closed", "closed"], 3 * WINDOW),
    "no answer to connecting": (no_answer_to_connect, ["closed", "closed"], 10 + 3 * WINDOW),
    "a pong is held": (hold_a_pong, ["no_answer"], 30 + WINDOW),
    "the token expires": (expire_the_token, ["closed", "resume_refused", "token_refused"], 3 * WINDOW),
    "the token is revoked": (revoke_the_token, ["disconnect", "token_refused"], 3 * WINDOW),
    "network: reset": (reset, ["closed"], WINDOW),
    "network: reset before an answer": (lose, ["closed"], WINDOW),
    "network: stall": (stall, ["no_answer"], 34 + WINDOW),
    "network: half-close": (half_close, ["closed"], 30 + WINDOW),
    "network: the other side reads nothing": (read_nothing, ["closed"], 34 + WINDOW),
}


@pytest.mark.parametrize("name", MATRIX)
async def test_each_fault_is_overcome(name, emulator, session, clock, monkeypatch):
    """The connection is made again, in a bounded time, and a call that was under way is reported.

    (R5) (R7) (R8) (R10) (R11)
    """
    happen, causes, within = MATRIX[name]
    monkeypatch.setattr("signalwire_tokens.realtime.link.random.random", lambda: 0.5)  # so that `heal` comes in time
    async with Proxy(emulator.port) as proxy, RealtimeConnection(session, host=f"127.0.0.1:{proxy.port}") as connection:
        await settled(connection)
        done = []
        emulator.on_call("app.work", lambda params: done.append(params) or {})
        is_network = name.startswith("network")
        began = clock.now()
        await happen(emulator, proxy if is_network else session)
        call = asyncio.create_task(connection.call("app.work", {"text": 50_000 * "x"} if is_network else None))
        (outcome,) = await asyncio.gather(call, return_exceptions=True)
        await eventually(lambda: connection.losses)
        proxy.heal()
        await eventually(lambda: Counter(connection.losses) == Counter(causes))
        await connection.wait_connected()
        took = clock.now() - began
        await settled(connection)
        assert took <= within + SLACK
        assert session.generation == 1 + (name in ("the token expires", "the token is revoked"))
        if isinstance(outcome, CallInterrupted):
            assert len(done) <= outcome.sent
            shown = f"sent={outcome.sent}"
        else:
            assert (outcome, len(done)) == ({}, 1)
            shown = "answered"
        print(f"| {name} | {', '.join(causes)} | {shown} | {took:.1f} s |")  # noqa: T201 - `pytest -s` shows it


async def test_a_slow_reader_delays_only_its_own_events(emulator, session):
    """The buffer drops the oldest events, and the next one says how many. (R3)"""
    async with RealtimeConnection(session, host=emulator.gateway, buffer_size=5) as connection:
        for number in range(12):
            emulator.send_event("tick", {"number": number})
        await eventually(lambda: emulator.connections[0].acknowledged == 13)
        seen = [await anext(connection.events()) for _ in range(5)]
        assert [event.params["number"] for event in seen] == [7, 8, 9, 10, 11]
        assert [event.missed for event in seen] == [7, 0, 0, 0, 0]


async def test_events_that_were_not_acknowledged_come_once(emulator, connection):
    """The gateway sends them again after a resume. (R3)"""
    await settled(connection)
    emulator.fail(Stall(), operation="signalwire.event", times=3)
    for number in range(3):
        emulator.send_event("tick", {"number": number})
    seen = [await anext(connection.events()) for _ in range(3)]
    await eventually(lambda: not emulator.faults)
    emulator._gateway.cut()
    await eventually(lambda: connection.losses)
    await connection.wait_connected()
    await eventually(lambda: emulator.connections and emulator.connections[0].acknowledged >= 3)
    emulator.send_event("tick", {"number": 3})
    seen.append(await anext(connection.events()))
    assert [event.params["number"] for event in seen] == [0, 1, 2, 3]
    assert emulator.connections[0].resumed == 1


async def test_events_of_an_earlier_connection_are_dropped(emulator, connection):
    """Except those of conversations. (R4)"""
    await settled(connection)
    earlier = emulator.connections[0].protocol
    emulator.disconnect(restart=True)
    await eventually(lambda: connection.losses)
    await connection.wait_connected()
    assert emulator.connections[0].protocol != earlier
    emulator.send_event("call.state", {"number": 0}, event_channel=f"x.{earlier}")
    emulator.send_event("conversation.message", {"number": 1}, event_channel=f"x.{earlier}")
    emulator.send_event("call.state", {"number": 2})
    assert [(await anext(connection.events())).params["number"] for _ in range(2)] == [1, 2]


async def test_two_refused_tokens_end_a_connection(emulator, session, connection, changes):
    """The error says what to check. (R6)"""
    await settled(connection)
    emulator.fail(RpcFailure(-32002, closes=True), operation=CONNECT, times=None)
    emulator.disconnect(restart=True)
    with pytest.raises(RealtimeError, match=r"two different access tokens.*-32002.*check that host"):
        async for _ in connection.events():
            pass
    assert connection.state is RealtimeState.FAILED
    assert session.generation == 2
    assert await session.token() == session.pair.access_token.value, "the rest of the app can go on using it"
    assert connection.losses["token_refused"] == 2
    for calling in (connection.wait_connected(), connection.call("x")):
        with pytest.raises(RealtimeError, match=r"given up.*two different access tokens"):
            await calling
    await eventually(lambda: changes and changes[-1].state is RealtimeState.FAILED)
    assert changes[-1].error is connection.last_error


async def test_a_connection_fails_once_its_session_has_expired(emulator, client):
    """It stays as long as the gateway keeps it. (R2) (R6)"""
    async with SubscriberSession(client, "bot", reissue=False) as session:
        async with RealtimeConnection(session, host=emulator.gateway) as connection:
            emulator.fail(Status(422), operation="refresh_subscriber_token", times=None)
            with pytest.raises(SessionExpired):
                await session.wait_closed()
            with pytest.raises(RealtimeError, match="expired") as caught:
                async for _ in connection.events():
                    pass
            assert isinstance(caught.value.__cause__, SessionExpired)
        assert connection.state is RealtimeState.FAILED


async def test_a_connection_closes_with_its_session(emulator, client):
    """Its events end. (R12)"""
    async with (
        SubscriberSession(client, "bot") as session,
        RealtimeConnection(session, host=emulator.gateway) as connection,
    ):
        await session.aclose()
        assert [event async for event in connection.events()] == []
        assert connection.state is RealtimeState.CLOSED
        with pytest.raises(RealtimeError, match="closed: create another"):
            await connection.call("x")
        with pytest.raises(RealtimeError, match="opened before"):
            await connection.start()


async def test_an_outage_of_the_gateway_is_overcome(emulator, connection, changes, clock):
    """The pauses between attempts are bounded. (R7) (R11)"""
    async with emulator.unreachable():
        await clock.sleep(300.0)
        assert connection.state is RealtimeState.RECONNECTING
        assert "connection refused" in str(connection.last_error)
    began = clock.now()
    await connection.wait_connected()
    assert clock.now() - began <= 60.0 + SLACK
    assert connection.losses["unreachable"] >= 5
    await settled(connection)
    assert [change.state.value for change in changes] == ["reconnecting", "connected"]
    assert (changes[0].cause, changes[1].cause, changes[1].error) == ("closed", None, None)


async def test_an_outage_of_the_token_service_is_overcome(emulator, session, connection, clock):
    """Without a valid token, a new connection waits for the next one. (R11)"""
    emulator.fail(Status(500), operation="refresh_subscriber_token", times=None)
    emulator.fail(Status(500), operation="create_subscriber_token", times=None)
    await clock.sleep(LIFE + 100.0)
    assert connection.losses["no_token"] > 0
    emulator.clear_faults()
    began = clock.now()
    await connection.wait_connected()
    assert clock.now() - began <= 90.0


async def test_one_loss_after_another_spreads_evenly(emulator, session, monkeypatch, clock):
    """The pause is drawn from the whole window. (R7)"""
    pauses = []
    for draw in (0.0, 0.5, 1.0):
        monkeypatch.setattr("signalwire_tokens.realtime.link.random.random", lambda draw=draw: draw)
        async with RealtimeConnection(session, host=emulator.gateway) as connection:
            began = clock.now()
            emulator._gateway.cut()
            await eventually(lambda connection=connection: connection.losses)
            await connection.wait_connected()
            pauses.append(clock.now() - began)
    assert [round(pause, 1) for pause in pauses] == pytest.approx([0.0, 1.5, 3.0], abs=0.3)


# Calls.


async def test_a_call_may_be_refused(connection):
    """The error has the gateway's code."""
    with pytest.raises(CallRefused, match=r"unknown\.method: the gateway refused the call") as caught:
        await connection.call("unknown.method")
    assert (caught.value.code, caught.value.operation) == (-32601, "unknown.method")


async def test_a_call_without_a_connection_sends_nothing(emulator, connection):
    """It doesn't wait for the next one. (R8)"""
    async with emulator.unreachable():
        await eventually(lambda: connection.state is RealtimeState.RECONNECTING)
        with pytest.raises(CallInterrupted, match=r"app.work: not connected") as caught:
            await connection.call("app.work")
        assert caught.value.sent is False


async def test_a_call_whose_answer_is_lost_may_have_had_an_effect(emulator, connection):
    """It isn't sent again. (R8)"""
    done = []
    emulator.on_call("app.work", lambda params: done.append(params) or {})
    emulator.fail(Reset(applied=True), operation="app.work")
    with pytest.raises(CallInterrupted, match="the connection broke") as caught:
        await connection.call("app.work", {"x": 1})
    assert caught.value.sent is True
    await connection.wait_connected()
    await settled(connection)
    assert done == [{"x": 1}]


async def test_a_call_has_a_time_limit(emulator, connection, clock):
    """The connection stays, and the late answer is ignored. (R9)"""
    emulator.on_call("app.work", lambda _: {"late": True})
    emulator.fail(Delay(20), operation="app.work", times=2)
    for timeout, seconds in ((None, 10.0), (timedelta(seconds=2), 2.0)):
        began = clock.now()
        with pytest.raises(CallInterrupted, match="no answer within") as caught:
            await connection.call("app.work", timeout=timeout)
        assert caught.value.sent is True
        assert clock.now() - began == pytest.approx(seconds, abs=0.5)
    await clock.sleep(30)
    assert await connection.call("app.work") == {"late": True}
    assert connection.state is RealtimeState.CONNECTED


async def test_a_cancelled_call_disturbs_no_other(emulator, connection):
    """Its late answer is ignored. (R9)"""
    emulator.on_call("app.work", lambda params: params)
    emulator.fail(Delay(5), operation="app.work")
    first = asyncio.create_task(connection.call("app.work", {"x": 1}))
    await asyncio.sleep(1)
    first.cancel()
    assert await connection.call("app.work", {"x": 2}) == {"x": 2}
    await asyncio.sleep(10)
    assert first.cancelled()
    assert await connection.call("app.work", {"x": 3}) == {"x": 3}


async def test_a_call_that_is_cancelled_at_once_is_not_sent(emulator, connection):
    """It was still in the queue. (R9)"""
    done = []
    emulator.on_call("app.work", lambda params: done.append(params) or {})
    calling = connection.call("app.work")
    calling.send(None)
    calling.close()
    await settled(connection)
    assert done == []


@pytest.mark.parametrize("method", [CONNECT, REAUTHENTICATE, PING])
async def test_the_connection_authenticates_itself(connection, method):
    """Your app can't call these methods."""
    with pytest.raises(InvalidRequest, match="sent by the connection itself"):
        await connection.call(method)


@pytest.mark.parametrize(
    ("method", "params", "match"),
    [
        ("app.work", {"x": object()}, "params must be JSON"),
        ("app.work", {"x": float("nan")}, "params must be JSON"),
        ("app.work", [1], "params must be a dict, not list"),
        (5, None, "method must be the name of a method"),
        ("", None, "method must be the name of a method"),
    ],
)
async def test_a_call_must_be_json_rpc(connection, method, params, match):
    """The connection stays usable."""
    with pytest.raises(InvalidRequest, match=match):
        await connection.call(method, params)
    await settled(connection)


# Opening and closing.


async def test_a_connection_that_cannot_be_made_says_why(emulator, session, clock):
    """After half a minute, by default. (R12)"""
    async with emulator.unreachable():
        connection = RealtimeConnection(session, host=emulator.gateway)
        began = clock.now()
        with pytest.raises(RealtimeError, match=r"not connected within 30 s: .*connection refused"):
            await connection.start()
        assert clock.now() - began == pytest.approx(30, abs=1)
    assert connection.state is RealtimeState.CLOSED


async def test_a_cancelled_start_closes(emulator, session):
    """Nothing goes on in the background. (R12)"""
    emulator.fail(Stall(), operation=CONNECT)
    connection = RealtimeConnection(session, host=emulator.gateway)
    starting = asyncio.create_task(connection.start())
    await asyncio.sleep(1)
    assert connection.state is RealtimeState.CONNECTING
    starting.cancel()
    await asyncio.wait([starting])
    assert connection.state is RealtimeState.CLOSED
    await eventually(lambda: not emulator._gateway.lines)


async def test_a_start_that_is_cancelled_at_once_closes(emulator, session):
    """Its task hasn't begun yet. (R12)"""
    connection = RealtimeConnection(session, host=emulator.gateway)
    starting = asyncio.create_task(connection.start())
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    assert connection.state is RealtimeState.CLOSED


async def test_a_connection_opens_only_once(emulator, connection):
    """Another one is needed."""
    await connection.aclose()
    await connection.aclose()
    with pytest.raises(RealtimeError, match="opened before"):
        await connection.start()


async def test_a_session_must_be_open(emulator, client):
    """The error says so."""
    session = SubscriberSession(client, "bot")
    with pytest.raises(RealtimeError, match=r"closed: create another RealtimeConnection: session #\w+ isn't open yet"):
        await RealtimeConnection(session, host=emulator.gateway).start()


def is_of_connection(task):
    """Return whether a task runs code of the package. The emulator's own tasks serve its connections."""
    code = task.get_coro().cr_code
    return "signalwire_tokens/realtime" in code.co_filename or "signalwire_tokens/keeper/events" in code.co_filename


async def test_closing_leaves_nothing(emulator, session):
    """No socket, no task, no subscription. Calls that wait are told. (R12)"""
    connection = RealtimeConnection(session, host=emulator.gateway)
    before = asyncio.all_tasks()
    async with connection:
        emulator.on_call("app.work", lambda _: {})
        emulator.fail(Stall(), operation="app.work")
        call = asyncio.create_task(connection.call("app.work"))
        await asyncio.sleep(1)
    with pytest.raises(CallInterrupted, match="closed"):
        await call
    assert connection.state is RealtimeState.CLOSED
    assert connection.connected_since is None
    await eventually(lambda: not emulator._gateway.lines)
    await eventually(lambda: not any(is_of_connection(task) for task in asyncio.all_tasks() - before))
    assert engine_of(session).listeners == ()
    gone = weakref.ref(connection._link)
    del connection, call
    gc.collect()
    assert gone() is None


async def test_a_connection_that_is_dropped_says_so(emulator, session):
    """And ends. (R12)"""
    connection = await RealtimeConnection(session, host=emulator.gateway).start()
    held = [connection]
    del connection
    with pytest.warns(ResourceWarning, match="unclosed <RealtimeConnection of session #"):
        held.clear()
    await eventually(lambda: not emulator._gateway.lines)
    await eventually(lambda: engine_of(session).listeners == ())


async def test_a_gateway_that_reads_nothing_does_not_hold_up_closing(emulator, session, clock):
    """The closing handshake has a time limit. (R12)"""
    async with Proxy(emulator.port) as proxy, RealtimeConnection(session, host=f"127.0.0.1:{proxy.port}") as connection:
        proxy.mode = "stall"
        began = clock.now()
        await connection.aclose()
        assert clock.now() - began < 5.0


async def test_subscribers_are_told_until_they_leave(emulator, connection):
    """One that raises has no effect on others."""
    seen = []

    def fail(change):
        seen.append(change.state)
        raise ValueError

    leave = connection.subscribe(fail)
    emulator._gateway.cut()
    await eventually(lambda: len(seen) == 2)
    assert seen == [RealtimeState.RECONNECTING, RealtimeState.CONNECTED]
    leave()
    emulator._gateway.cut()
    await eventually(lambda: connection.losses["closed"] == 2)
    await connection.wait_connected()
    assert len(seen) == 2
    with pytest.raises(TypeError, match="callback must be a function"):
        connection.subscribe(None)


async def test_events_and_states_may_be_waited_for_together(emulator, connection):
    """Events end when the connection is closed."""
    reading = asyncio.create_task(anext(connection.events(), None))
    await asyncio.sleep(1)
    await connection.aclose()
    assert await reading is None


# Settings, sessions and hosts.


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"host": "a b"}, "host must be the gateway's host"),
        ({"host": "ws://puc.signalwire.com"}, "host must be reached by wss; ws is allowed only for"),
        ({"ssl": False}, "ssl must be an ssl.SSLContext"),
        ({"proxy": "x"}, "proxy must be the URL"),
        ({"host": 5}, "host must be the gateway's host"),
        ({"buffer_size": 0}, "buffer_size must be a whole number, and at least 1"),
        ({"buffer_size": 1.5}, "buffer_size must be a whole number, and at least 1"),
        ({"http_session": 5}, "http_session must be an aiohttp.ClientSession, not int"),
        ({"call_timeout": 0}, "call_timeout"),
        ({"connect_timeout": -1}, "connect_timeout"),
    ],
)
async def test_wrong_settings_are_refused(session, settings, match):
    """Before anything is sent."""
    with pytest.raises((ConfigurationError, ValueError), match=match):
        RealtimeConnection(session, **settings)


async def test_a_session_is_needed():
    """A token alone can't be renewed."""
    with pytest.raises(ConfigurationError, match="session must be a session, not str"):
        RealtimeConnection("token")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        (None, "wss://puc.signalwire.com/"),
        ("puc.example.com", "wss://puc.example.com/"),
        ("puc.example.com:4443", "wss://puc.example.com:4443/"),
        ("wss://puc.example.com/", "wss://puc.example.com/"),
        ("127.0.0.1:80", "ws://127.0.0.1/"),
        ("ws://localhost:8000", "ws://localhost:8000/"),
    ],
)
async def test_the_host_is_the_token_s_or_yours(session, host, url):
    """Only this machine is reached without TLS."""
    connection = RealtimeConnection(session, host=host)
    assert connection._link.route.url_for(session.pair.access_token) == url


async def test_a_token_may_name_the_host(clock):
    """With TLS, as SignalWire does."""
    async with Emulator(clock=clock, tls=True, channel="127.0.0.1:{port}") as emulator:
        context = ssl.create_default_context(cafile=emulator.ca_file)
        async with emulator.client(clock=clock) as client, SubscriberSession(client, "bot") as session:
            async with RealtimeConnection(session, ssl=context) as connection:
                await connection.call("subscriber.online")
            with pytest.raises(RealtimeError, match="certificate not trusted"):
                await RealtimeConnection(session, connect_timeout=5).start()


async def test_several_connections_share_an_http_session(emulator, session):
    """It stays open. (R12)"""
    async with aiohttp.ClientSession() as http:
        for _ in range(2):
            async with RealtimeConnection(session, host=emulator.gateway, http_session=http) as connection:
                await settled(connection)
        assert not http.closed


async def test_a_server_that_is_no_gateway_is_named(emulator, session):
    """It answers the handshake as any other request."""
    async with aiohttp.test_utils.TestServer(aiohttp.web.Application()) as server:
        with pytest.raises(RealtimeError, match="the handshake was answered with status 404"):
            await RealtimeConnection(session, host=f"127.0.0.1:{server.port}", connect_timeout=5).start()


@asynccontextmanager
async def talking(answers):
    """Run a server that answers the first message of each WebSocket with messages of any kind."""

    async def serve(request):
        socket = aiohttp.web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        for answer in answers:
            await (socket.send_str(answer) if isinstance(answer, str) else socket.send_bytes(answer))
        await socket.receive()
        return socket

    app = aiohttp.web.Application()
    app.router.add_get("/", serve)
    async with aiohttp.test_utils.TestServer(app) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.mark.parametrize(("answer", "match"), [("{", "isn't JSON-RPC"), (b"x", "isn't text")])
async def test_a_gateway_that_speaks_something_else_is_left(session, answer, match):
    """Another attempt follows."""
    async with talking([answer]) as host:
        connection = RealtimeConnection(session, host=host, connect_timeout=5)
        with pytest.raises(RealtimeError, match=match):
            await connection.start()
        assert connection.losses["not_json_rpc"] >= 1


async def test_a_device_session_signs_its_proofs(emulator, client, clock):
    """For connecting, and for each new token."""
    key = DeviceKey.generate()
    first = await client.create_subscriber_token("device", fingerprint=key.fingerprint, scope="sat:refresh")
    async with (
        DeviceSession(emulator.space, first.access_token, key, clock=clock) as session,
        RealtimeConnection(session, host=emulator.gateway) as connection,
    ):
        await rotate(session, emulator)
        await settled(connection)
        emulator._gateway.cut()
        await eventually(lambda: connection.losses)
        await connection.wait_connected()
    assert {status for _, status in methods(emulator)} == {200}


async def test_a_session_of_a_fleet_is_not_idle(emulator, client, clock):
    """It goes on renewing for its connection. (R1)"""
    async with SessionFleet(client, idle_timeout=60) as fleet:
        await fleet.token("bot")
        async with RealtimeConnection(fleet.session("bot"), host=emulator.gateway) as connection:
            await clock.sleep(3 * LIFE)
            assert connection.reauthenticated >= 3
            assert len(connection.losses) == 0


async def test_a_backend_session_works_as_well(emulator, client, clock):
    """Its tokens come from your app's backend. (R1)"""

    async def date(_, response):
        response.headers["Date"] = format_datetime(emulator.now(), usegmt=True)

    app = aiohttp.web.Application()
    backend = TokenBackend(lambda: SessionFleet(client), identify=lambda _: "bot")
    app.router.add_post("/token", backend.token)
    app.cleanup_ctx.append(backend.lifespan)
    app.on_response_prepare.append(date)
    async with (
        aiohttp.test_utils.TestServer(app) as server,
        BackendSession(str(server.make_url("/token")), clock=clock) as session,
        RealtimeConnection(session, host=emulator.gateway) as connection,
    ):
        await clock.sleep(3 * LIFE)
        assert connection.reauthenticated >= 1
        assert len(connection.losses) == 0
        await settled(connection)


async def test_another_event_loop_is_refused(connection):
    """A connection belongs to its session's event loop."""

    async def call():
        with pytest.raises(SessionError, match="event loop"):
            await connection.call("subscriber.online")

    await asyncio.to_thread(lambda: asyncio.run(call()))


async def test_nothing_secret_is_logged(emulator, session, connection, caplog):
    """Neither the token nor the authorization's state. (P37)"""
    caplog.set_level(logging.DEBUG)
    await settled(connection)
    state = connection._link.gateway.resumable.state.value
    emulator.fail(RpcFailure(-32603), operation=CONNECT)
    emulator._gateway.cut()
    await eventually(lambda: connection.losses["refused"])
    await connection.wait_connected()
    shown = caplog.text + repr(connection) + repr(connection._link.gateway.resumable) + str(connection.losses)
    assert state not in shown
    assert session.pair.access_token.value not in shown


# Faults that a review found.


async def test_a_rotation_while_the_socket_opens_is_presented(emulator, session, monkeypatch):
    """The token that was chosen before isn't the newest one any more. (R1)"""
    opening = Route.open

    async def open_slowly(route, http, url):
        await session.refresh()
        return await opening(route, http, url)

    monkeypatch.setattr(Route, "open", open_slowly)
    async with RealtimeConnection(session, host=emulator.gateway) as connection:
        await settled(connection)
        assert connection._link.gateway.token is session.pair.access_token


async def test_a_redirect_is_not_followed(emulator, session):
    """It could lead the token to any host."""

    async def redirect(_):
        raise aiohttp.web.HTTPFound(f"http://127.0.0.1:{emulator.port}/")

    app = aiohttp.web.Application()
    app.router.add_get("/", redirect)
    async with aiohttp.test_utils.TestServer(app) as server:
        connection = RealtimeConnection(session, host=f"127.0.0.1:{server.port}", connect_timeout=5)
        with pytest.raises(RealtimeError, match="the handshake was answered with status 302"):
            await connection.start()
    assert methods(emulator) == []


async def test_a_given_http_session_adds_nothing(emulator, session):
    """Neither its headers nor its cookies, and it doesn't turn the check of certificates off."""
    seen = []

    async def look(request):
        seen.append(request.headers)
        raise aiohttp.web.HTTPForbidden

    app = aiohttp.web.Application()
    app.router.add_get("/", look)
    async with (
        aiohttp.test_utils.TestServer(app) as server,
        aiohttp.ClientSession(headers={"Authorization": "Basic hush"}, cookies={"a": "hush"}) as http,
    ):
        host = f"127.0.0.1:{server.port}"
        with pytest.raises(RealtimeError, match="status 403"):
            await RealtimeConnection(session, host=host, http_session=http, connect_timeout=5).start()
        assert not http.closed
    assert seen
    assert not any("hush" in value for headers in seen for value in headers.values())


async def test_an_unverified_connector_verifies(clock):
    """Certificates are always verified. (P39)"""
    async with (
        Emulator(clock=clock, tls=True) as emulator,
        emulator.client(clock=clock) as client,
        SubscriberSession(client, "bot") as session,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as http,
    ):
        with pytest.raises(RealtimeError, match="certificate not trusted"):
            await RealtimeConnection(session, host=emulator.gateway, http_session=http, connect_timeout=5).start()


async def test_a_closed_http_session_is_refused(emulator, session):
    """It could never connect."""
    async with aiohttp.ClientSession() as http:
        pass
    with pytest.raises(ConfigurationError, match="http_session is closed"):
        await RealtimeConnection(session, host=emulator.gateway, http_session=http).start()


async def test_a_call_while_the_connection_closes_is_refused(emulator, session):
    """It doesn't wait for its time limit. (R8) (R12)"""
    async with Proxy(emulator.port) as proxy, RealtimeConnection(session, host=f"127.0.0.1:{proxy.port}") as connection:
        await settled(connection)
        proxy.mode = "stall"
        closing = asyncio.create_task(connection.aclose())
        await asyncio.sleep(0.1)
        assert connection.state is RealtimeState.CLOSED
        assert not closing.done()
        with pytest.raises(RealtimeError, match="closed: create another"):
            await connection.call("subscriber.online")
        await closing


async def test_a_call_that_has_timed_out_is_not_sent(emulator, session):
    """Its error says that nothing was sent. (R8)"""
    done = []
    emulator.on_call("app.work", lambda params: done.append(params) or {})
    async with RealtimeConnection(session, host=emulator.gateway) as connection:
        calling = connection.call("app.work")
        calling.send(None)
        (call,) = connection._link.calls.values()
        call.interrupt("no answer within 0 s")
        await settled(connection)
        with pytest.raises(CallInterrupted) as caught:
            calling.send(None)
        assert (caught.value.sent, done) == (False, [])


async def test_a_subscriber_that_hangs_ends_with_the_connection(emulator, session, clock):
    """After a few seconds. (R12)"""
    connection, begun = RealtimeConnection(session, host=emulator.gateway), asyncio.Event()

    async def hang(_):
        begun.set()
        await asyncio.Event().wait()

    connection.subscribe(hang)
    before = asyncio.all_tasks()
    async with connection:
        await begun.wait()
    assert not any(is_of_connection(task) for task in asyncio.all_tasks() - before)


async def test_events_need_an_open_connection(emulator, session):
    """Otherwise, a reader would end at once."""
    connection = RealtimeConnection(session, host=emulator.gateway)
    with pytest.raises(RealtimeError, match="not open: use `async with`"):
        await anext(connection.events())


async def test_a_start_on_another_event_loop_is_refused(emulator, session):
    """Nothing goes on there."""
    connection = RealtimeConnection(session, host=emulator.gateway)

    async def start():
        with pytest.raises(SessionError, match="event loop"):
            await connection.start()

    await asyncio.to_thread(lambda: asyncio.run(start()))
    assert connection.state is RealtimeState.CLOSED
    async with connection:
        await settled(connection)


async def test_a_burst_of_events_reaches_an_app_that_reads(emulator, session):
    """The connection lets it read before it drops any. (R3)"""
    async with RealtimeConnection(session, host=emulator.gateway, buffer_size=10) as connection:
        reading = asyncio.create_task(read_numbers(connection, 500))
        await asyncio.sleep(0.1)
        for number in range(500):
            emulator.send_event("tick", {"number": number})
        assert await reading == list(range(500))


async def read_numbers(connection, count):
    events = connection.events()
    return [(await anext(events)).params["number"] for _ in range(count)]


async def test_proofs_that_fail_lose_the_connection(emulator, session, connection, monkeypatch):
    """It is made again. (R11)"""

    def fail(_):
        monkeypatch.undo()
        raise ValueError

    await settled(connection)
    monkeypatch.setattr(connection._link.gateway, "prove", fail)
    await session.refresh()
    await eventually(lambda: connection.losses)
    await connection.wait_connected()
    await settled(connection)
    assert "see the log" not in str(connection.last_error)


async def test_a_refused_reauthentication_is_logged(emulator, session, connection, caplog):
    """The connection goes on. (R2)"""
    emulator.fail(RpcFailure(-32603), operation=REAUTHENTICATE)
    await session.refresh()
    await eventually(lambda: "the new token isn't accepted" in caplog.text)
    await eventually(lambda: connection.reauthenticated == 1)
    assert len(connection.losses) == 0


async def test_an_outage_is_logged_once_as_a_warning(emulator, connection, caplog, clock):
    """Each further attempt is only information."""
    async with emulator.unreachable():
        await clock.sleep(300.0)
    await connection.wait_connected()
    ours = [record for record in caplog.records if record.name == "signalwire_tokens.realtime"]
    warnings = [record for record in ours if record.levelno >= logging.WARNING]
    assert len(warnings) == 1


async def test_a_message_that_is_too_long_is_not_repeated(emulator, connection):
    """After a resume, the gateway would send it again. (R11)"""
    await settled(connection)
    emulator.send_event("tick", {"text": 17 * 1024 * 1024 * "x"})
    await eventually(lambda: connection.losses["not_json_rpc"] == 1)
    await connection.wait_connected()
    await settled(connection)
    assert emulator.connections[0].resumed == 0


async def test_an_earlier_token_that_the_connection_hears_of_late_is_not_presented(emulator, session):
    """By then, the session has a newer one, which the gateway has already. (R1)"""
    async with RealtimeConnection(session, host=emulator.gateway) as connection:
        late = SessionEvent(kind="rotated", generation=1, pair=session.pair)
        await rotate(session, emulator)
        connection._link._session_changed(late)
        await settled(connection)
        assert connection.reauthenticated == 1


# What seldom happens.


async def test_ice_servers_are_the_gateway_s(connection):
    """The emulator names none."""
    assert connection.ice_servers == ()


async def test_closing_before_opening_does_nothing(emulator, session):
    """The connection can still be opened."""
    connection = RealtimeConnection(session, host=emulator.gateway)
    await connection.aclose()
    async with connection:
        await settled(connection)


async def test_a_server_that_says_nothing_is_left(session):
    """The handshake has a time limit."""

    async def serve(reader, _):
        await reader.read()

    async with serving(serve) as port:
        with pytest.raises(RealtimeError, match="no connection within 10 s"):
            await RealtimeConnection(session, host=f"127.0.0.1:{port}", connect_timeout=15).start()


async def test_an_unexpected_exception_is_logged_and_overcome(emulator, session, monkeypatch, caplog):
    """A bot runs for weeks. (R11)"""

    async def fail(*_):
        monkeypatch.undo()
        raise ValueError

    monkeypatch.setattr(Route, "open", fail)
    async with RealtimeConnection(session, host=emulator.gateway) as connection:
        await settled(connection)
        assert connection.losses["unreachable"] == 1
    assert "an exception was raised" in caplog.text


async def test_a_call_is_settled_once():
    """Its time may be over in the moment in which its answer or the end of the connection comes. (R9)"""
    for end in (lambda call: call.settle(Answered("1", {})), lambda call: call.interrupt("late")):
        call = PendingCall("app.work", asyncio.get_running_loop().create_future())
        call.interrupt("no answer within 10 s")
        end(call)
        with pytest.raises(CallInterrupted, match="no answer within 10 s"):
            await call.answer


async def test_nothing_is_sent_without_a_socket(emulator, session):
    """The session may emit events before the first connection, and after the last one."""
    link = RealtimeConnection(session, host=emulator.gateway)._link
    link.send(Send(Secret("hush")))
    link._end(Lost("closed", ""))
    link._session_changed(SessionEvent(kind="degraded", generation=0))
    assert methods(emulator) == []


async def test_a_socket_that_breaks_while_sending_is_lost(emulator, session):
    """The reader may not have noticed yet."""

    class Broken:
        async def write(self, _):
            raise ConnectionResetError

        def end(self, lost):
            self.lost = lost

    line = Broken()
    await RealtimeConnection(session, host=emulator.gateway)._link._write(line)
    assert (line.lost.cause, line.lost.reason) == ("closed", "the connection broke while sending")


async def test_a_connection_may_be_dropped_after_its_event_loop(emulator, session):
    """There is nothing left to stop."""
    link = RealtimeConnection(session, host=emulator.gateway)._link
    link.task = SimpleNamespace(get_loop=lambda: SimpleNamespace(is_closed=lambda: True))
    link.drop()
    link.task = None
    link.drop()
