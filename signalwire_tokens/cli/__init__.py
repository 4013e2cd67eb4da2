"""The command `signalwire-tokens`.

`command` is what all commands share, and `options` the options that several have. Each other module has one command, or
a part of one: `create`, `inspect_token`, `keep`, `doctor`, `demo` and `emulator`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, cast

import click

from signalwire_tokens._version import __version__

from .command import Group

__all__ = ["cli"]

# Where each command is, and what the help says about it. A command is imported when it runs.
COMMANDS = {
    "create": ("create", "Issue a token."),
    "demo": ("demo", "Show what this library does, on an emulator."),
    "doctor": ("doctor", "Check settings, network and credentials."),
    "emulator": ("emulator", "Run an emulator of SignalWire."),
    "generate-key": ("create", "Print a new encryption key for a store."),
    "inspect": ("inspect_token", "Show what a token reveals."),
    "keep": ("keep", "Keep a subscriber's token valid."),
    "refresh": ("create", "Exchange a refresh token for a new pair."),
}


class CommandsByName(Mapping[str, click.Command]):
    """The commands by their names. A command is imported when it is looked up."""

    def __getitem__(self, name: str) -> click.Command:
        module: Any = import_module(f".{COMMANDS[name][0]}", __name__)
        return cast("click.Command", getattr(module, name.replace("-", "_")))

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class Commands(Group):
    """The group of all commands."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as click has it
        """Write what each command is for, without importing it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Commands, commands=CommandsByName(), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="signalwire-tokens")
def cli() -> None:
    """Issue SignalWire tokens, and keep them valid.

    SIGNALWIRE_SPACE, SIGNALWIRE_PROJECT_ID and SIGNALWIRE_API_TOKEN name the space and the credentials. To try it
    without any, run `signalwire-tokens demo`.
    """
