"""The demo's main part: a session whose tokens live seconds, held through what goes wrong."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, nullcontext
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import attrs
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from signalwire_tokens.emulator import Emulator, Reset, Status
from signalwire_tokens.models import Lifetimes
from signalwire_tokens.policy import RefreshPolicy
from signalwire_tokens.session import SubscriberSession

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from signalwire_tokens.keeper import SessionEvent

__all__ = ["Held", "hold"]

LIFE = timedelta(seconds=5)
LIFETIMES = Lifetimes(access=LIFE, refresh=LIFE + timedelta(seconds=2), unbound=LIFE)
# Pauses a tenth as long as a token of hours would have, since this one lives for seconds.
POLICY = RefreshPolicy(min_life=LIFE.total_seconds(), full_pace_life=10 * LIFE.total_seconds())
GLANCE = 0.025
FRAMES = 10


@attrs.frozen(kw_only=True)
class Held:
    """How it went."""

    rotations: int
    requests: int
    longest_gap: float


async def hold(console: Console, *, seconds: float = 16.0, burst: float = 0.5) -> Held:
    """Hold a session for so long, with a burst of 503 and a lost answer on the way."""
    async with AsyncExitStack() as stack:
        emulator = await stack.enter_async_context(Emulator(lifetimes=LIFETIMES))
        client = await stack.enter_async_context(emulator.client())
        session = await stack.enter_async_context(SubscriberSession(client, "alice@example.com", policy=POLICY))
        console.print(
            f"\n[bold]A session[/] whose tokens live {LIFE.total_seconds():g} s keeps one alive for {seconds:g} s."
        )
        teller = Teller(console, session)
        stack.push_async_callback(end, asyncio.create_task(go_wrong(emulator, teller, burst)))
        live = Live(console=console, get_renderable=teller.view, refresh_per_second=FRAMES, transient=True)
        with live if console.is_terminal else nullcontext():
            longest_gap = await watch(emulator, session, time.monotonic() + seconds)
        held = Held(rotations=session.generation - 1, requests=len(emulator.journal), longest_gap=longest_gap)
    console.print(
        f"{held.rotations} rotations with {held.requests} requests; "
        f"longest moment without a live token: {held.longest_gap:.2g} s"
    )
    return held


async def watch(emulator: Emulator, session: SubscriberSession, until: float) -> float:
    """Ask for the token again and again, show each to the service, and return the longest time without a good one."""
    longest, good, asking = 0.0, time.monotonic(), ask(session)
    try:
        while (now := time.monotonic()) < until:
            is_good = emulator.accepts(session.pair.token)
            if asking.done():
                is_good = is_good and asking.exception() is None and emulator.accepts(asking.result())
                asking = ask(session)
            if is_good:
                good = now
            else:
                longest = max(longest, now - good)
            await asyncio.sleep(GLANCE)
    finally:
        await end(asking)
    return longest


async def end(task: asyncio.Task[Any]) -> None:
    """End a task, whatever it is at."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def ask(session: SubscriberSession) -> asyncio.Task[str]:
    """Ask for the token, in a task: it may have to wait, and whoever watches may not."""
    return asyncio.create_task(session.token())


async def go_wrong(emulator: Emulator, teller: Teller, burst: float) -> None:
    """Let the second renewal meet a burst of 503, and the one after that lose its answer."""
    await teller.until(2)
    teller.say("from now on, the service answers 503")
    emulator.fail(Status(503), times=None)
    await teller.degraded.wait()
    await asyncio.sleep(burst)
    emulator.heal()
    teller.say("the service is well again")
    await teller.until(3)
    teller.say("the next answer will be lost, after the refresh token was used up")
    emulator.fail(Reset(applied=True), operation="refresh_subscriber_token")


class Teller:
    """Tells what happens to a session, as lines, and draws how it stands."""

    def __init__(self, console: Console, session: SubscriberSession) -> None:
        self._console = console
        self._session = session
        self._start = time.monotonic()
        self.degraded: asyncio.Event = asyncio.Event()
        session.subscribe(self.tell)

    def say(self, text: str) -> None:
        """Print a line, with the seconds since the start before it."""
        self._console.print(f"  {time.monotonic() - self._start:5.1f} s  {text}", markup=False)

    def tell(self, event: SessionEvent) -> None:
        """Print what happened."""
        token = f", token #{event.pair.token.digest}" if event.pair else ""
        why = f": {event.error}" if event.error else ""
        self.say(f"{event.kind}: generation {event.generation}{token}{why}")
        if event.kind == "degraded":
            self.degraded.set()

    async def until(self, generation: int) -> None:
        """Wait for a generation."""
        async for _ in self._session.rotations():
            if self._session.generation >= generation:
                return

    def view(self) -> RenderableType:
        """Draw how the session stands."""
        session, runway = self._session, self._session.runway.total_seconds()
        due = session.next_refresh_at
        pause = max(0.0, (due - datetime.now(UTC)).total_seconds()) if due else None
        table = Table.grid(padding=(0, 2))
        table.add_row("state", session.state.value)
        table.add_row("runway", ProgressBar(total=LIFE.total_seconds(), completed=runway, width=40), f"{runway:.1f} s")
        table.add_row("generation", str(session.generation))
        table.add_row("next refresh", "none" if pause is None else f"in {pause:.1f} s")
        table.add_row("last error", str(session.last_error or "none"))
        return table
