"""Many sessions, one governor: who may renew when, so that neither the service nor anybody's token suffers.

`sessions` is the fleet as its users see it, `context` what its sessions share, `governor` lets them renew in turn,
`queue` is who waits for that, and `breaker` what is known of the service's health.
"""

from .breaker import BreakerState
from .sessions import FleetSnapshot, SessionFleet

__all__ = ["BreakerState", "FleetSnapshot", "SessionFleet"]
