"""Wait for something to happen, however slow the machine is."""

import asyncio
import inspect

from .loop_time import is_in_loop_time

# Seconds after which a wait counts as a hang. It never measures speed: a starved machine needs minutes for what
# an idle one does in a second.
HANG = 300.0


async def eventually(condition, clock=None):
    """Return the condition's result as soon as it is true; the condition may be a coroutine function.

    With a virtual clock, each look lets a second of its time pass. In loop time, a longer pause costs less.
    """
    pause, longest = 0.001, 0.5 if is_in_loop_time() else 0.1
    async with asyncio.timeout(10 * HANG * longest):  # so that the number of looks doesn't depend on `longest`
        while True:
            result = condition()
            result = await result if inspect.isawaitable(result) else result
            if result:
                return result
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest if clock is None else 0.005)
            if clock is not None:
                await clock.advance(1)
