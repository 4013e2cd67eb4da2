"""A store on a PostgreSQL server, which the processes of many machines can share. It needs the extra `postgres`.

The tables, with the default name:

==========================  ===========================================================  ===========================
table                       a row                                                        removed
==========================  ===========================================================  ===========================
`signalwire_tokens`         a key, the record's digest, and the sealed record            a day after its expiry
`signalwire_tokens_leases`  a key, which call holds its lease, and when the lease ends   a day after its end
==========================  ===========================================================  ===========================

Statements
    Each operation is one statement outside of a transaction. So PgBouncer may give each to another connection. A
    statement may be run twice, since a lost connection doesn't show whether the server has run it.

Time
    All times are the server's, so the machines' clocks don't matter.

Watching
    A save notifies the channel that is named like the table. One task per store listens to it. To see whether messages
    arrive, it sends one to itself, on a channel of its own. PgBouncer in transaction mode accepts `LISTEN`, but it
    forwards nothing. Then, and with your app's pool, the task looks for new pairs every few seconds instead.

Sweeping
    Now and then, a save begins a task that removes old rows. The save doesn't wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from signalwire_tokens.clock import SYSTEM
from signalwire_tokens.durations import positive_seconds, spoken
from signalwire_tokens.errors import ConfigurationError, StoreError
from signalwire_tokens.secret import Secret

from .event_loop import end, warn_if_unclosed
from .postgres_server import PostgresServer, checked_place, describe_error
from .records import Reading, Record
from .sealing import Sealer
from .watchers import Watchers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    import asyncpg

    from signalwire_tokens.durations import Duration

__all__ = ["PostgresStore"]

NAME = re.compile(r"(?:[A-Za-z_]\w*\.)?[A-Za-z_]\w*", re.ASCII)
LONGEST_NAME = 63 - len("_saved_at")  # in bytes, of a table, so that its index has a name that PostgreSQL keeps
RECONNECT_PAUSES = (0.1, 10.0)  # seconds until the next attempt to listen: the first pause and the longest
HEARTBEAT = 60.0  # seconds between two messages that a store sends to itself
PROBE_TIMEOUT = 5.0  # seconds in which such a message must arrive
POLL_EVERY = 5.0  # seconds between two looks for new pairs, if messages don't arrive
POLL_FOR = 600.0  # seconds after which the store tries to listen again
OVERLAP = 2.0  # seconds that each look goes back: a pair may be saved a moment before others can see it
SWEEP_EVERY = 600.0  # seconds between two sweeps of a store
FAR_FUTURE = 32503680000.0  # the year 3000: nothing has been saved after it
LONGEST_LEASE = 3600.0  # seconds: a lease that ends later was taken before the server's clock was set back

SCHEMA = """\
CREATE TABLE IF NOT EXISTS {table} (
    key text PRIMARY KEY,
    digest text NOT NULL,
    sealed bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    saved_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS {name}_saved_at ON {table} (saved_at);
CREATE TABLE IF NOT EXISTS {table}_leases (
    key text PRIMARY KEY,
    owner text NOT NULL,
    expires_at timestamptz NOT NULL
);
"""
# `CREATE … IF NOT EXISTS` fails if two processes run it at once.
SCHEMA_LOCK = "SELECT pg_advisory_xact_lock(hashtext('signalwire_tokens schema'));\n"
IS_THERE = "SELECT to_regclass($1) IS NOT NULL AND to_regclass($2) IS NOT NULL AND to_regclass($3) IS NOT NULL"
# A record that has expired is of no use, and counts as gone. Otherwise, one that can't be read would stay for a day.
LOAD = """
SELECT (SELECT sealed FROM {table} WHERE key = $1 AND expires_at > clock_timestamp()),
    extract(epoch FROM clock_timestamp())::float8
"""
MARK = """
INSERT INTO {table} AS held (key, digest, sealed, expires_at) VALUES ($1, $2, $3, to_timestamp($4))
ON CONFLICT (key) DO UPDATE SET digest = excluded.digest, sealed = excluded.sealed, expires_at = excluded.expires_at
WHERE held.digest IN ($2, $5) OR held.expires_at <= clock_timestamp()
RETURNING true
"""
SAVE = """
WITH saved AS (
    INSERT INTO {table} AS held (key, digest, sealed, expires_at) VALUES ($1, $2, $3, to_timestamp($4))
    ON CONFLICT (key) DO UPDATE SET digest = excluded.digest, sealed = excluded.sealed,
        expires_at = excluded.expires_at, saved_at = clock_timestamp()
    WHERE held.digest IN ($2, $5) OR held.expires_at <= clock_timestamp()
    RETURNING key
)
SELECT pg_notify($6, key) FROM saved
"""
DELETE = "DELETE FROM {table} WHERE key = $1"
TAKE_LEASE = """
INSERT INTO {table}_leases AS held (key, owner, expires_at)
VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, expires_at = excluded.expires_at
WHERE held.owner = $2 OR held.expires_at <= clock_timestamp()
    OR held.expires_at > clock_timestamp() + make_interval(secs => $4)
RETURNING true
"""
RELEASE_LEASE = "DELETE FROM {table}_leases WHERE key = $1 AND owner = $2"
# A row that another process sweeps is skipped, so that no statement waits for another one.
SWEEP = """
WITH old_pairs AS (
    SELECT key FROM {table} WHERE saved_at < clock_timestamp() - make_interval(secs => $1)
        AND expires_at < clock_timestamp() - make_interval(secs => $1) LIMIT 1000 FOR UPDATE SKIP LOCKED
), old_leases AS (
    SELECT key FROM {table}_leases WHERE expires_at < clock_timestamp() - make_interval(secs => $1)
    LIMIT 1000 FOR UPDATE SKIP LOCKED
), swept AS (DELETE FROM {table} WHERE key IN (SELECT key FROM old_pairs))
DELETE FROM {table}_leases WHERE key IN (SELECT key FROM old_leases)
"""
SWEEP_AFTER = 86400.0  # seconds that a row stays after its end
NEW_PAIRS = """
SELECT key, extract(epoch FROM saved_at)::float8 FROM {table} WHERE saved_at > to_timestamp($1)
UNION ALL SELECT '', extract(epoch FROM clock_timestamp())::float8
"""
NOTIFY = "SELECT pg_notify($1, $2)"

LOST_SUBSCRIPTION = (
    "lost the subscription to %s (%s); sessions notice renewals by other processes later; next attempt in %s"
)
POLLING = (
    "%r gets no notifications, and looks for new pairs every %s instead. If PgBouncer is in between, pass "
    "listen_dsn=… with the address of the server itself"
)

logger: logging.Logger = logging.getLogger("signalwire_tokens.stores")


class PostgresStore:
    """A store on a PostgreSQL server, which the processes of many machines can share.

    `server` is a DSN (`postgresql://…`), or an `asyncpg.Pool` that you have opened and close yourself. The tables must
    be there: await `create_schema()` once, or run the SQL in `schema`. `table` is the name of the first, which may have
    a schema in front (`auth.tokens`).

    Ages count by the server's clock, so the machines' clocks need not agree. Records are encrypted with the first of
    `encryption_keys`, and each of the keys decrypts what it has encrypted. To store tokens unencrypted, pass
    `plaintext=True` and no keys. `timeout` limits each statement.

    The store learns of new pairs by `LISTEN`, on a connection to `listen_dsn` or else to the DSN. PgBouncer in
    transaction mode doesn't forward notifications: pass the server's own address as `listen_dsn`. Without it, and with
    a pool, the store looks for new pairs every five seconds.

    Use `async with PostgresStore(dsn, encryption_keys=key) as store`, or call `aclose()`. Close it after the sessions
    that use it. A store belongs to the event loop that it is first used on.

    Don't combine it with an emulator whose time you advance: the server's time doesn't follow.
    """

    def __init__(
        self,
        server: str | asyncpg.Pool,
        *,
        encryption_keys: str | Sequence[str] = (),
        plaintext: bool = False,
        table: str = "signalwire_tokens",
        listen_dsn: str | None = None,
        timeout: Duration = 1.0,
    ) -> None:
        hidden, hidden_keys, hidden_listen = Secret(server), Secret(encryption_keys), Secret(listen_dsn)
        del server, encryption_keys, listen_dsn
        seconds = positive_seconds("PostgresStore: timeout", timeout)
        check_table(table)
        self._table = table
        self._server = PostgresServer(hidden, seconds)
        self._sealer = Sealer(str(self), hidden_keys.value, plaintext=plaintext)
        self._holder, self._leases = uuid4().hex, count(1)
        self._swept_at = SYSTEM.now()
        self._sweeping: asyncio.Task[None] | None = None
        self._watchers = Watchers()
        listen_at = self._server.dsn
        if hidden_listen.value is not None:
            listen_at = Secret(hidden_listen.value)
            checked_place(listen_at)
        self._listener = NotificationListener(self._server, listen_at, table, self._watchers)
        self._listening: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return (
            repr(self._server) if hasattr(self, "_server") else f"{type(self).__name__}()"
        )  # the constructor raised before

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Using the store again opens new ones.

        Watchers are called again once a session is opened with the store. Raise `StoreError` on another event loop.
        """
        self._server.owner.check()
        listening, self._listening = self._listening, None
        try:
            await end(listening)
            await end(self._sweeping)
        finally:
            await self._server.aclose()

    def __del__(self) -> None:
        # If the constructor raised, there may be no server.
        if hasattr(self, "_server") and warn_if_unclosed(self, self._server.owner):
            if self._listening is not None and not self._listening.get_loop().is_closed():
                self._listening.cancel()
            with suppress(RuntimeError):  # the event loop may be closed
                self._server.terminate()

    @property
    def schema(self) -> str:
        """The SQL that `create_schema` runs, for your own migrations."""
        return SCHEMA.format(table=self._table, name=self._table.rpartition(".")[2])

    async def create_schema(self) -> None:
        """Create the tables that are missing. That needs the right to create tables, which the store itself doesn't."""
        names = self._table, f"{self._table}_leases", f"{self._table}_saved_at"
        ((is_there,),) = await self._server.fetch(IS_THERE, Secret(names), "its tables")
        if not is_there:
            await self._server.fetch(SCHEMA_LOCK + self.schema, Secret(()), "its tables")

    async def load(self, key: str) -> Reading:
        """Return a reading: the record under the key, or None if there is none, and the server's time."""
        ((sealed, at),) = await self._run(key, LOAD)
        hidden = Secret(sealed)
        del sealed
        record = None if hidden.value is None else self._sealer.open(key, hidden.value)
        return Reading(record=record, at=float(at))  # your pool may return numbers of another type

    async def save(self, key: str, record: Record, replaces: str | None) -> bool:
        """Save a record in place of the one with the digest `replaces`. Return whether the server holds it now."""
        sealed = Secret(self._sealer.seal(key, record))
        arguments = Secret((record.digest, sealed.value, record.until, replaces or ""))
        if record.presenting is not None:  # a mark isn't a new pair, so it isn't announced
            return bool(await self._run(key, MARK, *arguments.value))
        saved = bool(await self._run(key, SAVE, *arguments.value, channel_of(self._table)))
        if SYSTEM.now() > self._swept_at + SWEEP_EVERY:
            self._swept_at = SYSTEM.now()
            self._sweeping = asyncio.Task(
                sweep(self._server, self._table), name=f"signalwire-tokens: sweep {self}", context=Context()
            )
        return saved

    async def delete(self, key: str) -> None:
        """Remove the record under a key, if there is one."""
        await self._run(key, DELETE)

    @asynccontextmanager
    async def lease(self, key: str, ttl: float) -> AsyncIterator[bool]:
        """Yield True and hold the key's lease for the block, or yield False if another caller holds it."""
        owner = f"{self._holder}:{next(self._leases)}"
        held = bool(await self._run(key, TAKE_LEASE, owner, ttl, max(ttl, LONGEST_LEASE)))
        try:
            yield held
        finally:
            if held:
                with suppress(StoreError):  # the lease expires by itself
                    await self._run(key, RELEASE_LEASE, owner)

    def watch(self, key: str, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback` when a process, this one included, has saved a pair under the key.

        Return a function that ends this. The first call starts the task that listens. It has an empty context, since it
        outlives the caller.
        """
        loop = self._server.owner.bind()
        if self._listening is None:
            self._listening = loop.create_task(
                self._listener.run(), name=f"signalwire-tokens: listen to {self}", context=Context()
            )
        return self._watchers.add(key, callback)

    async def _run(self, key: str, statement: str, *arguments: Any) -> list[Any]:  # noqa: ANN401 - as the statement needs
        """Return the rows of a statement about a key. Raise `StoreError` if it fails or takes too long."""
        hidden = Secret((key, *arguments))
        del arguments
        return await self._server.fetch(statement.format(table=self._table), hidden, f"#{key[:8]}")


class NotificationListener:
    """Calls the watchers of each key under which a pair is saved.

    It has no reference to the store. Its task would otherwise keep a store in memory that your app forgot to close.
    """

    def __init__(self, server: PostgresServer, dsn: Secret[str] | None, table: str, watchers: Watchers) -> None:
        self._server = server
        self._dsn = dsn  # None: it can't listen
        self._table = table
        self._watchers = watchers
        self._own_channel = f"signalwire_tokens_{uuid4().hex}"  # for this store's messages to itself
        self._probe: asyncio.Future[bool] | None = None  # whether one has arrived
        self._since = FAR_FUTURE  # when the store last looked for new pairs, by the server's clock
        self._known: set[tuple[str, float]] = set()  # the pairs that it found then

    async def run(self) -> None:
        """Listen until the task is cancelled. If the connection fails, connect again after a pause."""
        pause, longest = RECONNECT_PAUSES
        while True:
            try:
                if self._dsn is None:
                    await self._poll(POLL_FOR)
                elif await self._listen(self._dsn):
                    pause = RECONNECT_PAUSES[0]
                    continue
                else:
                    logger.warning(POLLING, self._server, spoken(POLL_EVERY))
                    await self._poll(POLL_FOR)
            except Exception as error:  # noqa: BLE001 - after any error, the next connection may work
                reason = str(error) if isinstance(error, StoreError) else describe_error(error)
                logger.info(LOST_SUBSCRIPTION, channel_of(self._table), reason, spoken(pause))
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)

    async def _listen(self, dsn: Secret[str]) -> bool:
        """Listen on a new connection, as long as messages arrive. Return whether any has arrived."""
        connection = await self._server.connect_to_listen(dsn)
        has_heard, lost = False, asyncio.get_running_loop().create_future()
        try:
            connection.add_termination_listener(lambda _: self._lose(lost))
            async with asyncio.timeout(self._server.timeout):
                await connection.add_listener(channel_of(self._table), self._receive)
                await connection.add_listener(self._own_channel, self._receive_probe)
            while await self._probe_arrives(lost):
                if not has_heard:
                    await self._look()  # for what was saved while the store didn't listen
                has_heard = True
                await asyncio.wait([lost], timeout=HEARTBEAT)
        finally:
            connection.terminate()
        return has_heard or lost.done()

    async def _probe_arrives(self, lost: asyncio.Future[None]) -> bool:
        """Return whether a message that the store sends arrives soon, unless the connection is lost meanwhile."""
        if lost.done():
            return False
        loop = asyncio.get_running_loop()
        self._probe = loop.create_future()
        await self._server.fetch(NOTIFY, Secret((self._own_channel, "")), "a notification")
        limit = loop.call_later(PROBE_TIMEOUT, partial(self._end_probe, heard=False))
        try:
            return await self._probe
        finally:
            limit.cancel()

    def _receive(self, _connection: object, _process: int, _channel: str, payload: object) -> None:
        self._watchers.call(str(payload))

    def _receive_probe(self, *_: object) -> None:
        self._end_probe(heard=True)

    def _lose(self, lost: asyncio.Future[None]) -> None:
        lost.cancel()
        self._end_probe(heard=False)

    def _end_probe(self, *, heard: bool) -> None:
        if self._probe is not None and not self._probe.done():
            self._probe.set_result(heard)

    async def _poll(self, duration: float) -> None:
        """Look for new pairs again and again, for so many seconds."""
        until = SYSTEM.now() + duration
        while SYSTEM.now() < until:
            await self._look()
            await asyncio.sleep(POLL_EVERY)

    async def _look(self) -> None:
        """Call the watchers of the pairs that were saved since the last look, except those that it found then."""
        rows = await self._server.fetch(NEW_PAIRS.format(table=self._table), Secret((self._since,)), "its news")
        now = max(float(at) for _, at in rows)
        found = {(str(key), float(at)) for key, at in rows if key}
        for key, _ in sorted(found - self._known):
            self._watchers.call(key)
        self._since, self._known = now - OVERLAP, found


async def sweep(server: PostgresServer, table: str) -> None:
    """Remove old rows. If that fails, the store tries again when the next sweep is due."""
    with suppress(StoreError):
        await server.fetch(SWEEP.format(table=table), Secret((SWEEP_AFTER,)), "old rows")


def channel_of(table: str) -> str:
    """Return the name of the channel on which a table's new pairs are announced. Names of tables ignore the case."""
    return table.rpartition(".")[2].lower()


def check_table(table: object) -> None:
    """Raise `ConfigurationError` for a name that isn't one of a table, or too long."""
    if not isinstance(table, str) or not NAME.fullmatch(table) or len(channel_of(table)) > LONGEST_NAME:
        raise ConfigurationError(
            f"PostgresStore: table must be a name of letters, digits and underscores, with at most {LONGEST_NAME} "
            "characters, and with or without a schema and a dot in front"
        )
