"""The command `signalwire-tokens`, run in the process of a test, or in one of its own."""

import os
import subprocess
import sys

from click.testing import CliRunner

from signalwire_tokens.cli import cli

COMMAND = (sys.executable, "-m", "signalwire_tokens")


def run(*arguments, stdin=None, **environment):
    """Run a command in this process."""
    return CliRunner(env=environment).invoke(cli, [*map(str, arguments)], input=stdin)


def run_apart(*arguments, stdin="", **environment):
    """Run a command as users do."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env={**os.environ, **environment},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def settings_of(emulator, **more):
    """Write what a command needs to know of an emulator into its environment."""
    return {
        "SIGNALWIRE_SPACE": emulator.space,
        "SIGNALWIRE_PROJECT_ID": emulator.project_id,
        "SIGNALWIRE_API_TOKEN": emulator.api_token,
        **more,
    }
