"""A slice of the simulation, whose full size is a command of its own: days of sessions, and all that goes wrong."""

import pytest

from signalwire_tokens.clock import VirtualClock
from signalwire_tokens.emulator import ROTATIONS
from system import simulation

# A seed and a mode decide which outages there are. With the first seed, `grace` has many hours of them and attempts
# ten times as much as the others; with this one, it meets every kind in a third of the time.
SEEDS = {"grace": 11}


@pytest.mark.heavy
@pytest.mark.parametrize("mode", [*ROTATIONS])
def test_sessions_keep_their_promise(mode, capsys):
    """Through outages, throttling, lost and slow answers, suspends and clock jumps, in each mode. (P1, P20)"""
    kept = simulation.main(["--sessions", "50", "--days", "7", "--mode", mode, "--seed", str(SEEDS.get(mode, 1))])
    report = capsys.readouterr().out
    assert kept == 0, report
    assert "refused within the property          0" in report


def test_a_session_that_does_not_count_suspends_breaks_the_promise(monkeypatch, capsys):
    """The simulation can fail: a clock that stands still while the machine sleeps hands out expired tokens."""
    now = VirtualClock.now
    monkeypatch.setattr(simulation.World, "truth", lambda world: simulation.EPOCH + now(world.clock))
    monkeypatch.setattr(VirtualClock, "now", lambda clock: clock._running)
    assert simulation.main(["--sessions", "20", "--days", "4", "--mode", "family", "--seed", "3"]) == 1
    assert "BROKEN" in capsys.readouterr().out
