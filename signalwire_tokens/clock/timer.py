"""One timer for all sessions of an event loop: a heap of deadlines, and one alarm for the first of them."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections import deque
from contextvars import Context
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar
from weakref import WeakValueDictionary, ref

from .system import NOTHING_DUE

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from .system import Alarm, Clock

__all__ = ["Sleeper", "Timer", "timer_of"]

# An alarm does not count the time in which the machine was suspended: it must not be far off when that ends.
LONGEST_SLICE = 30.0
AT_ONCE = -math.inf
MOST_FALLEN = 100
MOST_AT_ONCE = 500  # are woken or notified before the event loop gets its turn

T = TypeVar("T")
Entry: TypeAlias = "tuple[float, int, ref[Sleeper]]"
Leap: TypeAlias = tuple[float, list[Entry]]

logger: logging.Logger = logging.getLogger("signalwire_tokens.clock")


class Sleeper(Protocol):
    """Who has a deadline."""

    wakes_at: float

    def wake(self, timer: Timer) -> None:
        """Do what is due; what takes a task, let the timer begin."""
        ...

    def note_leap(self, seconds: float, now: float) -> None:
        """Learn that the wall clock has gained on the session's clock."""
        ...


class Timer:
    """Wake sleepers at their deadlines. It keeps none of them alive, and outlives any that raises."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.process: int = os.getpid()
        self._heap: list[Entry] = []
        self._order = 0
        self._fallen = 0  # about how many of those do not stand any more
        self._alarm: Alarm | None = None
        self._rings_at = math.inf
        self.wall_ahead: float = clock.wall() - clock.now()  # when they were last compared
        self._leaps: deque[Leap] = deque()  # with the sleepers that have yet to be notified
        self._held: set[asyncio.Task[Any]] = set()
        self._begun: list[asyncio.Task[Any]] | None = None  # while it rings: by whom it wakes

    def find_misuse(self) -> str | None:
        """Return why the timer can't be used in this process or on this event loop, with the remedy; None if it can."""
        if self.process != os.getpid():
            return "belongs to the process that opened it: open another after a fork"
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self.loop:
            return None
        if self.loop.is_closed():
            return "was opened on an event loop that is closed: open and use it inside of one asyncio.run()"
        return (
            "belongs to the event loop that it was opened on: open another on each event loop, or call it there, with "
            "asyncio.run_coroutine_threadsafe() or loop.call_soon_threadsafe()"
        )

    def set(self, sleeper: Sleeper, at: float) -> None:
        """Wake a sleeper at a time, and not at the time that was set before."""
        before = sleeper.wakes_at
        if at != before or at == math.inf:
            self._order += 1
            heappush(self._heap, (at, self._order, ref(sleeper)))  # if this raises, the deadline before still stands
            sleeper.wakes_at = at
            self._note_fallen(before)
        # An alarm that is overdue has slept with the machine, and may be half a minute off.
        if at < self._rings_at or AT_ONCE < self._rings_at < self.clock.now():
            self._arm()

    def unset(self, sleeper: Sleeper) -> None:
        """Let a sleeper sleep."""
        before, sleeper.wakes_at = sleeper.wakes_at, math.inf
        self._note_fallen(before)
        if self._heap and not stands(self._heap[0]):
            self._arm()

    def _note_fallen(self, deadline: float) -> None:
        """Count a deadline that no longer stands; clear the heap of them when they are the most of it."""
        if deadline < math.inf:
            self._fallen += 1
            if self._fallen > MOST_FALLEN and self._fallen > len(self._heap) / 2:
                heap = [entry for entry in self._heap if stands(entry)]
                heapify(heap)
                self._heap, self._fallen = heap, 0

    def look(self, now: float) -> None:
        """Ring as soon as may be if a deadline has passed, as it has after the machine was suspended."""
        if self._heap and self._heap[0][0] <= now and self._rings_at > AT_ONCE:
            self._arm()

    def begin(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Return a task that runs `work` in an empty context."""
        task = self.run(work, name, Context())
        if self._begun is not None:
            self._begun.append(task)
        return task

    def run(self, work: Coroutine[Any, Any, T], name: str, context: Context) -> asyncio.Task[T]:
        """Return a task that runs `work` in `context`. The timer holds it until it is done.

        It starts in a later turn of the event loop. The loop's task factory isn't used, because an eager one would run
        the first step here, before the caller has noted that there is a task.
        """
        task = asyncio.Task(work, loop=self.loop, name=f"signalwire-tokens: {name}", context=context)
        self._held.add(task)
        task.add_done_callback(self._held.discard)
        return task

    def _arm(self) -> None:
        """Set the alarm for the first deadline that still stands, and only then cancel the one before."""
        while self._heap and not stands(self._heap[0]):
            heappop(self._heap)
        alarm, rings_at = None, math.inf
        if self._heap or self._leaps:
            now = self.clock.now()
            seconds = 0.0 if self._leaps else min(max(0.0, self._heap[0][0] - now), LONGEST_SLICE)
            rings_at = now + seconds if seconds else AT_ONCE
            alarm = self.clock.call_later(seconds, self._ring)
        before, self._alarm, self._rings_at = self._alarm, alarm, rings_at
        if before is not None:
            before.cancel()

    def _ring(self) -> Sequence[asyncio.Task[Any]]:
        """Wake the sleepers that are due; return the tasks that they began, or NOTHING_DUE.

        Whatever raises, the alarm is set again. A deadline stays in the heap until its sleeper was woken.
        """
        try:
            return self._wake_all()
        except BaseException:
            self._begun = None
            self._arm()
            raise

    def _wake_all(self) -> Sequence[asyncio.Task[Any]]:
        self._rings_at = math.inf
        begun: list[asyncio.Task[Any]] = []
        self._begun = begun
        now = self.clock.now()
        self._watch_wall(now)
        notified = self._notify_of_leap(now)
        woken = self._wake_due(now, MOST_AT_ONCE - notified)
        self._begun = None
        self._arm()
        return begun if woken or notified else NOTHING_DUE

    def _wake_due(self, now: float, most: int) -> int:
        """Wake the sleepers that are due, up to so many; return how many deadlines have come."""
        last, woken = self._order, 0
        while self._heap and woken < most:
            entry = at, order, reference = self._heap[0]
            if at > now or order > last:  # one that has set a deadline meanwhile has to wait for the next turn
                break
            woken += 1
            if stands(entry) and (sleeper := reference()) is not None:
                self.rouse(sleeper, now)
            if self._heap and self._heap[0] is entry:
                heappop(self._heap)
        return woken

    def rouse(self, sleeper: Sleeper, now: float) -> None:
        """Wake a sleeper now, and again later if that fails."""
        try:
            before, sleeper.wakes_at = sleeper.wakes_at, math.inf
            self._note_fallen(before)
            sleeper.wake(self)
        except Exception:
            if not now < sleeper.wakes_at < now + LONGEST_SLICE:  # it has set none itself
                self.set(sleeper, now + LONGEST_SLICE)
            logger.exception("%r could not be woken; it is tried again", sleeper)

    def _watch_wall(self, now: float) -> None:
        """Record that the wall clock has gained on ours, which is the only sign of a paused virtual machine."""
        ahead = self.clock.wall() - now
        gained = ahead - self.wall_ahead
        if gained > 1:
            self._leaps.append((gained, self._heap.copy()))
        self.wall_ahead = ahead

    def _notify_of_leap(self, now: float) -> int:
        """Notify at most MOST_AT_ONCE sleepers of a leap of the wall clock; return how many entries were handled.

        A sleeper without a deadline is notified, too, if its last one is still in the heap. If not, it has begun to
        renew or to look, and compares the clocks itself.
        """
        looked = 0
        while self._leaps and looked < MOST_AT_ONCE:
            gained, entries = self._leaps[0]
            if not entries:
                self._leaps.popleft()
                continue
            looked += 1
            sleeper = entries[-1][2]()
            if sleeper is not None:
                try:
                    sleeper.note_leap(gained, now)
                except Exception:  # whatever it is: the others must be notified
                    logger.exception("%r could not be notified of a leap of the wall clock", sleeper)
            entries.pop()
        return looked


def stands(entry: Entry) -> bool:
    """Tell whether a deadline is still that of its sleeper."""
    sleeper = entry[2]()
    return sleeper is not None and sleeper.wakes_at == entry[0]


# By the ids of event loop and clock, which live as long as their timer does; a timer lives as long as anybody needs it.
TIMERS: WeakValueDictionary[tuple[int, int], Timer] = WeakValueDictionary()


def timer_of(clock: Clock) -> Timer:
    """Return the timer that the running event loop has for a clock."""
    key = (id(asyncio.get_running_loop()), id(clock))
    timer = TIMERS.get(key)
    if timer is None or timer.process != os.getpid():
        timer = TIMERS[key] = Timer(clock)
    return timer
