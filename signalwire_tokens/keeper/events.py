"""The events that a session emits, and the tasks in which its subscribers receive them."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar

import attrs

from signalwire_tokens.errors import SignalWireTokenError
from signalwire_tokens.lifecycle import EventKind
from signalwire_tokens.models import TokenPair

if TYPE_CHECKING:
    from signalwire_tokens.clock import Timer

__all__ = ["Callback", "EventKind", "Listener", "SessionEvent", "is_cancelled", "logged"]

CALLBACK_FAILED = "a callback of subscribe() raised an exception for the event %r; later events still reach it"
CALLBACK_CANCELLED = "a callback of subscribe() raised CancelledError for the event %r, but its task wasn't cancelled"

logger: logging.Logger = logging.getLogger("signalwire_tokens.session")


@attrs.frozen(kw_only=True)
class SessionEvent:
    """An event of a session.

    `kind` is what happened, and `pair` the session's current pair; None before the first one. `generation` is how many
    pairs the session has had. `error` is the reason, where there is one.

    An event `persist_failed` comes before the pair that couldn't be saved becomes the current one. Its `pair` is the
    one before.
    """

    kind: EventKind
    generation: int
    pair: TokenPair | None = None
    error: SignalWireTokenError | None = None


Callback: TypeAlias = Callable[[SessionEvent], object]


class Event(Protocol):
    """What a callback receives. `kind` names it in the log."""

    @property
    def kind(self) -> str: ...


E = TypeVar("E", bound=Event)


class Listener(Generic[E]):
    """A subscriber's callback, with its events that are still to be handled.

    The callback receives events in order, one at a time, in a task of its own. So a callback that hangs doesn't delay
    the session or other subscribers. It runs in the context of the task that subscribed. Emitting never runs the
    callback at once, even on an event loop with eager tasks.
    """

    __slots__ = ("_callback", "_context", "_events", "_forgotten", "task")

    def __init__(self, callback: Callable[[E], object]) -> None:
        self._callback = callback
        self._context = copy_context()
        self._events: deque[E] = deque()
        self._forgotten = False
        self.task: asyncio.Task[None] | None = None

    def emit(self, event: E, timer: Timer) -> None:
        """Queue an event, and start the subscriber's task if none is running."""
        if self._forgotten:
            return
        self._events.append(event)
        if self.task is None or self.task.done():
            self.task = timer.run(self._listen(), "call a subscriber", self._context)

    def forget(self, forgotten: Callable[[], None]) -> None:
        """Stop calling the callback, and drop the events in its queue.

        `forgotten` is called once the callback isn't running any more: now, or when its current call has ended. Until
        then, the session still knows its task, and can wait for it when it closes.
        """
        self._forgotten = True
        self._events.clear()
        if self.task is None or self.task.done():
            forgotten()
        else:
            self.task.add_done_callback(lambda _: forgotten())

    async def _listen(self) -> None:
        """Call the callback with one event after another, until the queue is empty. An exception doesn't stop that."""
        while self._events:
            event = self._events.popleft()
            try:
                result = self._callback(event)
                if inspect.isawaitable(result):
                    await result
            except Exception:  # of any kind: the callback is your app's code, and the next event must still reach it
                logger.exception(CALLBACK_FAILED, event.kind)
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                logger.error(CALLBACK_CANCELLED, event.kind)  # noqa: TRY400 - no traceback


@contextmanager
def logged(what: str) -> Iterator[None]:
    """Log an exception of your app's code, and go on. The log has its type only, because its text may hold a secret.

    A cancellation of the current task passes through.
    """
    try:
        yield
    except (Exception, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError) and is_cancelled():
            raise
        logger.warning("%s: %s", what, type(error).__name__)


def is_cancelled() -> bool:
    """Return whether the current task was asked to end.

    If not, a `CancelledError` comes from the code that was called, which has cancelled something of its own. It then
    counts as a failure of that code.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
