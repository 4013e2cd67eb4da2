"""Durations: what callers may pass, how texts name them and how messages show them."""

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalwire_tokens import ConfigurationError
from signalwire_tokens.durations import (
    parse_duration,
    passing_seconds,
    positive_seconds,
    positive_span,
    seconds_of,
    span_of,
    spoken,
)

WRONG = [0, -1, math.nan, math.inf, True, "1", None, timedelta(0), timedelta(seconds=-1)]


@pytest.mark.parametrize("duration", [90, 90.0, timedelta(seconds=90)])
def test_a_duration_is_seconds_or_a_timedelta(duration):
    """Either gives either."""
    assert seconds_of(duration) == positive_seconds("x", duration) == passing_seconds(duration) == 90
    assert span_of(duration) == positive_span("x", duration) == timedelta(seconds=90)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("check", [positive_seconds, positive_span])
def test_a_wrong_duration_is_refused_by_name(check, wrong):
    """The error names the argument."""
    with pytest.raises(ConfigurationError, match=r"^wait must be seconds or a timedelta, more than 0: got "):
        check("wait", wrong)


def test_a_wrong_duration_of_another_type_is_not_shown():
    """It may be a secret in the wrong place."""
    with pytest.raises(ConfigurationError, match=r"got str$"):
        positive_seconds("wait", "hush")


def test_a_duration_that_is_too_long_is_refused_with_both_lengths():
    """The error shows what is allowed and what was given."""
    with pytest.raises(ConfigurationError, match=r"^wait must be at most 1 h: got 2 h$"):
        positive_span("wait", 7200, longest=timedelta(hours=1))


def test_less_than_a_microsecond_is_no_timedelta():
    """It would be a duration of nothing."""
    with pytest.raises(ConfigurationError, match="at least a microsecond"):
        positive_span("wait", 1e-9)


def test_what_is_no_duration_is_passed_on_unchanged():
    """The check that follows reports it."""
    assert [span_of(value) for value in ("x", True, 1e300)] == ["x", True, 1e300]


@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf, timedelta(seconds=-1)])
def test_a_clock_advances_only_forward(wrong):
    """And only by a finite duration."""
    with pytest.raises(ValueError, match="a clock can't advance by"):
        passing_seconds(wrong)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("90s", timedelta(seconds=90)),
        (" 15m ", timedelta(minutes=15)),
        ("2h", timedelta(hours=2)),
        ("1d", timedelta(1)),
    ],
)
def test_a_text_names_a_duration_by_a_number_and_its_unit(text, meant):
    """Spaces around it don't matter."""
    assert parse_duration(text) == meant


@pytest.mark.parametrize("text", ["", "15", "m", "1.5h", "-1s", "1h30m", "1w", "1 h", "\u0661h", "1000000000s"])
def test_other_texts_name_no_duration(text):
    """A number alone could mean seconds or minutes."""
    assert parse_duration(text) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.00001, "0 s"),
        (-100, "-100 s"),
        (math.inf, "inf s"),
        (0.0512, "0.051 s"),
        (0.0949, "0.095 s"),
        (0.4, "0.4 s"),
        (0.89, "0.9 s"),
        (1, "1 s"),
        (23.8528, "23.9 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min"),
        (90.4, "1 min 30 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h"),
        (7169, "1 h 59 min"),
        (7200, "2 h"),
        (86399, "1 d"),
        (90000, "1 d 1 h"),
        (864000, "10 d"),
    ],
)
def test_messages_show_durations_with_units(seconds, text):
    """In the two largest units that matter."""
    assert spoken(seconds) == text


@given(st.floats(0, 1e9))
def test_a_shown_duration_is_about_right(seconds):
    """No more than half of its smaller unit is rounded away."""
    sizes = {"s": 1, "min": 60, "h": 3600, "d": 86400}
    parts = spoken(seconds).split()
    total = sum(float(number) * sizes[unit] for number, unit in zip(parts[::2], parts[1::2], strict=True))
    assert abs(total - seconds) <= max(0.051, {"s": 0.051, "min": 0.51, "h": 31, "d": 1801}[parts[1]])
