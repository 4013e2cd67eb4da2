"""Who waits for a token, until when, and when that is in vain."""

from __future__ import annotations

import asyncio
import copy
import math
from typing import TYPE_CHECKING, cast

from signalwire_tokens.durations import seconds_of, shown
from signalwire_tokens.errors import SessionClosed, SessionError, SessionExpired, SignalWireTokenError, TokenUnavailable
from signalwire_tokens.lifecycle import Phase
from signalwire_tokens.outcomes import (
    Denied,
    Expire,
    Look,
    Misconfigured,
    RenewalStep,
    Spent,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from signalwire_tokens.clock import Timer
    from signalwire_tokens.durations import Duration

    from .engine import Engine
    from .gate import Outlook

__all__ = ["WaitDeadline", "Waiters", "check", "fault_of", "live_token", "next_pair", "reason_of"]

CHECKED_EVERY = 1.0  # seconds for which `token()` doesn't check its process and event loop again


class WaitDeadline:
    """Until when somebody waits: through any number of waits."""

    __slots__ = ("future", "is_over")

    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_over: bool = False

    def end(self) -> None:
        """Wait no longer."""
        self.is_over = True
        resolve(self.future)


class Waiters:
    """Those who wait for the next thing to happen."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: set[asyncio.Future[None]] = set()

    def __bool__(self) -> bool:
        return bool(self._futures)

    async def wait(self, deadline: WaitDeadline | None) -> None:
        """Wait until something happens, or the deadline is over."""
        future = asyncio.get_running_loop().create_future()
        if deadline is not None:
            deadline.future = future
        self._futures.add(future)
        try:
            await future
        finally:
            self._futures.discard(future)

    def wake(self) -> None:
        """Let all of them look again."""
        for future in self._futures:
            resolve(future)


def resolve(future: asyncio.Future[None]) -> None:
    """End a wait, if it has not ended."""
    if not future.done():
        future.set_result(None)


def check(engine: Engine) -> Timer:
    """Return the timer of an open session, or raise if it isn't open or is used in the wrong place."""
    cycle, timer = engine.cycle, engine.timer
    if timer is None:
        raise SessionClosed(f"session {engine.label} is not open: use `async with`, or await its start()")
    engine.check_place()
    if cycle.phase >= Phase.SHUT:
        raise SessionClosed(f"session {engine.label} was closed: {engine.owner.another}")
    if cycle.phase is Phase.EXPIRED:
        message = f"session {engine.label} has expired, and there is no way left to renew it"
        raise SessionExpired(message) from cycle.last_error
    return timer


async def live_token(engine: Engine, min_ttl: Duration | None) -> str:
    """Return a valid token, after a renewal if one is called for."""
    engine.owner.used(engine)
    try:
        return await wait_for_token(engine, min_ttl)
    except (TokenUnavailable, SessionExpired):
        fault = fault_of(engine) if engine.owner.is_fleet and engine.left() <= 0 else None
        if fault is None:
            raise
    # A copy for each: one that was raised for somebody holds their frames.
    raise copy.copy(fault) from fault.__cause__


async def wait_for_token(engine: Engine, min_ttl: Duration | None) -> str:
    """Return the current token if it is valid for long enough, or wait for the next one."""
    timer, cycle = check(engine), engine.cycle
    reserve, patience = check_ttl(engine, min_ttl), cycle.policy.wait_timeout
    now, tried = engine.now(), cycle.tried
    left, is_fresh = cycle.left(now), min_ttl is None and now < cycle.due
    if left > 0 and (left >= reserve or is_fresh):
        timer.look(now)
        cycle.check_until(now + CHECKED_EVERY)
        return cycle.value
    if left > 0:
        # A renewal that fails ends the wait: the current token is better than nothing.
        await wait(engine, min(patience, left / 2), lambda: cycle.tried != tried)
    if engine.left() <= 0:
        await wait(engine, patience, lambda: engine.left() > 0)
    check(engine)
    if engine.left() > 0:
        return cycle.value
    await asyncio.sleep(0)  # whoever asks again and again must not keep the renewal from its turn
    raise unavailable(engine, "has no live token at this moment")


async def next_pair(engine: Engine) -> None:
    """Renew now, or join the renewal under way. A pair that a look under way brings will do, too."""
    check(engine)
    if engine.flight is not None and engine.flight is asyncio.current_task():
        raise SessionError("a renewal can't wait for itself: renew() must not call the session's refresh()")
    cycle, generation = engine.cycle, engine.cycle.generation
    while isinstance(cycle.flying, Look):
        await engine.changed()
        check(engine)
    if cycle.flying is None and cycle.generation == generation:
        step = cycle.way(engine.now())
        if isinstance(step, Expire):
            raise SessionExpired(f"session {engine.label} has no way to renew") from cycle.last_error
        engine.gate.force(engine, step)
    while cycle.generation == generation:
        is_to_come = cycle.pressed < math.inf and cycle.phase is Phase.OPEN
        is_over = engine.flight is None and (not is_to_come or is_hopeless(engine, cycle.policy.wait_timeout))
        if is_over or cycle.phase is Phase.CLOSED:
            check(engine)
            raise unavailable(engine, "could not be renewed now")
        await engine.changed()


def check_ttl(engine: Engine, min_ttl: object) -> float:
    """Return how much life a caller wants, or raise `ValueError`."""
    cycle = engine.cycle
    if min_ttl is None:
        return cycle.policy.needed_ttl(cycle.lifetime)
    longest = cycle.longest_ttl
    seconds: object = seconds_of(cast("Duration", min_ttl))
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= longest:
        raise ValueError(
            f"min_ttl must be from 0 to {longest:g} s: got {shown(min_ttl)}. A token may be as close to its expiry as "
            "that when it is renewed"
        )
    return seconds


async def wait(engine: Engine, seconds: float, is_satisfied: Callable[[], bool]) -> None:
    """Wait for the next renewal, for so many seconds of running time, as long as there is hope."""
    deadline = WaitDeadline()
    alarm = engine.clock.call_later(seconds, deadline.end)
    try:
        engine.hasten()
        while not (is_satisfied() or deadline.is_over):
            check(engine)
            if is_hopeless(engine, seconds):
                break
            await engine.changed(deadline)
    finally:
        alarm.cancel()


def is_hopeless(engine: Engine, seconds: float) -> bool:
    """Return whether it is in vain to wait for a renewal for so many seconds."""
    cycle, now = engine.cycle, engine.now()
    if cycle.flying is not None:
        return False
    is_late = cycle.left(now) <= 0
    if is_late and engine.wakes_at <= now:
        return False  # it is about to begin
    outlook = engine.gate.outlook(engine)
    if outlook.is_shut or (is_late and outlook.is_waiting and fault_of(engine, outlook) is not None):
        return True
    has_to_change = is_late and isinstance(cycle.failure, Misconfigured | Denied)
    return time_left(engine, outlook) > (0 if has_to_change else seconds)


def time_left(engine: Engine, outlook: Outlook | None = None) -> float:
    """Return how long it is until the next attempt."""
    if isinstance(engine.cycle.flying, Look):
        return 0.0
    outlook = outlook or engine.gate.outlook(engine)
    at = engine.next_step().at if outlook.is_waiting else engine.wakes_at
    return max(0.0, at - engine.now(), outlook.pause)


def reason_of(engine: Engine) -> SignalWireTokenError | None:
    """Return why there is no token, as far as that is known."""
    return engine.cycle.last_error or engine.gate.last_error


def fault_of(engine: Engine, outlook: Outlook | None = None) -> SignalWireTokenError | None:
    """Return what keeps a session from a token and won't pass by itself."""
    cycle = engine.cycle
    if cycle.pressed == math.inf:
        unused = cycle.generation == 0 and isinstance(cycle.failure, Spent)
        if unused or isinstance(cycle.failure, Misconfigured | Denied):
            return cycle.last_error
    if engine.left() > 0 or cycle.phase is Phase.EXPIRED:
        return None
    return (outlook or engine.gate.outlook(engine)).fault


def unavailable(engine: Engine, what: str) -> TokenUnavailable:
    """Return an error that says why there is no token, and when the next attempt is."""
    cycle = engine.cycle
    # Whoever asks again sooner than the session can try asks in vain.
    pause = max(time_left(engine), cycle.policy.min_interval_for(cycle.lifetime))
    has_way = pause < math.inf and not isinstance(engine.next_step(), Expire)
    error = TokenUnavailable(f"session {engine.label} {what}", retry_after=pause if has_way else None)
    error.__cause__ = reason_of(engine)
    if error.__cause__ is None and isinstance(cycle.flying, RenewalStep):
        taken = engine.now() - cycle.flying.at
        error.__cause__ = SignalWireTokenError(f"the renewal under way has taken {taken:.0f} s so far")
    return error
