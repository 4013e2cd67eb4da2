"""The command of `--exec`, which runs with each token on its standard input."""

from __future__ import annotations

import asyncio
import math
import os
import shlex
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from signalwire_tokens.durations import spoken

if TYPE_CHECKING:
    from signalwire_tokens.models import Token

    from .output import EventLog

__all__ = ["ExecCommand", "parse_command"]

# The variables that the command doesn't get: secrets, and the socket on which systemd expects `keep`.
REMOVED_VARIABLES = (
    "SIGNALWIRE_API_TOKEN",
    "SIGNALWIRE_TOKENS_STORE",
    "SIGNALWIRE_TOKENS_ENCRYPTION_KEY",
    "NOTIFY_SOCKET",
)
LIMIT_SECONDS, KILL_LIMIT_SECONDS = 30.0, 1.0  # for a command to end by itself, and after it was killed
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 300.0  # before a command that failed runs again


def parse_command(line: str) -> list[str]:
    """Return the words of a command. No shell reads them."""
    if sys.platform == "win32":
        raise click.BadParameter("it needs a POSIX system: use --output instead")
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise click.BadParameter(f"{error}: check the quotes in the command") from None
    if not words:
        raise click.BadParameter("the command is empty")
    return words


class ExecCommand:
    """Runs a command in the background for each token. If it fails, it runs again, after growing pauses."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._token: Token | None = None
        self._has_succeeded = False
        self._pause, self._next_run = FIRST_PAUSE_SECONDS, -math.inf
        self._task: asyncio.Task[None] | None = None

    def put(self, token: Token | None, log: EventLog) -> bool:
        """Run the command if it is due and not running, and return whether it has succeeded with this token."""
        if token is not None and (self._task is None or self._task.done()):
            if token is not self._token:
                self._token, self._has_succeeded = token, False
                self._pause, self._next_run = FIRST_PAUSE_SECONDS, -math.inf
            if not self._has_succeeded and asyncio.get_running_loop().time() >= self._next_run:
                self._task = asyncio.create_task(self._run_once(token, log))
        return self._has_succeeded and token is self._token

    async def wait(self) -> None:
        """Return when the command isn't running."""
        if self._task is not None:
            await self._task

    async def _run_once(self, token: Token, log: EventLog) -> None:
        failure, name = await run_command(self._words, token), self._words[0]
        if failure is None:
            self._has_succeeded = True
            log.event("executed", f"{name}: token #{token.digest}", digest=token.digest)
            return
        pause, self._pause = self._pause, min(LONGEST_PAUSE_SECONDS, 2 * self._pause)
        self._next_run = asyncio.get_running_loop().time() + pause
        text = f"{name}: {failure}; it runs again in {spoken(pause)}"
        log.event("exec_failed", text, digest=token.digest, error=failure, retry_after=pause)


async def run_command(words: list[str], token: Token) -> str | None:
    """Run a command with a token, and return how it failed, or None if it succeeded."""
    output = DEVNULL if sys.stderr is None else 2  # standard output is for the events
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=PIPE,
            stdout=output,
            stderr=output,
            env={name: value for name, value in os.environ.items() if name not in REMOVED_VARIABLES},
            start_new_session=True,  # Ctrl-C is for `keep`, which lets the command end by itself
        )
    except Exception as error:  # noqa: BLE001 - such as no descriptors or threads: it may pass, and runs again
        return getattr(error, "strerror", None) or type(error).__name__
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            await process.communicate(token.value.encode())
    except TimeoutError:
        return f"killed after {spoken(LIMIT_SECONDS)}"
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):  # it has just ended, or runs as another user
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(TimeoutError):  # it may hang in a system call
                async with asyncio.timeout(KILL_LIMIT_SECONDS):
                    await process.wait()
    code = process.returncode or 0
    if code < 0:
        return "killed by " + next((one.name for one in signal.Signals if one == -code), f"signal {-code}")
    return f"exit status {code}" if code else None
