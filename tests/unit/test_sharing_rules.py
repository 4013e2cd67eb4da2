"""What a session does with a stored pair, in every case that can be: by enumeration, and not by chance.

A case is what the store holds, the mark that it has, the session's own pair, the step that is due, and whether a pair
may be issued. `pytest -s` prints how many cases there were of each kind.
"""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import product

import attrs
import pytest

from signalwire_tokens import RefreshPolicy, SignalWireTokenError
from signalwire_tokens.keeper.sharing_rules import TimedReading, choose, find_better, find_other, holds
from signalwire_tokens.lifecycle import Lifecycle
from signalwire_tokens.models import Token, TokenPair
from signalwire_tokens.outcomes import IssueNew, Renewed, Spent, UseRefreshToken
from signalwire_tokens.stores.records import Reading, Record

LIFE, WINDOW = 7200.0, 300.0
NOW, WALL = 100_000.0, 1_900_000_000.0
AHEAD = WALL - NOW
HERE = "here"  # the timeline of the store


def make_pair(name):
    issued = datetime.fromtimestamp(0, UTC)
    access, refresh = (
        Token(value=f"{kind}-{name}", issued_at=issued, expires_at=issued + timedelta(seconds=lifetime), kind=kind)
        for kind, lifetime in (("SAT", LIFE), ("Refresh", LIFE + WINDOW))
    )
    return TokenPair(access_token=access, refresh_token=refresh)


OWN, OTHER, BROUGHT = (make_pair(name) for name in ("own", "other", "brought"))
# By name: the pair that is stored, and how many seconds ago it was asked for. None is of unknown age.
STORED = {
    "nothing": None,
    "the own pair": (OWN, 5000.0),
    "an earlier pair": (OTHER, 6000.0),
    "a later pair": (OTHER, 10.0),
    "a pair whose access token has expired": (OTHER, LIFE + 1),
    "an expired pair": (OTHER, LIFE + WINDOW + 1),
    "a pair of unknown age": (OTHER, None),
}
# The session's own pair, and how many seconds ago it was asked for.
HELD = {
    "none": None,
    "one": (OWN, 5000.0),
    "an expired one": (OWN, LIFE + WINDOW + 1),
    "a brought one": (BROUGHT, 5000.0),
}
CASES = [
    *product(STORED, (None, "mark"), HELD, (False, True), (UseRefreshToken, IssueNew), (True, False), (True, False))
]


class Case:
    """A sight of a store, and the session that looks."""

    def __init__(self, stored, mark, held, is_brought, step, presents, reissues):  # noqa: PLR0917 - a case's columns
        self.stored, self.mark, self.held = STORED[stored], mark, HELD[held]
        self.cycle = Lifecycle(RefreshPolicy(), lifetime=LIFE, draw=0.5, presents=presents, reissues=reissues)
        self.cycle.open(NOW - LIFE, None if self.held is None else Renewed(self.held[0], NOW - self.held[1]))
        if self.held is None and not reissues:  # a first issue was refused
            self.cycle.fail_to_process(IssueNew(NOW), Spent(SignalWireTokenError("no")), NOW, 0.5)
        self.brought = BROUGHT if is_brought else None
        self.step = step(NOW)
        self.timed = TimedReading(self.reading(), before=NOW, after=NOW, wall=WALL, gained=0.0, leap=60.0)

    def reading(self):
        record = None
        if self.stored is not None:
            pair, age = self.stored
            asked = NOW - (10.0 if age is None else age)
            timeline = "elsewhere" if age is None else HERE
            wall = asked + AHEAD
            record = Record(pair=pair, asked_at=asked, asked_wall=wall, timeline=timeline, presenting=self.mark)
        return Reading(record=record, at=NOW, timeline=HERE, wall=WALL)

    @property
    def record(self):
        return self.timed.reading.record

    def choose(self):
        return choose(self.timed, self.cycle, self.step, brought=self.brought, ahead=AHEAD)

    @property
    def may_issue(self):
        return self.cycle.can_issue and (self.held is not None or self.brought is None)


@pytest.fixture(scope="module")
def cases():
    return [(case, Case(*case)) for case in CASES]


def counted(kinds):
    """Print how many cases there were of each kind, and return whether there was any of each."""
    print(dict(kinds))  # noqa: T201 - `pytest -s` shows it
    return all(kinds.values())


def test_what_is_presented_is_known_and_safe(cases):
    """No refresh token is presented that may be used up, where a pair can be issued instead. (P20)"""
    kinds = Counter(dict.fromkeys(("issued", "presented", "presented for want of another way"), 0))
    for name, case in cases:
        step, record = case.choose()
        if isinstance(step, IssueNew):
            assert record is None, name
            assert case.may_issue or not case.cycle.presents or (case.record is None and case.held is None), name
            kinds["issued"] += 1
            continue
        assert case.cycle.presents, name
        assert record.pair in (case.held and case.held[0], case.stored and case.stored[0]), name
        if not case.may_issue:
            kinds["presented for want of another way"] += 1
            continue
        kinds["presented"] += 1
        assert record is case.record, name  # the store has lost nothing
        assert record.presenting is None, name
        is_refused = holds(record, case.cycle.pair) and isinstance(case.step, IssueNew)
        has_ended = case.timed.latest is not None and record.until <= NOW
        assert not is_refused, name
        assert not has_ended, name
    assert counted(kinds)


def test_a_pair_that_is_found_never_replaces_one_that_expires_later(cases):
    """It is valid, of known age, and another one."""
    kinds = Counter({"found": 0, "not found": 0})
    for name, case in cases:
        found = find_better(case.timed, case.cycle, now=NOW, wall=WALL)
        kinds["not found" if found is None else "found"] += 1
        is_valid = case.stored is not None and case.stored[1] is not None and case.stored[1] < LIFE
        is_later = is_valid and (case.held is None or case.stored[1] < case.held[1])
        is_better = is_later and not (case.held is not None and case.stored[0] is case.held[0])
        assert (found is not None) is is_better, name
        if found is not None:
            assert found.asked + LIFE > max(NOW, case.cycle.access_until), name
            assert found.pair.access_token.expires_at.timestamp() == found.asked + AHEAD + LIFE, name
    assert counted(kinds)


def test_the_last_way_out_is_another_pair_with_a_valid_refresh_token(cases):
    """Its access token may have expired."""
    kinds = Counter({"found": 0, "not found": 0})
    for name, case in cases:
        found = find_other(case.timed, case.cycle, now=NOW, wall=WALL)
        kinds["not found" if found is None else "found"] += 1
        is_known = case.stored is not None and case.stored[1] is not None and case.stored[1] < LIFE + WINDOW
        is_other = is_known and not (case.held is not None and case.stored[0] is case.held[0])
        assert (found is not None) is is_other, name
    assert counted(kinds)


def test_a_paused_machine_makes_a_pair_s_age_unknown():
    """So it is neither better nor a way out."""
    case = Case("a later pair", None, "one", False, UseRefreshToken, True, True)
    paused = attrs.evolve(case.timed.reading, wall=WALL + 61)
    timed = TimedReading(paused, before=NOW, after=NOW, wall=WALL, gained=0.0, leap=60.0)
    assert find_better(timed, case.cycle, now=NOW, wall=WALL) is None
    assert find_other(timed, case.cycle, now=NOW, wall=WALL) is None


def test_a_pair_that_the_session_had_before_is_never_better():
    """A store may come back with an older record. A caller has perhaps reported its token as refused. (P1)"""
    case = Case("a later pair", None, "one", False, UseRefreshToken, True, True)
    assert find_better(case.timed, case.cycle, now=NOW, wall=WALL) is not None
    case.cycle.earlier = (hash(case.record.pair.access_token.value),)
    case.cycle.invalidate(NOW)
    assert find_better(case.timed, case.cycle, now=NOW, wall=WALL) is None


@pytest.mark.parametrize("stored", ["an earlier pair", "a later pair"])
def test_what_is_stored_under_a_brought_pair_is_its_successor(stored):
    """Whatever the clocks say. Under a pair of the session's own, an earlier one means that the store has lost it."""
    for held, is_brought in (("a brought one", True), ("one", False)):
        case = Case(stored, None, held, is_brought, UseRefreshToken, True, True)
        is_trusted = is_brought or stored == "a later pair"
        assert case.choose() == ((UseRefreshToken(NOW), case.record) if is_trusted else (IssueNew(NOW), None))


@pytest.mark.parametrize(
    ("gained", "older_by", "is_lost"),
    [(0, 0, False), (0, 1, True), (40, 39, False), (40, 41, True), (3600, 59, False), (3600, 61, True)],
)
def test_a_record_counts_as_lost_only_if_it_is_certainly_older(gained, older_by, is_lost):
    """The session's machine may have been paused for what its wall clock has gained, up to a minute. (P20)

    The record may then be the later one. If it is lost, the session issues a pair.
    """
    case = Case("an earlier pair", None, "one", False, UseRefreshToken, True, True)
    case.cycle.asked = NOW - case.stored[1] + older_by
    timed = attrs.evolve(case.timed, wall=WALL + gained)
    step, record = choose(timed, case.cycle, case.step, brought=None, ahead=AHEAD)
    assert (step, record) == ((IssueNew(NOW), None) if is_lost else (UseRefreshToken(NOW), case.record))
