"""An exception at any line of a renewal, such as a `MemoryError`, costs a session one attempt and not its tokens."""

import asyncio
import gc
import linecache
import math
import sys
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path

import pytest

import signalwire_tokens
from signalwire_tokens import MemoryStore, RateLimited, SessionFleet, SessionState, SubscriberSession
from signalwire_tokens.clock import Timer
from signalwire_tokens.governors import LocalGovernor
from signalwire_tokens.keeper import engine_of
from support.fake_transport import make_client

LIFE = 7200.0
PACKAGE = Path(signalwire_tokens.__file__).parent
FILES = tuple(
    str(PACKAGE / name) for name in ("keeper", "lifecycle.py", "clock/timer.py", "policy.py", "session.py", "fleet")
)


class Fault:
    """Raises `MemoryError` at the n-th line that runs in certain files, once."""

    def __init__(self, number):
        self.left, self.where = number, None

    def __call__(self, frame, event, _):
        if not frame.f_code.co_filename.startswith(FILES):
            return None
        # `try:` does nothing that could fail.
        if event == "line" and linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip() != "try:":
            self.left -= 1
            if self.left == 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
                raise MemoryError
        return self

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)


@asynccontextmanager
async def alone(client):
    async with SubscriberSession(client, "alice") as session:
        yield session


@asynccontextmanager
async def with_a_store(client):
    store = MemoryStore(clock=client.clock)
    async with SubscriberSession(client, "alice", store=store) as session:
        yield session


@asynccontextmanager
async def in_a_fleet(client, **settings):
    async with SessionFleet(client, **settings) as fleet:
        await fleet.token("alice")
        yield fleet.session("alice")
        assert fleet.snapshot().in_flight == 0


@asynccontextmanager
async def in_a_fleet_with_a_store(client):
    async with in_a_fleet(client, store=MemoryStore(clock=client.clock)) as session:
        yield session


@asynccontextmanager
async def as_a_probe(client):
    governor = LocalGovernor(math.inf, clock=client.clock)
    async with in_a_fleet(client, governor=governor) as session, SessionFleet(client, governor=governor) as other:
        account = other._context.gate.health.account
        account.opened(RateLimited("429"), 0.0)
        await account.finish()
        yield session
        assert await other.token("newcomer")


# A coroutine that was made and not begun, since the next line raised.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine .* was never awaited")
@pytest.mark.slow
@pytest.mark.parametrize(
    "opened", [alone, with_a_store, in_a_fleet, in_a_fleet_with_a_store, as_a_probe], ids=lambda kind: kind.__name__
)
async def test_an_exception_at_any_line_of_a_renewal_leaves_a_session_its_tokens(clock, opened):
    """At each of them in turn: it has the next token before the last one expires, and the one after that. (P7)"""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # it logs what a callback raises
    lines = []
    for number in count(1):
        client, _ = make_client(clock)
        async with opened(client) as session:
            cycle = engine_of(session).cycle
            await clock.advance(cycle.due - clock.now() - 1)
            with Fault(number) as fault:
                while cycle.generation == 1 and fault.where is None:
                    with suppress(MemoryError):  # of an alarm, which a real loop logs
                        await clock.advance(60)
            if fault.where is None:
                break
            lines.append(fault.where)
            for _ in range(2):
                generation, rest = session.generation, cycle.access_until - clock.now()
                await clock.advance(rest - 10)
                assert session.generation > generation, fault.where
                assert session.state is SessionState.FRESH, fault.where
    assert len(lines) > 100
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine .* was never awaited")
@pytest.mark.slow
@pytest.mark.parametrize("opened", [with_a_store, in_a_fleet_with_a_store], ids=lambda kind: kind.__name__)
async def test_an_exception_at_any_line_of_a_look_leaves_a_session_its_tokens(clock, opened):
    """Whether the look was to begin, was under way, or had ended. (P7)"""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    lines = []
    for number in count(1):
        client, _ = make_client(clock)
        async with opened(client) as session:
            with Fault(number) as fault, suppress(MemoryError):
                engine_of(session).on_store_change()
                await clock.advance(1)
            for _ in range(2):
                generation = session.generation
                await clock.advance(engine_of(session).cycle.access_until - clock.now() - 10)
                assert session.generation > generation, fault.where
                assert session.state is SessionState.FRESH, fault.where
            if fault.where is None:
                break
            lines.append(fault.where)
    assert len(lines) > 60
    gc.collect()


async def test_a_renewal_that_cannot_begin_leaves_its_place_in_the_fleet(clock, monkeypatch):
    """The session tries again, and the others aren't held up."""
    client, _ = make_client(clock)

    def fail(_timer, work, _name):
        monkeypatch.undo()
        work.close()
        raise MemoryError

    async with SessionFleet(client, max_concurrency=1) as fleet:
        sessions = [fleet.session(name) for name in ("alice", "bob")]
        monkeypatch.setattr(Timer, "begin", fail)
        await clock.advance(1)
        assert sorted(session.generation for session in sessions) == [0, 1]
        await clock.advance(60)
        assert [session.generation for session in sessions] == [1, 1]
