"""Lengths of time as text, and the variable that sets how long tokens live."""

from datetime import timedelta

import pytest

from signalwire_tokens import ConfigurationError, Lifetimes
from signalwire_tokens.wire import read_duration, read_lifetimes


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("90s", timedelta(seconds=90)),
        (" 15m ", timedelta(minutes=15)),
        ("2h", timedelta(hours=2)),
        ("1d", timedelta(1)),
    ],
)
def test_a_length_of_time_is_a_number_and_its_unit(text, meant):
    """Blanks around it don't matter."""
    assert read_duration(text) == meant


@pytest.mark.parametrize("text", ["", "15", "m", "1.5h", "-1s", "1h30m", "1w", "1 h", "\u0661h", "1000000000s"])
def test_any_other_text_is_not_a_length_of_time(text):
    """A number alone could mean seconds or minutes."""
    assert read_duration(text) is None


def test_a_space_whose_lifetime_is_not_set_has_the_usual_ones():
    """Access tokens live for two hours."""
    assert read_lifetimes(None) == Lifetimes()


@pytest.mark.parametrize("text", ["40s", "2h", "1d"])
def test_a_lifetime_that_is_set_is_that_of_access_tokens(text):
    """All others fit it."""
    assert read_lifetimes(text) == Lifetimes.of(read_duration(text))


@pytest.mark.parametrize("text", ["forty seconds", "40", "0s", "9999d"])
def test_a_lifetime_that_cannot_be_is_refused(text):
    """The error shows what would be right."""
    with pytest.raises(ConfigurationError, match=r"such as 90s|ten years"):
        read_lifetimes(text)
