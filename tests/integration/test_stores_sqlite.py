"""The store in a file, for the processes of one machine: real files, and real processes."""

import asyncio
import os
import signal
import sqlite3
import stat
import threading
from contextlib import AsyncExitStack, closing
from uuid import uuid4

import attrs
import pytest

from signalwire_tokens import ConfigurationError, MemoryStore, SqliteStore, StoreError
from signalwire_tokens.clock import SYSTEM, VirtualClock
from signalwire_tokens.stores import generate_encryption_key, key_of
from signalwire_tokens.stores.sqlite import SCHEMA
from signalwire_tokens.testing import StoreConformance
from signalwire_tokens.testing.conformance import make_record
from support.sqlite_files import (
    HOLD,
    busy,
    foreign,
    other_log,
    patient_stores,
    process,
    query,
    run,
    short_text,
    signed,
    text,
    versioned,
)
from support.waiting import HANG

__all__ = ["patient_stores"]

KEY, OTHER_KEY = generate_encryption_key(), generate_encryption_key()
ALICE, BOB = key_of(("alice",)), key_of(("bob",))
DAY, LIFE = 86400.0, 7500.0
KIB = 1024
TTL = 3000.0  # seconds that a lease lives, which is longer than any test takes

LEASE = """
import asyncio, sys
from signalwire_tokens import SqliteStore

async def main(path, seal, key, ttl):
    async with SqliteStore(path, encryption_keys=seal).lease(key, float(ttl)) as held:
        print("ready" if held else "busy", flush=True)
        sys.stdin.read()

asyncio.run(main(*sys.argv[1:]))
"""
SAVE = """
import asyncio, sys
from signalwire_tokens import SqliteStore
from signalwire_tokens.stores import sqlite
from signalwire_tokens.testing.conformance import make_record

async def main(path, seal, key):
    sqlite.BUSY = 300
    print("ready", flush=True)
    sys.stdin.readline()
    async with SqliteStore(path, encryption_keys=seal) as store:
        async with store.lease(key, 3000) as held:
            print(held, await store.save(key, await make_record(store, key), None))

asyncio.run(main(*sys.argv[1:]))
"""
FORK = """
import asyncio, os, sys
from signalwire_tokens import SqliteStore, StoreError

async def use(step):
    try:
        print(step, (await store.load(sys.argv[3])).record is not None, flush=True)
    except StoreError as error:
        print(step, error, flush=True)

store = SqliteStore(sys.argv[1], encryption_keys=sys.argv[2])
asyncio.run(use("before:"))
child = os.fork()
if not child:
    asyncio.run(use("child:"))
    asyncio.run(store.aclose())
    asyncio.run(use("closed child:"))
    store = SqliteStore(sys.argv[1], encryption_keys=sys.argv[2])
    asyncio.run(use("new:"))
    asyncio.run(store.aclose())
    sys.exit()
os.waitpid(child, 0)
asyncio.run(use("parent:"))
asyncio.run(store.aclose())
"""
NOBODY = """
import asyncio, concurrent.futures.thread, os, sqlite3, sys
from signalwire_tokens import SqliteStore, StoreError
from signalwire_tokens.stores import Sealer, generate_encryption_key
from signalwire_tokens.testing.conformance import make_record

async def main(seal, key):
    async with SqliteStore("tokens.db", encryption_keys=seal) as store:
        for use in (store.load(key), store.delete(key), store.lease(key, 10).__aenter__()):
            try:
                await use
            except StoreError as error:
                print(error)

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
CRAMPED = """
import asyncio, resource, sys
from signalwire_tokens import SqliteStore
from signalwire_tokens.stores import sqlite
from signalwire_tokens.testing.conformance import make_record

async def main(path, seal, key):
    sqlite.BUSY = 300
    before = None
    async with SqliteStore(path, encryption_keys=seal) as store, SqliteStore(path, encryption_keys=seal) as other:
        await other.load(key)
        for number in range(300):
            async with (store, other)[number % 2].lease(key, 20):
                record = await make_record(store, key)
                assert await (store, other)[number % 2].save(key, record, before)
                before = record.digest
    print("300 renewals")

resource.setrlimit(resource.RLIMIT_FSIZE, (512 * 1024, resource.RLIM_INFINITY))
asyncio.run(main(*sys.argv[1:]))
"""
COUNT = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
print(*database.execute("SELECT COUNT(*) FROM records").fetchone())
database.close()
"""


class Ahead:
    """The machine's clock, some time from now."""

    def __init__(self, seconds):
        self._seconds = seconds

    def now(self):
        return SYSTEM.now() + self._seconds

    def wall(self):
        return SYSTEM.wall() + self._seconds


def contents(path):
    """Read all bytes of a file and of what SQLite puts beside it."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.glob(f"{path.name}*")))


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def marked(record):
    """Give a record tokens that cannot be found by chance."""
    halves = {
        name: attrs.evolve(getattr(record.pair, name), value=f"{name}-{uuid4()}")
        for name in ("access_token", "refresh_token")
    }
    return attrs.evolve(record, pair=attrs.evolve(record.pair, **halves))


def values(record):
    return [half.value.encode() for half in (record.pair.access_token, record.pair.refresh_token)]


async def rotate(store, key, times=1):
    """Save so many records, each in place of the one before; return all of them."""
    records = []
    for _ in range(times):
        held = (await store.load(key)).record
        records.append(marked(await make_record(store, key)))
        assert await store.save(key, records[-1], None if held is None else held.digest)
    return records


async def renew(store, key):
    """Hold a lease, mark the record, and save its successor, as a session does."""
    async with store.lease(key, TTL) as held:
        assert held
        before = (await store.load(key)).record
        if before is not None:
            mark = attrs.evolve(before, presenting="an attempt")
            assert await store.save(key, mark, before.digest)
            before = mark
        assert await store.save(key, marked(await make_record(store, key)), None if before is None else before.digest)


async def rotate_many(store, times):
    for number in range(times):
        await rotate(store, key_of((str(number),)))


async def refusals(store, key=ALICE):
    """Try everything; return what each attempt said, which is to fail."""
    record, said = await make_record(MemoryStore(), key), []
    for use in (
        store.load(key),
        store.save(key, record, None),
        store.delete(key),
        store.lease(key, TTL).__aenter__(),
    ):
        async with asyncio.timeout(HANG):
            with pytest.raises(StoreError) as caught:
                await use
        assert str(caught.value).startswith(f"{store!r}: #{key[:8]}: ")
        assert key[:9] not in str(caught.value)
        assert caught.value.__context__ is None
        said.append(str(caught.value).removeprefix(f"{store!r}: #{key[:8]}: "))
    return said


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokens.db"


@pytest.fixture
async def store(path):
    async with SqliteStore(path, encryption_keys=KEY) as store:
        yield store


class TestSqliteStore(StoreConformance):
    @pytest.fixture
    async def store(self, tmp_path):
        async with SqliteStore(tmp_path / "tokens.db", encryption_keys=KEY) as store:
            yield store

    @pytest.fixture
    async def peer(self, tmp_path):
        async with SqliteStore(tmp_path / "tokens.db", encryption_keys=KEY) as store:
            yield store


async def test_the_file_is_its_owner_s(store, path):
    """And so is what SQLite puts beside it, where the newest records are."""
    await rotate(store, ALICE)
    modes = {file.name: mode(file) for file in path.parent.iterdir()}
    assert modes == {"tokens.db": 0o600, "tokens.db-wal": 0o600, "tokens.db-shm": 0o600}


@pytest.mark.parametrize("content", [False, True], ids=["empty", "ours"])
async def test_a_file_that_others_can_read_becomes_its_owner_s(path, content):
    """An empty one that was put there, as well as one of an earlier day."""
    path.touch()
    if content:
        async with SqliteStore(path, encryption_keys=KEY) as store:
            await rotate(store, ALICE)
    path.chmod(0o666)
    async with SqliteStore(path, encryption_keys=KEY) as store:
        assert ((await store.load(ALICE)).record is not None) == content
        await rotate(store, BOB)
        assert {mode(file) for file in path.parent.iterdir()} == {0o600}


async def test_what_a_crash_left_beside_the_file_becomes_its_owner_s(path):
    """Where the file had been open to others, what is beside it was, too."""
    async with SqliteStore(path, encryption_keys=KEY) as store:
        await rotate(store, ALICE)
    path.chmod(0o666)
    with process(HOLD, path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert {mode(file) for file in path.parent.iterdir()} == {0o666}
    async with SqliteStore(path, encryption_keys=KEY) as store:
        await rotate(store, ALICE)
        assert {mode(file) for file in path.parent.iterdir()} == {0o600}


async def test_no_byte_on_disk_tells_a_token(store, path):
    """In the file, beside it, or where something was replaced; nor the attempts that present them."""
    records = await rotate(store, ALICE, times=25)
    assert await store.save(ALICE, attrs.evolve(records[-1], presenting="an-attempt"), records[-1].digest)
    await store.delete(ALICE)
    for _ in range(2):
        found = contents(path)
        assert b"SQLite format 3" in found
        assert not any(value in found for record in records for value in values(record))
        assert b"an-attempt" not in found
        await store.aclose()


async def test_in_plaintext_tokens_lie_in_the_open_as_long_as_they_are_kept(path):
    """Once the file is closed, nothing is left of those that were replaced."""
    async with SqliteStore(path, plaintext=True) as store:
        records = await rotate(store, ALICE, times=25)
        assert all(value in contents(path) for value in values(records[-1]))
    assert [value in contents(path) for value in values(records[-1])] == [True, True]
    assert not any(value in contents(path) for record in records[:-1] for value in values(record))


@pytest.mark.slow  # it starts a process that loads the package
async def test_a_file_outlives_its_process(path):
    """Who opens it finds what was kept, to the age."""
    began = SYSTEM.now()
    async with SqliteStore(path, encryption_keys=KEY) as store:
        record = marked(await make_record(store, ALICE, age=100))
        assert await store.save(ALICE, record, None)
    with process(LEASE, path, KEY, BOB, TTL) as other:
        other.communicate("")
        assert other.returncode == 0
    async with SqliteStore(str(path), encryption_keys=[OTHER_KEY, KEY]) as store:
        reading = await store.load(ALICE)
        assert reading.record.digest == record.digest
        assert 100 <= reading.age <= 100.001 + SYSTEM.now() - began
        assert repr(store) == f"SqliteStore({str(path)!r})"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"encryption_keys": OTHER_KEY}, "was encrypted with a key that isn't in encryption_keys"),
        ({"plaintext": True}, "is encrypted, but this store was made with plaintext=True"),
    ],
    ids=["another key", "no key"],
)
async def test_a_record_that_cannot_be_opened_stays(store, path, settings, reason):
    """Neither a save nor a mark replaces it, since whoever could not read it cannot name it."""
    record = (await rotate(store, ALICE))[0]
    async with SqliteStore(path, **settings) as other:
        with pytest.raises(StoreError) as caught:
            await other.load(ALICE)
        assert str(caught.value).startswith(f"{store!r}: the record #{ALICE[:8]} {reason}")
        assert not await other.save(ALICE, marked(record), None)
    assert (await store.load(ALICE)).record.digest == record.digest


@pytest.mark.parametrize("sealed", ["x'0201aa'", "x''", "'text'", "7", "x'0101'"])
async def test_a_record_that_is_none_is_an_error_of_the_store(store, path, sealed):
    """Whatever somebody has put there."""
    await rotate(store, ALICE)
    query(path, f"UPDATE records SET sealed = {sealed}")  # noqa: S608 - from above
    with pytest.raises(StoreError, match=f"#{ALICE[:8]} "):
        await store.load(ALICE)


FOREIGN = [foreign, signed, versioned, other_log]


@pytest.mark.parametrize("make", [*FOREIGN, text, short_text])
async def test_a_file_of_somebody_else_is_refused_untouched(store, path, make):
    """Not a byte of it changes, and nothing stays beside it."""
    make(path)
    before = path.read_bytes()
    reason = (
        "the file belongs to another application: pass the path of another file"
        if make in FOREIGN
        else "file is not a database"
    )
    assert await refusals(store) == [reason] * 4
    await store.aclose()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("make", [*FOREIGN, text, short_text])
async def test_a_file_of_somebody_else_stays_open_to_whom_it_was(store, path, make):
    """A mistyped path must not lock others out of what is theirs."""
    make(path)
    path.chmod(0o644)
    await refusals(store)
    assert mode(path) == 0o644


@pytest.mark.parametrize(("schema", "version"), [(SCHEMA + 1, "a newer"), (SCHEMA - 1, "an older")])
async def test_a_file_of_another_version_is_refused_untouched(store, path, schema, version):
    """That version knows what to do with it."""
    await rotate(store, ALICE)
    await store.aclose()
    query(path, f"PRAGMA user_version = {schema}")
    before = path.read_bytes()
    remedy = "move it away, or pass the path of another file"
    assert await refusals(store) == [f"the file was written by {version} version of signalwire-tokens: {remedy}"] * 4
    assert path.read_bytes() == before


@pytest.mark.parametrize("size", [10, 99, 100, 4096, 5000, 12288, 20480])
async def test_a_file_that_was_cut_short_is_an_error(store, path, size):
    """And is not made a new one, since somebody may want to mend it."""
    await rotate(store, ALICE)
    await store.aclose()
    os.truncate(path, size)
    before = path.read_bytes()
    for reason in await refusals(store):
        assert reason in ("file is not a database", "database disk image is malformed")
    assert path.read_bytes() == before


async def test_a_file_that_is_cut_short_while_it_is_open_is_an_error_until_it_is_mended(store, path):
    """The store is used again after `aclose()`."""
    await rotate(store, ALICE)
    await store.aclose()
    whole = path.read_bytes()
    await store.load(ALICE)
    os.truncate(path, 4096)
    with pytest.raises(StoreError, match=f"#{ALICE[:8]}: "):
        await store.load(ALICE)
    await store.aclose()
    for file in path.parent.iterdir():
        file.unlink()
    path.write_bytes(whole)
    assert (await store.load(ALICE)).record is not None


@pytest.mark.parametrize("there", [False, True], ids=["dangling", "empty"])
async def test_a_link_is_followed(store, path, there):
    """The file is its owner's there, too."""
    target = path.parent / "elsewhere.db"
    path.symlink_to(target)
    if there:
        target.touch()
    await rotate(store, ALICE)
    assert {mode(file) for file in path.parent.iterdir()} == {0o600}


async def test_an_empty_file_is_a_new_one(store, path):
    """As `touch` or `mktemp` makes it."""
    path.touch()
    await rotate(store, ALICE)
    assert (await store.load(ALICE)).record is not None


@pytest.mark.parametrize("place", ["none/tokens.db", "file/tokens.db", "folder"])
async def test_a_place_where_no_file_can_be_is_an_error(tmp_path, place):
    """Nothing is made that was not asked for."""
    tmp_path.joinpath("file").touch()
    tmp_path.joinpath("folder").mkdir()
    async with SqliteStore(tmp_path / place, encryption_keys=KEY) as store:
        await refusals(store)
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.slow  # it starts a process that loads the package
@pytest.mark.parametrize("there", [False, True], ids=["no file", "read-only"])
async def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path, path, there):
    """For a new file, and for one that can be read only."""
    if there:
        async with SqliteStore(path, encryption_keys=KEY) as store:
            await rotate(store, ALICE)
        path.chmod(0o444)
    before = contents(path)
    tmp_path.chmod(0o555)
    try:
        said = await asyncio.to_thread(run, NOBODY, tmp_path, KEY, ALICE)
    finally:
        tmp_path.chmod(0o755)
    assert len(said) == 3
    assert all(line.startswith(f"SqliteStore('tokens.db'): #{ALICE[:8]}: ") for line in said)
    assert contents(path) == before


async def test_a_file_that_another_process_writes_to_is_an_error_until_it_has_done(store, path):
    """A store that cannot be opened says so soon, and works as soon as it can."""
    record = (await rotate(store, ALICE))[0]
    await store.aclose()
    async with busy(path):
        assert await refusals(store) == ["database is locked"] * 4
    assert (await store.load(ALICE)).record.digest == record.digest
    await rotate(store, ALICE)


async def test_an_open_file_is_read_while_another_process_writes_to_it(store, path):
    """It says what was there before; writing has to wait."""
    record = (await rotate(store, ALICE))[0]
    async with busy(path, store):
        assert (await store.load(ALICE)).record.digest == record.digest
        with pytest.raises(StoreError, match="database is locked"):
            await store.save(ALICE, marked(record), record.digest)
        assert (await store.load(ALICE)).record.digest == record.digest
    await rotate(store, ALICE)


async def test_a_process_that_is_killed_in_the_midst_of_writing_has_written_nothing(store, path):
    """And is in nobody's way."""
    record = (await rotate(store, ALICE))[0]
    with process(HOLD, path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert (await store.load(ALICE)).record.digest == record.digest
    await rotate(store, ALICE)


async def test_a_full_disk_is_an_error_and_what_was_kept_is_read(store):
    """Once there is room, it goes on."""
    record = (await rotate(store, ALICE))[0]
    await store._do(ALICE, lambda database: database.execute("PRAGMA max_page_count = 1").fetchall())
    with pytest.raises(StoreError, match=": database or disk is full"):
        await rotate_many(store, 1000)
    assert (await store.load(ALICE)).record.digest == record.digest
    await store._do(ALICE, lambda database: database.execute("PRAGMA max_page_count = 1000").fetchall())
    await rotate(store, BOB)


@pytest.mark.parametrize("how", ["lost", pytest.param("killed", marks=pytest.mark.slow)])  # which starts a process
async def test_a_lease_outlives_a_killed_process_by_no_more_than_its_time(store, path, how):
    """Until then it is held, since nobody can know; then it can be had."""
    async with AsyncExitStack() as late:
        if how == "lost":
            other = await late.enter_async_context(SqliteStore(path, encryption_keys=KEY))
            assert await late.enter_async_context(other.lease(ALICE, TTL))
        else:
            with process(LEASE, path, KEY, ALICE, TTL) as other:
                other.send_signal(signal.SIGKILL)
                other.wait()
        for seconds, free in ((0, False), (TTL / 2, False), (TTL, True)):
            async with (
                SqliteStore(path, encryption_keys=KEY, clock=Ahead(seconds)) as later,
                later.lease(ALICE, TTL) as held,
            ):
                assert held is free


@pytest.mark.slow  # it starts a process that loads the package
async def test_a_lease_is_given_back_by_a_process_that_ends_well(store, path):
    """At once."""
    with process(LEASE, path, KEY, ALICE, TTL) as other:
        other.communicate("")
        async with store.lease(ALICE, TTL) as held:
            assert held


async def test_a_lease_is_left_to_its_time_where_it_cannot_be_given_back(store, path):
    """Leaving raises nothing."""
    async with SqliteStore(path, encryption_keys=KEY) as other:
        async with AsyncExitStack() as writing, store.lease(ALICE, TTL) as held:
            assert held
            await writing.enter_async_context(busy(path, store))
        async with other.lease(ALICE, TTL) as held:
            assert not held


async def test_leases_of_an_earlier_start_of_the_machine_are_free(store, path):
    """Whoever held them is gone; and where that is reckoned wrongly, nobody gives back what is another's."""
    async with SqliteStore(path, encryption_keys=KEY) as earlier:
        earlier.timeline = "an earlier start"
        async with store.lease(BOB, TTL), earlier.lease(ALICE, TTL) as before:
            assert before
            mine = store.lease(ALICE, TTL)
            assert await mine.__aenter__()
        async with SqliteStore(path, encryption_keys=KEY) as another, another.lease(ALICE, TTL) as held:
            assert not held
        await mine.__aexit__(None, None, None)


async def test_a_lease_that_ends_implausibly_far_away_is_free(store, path):
    """A clock has gone astray: nobody is to wait for days."""
    async with store.lease(ALICE, TTL):
        query(path, "UPDATE leases SET until = until + ?", DAY)
        async with SqliteStore(path, encryption_keys=KEY) as other, other.lease(ALICE, TTL) as held:
            assert held


async def test_a_lease_is_held_against_those_who_want_it_for_less(store, path):
    """How long one takes is each one's own to say."""
    async with (
        store.lease(ALICE, TTL),
        SqliteStore(path, encryption_keys=KEY) as other,
        other.lease(ALICE, TTL / 2) as held,
    ):
        assert not held


async def test_nobody_knows_how_old_a_record_of_an_earlier_start_of_the_machine_is(store, path):
    """It is there, and its refresh token may still be good."""
    async with SqliteStore(path, encryption_keys=KEY) as earlier:
        earlier.timeline = "an earlier start"
        record = (await rotate(earlier, ALICE))[0]
        assert (await earlier.load(ALICE)).age is not None
    reading = await store.load(ALICE)
    assert reading.record.digest == record.digest
    assert reading.age is None
    await rotate(store, ALICE)
    assert (await store.load(ALICE)).age is not None


async def test_a_store_that_another_process_has_opened_is_of_no_use(store):
    """It says so, and is left alone."""
    await rotate(store, ALICE)
    mine = store.worker.process
    store.worker.process = mine + 1
    refusal = "was opened in another process: create one in each process, after the fork"
    with pytest.raises(StoreError, match=refusal):
        await store.load(ALICE)
    await store.aclose()
    with pytest.raises(StoreError, match=refusal):
        await store.load(ALICE)
    store.worker.process = mine


@pytest.mark.slow  # it starts a process that loads the package, and forks
async def test_a_store_is_of_no_use_to_a_forked_process(path):
    """Which shares the file's locks with its parent without knowing; a new one is, and the parent's goes on."""
    async with SqliteStore(path, encryption_keys=KEY) as store:
        await rotate(store, ALICE)
    refusal = f"{store!r} was opened in another process: create one in each process, after the fork"
    assert await asyncio.to_thread(run, FORK, path, KEY, ALICE) == [
        "before: True",
        f"child: {refusal}",
        f"closed child: {refusal}",
        "new: True",
        "parent: True",
    ]


async def test_a_store_can_be_used_after_it_was_closed(store, path):
    """It opens the file anew, and closing it twice is closing it once."""
    record = (await rotate(store, ALICE))[0]
    for _ in range(2):
        await store.aclose()
        await store.aclose()
        assert list(path.parent.iterdir()) == [path]
        assert (await store.load(ALICE)).record.digest == record.digest


async def test_a_store_that_was_never_used_is_closed_as_well(path):
    """It has made no file."""
    async with SqliteStore(path, encryption_keys=KEY):
        pass
    assert list(path.parent.iterdir()) == []


async def test_a_store_that_could_not_be_opened_is_closed_as_well(tmp_path):
    """There is nothing to close."""
    async with SqliteStore(tmp_path / "none" / "tokens.db", encryption_keys=KEY) as store:
        with pytest.raises(StoreError):
            await store.load(ALICE)


@pytest.mark.parametrize("times", [10, pytest.param(150, marks=pytest.mark.slow)])  # which takes over a second
async def test_closing_while_it_is_in_use_harms_nobody(store, times):
    """What was asked for before is done, and what comes after opens the file anew."""
    record = await make_record(store, ALICE)

    async def lease():
        async with store.lease(ALICE, TTL):
            pass

    for _ in range(times):
        await store.load(ALICE)
        async with asyncio.timeout(HANG):
            await asyncio.gather(
                store.save(ALICE, record, None), store.aclose(), lease(), store.load(ALICE), store.aclose()
            )


async def test_two_stores_of_one_process_keep_other_processes_from_tidying_up(store, path):
    """To close any descriptor of a file gives up its locks: https://sqlite.org/howtocorrupt.html, 2.2."""
    await store.load(ALICE)
    async with SqliteStore(path, encryption_keys=KEY) as other:
        await other.load(ALICE)
        await asyncio.to_thread(run, COUNT, path)
        await rotate(store, ALICE)
        assert await asyncio.to_thread(run, COUNT, path) == ["1"]


@pytest.mark.slow  # it starts two processes that load the package
async def test_processes_that_begin_at_once_find_one_file(path):
    """Whoever comes first makes it, and the others wait."""
    with process(SAVE, path, KEY, ALICE) as one, process(SAVE, path, KEY, BOB) as other:
        for each in (one, other):
            each.stdin.write("\n")
            each.stdin.flush()
        assert [each.communicate()[0] for each in (one, other)] == ["True True\n"] * 2
    assert query(path, "SELECT COUNT(*) FROM records") == [(2,)]


async def test_records_are_removed_a_day_after_their_refresh_tokens_have_expired(path, clock):
    """The next save removes them."""
    async with SqliteStore(path, encryption_keys=KEY, clock=clock) as store:
        await rotate(store, ALICE)
        await clock.advance(LIFE + DAY - 1)
        await rotate(store, BOB)
        assert query(path, "SELECT key FROM records ORDER BY rowid") == [(ALICE,), (BOB,)]
        await clock.advance(2)
        await rotate(store, key_of(("carol",)))
        assert query(path, "SELECT COUNT(*) FROM records WHERE key = ?", ALICE) == [(0,)]
        assert (await store.load(BOB)).record is not None


YEARS = 30 * 365 * DAY


@pytest.mark.parametrize("restarts", [0, 1, 3])
@pytest.mark.parametrize("later", [0, -YEARS, YEARS])
@pytest.mark.parametrize("at_first", [0, -YEARS, YEARS])
async def test_a_wrong_wall_clock_removes_no_record_that_can_be_used(path, clock, at_first, later, restarts):
    """It may be wrong when a record is saved, when the next one is saved, or at both times. (P30)"""
    right = clock.wall()
    clock.set_wall(right + at_first)
    async with SqliteStore(path, encryption_keys=KEY, clock=clock) as store:
        await rotate(store, BOB)
        record = (await rotate(store, ALICE))[0]
    for number in range(restarts + 1):
        machine = VirtualClock(right + later * (number % 2 == 0)) if restarts else clock
        machine.set_wall(right + later * (number % 2 == 0))
        async with SqliteStore(path, encryption_keys=KEY, clock=machine) as store:
            store.timeline = f"start {number}" if restarts else store.timeline
            await rotate(store, BOB)
            await machine.advance(LIFE / 10)
            await rotate(store, BOB)
            assert (await store.load(ALICE)).record.digest == record.digest


async def test_a_record_whose_end_no_wall_clock_shows_is_removed_all_the_same(path, clock):
    """The file doesn't grow forever: the time that certainly has passed adds up, across restarts too."""
    clock.set_wall(clock.wall() + YEARS)
    async with SqliteStore(path, encryption_keys=KEY, clock=clock) as store:
        await rotate(store, ALICE)
    for number in range(20):
        machine = VirtualClock()
        async with SqliteStore(path, encryption_keys=KEY, clock=machine) as store:
            store.timeline = f"start {number}"
            await rotate(store, BOB)
            await machine.advance((LIFE + DAY) / 19)
            await rotate(store, BOB)
            assert ((await store.load(ALICE)).record is None) == (number == 19)


async def test_one_save_removes_a_bounded_number_of_records(store, path):
    """A save stays quick, and its log small, after many records have expired at once."""
    await rotate(store, ALICE)
    query(
        path,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 250)"
        " INSERT INTO records SELECT 'old ' || i, '', x'00', -1e9 FROM n",
    )
    left = []
    for _ in range(3):
        await rotate(store, ALICE)
        left += [count for (count,) in query(path, "SELECT COUNT(*) FROM records WHERE key LIKE 'old %'")]
    assert left == [150, 50, 0]


@pytest.mark.parametrize("times", [40, pytest.param(500, marks=pytest.mark.slow)])  # which takes seconds
async def test_the_log_beside_the_file_stays_small(store, path, times):
    """All files together fit into 512 KiB however often two connections renew."""
    largest = 0
    async with SqliteStore(path, encryption_keys=KEY) as other:
        await other.load(ALICE)
        for number in range(times):
            await renew((store, other)[number % 2], ALICE)
            largest = max(largest, sum(file.stat().st_size for file in path.parent.iterdir()))
    assert 64 * KIB < largest < 400 * KIB


async def test_a_log_that_a_reader_has_kept_from_being_emptied_is_cut_again(store, path):
    """Another program that reads for a long time, such as a backup, makes the log grow only while it reads."""
    await renew(store, ALICE)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM records").fetchall()
        for _ in range(60):
            await rotate(store, ALICE)
        log = path.with_name(f"{path.name}-wal")
        assert log.stat().st_size > 400 * KIB
        reader.execute("COMMIT")
        for _ in range(60):
            await rotate(store, ALICE)
        assert log.stat().st_size < 300 * KIB


def as_long(record):
    """Return a record with tokens of the length that SignalWire's have, about 600 characters."""
    halves = (record.pair.access_token, record.pair.refresh_token)
    token, refresh_token = (attrs.evolve(half, value=half.value.ljust(610, "x")) for half in halves)
    return attrs.evolve(record, pair=attrs.evolve(record.pair, access_token=token, refresh_token=refresh_token))


@pytest.mark.slow  # each save waits for the disk
async def test_sixty_subscribers_fit_into_512_kib(store, path):
    """The file, its log and its index together, while all are renewed."""
    largest, held = 0, {}
    for _ in range(3):
        for number in range(60):
            key = key_of((str(number),))
            before, held[key] = held.get(key), as_long(await make_record(store, key))
            mark = before and attrs.evolve(before, presenting="an attempt")
            if before is not None:
                assert await store.save(key, mark, before.digest)
            assert await store.save(key, held[key], mark and mark.digest)
            largest = max(largest, sum(file.stat().st_size for file in path.parent.iterdir()))
    assert largest < 512 * KIB


@pytest.mark.slow  # it starts a process that loads the package
async def test_no_file_grows_beyond_512_kib(path):
    """This process can't write beyond that size. Saving used to fail there after ten renewals."""
    assert await asyncio.to_thread(run, CRAMPED, path, KEY, ALICE) == ["300 renewals"]


async def test_sqlite_is_asked_to_write_through(store):
    """Then a record is on the disk before the save returns, and a power failure loses none."""
    await store.load(ALICE)
    full = 2
    assert await store._do(ALICE, lambda database: database.execute("PRAGMA synchronous").fetchall()) == [(full,)]


async def test_leases_from_before_a_restart_are_removed(store, path):
    """Also of processes that were killed, for keys that are never used again."""
    async with SqliteStore(path, encryption_keys=KEY, clock=Ahead(3 * DAY)) as earlier:
        earlier.timeline = "an earlier start"
        async with earlier.lease(BOB, TTL):
            async with store.lease(ALICE, TTL) as held:
                assert held
            assert query(path, "SELECT key FROM leases") == []


async def test_a_failure_in_the_midst_of_it_changes_nothing(store):
    """What was begun is taken back."""
    record = (await rotate(store, ALICE))[0]

    def fail(database):
        database.execute("DELETE FROM records")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store._do(ALICE, fail, writes=True)
    assert (await store.load(ALICE)).record.digest == record.digest


async def test_watching_a_file_tells_nothing(store):
    """And may be ended."""
    unwatch = store.watch(ALICE, lambda: pytest.fail("was told"))
    await rotate(store, ALICE)
    unwatch()


async def test_a_start_that_was_reckoned_a_little_differently_is_the_same(store, path):
    """For records and for leases."""
    store.timeline = "1000"
    async with SqliteStore(path, encryption_keys=KEY) as other:
        other.timeline = "1001"
        await rotate(store, ALICE)
        assert (await other.load(ALICE)).age is not None
        async with store.lease(ALICE, TTL), other.lease(ALICE, TTL) as held:
            assert not held


async def test_a_lease_that_was_taken_in_the_last_moment_is_busy(store, path):
    """Between the look whether it is free, and the taking."""
    await store.load(ALICE)
    lease, taken = store.lease(ALICE, TTL), threading.Event()
    wanted = asyncio.ensure_future(lease.__aenter__())
    await asyncio.sleep(0)
    store.worker.thread.submit(taken.wait, HANG)  # it comes after the look, and before the taking
    async with SqliteStore(path, encryption_keys=KEY) as other, other.lease(ALICE, TTL) as held:
        assert held
        taken.set()
        assert not await wanted
    await lease.__aexit__(None, None, None)


@pytest.mark.parametrize("place", [None, 7, "", ":memory:"])
def test_a_path_that_names_no_file_is_refused(place):
    """When the store is made."""
    with pytest.raises(ConfigurationError, match="must name a file"):
        SqliteStore(place, encryption_keys=KEY)


@pytest.mark.parametrize("kind", ["directory", "pipe", "nowhere"])
async def test_what_is_no_file_is_left_as_it_is(tmp_path, kind):
    """A device above all, which is everybody's."""
    place = tmp_path / ("tokens.db" if kind != "nowhere" else "a\0b")
    if kind == "directory":
        place.mkdir(mode=0o755)
    elif kind == "pipe":
        os.mkfifo(place, 0o644)
    before = place.stat().st_mode if kind != "nowhere" else None
    async with SqliteStore(place, encryption_keys=KEY) as store:
        with pytest.raises(StoreError):
            await store.load(ALICE)
    assert before is None or place.stat().st_mode == before


async def test_a_file_that_was_moved_away_is_made_anew(store, path):
    """As a user does with one that is broken, and without a restart."""
    record = await make_record(store, ALICE)
    assert await store.save(ALICE, record, None)
    for each in path.parent.glob(f"{path.name}*"):
        each.rename(each.with_name(f"old-{each.name}"))
    assert (await store.load(ALICE)).record is None
    assert await store.save(ALICE, record, None)
    async with SqliteStore(path, encryption_keys=KEY) as other:
        assert (await other.load(ALICE)).record.digest == record.digest
    path.unlink()
    assert (await store.load(ALICE)).record is None


async def test_a_store_that_was_not_closed_warns_and_closes_its_file(path):
    """Once it is dropped."""
    stores = [SqliteStore(path, encryption_keys=KEY)]
    await stores[0].load(ALICE)
    thread = stores[0].worker.thread
    thread.submit(int).result()  # until its next work, the thread holds the last, and with that the store
    with pytest.warns(ResourceWarning, match="unclosed SqliteStore"):
        stores.clear()
    thread.shutdown()  # returns when the file is closed, with which SQLite takes away what lies beside it
    assert [each.name for each in path.parent.iterdir()] == [path.name]
