"""What `signalwire-tokens emulator` does."""

from __future__ import annotations

import asyncio
import shlex
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import attrs
import click

from signalwire_tokens.emulator import Emulator, Entry
from signalwire_tokens.models import Lifetimes

from .command import Command, say_json
from .settings import duration
from .signals import on_stop

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["emulator"]


@click.command(cls=Command)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to serve; by default any free one.")
@click.option("--tls", is_flag=True, help="Serve https, under a throw-away certificate authority.")
@click.option(
    "--lifetime",
    type=duration,
    metavar="DURATION",
    help="How long access tokens live: 90s, 15m or 1d; by default 2h.",
)
@click.option("--seed", metavar="TEXT", help="Be the same space as every other emulator of this seed.")
def emulator(*, port: int, tls: bool, lifetime: timedelta | None, seed: str | None, as_json: bool) -> None:
    """Run an emulator of the token service until Ctrl-C.

    It prints the settings of its space as shell assignments, and a line for every request that it answers. The
    credentials are good for nothing else; they are made up at each start, or by a seed.
    """
    lifetimes = None if lifetime is None else Lifetimes.of(lifetime)
    asyncio.run(serve(port=port, tls=tls, lifetimes=lifetimes, seed=seed, as_json=as_json))


async def serve(*, port: int, tls: bool, lifetimes: Lifetimes | None, seed: str | None, as_json: bool) -> None:
    """Serve until a signal ends it, and print each request."""
    stop = asyncio.Event()
    show = show_json if as_json else show_line
    async with AsyncExitStack() as stack:
        stack.enter_context(on_stop(stop.set))
        try:
            emulator = await stack.enter_async_context(
                Emulator(lifetimes=lifetimes, port=port, tls=tls, seed=seed, on_request=show)
            )
        except OSError as error:
            raise click.ClickException(f"cannot serve port {port}: {error.strerror}") from None
        settings = {
            "SIGNALWIRE_SPACE": emulator.space,
            "SIGNALWIRE_PROJECT_ID": emulator.project_id,
            "SIGNALWIRE_API_TOKEN": emulator.api_token,
        }
        if tls:
            settings["SIGNALWIRE_REST_CA_FILE"] = str(emulator.ca_file)
        if lifetimes is not None:
            settings["SIGNALWIRE_TOKENS_LIFETIME"] = f"{lifetimes.access.total_seconds():.0f}s"
        if as_json:
            say_json({**settings, "click_to_call": emulator.click_to_call})
        else:
            for name, value in settings.items():
                click.echo(f"export {name}={shlex.quote(value)}")
            click.echo(f"# click-to-call token: {emulator.click_to_call}")
        await stop.wait()


def show_line(entry: Entry) -> None:
    """Print a request, if anybody reads."""
    with suppress(OSError):
        click.echo(
            f"{entry.at:%H:%M:%S} {entry.operation or 'unknown path'} {entry.status} auth={entry.auth or 'none'}",
            err=True,
        )


def show_json(entry: Entry) -> None:
    """Print a request as JSON, if anybody reads."""
    with suppress(OSError):
        say_json(attrs.asdict(entry), err=True)
