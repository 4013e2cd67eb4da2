"""A newcomer, who follows pages literally in a fresh checkout, and counts what that takes."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from asyncio.subprocess import STDOUT
from contextlib import asynccontextmanager
from pathlib import Path

from support.cli_runner import started
from support.pages import paste
from support.paths import ROOT
from support.processes import last_lines

# CI runs the tests beside the built wheel, without the package's sources.
CHECKOUT = Path(os.environ.get("CHECKOUT", ROOT))
FENCED = re.compile(r"^(?P<fence>`{3,}).*?^(?P=fence)$", re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
SETTING = re.compile(r"^export (\w+)=(\S+)$", re.MULTILINE)


def copy_checkout(folder):
    """Copy what a clone of the repository has, with changes that aren't committed yet."""
    listing = ["git", "-C", str(CHECKOUT), "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listing, capture_output=True, text=True, check=True).stdout.splitlines():
        source, target = CHECKOUT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


class Newcomer:
    """Reads pages, saves their programs, and types their commands in a virtual environment.

    `commands`, `pages` and `words` are what it took. A command that fails is an `AssertionError`.
    """

    def __init__(self, folder):
        self.folder = folder
        self.commands, self.pages, self.words = [], [], 0
        bin_folder = folder / ".venv" / "bin"
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("SIGNALWIRE_", "PYTHON", "COV"))
        }
        self.environment |= {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "PIP_QUIET": "1"}
        self._shown = ""

    async def begin(self):
        """Copy the checkout, and make a virtual environment."""
        await asyncio.to_thread(copy_checkout, self.folder)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "venv", ".venv"), cwd=self.folder, env=self.environment
        )
        assert await process.wait() == 0
        self.commands += ["python3 -m venv .venv", ". .venv/bin/activate"]

    def read(self, page, until):
        """Read a page as far as a text in it, and save the programs of the page."""
        text, found, rest = (self.folder / page).read_text(encoding="utf-8").partition(until)
        assert found, f"{page} has no {until!r}"
        self.pages.append(page)
        self.words += len(FENCED.sub("", text).split())
        self._shown += "\n".join(CONSOLE.findall(text + found + rest)) + text
        paste(page, self.folder)

    async def type(self, command, **replaced):
        """Type a command of the pages that were read, and wait for it; return what it prints."""
        async with self.terminal(command, **replaced) as process:
            output, _ = await process.communicate()
        assert not process.returncode, f"{command} ended with {process.returncode}:\n{last_lines(output)}"
        return output.decode()

    @asynccontextmanager
    async def terminal(self, command, **replaced):
        """Type a command of the pages that were read, and leave it running until the block ends.

        `replaced` are texts in it for which this machine needs others, such as a port: `**{":8000": ":50123"}`.
        """
        assert command in self._shown, f"no page that was read shows the command {command!r}"
        self.commands.append(command)
        for old, new in replaced.items():
            command = command.replace(old, new)
        shell = ("bash", "-c", f"exec {command}")
        async with started(*shell, stderr=STDOUT, cwd=self.folder, inherited=self.environment) as process:
            yield process

    async def paste_settings(self, emulator):
        """Paste the settings that `signalwire-tokens emulator` prints in another terminal."""
        wanted = {"SIGNALWIRE_SPACE", "SIGNALWIRE_PROJECT_ID", "SIGNALWIRE_API_TOKEN"}
        while not wanted <= self.environment.keys():
            line = (await emulator.stdout.readline()).decode()
            assert line, "the emulator has ended"
            self.environment |= dict(SETTING.findall(line))
        self.commands.append("(the emulator's settings, pasted)")

    def report(self, path):
        """Return a line about what it took."""
        return (
            f"[{path}: {len(self.commands)} commands, {len(self.pages)} pages ({', '.join(self.pages)}), "
            f"{self.words} words, no failures until the first valid token]"
        )
