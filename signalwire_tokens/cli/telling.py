"""How a command that holds a session tells of it: as lines, as JSON, or drawn as it stands."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .command import one_line, to_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from signalwire_tokens.keeper import SessionEvent
    from signalwire_tokens.session import SubscriberSession

__all__ = ["Standing", "Teller", "draw", "look_on", "span", "standing_of"]

MINUTES, HOURS = 100, 100  # of the smaller unit: from so many on, a length of time is told in the larger one


class Teller:
    """Tells what happens, with a stamp before each line; as JSON, with the time in it."""

    def __init__(self, say: Callable[[str], object], stamp: Callable[[], str], *, as_json: bool = False) -> None:
        self._say = say
        self._stamp = stamp
        self._as_json = as_json

    def say(self, text: str) -> None:
        """Print a line."""
        self._say(f"{self._stamp()}  {text}")

    def note(self, event: str, text: str, **facts: object) -> None:
        """Tell of something that happened: as words, or as the facts of it."""
        if self._as_json:
            known = {name: fact for name, fact in facts.items() if fact is not None}
            self._say(json.dumps({"at": datetime.now(UTC), "event": event, **known}, default=to_json))
        else:
            self.say(f"{event}: {text}")

    def tell(self, event: SessionEvent) -> None:
        """Tell of a session's event."""
        token = event.pair.access_token if event.pair else None
        if token is None and event.kind == "closed":
            return  # one that was never open
        error = None if event.error is None else one_line(str(event.error))
        told = f"token #{token.digest}" if token else None
        self.note(
            event.kind,
            ", ".join(filter(None, [f"generation {event.generation}", told])) + (f": {error}" if error else ""),
            generation=event.generation,
            digest=token and token.digest,
            expires_at=token and token.expires_at,
            error=error,
        )


@attrs.frozen(kw_only=True)
class Standing:
    """How a session stands at a moment: what can be drawn elsewhere than where it lives."""

    state: str
    expires_in: float
    life: float
    generation: int
    pause: float | None
    error: str | None


def standing_of(session: SubscriberSession) -> Standing:
    """Return how a session stands, by the clock that it shares with its client."""
    due, token = session.next_refresh_at, session.pair.access_token if session.generation else None
    now = session.client.clock.wall()
    return Standing(
        state=session.state.value,
        expires_in=session.expires_in.total_seconds(),
        life=(token.expires_at - token.issued_at).total_seconds() if token else 1.0,
        generation=session.generation,
        pause=None if due is None else max(0.0, due.timestamp() - now),
        error=None if session.last_error is None else one_line(str(session.last_error)),
    )


def draw(standing: Standing) -> RenderableType:
    """Draw how a session stands."""
    table = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=standing.life, completed=standing.expires_in, width=40)
    table.add_row("state", standing.state)
    table.add_row("expires in", bar, span(standing.expires_in))
    table.add_row("generation", str(standing.generation))
    table.add_row("next refresh", "none" if standing.pause is None else f"in {span(standing.pause)}")
    table.add_row("last error", Text(standing.error or "none"))  # what the service said is no markup
    return table


async def look_on(session: SubscriberSession, show: Callable[[RenderableType], object], *, every: float) -> None:
    """Show how a session stands, at regular intervals."""
    while True:
        show(draw(standing_of(session)))
        await session.client.clock.sleep(every)


def span(seconds: float) -> str:
    """Write a length of time as people read it."""
    if seconds < MINUTES:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= HOURS else f"{minutes} min {seconds:02} s"
