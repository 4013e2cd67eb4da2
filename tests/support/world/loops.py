"""An event loop that runs one callback at a time, in an order that a seed decides.

asyncio runs callbacks in the order in which they were scheduled. That order depends on when answers arrive and timers
ring, so each run of a program has another one. This loop picks any callback that is ready. It keeps one order: of
those that the same callback has scheduled, the first comes first. asyncio documents that, and code may rely on it.
"""

import asyncio
import heapq
from itertools import count


class SteppedLoop(asyncio.AbstractEventLoop):
    """The event loop of one process of a world.

    `now` returns the loop's time, and `choose` picks one of several callbacks. It is None if they keep their order.
    """

    def __init__(self, now, choose, complain):
        self._now, self._choose, self._complain = now, choose, complain
        self._ready = []  # pairs: the step that has scheduled the handle, and the handle
        self._timers = []
        self._order, self._steps = count(), count()
        self._step = None  # the step that runs; None outside of `step`
        self._closed = False

    # For the scheduler.

    @property
    def is_busy(self):
        """True if a callback is ready."""
        return bool(self._ready)

    @property
    def next_timer(self):
        """The loop's time at which the next timer rings; None if there is none."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def ring(self):
        """Make the timers ready whose time has come."""
        now = self._now()
        while self._timers and self._timers[0][0] <= now:
            handle = heapq.heappop(self._timers)[2]
            if not handle.cancelled():
                self._ready.append((next(self._steps), handle))

    def step(self):
        """Run one callback, and return its name."""
        handle = self._take()
        if handle.cancelled():
            return ""
        self._step = next(self._steps)
        asyncio._set_running_loop(self)
        try:
            handle._run()
        finally:
            asyncio._set_running_loop(None)
            self._step = None
        callback = handle._callback
        return "" if callback is None else getattr(callback, "__qualname__", type(callback).__name__)

    def _take(self):
        """Remove a callback from those that are ready: of each step's callbacks, the first may be next."""
        ready, index = self._ready, 0
        if self._choose is not None and len(ready) > 1:
            firsts, seen = [], set()
            for number, (step, _) in enumerate(ready):
                if step not in seen:
                    seen.add(step)
                    firsts.append(number)
            index = self._choose(firsts) if len(firsts) > 1 else firsts[0]
        return ready.pop(index)[1]

    # What asyncio calls.

    def call_soon(self, callback, *args, context=None):
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append((next(self._steps) if self._step is None else self._step, handle))
        return handle

    call_soon_threadsafe = call_soon

    def call_at(self, when, callback, *args, context=None):
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._order), handle))
        return handle

    def call_later(self, delay, callback, *args, context=None):
        return self.call_at(self._now() + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle):
        """The scheduler skips a timer that is cancelled."""

    def time(self):
        return self._now()

    def create_future(self):
        return asyncio.Future(loop=self)

    def create_task(self, coro, *, name=None, context=None, **_):
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def get_task_factory(self):
        return None

    def get_debug(self):
        return False

    def is_running(self):
        return self._step is not None

    def is_closed(self):
        return self._closed

    def close(self):
        self._closed = True
        self._ready.clear()
        self._timers.clear()

    def call_exception_handler(self, context):
        """Report what asyncio would log, such as an exception in a callback."""
        error = context.get("exception")
        self._complain(context["message"] if error is None else f"{context['message']}: {error!r}")
