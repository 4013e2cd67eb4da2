"""Two ways to wait that commands have in common."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

__all__ = ["end", "wait_for"]


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but no longer than so."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def end(*tasks: asyncio.Task[Any]) -> None:
    """End tasks, and leave what they ended with to whoever asks."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
