"""The variable that sets the lifetime of a space's tokens."""

import pytest

from signalwire_tokens import ConfigurationError, Lifetimes
from signalwire_tokens.durations import parse_duration
from signalwire_tokens.wire import read_lifetimes


def test_a_space_whose_lifetime_is_not_set_has_the_usual_ones():
    """Access tokens live for two hours."""
    assert read_lifetimes(None) == Lifetimes()


@pytest.mark.parametrize("text", ["1s", "40s", "2h", "1d", "3653d"])
def test_a_lifetime_that_is_set_is_that_of_access_tokens(text):
    """All others fit it."""
    assert read_lifetimes(text) == Lifetimes.of(parse_duration(text))


@pytest.mark.parametrize("text", ["forty seconds", "40", "0s", "3654d", "9999d"])
def test_a_lifetime_that_cannot_be_is_refused(text):
    """The error shows what would be right."""
    with pytest.raises(ConfigurationError, match=r"such as 90s.*ten years"):
        read_lifetimes(text)
