"""The store that lives as long as the process."""

from datetime import timedelta

import attrs
import pytest

from signalwire_tokens import MemoryStore
from signalwire_tokens.stores.memory import MOST_SWEPT, SPARE
from signalwire_tokens.testing import StoreConformance
from signalwire_tokens.testing.conformance import make_record

LIFE = 7500.0  # seconds that a refresh token lives


def with_life(record, seconds):
    """Return a record whose refresh token lives for so many seconds."""
    token = record.pair.refresh_token
    token = attrs.evolve(token, expires_at=token.issued_at + timedelta(seconds=seconds))
    return attrs.evolve(record, pair=attrs.evolve(record.pair, refresh_token=token))


class TestMemoryStore(StoreConformance):
    calls_watchers = True

    @pytest.fixture
    def store(self):
        return MemoryStore()


async def test_its_time_is_the_clock_s_that_it_was_given(clock):
    """It does not pass by itself."""
    store = MemoryStore(clock=clock)
    await store.save("alice", await make_record(store, "alice"), None)
    assert (await store.load("alice")).age == 0
    await clock.advance(100)
    assert (await store.load("alice")).age == 100


async def test_records_are_forgotten_when_their_refresh_tokens_have_ended(clock):
    """With the next that is saved; one that was replaced in the meantime is kept."""
    store = MemoryStore(clock=clock)
    for key in ("alice", "bob", "carol"):
        await store.save(key, await make_record(store, key), None)
    await clock.advance(LIFE - 1)
    held = (await store.load("alice")).record
    await store.save("alice", await make_record(store, "alice"), held.digest)
    assert len(store.records) == 3
    await clock.advance(1)
    await store.save("dave", await make_record(store, "dave"), None)
    assert list(store.records) == ["alice", "dave"]


async def test_a_long_lived_record_keeps_no_other_in_memory(clock):
    """Each record goes when it expires, wherever it was saved in between."""
    store = MemoryStore(clock=clock)
    await store.save("long", with_life(await make_record(store, "long"), 100 * LIFE), None)
    for number in range(10):
        await store.save(str(number), await make_record(store, str(number)), None)
    await clock.advance(LIFE)
    await store.save("last", await make_record(store, "last"), None)
    assert list(store.records) == ["long", "last"]


async def test_a_record_that_a_shorter_lived_one_replaces_goes_when_that_expires(clock):
    """The expiry time of the record that is kept counts."""
    store = MemoryStore(clock=clock)
    long = with_life(await make_record(store, "alice"), 100 * LIFE)
    await store.save("alice", long, None)
    await store.save("alice", await make_record(store, "alice"), long.digest)
    await clock.advance(LIFE)
    await store.save("bob", await make_record(store, "bob"), None)
    assert list(store.records) == ["bob"]


@pytest.mark.parametrize("what", ["one key, later each time", "one key, sooner each time", "deleted keys"])
async def test_memory_is_bounded_by_the_records_that_are_kept(clock, what):
    """However often a record is saved or deleted."""
    store = MemoryStore(clock=clock)
    record, times = await make_record(store, "alice"), 1000
    for number in range(times):
        step = -number if what == "one key, sooner each time" else number
        before, record = record, attrs.evolve(record, asked_at=record.asked_at + step / times)
        key = str(number) if what == "deleted keys" else "alice"
        assert await store.save(key, record, before.digest)
        if what == "deleted keys":
            await store.delete(key)
    assert len(store.records) <= 1
    assert len(store._due) < 2 * SPARE + 2


async def test_one_save_removes_a_bounded_number_of_records(clock):
    """The others go with the next saves, and prevent none meanwhile."""
    store = MemoryStore(clock=clock)
    keys = [f"{number:03}" for number in range(2 * MOST_SWEPT)]
    for key in keys:
        await store.save(key, await make_record(store, key), None)
    await clock.advance(LIFE)
    await store.save("first", await make_record(store, "first"), None)
    assert list(store.records) == [*keys[MOST_SWEPT:], "first"]
    await store.save(keys[-1], await make_record(store, keys[-1]), None)
    assert set(store.records) == {keys[-1], "first"}


async def test_an_expired_record_that_is_still_in_memory_prevents_no_save(clock):
    """A save finds a place that is as good as empty."""
    store = MemoryStore(clock=clock)
    for number in range(MOST_SWEPT + 1):
        await store.save(f"{number:03}", await make_record(store, "alice"), None)
    await clock.advance(LIFE)
    last = f"{MOST_SWEPT:03}"
    record = await make_record(store, last)
    assert await store.save(last, record, None)
    assert (await store.load(last)).record.digest == record.digest


async def test_the_expiry_of_a_deleted_record_removes_no_later_one(clock):
    """The key may have been used again."""
    store = MemoryStore(clock=clock)
    await store.save("alice", await make_record(store, "alice"), None)
    await store.delete("alice")
    await clock.advance(LIFE / 2)
    await store.save("alice", await make_record(store, "alice"), None)
    await clock.advance(LIFE / 2)
    await store.save("bob", await make_record(store, "bob"), None)
    assert list(store.records) == ["alice", "bob"]


async def test_a_record_that_has_ended_is_in_nobody_s_way(clock):
    """It is as good as none, whatever was to be replaced."""
    store = MemoryStore(clock=clock)
    await store.save("alice", await make_record(store, "alice"), None)
    await clock.advance(LIFE)
    assert await store.save("alice", await make_record(store, "alice"), None)


async def test_a_lease_ends_when_its_time_has_come(clock):
    """And not before; who comes back late gives back nothing."""
    store = MemoryStore(clock=clock)
    late, other = store.lease("alice", 10), store.lease("alice", 10)
    assert await late.__aenter__()
    await clock.advance(9.5)
    async with store.lease("alice", 10) as held:
        assert not held
    await clock.advance(0.5)
    assert await other.__aenter__()
    await late.__aexit__(None, None, None)
    async with store.lease("alice", 10) as held:
        assert not held
    await other.__aexit__(None, None, None)
    assert store._leases == {}


async def test_nobody_who_watched_is_remembered_for_ever():
    """A key that nobody watches any more takes no room, and those who still watch are told."""
    store, told = MemoryStore(), []
    unwatch = [store.watch("alice", lambda name=name: told.append(name)) for name in ("one", "other")]
    unwatch[0]()
    unwatch[0]()
    await store.save("alice", await make_record(store, "alice"), None)
    assert told == ["other"]
    unwatch[1]()
    assert store.watchers.callbacks == {}


async def test_one_that_watches_may_stop_while_it_is_told():
    """The others are told all the same."""
    store, told, unwatch = MemoryStore(), [], {}

    def tell(name):
        told.append(name)
        unwatch[name]()

    unwatch |= {name: store.watch("alice", lambda name=name: tell(name)) for name in ("one", "other")}
    record = await make_record(store, "alice")
    await store.save("alice", record, None)
    await store.save("alice", attrs.evolve(record, asked_at=record.asked_at + 1), None)
    assert told == ["one", "other"]


def test_a_store_s_repr_shows_nothing_of_what_it_keeps():
    """It stands in errors."""
    assert repr(MemoryStore()) == "<MemoryStore>"
