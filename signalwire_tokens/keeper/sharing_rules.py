"""The decisions about a shared pair: which refresh token to use, which pair to adopt, and how old a stored pair is.

These are pure functions, without asyncio and clocks. All times are in seconds by the session's clock, unless a
docstring names another one.

Why age is hard: a token doesn't show when it expires, and the machines that share a store don't agree on the time. So a
record holds when its pair was requested by the *store's* clock, and a reading holds the time of that clock. The
difference is the pair's age. The session subtracts the age from its own time *before* it read the record. The pair then
seems older than it is by as long as the read took, and never younger. For example::

    the session asks the store at          100.0   by the session's clock
    the store answers: its time is        5050.0   by the store's clock
    the record's pair was requested at    5020.0   by the store's clock, so its age is 30 s
    the pair was requested at               70.0   by the session's clock, or a moment later

The age is *unknown* if the store's clock was restarted, or if the record seems to be from the future. It is also
unknown if the wall clock has gained too much, since a virtual machine may have been paused. No session serves a pair of
unknown age, but its refresh token may be used.
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

__all__ = [
    "UNBOUNDED",
    "Lives",
    "TimedReading",
    "choose",
    "find_better",
    "find_other",
    "holds",
    "is_sound",
    "shortened",
]

Lives: TypeAlias = tuple[timedelta, timedelta]  # the lifetimes of an access token and of its refresh token
UNBOUNDED: Lives = (LONGEST_LIFE, LONGEST_LIFE)
UNKNOWN_TIMELINE = "unknown"  # a timeline that matches no store's, so that readers take the pair's age for unknown


@attrs.frozen(eq=False)
class TimedReading:
    """A reading of the store, with the times at which the session took it.

    `before` and `after` are the session's clock before and after the read. `wall` is the wall clock after it. `gained`
    is how much the wall clock has gained on the session's clock during the read. If that is more than `leap`, a virtual
    machine may have been paused, and the pair's age is unknown.
    """

    reading: Reading
    before: float = attrs.field(kw_only=True)
    after: float = attrs.field(kw_only=True)
    wall: float = attrs.field(kw_only=True)
    gained: float = attrs.field(kw_only=True)
    leap: float = attrs.field(kw_only=True)

    @property
    def asked(self) -> float | None:
        """When the record's pair was requested, or a little earlier; None if its age is unknown."""
        latest = self.latest
        return latest if self.reading.gained <= self.leap and self.gained <= self.leap else None

    @property
    def latest(self) -> float | None:
        """When the record's pair was requested by the store's clock alone; None if even that doesn't show its age.

        If a virtual machine was paused since, the store's clock may have stopped. The pair is then older than this.
        """
        age = self.reading.age
        return None if age is None else self.before - age

    def unsure_by(self, ahead: float) -> float:
        """Return by how many seconds a pair that this session requested may be older than its clock shows.

        That is what the wall clock has gained since, because the machine may have been paused. `ahead` is by how much
        the wall clock was ahead of the session's clock when the pair was requested.
        """
        return max(0.0, self.wall - self.after - ahead)

    def record(self, pair: TokenPair, asked: float, ahead: float) -> Record:
        """Return the record to save for a pair that was requested at `asked`.

        `ahead` is by how much the wall clock was ahead of the session's clock at that time. If the wall clock has
        gained too much since, the pair is older than the session's clock shows. The record then gets a timeline that no
        store has, so that readers take the age for unknown.

        The record makes the pair a little older than it is, by the time since the store read its clock.
        """
        return Record(
            pair=pair,
            asked_at=self.reading.at - (self.after - asked),
            asked_wall=asked + ahead,
            timeline=self.reading.timeline if self.unsure_by(ahead) <= self.leap else UNKNOWN_TIMELINE,
        )


def find_better(timed: TimedReading, cycle: Lifecycle, *, now: float, wall: float) -> Renewed | None:
    """Return the stored pair if its token is valid and expires later than the current one; None otherwise.

    A pair that the session had before doesn't count, even if it expires later than an invalidated one.
    """
    record, asked = timed.reading.record, timed.asked
    if record is None or asked is None or hash(record.pair.access_token.value) in cycle.seen:
        return None
    if asked + life_of(record.pair.access_token) <= max(now, cycle.access_until):
        return None
    return Renewed(with_times(record.pair, asked, now=now, wall=wall), asked)


def find_other(timed: TimedReading, cycle: Lifecycle, *, now: float, wall: float) -> Renewed | None:
    """Return the stored pair if it isn't the current one and its refresh token is valid; None otherwise.

    Its access token may have expired. This is for a session that has no other way left to renew.
    """
    held, asked = timed.reading.record, timed.asked
    if held is None or asked is None or holds(held, cycle.pair) or held.until <= timed.reading.at:
        return None
    return Renewed(with_times(held.pair, asked, now=now, wall=wall), asked)


def choose(
    timed: TimedReading, cycle: Lifecycle, step: RenewalStep, *, brought: TokenPair | None, ahead: float
) -> tuple[RenewalStep, Record | None]:
    """Return whether to refresh or to issue, and the record with the refresh token to use; None for an issue.

    The rule is: a refresh token that may be used up isn't presented if the session can issue a pair instead. (P20) The
    first line that fits decides::

        the store holds                           the candidate            it is doubtful, because
        ---------------------------------------   ----------------------   -----------------------------------------
        nothing                                   the session's own pair   a lost record may have been used
        a pair older than the session's own       the session's own pair   the store has lost a newer record
        a marked record                           the record               its refresh token may have been presented
        the session's pair, and the plan is       the record               its refresh token was refused or given up
        to issue
        a pair whose refresh token has expired    the record               SignalWire will refuse it
        any other record                          the record               -

    A doubtful candidate leads to an issue if the session may issue, and to a refresh otherwise. Without a candidate
    that has a refresh token, the result is an issue. A session that was created with a pair from elsewhere may not
    issue before it has a current pair.

    `brought` is a pair that the session didn't request itself, until the store has it. Any record under its key then
    holds a successor of that pair, even if the clocks make it look older. `ahead` is by how much the wall clock was
    ahead of the session's clock when the current pair was requested.
    """
    held, pair = timed.reading.record, cycle.pair
    mine = None if pair is None else timed.record(pair, cycle.asked, ahead)
    known = holds(held, pair)
    may_issue = cycle.can_issue and (pair is not None or brought is None)
    unsure_by = min(timed.unsure_by(ahead), timed.leap)  # beyond that, an issue is safe in any case
    is_older = (age := timed.reading.age) is not None and timed.after - age < cycle.asked - unsure_by
    is_behind = is_older and not known and pair is not brought  # without a pair, `cycle.asked` is -inf
    if held is None or is_behind:
        doubtful, best = True, mine
    else:
        refused = known and isinstance(step, IssueNew)
        ended = timed.latest is not None and held.until <= timed.reading.at
        doubtful, best = held.presenting is not None or refused or ended, held
    if best is None or not cycle.can_present(best.pair) or (doubtful and may_issue):
        return IssueNew(step.at), None
    return UseRefreshToken(step.at), best


def with_times(pair: TokenPair, asked: float, *, now: float, wall: float) -> TokenPair:
    """Return a stored pair with its times by this machine's wall clock."""
    issued_at = datetime.fromtimestamp(wall, UTC) - timedelta(seconds=now - asked)
    token, refresh_token = (
        attrs.evolve(half, issued_at=issued_at, expires_at=issued_at + timedelta(seconds=life_of(half)))
        for half in (pair.access_token, pair.refresh_token)
    )
    return attrs.evolve(pair, access_token=token, refresh_token=refresh_token)


def shortened(reading: Reading, longest: Lives) -> Reading:
    """Return the reading with the lifetimes of its pair limited to `longest`.

    Another session may have stored the pair with other settings. A pair that looks valid for too long must not be
    served.
    """
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
    """Return whether a record holds a pair, by its refresh token."""
    return record is not None and pair is not None and record.pair.refresh_token.value == pair.refresh_token.value


def is_sound(reading: object) -> bool:
    """Return whether a store's answer is a reading with finite times.

    A store may be your own code, and have mistakes.
    """
    if not isinstance(reading, Reading) or not isinstance(reading.record, Record | None):
        return False
    times: tuple[object, ...] = (reading.at, 0.0 if reading.wall is None else reading.wall)
    return all(isinstance(time, int | float) and math.isfinite(time) for time in times)
