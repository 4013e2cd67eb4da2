"""How a command that holds a session tells of it: as lines, as JSON, or drawn as it stands."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.progress_bar import ProgressBar
from rich.table import Table

from .command import say_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console, RenderableType

    from signalwire_tokens.keeper import SessionEvent
    from signalwire_tokens.session import SubscriberSession

__all__ = ["Teller", "draw", "span"]

MINUTES, HOURS = 100, 100  # of the smaller unit: from so many on, a length of time is told in the larger one


class Teller:
    """Tells what happens, with a stamp before each line; as JSON, with the time in it."""

    def __init__(self, console: Console, stamp: Callable[[], str], *, as_json: bool = False) -> None:
        self._console = console
        self._stamp = stamp
        self._as_json = as_json

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(f"{self._stamp()}  {text}", markup=False)

    def note(self, event: str, text: str, **facts: object) -> None:
        """Tell of something that happened: as words, or as the facts of it."""
        if self._as_json:
            known = {name: fact for name, fact in facts.items() if fact is not None}
            say_json({"at": datetime.now(UTC), "event": event, **known})
        else:
            self.say(f"{event}: {text}")

    def tell(self, event: SessionEvent) -> None:
        """Tell of a session's event."""
        token = event.pair.token if event.pair else None
        error = None if event.error is None else " ".join(str(event.error).split())
        told = f"token #{token.digest}" if token else None
        self.note(
            event.kind,
            ", ".join(filter(None, [f"generation {event.generation}", told])) + (f": {error}" if error else ""),
            generation=event.generation,
            token=token and token.digest,
            expires_at=token and token.expires_at,
            error=error,
        )


def draw(session: SubscriberSession) -> RenderableType:
    """Draw how a session stands."""
    runway, due = session.runway.total_seconds(), session.next_refresh_at
    pause = None if due is None else max(0.0, (due - datetime.now(UTC)).total_seconds())
    table = Table.grid(padding=(0, 2))
    table.add_row("state", session.state.value)
    table.add_row("runway", ProgressBar(total=life_of(session), completed=runway, width=40), span(runway))
    table.add_row("generation", str(session.generation))
    table.add_row("next refresh", "none" if pause is None else f"in {span(pause)}")
    table.add_row("last error", str(session.last_error or "none"))
    return table


def life_of(session: SubscriberSession) -> float:
    """Tell how long the token at hand was to live for."""
    if not session.generation:
        return 1.0
    token = session.pair.token
    return (token.expires_at - token.issued_at).total_seconds()


def span(seconds: float) -> str:
    """Write a length of time as people read it."""
    if seconds < MINUTES:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= HOURS else f"{minutes} min {seconds:02} s"
