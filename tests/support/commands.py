"""The commands of `signalwire-tokens`, imported."""

from signalwire_tokens.cli import cli

COMMANDS = {name: cli.get_command(None, name) for name in cli.list_commands(None)}
