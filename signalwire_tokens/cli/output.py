"""What a command that keeps a token prints: events as lines or as JSON, and a live view of the session."""

from __future__ import annotations

import io
import json
import os
import select
import sys
import threading
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from queue import Full, Queue
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from signalwire_tokens.durations import spoken

from .command import one_line, to_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from signalwire_tokens.keeper import SessionEvent
    from signalwire_tokens.session import SubscriberSession

__all__ = ["EventLog", "Printer", "status_view"]

STDOUT = 1
MAX_LINES = 1000  # that wait to be printed
CLOSE_SECONDS = 1.0  # how long closing waits for the last lines to be printed


class EventLog:
    """Passes each event to a function that prints it: as a line with a stamp, or as a JSON object with the time."""

    def __init__(self, print_line: Callable[[str], object], stamp: Callable[[], str], *, as_json: bool = False) -> None:
        self._print_line, self._stamp, self._as_json = print_line, stamp, as_json

    def line(self, text: str) -> None:
        """Print a line after the stamp."""
        self._print_line(f"{self._stamp()}  {text}")

    def event(self, kind: str, text: str, **facts: object) -> None:
        """Print an event: its text, or with JSON its facts that aren't None."""
        if self._as_json:
            known = {name: fact for name, fact in facts.items() if fact is not None}
            self._print_line(json.dumps({"at": datetime.now(UTC), "event": kind, **known}, default=to_json))
        else:
            self.line(f"{kind}: {text}")

    def session_event(self, event: SessionEvent) -> None:
        """Print an event of a session. A session that closes without ever having had a token isn't worth a line."""
        token = event.pair.access_token if event.pair else None
        if token is None and event.kind == "closed":
            return
        error = None if event.error is None else one_line(str(event.error))
        name = f", token #{token.digest}" if token else ""
        self.event(
            event.kind,
            f"generation {event.generation}{name}" + (f": {error}" if error else ""),
            generation=event.generation,
            digest=token and token.digest,
            expires_at=token and token.expires_at,
            error=error,
        )


def status_view(session: SubscriberSession) -> RenderableType:
    """Return a table of a session's state, by the clock that it shares with its client."""
    token = session.pair.access_token if session.generation else None
    lifetime = (token.expires_at - token.issued_at).total_seconds() if token else 1.0
    left, due = session.expires_in.total_seconds(), session.next_refresh_at
    pause = None if due is None else max(0.0, due.timestamp() - session.client.clock.wall())
    error = "none" if session.last_error is None else one_line(str(session.last_error))
    table = Table.grid(padding=(0, 2))
    table.add_row("state", session.state.value)
    table.add_row("expires in", ProgressBar(total=lifetime, completed=left, width=40), spoken(left))
    table.add_row("generation", str(session.generation))
    table.add_row("next refresh", "none" if pause is None else f"in {spoken(pause)}")
    table.add_row("last error", Text(error))  # not a string, which may hold markup
    return table


class Printer:
    """Prints lines to standard output and, on a terminal, a view below them that is replaced each time.

    It prints on a thread of its own, so a reader that doesn't read delays no caller. A line is lost if 1,000 lines are
    waiting already, if the reader is gone, or if the disk is full.
    """

    def __init__(self, *, live: bool) -> None:
        descriptor = os.open(os.devnull, os.O_WRONLY) if sys.stdout is None else STDOUT
        self._file = DescriptorFile(descriptor)
        self.is_live: bool = live and os.isatty(descriptor)
        self._queue: Queue[str | RenderableType | None] = Queue(MAX_LINES)
        self.thread: threading.Thread = threading.Thread(target=self._run, name="signalwire-tokens", daemon=True)
        self.thread.start()

    def print(self, item: str | RenderableType | None) -> None:
        """Print a line or a view soon. None ends the thread."""
        with suppress(Full):
            self._queue.put_nowait(item)

    def show(self, view: RenderableType) -> None:
        """Print a view soon, unless something is waiting to be printed."""
        if self._queue.empty():
            self.print(view)

    def close(self) -> None:
        """Print the remaining lines, and end the thread. If the reader doesn't read, return after a second."""
        self.print(None)
        self.thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        console = Console(file=cast("Any", self._file), force_terminal=self.is_live, highlight=False, soft_wrap=True)
        # Without redirection: what other code writes to standard error must not wait for this thread.
        live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
        with suppress(OSError), live if self.is_live else nullcontext():
            while (item := self._queue.get()) is not None:
                with suppress(OSError):
                    if not isinstance(item, str):
                        live.update(item, refresh=True)
                    elif self.is_live:
                        console.print(Text(item))
                    else:
                        self._file.write(f"{item}\n")


class DescriptorFile(io.TextIOBase):
    """A text file without a buffer: Python can't exit while another thread waits to write one."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        """Write all of a text, and return its length."""
        data = text.encode(errors="backslashreplace")
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # another process that shares the descriptor has made it non-blocking
                select.select([], [self._descriptor], [])
        return len(text)
