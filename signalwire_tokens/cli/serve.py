"""What `signalwire-tokens emulator` does."""

from __future__ import annotations

import asyncio
import signal
import sys

import click

from signalwire_tokens.emulator import Emulator, Entry

__all__ = ["serve"]


# Windows' event loop takes no handlers: there, Ctrl-C raises.
STOP_SIGNALS = () if sys.platform == "win32" else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def serve(*, port: int, tls: bool) -> None:
    """Serve until told to stop, and print each request."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    async with Emulator(port=port, tls=tls, on_request=show) as emulator:
        click.echo(f"export SIGNALWIRE_SPACE={emulator.space}")
        click.echo(f"export SIGNALWIRE_PROJECT_ID={emulator.project_id}")
        click.echo(f"export SIGNALWIRE_API_TOKEN={emulator.api_token}")
        if tls:
            click.echo(f"export SIGNALWIRE_REST_CA_FILE={emulator.ca_file}")
        click.echo(f"# click-to-call token: {emulator.click_to_call}")
        sys.stdout.flush()
        await stop.wait()


def show(entry: Entry) -> None:
    """Print a request."""
    click.echo(
        f"{entry.at:%H:%M:%S} {entry.operation or 'unknown path'} {entry.status} auth={entry.auth or 'none'}", err=True
    )
