"""Sessions of several processes keep their promises while the server that they share tokens through fails.

Nothing here is timed: tokens live for hours, and the processes ask for rotations themselves.
"""

import pytest

from support.waiting import eventually
from system.outages import Plan, Run, report

pytestmark = [pytest.mark.redis, pytest.mark.slow]
SMALL = {"subscribers": 30, "life": 7200.0, "rotate": 1}
ROTATIONS = 60  # of all processes together, before the trouble and after it


async def amid_rotations(run):
    """Make trouble while pairs are refreshed, and wait until they are refreshed again."""
    await eventually(lambda: run.figures.refreshed >= ROTATIONS)
    await run.make_trouble()
    before = run.figures.refreshed
    await eventually(lambda: run.figures.refreshed >= before + ROTATIONS)


@pytest.mark.parametrize("deployment", ["sentinel", "cluster", "postgres", "pgbouncer"])
async def test_a_server_that_fails_has_no_refresh_token_presented_twice(deployment, capsys):
    """No call has to do without a token. (P20) (P34)"""
    plan = Plan(deployment, **SMALL)
    figures = await Run(plan, amid_rotations)()
    with capsys.disabled():
        print()
        kept = report(plan, figures)
    assert kept
    assert figures.without == []


async def test_sessions_survive_a_failover_that_loses_saves(capsys):
    """Refresh tokens may be presented twice then. Sessions issue other pairs, and no call has to do without a token."""
    plan = Plan("sentinel", **SMALL, min_replicas=0)
    figures = await Run(plan, amid_rotations)()
    with capsys.disabled():
        print()
        report(plan, figures)
    assert figures.without == []
