"""The command `signalwire-tokens`, run in the process of a test, or in one of its own."""

import asyncio
import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

from click.testing import CliRunner

from signalwire_tokens.cli import cli
from signalwire_tokens.emulator import Emulator

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


@contextlib.contextmanager
def served(**options):
    """Run an emulator on a thread of its own, since a command that runs in the test's holds up that one."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        emulator = Emulator(**options)
        asyncio.run_coroutine_threadsafe(emulator.__aenter__(), loop).result()
        try:
            yield emulator
        finally:
            asyncio.run_coroutine_threadsafe(emulator.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Terminal:
    """A command on a terminal, as somebody sits before it."""

    # A shell that runs tests behind it may have them ignore Ctrl-C; whoever sits before a terminal does not.
    SPAWN = (
        "import os, pty, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
        "sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    )

    def __init__(self, *arguments, **environment):
        self.shown = ""
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.SPAWN, *COMMAND, *map(str, arguments)],
            env={**os.environ, "TERM": "xterm", "COLUMNS": "110", "LINES": "30", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        os.set_blocking(self._process.stdout.fileno(), False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()

    def read_until(self, text, within=20.0):
        """Read what is shown until a text is there; what comes next is looked at from there on."""
        give_up = time.monotonic() + within
        while text not in self.shown:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0, give_up - time.monotonic()))
            data = self._process.stdout.read() if ready else b""
            assert data, f"{text!r} has not come: {self.shown!r}"
            self.shown += data.decode(errors="replace")
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def type(self, text):
        """Type something."""
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def signal(self, number):
        """Send the command a signal."""
        (child,) = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        os.kill(int(child), number)

    def end(self):
        """Read to the end; return what came, and the exit code."""
        os.set_blocking(self._process.stdout.fileno(), True)
        rest, _ = self._process.communicate(timeout=30)
        return self.shown + rest.decode(errors="replace"), self._process.returncode
