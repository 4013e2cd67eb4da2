"""A file that holds a live token, for programs in any language."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import attrs
import click

from signalwire_tokens.models import Token

if TYPE_CHECKING:
    from signalwire_tokens.clock import Clock

    from .telling import Teller

__all__ = ["Inscription", "Move", "TokenFile", "next_move"]

SLIVER = 0.5  # seconds: a token with less left is not worth reading
Identity: TypeAlias = tuple[int, int, int]  # a file's device, its number there, which is used again, and its time


@attrs.frozen
class Inscription:
    """What was written: which token, in which file, and when by the clock that token ends."""

    token: Token | None  # None where an earlier run wrote it
    identity: Identity
    ends: float


class Move(Enum):
    """What is to be done with the file."""

    NOTHING = "nothing"
    WRITE = "write"
    REMOVE = "remove"


def next_move(wanted: Token | None, written: Inscription | None, there: Identity | None, now: float) -> Move:
    """Say what is to be done, from the live token, what was written, and which file is there.

    A file that somebody removed is written again. One that somebody else wrote stays until there is another token.
    """
    is_ours = written is not None and written.identity == there
    if wanted is not None and (written is None or written.token is not wanted or there is None):
        return Move.WRITE
    if written is not None and is_ours and written.ends - now < SLIVER:
        return Move.REMOVE
    return Move.NOTHING


class TokenFile:
    """A file that holds a live token and nothing else, or is not there.

    It is replaced as a whole: whoever reads it finds one token or the next. Its time of modification is that of the
    token's end, by which a later run knows what it finds.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._failure: str | None = None
        try:
            there = path.lstat()
        except OSError:
            there = None
        if there is not None and not stat.S_ISREG(there.st_mode):
            raise click.ClickException(f"{path} is no regular file: name another, or the one that a link leads to")
        self._written: Inscription | None = None
        if there is not None:
            ends = clock.now() + there.st_mtime - clock.wall()
            self._written = Inscription(None, identity_of(there), ends)
        self._check()

    async def put(self, token: Token | None, left: float, teller: Teller) -> bool:
        """See to it that the file holds a live token, or is gone; tell whether it holds this one."""
        wanted = token if left > SLIVER else None
        ends = self._clock.now() + left
        try:
            move = await asyncio.to_thread(self._move, wanted, ends)
        except OSError as error:
            self._fail(error, teller)
            # What cannot be replaced can be removed, once it has to be.
            try:
                move = await asyncio.to_thread(self._move, None, ends)
            except OSError as again:
                self._fail(again, teller)
                return False
        else:
            self._failure = None
        if move is Move.WRITE and wanted is not None:
            teller.note("written", f"{self._path}: token #{wanted.digest}", file=str(self._path), digest=wanted.digest)
        elif move is Move.REMOVE:
            teller.note("removed", f"{self._path}: its token has ended", file=str(self._path))
        return wanted is not None and self._written is not None and self._written.token is wanted

    def _fail(self, error: OSError, teller: Teller) -> None:
        """Tell what failed, once: it is tried again and again."""
        failure = error.strerror or type(error).__name__
        if failure != self._failure:
            teller.note("write_failed", f"{self._path}: {failure}", file=str(self._path), error=failure)
        self._failure = failure

    def _move(self, wanted: Token | None, ends: float) -> Move:
        move = next_move(wanted, self._written, self._there(), self._clock.now())
        if move is Move.WRITE and wanted is not None:
            self._written = Inscription(wanted, self._replace(wanted, ends), ends)
        elif move is Move.REMOVE:
            self._path.unlink(missing_ok=True)
            self._written = None
        return move

    def _there(self) -> Identity | None:
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return None
        return identity_of(found)

    def _check(self) -> None:
        """Find out now whether a file can be made in this place."""
        try:
            handle, name = self._make()
        except OSError as error:
            raise click.ClickException(f"{self._path} cannot be written: {error.strerror}") from None
        os.close(handle)
        Path(name).unlink()

    def _make(self) -> tuple[int, str]:
        return tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)  # 0600 from the first

    def _replace(self, token: Token, ends: float) -> Identity:
        handle, name = self._make()
        try:
            with open(handle, "wb") as file:  # noqa: PTH123 - of a handle
                file.write(token.value.encode())
                file.flush()
                os.fsync(handle)  # or a machine that loses its power keeps the name and not what it names
                wall = self._clock.wall()
                os.utime(handle, (wall, wall + ends - self._clock.now()))
                made = os.fstat(handle)
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return identity_of(made)


def identity_of(found: os.stat_result) -> Identity:
    """Say which file this is."""
    return found.st_dev, found.st_ino, found.st_mtime_ns
