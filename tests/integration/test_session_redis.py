"""Sessions that share a pair through a Redis or Valkey server: in real time, and with all that can happen to it."""

import asyncio
import itertools
import signal
import sys
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import timedelta
from uuid import uuid4

import attrs
import pytest

from signalwire_tokens import (
    RefreshPolicy,
    RefreshTuning,
    SessionState,
    StoreError,
    SubscriberSession,
    TokenUnavailable,
    UnreadableRecord,
)
from signalwire_tokens.clock import SYSTEM
from signalwire_tokens.emulator import ROTATIONS, Delay, Emulator, Reset, Status
from signalwire_tokens.stores import generate_encryption_key
from signalwire_tokens.stores.redis import RedisStore
from support.faulty_redis import Proxy, wait_no_longer_than
from support.redis_server import RedisServer
from support.waiting import HANG, eventually

pytestmark = pytest.mark.redis
KEY, OTHER_KEY = generate_encryption_key(), generate_encryption_key()
ISSUE, REFRESH = "create_subscriber_token", "refresh_subscriber_token"
LIFE, HOUR = 7200.0, 3600.0
REFUSED = 422
SOON = 0.05  # seconds that a store gets while nothing can succeed
LATE = 6 * SOON  # seconds after which a slow server answers
ROUNDING = 1.0  # second by which times may be rounded
# What has to succeed is given time, on a slow machine as well; what has failed is soon tried again.
EAGER = RefreshTuning(
    lease=240.0, min_interval=0.02, lease_poll=0.02, expired_backoff_min=0.05, expired_backoff_max=0.1
)
POLICY = RefreshPolicy(
    store_timeout=120.0, wait_timeout=HANG, close_timeout=HANG, backoff_min=0.05, backoff_max=0.1, tuning=EAGER
)


@pytest.fixture
def prefix():
    return f"test-{uuid4()}:"


@pytest.fixture
async def client(emulator):
    async with emulator.client(retries=0, timeout=HANG) as client:
        yield client


def store_at(url, **settings):
    """Return a store that waits for an answer as long as it takes."""
    return RedisStore(url, **{"encryption_keys": KEY, "timeout": HANG, **settings})


@pytest.fixture
async def store(redis_server, prefix):
    """Give a store that nothing ails."""
    async with store_at(redis_server.url, prefix=prefix) as store:
        yield store


@pytest.fixture
async def peer(redis_server, prefix):
    """Give the same store as another process sees it."""
    async with store_at(redis_server.url, prefix=prefix) as store:
        yield store


@pytest.fixture
async def proxy(redis_server):
    async with Proxy(redis_server.port) as proxy:
        yield proxy


class Frail:
    """The same store through a proxy, what can be done to it on the way, and the policy of its sessions.

    The store and its sessions give up soon while the trouble lasts, and wait as long as it takes once it is over.
    """

    def __init__(self, store, proxy):
        self.store, self._proxy = store, proxy
        self.policy = attrs.evolve(POLICY)

    def ail(self, trouble):
        """Begin a trouble."""
        match trouble:
            case "slow" | "slow from now on":
                self._proxy.delay = LATE
                wait_no_longer_than(SOON, self.store)
            case "slower than the policy allows":
                self._proxy.delay = LATE
                self._be_patient(SOON)
            case "stall":
                self._proxy.mode = trouble
                wait_no_longer_than(SOON, self.store)
            case _:
                self._proxy.mode = trouble
        if trouble != "slow from now on":
            self._proxy.cut()

    def heal(self):
        """End the trouble."""
        wait_no_longer_than(HANG, self.store)
        self._be_patient(POLICY.store_timeout)
        self._proxy.heal()

    def _be_patient(self, seconds):
        object.__setattr__(self.policy, "store_timeout", seconds)


@pytest.fixture
async def frail(proxy, prefix):
    async with store_at(proxy.url, prefix=prefix) as store:
        yield Frail(store, proxy)


@pytest.fixture
def server():
    """Run a server of the test's own, to be harmed."""
    with RedisServer() as server:
        yield server


@pytest.fixture(autouse=True)
def never_twice(emulator):
    """Fail a test in which a used refresh token was presented."""
    yield
    assert (REFRESH, REFUSED) not in [(entry.operation, entry.status) for entry in emulator.requests]


def hold_back(client, operation):
    """Hold back the answers to the client's requests until the event that is returned is set."""
    send, released = client.send, asyncio.Event()

    async def held_back(request, **settings):
        answer = await send(request, **settings)
        if request.operation == operation:
            await released.wait()
        return answer

    client.send = held_back
    return released


def leases_wanted(store):
    """Return a list that grows whenever a lease is asked for."""
    wanted, lease = [], store.lease

    def counted(key, ttl):
        wanted.append(key)
        return lease(key, ttl)

    store.lease = counted
    return wanted


class Skewed:
    """The machine's clock on a machine that has another idea of the time."""

    def __init__(self, *, now=0.0, wall=0.0):
        self._now, self._wall = now, wall
        self.call_later, self.sleep = SYSTEM.call_later, SYSTEM.sleep

    def now(self):
        return SYSTEM.now() + self._now

    def wall(self):
        return SYSTEM.wall() + self._wall

    def leap(self, seconds):
        """Let time pass at once."""
        self._now += seconds
        self._wall += seconds


def session_of(client, store, reference="alice", *, policy=POLICY, **settings):
    """Make a session whose events can be looked at."""
    session = SubscriberSession(client, reference, policy=policy, store=store, **settings)
    return watched(session)


def watched(session):
    EVENTS[id(session)] = events = []
    session.subscribe(events.append)
    return session


EVENTS = {}


def failures(session):
    """List the errors of saving that were told."""
    return [event.error for event in EVENTS[id(session)] if event.kind == "persist_failed"]


def kinds(session):
    return [event.kind for event in EVENTS[id(session)]]


def operations(emulator):
    return [entry.operation for entry in emulator.requests]


def key_of_pair(session):
    return session.store_key


async def is_saved(store, session):
    """Tell whether a store holds the pair at hand, and not as one that is being presented."""
    record = (await store.load(key_of_pair(session))).record
    mine = session.pair.refresh_token.value
    return record is not None and record.pair.refresh_token.value == mine and record.presenting is None


async def assert_adopted(client, emulator, store, session, **settings):
    """Open another session: it has the pair of the first, and asks nobody."""
    before = len(emulator.requests)
    async with session_of(client, store, **settings) as second:
        assert await second.token() == await session.token()
        assert second.pair.refresh_token.value == session.pair.refresh_token.value
        assert emulator.accepts(await second.token())
        assert failures(second) == []
    assert len(emulator.requests) == before


TROUBLES = ["refuse", "reset", "lose", "stall", "slow", "slow from now on", "slower than the policy allows"]


def all_of(cases, *, quick):
    """Return all cases as parameters; those that aren't named are slow, since there are so many of them."""
    return [pytest.param(case, id=str(case), marks=() if case in quick else pytest.mark.slow) for case in cases]


@pytest.mark.parametrize("trouble", all_of(TROUBLES, quick=["stall", "slower than the policy allows"]))
async def test_a_session_begins_in_spite_of_its_store(emulator, client, frail, store, trouble):
    """With a pair of its own, which is saved as soon as the store can take it."""
    frail.ail(trouble)
    async with session_of(client, frail.store, policy=frail.policy) as session:
        assert emulator.accepts(await session.token())
        assert operations(emulator) == [ISSUE]
        errors = await eventually(lambda: failures(session))
        assert all(type(error) is StoreError for error in errors)
        assert (await store.load(key_of_pair(session))).record is None
        frail.heal()
        await eventually(lambda: is_saved(store, session))
        await assert_adopted(client, emulator, store, session)
        pair = await session.refresh()
        assert await is_saved(store, session)
        assert emulator.accepts(pair.access_token)
    assert operations(emulator) == [ISSUE, REFRESH]


@pytest.mark.parametrize("kind", all_of(["issued", "from elsewhere"], quick=["issued"]))
async def test_an_outage_is_told_once(client, proxy, frail, store, kind):
    """However often saving is tried."""
    pair = await client.create_subscriber_token("alice")
    frail.ail("refuse")
    session = (
        session_of(client, frail.store)
        if kind == "issued"
        else watched(SubscriberSession.from_pair(client, pair, store=frail.store, policy=POLICY))
    )
    async with session:
        await eventually(lambda: failures(session))
        before = proxy.connections
        await eventually(lambda: proxy.connections > before + 5)
        frail.heal()
        await eventually(lambda: is_saved(store, session))
        assert len(failures(session)) == 1


@pytest.mark.parametrize("trouble", all_of(TROUBLES, quick=["reset"]))
async def test_while_the_token_lives_nothing_is_issued_for_a_store_s_sake(emulator, client, frail, store, trouble):
    """A renewal that is asked for fails with what the store said, and succeeds once it can be saved."""
    async with session_of(client, frail.store, policy=frail.policy) as session:
        token = await session.token()
        await eventually(lambda: is_saved(store, session))
        frail.ail(trouble)
        for _ in range(2):
            with pytest.raises(TokenUnavailable) as caught:
                await session.refresh()
            assert type(caught.value.cause) is StoreError
            assert await session.token() == token
            assert session.state is not SessionState.UNAVAILABLE
        assert operations(emulator) == [ISSUE]
        assert failures(session) == []
        frail.heal()
        await eventually(lambda: session.generation == 2)
        assert emulator.accepts(await session.token())
        assert emulator.accepts(session.pair.refresh_token)
        await eventually(lambda: is_saved(store, session))
        await assert_adopted(client, emulator, store, session)
        await eventually(lambda: kinds(session)[-1] == "recovered")
    assert len(operations(emulator)) == 2


@pytest.mark.parametrize(
    "case", all_of([*itertools.product(TROUBLES, [True, False])], quick=[("slow", True), ("refuse", False)])
)
async def test_a_token_that_is_urgent_does_not_wait_for_the_store(emulator, client, frail, store, case):
    """A pair of one's own is issued rather than the shared one used up, unless nothing may be issued."""
    trouble, reissue = case
    async with session_of(client, frail.store, policy=frail.policy, reissue=reissue) as session:
        await eventually(lambda: is_saved(store, session))
        frail.ail(trouble)
        refused = await session.token()
        session.invalidate(refused)
        token = await session.token()
        assert token != refused
        assert emulator.accepts(token)
        assert operations(emulator) == [ISSUE, ISSUE if reissue else REFRESH]
        assert type((await eventually(lambda: failures(session)))[0]) is StoreError
        frail.heal()
        await eventually(lambda: is_saved(store, session))
        await assert_adopted(client, emulator, store, session)
    assert len(emulator.requests) == 2


async def test_a_store_that_is_slow_but_quick_enough_is_used(emulator, client, proxy, frail, store):
    """A delay of every answer that the policy can bear is no failure."""
    async with session_of(client, frail.store) as session:
        proxy.delay = 0.02
        await session.refresh()
        assert await is_saved(store, session)
        assert failures(session) == []
    assert operations(emulator) == [ISSUE, REFRESH]


@pytest.mark.parametrize("reissue", [True, False], ids=["reissue", "no reissue"])
async def test_a_store_that_was_emptied_is_filled_again(emulator, client, redis_server, store, reissue):
    """With the next renewal; until then nothing is asked of anybody."""
    async with session_of(client, store, reissue=reissue) as session:
        token = await session.token()
        flush(redis_server, store._prefix)
        assert await session.token() == token
        assert operations(emulator) == [ISSUE]
        await session.refresh()
        assert operations(emulator) == [ISSUE, ISSUE if reissue else REFRESH]
        assert emulator.accepts(await session.token())
        assert await is_saved(store, session)
        await assert_adopted(client, emulator, store, session)
        assert failures(session) == []


def flush(server, prefix):
    """Empty a server of what one test has put there, and of nobody else's."""
    with server.client() as client:
        for key in client.scan_iter(f"{prefix}*"):
            client.delete(key)


@pytest.mark.parametrize("how", all_of(["flushed", "restarted"], quick=["flushed"]))
async def test_a_server_that_is_emptied_during_a_renewal_has_the_new_pair(emulator, client, server, how):
    """And whoever comes in between issues a pair, rather than present what is being presented."""
    released = hold_back(client, REFRESH)
    async with (
        store_at(server.url) as store,
        store_at(server.url) as peer,
        session_of(client, store) as session,
        session_of(client, peer) as other,
    ):
        assert operations(emulator) == [ISSUE]
        key = key_of_pair(session)
        renewal = asyncio.create_task(session.refresh())
        await eventually(lambda: REFRESH in operations(emulator))
        if how == "flushed":
            with server.client() as plain:
                plain.flushall()
        else:
            server.kill()
            server.start()
        between = await other.refresh()
        released.set()
        pair = await renewal
        for one in (pair, between):
            assert emulator.accepts(one.access_token)
        assert sorted(operations(emulator)) == [ISSUE, ISSUE, REFRESH]
        kept = (await peer.load(key)).record
        assert kept.presenting is None
        assert emulator.accepts(kept.pair.refresh_token)
        await session.refresh()
        await other.refresh()
        for one in (session, other):
            assert emulator.accepts(await one.token())


@pytest.mark.parametrize("trouble", all_of(TROUBLES, quick=["lose"]))
async def test_a_pair_that_was_got_but_not_saved_is_used_and_saved_later(emulator, client, frail, store, trouble):
    """Where the store fails between the mark and the new pair: that is told, and another replica does not present."""
    released = hold_back(client, REFRESH)
    async with session_of(client, frail.store, policy=frail.policy) as session:
        renewal = asyncio.create_task(session.refresh())
        await eventually(lambda: REFRESH in operations(emulator))  # so the store has answered that the mark is saved
        frail.ail(trouble)
        released.set()
        pair = await renewal
        assert await session.token() == pair.access_token.value
        assert emulator.accepts(pair.access_token)
        assert type((await eventually(lambda: failures(session)))[0]) is StoreError
        frail.heal()
        await eventually(lambda: is_saved(store, session))
        await assert_adopted(client, emulator, store, session)
    assert operations(emulator) == [ISSUE, REFRESH]


async def test_a_server_that_is_killed_and_comes_back_empty_is_used_again(emulator, client, server):
    """The token serves in the meantime; replicas hear of each other again."""
    async with (
        store_at(server.url) as store,
        store_at(server.url) as peer,
        session_of(client, store) as session,
        session_of(client, peer) as other,
    ):
        token = await session.token()
        server.kill()
        with pytest.raises(TokenUnavailable) as caught:
            await session.refresh()
        assert type(caught.value.cause) is StoreError
        assert await session.token() == await other.token() == token
        assert operations(emulator) == [ISSUE]
        server.start()
        await eventually(lambda: server.listeners("signalwire-tokens:news") == 2)
        if session.generation == 1:
            await eventually(lambda: session.generation == 2)
        await eventually(lambda: is_saved(peer, session))
        await session.refresh()
        await eventually(lambda: other.pair.access_token.value == session.pair.access_token.value)
        await assert_adopted(client, emulator, peer, session)


async def test_a_wrong_password_is_told_until_it_is_the_right_one(emulator, client):
    """Nobody has to restart anything."""
    with RedisServer(password="right") as server:
        async with (
            store_at(server.url_with("wrong")) as store,
            session_of(client, store) as session,
        ):
            assert emulator.accepts(await session.token())
            errors = await eventually(lambda: failures(session))
            assert "password" in str(errors[0])
            assert "wrong" not in str(errors[0])
            assert server.dump() == {}
            with server.client() as plain:
                plain.config_set("requirepass", "wrong")
            await eventually(lambda: is_saved(store, session))
            await assert_adopted(client, emulator, store, session)
        assert operations(emulator) == [ISSUE]


async def test_a_replica_with_a_wrong_encryption_key_harms_no_other(emulator, client, redis_server, store):
    """It keeps a pair of its own; given the right key too, it adopts the shared one."""
    async with session_of(client, store) as session:
        async with (
            store_at(redis_server.url, encryption_keys=OTHER_KEY, prefix=store._prefix) as stranger,
            session_of(client, stranger) as other,
        ):
            assert emulator.accepts(await other.token())
            assert await other.token() != await session.token()
            errors = await eventually(lambda: failures(other))
            assert "that isn't in encryption_keys=…" in str(errors[0])
            assert await is_saved(store, session)
            other.invalidate(await other.token())
            assert emulator.accepts(await other.token())
            assert await is_saved(store, session)
            await store.delete(key_of_pair(session))
            await eventually(lambda: is_saved(stranger, other))
            await stranger.delete(key_of_pair(session))
        assert operations(emulator) == [ISSUE] * 3
        await session.refresh()
        async with store_at(redis_server.url, encryption_keys=(OTHER_KEY, KEY), prefix=store._prefix) as mended:
            await assert_adopted(client, emulator, mended, session)


@pytest.mark.parametrize("value", all_of(["a future version", "another type"], quick=["another type"]))
async def test_what_cannot_be_read_is_left_alone(emulator, client, redis_server, store, value):
    """A session goes on without it, and saves its pair once it is gone."""
    async with session_of(client, store) as first:
        key = f"{store._prefix}{{{key_of_pair(first)}}}:pair"
    with redis_server.client() as plain:
        if value == "a future version":
            plain.hset(key, "sealed", b"\x02" + plain.hget(key, "sealed")[1:])
        else:
            plain.delete(key)
            plain.set(key, "somebody's")
        before = plain.dump(key)
        async with session_of(client, store) as session:
            assert emulator.accepts(await session.token())
            errors = await eventually(lambda: failures(session))
            assert type(errors[0]) is (UnreadableRecord if value == "a future version" else StoreError)
            with pytest.raises(TokenUnavailable):
                await session.refresh()
            assert plain.dump(key) == before
            plain.delete(key)
            await eventually(lambda: session.generation == 2)  # the renewal that failed is tried again
            await eventually(lambda: is_saved(store, session))
            await assert_adopted(client, emulator, store, session)


def lasted(began):
    """Return how many seconds may have passed since then, by clocks that round."""
    return SYSTEM.now() - began + ROUNDING


SKEWS = [{"wall": HOUR}, {"wall": -HOUR}, {"now": HOUR}, {"now": -HOUR}, {"now": 1e6, "wall": -10 * HOUR}]


@pytest.mark.parametrize("skew", all_of(SKEWS, quick=SKEWS[-1:]))
async def test_clocks_need_not_agree(emulator, client, store, peer, skew):
    """Each replica knows how long the pair lives, whoever got it, and says so by its own wall clock."""
    clock = Skewed(**skew)
    async with session_of(client, store) as right, session_of(client, peer, clock=clock) as wrong:
        await eventually_listening(store, peer)
        for asks, hears in ((right, wrong), (wrong, right), (right, wrong)):
            began = SYSTEM.now()
            token = (await asks.refresh()).access_token.value
            await eventually(lambda hears=hears, token=token: hears.pair.access_token.value == token)
            assert await hears.token() == token
            assert emulator.accepts(token)
            for one in (asks, hears):
                assert LIFE - lasted(began) <= one.expires_in.total_seconds() <= LIFE
                assert one.state is SessionState.FRESH
        for one, wall in ((right, SYSTEM.wall()), (wrong, clock.wall())):
            assert -ROUNDING <= wall + LIFE - one.pair.access_token.expires_at.timestamp() <= lasted(began)
        assert failures(right) == failures(wrong) == []
        await assert_adopted(client, emulator, store, wrong)
    assert operations(emulator) == [ISSUE, REFRESH, REFRESH, REFRESH]


@pytest.mark.parametrize("skew", all_of(SKEWS, quick=SKEWS[-1:]))
@pytest.mark.parametrize("age", [1000.0, LIFE + 60, LIFE + HOUR], ids=["live", "to be refreshed", "of no use"])
async def test_a_pair_is_as_old_as_the_store_says(emulator, client, store, skew, age):
    """Whatever the clock of whoever takes it up: it is used, refreshed or issued anew."""
    began = SYSTEM.now()
    async with session_of(client, store) as session:
        token, key = await session.token(), key_of_pair(session)
        record = (await store.load(key)).record
    await store.delete(key)
    assert await store.save(key, attrs.evolve(record, asked_at=record.asked_at - age), None)
    async with session_of(client, store, clock=Skewed(**skew)) as session:
        assert emulator.accepts(await session.token())
        assert (await session.token() == token) == (age < LIFE)
        left = LIFE - age if age < LIFE else LIFE
        assert left - lasted(began) <= session.expires_in.total_seconds() <= left + ROUNDING
        assert await is_saved(store, session)
    assert operations(emulator) == [ISSUE, *({1000.0: [], LIFE + 60: [REFRESH]}.get(age, [ISSUE]))]


async def eventually_listening(*stores):
    """Wait until stores hear of what others save."""
    for store in stores:
        channel, client = store._channel, store._server.redis
        await eventually(lambda channel=channel, client=client: listens(client, channel, len(stores)))


async def listens(client, channel, wanted):
    return dict(await client.pubsub_numsub(channel))[channel.encode()] >= wanted


async def test_replicas_share_one_pair(emulator, client, store, peer):
    """The second issues nothing, and the first's renewal reaches it without a request of its own."""
    async with session_of(client, store) as first, session_of(client, peer) as second:
        assert await first.token() == await second.token()
        assert first.pair.subscriber_id == second.pair.subscriber_id is not None
        assert operations(emulator) == [ISSUE]
        await eventually_listening(store, peer)
        for asks, hears in ((first, second), (second, first)):
            generation = hears.generation
            pair = await asks.refresh()
            await eventually(lambda hears=hears, generation=generation: hears.generation > generation)
            assert await hears.token() == pair.access_token.value
            assert hears.pair.refresh_token.value == pair.refresh_token.value
            assert emulator.accepts(pair.access_token)
        assert operations(emulator) == [ISSUE, REFRESH, REFRESH]
        await eventually(lambda: kinds(second).count("rotated") == 2)


async def test_others_do_not_meet(emulator, client, store, redis_server):
    """Other subscribers, other shapes of token and other prefixes have pairs of their own."""
    async with AsyncExitStack() as stack:
        shapes = ({}, {"reference": "bob"}, {"region": "us-central"}, {"lifetime": timedelta(hours=1)})
        sessions = [await stack.enter_async_context(session_of(client, store, **shape)) for shape in shapes]
        elsewhere = await stack.enter_async_context(store_at(redis_server.url, prefix="other:"))
        sessions.append(await stack.enter_async_context(session_of(client, elsewhere)))
        assert len({await session.token() for session in sessions}) == len(sessions)
        await elsewhere.delete(key_of_pair(sessions[-1]))
    assert operations(emulator) == [ISSUE] * 5


@pytest.mark.parametrize(
    "case",
    all_of(
        [*itertools.product([*ROTATIONS], ["refresh", "invalidate"])],
        quick=[("family", "refresh"), ("single-use", "invalidate")],
    ),
)
async def test_many_renew_at_once_with_one_request(redis_server, prefix, case):
    """Whoever is late adopts the pair of the first, whatever the service does with used refresh tokens."""
    rotation, ask = case
    async with (
        Emulator(rotation=rotation) as emulator,
        emulator.client(retries=0, timeout=HANG) as client,
        AsyncExitStack() as stack,
    ):
        stores = [await stack.enter_async_context(store_at(redis_server.url, prefix=prefix)) for _ in range(4)]
        sessions = [await stack.enter_async_context(session_of(client, store)) for store in stores]
        emulator.fail(Delay(0.1), operation=REFRESH)
        refused = await sessions[0].token()
        if ask == "refresh":
            tokens = {pair.access_token.value for pair in await asyncio.gather(*(one.refresh() for one in sessions))}
        else:
            for one in sessions:
                one.invalidate(refused)
            tokens = set(await asyncio.gather(*(one.token() for one in sessions)))
        assert len(tokens) == 1
        assert refused not in tokens
        assert emulator.accepts(tokens.pop())
        assert operations(emulator) == [ISSUE, REFRESH]


async def test_many_begin_at_once_with_one_issue(emulator, client, redis_server, prefix):
    """The others wait for the first."""
    emulator.fail(Delay(0.1), operation=ISSUE)
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(store_at(redis_server.url, prefix=prefix)) for _ in range(4)]
        sessions = await asyncio.gather(*(session_of(client, store).start() for store in stores))
        for session in sessions:
            stack.push_async_callback(session.aclose)
        assert len({await session.token() for session in sessions}) == 1
    assert operations(emulator) == [ISSUE]


HOLD = """
import asyncio, sys
from signalwire_tokens.stores.redis import RedisStore
async def main(url, keys, prefix, key, ttl):
    store = RedisStore(url, encryption_keys=keys, prefix=prefix, timeout=300)
    async with store, store.lease(key, float(ttl)) as held:
        print("held" if held else "not held", flush=True)
        await asyncio.Event().wait()
asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def held_elsewhere(url, prefix, key, ttl):
    """Hold a lease in another process, for as long as it lives."""
    arguments = (url, KEY, prefix, key, str(ttl))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert await process.stdout.readline() == b"held\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def lost_lease(url, prefix, key, ttl, how):
    """Take a lease that its holder can't give back."""
    if how == "killed":
        async with held_elsewhere(url, prefix, key, ttl) as process:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        yield
    else:
        async with store_at(url, prefix=prefix) as other, AsyncExitStack() as late:
            assert await late.enter_async_context(other.lease(key, ttl))
            yield


@pytest.mark.parametrize("how", ["lost", pytest.param("killed", marks=pytest.mark.slow)])  # which starts a process
async def test_a_holder_that_was_killed_is_replaced(emulator, client, redis_server, store, how):
    """As soon as its lease ends, and not before; the token serves in the meantime."""
    async with session_of(client, store) as session:
        token, wanted = await session.token(), leases_wanted(store)
        lease = f"{store._prefix}{{{key_of_pair(session)}}}:lease"
        with redis_server.client() as plain:
            async with lost_lease(redis_server.url, store._prefix, key_of_pair(session), POLICY.tuning.lease, how):
                holder = plain.get(lease)
                assert 0 < plain.pttl(lease) <= POLICY.tuning.lease * 1000, (
                    "it must not have been given back, and must end"
                )
                renewal = asyncio.create_task(session.refresh())
                await eventually(lambda: len(wanted) > 5 or renewal.done())
                assert not renewal.done(), "the lease was not waited for"
                assert await session.token() == token
                assert operations(emulator) == [ISSUE]
                assert plain.get(lease) == holder, "it was taken before its end"
                plain.pexpire(lease, int(SOON * 1000))
                await renewal
                assert await is_saved(store, session)
                assert not plain.exists(lease)
    assert operations(emulator) == [ISSUE, REFRESH]


async def test_a_lease_that_is_held_for_too_long_is_not_waited_for(emulator, client, store):
    """Whoever starts issues a pair, which is saved, whoever holds the lease."""
    clock, wanted = Skewed(), leases_wanted(store)

    async def wait_for_too_long():
        turned_away = len(wanted) + 2
        await eventually(lambda: len(wanted) >= turned_away)
        clock.leap(3 * POLICY.tuning.lease)

    session = session_of(client, store, clock=clock)
    async with store.lease(key_of_pair(session), HOUR) as held:
        assert held
        starting = asyncio.create_task(session.start())
        await wait_for_too_long()
        async with aclosing(await starting):
            assert emulator.accepts(await session.token())
            assert "held the lease for more than" in str((await eventually(lambda: failures(session)))[0])
            await eventually(lambda: is_saved(store, session))
            renewal = asyncio.create_task(session.refresh())
            await wait_for_too_long()
            with pytest.raises(TokenUnavailable, match="no new token for session"):
                await renewal
    assert operations(emulator) == [ISSUE]


async def test_a_refresh_token_that_may_have_been_presented_is_not_presented(emulator, client, store, peer):
    """Where somebody died over it, a pair is issued anew; the access token serves until then."""
    async with session_of(client, store) as session:
        key = key_of_pair(session)
        record = (await store.load(key)).record
        await client.refresh_subscriber_token(record.pair.refresh_token)
        assert await store.save(key, attrs.evolve(record, presenting="somebody who died"), record.digest)
        async with session_of(client, peer) as other:
            assert await other.token() == await session.token()
            await other.refresh()
            assert await is_saved(store, other)
        pair = await session.refresh()
        assert emulator.accepts(pair.access_token)
    assert operations(emulator).count(ISSUE) == 2


async def test_a_lost_answer_is_not_asked_for_again_by_anybody(emulator, client, store, peer):
    """The mark stays, and says so to the others."""
    async with session_of(client, store) as first, session_of(client, peer) as second:
        emulator.fail(Reset(applied=True), operation=REFRESH)
        with pytest.raises(TokenUnavailable):
            await first.refresh()
        pair = await second.refresh()
        assert emulator.accepts(pair.access_token)
        await eventually(lambda: first.pair.access_token.value == second.pair.access_token.value)
        assert emulator.accepts(first.pair.refresh_token)
    assert operations(emulator) == [ISSUE, REFRESH, ISSUE]


async def test_a_refresh_that_was_turned_away_leaves_no_mark(emulator, client, store, peer):
    """Nothing was done with the refresh token, and another may present it."""
    policy = attrs.evolve(POLICY, backoff_min=HOUR, backoff_max=HOUR)  # so that it is not tried again meanwhile
    async with session_of(client, store, policy=policy) as session:
        emulator.fail(Status(429), operation=REFRESH)
        with pytest.raises(TokenUnavailable):
            await session.refresh()
        assert await is_saved(peer, session)
        async with session_of(client, peer) as other:
            await eventually(lambda: other.pair.access_token.value == session.pair.access_token.value)
            await other.refresh()
    assert set(operations(emulator)[1:]) == {REFRESH}


async def test_without_a_reissue_the_pair_is_shared_all_the_same(emulator, client, store, peer):
    """It is issued once, and presented by whoever renews; a restart finds its successor."""
    async with session_of(client, store, reissue=False) as first:
        async with session_of(client, peer, reissue=False) as second:
            await eventually_listening(store, peer)
            await first.refresh()
            await eventually(lambda: first.pair.access_token.value == second.pair.access_token.value)
            await second.refresh()
            await eventually(lambda: first.pair.access_token.value == second.pair.access_token.value)
        await assert_adopted(client, emulator, peer, first, reissue=False)
        token = await first.token()
    async with session_of(client, peer, reissue=False) as restarted:
        assert await restarted.token() == token
        await restarted.refresh()
    assert operations(emulator) == [ISSUE, REFRESH, REFRESH, REFRESH]


async def test_a_pair_from_elsewhere_outlives_a_restart_with_the_same_pair(emulator, client, store, peer):
    """Its successor is found in the store, although the pair itself has been used up."""
    pair = await client.create_subscriber_token("alice")
    async with watched(SubscriberSession.from_pair(client, pair, store=store, policy=POLICY)) as session:
        assert await session.token() == pair.access_token.value
        await eventually(lambda: is_saved(peer, session))
        await session.refresh()
        successor = session.pair
        assert await is_saved(peer, session)
    assert not emulator.accepts(pair.refresh_token)
    async with watched(SubscriberSession.from_pair(client, pair, store=peer, policy=POLICY)) as session:
        await eventually(lambda: session.pair.access_token.value == successor.access_token.value)
        assert operations(emulator) == [ISSUE, REFRESH]
        await session.refresh()
        assert emulator.accepts(await session.token())
    async with watched(SubscriberSession.from_pair(client, pair, store=peer, policy=POLICY)) as session:
        await session.refresh()  # at once, before the store was looked into for the successor
        assert emulator.accepts(await session.token())
    assert REFUSED not in [entry.status for entry in emulator.requests]


async def test_a_pair_from_elsewhere_is_saved_when_the_store_comes_back(emulator, client, frail, store):
    """Until then it is not presented: somebody may have done that, and its successor be in the store."""
    pair = await client.create_subscriber_token("alice")
    frail.ail("refuse")
    async with watched(SubscriberSession.from_pair(client, pair, store=frail.store, policy=POLICY)) as session:
        assert await session.token() == pair.access_token.value
        await eventually(lambda: failures(session))
        session.invalidate(pair.access_token)
        waiting = asyncio.create_task(session.token())
        for _ in range(2):
            with pytest.raises(TokenUnavailable) as caught:
                await session.refresh()
            assert isinstance(caught.value.cause, StoreError)
        assert operations(emulator) == [ISSUE]
        assert not waiting.done()
        frail.heal()
        assert emulator.accepts(await waiting)
        await eventually(lambda: is_saved(store, session))
        assert session.generation == 2
    assert operations(emulator) == [ISSUE, REFRESH]


async def test_sessions_with_a_lifetime_share_their_tokens_too(emulator, client, store, peer):
    """Which are issued anew each time, by one of them."""
    settings = {"lifetime": timedelta(minutes=10)}
    async with session_of(client, store, **settings) as first, session_of(client, peer, **settings) as second:
        assert await first.token() == await second.token()
        await eventually_listening(store, peer)
        await first.refresh()
        await eventually(lambda: first.pair.access_token.value == second.pair.access_token.value)
        assert second.expires_in < timedelta(minutes=10)
        await asyncio.gather(first.refresh(), second.refresh())
        assert emulator.accepts(await second.token())
    assert operations(emulator) == [ISSUE, ISSUE, ISSUE]


async def test_a_token_that_one_replica_found_refused_is_replaced_for_all(emulator, client, store, peer):
    """The others adopt the new one, and telling them of the old one does nothing more."""
    async with session_of(client, store) as first, session_of(client, peer) as second:
        await eventually_listening(store, peer)
        refused = await first.token()
        first.invalidate(refused)
        token = await first.token()
        assert token != refused
        await eventually(lambda: second.pair.access_token.value == token)
        second.invalidate(refused)
        assert await second.token() == token
        assert emulator.accepts(token)
    assert operations(emulator) == [ISSUE, REFRESH]


async def test_a_token_that_was_refused_is_not_taken_from_the_store_again(emulator, client, store, peer):
    """Neither by a renewal, nor with news of the pair that is in the store."""
    async with session_of(client, store, policy=attrs.evolve(POLICY, wait_timeout=SOON)) as session:
        await eventually_listening(store)
        refused, key = await session.token(), key_of_pair(session)
        emulator.fail(Status(503), times=None)
        session.invalidate(refused)
        with pytest.raises(TokenUnavailable):
            await session.token()
        load, looks = store.load, []

        async def look(*args):
            looks.append(await load(*args))
            return looks[-1]

        store.load = look
        record = (await peer.load(key)).record

        async def news_was_looked_at():
            """Save again and again: a session that is just trying to renew ignores news."""
            assert await peer.save(key, attrs.evolve(record, presenting=None), record.digest)
            return looks

        await eventually(news_was_looked_at)
        assert session.generation == 1
        assert session.state is SessionState.UNAVAILABLE
        emulator.clear_faults()
        assert await eventually(lambda: session.generation == 2)
        assert await session.token() != refused
        assert emulator.accepts(await session.token())


async def test_what_was_not_saved_is_saved_at_the_end(emulator, client, frail, store):
    """In one last attempt, when the session is closed."""
    frail.ail("refuse")
    policy = attrs.evolve(POLICY, backoff_min=HOUR, backoff_max=HOUR)
    async with session_of(client, frail.store, policy=policy) as session:
        token = await session.token()
        frail.heal()
    assert (await store.load(key_of_pair(session))).record.pair.access_token.value == token


@pytest.mark.parametrize("trouble", ["stall", "slower than the policy allows"])
async def test_a_session_closes_though_its_store_is_gone(client, frail, caplog, trouble):
    """It logs that the pair was not saved, without the token."""
    frail.ail(trouble)
    async with session_of(client, frail.store, policy=frail.policy) as session:
        token = await session.token()
    assert "the session closed before its pair was saved" in caplog.text
    assert token not in caplog.text


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "plaintext"])
async def test_no_token_of_a_session_passes_unsealed(client, redis_server, proxy, prefix, sealed):
    """Neither on the way to the server, nor in what it holds, unless plaintext was asked for."""
    how = {"encryption_keys": KEY} if sealed else {"plaintext": True}
    async with (
        RedisStore(proxy.url, prefix=prefix, timeout=HANG, **how) as store,
        session_of(client, store) as session,
    ):
        pairs, held = [session.pair], [redis_server.dump(prefix)]
        for _ in range(2):
            pairs.append(await session.refresh())
            held.append(redis_server.dump(prefix))
    for pair in pairs:
        for half in (pair.access_token, pair.refresh_token):
            assert (half.value.encode() in proxy.heard) is not sealed
            assert (half.value in repr(held)) is not sealed
    assert "alice" not in repr(held)
    assert b"alice" not in proxy.heard
