"""The command `signalwire-tokens`: thin, a module for each part."""

from __future__ import annotations

import asyncio
import os

import click

from signalwire_tokens._version import __version__

from .demo import run_demo
from .serve import serve

__all__ = ["cli"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="signalwire-tokens")
def cli() -> None:
    """Issue SignalWire subscriber tokens, and keep them alive."""


@cli.command()
def demo() -> None:
    """Show what it does, on an emulator of the service.

    It starts an emulator of SignalWire's token service on this machine, issues a token of each kind there, and shows
    what each is for. Then it holds a session whose tokens live seconds, through a burst of errors and a lost answer,
    and ends by itself: with success if there was a live token all the time. No space of yours is touched.
    """
    if any(name.startswith("SIGNALWIRE_") for name in os.environ):
        click.echo("SIGNALWIRE_* is set, but this demo uses its own emulator: no real space is touched.", err=True)
    try:
        went_well = asyncio.run(run_demo())
    except OSError as error:
        raise click.ClickException(f"the demo broke off: {error.strerror}") from None
    if not went_well:
        raise click.ClickException("there was a moment without a live token")


@cli.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to serve; by default any free one.")
@click.option("--tls", is_flag=True, help="Serve https, under a throw-away certificate authority.")
def emulator(port: int, tls: bool) -> None:
    """Run an emulator of the token service until Ctrl-C.

    It prints the settings of its space as shell assignments, and a line for every request that it answers. The
    credentials are made up at each start, and are good for nothing else.
    """
    try:
        asyncio.run(serve(port=port, tls=tls))
    except OSError as error:
        raise click.ClickException(f"cannot serve port {port}: {error.strerror}") from None
