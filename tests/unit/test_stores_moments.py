"""How much time has certainly passed, by clocks that may be wrong and across restarts."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalwire_tokens.clock import SYSTEM
from signalwire_tokens.stores.moments import MOST_ACROSS_RESTART, Moment, is_same_boot, passed, timeline

HOUR, YEARS = 3600.0, 30 * 365 * 86400.0


@pytest.mark.parametrize(
    ("running", "wall", "restarted", "certain"),
    [
        pytest.param(HOUR, HOUR, False, HOUR, id="both clocks right"),
        pytest.param(HOUR, YEARS, False, HOUR, id="a wall clock that was behind and is set right"),
        pytest.param(HOUR, -YEARS, False, 0, id="a wall clock that was ahead and is set right"),
        pytest.param(HOUR, HOUR - 1, False, HOUR - 1, id="a wall clock that is adjusted"),
        pytest.param(0, HOUR, False, 0, id="a paused virtual machine"),
        pytest.param(-HOUR, HOUR, False, 0, id="a machine that went back to a snapshot"),
        pytest.param(YEARS, HOUR, False, HOUR, id="two processes with different clocks"),
        pytest.param(-HOUR, HOUR, True, MOST_ACROSS_RESTART, id="a restart"),
        pytest.param(HOUR, 1.0, True, 1.0, id="a quick restart"),
        pytest.param(-HOUR, YEARS, True, MOST_ACROSS_RESTART, id="a restart that set the wall clock right"),
        pytest.param(-HOUR, -YEARS, True, 0, id="a restart that set the wall clock back"),
    ],
)
def test_only_time_that_has_certainly_passed_counts(running, wall, restarted, certain):
    """Either clock may be wrong."""
    since = Moment(at=1000.0, wall=0.0, timeline="one start")
    until = Moment(at=1000.0 + running, wall=wall, timeline="another" if restarted else "one start")
    assert passed(since, until) == certain


jumps = st.floats(-YEARS, YEARS)


@given(st.lists(st.tuples(st.floats(0, 10 * HOUR), jumps), min_size=1))
def test_no_jumps_of_the_wall_clock_make_time_pass_faster(steps):
    """The times that certainly have passed may be added up."""
    at, ahead, counted = 0.0, 0.0, 0.0
    moment = Moment(at, ahead, "a start")
    for seconds, jump in steps:
        at, ahead = at + seconds, ahead + jump
        before, moment = moment, Moment(at, at + ahead, "a start")
        counted += passed(before, moment)
    assert counted <= at + 1e-3


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("1000", "1059", True),
        ("1059", "1000", True),
        ("1000", "1060", False),
        ("1000", "a", False),
        ("nan", "1000", False),
    ],
)
def test_two_calculations_of_one_start_differ_a_little(one, other, same):
    """A start without a name is calculated from the wall clock, which is adjusted."""
    assert is_same_boot(one, other) is same


def test_the_machine_s_start_is_the_same_for_all_of_its_processes(monkeypatch):
    """It has a name, or at least a time."""
    assert timeline() == timeline()

    def deny(path):
        raise PermissionError(path)

    monkeypatch.setattr(Path, "read_text", deny)
    assert is_same_boot(timeline(), f"{SYSTEM.wall() - SYSTEM.now():.0f}")
