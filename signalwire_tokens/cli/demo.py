"""What `signalwire-tokens demo` shows."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import attrs
import click
from rich.console import Console

from signalwire_tokens.clock import SYSTEM
from signalwire_tokens.emulator import Emulator
from signalwire_tokens.models import Token, TokenPair

from .command import Command, print_json
from .signals import on_stop
from .trial import Held, hold

if TYPE_CHECKING:
    from datetime import datetime

    from signalwire_tokens.clock import Clock

__all__ = ["demo"]


@click.command(cls=Command)
def demo(*, as_json: bool) -> None:
    """Show what this library does, on an emulator.

    It starts an emulator of SignalWire's token service on this machine, issues a token of each kind there, and shows
    what each is for. Then it holds a session whose tokens live seconds, through a burst of errors and a lost answer,
    and ends by itself: with success if there was a live token all the time. No space of yours is touched.
    """
    if any(name.startswith("SIGNALWIRE_") for name in os.environ):
        click.echo("SIGNALWIRE_* is set, but this demo uses its own emulator: no real space is touched.", err=True)
    console = Console(highlight=False, soft_wrap=True, quiet=as_json)
    try:
        held = asyncio.run(run_demo(console))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except OSError as error:
        raise click.ClickException(f"the demo broke off: {error.strerror}") from None
    if as_json:
        print_json(attrs.asdict(held))
    if not held.went_well:
        raise click.ClickException("there was a moment without a live token")


async def run_demo(console: Console, *, clock: Clock = SYSTEM) -> Held:
    """Show each kind of token, then hold a session; return how that went."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this is a coroutine
    with on_stop(task.cancel):  # or a terminal is left as it was drawn on
        await show_kinds(console, clock)
        return await hold(console, clock=clock)


async def show_kinds(console: Console, clock: Clock) -> None:
    """Issue a token of each kind on an emulator, and show them."""
    async with Emulator(clock=clock) as emulator, emulator.client() as client:
        console.print(f"An emulator of SignalWire's token service runs at {emulator.space} until this ends.")

        def show(purpose: str, issued: TokenPair | Token) -> None:
            entry = emulator.requests[-1]
            console.print(f"\n[bold]{entry.operation}[/] sent {authentication(entry.auth)}")
            console.print(f"  {purpose}")
            for token in (issued.access_token, issued.refresh_token) if isinstance(issued, TokenPair) else (issued,):
                console.print(f"  {describe(token, emulator.now())}")

        pair = await client.create_subscriber_token("alice@example.com", first_name="Alice")
        show("for one subscriber: to call, write and meet as that person", pair)

        renewed = await client.refresh_subscriber_token(pair.refresh_token)
        show("the same subscriber's next pair; the refresh token that paid for it is used up", renewed)

        info = await client.subscriber_info(renewed.access_token)
        address = info.fabric_addresses[0]
        guest = await client.create_guest_token([address.id])
        show(f"for a guest, who may reach {address.name} and nothing else", guest)

        invite = await client.create_invite_token(address.id, subscriber_token=renewed.access_token)
        show(f"for whomever {info.first_name} invites to {address.name}", invite)

        embed = await client.create_embed_token(emulator.click_to_call)
        show("for a visitor of a web page, for the page's public click-to-call token", embed)

        console.print(f"\n{len(emulator.requests)} requests were sent. Tokens are shown by digest, never in the clear.")


def authentication(kind: str | None) -> str:
    """Return what an operation sent, by the emulator's requests."""
    return {
        "Basic": "Basic: the project's id and API token",
        "Bearer": "Bearer: the subscriber's access token",
        None: "no credentials",
    }[kind]


def describe(token: Token, now: datetime) -> str:
    """Say what can be known of a token."""
    minutes = round((token.expires_at - now).total_seconds() / 60)
    return (
        f"{token.kind or 'unknown':<8} #{token.digest}  lives {minutes // 60} h {minutes % 60:02} min, "
        f"until {token.expires_at:%H:%M:%S} UTC"
    )
