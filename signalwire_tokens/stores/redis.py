"""A store on a Redis or Valkey server, which the processes of many machines can share. It needs the extra `redis`.

The server can be a single one, the primary of a Sentinel set-up, or a cluster. It holds this, with the store's key for
`key`, and the default prefix:

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
    with the same digest, and `TAKE_LEASE` a lease of the same owner. `redis_server` says more.

Time
    All times are the server's, so the machines' clocks don't matter. `load` gets the record and the time by one script.

Failover
    A server that loses its role may still accept writes for a moment, and lose them. If it loses the mark of a refresh
    token, another process presents the same one. With `min_replicas`, a save counts only once so many replicas have it.
    That must be all of them: one that Sentinel hasn't redirected yet still confirms the old primary's writes. A lost
    lease, or a lost pair whose mark was kept, costs no more than another issue.

Watching
    One task per store listens to the channel. Messages are lost while it isn't connected. That is harmless: a session
    loads the record again when its own renewal is due.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from itertools import count
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from signalwire_tokens.durations import positive_seconds, spoken
from signalwire_tokens.errors import ConfigurationError, StoreError
from signalwire_tokens.secret import Secret

from .event_loop import cancellation_kept, end, warn_if_unclosed
from .records import Reading, Record
from .redis_server import HEARTBEAT, RedisServer, describe_error
from .sealing import Sealer
from .watchers import Watchers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from redis.asyncio import Redis, RedisCluster

    from signalwire_tokens.durations import Duration

__all__ = ["RedisStore"]

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
DELETE = "return redis.call('DEL', KEYS[1])"
TAKE_LEASE = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
RELEASE_LEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
NOT_REDIS = "unexpected answer to a load: is this a Redis or Valkey server, and not a proxy that changes answers?"
LOST_SUBSCRIPTION = (
    "lost the subscription to %s (%s); sessions notice renewals by other processes later; next attempt in %s"
)

logger: logging.Logger = logging.getLogger("signalwire_tokens.stores")


class RedisStore:
    """A store on a Redis or Valkey server, which the processes of many machines can share.

    `server` is a URL, or a client that you have opened and close yourself: a `Redis` of `redis.asyncio`, also for
    Sentinel, or a `RedisCluster`. With `min_replicas`, a save succeeds only once so many replicas have it; with
    Sentinel, pass the number of your replicas.

    Ages count by the server's clock, so the machines' clocks need not agree. The server removes a record when its
    refresh token expires. Records are encrypted with the first of `encryption_keys`, and each of the keys decrypts what
    it has encrypted. To store tokens unencrypted, pass `plaintext=True` and no keys. `prefix` begins the names of all
    keys on the server. `timeout` limits each command.

    Use `async with RedisStore(server, encryption_keys=key) as store`, or call `aclose()`. Close it after the sessions
    that use it. A store belongs to the event loop that it is first used on.

    Don't combine it with an emulator whose time you advance: the server's time doesn't follow.
    """

    def __init__(
        self,
        server: str | Redis | RedisCluster,
        *,
        encryption_keys: str | Sequence[str] = (),
        plaintext: bool = False,
        prefix: str = "signalwire-tokens:",
        timeout: Duration = 1.0,
        min_replicas: int = 0,
    ) -> None:
        hidden, hidden_keys = Secret(server), Secret(encryption_keys)
        del server, encryption_keys
        seconds = positive_seconds("RedisStore: timeout", timeout)
        check_prefix(prefix)
        self._server = RedisServer(type(self).__name__, hidden, seconds)
        self._min_replicas = self._server.checked_replicas(min_replicas)
        self._sealer = Sealer(str(self), hidden_keys.value, plaintext=plaintext)
        self._prefix = prefix
        self._holder, self._leases = uuid4().hex, count(1)
        self._watchers = Watchers()
        self._listener = ChannelListener(self._server.redis, f"{prefix}news", self._watchers)
        self._listening: asyncio.Task[None] | None = None
        self._server.on_move = self._listener.move

    def __repr__(self) -> str:
        return repr(self._server) if hasattr(self, "_server") else f"{type(self).__name__}()"  # the URL was invalid

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
        finally:
            await self._server.aclose()

    def __del__(self) -> None:
        # If the constructor raised, there may be no server.
        if not hasattr(self, "_server") or not warn_if_unclosed(self, self._server.owner):
            return
        if self._listening is not None and not self._listening.get_loop().is_closed():
            self._listening.cancel()

    async def load(self, key: str) -> Reading:
        """Return a reading: the record under the key, or None if there is none, and the server's time."""
        answer = Secret(await self._eval(key, "pair", LOAD, Secret(())))
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
        return bool(await self._eval(key, "pair", SAVE, arguments, confirm=self._min_replicas) == 1)

    async def delete(self, key: str) -> None:
        """Remove the record under a key, if there is one."""
        await self._eval(key, "pair", DELETE, Secret(()))

    @asynccontextmanager
    async def lease(self, key: str, ttl: float) -> AsyncIterator[bool]:
        """Yield True and hold the key's lease for the block, or yield False if another caller holds it."""
        owner = f"{self._holder}:{next(self._leases)}"
        held = bool(await self._eval(key, "lease", TAKE_LEASE, Secret((owner, max(1, int(ttl * 1000))))) == 1)
        try:
            yield held
        finally:
            if held:
                with suppress(StoreError):  # the lease expires by itself
                    await self._eval(key, "lease", RELEASE_LEASE, Secret((owner,)))

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

    @property
    def _channel(self) -> str:
        return f"{self._prefix}news"

    def _name(self, key: str, kind: str) -> str:
        """Return the name of a value on the server.

        A cluster places a value by the part in braces, so that a pair and its lease are on one server.
        """
        return f"{self._prefix}{{{key}}}:{kind}"

    async def _eval(
        self, key: str, kind: str, script: str, arguments: Secret[tuple[Any, ...]], *, confirm: int = 0
    ) -> Any:  # noqa: ANN401 - as the server answers
        """Return the server's answer to a script for one value. Raise `StoreError` if it fails or takes too long."""
        return await self._server.eval(script, [self._name(key, kind)], arguments, f"#{key[:8]}", confirm=confirm)


class ChannelListener:
    """Listens to the channel and calls the watchers of each key that a message names.

    It has no reference to the store. Its task would otherwise keep a store in memory that your app forgot to close.
    """

    def __init__(self, redis: Redis | RedisCluster, channel: str, watchers: Watchers) -> None:
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
                            self._watchers.call(as_text(message["data"]))
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


def as_text(data: str | bytes) -> str:
    """Return the content of a message, which a client of the application's may have decoded."""
    return data if isinstance(data, str) else data.decode(errors="replace")


def time_of(answer: Secret[Any]) -> float | None:
    """Return the server's time in an answer to `LOAD`, in seconds, or None if the answer has another form."""
    match answer.value:
        case [bytes() | None, bytes() as seconds, bytes() as micros] if seconds.isdigit() and micros.isdigit():
            return int(seconds) + int(micros) / 1e6
        case _:
            return None


def check_prefix(prefix: object) -> None:
    """Raise `ConfigurationError` for a prefix that would fail only when it is used.

    A brace in the prefix would change which part of a name decides on its place in a cluster.
    """
    if not isinstance(prefix, str) or "{" in prefix:
        raise ConfigurationError("RedisStore: prefix must be a string without braces")
