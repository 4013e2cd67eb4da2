"""What other clients get wrong, by name, held against the service on its socket."""

import asyncio
from itertools import pairwise

import pytest

from signalwire_tokens import SessionState, SubscriberSession, TokenUnavailable
from signalwire_tokens.emulator import Stall, Status

LIFE = 7200.0


@pytest.fixture
async def session(clock, client):
    async with SubscriberSession(client, "alice@example.com") as session:
        yield session


def posts(emulator):
    return len(emulator.requests) - 1  # the first was the issue


async def test_fifty_waiters_and_one_cancelled_are_one_post_and_one_cancelled_error(emulator, clock, session):
    """Elsewhere, one cancelled caller takes the refresh with it, for everybody."""
    clock.suspend(LIFE + 1)
    calls = [asyncio.create_task(session.token()) for _ in range(50)]
    await asyncio.sleep(0)
    calls[11].cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert posts(emulator) == 1
    assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, str) and emulator.accepts(outcome) for outcome in outcomes) == 49


async def test_twenty_calls_on_an_expired_token_are_one_post(emulator, clock, session):
    """Elsewhere, each caller refreshes, and all but one with a refresh token that is used up. (P15)"""
    clock.suspend(LIFE + 1)
    tokens = await asyncio.gather(*(session.token() for _ in range(20)))
    assert posts(emulator) == 1
    assert len(set(tokens)) == 1


async def test_a_service_that_is_down_with_three_minutes_left_fails_no_caller(emulator, clock, session):
    """Elsewhere, a failed refresh is the caller's error, though the token would do."""
    await clock.advance(0.55 * LIFE)
    clock.suspend(LIFE - 180 - clock.now())
    emulator.fail(Status(500), times=None)
    given = []
    for _ in range(175):
        call = asyncio.create_task(session.token())
        call.add_done_callback(lambda call: given.append(emulator.accepts(call.result())))
        await clock.advance(1)
    assert given.count(True) == len(given) >= 170
    times = [entry.at.timestamp() for entry in emulator.requests[1:]]
    assert 3 <= len(times) <= 60  # one a second for the last thirty, when callers wait; before, a few, drawn at random
    assert min(later - sooner for sooner, later in pairwise(times)) >= 0.5 - 1e-3


@pytest.mark.parametrize("fault", [Status(500), Status(429), Status(429, retry_after=30), Stall()], ids=repr)
async def test_a_failure_in_the_background_is_not_the_end(emulator, clock, fault):
    """Elsewhere, one HTTP 500 ends the loop for good, unnoticed until the token expires. (P13)"""
    async with emulator.client(timeout=0.5) as client, SubscriberSession(client, "alice") as session:
        emulator.fail(fault)
        await clock.advance(0.95 * LIFE)
        assert session.state is SessionState.FRESH
        assert session.generation == 2
        await clock.advance(LIFE)
        assert session.generation >= 3


@pytest.mark.parametrize("does", ["raise", "hang", "refresh", "close"])
async def test_a_callback_may_do_what_it_likes(emulator, clock, client, does):
    """Elsewhere, callbacks run inside the lock of the refresh."""
    session = SubscriberSession(client, "alice")
    told = []

    async def callback(event):
        told.append(event.kind)
        if event.kind == "rotated" and told.count("rotated") == 1:
            match does:
                case "raise":
                    raise RuntimeError
                case "hang":
                    await asyncio.Event().wait()
                case "refresh":
                    await session.refresh()
                case "close":
                    await session.aclose()

    session.subscribe(callback)
    async with session:
        await session.refresh()
        while does == "refresh" and session.generation < 3:
            await clock.advance(0)
        if does == "close":
            await session.wait_closed()
        else:
            clock.suspend(LIFE + 1)
            assert emulator.accepts(await session.token())
    assert told[:2] == ["started", "rotated"]


async def test_a_suspended_laptop_wakes_with_a_live_token(emulator, clock, session):
    """Elsewhere, time that the machine slept does not count, and a dead token is handed out."""
    await clock.advance(600)
    clock.suspend(10 * 3600)
    assert emulator.accepts(await session.token())


async def test_an_outage_of_hours_ends_with_the_service_back(emulator, clock, session):
    """Elsewhere, the session has given up by then."""
    emulator.fail(Status(503), times=None)
    await clock.advance(2 * 3600)
    call = asyncio.create_task(session.token())
    await clock.advance(10)
    assert isinstance(call.exception(), TokenUnavailable)
    emulator.clear_faults()
    await clock.advance(1)
    assert emulator.accepts(await session.token())
