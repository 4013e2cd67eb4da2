"""What every event does to a token's record, in every state: by enumeration, and not by chance.

A state is the phase, the ways to renew that are open, the age of the token, and the renewal under way. It is set as it
is, so rare ones are as frequent as others. `pytest -s` prints how many there were of each kind.
"""

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count, product

import pytest

from signalwire_tokens import RefreshPolicy, SessionState, SignalWireTokenError
from signalwire_tokens.lifecycle import Adopted, Emit, Failed, Lifecycle, Phase
from signalwire_tokens.models import Token, TokenPair, life_of
from signalwire_tokens.outcomes import (
    Ambiguous,
    Denied,
    Expire,
    IssueNew,
    Look,
    Misconfigured,
    NotSent,
    NotYet,
    Renewed,
    Spent,
    Throttled,
    UseRefreshToken,
)
from signalwire_tokens.policy import CLOCK_TOLERANCE, NO_THROTTLE, Failing

LIFE, WINDOW, NOW = 7200.0, 300.0, 100_000.0
POLICY = RefreshPolicy()
NUMBERS = count(1)
ERROR = SignalWireTokenError("because")
FAILURES = [kind(ERROR) for kind in (NotSent, NotYet, Ambiguous, Throttled, Spent, Misconfigured, Denied)]
# How long ago the current token was asked for; None if there is none.
AGES = {"no token": None, "fresh": 100.0, "due": 5800.0, "ends soon": LIFE - 10, "expired": LIFE + 10}
WAYS = [*product((True, False), (True, False))]
STEPS = (None, UseRefreshToken, IssueNew)


def make_pair(lifetime=LIFE):
    number, issued = next(NUMBERS), datetime.fromtimestamp(0, UTC)
    access, refresh = (
        Token(value=f"{kind}-{number}", issued_at=issued, expires_at=issued + timedelta(seconds=seconds), kind=kind)
        for kind, seconds in (("SAT", lifetime), ("Refresh", lifetime + WINDOW))
    )
    return TokenPair(access_token=access, refresh_token=refresh)


def make(phase, ways, age, step, failure=None):
    """Return a record in a state."""
    cycle = Lifecycle(POLICY, lifetime=LIFE, draw=0.5)
    cycle.open(NOW - LIFE, None if AGES[age] is None else Renewed(make_pair(), NOW - AGES[age]))
    cycle.phase, (cycle.can_refresh, cycle.can_issue) = phase, ways
    cycle.under_way = None if step is None else step(NOW)
    if failure is not None:
        cycle.failing = Failing(failure)
        cycle.failing.count, cycle.tried_at = 1, NOW - 1
    return cycle


def states(*, phases=Phase, steps=STEPS, failures=(None, *FAILURES)):
    """Yield each state by its name, with a record in it."""
    for state in product(phases, WAYS, AGES, steps, failures):
        yield state, make(*state)


def failures_of(cycle):
    return 0 if cycle.failing is None else cycle.failing.count


def check(name, cycle, before):
    """Check what holds after every event."""
    assert cycle.phase >= before, name
    assert cycle.fresh_until <= cycle.due, name
    if cycle.phase >= Phase.EXPIRED:
        assert not cycle.is_at_rest, name
        assert cycle.state(NOW) in (SessionState.EXPIRED, SessionState.CLOSED), name
    if cycle.under_way is not None:
        assert not cycle.is_at_rest, name


EVENTS = {
    "invalidate": lambda cycle: cycle.invalidate(NOW),
    "clock_leaped": lambda cycle: cycle.clock_leaped(3600.0, NOW),
    "want": lambda cycle: cycle.caller_waits(NOW),
    "press": lambda cycle: cycle.demand(NOW),
    "check_until": lambda cycle: cycle.check_until(NOW + 1),
    "check_next": lambda cycle: cycle.check_until(-math.inf),
    "shut": lambda cycle: cycle.advance(Phase.SHUT),
    "end": lambda cycle: cycle.advance(Phase.ENDING),
    "close": lambda cycle: cycle.advance(Phase.CLOSED),
}


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_leaves_a_record_that_is_sound(event):
    """A session never goes back to an earlier phase, and no token is returned unchecked beyond its due time."""
    for name, cycle in states():
        before = cycle.phase
        EVENTS[event](cycle)
        check(name, cycle, before)


def test_what_is_closed_or_refused_is_not_returned_unchecked():
    """The next call checks."""
    for name, cycle in states(steps=[None], failures=[None]):
        for event in ("invalidate", "check_next", "shut", "close"):
            cycle.fresh_until = NOW - 1
            EVENTS[event](cycle)
            assert cycle.fresh_until == -math.inf, (name, event)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_renewal_that_failed_closes_no_other_way_than_its_own(failure):
    """After an unknown result, the refresh token isn't presented again if a pair can be issued. (P20)"""
    expected_kinds = {"Spent": ("closed",), "Ambiguous": ("closed", "open"), "Denied": ("closed", "open")}
    kinds = Counter(dict.fromkeys(expected_kinds.get(type(failure).__name__, ("open",)), 0))
    for name, cycle in states(steps=(UseRefreshToken, IssueNew)):
        step, before, ways = cycle.under_way, cycle.phase, (cycle.can_refresh, cycle.can_issue)
        pair, count = cycle.pair, failures_of(cycle)
        effects = cycle.land(step, failure, NOW, 0.5)
        check(name, cycle, before)
        presents = isinstance(step, UseRefreshToken)
        is_unsafe = isinstance(failure, Ambiguous | Denied) and ways[1]
        closes = isinstance(failure, Spent) or (presents and is_unsafe)
        expected = (ways[0] and not (closes and presents), ways[1] and not (closes and not presents))
        assert (cycle.can_refresh, cycle.can_issue) == expected, name
        kinds["closed" if closes else "open"] += 1
        assert cycle.pair is pair, name
        assert cycle.last_error is ERROR, name
        is_early = POLICY.is_early(failure, left=cycle.left(NOW), lifetime=LIFE)
        assert [one.is_news for one in effects if isinstance(one, Failed)] == [not is_early], name
        assert failures_of(cycle) == (0 if is_early else count + 1), name
        assert cycle.under_way is None, name
    print(dict(kinds))  # noqa: T201 - `pytest -s` shows it
    assert all(kinds.values())


def test_an_outage_is_reported_once():
    """And so is its end. Without a first token, neither is."""
    for name, cycle in states(phases=[Phase.OPEN], steps=[UseRefreshToken], failures=[None]):
        step, has_token = cycle.under_way, cycle.generation > 0
        outcomes = [Ambiguous(ERROR), Ambiguous(ERROR), Renewed(make_pair(), NOW), Renewed(make_pair(), NOW)]
        effects = [cycle.land(step, outcome, NOW, 0.5) for outcome in outcomes]
        emitted = [[one.kind for one in some if isinstance(one, Emit)] for some in effects]
        expected = [["degraded"], [], ["rotated", "recovered"]] if has_token else [[], [], []]
        assert emitted == [*expected, ["rotated"]], name


@pytest.mark.parametrize("asked", [NOW, NOW - 3000, NOW - LIFE - 1])
def test_a_pair_that_lands_is_always_kept(asked):
    """Of its access token and the current one, the one stays that expires later. (P6)"""
    kinds = Counter({"replaced": 0, "stayed": 0})
    for name, cycle in states(steps=(UseRefreshToken, IssueNew)):
        step, before, generation = cycle.under_way, cycle.phase, cycle.generation
        pair, current, until = make_pair(), cycle.value, cycle.access_until
        effects = cycle.land(step, Renewed(pair, asked), NOW, 0.5)
        check(name, cycle, before)
        stays = until > max(NOW, asked + LIFE + CLOCK_TOLERANCE)
        kinds["stayed" if stays else "replaced"] += 1
        assert cycle.value == (current if stays else pair.access_token.value), name
        assert cycle.access_until == (until if stays else asked + LIFE), name
        assert cycle.pair.refresh_token is pair.refresh_token, name
        assert cycle.refresh_until == asked + life_of(pair.refresh_token), name
        assert (cycle.can_refresh, cycle.can_issue) == (True, True), name
        assert cycle.generation == generation + 1, name
        assert cycle.failing is None, name
        assert [one for one in effects if isinstance(one, Adopted)], name
        assert cycle.fresh_until == -math.inf, name
    print(dict(kinds))  # noqa: T201 - `pytest -s` shows it
    assert kinds["replaced"]
    assert kinds["stayed"] or asked == NOW


def test_a_token_that_is_too_short_lived_counts_as_a_failure():
    """It is better than none, and its life doesn't shorten the pauses."""
    for name, cycle in states(phases=[Phase.OPEN], steps=[IssueNew], failures=[None]):
        stays = cycle.access_until > NOW + 1 + CLOCK_TOLERANCE
        cycle.land(cycle.under_way, Renewed(make_pair(1.0), NOW), NOW, 0.5)
        assert cycle.lifetime == LIFE, name
        assert isinstance(cycle.failure, NotSent), name
        assert cycle.failing.is_short is not stays, name


def test_the_next_step_uses_a_way_that_is_open():
    """With none, the session expires. It begins nothing before the floor after the last attempt. (P22)"""
    kinds = Counter({UseRefreshToken: 0, IssueNew: 0, Expire: 0})
    for name, cycle in states(phases=[Phase.OPEN], steps=[None]):
        step = cycle.policy.next_step(cycle, NO_THROTTLE)
        kinds[type(step)] += 1
        if isinstance(step, UseRefreshToken):
            assert cycle.can_refresh, name
            assert step.at < cycle.refresh_until, name
        if isinstance(step, IssueNew):
            assert cycle.can_issue, name
        if isinstance(step, Expire):
            assert not cycle.can_issue, name
        else:
            assert step.at >= cycle.tried_at + POLICY.min_interval_for(LIFE), name
    print({kind.__name__: number for kind, number in kinds.items()})  # noqa: T201 - `pytest -s` shows it
    assert all(kinds.values())


@pytest.mark.parametrize("is_found", [True, False])
def test_a_look_that_finds_nothing_means_something_only_for_a_token_that_is_lost(is_found):
    """Then the session has no way left. Otherwise the record is as before."""
    kinds = Counter({"lost": 0, "as before": 0})
    for name, cycle in states(steps=[None], failures=[None]):
        before, ways = cycle.phase, (cycle.can_refresh, cycle.can_issue)
        cycle.caller_waits(NOW)
        cycle.begin(Look(NOW))
        assert not cycle.is_at_rest, name
        assert cycle.awaited == NOW, name
        pair = make_pair()
        effects = cycle.land(UseRefreshToken(NOW), Renewed(pair, NOW) if is_found else None, NOW, 0.5)
        check(name, cycle, before)
        assert cycle.under_way is None, name
        if is_found:
            assert cycle.pair.refresh_token is pair.refresh_token, name
            continue
        is_lost = cycle.access_until <= NOW and not (ways[1] or (ways[0] and cycle.refresh_until > NOW))
        kinds["lost" if is_lost else "as before"] += 1
        assert isinstance(cycle.failure, Spent) is is_lost, name
        assert bool(effects) is is_lost, name
    print(dict(kinds))  # noqa: T201 - `pytest -s` shows it
    assert is_found or all(kinds.values())


def test_a_lost_result_ends_the_renewal():
    """Whether its pair was adopted or not."""
    for failure in (None, Ambiguous(ERROR)):
        for name, cycle in states(steps=(UseRefreshToken, IssueNew), failures=[None]):
            step, before = cycle.under_way, cycle.phase
            cycle.fail_to_process(step, failure, NOW, 0.5)
            check(name, cycle, before)
            assert cycle.under_way is None, name
            assert cycle.failure is failure, name
            assert cycle.tried_at == NOW, name  # from then on, the pause before the next attempt counts
