"""What `signalwire-tokens emulator` does."""

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

from .command import Command, say_json
from .settings import duration
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
        raise click.BadParameter(f"{text!r} is not a rate: write 100/10s or 5/1m")
    return RateLimit(int(found[1]), period.total_seconds())


@click.command(cls=Command)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to serve; by default any free one.")
@click.option("--tls", is_flag=True, help="Serve https, under a throw-away certificate authority.")
@click.option(
    "--lifetime",
    type=duration,
    metavar="DURATION",
    help="How long access tokens live: 90s, 15m or 1d; by default 2h.",
)
@click.option(
    "--rotation",
    type=click.Choice([*ROTATIONS]),
    default="single-use",
    show_default=True,
    help="What happens to a refresh token that was used.",
)
@click.option(
    "--rate-limit",
    type=rate,
    metavar="RATE",
    help="How many requests are accepted: 100/10s or 5/1m; by default all.",
)
@click.option("--strict", is_flag=True, help="Refuse what SignalWire's published description doesn't have.")
@click.option("--seed", metavar="TEXT", help="Be the same space as every other emulator of this seed.")
def emulator(
    *,
    port: int,
    tls: bool,
    lifetime: timedelta | None,
    rotation: str,
    rate_limit: RateLimit | None,
    strict: bool,
    seed: str | None,
    as_json: bool,
) -> None:
    """Run an emulator of the token service until Ctrl-C.

    It prints the settings of its space as shell assignments, and a line for every request that it answers. The
    credentials work with this emulator only. They are new at each start, unless there is a --seed.
    """
    served = Emulator(
        lifetimes=None if lifetime is None else Lifetimes.of(lifetime),
        port=port,
        tls=tls,
        rotation=rotation,
        rate_limit=rate_limit,
        strict=strict,
        seed=seed,
        on_request=show_json if as_json else show_line,
    )
    asyncio.run(serve(served, port=port, as_json=as_json))


async def serve(emulator: Emulator, *, port: int, as_json: bool) -> None:
    """Serve until a signal ends it."""
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.enter_context(on_stop(stop.set))
        try:
            await stack.enter_async_context(emulator)
        except OSError as error:
            raise click.ClickException(f"cannot serve port {port}: {error.strerror}") from None
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
            say_json({**settings, "click_to_call": emulator.click_to_call, "gateway": emulator.gateway})
        else:
            for name, value in settings.items():
                click.echo(f"export {name}={shlex.quote(value)}")
            click.echo(f"# realtime gateway: {emulator.gateway}")
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
