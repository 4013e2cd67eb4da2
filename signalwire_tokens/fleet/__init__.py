"""Many sessions that renew in turn, so that SignalWire isn't overloaded and no token expires that could be renewed.

::

    module     has
    --------   ---------------------------------------------------------------------------------------
    sessions   `SessionFleet`, the public interface
    context    `FleetContext`, the owner of the sessions: it closes idle ones, and remembers their fields
    governor   `Governor`, the gate of the sessions: it decides which one renews, and when
    queue      `Queue`, the sessions that wait for their turn
    breaker    `Breaker`, what the fleets of a client know about SignalWire's health
"""

from .breaker import BreakerState
from .sessions import FleetSnapshot, SessionFleet

__all__ = ["BreakerState", "FleetSnapshot", "SessionFleet"]
