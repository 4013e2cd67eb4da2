"""The requirements on a `Governor`, as a test suite that you run on your own governor.

| promise | reason |
| --- | --- |
| no second has more turns than the rate | SignalWire counts the requests of all processes together |
| a process with many requests leaves turns to others | their tokens expire as well |
| `replace` is an atomic compare-and-set | one process sends the probe while SignalWire is down |
| times are by one clock | a pause that one process was asked for ends for all at once |

The tests use `governor` and `peer` as two processes would. They run on real time, because the clock of a server can't
be moved. They also pass on slow machines: an upper limit of real time only stops a test that hangs.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

import pytest

from signalwire_tokens.governors import AccountHealth, HealthReading

from .conformance import with_time_limit

if TYPE_CHECKING:
    from signalwire_tokens.governors import Governor

__all__ = ["GovernorConformance"]

RATE = 50.0  # turns in a second
SCARCE = 0.001  # turns in a second: the next one is far away
LONG = 600.0  # seconds that a test is willing to wait for a turn
PATIENCE = 20.0  # seconds after which `turn` should have returned None
MOST_WAITING = 5  # turns that a busy process waits for at a time
LEAST_SHARE = 0.1  # of all turns, for a process that waits for one at a time
CONCURRENT_CALLS = 10


def health_of(reading: HealthReading | None) -> AccountHealth:
    """Return the health of a reading, and fail the test if there is none."""
    assert isinstance(reading, HealthReading), "no HealthReading was returned"
    return reading.health


class GovernorConformance:
    """The test suite for a governor of your own. Subclass it, and override the fixture `governor`.

    If other processes can share it, override the fixture `peer`, too. It returns a second object that shares the same
    limit, as another process would have it. Each test needs a new pair, about which nothing is known.
    """

    pytestmark: ClassVar[list[pytest.MarkDecorator]] = [pytest.mark.asyncio] if find_spec("pytest_asyncio") else []

    @pytest.fixture
    def governor(self) -> Governor:
        """Return the governor under test, with a `max_rate` of at least 50. Override this."""
        raise NotImplementedError("override the fixture `governor`")

    @pytest.fixture
    def peer(self, governor: Governor) -> Governor:
        """Return the same governor as another process sees it. By default, it is the same object."""
        return governor

    @with_time_limit
    async def test_nothing_is_known_at_first(self, governor: Governor, peer: Governor) -> None:
        """Both processes read a health without anything in it, and are counted."""
        assert governor.max_rate >= RATE, f"the fixture `governor` must return one with a `max_rate` of at least {RATE}"
        assert health_of(await governor.read()) == AccountHealth()
        reading = await peer.read()
        assert health_of(reading) == AccountHealth()
        assert reading.members >= 1

    @with_time_limit
    async def test_what_one_process_has_seen_is_read_by_the_other(self, governor: Governor, peer: Governor) -> None:
        """All fields arrive, by `read` and with the next turn."""
        at = (await governor.read()).at
        health = AccountHealth().opened("ServerError (status 503)", probe_at=at + 1).paused(at, at + 30)
        health = health.slowed(12.5, at + 10).claimed("probe", at + 2, until=at + 12)
        assert await governor.replace(AccountHealth(), health)
        assert health_of(await peer.read()) == health
        assert health_of(await peer.turn(RATE, LONG)) == health
        assert await peer.replace(health, health.answered(at + 3))
        assert health_of(await governor.read()) == health.answered(at + 3)

    @with_time_limit
    async def test_what_is_outdated_replaces_nothing(self, governor: Governor, peer: Governor) -> None:
        """A process that was slower has to read again."""
        first, second = AccountHealth().opened("first", probe_at=0.0), AccountHealth().opened("second", probe_at=0.0)
        assert await governor.replace(AccountHealth(), first)
        assert not await peer.replace(AccountHealth(), second)
        assert health_of(await peer.read()) == first

    @with_time_limit
    async def test_one_of_many_processes_replaces_it(self, governor: Governor, peer: Governor) -> None:
        """If several try at once, exactly one succeeds, and each knows."""
        mine = [AccountHealth().opened(f"process {number}", probe_at=0.0) for number in range(CONCURRENT_CALLS)]
        both = (governor, peer)
        accepted = await asyncio.gather(
            *(both[number % 2].replace(AccountHealth(), health) for number, health in enumerate(mine))
        )
        assert sum(accepted) == 1
        assert health_of(await peer.read()) == mine[accepted.index(True)]

    @with_time_limit
    async def test_all_times_are_by_one_clock(self, governor: Governor, peer: Governor) -> None:
        """What one process reads later is later, and the clock runs as fast as real time."""
        start = time.monotonic()
        first = (await governor.read()).at
        pause = 0.2
        await asyncio.sleep(pause)
        second = (await peer.read()).at
        passed = time.monotonic() - start
        assert pause / 2 <= second - first <= passed + 1

    @with_time_limit
    async def test_no_second_has_more_turns_than_the_rate(self, governor: Governor, peer: Governor) -> None:
        """Of both processes together."""
        turns: list[float] = []

        async def take(one: Governor) -> None:
            assert await one.turn(RATE, LONG) is not None
            turns.append(time.monotonic())

        number = int(2 * RATE)
        await asyncio.gather(*(take((governor, peer)[k % 2]) for k in range(number)))
        turns.sort()
        most = max(sum(start <= turn < start + 1 for turn in turns) for start in turns)
        # A process may be interrupted between its turn and the next line of the test.
        assert most <= RATE + 1
        assert len(turns) == number

    @with_time_limit
    async def test_a_busy_process_leaves_turns_to_others(self, governor: Governor, peer: Governor) -> None:
        """It waits for several turns at a time, and still the other one gets its share."""
        taken = 0

        async def take_many() -> None:
            nonlocal taken
            while True:
                await governor.turn(RATE, LONG)
                taken += 1

        busy = [asyncio.ensure_future(take_many()) for _ in range(MOST_WAITING)]
        try:
            mine = 5
            for _ in range(mine):
                await peer.turn(RATE, LONG)
        finally:
            for task in busy:
                task.cancel()
            await asyncio.wait(busy)
        assert mine >= LEAST_SHARE * (taken + mine)

    @with_time_limit
    async def test_a_turn_that_is_too_far_away_is_not_waited_for(self, governor: Governor, peer: Governor) -> None:
        """The caller learns that at once, and may give up."""
        assert await governor.turn(SCARCE, LONG) is not None
        reading: HealthReading | str | None = "it still waits"
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                reading = await peer.turn(SCARCE, 0.1)
        assert reading is None, f"`turn` must return None if its turn comes in more than `within` seconds: {reading}"

    @with_time_limit
    async def test_a_call_that_is_cancelled_does_not_hold_up_others(self, governor: Governor, peer: Governor) -> None:
        """Its turn may be lost, but not those of others."""
        waiting = [asyncio.ensure_future(governor.turn(RATE, LONG)) for _ in range(CONCURRENT_CALLS)]
        await asyncio.sleep(0)
        for task in waiting[::2]:
            task.cancel()
        await asyncio.wait(waiting)
        assert all(health_of(task.result()) == AccountHealth() for task in waiting[1::2])
        assert health_of(await peer.turn(RATE, LONG)) == AccountHealth()
