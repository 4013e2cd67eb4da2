"""The demo's main part: a session whose tokens live seconds, held through what goes wrong."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import attrs
from rich.live import Live

from signalwire_tokens.clock import SYSTEM
from signalwire_tokens.emulator import Emulator, Reset, Status
from signalwire_tokens.models import Lifetimes
from signalwire_tokens.policy import RefreshPolicy, RefreshTuning
from signalwire_tokens.session import SubscriberSession

from .telling import Teller, look_on
from .waiting import end

if TYPE_CHECKING:
    from rich.console import Console

    from signalwire_tokens.clock import Clock

__all__ = ["Held", "hold"]

LIFE = timedelta(seconds=5)
LIFETIMES = Lifetimes(access=LIFE, refresh=LIFE + timedelta(seconds=2), unbound=LIFE)
# Pauses a tenth as long as a token of hours would have, since this one lives for seconds.
POLICY = RefreshPolicy(
    min_lifetime=LIFE.total_seconds(), tuning=RefreshTuning(full_pace_lifetime=10 * LIFE.total_seconds())
)
GLANCE = 0.025
FRAME = 0.1  # seconds


@attrs.frozen(kw_only=True)
class Held:
    """How it went."""

    rotations: int
    requests: int
    longest_gap: float

    @property
    def went_well(self) -> bool:
        """Whether there was a live token all the time."""
        return self.longest_gap == 0 and self.rotations > 0


async def hold(console: Console, *, seconds: float = 16.0, burst: float = 0.5, clock: Clock = SYSTEM) -> Held:
    """Hold a session for so long, with a burst of 503 and a lost answer on the way; return how it went."""
    async with AsyncExitStack() as stack:
        emulator = await stack.enter_async_context(Emulator(lifetimes=LIFETIMES, clock=clock))
        client = await stack.enter_async_context(emulator.client())
        session = await stack.enter_async_context(SubscriberSession(client, "alice@example.com", policy=POLICY))
        console.print(
            f"\n[bold]A session[/] whose tokens live {LIFE.total_seconds():g} s keeps one alive for {seconds:g} s."
        )
        start = clock.now()
        teller = Teller(partial(console.print, markup=False, emoji=False), lambda: f"  {clock.now() - start:5.1f} s")
        session.subscribe(teller.tell)
        stack.push_async_callback(end, asyncio.create_task(go_wrong(emulator, session, teller, burst, clock)))
        if console.is_terminal:
            live = stack.enter_context(Live(console=console, auto_refresh=False, transient=True))
            drawing = look_on(session, partial(live.update, refresh=True), every=FRAME)
            stack.push_async_callback(end, asyncio.create_task(drawing))
        longest_gap = await watch(emulator, session, clock.now() + seconds, clock)
        held = Held(rotations=session.generation - 1, requests=len(emulator.requests), longest_gap=longest_gap)
    console.print(
        f"{held.rotations} rotations with {held.requests} requests; "
        f"longest moment without a live token: {held.longest_gap:.2g} s"
    )
    return held


async def watch(emulator: Emulator, session: SubscriberSession, until: float, clock: Clock) -> float:
    """Ask for the token again and again, show each to the service, and return the longest time without a good one."""
    longest, good, asking = 0.0, clock.now(), ask(session)
    try:
        while (now := clock.now()) < until:
            is_good = emulator.accepts(session.pair.access_token)
            if asking.done():
                is_good = is_good and asking.exception() is None and emulator.accepts(asking.result())
                asking = ask(session)
            if is_good:
                good = now
            else:
                longest = max(longest, now - good)
            await clock.sleep(GLANCE)
    finally:
        await end(asking)
    return longest


def ask(session: SubscriberSession) -> asyncio.Task[str]:
    """Ask for the token, in a task: it may have to wait, and whoever watches may not."""
    return asyncio.create_task(session.token())


async def go_wrong(emulator: Emulator, session: SubscriberSession, teller: Teller, burst: float, clock: Clock) -> None:
    """Let the second renewal meet a burst of 503, and the one after that lose its answer."""
    degraded = asyncio.Event()
    session.subscribe(lambda event: degraded.set() if event.kind == "degraded" else None)
    await reach(session, 2)
    teller.say("from now on, the service answers 503")
    emulator.fail(Status(503), times=None)
    await degraded.wait()
    await clock.sleep(burst)
    emulator.clear_faults()
    teller.say("the service is well again")
    await reach(session, 3)
    teller.say("the next answer will be lost, after the refresh token was used up")
    emulator.fail(Reset(applied=True), operation="refresh_subscriber_token")


async def reach(session: SubscriberSession, generation: int) -> None:
    """Wait for a generation."""
    async for _ in session.rotations():
        if session.generation >= generation:
            return
