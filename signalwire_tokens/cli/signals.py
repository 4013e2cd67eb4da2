"""The signals that stop a command."""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["on_stop"]

# The event loop of Windows takes no signal handlers. There, Ctrl-C raises KeyboardInterrupt.
STOP_SIGNALS = () if sys.platform == "win32" else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ONE_STOP_SECONDS = 1.0  # signals within this time count as one: a terminal that closes may send several


@contextmanager
def on_stop(callback: Callable[[], object]) -> Iterator[None]:
    """Call `callback` once, at the first signal that stops the process. A later one ends the process at once."""
    loop = asyncio.get_running_loop()
    # Under `nohup`, SIGHUP is ignored, and stays so.
    numbers = [one for one in STOP_SIGNALS if one != signal.SIGHUP or signal.getsignal(one) is not signal.SIG_IGN]
    stopped_at: list[float] = []

    def stop() -> None:
        stopped_at.append(time.monotonic())
        atexit.register(lambda: [signal.signal(number, signal.SIG_IGN) for number in numbers])  # keeps the exit code
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, exit_at_once)
        callback()

    def exit_at_once(number: int, _: FrameType | None) -> None:
        if time.monotonic() - stopped_at[0] >= ONE_STOP_SECONDS:
            os._exit(128 + number)  # in a container's first process, the default handler would do nothing

    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        if not stopped_at:
            for number in numbers:
                loop.remove_signal_handler(number)
