"""The time limits of a client's calls. Those with the client's own timeout share one timer of the event loop.

`asyncio.timeout` sets a timer for each call and cancels it when the call ends, which costs a tenth of a request. Calls
with the same limit reach it in the order in which they began. So one timer is enough, which is set for the first of
them. If that call ends in time, the timer stays set. When it rings, it is set for the next call.

A call with a different limit has its own timer. So has a call on another event loop, unless the first loop is closed.
"""

from __future__ import annotations

import asyncio
from itertools import takewhile
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["CallLimits"]


class CallLimits:
    """The time limits of all calls of a client. `usual` is the limit in seconds that most of them have."""

    def __init__(self, usual: float) -> None:
        self._usual = usual
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: dict[CallLimit, None] = {}  # those that share the timer, in the order of their ends
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def limit(self, seconds: float) -> CallLimit:
        """Return a context manager that limits a call to `seconds`."""
        return CallLimit(self, seconds)

    def close(self) -> None:
        """Cancel the timer as soon as no call needs it."""
        self._closed = True
        self._cancel_unneeded()

    def started(self, limit: CallLimit, seconds: float, loop: asyncio.AbstractEventLoop) -> bool:
        """Add a limit to those that share the timer. Return False if it needs a timer of its own."""
        if seconds != self._usual or not self._is_on(loop):
            return False
        if self._timer is None:  # first: if this raises, no limit stays behind
            self._timer = loop.call_at(limit.ends_at, self._ring)
        self._running[limit] = None
        return True

    def ended(self, limit: CallLimit) -> None:
        """Remove a limit, since its call has ended."""
        self._running.pop(limit, None)
        if self._closed:
            self._cancel_unneeded()

    def _is_on(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether the shared timer is on this event loop. If its loop is closed, it moves to this one."""
        if self._loop is not loop and (self._loop is None or self._loop.is_closed()):
            self._loop, self._timer, self._running = loop, None, {}
        return self._loop is loop

    def _ring(self) -> None:
        """End the calls whose time is over, and set the timer for the next one."""
        self._timer = None
        assert self._loop is not None  # noqa: S101 - it has the timer
        now = self._loop.time()
        try:
            for limit in tuple(takewhile(lambda limit: limit.ends_at <= now, self._running)):
                limit.end_call()
                del self._running[limit]
        finally:
            if (first := next(iter(self._running), None)) is not None:
                self._timer = self._loop.call_at(first.ends_at, self._ring)

    def _cancel_unneeded(self) -> None:
        if self._timer is not None and not self._running:
            self._timer.cancel()
            self._timer = None


class CallLimit:
    """The time limit of one call, as a context manager.

    When the time is over, it cancels the task that entered it, and turns that cancellation into a `TimeoutError`. As
    with `asyncio.timeout`, a cancellation by other code isn't changed. `ends_at` is by the event loop's clock.
    """

    __slots__ = ("_before", "_is_over", "_limits", "_seconds", "_task", "_timer", "ends_at")

    ends_at: float
    _task: asyncio.Task[object]
    _before: int

    def __init__(self, limits: CallLimits, seconds: float) -> None:
        self._limits, self._seconds = limits, seconds
        self._is_over = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if task is None:
            raise RuntimeError("a call must run in an asyncio task: its time limit cancels that task")
        self._task, self._before = task, task.cancelling()
        self.ends_at = loop.time() + self._seconds
        if not self._limits.started(self, self._seconds, loop):
            self._timer = loop.call_at(self.ends_at, self.end_call)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is None:
            self._limits.ended(self)
        else:
            self._timer.cancel()
        # `uncancel` first: it takes back the limit's own cancellation, whatever has become of the call.
        if self._is_over and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def end_call(self) -> None:
        """Cancel the call, since its time is over."""
        self._is_over = True
        self._task.cancel()
