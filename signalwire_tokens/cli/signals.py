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


@contextmanager
def on_stop(callback: Callable[[], object]) -> Iterator[None]:
    """Call back when the process is told to stop; told again, it stops at once."""
    loop = asyncio.get_running_loop()

    def let_go() -> None:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)

    def stop() -> None:
        let_go()
        callback()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        let_go()
