"""How long SignalWire is left alone after it asked for that: one `Throttle` per client, which all of its users share.

`errors.is_throttle` decides what counts as asking. The client reports every answer here. Its retries, its sessions,
fleets and the token endpoint look here before they send a request.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet

from .errors import is_throttle

if TYPE_CHECKING:
    from .errors import SignalWireTokenError

__all__ = ["LONGEST_THROTTLE", "Throttle"]

LONGEST_THROTTLE = 60.0  # seconds from when SignalWire asked, for callers without a valid token
UNSAID = 1.0  # seconds that SignalWire is left alone if it doesn't say for how long


class Watcher(Protocol):
    """What waits for the end of a throttle."""

    def throttle_lifted(self) -> None:
        """Plan the next request: SignalWire accepts requests again."""
        ...


class Throttle:
    """Until when SignalWire wants to be left alone, by the client's clock.

    It asked at `asked_at`, until `until`, with `error`. A success lifts the throttle if its request was sent after
    SignalWire asked: an earlier one says nothing about now.
    """

    __slots__ = ("_watchers", "asked_at", "error", "until")

    def __init__(self) -> None:
        self.asked_at: float = -math.inf
        self.until: float = -math.inf
        self.error: SignalWireTokenError | None = None
        self._watchers: WeakSet[Watcher] = WeakSet()

    def left(self, now: float, *, longest: float = math.inf) -> float:
        """Return for how many seconds SignalWire is still left alone, if never for more than `longest` in all."""
        return max(0.0, min(self.until, self.asked_at + longest) - now)

    def note(self, error: SignalWireTokenError | None, *, sent: float, now: float) -> None:
        """Begin, replace or lift the throttle by what came of a request; None stands for success."""
        is_newer = sent > self.asked_at
        if error is None:
            if is_newer and self.error is not None:
                self._lift()
        elif is_throttle(error):
            until = now + (UNSAID if error.retry_after is None else error.retry_after)
            # The answer to a later request says how long it is now.
            self.until = until if is_newer and error.retry_after is not None else max(self.until, until)
            self.asked_at, self.error = now, error

    def watch(self, watcher: Watcher) -> None:
        """Call a watcher when the throttle is lifted; once, and only if it still exists."""
        self._watchers.add(watcher)

    def _lift(self) -> None:
        self.until, self.error = -math.inf, None
        watchers = list(self._watchers)
        self._watchers.clear()
        for watcher in watchers:
            watcher.throttle_lifted()
