"""What is known of the service's health."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalwire_tokens.fleet import BreakerState
from signalwire_tokens.fleet.breaker import Breaker
from support.scripted_session import MISCONFIGURED, NOT_SENT

RAMP = 10.0


def tripped(failures=10, *, probes=0):
    breaker = Breaker()
    for session in range(failures):
        breaker.fail(session, NOT_SENT, limit=10, was_probe=False)
    for session in range(probes):
        breaker.fail(session, NOT_SENT, limit=10, was_probe=True)
    return breaker


def test_it_begins_closed_and_grants_everything():
    """Nothing is known against the service."""
    assert Breaker().state(0.0, RAMP) is BreakerState.CLOSED
    assert Breaker().share(0.0, RAMP) == 1


def test_so_many_sessions_that_fail_in_a_row_open_it():
    """One less does not, and only the one that opens it is news."""
    breaker = Breaker()
    news = [breaker.fail(session, NOT_SENT, limit=10, was_probe=False) for session in range(12)]
    assert news == [False] * 9 + [True, False, False]
    assert breaker.state(0.0, RAMP) is BreakerState.OPEN
    assert breaker.share(0.0, RAMP) == 0
    assert breaker.failure is NOT_SENT


def test_an_answer_in_between_begins_the_count_anew():
    """A service that fails now and then is not down."""
    breaker = tripped(9)
    assert not breaker.succeed(0.0)
    assert not breaker.fail(0, NOT_SENT, limit=10, was_probe=False)
    assert not breaker.is_open


def test_one_session_that_fails_again_and_again_does_not():
    """It says nothing of the service."""
    breaker = Breaker()
    assert not any(breaker.fail(1, NOT_SENT, limit=10, was_probe=False) for _ in range(100))


@pytest.mark.parametrize(
    ("failures", "at_fault"),
    [
        ([MISCONFIGURED] * 2, True),
        ([NOT_SENT, MISCONFIGURED], False),
        ([MISCONFIGURED, NOT_SENT, MISCONFIGURED], False),
    ],
)
def test_the_settings_are_at_fault_where_every_failure_says_so(failures, at_fault):
    """One that is some session's own does not stand for all."""
    breaker = Breaker()
    for session, failure in enumerate(failures):
        breaker.fail(session, failure, limit=1, was_probe=False)
    assert breaker.at_fault is at_fault


def test_a_limit_of_nothing_opens_it_at_once():
    """A service that says that it is asked too much is believed."""
    assert Breaker().fail(1, NOT_SENT, limit=0, was_probe=False)


def test_an_answer_closes_it_little_by_little():
    """The share grows from a tenth to everything, and all that was known is forgotten."""
    breaker = tripped(probes=3)
    assert breaker.failed_probes == 3
    assert breaker.succeed(100.0)
    assert (breaker.failed, breaker.failed_probes, breaker.failure) == (set(), 0, None)
    assert breaker.state(100.0, RAMP) is BreakerState.RAMPING
    assert [breaker.share(at, RAMP) for at in (100.0, 105.0, 110.0)] == pytest.approx([0.1, 0.55, 1.0])
    assert breaker.state(110.0, RAMP) is BreakerState.CLOSED


@given(st.floats(0, 1e9), st.lists(st.floats(0, 100), min_size=1), st.floats(1e-3, 1e3))
def test_the_share_never_shrinks_while_the_service_answers(back_at, passed, ramp):
    """It is between nothing and everything, whatever the figures."""
    breaker = tripped()
    breaker.succeed(back_at)
    shares = [breaker.share(back_at + after, ramp) for after in sorted(passed)]
    assert shares == sorted(shares)
    assert all(0 < share <= 1 for share in shares)
