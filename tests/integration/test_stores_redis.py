"""The store on a Redis or Valkey server: a real one, and a proxy that harms what passes."""

import asyncio
import gc
import itertools
import logging
import re
import ssl
import sys
import time
import traceback
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib import import_module
from uuid import uuid4

import attrs
import pytest
import trustme
from _pytest._io.saferepr import saferepr
from redis.exceptions import BusyLoadingError, ReadOnlyError, ResponseError

from signalwire_tokens import ConfigurationError, StoreError, UnreadableRecord
from signalwire_tokens.durations import spoken
from signalwire_tokens.models import Token, TokenPair
from signalwire_tokens.stores import Record, generate_encryption_key, key_of
from signalwire_tokens.stores import redis as redis_store
from signalwire_tokens.stores import redis_server as store_server
from signalwire_tokens.stores.event_loop import cancellation_kept
from signalwire_tokens.stores.redis import LISTEN_FOR, RedisStore
from signalwire_tokens.stores.redis_server import MOST_CONNECTIONS, describe_error
from signalwire_tokens.testing import StoreConformance
from support.faulty_redis import Proxy, nonsense, wait_no_longer_than
from support.paths import ROOT
from support.processes import reserve_port
from support.redis_server import RedisServer
from support.waiting import HANG, eventually

pytestmark = pytest.mark.redis
KEY = generate_encryption_key()
NUMBERS = itertools.count(1)
MARK = "hush"  # in everything that must not be shown
SOON = 0.05  # seconds that a store gets while nothing can succeed
LIMIT = 0.25  # seconds that a store gets where it needn't wait
ROUNDING = 1.0  # second by which times may be rounded
TURNS = 5000  # of the event loop
LIFE, WINDOW, HOUR = 7200.0, 300.0, 3600.0
ALL = {"load", "save", "delete", "lease"}


@pytest.fixture
def prefix():
    return f"test-{uuid4()}:"


@pytest.fixture
def key():
    return key_of(("test", str(next(NUMBERS))))


def store_at(url, **settings):
    """Return a store that waits for an answer as long as it takes."""
    return RedisStore(url, **{"encryption_keys": () if settings.get("plaintext") else KEY, "timeout": HANG, **settings})


@pytest.fixture
async def store(redis_server, prefix):
    async with store_at(redis_server.url, prefix=prefix) as store:
        yield store


@pytest.fixture
def server():
    """Run a server of the test's own, to be harmed."""
    with RedisServer() as server:
        yield server


@pytest.fixture
async def proxy(redis_server):
    async with Proxy(redis_server.port) as proxy:
        yield proxy


def make_record(presenting=None, asked_at=None):
    now, number = datetime.now(UTC), next(NUMBERS)
    halves = [
        Token(value=f"{MARK}-{name}-{number}", issued_at=now, expires_at=now + timedelta(seconds=life))
        for name, life in (("access", LIFE), ("refresh", LIFE + WINDOW))
    ]
    pair = TokenPair(access_token=halves[0], refresh_token=halves[1])
    asked_at = time.time() if asked_at is None else asked_at
    return Record(pair=pair, asked_at=asked_at, asked_wall=now.timestamp(), presenting=presenting)


def place(prefix, key, kind="pair"):
    return f"{prefix}{{{key}}}:{kind}"


def frames_shown(error):
    """Show the locals of all frames but this file's, and the error with all it hangs on."""
    shown, links = [], [error]
    while links:
        link = links.pop()
        shown += [repr(link), repr(vars(link)), *traceback.format_exception(link)]
        for frame, _ in traceback.walk_tb(link.__traceback__):
            if frame.f_code.co_filename != __file__:
                shown += [saferepr(value, maxsize=10**6) for value in frame.f_locals.values()]
        links += [other for other in (link.__cause__, link.__context__) if other is not None]
    return "\n".join(shown)


async def failures(store, key):
    """Try each operation; return the errors of those that failed, each of which must be as promised."""

    async def lease():
        async with store.lease(key, SOON):
            pass

    errors = {}
    works = {"load": store.load(key), "save": store.save(key, make_record(), None), "lease": lease()}
    for name, work in (works | {"delete": store.delete(key)}).items():
        try:
            await work
        except Exception as error:  # noqa: BLE001 - which one is what is tested
            errors[name] = error
    for name, error in errors.items():
        assert type(error) in (StoreError, UnreadableRecord), f"{name} raised {error!r}"
        assert str(error).startswith(f"{store!r}: ")
        assert f"#{key[:8]} " in str(error).replace(":", " ")
        assert key not in str(error)
        assert MARK not in frames_shown(error)
    return errors


class TestRedisStore(StoreConformance):
    calls_watchers = True

    @pytest.fixture
    async def store(self, redis_server, prefix):
        async with store_at(redis_server.url, prefix=prefix) as store:
            yield store

    @pytest.fixture
    async def peer(self, redis_server, prefix):
        async with store_at(redis_server.url, prefix=prefix) as store:
            yield store


@pytest.mark.slow  # it is the same suite once more
class TestRedisStoreInPlaintext(StoreConformance):
    calls_watchers = True

    @pytest.fixture
    async def store(self, redis_server, prefix):
        async with store_at(redis_server.url, plaintext=True, prefix=prefix) as store:
            yield store

    @pytest.fixture
    async def peer(self, redis_server, prefix):
        async with store_at(f"{redis_server.url}?protocol=2", plaintext=True, prefix=prefix) as store:
            yield store


@pytest.mark.parametrize("how", [{"encryption_keys": KEY}, {"plaintext": True}], ids=["sealed", "plaintext"])
async def test_where_nobody_listens_every_operation_says_so(reserved_port, key, how):
    """Without a wait for the store's timeout, and without showing what was to be saved."""
    async with store_at(f"redis://:{MARK}@127.0.0.1:{reserved_port}/0", **how) as store:
        errors = await failures(store, key)
        assert errors.keys() == ALL
        assert all("connect" in str(error).lower() for error in errors.values())


async def test_a_password_is_given_and_never_shown(key, prefix, caplog):
    """Neither by the store, nor by its errors, nor in logs, whether it is the right one or not."""
    caplog.set_level(logging.DEBUG)
    with RedisServer(password=f"{MARK}-right") as server:
        async with store_at(server.url, prefix=prefix) as store:
            assert await failures(store, key) == {}
            assert repr(store) == str(store) == f"RedisStore(127.0.0.1:{server.port}/0)"
        for password in (f"{MARK}-wrong", None):
            async with store_at(server.url_with(password), prefix=prefix) as store:
                store.watch(key, lambda: None)
                errors = await failures(store, key)
                assert errors.keys() == ALL
                await eventually(lambda: f"lost the subscription to {prefix}news" in caplog.text)
        assert MARK not in caplog.text
        assert MARK not in repr([vars(record) for record in caplog.records])


async def test_another_s_value_under_the_key_is_not_touched(redis_server, store, prefix, key):
    """Where it is of another type, nothing can be read or saved."""
    with redis_server.client() as client:
        for kind in ("pair", "lease"):
            client.delete(place(prefix, key, kind))
        client.set(place(prefix, key), f"{MARK}-foreign")
        client.hset(place(prefix, key, "lease"), f"{MARK}-foreign", "1")
        errors = await failures(store, key)
        assert errors.keys() == {"load", "save", "lease"}
        assert all("WRONGTYPE" in str(error) for error in errors.values())


async def test_a_record_of_a_future_version_is_not_read(redis_server, store, prefix, key):
    """Those who run that version go on with it."""
    record = make_record()
    assert await store.save(key, record, None)
    with redis_server.client() as client:
        sealed = client.hget(place(prefix, key), "sealed")
        client.hset(place(prefix, key), "sealed", b"\x02" + sealed[1:])
        errors = {"load": (await failures(store, key))["load"]}
    assert "newer version" in str(errors["load"])


NONSENSE = {
    "http": b"HTTP/1.1 400 hush\r\nServer: hush\r\n\r\n",
    "an error of its own": b"-ERR hush\r\n",
    "still loading": b"-LOADING hush\r\n",
    "half an answer": b"$9\r\nhush",
    "no number": b":hush\r\n",
    "no length": b"$hush\r\n",
    "a length below zero": b"$-5\r\n",
    "no float": b",hush\r\n",
    "bytes": b"\xff\xfehush\r\n",
    "a line": b"+hush\r\n",
    "nothing": b"_\r\n",
    "a map": b"%1\r\n+server\r\n+hush\r\n",
    "too short a list": b"*1\r\n+hush\r\n",
    "a list of words": b"*3\r\n+hush\r\n+hush\r\n+hush\r\n",
}


QUICK = ("http", "still loading", "half an answer", "too short a list")  # one of each kind; there are so many of them


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(answer, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, answer in NONSENSE.items()
    ],
)
async def test_a_server_that_is_none_is_told_without_its_words(key, answer):
    """It may answer anything, and what it says may be anybody's secret; who watches goes on trying."""
    async with nonsense(answer) as url, store_at(url) as store:
        wait_no_longer_than(LIMIT, store)
        store.watch(key, lambda: None)
        errors = await failures(store, key)
        assert "load" in errors
        assert not store._listening.done()


@pytest.mark.parametrize("setting", [("maxmemory", "1mb"), ("min-replicas-to-write", "1")], ids=lambda one: one[0])
async def test_a_server_that_takes_nothing_more_is_still_read(server, prefix, key, setting):
    """One that has no memory left, or no replicas; and is written to once it takes something again."""
    async with store_at(server.url, prefix=prefix) as store:
        record = make_record()
        assert await store.save(key, record, None)
        with server.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.append("filling", b"x" * 2**20)
            client.config_set(*setting)
            errors = await failures(store, key_of((key,)))
            assert {"save", "lease"} <= errors.keys() <= {"save", "lease", "delete"}
            assert all(re.search("OOM|OutOfMemory|NOREPLICAS", str(error)) for error in errors.values())
            assert (await store.load(key)).record.digest == record.digest
            client.config_set(setting[0], "0")
        assert await store.save(key, make_record(), record.digest)


async def test_a_user_who_may_not_says_so(server, key):
    """In words from which somebody can tell what to mend."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "limited", "on", f">{MARK}", "~*", "&*", "+@all", "-eval", "-del")
    async with store_at(server.url.replace("//", f"//limited:{MARK}@")) as store:
        errors = await failures(store, key)
        assert errors.keys() == ALL
        assert all(re.search("NOPERM|NoPermission", str(error)) for error in errors.values())


@pytest.mark.parametrize("database", [0, 1])
async def test_a_user_needs_no_more_commands_than_are_listed(server, key, prefix, monkeypatch, database):
    """The how-to lists them, for a user with restricted rights."""
    for module in (redis_store, store_server):
        monkeypatch.setattr(module, "HEARTBEAT", 0.05)
    listed = re.findall(r"run `EVAL`.*", (ROOT / "docs/guides/redis-postgres.md").read_text())
    commands = [f"+{name.lower()}" for name in re.findall(r"`([A-Z]+)`", listed[0]) if name != "SELECT" or database]
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "restricted", "on", f">{MARK}", "~*", "&*", "-@all", *commands)
        client.config_resetstat()
    url = f"{server.url.replace('//', f'//restricted:{MARK}@').removesuffix('/0')}/{database}"
    async with store_at(url, prefix=prefix) as store:
        heard = asyncio.Event()
        store.watch(key, heard.set)
        await eventually(lambda: server.listeners(f"{prefix}news"))
        assert await failures(store, key) == {}

        async def is_examined():
            await store.load(key)
            with server.client() as client:
                return "cmdstat_ping" in client.info("commandstats")

        await eventually(is_examined)
        assert await store.save(key, make_record(), None)
        await eventually(heard.is_set)


URLS = [
    "hush",
    "",
    "http://u:hush@127.0.0.1/",
    "redis://u:hush@h:port/0",
    "redis://u:hush@h:99999/0",
    "redis://u:hush@[::1/0",
    "redis://u:hush@h/0?socket_timeout=soon",
    "redis://u:hush@h/0?no_such_option=1",
    "rediss://u:hush@h/0?ssl_cert_reqs=perhaps",
    b"redis://u:hush@h/",
    None,
    7,
]


@pytest.mark.parametrize("url", URLS, ids=repr)
def test_a_malformed_url_is_refused_without_being_shown(url):
    """When the store is made."""
    with pytest.raises(ConfigurationError, match="URL") as caught:
        RedisStore(url, encryption_keys=KEY)
    assert MARK not in frames_shown(caught.value)


def test_keys_or_plaintext_must_be_said():
    """One of both."""
    for keys, plaintext in (((), False), (KEY, True)):
        with pytest.raises(ConfigurationError, match=r"RedisStore\(localhost:6379/0\)"):
            RedisStore("redis://", encryption_keys=keys, plaintext=plaintext)
    with pytest.raises(ConfigurationError, match="32 bytes") as caught:
        RedisStore("redis://", encryption_keys=MARK)
    assert MARK not in frames_shown(caught.value)


@pytest.mark.parametrize("warm", [True, False], ids=["connected", "not connected"])
async def test_a_server_that_stalls_is_given_up_on_in_time(proxy, prefix, key, warm):
    """Within the store's timeout, whether a connection has to be made first or not: each operation ends at all."""
    async with store_at(proxy.url, prefix=prefix) as store:
        if warm:
            assert await failures(store, key) == {}
        proxy.mode = "stall"
        wait_no_longer_than(SOON, store)
        errors = await failures(store, key)
        assert errors.keys() == ALL
        assert all(str(error).endswith(f"no answer within {spoken(SOON)}") for error in errors.values())
        proxy.heal()
        wait_no_longer_than(HANG, store)
        assert await failures(store, key) == {}


@pytest.mark.parametrize("mode", ["refuse", "reset", "lose"])
async def test_a_connection_that_breaks_is_told(proxy, prefix, key, mode):
    """Once it holds again, the store goes on, and nobody holds a lease that was not given back for long."""
    async with store_at(proxy.url, prefix=prefix) as store:
        assert await failures(store, key) == {}
        proxy.mode = mode
        proxy.cut()
        assert (await failures(store, key)).keys() == ALL
        proxy.heal()
        assert await failures(store, key) == {}


async def test_a_save_whose_answer_was_lost_may_be_repeated(proxy, store, prefix, key):
    """It took effect, and saving the same again succeeds."""
    async with store_at(proxy.url, prefix=prefix) as other:
        record = make_record()
        assert (await other.load(key)).record is None
        proxy.mode = "lose"
        with pytest.raises(StoreError):
            await other.save(key, record, None)
        proxy.heal()
        assert (await store.load(key)).record.digest == record.digest
        assert await other.save(key, record, None)


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "plaintext"])
async def test_at_rest_and_on_the_way_tokens_are_sealed(redis_server, proxy, prefix, key, sealed):
    """Keys, values, messages and whatever passes hold none of them, unless plaintext was asked for."""
    how = {"encryption_keys": KEY} if sealed else {"plaintext": True}
    records = [make_record(), make_record(presenting="an attempt"), make_record(), make_record()]
    seen = []
    with redis_server.client() as client, client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.psubscribe(f"{prefix}*")
        channel.get_message(timeout=HANG)
        async with store_at(proxy.url, prefix=prefix, **how) as store:
            for before, record in itertools.pairwise([None, *records]):
                async with store.lease(key, HOUR) as held:
                    assert held
                    assert await store.save(key, record, before and before.digest)
                    seen.append(redis_server.dump(prefix))
        news = await eventually(lambda: drain(channel, seen) >= 3 and seen)
        messages = [one for one in news if isinstance(one, dict) and "pattern" in one]
    assert [one["channel"] for one in messages] == [f"{prefix}news".encode()] * 3
    assert {one["data"] for one in messages} == {key.encode()}
    assert {place(prefix, key).encode(), place(prefix, key, "lease").encode()} <= seen[0].keys()
    everything = repr(seen).encode() + bytes(proxy.heard)
    for record in records:
        for half in (record.pair.access_token, record.pair.refresh_token):
            assert (half.value.encode() in everything) is not sealed
    assert (MARK.encode() in everything) is not sealed
    assert KEY.encode() not in everything


def drain(channel, seen):
    """Add the messages that have come; return how many of them there are by now."""
    while (message := channel.get_message(timeout=0.01)) is not None:
        seen.append(message)
    return sum("pattern" in one for one in seen)


async def test_what_is_kept_ends_when_it_is_of_no_use(redis_server, store, prefix, key):
    """A record with its refresh token, by the server's time, and a lease after the time it was taken for."""
    age, began = 1000.0, time.time()

    def lasted():
        """Return how many seconds may have passed since the test began."""
        return time.time() - began + ROUNDING

    at = (await store.load(key)).at
    assert -ROUNDING <= at - began <= lasted()
    assert await store.save(key, make_record(asked_at=at - age), None)
    with redis_server.client() as client:
        left = client.pttl(place(prefix, key)) / 1000
        assert LIFE + WINDOW - age - lasted() <= left <= LIFE + WINDOW - age
        async with store.lease(key, HOUR):
            assert HOUR - lasted() <= client.pttl(place(prefix, key, "lease")) / 1000 <= HOUR
        assert not client.exists(place(prefix, key, "lease"))
        async with store.lease(key, 0.0) as held:
            assert held
    past = make_record(asked_at=at - LIFE - WINDOW - 1)
    assert await store.save(key, past, (await store.load(key)).record.digest)
    assert (await store.load(key)).record is None
    assert await store.save(key, make_record(asked_at=-1e9), None)
    assert (await store.load(key)).record is None


async def test_sealing_keys_are_exchanged_one_after_the_other(redis_server, prefix, key):
    """An old one opens, the first seals; who knows only the old one cannot read what the new one sealed."""
    old, new = generate_encryption_key(), generate_encryption_key()
    first, second = make_record(), make_record()
    async with (
        store_at(redis_server.url, encryption_keys=old, prefix=prefix) as before,
        store_at(redis_server.url, encryption_keys=(new, old), prefix=prefix) as between,
        store_at(redis_server.url, encryption_keys=new, prefix=prefix) as after,
    ):
        assert await before.save(key, first, None)
        assert (await between.load(key)).record.digest == first.digest
        assert "that isn't in encryption_keys=…" in str((await failures(after, key))["load"])
        assert await between.save(key, first, None) or await between.save(key, first, first.digest)
        await between.delete(key)
        assert await before.save(key, first, None)
        assert await between.save(key, second, first.digest)
        assert (await after.load(key)).record.digest == second.digest
        assert "that isn't in encryption_keys=…" in str((await failures(before, key))["load"])


async def test_a_record_that_was_moved_is_refused(redis_server, store, prefix, key):
    """It opens under its own key only."""
    other = key_of((key,))
    assert await store.save(key, make_record(), None)
    with redis_server.client() as client:
        client.copy(place(prefix, key), place(prefix, other))
    assert "failed authentication" in str((await failures(store, other))["load"])


async def test_no_byte_of_a_record_may_change(redis_server, store, prefix, key):
    """Neither of its head nor of its body, nor may it end sooner."""
    record = make_record()
    assert await store.save(key, record, None)
    with redis_server.client() as client:
        sealed = client.hget(place(prefix, key), "sealed")
        flipped = [sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :] for i in (*range(20), len(sealed) // 2, -1)]
        flipped[-1] = sealed[:-1] + bytes([sealed[-1] ^ 1])
        for other in (*flipped, sealed[:-1], sealed[:18], sealed[:3], b"", sealed + b"x", b"\x01\x00{}"):
            client.hset(place(prefix, key), "sealed", other)
            with pytest.raises(StoreError) as caught:
                await store.load(key)
            assert MARK not in frames_shown(caught.value)
        client.hset(place(prefix, key), "sealed", sealed)
    assert (await store.load(key)).record.digest == record.digest


@pytest.mark.parametrize("content", [b"", b"hush", b"{}", b'{"pair": ["hush", "hush"]}', b"[]", b"null", b"\xff\xfe"])
async def test_what_is_no_record_in_plaintext_is_told_without_its_words(redis_server, prefix, key, content):
    """Somebody else may have written it."""
    async with store_at(redis_server.url, plaintext=True, prefix=prefix) as store:
        with redis_server.client() as client:
            client.hset(place(prefix, key), mapping={"digest": "0", "sealed": b"\x01\x00" + content})
        assert (await failures(store, key)).keys() == {"load"}


@pytest.mark.parametrize("flush", ["connections", "scripts"])
async def test_what_the_server_forgets_costs_no_failure(server, prefix, key, flush):
    """Connections that it has closed in the meantime, and scripts."""
    async with store_at(server.url, prefix=prefix) as store:
        await asyncio.gather(*(store.load(key) for _ in range(5)))
        with server.client() as client:
            if flush == "connections":
                assert client.client_kill_filter(_type="normal", skipme=True) >= 1
            else:
                assert client.script_flush()
        await asyncio.gather(*(store.load(key) for _ in range(10)))
        with server.client() as client:
            client.client_kill_filter(_type="normal", skipme=True) if flush == "connections" else client.script_flush()
        assert await failures(store, key) == {}


async def test_a_server_that_loses_its_power_is_used_again_when_it_is_back(server, prefix, key):
    """Empty as it is; and who watched hears of news again."""
    heard = asyncio.Event()
    async with (
        store_at(server.url, prefix=prefix) as store,
        store_at(server.url, prefix=prefix) as other,
    ):
        unwatch = store.watch(key, heard.set)
        await eventually(lambda: server.listeners(f"{prefix}news"))
        assert await other.save(key, make_record(), None)
        await eventually(heard.is_set)
        async with store.lease(key, HOUR) as held:  # leaving it without a server must not raise
            assert held
            server.kill()
        assert (await failures(store, key)).keys() == ALL
        server.start()
        assert (await store.load(key)).record is None
        heard.clear()
        await eventually(lambda: server.listeners(f"{prefix}news"))
        assert await other.save(key, make_record(), None)
        await eventually(heard.is_set)
        unwatch()


def demote(client, port):
    client.replicaof("127.0.0.1", port)


def demote_without_its_primary(client, port):
    """Make it a replica that can't reach its primary, and answers nothing until then."""
    client.config_set("replica-serve-stale-data", "no")
    client.replicaof("127.0.0.1", port)


def isolate(client, port):
    client.config_set("min-replicas-to-write", "1")


def take_its_slots(client, port):
    client.execute_command("CLUSTER", "DELSLOTSRANGE", 0, 16383)


@asynccontextmanager
async def failover(make_useless, options=()):
    """Yield an address that leads to a server, that server, another one, and a function that replaces the first.

    Connections to the first server stay open, as those of a failover do.
    """
    with RedisServer(*options) as before, RedisServer() as after, reserve_port() as nowhere:
        if options:
            with before.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
                await eventually(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        async with Proxy(before.port) as proxy:

            def replace(*, name=True):
                with before.client() as client:
                    make_useless(client, nowhere)
                if name:
                    proxy.lead_to(after.port)

            yield proxy, before, after, replace


async def lease(store, key):
    async with store.lease(key, HOUR) as held:
        assert held


OPERATIONS = {
    "load": lambda store, key: store.load(key),
    "save": lambda store, key: store.save(key, make_record(), None),
    "delete": lambda store, key: store.delete(key),
    "lease": lease,
}
REFUSED = [
    *[(demote, name, ()) for name in ("save", "delete", "lease")],
    *[(demote_without_its_primary, name, ()) for name in OPERATIONS],
    *[(isolate, name, ()) for name in ("save", "delete", "lease")],
    *[(take_its_slots, name, ("--cluster-enabled", "yes")) for name in OPERATIONS],
]


@pytest.mark.parametrize(
    ("make_useless", "operation", "options"),
    [
        pytest.param(*case, id=f"{case[0].__name__}, {case[1]}", marks=() if "save" in case else pytest.mark.slow)
        for case in REFUSED
    ],  # one for each answer; the other operations start as many servers
)
async def test_after_a_failover_an_operation_reaches_the_new_server(prefix, key, make_useless, operation, options):
    """The first server refuses it, which isn't reported. (P34)"""
    async with (
        failover(make_useless, options) as (proxy, _, after, replace),
        store_at(proxy.url, prefix=prefix) as store,
    ):
        assert await failures(store, key) == {}
        replace()
        await OPERATIONS[operation](store, key)
        assert await store.save(key_of((key,)), make_record(), None)
        assert after.dump(prefix)


async def listening_moves(before, after, prefix):
    """Wait until the store listens to the second server, and no more to the first."""
    await eventually(lambda: after.listeners(f"{prefix}news"))
    await eventually(lambda: not before.listeners(f"{prefix}news"))


async def test_after_a_failover_the_store_listens_to_the_new_server(prefix, key):
    """Nothing is published on the first one any more."""
    async with failover(demote) as (proxy, before, after, replace), store_at(proxy.url, prefix=prefix) as store:
        heard = asyncio.Event()
        store.watch(key, heard.set)
        await store.load(key)
        await eventually(lambda: before.listeners(f"{prefix}news"))
        replace()
        assert await store.save(key_of((key,)), make_record(), None)
        await listening_moves(before, after, prefix)
        async with store_at(after.url, prefix=prefix) as other:
            assert await other.save(key, make_record(), None)
        await eventually(heard.is_set)


async def test_a_store_that_writes_nothing_listens_to_the_new_server_in_the_end(prefix, key, monkeypatch, caplog):
    """A connection to listen on lasts for ten minutes only, which isn't worth a line in the log."""
    caplog.set_level(logging.INFO, "signalwire_tokens.stores")
    assert LISTEN_FOR <= 600
    monkeypatch.setattr(RedisStore.__module__ + ".LISTEN_FOR", SOON)
    async with failover(demote) as (proxy, before, after, replace), store_at(proxy.url, prefix=prefix) as store:
        store.watch(key, lambda: None)
        await eventually(lambda: before.listeners(f"{prefix}news"))
        replace()
        await listening_moves(before, after, prefix)
    assert "lost the subscription" not in caplog.text


async def test_a_connection_that_was_in_use_during_a_failover_is_not_used_again(prefix, key):
    """It would read what the first server had."""
    async with failover(demote) as (proxy, before, _, replace), store_at(proxy.url, prefix=prefix) as store:
        await asyncio.gather(store.load(key), store.load(key))
        connection = await store._server.redis.connection_pool.get_connection()
        replace()
        record = make_record()
        assert await store.save(key, record, None)
        await store._server.redis.connection_pool.release(connection)
        assert (await store.load(key)).record.digest == record.digest
        with before.client() as client:
            await eventually(lambda: len(client.client_list(_type="normal")) == 1)


async def test_a_replica_that_stays_one_is_named_in_the_error(prefix, key):
    """Each attempt looks where the address leads, and the first one after that has changed succeeds."""
    async with failover(demote) as (proxy, _, after, replace), store_at(proxy.url, prefix=prefix) as store:
        await store.load(key)
        replace(name=False)
        for _ in range(3):
            before = proxy.connections
            with pytest.raises(StoreError, match="the server answered READONLY: it is a replica"):
                await store.save(key, make_record(), None)
            assert proxy.connections > before
        proxy.lead_to(after.port)
        assert await store.save(key, make_record(), None)


async def test_many_operations_at_once_move_together(prefix, key):
    """They open no more connections than they need."""
    async with failover(demote) as (proxy, _, after, replace), store_at(proxy.url, prefix=prefix) as store:
        keys = [key_of((key, str(number))) for number in range(20)]
        await asyncio.gather(*(store.load(one) for one in keys))
        replace()
        before = proxy.connections
        assert all(await asyncio.gather(*(store.save(one, make_record(), None) for one in keys)))
        assert proxy.connections - before <= len(keys)
        assert len(after.dump(prefix)) == len(keys)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ResponseError("ERR Error running script (call to f_12): @user_script:4: -READONLY You can't write"),
            "READONLY",
        ),
        (ResponseError("MISCONF Redis is configured to save RDB snapshots"), "MISCONF: it can't write to its disk"),
        (ReadOnlyError("You can't write", status_code="READONLY"), "READONLY: it is a replica"),
        (BusyLoadingError("is loading", status_code="LOADING"), "LOADING: it is starting"),
        (ResponseError("UNBLOCKED force unblock from blocking operation"), "UNBLOCKED"),
    ],
    ids=repr,
)
def test_what_a_server_answers_is_named_by_its_code(error, words):
    """Of its words, nothing is shown: they may quote what was sent."""
    assert describe_error(error).startswith(f"the server answered {words}")
    assert "You" not in describe_error(error)


async def test_another_event_loop_is_refused(store, key):
    """In words, rather than breaking in the middle of things."""
    assert await failures(store, key) == {}

    async def elsewhere():
        for work in (store.load(key), store.save(key, make_record(), None), store.delete(key)):
            with pytest.raises(StoreError, match="event loop"):
                await work
        with pytest.raises(StoreError, match="event loop"):
            store.watch(key, lambda: None)
        with pytest.raises(StoreError, match="event loop"):
            async with store.lease(key, 1.0):
                pass

    await asyncio.to_thread(asyncio.run, elsewhere())
    assert await failures(store, key) == {}


async def test_a_url_that_asks_for_text_is_given_bytes(redis_server, prefix, key):
    """What is sealed is none."""
    async with store_at(f"{redis_server.url}?decode_responses=true", prefix=prefix) as store:
        heard, record = asyncio.Event(), make_record()
        store.watch(key, heard.set)
        await eventually(lambda: redis_server.listeners(f"{prefix}news"))
        assert await store.save(key, record, None)
        assert (await store.load(key)).record.digest == record.digest
        await eventually(heard.is_set)


async def test_a_store_that_was_not_closed_warns(redis_server, prefix, key):
    """And listens no longer."""
    store = store_at(redis_server.url, prefix=prefix)
    store.watch(key, lambda: None)
    await eventually(lambda: redis_server.listeners(f"{prefix}news"))
    with pytest.warns(ResourceWarning, match=r"unclosed RedisStore\(127"):
        store = None
    await eventually(lambda: not redis_server.listeners(f"{prefix}news"))


def test_a_store_that_was_closed_is_used_on_the_next_event_loop(redis_server, prefix, key):
    """One that was not warns, although nothing is left to be ended."""

    async def use(store):
        store.watch(key, lambda: None)
        await eventually(lambda: redis_server.listeners(f"{prefix}news"))

    async def use_and_close(store):
        async with store:
            await use(store)
            assert (await store.load(key)).record is None

    def drop(stores):
        stores.clear()
        gc.collect()

    stores = [store_at(redis_server.url, prefix=prefix)]
    for _ in range(2):
        asyncio.run(use_and_close(stores[0]))
    asyncio.run(use(stores[0]))
    with pytest.warns(ResourceWarning, match=r"unclosed RedisStore\(127"):
        drop(stores)


def is_about_to_lose_a_cancellation(task):
    """Tell whether a task is where Python 3.11 forgets that it was cancelled: in a `wait_for` that has its answer."""
    step = task.get_coro()
    while step is not None:
        if getattr(step, "__name__", "") == "wait_for" and step.cr_frame.f_locals["fut"].done():
            return True
        step = getattr(step, "cr_await", None)
    return False


@pytest.mark.parametrize("how", ["closed", "cancelled once"])
async def test_listening_ends_at_whatever_moment(redis_server, prefix, key, how):
    """Python 3.11's `asyncio.wait_for`, in the client, loses a cancellation; `asyncio.run` cancels no second time."""
    store = store_at(redis_server.url, prefix=prefix)
    store.watch(key, lambda: None)
    listening = store._listening
    for _ in range(TURNS):
        if is_about_to_lose_a_cancellation(listening):
            break
        await asyncio.sleep(0)
    try:
        if how == "cancelled once":
            listening.cancel()
            await asyncio.wait([listening], timeout=HANG)
            assert listening.cancelled()
        async with asyncio.timeout(HANG):
            await store.aclose()
    finally:
        listening.cancel()
        await asyncio.wait([listening])


async def test_no_call_loses_a_cancellation(store, key):
    """At each step of the event loop's, connected or not: who has cancelled a call is not kept waiting by it."""
    steps, done = 0, False
    while not done:
        call = asyncio.create_task(store.load(key))
        for _ in range(steps):
            await asyncio.sleep(0)
        done, steps = not call.cancel(), steps + 1
        await asyncio.wait([call])
        assert call.cancelled() is not done
    assert steps > 3


@pytest.mark.parametrize("error", [None, OSError("the connection broke")], ids=repr)
async def test_a_cancellation_is_kept_whatever_comes_instead(error):
    """An answer, or a failure."""

    async def lose_it():
        with cancellation_kept():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if error is not None:
                    raise error from None

    call = asyncio.create_task(lose_it())
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()


async def test_a_closed_store_may_be_used_again(redis_server, prefix, key):
    """Watching included; and closing twice, or one that was not used, does no harm."""
    store, heard = store_at(redis_server.url, prefix=prefix), asyncio.Event()
    await store.aclose()
    for _ in range(2):
        unwatch = store.watch(key, heard.set)
        await eventually(lambda: redis_server.listeners(f"{prefix}news"))
        await store.delete(key)
        assert await store.save(key, make_record(), None)
        await eventually(heard.is_set)
        unwatch()
        heard.clear()
        await store.aclose()
        await store.aclose()
        await eventually(lambda: not redis_server.listeners(f"{prefix}news"))


async def test_many_watch_through_one_connection(redis_server, store, prefix):
    """And many work at once, with more to do than there are connections."""
    keys = [key_of(("many", str(i))) for i in range(3 * MOST_CONNECTIONS)]
    told = []
    for key in keys:
        store.watch(key, lambda key=key: told.append(key))
    await eventually(lambda: redis_server.listeners(f"{prefix}news"))
    assert all(await asyncio.gather(*(store.save(key, make_record(), None) for key in keys)))
    await eventually(lambda: len(told) >= len(keys))
    assert sorted(told) == sorted(keys)
    assert redis_server.listeners(f"{prefix}news") == 1


async def test_a_message_that_names_no_key_is_ignored(redis_server, store, prefix, key):
    """Whoever sends it; news go on."""
    told = []
    store.watch(key, lambda: told.append(key))
    await eventually(lambda: redis_server.listeners(f"{prefix}news"))
    with redis_server.client() as client:
        client.publish(f"{prefix}news", b"\xff\xfe")
        client.publish(f"{prefix}news", "somebody else's")
        client.publish(f"{prefix}news", key)
    await eventually(lambda: told)
    assert told == [key]


async def test_a_watcher_that_fails_harms_no_other(redis_server, store, prefix, key, caplog):
    """It is told again with the next news, and so are all others."""
    told = []
    store.watch(key, lambda: told.append("first") or 1 / 0)
    store.watch(key, lambda: told.append("second"))
    for _ in range(2):
        await eventually(lambda: redis_server.listeners(f"{prefix}news"))
        with redis_server.client() as client:
            client.publish(f"{prefix}news", key)
        await eventually(lambda: told[-1:] == ["second"])
        assert told == ["first", "second"]
        told.clear()


async def test_whoever_is_cancelled_while_holding_gives_the_lease_back(store, key):
    """At once."""
    holding = asyncio.Event()

    async def hold():
        async with store.lease(key, HOUR):
            holding.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await holding.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    async with store.lease(key, 1.0) as held:
        assert held


async def test_tls_and_unix_sockets_are_spoken(server, prefix, key, tmp_path):
    """As the URL says; a certificate that nobody vouches for is refused."""
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with Proxy(server.port, tls=context) as proxy:
        assert proxy.url.startswith("rediss://")
        async with store_at(f"{proxy.url}?ssl_ca_certs={tmp_path}/ca.pem", prefix=prefix) as store:
            assert await failures(store, key) == {}
            assert await store.save(key, record := make_record(), None) or await store.load(key)
        async with store_at(proxy.url, prefix=prefix) as store:
            assert (await failures(store, key)).keys() == ALL
    async with store_at(f"unix://{server.unix_socket}", prefix=prefix) as store:
        assert repr(store) == f"RedisStore({server.unix_socket}/0)"
        assert await failures(store, key) == {}
        assert await store.save(key, attrs.evolve(record, presenting="an attempt"), record.digest)


@pytest.mark.parametrize(
    "settings",
    [{"timeout": 0}, {"timeout": "1"}, {"timeout": True}, {"timeout": float("inf")}, {"prefix": None}, {"prefix": "{"}],
)
def test_settings_that_make_no_sense_are_refused(settings):
    """When the store is made."""
    with pytest.raises(ConfigurationError, match=f"RedisStore: {min(settings)}"):
        RedisStore("redis://127.0.0.1", encryption_keys=KEY, **settings)


async def test_a_database_that_is_not_there_is_named(redis_server, key):
    """As the one thing to mend."""
    url = redis_server.url.removesuffix("/0") + "/99"
    async with store_at(url) as store:
        with pytest.raises(StoreError, match="no database of this number"):
            await store.load(key)


async def test_closing_belongs_to_the_event_loop_too(store, key):
    """From any other, a forked process's included, it is refused rather than never done."""
    await store.load(key)
    with pytest.raises(StoreError, match="create one RedisStore per event loop"):
        await asyncio.to_thread(asyncio.run, store.aclose())


def test_a_store_that_was_refused_can_be_shown():
    """A traceback with its locals does so."""
    assert repr(RedisStore.__new__(RedisStore)) == "RedisStore()"


def test_without_the_client_the_extra_is_named(monkeypatch):
    """In place of a module that nobody has heard of."""
    for name in (RedisStore.__module__, "signalwire_tokens.stores.redis_server"):
        monkeypatch.delitem(sys.modules, name)
    for name in ("redis", "redis.asyncio"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r"install signalwire-tokens with its extra `redis`"):
        import_module(RedisStore.__module__)


async def test_a_user_without_channels_can_save(prefix, key, caplog):
    """New users have none by default: nobody hears of the pair then, and listening is not tried all the time."""
    caplog.set_level(logging.INFO, "signalwire_tokens.stores")
    with RedisServer() as server:
        with server.client() as client:
            client.acl_setuser(
                "mute", enabled=True, passwords=["+hush"], keys=["*"], commands=["+@all"], reset_channels=True
            )
        url = server.url.replace("redis://", "redis://mute:hush@")
        async with store_at(url, prefix=prefix) as store:
            store.watch(key, lambda: None)
            record = make_record()
            assert await store.save(key, record, None)
            assert (await store.load(key)).record.digest == record.digest
            await eventually(lambda: caplog.text.count("lost the subscription") > 2)
            assert "next attempt in 0.4 s" in caplog.text
