"""The command `signalwire-tokens`, run in the process of a test, or in one of its own."""

import asyncio
import codecs
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from asyncio.subprocess import PIPE
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from unittest import mock

from click.testing import CliRunner

from signalwire_tokens.cli import cli, signals
from signalwire_tokens.cli.signals import STOP_SIGNALS
from support.processes import default_signals, last_lines, noting
from support.waiting import HANG

COMMAND = (sys.executable, "-m", "signalwire_tokens")


def show_if_it_fails(arguments, code, *outputs):
    """Write how a command ended to the output that pytest shows of a failed test."""
    words = " ".join(map(str, arguments))
    sys.stderr.write(f"signalwire-tokens {words[:500]}\n  ended with {code}")
    for output in outputs:
        sys.stderr.write(f"\n{last_lines(output)}")
    sys.stderr.write("\n")


def run(*arguments, stdin=None, **environment):
    """Run a command in this process; return click's result of it."""
    result = CliRunner(env=environment).invoke(cli, [*map(str, arguments)], input=stdin)
    show_if_it_fails(arguments, result.exit_code, result.stdout, result.stderr)
    return result


def run_apart(*arguments, stdin="", **environment):
    """Run a command as users do; return the process, which has ended."""
    return run_to_the_end([*COMMAND, *map(str, arguments)], stdin=stdin, **environment)


def code_of(result):
    """Return the exit code of a command that was run in this process or in one of its own."""
    return result.returncode if isinstance(result, subprocess.CompletedProcess) else result.exit_code


def run_in_shell(line, stdin="", **environment):
    """Run a line that begins with the command's arguments in a shell; return the process, which has ended."""
    return run_to_the_end(["/bin/sh", "-c", f'"$0" -m signalwire_tokens {line}', sys.executable], stdin, **environment)


def run_to_the_end(command, stdin="", **environment):
    """Run a program; return its process, which has ended."""
    with default_signals():
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    with process:
        try:
            stdout, stderr = process.communicate(stdin, timeout=HANG)
        except BaseException:
            process.kill()
            raise
    show_if_it_fails(command[1:], process.returncode, stdout, stderr)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


@asynccontextmanager
async def started(*command, stdin=None, stdout=PIPE, stderr=PIPE, cwd=None, inherited=os.environ, **environment):
    """Start a program with pipes to its outputs; yield its process, which is killed if the block leaves it running.

    Its environment is `inherited`, and the arguments after that.
    """
    with default_signals():
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env={**inherited, **environment},
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()
        process._transport.close()


@asynccontextmanager
async def started_command(*arguments, **settings):
    """Start a command as users do; the rest is as with `started`."""
    async with started(*COMMAND, *arguments, **settings) as process:
        yield process


class Exits:
    """What a command in the test's process has asked for: to end at once, and calls when the process ends."""

    def __init__(self):
        self.codes = []
        self.at_exit = []


@contextlib.contextmanager
def stoppable():
    """Yield what a command in the test's process asks for when a signal stops it; restore the handlers afterwards.

    At first, no signal is ignored, though whatever runs the tests may ignore some; one that no command handles is an
    error. Nothing ends the process: what would do so is in the `Exits` that the block gets.
    """

    def refuse(number, _):
        raise AssertionError(f"no command handles {signal.Signals(number).name}")

    exits = Exits()
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    with (
        mock.patch.object(signals.os, "_exit", exits.codes.append),
        mock.patch.object(signals.atexit, "register", exits.at_exit.append),
    ):
        try:
            for number in STOP_SIGNALS:
                signal.signal(number, refuse)
            yield exits
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Terminal:
    """A command on a terminal, with a user in front of it."""

    # Without Python's `site`, it starts in a third of the time.
    SPAWN = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"

    def __init__(self, *arguments, **environment):
        self.shown = ""
        self._all = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with default_signals():
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-c", self.SPAWN, *COMMAND, *map(str, arguments)],
                env={**os.environ, "TERM": "xterm", "COLUMNS": "110", "LINES": "30", **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        os.set_blocking(self._process.stdout.fileno(), False)

    def __enter__(self):
        self._noting = noting("The terminal showed", lambda: self._all)
        self._noting.__enter__()
        return self

    def __exit__(self, kind, error, traceback):
        self._process.kill()
        rest, _ = self._process.communicate()
        self._take(rest)
        return self._noting.__exit__(kind, error, traceback)

    def _take(self, data):
        text = self._decoder.decode(data)
        self._all += text
        self.shown += text

    def read_until(self, text):
        """Read until a text is shown; return what is shown up to its end. The next look begins there."""
        give_up = time.monotonic() + HANG
        while text not in self.shown:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0, give_up - time.monotonic()))
            data = self._process.stdout.read() if ready else b""
            assert data, f"the terminal doesn't show {text!r}"
            self._take(data)
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def type(self, text):
        """Type a text."""
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def interrupt(self):
        """Type Ctrl-C until the command ends. If one comes just before Python blocks, only the next one is noticed."""
        while self._process.poll() is None:
            with suppress(BrokenPipeError):
                self.type("\x03")
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.5)

    def signal(self, number):
        """Send the command a signal."""
        (child,) = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        os.kill(int(child), number)

    def end(self):
        """Read to the end; return what is shown, and the exit code."""
        os.set_blocking(self._process.stdout.fileno(), True)
        rest, _ = self._process.communicate(timeout=HANG)
        self._take(rest)
        show_if_it_fails(["(on a terminal)"], self._process.returncode, self._all)
        return self.shown, self._process.returncode
