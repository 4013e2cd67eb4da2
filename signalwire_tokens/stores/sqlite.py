"""A store in a file, for the processes of one machine."""

from __future__ import annotations

import asyncio
import concurrent.futures  # its pools are loaded when one is made
import os
import stat
import warnings
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar
from uuid import uuid4

from signalwire_tokens.clock import SYSTEM
from signalwire_tokens.errors import ConfigurationError, StoreError
from signalwire_tokens.models import Secret, life_of

from .moments import Moment, is_same_boot, passed, timeline
from .records import Reading, Record
from .sealing import Sealer

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Callable, Sequence

    from signalwire_tokens.clock import Clock

__all__ = ["SqliteStore"]

T = TypeVar("T")
APPLICATION = 0x53575431  # how SQLite files say whose they are
SCHEMA = 2  # 1 was that of 0.1.0
OWNER_S = stat.S_IRUSR | stat.S_IWUSR
BESIDE = ("-wal", "-shm", "-journal")
EMPTY = 1  # byte at most: SQLite takes such a file for a new one
TABLES = (
    "CREATE TABLE records (key TEXT PRIMARY KEY, digest TEXT NOT NULL, sealed BLOB NOT NULL, until REAL NOT NULL)",
    "CREATE INDEX by_end ON records (until)",
    "CREATE TABLE leases (key TEXT PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL, timeline TEXT NOT NULL)",
    # The file's own time, in which records expire, and when it was last noted.
    "CREATE TABLE time (passed REAL NOT NULL, at REAL NOT NULL, wall REAL NOT NULL, timeline TEXT NOT NULL)",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {SCHEMA}",
)
LOG_PAGES, PAGE = 64, 4096  # the log beside the file is emptied at 256 KiB; a renewal writes about 40 KiB
BUSY = 0.5  # seconds to wait for another process that is writing
SWEEP_AFTER = 86400.0  # seconds that a record stays after it has expired, in case a clock runs too fast
MOST_AT_ONCE = 100  # records that one save removes at most, which keeps it quick and its log small
LONGEST_LEASE = 3600.0  # seconds: one that ends later was taken before a restart, or by a clock that was wrong


class SqliteStore:
    """Keep pairs in an SQLite file that survives the process, safe between processes of one machine.

    The file is readable by its owner only, and records are sealed with the first of `encryption_keys`; `plaintext=True`
    does without. Use it as `async with SqliteStore(path, encryption_keys=key) as store`, or close it with `aclose()`,
    after the sessions that use it. A client or session that has a clock of its own, as in tests, needs a store with the
    same.
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
            raise ConfigurationError("SqliteStore: path must name a file; what need not last is kept by MemoryStore()")
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
        """Close the file. The store may be used again, which opens it anew."""
        worker = self.worker
        if worker is not None and worker.process == os.getpid():  # another process's is never let go of
            self.worker = None
            closing = asyncio.get_running_loop().run_in_executor(worker.thread, worker.close)
            worker.thread.shutdown(wait=False)
            await closing

    def __del__(self) -> None:
        # The constructor may have refused what it was given.
        worker = getattr(self, "worker", None)
        if worker is not None and worker.process == os.getpid():
            with suppress(RuntimeError):  # when Python ends, there are no threads any more
                worker.thread.submit(worker.close)
            worker.thread.shutdown(wait=False)
            warnings.warn(
                f"unclosed {self!r}: use `async with`, or await its aclose()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    async def load(self, key: str) -> Reading:
        """Read what is kept under a key."""

        def read(database: sqlite3.Connection) -> tuple[Secret[bytes] | None, float, float]:
            row = database.execute("SELECT CAST(sealed AS BLOB) FROM records WHERE key = ?", (key,)).fetchone()
            return None if row is None else Secret(row[0]), self._clock.now(), self._clock.wall()

        sealed, at, wall = await self._do(key, read)
        record = None if sealed is None else self._sealer.open(key, sealed.value)
        is_ours = record is not None and is_same_boot(record.timeline, self.timeline)
        timeline = record.timeline if record is not None and is_ours else self.timeline
        return Reading(record=record, at=at, timeline=timeline, wall=wall)

    async def save(self, key: str, record: Record, replaces: str | None) -> bool:
        """Keep a record in place of the one with the digest `replaces`."""
        sealed = self._sealer.seal(key, record)

        def write(database: sqlite3.Connection) -> bool:
            time = note_time(database, Moment(self._clock.now(), self._clock.wall(), self.timeline))
            until = time + life_of(record.pair.refresh_token)  # at the latest: only for sweeping
            sweep(database, time - SWEEP_AFTER)
            row = database.execute("SELECT digest FROM records WHERE key = ?", (key,)).fetchone()
            if row is not None and row[0] not in (replaces, record.digest):
                return False
            database.execute("REPLACE INTO records VALUES (?, ?, ?, ?)", (key, record.digest, sealed, until))
            return True

        return await self._do(key, write, writes=True)

    async def delete(self, key: str) -> None:
        """Keep nothing under a key."""
        await self._do(key, lambda database: database.execute("DELETE FROM records WHERE key = ?", (key,)), writes=True)

    @asynccontextmanager
    async def lease(self, key: str, ttl: float) -> AsyncIterator[bool]:
        """Be the only one who holds a key's lease."""
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
            database.execute(
                "DELETE FROM leases WHERE until < ? OR (until > ? AND timeline != ?)",
                (now - LONGEST_LEASE, now + longest, self.timeline),
            )
            database.execute("REPLACE INTO leases VALUES (?, ?, ?, ?)", (key, owner, until, self.timeline))
            return True

        def give_back(database: sqlite3.Connection) -> None:
            database.execute("DELETE FROM leases WHERE key = ? AND owner = ?", (key, owner))

        # Those who wait for a lease look often, and must not keep its holder from writing.
        held = await self._do(key, is_free) and await self._do(key, take, writes=True)
        try:
            yield held
        finally:
            if held:
                with suppress(StoreError):  # it ends by itself
                    await self._do(key, give_back, writes=True)

    def watch(self, key: str, callback: Callable[[], object]) -> Callable[[], None]:  # noqa: ARG002 - as in the protocol
        """Do nothing: a file tells nobody that it changed, and sessions look into it when they are due."""
        return lambda: None

    async def _do(self, key: str, work: Callable[[sqlite3.Connection], T], *, writes: bool = False) -> T:
        """Work on the file in the store's own thread, in a transaction."""
        import sqlite3  # noqa: PLC0415 - loads a library that most users do without

        if self.worker is None:
            self.worker = Worker()
        worker = self.worker
        if worker.process != os.getpid():
            raise StoreError(f"{self} was opened by another process: make one after the fork")
        try:
            return await asyncio.get_running_loop().run_in_executor(worker.thread, self._transact, worker, work, writes)
        except (sqlite3.Error, OSError, ValueError) as error:
            reason = str(error)
        raise StoreError(f"{self}: #{key[:8]}: {reason}")

    def _transact(self, worker: Worker, work: Callable[[sqlite3.Connection], T], writes: bool) -> T:
        if worker.database is None or worker.file != identity(self._path):
            worker.close()  # the file may have been moved away
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
        """Open the file, made readable by its owner only before SQLite writes to it."""
        import sqlite3  # noqa: PLC0415 - as above

        path = Path(os.path.realpath(self._path))  # `resolve()` raises a RuntimeError where links go in a circle
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
            raise OSError("the file belongs to another application")
        if schema != SCHEMA:
            raise OSError(
                f"the file was written by {'a newer' if schema > SCHEMA else 'an older'} version of signalwire-tokens: "
                "move it away, or use another"
            )
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")  # a save is on the disk before it returns
        database.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        database.execute(f"PRAGMA journal_size_limit = {LOG_PAGES * PAGE}")


class Worker:
    """A thread, and the connection that is used in it only."""

    __slots__ = ("database", "file", "process", "thread")

    def __init__(self) -> None:
        self.thread: concurrent.futures.Executor = concurrent.futures.ThreadPoolExecutor(1, "signalwire-tokens")
        self.process: int = os.getpid()
        self.database: sqlite3.Connection | None = None
        self.file: tuple[int, int] | None = None

    def close(self) -> None:
        """Close the file, in the thread."""
        database, self.database = self.database, None
        if database is not None:
            database.close()


def note_time(database: sqlite3.Connection, now: Moment) -> float:
    """Return the file's own time, and note it: how many seconds have certainly passed since the first record."""
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
    """Remove at most MOST_AT_ONCE records that expired before a moment of the file's own time."""
    database.execute(
        "DELETE FROM records WHERE key IN (SELECT key FROM records WHERE until < ? ORDER BY until LIMIT ?)",
        (before, MOST_AT_ONCE),
    )


def identity(path: Path) -> tuple[int, int] | None:
    """Tell one file from another of the same name."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def make_private(path: Path) -> None:
    """Make a file that is there for its owner only, unless it is somebody else's.

    It is read through SQLite alone: to close a descriptor of one's own would give up the locks that other connections
    of this process hold (https://sqlite.org/howtocorrupt.html, 2.2).
    """
    import sqlite3  # noqa: PLC0415 - as above

    if path.exists() and not path.is_file():
        raise OSError("the path is not that of a file")
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, OWNER_S))
    exposed = [each for each in (path, *(path.with_name(path.name + end) for end in BESIDE)) if is_exposed(each)]
    if exposed and path.stat().st_size > EMPTY:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            if pragma(database, "application_id") != APPLICATION:
                return
    for each in exposed:
        each.chmod(OWNER_S)


def is_exposed(path: Path) -> bool:
    """Tell whether a file is open to others."""
    try:
        return bool(stat.S_IMODE(path.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO))
    except FileNotFoundError:
        return False


def pragma(database: sqlite3.Connection, name: str) -> int:
    """Read a number from the file's head."""
    return int(database.execute(f"PRAGMA {name}").fetchone()[0])
