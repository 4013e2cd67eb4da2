"""How old a stored pair is, and what a session makes of a store's answer: each rule by an example."""

import math
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from signalwire_tokens import RefreshPolicy, SignalWireTokenError
from signalwire_tokens.keeper.sharing_rules import (
    UNBOUNDED,
    TimedReading,
    choose,
    find_better,
    find_other,
    holds,
    is_sound,
    shortened,
    with_times,
)
from signalwire_tokens.lifecycle import Lifecycle
from signalwire_tokens.models import Token, TokenPair
from signalwire_tokens.outcomes import IssueNew, Renewed, Spent, UseRefreshToken
from signalwire_tokens.stores.records import Reading, Record

LIFE, WINDOW = 7200.0, 300.0
NOW, WALL, STORE = 100_000.0, 1_900_000_000.0, 5000.0  # by the session's clock, the wall clock and the store's clock
AHEAD = WALL - NOW
EPOCH = datetime.fromtimestamp(0, UTC)
REFRESH, ISSUE = UseRefreshToken(NOW), IssueNew(NOW)


def make_pair(name, lifetime=LIFE):
    access, refresh = (
        Token(value=f"{kind}-{name}", issued_at=EPOCH, expires_at=EPOCH + timedelta(seconds=seconds), kind=kind)
        for kind, seconds in (("SAT", lifetime), ("Refresh", lifetime + WINDOW))
    )
    return TokenPair(access_token=access, refresh_token=refresh)


OWN, OTHER = make_pair("own"), make_pair("other")


def make_record(pair=OTHER, *, age=30.0, **more):
    """Return the record of a pair that was requested so many seconds ago."""
    return Record(pair=pair, asked_at=STORE - age, asked_wall=WALL - age, timeline="here", **more)


def make_reading(record, **more):
    return Reading(**{"record": record, "at": STORE, "timeline": "here", "wall": WALL, **more})


def timed(record, *, wall=WALL, gained=0.0, **more):
    """Return a reading that took a second."""
    return TimedReading(make_reading(record, **more), before=NOW - 1, after=NOW, wall=wall, gained=gained, leap=60.0)


def make_cycle(pair=None, *, age=0.0, **settings):
    """Return the record of an open session, with a pair that it requested so many seconds ago."""
    cycle = Lifecycle(RefreshPolicy(), lifetime=LIFE, draw=0.5, **settings)
    cycle.open(NOW, None if pair is None else Renewed(pair, NOW - age))
    return cycle


# The age of a stored pair.


def test_the_age_of_a_pair_counts_from_before_the_read():
    """So it seems older than it is by as long as the read took, and never younger."""
    assert timed(make_record()).asked == NOW - 1 - 30
    assert timed(make_record()).latest == NOW - 1 - 30


@pytest.mark.parametrize("timeline", ["before the restart", ""])
def test_a_pair_has_no_age_after_a_restart_of_the_clock(timeline):
    """The store's times can't be compared."""
    one = timed(make_record(), timeline=timeline)
    assert (one.asked, one.latest) == (None, None)


@pytest.mark.parametrize(
    ("since", "during", "is_known"),
    [(60.0, 60.0, True), (61.0, 0.0, False), (0.0, 61.0, False), (-3600.0, 0.0, True), (0.0, -3600.0, True)],
)
def test_a_pair_has_no_age_if_the_machine_may_have_been_paused(since, during, is_known):
    """The wall clock has gained too much, since the pair was stored or during the read. The latest time is known."""
    one = timed(make_record(), gained=during, wall=WALL)
    one = attrs.evolve(one, reading=attrs.evolve(one.reading, wall=WALL + since))
    assert one.asked == (NOW - 31 if is_known else None)
    assert one.latest == NOW - 31


def test_a_reading_is_equal_to_itself_alone():
    """Two reads may take the same times."""
    one = timed(None)
    assert one == one  # noqa: PLR0124 - that is the rule
    assert one != timed(None)


def test_the_times_of_a_reading_are_passed_by_name():
    """They are easily confused."""
    for name in ("before", "after", "wall", "gained", "leap"):
        times = dict.fromkeys({"before", "after", "wall", "gained", "leap"} - {name}, 0.0)
        with pytest.raises(TypeError):
            TimedReading(make_reading(None), 0.0, **times)


# Saving a pair.


def test_a_saved_pair_has_its_times_by_the_store_and_by_the_wall_clock():
    """Its time by the store's clock is a little early, by the time since the store read its clock."""
    saved = timed(None).record(OWN, NOW - 40, AHEAD)
    assert saved == Record(pair=OWN, asked_at=STORE - 40, asked_wall=WALL - 40, timeline="here")
    assert saved.presenting is None


@pytest.mark.parametrize(("gained", "timeline"), [(60.0, "here"), (60.1, "unknown"), (-3600.0, "here")])
def test_a_pair_that_was_requested_before_a_pause_is_saved_without_an_age(gained, timeline):
    """Its timeline is one that no store has."""
    assert timed(None, wall=WALL + gained).record(OWN, NOW - 40, AHEAD).timeline == timeline


# Finding a pair.


@pytest.mark.parametrize(
    ("age", "is_found"),
    [(LIFE - 1.5, True), (LIFE - 1, False), (LIFE, False)],
)
def test_a_stored_pair_is_used_while_its_token_is_valid(age, is_found):
    """Its age includes the second that the read took."""
    found = find_better(timed(make_record(age=age)), make_cycle(), now=NOW, wall=WALL)
    assert (found is not None) is is_found


@pytest.mark.parametrize(("own_age", "is_found"), [(30.0, False), (31.0, False), (31.5, True)])
def test_a_stored_pair_is_used_if_it_expires_later_than_the_current_one(own_age, is_found):
    """One that expires at the same time isn't better."""
    found = find_better(timed(make_record()), make_cycle(OWN, age=own_age), now=NOW, wall=WALL)
    assert (found is not None) is is_found


@pytest.mark.parametrize(("age", "is_found"), [(LIFE + 10, True), (LIFE + WINDOW - 0.5, True), (LIFE + WINDOW, False)])
def test_another_pair_is_a_way_out_while_its_refresh_token_is_valid(age, is_found):
    """By the store's clock."""
    found = find_other(timed(make_record(age=age)), make_cycle(OWN, age=20), now=NOW, wall=WALL)
    assert (found is not None) is is_found


@pytest.mark.parametrize("find", [find_better, find_other])
def test_a_found_pair_has_its_times_by_the_wall_clock_of_this_machine(find):
    """Its tokens keep their lifetimes and all else."""
    found = find(timed(make_record()), make_cycle(), now=NOW, wall=WALL + 7)
    assert found.asked == NOW - 31
    assert found.unsaved is None
    for half, stored, lifetime in (
        (found.pair.access_token, OTHER.access_token, LIFE),
        (found.pair.refresh_token, OTHER.refresh_token, LIFE + WINDOW),
    ):
        issued_at = datetime.fromtimestamp(WALL + 7 - 31, UTC)
        assert (half.issued_at, half.expires_at) == (issued_at, issued_at + timedelta(seconds=lifetime))
        assert (half.value, half.kind) == (stored.value, stored.kind)


def test_times_are_those_of_the_moment_at_which_the_pair_was_requested():
    """They are in UTC."""
    pair = with_times(OWN, NOW - 40, now=NOW, wall=WALL)
    assert pair.access_token.issued_at == datetime.fromtimestamp(WALL - 40, UTC)
    assert pair.access_token.issued_at.tzinfo is UTC


# Choosing a refresh token.


def chosen(one, cycle, step=REFRESH, *, brought=None):
    return choose(one, cycle, step, brought=brought, ahead=AHEAD)


def test_a_session_without_a_pair_uses_the_stored_one():
    """That is what sharing is for."""
    record = make_record()
    assert chosen(timed(record), make_cycle(), ISSUE) == (REFRESH, record)


def test_a_session_presents_its_own_pair_as_the_store_has_it():
    """The stored record shows whether another process may have used it. Its age there may be a little more."""
    for own_age in (20.0, 30.0, 40.0):
        record = make_record(OWN)
        assert chosen(timed(record), make_cycle(OWN, age=own_age)) == (REFRESH, record)


def test_a_refresh_token_that_was_refused_is_not_presented_again():
    """The plan to issue a pair shows that it was refused or given up."""
    assert chosen(timed(make_record(OWN)), make_cycle(OWN, age=30), ISSUE) == (ISSUE, None)
    assert chosen(timed(make_record()), make_cycle(OWN, age=40), ISSUE) == (REFRESH, make_record())


def test_a_session_without_any_pair_has_none_to_present():
    """Not even if its first issue was refused."""
    cycle = make_cycle(reissues=False)
    cycle.land(ISSUE, Spent(SignalWireTokenError("no")), NOW, 0.5)
    assert not cycle.can_issue
    assert chosen(timed(None), cycle) == (ISSUE, None)


def test_a_session_issues_a_pair_if_the_store_has_lost_its_own():
    """A lost record may have been used. Without the right to issue, the session presents its own pair."""
    assert chosen(timed(None), make_cycle(OWN)) == (ISSUE, None)
    step, record = chosen(timed(None), make_cycle(OWN, age=40, reissues=False))
    assert (step, record) == (REFRESH, timed(None).record(OWN, NOW - 40, AHEAD))


@pytest.mark.parametrize(("own_age", "is_behind"), [(29.9, True), (30.0, False), (31.0, False)])
def test_a_stored_pair_that_is_older_than_the_session_s_own_shows_a_loss(own_age, is_behind):
    """Its age counts from after the read here, so that the session doesn't take its own successor for older."""
    record = make_record()
    expected = (ISSUE, None) if is_behind else (REFRESH, record)
    assert chosen(timed(record), make_cycle(OWN, age=own_age)) == expected


@pytest.mark.parametrize(
    ("age", "is_ended"), [(LIFE + WINDOW - 0.5, False), (LIFE + WINDOW, True), (LIFE + WINDOW + 1, True)]
)
def test_a_stored_refresh_token_that_has_expired_is_not_presented(age, is_ended):
    """SignalWire will refuse it, so the session issues a pair if it may."""
    record = make_record(age=age)
    assert chosen(timed(record), make_cycle()) == ((ISSUE, None) if is_ended else (REFRESH, record))
    assert chosen(timed(record), make_cycle(OWN, age=LIFE + WINDOW + 10, reissues=False)) == (REFRESH, record)


def test_a_stored_refresh_token_of_unknown_age_is_presented():
    """It may be valid. After a pause of the machine, the store's clock alone doesn't show that it has expired."""
    record = make_record(age=LIFE + WINDOW + 1)
    assert chosen(timed(record, timeline="after a restart"), make_cycle()) == (REFRESH, record)


def test_a_brought_pair_is_presented_before_a_new_one_is_issued():
    """A session that was created with a pair may not issue before that pair is its current one."""
    record = make_record(presenting="an attempt")
    assert chosen(timed(record), make_cycle(), brought=OWN) == (REFRESH, record)
    assert chosen(timed(record), make_cycle()) == (ISSUE, None)
    assert chosen(timed(record), make_cycle(OWN), brought=OWN) == (ISSUE, None)


def test_without_a_refresh_token_that_the_session_can_present_it_issues_a_pair():
    """It may not, but then nothing else is left either."""
    assert chosen(timed(make_record()), make_cycle(presents=False)) == (ISSUE, None)
    assert chosen(timed(None), make_cycle(reissues=False)) == (ISSUE, None)


def test_the_chosen_step_is_taken_at_the_time_of_the_plan():
    """Only the way changes."""
    assert chosen(timed(make_record()), make_cycle(), IssueNew(7.0))[0] == UseRefreshToken(7.0)
    assert chosen(timed(None), make_cycle(OWN), UseRefreshToken(7.0))[0] == IssueNew(7.0)


# What a session makes of a store's answer.


def test_the_lifetimes_of_a_stored_pair_are_limited():
    """Another session may have stored it with other settings. All else stays."""
    reading = make_reading(make_record(presenting="an attempt"))
    limited = shortened(reading, (timedelta(seconds=60), timedelta(seconds=90)))
    pair = limited.record.pair
    assert (pair.access_token.expires_at - EPOCH, pair.refresh_token.expires_at - EPOCH) == (
        timedelta(seconds=60),
        timedelta(seconds=90),
    )
    assert attrs.evolve(limited, record=attrs.evolve(limited.record, pair=OTHER)) == reading


def test_shorter_lifetimes_than_the_limits_stay():
    """By default, the limits are ten years."""
    reading = make_reading(make_record())
    assert (timedelta(days=3653), timedelta(days=3653)) == UNBOUNDED
    assert shortened(reading, UNBOUNDED) == reading
    assert shortened(make_reading(None), UNBOUNDED) == make_reading(None)


@pytest.mark.parametrize(
    ("record", "pair", "is_held"),
    [
        (make_record(OWN), OWN, True),
        (make_record(OWN), attrs.evolve(OWN, access_token=OTHER.access_token), True),
        (make_record(OWN), attrs.evolve(OWN, refresh_token=OTHER.refresh_token), False),
        (None, OWN, False),
        (make_record(OWN), None, False),
        (None, None, False),
    ],
)
def test_a_record_holds_the_pair_with_its_refresh_token(record, pair, is_held):
    """The access token of a pair may be an earlier one, which expires later."""
    assert holds(record, pair) is is_held


@pytest.mark.parametrize(
    ("reading", "sound"),
    [
        (make_reading(None), True),
        (make_reading(make_record()), True),
        (make_reading(None, wall=None), True),
        (make_reading(None, at=5, wall=6), True),
        (None, False),
        (make_record(), False),
        (make_reading(OTHER), False),
        *((make_reading(None, **{name: time}), False) for name in ("at", "wall") for time in (math.nan, math.inf, "1")),
        (make_reading(None, at=None), False),
    ],
)
def test_an_answer_of_a_store_must_be_a_reading_with_finite_times(reading, sound):
    """A store may be your own code, and have mistakes."""
    assert is_sound(reading) is sound
