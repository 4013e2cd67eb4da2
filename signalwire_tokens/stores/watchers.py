"""The callbacks of `TokenStore.watch`, for stores that know when a key changes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Watchers"]

logger: logging.Logger = logging.getLogger("signalwire_tokens.stores")


class Watchers:
    """The callbacks for each key. One that raises is logged, and the others are still called."""

    def __init__(self) -> None:
        self.callbacks: dict[str, dict[object, Callable[[], object]]] = {}

    def add(self, key: str, callback: Callable[[], object]) -> Callable[[], None]:
        """Add a callback for a key. Return a function that removes it, and that may be called more than once."""
        watch = object()  # removes this addition alone: the same callback may be added twice
        self.callbacks.setdefault(key, {})[watch] = callback

        def forget() -> None:
            mine = self.callbacks.get(key, {})
            mine.pop(watch, None)
            if not mine:
                self.callbacks.pop(key, None)

        return forget

    def call(self, key: str) -> None:
        """Call the callbacks of a key, in the order in which they were added."""
        for callback in tuple(self.callbacks.get(key, {}).values()):  # a callback may remove itself
            try:
                callback()
            except Exception as error:  # noqa: BLE001 - a callback may raise anything
                logger.warning("a callback of watch() for key #%s raised %s", key[:8], type(error).__name__)
