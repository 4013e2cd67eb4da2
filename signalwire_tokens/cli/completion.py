"""What helps at a shell: completion, and a key for stores."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from signalwire_tokens.stores import generate_encryption_key

from .command import Command, say_json

__all__ = ["completion", "sealing_key"]

PROGRAM = "signalwire-tokens"
VARIABLE = "_SIGNALWIRE_TOKENS_COMPLETE"
SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command(cls=Command)
@click.argument("shell", type=click.Choice([*SHELLS]))
@click.pass_context
def completion(context: click.Context, *, shell: str, as_json: bool) -> None:
    """Print what makes a shell complete this command.

    For bash and zsh, `eval "$(signalwire-tokens completion bash)"` in their start-up file; for fish,
    `signalwire-tokens completion fish | source`.
    """
    script = SHELLS[shell](context.find_root().command, {}, PROGRAM, VARIABLE).source()
    if as_json:
        say_json({"shell": shell, "script": script})
    else:
        click.echo(script)


@click.command(cls=Command, name="sealing-key")
def sealing_key(*, as_json: bool) -> None:
    """Print a new key that a store seals with: keep it where you keep the API token."""
    key = generate_encryption_key()
    if as_json:
        say_json({"key": key})
    else:
        click.echo(key)
