"""The connections of a store or a governor to a Redis or Valkey server, and how they send commands.

Deployments
    A URL leads to one server. A client of the application's may lead to one server, through Sentinel, or to a cluster.
    In a cluster, the client follows the slots, and repeats what another server must answer.

Repeated commands
    If a connection breaks, the client sends the command again, although the server may have run it. So a command must
    be one that may be run twice.

Failover
    After a failover, the old server may still answer, but as a replica that refuses writes, or without its cluster. It
    then does nothing, and answers with one of the codes in `WRONG_SERVER`. The connections are dropped, and the command
    is repeated once. New connections lead to the server that the address or Sentinel leads to by now.

    For a while, the old server may even accept writes that are lost later. `confirm` finds that out: it sends `WAIT`
    on the same connection, and counts too few replicas as such a code.
"""

from __future__ import annotations

import asyncio
import math
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

try:
    from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
    from redis.asyncio.cluster import ClusterNode, PipelineCommand
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import MasterNotFoundError
    from redis.backoff import NoBackoff
    from redis.client import NEVER_DECODE
    from redis.exceptions import (
        AskError,
        AuthenticationError,
        ClusterDownError,
        ConnectionError,  # noqa: A004 - the client's own
        MovedError,
        RedisError,
        ResponseError,
        SlotNotCoveredError,
    )
    from redis.exceptions import TimeoutError as ConnectionTimeout
    from redis.maint_notifications import MaintNotificationsConfig
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "this module needs redis: install signalwire-tokens with its extra `redis`", name="redis"
    ) from None

from signalwire_tokens.durations import spoken
from signalwire_tokens.errors import ConfigurationError, StoreError
from signalwire_tokens.secret import Secret

from .event_loop import LoopOwner, cancellation_kept

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["HEARTBEAT", "RedisServer", "describe_error"]

BYTES = {NEVER_DECODE: True}  # a sealed record isn't text, even if the application's client decodes its own
FOLLOWED = (ClusterDownError, ConnectionError, SlotNotCoveredError)  # another server of the cluster may have the slot
MOST_MOVES = 5  # how often a slot is looked for again
MOST_CONNECTIONS = 64
WAIT_PART = 0.3  # of the time for a command, in which replicas confirm it: so that it can be repeated once
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
    "TRYAGAIN": ": some of the keys are on their way to another server of its cluster",
    "WRONGTYPE": ": another application uses the same prefix",
}
CODE = re.compile(r"[A-Z]{4,}(?= )|DB index")
# Servers before version 7 wrap the error of a script's command in one of their own, after a "-".
QUOTED = re.compile(rf"(?<=-)(?:{'|'.join(HINTS)})(?= )")


class RedisServer:
    """The connections of one user, such as a `RedisStore`, to a server or a cluster. They belong to one event loop.

    `user` is the name of the user's class, for messages. `server` is a URL, or a client of the application's, which
    `aclose` doesn't close. `timeout` limits each command, in seconds. Set `on_move` to a function to call when
    the connections are dropped after a failover.

    Raise `ConfigurationError` if the server is neither.
    """

    def __init__(self, user: str, server: Secret[Any], timeout: float) -> None:
        self.user: str = user
        self._name = f"{user}()"
        self.timeout: float = timeout
        self._is_own = isinstance(server.value, str)
        self.redis: Redis | RedisCluster = (
            Redis.from_pool(make_pool(user, server, timeout)) if self._is_own else checked_client(user, server)
        )
        self._name = f"{user}({describe_client(self.redis)})"
        self.owner: LoopOwner = LoopOwner(self._name)
        self._moves = 0
        self.on_move: Callable[[], object] = nothing

    def __repr__(self) -> str:
        return self._name

    def checked_replicas(self, number: object) -> int:
        """Return how many replicas must confirm a save. Raise `ConfigurationError` if that can't work."""
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ConfigurationError(f"{self.user}: min_replicas must be a whole number, 0 or more")
        if number and isinstance(self.redis, RedisCluster):
            raise ConfigurationError(f"{self.user}: min_replicas works with one primary only, not with a cluster")
        return number

    async def aclose(self) -> None:
        """Close the connections, unless they are the application's. Using them again opens new ones."""
        try:
            if self._is_own and not self.owner.is_closed:
                await self.redis.aclose()
        finally:
            self.owner.release()

    async def eval(
        self, script: str, keys: Sequence[str], arguments: Secret[tuple[Any, ...]], subject: str, *, confirm: int = 0
    ) -> Any:  # noqa: ANN401 - as the server answers
        """Return the server's answer to a script, with its texts as bytes.

        With `confirm`, so many replicas must have what the script has written. Each call sends the script's text: after
        a failover, the new server may not have it loaded.

        Raise `StoreError` if it fails or takes too long. `subject` says in the error what the script was for. The error
        shows no arguments, which may hold tokens.
        """
        self.owner.bind()
        command = Secret(("EVAL", script, len(keys), *keys, *arguments.value))
        try:
            with cancellation_kept():
                async with asyncio.timeout(self.timeout):
                    return await self._send_or_move(command, confirm)
        except (TimeoutError, ConnectionTimeout):  # both have the same limit
            reason = f"no answer within {spoken(self.timeout)}"
        except asyncio.CancelledError:
            reason = ""  # the client's frames may hold tokens, so another one is raised
        except Exception as error:  # noqa: BLE001 - the client raises errors of many kinds
            reason = describe_error(error)
        if not reason:
            raise asyncio.CancelledError
        raise StoreError(f"{self}: {subject}: {reason}")

    async def _send_or_move(self, command: Secret[tuple[Any, ...]], confirm: int) -> Any:  # noqa: ANN401 - as above
        """Return the answer to a command. Repeat it once on new connections if this server can't run it."""
        moves = self._moves
        try:
            return await self._send(command, confirm)
        except RedisError as error:
            if code_of(error) not in WRONG_SERVER:
                raise
        if self._moves == moves:  # otherwise another call has dropped the connections since
            await self._move()
        return await self._send(command, confirm)

    async def _send(self, command: Secret[tuple[Any, ...]], confirm: int) -> Any:  # noqa: ANN401 - as above
        """Return the answer to a command, with `confirm` once so many replicas have what it has written."""
        if isinstance(self.redis, RedisCluster):
            return await send_to_cluster(self.redis, command)
        if not confirm:
            return await self.redis.execute_command(*command.value, **BYTES)  # type: ignore[no-untyped-call]  # redis-py doesn't type it
        async with self.redis.pipeline(transaction=False) as pipeline:
            pipeline.execute_command(*command.value, **BYTES)
            pipeline.execute_command("WAIT", confirm, math.ceil(self.timeout * WAIT_PART * 1000))
            answer, replicas = await pipeline.execute(raise_on_error=False)
        for one in (answer, replicas):
            if isinstance(one, Exception):
                raise one
        if answer and replicas < confirm:  # otherwise nothing was written
            raise ResponseError("NOREPLICAS to confirm it")
        return answer

    async def _move(self) -> None:
        """Drop all connections. New ones lead to the server that the address or Sentinel leads to now.

        For a cluster, ask its servers again which of them has which slots. Its other connections stay.
        """
        self._moves += 1
        self.on_move()
        with suppress(RedisError, OSError):  # a connection may be slow to close
            if isinstance(self.redis, RedisCluster):
                await self.redis.nodes_manager.initialize()
                return
            pool = self.redis.connection_pool
            await pool.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]  # redis-py doesn't type it
            await pool.disconnect(inuse_connections=False)


async def send_to_cluster(cluster: RedisCluster, command: Secret[tuple[Any, ...]]) -> Any:  # noqa: ANN401 - as the server answers
    """Return the answer of the server in a cluster that has the slot of a script's first key.

    While a slot moves, its server may answer `ASK`: another one has the key already. The client would send `ASKING` and
    the command on two connections to that server, where the first has no effect. So both are sent on one here.
    """
    await cluster.initialize()  # type: ignore[unused-awaitable]  # the result is the client itself
    moves = 0
    while True:
        try:
            owner = cast("ClusterNode", cluster.get_node_from_key(command.value[3]))
            return await owner.execute_command(*command.value, **BYTES)
        except (MovedError, *FOLLOWED) as error:  # before `AskError`, whose subclass `MovedError` is
            moves += 1
            if moves > MOST_MOVES:
                raise
            if isinstance(error, MovedError):
                await cluster.nodes_manager.move_slot(error)
            else:
                await cluster.nodes_manager.initialize()
        except AskError as redirect:
            return await ask(cast("ClusterNode", cluster.get_node(host=redirect.host, port=redirect.port)), command)


async def ask(node: ClusterNode, command: Secret[tuple[Any, ...]]) -> Any:  # noqa: ANN401 - as above
    """Return the answer of a server to which a slot moves."""
    asking, asked = PipelineCommand(0, "ASKING"), PipelineCommand(1, *command.value, **BYTES)
    await node.execute_pipeline([asking, asked])
    if isinstance(asked.result, Exception):
        raise asked.result
    return asked.result


def nothing() -> None:
    """Do nothing when the connections are dropped."""


def describe_error(error: Exception) -> str:
    """Return a description of an error, without the server's text, which may quote what was sent."""
    if type(error) is ConnectionError:  # not a subclass, which may hold the server's text
        return str(error)
    if isinstance(error, AuthenticationError):
        return "the server refused the user name or password: check the URL"
    if isinstance(error, MasterNotFoundError):
        return "Sentinel knows no primary of this service"
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


def checked_client(user: str, client: Secret[Any]) -> Redis | RedisCluster:
    """Return a client of the application's. Raise `ConfigurationError` if it is anything that can't be used."""
    if not isinstance(client.value, Redis | RedisCluster):
        kind = type(client.value)
        raise ConfigurationError(
            f"{user}: pass a URL, or a Redis or RedisCluster of redis.asyncio (for Sentinel, what master_for() "
            f"returns), not {kind.__module__}.{kind.__qualname__}"
        )
    pool = None if isinstance(client.value, RedisCluster) else client.value.connection_pool
    if not getattr(pool, "is_master", True):
        raise ConfigurationError(f"{user}: a replica refuses writes: use master_for() instead of slave_for()")
    return client.value


def describe_client(client: Redis | RedisCluster) -> str:
    """Return where a client leads to, without its password."""
    if isinstance(client, RedisCluster):
        return f"cluster {next(iter(client.nodes_manager.startup_nodes), '')}"
    pool = client.connection_pool
    where = pool.connection_kwargs
    if hasattr(pool, "service_name"):
        place = f"{pool.service_name} of Sentinel"
    else:
        place = where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}"
    return f"{place}/{where.get('db', 0)}"


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
        pool.make_connection()  # type: ignore[no-untyped-call]  # raises for unknown options, and doesn't connect
    except (RedisError, ValueError, AttributeError, TypeError):
        pass
    else:
        return pool
    raise ConfigurationError(
        f"{user}: invalid URL or unknown option: use redis://host:port/db, rediss://… or unix://path, with the "
        "options of redis-py"
    )
