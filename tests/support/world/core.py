"""The world: its time, its machines, their processes, and the order in which everything happens.

One seed decides all of it. The world runs one callback of one process at a time. Between two callbacks, time may pass,
requests arrive, and the weather changes. When no process has anything to do, time goes on to the next event.

Three clocks of a machine differ:

=====================  ==================  ===================  =================  =================
                       suspended machine   paused virtual one   someone sets it    restart
=====================  ==================  ===================  =================  =================
the loop's own time    stops               stops                -                  starts again
the boot clock         goes on             stops                -                  starts again
the wall clock         goes on             goes on              jumps              goes on
=====================  ==================  ===================  =================  =================
"""

import asyncio
import gc
import hashlib
import heapq
import logging
import random
import sys
import warnings
import weakref
from collections import Counter, deque
from itertools import count

from signalwire_tokens.clock import SystemClock
from signalwire_tokens.keeper.closing import drop
from signalwire_tokens.lifecycle import Phase

from .loops import SteppedLoop

NOTICED = 35.0  # seconds after a change of a machine's clocks, by when each process has compared them
EPOCH = 1_900_000_000.0  # when each world begins, in seconds since the epoch
LAST_LINES = 5000  # of its history


class Found(Exception):
    """Ends a history that has broken one of the guarantees that it seeks to break."""


class Machine:
    """A computer, with its clocks and its processes. Nothing happens to one that `is_steady`."""

    def __init__(self, world, name, *, is_steady=False):
        self.world, self.name = world, name
        self.processes = []
        self.wall_ahead = 0.0  # what was set wrong
        self.wall_set_at = -1e9  # when someone last set its wall clock
        self._stopped = None  # the world's time at which it was suspended or paused
        self._counts = True  # whether its boot clock counts that time
        self.pauses = []  # pairs: when a pause of the virtual machine ended, and how long it was
        self.clocks_changed_at = -1e9  # when its wall clock was set, or its last pause ended
        self._start_clocks()
        if is_steady:  # a timer that rings a rounding error early would have a service spin
            self._started = 0.0
        else:
            world.machines.append(self)

    def _start_clocks(self):
        self._started = self.world.time - self.world.random.uniform(10, 1e6)
        self._slept = self._paused = 0.0
        self.boot_id = f"boot {self.world.random.getrandbits(32):08x}"

    @property
    def is_awake(self):
        return self._stopped is None

    def boot_time(self):
        at = self.world.time if self._stopped is None or self._counts else self._stopped
        return at - self._started - self._paused

    def loop_time(self):
        at = self.world.time if self._stopped is None else self._stopped
        return at - self._started - self._paused - self._slept

    def wall_time(self):
        return EPOCH + self.world.time + self.wall_ahead

    def stop(self, seconds, *, counts):
        """Suspend the machine, whose boot clock `counts` that time; or pause a virtual machine, whose clock doesn't."""
        if not self.is_awake:
            return
        self._stopped, self._counts = since, _ = self.world.time, counts
        self.world.after(seconds, lambda: self._stopped == since and self.wake())

    def wake(self):
        """Have the machine go on."""
        gone = self.world.time - self._stopped
        if self._counts:
            self._slept += gone
        else:
            self._paused += gone
            self.pauses.append((self.world.time, gone))
        self._stopped = None
        self.world.note(f"{self.name} goes on after {gone:.1f} s")

    def restart(self):
        """Kill all processes, and start the clocks again."""
        for process in tuple(self.processes):
            process.kill()
        self._start_clocks()


class ProcessClock(SystemClock):
    """A process's clock. Reading it may take long: that is where a process is interrupted within a callback."""

    def __init__(self, process):
        self._process = process

    def now(self):
        self._process.world.interrupt(self._process)
        return self._process.machine.boot_time()

    def wall(self):
        self._process.world.interrupt(self._process)
        return self._process.machine.wall_time()


class Process:
    """A process: an event loop that runs `main(process)`.

    `engines` are the engines of its sessions, and when each was opened. `made` has weak references to all of them.
    `quiet_at` is when everything that has gone wrong for it must be over, as `judge` calculates it. One that
    `is_service` is SignalWire's own: nothing happens to it, and it doesn't end.
    """

    def __init__(self, world, machine, name, main, *, is_service=False):
        self.world, self.machine, self.name = world, machine, name
        self.engines, self.made, self.closers = {}, [], []
        self.kept = ()  # what outlives the sessions: it is kept until the end, and must not keep a session
        self.stopped_until = 0.0
        self.is_dead = False
        self.quiet_at = self.paused_at = -1e9
        self.clock = ProcessClock(self)
        self.program = main
        self.loop = SteppedLoop(
            machine.loop_time,
            world.random.choice if world.shuffles else None,
            self._complain,
        )
        self.main = self.loop.create_task(main(self), name="main")
        machine.processes.append(self)
        (world.services if is_service else world.processes).append(self)

    def _complain(self, what):
        if not self.is_dead:
            self.world.fail("P7", f"{self.name}: the event loop reports: {what}")

    @property
    def may_run(self):
        return self.machine.is_awake and self.stopped_until <= self.world.time

    def add(self, engine):
        """Have a session's engine judged."""
        for one in [one for one in self.engines if one.cycle.phase is Phase.CLOSED and one.task is None]:
            del self.engines[one]
        self.engines[engine] = self.world.time
        self.made.append(weakref.ref(engine))

    def post(self, callback, *args):
        """Run a callback on the process's event loop, as the operating system does when data arrives."""
        if not self.is_dead:
            self.loop.call_soon(callback, *args)

    def resolve(self, future, result=None, error=None):
        """Have a future's waiter go on, unless it has given up."""

        def settle():
            if not future.done():
                future.set_result(result) if error is None else future.set_exception(error)

        self.post(settle)

    def stop(self, seconds):
        """Stop the process, as SIGSTOP does, and let it go on later."""
        self.stopped_until = max(self.stopped_until, self.world.time + seconds)

    def kill(self):
        """End the process without running anything of it, not even a finalizer: what it holds is kept."""
        if not self.is_dead:
            self.is_dead = True
            self.world.processes.remove(self)
            self.machine.processes.remove(self)
            self.world.graveyard.append(self)
            for close in self.closers:  # what the operating system does with its files
                close()

    def end(self):
        """Remove the process after its main task has returned."""
        if not self.main.cancelled() and self.main.exception() is not None:
            self.world.fail("P7", f"{self.name}: main() raised {self.main.exception()!r}")
        left = sorted(task.get_name() for task in self.tasks())
        if left:
            self.world.fail("P19", f"{self.name} has tasks left after it has closed everything: {left}")
        self.is_dead = True
        self.engines.clear()
        self.world.ended.append(self)
        self.world.processes.remove(self)
        self.machine.processes.remove(self)

    def bury(self):
        """Release a killed process. Otherwise, its `finally` blocks would run when they are collected."""
        self.is_dead = True  # nothing leads out of it any more
        for engine in self.engines:
            if engine.timer is not None:
                self.loop.call_soon(drop, engine)
        for _ in range(3):  # a task may begin another one as it ends
            for task in self.tasks():
                task.cancel()
            for _ in range(1000):
                if not self.loop.is_busy:
                    break
                self.loop.step()
        for task in self.tasks():
            task._log_destroy_pending = False

    def tasks(self):
        """Return the tasks that haven't ended."""
        return [task for task in asyncio.all_tasks(self.loop) if not task.done()]


class World:
    """Everything that a history consists of.

    - `time` is the true time, in seconds since the world began.
    - `random` makes all choices but the library's own, which draws from Python's generator. Both have the same seed.
    - `shuffles` is whether callbacks may run in any order.
    - `step_takes` is how long a callback takes on average.
    - `interrupts` is how likely a process is interrupted as it reads a clock, and `longest_interrupt` for how long.
    """

    def __init__(self, seed, *, shuffles=True, step_takes=0.0, interrupts=0.0, longest_interrupt=60.0):
        self.seed = seed
        self.random = random.Random(f"world {seed}")
        self.shuffles, self.step_takes = shuffles, step_takes
        self.interrupts, self.longest_interrupt = interrupts, longest_interrupt
        self.time = 0.0
        self.steps = 0
        self.machines, self.processes, self.services, self.graveyard, self.ended = [], [], [], [], []
        self.faults = Counter()
        self.failures = []  # pairs: the guarantee that was broken, and how
        self.seeks = ()  # guarantees: if one of them is broken, the history ends
        self.is_found = False
        self.on_interrupt = lambda _process, _seconds: None
        self._events, self._order = [], count()
        self._lines = deque(maxlen=LAST_LINES)
        self._trace = hashlib.sha256()
        self._running = None

    # What happens later.

    def after(self, seconds, callback):
        """Call a function after some time."""
        heapq.heappush(self._events, (self.time + seconds, next(self._order), callback))

    def between(self, low, high):
        """Return a random number whose order of magnitude is as random as its digits."""
        return low * (high / low) ** self.random.random()

    def chance(self, share):
        return self.random.random() < share

    # What has happened.

    def note(self, text):
        """Add a line to the history."""
        self._lines.append(f"{self.time:12.4f}  {text}")
        self._trace.update(f"{self.time!r} {text}\n".encode())

    def fail(self, guarantee, text):
        """Record that a guarantee is broken."""
        self.note(f"*** {guarantee}: {text}")
        self.failures.append((guarantee, text))
        self.is_found = self.is_found or guarantee in self.seeks

    def fault(self, kind, text):
        """Record that something goes wrong."""
        self.faults[kind] += 1
        self.note(f"--- {kind}: {text}")

    @property
    def trace(self):
        """A digest of everything that has happened, in its order."""
        return self._trace.hexdigest()[:16]

    @property
    def history(self):
        return "\n".join(self._lines)

    # Running.

    def run(self, seconds):
        """Run everything that happens in the next `seconds`."""
        end = self.time + seconds
        while True:
            if self.is_found:
                raise Found
            self._let_events_happen()
            running = [process for process in self._all() if process.may_run and process.loop.is_busy]
            if running:
                self._step(running[0] if len(running) == 1 else self.random.choice(running))
                continue
            at = self._next_time()
            if at > end:
                break
            self.time = max(self.time, at)
        self.time = max(self.time, end)

    def _all(self):
        return [*self.processes, *self.services]

    def _let_events_happen(self):
        while self._events and self._events[0][0] <= self.time:
            heapq.heappop(self._events)[2]()
        for process in self._all():
            if process.may_run:
                process.loop.ring()

    def _next_time(self):
        """Return when the next event happens, the next timer rings, or a stopped process goes on."""
        times = [self._events[0][0]] if self._events else []
        for process in self._all():
            if not process.machine.is_awake:
                continue  # an event wakes it
            if process.stopped_until > self.time:
                times.append(process.stopped_until)
            elif (timer := process.loop.next_timer) is not None:
                times.append(self.time + max(0.0, timer - process.machine.loop_time()) + 1e-9)
        return min(times, default=float("inf"))

    def _step(self, process):
        self.steps += 1
        self._running = process
        name = process.loop.step()
        self._running = None
        self._trace.update(f"{self.time!r} {process.name} {name}\n".encode())
        if self.step_takes:
            self.time += self.random.expovariate(1 / self.step_takes)
        if process.main.done() and not process.is_dead:
            process.end()

    def interrupt(self, process):
        """Interrupt a process now and then, while it reads a clock."""
        if self.interrupts and self._running is process and self.chance(self.interrupts):
            seconds = self.between(0.01, self.longest_interrupt)
            self.fault("interruption", f"{process.name} does nothing for {seconds:.2f} s")
            self.time += seconds
            self.on_interrupt(process, seconds)

    def finish(self):
        """Release all processes and events."""
        processes = [*self._all(), *self.graveyard]
        for process in processes:
            process.bury()
            for close in process.closers:
                close()
        for process in processes:
            process.loop.close()
        self.processes.clear()
        self.services.clear()
        self.graveyard.clear()
        self.machines.clear()
        self._events.clear()


class LogJudge(logging.Handler):
    """Takes an error in the library's log for a broken guarantee. The library logs one if it can't go on as planned."""

    def __init__(self, world):
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record):
        if record.name == "signalwire_tokens.backend":
            return  # an error of the token endpoint is the app's or SignalWire's
        if "no way to renew is left" in record.msg or "given up" in record.msg:
            return  # the judge looks at each session that has expired, and each connection that was given up
        text = record.getMessage()
        if record.exc_info:
            text += f" ({record.exc_info[1]!r})"
        self._world.fail("P7", f"the library logs an error: {text}")


def in_world(seed, play, **settings):
    """Return the result of `play(world)` in a new world, in which nothing outside of it counts.

    Random numbers, log, warnings and garbage collection are the world's until it ends.
    """
    world = World(seed, **settings)
    logger, state, hooks = logging.getLogger("signalwire_tokens"), random.getstate(), sys.get_asyncgen_hooks()
    handler, level, propagate = LogJudge(world), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    random.seed(f"library {seed}")
    collects = gc.isenabled()
    gc.disable()
    sys.set_asyncgen_hooks(firstiter=None, finalizer=lambda _: None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # a killed process closes nothing
            try:
                return play(world)
            finally:
                world.finish()
    finally:
        sys.set_asyncgen_hooks(*hooks)
        if collects:
            gc.enable()
        random.setstate(state)
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
