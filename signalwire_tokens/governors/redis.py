"""A governor on a Redis or Valkey server, for all processes of an account. It needs the extra `redis`.

What the server holds, with the governor's account for `account`, and the default prefix:

======================================  ====  ====================================================================
name                                    type  content
======================================  ====  ====================================================================
`signalwire-tokens:{account}:turns`     hash  `next`: the time of the next turn; `health`: the `AccountHealth`
`signalwire-tokens:{account}:members`   zset  the processes, by when each was last seen
======================================  ====  ====================================================================

`turns` also has `seen`: the time at which they were last asked for. All times are the server's. It removes both keys
a day after their last use.

**Turns.** A turn is a time. `TAKE` gives the next ones away, each an interval after the one before, and moves `next`
behind them. If the server's clock is set back, `next` follows. A process waits until its turn, and sends its request at
most `SLACK` seconds late; otherwise it takes another turn. To make up for that, and for an error of its estimate of the
server's clock, turns are further apart than `1 / max_rate`. So no second has more requests than `max_rate`.

**Fair shares.** All processes take their turns from one line, and each takes only a few at a time: as many as requests
that wait in it. A fleet lets few of them wait, the fewer the more processes there are. So while requests wait in all
processes, each gets an equal share, and a process that has few requests waits for no more than a few of each other one.
A process that gets the server's answers later than others has a smaller share, since it asks for turns less often.

**The server's clock.** An answer holds the server's time. It was read between the moments at which the call was sent
and answered, by this process's clock. That bounds the difference of the two clocks, and each answer narrows it.

**Without the server.** If a command fails or takes too long, or if all answers come too late for a while, the process
gives itself turns: `max_rate` divided by the number of processes that it last knew of. It begins a moment later, when
the last turn that the server may have given away is over. It tries the server again every second. When the server is
back, the process keeps to its own share for a while longer, until the other processes are back, too.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from uuid import uuid4
from weakref import ref

from signalwire_tokens.clock import SYSTEM
from signalwire_tokens.durations import positive_seconds
from signalwire_tokens.errors import ConfigurationError, StoreError
from signalwire_tokens.secret import Secret
from signalwire_tokens.stores.event_loop import end, warn_if_unclosed
from signalwire_tokens.stores.redis_server import RedisServer

from .health import AccountHealth, is_outdated
from .local import AHEAD, LocalGovernor, check_rate, interval_for
from .protocol import HealthReading

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from redis.asyncio import Redis, RedisCluster

    from signalwire_tokens.durations import Duration

__all__ = ["RedisGovernor"]

SLACK = 0.05  # seconds by which a turn may be used late
ERROR = 0.05  # seconds by which the estimate of the server's clock may be wrong
SEEN_EVERY = 10.0  # seconds after which a process that takes no turns says that it is there
GONE_AFTER = 30.0  # seconds without a sign of it after which a process no longer counts
RETRY_EVERY = 1.0  # seconds between two tries to reach a server that has failed
SLOW_AFTER = 2.0  # seconds during which all answers come too late, after which the server counts as failed
BACK_AFTER = 5.0  # seconds after its return until all processes use the server again: longer than their next try
REMEMBERED_FOR = 60.0  # seconds for which a larger number of processes counts, after a smaller one was seen
LONGEST_WAIT = 86_400.0  # seconds that a turn may be away
KEPT_FOR = 86_400_000  # milliseconds for which the server keeps the keys without use
MICROS = 1e6

# Both keys have the same part in braces, so that a cluster has them on one server. `turns` may be 0, for a look only.
# Of the turns, only those are taken that come within ARGV[4]. A server that knows of no turns may have lost some that
# it has given away for the next moments, so it begins a tenth of a second later.
TAKE = """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local turns, interval, within = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[5])
redis.call('ZREMRANGEBYSCORE', KEYS[2], now + ARGV[5], '+inf')
redis.call('PEXPIRE', KEYS[2], ARGV[6])
local at, seen = unpack(redis.call('HMGET', KEYS[1], 'next', 'seen'))
at = math.max(now, tonumber(at or now + 100000) - math.max(0, tonumber(seen or now) - now))
if interval > 0 then turns = math.min(turns, math.max(0, math.floor((now + within - at) / interval) + 1)) end
redis.call('HSET', KEYS[1], 'next', string.format('%.0f', at + turns * interval), 'seen', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return {string.format('%.0f', now), string.format('%.0f', at), turns, redis.call('ZCARD', KEYS[2]),
  redis.call('HGET', KEYS[1], 'health') or ''}
"""
# It returns the time, or 0 if it refuses. It accepts its own earlier result, since the client may send it twice.
REPLACE = """
local t = redis.call('TIME')
local held = redis.call('HGET', KEYS[1], 'health') or ''
if held ~= ARGV[1] and held ~= ARGV[2] then return {'0', ''} end
redis.call('HSET', KEYS[1], 'health', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {string.format('%.0f', t[1] * 1000000 + t[2]), ''}
"""
LEAVE = "return redis.call('ZREM', KEYS[2], ARGV[1])"

AWAY = "this process sends at most %.4g requests a second, as one of %d, until its server works again: %s"
RETURNED = "%r works again"
TOO_SLOW = f"its answers come more than {SLACK} s too late"
NOT_REDIS = "unexpected answer: is this a Redis or Valkey server, and not a proxy that changes answers?"

logger: logging.Logger = logging.getLogger("signalwire_tokens.governors")


class Taken(NamedTuple):
    """The turns that the server has given away: when the first one is, by this process's clock, and how many."""

    at: float
    number: int


class Wish(NamedTuple):
    """A request that waits for its turn until a time, and the rate that it may use.

    `turn` becomes the time of the turn by this process's clock: inf if there is none until then, None if the server has
    failed.
    """

    turn: asyncio.Future[float | None]
    rate: float
    until: float


class RedisGovernor:
    """A governor on a Redis or Valkey server: it limits the requests of all processes of an account together.

    Pass it to the fleet of each process as `governor=`. All processes with the same `account` and `prefix` share one
    limit of `max_rate` requests in a second, and what they know about SignalWire's health. `account` is any name.

    While the server `is_away` or slow, each process uses its share of `max_rate`: as many as there were. In its first
    minute, a process assumes that there are at least `processes`. `timeout` limits each command. `server` is a URL, or
    a client that you have opened and close yourself: a `Redis` of `redis.asyncio`, also for Sentinel, or a
    `RedisCluster`.

    Use `async with RedisGovernor(url) as governor`, or call `aclose()`. Close it after the fleets that use it. A
    governor belongs to the event loop that it is first used on.
    """

    def __init__(
        self,
        server: str | Redis | RedisCluster,
        *,
        max_rate: float = 1000.0,
        account: str = "default",
        processes: int = 10,
        prefix: str = "signalwire-tokens:",
        timeout: Duration = 0.5,
    ) -> None:
        hidden = Secret(server)
        del server
        self.is_away: bool = False
        self.max_rate: float = check_rate("RedisGovernor: max_rate", max_rate)
        check_settings({"account": account, "prefix": prefix}, processes)
        self._server = RedisServer("RedisGovernor", hidden, positive_seconds("RedisGovernor: timeout", timeout))
        self._keys = [f"{prefix}{{{account}}}:{kind}" for kind in ("turns", "members")]
        self._me = ""  # the name of this process on the server, from its first use
        self._times = ServerTimes()
        self._members, self._members_at = processes, SYSTEM.now()
        self._health = AccountHealth()  # the latest one
        self._text: str | bytes = ""  # how the server has it
        self._health_at = -math.inf  # when the server had it
        self._closings = 0  # how often the governor was closed
        self._wishes: list[Wish] = []
        self._taking: asyncio.Task[None] | None = None  # takes turns for the requests that wait
        self._keeping: asyncio.Task[None] | None = None  # shows that this process is there, and looks for the server
        self._alone = LocalGovernor(self.max_rate)  # gives the turns while the server is away, and limits them then
        self._heard_at = self._back_at = -math.inf  # when the server last answered; when it was back
        self._late_since = math.inf  # since when all answers have come too late

    def __repr__(self) -> str:
        return repr(self._server) if hasattr(self, "_server") else f"{type(self).__name__}()"  # the URL was invalid

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leave the account to the other processes, and close the connections. Using the governor again opens new ones.

        Calls of `turn` that wait return None. Raise `StoreError` on another event loop.
        """
        was_used = self._server.owner.is_used
        self._server.owner.check()
        self._closings += 1
        try:
            await end(self._taking)
            await end(self._keeping)
            self._refuse([])  # a task that was cancelled before its first step has not done it
            if was_used and not self.is_away and not self._server.owner.is_closed:
                with suppress(StoreError):  # it is forgotten after a while in any case
                    await self._eval(LEAVE, self._me)
        finally:
            await self._server.aclose()

    def __del__(self) -> None:
        if hasattr(self, "_server"):  # if the constructor raised, it may have none
            warn_if_unclosed(self, self._server.owner)

    async def turn(self, rate: float, within: float) -> HealthReading | None:
        """Wait until one more request may be sent, as `Governor.turn` says."""
        self._open()
        check_rate("RedisGovernor: rate", rate)
        until, closings = SYSTEM.now() + within, self._closings
        while closings == self._closings:
            alone = self._own_limit()
            if alone is not None:
                reading = await alone.turn(rate / self._members, until - SYSTEM.now())
                if reading is None or self.is_away:
                    return None if reading is None else self._known()
            at = await self._next_turn(rate, until)
            if at is None:  # the server has failed: try again alone
                continue
            if at > until:
                return None
            await asyncio.sleep(max(0.0, at - SYSTEM.now()))
            if SYSTEM.now() <= at + SLACK:
                return self._known()
        return None

    async def read(self) -> HealthReading:
        """Return what is known about SignalWire's health."""
        self._open()
        if not self.is_away:
            await self._show()
        return self._known()

    async def replace(self, health: AccountHealth, by: AccountHealth) -> bool:
        """Keep `by` if what is kept now equals `health`. Return whether it did."""
        self._open()
        if self.is_away:
            is_same = health == self._health
            if is_same:
                self._health = by
            return is_same
        before, after = self._text if health == self._health else health.dumped(), by.dumped()
        try:
            ((there,), _) = await self._ask(1, REPLACE, before, after, KEPT_FOR)
        except StoreError as error:
            self._lose(error)
            return False
        if there:
            self._learn(by, after, there / MICROS)
        return bool(there)

    def _learn(self, health: AccountHealth, text: str | bytes, there: float) -> None:
        """Keep what the server held at a time, unless an answer from a later time has come before."""
        if not is_outdated(there, self._health_at):
            self._health, self._text, self._health_at = health, text, there

    def _known(self) -> HealthReading:
        return HealthReading(health=self._health, at=self._times.there(SYSTEM.now()), members=self._members)

    # Turns of the server's.

    async def _next_turn(self, rate: float, until: float) -> float | None:
        """Return the result of a new `Wish`."""
        loop = self._server.owner.bind()
        wish = Wish(loop.create_future(), rate, until)
        self._wishes.append(wish)
        if self._taking is None or self._taking.done():
            self._taking = self._begin(self._take_turns(), "take turns of")
        return await wish.turn

    async def _take_turns(self) -> None:
        """Request turns for all wishes, until there are none. Wishes that come meanwhile wait for the next call.

        A request that is cancelled while it waits loses its turn.
        """
        wishes: list[Wish] = []
        try:
            if not self._times.are_known:
                await self._take()  # opening a connection is slow, and a slow answer says little about the clock
            while self._wishes:
                wishes, self._wishes = self._wishes, []
                rate = min(self.max_rate, *(wish.rate for wish in wishes))
                interval = math.ceil(MICROS * interval_for(rate, SLACK + ERROR))
                within = max(wish.until for wish in wishes) - SYSTEM.now()
                taken = await self._take(len(wishes), interval, min(within, LONGEST_WAIT))
                for number, wish in enumerate(wishes):
                    if not wish.turn.done():
                        at = taken.at + number * interval / MICROS if number < taken.number else math.inf
                        wish.turn.set_result(at)
        except StoreError as error:
            self._lose(error)
        except Exception as error:  # noqa: BLE001 - the callers get it, and would otherwise ask again without end
            for wish in [one for one in wishes if not one.turn.done()]:
                wish.turn.set_exception(error)
        finally:
            self._refuse(wishes)

    def _refuse(self, wishes: list[Wish]) -> None:
        """Answer these wishes, and all that wait, without a turn of the server's."""
        for wish in (*wishes, *self._wishes):
            if not wish.turn.done():
                wish.turn.set_result(None)
        self._wishes = []

    async def _take(self, turns: int = 0, interval: int = 0, within: float = 0.0) -> Taken:
        """Return so many turns that come within so many seconds, and record what the server answers.

        `interval` is the time between two turns, in microseconds. Raise `StoreError` if the server fails.
        """
        sent = SYSTEM.now()
        arguments = turns, interval, math.ceil(within * MICROS), int(GONE_AFTER * MICROS), KEPT_FOR
        (there, at, number, members), text = await self._ask(4, TAKE, self._me, *arguments)
        self._heard_at = now = SYSTEM.now()
        self._learn(AccountHealth.loaded(text), text, there / MICROS)
        self._times.note(sent, there / MICROS, now)
        if members >= self._members or now > self._members_at + REMEMBERED_FOR:
            self._members, self._members_at = members, now
        self._check_delay(self._times.here((at if number else there) / MICROS), now)
        return Taken(self._times.here(at / MICROS), number)

    def _check_delay(self, shown: float, now: float) -> None:
        """Notice if the server is back. Raise `StoreError` if its answers have come too late for too long.

        `shown` is the time in the answer: that of the first turn, or else the server's. If it is long over, the server
        or the network is slow, and no turn would ever come in time.
        """
        if now <= shown + SLACK:
            self._late_since = math.inf
            if self.is_away:
                self.is_away, self._back_at = False, now
                logger.info(RETURNED, self)
        else:
            self._late_since = min(self._late_since, now)
            if now >= self._late_since + SLOW_AFTER:
                raise StoreError(f"{self}: {TOO_SLOW}")

    async def _ask(self, number: int, script: str, *arguments: str | bytes | int) -> tuple[list[int], str | bytes]:
        """Return so many numbers and the text that a script answers. Raise `StoreError` if it answers anything else."""
        answer = await self._eval(script, *arguments)
        with suppress(TypeError, ValueError):
            *numbers, text = answer
            if len(numbers) == number and isinstance(text, str | bytes):
                return [int(value) for value in numbers], text
        raise StoreError(f"{self}: {NOT_REDIS}")

    async def _eval(self, script: str, *arguments: str | bytes | int) -> Any:  # noqa: ANN401 - as the server answers
        return await self._server.eval(script, self._keys, Secret(arguments), "its account")

    # While the server is away.

    def _lose(self, error: StoreError) -> None:
        """Limit this process to its share of the rate from now on, without the server.

        The first one comes once the turns that the server has given away are over: as many as there are processes, or
        those of `AHEAD` seconds, which a fleet may wait for. A random part of the time between two turns is added, so
        that not all processes begin in the same moment.
        """
        if self.is_away:
            return
        share = self.max_rate / self._members
        share = math.floor(share) if 1 <= share < math.inf else share  # a second has whole turns
        pause = AHEAD + SLACK + ERROR + self._members / self.max_rate
        draw = random.random()  # noqa: S311 - it spreads load and keeps no secret
        self.is_away, self._alone.max_rate = True, share
        self._alone.rest_until(SYSTEM.now() + pause + draw / share)
        logger.warning(AWAY, share, self._members, error)

    def _own_limit(self) -> LocalGovernor | None:
        """Return what limits this process: while the server is away, and until all other processes are back, too."""
        return self._alone if self.is_away or SYSTEM.now() <= self._back_at + BACK_AFTER else None

    def _open(self) -> None:
        """Show the other processes from now on that this one is there. Raise `StoreError` on another event loop."""
        if not self._server.owner.is_used:
            self._me = uuid4().hex
        self._server.owner.bind()
        if self._keeping is None or self._keeping.done():
            self._heard_at = SYSTEM.now()
            self._keeping = self._begin(stay(ref(self)), "keep in touch with")

    async def _show_again(self) -> None:
        """Send the server another sign of this process if it is time, or if the server is away."""
        if self.is_away or SYSTEM.now() >= self._heard_at + SEEN_EVERY:
            await self._show()

    async def _show(self) -> None:
        """Send the server a sign of this process, which counts it, and notice if the server is back."""
        try:
            await self._take()
        except StoreError as error:
            self._lose(error)

    def _begin(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        """Return a task with an empty context, since it outlives the caller.

        It starts in a later turn of the event loop, even if the loop has an eager task factory: further requests may
        join it until then.
        """
        loop, name = self._server.owner.bind(), f"signalwire-tokens: {what} {self}"
        return asyncio.Task(work, loop=loop, name=name, context=Context())


async def stay(governor: ref[RedisGovernor]) -> None:
    """Show the server now and then that a process is there, until its governor is closed or dropped."""
    while (one := governor()) is not None:
        await one._show_again()  # noqa: SLF001 - a function, so that its task doesn't hold the governor
        del one
        await asyncio.sleep(RETRY_EVERY)


class ServerTimes:
    """The difference between the server's clock and this process's, as far as answers have shown."""

    def __init__(self) -> None:
        self._ahead: float | None = None  # by how much the server's clock is ahead

    @property
    def are_known(self) -> bool:
        """Return whether there was an answer."""
        return self._ahead is not None

    def note(self, sent: float, there: float, received: float) -> None:
        """Narrow the difference: the server's time was `there` at some moment between `sent` and `received`.

        The difference changes no more than necessary. So it comes from the fastest answer, and turns are rather taken
        a little late than early. If the server's clock is set, the difference follows at once.
        """
        least, most = there - received, there - sent
        self._ahead = least if self._ahead is None else min(max(self._ahead, least), most)

    def here(self, there: float) -> float:
        """Return a time of the server's by this process's clock."""
        return there - (self._ahead or 0.0)

    def there(self, here: float) -> float:
        """Return a time of this process's by the server's clock."""
        return here + (self._ahead or 0.0)


def check_settings(names: Mapping[str, object], processes: object) -> None:
    """Raise `ConfigurationError` for settings that would fail only when they are used.

    A brace in a name would change which part of it decides on its place in a cluster.
    """
    for name, value in names.items():
        if not isinstance(value, str) or not value or "{" in value or "}" in value:
            raise ConfigurationError(f"RedisGovernor: {name} must be a string without braces, and not empty")
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        raise ConfigurationError("RedisGovernor: processes must be a whole number, 1 or more")
