"""Calls your app's function for a credential: `auth` of a `BackendSession`, `token` of a `DeviceSession`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from signalwire_tokens.clock import timer_of
from signalwire_tokens.durations import spoken
from signalwire_tokens.errors import SignalWireTokenError, TimedOut, TransportError

from .credentials import ask_caller

if TYPE_CHECKING:
    from signalwire_tokens.clock import Clock
    from signalwire_tokens.secret import Secret

__all__ = ["CallerFunction"]


class CallerFunction:
    """A function, sync or async, that your app gave as the argument `name`.

    It runs in a task of its own, because it may ignore its cancellation and never return. While such a task is still
    running, the function isn't called a second time: the next `call()` waits for that task again.
    """

    def __init__(self, function: Secret[Any], name: str) -> None:
        self._function = function
        self._name = name
        self._task: asyncio.Task[tuple[Secret[Any], Exception | None]] | None = None

    async def call(self, clock: Clock, limit: float) -> Secret[Any]:
        """Return what the function returns, or raise an error.

        If the function doesn't return within `limit` seconds of the event loop's time, it is cancelled, and `TimedOut`
        is raised. An error of this library is raised as it is. Any other exception becomes a `TransportError` with
        `sent=False`, so a session tries again later. If the caller is cancelled, the function is cancelled, too.
        """
        task = self._task
        if task is None or task.done():
            task = timer_of(clock).begin(ask_caller(self._function), f"call {self._name}")
        self._task = task
        try:
            await asyncio.wait([task], timeout=limit)
        finally:
            task.cancel()
        if not task.done():
            raise TimedOut(f"the {self._name} function hasn't returned within {spoken(limit)}", sent=False)
        self._task = None
        if task.cancelled():
            raise TransportError(f"the {self._name} function was cancelled from inside", sent=False)
        answer, failure = task.result()
        if isinstance(failure, SignalWireTokenError):
            raise failure
        if failure is not None:
            what = type(failure).__name__
            raise TransportError(f"the {self._name} function raised {what}", sent=False) from failure
        return answer
