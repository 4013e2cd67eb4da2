"""The place in a store where a session keeps its pair, and what is under way there in the background."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from signalwire_tokens.errors import ConfigurationError, StoreError

from .sharing_rules import UNBOUNDED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from signalwire_tokens.models import TokenPair
    from signalwire_tokens.stores import TokenStore

    from .sharing_rules import Lives

__all__ = ["Share", "complaint", "is_over", "logged"]

METHODS = ("delete", "lease", "load", "save", "watch")

logger: logging.Logger = logging.getLogger("signalwire_tokens.session")


class Share:
    """The place in a store where a session's pair is, and what is under way there behind the session's back.

    `brought` is a pair that the session did not issue, until the store has it: whatever it holds under the key before
    is a successor. `longest` limits the lifetimes of a stored pair, which may have been stored with other settings.
    `ahead` is by how much the wall clock was ahead of the session's clock when the current pair
    was asked for, and `answer` is the last pair that the session got from SignalWire, with the same of that.
    """

    __slots__ = (
        "ahead",
        "answer",
        "brought",
        "heard",
        "key",
        "longest",
        "looked",
        "looking",
        "mark",
        "name",
        "saving",
        "store",
        "unwatch",
    )

    def __init__(self, store: TokenStore, key: str, longest: Lives = UNBOUNDED) -> None:
        if isinstance(store, type) or not all(callable(getattr(store, name, None)) for name in METHODS):
            raise ConfigurationError("store must be one, such as SqliteStore(path, keys=…)")
        self.store: TokenStore = store
        self.name: str = repr(store)
        self.key: str = key
        self.brought: TokenPair | None = None
        self.longest: Lives = longest
        self.ahead: float = 0.0
        self.answer: tuple[TokenPair | None, float] = (None, 0.0)
        self.mark: str | None = None  # the last one of the session's own
        self.heard: bool = False  # of a new pair, and not looked yet
        self.looked: bool = False  # for a last way out, and found none
        self.looking: asyncio.Task[None] | None = None
        self.saving: asyncio.Task[None] | None = None
        self.unwatch: Callable[[], object] = nothing

    def stop(self) -> None:
        """Cancel the tasks, and the watch on the store. The event loop may be closed already."""
        unwatch, self.unwatch = self.unwatch, nothing
        for task in (self.looking, self.saving):
            if task is not None and not task.get_loop().is_closed():
                task.cancel()
        with logged("a store failed to forget a session"):
            unwatch()

    async def stopped(self, limit: float) -> None:
        """Wait until what was stopped has ended, and no longer than so."""
        tasks = [task for task in (self.looking, self.saving) if task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=limit)


@contextmanager
def logged(what: str) -> Iterator[None]:
    """Go on where somebody else's code fails, and say so without its text, which may hold anything."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a store is anybody's code
        logger.warning("%s: %s", what, type(error).__name__)


def is_over(task: asyncio.Task[None] | None) -> bool:
    """Tell whether a task has ended, if there was one."""
    return task is None or task.done()


def complaint(share: Share, reason: str) -> StoreError:
    """Say what is wrong with a store."""
    return StoreError(f"{share.name}: #{share.key[:8]}: {reason}")


def nothing() -> None:
    """Do nothing."""
