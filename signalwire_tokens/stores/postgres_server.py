"""The connections of a `PostgresStore` to a PostgreSQL server, and how they run statements.

Connections
    With a DSN, the store has a pool of its own. It prepares no statements, so that PgBouncer in transaction mode works.
    With your app's pool, your settings hold. The store takes a connection for each statement, and gives it back.

Repeated statements
    If a connection is lost, the server may have run the statement. It is run once more, so each statement must be one
    that may run twice.

Failover
    An old primary may answer as a standby, which refuses writes. All connections are replaced then, and the statement
    is repeated once. New connections lead to the server that the address leads to by now.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
import ssl
from typing import TYPE_CHECKING, Any, cast

try:
    import asyncpg
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "this module needs asyncpg: install signalwire-tokens with its extra `postgres`", name="asyncpg"
    ) from None

from signalwire_tokens.durations import spoken
from signalwire_tokens.errors import ConfigurationError, StoreError

from .event_loop import LoopOwner, cancellation_kept

if TYPE_CHECKING:
    from signalwire_tokens.secret import Secret

__all__ = ["PostgresServer", "checked_place", "describe_error"]

MOST_CONNECTIONS = 10
# A URL whose user name and password end at the one "@", so that the rest can be shown.
HOST = r"(?:\[[0-9A-Fa-f:.]*\]|[\w.%-]*)(?::\d+)?"
DSN = re.compile(rf"postgres(?:ql)?://(?:[^@/?#]*@)?(?P<hosts>{HOST}(?:,{HOST})*)(?P<database>/[\w.%-]*)?(?:\?[^@]*)?")
READ_ONLY = "25006"
# After these, the same statement may succeed on another connection: this one was lost, or its server stops.
MOVED = {READ_ONLY, "57P01", "57P02", "57P05"}
COLLISIONS = {"40001", "40P01"}  # of two transactions, with strict isolation: one must be repeated
CLOSE_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
COLLISION_PAUSE = 0.02  # seconds at most until it is
HINTS = {
    READ_ONLY: ": it is a standby, or read-only",
    "28000": ": it refused the user",
    "28P01": ": it refused the user name or password",
    "3D000": ": there is no such database",
    "42501": ": the user lacks a right",
    "42704": ": the DSN may have an unknown option",
    "42601": ": the table's name may be a reserved word",
    "42703": ": the table has other columns, and isn't the store's",
    "42P01": ": the store's tables are missing. Run `await store.create_schema()` once, or the SQL in `store.schema`",
    "53100": ": its disk is full",
    "53300": ": it has too many connections",
    "57P03": ": it is starting or stopping",
}


class PostgresServer:
    """The connections of a `PostgresStore` to a server. They belong to one event loop.

    `server` is a DSN, or a pool of the application's, which `aclose` doesn't close. `timeout` limits each statement, in
    seconds. Raise `ConfigurationError` if the server is neither.
    """

    def __init__(self, server: Secret[Any], timeout: float) -> None:
        self._name = "PostgresStore()"
        self.timeout: float = timeout
        self.dsn: Secret[str] | None = server if isinstance(server.value, str) else None
        if self.dsn is not None:
            self._name = f"PostgresStore({checked_place(self.dsn)})"
        elif isinstance(server.value, asyncpg.Pool):
            self._name = "PostgresStore(your pool)"
        else:
            kind = type(server.value)
            raise ConfigurationError(
                f"PostgresStore: pass a DSN or an asyncpg.Pool, not {kind.__module__}.{kind.__qualname__}"
            )
        self._pool: Any = None if self.dsn is not None else server.value
        self._connecting: set[asyncio.Future[Any]] = set()  # connections that are being made
        self.owner: LoopOwner = LoopOwner(self._name)

    def __repr__(self) -> str:
        return self._name

    async def aclose(self) -> None:
        """Close the connections, unless they are the application's. Using them again opens new ones."""
        is_alive = not self.owner.is_closed
        self.owner.release()
        if self.dsn is None:
            return
        pool, self._pool = self._pool, None
        if pool is None or not is_alive:
            return
        try:
            async with asyncio.timeout(self.timeout):
                if self._connecting:
                    await asyncio.wait(self._connecting)
                await pool.close()
        except BaseException as error:
            pool.terminate()
            if not isinstance(error, CLOSE_ERRORS):
                raise

    def terminate(self) -> None:
        """Terminate the connections at once, unless they are the application's."""
        if self.dsn is not None and self._pool is not None:
            self._pool.terminate()

    async def fetch(self, statement: str, arguments: Secret[tuple[Any, ...]], subject: str) -> list[Any]:
        """Return the rows that a statement returns. Raise `StoreError` if it fails or takes too long.

        `subject` says in the error what the statement was for. The error shows no arguments, which may hold tokens.
        """
        self.owner.bind()
        try:
            with cancellation_kept():
                async with asyncio.timeout(self.timeout):
                    return await self._fetch_or_repeat(statement, arguments)
        except TimeoutError:
            reason = f"no answer within {spoken(self.timeout)}"
            if (
                self.dsn is not None and self._pool is not None
            ):  # the path of the other idle connections may be broken as well
                await self._pool.expire_connections()
        except asyncio.CancelledError:
            reason = ""  # the driver's frames may hold tokens, so another one is raised
        except Exception as error:  # noqa: BLE001 - the driver raises errors of many kinds
            reason = describe_error(error)
        if not reason:
            raise asyncio.CancelledError
        raise StoreError(f"{self}: {subject}: {reason}")

    async def connect(self, *arguments: Any, **settings: Any) -> Any:  # noqa: ANN401 - the driver has no types
        """Return a new connection, which the caller closes.

        If the caller is cancelled, the driver goes on to connect: interrupting that leaves an error in the event loop.
        """
        connecting = asyncio.ensure_future(asyncpg.connect(*arguments, **settings))
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connecting.discard)
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(give_up)
            raise

    async def connect_to_listen(self, dsn: Secret[str]) -> Any:  # noqa: ANN401 - as above
        """Return a connection that isn't the pool's, which the caller closes."""
        return await self.connect(dsn.value, timeout=self.timeout, statement_cache_size=0)

    async def _fetch_or_repeat(self, statement: str, arguments: Secret[tuple[Any, ...]]) -> list[Any]:
        """Return the rows of a statement. Repeat it once if its connection was lost, or if another server has to.

        A statement that collided with another one is repeated until it succeeds, within the time limit.
        """
        pool, is_last = await self._opened(), False
        while True:
            try:
                return await fetch_from(pool, statement, arguments)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                code = code_of(error)
                if code in COLLISIONS:
                    await asyncio.sleep(random.uniform(0.0, COLLISION_PAUSE))  # noqa: S311 - it keeps no secret
                    continue
                if is_last or not may_repeat(error) or pool is not self._pool:  # it was closed meanwhile
                    raise
                if code == READ_ONLY and self.dsn is not None:
                    await pool.expire_connections()
                is_last = True

    async def _opened(self) -> Any:  # noqa: ANN401 - the driver has no types
        """Return the pool. One of the store's own is made when it is first used."""
        if self._pool is None:
            pool = asyncpg.create_pool(
                cast("Secret[str]", self.dsn).value,  # a pool of the app's is there from the start
                min_size=0,
                max_size=MOST_CONNECTIONS,
                statement_cache_size=0,
                timeout=self.timeout,
                connect=self.connect,
                reset=leave_as_it_is,
            )
            self._pool = await pool  # it connects to nothing yet
        return self._pool


async def fetch_from(pool: asyncpg.Pool, statement: str, arguments: Secret[tuple[Any, ...]]) -> list[Any]:
    """Return the rows of a statement, which runs on one of a pool's connections."""
    connection = await pool.acquire()
    try:
        if arguments.value:
            return list(await connection.fetch(statement, *arguments.value))
        return [await connection.execute(statement)]  # which may be a script
    except BaseException as error:
        if not isinstance(error, asyncpg.PostgresError) or code_of(error) == READ_ONLY:
            connection.terminate()  # an answer that comes later would be the next statement's
        raise
    finally:
        await pool.release(connection)


def give_up(connecting: asyncio.Future[Any]) -> None:
    """Close a connection that came too late."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().terminate()


async def leave_as_it_is(_: object) -> None:
    """Send nothing when a connection goes back to the pool: the store's statements leave nothing behind."""


def checked_place(dsn: Secret[Any]) -> str:
    """Return where a DSN leads to, without its user and password. Raise `ConfigurationError` if it isn't one."""
    match = DSN.fullmatch(dsn.value) if isinstance(dsn.value, str) else None
    if match is None:
        raise ConfigurationError(
            "PostgresStore: invalid DSN: use postgresql://user:password@host:port/database, with the options of "
            "asyncpg. Escape the special characters of a password, such as @ as %40"
        )
    return f"{match['hosts']}{match['database'] or ''}"


def may_repeat(error: Exception) -> bool:
    """Return whether the same statement may succeed on another connection."""
    code = code_of(error)
    return code.startswith("08") or code in MOVED if code else isinstance(error, OSError | asyncpg.InterfaceError)


def code_of(error: Exception) -> str:
    """Return the SQLSTATE of the server's error, or "" if the error isn't the server's."""
    return str(error.sqlstate or "") if isinstance(error, asyncpg.PostgresError) else ""


def describe_error(error: Exception) -> str:
    """Return a description of an error, without the server's text, which may quote what was sent."""
    code = code_of(error)
    if code:
        return f"the server answered {code}{HINTS.get(code, '')}"
    if isinstance(error, ssl.SSLError):
        return f"cannot connect: TLS failed ({getattr(error, 'reason', type(error).__name__)})"
    if isinstance(error, socket.gaierror):
        return "cannot connect: the name of the host isn't known"
    if isinstance(error, OSError):
        return f"cannot connect: {os.strerror(error.errno) if error.errno else type(error).__name__}"
    if isinstance(error, ValueError) and not isinstance(error, asyncpg.DataError):
        return "an option of the DSN has a wrong value"
    if type(error) is asyncpg.InterfaceError:  # not a subclass, which may quote an argument
        return str(error)
    return type(error).__name__
