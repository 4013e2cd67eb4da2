"""How callers wait for a token, how long, and when waiting can't help.

A caller of `token()` gets the first of these that is possible:

1. the current token, if it is valid for long enough. Without `min_ttl`, that includes any token that isn't due yet;
2. the next token, if a renewal brings one in time. The caller waits for half of the time that its token has left, up to
   the policy's limit (ten seconds). If the attempt fails, the wait ends;
3. the current token, if it is still valid. It may not last for long, but it is better than none;
4. without a valid token, the next token. The policy's limit counts from the beginning of the call;
5. an error. The caller gets it at once, without waiting, if waiting can't help (`is_hopeless`).

A caller that waits brings the next attempt forward. It waits for *any* change of the session, and then looks at the
state again. So all callers share one renewal, and a cancelled caller changes nothing for the others. (P15)
"""

from __future__ import annotations

import asyncio
import copy
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from signalwire_tokens.durations import seconds_of, shown, spoken
from signalwire_tokens.errors import SessionClosed, SessionError, SessionExpired, SignalWireTokenError, TokenUnavailable
from signalwire_tokens.lifecycle import Phase
from signalwire_tokens.outcomes import (
    Denied,
    Expire,
    Look,
    Misconfigured,
    RenewalStep,
    Spent,
    UseRefreshToken,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from signalwire_tokens.clock import Timer
    from signalwire_tokens.durations import Duration

    from .engine import Engine
    from .gate import Outlook

__all__ = ["WaitDeadline", "Waiters", "check", "fault_of", "live_token", "next_pair", "reason_of"]

NO_WAY = "its refresh token was refused or has expired, and it can't issue a new pair"
CHECKED_EVERY = 1.0  # seconds after a check of process and event loop in which `token()` doesn't check again


class WaitDeadline:
    """When a caller stops waiting, across any number of waits.

    `future` is the future that the caller waits for at the moment. Each wait sets its own.
    """

    __slots__ = ("future", "is_over")

    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_over: bool = False

    def end(self) -> None:
        """Set the deadline as passed, and end the current wait."""
        self.is_over = True
        resolve(self.future)


class Waiters:
    """The callers that wait for the next change of a session.

    The engine wakes all of them at once, and makes a new object for callers that wait after that.
    """

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: dict[asyncio.Future[None], None] = {}  # in place of a set, to wake callers in their order

    def __bool__(self) -> bool:
        return bool(self._futures)

    async def wait(self, deadline: WaitDeadline | None) -> None:
        """Return at the next `wake()`, or when the deadline ends."""
        future = asyncio.get_running_loop().create_future()
        if deadline is not None:
            deadline.future = future
        self._futures[future] = None
        try:
            await future
        finally:
            self._futures.pop(future, None)

    def wake(self) -> None:
        """Wake all callers."""
        for future in self._futures:
            resolve(future)


def resolve(future: asyncio.Future[None]) -> None:
    """End the wait for a future, unless it has ended, or its caller was cancelled."""
    if not future.done():
        future.set_result(None)


def check(engine: Engine) -> Timer:
    """Return the timer of an open session.

    Raise `SessionClosed`, `SessionError` or `SessionExpired` if it can't be used.
    """
    cycle, timer = engine.cycle, engine.timer
    if timer is None:
        raise SessionClosed(f"session {engine.label} isn't open yet: use `async with`, or await its start()")
    engine.check_place()
    if cycle.phase >= Phase.SHUT:
        raise SessionClosed(f"session {engine.label} is closed: {engine.owner.another}")
    if cycle.phase is Phase.EXPIRED:
        message = f"session {engine.label} has expired, and can't be renewed"
        raise SessionExpired(message, advice=engine.owner.another) from cycle.last_error
    return timer


async def live_token(engine: Engine, min_ttl: Duration | None) -> str:
    """Return a valid token, and renew first if that is needed.

    In a fleet, an error that doesn't pass by itself replaces `TokenUnavailable`, so callers see SignalWire's own error.
    (P5)
    """
    engine.owner.used(engine)
    try:
        return await wait_for_token(engine, min_ttl)
    except (TokenUnavailable, SessionExpired):
        fault = fault_of(engine) if engine.owner.is_fleet and engine.left() <= 0 else None
        if fault is None:
            raise
    # Each caller gets a copy, because the traceback of a raised error holds the frames of the caller that it went to.
    raise copy.copy(fault) from fault.__cause__


async def wait_for_token(engine: Engine, min_ttl: Duration | None) -> str:
    """Return the current token if it is valid for long enough, or wait for the next one."""
    timer, cycle = check(engine), engine.cycle
    needed, timeout = check_ttl(engine, min_ttl), cycle.policy.wait_timeout
    now, tried_at = engine.now(), cycle.tried_at
    left, is_fresh = cycle.left(now), min_ttl is None and now < cycle.due
    if left > 0 and (left >= needed or is_fresh):
        timer.look(now)
        cycle.check_until(now + CHECKED_EVERY)
        return cycle.value
    with limited(engine, timeout) as deadline:
        if left > 0:
            half = min(timeout, left / 2)
            with limited(engine, half) as first:
                # An attempt that fails ends this wait, too, since the current token is still valid.
                await wait(engine, first, half, lambda: cycle.tried_at != tried_at)
        if engine.left() <= 0:  # also if it was invalidated, or expired while the machine was suspended
            await wait(engine, deadline, timeout, lambda: engine.left() > 0)
    if engine.left() <= 0:
        await asyncio.sleep(0)  # a caller that retries in a loop must not keep the renewal's task from running
    check(engine)
    if engine.left() > 0:
        return cycle.value
    raise unavailable(engine, f"no valid token for session {engine.label}")


async def next_pair(engine: Engine) -> None:
    """Return once there is a new pair, from a renewal that begins now or from the one under way.

    If that renewal brings none, raise an error. A look under way comes first. If it finds a pair, no renewal begins.
    """
    check(engine)
    if engine.task is not None and engine.task is asyncio.current_task():
        raise SessionError("a renewal can't wait for itself: renew() must not call the session's refresh()")
    cycle, generation = engine.cycle, engine.cycle.generation
    while isinstance(cycle.under_way, Look):
        await engine.changed()
        check(engine)
    if cycle.under_way is None and cycle.generation == generation:
        step = cycle.way(engine.now())
        if isinstance(step, Expire):
            message = f"session {engine.label} can't be renewed: {NO_WAY}"
            raise SessionExpired(message, advice=engine.owner.another) from cycle.last_error
        engine.gate.force(engine, step)
    while cycle.generation == generation:
        is_to_come = cycle.demanded < math.inf and cycle.phase is Phase.OPEN
        is_over = engine.task is None and (not is_to_come or is_hopeless(engine, cycle.policy.wait_timeout))
        if is_over or cycle.phase is Phase.CLOSED:
            check(engine)
            raise unavailable(engine, f"no new token for session {engine.label}")
        await engine.changed()


def check_ttl(engine: Engine, min_ttl: object) -> float:
    """Return for how many seconds a caller wants the token to be valid. Raise `ValueError` if no token can be.

    `min_ttl` is None for the policy's own minimum.
    """
    cycle = engine.cycle
    if min_ttl is None:
        return cycle.policy.needed_ttl(cycle.lifetime)
    longest = cycle.longest_ttl
    seconds: object = seconds_of(cast("Duration", min_ttl))
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= longest:
        raise ValueError(
            f"min_ttl must be from 0 to {longest:g} s ({spoken(longest)}): got {shown(min_ttl)}. A token may be as "
            "close to its expiry as that when it is renewed"
        )
    return seconds


@contextmanager
def limited(engine: Engine, seconds: float) -> Iterator[WaitDeadline]:
    """Yield a deadline that ends after `seconds` of running time: the time of a suspended machine doesn't count."""
    deadline = WaitDeadline()
    alarm = engine.clock.call_later(seconds, deadline.end)
    try:
        yield deadline
    finally:
        alarm.cancel()


async def wait(engine: Engine, deadline: WaitDeadline, seconds: float, is_satisfied: Callable[[], bool]) -> None:
    """Wait until `is_satisfied()` or the deadline, as long as a renewal can still come within `seconds`."""
    engine.caller_waits()
    while not (is_satisfied() or deadline.is_over):
        check(engine)
        if is_hopeless(engine, seconds):
            break
        await engine.changed(deadline)


def is_hopeless(engine: Engine, seconds: float) -> bool:
    """Return whether no renewal can bring a token within `seconds`, so that a caller should not wait.

    The first line that fits decides. "Late" means that the current token has expired::

        a renewal or a look is under way                           wait
        late, and the next attempt is due now                      wait
        the gate is shut: the fleet has stopped renewing           hopeless
        late, in a queue, and an error that doesn't pass by        hopeless
        itself is known
        late, and the last failure was `Misconfigured` or          hopeless, unless the next attempt is due now
        `Denied`
        any other                                                  hopeless if the next attempt is later than `seconds`
    """
    cycle, now = engine.cycle, engine.now()
    if cycle.under_way is not None:
        return False
    is_late = cycle.left(now) <= 0
    if is_late and engine.wakes_at <= now:
        return False
    outlook = engine.gate.outlook(engine)
    if outlook.is_shut or (is_late and outlook.is_waiting and fault_of(engine, outlook) is not None):
        return True
    has_to_change = is_late and isinstance(cycle.failure, Misconfigured | Denied)
    return time_left(engine, outlook) > (0 if has_to_change else seconds)


def time_left(engine: Engine, outlook: Outlook | None = None) -> float:
    """Return in how many seconds the next attempt may begin; 0.0 if a look is under way, inf if none is planned.

    In a queue, a session has no deadline of its own, so its plan counts.
    """
    if isinstance(engine.cycle.under_way, Look):
        return 0.0
    outlook = outlook or engine.gate.outlook(engine)
    at = engine.next_step().at if outlook.is_waiting else engine.wakes_at
    return max(0.0, at - engine.now(), outlook.pause)


def reason_of(engine: Engine) -> SignalWireTokenError | None:
    """Return the error that explains why the session has no valid token; None if it isn't known."""
    return engine.cycle.last_error or engine.gate.last_error


def fault_of(engine: Engine, outlook: Outlook | None = None) -> SignalWireTokenError | None:
    """Return the error that keeps a session from a token and doesn't pass by itself; None if there is none.

    That is an error of its settings, or a refusal of this session. For a session that must try again regardless, the
    last failure doesn't count. The first pair counts as refused after `Spent`, too, unless the session can still issue
    one: then a stored refresh token was refused. `outlook` is what the gate expects, if the caller knows it already.
    """
    cycle = engine.cycle
    if cycle.demanded == math.inf:
        unused = cycle.generation == 0 and isinstance(cycle.failure, Spent) and not cycle.can_issue
        if unused or isinstance(cycle.failure, Misconfigured | Denied):
            return cycle.last_error
    if engine.left() > 0 or cycle.phase is Phase.EXPIRED:
        return None
    return (outlook or engine.gate.outlook(engine)).fault


def unavailable(engine: Engine, what: str) -> TokenUnavailable:
    """Return an error that has the reason as its cause, and the next attempt as its `retry_after`.

    `what` is its message. Without a failed attempt, the cause is what the session waits for, and how long it has.
    """
    cycle = engine.cycle
    # Attempts are never closer than the policy's minimum, so an earlier call can't find a new token.
    pause = max(time_left(engine), cycle.policy.min_interval_for(cycle.lifetime))
    has_way = pause < math.inf and not isinstance(engine.next_step(), Expire)
    error = TokenUnavailable(what, retry_after=pause if has_way else None)
    error.__cause__ = reason_of(engine)
    if error.__cause__ is None and isinstance(cycle.under_way, RenewalStep):
        doing = "refreshing" if isinstance(cycle.under_way, UseRefreshToken) else "issuing"
        taken = spoken(engine.now() - cycle.under_way.at)
        error.__cause__ = SignalWireTokenError(f"{doing} a token has taken {taken} so far")
    return error
