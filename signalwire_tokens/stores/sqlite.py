"""A store in an SQLite file, which the processes of one machine can share.

Threads
    Each store runs its transactions in one thread of its own, so that the event loop doesn't wait for the disk.
    Cancelling a call doesn't stop a transaction that has begun: a save may take effect, and a lease may be taken until
    it expires.

Transactions
    A write locks the file before it reads (`BEGIN IMMEDIATE`), so another process can't write between a comparison and
    the change that depends on it. A read doesn't lock out writers.

Time
    `load` returns the running clock of this machine, and ages and leases count by it. That clock starts again with the
    machine, so its timeline is the machine's start. To remove expired records, the file counts a time of its own: each
    save adds what has certainly passed since the last one (see `moments`). That time goes on across restarts. A record
    is removed a day after it has expired by that time.

Files
    SQLite keeps a log (`-wal`) and its index (`-shm`) beside the file. Only the file's owner can read the three.
"""

from __future__ import annotations

import asyncio
import concurrent.futures  # imports its thread pool when one is made
import os
import stat
import warnings
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar
from uuid import uuid4

from signalwire_tokens.clock import SYSTEM
from signalwire_tokens.errors import ConfigurationError, StoreError
from signalwire_tokens.models import life_of
from signalwire_tokens.secret import Secret

from .moments import Moment, is_same_boot, passed, timeline
from .records import Reading, Record
from .sealing import Sealer

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Callable, Sequence

    from signalwire_tokens.clock import Clock

__all__ = ["SqliteStore"]

T = TypeVar("T")
APPLICATION = 0x53575431  # "SWT1": SQLite's field for the application that a file belongs to
SCHEMA = 2  # the version of the tables; 1 was that of 0.1.0
OWNER_ONLY = stat.S_IRUSR | stat.S_IWUSR
SIDE_FILE_SUFFIXES = ("-wal", "-shm", "-journal")  # what SQLite adds to the file's name for its other files
LARGEST_EMPTY_FILE = 1  # byte: SQLite treats a file of this size, or an empty one, as a new one
TABLES = (
    "CREATE TABLE records (key TEXT PRIMARY KEY, digest TEXT NOT NULL, sealed BLOB NOT NULL, until REAL NOT NULL)",
    "CREATE INDEX by_end ON records (until)",
    "CREATE TABLE leases (key TEXT PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL, timeline TEXT NOT NULL)",
    # One row: `passed` is the file's own time at the last save, the rest is the moment of that save.
    "CREATE TABLE time (passed REAL NOT NULL, at REAL NOT NULL, wall REAL NOT NULL, timeline TEXT NOT NULL)",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {SCHEMA}",
)
LOG_PAGES, PAGE = 64, 4096  # the log beside the file is emptied at 256 KiB; a renewal writes about 40 KiB
BUSY = 0.5  # seconds to wait while another process writes
SWEEP_AFTER = 86400.0  # seconds that a record stays after its expiry, in case a clock runs too fast
MOST_SWEPT = 100  # records that one save removes at most, which keeps it quick and its log small
LONGEST_LEASE = 3600.0  # seconds: a lease that expires later was taken before a restart, or by a clock that was wrong


class SqliteStore:
    """A store in an SQLite file, which the processes of one machine can share.

    Only the file's owner can read it. Records are encrypted with the first of `encryption_keys`, and each of the keys
    decrypts what it has encrypted. To store tokens unencrypted, pass `plaintext=True` and no keys. The file must be on
    a local file system.

    Use `async with SqliteStore(path, encryption_keys=key) as store`, or call `aclose()`. Close it after the sessions
    that use it. Each process needs a store of its own, made after any fork.

    `clock` must be the clock of the client and the sessions that use the store. If they have one of their own, as in
    tests, pass `clock=client.clock`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        encryption_keys: str | Sequence[str] = (),
        plaintext: bool = False,
        clock: Clock = SYSTEM,
    ) -> None:
        hidden = Secret(encryption_keys)
        del encryption_keys
        given: object = path
        if not isinstance(given, str | os.PathLike) or given in ("", ":memory:"):
            raise ConfigurationError(
                "SqliteStore: path must name a file: use MemoryStore() if pairs need not survive the process"
            )
        self._path = Path(path)
        self._sealer = Sealer(str(self), hidden.value, plaintext=plaintext)
        self._clock = clock
        self.worker: Worker | None = None
        self.timeline: str = timeline()

    def __repr__(self) -> str:
        return f"SqliteStore({str(self._path)!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the file. Using the store again opens the file again."""
        worker = self.worker
        # After a fork, only the parent may close its connection (https://sqlite.org/howtocorrupt.html, 2.6).
        if worker is not None and worker.process == os.getpid():
            self.worker = None
            closing = asyncio.get_running_loop().run_in_executor(worker.thread, worker.close)
            worker.thread.shutdown(wait=False)
            await closing

    def __del__(self) -> None:
        # If the constructor raised, the attribute may be missing.
        worker = getattr(self, "worker", None)
        if worker is not None and worker.process == os.getpid():
            with suppress(RuntimeError):  # at Python's exit, no thread takes work any more
                worker.thread.submit(worker.close)
            worker.thread.shutdown(wait=False)
            warnings.warn(
                f"unclosed {self!r}: use `async with`, or await its aclose()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    async def load(self, key: str) -> Reading:
        """Return a reading: the record under the key, or None if there is none, and the clock's time."""

        def read(database: sqlite3.Connection) -> tuple[Secret[bytes] | None, float, float]:
            row = database.execute("SELECT CAST(sealed AS BLOB) FROM records WHERE key = ?", (key,)).fetchone()
            return None if row is None else Secret(row[0]), self._clock.now(), self._clock.wall()

        sealed, at, wall = await self._do(key, read)
        record = None if sealed is None else self._sealer.open(key, sealed.value)
        # Two names of the same start differ if they are calculated. Returning the record's own makes its age known.
        is_ours = record is not None and is_same_boot(record.timeline, self.timeline)
        timeline = record.timeline if record is not None and is_ours else self.timeline
        return Reading(record=record, at=at, timeline=timeline, wall=wall)

    async def save(self, key: str, record: Record, replaces: str | None) -> bool:
        """Save a record in place of the one with the digest `replaces`. Return whether the file holds it now.

        The record is on the disk when the call returns.
        """
        sealed = self._sealer.seal(key, record)

        def write(database: sqlite3.Connection) -> bool:
            time = note_time(database, Moment(self._clock.now(), self._clock.wall(), self.timeline))
            until = time + life_of(record.pair.refresh_token)  # at the latest: the pair was asked for some time ago
            sweep(database, time - SWEEP_AFTER)
            row = database.execute("SELECT digest FROM records WHERE key = ?", (key,)).fetchone()
            if row is not None and row[0] not in (replaces, record.digest):
                return False
            database.execute("REPLACE INTO records VALUES (?, ?, ?, ?)", (key, record.digest, sealed, until))
            return True

        return await self._do(key, write, writes=True)

    async def delete(self, key: str) -> None:
        """Remove the record under a key, if there is one."""
        await self._do(key, lambda database: database.execute("DELETE FROM records WHERE key = ?", (key,)), writes=True)

    @asynccontextmanager
    async def lease(self, key: str, ttl: float) -> AsyncIterator[bool]:
        """Yield True and hold the key's lease for the block, or yield False if another caller holds it.

        A lease from before the machine's last restart counts as expired.
        """
        owner, longest = str(uuid4()), max(ttl, LONGEST_LEASE)

        def is_free(database: sqlite3.Connection) -> bool:
            now = self._clock.now()
            row = database.execute("SELECT until, timeline FROM leases WHERE key = ?", (key,)).fetchone()
            return row is None or not now < row[0] <= now + longest or not is_same_boot(row[1], self.timeline)

        def take(database: sqlite3.Connection) -> bool:
            if not is_free(database):
                return False
            now = self._clock.now()
            until = now + ttl
            # Leases of other keys that were never given back would otherwise stay in the file.
            database.execute(
                "DELETE FROM leases WHERE until < ? OR (until > ? AND timeline != ?)",
                (now - LONGEST_LEASE, now + longest, self.timeline),
            )
            database.execute("REPLACE INTO leases VALUES (?, ?, ?, ?)", (key, owner, until, self.timeline))
            return True

        def give_back(database: sqlite3.Connection) -> None:
            database.execute("DELETE FROM leases WHERE key = ? AND owner = ?", (key, owner))

        # Processes that wait for a lease check it often. They only read at first: taking a write lock each time would
        # keep the lease's holder from writing.
        held = await self._do(key, is_free) and await self._do(key, take, writes=True)
        try:
            yield held
        finally:
            if held:
                with suppress(StoreError):  # the lease expires by itself
                    await self._do(key, give_back, writes=True)

    def watch(self, key: str, callback: Callable[[], object]) -> Callable[[], None]:  # noqa: ARG002 - as in the protocol
        """Return a function that does nothing: a file can't report changes, so `callback` is never called.

        Sessions look into the file when their own renewal is due.
        """
        return lambda: None

    async def _do(self, key: str, work: Callable[[sqlite3.Connection], T], *, writes: bool = False) -> T:
        """Return the result of `work`, which runs in the store's thread as one transaction.

        Raise `StoreError` with the text of SQLite or of the system if it fails.
        """
        import sqlite3  # noqa: PLC0415 - loads a library that most users do without

        if self.worker is None:
            self.worker = Worker()
        worker = self.worker
        if worker.process != os.getpid():
            raise StoreError(f"{self} was opened in another process: create one in each process, after the fork")
        try:
            return await asyncio.get_running_loop().run_in_executor(worker.thread, self._transact, worker, work, writes)
        except (sqlite3.Error, OSError, ValueError) as error:
            reason = str(error)
        raise StoreError(f"{self}: #{key[:8]}: {reason}")

    def _transact(self, worker: Worker, work: Callable[[sqlite3.Connection], T], writes: bool) -> T:
        """Return the result of `work` after its transaction is committed. It runs in the worker's thread."""
        if worker.database is None or worker.file != identity(self._path):
            worker.close()  # the path may lead to another file by now
            worker.database = self._open()
            worker.file = identity(self._path)
        database = worker.database
        database.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            result = work(database)
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        return result

    def _open(self) -> sqlite3.Connection:
        """Return a connection to the file. Make the file readable by its owner only, before SQLite writes to it."""
        import sqlite3  # noqa: PLC0415 - as above

        path = Path(os.path.realpath(self._path))  # `resolve()` raises RuntimeError if links form a circle
        make_private(path)
        where = f"{path.as_uri()}?mode=rw"
        database = sqlite3.connect(where, uri=True, timeout=BUSY, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(database)
        except BaseException:
            database.close()
            raise
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        """Create the tables of a new file, or raise OSError if it is another application's or of another version."""
        database.execute("PRAGMA secure_delete = ON")
        with closing(database.execute("BEGIN IMMEDIATE")):
            application, schema = pragma(database, "application_id"), pragma(database, "user_version")
            is_new = not database.execute("SELECT 1 FROM sqlite_master").fetchone()
            if is_new and application == schema == 0:
                for statement in TABLES:
                    database.execute(statement)
                application, schema = APPLICATION, SCHEMA
            database.execute("COMMIT")
        if application != APPLICATION:
            raise OSError("the file belongs to another application: pass the path of another file")
        if schema != SCHEMA:
            raise OSError(
                f"the file was written by {'a newer' if schema > SCHEMA else 'an older'} version of signalwire-tokens: "
                "move it away, or pass the path of another file"
            )
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")  # a save is on the disk before it returns
        database.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        database.execute(f"PRAGMA journal_size_limit = {LOG_PAGES * PAGE}")


class Worker:
    """A thread, and the SQLite connection that only this thread uses.

    `process` is the process that started the thread. After a fork, the child doesn't have the thread, and must not use
    the connection. `file` identifies the file that the connection was opened on.
    """

    __slots__ = ("database", "file", "process", "thread")

    def __init__(self) -> None:
        self.thread: concurrent.futures.Executor = concurrent.futures.ThreadPoolExecutor(1, "signalwire-tokens")
        self.process: int = os.getpid()
        self.database: sqlite3.Connection | None = None
        self.file: tuple[int, int] | None = None

    def close(self) -> None:
        """Close the connection. Call it in the thread."""
        database, self.database = self.database, None
        if database is not None:
            database.close()


def note_time(database: sqlite3.Connection, now: Moment) -> float:
    """Return the file's own time, and store it: how many seconds have certainly passed since the first save."""
    row = database.execute("SELECT passed, at, wall, timeline FROM time").fetchone()
    if row is None:
        time = 0.0
        database.execute("INSERT INTO time VALUES (?, ?, ?, ?)", (time, now.at, now.wall, now.timeline))
    else:
        time = row[0] + passed(Moment(*row[1:]), now)
        database.execute(
            "UPDATE time SET passed = ?, at = ?, wall = ?, timeline = ?", (time, now.at, now.wall, now.timeline)
        )
    return time


def sweep(database: sqlite3.Connection, before: float) -> None:
    """Remove records that expired before a moment of the file's own time: MOST_SWEPT of them at most."""
    database.execute(
        "DELETE FROM records WHERE key IN (SELECT key FROM records WHERE until < ? ORDER BY until LIMIT ?)",
        (before, MOST_SWEPT),
    )


def identity(path: Path) -> tuple[int, int] | None:
    """Return what distinguishes a file from a later one at the same path: its device and inode. None: no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def make_private(path: Path) -> None:
    """Create the file if there is none, and remove the access of other users.

    A file that belongs to another application stays as it is.

    Only SQLite may read the file here. If this function opened and closed an existing file itself, this process's other
    connections would lose their locks on it (https://sqlite.org/howtocorrupt.html, 2.2).
    """
    import sqlite3  # noqa: PLC0415 - as above

    if path.exists() and not path.is_file():
        raise OSError("the path is a directory or a device: pass the path of a file")
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, OWNER_ONLY))
    exposed = [
        each for each in (path, *(path.with_name(path.name + end) for end in SIDE_FILE_SUFFIXES)) if is_exposed(each)
    ]
    if exposed and path.stat().st_size > LARGEST_EMPTY_FILE:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            if pragma(database, "application_id") != APPLICATION:
                return
    for each in exposed:
        each.chmod(OWNER_ONLY)


def is_exposed(path: Path) -> bool:
    """Return whether a file exists and users other than its owner have any access to it."""
    try:
        return bool(stat.S_IMODE(path.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO))
    except FileNotFoundError:
        return False


def pragma(database: sqlite3.Connection, name: str) -> int:
    """Return a number from the header of the SQLite file."""
    return int(database.execute(f"PRAGMA {name}").fetchone()[0])
