"""A store on a Redis or Valkey server, which the processes of many machines can share. It needs the extra `redis`.

What the server holds, with the store's key for `key`, and the default prefix:

===============================  =======  ==========================================  =============================
name                             type     content                                     removed by the server
===============================  =======  ==========================================  =============================
`signalwire-tokens:{key}:pair`   hash     the record's digest, and the sealed record  when its refresh token expires
`signalwire-tokens:{key}:lease`  string   which call holds the lease                  when the lease expires
`signalwire-tokens:news`         channel  a message for each new pair: its key        never kept
===============================  =======  ==========================================  =============================

Scripts and repeated commands
    Each change is a Lua script, which the server runs in one step. If a connection breaks, the client sends the command
    again, although the server may have run it. So each script accepts its own earlier result: `SAVE` accepts a record
    with the same digest, and `TAKE_LEASE` a lease of the same owner.

Time
    All times are the server's, so the machines' clocks don't matter. `load` gets the record and the time by one script.

Failover
    After a failover, the old server may still answer, but as a replica that refuses writes, or without its cluster. It
    then does nothing, and answers with one of the codes in `WRONG_SERVER`. The store drops its connections and repeats
    the command once. New connections lead to the server that the address leads to by now.

Watching
    One task per store listens to the channel. Messages are lost while it isn't connected. That is harmless: a session
    loads the record again when its own renewal is due.

Cancellation
    The client can swallow a cancellation. `cancellation_kept` raises it again, so that a cancelled task ends.
"""

from __future__ import annotations

import asyncio
import logging
import re
import warnings
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import Context
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Self, cast
from uuid import uuid4

try:
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import (
        AuthenticationError,
        ConnectionError,  # noqa: A004 - the client's own
        RedisError,
        ResponseError,
    )
    from redis.exceptions import TimeoutError as ConnectionTimeout
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "RedisStore needs redis: install signalwire-tokens with its extra `redis`", name="redis"
    ) from None

from signalwire_tokens.durations import positive_seconds, spoken
from signalwire_tokens.errors import ConfigurationError, StoreError
from signalwire_tokens.models import Secret

from .records import Reading, Record
from .sealing import Sealer
from .watchers import Watchers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from signalwire_tokens.durations import Duration
__all__ = ["RedisStore"]

MOST_CONNECTIONS = 64
HEARTBEAT = 10.0  # seconds without traffic after which a connection is checked
CANCEL_AGAIN_AFTER = 0.05  # seconds until the listening task is cancelled again
RECONNECT_PAUSES = (
    0.1,
    10.0,
)  # seconds until the next attempt to listen: the first pause and, by doubling, the longest
LISTEN_FOR = 600.0  # seconds on one connection: after a failover, nothing may be published on its server any more

# Each script uses one key, since a proxy for a cluster accepts no script with keys on different servers.
LOAD = "local t = redis.call('TIME') return {redis.call('HGET', KEYS[1], 'sealed'), t[1], t[2]}"
# `pcall` ignores that the user may lack the permission to publish. The record is saved then, but no watcher is called.
SAVE = """
local held = redis.call('HGET', KEYS[1], 'digest')
if held and held ~= ARGV[1] and held ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'digest', ARGV[1], 'sealed', ARGV[3])
redis.call('PEXPIREAT', KEYS[1], ARGV[4])
if ARGV[5] ~= '' then redis.pcall('PUBLISH', ARGV[5], ARGV[6]) end
return 1
"""
TAKE_LEASE = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
RELEASE_LEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
NO_ARGUMENTS: Secret[tuple[Any, ...]] = Secret(())

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

NOT_REDIS = "unexpected answer to a load: is this a Redis or Valkey server, and not a proxy that changes answers?"
LOST_SUBSCRIPTION = (
    "lost the subscription to %s (%s); sessions notice renewals by other processes later; next attempt in %s"
)

logger: logging.Logger = logging.getLogger("signalwire_tokens.stores")


class RedisStore:
    """A store on a Redis or Valkey server, which the processes of many machines can share.

    Ages count by the server's clock, so the machines' clocks need not agree. The server removes a record when its
    refresh token expires. Records are encrypted with the first of `encryption_keys`, and each of the keys decrypts what
    it has encrypted. To store tokens unencrypted, pass `plaintext=True` and no keys. `prefix` begins the names of all
    keys on the server. `timeout` limits each command.

    Use `async with RedisStore(url, encryption_keys=key) as store`, or call `aclose()`. Close it after the sessions that
    use it. A store belongs to the event loop that it is first used on.

    Don't combine it with an emulator whose time you advance: the server's time doesn't follow.
    """

    def __init__(
        self,
        url: str,
        *,
        encryption_keys: str | Sequence[str] = (),
        plaintext: bool = False,
        prefix: str = "signalwire-tokens:",
        timeout: Duration = 1.0,
    ) -> None:
        hidden, hidden_keys = Secret(url), Secret(encryption_keys)
        del url, encryption_keys
        seconds = positive_seconds("RedisStore: timeout", timeout)
        check_prefix(prefix)
        self._pool = make_pool(hidden, seconds)
        self._sealer = Sealer(str(self), hidden_keys.value, plaintext=plaintext)
        self._prefix, self._timeout = prefix, seconds
        self._redis = Redis.from_pool(self._pool)
        # Each call sends the script's text: after a failover, the new server may not have it loaded.
        self._load, self._save, self._take, self._give_back = (
            partial(self._redis.eval, text, 1) for text in (LOAD, SAVE, TAKE_LEASE, RELEASE_LEASE)
        )
        self._holder, self._leases = uuid4().hex, count(1)
        self._watchers = Watchers()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener = ChannelListener(self._redis, f"{prefix}news", self._watchers)
        self._listening: asyncio.Task[None] | None = None
        self._moves = 0

    def __repr__(self) -> str:
        where = self._pool.connection_kwargs if hasattr(self, "_pool") else {}  # missing if the URL was invalid
        place = where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}"
        return f"RedisStore({place}/{where.get('db', 0)})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Using the store again opens new ones.

        Watchers are called again once a session is opened with the store. Raise `StoreError` on another event loop.
        """
        if self._loop is not None and not self._loop.is_closed():
            self._bind()
        listening, self._listening, self._loop = self._listening, None, None
        while listening is not None and not listening.done():
            listening.cancel()  # the client may swallow this one
            await asyncio.wait([listening], timeout=CANCEL_AGAIN_AFTER)
        await self._redis.aclose()

    def __del__(self) -> None:
        # If the constructor raised, the attribute may be missing.
        if getattr(self, "_loop", None) is not None:
            warnings.warn(
                f"unclosed {self!r}: use `async with`, or await its aclose()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
            if self._listening is not None and not self._listening.get_loop().is_closed():
                self._listening.cancel()

    async def load(self, key: str) -> Reading:
        """Return a reading: the record under the key, or None if there is none, and the server's time."""
        answer = Secret(await self._run(key, "pair", self._load))
        at = time_of(answer)
        if at is None:
            raise StoreError(f"{self}: #{key[:8]}: {NOT_REDIS}")
        record = None if answer.value[0] is None else self._sealer.open(key, answer.value[0])
        return Reading(record=record, at=at)

    async def save(self, key: str, record: Record, replaces: str | None) -> bool:
        """Save a record in place of the one with the digest `replaces`. Return whether the server holds it now."""
        # No message is published for a mark, since it isn't a new pair.
        until, channel = max(0, int(record.until * 1000)), "" if record.presenting else self._channel
        sealed = Secret(self._sealer.seal(key, record))
        arguments = Secret((record.digest, replaces or "", sealed.value, until, channel, key))
        return bool(await self._run(key, "pair", self._save, arguments) == 1)

    async def delete(self, key: str) -> None:
        """Remove the record under a key, if there is one."""
        await self._run(key, "pair", self._redis.delete)

    @asynccontextmanager
    async def lease(self, key: str, ttl: float) -> AsyncIterator[bool]:
        """Yield True and hold the key's lease for the block, or yield False if another caller holds it."""
        owner = f"{self._holder}:{next(self._leases)}"
        held = bool(await self._run(key, "lease", self._take, Secret((owner, max(1, int(ttl * 1000))))) == 1)
        try:
            yield held
        finally:
            if held:
                with suppress(StoreError):  # the lease expires by itself
                    await self._run(key, "lease", self._give_back, Secret((owner,)))

    def watch(self, key: str, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback` when a process, this one included, has saved a pair under the key.

        Return a function that ends this. The first call starts the task that listens. It has an empty context, since it
        outlives the caller.
        """
        loop = self._bind()
        if self._listening is None:
            self._listening = loop.create_task(
                self._listener.run(), name=f"signalwire-tokens: listen to {self}", context=Context()
            )
        return self._watchers.add(key, callback)

    @property
    def _channel(self) -> str:
        return f"{self._prefix}news"

    def _bind(self) -> asyncio.AbstractEventLoop:
        """Return the running event loop. Raise `StoreError` if the store's connections belong to another one."""
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise StoreError(
                f"{self} was first used on another event loop or before a fork: create one RedisStore per event loop "
                "and process"
            )
        return loop

    async def _run(
        self, key: str, kind: str, command: Callable[..., Any], arguments: Secret[tuple[Any, ...]] = NO_ARGUMENTS
    ) -> Any:  # noqa: ANN401 - as the server answers
        """Return the server's answer to a command on one key. Raise `StoreError` if it fails or takes too long.

        The error shows none of the arguments, which may hold tokens.
        """
        self._bind()
        # A cluster places a key by the part in braces, so that a pair and its lease are on one server.
        name = f"{self._prefix}{{{key}}}:{kind}"

        async def send() -> Any:  # noqa: ANN401 - as above
            return await command(name, *arguments.value)

        try:
            with cancellation_kept():
                async with asyncio.timeout(self._timeout):
                    return await self._send(send)
        except (TimeoutError, ConnectionTimeout):  # the store's limit and the connection's are the same
            reason = f"no answer within {spoken(self._timeout)}"
        except Exception as error:  # noqa: BLE001 - the client raises errors of many kinds
            reason = describe_error(error)
        raise StoreError(f"{self}: #{key[:8]}: {reason}")

    async def _send(self, send: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401 - as above
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
        self._listener.move()
        await self._pool.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]  # redis-py doesn't type it
        with suppress(RedisError, OSError):  # a connection may be slow to close
            await self._pool.disconnect(inuse_connections=False)


class ChannelListener:
    """Listens to the channel and calls the watchers of each key that a message names.

    It has no reference to the store. Its task would otherwise keep a store in memory that your app forgot to close.
    """

    def __init__(self, redis: Redis, channel: str, watchers: Watchers) -> None:
        self._redis = redis
        self._channel = channel
        self._watchers = watchers
        self._limit: asyncio.Timeout | None = None  # of the current connection

    async def run(self) -> None:
        """Listen until the task is cancelled. If the connection fails, connect again after a pause."""
        pause, longest = RECONNECT_PAUSES
        while True:
            self._limit = limit = asyncio.timeout(LISTEN_FOR)
            try:
                async with limit, self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    with cancellation_kept():
                        await pubsub.subscribe(self._channel)
                    while True:
                        with cancellation_kept():
                            message = await pubsub.get_message(timeout=HEARTBEAT)
                        pause = RECONNECT_PAUSES[0]
                        if message is not None:
                            self._watchers.call(message["data"].decode(errors="replace"))
            except Exception as error:  # noqa: BLE001 - after any error, the next connection may work
                if limit.expired():  # no failure: connect again at once, to where the address leads now
                    continue
                logger.info(LOST_SUBSCRIPTION, self._channel, describe_error(error), spoken(pause))
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    def move(self) -> None:
        """End the current connection, so that `run` makes a new one at once."""
        if self._limit is not None:
            with suppress(RuntimeError):  # the connection has ended already
                self._limit.reschedule(asyncio.get_running_loop().time())


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


def time_of(answer: Secret[Any]) -> float | None:
    """Return the server's time in an answer to `LOAD`, in seconds, or None if the answer has another form."""
    match answer.value:
        case [bytes() | None, bytes() as seconds, bytes() as micros] if seconds.isdigit() and micros.isdigit():
            return int(seconds) + int(micros) / 1e6
        case _:
            return None


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


def check_prefix(prefix: object) -> None:
    """Raise `ConfigurationError` for a prefix that would fail only when it is used.

    A brace in the prefix would change which part of a name decides on its place in a cluster.
    """
    if not isinstance(prefix, str) or "{" in prefix:
        raise ConfigurationError("RedisStore: prefix must be a string without braces")


def make_pool(url: Secret[str], timeout: float) -> BlockingConnectionPool:
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
        )
        pool.connection_kwargs["decode_responses"] = False  # a sealed record isn't text
        pool.make_connection()  # type: ignore[no-untyped-call]  # raises for unknown options, and doesn't connect
    except (RedisError, ValueError, AttributeError, TypeError):
        pass
    else:
        return pool
    raise ConfigurationError(
        "RedisStore: invalid URL or unknown option: use redis://host:port/db, rediss://… or unix://path, with the "
        "options of redis-py"
    )
