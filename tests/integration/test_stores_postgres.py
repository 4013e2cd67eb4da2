"""The store on a PostgreSQL server: a real one, PgBouncer in front of it, and a proxy that harms what passes."""

import asyncio
import importlib
import itertools
import logging
import math
import re
import socket
import ssl
import sys
import traceback
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import asyncpg
import pytest

from signalwire_tokens import ConfigurationError, StoreError
from signalwire_tokens.models import Token, TokenPair
from signalwire_tokens.secret import Secret
from signalwire_tokens.stores import Record, generate_encryption_key, key_of, postgres
from signalwire_tokens.stores import postgres_server as postgres_server_module
from signalwire_tokens.stores.postgres import PostgresStore
from signalwire_tokens.testing import StoreConformance
from signalwire_tokens.testing.conformance import make_record, record_of
from support.faulty_redis import Proxy, nonsense
from support.paths import ROOT
from support.postgres_server import PgBouncer, PostgresServer, find_pgbouncer
from support.waiting import HANG, eventually

KEY = generate_encryption_key()
NUMBERS = itertools.count(1)
MARK = "hush"  # in everything that must not be shown
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def bouncer(postgres_server):
    with PgBouncer(postgres_server) as bouncer:
        yield bouncer


needs_pgbouncer = pytest.mark.skipif(find_pgbouncer() is None, reason="it needs PgBouncer: apt-get install pgbouncer")


@pytest.fixture
async def table(postgres_server):
    """Create tables of the test's own."""
    table = f"tokens_{uuid4().hex}"
    async with PostgresStore(postgres_server.dsn, encryption_keys=KEY, table=table, timeout=HANG) as store:
        await store.create_schema()
    return table


@pytest.fixture
def key():
    return key_of(("postgres", str(next(NUMBERS))))


def as_dsn(url):
    """Return the DSN of the server to which a proxy of `faulty_redis` leads."""
    return url.replace("redis://", "postgresql://owner@").replace("/0", "/postgres")


def store_at(server, table, **settings):
    """Return a store that waits for an answer as long as it takes."""
    keys = () if settings.get("plaintext") else KEY
    return PostgresStore(server, **{"encryption_keys": keys, "table": table, "timeout": HANG, **settings})


@pytest.fixture
async def store(postgres_server, table):
    async with store_at(postgres_server.dsn, table) as store:
        yield store


class TestPostgresStore(StoreConformance):
    calls_watchers = True

    @pytest.fixture
    async def store(self, postgres_server, table):
        async with store_at(postgres_server.dsn, table) as store:
            yield store

    @pytest.fixture
    async def peer(self, postgres_server, table):
        async with store_at(postgres_server.dsn, table) as store:
            yield store


@asynccontextmanager
async def store_on_pool(dsn, table, **settings):
    # With a `min_size`, asyncpg connects in a task, whose cancellation at the end may leave an error in the event loop.
    async with asyncpg.create_pool(dsn, min_size=0, max_size=2) as pool, store_at(pool, table, **settings) as store:
        yield store


@pytest.mark.slow  # it is the same suite once more
class TestPostgresStoreOnYourPool(StoreConformance):
    """Which is small, and prepares statements."""

    calls_watchers = True

    @pytest.fixture
    async def store(self, postgres_server, table):
        async with store_on_pool(postgres_server.dsn, table, listen_dsn=postgres_server.dsn) as store:
            yield store

    @pytest.fixture
    async def peer(self, postgres_server, table):
        async with store_on_pool(postgres_server.dsn, table) as store:
            yield store


@pytest.mark.slow
@needs_pgbouncer
class TestPostgresStoreBehindPgBouncer(StoreConformance):
    """In transaction mode, without a way around it."""

    calls_watchers = True

    @pytest.fixture
    async def store(self, bouncer, table, monkeypatch):
        monkeypatch.setattr("signalwire_tokens.stores.postgres.PROBE_TIMEOUT", 0.2)
        monkeypatch.setattr("signalwire_tokens.stores.postgres.POLL_EVERY", 0.05)
        async with store_at(bouncer.dsn, table) as store:
            yield store

    @pytest.fixture
    async def peer(self, bouncer, table):
        async with store_at(bouncer.dsn, table) as store:
            yield store


# Failures.


async def failures(store, key):
    """Try each operation; return the errors of those that failed, by operation. None of them may show a secret."""

    async def lease():
        async with store.lease(key, 1.0):
            pass

    errors = {}
    works = {"load": store.load(key), "save": store.save(key, hidden_record(), None), "lease": lease()}
    for name, work in (works | {"delete": store.delete(key)}).items():
        try:
            await work
        except StoreError as error:
            errors[name] = error
    for error in errors.values():
        assert str(error).startswith(f"{store!r}: #{key[:8]}: ")
        assert key not in str(error)
        assert MARK not in "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    return errors


def hidden_record():
    now = datetime.now(UTC)
    halves = [Token(value=f"{MARK}-{name}", issued_at=now, expires_at=now + HOUR) for name in ("access", "refresh")]
    pair = TokenPair(access_token=halves[0], refresh_token=halves[1])
    return Record(pair=pair, asked_at=now.timestamp(), asked_wall=now.timestamp())


async def reasons(store, key):
    """Return why operations fail, without repetitions."""
    errors = await failures(store, key)
    return {str(error).partition(f"#{key[:8]}: ")[2] for error in errors.values()}


async def test_missing_tables_are_named_with_the_way_to_create_them(postgres_server, key):
    """Which may be done twice, and by two processes at once."""
    async with (
        store_at(postgres_server.dsn, f"late_{uuid4().hex}") as store,
        store_at(postgres_server.dsn, store._table) as peer,
    ):
        (reason,) = await reasons(store, key)
        assert reason.startswith("the server answered 42P01: the store's tables are missing. Run `await store.create")
        await asyncio.gather(*(one.create_schema() for one in (store, peer) * 3))
        assert await failures(store, key) == {}


async def test_a_table_may_be_in_a_schema_of_its_own(postgres_server, key):
    """Its name and the schema's are in `schema`, which your own migrations may run."""
    schema = f"auth_{uuid4().hex[:8]}"
    connection = await asyncpg.connect(postgres_server.dsn)
    await connection.execute(f"CREATE SCHEMA {schema}")
    async with store_at(postgres_server.dsn, f"{schema}.tokens") as store:
        await connection.execute(store.schema)
        assert await failures(store, key) == {}
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1 ORDER BY 1", schema)
    assert [row[0] for row in tables] == ["tokens", "tokens_leases"]
    await connection.close()


def test_the_page_has_the_sql_of_the_store():
    """So that you can run it in your own migrations."""
    page = (ROOT / "docs/guides/redis-postgres.md").read_text()
    (shown,) = re.findall(r"^```sql\n(CREATE TABLE .*?)^```", page, re.MULTILINE | re.DOTALL)
    assert shown == PostgresStore("postgresql://h", encryption_keys=KEY).schema


async def test_a_user_needs_no_more_rights_than_are_listed(postgres_server, table, key):
    """The how-to lists them. Without them, the error says so."""
    user = f"app_{uuid4().hex[:8]}"
    (rights,) = re.findall(r"^GRANT (.*) ON ", (ROOT / "docs/guides/redis-postgres.md").read_text(), re.MULTILINE)
    connection = await asyncpg.connect(postgres_server.dsn)
    await connection.execute(f"CREATE USER {user}")
    async with store_at(postgres_server.dsn_of(user), table) as store:
        assert await reasons(store, key) == {"the server answered 42501: the user lacks a right"}
        await connection.execute(f"GRANT {rights} ON {table}, {table}_leases TO {user}")
        heard = asyncio.Event()
        store.watch(key, heard.set)
        store._swept_at = -math.inf
        while not heard.is_set():
            await store.delete(key)
            assert await store.save(key, hidden_record(), None)
            await asyncio.sleep(0.01)
        assert await failures(store, key) == {}
    await connection.close()


async def test_a_wrong_password_is_named_but_not_shown(postgres_server, table, key):
    """The same goes for a database that isn't there."""
    with PostgresServer(hba="host all all 127.0.0.1/32 scram-sha-256\n") as server:
        async with store_at(server.dsn_of(password=MARK), table) as store:
            assert repr(store) == f"PostgresStore(127.0.0.1:{server.port}/postgres)"
            assert await reasons(store, key) == {"the server answered 28P01: it refused the user name or password"}
    async with store_at(postgres_server.dsn.replace("/postgres", "/absent"), table) as store:
        assert await reasons(store, key) == {"the server answered 3D000: there is no such database"}


async def test_where_nothing_listens_each_operation_says_so(reserved_port, table, key):
    """By the system's words."""
    async with store_at(f"postgresql://user:{MARK}@127.0.0.1:{reserved_port}/tokens", table) as store:
        assert await reasons(store, key) == {"cannot connect: Connection refused"}


async def test_a_server_that_is_none_is_named_by_the_error_alone(table, key):
    """Nothing of its answer is shown."""
    async with nonsense(f"{MARK}\r\n".encode()) as url, store_at(as_dsn(url), table, timeout=0.25) as store:
        assert (await failures(store, key)).keys() == {"load", "save", "lease", "delete"}


@pytest.mark.parametrize("mode", ["reset", "lose", "half-close", "refuse"])
async def test_a_connection_that_breaks_is_replaced_once(postgres_server, table, key, mode):
    """If the next one breaks too, the operation fails. When connections hold again, it works."""
    async with Proxy(postgres_server.port) as proxy, store_at(as_dsn(proxy.url), table) as store:
        record = await make_record(store, key)
        proxy.cut()
        assert await store.save(key, record, None)
        proxy.mode = mode
        if mode == "refuse":
            proxy.cut()
        store._server.timeout = 0.25
        assert (await failures(store, key)).keys() == {"load", "save", "lease", "delete"}
        proxy.heal()
        proxy.cut()
        store._server.timeout = HANG
        assert record_of(await store.load(key)).digest in (record.digest, hidden_record().digest)


@pytest.mark.parametrize("warm", [False, True], ids=["new connection", "open connection"])
async def test_a_server_that_stalls_is_given_up_on_in_time(postgres_server, table, key, warm):
    """An answer that comes later isn't taken for another's."""
    async with Proxy(postgres_server.port) as proxy, store_at(as_dsn(proxy.url), table) as store:
        if warm:
            await store.load(key)
        proxy.mode, store._server.timeout = "stall", 0.05
        assert await reasons(store, key) == {"no answer within 0.05 s"}
        store._server.timeout = HANG
        proxy.heal()
        await store.delete(key)
        record = await make_record(store, key)
        assert await store.save(key, record, None)
        assert record_of(await store.load(key)).digest == record.digest


async def test_a_server_that_restarts_is_used_again(key):
    """Idle connections are replaced without a failure, and the store listens again."""
    with PostgresServer() as server:
        async with store_at(server.dsn, "tokens") as store:
            await store.create_schema()
            record, heard = await make_record(store, key), asyncio.Event()
            assert await store.save(key, record, None)
            store.watch(key, heard.set)
            server.stop()
            assert (await failures(store, key)).keys() == {"load", "save", "lease", "delete"}
            await asyncio.to_thread(server.start)
            assert record_of(await store.load(key)).digest == record.digest
            while not heard.is_set():
                assert await store.save(key, record, None)
                await asyncio.sleep(0.01)


async def test_a_standby_is_left_for_the_primary(key):
    """An operation that it refuses is repeated on new connections, which lead to the new primary."""
    with PostgresServer() as before, PostgresServer() as after:
        for server in (before, after):
            async with store_at(server.dsn, "tokens") as store:
                await store.create_schema()
        async with Proxy(before.port) as proxy, store_at(as_dsn(proxy.url), "tokens") as store:
            record = await make_record(store, key)
            await asyncio.gather(store.load(key), store.load(key))
            connection = await asyncpg.connect(before.dsn)
            await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await connection.fetchval("SELECT pg_reload_conf()")
            await eventually(
                lambda: connection.fetchval("SELECT current_setting('default_transaction_read_only') = 'on'")
            )
            refused = {"the server answered 25006: it is a standby, or read-only"}
            await eventually(lambda: is_refused(store, key, refused))
            proxy.lead_to(after.port)
            assert await store.save(key, record, None)
            await connection.close()


async def is_refused(store, key, expected):
    return await reasons(store, key) == expected


@pytest.mark.slow
@needs_pgbouncer
async def test_pgbouncer_that_restarts_is_used_again(postgres_server, table, key):
    """As if it were the server."""
    with PgBouncer(postgres_server) as bouncer:
        async with store_at(bouncer.dsn, table) as store:
            record = await make_record(store, key)
            assert await store.save(key, record, None)
            bouncer.kill()
            assert (await failures(store, key)).keys() == {"load", "save", "lease", "delete"}
            await asyncio.to_thread(bouncer.start)
            assert record_of(await store.load(key)).digest == record.digest


# What is in the tables.


async def fetch(server, statement, *arguments):
    connection = await asyncpg.connect(server.dsn)
    try:
        return await connection.fetch(statement, *arguments)
    finally:
        await connection.close()


async def test_tokens_are_sealed_at_rest_and_on_the_way(postgres_server, table, key):
    """With `plaintext=True`, they aren't."""
    for sealed in (True, False):
        async with Proxy(postgres_server.port) as proxy:
            settings = {} if sealed else {"plaintext": True}
            async with store_at(as_dsn(proxy.url), table, **settings) as store:
                await store.delete(key)
                assert await store.save(key, hidden_record(), None)
                ((content,),) = await fetch(postgres_server, f"SELECT sealed FROM {table}")
                assert (MARK.encode() in content) != sealed
                assert (MARK.encode() in proxy.heard) != sealed


async def test_old_rows_are_swept(postgres_server, store, table):
    """Those that ended more than a day ago, now and then, after a save."""
    keys = [key_of(("sweep", str(number))) for number in range(3)]
    for one, days in zip(keys, (0, 1, 2), strict=True):
        assert await store.save(one, await make_record(store, one), None)
        await fetch(
            postgres_server, f"INSERT INTO {table}_leases VALUES ($1, 'a process that crashed', clock_timestamp())", one
        )
        for name in (table, f"{table}_leases"):
            move = f"UPDATE {name} SET expires_at = expires_at - make_interval(days => $2) WHERE key = $1"
            await fetch(postgres_server, move, one, days)
        await fetch(
            postgres_server,
            f"UPDATE {table} SET saved_at = saved_at - make_interval(days => $2) WHERE key = $1",
            one,
            days,
        )
    store._swept_at = -math.inf
    last = key_of(("sweep", "now"))
    assert await store.save(last, await make_record(store, last), None)
    await store._sweeping
    assert {row[0] for row in await fetch(postgres_server, f"SELECT key FROM {table}")} == {*keys[:2], last}
    assert {row[0] for row in await fetch(postgres_server, f"SELECT key FROM {table}_leases")} == {keys[0]}


async def test_an_expired_record_counts_as_gone(postgres_server, store, table, key):
    """As on a Redis server. Even a process that can't read it may replace it."""
    record = await make_record(store, key)
    assert await store.save(key, record, None)
    await fetch(postgres_server, f"UPDATE {table} SET expires_at = clock_timestamp()")
    assert (await store.load(key)).record is None
    successor = await make_record(store, key)
    assert await store.save(key, successor, None)
    assert record_of(await store.load(key)).digest == successor.digest


async def test_a_sweep_that_fails_spoils_no_save(postgres_server, store, table, key):
    """The next one is due later."""
    await fetch(postgres_server, f"ALTER TABLE {table}_leases RENAME TO {table}_away")
    store._swept_at = -math.inf
    assert await store.save(key, await make_record(store, key), None)
    await store._sweeping
    await fetch(postgres_server, f"ALTER TABLE {table}_away RENAME TO {table}_leases")


async def test_a_save_does_not_wait_for_a_sweep(postgres_server, table, key):
    """Which another transaction holds up here. Closing the store ends it."""
    connection = await asyncpg.connect(postgres_server.dsn)
    async with store_at(postgres_server.dsn, table) as store, connection.transaction():
        await connection.execute(f"LOCK TABLE {table}_leases")
        store._swept_at = -math.inf
        assert await store.save(key, await make_record(store, key), None)
        assert not store._sweeping.done()
    await connection.close()


async def test_a_lease_of_a_wrong_clock_ends(postgres_server, store, table, key):
    """The server's clock was ahead when it was taken, and has been set back since."""
    await fetch(postgres_server, f"INSERT INTO {table}_leases VALUES ($1, 'other', now() + interval '30 days')", key)
    async with store.lease(key, 20.0) as held:
        assert held


async def test_another_table_of_that_name_is_not_touched(postgres_server, key):
    """It has other columns."""
    name = f"other_{uuid4().hex}"
    await fetch(postgres_server, f"CREATE TABLE {name} (key text PRIMARY KEY, content text)")
    async with store_at(postgres_server.dsn, name) as store:
        assert "the server answered 42703: the table has other columns, and isn't the store's" in await reasons(
            store, key
        )


# News.


@pytest.fixture
def quick(monkeypatch):
    """Nothing that waits waits for long."""
    monkeypatch.setattr(postgres, "PROBE_TIMEOUT", 0.2)
    monkeypatch.setattr(postgres, "POLL_EVERY", 0.02)
    monkeypatch.setattr(postgres, "HEARTBEAT", 0.05)


async def news(store, peer, key):
    """Save a pair until the store's watcher is called."""
    heard = asyncio.Event()
    unwatch = store.watch(key, heard.set)
    record = await make_record(peer, key)
    await peer.delete(key)
    while not heard.is_set():
        assert await peer.save(key, record, None)
        await asyncio.sleep(0.01)
    unwatch()


@pytest.mark.slow
@needs_pgbouncer
@pytest.mark.usefixtures("quick")
async def test_behind_pgbouncer_the_store_says_that_it_polls(postgres_server, table, key, caplog, monkeypatch):
    """Once for each time that it has tried to listen. With a direct DSN to listen on, it doesn't poll."""
    with PgBouncer(postgres_server) as bouncer:
        async with store_at(bouncer.dsn, table) as store, store_at(postgres_server.dsn, table) as peer:
            await news(store, peer, key)
            expected = f"{store!r} gets no notifications, and looks for new pairs every 0.02 s instead"
            assert caplog.text.count(expected) == 1
            caplog.clear()
        async with store_at(bouncer.dsn, table, listen_dsn=postgres_server.dsn) as store:
            monkeypatch.setattr(postgres, "PROBE_TIMEOUT", HANG)
            await news(store, store, key)
    assert caplog.text == ""


async def end_listening(server, store):
    """End the connection on which a store listens, as an administrator does."""
    statement = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE $1"
    assert await fetch(server, statement, f"LISTEN%{store._listener._own_channel}%") == [(True,)]


async def test_a_subscription_that_is_lost_at_its_beginning_is_made_again(
    postgres_server, table, key, monkeypatch, caplog
):
    """The store doesn't take that for a PgBouncer in between, and finds what was saved meanwhile."""
    async with store_at(postgres_server.dsn, table) as store:
        fetched, lost = store._server.fetch, []

        async def lose_first(statement, *arguments):
            if statement == postgres.NOTIFY and not lost:
                lost.append(True)
                await end_listening(postgres_server, store)
            return await fetched(statement, *arguments)

        monkeypatch.setattr(store._server, "fetch", lose_first)
        await news(store, store, key)
    assert lost
    assert "gets no notifications" not in caplog.text


async def test_a_pair_that_is_saved_while_the_store_does_not_listen_is_found_afterwards(postgres_server, table, key):
    """Between two subscriptions, or between two looks of which one failed."""
    heard = asyncio.Event()
    async with store_at(postgres_server.dsn, table) as store, store_at(postgres_server.dsn, table) as peer:
        await news(store, peer, key_of((key,)))
        store.watch(key, heard.set)
        listener = store._listener
        store._listening.cancel()
        await asyncio.wait([store._listening])
        assert await peer.save(key, await make_record(peer, key), None)
        store._listening = asyncio.ensure_future(listener.run())
        await heard.wait()


async def test_a_server_that_stalls_while_the_store_begins_to_listen_is_left(postgres_server, table, key, caplog):
    """After the time for a statement."""
    caplog.set_level(logging.INFO)
    async with (
        Proxy(postgres_server.port) as proxy,
        store_at(postgres_server.dsn, table, listen_dsn=as_dsn(proxy.url), timeout=1.0) as store,
    ):
        listen = store._server.connect_to_listen

        async def listen_and_stall(dsn):
            connection = await listen(dsn)
            proxy.mode = "stall"
            return connection

        store._server.connect_to_listen = listen_and_stall
        store.watch(key, lambda: None)
        await eventually(lambda: "lost the subscription" in caplog.text)
        store._server.connect_to_listen = listen
        proxy.heal()


async def test_a_subscription_that_the_server_ends_is_made_again_at_once(postgres_server, table, key, monkeypatch):
    """And not when the store next sends a message to itself."""
    monkeypatch.setattr(postgres, "HEARTBEAT", 100 * HANG)
    async with store_at(postgres_server.dsn, table) as store, store_at(postgres_server.dsn, table) as peer:
        await news(store, peer, key)
        await end_listening(postgres_server, store)
        await news(store, peer, key)


@pytest.mark.slow
@needs_pgbouncer
@pytest.mark.usefixtures("quick")
async def test_the_store_tries_again_to_listen(postgres_server, table, key, caplog, monkeypatch):
    """After it has looked for new pairs for a while."""
    monkeypatch.setattr(postgres, "POLL_FOR", 0.1)
    with PgBouncer(postgres_server) as bouncer:
        async with store_at(bouncer.dsn, table) as store:
            store.watch(key, lambda: None)
            await eventually(lambda: caplog.text.count("gets no notifications") > 1)


async def test_a_lost_subscription_is_logged_and_made_again(key, quick, caplog):
    """While the server is away, with pauses that grow."""
    caplog.set_level(logging.INFO)
    with PostgresServer() as server:
        async with store_at(server.dsn, "tokens") as store:
            await store.create_schema()
            store.watch(key, lambda: None)
            server.kill()
            await eventually(lambda: caplog.text.count("lost the subscription to tokens (") > 1)
            await asyncio.to_thread(server.start)
            await news(store, store, key)


async def test_a_subscription_that_falls_silent_is_made_again(postgres_server, table, key, quick, monkeypatch):
    """The store notices, since it doesn't hear its own messages."""
    async with (
        Proxy(postgres_server.port) as proxy,
        store_at(postgres_server.dsn, table, listen_dsn=as_dsn(proxy.url)) as store,
    ):
        await news(store, store, key)
        own_channel = store._listener._own_channel.encode()
        await eventually(lambda: proxy.heard.count(own_channel) > 3)  # LISTEN, and its own messages
        before = proxy.connections
        proxy.mode = "stall"
        await eventually(lambda: proxy.connections > before)
        proxy.heal()
        await news(store, store, key)


async def test_a_message_of_the_store_to_itself_that_comes_late_is_ignored(store, key):
    """It may come twice, too, or when the store waits for none."""
    listener = store._listener
    for _ in range(2):
        listener._receive_probe()
    await news(store, store, key)


async def test_each_pair_is_announced_once_while_the_store_polls(postgres_server, table, key, quick):
    """Although each look goes back a little."""
    async with store_on_pool(postgres_server.dsn, table) as store:
        calls = []
        store.watch(key, lambda: calls.append(key))
        record = await make_record(store, key)
        await news(store, store, key_of((key,)))
        assert await store.save(key, record, None)
        for number in range(3):
            await news(store, store, key_of((key, str(number))))
        assert calls == [key]


# Use.


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_a_strict_isolation_costs_no_failure(postgres_server, table, key, isolation):
    """Statements that collide are repeated: of many, one holds the lease, and one saves."""
    dsn = f"{postgres_server.dsn}?default_transaction_isolation={isolation.replace(' ', '%20')}"
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(store_at(dsn, table)) for _ in range(4)]
        record = await make_record(stores[0], key)
        assert await stores[0].save(key, record, None)
        successors = [await make_record(store, key) for store in stores for _ in range(5)]
        saves = [stores[number % 4].save(key, one, record.digest) for number, one in enumerate(successors)]
        assert (await asyncio.gather(*saves)).count(True) == 1
        leases = [stack.enter_async_context(store.lease(key, 3600.0)) for store in stores for _ in range(5)]
        assert (await asyncio.gather(*leases)).count(True) == 1


async def test_a_host_that_refuses_connections_is_passed_over(postgres_server, reserved_port, table, key):
    """If the DSN names another one."""
    dsn = postgres_server.dsn.replace("@", f"@127.0.0.1:{reserved_port},")
    async with store_at(dsn, table) as store:
        assert (await store.load(key)).record is None


async def test_the_idle_connections_of_a_dead_path_cost_one_failure(postgres_server, table, key):
    """When one of them doesn't answer, the others aren't used any more, either."""
    async with Proxy(postgres_server.port) as proxy, store_at(as_dsn(proxy.url), table) as store:
        await asyncio.gather(*(store.load(key) for _ in range(8)))
        proxy.mode, store._server.timeout = "stall", 0.05
        with pytest.raises(StoreError, match="no answer"):
            await store.load(key)
        store._server.timeout = HANG
        proxy.lead_to(postgres_server.port)
        proxy.mode = "pass"  # for new connections; those that are held back stay so
        assert (await store.load(key)).record is None


async def test_a_path_that_is_dead_is_named_with_your_pool_as_well(postgres_server, table, key):
    """Your pool's other connections stay."""
    async with Proxy(postgres_server.port) as proxy, store_on_pool(as_dsn(proxy.url), table) as store:
        proxy.mode, store._server.timeout = "stall", 0.05
        assert await reasons(store, key) == {"no answer within 0.05 s"}
        proxy.heal()


async def test_a_read_only_server_costs_your_pool_no_other_connections(postgres_server, table, key):
    """Only the one that it has answered on."""
    dsn = f"{postgres_server.dsn}?default_transaction_read_only=on"
    async with asyncpg.create_pool(dsn, min_size=0, max_size=3) as pool, store_at(pool, table) as store:
        for connection in [await pool.acquire() for _ in range(3)]:
            await pool.release(connection)
        before = {holder._con for holder in pool._holders}
        with pytest.raises(StoreError, match="the server answered 25006: it is a standby, or read-only"):
            await store.save(key, hidden_record(), None)
        assert {holder._con for holder in pool._holders} & before


async def test_tables_that_are_there_are_not_created_again(postgres_server, table, key):
    """So this needs no right, and waits for no transaction that uses them."""
    user = f"app_{uuid4().hex[:8]}"
    await fetch(postgres_server, f"CREATE USER {user}")
    connection = await asyncpg.connect(postgres_server.dsn)
    async with connection.transaction():
        await connection.execute(f"LOCK TABLE {table}")
        async with store_at(postgres_server.dsn_of(user), table) as store:
            await store.create_schema()
            with pytest.raises(StoreError, match="its tables: the server answered 42501: the user lacks a right"):
                await store_schema_of(store, f"other_{table}")
    await connection.close()


async def store_schema_of(store, table):
    store._table = table
    await store.create_schema()


async def test_a_pool_with_number_types_of_its_own_is_used(postgres_server, table, key):
    """A reading has floats in any case."""

    async def with_decimals(connection):
        await connection.set_type_codec("float8", schema="pg_catalog", encoder=str, decoder=Decimal)

    async with (
        asyncpg.create_pool(postgres_server.dsn, min_size=0, init=with_decimals) as pool,
        store_at(pool, table) as store,
    ):
        record = await make_record(store, key)
        assert await store.save(key, record, None)
        assert (await store.load(key)).age >= 0.0


async def test_a_cancelled_save_shows_no_token(postgres_server, table, key):
    """Not even in the driver's frames."""
    async with (
        Proxy(postgres_server.port) as proxy,
        store_at(as_dsn(proxy.url), table, encryption_keys=(), plaintext=True) as store,
    ):
        await store.load(key)
        proxy.mode = "stall"
        task = asyncio.ensure_future(store.save(key, hidden_record(), None))
        await eventually(lambda: proxy.is_holding)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        error = caught.value
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        assert MARK not in shown.replace(f"'{MARK}'", "").replace(f"MARK = {MARK!r}", "")


async def test_a_cancelled_close_terminates_what_is_in_use(postgres_server, table, key):
    """And ends as cancelled."""
    async with Proxy(postgres_server.port) as proxy:
        store = store_at(as_dsn(proxy.url), table)
        await store.load(key)
        proxy.mode = "stall"
        loading = asyncio.ensure_future(store.load(key))
        await eventually(lambda: proxy.is_holding)
        pool = store._server._pool
        closing = asyncio.ensure_future(store.aclose())
        await eventually(lambda: store._server._pool is None)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert pool.get_size() == 0
        with pytest.raises(StoreError):
            await loading


async def test_a_cancelled_close_closes_all_the_same(postgres_server, table, key):
    """A listener that is slow to end doesn't keep the connections open."""
    store = store_at(postgres_server.dsn, table)
    await news(store, store, key)
    closing = asyncio.ensure_future(store.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    assert store._server._pool is None


def test_a_store_whose_event_loop_is_closed_can_be_closed(postgres_server, table, key):
    """And used on another one."""
    store = store_at(postgres_server.dsn, table)

    async def use():
        await store.load(key)
        for connection in [holder._con for holder in store._server._pool._holders if holder._con]:
            connection.terminate()  # the driver's connection would warn
        await asyncio.sleep(0)

    async def close():
        await store.aclose()
        await store.load(key)
        await store.aclose()

    asyncio.run(use())
    asyncio.run(close())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("?sslmode=nonsense", "an option of the DSN has a wrong value"),
        ("?nonsense=1", "the server answered 42704: the DSN may have an unknown option"),
    ],
)
async def test_a_wrong_option_is_named(postgres_server, table, key, options, reason):
    """Without its value."""
    async with store_at(postgres_server.dsn + options, table) as store:
        assert await reasons(store, key) == {reason}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (socket.gaierror(-2, "Name or service not known"), "the name of the host isn't known"),
        (
            ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] failed"),
            "TLS failed (SSLCertVerificationError)",
        ),
        (ConnectionError("hush"), "ConnectionError"),
    ],
)
def test_why_a_connection_failed_is_named(error, reason):
    """By the kind of the error."""
    assert postgres_server_module.describe_error(error) == f"cannot connect: {reason}"
    assert postgres_server_module.describe_error(asyncpg.InternalClientError("hush")) == "InternalClientError"


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://user:{MARK}/x@host/db",
        f"postgresql://user:{MARK}",
        f"postgresql://user:{MARK}@x@host/db",
        f"host=localhost password={MARK}",
        f"mysql://user:{MARK}@host/db",
        "",
        5,
        None,
        f"{MARK}".encode(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("as_listen_dsn", [False, True])
def test_a_wrong_server_is_refused_without_being_shown(dsn, as_listen_dsn):
    """When the store is made."""
    if as_listen_dsn and dsn is None:
        return
    arguments = ("postgresql://h", {"listen_dsn": dsn}) if as_listen_dsn else (dsn, {})
    with pytest.raises(ConfigurationError, match=r"PostgresStore: .*DSN") as caught:
        PostgresStore(arguments[0], encryption_keys=KEY, **arguments[1])
    error = caught.value
    frames = error.__traceback__.tb_next  # without this test's own
    text = "".join(traceback.TracebackException(type(error), error, frames, capture_locals=True).format())
    assert MARK not in text
    assert repr(PostgresStore.__new__(PostgresStore)) == "PostgresStore()"


@pytest.mark.parametrize(
    ("dsn", "place"),
    [
        (f"postgresql://user:{MARK}@[::1]:5432/tokens?sslmode=disable&password={MARK}", "[::1]:5432/tokens"),
        (f"postgres://user:{MARK}@one:1,two:2/tokens?target_session_attrs=read-write", "one:1,two:2/tokens"),
        (f"postgresql://user:{MARK}%40@/tokens?host=/run", "/tokens"),
        ("postgresql://", ""),
    ],
)
def test_a_store_shows_where_it_leads_to(dsn, place):
    """But no user, and no password."""
    assert repr(PostgresStore(dsn, encryption_keys=KEY)) == f"PostgresStore({place})"


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": 0},
        {"table": ""},
        {"table": 'x"; DROP TABLE y'},
        {"table": "a.b.c"},
        {"table": "1x"},
        {"table": "x" * 55},
        {"table": None},
    ],
    ids=repr,
)
def test_settings_that_make_no_sense_are_refused(settings):
    """When the store is made."""
    with pytest.raises(ConfigurationError, match=f"PostgresStore: {min(settings)}"):
        PostgresStore("postgresql://h", encryption_keys=KEY, **settings)


async def test_the_longest_name_works(postgres_server, key):
    """Its index and its channel have names, too."""
    async with store_at(postgres_server.dsn, "x" * 54) as store:
        await store.create_schema()
        await news(store, store, key)


async def test_a_pool_that_is_not_open_is_named(postgres_server, table, key):
    """By the driver's own words."""
    pool = asyncpg.create_pool(postgres_server.dsn, min_size=0)
    async with store_at(pool, table) as store:
        assert repr(store) == "PostgresStore(your pool)"
        assert {one.partition(" (")[0] for one in await reasons(store, key)} == {"pool is not initialized"}


async def test_an_argument_that_the_driver_refuses_is_not_shown(store, key):
    """Its error would quote it."""
    with pytest.raises(StoreError, match=r"#\w+: the server answered 22000$"):
        await store._run(key, "SELECT $1::text, $2::int", MARK)


async def test_a_cancelled_call_leaves_no_connection_in_use(postgres_server, table, key):
    """Whenever it is cancelled. Its connection isn't used again before its answer has come."""
    async with store_at(postgres_server.dsn, table) as store:
        record = await make_record(store, key)
        assert await store.save(key, record, None)
        for turns in range(30):
            task = asyncio.ensure_future(store.load(key))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        readings = await asyncio.gather(*(store.load(key) for _ in range(20)))
        assert {reading.record.digest for reading in readings} == {record.digest}


async def test_a_connection_that_comes_too_late_is_closed(postgres_server, table, key):
    """Its call was cancelled while the driver connected. The place in the pool is free again."""
    async with Proxy(postgres_server.port) as proxy, store_at(as_dsn(proxy.url), table) as store:
        proxy.mode = "stall"
        task = asyncio.ensure_future(store.load(key))
        await eventually(lambda: proxy.is_holding)
        task.cancel()
        await asyncio.wait([task])
        (connecting,) = store._server._connecting
        proxy.heal()
        await eventually(connecting.done)
        await eventually(connecting.result().is_closed)
        assert (await store.load(key)).record is None


async def test_another_event_loop_is_refused(store, key):
    """A store has connections of one loop."""
    await store.load(key)

    async def elsewhere():
        with pytest.raises(StoreError, match="was first used on another event loop or before a fork: create one Postg"):
            await store.load(key)
        with pytest.raises(StoreError, match="another event loop"):
            await store.aclose()

    await asyncio.to_thread(asyncio.run, elsewhere())
    assert await failures(store, key) == {}


async def test_a_closed_store_may_be_used_again(store, key):
    """It opens new connections, and listens again."""
    await news(store, store, key)
    await store.aclose()
    await store.aclose()
    await news(store, store, key)


async def test_a_store_that_was_not_closed_warns(postgres_server, table, key):
    """And ends its connections."""
    store = store_at(postgres_server.dsn, table)
    await news(store, store, key)
    process = (await store._server.fetch("SELECT pg_backend_pid() + $1", Secret((0,)), "x"))[0][0]
    with pytest.warns(ResourceWarning, match=r"unclosed PostgresStore\(127"):
        store = None

    async def is_gone():
        return not await fetch(postgres_server, "SELECT 1 FROM pg_stat_activity WHERE pid = $1", process)

    await eventually(is_gone)


async def test_your_pool_stays_open(postgres_server, table, key):
    """Whether its store is closed or dropped."""
    async with asyncpg.create_pool(postgres_server.dsn, min_size=0) as pool:
        async with store_at(pool, table) as store:
            await store.load(key)
        assert await pool.fetchval("SELECT true")
        store = store_at(pool, table)
        await store.load(key)
        with pytest.warns(ResourceWarning, match="unclosed PostgresStore"):
            store = None
        assert await pool.fetchval("SELECT true")


def test_a_store_that_was_closed_is_used_on_the_next_event_loop(postgres_server, table, key):
    """One that wasn't warns there, although its loop is gone."""

    async def use(store):
        await news(store, store, key)
        await store.aclose()

    async def leave(stores):
        await stores[0].load(key)
        for connection in [holder._con for holder in stores[0]._server._pool._holders if holder._con]:
            connection.terminate()  # the driver's connection would warn, too
        await asyncio.sleep(0)

    store = store_at(postgres_server.dsn, table)
    asyncio.run(use(store))
    asyncio.run(use(store))
    stores = [store_at(postgres_server.dsn, table)]
    asyncio.run(leave(stores))
    with pytest.warns(ResourceWarning, match="unclosed PostgresStore"):
        stores.clear()


async def test_closing_waits_no_longer_than_for_a_statement(postgres_server, table, key):
    """A server that doesn't answer is left."""
    async with Proxy(postgres_server.port) as proxy:
        store = store_at(as_dsn(proxy.url), table)
        await store.load(key)
        proxy.mode = "stall"
        task = asyncio.ensure_future(store.load(key))
        await eventually(lambda: proxy.is_holding)
        store._server.timeout = 0.05
        await store.aclose()
        with pytest.raises(StoreError):
            await task


def test_without_the_driver_the_extra_is_named(monkeypatch):
    """As for every extra."""
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    for name in ("postgres", "postgres_server"):
        monkeypatch.delitem(sys.modules, f"signalwire_tokens.stores.{name}", raising=False)
    with pytest.raises(ModuleNotFoundError, match="install signalwire-tokens with its extra `postgres`"):
        importlib.import_module("signalwire_tokens.stores.postgres")
