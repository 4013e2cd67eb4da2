"""The connections of a store or a governor to a Redis or Valkey server, and how they send commands.

Repeated commands
    If a connection breaks, the client sends the command again, although the server may have run it. So a command must
    be one that may be run twice.

Failover
    After a failover, the old server may still answer, but as a replica that refuses writes, or without its cluster. It
    then does nothing, and answers with one of the codes in `WRONG_SERVER`. The connections are dropped, and the command
    is repeated once. New connections lead to the server that the address leads to by now.

Cancellation
    The client can swallow a cancellation. `cancellation_kept` raises it again, so that a cancelled task ends.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

try:
    from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import (
        AuthenticationError,
        ConnectionError,  # noqa: A004 - the client's own
        RedisError,
        ResponseError,
    )
    from redis.exceptions import TimeoutError as ConnectionTimeout
    from redis.maint_notifications import MaintNotificationsConfig
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "this module needs redis: install signalwire-tokens with its extra `redis`", name="redis"
    ) from None

from signalwire_tokens.durations import spoken
from signalwire_tokens.errors import ConfigurationError, StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from signalwire_tokens.models import Secret

__all__ = ["HEARTBEAT", "RedisServer", "cancellation_kept", "describe_error", "end"]

MOST_CONNECTIONS = 64
CANCEL_AGAIN_AFTER = 0.05  # seconds until a task is cancelled again
HEARTBEAT = 10.0  # seconds without traffic after which a connection is checked

# The server has done nothing, and can't until its role or its cluster changes. After a failover, another server can.
WRONG_SERVER = {
    "CLUSTERDOWN": ": its cluster is down",
    "MASTERDOWN": ": it is a replica that has lost its primary",
    "NOREPLICAS": ": it has too few replicas",
    "READONLY": ": it is a replica",
}
HINTS = WRONG_SERVER | {
    "DB index": ": it has no database of this number",
    "LOADING": ": it is starting",
    "MISCONF": ": it can't write to its disk",
    "NOPERM": ": the user may not do this",
    "OOM": ": it has no memory left",
    "WRONGTYPE": ": another application uses the same prefix",
}
CODE = re.compile(r"[A-Z]{4,}(?= )|DB index")
# Servers before version 7 wrap the error of a script's command in one of their own, after a "-".
QUOTED = re.compile(rf"(?<=-)(?:{'|'.join(HINTS)})(?= )")

T = TypeVar("T")


class RedisServer:
    """The connections of one user, such as a `RedisStore`, to a server. They belong to one event loop.

    `user` is the name of the user's class, for messages. `server` is a URL, or a client of the application's, which
    `aclose` doesn't close. `timeout` limits each command, in seconds. Set `on_move` to a function to call when
    the connections are dropped after a failover.

    Raise `ConfigurationError` if the server is neither.
    """

    def __init__(self, user: str, server: Secret[Any], timeout: float) -> None:
        self.user: str = user
        self.timeout: float = timeout
        self._is_own = not isinstance(server.value, Redis)
        self.redis: Redis = Redis.from_pool(make_pool(user, server, timeout)) if self._is_own else server.value
        self.pool: ConnectionPool = self.redis.connection_pool
        self._loop: asyncio.AbstractEventLoop | None = None
        self._moves = 0
        self.on_move: Callable[[], object] = nothing

    def __repr__(self) -> str:
        where = self.pool.connection_kwargs if hasattr(self, "pool") else {}  # missing if the URL was invalid
        place = where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}"
        return f"{self.user}({place}/{where.get('db', 0)})"

    @property
    def is_used(self) -> bool:
        """Return whether connections may be open, since the last `aclose`."""
        return self._loop is not None

    def bind(self) -> asyncio.AbstractEventLoop:
        """Return the running event loop. Raise `StoreError` if the connections belong to another one."""
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise StoreError(
                f"{self} was first used on another event loop or before a fork: create one {self.user} per event loop "
                "and process"
            )
        return loop

    def release(self) -> None:
        """Allow another event loop to use the connections, which must be closed next.

        Raise `StoreError` on a wrong event loop.
        """
        if self._loop is not None and not self._loop.is_closed():
            self.bind()
        self._loop = None

    async def aclose(self) -> None:
        """Close the connections, unless they are the application's. Using them again opens new ones."""
        if self._is_own:
            await self.redis.aclose()

    async def run(self, send: Callable[[], Awaitable[T]], subject: str) -> T:
        """Return the server's answer to a command. Raise `StoreError` if it fails or takes too long.

        `subject` says in the error what the command was for. The error shows no arguments, which may hold tokens.
        """
        self.bind()
        try:
            with cancellation_kept():
                async with asyncio.timeout(self.timeout):
                    return await self._send(send)
        except (TimeoutError, ConnectionTimeout):  # both have the same limit
            reason = f"no answer within {spoken(self.timeout)}"
        except Exception as error:  # noqa: BLE001 - the client raises errors of many kinds
            reason = describe_error(error)
        raise StoreError(f"{self}: {subject}: {reason}")

    async def _send(self, send: Callable[[], Awaitable[T]]) -> T:
        """Return the answer to a command. Repeat it once on new connections if this server can't run it."""
        moves = self._moves
        try:
            return await send()
        except RedisError as error:
            if code_of(error) not in WRONG_SERVER:
                raise
        if self._moves == moves:  # otherwise another call has dropped the connections since
            await self._move()
        return await send()

    async def _move(self) -> None:
        """Drop all connections. New ones lead to the server that the address leads to now."""
        self._moves += 1
        self.on_move()
        await self.pool.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]  # redis-py doesn't type it
        with suppress(RedisError, OSError):  # a connection may be slow to close
            await self.pool.disconnect(inuse_connections=False)


def nothing() -> None:
    """Do nothing when the connections are dropped."""


@contextmanager
def cancellation_kept() -> Iterator[None]:
    """Raise `CancelledError` after the block if its task was cancelled in the block, but the block didn't raise it.

    The client can lose a cancellation in two ways. It can raise another exception instead. And it calls
    `asyncio.wait_for`, which in Python 3.11 drops a cancellation that arrives when the result is there already.
    """
    task = cast("asyncio.Task[object]", asyncio.current_task())
    before = task.cancelling()
    try:
        yield
    except Exception:  # of a task that was cancelled, only the cancellation counts
        if task.cancelling() == before:
            raise
    if task.cancelling() > before:
        raise asyncio.CancelledError


async def end(task: asyncio.Task[None] | None) -> None:
    """Cancel a task that uses the client, and wait until it is done. The client may swallow a cancellation."""
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_AGAIN_AFTER)


def describe_error(error: Exception) -> str:
    """Return a description of an error, without the server's text, which may quote what was sent."""
    if type(error) is ConnectionError:  # not a subclass, which may hold the server's text
        return str(error)
    if isinstance(error, AuthenticationError):
        return "the server refused the user name or password: check the URL"
    code = code_of(error)
    return f"{type(error).__name__}" if code is None else f"the server answered {code}{HINTS.get(code, '')}"


def code_of(error: Exception) -> str | None:
    """Return the code of the server's error answer, such as `READONLY`, or None if the error has none."""
    if isinstance(error, RedisError) and error.status_code not in (None, "ERR"):
        return error.status_code
    if type(error) is not ResponseError:
        return None
    found = QUOTED.search(str(error)) or CODE.match(str(error))
    return None if found is None else found[0]


def make_pool(user: str, url: Secret[Any], timeout: float) -> BlockingConnectionPool:
    """Return a connection pool for a URL. Raise `ConfigurationError` if the URL or one of its options is invalid.

    No connection is opened yet.
    """
    try:
        pool = BlockingConnectionPool.from_url(
            url.value,
            max_connections=MOST_CONNECTIONS,
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            health_check_interval=HEARTBEAT,
            # The server may have closed an idle connection. Trying once more is safe: every command may be sent twice.
            retry=Retry(NoBackoff(), 1),
            # Few servers announce their maintenance. Asking the others leaves an exception behind, with its frames.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        pool.connection_kwargs["decode_responses"] = False  # a sealed record isn't text
        pool.make_connection()  # type: ignore[no-untyped-call]  # raises for unknown options, and doesn't connect
    except (RedisError, ValueError, AttributeError, TypeError):
        pass
    else:
        return pool
    raise ConfigurationError(
        f"{user}: invalid URL or unknown option: use redis://host:port/db, rediss://… or unix://path, with the "
        "options of redis-py"
    )
