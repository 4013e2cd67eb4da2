"""The event loop that a store's or a governor's connections belong to."""

from __future__ import annotations

import asyncio

from signalwire_tokens.errors import StoreError

__all__ = ["LoopOwner"]


class LoopOwner:
    """The event loop that first uses a store or a governor, until it is closed. A forked process has another one.

    `name` is its repr, for messages, and begins with the name of its class.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_used(self) -> bool:
        """Return whether connections may be open, since the last `release`."""
        return self._loop is not None

    def bind(self) -> asyncio.AbstractEventLoop:
        """Return the running event loop. Raise `StoreError` if the connections belong to another one."""
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            kind = self._name.partition("(")[0]
            raise StoreError(
                f"{self._name} was first used on another event loop or before a fork: create one {kind} per event "
                "loop and process"
            )
        return loop

    def release(self) -> None:
        """Allow another event loop to use the connections, which must be closed next.

        Raise `StoreError` on a wrong event loop.
        """
        if self._loop is not None and not self._loop.is_closed():
            self.bind()
        self._loop = None
