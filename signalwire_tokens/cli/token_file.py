"""A file that holds a live token, for programs in any language."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import stat
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

import attrs
import click

from signalwire_tokens.models import Token
from signalwire_tokens.wire.header import read_form

from .drafts import draft_beside
from .feeding import SLIVER

if TYPE_CHECKING:
    from pathlib import Path

    from signalwire_tokens.clock import Clock

    from .telling import Teller

__all__ = ["Found", "Move", "TokenFile", "next_move"]

LONGEST = 64 * 1024  # bytes: the client refuses longer answers
SECOND = 1_000_000_000  # nanoseconds
MARK = 123_456_700  # nanoseconds, which the time of modification has beyond a second in a file that `hold` wrote
OTHER = "it holds something other than an access token; remove it if you don't need it, or name another file"
IRREGULAR = "it isn't a regular file; name another, or the one that a link leads to"
Identity: TypeAlias = tuple[int, int, int]  # a file's device, its number there, which is used again, and its time


@attrs.frozen
class Found:
    """A file, and for how many seconds the token in it is valid; None if another program wrote it."""

    identity: Identity
    left: float | None


@attrs.frozen
class Inscription:
    """What was written: which token, in which file, and when by the clock that token ends."""

    token: Token
    identity: Identity
    ends: float


class Move(Enum):
    """What is to be done with the file."""

    NOTHING = "nothing"
    WRITE = "write"
    REMOVE = "remove"


def next_move(wanted: Token | None, written: Token | None, there: Found | None) -> Move:
    """Return what to do, from the valid token, the one that was written last, and the file that is there.

    A file that is gone, or whose token has expired, is written again. One that another `hold` keeps valid stays until
    there is another token. A token that another program wrote also stays until there is a token to replace it, because
    its expiry is unknown.
    """
    is_alive = there is not None and there.left is not None and there.left > SLIVER
    if wanted is not None:
        return Move.NOTHING if is_alive and written is wanted else Move.WRITE
    return Move.NOTHING if is_alive or there is None or there.left is None else Move.REMOVE


class TokenFile:
    """A file that holds a live token and nothing else, or is not there.

    It is replaced as a whole, so a reader finds one token or the next. Its time of modification is when the token
    expires, or less than a second earlier. A later run uses that time to recognize a file that `hold` wrote, and to
    know how long its token is valid. A file that holds anything but an access token is neither replaced nor removed:
    each look at it raises an OSError.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._failure: str | None = None
        self._written: Inscription | None = None
        self._check()

    async def put(self, token: Token | None, left: float, teller: Teller) -> bool:
        """See to it that the file holds a live token, or is gone; tell whether it holds this one."""
        ends = self._clock.now() + left
        try:
            move = await asyncio.to_thread(self._move, token, ends)
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
        if move is Move.WRITE and token is not None:
            teller.note("written", f"{self._path}: token #{token.digest}", file=str(self._path), digest=token.digest)
        elif move is Move.REMOVE:
            teller.note("removed", f"{self._path}: its token has expired", file=str(self._path))
        return token is not None and self._written is not None and self._written.token is token

    def _fail(self, error: OSError, teller: Teller) -> None:
        """Tell what failed, once: it is tried again and again."""
        failure = error.strerror or type(error).__name__
        if failure != self._failure:
            teller.note("write_failed", f"{self._path}: {failure}", file=str(self._path), error=failure)
        self._failure = failure

    def _move(self, wanted: Token | None, ends: float) -> Move:
        written = self._written
        move = next_move(wanted, None if written is None else written.token, self._find())
        if move is Move.WRITE and wanted is not None:
            self._written = Inscription(wanted, self._replace(wanted, ends), ends)
        elif move is Move.REMOVE:
            self._path.unlink(missing_ok=True)
            self._written = None
        return move

    def _find(self) -> Found | None:
        """Return the file that is there, None if there is none, or raise an OSError if it isn't a token's file."""
        try:
            found = self._path.lstat()
            identity = identity_of(found)
            if self._written is not None and self._written.identity == identity:
                return Found(identity, self._written.ends - self._clock.now())
            if not stat.S_ISREG(found.st_mode):
                raise FileExistsError(errno.EEXIST, IRREGULAR)
            if not holds_access_token(self._path):
                raise FileExistsError(errno.EEXIST, OTHER)
        except FileNotFoundError:
            return None
        is_ours = found.st_mtime_ns % SECOND == MARK
        return Found(identity, found.st_mtime - self._clock.wall() if is_ours else None)

    def _check(self) -> None:
        """Raise an error if no file can be made in this place, or if what is there may not be replaced."""
        try:
            self._find()
            with draft_beside(self._path, b""):
                pass
        except OSError as error:
            raise click.ClickException(f"{self._path} cannot be written: {error.strerror}") from None

    def _replace(self, token: Token, ends: float) -> Identity:
        with draft_beside(self._path, token.value.encode()) as draft:
            until = math.floor(self._clock.wall() + ends - self._clock.now()) * SECOND + MARK
            os.utime(draft, ns=(until, until))
            made = draft.lstat()
            self._find()  # once more, because other programs may have used the path meanwhile
            draft.replace(self._path)
        return identity_of(made)


def holds_access_token(path: Path) -> bool:
    """Return whether a file holds an access token in SignalWire's form, and nothing else."""
    with path.open("rb") as file:
        content = file.read(LONGEST + 1).decode(errors="replace")
    form = read_form(content)
    return form is not None and form.header.kind == "SAT" and form.is_whole and form.end == len(content) <= LONGEST


def identity_of(found: os.stat_result) -> Identity:
    """Say which file this is."""
    return found.st_dev, found.st_ino, found.st_mtime_ns
