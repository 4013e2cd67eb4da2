"""A fleet's counts are those of its sessions, whatever happens to them, and are kept without looking at all."""

import asyncio
import gc
import random
from collections import Counter
from datetime import timedelta
from weakref import ref

import pytest

from signalwire_tokens import SessionFleet, SessionState, SignalWireTokenError
from signalwire_tokens.clock.timer import LONGEST_ALARM
from signalwire_tokens.fleet.census import COUNTED_PER_TURN, ROUNDING, Census
from support.fake_transport import make_client, settle

LIFE = 7200.0
SESSIONS = 60


@pytest.fixture
def line(clock):
    client, line = make_client(clock, retries=0)
    line.client = client
    return line


def counted(fleet):
    """Count the sessions one by one, as a snapshot must have them."""
    sessions = fleet._sessions.values()
    states = Counter(session.state for session in sessions)
    errors = Counter(type(session.last_error).__name__ for session in sessions if session.last_error is not None)
    return {state: states[state] for state in SessionState}, dict(errors)


async def check(fleet, clock):
    """Compare the counts, once the moment has passed in which a state changes."""
    await clock.advance(2 * ROUNDING)
    await settle()
    snapshot = fleet.snapshot()
    assert (snapshot.sessions, dict(snapshot.errors)) == counted(fleet)
    assert sum(snapshot.sessions.values()) == len(fleet._sessions)


class Troubles:
    """What may happen to a fleet, in an order that the seed decides."""

    def __init__(self, fleet, clock, line, seed):
        self.fleet, self.clock, self.line, self.draw = fleet, clock, line, random.Random(seed)

    def someone(self):
        return f"user-{self.draw.randrange(SESSIONS)}"

    async def call(self):
        asking = asyncio.create_task(self.fleet.token(self.someone()))
        await self.clock.advance(self.draw.choice([0, 1, 20]))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    async def open(self):
        self.fleet.session(self.someone())

    async def close(self):
        closing = asyncio.create_task(self.fleet.close_session(self.someone()))
        await self.clock.advance(20)
        await closing

    async def answer(self):
        self.line.status = self.draw.choice([201, 201, 201, 429, 500, 401, 422, None])

    async def refuse(self):
        self.line.refused = {self.someone(): self.draw.choice([403, 404, 422]) for _ in range(3)}

    async def take_long(self):
        self.line.takes = self.draw.choice([0, 0, 0.2, 5])

    async def invalidate(self):
        session = self.fleet._sessions.get(self.someone())
        if session is not None and session.generation and session.state is not SessionState.EXPIRED:
            session.invalidate(session.pair.access_token)

    async def refresh(self):
        session = self.fleet._sessions.get(self.someone())
        if session is not None and session.state is not SessionState.EXPIRED:
            asking = asyncio.create_task(session.refresh())
            await self.clock.advance(15)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def suspend(self):
        self.clock.suspend(self.draw.choice([10, 1000, 8000]))
        await self.clock.advance(LONGEST_ALARM)  # only then does the timer ring

    async def leap(self):
        self.clock.set_wall(self.clock.wall() + self.draw.choice([-500, 30, 300, 7000]))

    async def wait(self):
        await self.clock.advance(self.draw.choice([0.1, 5, 60, 600, 2000, 7500]))

    async def go_on(self):
        with_sessions = self.call, self.open, self.close, self.invalidate, self.refresh
        with_all = self.answer, self.answer, self.refuse, self.take_long, self.suspend, self.leap, self.wait, self.wait
        chosen = self.draw.choice([*with_sessions, *with_all])
        await chosen()
        return chosen.__name__


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 20))])
async def test_the_counts_are_those_of_the_sessions(clock, line, seed):
    """After each of a hundred troubles."""
    settings = {"max_rate": 20, "idle_timeout": timedelta(hours=3) if seed % 2 else None}
    async with SessionFleet(line.client, **settings) as fleet:
        for number in range(SESSIONS):
            fleet.session(f"user-{number}")
        troubles, seen = Troubles(fleet, clock, line, seed), []
        for _ in range(100):
            seen.append(await troubles.go_on())
            try:
                await check(fleet, clock)
            except AssertionError:
                pytest.fail(f"seed {seed}, after {seen[-10:]}: {fleet.snapshot()} and {counted(fleet)}")
        line.takes = 0.0


async def test_tokens_that_age_are_counted_a_few_at_a_time(clock, line, monkeypatch):
    """A fleet whose tokens expire in the same moment leaves the event loop time for other work."""
    sessions = 2 * COUNTED_PER_TURN + 1
    async with SessionFleet(line.client, max_rate=1000) as fleet:
        for number in range(sessions):
            fleet.session(f"user-{number}")
        await clock.advance(2)
        line.status = None
        await clock.advance(LIFE - 60)
        assert fleet.snapshot().sessions[SessionState.UNAVAILABLE] == 0
        wake, note, turns = Census.wake, Census.note, []

        def counting_wake(census, timer):
            turns.append([])
            monkeypatch.setattr(Census, "note", lambda census, engine: turns[-1].append(engine) or note(census, engine))
            wake(census, timer)
            monkeypatch.setattr(Census, "note", note)

        monkeypatch.setattr(Census, "wake", counting_wake)
        clock.suspend(100)
        await clock.advance(LONGEST_ALARM)
        assert COUNTED_PER_TURN / 2 < max(map(len, turns)) <= COUNTED_PER_TURN
        assert fleet.snapshot().sessions[SessionState.UNAVAILABLE] == sessions
        await check(fleet, clock)


async def test_a_closed_fleet_wakes_no_more(clock, line):
    """Its counts are not wanted."""
    fleet = await SessionFleet(line.client).start()
    await fleet.token("alice")
    census = fleet._context.census
    await fleet.aclose()
    assert census.wakes_at == float("inf")
    assert not +census.counts()
    with pytest.raises(SignalWireTokenError):
        fleet.snapshot()


async def test_a_count_that_fails_changes_nothing_else(clock, line, monkeypatch, caplog):
    """The session keeps its refresh token and its plan, and is counted rightly with the next event. (P7)"""
    async with SessionFleet(line.client) as fleet:
        session = fleet.session("alice")
        await session.token()
        line.status, note = None, Census.note
        with monkeypatch.context() as patched:
            patched.setattr(Census, "note", lambda *_: 1 / 0)
            await clock.advance(0.9 * LIFE)
        assert "couldn't be counted" in caplog.text
        assert session.last_error is not None
        assert session._engine.cycle.can_refresh
        assert Census.note is note
        await clock.advance(600)
        await check(fleet, clock)
        line.status = 201


async def test_a_new_kind_of_count_that_cannot_be_kept_loses_no_session(clock, line, monkeypatch):
    """The session stays counted as what it was."""

    class Full(Counter):
        def __setitem__(self, key, value):
            if key not in self:
                raise MemoryError
            super().__setitem__(key, value)

    async with SessionFleet(line.client) as fleet:
        for number in range(3):
            await fleet.token(f"user-{number}")
        census = fleet._context.census
        monkeypatch.setattr(census, "_counts", Full(census._counts))
        line.status = None
        await clock.advance(0.9 * LIFE)
        assert sum(fleet.snapshot().sessions.values()) == 3
        census._counts = Counter(census._counts)
        await clock.advance(600)
        await check(fleet, clock)
        line.status = 201


async def test_sessions_that_are_closed_while_they_age_are_not_kept(clock, line):
    """Their tokens leave the memory with them."""
    async with SessionFleet(line.client) as fleet:
        for number in range(50):
            fleet.session(f"user-{number}")
        await clock.advance(5)
        line.status = None
        await clock.advance(0.9 * LIFE)
        engines = [ref(session._engine) for session in fleet._sessions.values()]
        closing = asyncio.gather(*(fleet.close_session(f"user-{number}") for number in range(50)))
        await clock.advance(60)
        await closing
        gc.collect()
        assert not [engine for engine in engines if engine() is not None]
