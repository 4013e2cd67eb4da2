"""The file that holds a valid token, for programs in any language, and how files are replaced as a whole."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from signalwire_tokens.token_header import read_form

if TYPE_CHECKING:
    from collections.abc import Iterator

    from signalwire_tokens.clock import Clock
    from signalwire_tokens.models import Token

    from .output import EventLog

__all__ = ["MIN_VALID_SECONDS", "TokenFile", "draft_beside"]

MIN_VALID_SECONDS = 0.5  # a token with less time left counts as expired
LONGEST_TOKEN = 64 * 1024  # bytes: the client refuses longer answers
NANOSECONDS_PER_SECOND = 1_000_000_000
MARK = 123_456_700  # nanoseconds after a full second: files that `keep` wrote have this modification time
OTHER = "it holds something other than an access token; remove it if you don't need it, or name another file"
IRREGULAR = "it isn't a regular file; name another, or the one that a link leads to"


class TokenFile:
    """A file that holds a valid token and nothing else, or doesn't exist.

    It is replaced as a whole, so a reader finds one token or the next. Its time of modification is when the token
    expires, or less than a second earlier. A later run uses that time to recognize a file that `keep` wrote, and to
    know how long its token is valid. A file that holds anything but an access token is neither replaced nor removed:
    each look at it raises an OSError.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._written: Token | None = None
        self._identity = (0, 0, 0)  # of the file that was written
        self._expires_at = 0.0  # by the clock's `now`: when the token in that file expires
        self._failure: str | None = None
        try:
            self._seconds_valid()
            with draft_beside(path, b""):
                pass
        except OSError as error:
            raise click.ClickException(f"can't write {path}: {error.strerror}") from None

    async def put(self, token: Token | None, left: float, log: EventLog) -> bool:
        """Write, remove or keep the file, and return whether it holds this token, which is valid for `left` seconds."""
        expires_at, event, failure = self._clock.now() + left, None, None
        try:
            event = await asyncio.to_thread(self._update, token, expires_at)
        except Exception as error:  # noqa: BLE001 - such as a full disk or no threads: it may pass, and is tried again
            failure = getattr(error, "strerror", None) or type(error).__name__
            with suppress(Exception):  # a full disk still lets an expired token be removed
                event = await asyncio.to_thread(self._update, None, expires_at)
        if failure is not None and failure != self._failure:
            log.event("write_failed", f"{self._path}: {failure}", file=str(self._path), error=failure)
        self._failure = failure
        if event == "written" and token is not None:
            log.event(event, f"{self._path}: token #{token.digest}", file=str(self._path), digest=token.digest)
        elif event == "removed":
            log.event(event, f"{self._path}: its token has expired", file=str(self._path))
        return failure is None and token is not None and token is self._written

    def _update(self, token: Token | None, expires_at: float) -> str | None:
        """Write or remove the file if necessary, and return the event.

        A file that is gone, or whose token has expired, is written again. A file that another `keep` wrote stays as
        long as its token is valid, or until there is a new token.
        """
        left = self._seconds_valid()
        if token is None:
            if left is None or left > MIN_VALID_SECONDS:
                return None
            self._path.unlink(missing_ok=True)
            self._written = None
            return "removed"
        if token is self._written and left is not None and MIN_VALID_SECONDS < left < math.inf:
            return None
        with draft_beside(self._path, token.value.encode()) as draft:
            until = math.floor(self._clock.wall() + expires_at - self._clock.now()) * NANOSECONDS_PER_SECOND + MARK
            os.utime(draft, ns=(until, until))
            identity = identity_of(draft.lstat())
            self._seconds_valid()  # raises an error if another program has meanwhile put a file of its own there
            draft.replace(self._path)
        self._written, self._identity, self._expires_at = token, identity, expires_at
        return "written"

    def _seconds_valid(self) -> float | None:
        """Return how long the token in the file is valid: None if there is no file, inf if another program wrote it."""
        try:
            found = self._path.lstat()
            if identity_of(found) == self._identity:
                return self._expires_at - self._clock.now()
            if not stat.S_ISREG(found.st_mode):
                raise FileExistsError(errno.EEXIST, IRREGULAR)
            with self._path.open("rb") as file:
                content = file.read(LONGEST_TOKEN + 1).decode(errors="replace")
        except FileNotFoundError:
            return None
        form = read_form(content)
        if (
            form is None
            or form.header.kind != "SAT"
            or not (form.is_whole and form.end == len(content) <= LONGEST_TOKEN)
        ):
            raise FileExistsError(errno.EEXIST, OTHER)
        return found.st_mtime - self._clock.wall() if found.st_mtime_ns % NANOSECONDS_PER_SECOND == MARK else math.inf


def identity_of(found: os.stat_result) -> tuple[int, int, int]:
    """Return what identifies a file: its device, its number there, which may be used again, and its time."""
    return found.st_dev, found.st_ino, found.st_mtime_ns


@contextmanager
def draft_beside(path: Path, content: bytes) -> Iterator[Path]:
    """Yield a new file with mode 0600 in the same folder, to replace `path` with. Otherwise, it is removed."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # has mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(handle)  # otherwise, a power failure could leave an empty file under the name
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
