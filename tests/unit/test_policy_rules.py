"""What the policy calculates from a lifetime, and how it refuses wrong settings: each rule by an example."""

import math
from datetime import timedelta

import attrs
import pytest

from signalwire_tokens import ConfigurationError, RefreshPolicy, RefreshTuning, SessionState, SignalWireTokenError
from signalwire_tokens.outcomes import NotSent
from signalwire_tokens.policy import Failing

LIFE = 7200.0
POLICY = RefreshPolicy()
BRIEF = RefreshPolicy(tuning=RefreshTuning(lease=1))
SHARES = {"refresh_from", "refresh_to", "outage_after", "tuning"} | {
    field.name for field in attrs.fields(RefreshTuning) if field.name.endswith("_share")
}
DURATIONS = [
    (kind, field.name, field.default)
    for kind in (RefreshPolicy, RefreshTuning)
    for field in attrs.fields(kind)
    if field.name not in SHARES
]


# Settings.


@pytest.mark.parametrize(("kind", "name", "default"), DURATIONS)
def test_every_duration_may_be_a_timedelta(kind, name, default):
    """A policy keeps it in seconds."""
    settings = kind(**{name: timedelta(seconds=default)})
    assert getattr(settings, name) == default
    assert type(getattr(settings, name)) is float


@pytest.mark.parametrize("kind", [RefreshPolicy, RefreshTuning])
def test_settings_are_passed_by_name(kind):
    """Their order means nothing."""
    with pytest.raises(TypeError):
        kind(0.5)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (RefreshPolicy, {"refresh_from": 0.7, "refresh_to": 0.7}),
        (RefreshPolicy, {"backoff_min": 5, "backoff_max": 5}),
        (RefreshTuning, {"expired_backoff_min": 5, "expired_backoff_max": 5}),
        (RefreshTuning, {"rejected_backoff_min": 5, "rejected_backoff_max": 5}),
        (RefreshTuning, {"outage_after": 1}),
    ],
)
def test_a_range_may_be_a_single_value(kind, settings):
    """Then no draw changes it."""
    assert attrs.asdict(kind(**settings)).items() >= settings.items()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RefreshPolicy(backoff_min=61), "backoff_min must not be more than backoff_max"),
        (lambda: RefreshPolicy(min_ttl=0), "min_ttl must be seconds or a timedelta, more than 0: got 0"),
        (lambda: RefreshPolicy(refresh_from=0.9), "refresh_from must not be more than refresh_to"),
        (
            lambda: RefreshPolicy(refresh_to=1),
            "refresh_to must be a share of the lifetime, more than 0 and less than 1: got 1",
        ),
        (lambda: RefreshPolicy(tuning=None), "tuning must be a RefreshTuning, not NoneType"),
        (
            lambda: RefreshPolicy(tuning=RefreshTuning(min_ttl_share=0.3)),
            "tuning.min_ttl_share must not be more than 1 - refresh_to: otherwise a token that isn't due is too old",
        ),
        (
            lambda: RefreshTuning(expired_backoff_min=16),
            "tuning.expired_backoff_min must not be more than tuning.expired_backoff_max",
        ),
        (lambda: RefreshTuning(lease=0), "tuning.lease must be seconds or a timedelta, more than 0: got 0"),
        (
            lambda: RefreshTuning(lease_share=1.0),
            "tuning.lease_share must be a share of the lifetime, more than 0 and less than 1: got 1.0",
        ),
        (lambda: RefreshTuning(outage_after=0), "tuning.outage_after must be a whole number, 1 or more: got 0"),
        (lambda: RefreshTuning(outage_after="ten"), "tuning.outage_after must be a whole number, 1 or more: got str"),
    ],
)
def test_a_wrong_setting_is_named_as_callers_write_it(make, message):
    """The settings of the tuning have its name before theirs."""
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert str(caught.value) == message


def test_a_token_lifetime_that_is_too_short_is_refused_with_the_setting_that_allows_it():
    """The policy's minimum itself is allowed."""
    POLICY.check_lifetime(30)
    with pytest.raises(ConfigurationError) as caught:
        POLICY.check_lifetime(29.5)
    assert str(caught.value) == (
        "a token lifetime of 29.5 s is too short for a session: the policy accepts 30 s or more. "
        "To allow it, pass RefreshPolicy(min_lifetime=29.5)"
    )


@pytest.mark.parametrize(("lifetime", "is_accepted"), [(15.0, True), (14.9, False)])
def test_half_of_the_minimum_is_enough_for_an_answer(lifetime, is_accepted):
    """A wrong clock at SignalWire can make a lifetime look shorter than it is."""
    assert POLICY.accepts(lifetime) is is_accepted


def test_the_states_have_the_names_that_metrics_show():
    """In lower case."""
    assert [state.value for state in SessionState] == ["fresh", "due", "expiring", "unavailable", "expired", "closed"]


def test_a_series_of_failures_is_equal_to_itself_alone():
    """It isn't a value: it counts on."""
    failure = NotSent(SignalWireTokenError("because"))
    failing = Failing(failure)
    assert failing == failing  # noqa: PLR0124 - that is the rule
    assert failing != Failing(failure)
    assert (failing.count, failing.replays, failing.is_degraded, failing.is_short) == (0, 0, False, False)


# What follows from a lifetime.


@pytest.mark.parametrize(
    ("policy", "method", "lifetime", "expected"),
    [
        (POLICY, "lease_for", LIFE, 20),
        (POLICY, "lease_for", 60, 15),
        (POLICY, "lease_for", 0, 7.5),  # as for the shortest lifetime that a session accepts
        (POLICY, "poll_for", LIFE, 0.25),
        (BRIEF, "poll_for", LIFE, 0.1),
        (POLICY, "store_limit", LIFE, 1),
        (BRIEF, "store_limit", LIFE, 0.5),
        (POLICY, "store_pauses", LIFE, (0.5, 60)),
        (POLICY, "store_pauses", 360, (0.5, 60)),
        (POLICY, "store_pauses", 36, (0.05, 6)),
        (POLICY, "recovery_for", LIFE, 10),
        (POLICY, "recovery_for", 36, 1),
        (POLICY, "expired_kept_for", LIFE, 300),
        (POLICY, "expired_kept_for", 36, 30),
        (POLICY, "min_interval_for", LIFE, 0.5),
        (POLICY, "min_interval_for", 60, 0.3),
        (POLICY, "min_interval_for", 0, 0.15),
        (POLICY, "invalidate_interval", LIFE, 60),
        (POLICY, "invalidate_interval", 60, 6),
        (POLICY, "invalidate_interval", 0, 3),
    ],
)
def test_durations_shrink_for_short_lifetimes(policy, method, lifetime, expected):
    """A lifetime of zero must not lead to pauses of zero."""
    assert getattr(policy, method)(lifetime) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("failed", "draw", "lifetime", "pause"),
    [
        (0, 0.0, LIFE, 0.25),
        (0, 1.0, LIFE, 0.5),
        (2, 1.0, LIFE, 2),
        (3, 0.5, LIFE, 3),
        (4, 1.0, LIFE, 5),
        (4, 0.0, LIFE, 2.5),
        (5000, 1.0, LIFE, 5),
        (4, 1.0, 36, 0.5),
    ],
)
def test_the_pauses_of_an_outage_double_up_to_five_seconds(failed, draw, lifetime, pause):
    """Draws pick between a half and all of it."""
    assert POLICY.probe_pause(lifetime, failed, draw) == pytest.approx(pause)


@pytest.mark.parametrize(
    ("until", "draw", "lifetime", "end"),
    [
        (130.0, 0.0, LIFE, 130.0),
        (130.0, 0.5, LIFE, 132.5),
        (130.0, 1.0, LIFE, 135.0),
        (102.0, 1.0, LIFE, 104.0),  # spread over no more than the pause itself
        (1e9, 0.0, LIFE, 155.0),
        (1e9, 1.0, LIFE, 160.0),  # a minute at most
        (1e9, 0.0, 36, 105.5),
        (1e9, 1.0, 36, 106.0),
    ],
)
def test_without_a_valid_token_a_throttle_lasts_for_a_minute_at_most(until, draw, lifetime, end):
    """From when SignalWire asked for it, at 100. Sessions spread their requests over five seconds. (P23)"""
    assert POLICY.throttle_end(asked=100.0, until=until, lifetime=lifetime, draw=draw) == pytest.approx(end)


@pytest.mark.parametrize(
    ("lifetime", "draw", "due"), [(LIFE, 0.0, 50), (LIFE, 1.0, 110), (36, 1.0, 56), (0, 1.0, 55), (math.inf, 1.0, 110)]
)
def test_a_jump_of_the_wall_clock_makes_a_token_due_within_a_minute(lifetime, draw, due):
    """Less for short lifetimes."""
    assert POLICY.due_after_jump(now=50.0, lifetime=lifetime, draw=draw) == pytest.approx(due)
