"""Sessions that keep their pairs in a file: what they spare the service, and how they live with a file that fails."""

import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest

from signalwire_tokens import RefreshPolicy, RefreshTuning, SqliteStore, StoreError, SubscriberSession
from signalwire_tokens.clock import Clock, VirtualClock
from signalwire_tokens.emulator import Emulator, Status
from signalwire_tokens.stores import generate_encryption_key
from signalwire_tokens.stores.sqlite import SCHEMA
from support.sqlite_files import busy, foreign, other_log, patient_stores, query, run, short_text, text
from support.waiting import HANG, eventually

__all__ = ["patient_stores"]

ISSUE, REFRESH = "create_subscriber_token", "refresh_subscriber_token"
LIFE, REFRESH_LIFE = 7200.0, 7500.0
KEY, OTHER_KEY = generate_encryption_key(), generate_encryption_key()
# How long a store gets doesn't depend on the clock, and is as long as it takes.
POLICY = RefreshPolicy(store_timeout=HANG, tuning=RefreshTuning(lease=2 * HANG))

SESSION = """
import asyncio, sys
from signalwire_tokens import RefreshPolicy, RefreshTuning, SqliteStore, SubscriberSession, TokenClient
from signalwire_tokens.stores import sqlite

async def main(path, seal, *credentials):
    policy = RefreshPolicy(store_timeout=300, wait_timeout=300, tuning=RefreshTuning(lease=600, lease_poll=0.02))
    async with TokenClient(*credentials, timeout=300) as client, SqliteStore(path, encryption_keys=seal) as store:
        async with SubscriberSession(client, "alice", store=store, policy=policy) as session:
            print(await session.token())

sqlite.BUSY = 300
asyncio.run(main(*sys.argv[1:]))
"""
NOBODY = """
import asyncio, os, sys
from signalwire_tokens import RefreshPolicy, RefreshTuning, SqliteStore, SubscriberSession, TokenClient
from signalwire_tokens.stores import Sealer, generate_encryption_key

async def main(seal, *credentials):
    policy = RefreshPolicy(store_timeout=300, wait_timeout=300, tuning=RefreshTuning(lease=600))
    store = SqliteStore("tokens.db", encryption_keys=seal)
    async with TokenClient(*credentials, timeout=300) as client, store:
        session = SubscriberSession(client, "alice", store=store, policy=policy)
        session.subscribe(lambda event: print(event.kind, event.error))
        async with session:
            print(await session.token())

Sealer("warm", generate_encryption_key())  # nobody may read the packages any more, later on
import cryptography.exceptions
os.chdir(sys.argv[1])
root = os.geteuid() == 0
if root:
    os.setegid(65534), os.seteuid(65534)
asyncio.run(main(*sys.argv[2:]))
if root:
    os.seteuid(0), os.setegid(0)
"""


def operations(emulator):
    return [entry.operation for entry in emulator.requests]


@pytest.fixture
async def client(emulator):
    async with emulator.client(retries=0, timeout=HANG) as client:
        yield client


def session_of(client, store, reference="alice", **settings):
    return SubscriberSession(client, reference, store=store, policy=POLICY, **settings)


def given(client, pair, store):
    return SubscriberSession.from_pair(client, pair, store=store, policy=POLICY)


@attrs.frozen
class File:
    path: Path
    clock: Clock

    def open(self, **settings):
        """Open the file as a process does that has just begun."""
        return SqliteStore(self.path, **{"encryption_keys": KEY, "clock": self.clock, **settings})

    def read(self):
        return self.path.read_bytes()

    def sealed(self):
        """Read what is kept, as it lies there."""
        return query(self.path, "SELECT sealed FROM records")


@pytest.fixture
def file(clock, client, tmp_path):
    return File(tmp_path / "tokens.db", client.clock)


@asynccontextmanager
async def kept(client, file):
    """Let a session keep its pair in the file, and end."""
    async with file.open() as store, session_of(client, store) as session:
        yield session


# What may be wrong with a file: each gives the store, and tells whether a record is there that has to stay.


@asynccontextmanager
async def locked(client, file):
    async with kept(client, file):
        pass
    async with busy(file.path), file.open() as store:
        yield store, True


@asynccontextmanager
async def locked_while_open(client, file):
    async with file.open() as store:
        await store.load("another")
        async with busy(file.path, store):
            yield store, False


@asynccontextmanager
async def full(client, file):
    async with file.open() as store:
        await store.load("another")
        query(file.path, "CREATE TABLE filler AS SELECT zeroblob(100000)")
        await store._do("", lambda database: database.execute("PRAGMA max_page_count = 1").fetchall())
        query(file.path, "INSERT INTO records VALUES ('another', '', zeroblob(3500), 1e12)")
        yield store, False


@asynccontextmanager
async def truncated(client, file):
    async with kept(client, file):
        pass
    os.truncate(file.path, 5000)
    async with file.open() as store:
        yield store, None


@asynccontextmanager
async def truncated_while_open(client, file):
    async with kept(client, file):
        pass
    async with file.open() as store:
        await store.load("another")
        os.truncate(file.path, 5000)
        yield store, None


def made_by(make):
    @asynccontextmanager
    async def somebody_else_s(client, file):
        make(file.path)
        async with file.open() as store:
            yield store, None

    return somebody_else_s


@asynccontextmanager
async def another_key(client, file):
    async with kept(client, file):
        pass
    async with file.open(encryption_keys=OTHER_KEY) as store:
        yield store, True


@asynccontextmanager
async def no_key(client, file):
    async with kept(client, file):
        pass
    async with file.open(encryption_keys=(), plaintext=True) as store:
        yield store, True


@asynccontextmanager
async def later_record(client, file):
    async with kept(client, file):
        pass
    query(file.path, "UPDATE records SET sealed = CAST(x'0201' || substr(sealed, 3) AS BLOB)")
    async with file.open() as store:
        yield store, True


@asynccontextmanager
async def later_file(client, file):
    async with kept(client, file):
        pass
    query(file.path, f"PRAGMA user_version = {SCHEMA + 1}")
    async with file.open() as store:
        yield store, True


@asynccontextmanager
async def no_place(client, file):
    file.path.touch()
    async with SqliteStore(file.path / "tokens.db", encryption_keys=KEY, clock=client.clock) as store:
        yield store, None


FAULTS = {
    "locked": locked,
    "locked while open": locked_while_open,
    "full": full,
    "cut short": truncated,
    "cut short while open": truncated_while_open,
    "another application's": made_by(foreign),
    "another application's, with a log": made_by(other_log),
    "text": made_by(text),
    "short text": made_by(short_text),
    "another key": another_key,
    "no key": no_key,
    "a record of a later version": later_record,
    "a file of a later version": later_file,
    "no place for a file": no_place,
}


# One of each kind; there are so many of them.
QUICK = ("locked while open", "full", "cut short", "another application's", "another key", "no place for a file")


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, fault in FAULTS.items()],
)
async def test_a_file_that_fails_costs_nobody_a_token(emulator, clock, client, file, fault):
    """The session reports it, still has a token, closes, and leaves the file's content as it was, to the byte. (P34)

    A file that is locked stays so as long as the session lives.
    """
    events = []
    async with fault(client, file) as (store, stays):
        before = file.sealed() if stays else file.read()
        session = session_of(client, store)
        session.subscribe(events.append)
        async with asyncio.timeout(HANG):
            await session.start()
            assert emulator.accepts(await session.token())
            await session.aclose()
        after = file.sealed() if stays else file.read()
        if stays is not False:
            assert after == before
    assert [event.kind for event in events].count("started") == 1
    failures = [event.error for event in events if event.kind == "persist_failed"]
    assert failures
    assert all(isinstance(error, StoreError) and repr(store) in str(error) for error in failures)
    assert operations(emulator)[-1] == ISSUE


@pytest.mark.slow  # it starts a process that loads the package
async def test_a_folder_that_cannot_be_written_to_costs_nobody_a_token(tmp_path):
    """A process of its own, since root can write everywhere."""
    tmp_path.chmod(0o555)
    try:
        async with Emulator() as emulator:
            arguments = NOBODY, tmp_path, KEY, emulator.space, emulator.project_id, emulator.api_token
            said = await asyncio.to_thread(run, *arguments)
            (token,) = (line for line in said if " " not in line)
            assert emulator.accepts(token)
    finally:
        tmp_path.chmod(0o755)
    assert [line for line in said if line.startswith("persist_failed SqliteStore('tokens.db'): #")]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "fault",
    # One of them for the default run; each simulates hours.
    [another_key, *(pytest.param(fault, marks=pytest.mark.slow) for fault in (later_record, truncated))],
    ids=lambda fault: fault.__name__,
)
async def test_a_file_that_fails_for_hours_costs_nobody_a_token(emulator, clock, client, file, fault):
    """The session renews by itself, and leaves alone what it cannot read."""
    async with fault(client, file) as (store, _):
        before = file.read()
        async with session_of(client, store) as session:
            for _ in range(3 * 4):
                await clock.advance(15 * 60)
                assert emulator.accepts(await session.token())
        await store.aclose()
        assert file.read() == before


@pytest.mark.parametrize("open_before", [False, pytest.param(True, marks=pytest.mark.slow)])  # which is much the same
async def test_a_pair_that_could_not_be_saved_is_saved_when_the_file_is_free_again(
    emulator, clock, client, file, open_before
):
    """Behind its users, and without asking the service."""
    async with file.open() as store:
        await store.load("another")
        if not open_before:
            await store.aclose()
        async with busy(file.path, *([store] if open_before else [])):
            session = session_of(client, store)
            await session.start()
            assert file.sealed() == []
        await eventually(lambda: asyncio.to_thread(file.sealed), clock)
        assert emulator.accepts(await session.token())
        await session.aclose()
    async with kept(client, file) as other:
        assert await other.token() == session.pair.access_token.value
    assert operations(emulator) == [ISSUE]


async def test_a_pair_that_could_not_be_saved_is_saved_when_the_session_ends(emulator, client, file):
    """In one last attempt."""
    async with file.open() as store:
        await store.load("another")
        async with busy(file.path, store):
            session = session_of(client, store)
            await session.start()
        await session.aclose()
        assert len(file.sealed()) == 1
    assert operations(emulator) == [ISSUE]


async def test_a_file_that_begins_to_fail_is_lived_with_and_what_came_of_it_is_kept(emulator, clock, client, file):
    """Somebody else's newer version has written to it; when it has gone, the session's own pair is there again."""
    async with file.open() as store, session_of(client, store) as session:
        (record,) = file.sealed()
        query(file.path, "UPDATE records SET sealed = x'0201'")
        for _ in range(5):
            await clock.advance(LIFE / 4)
            assert emulator.accepts(await session.token())
        assert file.sealed() == [(b"\2\1",)]
        query(file.path, "UPDATE records SET sealed = ?", *record)

        async def saved():
            held = (await store.load(session.store_key)).record
            return held.pair.access_token.value == session.pair.access_token.value

        await eventually(saved, clock)


async def test_a_session_that_is_started_twice_asks_once(emulator, client, file):
    """The second takes what the first has left, in the same store or in another, and knows how old it is. (P30)"""
    async with kept(client, file) as session:
        first = session.pair
    async with file.open() as store:
        for _ in range(2):
            async with session_of(client, store) as session:
                assert await session.token() == first.access_token.value
                assert session.pair.subscriber_id == first.subscriber_id
                assert session.pair.access_token.expires_at == first.access_token.expires_at
    assert operations(emulator) == [ISSUE]


@pytest.mark.slow  # it starts two processes that load the package
async def test_two_processes_one_after_the_other_ask_once(tmp_path):
    """The file carries the pair from one to the next."""
    async with Emulator() as emulator:
        arguments = SESSION, tmp_path / "tokens.db", KEY, emulator.space, emulator.project_id, emulator.api_token
        said = [await asyncio.to_thread(run, *arguments) for _ in range(2)]
        assert emulator.accepts(said[0][0])
        assert said[0] == said[1]
        assert operations(emulator) == [ISSUE]


@pytest.mark.slow  # it starts two processes that load the package
async def test_two_processes_at_once_ask_once(tmp_path):
    """One of them waits for what the other gets."""
    async with Emulator() as emulator:
        arguments = SESSION, tmp_path / "tokens.db", KEY, emulator.space, emulator.project_id, emulator.api_token
        said = await asyncio.gather(*(asyncio.to_thread(run, *arguments) for _ in range(2)))
        assert emulator.accepts(said[0][0])
        assert said[0] == said[1]
        assert operations(emulator) == [ISSUE]


async def test_two_subscribers_in_one_file_do_not_meet(emulator, client, file):
    """Nor do two scopes of one."""
    async with (
        file.open() as store,
        session_of(client, store) as alice,
        session_of(client, store, "bob") as bob,
        session_of(client, store, scope="sat:refresh") as short,
    ):
        assert len({await one.token() for one in (alice, bob, short)}) == 3


async def test_a_token_that_is_due_is_taken_up_and_renewed(emulator, clock, client, file):
    """It is as old as it is, though the session is new."""
    async with kept(client, file) as session:
        first = await session.token()
    await clock.advance(0.5 * LIFE)
    async with kept(client, file) as session:
        assert await session.token() == first
        assert session.expires_in.total_seconds() == pytest.approx(0.5 * LIFE, abs=1)
        await clock.advance(0.35 * LIFE)
        assert await session.token() != first
        assert emulator.accepts(await session.token())
    assert operations(emulator) == [ISSUE, REFRESH]


@pytest.mark.parametrize("passing", ["running", "suspended"])
async def test_a_dead_token_whose_refresh_token_lives_is_refreshed(emulator, clock, client, file, passing):
    """After a restart that took a little too long."""
    async with kept(client, file) as session:
        first = await session.token()
    if passing == "running":
        await clock.advance(LIFE + 60)
    else:
        clock.suspend(LIFE + 60)
    async with kept(client, file) as session:
        assert await session.token() != first
        assert emulator.accepts(await session.token())
    async with kept(client, file) as session:
        assert emulator.accepts(await session.token())
    assert operations(emulator) == [ISSUE, REFRESH]


async def test_a_dead_pair_is_issued_anew(emulator, clock, client, file):
    """In place of the old one."""
    async with kept(client, file):
        before = file.sealed()
    await clock.advance(REFRESH_LIFE)
    async with kept(client, file) as session:
        assert emulator.accepts(await session.token())
        assert file.sealed() != before
    assert operations(emulator) == [ISSUE, ISSUE]


async def test_after_a_reboot_a_refresh_token_is_presented_before_anything_is_served(emulator, client, file):
    """Nobody knows how old the pair is; what comes of it is known again."""
    async with file.open() as store:
        store.timeline = "an earlier start"
        async with session_of(client, store) as session:
            first = await session.token()
    for _ in range(2):
        async with kept(client, file) as session:
            assert await session.token() != first
            assert emulator.accepts(await session.token())
    assert operations(emulator) == [ISSUE, REFRESH]


async def test_after_a_reboot_that_took_too_long_a_pair_is_issued_anew(emulator, clock, client, file):
    """The refresh token is refused first, since nobody knew."""
    async with file.open() as store:
        store.timeline = "an earlier start"
        async with session_of(client, store):
            pass
    await clock.advance(REFRESH_LIFE)
    async with file.open() as store:
        session = session_of(client, store)
        starting = asyncio.ensure_future(session.start())
        await eventually(starting.done, clock)
        await starting
        assert emulator.accepts(await session.token())
        await session.aclose()
    assert operations(emulator) == [ISSUE, REFRESH, ISSUE]
    async with kept(client, file) as session:
        assert emulator.accepts(await session.token())
    assert operations(emulator) == [ISSUE, REFRESH, ISSUE]


async def test_a_pair_from_before_a_pause_of_the_machine_is_renewed_before_it_is_served(emulator, clock, tmp_path):
    """A paused machine's own clock stops, so that only the wall clock shows how old the pair in the file is. (P31)"""
    machine = VirtualClock(wall=clock.wall())
    file = File(tmp_path / "tokens.db", machine)
    async with emulator.client(retries=0, timeout=HANG, clock=machine) as client:
        async with kept(client, file) as session:
            before = await session.token()
        clock.suspend(10 * 3600)
        machine.set_wall(clock.wall())
        assert not emulator.accepts(before)
        async with file.open() as store:
            session = session_of(client, store)
            starting = asyncio.ensure_future(session.start())
            await eventually(starting.done, machine)
            await starting
            assert emulator.accepts(await session.token())
            await session.aclose()
    assert operations(emulator) == [ISSUE, REFRESH, ISSUE]


async def test_a_given_pair_s_successor_is_found_after_the_wall_clock_was_set_right(emulator, clock, tmp_path):
    """A session that can't issue another pair depends on it. (P30)"""
    machine = VirtualClock(wall=clock.wall() - 30 * 365 * 86400)
    file = File(tmp_path / "tokens.db", machine)
    async with emulator.client(retries=0, timeout=HANG, clock=machine) as client:
        pair = await client.create_subscriber_token("alice")
        async with file.open() as store, given(client, pair, store) as session:
            await session.refresh()
        machine.set_wall(clock.wall())
        async with file.open() as store, session_of(client, store, "bob"):
            session = given(client, pair, store)
            starting = asyncio.ensure_future(session.start())
            await eventually(starting.done, machine)
            await starting
            assert emulator.accepts(await session.token())
            await session.aclose()
    assert operations(emulator) == [ISSUE, REFRESH, ISSUE, REFRESH]


async def test_a_lease_of_a_process_that_died_is_waited_for(emulator, clock, client, file):
    """The pair comes when the lease has ended, and not before."""
    async with file.open() as store, file.open() as dead:
        session = session_of(client, store)
        lease = dead.lease(session.store_key, 5.0)
        assert await lease.__aenter__()
        starting, began = asyncio.ensure_future(session.start()), clock.now()
        await eventually(starting.done, clock)
        await starting
        assert 5 <= clock.now() - began < 10
        assert emulator.accepts(await session.token())
        await session.aclose()
        await lease.__aexit__(None, None, None)
    assert operations(emulator) == [ISSUE]


async def test_a_process_that_died_with_its_request_under_way_is_followed_by_a_new_issue(emulator, clock, client, file):
    """Its mark says that the refresh token may be used up: it is not sent again."""
    async with kept(client, file) as session:
        key = session.store_key
    async with file.open() as store:
        held = (await store.load(key)).record
        assert await store.save(key, attrs.evolve(held, presenting="a process that died"), held.digest)
    await clock.advance(LIFE)
    async with kept(client, file) as session:
        assert emulator.accepts(await session.token())
    assert operations(emulator) == [ISSUE, ISSUE]


async def test_a_key_is_changed_without_asking_the_service(emulator, clock, client, file):
    """The old one opens what the new one seals at the next renewal."""
    async with kept(client, file):
        pass
    async with file.open(encryption_keys=[OTHER_KEY, KEY]) as store, session_of(client, store) as session:
        assert operations(emulator) == [ISSUE]
        await session.refresh()
    async with file.open(encryption_keys=OTHER_KEY) as store, session_of(client, store) as session:
        assert emulator.accepts(await session.token())
    assert operations(emulator) == [ISSUE, REFRESH]


async def test_a_service_that_is_down_at_the_start_does_not_matter_to_who_has_kept_a_pair(emulator, client, file):
    """Which is half of what a file is for."""
    async with kept(client, file) as session:
        first = await session.token()
    emulator.fail(Status(503), times=None)
    async with kept(client, file) as session:
        assert await session.token() == first
