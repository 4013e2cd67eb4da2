"""What ends a command that runs until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["on_stop"]

# Windows' event loop takes no handlers: there, Ctrl-C raises.
STOP_SIGNALS = () if sys.platform == "win32" else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AT_ONCE = 1.0  # seconds in which signals are one: a terminal that closes may send several


@contextmanager
def on_stop(callback: Callable[[], object]) -> Iterator[None]:
    """Call back when the process is told to stop. Told again, after a second, it stops as if nothing were under way."""
    loop = asyncio.get_running_loop()
    # Whoever had it ignore that its terminal closes, as `nohup` does, means that.
    numbers = [one for one in STOP_SIGNALS if one != signal.SIGHUP or signal.getsignal(one) is not signal.SIG_IGN]
    told: list[asyncio.TimerHandle] = []

    def let_go() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)

    def stop() -> None:
        if not told:
            told.append(loop.call_later(AT_ONCE, let_go))
            callback()

    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        let_go()
        for handle in told:
            handle.cancel()
            for number in numbers:  # the process is about to end, and not by the same word said twice
                signal.signal(number, signal.SIG_IGN)
