"""What to present, adopt or distrust of what a store holds: decided by pure functions, without asyncio and clocks.

All times are seconds by the session's clock, unless they are said to be others.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

import attrs

from signalwire_tokens.models import LONGEST_LIFE, life_of
from signalwire_tokens.outcomes import IssueNew, RenewalStep, Renewed, UseRefreshToken
from signalwire_tokens.stores.records import Reading, Record

if TYPE_CHECKING:
    from signalwire_tokens.lifecycle import Lifecycle
    from signalwire_tokens.models import TokenPair

__all__ = ["UNBOUNDED", "Lives", "Sight", "choose", "find_better", "find_other", "holds", "is_sound", "shortened"]

Lives: TypeAlias = tuple[timedelta, timedelta]  # of an access token, and of its refresh token
UNBOUNDED: Lives = (LONGEST_LIFE, LONGEST_LIFE)
UNKNOWN = "unknown"  # the timeline of no store: the age of such a record's pair is unknown


@attrs.frozen(eq=False)
class Sight:
    """A reading, and between which moments of the session's clock it was taken.

    `wall` is the wall clock's time after it, and `gained` what that clock gained on the session's meanwhile. A gain of
    more than `leap` seconds means that a virtual machine may have been paused, so the pair's age is unknown.
    """

    reading: Reading
    before: float = attrs.field(kw_only=True)
    after: float = attrs.field(kw_only=True)
    wall: float = attrs.field(kw_only=True)
    gained: float = attrs.field(kw_only=True)
    leap: float = attrs.field(kw_only=True)

    @property
    def asked(self) -> float | None:
        """When the record's pair was asked for, by the session's clock, or a little earlier; None where unknown."""
        latest = self.latest
        return latest if self.reading.gained <= self.leap and self.gained <= self.leap else None

    @property
    def latest(self) -> float | None:
        """When the record's pair was asked for, at the latest: earlier, if a machine was paused since."""
        age = self.reading.age
        return None if age is None else self.before - age

    def record(self, pair: TokenPair, asked: float, ahead: float) -> Record:
        """Return the record of a pair, by the store's time, or as a little older than the pair is.

        `asked` is when the pair was asked for, by the session's clock, and `ahead` by how much the wall clock was ahead
        of that clock then. If the wall clock has leapt since, the pair is older than the session's clock knows, and the
        record is of no timeline that the store knows.
        """
        return Record(
            pair=pair,
            asked_at=self.reading.at - (self.after - asked),
            asked_wall=asked + ahead,
            timeline=self.reading.timeline if self.wall - self.after - ahead <= self.leap else UNKNOWN,
        )


def find_better(sight: Sight, cycle: Lifecycle, *, now: float, wall: float) -> Renewed | None:
    """Return the stored pair, if its token is valid and expires later than the current one."""
    record, asked = sight.reading.record, sight.asked
    if record is None or asked is None or record.pair.access_token.value == cycle.value:
        return None
    if asked + life_of(record.pair.access_token) <= max(now, cycle.access_until):
        return None
    return Renewed(redated(record.pair, asked, now=now, wall=wall), asked)


def find_other(sight: Sight, cycle: Lifecycle, *, now: float, wall: float) -> Renewed | None:
    """Return the stored pair, if it is another than the current one and has a valid refresh token."""
    held, asked = sight.reading.record, sight.asked
    if held is None or asked is None or holds(held, cycle.pair) or held.until <= sight.reading.at:
        return None
    return Renewed(redated(held.pair, asked, now=now, wall=wall), asked)


def choose(
    sight: Sight, cycle: Lifecycle, step: RenewalStep, *, brought: TokenPair | None, ahead: float
) -> tuple[RenewalStep, Record | None]:
    """Return whether to present a refresh token, and the record that has it.

    If a pair can be issued, no refresh token is presented that may be used up. `brought` is a pair that the session
    didn't issue, until the store has it. `ahead` is by how much the wall clock was ahead of the session's clock when
    the current pair was asked for.
    """
    held, pair = sight.reading.record, cycle.pair
    mine = None if pair is None else sight.record(pair, cycle.asked, ahead)
    known = holds(held, pair)
    may_issue = cycle.can_issue and (pair is not None or brought is None)
    is_older = (age := sight.reading.age) is not None and sight.after - age < cycle.asked
    is_behind = pair is not None and not known and pair is not brought and is_older
    if held is None or is_behind:
        doubtful, best = True, mine  # the store has lost something
    else:
        refused = known and isinstance(step, IssueNew)
        ended = sight.latest is not None and held.until <= sight.reading.at
        doubtful, best = held.presenting is not None or refused or ended, held
    if best is None or not cycle.can_present(best.pair) or (doubtful and may_issue):
        return IssueNew(step.at), None
    return UseRefreshToken(step.at), best


def redated(pair: TokenPair, asked: float, *, now: float, wall: float) -> TokenPair:
    """Return a stored pair with the times of its tokens by this machine's wall clock."""
    issued_at = datetime.fromtimestamp(wall, UTC) - timedelta(seconds=now - asked)
    token, refresh_token = (
        attrs.evolve(half, issued_at=issued_at, expires_at=issued_at + timedelta(seconds=life_of(half)))
        for half in (pair.access_token, pair.refresh_token)
    )
    return attrs.evolve(pair, access_token=token, refresh_token=refresh_token)


def shortened(reading: Reading, longest: Lives) -> Reading:
    """Return the reading with its pair's lifetimes limited to `longest`."""
    record = reading.record
    if record is None:
        return reading
    pair = record.pair
    token, refresh_token = (
        attrs.evolve(half, expires_at=min(half.expires_at, half.issued_at + most))
        for half, most in zip((pair.access_token, pair.refresh_token), longest, strict=True)
    )
    pair = attrs.evolve(pair, access_token=token, refresh_token=refresh_token)
    return attrs.evolve(reading, record=attrs.evolve(record, pair=pair))


def holds(record: Record | None, pair: TokenPair | None) -> bool:
    """Return whether a record is of a pair."""
    return record is not None and pair is not None and record.pair.refresh_token.value == pair.refresh_token.value


def is_sound(reading: object) -> bool:
    """Return whether an answer is a reading whose times are numbers."""
    if not isinstance(reading, Reading) or not isinstance(reading.record, Record | None):
        return False
    times: tuple[object, ...] = (reading.at, 0.0 if reading.wall is None else reading.wall)
    return all(isinstance(time, int | float) and math.isfinite(time) for time in times)
