"""Processes that share a `RedisGovernor`, while one is killed, or Redis is.

How many requests arrive in a second doesn't depend on the machine's speed: at most as many as the governor has given
turns for, and those that were on their way before.
"""

import pytest

from support.waiting import eventually
from system.governed import Plan, Run, report

pytestmark = pytest.mark.redis
PLAN = Plan(processes=3, sessions=60, life=7200.0, rate=60.0, concurrency=1)


async def tokens(run, number):
    await eventually(lambda: run.figures.tokens.total() >= number)


async def kill_a_process(run):
    """Kill a process. The one that replaces it finds in the store what the first one has saved."""
    await tokens(run, 60)
    await run.kill_one()
    await tokens(run, 180)


async def kill_redis(run):
    """Stop the server for a while, in which each process uses its own share."""
    await tokens(run, 40)
    run.redis.kill()
    await tokens(run, 120)
    run.redis.start()
    await tokens(run, 180)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [kill_a_process, kill_redis])
async def test_processes_keep_to_one_limit(scenario, capsys):
    """No call returns an expired token, and no request is refused. (P26, P46)"""
    figures = await Run(PLAN, scenario)()
    with capsys.disabled():
        print()
        kept = report(PLAN, figures)
    assert kept
    on_their_way = (PLAN.processes + figures.kills) * PLAN.concurrency
    assert figures.most_within(1.0) <= PLAN.rate + on_their_way
