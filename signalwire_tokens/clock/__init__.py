"""Time, as an argument: the machine's, one that moves only when told, and the timer that sessions share."""

from .system import SYSTEM, Alarm, Clock, SystemClock, moment_in
from .timer import Sleeper, Timer, timer_of
from .virtual import VirtualClock

__all__ = ["SYSTEM", "Alarm", "Clock", "Sleeper", "SystemClock", "Timer", "VirtualClock", "moment_in", "timer_of"]
