"""What ends a command that runs until it is told to stop."""

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

# Windows' event loop takes no handlers: there, Ctrl-C raises.
STOP_SIGNALS = () if sys.platform == "win32" else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AT_ONCE = 1.0  # seconds in which signals are one: a terminal that closes may send several


@contextmanager
def on_stop(callback: Callable[[], object]) -> Iterator[None]:
    """Call back when the process is told to stop. Told again, after a second, it ends as if nothing were under way."""
    loop = asyncio.get_running_loop()
    # Whoever had it ignore that its terminal closes, as `nohup` does, means that.
    numbers = [one for one in STOP_SIGNALS if one != signal.SIGHUP or signal.getsignal(one) is not signal.SIG_IGN]
    told: list[float] = []

    def stop() -> None:
        told.append(time.monotonic())
        atexit.register(ignore)  # while the interpreter is taken down, it would end by the signal
        let_go()
        callback()

    def stop_again(number: int, _: FrameType | None) -> None:
        if time.monotonic() - told[0] >= AT_ONCE:
            os._exit(128 + number)  # whatever holds it up, and also where no signal ends a container's first process

    def ignore() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    def let_go() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)
            if told:  # to the very end, which may take its time
                signal.signal(number, stop_again)

    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        let_go()
