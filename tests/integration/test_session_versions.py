"""A rolling deployment: sessions of two versions of the library share a store. Each writes records in its format."""

import json
from contextlib import asynccontextmanager
from uuid import uuid4

import attrs
import pytest

from signalwire_tokens import (
    RefreshPolicy,
    RefreshTuning,
    SqliteStore,
    StoreError,
    SubscriberSession,
    TokenUnavailable,
    UnreadableRecord,
    generate_encryption_key,
)
from signalwire_tokens.stores import Sealer
from signalwire_tokens.stores.postgres import PostgresStore
from signalwire_tokens.stores.records import decode, encode
from signalwire_tokens.stores.redis import RedisStore
from signalwire_tokens.stores.sealing import FORMATS, Format
from support.waiting import HANG, eventually

pytestmark = pytest.mark.redis
KEY = generate_encryption_key()
ISSUE, REFRESH = "create_subscriber_token", "refresh_subscriber_token"
NEXT_VERSION = 2
EAGER = RefreshTuning(
    lease=240.0, min_interval=0.02, lease_poll=0.02, expired_backoff_min=0.05, expired_backoff_max=0.1
)
POLICY = RefreshPolicy(
    store_timeout=120.0, wait_timeout=HANG, close_timeout=HANG, backoff_min=0.05, backoff_max=0.1, tuning=EAGER
)


def encode_next(record):
    """Write a record as a later version may: with another name for a field that this version needs."""
    content = json.loads(encode(record))
    content["requested_at"] = content.pop("asked_at")
    return json.dumps(content).encode()


def decode_next(written):
    content = json.loads(written)
    content["asked_at"] = content.pop("requested_at")
    return decode(json.dumps(content).encode())


class NextSealer(Sealer):
    """The sealer of the next version, which reads this one's records, too."""

    formats = FORMATS | {NEXT_VERSION: Format(encode_next, decode_next)}


@pytest.fixture(params=["redis", "postgres", "sqlite"])
def make_store(request, tmp_path, client):
    """Return a function that returns a store of one process on the same data."""
    name = f"t{uuid4().hex}"
    match request.param:
        case "redis":
            url = request.getfixturevalue("redis_server").url
            return lambda: RedisStore(url, encryption_keys=KEY, prefix=name, timeout=HANG)
        case "postgres":
            dsn = request.getfixturevalue("postgres_server").dsn
            return lambda: PostgresStore(dsn, encryption_keys=KEY, table=name, timeout=HANG)
        case _:
            return lambda: SqliteStore(tmp_path / name, encryption_keys=KEY, clock=client.clock)


@asynccontextmanager
async def opened(make_store):
    """Yield two stores on the same data: of this version, and of the next."""
    async with make_store() as this, make_store() as following:
        if isinstance(this, PostgresStore):
            await this.create_schema()
        following._sealer = NextSealer(str(following), KEY)
        yield this, following


@pytest.fixture(autouse=True)
def no_used_token(emulator):
    """Fail a test in which a used refresh token was presented, or another request was refused."""
    yield
    assert {entry.status for entry in emulator.requests} <= {200, 201}


def session_of(client, store, **settings):
    return SubscriberSession(client, "alice", store=store, policy=POLICY, **settings)


def operations(emulator):
    return [entry.operation for entry in emulator.requests]


async def digest_in(store, session):
    record = (await store.load(session.store_key)).record
    return None if record is None else record.digest


async def is_saved(store, session):
    record = (await store.load(session.store_key)).record
    return record is not None and record.pair.access_token.value == session.pair.access_token.value


async def test_a_newer_process_goes_on_with_the_pair_of_an_older_one(emulator, client, make_store):
    """It reads the older record. The older process leaves the newer record as it is, and has a pair of its own."""
    async with (
        opened(make_store) as (this, following),
        session_of(client, this) as older,
        session_of(client, following) as newer,
    ):
        assert await newer.token() == await older.token()
        await newer.refresh()
        assert operations(emulator) == [ISSUE, REFRESH]
        with pytest.raises(UnreadableRecord, match="by a newer version of signalwire-tokens: update this process"):
            await this.load(older.store_key)
        digest = await digest_in(following, newer)
        older.invalidate(await older.token())
        assert emulator.accepts(await older.token())
        assert operations(emulator) == [ISSUE, REFRESH, ISSUE]
        assert await digest_in(following, newer) == digest
        await newer.refresh()
        assert operations(emulator) == [ISSUE, REFRESH, ISSUE, REFRESH]


async def test_an_older_process_shares_again_once_the_newer_record_is_gone(emulator, client, make_store):
    """After a deployment was taken back: it saves its pair, which the newer version would read, too."""
    async with opened(make_store) as (this, following):
        async with session_of(client, following) as newer:
            assert operations(emulator) == [ISSUE]
        async with session_of(client, this) as older:
            assert emulator.accepts(await older.token())
            assert await digest_in(following, newer) is not None
            await following.delete(newer.store_key)
            await eventually(lambda: is_saved(this, older))
            async with session_of(client, this) as another, session_of(client, following) as newer:
                assert await another.token() == await newer.token() == await older.token()
        assert operations(emulator) == [ISSUE, ISSUE]


async def test_an_older_process_that_can_not_issue_presents_no_token_that_may_be_used(emulator, client, make_store):
    """The newer process has refreshed the pair. The older session has no token until the record can be read."""
    async with opened(make_store) as (this, following):
        impatient = attrs.evolve(POLICY, wait_timeout=0.2)
        older = SubscriberSession(client, "alice", store=this, policy=impatient, reissue=False)
        async with older, session_of(client, following, reissue=False) as newer:
            await newer.refresh()
            older.invalidate(await older.token())
            await eventually(lambda: is_unavailable(older, "written by a newer version"))
            with pytest.MonkeyPatch.context() as patch:  # later, the store fails in another way
                patch.setattr(this, "load", unreachable)
                await eventually(lambda: is_unavailable(older, "is away"))
            assert operations(emulator) == [ISSUE, REFRESH]
            this._sealer = following._sealer  # the process is updated
            await eventually(lambda: is_saved(this, older))
            assert await older.token() == await newer.token()


async def is_unavailable(session, words):
    """Return whether a call gets no token, and the error has these words: on a slow machine, the first may not yet."""
    with pytest.raises(TokenUnavailable) as caught:
        await session.token()
    return words in str(caught.value)


async def unreachable(_):
    raise StoreError("the store is away")


async def test_processes_of_both_versions_rotate_side_by_side(emulator, client, make_store):
    """Each always has a valid token. An older process keeps its own while the newer record is there."""
    async with (
        opened(make_store) as (this, following),
        session_of(client, this) as older,
        session_of(client, following) as newer,
    ):
        for _ in range(3):
            await newer.refresh()
            with pytest.raises(TokenUnavailable) as caught:
                await older.refresh()
            assert isinstance(caught.value.cause, UnreadableRecord)
            assert emulator.accepts(await older.token())
            assert emulator.accepts(await newer.token())
        older.invalidate(await older.token())
        assert emulator.accepts(await older.token())
        assert await is_saved(following, newer)
        assert operations(emulator) == [ISSUE, REFRESH, REFRESH, REFRESH, ISSUE]
