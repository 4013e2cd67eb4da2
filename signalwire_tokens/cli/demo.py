"""The command `demo`: each kind of token on an emulator, then a session through an outage and a lost answer."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import click
from rich.console import Console
from rich.live import Live

from signalwire_tokens.clock import SYSTEM
from signalwire_tokens.durations import spoken
from signalwire_tokens.emulator import Emulator, Reset, Status
from signalwire_tokens.models import Lifetimes, Token, TokenPair
from signalwire_tokens.policy import RefreshPolicy, RefreshTuning
from signalwire_tokens.session import SubscriberSession

from .command import Command, print_json
from .output import EventLog, status_view
from .signals import on_stop

if TYPE_CHECKING:
    from datetime import datetime

    from signalwire_tokens.clock import Clock

__all__ = ["demo"]

TOKEN_LIFETIME = timedelta(seconds=5)
LIFETIMES = Lifetimes(access=TOKEN_LIFETIME, refresh=TOKEN_LIFETIME + timedelta(seconds=2), unbound=TOKEN_LIFETIME)
# Pauses after failures are a tenth of those for tokens of two hours, because these tokens are valid for seconds.
POLICY = RefreshPolicy(min_lifetime=TOKEN_LIFETIME, tuning=RefreshTuning(full_pace_lifetime=10 * TOKEN_LIFETIME))
CHECK_EVERY = 0.025  # seconds
FRAME = 0.1  # seconds between two drawings of the session
SENT_CREDENTIALS: dict[str | None, str] = {
    "Basic": "Basic: the project's id and API token",
    "Bearer": "Bearer: the subscriber's access token",
    None: "no credentials",
}


@attrs.frozen(kw_only=True)
class Result:
    """What the session of the demo has done. `longest_gap` is in seconds."""

    rotations: int
    requests: int
    longest_gap: float

    @property
    def is_success(self) -> bool:
        """Whether the session had a valid token at every moment."""
        return self.longest_gap == 0 and self.rotations > 0


@click.command(cls=Command, examples=("signalwire-tokens demo",))
def demo(*, as_json: bool) -> None:
    """Show what this library does, on an emulator.

    It issues a token of each kind, and shows what each is for. Then it keeps a session with tokens of 5 s for 16 s,
    while the emulator answers with errors and loses an answer. It fails if there is a moment without a valid token. It
    uses no real space.
    """
    if any(name.startswith("SIGNALWIRE_") for name in os.environ):
        click.echo("SIGNALWIRE_* is set, but the demo uses its own emulator, and no real space.", err=True)
    console = Console(highlight=False, soft_wrap=True, quiet=as_json)
    try:
        result = asyncio.run(run_demo(console))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except OSError as error:
        raise click.ClickException(f"the demo has stopped: {error.strerror}") from None
    if as_json:
        print_json(attrs.asdict(result))
    if not result.is_success:
        raise click.ClickException("there was a moment without a valid token")


async def run_demo(console: Console, *, clock: Clock = SYSTEM) -> Result:
    """Show each kind of token, then keep a session. Return what the session did."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this is a coroutine
    with on_stop(task.cancel):  # so that the terminal is restored
        await show_kinds(console, clock)
        return await keep_session(console, clock=clock)


async def show_kinds(console: Console, clock: Clock) -> None:
    """Issue a token of each kind on an emulator, and print facts about them."""
    async with Emulator(clock=clock) as emulator, emulator.client() as client:
        console.print(f"An emulator of SignalWire runs at {emulator.space} until the demo ends.")

        def show(purpose: str, issued: TokenPair | Token) -> None:
            entry = emulator.requests[-1]
            console.print(f"\n[bold]{entry.operation}[/] sent {SENT_CREDENTIALS[entry.auth]}\n  {purpose}")
            for token in (issued.access_token, issued.refresh_token) if isinstance(issued, TokenPair) else (issued,):
                console.print(f"  {token_facts(token, emulator.now())}")

        pair = await client.create_subscriber_token("alice@example.com", first_name="Alice")
        show("for one subscriber, who can call, write and join meetings with it", pair)
        renewed = await client.refresh_subscriber_token(pair.refresh_token)
        show("the next pair of the same subscriber; the old refresh token can't be used again", renewed)
        info = await client.subscriber_info(renewed.access_token)
        address = info.fabric_addresses[0]
        show(
            f"for a guest, who can reach {address.name} and nothing else", await client.create_guest_token([address.id])
        )
        invite = await client.create_invite_token(address.id, subscriber_token=renewed.access_token)
        show(f"for a person whom {info.first_name} invites to {address.name}", invite)
        embed = await client.create_embed_token(emulator.click_to_call)
        show("for a visitor of a web page, in exchange for the page's public click-to-call token", embed)
        console.print(f"\n{len(emulator.requests)} requests were sent. Tokens are shown by digest only.")


def token_facts(token: Token, now: datetime) -> str:
    """Return what can be known about a token."""
    left = spoken(60 * round((token.expires_at - now).total_seconds() / 60))
    return f"{token.kind or 'unknown':<8} #{token.digest}  valid for {left}, until {token.expires_at:%H:%M:%S} UTC"


async def keep_session(
    console: Console, *, seconds: float = 16.0, outage: float = 0.5, clock: Clock = SYSTEM
) -> Result:
    """Keep a session through an outage and a lost answer. Return what it did."""
    async with AsyncExitStack() as stack:
        emulator = await stack.enter_async_context(Emulator(lifetimes=LIFETIMES, clock=clock))
        client = await stack.enter_async_context(emulator.client())
        session = await stack.enter_async_context(SubscriberSession(client, "alice@example.com", policy=POLICY))
        console.print(
            f"\n[bold]A session[/] with tokens of {spoken(TOKEN_LIFETIME.total_seconds())} runs for {seconds:g} s."
        )
        start = clock.now()
        log = EventLog(partial(console.print, markup=False, emoji=False), lambda: f"  {clock.now() - start:5.1f} s")
        session.subscribe(log.session_event)
        stack.push_async_callback(cancel, asyncio.create_task(cause_faults(emulator, session, log, outage, clock)))
        if console.is_terminal:
            live = stack.enter_context(Live(console=console, auto_refresh=False, transient=True))
            stack.push_async_callback(cancel, asyncio.create_task(draw(session, live)))
        gap = await longest_gap(emulator, session, clock.now() + seconds, clock)
        result = Result(rotations=session.generation - 1, requests=len(emulator.requests), longest_gap=gap)
    counts = f"{result.rotations} rotations with {result.requests} requests"
    console.print(f"{counts}; longest moment without a valid token: {gap:.2g} s")
    return result


async def longest_gap(emulator: Emulator, session: SubscriberSession, until: float, clock: Clock) -> float:
    """Call `token()` again and again, and return the longest time without a token that the emulator accepts."""
    longest, good_at, call = 0.0, clock.now(), asyncio.create_task(session.token())
    try:
        while (now := clock.now()) < until:
            is_good = emulator.accepts(session.pair.access_token)
            if call.done():
                is_good = is_good and call.exception() is None and emulator.accepts(call.result())
                call = asyncio.create_task(session.token())
            if is_good:
                good_at = now
            else:
                longest = max(longest, now - good_at)
            await clock.sleep(CHECK_EVERY)
    finally:
        await cancel(call)
    return longest


async def cause_faults(
    emulator: Emulator, session: SubscriberSession, log: EventLog, outage: float, clock: Clock
) -> None:
    """Answer the second renewal with 503 for a while, and lose the answer to a later one."""
    degraded = asyncio.Event()
    session.subscribe(lambda event: degraded.set() if event.kind == "degraded" else None)
    await reach(session, 2)
    log.line("the emulator now answers 503")
    emulator.fail(Status(503), times=None)
    await degraded.wait()
    await clock.sleep(outage)
    emulator.clear_faults()
    log.line("the emulator works again")
    await reach(session, 3)
    log.line("the next answer will be lost, after the refresh token was used up")
    emulator.fail(Reset(applied=True), operation="refresh_subscriber_token")


async def reach(session: SubscriberSession, generation: int) -> None:
    """Wait until the session has had that many pairs."""
    async for _ in session.rotations():
        if session.generation >= generation:
            return


async def draw(session: SubscriberSession, live: Live) -> None:
    """Show the state of a session again and again."""
    while True:
        live.update(status_view(session), refresh=True)
        await session.client.clock.sleep(FRAME)


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and return when it has ended."""
    task.cancel()
    await asyncio.wait([task])
