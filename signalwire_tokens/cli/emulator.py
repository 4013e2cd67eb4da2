"""The command `emulator`: SignalWire's token service on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import re
import shlex
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import attrs
import click

from signalwire_tokens.durations import parse_duration
from signalwire_tokens.emulator import ROTATIONS, Emulator, Entry, RateLimit
from signalwire_tokens.models import Lifetimes

from .command import Command, Option, print_json
from .options import duration
from .signals import on_stop

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["emulator"]

RATE = re.compile(r"([0-9]{1,9})/([0-9]{1,9}[a-z])", re.ASCII)


def rate(text: str) -> RateLimit:
    """Return the value of an option that is a rate."""
    found = RATE.fullmatch(text)
    period = None if found is None else parse_duration(found[2])
    if found is None or not period:
        raise click.BadParameter(f"{text!r} isn't a rate: write 100/10s or 5/1m")
    return RateLimit(int(found[1]), period)


@click.command(
    cls=Command,
    examples=(
        "signalwire-tokens emulator --port 8080 --seed test",
        "signalwire-tokens emulator --lifetime 40s --strict",
    ),
)
@click.option(
    "--port",
    cls=Option,
    type=click.IntRange(0, 65535),
    default=0,
    metavar="PORT",
    help="Port to serve.  [default: any free one]",
)
@click.option("--tls", cls=Option, is_flag=True, help="Serve https, with a new certificate authority.")
@click.option(
    "--lifetime",
    cls=Option,
    type=duration,
    metavar="DURATION",
    help="Lifetime of access tokens: 90s, 15m or 1d.  [default: 2h]",
)
@click.option(
    "--rotation",
    cls=Option,
    type=click.Choice([*ROTATIONS]),
    default="single-use",
    show_default=True,
    help="What happens to a used refresh token.",
)
@click.option(
    "--rate-limit", cls=Option, type=rate, metavar="RATE", help="Requests to accept: 100/10s or 5/1m.  [default: all]"
)
@click.option("--strict", cls=Option, is_flag=True, help="Refuse what SignalWire's description doesn't have.")
@click.option("--seed", cls=Option, metavar="TEXT", help="Same space and credentials for the same seed.")
def emulator(*, port: int, lifetime: timedelta | None, as_json: bool, **settings: object) -> None:
    """Run an emulator of SignalWire.

    It prints the settings of its space as shell assignments, and a line for each request. Without --seed, the
    credentials are new at each start. Press Ctrl-C to stop it.
    """
    served = Emulator(
        lifetimes=None if lifetime is None else Lifetimes.of(lifetime),
        port=port,
        on_request=print_entry_as_json if as_json else print_entry,
        **settings,  # type: ignore[arg-type]  # the other options are arguments of the emulator
    )
    asyncio.run(serve(served, port=port, as_json=as_json))


async def serve(emulator: Emulator, *, port: int, as_json: bool) -> None:
    """Serve until a signal stops it."""
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.enter_context(on_stop(stop.set))
        try:
            await stack.enter_async_context(emulator)
        except OSError as error:
            raise click.ClickException(f"can't serve port {port}: {error.strerror}") from None
        settings = {
            "SIGNALWIRE_SPACE": emulator.space,
            "SIGNALWIRE_PROJECT_ID": emulator.project_id,
            "SIGNALWIRE_API_TOKEN": emulator.api_token,
        }
        if emulator.tls:
            settings["SIGNALWIRE_REST_CA_FILE"] = str(emulator.ca_file)
        if emulator.lifetimes != Lifetimes():
            settings["SIGNALWIRE_TOKENS_LIFETIME"] = f"{emulator.lifetimes.access.total_seconds():.0f}s"
        if as_json:
            print_json({**settings, "click_to_call": emulator.click_to_call, "gateway": emulator.gateway})
        else:
            for name, value in settings.items():
                click.echo(f"export {name}={shlex.quote(value)}")
            click.echo(f"# realtime gateway: {emulator.gateway}")
            click.echo(f"# click-to-call token: {emulator.click_to_call}")
        await stop.wait()


def print_entry(entry: Entry) -> None:
    """Print a request. A reader that has closed the pipe doesn't stop the emulator."""
    operation, credentials = entry.operation or "unknown path", entry.auth or "none"
    with suppress(OSError):
        click.echo(f"{entry.at:%H:%M:%S} {operation} {entry.status} auth={credentials}", err=True)


def print_entry_as_json(entry: Entry) -> None:
    """Print a request as JSON. A reader that has closed the pipe doesn't stop the emulator."""
    with suppress(OSError):
        print_json(attrs.asdict(entry), err=True)
