"""Deadlines that share one timer: each call ends at its own, whatever the others do."""

import asyncio

import pytest

from signalwire_tokens.client.deadlines import Deadlines

SLACK = 5.0  # seconds in which a busy machine may not have run anybody


async def run(deadlines, seconds, work):
    async with asyncio.timeout(None) as call:
        end = deadlines.add(call, seconds)
        try:
            await work
        finally:
            deadlines.drop(call)
    return end


async def outlast(deadlines, seconds):
    """Run until the deadline, and return how long that was."""
    start = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        await run(deadlines, seconds, asyncio.Event().wait())
    return asyncio.get_running_loop().time() - start


@pytest.mark.parametrize("seconds", [[0.1, 0.2, 0.3], [0.3, 0.1, 0.2], [0.2, 0.2, 0.2]])
async def test_each_call_ends_at_its_own_deadline(seconds):
    """Whether those that came later must end sooner, later or at the same time."""
    deadlines = Deadlines()
    lasted = await asyncio.gather(*(outlast(deadlines, each) for each in seconds))
    assert all(each - 0.02 < real < each + SLACK for each, real in zip(seconds, lasted, strict=True))


async def test_a_call_that_has_ended_in_time_is_left_alone():
    """Its task goes on, past what was its deadline."""
    await run(Deadlines(), 0.05, asyncio.sleep(0))
    await asyncio.sleep(0.1)


async def test_the_deadline_is_returned():
    """By the clock of the event loop."""
    now = asyncio.get_running_loop().time()
    assert now + 5 <= await run(Deadlines(), 5, asyncio.sleep(0)) < now + 5 + SLACK


def test_a_deadline_holds_on_another_event_loop():
    """A timer that was left behind on the last one would never ring."""
    deadlines = Deadlines()
    asyncio.run(run(deadlines, 0.05, asyncio.sleep(0)))
    assert asyncio.run(outlast(deadlines, 0.2)) < SLACK


async def test_a_deadline_that_meets_a_cancellation_gives_way():
    """Whoever cancels is told that it was done."""
    deadlines = Deadlines()
    calls = [asyncio.create_task(outlast(deadlines, seconds)) for seconds in (0.05, 0.1)]
    await asyncio.sleep(0)
    calls[0].cancel()
    await asyncio.wait(calls)
    assert calls[0].cancelled()
    assert calls[1].result() < SLACK
