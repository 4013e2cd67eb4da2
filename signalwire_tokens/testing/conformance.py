"""The requirements on a `TokenStore`, as a test suite that you run on your own store.

Processes that share a store use it to agree on one pair, and on which process refreshes it. That depends on these four
promises, which most of the tests check:

| promise | reason |
| --- | --- |
| `save` is an atomic compare-and-set | if two processes replace a pair at once, one succeeds, and both know which |
| `lease` has one holder, and expires by itself | one process refreshes at a time, and the others survive its crash |
| `load` returns a time that all processes agree on | they have to agree on the age of a pair |
| a record stays until its refresh token expires | a session that can only refresh can't replace a lost pair |

The tests use `store` and `peer` as two processes would. They run on real time, because the clock of a server can't be
moved. They also pass on slow machines: an upper limit of real time only stops a test that hangs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import wraps
from importlib.util import find_spec
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec
from uuid import UUID

import attrs
import pytest

from signalwire_tokens.models import Token, TokenPair
from signalwire_tokens.stores import Reading, Record, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from signalwire_tokens.stores import TokenStore

__all__ = ["StoreConformance"]

NUMBERS = count(1)  # makes the tokens and keys of each test different
SHORT_LEASE, LONG_LEASE = 0.2, 3600.0  # seconds: a lease that expires during a test, and one that doesn't
POLL_INTERVAL = SHORT_LEASE / 10  # seconds between two checks of a store
CONCURRENT_CALLS = 10  # calls that run concurrently
TIME_LIMIT = 300.0  # seconds after which a test counts as hanging, on a slow machine as well
STORE_RESOLUTION = 1.0  # second by which a store's time may be rounded
DAYS = 30 * 86400.0  # seconds; a wall clock in another unit is off by far more
YEARS = 30 * 365 * 86400.0  # seconds by which a wall clock may be wrong
P = ParamSpec("P")


def make_pair() -> TokenPair:
    """Return a pair with the lifetimes of SignalWire's pairs. Each call returns different tokens."""
    now, number = datetime.now(UTC), next(NUMBERS)
    token, refresh_token = (
        Token(value=f"{kind}-{number}", issued_at=now, expires_at=now + life, kind=kind, channel="puc.signalwire.com")
        for kind, life in (("SAT", timedelta(hours=2)), ("Refresh", timedelta(hours=2, minutes=5)))
    )
    return TokenPair(access_token=token, refresh_token=refresh_token, subscriber_id=UUID(int=number))


async def make_record(store: TokenStore, key: str, age: float = 0.0) -> Record:
    """Return a record of a new pair that was requested `age` seconds ago, by the store's time."""
    reading = await store.load(key)
    wall = time.time() if reading.wall is None else reading.wall
    return Record(pair=make_pair(), asked_at=reading.at - age, asked_wall=wall - age, timeline=reading.timeline)


def record_of(reading: Reading) -> Record:
    """Return the record of a reading, and fail the test if there is none."""
    assert reading.record is not None, "nothing is kept under the key"
    return reading.record


def lifetimes_of(pair: TokenPair) -> list[timedelta]:
    """Return the lifetimes of both tokens.

    Tests compare these and not `issued_at` and `expires_at`, because a store keeps only the lifetimes. The session
    calculates the dates again from the age of the record.
    """
    return [half.expires_at - half.issued_at for half in (pair.access_token, pair.refresh_token)]


def with_time_limit(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, Coroutine[Any, Any, None]]:
    """Return the test with a time limit, so that a store that hangs fails the test and doesn't block the suite."""

    @wraps(test)
    async def bounded(*args: P.args, **fixtures: P.kwargs) -> None:
        async with asyncio.timeout(TIME_LIMIT):
            await test(*args, **fixtures)

    return bounded


class StoreConformance:
    """The test suite for a store of your own. Subclass it, and override the fixture `store`.

    If other processes can open the same data, override the fixture `peer`, too. It returns a second object on the same
    data, as another process would have it. Set `calls_watchers` to True if the store's `watch` calls back.
    """

    pytestmark: ClassVar[list[pytest.MarkDecorator]] = [pytest.mark.asyncio] if find_spec("pytest_asyncio") else []
    calls_watchers: ClassVar[bool] = False

    @pytest.fixture
    def key(self) -> str:
        """Return a key that no other test and no other run uses, because a store may keep its data between runs."""
        return key_of(("conformance", str(next(NUMBERS)), datetime.now(UTC).isoformat()))

    @pytest.fixture
    def store(self) -> TokenStore:
        """Return the store under test. Override this."""
        raise NotImplementedError("override the fixture `store`")

    @pytest.fixture
    def peer(self, store: TokenStore) -> TokenStore:
        """Return the same store as another process sees it. By default, it is the same object."""
        return store

    async def test_nothing_is_kept_under_a_new_key(self, store: TokenStore, key: str) -> None:
        """A reading of a new key has no record, but it has the store's time, which never goes back."""
        first, second = await store.load(key), await store.load(key)
        assert first.record is None
        assert first.age is None
        assert second.record is None
        assert second.at >= first.at
        assert first.timeline == second.timeline

    async def test_what_was_saved_is_read(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """Another process reads all fields of a saved record. Of a token's dates, only the lifetime must be kept."""
        for presenting in (None, "an attempt"):
            record = attrs.evolve(await make_record(store, key), presenting=presenting)
            await store.delete(key)
            assert await store.save(key, record, None)
            read = record_of(await peer.load(key))
            assert (read.digest, read.presenting) == (record.digest, presenting)
            assert (read.asked_at, read.asked_wall) == (record.asked_at, record.asked_wall)
            assert read.pair.subscriber_id == record.pair.subscriber_id
            assert lifetimes_of(read.pair) == lifetimes_of(record.pair)
            for half in ("access_token", "refresh_token"):
                mine, theirs = getattr(read.pair, half), getattr(record.pair, half)
                assert (mine.value, mine.kind, mine.channel) == (theirs.value, theirs.kind, theirs.channel)

    async def test_a_pair_ages(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """Another process reads the age of a pair: its age when it was saved, plus the time since."""
        start = time.monotonic()
        assert await store.save(key, await make_record(store, key, age=LONG_LEASE), None)
        age = (await peer.load(key)).age
        assert age is not None
        assert LONG_LEASE <= age <= LONG_LEASE + (time.monotonic() - start) + STORE_RESOLUTION

    async def test_a_wall_clock_goes_on_like_the_store_s_time(
        self, store: TokenStore, peer: TokenStore, key: str
    ) -> None:
        """A reading's `wall`, if there is one, is in seconds since the epoch and runs as fast as the store's time.

        If it gained on the store's time, sessions would conclude that the machine was paused.
        """
        assert await store.save(key, await make_record(store, key, age=LONG_LEASE), None)
        assert abs((await peer.load(key)).gained) <= STORE_RESOLUTION
        wall = (await store.load(key)).wall
        assert wall is None or abs(wall - time.time()) < DAYS, "the wall clock is not in seconds since the epoch"

    async def test_a_wrong_wall_clock_removes_no_record(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """A record stays until its refresh token expires, even if the wall clock was 30 years off when it was saved."""
        other = key_of((key,))
        for wrong in (-YEARS, YEARS):
            record = await make_record(store, key)
            record = attrs.evolve(record, asked_wall=record.asked_wall + wrong)
            for each in (key, other):
                await store.delete(each)
            assert await store.save(key, record, None)
            assert await peer.save(other, await make_record(peer, other), None)
            assert record_of(await peer.load(key)).digest == record.digest

    @with_time_limit
    async def test_keys_do_not_meet(self, store: TokenStore, key: str) -> None:
        """Loading, leasing and deleting one key doesn't affect another key."""
        other = key_of((key,))
        assert await store.save(key, await make_record(store, key), None)
        assert (await store.load(other)).record is None
        await store.delete(other)
        async with store.lease(key, LONG_LEASE) as mine, store.lease(other, LONG_LEASE) as another:
            assert mine
            assert another
        assert (await store.load(key)).record is not None

    async def test_only_the_record_that_was_read_is_replaced(
        self, store: TokenStore, peer: TokenStore, key: str
    ) -> None:
        """A save replaces only the record with the digest that the caller has read. A newer record stays."""
        first, second, third = [await make_record(store, key) for _ in range(3)]
        assert await store.save(key, first, None)
        assert not await peer.save(key, second, None)
        assert not await peer.save(key, second, third.digest)
        assert record_of(await store.load(key)).digest == first.digest
        assert await peer.save(key, second, first.digest)
        assert record_of(await store.load(key)).digest == second.digest

    async def test_a_mark_is_a_change(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """A caller that has read a record before it was marked with `presenting` can't replace it or mark it again.

        The mark protects the refresh token, which the marking process is about to use.
        """
        record = await make_record(store, key)
        mark, other = attrs.evolve(record, presenting="one"), attrs.evolve(record, presenting="another")
        assert await store.save(key, record, None)
        assert await store.save(key, mark, record.digest)
        assert not await peer.save(key, other, record.digest)
        assert not await peer.save(key, await make_record(store, key), record.digest)
        assert record_of(await peer.load(key)).presenting == "one"

    async def test_saving_twice_is_saving_once(self, store: TokenStore, key: str) -> None:
        """A caller that doesn't know whether a save worked can repeat it with the same arguments."""
        record, successor = await make_record(store, key), await make_record(store, key)
        assert await store.save(key, record, None)
        assert await store.save(key, record, None)
        assert await store.save(key, successor, record.digest)
        assert await store.save(key, successor, record.digest)
        assert not await store.save(key, record, None)

    @with_time_limit
    async def test_one_of_many_saves(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """If several callers replace the same record at once, `save` returns True to exactly one of them."""
        record = await make_record(store, key)
        assert await store.save(key, record, None)
        successors = [await make_record(store, key) for _ in range(CONCURRENT_CALLS)]
        saved = await asyncio.gather(
            *((store, peer)[i % 2].save(key, successor, record.digest) for i, successor in enumerate(successors))
        )
        assert saved.count(True) == 1
        assert record_of(await store.load(key)).digest == successors[saved.index(True)].digest

    async def test_what_was_deleted_is_gone(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """A deleted record is gone. Deleting again isn't an error.

        After that, any record can be saved, even with the digest of a record that no longer exists.
        """
        record, successor = await make_record(store, key), await make_record(store, key)
        assert await store.save(key, record, None)
        await store.delete(key)
        await store.delete(key)
        assert (await peer.load(key)).record is None
        assert await store.save(key, successor, record.digest)

    @with_time_limit
    async def test_a_lease_has_one_holder(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """A second caller gets False at once while a lease is held, and True after the holder has left the block."""
        async with store.lease(key, LONG_LEASE) as mine:
            assert mine
            async with peer.lease(key, LONG_LEASE) as another:
                assert not another
            async with peer.lease(key, LONG_LEASE) as another:  # leaving without the lease must not release it
                assert not another
        async with peer.lease(key, LONG_LEASE) as another:
            assert another

    @with_time_limit
    async def test_one_of_many_holds_a_lease(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """If several callers ask for a lease at once, exactly one gets it."""
        async with AsyncExitStack() as stack:
            wanted = [
                stack.enter_async_context((store, peer)[i % 2].lease(key, LONG_LEASE)) for i in range(CONCURRENT_CALLS)
            ]
            assert [await one for one in wanted].count(True) == 1

    @with_time_limit
    async def test_a_lease_lasts(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """A held lease isn't lost before its time, even if its key is deleted. The store's time runs in seconds."""
        async with store.lease(key, LONG_LEASE) as mine:
            assert mine
            start = time.monotonic()
            before = after = (await store.load(key)).at
            started = stopping = time.monotonic()
            while stopping - started < SHORT_LEASE or (after == before and stopping - started < 2 * STORE_RESOLUTION):
                await asyncio.sleep(POLL_INTERVAL)
                stopping = time.monotonic()
                after = (await store.load(key)).at
            assert after > before, "the store's time stands still"
            least, most = stopping - started - STORE_RESOLUTION, time.monotonic() - start + STORE_RESOLUTION
            assert least <= after - before <= most, "the store's time is not in seconds"
            await store.delete(key)
            async with peer.lease(key, LONG_LEASE) as another:  # if this waited for the lease, it would take an hour
                assert not another

    @with_time_limit
    async def test_a_lease_ends_by_itself(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """A lease that its holder doesn't give back expires by itself, and not too early.

        A process that crashes leaves such a lease. One that is only slow gives it back too late, when another caller
        may hold the lease. That must not release the other caller's.
        """
        start = time.monotonic()
        async with AsyncExitStack() as late:
            assert await late.enter_async_context(store.lease(key, SHORT_LEASE))
            async with AsyncExitStack() as stack:
                while not await stack.enter_async_context(peer.lease(key, LONG_LEASE)):
                    await asyncio.sleep(POLL_INTERVAL)
                assert time.monotonic() - start > SHORT_LEASE * 0.9
                await late.aclose()
                async with store.lease(key, LONG_LEASE) as mine:
                    assert not mine

    @with_time_limit
    async def test_a_failure_gives_the_lease_back(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """An exception inside the block of a lease releases the lease, and is raised unchanged."""
        with pytest.raises(ZeroDivisionError):
            async with store.lease(key, LONG_LEASE):
                raise ZeroDivisionError
        async with peer.lease(key, LONG_LEASE) as another:
            assert another

    @with_time_limit
    async def test_whoever_is_cancelled_gives_the_lease_back(
        self, store: TokenStore, peer: TokenStore, key: str
    ) -> None:
        """Cancelling the holder of a lease releases the lease."""
        holds = asyncio.Event()

        async def hold() -> None:
            async with store.lease(key, LONG_LEASE):
                holds.set()
                await asyncio.Event().wait()

        holding = asyncio.ensure_future(hold())
        await holds.wait()
        holding.cancel()
        await asyncio.wait([holding])
        async with peer.lease(key, LONG_LEASE) as another:
            assert another

    @with_time_limit
    async def test_whoever_is_cancelled_harms_nobody(self, store: TokenStore, key: str) -> None:
        """A call that is cancelled doesn't break the store: later calls work."""
        record = await make_record(store, key)
        for work in (store.load(key), store.save(key, record, None), store.delete(key)):
            task = asyncio.ensure_future(work)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        await store.delete(key)
        while (reading := await store.load(key)).record is None:  # a cancelled deletion may take effect late
            assert await store.save(key, record, None)
        assert record_of(reading).digest == record.digest

    @with_time_limit
    async def test_who_watches_is_told_of_new_pairs(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """Callbacks come on the event loop, for saves under the watched key only, and not after the watch has ended.

        Ending one watch doesn't affect other watches of the same key, and a watch may be ended twice. If
        `calls_watchers` is False, the store doesn't have to call back.
        """
        told, others, second = asyncio.Event(), asyncio.Event(), asyncio.Event()
        threads = set[int]()
        store.watch(key, lambda: threads.add(threading.get_ident()))
        unwatch_second = store.watch(key, second.set)
        unwatch, unwatch_other = store.watch(key, told.set), store.watch(key_of((key,)), others.set)
        record = await make_record(store, key)
        while self.calls_watchers and not told.is_set():  # the store may not be listening yet: repeat
            assert await peer.save(key, record, None)
            await asyncio.sleep(POLL_INTERVAL)
        assert threads <= {threading.get_ident()}, "callbacks come on the event loop"
        unwatch()
        unwatch()
        unwatch_other()
        told.clear()
        second.clear()
        while self.calls_watchers and not second.is_set():  # other watches of the key continue
            assert await peer.save(key, record, None)
            await asyncio.sleep(POLL_INTERVAL)
        unwatch_second()
        second.clear()
        assert await peer.save(key, attrs.evolve(record, presenting="an attempt"), record.digest)
        await peer.delete(key)
        last = asyncio.Event()
        unwatch_last = store.watch(key, last.set)
        assert await peer.save(key, record, None)
        while self.calls_watchers and not last.is_set():  # after this, wrong callbacks would have come as well
            assert await peer.save(key, record, None)
            await asyncio.sleep(POLL_INTERVAL)
        await asyncio.sleep(POLL_INTERVAL)
        unwatch_last()
        assert not told.is_set()
        assert not second.is_set()
        assert not others.is_set()
