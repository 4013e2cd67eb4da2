"""What every store of tokens has to do, as a suite of tests."""

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

NUMBERS = count(1)
SHORT, LONG = 0.2, 3600.0  # seconds that a lease lives
A_MOMENT = SHORT / 10  # seconds between two looks
AT_ONCE = 10  # how many do the same at the same time
PATIENCE = 300.0  # seconds after which a test counts as hanging, on a slow machine as well
ROUNDING = 1.0  # second by which a store's time may be rounded
DAYS = 30 * 86400.0  # seconds; a wall clock in another unit is off by far more
YEARS = 30 * 365 * 86400.0  # seconds by which a wall clock may be wrong
P = ParamSpec("P")


def make_pair() -> TokenPair:
    """Make a pair like the service's."""
    now, number = datetime.now(UTC), next(NUMBERS)
    token, refresh_token = (
        Token(value=f"{kind}-{number}", issued_at=now, expires_at=now + life, kind=kind, channel="puc.signalwire.com")
        for kind, life in (("SAT", timedelta(hours=2)), ("Refresh", timedelta(hours=2, minutes=5)))
    )
    return TokenPair(access_token=token, refresh_token=refresh_token, subscriber_id=UUID(int=number))


async def make_record(store: TokenStore, key: str, age: float = 0.0) -> Record:
    """Return a record of a pair that is so many seconds old."""
    reading = await store.load(key)
    wall = time.time() if reading.wall is None else reading.wall
    return Record(pair=make_pair(), asked_at=reading.at - age, asked_wall=wall - age, timeline=reading.timeline)


def held(reading: Reading) -> Record:
    """Take the record that has to be there."""
    assert reading.record is not None, "nothing is kept under the key"
    return reading.record


def lives(pair: TokenPair) -> list[timedelta]:
    """Tell how long both halves live; when that began is not for a store to know."""
    return [half.expires_at - half.issued_at for half in (pair.access_token, pair.refresh_token)]


def in_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, Coroutine[Any, Any, None]]:
    """Fail a test that hangs, by its name."""

    @wraps(test)
    async def bounded(*args: P.args, **fixtures: P.kwargs) -> None:
        async with asyncio.timeout(PATIENCE):
            await test(*args, **fixtures)

    return bounded


class StoreConformance:
    """Tests for a store of your own: derive from it, and override the fixture `store`.

    Override `peer` too, where another process would open the same data in another way. `tells` says whether `watch`
    calls back.
    """

    pytestmark: ClassVar[list[pytest.MarkDecorator]] = [pytest.mark.asyncio] if find_spec("pytest_asyncio") else []
    tells: ClassVar[bool] = False

    @pytest.fixture
    def key(self) -> str:
        """Name a pair that nobody else has."""
        return key_of(("conformance", str(next(NUMBERS)), datetime.now(UTC).isoformat()))

    @pytest.fixture
    def store(self) -> TokenStore:
        """Give the store to be tested."""
        raise NotImplementedError("override the fixture `store`")

    @pytest.fixture
    def peer(self, store: TokenStore) -> TokenStore:
        """Give the same store as another process sees it."""
        return store

    async def test_nothing_is_kept_under_a_new_key(self, store: TokenStore, key: str) -> None:
        """A store says so, and tells the time all the same, which does not go back."""
        first, second = await store.load(key), await store.load(key)
        assert first.record is None
        assert first.age is None
        assert second.record is None
        assert second.at >= first.at
        assert first.timeline == second.timeline

    async def test_what_was_saved_is_read(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """By others, too, and to the last field; but for the wall clock's times, of which only lives are kept."""
        for presenting in (None, "an attempt"):
            record = attrs.evolve(await make_record(store, key), presenting=presenting)
            await store.delete(key)
            assert await store.save(key, record, None)
            read = held(await peer.load(key))
            assert (read.digest, read.presenting) == (record.digest, presenting)
            assert (read.asked_at, read.asked_wall) == (record.asked_at, record.asked_wall)
            assert read.pair.subscriber_id == record.pair.subscriber_id
            assert lives(read.pair) == lives(record.pair)
            for half in ("access_token", "refresh_token"):
                mine, theirs = getattr(read.pair, half), getattr(record.pair, half)
                assert (mine.value, mine.kind, mine.channel) == (theirs.value, theirs.kind, theirs.channel)

    async def test_a_pair_ages(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """By a time that all agree on."""
        start = time.monotonic()
        assert await store.save(key, await make_record(store, key, age=LONG), None)
        age = (await peer.load(key)).age
        assert age is not None
        assert LONG <= age <= LONG + (time.monotonic() - start) + ROUNDING

    async def test_a_wall_clock_goes_on_like_the_store_s_time(
        self, store: TokenStore, peer: TokenStore, key: str
    ) -> None:
        """A reading that has a wall clock has one in seconds, which gains nothing on the store's time by itself."""
        assert await store.save(key, await make_record(store, key, age=LONG), None)
        assert abs((await peer.load(key)).gained) <= ROUNDING
        wall = (await store.load(key)).wall
        assert wall is None or abs(wall - time.time()) < DAYS, "the wall clock is not in seconds since the epoch"

    async def test_a_wrong_wall_clock_removes_no_record(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """A record stays as long as its refresh token lives, whatever the wall clock showed when it was asked for."""
        other = key_of((key,))
        for wrong in (-YEARS, YEARS):
            record = await make_record(store, key)
            record = attrs.evolve(record, asked_wall=record.asked_wall + wrong)
            for each in (key, other):
                await store.delete(each)
            assert await store.save(key, record, None)
            assert await peer.save(other, await make_record(peer, other), None)
            assert held(await peer.load(key)).digest == record.digest

    @in_time
    async def test_keys_do_not_meet(self, store: TokenStore, key: str) -> None:
        """What is kept under one key is not found, leased or deleted under another."""
        other = key_of((key,))
        assert await store.save(key, await make_record(store, key), None)
        assert (await store.load(other)).record is None
        await store.delete(other)
        async with store.lease(key, LONG) as mine, store.lease(other, LONG) as another:
            assert mine
            assert another
        assert (await store.load(key)).record is not None

    async def test_only_the_record_that_was_read_is_replaced(
        self, store: TokenStore, peer: TokenStore, key: str
    ) -> None:
        """A record that somebody else has put there in the meantime stays."""
        first, second, third = [await make_record(store, key) for _ in range(3)]
        assert await store.save(key, first, None)
        assert not await peer.save(key, second, None)
        assert not await peer.save(key, second, third.digest)
        assert held(await store.load(key)).digest == first.digest
        assert await peer.save(key, second, first.digest)
        assert held(await store.load(key)).digest == second.digest

    async def test_a_mark_is_a_change(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """Who has read a record before it was marked can neither replace it nor mark it anew."""
        record = await make_record(store, key)
        mark, other = attrs.evolve(record, presenting="one"), attrs.evolve(record, presenting="another")
        assert await store.save(key, record, None)
        assert await store.save(key, mark, record.digest)
        assert not await peer.save(key, other, record.digest)
        assert not await peer.save(key, await make_record(store, key), record.digest)
        assert held(await peer.load(key)).presenting == "one"

    async def test_saving_twice_is_saving_once(self, store: TokenStore, key: str) -> None:
        """Whoever does not know whether it was saved may save again."""
        record, successor = await make_record(store, key), await make_record(store, key)
        assert await store.save(key, record, None)
        assert await store.save(key, record, None)
        assert await store.save(key, successor, record.digest)
        assert await store.save(key, successor, record.digest)
        assert not await store.save(key, record, None)

    @in_time
    async def test_one_of_many_saves(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """Of those who replace the same record at once, one does, and all others learn that they did not."""
        record = await make_record(store, key)
        assert await store.save(key, record, None)
        successors = [await make_record(store, key) for _ in range(AT_ONCE)]
        saved = await asyncio.gather(
            *((store, peer)[i % 2].save(key, successor, record.digest) for i, successor in enumerate(successors))
        )
        assert saved.count(True) == 1
        assert held(await store.load(key)).digest == successors[saved.index(True)].digest

    async def test_what_was_deleted_is_gone(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """It may be deleted twice; and anything can be saved there, whatever it was to replace."""
        record, successor = await make_record(store, key), await make_record(store, key)
        assert await store.save(key, record, None)
        await store.delete(key)
        await store.delete(key)
        assert (await peer.load(key)).record is None
        assert await store.save(key, successor, record.digest)

    @in_time
    async def test_a_lease_has_one_holder(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """Others learn at once that it is held; once it is given back, it can be had."""
        async with store.lease(key, LONG) as mine:
            assert mine
            async with peer.lease(key, LONG) as another:
                assert not another
            async with peer.lease(key, LONG) as another:  # to be turned away gives nothing back
                assert not another
        async with peer.lease(key, LONG) as another:
            assert another

    @in_time
    async def test_one_of_many_holds_a_lease(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """Of those who want it at once, one gets it."""
        async with AsyncExitStack() as stack:
            wanted = [stack.enter_async_context((store, peer)[i % 2].lease(key, LONG)) for i in range(AT_ONCE)]
            assert [await one for one in wanted].count(True) == 1

    @in_time
    async def test_a_lease_lasts(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """As long as was asked for, and the store's time goes on by seconds meanwhile; to delete does not end it."""
        async with store.lease(key, LONG) as mine:
            assert mine
            start = time.monotonic()
            before = after = (await store.load(key)).at
            started = stopping = time.monotonic()
            while stopping - started < SHORT or (after == before and stopping - started < 2 * ROUNDING):
                await asyncio.sleep(A_MOMENT)
                stopping = time.monotonic()
                after = (await store.load(key)).at
            assert after > before, "the store's time stands still"
            least, most = stopping - started - ROUNDING, time.monotonic() - start + ROUNDING
            assert least <= after - before <= most, "the store's time is not in seconds"
            await store.delete(key)
            async with peer.lease(key, LONG) as another:  # waiting for it would take an hour
                assert not another

    @in_time
    async def test_a_lease_ends_by_itself(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """Not before its time. Who died with it is replaced, and who is late gives back nothing of another's."""
        start = time.monotonic()
        async with AsyncExitStack() as late:
            assert await late.enter_async_context(store.lease(key, SHORT))
            async with AsyncExitStack() as stack:
                while not await stack.enter_async_context(peer.lease(key, LONG)):
                    await asyncio.sleep(A_MOMENT)
                assert time.monotonic() - start > SHORT * 0.9
                await late.aclose()
                async with store.lease(key, LONG) as mine:
                    assert not mine

    @in_time
    async def test_a_failure_gives_the_lease_back(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """What goes wrong while it is held passes through unchanged."""
        with pytest.raises(ZeroDivisionError):
            async with store.lease(key, LONG):
                raise ZeroDivisionError
        async with peer.lease(key, LONG) as another:
            assert another

    @in_time
    async def test_whoever_is_cancelled_gives_the_lease_back(
        self, store: TokenStore, peer: TokenStore, key: str
    ) -> None:
        """As whoever fails does."""
        holds = asyncio.Event()

        async def hold() -> None:
            async with store.lease(key, LONG):
                holds.set()
                await asyncio.Event().wait()

        holding = asyncio.ensure_future(hold())
        await holds.wait()
        holding.cancel()
        await asyncio.wait([holding])
        async with peer.lease(key, LONG) as another:
            assert another

    @in_time
    async def test_whoever_is_cancelled_harms_nobody(self, store: TokenStore, key: str) -> None:
        """At any step; the store goes on."""
        record = await make_record(store, key)
        for work in (store.load(key), store.save(key, record, None), store.delete(key)):
            task = asyncio.ensure_future(work)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        await store.delete(key)
        assert await store.save(key, record, None)
        assert held(await store.load(key)).digest == record.digest

    @in_time
    async def test_who_watches_is_told_of_new_pairs(self, store: TokenStore, peer: TokenStore, key: str) -> None:
        """Of those under their key, until they do not want to be; a mark is no new pair."""
        told, others, second = asyncio.Event(), asyncio.Event(), asyncio.Event()
        threads = set[int]()
        store.watch(key, lambda: threads.add(threading.get_ident()))
        unwatch_second = store.watch(key, second.set)
        unwatch, unwatch_other = store.watch(key, told.set), store.watch(key_of((key,)), others.set)
        record = await make_record(store, key)
        while self.tells and not told.is_set():  # it may take a moment to begin to listen
            assert await peer.save(key, record, None)
            await asyncio.sleep(A_MOMENT)
        assert threads <= {threading.get_ident()}, "callbacks come on the event loop"
        unwatch()
        unwatch()
        unwatch_other()
        told.clear()
        second.clear()
        while self.tells and not second.is_set():  # others go on watching
            assert await peer.save(key, record, None)
            await asyncio.sleep(A_MOMENT)
        unwatch_second()
        second.clear()
        assert await peer.save(key, attrs.evolve(record, presenting="an attempt"), record.digest)
        await peer.delete(key)
        last = asyncio.Event()
        unwatch_last = store.watch(key, last.set)
        assert await peer.save(key, record, None)
        while self.tells and not last.is_set():  # the others would have been called by then
            assert await peer.save(key, record, None)
            await asyncio.sleep(A_MOMENT)
        await asyncio.sleep(A_MOMENT)
        unwatch_last()
        assert not told.is_set()
        assert not second.is_set()
        assert not others.is_set()
