"""A store on a Redis or Valkey server, for the processes of many machines. It needs the extra `redis`."""

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
    raise ModuleNotFoundError("RedisStore needs redis: install signalwire-tokens[redis]", name="redis") from None

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
HEARTBEAT = 10.0  # seconds between the questions whether a quiet connection is still one
AGAIN = 0.05  # seconds
LISTEN_AGAIN = (0.1, 10.0)  # seconds, doubling
LISTEN_FOR = 600.0  # seconds on one connection: after a failover, it may lead to a server on which nothing is published

# Each script touches one key, as a cluster's proxy wants it.
LOAD = "local t = redis.call('TIME') return {redis.call('HGET', KEYS[1], 'sealed'), t[1], t[2]}"
SAVE = """
local held = redis.call('HGET', KEYS[1], 'digest')
if held and held ~= ARGV[1] and held ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'digest', ARGV[1], 'sealed', ARGV[3])
redis.call('PEXPIREAT', KEYS[1], ARGV[4])
if ARGV[5] ~= '' then redis.pcall('PUBLISH', ARGV[5], ARGV[6]) end
return 1
"""
TAKE = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
GIVE_BACK = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
NO_ARGUMENTS: Secret[tuple[Any, ...]] = Secret(())

# The server has done nothing, and won't until its role or its peers change. After a failover, another one serves.
ELSEWHERE = {
    "CLUSTERDOWN": ": its cluster is down",
    "MASTERDOWN": ": it is a replica that has lost its primary",
    "NOREPLICAS": ": it has too few replicas",
    "READONLY": ": it is a replica",
}
HINTS = ELSEWHERE | {
    "DB index": ": it has no database of this number",
    "LOADING": ": it is starting",
    "MISCONF": ": it cannot write to its disk",
    "NOPERM": ": the user may not do this",
    "OOM": ": it has no memory left",
    "WRONGTYPE": ": another application uses the same prefix",
}
CODE = re.compile(r"[A-Z]{4,}(?= )|DB index")
# Before version 7, a server quotes what it answers to a script's command.
QUOTED = re.compile(rf"(?<=-)(?:{'|'.join(HINTS)})(?= )")

logger: logging.Logger = logging.getLogger("signalwire_tokens.stores")


class RedisStore:
    """Keep pairs on a Redis or Valkey server, where the processes of many machines share them.

    Its time is the server's, so that clocks need not agree. A record ends with its refresh token. It is sealed with the
    first of `encryption_keys`; `plaintext=True` does without. A store belongs to one event loop: use it as
    `async with RedisStore(url, encryption_keys=key) as store`, or close it with `aclose()`, after the sessions that use
    it.
    `timeout` bounds each command. An emulator that is advanced leaves the server's time behind.
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
        check(prefix)
        self._pool = connect(hidden, seconds)
        self._sealer = Sealer(str(self), hidden_keys.value, plaintext=plaintext)
        self._prefix, self._timeout = prefix, seconds
        self._redis = Redis.from_pool(self._pool)
        # Sent in full each time: after a failover, the new server may not have the script.
        self._load, self._save, self._take, self._give_back = (
            partial(self._redis.eval, text, 1) for text in (LOAD, SAVE, TAKE, GIVE_BACK)
        )
        self._holder, self._leases = uuid4().hex, count(1)
        self._watchers = Watchers()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener = Listener(self._redis, f"{prefix}news", self._watchers)
        self._listening: asyncio.Task[None] | None = None
        self._moves = 0

    def __repr__(self) -> str:
        where = self._pool.connection_kwargs if hasattr(self, "_pool") else {}  # its URL may have been refused
        place = where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}"
        return f"RedisStore({place}/{where.get('db', 0)})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. The store may be used again, which opens new ones."""
        if self._loop is not None and not self._loop.is_closed():
            self._bind()
        listening, self._listening, self._loop = self._listening, None, None
        while listening is not None and not listening.done():
            listening.cancel()  # one may be lost for as long as it takes to hear of something
            await asyncio.wait([listening], timeout=AGAIN)
        await self._redis.aclose()

    def __del__(self) -> None:
        # The constructor may have refused what it was given.
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
        """Read what is kept under a key."""
        answer = Secret(await self._run(key, "pair", self._load))
        at = time_of(answer)
        if at is None:
            raise StoreError(f"{self}: #{key[:8]}: the server answered with something else than was asked for")
        record = None if answer.value[0] is None else self._sealer.open(key, answer.value[0])
        return Reading(record=record, at=at)

    async def save(self, key: str, record: Record, replaces: str | None) -> bool:
        """Keep a record in place of the one with the digest `replaces`."""
        until, channel = max(0, int(record.until * 1000)), "" if record.presenting else self._channel
        sealed = Secret(self._sealer.seal(key, record))
        arguments = Secret((record.digest, replaces or "", sealed.value, until, channel, key))
        return bool(await self._run(key, "pair", self._save, arguments) == 1)

    async def delete(self, key: str) -> None:
        """Keep nothing under a key."""
        await self._run(key, "pair", self._redis.delete)

    @asynccontextmanager
    async def lease(self, key: str, ttl: float) -> AsyncIterator[bool]:
        """Be the only one who holds a key's lease."""
        owner = f"{self._holder}:{next(self._leases)}"
        held = bool(await self._run(key, "lease", self._take, Secret((owner, max(1, int(ttl * 1000))))) == 1)
        try:
            yield held
        finally:
            if held:
                with suppress(StoreError):  # it ends by itself
                    await self._run(key, "lease", self._give_back, Secret((owner,)))

    def watch(self, key: str, callback: Callable[[], object]) -> Callable[[], None]:
        """Call back when another process has saved a pair."""
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
        """Refuse any event loop but the first: connections live on one."""
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise StoreError(
                f"{self} belongs to the event loop, and the process, that it was first used in: make another"
            )
        return loop

    async def _run(
        self, key: str, kind: str, command: Callable[..., Any], arguments: Secret[tuple[Any, ...]] = NO_ARGUMENTS
    ) -> Any:  # noqa: ANN401 - as the server answers
        """Return the answer to a command about one key. An error doesn't show its arguments, which may hold tokens."""
        self._bind()
        name = f"{self._prefix}{{{key}}}:{kind}"

        async def send() -> Any:  # noqa: ANN401 - as above
            return await command(name, *arguments.value)

        try:
            with cancellation_kept():
                async with asyncio.timeout(self._timeout):
                    return await self._send(send)
        except (TimeoutError, ConnectionTimeout):  # the store's limit and the connection's are the same
            reason = f"no answer within {spoken(self._timeout)}"
        except Exception as error:  # noqa: BLE001 - the client fails in ways of its own
            reason = told(error)
        raise StoreError(f"{self}: #{key[:8]}: {reason}")

    async def _send(self, send: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401 - as above
        """Return the answer to a command; repeat it once if another server may serve since a failover."""
        moves = self._moves
        try:
            return await send()
        except RedisError as error:
            if code_of(error) not in ELSEWHERE:
                raise
        if self._moves == moves:  # otherwise another call has just done this
            await self._move()
        return await send()

    async def _move(self) -> None:
        """Drop all connections, so that new ones lead to the server that the address names now."""
        self._moves += 1
        self._listener.move()
        await self._pool.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]  # redis-py doesn't type it
        with suppress(RedisError, OSError):  # a connection may be slow to close
            await self._pool.disconnect(inuse_connections=False)


class Listener:
    """Listens for new pairs. What it misses, a session finds when it is due.

    It doesn't hold the store, which could otherwise not be collected.
    """

    def __init__(self, redis: Redis, channel: str, watchers: Watchers) -> None:
        self._redis = redis
        self._channel = channel
        self._watchers = watchers
        self._limit: asyncio.Timeout | None = None  # of the connection

    async def run(self) -> None:
        """Call watchers for as long as the store is open."""
        pause, longest = LISTEN_AGAIN
        while True:
            self._limit = limit = asyncio.timeout(LISTEN_FOR)
            try:
                async with limit, self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    with cancellation_kept():
                        await pubsub.subscribe(self._channel)
                    while True:
                        with cancellation_kept():
                            message = await pubsub.get_message(timeout=HEARTBEAT)
                        pause = LISTEN_AGAIN[0]
                        if message is not None:
                            self._watchers.call(message["data"].decode(errors="replace"))
            except Exception as error:  # noqa: BLE001 - whatever it is, the next connection may do better
                if limit.expired():  # a new connection leads to the server that the address names now
                    continue
                logger.info("not listening to %s any more, %s; again in %g s", self._channel, told(error), pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    def move(self) -> None:
        """Connect again, if it is connected."""
        if self._limit is not None:
            with suppress(RuntimeError):  # it has ended already
                self._limit.reschedule(asyncio.get_running_loop().time())


@contextmanager
def cancellation_kept() -> Iterator[None]:
    """Raise a cancellation that the client has lost: Python 3.11's `asyncio.wait_for` does where it has its answer."""
    task = cast("asyncio.Task[object]", asyncio.current_task())
    before = task.cancelling()
    try:
        yield
    except Exception:  # whatever came of what went on
        if task.cancelling() == before:
            raise
    if task.cancelling() > before:
        raise asyncio.CancelledError


def time_of(answer: Secret[Any]) -> float | None:
    """Read the time in an answer to `LOAD`, if it is one."""
    match answer.value:
        case [bytes() | None, bytes() as seconds, bytes() as micros] if seconds.isdigit() and micros.isdigit():
            return int(seconds) + int(micros) / 1e6
        case _:
            return None


def told(error: Exception) -> str:
    """Return what went wrong, without the server's text, which may quote what was sent."""
    if type(error) is ConnectionError:
        return str(error)
    if isinstance(error, AuthenticationError):
        return "the server does not accept the user name or password"
    code = code_of(error)
    return f"failed with {type(error).__name__}" if code is None else f"the server answered {code}{HINTS.get(code, '')}"


def code_of(error: Exception) -> str | None:
    """Return the code with which a server refused a command; None for anything else."""
    if isinstance(error, RedisError) and error.status_code not in (None, "ERR"):
        return error.status_code
    if type(error) is not ResponseError:
        return None
    found = QUOTED.search(str(error)) or CODE.match(str(error))
    return None if found is None else found[0]


def check(prefix: object) -> None:
    """Refuse settings that would only fail once they are used."""
    if not isinstance(prefix, str) or "{" in prefix:
        raise ConfigurationError("RedisStore: prefix must be text without braces")


def connect(url: Secret[str], timeout: float) -> BlockingConnectionPool:
    """Make the connections that a URL asks for."""
    try:
        pool = BlockingConnectionPool.from_url(
            url.value,
            max_connections=MOST_CONNECTIONS,
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            health_check_interval=HEARTBEAT,
            # A connection that the server has closed meanwhile is not worth a failure; every command may be sent twice.
            retry=Retry(NoBackoff(), 1),
        )
        pool.connection_kwargs["decode_responses"] = False  # what is sealed is no text
        pool.make_connection()  # type: ignore[no-untyped-call]  # it connects to nothing, but knows its options
    except (RedisError, ValueError, AttributeError, TypeError):
        pass
    else:
        return pool
    raise ConfigurationError(
        "RedisStore: the URL must be redis://…, rediss://… or unix://…, with options that are known"
    )
