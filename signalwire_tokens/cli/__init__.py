"""The command `signalwire-tokens`: thin, a module for each part.

`command` is what all have in common, and `settings` where they get what they need to ask the service; `issuing`,
`inspecting`, `holding`, `doctor`, `demo` and `serve` are the commands.
"""

from __future__ import annotations

import click

from signalwire_tokens._version import __version__

from . import completion, demo, doctor, holding, inspecting, issuing, serve

__all__ = ["cli"]

COMMANDS = (
    *(issuing.subscriber, issuing.guest, issuing.invite, issuing.embed, issuing.refresh),
    *(inspecting.inspect, holding.hold, doctor.doctor),
    *(demo.demo, serve.emulator, completion.sealing_key, completion.completion),
)


@click.group(commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="signalwire-tokens")
def cli() -> None:
    """Issue SignalWire subscriber tokens, look at them, and keep them alive."""
