"""Many sessions that renew in turn, so that SignalWire isn't overloaded and no token expires that could be renewed.

::

    module     has
    --------   ---------------------------------------------------------------------------------------
    sessions   `SessionFleet`, the public interface
    context    `FleetContext`, the owner of the sessions: it closes idle ones, and remembers their fields
    gate       `FleetGate`, the gate of the sessions: it decides which one renews, and when
    queue      `Queue`, the sessions that wait for their turn
    health     `FleetHealth`, what the fleet does in an outage or a pause: it combines the next two
    breaker    `Breaker`, what the fleet's own requests have shown about SignalWire's health
    account    `Account`, what other fleets and processes know, by the fleet's governor
"""

from .breaker import BreakerState
from .sessions import FleetSnapshot, SessionFleet

__all__ = ["BreakerState", "FleetSnapshot", "SessionFleet"]
