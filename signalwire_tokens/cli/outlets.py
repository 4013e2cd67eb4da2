"""Where a token that is held goes: a file that other programs read, and a command that is run with each."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from signalwire_tokens.models import Token

    from .telling import Teller

__all__ = ["Program", "TokenFile"]

# What the environment may hold that a command is not to be given with each token.
KEPT_BACK = ("SIGNALWIRE_API_TOKEN", "SIGNALWIRE_STORE", "TOKEN_SEALING_KEY", "NOTIFY_SOCKET")
LAST_WORDS = 4096  # bytes of a command's output that are looked at where it fails


class TokenFile:
    """A file that holds a live token and nothing else, or is not there.

    It is replaced as a whole: whoever reads it finds one token or the next.
    """

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise click.ClickException(f"{path} is a directory: a file is to hold the token")
        self._path = path
        self._token: Token | None = None
        self._failure: str | None = None

    def check(self) -> None:
        """Find out now whether a file can be made in this place."""
        try:
            handle, name = self._make()
        except OSError as error:
            raise click.ClickException(f"{self._path.parent}: {error.strerror}") from None
        os.close(handle)
        Path(name).unlink()

    async def put(self, token: Token | None, teller: Teller) -> bool:
        """Make the file hold a token, or be gone; tell whether it does."""
        if token is self._token:
            return token is not None
        try:
            await asyncio.to_thread(self._write, token)
        except OSError as error:
            failure = error.strerror or type(error).__name__
            if failure != self._failure:  # it is tried again and again
                teller.note("write_failed", f"{self._path}: {failure}", file=str(self._path), error=failure)
            self._failure = failure
            return False
        self._token, self._failure = token, None
        if token is None:
            teller.note("removed", f"{self._path}: its token has ended", file=str(self._path))
        else:
            teller.note("written", f"{self._path}: token #{token.digest}", file=str(self._path), token=token.digest)
        return token is not None

    def _write(self, token: Token | None) -> None:
        if token is None:
            self._path.unlink(missing_ok=True)
        else:
            self._replace(token)

    def _make(self) -> tuple[int, str]:
        return tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)  # 0600 from the first

    def _replace(self, token: Token) -> None:
        handle, name = self._make()
        try:
            with open(handle, "wb") as file:  # noqa: PTH123 - of a handle
                file.write(token.value.encode())
                file.flush()
                os.fsync(handle)  # or a machine that loses its power keeps the name and not what it names
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


class Program:
    """A command that is run with each token, on its standard input; no shell reads it."""

    def __init__(self, line: str, *, limit: float = 30.0) -> None:
        try:
            self._words = shlex.split(line)
        except ValueError as error:
            raise click.UsageError(f"--exec: {error}") from None
        if not self._words:
            raise click.UsageError("--exec: no command")
        self._limit = limit
        self._token: Token | None = None

    async def put(self, token: Token | None, teller: Teller) -> bool:
        """Run it, if the token is a new one."""
        if token is None or token is self._token:
            return self._token is not None
        self._token = token
        failure = await self.run(token)
        if failure is None:
            teller.note("executed", f"{self._words[0]}: token #{token.digest}", token=token.digest)
        else:
            teller.note("exec_failed", f"{self._words[0]}: {failure}", token=token.digest, error=failure)
        return True

    async def run(self, token: Token) -> str | None:
        """Run it; return what went wrong, if anything did."""
        environment = {name: value for name, value in os.environ.items() if name not in KEPT_BACK}
        try:
            process = await asyncio.create_subprocess_exec(
                *self._words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the one who holds the token, who lets this finish
            )
        except OSError as error:
            return error.strerror or type(error).__name__
        said = None
        try:
            async with asyncio.timeout(self._limit):
                said = await speak(process, token)
        except TimeoutError:
            return f"killed after {self._limit:g} s"
        finally:
            if said is None:
                await kill(process)
        if not process.returncode:
            return None
        how = f"exit status {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        return f"{how}: {said}" if said else how


async def speak(process: asyncio.subprocess.Process, token: Token) -> str:
    """Give a command its token; return the last line that it says, without the token."""
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    assert process.stdout is not None  # noqa: S101 - as above
    with suppress(ConnectionError):  # it need not read what it is given
        process.stdin.write(token.value.encode())
        await process.stdin.drain()
    process.stdin.close()
    kept = b""
    while said := await process.stdout.read(LAST_WORDS):
        kept = (kept + said)[-LAST_WORDS - len(token.value) :]
    await process.wait()
    text = kept.decode(errors="replace").replace(token.value, f"#{token.digest}")
    return "".join(one if one.isprintable() else " " for one in text.strip().rpartition("\n")[2])


async def kill(process: asyncio.subprocess.Process) -> None:
    """Kill a command, and whatever it has begun."""
    with suppress(ProcessLookupError):
        process.kill() if sys.platform == "win32" else os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
