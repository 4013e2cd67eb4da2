"""How long the library sends no requests after SignalWire asked for a pause.

A client has one `Throttle` for its space, which its retries, sessions, fleets and the token endpoint share. (Another
origin for embed tokens has its own.) Another source of tokens has one for each session. `errors.is_throttle` decides
which answers ask for a pause. The client reports every answer to the throttle with `note`.

The throttle only records what SignalWire asked for. Its users decide how far they follow it: a session with a valid
token waits for at most half of the time that is left, for example. A direct call of a client's method sends its first
request in any case; only its retries wait.

Answers don't arrive in the order of their requests. An answer counts as news only if its request was sent after
SignalWire last asked for a pause. For example::

    time   answer                           request sent at   the pause then ends at
    ----   ------------------------------   ---------------   -------------------------------------------------
      1    429 with `Retry-After: 30`              0          31
      2    429 with `Retry-After: 5`               0          31, since an older request can only extend it
      3    200                                     0          31, since the request was sent before SignalWire asked
     11    429 with `Retry-After: 5`              10          16, since a newer answer replaces the older one
     13    429 without `Retry-After`              12          16, since the assumed second can only extend it
     15    200                                    14          now: the throttle is lifted, and watchers are called
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary, WeakSet

from .errors import is_throttle

if TYPE_CHECKING:
    from .errors import RateLimitHint, SignalWireTokenError

__all__ = ["LONGEST_THROTTLE", "Throttle"]

LONGEST_THROTTLE = 60.0  # seconds from when SignalWire asked, after which callers without a valid token ask again
DEFAULT_PAUSE = 1.0  # the pause in seconds if SignalWire asks for one without a `Retry-After`


class Watcher(Protocol):
    """An object that waits for the end of a throttle: the engine of a session, or the gate of a fleet."""

    def throttle_lifted(self) -> None:
        """Plan the next request, since SignalWire accepts requests again."""
        ...


class Follower(Protocol):
    """An object that shares with other processes what SignalWire has answered: the account of a fleet."""

    def throttle_changed(self) -> None:
        """Share that SignalWire has asked for a pause, or that the throttle was lifted."""
        ...

    def rate_limit_reported(self, hint: RateLimitHint) -> None:
        """Share what an answer reports about the account's rate limit."""
        ...


class Throttle:
    """The pause that SignalWire last asked for.

    Times are in seconds by the client's clock. SignalWire asked at `asked_at` for a pause until `until`, with `error`.
    All three are -inf, -inf and None before the first pause. Once the throttle is lifted, `error` is None and `until`
    is -inf, but `asked_at` stays: it is what later answers are compared with.

    `followers` share each change. The throttle holds them weakly.
    """

    __slots__ = ("_watchers", "asked_at", "error", "followers", "until")

    def __init__(self) -> None:
        self.asked_at: float = -math.inf
        self.until: float = -math.inf
        self.error: SignalWireTokenError | None = None
        self.followers: WeakSet[Follower] = WeakSet()
        self._watchers: WeakKeyDictionary[Watcher, None] = WeakKeyDictionary()  # a dict keeps the order of arrival

    def left(self, now: float, *, longest: float = math.inf) -> float:
        """Return for how many seconds no request should be sent; 0.0 if one may be sent now.

        `longest` limits the whole pause, in seconds from when SignalWire asked.
        """
        return max(0.0, min(self.until, self.asked_at + longest) - now)

    def note(self, error: SignalWireTokenError | None, *, sent: float, now: float) -> None:
        """Update the throttle by the answer to a request that was sent at `sent`.

        `error` is what the answer means, and None for a success. An error that isn't a throttle changes nothing.
        """
        is_newer = sent > self.asked_at
        if error is None:
            if is_newer and self.error is not None:
                self._lift()
        elif is_throttle(error):
            until = now + (DEFAULT_PAUSE if error.retry_after is None else error.retry_after)
            # The answer to a newer request with a length of its own replaces the pause; any other only extends it.
            self.until = until if is_newer and error.retry_after is not None else max(self.until, until)
            self.asked_at, self.error = now, error
            self._notify_followers()

    def adopt(self, error: SignalWireTokenError, *, asked: float, until: float) -> bool:
        """Adopt a pause that SignalWire has asked another process for. Return False if it asked this one later."""
        is_news = asked > self.asked_at
        if is_news:
            self.asked_at, self.until, self.error = asked, until, error
        return is_news

    def release(self, error: SignalWireTokenError) -> None:
        """Lift the throttle if its pause has this error."""
        if self.error is error:
            self._lift()

    def clock_leaped(self, seconds: float, now: float) -> None:
        """Lift the throttle if it has ended by the wall clock, which has gained `seconds`.

        The virtual machine may have been paused, and `now` doesn't count that.
        """
        if self.error is not None and self.until - now <= seconds:
            self._lift()

    def watch(self, watcher: Watcher) -> None:
        """Call `watcher.throttle_lifted()` once, when the throttle is lifted. The throttle holds the watcher weakly."""
        self._watchers[watcher] = None

    def _lift(self) -> None:
        self.until, self.error = -math.inf, None
        watchers = list(self._watchers)
        self._watchers.clear()
        for watcher in watchers:
            watcher.throttle_lifted()
        self._notify_followers()

    def _notify_followers(self) -> None:
        for follower in tuple(self.followers):
            follower.throttle_changed()
