"""A slice of the soak, whose full size is a command of its own: minutes of real time, thousands of sessions."""

import soak


def test_a_fleet_is_never_without_a_live_token(capsys):
    """Through random faults and short outages, with nothing warned of, left unread or left over."""
    kept = soak.main(["--sessions", "200", "--seconds", "24"])
    report = capsys.readouterr().out
    assert kept == 0, report
    assert "at most 0 sessions without a live token" in report


def test_the_soak_can_fail(monkeypatch, capsys):
    """A fleet that renews too late is found out."""
    policy = soak.RefreshPolicy
    monkeypatch.setattr(
        soak, "RefreshPolicy", lambda **figures: policy(**figures, due_from=0.9, due_to=0.9999, min_ttl_share=1e-6)
    )
    assert soak.main(["--sessions", "100", "--seconds", "8", "--life", "2"]) == 1
    assert "at most 0 sessions without a live token" not in capsys.readouterr().out
