"""Time as an argument: the system clock, a virtual clock for tests, and the timer that the sessions of a loop share.

`system` has the `Clock` protocol and the machine's own clock, `virtual` the clock for tests, and `timer` the `Timer`
that wakes sessions at their deadlines. `heap` is the priority queue that timers and fleets use.
"""

from .heap import HeapEntry, LazyHeap
from .system import SYSTEM, Alarm, Clock, SystemClock, moment_in
from .timer import Sleeper, Timer, timer_of
from .virtual import VirtualClock

__all__ = [
    "SYSTEM",
    "Alarm",
    "Clock",
    "HeapEntry",
    "LazyHeap",
    "Sleeper",
    "SystemClock",
    "Timer",
    "VirtualClock",
    "moment_in",
    "timer_of",
]
