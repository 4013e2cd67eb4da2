"""The store that lives as long as the process."""

import attrs
import pytest

from signalwire_tokens import MemoryStore
from signalwire_tokens.testing import StoreConformance
from signalwire_tokens.testing.conformance import make_record

LIFE = 7500.0  # seconds that a refresh token lives


class TestMemoryStore(StoreConformance):
    tells = True

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
    assert len(store._records) == 3
    await clock.advance(1)
    await store.save("dave", await make_record(store, "dave"), None)
    assert list(store._records) == ["alice", "dave"]


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
    assert store._watchers._callbacks == {}


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
