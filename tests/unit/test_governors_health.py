"""What the processes of an account know about SignalWire's health."""

import math

import attrs
from hypothesis import given
from hypothesis import strategies as st

from signalwire_tokens.governors import AccountHealth
from signalwire_tokens.governors.health import LONGEST_AHEAD

NOW = 1000.0
DOWN = AccountHealth().opened("ServerError (status 503)", probe_at=NOW)
CLAIMED = DOWN.claimed("mine", NOW, until=NOW + 10)


def test_an_outage_is_opened_once():
    """A process that finds it later changes nothing."""
    assert DOWN.is_open
    assert DOWN.opened("TimedOut", probe_at=NOW + 5) is DOWN


def test_one_process_has_the_probe():
    """Until it ends it, or its time is over."""
    assert CLAIMED.is_probing(NOW)
    assert CLAIMED.claimed("theirs", NOW + 1, until=NOW + 11) is CLAIMED
    assert CLAIMED.claimed("theirs", NOW + 10, until=NOW + 20).probe == "theirs"
    assert CLAIMED.unclaimed("theirs") is CLAIMED
    assert CLAIMED.unclaimed("mine").probe == ""


def test_a_probe_has_to_wait_for_its_time():
    """After one that failed, there is a pause."""
    failed = CLAIMED.unclaimed("mine", probe_at=NOW + 5, failed=True)
    assert (failed.failed_probes, failed.probe_at) == (1, NOW + 5)
    assert failed.claimed("mine", NOW + 4, until=NOW + 14) is failed
    assert failed.claimed("mine", NOW + 5, until=NOW + 15).probe == "mine"


def test_without_an_outage_there_is_no_probe():
    """And an answer is no news."""
    well = CLAIMED.answered(NOW + 1)
    assert (well.is_open, well.probe, well.back_at) == (False, "", NOW + 1)
    assert well.claimed("mine", NOW + 100, until=NOW + 110) is well
    assert well.unclaimed("mine") is well
    assert well.answered(NOW + 2) is well


def test_the_latest_pause_counts():
    """The same one again changes nothing, and neither does the end of an older one."""
    paused = AccountHealth().paused(NOW, NOW + 30)
    assert paused.paused(NOW, NOW + 30) is paused
    assert paused.paused(NOW - 1, NOW + 60) is paused
    assert paused.paused(NOW + 1, NOW + 5).paused_until == NOW + 5
    assert paused.lifted(NOW - 1) is paused
    assert paused.lifted(NOW).paused_until == -math.inf


def test_a_lower_rate_holds_for_its_time():
    """It never raises the rate."""
    slow = AccountHealth().slowed(20.0, NOW + 10)
    assert [slow.rate(most, NOW) for most in (50.0, 10.0)] == [20.0, 10.0]
    assert slow.rate(50.0, NOW + 10) == 50.0


def test_times_that_are_too_far_ahead_are_ignored():
    """The governor's clock was set back."""
    before = NOW - LONGEST_AHEAD - 20
    assert not CLAIMED.is_probing(before)
    assert CLAIMED.claimed("theirs", before, until=before + 10).probe == "theirs"
    assert AccountHealth().slowed(20.0, NOW).rate(50.0, before) == 50.0


@given(
    st.builds(
        AccountHealth,
        is_open=st.booleans(),
        reason=st.text(),
        failed_probes=st.integers(0, 100),
        probe=st.text(),
        **{
            name: st.floats(allow_nan=False, allow_infinity=False) | st.just(getattr(AccountHealth(), name))
            for name in ("probe_at", "probe_until", "back_at", "paused_at", "paused_until", "slow_rate", "slow_until")
        },
    )
)
def test_what_is_written_is_read(health):
    """With each field, and equal values give equal texts."""
    assert AccountHealth.loaded(health.dumped()) == health
    assert attrs.evolve(health).dumped() == health.dumped()


@given(st.text() | st.binary() | st.just('{"failed_probes": ' + "9" * 5000 + "}"))
def test_what_is_no_health_is_no_news(text):
    """Whatever another program has written."""
    assert AccountHealth.loaded(text) == AccountHealth() or text.strip() in ("{}", b"{}")
