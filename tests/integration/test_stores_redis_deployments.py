"""The store and the governor on real deployments: Sentinel, a cluster, TLS, a restricted user, your own client."""

import asyncio
import re
import shutil
from contextlib import asynccontextmanager, suppress
from itertools import count
from uuid import uuid4

import pytest
import redis.asyncio
import trustme
from redis.asyncio import RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import MovedError

from signalwire_tokens import ConfigurationError, StoreError
from signalwire_tokens.governors.redis import RedisGovernor
from signalwire_tokens.stores import generate_encryption_key, key_of
from signalwire_tokens.stores import redis_server as redis_server_module
from signalwire_tokens.stores.redis import RedisStore
from signalwire_tokens.testing import GovernorConformance, StoreConformance
from signalwire_tokens.testing.conformance import make_record, record_of
from support.paths import ROOT
from support.processes import reserve_port
from support.redis_server import ClusterServers, RedisServer, SentinelServers
from support.waiting import HANG, eventually

pytestmark = pytest.mark.redis
KEY = generate_encryption_key()
NUMBERS = count(1)
SAVES = 50


@pytest.fixture
def prefix():
    return f"test-{uuid4()}:"


@pytest.fixture
def key():
    return key_of(("deployments", str(next(NUMBERS))))


@asynccontextmanager
async def store_on(connected, prefix, **settings):
    """Yield a store on a client, which is closed afterwards, as by your app."""
    async with (
        connected as client,
        RedisStore(client, encryption_keys=KEY, prefix=prefix, **{"timeout": HANG, **settings}) as store,
    ):
        yield store


@pytest.fixture(scope="module")
def sentinel():
    with SentinelServers() as servers:
        yield servers


@pytest.fixture(scope="module")
def cluster():
    with ClusterServers() as servers:
        yield servers


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory):
    """Run a Redis with TLS, which the tests' Valkey hasn't. Yield its URL."""
    place, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    authority.cert_pem.write_to_path(place / "authority")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(place / "key")
    certificate.cert_chain_pems[0].write_to_path(place / "certificate")
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("it needs a Redis with TLS: apt-get install redis-server")
    with reserve_port() as port:
        settings = {"port": port, "cert-file": place / "certificate", "key-file": place / "key"}
        settings |= {"ca-cert-file": place / "authority", "auth-clients": "no"}
        options = [one for name, value in settings.items() for one in (f"--tls-{name}", str(value))]
        with RedisServer(*options, program=program):
            yield f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={place / 'authority'}"


class OnDeployment(StoreConformance):
    """The suite on a deployment: `connect` is a fixture with a function that returns a client."""

    calls_watchers = True

    @pytest.fixture
    async def store(self, connect, prefix):
        async with store_on(connect(), prefix) as store:
            yield store

    @pytest.fixture
    async def peer(self, connect, prefix):
        async with store_on(connect(), prefix) as store:
            yield store


class TestStoreOnYourOwnClient(OnDeployment):
    """Your client may decode what it reads."""

    @pytest.fixture
    def connect(self, redis_server):
        return lambda: redis.asyncio.from_url(redis_server.url, decode_responses=True)


@pytest.mark.slow
class TestStoreThroughSentinel(OnDeployment):
    """Each save waits for the replica."""

    @pytest.fixture
    def connect(self, sentinel):
        return sentinel.connect

    @pytest.fixture
    async def store(self, connect, prefix):
        async with store_on(connect(), prefix, min_replicas=1) as store:
            yield store


@pytest.mark.slow
class TestStoreOnCluster(OnDeployment):
    @pytest.fixture
    def connect(self, cluster):
        return cluster.connect


@pytest.mark.slow
class TestStoreDuringASlotMigration(OnDeployment):
    """The slot of the tests' key is on its way from one server to another."""

    @pytest.fixture
    def connect(self, cluster):
        return cluster.connect

    @pytest.fixture
    def key(self, cluster, prefix, key):
        with cluster.moving(f"{prefix}{{{key}}}:pair"):
            yield key


@pytest.mark.slow
class TestStoreWithTLS(OnDeployment):
    @pytest.fixture
    def connect(self, tls_server):
        return lambda: redis.asyncio.from_url(tls_server)


class GovernorOnDeployment(GovernorConformance):
    """The suite of the governor on a deployment, as above."""

    @pytest.fixture
    async def governor(self, connect, prefix):
        async with connect() as client, RedisGovernor(client, max_rate=1000.0, prefix=prefix, timeout=HANG) as governor:
            yield governor

    @pytest.fixture
    async def peer(self, connect, prefix):
        async with connect() as client, RedisGovernor(client, max_rate=1000.0, prefix=prefix, timeout=HANG) as governor:
            yield governor


@pytest.mark.slow
class TestGovernorThroughSentinel(GovernorOnDeployment):
    @pytest.fixture
    def connect(self, sentinel):
        return sentinel.connect


@pytest.mark.slow
class TestGovernorOnCluster(GovernorOnDeployment):
    @pytest.fixture
    def connect(self, cluster):
        return cluster.connect


@pytest.mark.slow
async def test_an_account_that_moves_to_another_server_is_limited_by_shares_meanwhile(cluster, prefix, caplog):
    """Its two keys are on two servers for a moment, and no script can use both. Afterwards, all is as before."""
    async with (
        cluster.connect() as client,
        RedisGovernor(client, max_rate=1000.0, prefix=prefix, account="moves", timeout=HANG) as governor,
    ):
        assert await governor.turn(1000.0, HANG)
        with cluster.moving(f"{prefix}{{moves}}:turns") as (source, target):
            source.run("migrate", "127.0.0.1", target.port, f"{prefix}{{moves}}:turns", 0, 5000)
            assert await governor.turn(1000.0, HANG)
            assert governor.is_away
            assert "TRYAGAIN: some of the keys are on their way to another server" in caplog.text
        await eventually(lambda: not governor.is_away)
        assert await governor.turn(1000.0, HANG)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
async def test_a_failover_loses_no_save_that_was_confirmed(prefix, replicas):
    """While saves go on, Sentinel makes a replica the primary. That one has all saves that all replicas confirmed."""
    saved = {}

    async def save():
        with suppress(StoreError):  # neither server may be usable for a moment
            key = key_of(("failover", str(next(NUMBERS))))
            record = await make_record(store, key)
            if await store.save(key, record, None):
                saved[key] = record.digest

    with SentinelServers(replicas) as servers:
        async with store_on(servers.connect(), prefix, timeout=1.0, min_replicas=replicas) as store:
            while len(saved) < SAVES:
                await save()
            servers.fail_over()
            while await asyncio.to_thread(lambda: servers.primary_port) == servers.first.port:
                await asyncio.gather(*(save() for _ in range(5)))
            before = len(saved)
            while len(saved) == before:
                await save()
        async with store_on(servers.connect(), prefix) as store:
            assert len(saved) > SAVES
            for key, digest in saved.items():
                assert record_of(await store.load(key)).digest == digest


@pytest.fixture
def waits_briefly(monkeypatch):
    """Limit the wait for replicas to a small part of the time for a command."""
    monkeypatch.setattr(redis_server_module, "WAIT_PART", 0.1 / HANG)


@pytest.mark.usefixtures("waits_briefly")
async def test_without_replicas_no_save_is_confirmed(redis_server, prefix, key):
    """The error names the reason."""
    async with store_on(redis.asyncio.from_url(redis_server.url), prefix, min_replicas=1) as store:
        record = await make_record(store, key)
        with pytest.raises(StoreError, match=f"#{key[:8]}: the server answered NOREPLICAS: it has too few replicas"):
            await store.save(key, record, None)


@pytest.mark.usefixtures("waits_briefly")
async def test_a_server_that_refuses_a_script_says_so_with_replicas_too(redis_server, prefix, key):
    """An error among the answers of several commands is raised like any other."""
    async with store_on(redis.asyncio.from_url(redis_server.url), prefix, min_replicas=1) as store:
        redis_server.run("set", f"{prefix}{{{key}}}:pair", "foreign")
        with pytest.raises(StoreError, match="WRONGTYPE: another application uses the same prefix"):
            await store.save(key, await make_record(store, key_of((key,))), None)


async def test_a_server_of_a_cluster_that_can_not_write_is_named_in_the_error(cluster, prefix, key):
    """Each attempt asks the cluster again where the key is. Once the server can write, the store works."""
    async with store_on(cluster.connect(), prefix) as store:
        record = await make_record(store, key)
        for node in cluster.nodes:
            node.run("config", "set", "min-replicas-to-write", "1")
        with pytest.raises(StoreError, match="the server answered NOREPLICAS: it has too few replicas"):
            await store.save(key, record, None)
        for node in cluster.nodes:
            node.run("config", "set", "min-replicas-to-write", "0")
        assert await store.save(key, record, None)


async def test_an_error_of_the_server_to_which_a_slot_moves_is_raised(cluster, prefix, key):
    """Like that of any server."""
    name = f"{prefix}{{{key}}}:pair"
    async with store_on(cluster.connect(), prefix) as store:
        cluster.owner_of(cluster.slot_of(name)).run("set", name, "foreign")
        with cluster.moving(name) as (source, target):
            source.run("migrate", "127.0.0.1", target.port, name, 0, 5000)
            with pytest.raises(StoreError, match="WRONGTYPE: another application uses the same prefix"):
                await store.load(key)


async def test_a_slot_that_moves_twice_is_found(cluster, prefix, key):
    """First unseen, and then it is on its way again, while the client has many connections."""
    name = f"{prefix}{{{key}}}:pair"
    async with store_on(cluster.connect(), prefix) as store:
        record = await make_record(store, key)
        assert await store.save(key, record, None)
        await asyncio.gather(*(store.load(key_of((key, str(number)))) for number in range(40)))
        with cluster.moving(name):
            pass
        with cluster.moving(name) as (source, target):
            source.run("migrate", "127.0.0.1", target.port, name, 0, 5000)
            assert record_of(await store.load(key)).digest == record.digest


@pytest.mark.slow
async def test_a_user_of_a_cluster_needs_no_more_commands_than_are_listed(cluster, prefix, key):
    """The how-to lists them. Slots may move meanwhile."""
    page = (ROOT / "docs/guides/redis-postgres.md").read_text()
    listed = [re.findall(pattern, page)[0] for pattern in (r"run `EVAL`.*", r"with `min_replicas`; (.*) on a cluster")]
    commands = [f"+{name.lower()}" for name in re.findall(r"`([A-Z]+)`", " ".join(listed)) if name != "SELECT"]
    for node in cluster.nodes:
        node.run("ACL", "SETUSER", "restricted", "on", ">hush", "~*", "&*", "-@all", *commands)
    client = RedisCluster("127.0.0.1", cluster.port, username="restricted", password="hush")
    async with store_on(client, prefix) as store:
        heard, record = asyncio.Event(), await make_record(store, key)
        store.watch(key, heard.set)
        with cluster.moving(f"{prefix}{{{key}}}:pair"):
            while not heard.is_set():
                assert await store.save(key, record, None)
                await asyncio.sleep(0.01)
            async with store.lease(key, 1.0) as held:
                assert held


@pytest.mark.slow
async def test_a_user_needs_one_more_command_to_wait_for_replicas(sentinel, prefix, key):
    """The how-to names it."""
    page = (ROOT / "docs/guides/redis-postgres.md").read_text()
    assert "`WAIT` with `min_replicas`" in page
    commands = ["+eval", "+hget", "+hset", "+pexpireat", "+time", "+publish", "+wait", "+hello", "+client"]
    sentinel.first.run("ACL", "SETUSER", "waiting", "on", ">hush", "~*", "&*", "-@all", *commands)
    url = f"redis://waiting:hush@127.0.0.1:{sentinel.first.port}/0"
    async with RedisStore(url, encryption_keys=KEY, prefix=prefix, timeout=HANG, min_replicas=1) as store:
        assert await store.save(key, await make_record(store, key), None)


@pytest.mark.slow
async def test_a_service_that_sentinel_does_not_know_is_named(sentinel, prefix, key):
    """The name may be wrong, or there is no primary at the moment."""
    client = Sentinel([("127.0.0.1", sentinel.port)])
    async with store_on(client.master_for("nonsense"), prefix) as store:
        with pytest.raises(StoreError, match="Sentinel knows no primary of this service"):
            await store.load(key)
    await client.aclose()


@pytest.mark.slow
@pytest.mark.parametrize("connections", [1, 20])
async def test_connections_to_a_cluster_that_were_lost_are_replaced(cluster, prefix, key, connections):
    """However many there are."""
    async with store_on(cluster.connect(), prefix) as store:
        await asyncio.gather(*(store.load(key) for _ in range(connections)))
        cluster.owner_of(cluster.slot_of(f"{prefix}{{{key}}}:pair")).run("CLIENT", "KILL", "TYPE", "normal")
        assert (await store.load(key)).record is None


async def test_a_slot_that_is_never_found_is_an_error(cluster, prefix, key, monkeypatch):
    """Servers that name each other for ever are asked a few times only."""
    async with store_on(cluster.connect(), prefix) as store:
        await store.load(key)
        calls = []

        async def moved(self, *_, **__):
            calls.append(self)
            raise MovedError(f"1 127.0.0.1:{cluster.port}")

        monkeypatch.setattr(ClusterNode, "execute_command", moved)
        with pytest.raises(StoreError, match="MovedError"):
            await store.load(key)
        monkeypatch.undo()
        assert 1 < len(calls) < 10


@pytest.mark.slow
async def test_a_key_that_has_moved_is_found(cluster, prefix, key):
    """The client learns where its slot is now, and calls at the same time don't disturb each other."""
    async with store_on(cluster.connect(), prefix) as store, store_on(cluster.connect(), prefix) as peer:
        for _ in range(3):
            record = await make_record(store, key)
            held = (await store.load(key)).record
            with cluster.moving(f"{prefix}{{{key}}}:pair"):
                assert await store.save(key, record, None if held is None else held.digest)
                readings = await asyncio.gather(*(one.load(key) for one in (store, peer) for _ in range(10)))
                assert {reading.record.digest for reading in readings} == {record.digest}
            assert (await peer.load(key)).record.digest == record.digest


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (redis.Redis, r"not redis\.client\.Redis"),
        (redis.asyncio.ConnectionPool, r"not redis\.asyncio\.connection\.ConnectionPool"),
        (lambda: Sentinel([("127.0.0.1", 1)]).slave_for("x"), r"use master_for\(\) instead of slave_for\(\)"),
    ],
    ids=["blocking", "pool", "replica"],
)
def test_a_client_that_cannot_be_used_is_refused(make, words):
    """When the store is made."""
    with pytest.raises(ConfigurationError, match=words):
        RedisStore(make(), encryption_keys=KEY)


@pytest.mark.parametrize("number", [-1, 1.5, True, "1"])
def test_a_wrong_number_of_replicas_is_refused(number):
    """When the store is made."""
    with pytest.raises(ConfigurationError, match="RedisStore: min_replicas must be a whole number, 0 or more"):
        RedisStore("redis://127.0.0.1/0", encryption_keys=KEY, min_replicas=number)


def test_replicas_of_a_cluster_are_not_waited_for():
    """Its client can't send two commands on one connection."""
    with pytest.raises(ConfigurationError, match="min_replicas works with one primary only"):
        RedisStore(RedisCluster("127.0.0.1", 1), encryption_keys=KEY, min_replicas=1)


def test_a_client_is_described_without_its_password():
    """By where it leads to."""
    shown = [
        repr(RedisStore(client, encryption_keys=KEY))
        for client in (
            redis.asyncio.from_url("redis://user:hush@127.0.0.1:5/2"),
            Sentinel([("127.0.0.1", 1)], password="hush").master_for("mine", password="hush", db=1),
            RedisCluster("127.0.0.1", 7, password="hush"),
        )
    ]
    assert shown == ["RedisStore(127.0.0.1:5/2)", "RedisStore(mine of Sentinel/1)", "RedisStore(cluster 127.0.0.1:7)"]


async def test_your_client_stays_open(redis_server, prefix, key):
    """A store closes only what it has opened."""
    async with redis.asyncio.from_url(redis_server.url) as client:
        async with RedisStore(client, encryption_keys=KEY, prefix=prefix, timeout=HANG) as store:
            await store.load(key)
        connections = client.connection_pool._available_connections
        assert await client.ping()
        assert client.connection_pool._available_connections == connections
