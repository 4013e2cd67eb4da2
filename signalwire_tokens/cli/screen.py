"""Where a command that runs for long prints: on a thread of its own, so that nobody who does not read holds it up."""

from __future__ import annotations

import errno
import os
import select
import threading
from collections import deque
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Screen"]

MOST_LINES = 1000  # that wait to be printed: the oldest go first
LAST_WORD = 1.0  # seconds that what waits gets to be printed in the end
GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # nobody reads any more; anything else may pass


class Screen:
    """Prints lines and, on a terminal, a view that is drawn anew below them.

    To print never waits and never fails. What cannot be printed is lost: a reader that has gone, a disk that is full.
    """

    def __init__(self, descriptor: int | None, *, live: bool = False) -> None:
        self._file = Unbuffered(os.open(os.devnull, os.O_WRONLY) if descriptor is None else descriptor)
        self._live = live and self._file.isatty()
        self._lines: deque[str] = deque(maxlen=MOST_LINES)
        self._view: RenderableType | None = None
        self._over = False
        self._changed = threading.Condition()
        self.thread: threading.Thread = threading.Thread(
            target=self._run, name="signalwire-tokens: screen", daemon=True
        )
        self.thread.start()

    @property
    def is_live(self) -> bool:
        """Whether views are drawn."""
        return self._live

    def say(self, line: str) -> None:
        """Print a line, soon."""
        with self._changed:
            self._lines.append(line)
            self._changed.notify()

    def show(self, view: RenderableType) -> None:
        """Draw a view in place of the last one, soon."""
        with self._changed:
            self._view = view
            self._changed.notify()

    def close(self) -> None:
        """Print what waits, and end; whoever does not read is not waited for."""
        with self._changed:
            self._over = True
            self._changed.notify()
        self.thread.join(LAST_WORD)

    def _run(self) -> None:
        console = Console(file=cast("Any", self._file), force_terminal=self._live, highlight=False, soft_wrap=True)
        # Whatever else the process writes is not this thread's, and is not to wait for it.
        live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
        with suppress(OSError), live if self._live else nullcontext():
            while not (self._over and not self._lines):
                try:
                    self._print(console, live)
                except OSError as error:
                    if error.errno in GONE:
                        return

    def _print(self, console: Console, live: Live) -> None:
        """Wait for something to print, and print it."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._view is not None or self._over)
            lines, view = [*self._lines], self._view
            self._lines.clear()
            self._view = None
        for line in lines:
            console.print(Text(line)) if self._live else self._file.write(f"{line}\n")
        if view is not None and self._live:
            live.update(view, refresh=True)


class Unbuffered:
    """A file as rich wants one, over a descriptor.

    Python's own would be locked by a thread that cannot write, and not let the process end.
    """

    encoding = "utf-8"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        """Write all of a text."""
        data = text.encode(errors="backslashreplace")
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # others may share the descriptor, and have made it so
                select.select([], [self._descriptor], [])
        return len(text)

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def isatty(self) -> bool:
        """Tell whether this is a terminal."""
        return os.isatty(self._descriptor)
