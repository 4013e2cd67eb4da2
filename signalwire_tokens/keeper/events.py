"""The events that a session emits, and the tasks in which its subscribers receive them."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, TypeAlias

import attrs

from signalwire_tokens.errors import SignalWireTokenError
from signalwire_tokens.lifecycle import EventKind
from signalwire_tokens.models import TokenPair

if TYPE_CHECKING:
    from signalwire_tokens.clock import Timer

__all__ = ["Callback", "EventKind", "Listener", "SessionEvent", "is_cancelled", "logged"]

logger: logging.Logger = logging.getLogger("signalwire_tokens.session")


@attrs.frozen(kw_only=True)
class SessionEvent:
    """Something that happened to a session: what, to which pair, and the error where one is why.

    With `persist_failed`, the pair is the one before that which could not be saved.
    """

    kind: EventKind
    generation: int
    pair: TokenPair | None = None
    error: SignalWireTokenError | None = None


Callback: TypeAlias = Callable[[SessionEvent], object]


class Listener:
    """A subscriber's callback. It receives events in order, one at a time, in a task of its own.

    Emitting never runs the callback at once, even on an event loop with eager tasks.
    """

    __slots__ = ("_callback", "_context", "_events", "_forgotten", "task")

    def __init__(self, callback: Callback) -> None:
        self._callback = callback
        self._context = copy_context()
        self._events: deque[SessionEvent] = deque()
        self._forgotten = False
        self.task: asyncio.Task[None] | None = None

    def emit(self, event: SessionEvent, timer: Timer) -> None:
        """Call the callback soon."""
        if self._forgotten:
            return
        self._events.append(event)
        if self.task is None or self.task.done():
            self.task = timer.run(self._listen(), "call a subscriber", self._context)

    def forget(self, forgotten: Callable[[], None]) -> None:
        """Emit no more events, and call `forgotten` once the callback has ended, if it is running."""
        self._forgotten = True
        self._events.clear()
        if self.task is None or self.task.done():
            forgotten()
        else:
            self.task.add_done_callback(lambda _: forgotten())

    async def _listen(self) -> None:
        while self._events:
            event = self._events.popleft()
            try:
                result = self._callback(event)
                if inspect.isawaitable(result):
                    await result
            except Exception:  # whatever it is: a subscriber is anybody's code, and the next event is still to be told
                logger.exception("a subscriber failed on %r", event.kind)
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                logger.error("a subscriber was cancelled from within on %r", event.kind)  # noqa: TRY400 - no traceback


@contextmanager
def logged(what: str) -> Iterator[None]:
    """Go on where a caller's code fails, and log that without its text, which may hold a secret."""
    try:
        yield
    except (Exception, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError) and is_cancelled():
            raise
        logger.warning("%s: %s", what, type(error).__name__)


def is_cancelled() -> bool:
    """Tell whether somebody wants this task to end; if not, a `CancelledError` is a failure of what raised it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
