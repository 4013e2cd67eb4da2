"""The protocol of governors, and what they return."""

from __future__ import annotations

from typing import Protocol

import attrs

from .health import AccountHealth

__all__ = ["Governor", "HealthReading"]


@attrs.frozen(kw_only=True)
class HealthReading:
    """What the processes knew about SignalWire's health at one moment.

    `at` is the governor's time then, in seconds. `members` is how many processes share the governor.
    """

    health: AccountHealth
    at: float
    members: int = 1


class Governor(Protocol):
    """What limits the requests of one or more fleets, and keeps what they know about SignalWire's health.

    Implement this to share one limit between processes in a way of your own, and run
    `signalwire_tokens.testing.GovernorConformance` on it.

    - `max_rate` is how many requests may be sent in a second, by all processes together.
    - `turn` decides when each of them may be sent. It must be fair: a process that wants many turns must not take
      those of others.
    - `read` and `replace` keep one value, which every process sees. Its times are by one clock, the governor's.

    A fleet calls the methods from several tasks at once, and may cancel any call. It never closes a governor. If a
    method raises an exception, returns something else, or takes more than 15 seconds, the fleet logs that and goes on
    by itself. It then sends `max_rate` divided by the `members` that it last read.
    """

    max_rate: float

    async def turn(self, rate: float, within: float) -> HealthReading | None:
        """Wait until one more request may be sent, and return what is known about SignalWire's health then.

        No second may have more than `rate` turns of all processes, nor more than `max_rate`. `rate` is more than 0, and
        lower after an outage, for example. Return None, at once if possible, if the turn would come in more than
        `within` seconds.
        """
        ...

    async def read(self) -> HealthReading:
        """Return what is known about SignalWire's health. Without anything known, that is `AccountHealth()`."""
        ...

    async def replace(self, health: AccountHealth, by: AccountHealth) -> bool:
        """Keep `by` if what is kept now equals `health`, in one atomic step. Return whether it did."""
        ...
