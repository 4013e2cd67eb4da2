"""SignalWire asks to be left alone: the client, sessions, fleets and the token endpoint follow one rule."""

import asyncio
import json
import random
from contextlib import AsyncExitStack, nullcontext
from email.utils import formatdate

import attrs
import pytest

from signalwire_tokens import (
    MemoryStore,
    RateLimited,
    ServerError,
    SessionFleet,
    SubscriberSession,
    TokenUnavailable,
)
from signalwire_tokens.clock import VirtualClock
from signalwire_tokens.emulator import Emulator, Status
from signalwire_tokens.errors import is_throttle
from signalwire_tokens.integrations import token_rules
from signalwire_tokens.integrations.token_endpoint import Backend, BackendRequest
from signalwire_tokens.keeper import engine_of
from signalwire_tokens.throttle import Throttle
from support.fake_transport import make_client

MINUTE, TEN_DAYS = 60.0, 864_000.0
SPREAD, ROUNDING, DEFAULT_PAUSE = 5.0, 1.0, 1.0
STEP = 0.25  # in which time advances here
START = VirtualClock().wall()
THROTTLES = [Status(429), Status(503), Status(422, code="rate_limit_exceeded"), Status(429, code="cannot_process")]
# How SignalWire may ask to be left alone, and for how many seconds that is.
WORDS = {
    "without": (None, None),
    "nothing": (0, 0.0),
    "seconds": (20, 20.0),
    "a minute": (60, 60.0),
    "absurd seconds": (1_000_000_000, MINUTE),
    "endless digits": ("9" * 400, MINUTE),
    "a date": (formatdate(START + 30, usegmt=True), 30.0),
    "the last date": ("Fri, 31 Dec 9999 23:59:59 GMT", MINUTE),
    "a past date": (formatdate(START - 3600, usegmt=True), 0.0),
    "nonsense": ("soon", None),
    "a negative number": ("-5", None),
}


HINTS = {"X-RateLimit-Limit": "13800", "X-RateLimit-Remaining": "13000", "X-RateLimit-Reset": "10"}


async def times_of_requests(headers, seed):
    """Return when a fleet asks SignalWire in two hours with two outages, and how many requests ran at a time."""
    clock = VirtualClock()
    client, line = make_client(clock)
    line.headers, line.takes = headers, 0.1
    observer = Observed()
    client.observers = (observer,)
    random.seed(seed)
    async with client, SessionFleet(client, max_rate=5, max_concurrency=2) as fleet:
        starting = [asyncio.create_task(fleet.token(f"subscriber-{number}")) for number in range(5)]
        await clock.advance(MINUTE)
        await asyncio.gather(*starting)
        for status, minutes in ((201, 80), (500, 3), (429, 3), (201, 4)):
            line.status = status
            await clock.advance(minutes * MINUTE)
    assert bool(observer.hints) is bool(headers)
    return line.times, line.busiest


class Observed:
    """An observer, so that hints of successes are read, too."""

    def __init__(self):
        self.hints = []

    def operation_started(self, operation, origin):
        return nullcontext()

    def rate_limit_reported(self, operation, origin, hint):
        self.hints.append(hint.remaining)

    def renewed(self, left):
        pass


async def test_a_hint_that_many_requests_are_left_changes_no_request_of_a_fleet():
    """Requests are sent at the same times, and as many at a time."""
    plain, hinted = await times_of_requests({}, 7), await times_of_requests(HINTS, 7)
    assert len(plain[0]) > 12
    assert plain == hinted


class Session:
    """Opens a session, again and again."""

    def __init__(self, client, stack):
        self.client = client

    async def __call__(self):
        async with SubscriberSession(self.client, "alice") as session:
            return await session.token()


class Fleet:
    """Asks a fleet for the token of a newcomer."""

    def __init__(self, client, stack):
        self.fleet, self.stack = SessionFleet(client), stack

    async def __call__(self):
        if self.fleet._context is None:
            await self.stack.enter_async_context(self.fleet)
        return await self.fleet.token("alice")


class Endpoint:
    """Asks the token endpoint, as a browser with a key of its own does."""

    asks_for = '{"fingerprint": "%s"}' % ("A" * 43)

    def __init__(self, client, stack):
        self.fleet, self.stack = SessionFleet(client), stack
        self.backend = Backend(self.fleet, identify=lambda _: "alice", allow_device_tokens=True)

    async def __call__(self):
        if self.fleet._context is None:
            await self.stack.enter_async_context(self.fleet)

        async def read():
            return self.asks_for.encode()

        asked = token_rules.read_request("POST", [("Content-Type", "application/json")])
        answer = await self.backend._hand_out(BackendRequest(asked, lambda: "alice", read))
        if answer.status == 503:
            raise TokenUnavailable("503", retry_after=float(answer.headers["Retry-After"]))
        return json.loads(answer.body)["token"]


class PlainEndpoint(Endpoint):
    """Asks the token endpoint, as a browser without a key does."""

    asks_for = "{}"


CALLERS = [Session, Fleet, Endpoint, PlainEndpoint]


@pytest.fixture
async def emulator(clock):
    async with Emulator(clock=clock) as emulator:
        yield emulator


@pytest.fixture
def served(emulator, clock, client):
    return emulator, clock, client


async def persist(ask, clock):
    """Return a token, asked for again and again, as soon as each error says."""
    while True:
        asking = asyncio.ensure_future(ask())
        while not asking.done():
            await clock.advance(STEP)
        if asking.exception() is None:
            return asking.result()
        assert isinstance(asking.exception(), TokenUnavailable)
        await clock.advance(asking.exception().retry_after)


@pytest.mark.parametrize("make", CALLERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(("value", "least"), WORDS.values(), ids=list(WORDS))
@pytest.mark.parametrize("fault", THROTTLES, ids=["429", "503", "422", "429 with another code"])
async def test_a_throttle_is_respected_and_bounded(served, make, value, least, fault):
    """No request goes out before its end; a minute after SignalWire asked, one does, whatever it said. (P23)"""
    emulator, clock, client = served
    if least is None:
        least = 0.0 if fault.status == 503 else DEFAULT_PAUSE  # without a time, a 503 is a failure like any other
    emulator.fail(attrs.evolve(fault, retry_after=value))
    async with AsyncExitStack() as stack:
        token = await persist(make(client, stack), clock)
    assert emulator.accepts(token)
    first, second = emulator.requests
    waited = (second.at - first.at).total_seconds()
    spread = SPREAD if least == MINUTE else 0.0  # before the minute is over
    assert least - spread - ROUNDING <= waited <= min(least + SPREAD + ROUNDING, MINUTE + STEP)


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("fault", THROTTLES, ids=["429", "503", "422", "429 with another code"])
async def test_a_call_of_the_client_waits_for_as_long_as_it_may_take_in_all(emulator, clock, words, fault):
    """It raises at once where SignalWire asks for longer, with what SignalWire said."""
    value, least = WORDS[words]
    emulator.fail(attrs.evolve(fault, retry_after=value))
    async with emulator.client(timeout=50.0) as client:
        asking = asyncio.ensure_future(client.create_subscriber_token("alice"))
        while not asking.done():
            await clock.advance(STEP)
    if least == MINUTE:
        error = asking.exception()
        assert is_throttle(error)
        assert (error.retry_after == MINUTE) is (words == "a minute")
        assert len(emulator.requests) == 1
    else:
        first, second = emulator.requests
        waited = (second.at - first.at).total_seconds()
        assert (least or 0.0) - ROUNDING <= waited <= (least or DEFAULT_PAUSE) + ROUNDING


@pytest.mark.parametrize("make", CALLERS, ids=lambda kind: kind.__name__)
async def test_a_success_lifts_a_throttle_for_all(emulator, clock, client, make):
    """SignalWire has asked for thirty years, and answers a second later: everyone gets a token then. (P23)"""
    async with AsyncExitStack() as stack:
        ask = make(client, stack)
        emulator.fail(Status(503, retry_after=1e9))
        with pytest.raises(TokenUnavailable):
            await ask()
        await clock.advance(1)
        with pytest.raises(TokenUnavailable):
            await ask()
        assert len(emulator.requests) == 1
        await client.create_subscriber_token("bob")
        assert emulator.accepts(await ask())


@pytest.mark.parametrize("make", [Session, Fleet], ids=lambda kind: kind.__name__)
async def test_a_caller_that_waits_goes_on_when_a_throttle_is_lifted(emulator, clock, client, make):
    """It waits for a few seconds already, and for no longer."""
    async with AsyncExitStack() as stack:
        ask = make(client, stack)
        emulator.fail(Status(429, retry_after=4))
        asking = asyncio.ensure_future(ask())
        while not emulator.requests:
            await clock.advance(0)
        await clock.advance(1)
        assert not asking.done()
        await client.create_subscriber_token("bob")
        await clock.advance(1)
        assert emulator.accepts(await asking)


async def test_a_session_that_is_started_again_keeps_its_deadline(emulator, clock, client):
    """The minute counts from when SignalWire asked, however often a session is opened in the meantime. (P23)"""
    emulator.fail(Status(503, retry_after=1_000_000_000))
    waits = []
    for _ in range(12):
        with pytest.raises(TokenUnavailable) as caught:
            await SubscriberSession(client, "alice").start()
        waits.append(caught.value.retry_after + clock.now())
        await clock.advance(4)
        assert is_throttle(caught.value.cause)
    assert len(emulator.requests) == 1
    assert max(waits) <= MINUTE
    assert min(waits) >= MINUTE - SPREAD
    await clock.advance(12)
    async with SubscriberSession(client, "alice") as session:
        assert emulator.accepts(await session.token())


async def test_newcomers_of_a_fleet_do_not_wait_when_the_breaker_has_closed(emulator, clock, client):
    """One success is enough for all."""
    async with SessionFleet(client) as fleet:
        emulator.fail(Status(503, retry_after=1_000_000_000))
        with pytest.raises(TokenUnavailable):
            await fleet.token("alice")
        await clock.advance(MINUTE)
        assert emulator.accepts(await fleet.token("alice"))
        began = clock.now()
        tokens = [asyncio.ensure_future(fleet.token(f"newcomer {number}")) for number in range(20)]
        while not all(token.done() for token in tokens):
            await clock.advance(STEP)
        assert all(emulator.accepts(token.result()) for token in tokens)
        assert clock.now() - began < SPREAD


async def test_a_throttle_that_is_lifted_after_a_fleet_was_closed_wakes_nothing(emulator, clock, client):
    """The fleet has closed while it left SignalWire alone."""
    async with SessionFleet(client) as fleet:
        emulator.fail(Status(503, retry_after=30))
        with pytest.raises(TokenUnavailable):
            await fleet.token("alice")
    await clock.advance(1)
    await client.create_subscriber_token("bob")
    await clock.advance(MINUTE)
    assert len(emulator.requests) == 2


async def test_each_throttle_is_lifted_for_a_session_that_renews_in_the_background(emulator, clock, client):
    """No caller waits for it. With a valid token, it would wait for half of what is left: 12 minutes at least."""
    async with SubscriberSession(client, "alice") as session:
        for _ in range(3):
            emulator.fail(Status(503, retry_after=1e9), operation="refresh_subscriber_token")
            while not client.throttle.error:
                await clock.advance(10)
            await clock.advance(1)
            generation = session.generation
            await client.create_subscriber_token("bob")
            await clock.advance(2)
            assert session.generation == generation + 1


async def test_sessions_spread_their_requests_when_a_throttle_is_lifted(emulator, clock, client):
    """Over a second."""
    emulator.fail(Status(503, retry_after=4), times=1)
    with pytest.raises(ServerError):
        await client.create_subscriber_token("bob")
    starting = [asyncio.ensure_future(SubscriberSession(client, f"user-{number}").start()) for number in range(20)]
    await clock.advance(1)
    await client.create_subscriber_token("bob")
    await clock.advance(1)
    sessions = await asyncio.gather(*starting)
    times = [entry.at for entry in emulator.requests[2:]]
    assert len(times) == 20
    assert len(set(times)) == 20
    for session in sessions:
        await session.aclose()


class Lifted:
    """Notes that a throttle was lifted."""

    lifted = 0

    def throttle_lifted(self):
        self.lifted += 1


def throttled(seconds=None):
    return RateLimited("429", retry_after=seconds)


def test_only_a_success_of_a_later_request_lifts_a_throttle():
    """One that was sent before says nothing about now, and nor does a failure."""
    throttle, watcher = Throttle(), Lifted()
    throttle.watch(watcher)
    throttle.note(None, sent=0.0, now=1.0)
    throttle.note(throttled(1e9), sent=9.0, now=10.0)
    for error, sent in ((None, 9.5), (None, 10.0), (ServerError("500", status=500), 11.0)):
        throttle.note(error, sent=sent, now=12.0)
        assert throttle.left(12.0) > TEN_DAYS
    assert watcher.lifted == 0
    throttle.note(None, sent=10.1, now=12.0)
    assert (throttle.left(12.0), throttle.error, watcher.lifted) == (0.0, None, 1)
    throttle.note(None, sent=13.0, now=14.0)
    assert watcher.lifted == 1


@pytest.mark.parametrize(
    ("sent", "seconds", "until"),
    [
        (11.0, 5.0, 17.0),  # what SignalWire says later counts
        (11.0, 200.0, 212.0),
        (9.0, 5.0, 110.0),  # of two requests under way together, the longer
        (9.0, 200.0, 212.0),
        (11.0, None, 110.0),  # no time is said
    ],
)
def test_a_second_throttle_replaces_the_first_if_it_is_news(sent, seconds, until):
    """SignalWire asked at 10 for 100 seconds, and again at 12."""
    throttle = Throttle()
    throttle.note(throttled(100.0), sent=9.0, now=10.0)
    throttle.note(throttled(seconds), sent=sent, now=12.0)
    assert (throttle.asked_at, throttle.until) == (12.0, until)
    assert throttle.left(12.0, longest=MINUTE) == min(MINUTE, until - 12.0)


async def test_a_refresh_in_a_fleet_that_a_throttle_prevents_has_it_as_its_cause(clock):
    """The token is still valid, and the session itself hasn't failed."""
    client, _ = make_client(clock)
    async with SessionFleet(client) as fleet:
        await fleet.token("alice")
        now = clock.now()
        client.throttle.note(throttled(3600.0), sent=now, now=now)
        refresh = asyncio.create_task(fleet.session("alice").refresh())
        await clock.advance(3)
        with pytest.raises(TokenUnavailable) as caught:
            await refresh
    assert caught.value.cause is client.throttle.error


@pytest.mark.parametrize("in_fleet", [False, True])
async def test_a_renewal_that_waited_for_a_lease_sends_nothing_in_a_pause(clock, in_fleet):
    """A renewal may wait half a minute for another process. It keeps to a pause that began meanwhile. (P23)"""
    client, line = make_client(clock)
    store = MemoryStore(clock=clock)
    async with client, AsyncExitStack() as stack:
        if in_fleet:
            fleet = await stack.enter_async_context(SessionFleet(client, store=store))
            await fleet.token("alice")
            session = fleet.session("alice")
        else:
            session = await stack.enter_async_context(SubscriberSession(client, "alice", store=store))
        engine, sent = engine_of(session), len(line.sent)
        await clock.advance(engine.cycle.due - clock.now() - 1)
        async with store.lease(session.store_key, 30) as held:
            assert held
            await clock.advance(5)
            assert engine.task is not None
            error = RateLimited("wait", operation="refresh", status=429, retry_after=60)
            client.throttle.note(error, sent=clock.now(), now=clock.now() + 0.1)
            await clock.advance(5)
        await clock.advance(40)
        assert len(line.sent) == sent
        assert await session.token()
        await clock.advance(30)
        assert len(line.sent) == sent + 1
