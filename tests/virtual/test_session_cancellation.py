"""A caller who is cancelled, or a session that is closed, at each turn of the event loop that a rotation takes."""

import asyncio

import pytest

from signalwire_tokens import SessionClosed, SubscriberSession
from signalwire_tokens.emulator import Emulator, Reset

LIFE = 7200.0
MOST_TURNS = 400


async def turns(number):
    """Let the event loop go round so many times."""
    for _ in range(number):
        await asyncio.sleep(0)


async def until_late(session, clock):
    """Bring the session to where a caller waits for its renewal."""
    await session.token()
    clock.suspend(LIFE + 1)


def holds_the_newest(emulator, session):
    """The refresh token at hand has not been used: nothing newer was issued from it."""
    return emulator.accepts(session.pair.refresh_token)


@pytest.mark.parametrize("fault", [None, Reset(applied=True)], ids=["answered", "lost"])
async def test_a_caller_may_be_cancelled_at_any_point(clock, fault):
    """The rotation goes on, no other caller is cancelled, the newest pair is kept, and nothing is left. (P15)"""
    async with Emulator(clock=clock) as emulator, emulator.client() as client:
        for number in range(MOST_TURNS):
            async with SubscriberSession(client, f"user-{number}") as session:
                await until_late(session, clock)
                if fault:
                    emulator.fail(fault)
                cancelled, other = (asyncio.create_task(session.token()) for _ in range(2))
                await turns(number)
                ended = cancelled.done() or session.last_error is not None
                cancelled.cancel()
                while not other.done():
                    await clock.advance(0.25)
                assert emulator.accepts(await other)
                assert holds_the_newest(emulator, session)
                assert cancelled.done()
            if ended:
                break
        assert 5 < number < MOST_TURNS - 1


@pytest.mark.parametrize("fault", [None, Reset(applied=True)], ids=["answered", "lost"])
async def test_a_session_may_be_closed_at_any_point(clock, fault):
    """The request in flight is drained: its pair is kept, and callers that wait get `SessionClosed`. (P21)"""
    async with Emulator(clock=clock) as emulator, emulator.client() as client:
        for number in range(MOST_TURNS):
            session = await SubscriberSession(client, f"user-{number}").start()
            await until_late(session, clock)
            if fault:
                emulator.fail(fault)
            asked = len(emulator.requests)
            caller = asyncio.create_task(session.token())
            await turns(number)
            ended = caller.done() or session.last_error is not None
            await session.aclose()
            if not caller.done() or caller.exception():
                with pytest.raises(SessionClosed):
                    await caller
            emulator.clear_faults()
            assert asyncio.all_tasks() - {asyncio.current_task()} <= server_tasks(emulator)
            if fault is None and len(emulator.requests) > asked:
                assert session.generation == 2
                assert holds_the_newest(emulator, session)
            if ended:
                break
        assert 5 < number < MOST_TURNS - 1


async def test_a_start_may_be_cancelled_at_any_point(clock):
    """It drains its request, and leaves nothing open."""
    async with Emulator(clock=clock) as emulator, emulator.client() as client:
        for number in range(MOST_TURNS):
            session = SubscriberSession(client, f"user-{number}")
            starting = asyncio.create_task(session.start())
            await turns(number)
            ended = starting.done()
            starting.cancel()
            await asyncio.wait([starting])
            assert starting.cancelled() != ended
            await session.aclose()
            if ended:
                break
        assert 5 < number < MOST_TURNS - 1


def server_tasks(emulator):
    """The emulator serves in the same event loop, a task for each connection that a client keeps open."""
    return {task for task in asyncio.all_tasks() if "RequestHandler" in repr(task.get_coro())}
