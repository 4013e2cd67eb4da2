"""How a session closes.

`close()` takes these steps. Each has a limit, so closing always ends, even if SignalWire, the store or a subscriber
hangs::

    step                                                        limit
    ---------------------------------------------------------   ------------------------------------------------
    shut: `token()` raises, and no renewal begins               none is needed: it happens at once
    wait for the renewal or look under way                      the policy's time for closing (15 s)
    make a last attempt to save a pair that isn't saved yet     three waits for the store, of 1 s each
    emit `closed`, and wake all callers                         none is needed
    wait for subscribers that still handle an event             `LAST_WORD`; then they are cancelled
    close the source (`close_source`, by the session)           the policy's time for closing, once more

A renewal under way isn't cancelled even after its limit: the session stops waiting for it, and it ends by itself.

If the task that closes is cancelled, the session is closed at once, without the waits. Its subscribers are cancelled.
"""

from __future__ import annotations

import asyncio
from inspect import isawaitable
from typing import TYPE_CHECKING

from signalwire_tokens.lifecycle import Phase

from .events import logged

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["close", "close_source", "drain", "drop", "shut"]

LAST_WORD = 1.0  # seconds that subscribers have to finish when a session closes, and again after they are cancelled


async def close(engine: Engine) -> None:
    """Close a session, and wait for what is under way, within limits.

    If the session is closing already, wait until it is closed.
    """
    cycle = engine.cycle
    if engine.timer is None:
        cycle.advance(Phase.CLOSED)
        return
    engine.owner.closing(engine)
    if cycle.phase >= Phase.ENDING:
        while cycle.phase is not Phase.CLOSED:
            await engine.changed()
        await drain(engine)
        return
    shut(engine)
    cycle.advance(Phase.ENDING)
    try:
        await drain(engine)
        if engine.shared is not None:
            await engine.shared.finish()
    except asyncio.CancelledError:
        cancel_subscribers(engine)
        raise
    finally:
        finish(engine)
    try:
        await wait_for_subscribers(subscriber_tasks(engine))
    except asyncio.CancelledError:
        cancel_subscribers(engine)
        raise


async def close_source(engine: Engine) -> None:
    """Close the source of tokens, if it has an `aclose()`. An error or a timeout is logged."""
    end = getattr(engine.renewal, "aclose", None)
    with logged(f"session {engine.label}: aclose() of the token source failed, and the session is closed all the same"):
        async with asyncio.timeout(engine.cycle.policy.close_timeout):
            if end is not None and isawaitable(ended := end()):
                await ended


def drop(engine: Engine) -> None:
    """Close a session at once, without waiting for anything."""
    engine.owner.closing(engine)
    shut(engine)
    cancel_subscribers(engine)
    finish(engine)


def shut(engine: Engine) -> None:
    """Stop a session from returning tokens and from beginning renewals. Callers that wait get `SessionClosed`."""
    engine.cycle.advance(Phase.SHUT)
    engine.opened().unset(engine)
    engine.notify()


async def drain(engine: Engine) -> None:
    """Wait for the renewal or look under way, up to the policy's time for closing. It isn't cancelled."""
    if engine.task is not None:
        await asyncio.wait([engine.task], timeout=engine.cycle.policy.close_timeout)


def finish(engine: Engine) -> None:
    """Set the session to closed, and emit `closed`. The store is released first."""
    if engine.shared is not None:
        engine.shared.stop()
    engine.emit("closed")
    engine.cycle.advance(Phase.CLOSED)
    engine.notify()


def subscriber_tasks(engine: Engine) -> set[asyncio.Task[None]]:
    """Return the tasks in which subscribers handle events.

    Tasks that close the session are left out: a callback that calls `aclose()` can't wait for itself.
    """
    closers = {asyncio.current_task(), *engine.owner.closers}
    return {one.task for one in engine.listeners if one.task is not None and one.task not in closers}


def cancel_subscribers(engine: Engine) -> None:
    """Cancel the tasks in which subscribers handle events, except tasks that close the session."""
    for task in subscriber_tasks(engine):
        task.cancel()


async def wait_for_subscribers(tasks: set[asyncio.Task[None]]) -> None:
    """Wait for subscribers to finish, then cancel those that haven't, and wait again.

    Both waits take `LAST_WORD` at most.
    """
    for end in (False, True):
        tasks = {task for task in tasks if not task.done()}
        if tasks:
            for task in tasks if end else ():
                task.cancel()
            await asyncio.wait(tasks, timeout=LAST_WORD)
