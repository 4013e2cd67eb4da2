"""A slice of the soak, whose full size is a command of its own: minutes of real time, thousands of sessions."""

from system import soak


def test_a_fleet_is_never_without_a_live_token(capsys):
    """Through random faults and short outages. It prints how often the machine was quick enough. (P1)"""
    kept = soak.main(["--sessions", "200", "--seconds", "24"])
    report = capsys.readouterr().out
    with capsys.disabled():
        print(f"\n{report}", end="")
    assert kept == 0, report


def test_the_soak_can_fail(monkeypatch, capsys):
    """A fleet that takes tokens to live longer than they do is found out, since the service knows their ends."""
    lifetimes = soak.lifetimes
    monkeypatch.setattr(soak, "lifetimes", lambda life: lifetimes(100 * life))
    assert soak.main(["--sessions", "20", "--seconds", "5", "--life", "2"]) == 1
    assert "BROKEN a token was given out that had expired" in capsys.readouterr().out
