"""Renewals of a shared pair in every order of events, by a model, and what breaks without each defence.

`python tests/support/rotation_model.py` prints how many states there are.
"""

import pytest

from support.rotation_model import (
    ALONE,
    COSTS,
    FAULTS,
    LONG,
    ORDER,
    PROPERTIES,
    QUICK,
    REUSE,
    STORED,
    STUCK,
    UNPAUSED,
    WITHOUT,
    Rules,
    described,
    explore,
    without,
)

# By the defence that is off: what breaks with one fault at most, and how many moves the shortest way to that has.
BROKEN = {
    "the mark": {REUSE: 9},
    "the lease": {ALONE: 9, COSTS: 9},
    "compare-and-set": {ORDER: 10, COSTS: 18, REUSE: 19},
    "the lease and compare-and-set": {ALONE: 9, COSTS: 9, REUSE: 10, ORDER: 11},
    "the mark's place before the request": {REUSE: 9},
    "the mark's stay after a lost answer": {REUSE: 13},
    "the choice under the lease": {ORDER: 12, REUSE: 13, COSTS: 13},
    "the read under the lease": {COSTS: 11},
    "the lease's expiry": {STUCK: 5},
    "the time check before the request": {},  # it saves requests: mark and compare-and-set make late ones harmless
}


@pytest.mark.parametrize("rules", QUICK, ids=described)
def test_renewals_keep_their_properties_in_every_order(rules):
    """Two processes break no property, in any order of their steps and of a few faults. (P20, P32, P33)"""
    report = explore(rules)
    assert not report.broken, str(report)


@pytest.mark.slow  # the largest search has 135,000 states
@pytest.mark.heavy
@pytest.mark.parametrize("rules", LONG, ids=described)
def test_more_processes_and_faults_break_nothing_either(rules):
    """Three processes, or more faults, break no property either. (P20, P32, P33)"""
    report = explore(rules)
    assert not report.broken, str(report)


def test_every_defence_is_listed():
    """The table above has each defence of the model."""
    assert list(BROKEN) == list(WITHOUT)


@pytest.mark.parametrize("name", [name for name in BROKEN if BROKEN[name]])
def test_a_defence_is_needed(name):
    """Without the defence, the search finds what breaks, and the shortest way to it."""
    found = without(name, tuple(BROKEN[name]))
    assert {broken: len(moves) for broken, moves in found.items()} == BROKEN[name]


@pytest.mark.slow  # the largest search has 100,000 states
@pytest.mark.heavy
@pytest.mark.parametrize("name", BROKEN)
def test_a_missing_defence_breaks_nothing_else(name):
    """Without the defence, the other properties hold with one fault."""
    found = without(name, tuple(one for one in PROPERTIES if one not in BROKEN[name]))
    assert not found, found


@pytest.mark.parametrize(
    ("faults", "moves"),
    [(UNPAUSED | {"pause"}, 11), (UNPAUSED | {"store"}, 7)],
    ids=["a pause", "a store that fails"],
)
def test_a_session_that_cannot_issue_may_use_up_the_refresh_token_of_others(faults, moves):
    """It sends the shared refresh token as its last way, after a pause of the other or without the store."""
    found = explore(Rules(reissues=(False, True), faults=faults, most=1), (REUSE,)).broken
    assert len(found[REUSE]) == moves


def test_a_broken_property_is_shown_as_numbered_sentences():
    """The sentences are the shortest way to it."""
    report = explore(Rules(reissues=(True,), marks=False, faults=frozenset({"kill"}), most=1), (REUSE,))
    assert str(report).splitlines() == [
        "P20: a process that can issue sends no refresh token that may be used up. Broken by:",
        "1. A wants to renew, and reads pair 1.",
        "2. A takes the lease.",
        "3. A reads pair 1 under the lease, and chooses the refresh token of pair 1.",
        "4. A sends the refresh token of pair 1.",
        "5. A is killed, and starts again.",
        "6. A wants to renew, and reads pair 1, whose token has expired.",
        "7. The lease that no process holds expires.",
        "8. A takes the lease.",
        "9. A reads pair 1 under the lease, whose token has expired, and chooses the refresh token of pair 1.",
        "10. A sends the refresh token of pair 1.",
    ]


def test_each_set_of_faults_is_checked_for_what_holds_with_it():
    """One process at a time renews unless one is paused, and issues are counted unless the store fails."""
    names = {faults: set(PROPERTIES) - set(Rules(faults=faults).properties) for faults in (FAULTS, STORED, UNPAUSED)}
    assert names == {FAULTS: {ALONE, COSTS}, STORED: {ALONE}, UNPAUSED: set()}
