"""What users ask of a session, whatever keeps it alive: its token, how it stands, its beginning and its end."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import warnings
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Self

from signalwire_tokens.clock import moment_in, timer_of
from signalwire_tokens.errors import (
    SessionClosed,
    SessionError,
    SessionExpired,
    SignalWireTokenError,
    TokenUnavailable,
)
from signalwire_tokens.lifecycle import Phase
from signalwire_tokens.models import Token, TokenPair
from signalwire_tokens.policy import Denied, Expire, Misconfigured, Present, Reissue, SessionState, Spent

from .events import Listener
from .renewing import Turn
from .sharing import Sharing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime
    from types import TracebackType

    from signalwire_tokens.clock import Timer

    from .events import Callback

__all__ = ["CHECKED_EVERY", "Keeper"]

CHECKED_EVERY = 1.0  # seconds for which `token()` doesn't check its process and event loop again
LAST_WORD = 1.0  # seconds that subscribers get to finish when a session closes

logger: logging.Logger = logging.getLogger("signalwire_tokens.session")


class Keeper(Sharing):
    """Keep a pair alive, from `start()` to `aclose()`: what users ask of any session."""

    __slots__ = ()
    _another: ClassVar[str] = "make another one"  # what to do once the session is closed

    async def token(self, min_ttl: float | None = None) -> str:
        """Return a token that is live.

        It waits only where the token at hand has less than `min_ttl` seconds left (30 by default), and then no longer
        than the policy's `patience`; a token that is still live is returned rather than none. Raises `TokenUnavailable`
        where there is no live one at this moment, `SessionExpired` where there will be none any more.
        """
        cycle = self._lifecycle
        if min_ttl is None and self._now() < cycle.fresh_until:
            return cycle.value
        return await self._live_token(min_ttl)

    @property
    def pair(self) -> TokenPair:
        """The pair at hand."""
        pair = self._lifecycle.pair
        if pair is None:
            raise SessionClosed(f"session {self._label} has no pair yet: open it with `async with` or `start()`")
        return pair

    @property
    def state(self) -> SessionState:
        """How the session stands."""
        return self._lifecycle.state(self._now())

    @property
    def runway(self) -> timedelta:
        """How long the token at hand is live for."""
        return timedelta(seconds=max(0.0, min(self._left(), timedelta.max.total_seconds() / 2)))

    @property
    def longest_ttl(self) -> float:
        """The most that callers can ask for as `min_ttl`, in seconds. A backend may have less left of its tokens."""
        return self._lifecycle.longest_ttl

    @property
    def next_refresh_at(self) -> datetime | None:
        """When the next renewal is planned; None if none is."""
        if self._lifecycle.phase is not Phase.OPEN:
            return None
        if self._flight is None and isinstance(self._next_step(), Expire):
            return None
        return moment_in(self._clock, 0.0 if self._flight is not None else self._pause())

    @property
    def generation(self) -> int:
        """How many pairs the session has had, the one at hand included."""
        return self._lifecycle.generation

    async def rotations(self) -> AsyncIterator[TokenPair]:
        """Iterate over the pairs as they come, beginning with the one at hand.

        Who is slow gets the latest only. It ends when the session is closed, and raises `SessionExpired` if it dies.
        """
        seen, cycle = 0, self._lifecycle
        while cycle.phase < Phase.SHUT:
            self._check()
            if cycle.generation != seen:
                seen = cycle.generation
                yield self.pair
            else:
                await self._changed()

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Call or await `callback` on every event; return a function that ends that.

        An exception in the callback is logged. A callback that hangs delays no other.
        """
        if not callable(callback):
            raise TypeError("callback must be a function that takes a SessionEvent")
        listener = Listener(callback)
        self._listeners = (*self._listeners, listener)

        def unsubscribe() -> None:
            listener.forget(forgotten)

        def forgotten() -> None:
            self._listeners = tuple(one for one in self._listeners if one is not listener)

        return unsubscribe

    async def refresh(self) -> TokenPair:
        """Renew now, whatever the policy says, or join the renewal that is under way; return the new pair."""
        timer, cycle = self._check(), self._lifecycle
        generation = cycle.generation
        if self._flight is None:
            step = cycle.way(self._now())
            if isinstance(step, Expire):
                raise SessionExpired(f"session {self._label} has no way to renew") from self.last_error
            self._force(step, timer)
        while self._is_renewing():
            await self._changed()
        if cycle.generation == generation:
            self._check()
            raise self._unavailable("could not be renewed now") from self._reason
        return self.pair

    def _force(self, step: Present | Reissue, timer: Timer) -> None:
        """Renew now."""
        self._depart(self._renew(step), step, timer)

    def _is_renewing(self) -> bool:
        """Tell whether a renewal is under way."""
        return self._flight is not None

    def invalidate(self, token: str | Token) -> None:
        """Learn that the service refused a token: it is not handed out again, and renewed. Any other is ignored."""
        self._check()
        cycle, now = self._lifecycle, self._now()
        if value_of(token) != cycle.value or cycle.left(now) <= 0:
            return
        logger.warning("session %s generation %d: the token was refused", self._label, cycle.generation)
        self._carry_out(cycle.invalidate(now))
        self._plan()
        self._notify()

    def report_unauthorized(self, token: str | Token) -> bool:
        """Invalidate a token that a request got a 401 for; return whether to repeat the request with the next token.

        If no renewal may begin now, the token stays in use, and the result is False: other callers would be without a
        token. That is so for a minute after another one was invalidated, and while SignalWire is left alone. Raises
        `SessionExpired` or `SessionClosed` if there will be no next token.
        """
        self._check()
        cycle, now = self._lifecycle, self._now()
        is_current = value_of(token) == cycle.value and cycle.left(now) > 0
        if is_current and not (cycle.may_force(now) and self._may_renew()):
            return False
        self.invalidate(token)
        return True

    async def start(self) -> Self:
        """Open the session: return when there is a live token. `async with` does it for you."""
        phase = self._lifecycle.phase
        if phase >= Phase.SHUT:
            raise SessionClosed(f"session {self._label} was closed: {self._another}")
        if phase is not Phase.NEW:
            raise SessionError(f"session {self._label} is open already")
        self._timer = timer_of(self._clock)
        try:
            self._open()
            await self._first_token()
        except BaseException:
            await self.aclose()
            raise
        self._lifecycle.check_next()  # which may come from another event loop
        self._tell("started")
        return self

    def _open(self) -> None:
        """Begin to keep a pair."""
        self._lifecycle.open(self._now())
        if self._brought is not None:
            self._lifecycle.begin_with(self._brought, self._brought_at(self._brought), self._now())
            self._brought = None
        self._begin_sharing()
        self._plan()

    async def aclose(self) -> None:
        """Close the session. A renewal under way is not cancelled, but waited for, up to the policy's `drain`."""
        if self._timer is not None:
            self._check_place(self._timer)
        try:
            await self._close()
        finally:
            close = getattr(self._renewal, "aclose", None)
            if close is not None:
                await close()

    async def _close(self) -> None:
        cycle = self._lifecycle
        if self._timer is None:
            cycle.close()
            return
        if cycle.phase >= Phase.ENDING:
            while cycle.phase is not Phase.CLOSED:
                await self._changed()
            await self._drain()
            return
        self._shut(self._timer)
        cycle.end()
        try:
            await self._drain()
            await self._end_sharing()
        except asyncio.CancelledError:
            self._silence()
            raise
        finally:
            self._end()
        try:
            await self._dismiss()
        except asyncio.CancelledError:
            self._silence()
            raise

    def _shut(self, timer: Timer) -> None:
        """Give no token any more, and begin no renewal."""
        self._lifecycle.shut()
        timer.unset(self)
        self._notify()

    def _end(self) -> None:
        """Be closed."""
        self._stop_sharing()
        self._tell("closed")
        self._lifecycle.close()
        self._notify()

    async def wait_closed(self) -> None:
        """Return when the session is closed; raise `SessionExpired` if it dies."""
        cycle = self._lifecycle
        while cycle.phase is not Phase.CLOSED:
            if cycle.phase < Phase.SHUT:
                self._check()
            await self._changed()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._label} {self.state.value}, generation {self.generation}>"

    def __del__(self) -> None:
        # The constructor may have refused what it was given.
        timer = getattr(self, "_timer", None)
        if timer is not None and self._lifecycle.phase is not Phase.CLOSED and timer.process == os.getpid():
            self._stop_sharing()
            warnings.warn(
                f"unclosed {self!r}: use `async with`, or await its aclose()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def _check_place(self, timer: Timer) -> None:
        """Raise `SessionError` in another process, or on another event loop, than the session's."""
        misuse = timer.find_misuse()
        if misuse is not None:
            raise SessionError(f"session {self._label} {misuse}")

    def _check(self) -> Timer:
        """Return the timer of an open session, or raise if it isn't open or is used in the wrong place."""
        if self._timer is None:
            raise SessionClosed(f"session {self._label} is not open: use `async with`, or await its start()")
        self._check_place(self._timer)
        phase = self._lifecycle.phase
        if phase >= Phase.SHUT:
            raise SessionClosed(f"session {self._label} was closed: {self._another}")
        if phase is Phase.EXPIRED:
            message = f"session {self._label} has expired, and there is no way left to renew it"
            raise SessionExpired(message) from self.last_error
        return self._timer

    async def _first_token(self) -> None:
        """Wait for a live token; a fault that will not pass is raised as it is."""
        try:
            await self._live_token(None)
        except (TokenUnavailable, SessionExpired) as error:
            await self._drain()  # what is still under way may bring the pair
            if self._left() > 0:
                return
            fault = self._fault()
            if fault is not None:
                raise fault from None
            error.__cause__ = self._reason  # which may have become known by now
            raise

    def _fault(self) -> SignalWireTokenError | None:
        """Find what has kept the session from a first token and will not pass by itself."""
        cycle = self._lifecycle
        unused = cycle.generation == 0 and isinstance(cycle.failure, Spent)
        return self.last_error if unused or isinstance(cycle.failure, Misconfigured | Denied) else None

    async def _live_token(self, min_ttl: float | None) -> str:
        """Return a live token, after a renewal where that is called for."""
        timer, cycle = self._check(), self._lifecycle
        reserve, patience = self._reserve(min_ttl), cycle.policy.patience
        left, tried, now = self._left(), cycle.tried, self._now()
        is_fresh = min_ttl is None and now < cycle.due
        if left > 0 and (left >= reserve or is_fresh):
            timer.look(now)
            cycle.check_until(now + CHECKED_EVERY)
            return cycle.value
        if left > 0:
            # A renewal that fails ends the wait: what is at hand is better than nothing.
            await self._wait(min(patience, left / 2), timer, lambda: cycle.tried != tried)
        if self._left() <= 0:
            await self._wait(patience, timer, lambda: self._left() > 0)
        self._check()
        if self._left() > 0:
            return cycle.value
        await asyncio.sleep(0)  # whoever asks again and again must not keep the renewal from its turn
        raise self._unavailable("has no live token at this moment") from self._reason

    def _unavailable(self, what: str) -> TokenUnavailable:
        # Whoever asks again sooner than the session can try asks in vain.
        pause = max(self._pause(), self._policy.floor_for(self._lifecycle.life))
        has_way = pause < math.inf and not isinstance(self._next_step(), Expire)
        return TokenUnavailable(f"session {self._label} {what}", retry_after=pause if has_way else None)

    def _pause(self) -> float:
        """Tell how long it is until the next attempt."""
        return max(0.0, self.wakes_at - self._now())

    async def _wait(self, seconds: float, timer: Timer, satisfied: Callable[[], bool]) -> None:
        """Wait for the next renewal, for so many seconds of running time, as long as there is hope."""
        turn = Turn()
        alarm = self._clock.call_later(seconds, turn.end)
        try:
            self._hasten(timer)
            while not (satisfied() or turn.over):
                self._check()
                if self._is_hopeless(seconds):
                    break
                await self._changed(turn)
        finally:
            alarm.cancel()

    def _reserve(self, min_ttl: object) -> float:
        """Check how much life a caller wants."""
        if min_ttl is None:
            return self._policy.reserve(self._lifecycle.life)
        longest = self.longest_ttl
        if isinstance(min_ttl, bool) or not isinstance(min_ttl, int | float) or not 0 <= min_ttl <= longest:
            raise ValueError(
                f"min_ttl must be a number of seconds from 0 to {longest:g}: no more is left of every token"
            )
        return min_ttl

    def _is_hopeless(self, seconds: float) -> bool:
        """Tell whether waiting so long cannot help."""
        if self._flight is not None:
            return False
        if isinstance(self._lifecycle.failure, Misconfigured | Denied) and self._left() <= 0:
            return self._pause() > 0  # something has to change first
        return self._pause() > seconds

    def _hasten(self, timer: Timer) -> None:
        """Bring the next attempt forward, since somebody waits for it."""
        if self._lifecycle.want(self._now()):
            self._plan()
        timer.look(self._now())

    async def _drain(self) -> None:
        """Wait for the renewal under way, within bounds."""
        if self._flight is not None:
            await asyncio.wait([self._flight], timeout=self._policy.drain)

    def _told(self) -> set[asyncio.Task[None]]:
        """Find the tasks in which subscribers are being told, but for one that asks."""
        current = asyncio.current_task()
        return {one.task for one in self._listeners if one.task is not None and one.task is not current}

    def _silence(self) -> None:
        """End the tasks in which subscribers are being told."""
        for task in self._told():
            task.cancel()

    async def _dismiss(self) -> None:
        """Let subscribers finish, and end those who do not."""
        tasks = self._told()
        for end in (False, True):
            tasks = {task for task in tasks if not task.done()}
            if tasks:
                for task in tasks if end else ():
                    task.cancel()
                await asyncio.wait(tasks, timeout=LAST_WORD)


def value_of(token: str | Token) -> str:
    """Return the text of a token."""
    return token.value if isinstance(token, Token) else token
