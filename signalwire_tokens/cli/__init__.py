"""The command `signalwire-tokens`.

`command` is what all commands share, and `options` the options that several have. Each other module has one command, or
a part of one: `create`, `inspect_token`, `keep`, `doctor`, `demo` and `emulator`.
"""

from __future__ import annotations

import click

from signalwire_tokens._version import __version__

from . import create, demo, doctor, emulator, inspect_token, keep
from .command import Group

__all__ = ["cli"]

COMMANDS = (
    *(create.create, create.refresh, inspect_token.inspect, keep.keep),
    *(doctor.doctor, demo.demo, emulator.emulator, create.generate_key),
)


@click.group(cls=Group, commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="signalwire-tokens")
def cli() -> None:
    """Issue SignalWire tokens, and keep them valid.

    SIGNALWIRE_SPACE, SIGNALWIRE_PROJECT_ID and SIGNALWIRE_API_TOKEN name the space and the credentials. To try it
    without any, run `signalwire-tokens demo`.
    """
