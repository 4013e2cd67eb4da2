"""What stores and governors with connections need of asyncio: their event loop, and cancellations that aren't lost.

The clients of Redis and PostgreSQL can swallow a cancellation. `cancellation_kept` raises it again, so that a cancelled
task ends.
"""

from __future__ import annotations

import asyncio
import os
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from signalwire_tokens.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LoopOwner", "cancellation_kept", "end", "warn_if_unclosed"]

CANCEL_AGAIN_AFTER = 0.05  # seconds until a task is cancelled again


class LoopOwner:
    """The event loop and the process that first use a store or a governor, until it is closed.

    `name` is its repr, for messages, and begins with the name of its class.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0

    @property
    def is_used(self) -> bool:
        """Return whether connections of this process may be open, since the last `release`."""
        return self._loop is not None and self._process == os.getpid()

    @property
    def is_closed(self) -> bool:
        """Return whether the event loop is closed, so that connections can't be closed any more."""
        return self._loop is not None and self._loop.is_closed()

    def bind(self) -> asyncio.AbstractEventLoop:
        """Return the running event loop. Raise `StoreError` if the connections belong to another one or to a parent."""
        loop, process = asyncio.get_running_loop(), os.getpid()
        if self._loop is None:
            self._loop, self._process = loop, process
        if self._loop is not loop or self._process != process:
            kind = self._name.partition("(")[0]
            raise StoreError(
                f"{self._name} was first used on another event loop or before a fork: create one {kind} per event "
                "loop and process"
            )
        return loop

    def release(self) -> None:
        """Forget the event loop, once the connections are closed."""
        self._loop = None

    def check(self) -> None:
        """Raise `StoreError` if the connections belong to another event loop that isn't closed."""
        if self._loop is not None and not self._loop.is_closed():
            self.bind()


def warn_if_unclosed(thing: object, owner: LoopOwner) -> bool:
    """Warn that a store or a governor that is dropped has connections. Return whether it has. Call it in `__del__`."""
    if owner.is_used:
        warnings.warn(
            f"unclosed {thing!r}: use `async with`, or await its aclose()", ResourceWarning, stacklevel=3, source=thing
        )
    return owner.is_used


@contextmanager
def cancellation_kept() -> Iterator[None]:
    """Raise `CancelledError` after the block if its task was cancelled in the block, but the block didn't raise it.

    The client can lose a cancellation in two ways. It can raise another exception instead. And it calls
    `asyncio.wait_for`, which in Python 3.11 drops a cancellation that arrives when the result is there already.
    """
    task = cast("asyncio.Task[object]", asyncio.current_task())
    before = task.cancelling()
    try:
        yield
    except Exception:  # of a task that was cancelled, only the cancellation counts
        if task.cancelling() == before:
            raise
    if task.cancelling() > before:
        raise asyncio.CancelledError


async def end(task: asyncio.Task[None] | None) -> None:
    """Cancel a task that uses the client, and wait until it is done. The client may swallow a cancellation.

    If the task's event loop is closed, the task has ended with it.
    """
    while task is not None and not task.done() and not task.get_loop().is_closed():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_AGAIN_AFTER)
