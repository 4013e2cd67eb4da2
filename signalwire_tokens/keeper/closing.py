"""How a session ends: what is under way may end, within bounds, and so may its subscribers."""

from __future__ import annotations

import asyncio
from inspect import isawaitable
from typing import TYPE_CHECKING

from signalwire_tokens.lifecycle import Phase

from .events import logged

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["close", "close_source", "drain", "drop", "shut"]

LAST_WORD = 1.0  # seconds that subscribers get to finish when a session closes


async def close(engine: Engine) -> None:
    """Close a session. What is under way isn't cancelled, but waited for, up to the policy's `drain`."""
    cycle = engine.cycle
    if engine.timer is None:
        cycle.advance(Phase.CLOSED)
        return
    engine.owner.left(engine)
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
        silence(engine)
        raise
    finally:
        finish(engine)
    try:
        await dismiss(told(engine))
    except asyncio.CancelledError:
        silence(engine)
        raise


async def close_source(engine: Engine) -> None:
    """Close what renews the token, within bounds."""
    end = getattr(engine.renewal, "aclose", None)
    with logged(f"session {engine.label}: its source could not be closed"):
        async with asyncio.timeout(engine.cycle.policy.close_timeout):
            if end is not None and isawaitable(ended := end()):
                await ended


def drop(engine: Engine) -> None:
    """Close a session without waiting for anything."""
    engine.owner.left(engine)
    shut(engine)
    silence(engine)
    finish(engine)


def shut(engine: Engine) -> None:
    """Have a session return no token any more, and begin no renewal."""
    engine.cycle.advance(Phase.SHUT)
    engine.opened().unset(engine)
    engine.notify()


async def drain(engine: Engine) -> None:
    """Wait for what is under way, within bounds."""
    if engine.flight is not None:
        await asyncio.wait([engine.flight], timeout=engine.cycle.policy.close_timeout)


def finish(engine: Engine) -> None:
    """Mark the session as closed, and tell its subscribers."""
    if engine.shared is not None:
        engine.shared.stop()
    engine.tell("closed")
    engine.cycle.advance(Phase.CLOSED)
    engine.notify()


def told(engine: Engine) -> set[asyncio.Task[None]]:
    """Return the tasks in which subscribers are being told, except those that close the session."""
    closers = {asyncio.current_task(), *engine.owner.closers}
    return {one.task for one in engine.listeners if one.task is not None and one.task not in closers}


def silence(engine: Engine) -> None:
    """End the tasks in which subscribers are being told."""
    for task in told(engine):
        task.cancel()


async def dismiss(tasks: set[asyncio.Task[None]]) -> None:
    """Wait for subscribers, and cancel those that take too long."""
    for end in (False, True):
        tasks = {task for task in tasks if not task.done()}
        if tasks:
            for task in tasks if end else ():
                task.cancel()
            await asyncio.wait(tasks, timeout=LAST_WORD)
