"""Who wants to be told of which key."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Watchers"]

logger: logging.Logger = logging.getLogger("signalwire_tokens.stores")


class Watchers:
    """Callbacks by key."""

    def __init__(self) -> None:
        self.callbacks: dict[str, dict[object, Callable[[], object]]] = {}

    def add(self, key: str, callback: Callable[[], object]) -> Callable[[], None]:
        """Remember a callback; return what forgets it."""
        watch = object()
        self.callbacks.setdefault(key, {})[watch] = callback

        def forget() -> None:
            mine = self.callbacks.get(key, {})
            mine.pop(watch, None)
            if not mine:
                self.callbacks.pop(key, None)

        return forget

    def call(self, key: str) -> None:
        """Tell those who want to know of a key."""
        for callback in tuple(self.callbacks.get(key, {}).values()):
            try:
                callback()
            except Exception as error:  # noqa: BLE001 - it is somebody else's code
                logger.warning("who watches #%s failed with %s", key[:8], type(error).__name__)
