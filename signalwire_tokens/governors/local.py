"""A governor in memory, for fleets of one event loop."""

from __future__ import annotations

import math

from signalwire_tokens.clock import SYSTEM, Clock
from signalwire_tokens.durations import shown
from signalwire_tokens.errors import ConfigurationError

from .health import AccountHealth
from .protocol import HealthReading

__all__ = ["AHEAD", "SLACK", "LocalGovernor", "check_rate", "interval_for"]

AHEAD = 0.1  # seconds' worth of turns that all processes together may wait for at a time
SLACK = 0.02  # seconds by which a turn may be used late. If it can't be used until then, another turn is taken.


class LocalGovernor:
    """A governor in memory: it limits the requests of several fleets of one event loop together.

    Pass it to each of them as `governor=`. Each fleet that has none makes one of its own, with its `max_rate`.

    Turns are a little more than `1 / rate` apart. If the event loop is late, turns of the last 20 ms may still be used
    at once. With a rate of 150, for example, turns are 6.8 ms apart. If the loop is 15 ms late, three requests are sent
    at once. Within any second, at most 1.02 s of turns are used: 150.
    """

    def __init__(self, max_rate: float = 150.0, *, clock: Clock = SYSTEM) -> None:
        self.max_rate: float = check_rate("LocalGovernor: max_rate", max_rate)
        self._clock = clock
        self._next_at = -math.inf  # the time of the next turn
        self._health = AccountHealth()

    def __repr__(self) -> str:
        return f"LocalGovernor(max_rate={self.max_rate:g})"

    async def turn(self, rate: float, within: float) -> HealthReading | None:
        """Wait until one more request may be sent, as `Governor.turn` says."""
        until = self._clock.now() + within
        while (reading := self.take(rate)) is None:
            now, at = self._clock.now(), self._next_at
            if at > until:
                return None
            self._next_at = at + interval_for(min(rate, self.max_rate), SLACK)
            await self._clock.sleep(at - now)
            if self._clock.now() <= at + SLACK:
                return await self.read()
        return reading

    def take(self, rate: float) -> HealthReading | None:
        """Return what `turn` would if a turn is free now, and use it up; None otherwise."""
        now = self._clock.now()
        at = max(self._next_at, now - SLACK)
        if at > now:
            return None
        self._next_at = at + interval_for(min(rate, self.max_rate), SLACK)
        return HealthReading(health=self._health, at=now)

    def rest_until(self, time: float) -> None:
        """Keep back all turns until a time by the clock."""
        self._next_at = max(self._next_at, time)

    async def read(self) -> HealthReading:
        """Return what is known about SignalWire's health."""
        return HealthReading(health=self._health, at=self._clock.now())

    async def replace(self, health: AccountHealth, by: AccountHealth) -> bool:
        """Keep `by` if what is kept now equals `health`. Return whether it did."""
        is_same = self._health == health
        if is_same:
            self._health = by
        return is_same


def interval_for(rate: float, slack: float) -> float:
    """Return the time between two turns, if each may be used up to `slack` seconds late.

    It is longer than `1 / rate`, so that no second has more than `rate` turns even so.
    """
    return (1 + slack) / rate


def check_rate(name: str, rate: object) -> float:
    """Return a rate. Raise `ConfigurationError` if it isn't a number of requests in a second."""
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0:
        raise ConfigurationError(f"{name} must be a number of requests per second, more than 0: got {shown(rate)}")
    return float(rate)
