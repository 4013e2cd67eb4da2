"""What the processes of an account know about SignalWire's health. It is a value, and reads no clock.

Each change is a method that returns another value, or the same one if it changes nothing. A process applies a change to
the latest value and gives the result to its governor, which accepts it only if no other process was faster.

All times are in seconds by the governor's clock. That may be a server's, which can be set back. So a time that lies
further ahead than it ever should is ignored: see `LONGEST_AHEAD`.
"""

from __future__ import annotations

import json
import math
from typing import Any, Self, cast

import attrs

from signalwire_tokens.policy import NEVER

__all__ = ["CLOCK_WAS_SET", "LONGEST_AHEAD", "AccountHealth", "is_outdated"]

CLOCK_WAS_SET = 5.0  # seconds by which readings may be out of order. More means that the governor's clock was set back.
LONGEST_AHEAD = 120.0  # seconds: a time further ahead means that the governor's clock was set back


@attrs.frozen(kw_only=True)
class AccountHealth:
    """What the processes of an account know about SignalWire's health.

    - `is_open` is true while SignalWire is down: one process at a time sends one request, the *probe*. `reason` says
      what failed, without any content of a request or an answer.
    - `failed_probes` is how many probes have failed in a row. The next one may begin at `probe_at`.
    - `probe` is the name of the probe under way, and empty if there is none. If its process has stopped, it ends at
      `probe_until`.
    - `back_at` is when SignalWire last answered after an outage. From then on, the rate grows.
    - `paused_at` and `paused_until` are when SignalWire asked for a pause, and until when.
    - `slow_rate` limits the requests in a second until `slow_until`, since SignalWire has said how many are left.

    Times are in seconds by the governor's clock; -inf means "never so far".
    """

    is_open: bool = False
    reason: str = ""
    failed_probes: int = 0
    probe_at: float = NEVER
    probe: str = ""
    probe_until: float = NEVER
    back_at: float = NEVER
    paused_at: float = NEVER
    paused_until: float = NEVER
    slow_rate: float = math.inf
    slow_until: float = NEVER

    def is_probing(self, at: float) -> bool:
        """Return whether a probe is under way."""
        return bool(self.probe) and is_ahead(self.probe_until, at)

    def rate(self, most: float, at: float) -> float:
        """Return how many requests may be sent in a second. `most` is the rate without any hints of SignalWire's."""
        return min(most, self.slow_rate) if is_ahead(self.slow_until, at) else most

    def opened(self, reason: str, *, probe_at: float) -> Self:
        """Return the health after SignalWire was found to be down."""
        if self.is_open:
            return self
        return attrs.evolve(self, is_open=True, reason=reason, failed_probes=0, probe_at=probe_at, probe="")

    def claimed(self, probe: str, at: float, *, until: float) -> Self:
        """Return the health once a process has the next probe; the same if none may begin now."""
        if not self.is_open or self.is_probing(at) or is_ahead(self.probe_at, at):
            return self
        return attrs.evolve(self, probe=probe, probe_until=until)

    def unclaimed(self, probe: str, *, probe_at: float = NEVER, failed: bool = False) -> Self:
        """Return the health after a probe has ended. It has `failed`, or else has sent no request."""
        if not self.is_open or self.probe != probe:
            return self
        failed_probes, probe_at = self.failed_probes + failed, max(probe_at, self.probe_at)
        return attrs.evolve(self, probe="", failed_probes=failed_probes, probe_at=probe_at)

    def answered(self, at: float) -> Self:
        """Return the health after SignalWire has answered."""
        if not self.is_open:
            return self
        return attrs.evolve(self, is_open=False, reason="", failed_probes=0, probe="", back_at=at)

    def paused(self, asked: float, until: float) -> Self:
        """Return the health after SignalWire has asked for a pause. An older request for one changes nothing."""
        if asked == self.paused_at or is_ahead(self.paused_at, asked):
            return self
        return attrs.evolve(self, paused_at=asked, paused_until=until)

    def lifted(self, asked: float) -> Self:
        """Return the health after a pause that SignalWire asked for at `asked` was lifted."""
        return self if self.paused_at > asked else attrs.evolve(self, paused_until=NEVER)

    def slowed(self, rate: float, until: float) -> Self:
        """Return the health after SignalWire has said how many requests are left until then."""
        return attrs.evolve(self, slow_rate=rate, slow_until=until)

    def dumped(self) -> str:
        """Return the health as JSON, without the fields that have their default. Equal values give equal texts."""
        values = attrs.asdict(self, filter=lambda field, value: value != field.default)
        return json.dumps(values, separators=(",", ":"))

    @classmethod
    def loaded(cls, text: str | bytes) -> Self:
        """Return the health that `dumped` has written.

        A process of another version may have written it: fields that this one doesn't know are left out. If the text
        isn't a health, return `AccountHealth()`.
        """
        try:
            values = json.loads(text)
            fields = {field.name: type(field.default) for field in attrs.fields(cls)}
            known = {name: convert(fields[name], value) for name, value in values.items() if name in fields}
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            return cls()
        return cls(**known)


def is_ahead(time: float, at: float) -> bool:
    """Return whether a time is still to come."""
    return at < time <= at + LONGEST_AHEAD


def is_outdated(at: float, latest: float) -> bool:
    """Return whether a reading from `at` is older than the latest one. Answers don't arrive in order."""
    return latest - CLOCK_WAS_SET < at < latest


def convert(kind: type, value: object) -> Any:  # noqa: ANN401 - as the field's type
    """Return a value from JSON with the type of its field. Raise `TypeError` if it has another one."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and is_number and math.isfinite(cast("float", value)):
        return float(cast("float", value))
    if kind is float or type(value) is not kind:
        raise TypeError
    return value
