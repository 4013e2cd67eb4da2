"""A command that is run with each token."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import click

from .command import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from signalwire_tokens.models import Token

    from .telling import Teller

__all__ = ["Program", "pause_before"]

# What the environment may hold that a command is not to be given with each token.
KEPT_BACK = ("SIGNALWIRE_API_TOKEN", "SIGNALWIRE_TOKENS_STORE", "SIGNALWIRE_TOKENS_ENCRYPTION_KEY", "NOTIFY_SOCKET")
CHUNK = 65536  # bytes of a command's output that are looked at where it fails
MOST_SHOWN = 120  # characters of its last line
LONG = re.compile(r"[\w.~+/=-]{40,}")  # what might be a token in another form, or a part of one
LIMIT = 30.0  # seconds
LAST_WAIT = 1.0  # seconds that one who was killed gets to be gone
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0  # seconds before a command that failed is run again


def pause_before(attempt: int) -> float:
    """Say how long to wait before a command that has failed so often is run again."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt - 1, 10))


class Program:
    """A command that is run with each token, on its standard input; no shell reads it.

    One that fails is run again with the same token, after pauses that grow, until there is another.
    """

    def __init__(
        self,
        line: str,
        *,
        limit: float = LIMIT,
        pause: Callable[[int], float] = pause_before,
        platform: str = sys.platform,
    ) -> None:
        if platform == "win32":
            raise click.UsageError("--exec needs a POSIX system")
        try:
            self._words = shlex.split(line)
        except ValueError as error:
            raise click.UsageError(f"--exec: {error}") from None
        if not self._words:
            raise click.UsageError("--exec: no command")
        self._limit, self._pause = limit, pause
        self._token: Token | None = None
        self._is_done = False
        self._failures = 0
        self._again = 0.0

    async def put(self, token: Token | None, _left: float, teller: Teller) -> bool:
        """Run it, if it has not been run well with this token; tell whether it has."""
        if token is None:
            return False
        loop = asyncio.get_running_loop()
        if token is not self._token:
            self._token, self._is_done, self._failures, self._again = token, False, 0, loop.time()
        if self._is_done or loop.time() < self._again:
            return self._is_done
        failure = await self.run(token)
        if failure is None:
            self._is_done = True
            teller.note("executed", f"{self._words[0]}: token #{token.digest}", digest=token.digest)
            return True
        self._failures += 1
        pause = self._pause(self._failures)
        self._again = loop.time() + pause
        told = f"{self._words[0]}: {failure}; again in {pause:g} s"
        teller.note("exec_failed", told, digest=token.digest, error=failure, retry_after=pause)
        return False

    async def run(self, token: Token) -> str | None:
        """Run it; return what went wrong, if anything did."""
        try:
            return await self._run(token)
        except OSError as error:
            return error.strerror or type(error).__name__

    async def _run(self, token: Token) -> str | None:
        # Pipes of our own: what the command leaves running may hold them open, and is not waited for.
        with ExitStack() as ours, ExitStack() as theirs:
            given, giving = os.pipe()
            theirs.callback(os.close, given)
            with ExitStack() as full:
                full.callback(os.close, giving)
                os.write(giving, token.value.encode())  # a pipe holds more than any token is long
            said, saying = os.pipe()
            ours.callback(os.close, said)
            theirs.callback(os.close, saying)
            tail = Tail(said)
            ours.callback(tail.close)
            process = await asyncio.create_subprocess_exec(
                *self._words,
                stdin=given,
                stdout=saying,
                stderr=saying,
                env={name: value for name, value in os.environ.items() if name not in KEPT_BACK},
                start_new_session=True,  # Ctrl-C is for the one who holds the token, who lets this finish
            )
            theirs.close()
            code = await self._wait(process)
            if code is None:
                return f"killed after {self._limit:g} s"
            if code == 0:
                return None
            words = tail.last_line(token)
            return (f"exit status {code}" if code > 0 else f"signal {-code}") + (f": {words}" if words else "")

    async def _wait(self, process: asyncio.subprocess.Process) -> int | None:
        """Wait for a command's end; None where it had to be killed."""
        try:
            async with asyncio.timeout(self._limit):
                return await process.wait()
        except TimeoutError:
            return None
        finally:
            if process.returncode is None:
                # It may be another user's by now, or stuck in the system: then it is left to itself.
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                with suppress(TimeoutError):
                    async with asyncio.timeout(LAST_WAIT):
                        await process.wait()


class Tail:
    """The end of what a command says."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._kept = b""
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            data = os.read(self._descriptor, CHUNK)
            self._kept = (self._kept + data)[-CHUNK:]
            if not data:
                self.close()

    def last_line(self, token: Token) -> str:
        """Read what is left, and return the last line, without the token."""
        self._read()
        text = self._kept.decode(errors="replace").replace(token.value, f"#{token.digest}").strip()
        return one_line(LONG.sub("…", text.rpartition("\n")[2]))[-MOST_SHOWN:]

    def close(self) -> None:
        """Read no more."""
        self._loop.remove_reader(self._descriptor)
