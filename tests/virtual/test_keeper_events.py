"""What a session tells those who subscribe: everything, in order, and nobody can hold it up."""

import asyncio
import logging
from contextvars import ContextVar

import pytest

from signalwire_tokens import RefreshPolicy, SessionClosed, SessionState, TokenUnavailable
from signalwire_tokens.keeper import engine, engine_of
from support.scripted_session import LIFE, NOT_SENT, SPENT, ScriptedSession

PLACE = ContextVar("PLACE", default="nowhere")


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("is_async", [False, True])
async def test_everything_that_happens_is_told(clock, is_async):
    """In order, with the generation, the pair, and the error where one is why. (P16)"""
    told = []

    async def tell_later(event):
        await asyncio.sleep(0)
        told.append(event)

    session = ScriptedSession(clock, None, None, NOT_SENT, NOT_SENT, None, SPENT, None)
    session.subscribe(tell_later if is_async else told.append)
    async with session:
        await clock.advance(3 * LIFE)
    kinds = [event.kind for event in told]
    assert kinds[:8] == [
        "started",
        "rotated",
        "degraded",
        "rotated",
        "recovered",
        "degraded",
        "reissued",
        "recovered",
    ]
    assert kinds[-1] == "closed"
    assert [event.generation for event in told[:4]] == [1, 2, 2, 3]
    assert told[2].error is NOT_SENT.error
    assert told[3].error is None
    assert told[-1].pair is session.pair
    assert told[1].pair.access_token.value not in repr(told)


async def test_the_end_is_told(clock):
    """With the reason."""
    told = []
    async with ScriptedSession(clock, None, SPENT, reissues=False) as session:
        session.subscribe(told.append)
        await clock.advance(2 * LIFE)
        assert session.state is SessionState.EXPIRED
    assert [event.kind for event in told] == ["degraded", "expired", "closed"]
    assert told[1].error is SPENT.error


async def test_whoever_unsubscribes_is_told_nothing_more(clock):
    """Not even what was on its way; the others are."""
    told, others, may_go_on = [], [], asyncio.Event()

    async def tell(event):
        told.append(event)
        await may_go_on.wait()

    async with ScriptedSession(clock) as session:
        unsubscribe = session.subscribe(tell)
        session.subscribe(others.append)
        await session.refresh()
        await session.refresh()
        unsubscribe()
        unsubscribe()
        may_go_on.set()
        await session.refresh()
    assert [event.kind for event in told] == ["rotated"]
    assert [event.kind for event in others] == ["rotated", "rotated", "rotated", "closed"]


async def test_one_that_has_unsubscribed_between_events_is_forgotten_at_once(clock):
    """Nothing of it is running."""
    told = []
    async with ScriptedSession(clock) as session:
        unsubscribe = session.subscribe(told.append)
        await session.refresh()
        await settle()
        unsubscribe()
        assert engine_of(session).listeners == ()
        await session.refresh()
    assert [event.kind for event in told] == ["rotated"]


async def test_a_subscriber_may_unsubscribe_in_its_callback(clock):
    """The session then keeps nothing of it, so that a fleet can close the session when it is idle."""
    told = []

    async def receive_one(event):
        unsubscribe()
        told.append(event.kind)
        await asyncio.sleep(0)

    async with ScriptedSession(clock) as session:
        unsubscribe = session.subscribe(receive_one)
        await session.refresh()
        await session.refresh()
        await settle()
        assert told == ["rotated"]
        assert engine_of(session).listeners == ()


class Unreachable:
    """A listener that no event reaches."""

    task = None

    def emit(self, event, timer):
        raise MemoryError


def out_of_memory(**_):
    raise MemoryError


async def test_an_event_that_cannot_be_made_changes_nothing_else(clock, caplog, monkeypatch):
    """Closing ends, and so do those that wait for it. (P16)"""
    monkeypatch.setattr(engine, "SessionEvent", out_of_memory)
    session = await ScriptedSession(clock).start()
    session.subscribe(lambda _: None)
    closed = asyncio.create_task(session.wait_closed())
    await session.aclose()
    await closed
    assert "the event 'closed' couldn't be emitted" in caplog.text


async def test_an_event_that_cannot_be_emitted_changes_nothing_else(clock, caplog):
    """The other subscribers receive it, and the session renews and closes. (P16)"""
    told = []
    async with ScriptedSession(clock) as session:
        engine_of(session).listeners = (Unreachable(),)
        session.subscribe(told.append)
        await session.refresh()
    assert [event.kind for event in told] == ["rotated", "closed"]
    await session.wait_closed()
    assert caplog.text.count("couldn't be emitted") == 2


@pytest.mark.parametrize("is_async", [False, True])
async def test_one_that_raises_harms_nobody(clock, is_async, caplog):
    """It is logged, and told of the next event all the same. (P16)"""
    told = []

    def broken(event):
        told.append(event.kind)
        raise RuntimeError("a slip of the subscriber's")

    async def broken_later(event):
        broken(event)

    async with ScriptedSession(clock) as session:
        session.subscribe(broken_later if is_async else broken)
        await session.refresh()
        await session.refresh()
        assert await session.token() == session.pair.access_token.value
    assert told == ["rotated", "rotated", "closed"]
    assert [record.levelno for record in caplog.records if "raised an exception for the event" in record.message] == [
        logging.ERROR
    ] * 3


async def test_one_that_hangs_harms_nobody(clock):
    """Neither the session, nor the others, nor its closing. (P16)"""
    told = []

    async def hang(_):
        await asyncio.Event().wait()

    async with ScriptedSession(clock) as session:
        session.subscribe(hang)
        session.subscribe(told.append)
        await clock.advance(2 * LIFE)
        assert session.generation > 2
    assert told[-1].kind == "closed"


async def test_one_may_refresh(clock):
    """From within an event, once."""
    refreshed = []

    async def refresh(event):
        if not refreshed:
            refreshed.append(event.kind)
            refreshed.append(await session.refresh())

    async with ScriptedSession(clock) as session:
        session.subscribe(refresh)
        await session.refresh()
        await settle()
        assert refreshed == ["rotated", session.pair]


async def test_one_may_close_the_session(clock):
    """Without waiting for itself. (P16)"""
    told = []

    async def close(event):
        told.append(event.kind)
        await session.aclose()

    session = await ScriptedSession(clock).start()
    session.subscribe(close)
    await session.refresh()
    await session.wait_closed()
    await settle()
    assert told == ["rotated", "closed"]


async def test_one_is_told_in_the_context_in_which_it_subscribed(clock):
    """Not in that of whoever happened to set a timer."""
    seen = []
    async with ScriptedSession(clock) as session:
        PLACE.set("here")
        session.subscribe(lambda _: seen.append(PLACE.get()))
        PLACE.set("elsewhere")
        await session.refresh()
    assert seen == ["here", "here"]


async def hang(_):
    await asyncio.Event().wait()


def listeners():
    return [task for task in asyncio.all_tasks() if task.get_name() == "signalwire-tokens: call a subscriber"]


async def test_one_that_hangs_after_it_unsubscribed_is_ended_too(clock):
    """With the session."""

    async def leave(event):
        unsubscribe()
        await hang(event)

    session = ScriptedSession(clock)
    unsubscribe = session.subscribe(leave)
    async with session:
        await settle()
        assert len(listeners()) == 1
    assert listeners() == []


async def test_closing_that_is_cancelled_ends_those_who_hang(clock):
    """At once: nobody waits for them any more."""
    landed = asyncio.Event()
    session = ScriptedSession(clock, None, landed)
    session.subscribe(hang)
    await session.start()
    refresh = asyncio.create_task(session.refresh())
    await settle()
    closing = asyncio.create_task(session.aclose())
    await settle()
    closing.cancel()
    await asyncio.wait([closing])
    with pytest.raises(SessionClosed):
        await refresh
    landed.set()
    await settle()
    assert listeners() == []


async def test_nothing_is_told_after_the_end(clock):
    """A renewal that lands later is nobody's business."""
    told, landed = [], asyncio.Event()
    session = ScriptedSession(clock, None, landed, policy=RefreshPolicy(close_timeout=0.01))
    session.subscribe(lambda event: told.append(event.kind))
    await session.start()
    refresh = asyncio.create_task(session.refresh())
    await settle()
    await session.aclose()
    with pytest.raises(SessionClosed):
        await refresh
    landed.set()
    await settle()
    assert told == ["started", "closed"]


async def test_one_that_ends_in_a_cancelled_error_of_its_own_is_told_on(clock, caplog):
    """It awaited something that was cancelled; nobody cancelled it."""
    told = []

    async def stumble(event):
        told.append(event.kind)
        raise asyncio.CancelledError

    async with ScriptedSession(clock) as session:
        session.subscribe(stumble)
        await session.refresh()
        await session.refresh()
        await settle()
    assert told == ["rotated", "rotated", "closed"]
    assert "its task wasn't cancelled" in caplog.text


async def test_what_cannot_be_called_back_is_refused(clock):
    """Now, and not when something happens."""
    async with ScriptedSession(clock) as keeper:
        with pytest.raises(TypeError, match="callback"):
            keeper.subscribe("x")


async def test_a_renewal_that_cannot_note_a_new_pair_loses_no_event(clock, caplog):
    """The subscribers receive them all."""

    def fail(_):
        raise ValueError("hush")

    told = []
    async with ScriptedSession(clock, None, NOT_SENT) as session:
        session.script.adopted = fail
        session.subscribe(lambda event: told.append(event.kind))
        with pytest.raises(TokenUnavailable):
            await session.refresh()
        await session.refresh()
    assert told == ["degraded", "rotated", "recovered", "closed"]
    assert "adopted() of the token source failed, and the session goes on: " in caplog.text
