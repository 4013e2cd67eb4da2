"""Governors: they limit the requests of one or more fleets, and share what each knows about SignalWire's health.

===============  ==================================  =============================
governor         shared by                           the time of its health
===============  ==================================  =============================
`LocalGovernor`  fleets of one event loop            its clock
`RedisGovernor`  the processes of an account         the Redis server's clock
===============  ==================================  =============================

A fleet without `governor=` makes a `LocalGovernor` of its own. Import `RedisGovernor` from
`signalwire_tokens.governors.redis`: it needs the extra `redis`.

To write a governor of your own, implement the protocol `Governor` with `AccountHealth` and `HealthReading`. Run
`signalwire_tokens.testing.GovernorConformance` on it.
"""

from .health import AccountHealth
from .local import LocalGovernor
from .protocol import Governor, HealthReading

__all__ = ["AccountHealth", "Governor", "HealthReading", "LocalGovernor"]
