"""One timer for all sessions of an event loop: a heap of deadlines, and one alarm for the earliest of them.

A process may have a hundred thousand sessions. The event loop sees a single callback of theirs, so that waking all of
them after a suspend doesn't block other work. These rules make that reliable:

- **Lazy deletion.** A sleeper's deadline is its `wakes_at`. To move it, the timer pushes another heap entry. An entry
  whose time differs from its sleeper's `wakes_at` is *stale*: the timer skips it, and the `LazyHeap` removes it.
- **Weak references.** The heap holds its sleepers weakly. A session that your app drops is collected.
- **Short alarms.** An event loop's timers may not count the time of a suspended machine. So no alarm is set for more
  than `LONGEST_ALARM` seconds. If the machine sleeps past a deadline, the alarm is that late at most.
- **Batches.** A ring handles at most `SLEEPERS_PER_TURN` sleepers, then sets an alarm for the next turn of the loop. A
  sleeper that sets a new deadline during a ring waits for the next ring, even if that deadline is past: otherwise it
  could keep the ring from ending.
- **Exceptions.** A new alarm is set before the old one is cancelled. An entry stays in the heap until its sleeper was
  woken. So an exception in any line, for example `MemoryError`, loses no deadline. (P7)
- **Leaps of the wall clock.** Each ring compares the wall clock with the session's clock. If it has gained more than a
  second, all sleepers with an entry in the heap are notified, in batches, too. They decide whether the gain matters.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar
from weakref import WeakValueDictionary, ref

from signalwire_tokens.durations import spoken

from .heap import HeapEntry, LazyHeap
from .system import NOTHING_DUE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from .system import Alarm, Clock

__all__ = ["Sleeper", "Timer", "timer_of"]

LONGEST_ALARM = 30.0  # seconds: the longest alarm, and so the longest delay after the machine was suspended
SMALLEST_LEAP = 1.0  # seconds: the wall clock leaps if it gains more than this on the timer's clock
AT_ONCE = -math.inf  # the value of `_rings_at` if the alarm rings in the next turn of the event loop
MOST_LOOKED = 500  # entries of the heap that `next_deadline` looks at
SLEEPERS_PER_TURN = 200  # sleepers that one ring wakes or notifies, before the event loop runs other callbacks

T = TypeVar("T")
Leap: TypeAlias = "tuple[float, list[HeapEntry[ref[Sleeper]]]]"

logger: logging.Logger = logging.getLogger("signalwire_tokens.clock")


class Sleeper(Protocol):
    """An object that the timer wakes at a deadline: the engine of a session, or the gate of a fleet.

    `wakes_at` is the deadline in seconds by the timer's clock; `math.inf` means that there is none. Only the timer sets
    it.
    """

    wakes_at: float

    def wake(self, timer: Timer) -> None:
        """Act on the deadline. This must not block: for anything that takes longer, begin a task with `timer.begin`."""
        ...

    def note_leap(self, seconds: float, now: float) -> None:
        """Plan again, since the wall clock has gained `seconds` on the timer's clock, which is at `now`."""
        ...

    def note_fork(self) -> None:
        """Check the process in the next call, since this is a forked one."""
        ...


class Timer:
    """A set of deadlines that share one alarm of an event loop.

    The timer belongs to the process and the event loop that it was created on. It holds its sleepers weakly, and the
    tasks that it runs strongly, because the event loop itself holds tasks weakly.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.process: int = os.getpid()
        self._heap: LazyHeap[ref[Sleeper]] = LazyHeap(is_current)
        self._alarm: Alarm | None = None
        self._rings_at = math.inf
        self._wall_ahead = clock.wall() - clock.now()  # at the last comparison
        self._gained = 0.0  # by the wall clock, in all leaps so far
        self._leaps: deque[Leap] = deque()  # each with the sleepers that the timer still has to notify
        self._held: set[asyncio.Task[Any]] = set()
        self._begun: list[asyncio.Task[Any]] | None = None  # the tasks that the current ring began; None between rings

    def find_misuse(self) -> str | None:
        """Return why the timer can't be used here, with the remedy; None if process and event loop are the right ones.

        The text continues a sentence, such as "session #1234 …".
        """
        if self.process != os.getpid():
            return "was opened in another process: open one in each process, after a fork"
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self.loop:
            return None
        if self.loop.is_closed():
            return "was opened on an event loop that is closed: open and use it inside of one asyncio.run()"
        return (
            "was opened on another event loop: open one on each event loop, or call it on its own loop with "
            "asyncio.run_coroutine_threadsafe() or loop.call_soon_threadsafe(). See 'Celery, RQ and Django' in "
            "the documentation"
        )

    def set(self, sleeper: Sleeper, at: float) -> None:
        """Wake a sleeper at `at`, in place of the deadline that it had before."""
        before = sleeper.wakes_at
        if at != before or at == math.inf:
            self._heap.push(at, ref(sleeper))  # first: if this raises, the old deadline stands
            sleeper.wakes_at = at
            self._note_fallen(before)
        # An overdue alarm means that the machine was suspended: its callback may still be half a minute away.
        if at < self._rings_at or AT_ONCE < self._rings_at < self.clock.now():
            self._arm()

    def unset(self, sleeper: Sleeper) -> None:
        """Remove the deadline of a sleeper."""
        before, sleeper.wakes_at = sleeper.wakes_at, math.inf
        self._note_fallen(before)
        first = self._heap.first()
        if first is not None and not is_current(first):
            self._arm()

    def _note_fallen(self, deadline: float) -> None:
        """Record that the entry of a replaced deadline is stale."""
        if deadline < math.inf:
            self._heap.note_stale()

    def next_deadline(self, is_wanted: Callable[[object], bool]) -> float:
        """Return the earliest deadline of a sleeper that is wanted; inf if there is none. Any thread may call this.

        Only the first `MOST_LOOKED` entries are searched. If there are more, and no sleeper was found, return the time
        of the last of these entries, which is earlier.
        """
        return self._heap.find(lambda entry: is_current(entry) and is_wanted(entry[2]()), MOST_LOOKED)

    def look(self, now: float) -> None:
        """Ring in the next turn of the event loop if a deadline has passed.

        Callers of `token()` use this: after a suspend, the first caller needn't wait for the alarm.
        """
        if self._heap.first_number() <= now and self._rings_at > AT_ONCE:
            self._arm()

    def gained(self) -> float:
        """Return by how many seconds the wall clock has gained on the timer's clock so far, in all its leaps.

        This never decreases, so the difference of two results is how much the virtual machine may have been paused
        between them.
        """
        latest = self.clock.wall() - self.clock.now() - self._wall_ahead
        # Without a leap, all sessions share this float object, which saves memory.
        return self._gained + latest if latest > SMALLEST_LEAP else self._gained

    def begin(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Return a task that runs `work` in an empty context.

        A renewal serves all callers, so it must not inherit the context variables of the one that happened to start it.
        """
        task = self.run(work, name, Context())
        if self._begun is not None:
            self._begun.append(task)
        return task

    def run(self, work: Coroutine[Any, Any, T], name: str, context: Context) -> asyncio.Task[T]:
        """Return a task that runs `work` in `context`. The timer holds the task until it is done.

        The task starts in a later turn of the event loop, even if the loop has an eager task factory. An eager task
        would run its first step in this call, before the caller has recorded that there is a task.
        """
        task = asyncio.Task(work, loop=self.loop, name=f"signalwire-tokens: {name}", context=context)
        self._held.add(task)
        task.add_done_callback(self._held.discard)
        return task

    def _arm(self) -> None:
        """Set the alarm for the earliest deadline.

        The old alarm is cancelled last, in case setting the new one raises.
        """
        first = self._heap.drop_stale(SLEEPERS_PER_TURN)
        alarm, rings_at = None, math.inf
        if first is not None or self._leaps:
            now = self.clock.now()
            seconds = 0.0 if self._leaps or first is None else min(max(0.0, first[0] - now), LONGEST_ALARM)
            rings_at = now + seconds if seconds else AT_ONCE
            alarm = self.clock.call_later(seconds, self._ring)
        before, self._alarm, self._rings_at = self._alarm, alarm, rings_at
        if before is not None:
            before.cancel()

    def _ring(self) -> Sequence[asyncio.Task[Any]]:
        """Wake the sleepers that are due, and return the tasks that they began; `NOTHING_DUE` if there were none.

        If anything raises, the alarm is set again first. A deadline stays in the heap until its sleeper was woken.
        """
        try:
            return self._wake_all()
        except BaseException:
            self._begun = None
            self._arm()
            raise

    def _wake_all(self) -> Sequence[asyncio.Task[Any]]:
        """Compare the clocks, notify sleepers of leaps, wake those that are due, and set the next alarm."""
        self._rings_at = math.inf
        begun = self._begun = list[asyncio.Task[Any]]()
        now = self.clock.now()
        self._watch_wall(now)
        notified = self._notify_of_leap(now)
        woken = self._wake_due(now, SLEEPERS_PER_TURN - notified)
        self._begun = None
        self._arm()
        return begun if woken or notified else NOTHING_DUE

    def _wake_due(self, now: float, most: int) -> int:
        """Wake up to `most` sleepers that are due, and return how many entries were handled."""
        last, woken = self._heap.order, 0
        while woken < most and (entry := self._heap.first()) is not None:
            at, order, reference = entry
            if at > now or order > last:  # the entry was pushed during this ring: it has to wait for the next one
                break
            woken += 1
            if is_current(entry) and (sleeper := reference()) is not None:
                self.wake_now(sleeper, now)
            self._heap.remove_first(entry)
        return woken

    def wake_now(self, sleeper: Sleeper, now: float) -> None:
        """Wake a sleeper now. If that raises, log it, and wake the sleeper again in `LONGEST_ALARM` seconds."""
        try:
            before, sleeper.wakes_at = sleeper.wakes_at, math.inf
            self._note_fallen(before)
            sleeper.wake(self)
        except Exception:
            if not now < sleeper.wakes_at < now + LONGEST_ALARM:  # it hasn't set an earlier deadline before it raised
                self.set(sleeper, now + LONGEST_ALARM)
            logger.exception("%r: waking it failed; the timer tries again within %s", sleeper, spoken(LONGEST_ALARM))

    def _watch_wall(self, now: float) -> None:
        """Compare the wall clock with the timer's clock, and record a leap if it has gained more than a second.

        A gain is the only sign that a virtual machine was paused. A loss isn't a leap. Neither is a suspend, which both
        clocks count. Smaller gains add up until they are a second.
        """
        ahead = self.clock.wall() - now
        gained = ahead - self._wall_ahead
        if gained > SMALLEST_LEAP:
            self._gained += gained
            self._leaps.append((gained, list(self._heap)))
        if not 0 < gained <= SMALLEST_LEAP:
            self._wall_ahead = ahead

    def _notify_of_leap(self, now: float) -> int:
        """Notify up to `SLEEPERS_PER_TURN` sleepers of a leap of the wall clock. Return how many entries were handled.

        This includes sleepers without a deadline, as long as a stale entry of theirs is in the heap. A session without
        any entry is about to renew, or has a renewal or a look under way. It compares the clocks itself when that ends.
        """
        looked = 0
        while self._leaps and looked < SLEEPERS_PER_TURN:
            gained, entries = self._leaps[0]
            if not entries:
                self._leaps.popleft()
                continue
            looked += 1
            if (sleeper := entries[-1][2]()) is not None:
                try:
                    sleeper.note_leap(gained, now)
                except Exception:  # of any kind: the other sleepers must still be notified
                    logger.exception("%r: it couldn't process a jump of the wall clock", sleeper)
            entries.pop()
        return looked


def is_current(entry: HeapEntry[ref[Sleeper]]) -> bool:
    """Return whether an entry still has the deadline of its sleeper. If not, the entry is stale."""
    sleeper = entry[2]()
    return sleeper is not None and sleeper.wakes_at == entry[0]


# The timers by the ids of their event loop and clock. A timer references both, so an id isn't reused while it exists.
TIMERS: WeakValueDictionary[tuple[int, int], Timer] = WeakValueDictionary()


def note_fork() -> None:
    """Notify all sleepers that have an entry in a heap, in a forked process. A session that renews may have none."""
    for sleeper in [entry[2]() for timer in TIMERS.values() for entry in timer._heap]:  # noqa: SLF001 - of this module
        if sleeper is not None:
            sleeper.note_fork()


getattr(os, "register_at_fork", dict)(after_in_child=note_fork)  # Windows has no forks: there, it does nothing


def timer_of(clock: Clock) -> Timer:
    """Return the timer of the running event loop for a clock, or create it.

    A forked process gets a timer of its own.
    """
    key = (id(asyncio.get_running_loop()), id(clock))
    timer = TIMERS.get(key)
    if timer is None or timer.process != os.getpid():
        timer = TIMERS[key] = Timer(clock)
    return timer
