"""When to renew and how: decided by functions over values, so that every case can be written down."""

import math
from datetime import UTC, datetime, timedelta

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalwire_tokens import ConfigurationError, RefreshPolicy, RefreshTuning, SessionState, SignalWireTokenError
from signalwire_tokens.models import Token, TokenPair
from signalwire_tokens.outcomes import (
    Ambiguous,
    Denied,
    Expire,
    IssueNew,
    Misconfigured,
    NotSent,
    NotYet,
    Renewed,
    Spent,
    Throttled,
    UseRefreshToken,
)
from signalwire_tokens.policy import NO_THROTTLE, Failing

LIFE, WINDOW = 7200.0, 300.0
POLICY = RefreshPolicy()
TUNING = POLICY.tuning
ERROR = SignalWireTokenError("because")
FAILING = {"failure", "failures", "replays", "is_short"}
FAILURES = [NotSent, NotYet, Ambiguous, Throttled, Spent, Misconfigured, Denied]


def situation(*, lifetime=LIFE, **more):
    """A pair issued at 0, due half-way through the range, with both ways open."""
    given = {
        "lifetime": lifetime,
        "due": POLICY.due_at(asked=0, lifetime=lifetime, draw=0.5),
        "access_until": lifetime,
        "refresh_until": lifetime + WINDOW,
        "can_refresh": True,
        "can_issue": True,
    }
    failed = {"count" if name == "failures" else name: more.pop(name) for name in FAILING & more.keys()}
    failing = Failing(**failed) if failed.get("failure") else None
    return Situation(**{**given, "failing": failing, **more})


@attrs.frozen(kw_only=True)
class Situation:
    """What the policy reads of the record of a token."""

    lifetime: float
    due: float
    access_until: float
    refresh_until: float
    can_refresh: bool
    can_issue: bool
    draw: float = 0.5
    failing: Failing | None = None
    tried_at: float = -math.inf
    not_before: float = -math.inf
    awaited: float = math.inf
    demanded: float = math.inf
    throttled_at: float = -math.inf
    throttled_until: float = -math.inf


def next_step(case):
    return POLICY.next_step(case, (case.throttled_at, case.throttled_until))


def pause(failure, *, failures=1, tried_at=5000.0, **more):
    """How long a session waits after a failure."""
    return next_step(situation(failure=failure(ERROR), failures=failures, tried_at=tried_at, **more)).at - tried_at


@pytest.mark.parametrize(("draw", "share"), [(0.0, 0.6), (0.5, 0.7), (1.0, 0.8)])
@pytest.mark.parametrize("lifetime", [30.0, 60.0, LIFE])
def test_a_token_is_due_between_60_and_80_percent_of_its_life(draw, share, lifetime):
    """Wherever the draw falls, so that those born together do not renew together."""
    assert POLICY.due_at(asked=100.0, lifetime=lifetime, draw=draw) == pytest.approx(100 + share * lifetime)


@pytest.mark.parametrize(
    ("at", "state"),
    [
        (0, SessionState.FRESH),
        (5039, SessionState.FRESH),
        (5040, SessionState.DUE),
        (7170, SessionState.DUE),
        (7171, SessionState.EXPIRING),
        (7199, SessionState.EXPIRING),
        (7200, SessionState.UNAVAILABLE),
        (99999, SessionState.UNAVAILABLE),
    ],
)
def test_the_states_follow_from_the_times(at, state):
    """Fresh until due, due until the last half minute, urgent until the end, late from then on."""
    assert POLICY.state(situation(), at) is state


@pytest.mark.parametrize("due", [5040.0, 0.0, 7180.0])
@pytest.mark.parametrize("at", [0.0, 5039.0, 5040.0, 7000.0, 7170.0, 7171.0, 7185.0, 7199.0])
def test_a_state_lasts_until_it_ages(at, due):
    """It is the same until then, and another one a moment later, in whatever order the times are."""
    case, ages_at = situation(due=due), POLICY.ages_at(situation(due=due), at)
    state = POLICY.state(case, at)
    assert at <= ages_at
    assert {POLICY.state(case, at + share * (ages_at - at)) for share in (0.0, 0.5, 0.999)} == {state}
    assert POLICY.state(case, ages_at + 0.001) is not state


@pytest.mark.parametrize(("lifetime", "reserve"), [(LIFE, 30.0), (300.0, 30.0), (60.0, 6.0)])
def test_the_reserve_is_half_a_minute_but_never_more_than_a_tenth(lifetime, reserve):
    """A short life is not all urgency."""
    assert POLICY.needed_ttl(lifetime) == reserve


def test_at_most_a_fifth_of_a_life_may_be_asked_of_every_token():
    """That is what a fresh one has left at least; the fifth itself is allowed."""
    assert POLICY.longest_ttl(LIFE) == LIFE / 5
    assert RefreshPolicy(refresh_to=0.9).longest_ttl(100) == 10


def test_the_next_step_of_a_fresh_pair_is_to_present_its_refresh_token_when_due():
    """Nothing has gone wrong."""
    assert next_step(situation()) == UseRefreshToken(5040)


@pytest.mark.parametrize(
    ("ways", "at", "step"),
    [
        ({}, 7300, UseRefreshToken),
        ({}, 7500, IssueNew),  # the refresh token has expired
        ({"can_refresh": False}, 100, IssueNew),  # it was refused, or may be used up
        ({"can_issue": False}, 7499, UseRefreshToken),
        ({"can_issue": False}, 7500, Expire),
        ({"can_issue": False, "can_refresh": False}, 100, Expire),
    ],
)
def test_the_way_depends_on_the_time(ways, at, step):
    """A refresh token is presented while it lives; a pair is issued anew where that may be."""
    assert type(POLICY.step_at(situation(**ways), at)) is step


def test_with_no_way_left_the_token_is_served_to_its_own_end():
    """A refused refresh token takes nothing from the access token."""
    assert next_step(situation(can_refresh=False, can_issue=False)) == Expire(LIFE)


@pytest.mark.parametrize(("failures", "longest"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (50, 60)])
@pytest.mark.parametrize("failure", [NotSent, Ambiguous, Throttled])
def test_the_backoff_doubles_up_to_a_minute(failure, failures, longest):
    """From half a second, with full jitter."""
    assert pause(failure, failures=failures, draw=1.0) == pytest.approx(longest)
    assert pause(failure, failures=failures, draw=0.0) == pytest.approx(0.5)


def test_pauses_double_up_to_their_maximum_however_small_they_begin():
    """And however many have failed. So do the pauses of a fleet."""
    policy = RefreshPolicy(backoff_min=1e-9)
    case = situation(failure=NotSent(ERROR), failures=5000, tried_at=1000.0, draw=1.0)
    assert policy.next_step(case, NO_THROTTLE).at == 1060
    assert policy.probe_pause(LIFE, 5000, 1.0) == 5
    assert policy.probe_pause(LIFE, 20, 1.0) == pytest.approx(1e-9 * 2**20)


FIRST = {"access_until": -math.inf, "refresh_until": -math.inf, "can_refresh": False}  # before the first token
VALID, EXPIRED = {"tried_at": 1000.0}, {"tried_at": 8000.0}


@pytest.mark.parametrize(
    ("failure", "failures", "when", "shortest", "longest"),
    [
        (NotSent, 1, VALID, 0.5, 1),
        (NotSent, 2, VALID, 0.5, 2),
        (NotSent, 7, VALID, 0.5, 60),
        (Throttled, 2, VALID, 0.5, 2),
        (Ambiguous, 2, VALID, 0.5, 2),
        (Ambiguous, 9, {**VALID, "replays": 1}, 0.5, 1),
        (Ambiguous, 9, {**VALID, "replays": 2}, 0.5, 60),
        (NotYet, 9, VALID, 300, 600),
        (NotYet, 9, {"tried_at": 7000.0}, 25, 50),
        (Misconfigured, 1, VALID, 300, 600),
        (Denied, 1, VALID, 300, 600),
        (NotSent, 1, EXPIRED, 0.5, 1),
        (NotSent, 2, EXPIRED, 1, 2),
        (NotSent, 4, EXPIRED, 4, 8),
        (NotSent, 5, EXPIRED, 5, 15),
        (NotSent, 5, {"tried_at": LIFE}, 5, 15),
        (Throttled, 5, EXPIRED, 5, 15),
        (Ambiguous, 5, EXPIRED, 5, 15),
        (Ambiguous, 9, {**EXPIRED, "replays": 1}, 0.5, 1),
        (NotYet, 5, EXPIRED, 5, 15),
        (NotYet, 5, {"tried_at": LIFE}, 5, 15),
        (Misconfigured, 9, EXPIRED, 5, 15),
        (Denied, 1, EXPIRED, 15, 30),
        (Denied, 3, EXPIRED, 60, 120),
        (Denied, 9, EXPIRED, 300, 600),
        (NotSent, 4, {**VALID, **FIRST}, 0.5, 8),
        (NotYet, 4, {**VALID, **FIRST}, 0.5, 8),
        (Misconfigured, 1, {**VALID, **FIRST}, 300, 600),
        (Denied, 1, {**VALID, **FIRST}, 300, 600),
        # A token that is too short-lived limits no pause, but it is valid until it expires.
        (NotSent, 5, {"tried_at": LIFE - 0.5, "is_short": True}, 0.5, 16),
        (NotYet, 5, {"tried_at": LIFE - 0.5, "is_short": True}, 0.5, 0.5),
        # All but the pauses of `NotYet` are scaled for lifetimes under six minutes.
        (NotSent, 5, {"lifetime": 36.0, "tried_at": 50.0}, 0.5, 1.5),
        (Misconfigured, 1, {"lifetime": 36.0, "tried_at": 50.0}, 0.5, 1.5),
        (Denied, 1, {"lifetime": 36.0, "tried_at": 50.0}, 1.5, 3),
        (Misconfigured, 1, {**VALID, **FIRST, "lifetime": 180.0}, 150, 300),
        # A pause is at most a quarter of the time in which a renewal is of use.
        (Denied, 1, {"tried_at": 7000.0}, 50, 50),
        (Denied, 1, {"tried_at": 7100.0, "is_short": True}, 300, 600),
        (Denied, 1, {"tried_at": 7000.0, "is_short": True, "can_issue": False}, 125, 125),
        (Denied, 1, {"tried_at": 7300.0, "can_issue": False}, 15, 30),
        (Denied, 9, {"tried_at": 7300.0, "can_issue": False}, 50, 50),
    ],
)
def test_the_pause_depends_on_the_failure_and_on_what_is_left(failure, failures, when, shortest, longest):
    """Draws pick between the shortest and the longest one."""
    for draw, seconds in ((0.0, shortest), (0.5, (shortest + longest) / 2), (1.0, longest)):
        assert pause(failure, failures=failures, draw=draw, **when) == pytest.approx(seconds)


def test_a_doubted_refresh_token_is_presented_again_sooner_for_short_lifetimes():
    """Half a second apart at the least, or a two-hundredth of the lifetime."""
    assert pause(Ambiguous, lifetime=300.0, tried_at=0.0, replays=1, failures=9, draw=1.0) == pytest.approx(300 / 360)
    assert pause(Ambiguous, lifetime=300.0, tried_at=0.0, replays=1, failures=9, draw=0.0) == 0.5


@pytest.mark.parametrize("failure", [Misconfigured, Denied])
@pytest.mark.parametrize("when", [VALID, EXPIRED])
def test_a_caller_that_waits_does_not_speed_up_what_trying_sooner_cannot_help(failure, when):
    """SignalWire gives the same answer until something is corrected."""
    assert pause(failure, **when, awaited=when["tried_at"]) == pause(failure, **when)


def test_a_caller_that_waits_speeds_up_an_early_attempt_once_the_token_is_about_to_expire():
    """Until then, the source has no later token."""
    assert pause(NotYet, tried_at=LIFE - 31, draw=1.0, awaited=LIFE - 31) == 31 / 4
    assert pause(NotYet, tried_at=LIFE - 30, draw=1.0, awaited=LIFE - 30) == 0.5


@pytest.mark.parametrize("failure", FAILURES)
def test_a_demand_overrides_the_pause_after_a_failure(failure):
    """Two attempts are still half a second apart. (P22)"""
    assert pause(failure, **VALID, failures=9, draw=1.0, demanded=1000.0) == 0.5
    assert pause(failure, **VALID, failures=9, draw=1.0, demanded=1010.0) == 10


def test_a_pair_that_is_due_is_renewed_before_a_later_demand():
    """And a demand before that brings it forward."""
    assert next_step(situation(demanded=6000.0)).at == 5040
    assert next_step(situation(demanded=4000.0)).at == 4000


@pytest.mark.parametrize("failure", [NotSent, NotYet, Ambiguous, Throttled, Misconfigured])
def test_no_pause_is_longer_than_a_quarter_of_what_is_left(failure):
    """So that there are always more tries before the end, down to the floor."""
    assert pause(failure, failures=50, tried_at=LIFE - 20, draw=1.0) == pytest.approx(5)
    assert pause(failure, failures=50, tried_at=LIFE - 1, draw=1.0) == pytest.approx(0.5)


@pytest.mark.parametrize("failure", [NotSent, NotYet, Ambiguous, Throttled, Misconfigured])
@pytest.mark.parametrize(("draw", "seconds"), [(0.0, 5), (1.0, 15)])
def test_once_late_a_try_comes_every_five_to_fifteen_seconds(failure, draw, seconds):
    """However many have failed; after the first few, sooner: a machine that wakes may have no network for a second."""
    assert pause(failure, failures=50, tried_at=8000.0, draw=draw) == pytest.approx(seconds)
    if failure is not Misconfigured:
        assert pause(failure, failures=1, tried_at=8000.0, draw=1.0) == pytest.approx(1)


@pytest.mark.parametrize(("draw", "seconds"), [(0.0, 300), (0.5, 450)])
def test_where_the_settings_are_at_fault_tries_are_slow(draw, seconds):
    """Somebody has to mend them, and a locked account helps nobody."""
    assert pause(Misconfigured, draw=draw, tried_at=1000.0) == seconds
    assert pause(Misconfigured, draw=draw, tried_at=1000.0, awaited=1001.0) == seconds


@pytest.mark.parametrize(("draw", "share"), [(0.0, 1 / 8), (1.0, 1 / 4)])
def test_where_it_is_too_early_tries_follow_what_is_left(draw, share):
    """Few while there is time, and more towards the end; a life too short to be renewed at leisure is no exception."""
    assert pause(NotYet, tried_at=5000.0, draw=draw) == pytest.approx(share * 2200)
    assert pause(NotYet, tried_at=5000.0, draw=draw, failures=40) == pytest.approx(share * 2200)
    assert pause(NotYet, lifetime=12.0, tried_at=0.0, draw=draw) == pytest.approx(share * 12)
    assert pause(NotYet, lifetime=86400.0, tried_at=0.0, draw=draw) == pytest.approx(share * 2400), (
        "ten minutes at the most"
    )


@pytest.mark.parametrize("failure", FAILURES)
def test_only_what_came_too_early_is_no_fault_and_only_while_there_is_time(failure):
    """Then, whoever waits does not bring the next try forward."""
    is_early = failure is NotYet
    assert POLICY.is_early(failure(ERROR), left=31, lifetime=LIFE) is is_early
    assert not POLICY.is_early(failure(ERROR), left=30, lifetime=LIFE)
    assert not POLICY.is_early(None, left=31, lifetime=LIFE)
    if failure in (NotSent, NotYet):
        assert (pause(failure, failures=9, draw=1.0, awaited=5001.0) == 1.0) is not is_early


def test_a_refusal_for_good_is_followed_by_the_other_way_at_once():
    """As soon as the floor lets it."""
    step = next_step(situation(failure=Spent(ERROR), failures=9, tried_at=5000.0, can_refresh=False))
    assert step == IssueNew(5000.5)


@pytest.mark.parametrize("failures", [1, 9])
def test_without_another_way_a_doubted_refresh_token_is_presented_again_within_a_second(failures):
    """A service that forgives a reuse does so for moments; whatever came before, and once."""
    assert pause(Ambiguous, can_issue=False, replays=1, failures=failures, draw=1.0) == pytest.approx(1)
    assert pause(Ambiguous, can_issue=False, replays=2, failures=9, draw=1.0) == pytest.approx(60)


@pytest.mark.parametrize("lifetime", [30.0, 60.0, 180.0])
def test_short_lives_scale_pauses_and_floor(lifetime):
    """By their share of six minutes; the floor is a two-hundredth of the life."""
    assert pause(NotSent, failures=3, lifetime=lifetime, tried_at=0.6 * lifetime, draw=1.0) == pytest.approx(
        4 * lifetime / 360
    )
    assert pause(NotSent, failures=1, lifetime=lifetime, tried_at=0.6 * lifetime, draw=0.0) == pytest.approx(
        min(0.5, lifetime / 200)
    )
    assert pause(NotSent, failures=9, lifetime=lifetime, tried_at=lifetime + 1, draw=1.0) == pytest.approx(
        15 * lifetime / 360
    )


def test_whoever_waits_brings_the_next_try_forward_to_the_floor():
    """And no further."""
    failed = {"failure": NotSent(ERROR), "failures": 9, "tried_at": 5000.0, "draw": 1.0}
    assert next_step(situation(**failed, awaited=5000.1)) == UseRefreshToken(5000.5)
    assert next_step(situation(**failed, awaited=5020.0)) == UseRefreshToken(5020.0)
    assert next_step(situation(awaited=100.0)) == UseRefreshToken(100.0)


@pytest.mark.parametrize(
    ("at", "asked", "until"),
    [
        (5000.0, 60.0, 5062.5),  # honoured, and spread over five seconds
        (5000.0, 1e9, 5000.5 + 2199.5 / 2),  # but for no more than half of what is left
        (7300.0, 30.0, 7332.5),
        (7300.0, 1e9, 7300 + 57.5),  # and for a minute once late
        (7300.0, 1.0, 7310.0),  # the session's own pause is longer
    ],
)
def test_a_service_that_asks_for_quiet_gets_it_within_bounds(at, asked, until):
    """A caller that waits doesn't change that. (P23)"""
    failed = {"failure": Throttled(ERROR), "failures": 9, "tried_at": at, "draw": 0.5}
    failed |= {"throttled_at": at, "throttled_until": at + asked}
    waiting = {} if at > LIFE else {"awaited": at}
    assert next_step(situation(**failed, **waiting)).at == pytest.approx(until)


def test_the_quiet_that_another_session_was_asked_for_holds_for_this_one():
    """It is the client's, and this one had not failed."""
    assert next_step(situation(throttled_at=5000.0, throttled_until=5100.0, draw=0.2)).at == pytest.approx(5101)
    assert next_step(situation(throttled_at=4000.0, throttled_until=5000.0)).at == 5040


@pytest.mark.parametrize("until", [5039.0, 5040.0])
def test_a_pause_that_is_over_when_a_renewal_is_due_changes_nothing(until):
    """Its end isn't spread any more."""
    assert next_step(situation(throttled_at=5000.0, throttled_until=until, draw=1.0)).at == 5040


@pytest.mark.parametrize(
    ("due", "asked", "at"),
    [
        (LIFE - 10, 7190.0, LIFE - 5),
        (LIFE - 0.4, 7000.0, LIFE - 0.2),
        (LIFE, 7190.0, 7190 + 57.5),  # a minute at most, from when SignalWire asked for it
        (LIFE + 10, 7190.0, 7190 + 57.5),
    ],
)
def test_a_pause_leaves_half_of_the_remaining_validity(due, asked, at):
    """Without a valid token, it leaves no more than a minute to wait. (P23)"""
    assert next_step(situation(due=due, throttled_at=asked, throttled_until=1e9)).at == pytest.approx(at)


def test_quiet_leaves_a_chance_to_a_refresh_token_that_is_the_only_way():
    """Half of its window, at most."""
    late = {"failure": Throttled(ERROR), "failures": 9, "tried_at": 7460.0, "draw": 0.0, "can_issue": False}
    assert next_step(situation(**late, throttled_at=7460.0, throttled_until=9000.0)) == UseRefreshToken(
        7465 + (7500 - 7465) / 2
    )


def test_a_forced_renewal_waits_for_its_turn():
    """Before anything else."""
    assert next_step(situation(due=100.0, awaited=101.0, not_before=160.0)) == UseRefreshToken(160.0)
    assert (POLICY.invalidate_interval(LIFE), POLICY.invalidate_interval(60.0)) == (60.0, 6.0)


def test_the_first_issue_is_paced_like_any_other():
    """There is no token yet, and so nothing that could be late."""
    start = {"access_until": -math.inf, "refresh_until": -math.inf, "can_refresh": False, "due": 10.0}
    assert next_step(situation(**start)) == IssueNew(10.0)
    assert pause(NotSent, **start, failures=2, draw=1.0) == pytest.approx(2)
    assert next_step(situation(**start, throttled_at=10.0, throttled_until=1e9, draw=1.0)).at == 70
    assert next_step(situation(**start, can_issue=False)) == Expire(-math.inf)


def test_the_last_chance_of_a_refresh_token_is_not_slept_through():
    """With no other way, pauses shrink towards its end; once none fits, there is none."""
    late = {"failure": NotSent(ERROR), "failures": 5, "can_issue": False, "draw": 1.0}
    assert next_step(situation(**late, tried_at=7492.0)) == UseRefreshToken(7494.0)
    assert next_step(situation(**late, tried_at=7499.6)) == Expire(LIFE)


def test_a_leap_of_the_wall_clock_makes_a_session_due_within_a_minute():
    """Spread, since all of them see it."""
    assert POLICY.due_after_jump(now=50.0, lifetime=LIFE, draw=0.5) == 80.0
    assert POLICY.due_after_jump(now=50.0, lifetime=36.0, draw=0.5) == pytest.approx(53.0)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({field.name: value}, field.name)
        for field in attrs.fields(RefreshPolicy)
        for value in (0, -1, math.nan, True, "1", None)
    ]
    + [
        ({"refresh_from": 0.9}, "refresh_from"),
        ({"refresh_to": 1.0}, "refresh_to"),
        ({"refresh_from": timedelta(seconds=0.5)}, "refresh_from"),
        ({"backoff_min": 61}, "backoff_min"),
        ({"wait_timeout": math.inf}, "wait_timeout"),
        ({"tuning": RefreshTuning(min_ttl_share=0.3)}, "min_ttl_share"),
    ],
    ids=str,
)
def test_numbers_that_mean_nothing_are_refused(settings, name):
    """By the name of the setting."""
    with pytest.raises(ConfigurationError, match=f"^(tuning\\.)?{name} must"):
        RefreshPolicy(**settings)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        *(
            ({field.name: value}, field.name)
            for field in attrs.fields(RefreshTuning)
            for value in (0, -1, math.nan, True, "1", timedelta())
        ),
        *(({name: timedelta(seconds=0.5)}, name) for name in ("backoff_share", "lease_share", "outage_after")),
        ({"outage_after": 1.5}, "outage_after"),
        ({"expired_backoff_max": 1}, "expired_backoff_min"),
        ({"rejected_backoff_min": 601}, "rejected_backoff_min"),
    ],
    ids=str,
)
def test_wrong_tuning_is_refused(settings, name):
    """The error names the setting as it is written in the policy."""
    with pytest.raises(ConfigurationError, match=f"^tuning.{name} must"):
        RefreshTuning(**settings)


def test_durations_are_seconds_or_timedeltas():
    """A policy keeps them in seconds."""
    policy = RefreshPolicy(wait_timeout=timedelta(minutes=1), tuning=RefreshTuning(lease=timedelta(minutes=2)))
    assert (policy.wait_timeout, policy.tuning.lease) == (60.0, 120.0)


# Any situation that may be: tried or not, late or not, with whatever ways are left.
times = st.floats(0, 3 * LIFE)
situations = st.builds(
    lambda lifetime, tried_at, failure, throttle, **more: situation(
        lifetime=lifetime,
        tried_at=tried_at * lifetime,
        failure=failure and failure(ERROR),
        throttled_at=throttle[0],
        throttled_until=sum(throttle),
        **more,
    ),
    lifetime=st.floats(0, 1e5),
    tried_at=st.floats(0, 3),
    failure=st.sampled_from([None, *FAILURES]),
    failures=st.integers(1, 5000),
    replays=st.integers(0, 3),
    is_short=st.booleans(),
    draw=st.floats(0, 1),
    can_refresh=st.booleans(),
    can_issue=st.booleans(),
    throttle=st.one_of(st.just((-math.inf, 0.0)), st.tuples(times, times)),
    awaited=st.one_of(st.just(math.inf), times),
    demanded=st.one_of(st.just(math.inf), times),
)


@given(situations)
def test_the_next_step_is_bounded(case):
    """Never sooner than the floor, never in the past of the attempt, never without end, never past any use. (P22)"""
    step = next_step(case)
    lifetime = max(case.lifetime, POLICY.min_lifetime)
    if isinstance(step, Expire):
        assert step.at == case.access_until
        return
    floor = min(TUNING.min_interval, lifetime * TUNING.min_interval_share)
    assert step.at >= case.tried_at + floor - 1e-9
    is_planned = case.failing is None or case.demanded < math.inf  # a failure doesn't count for one that is pressed
    start = max(case.tried_at, case.due) if is_planned else case.tried_at
    quiet = max(lifetime * TUNING.throttle_share, TUNING.throttle_max) + TUNING.throttle_spread
    assert step.at <= max(start + TUNING.rejected_backoff_max, case.throttled_at) + quiet
    if isinstance(step, UseRefreshToken):
        assert step.at < case.refresh_until


@given(situations)
def test_a_retry_comes_before_the_end_where_the_floor_lets_it(case):
    """A failure is followed by an attempt while the token is valid, unless that is too short-lived to be kept."""
    left = case.access_until - case.tried_at
    step = next_step(case)
    is_kept = case.failing is not None and not case.failing.is_short
    if is_kept and not isinstance(step, Expire) and left > 10:
        assert step.at < case.access_until


@given(situations)
def test_the_next_step_does_not_move_until_something_happens(case):
    """It depends on nothing but the situation; asked again, it is the same."""
    assert next_step(case) == next_step(case)


@given(
    outcomes=st.lists(st.sampled_from([Renewed, *FAILURES]), max_size=60),
    draw=st.floats(0, 1),
    can_issue=st.booleans(),
    lifetime=st.floats(30, 1e5),
)
def test_a_driver_ends_or_holds_a_live_token(outcomes, draw, can_issue, lifetime):
    """Whatever the answers are: time goes on with each, and at the end there is a token, a way to one, or none."""
    case, now = situation(lifetime=lifetime, can_issue=can_issue, draw=draw), 0.0
    for outcome in [*outcomes, Renewed]:
        step = next_step(case)
        if isinstance(step, Expire):
            assert not case.can_issue
            return
        assert step.at > now
        now = step.at
        if outcome is Renewed:
            case = situation(
                lifetime=lifetime,
                due=POLICY.due_at(asked=now, lifetime=lifetime, draw=draw),
                access_until=now + lifetime,
                refresh_until=now + lifetime + WINDOW,
                tried_at=now,
                can_issue=can_issue,
                draw=draw,
            )
        else:
            presented = isinstance(step, UseRefreshToken)
            case = attrs.evolve(
                case,
                failing=Failing(outcome(ERROR), count=(0 if case.failing is None else case.failing.count) + 1),
                tried_at=now,
                can_refresh=case.can_refresh and not (presented and (outcome is Spent or outcome is Ambiguous)),
                can_issue=case.can_issue and not (outcome is Spent and not presented),
            )
    assert POLICY.state(case, now) is SessionState.FRESH


def test_outcomes_and_steps_are_values():
    """Equal where they say the same, and only then."""
    token = Token(value="x", issued_at=datetime.now(UTC), expires_at=datetime.now(UTC) + timedelta(hours=2))
    pair = TokenPair(access_token=token, refresh_token=token)
    assert Renewed(pair, 1.0) == Renewed(pair, 1.0)
    assert UseRefreshToken(1.0) == UseRefreshToken(1.0) != IssueNew(1.0)
    assert NotSent(ERROR) == NotSent(ERROR) != Ambiguous(ERROR)
    assert repr(Throttled(ERROR)).startswith("Throttled(error=")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        UseRefreshToken(1.0).at = 2.0


@pytest.mark.parametrize(
    ("access_until", "awaited", "deadline"),
    [(1000.5, True, 1000.5), (9000, False, 9000), (1000, True, 1030), (1000, False, 2440), (-math.inf, True, 1030)],
)
def test_what_is_waited_for_comes_before_what_is_merely_due(access_until, awaited, deadline):
    """After a live token that is about to end; what nobody waits for comes with those that are due at the latest."""
    case = situation(access_until=access_until, lifetime=7200, awaited=1000 if awaited else math.inf)
    assert POLICY.deadline(case, 1000) == deadline
