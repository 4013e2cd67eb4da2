"""An emulator in a thread of its own, for synchronous tests and for apps that run on another event loop."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from signalwire_tokens.emulator import Emulator

__all__ = ["emulator_in_thread"]


@contextmanager
def emulator_in_thread(**settings: Any) -> Iterator[Emulator]:  # noqa: ANN401 - the settings of `Emulator`
    """Yield an emulator that runs on an event loop in a thread of its own. Close it when the block ends."""
    from signalwire_tokens.emulator import Emulator  # noqa: PLC0415 - its packages are an extra, and pytest loads this module everywhere

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="signalwire-emulator")
    thread.start()
    try:
        emulator = Emulator(**settings)
        asyncio.run_coroutine_threadsafe(emulator.__aenter__(), loop).result()
        try:
            yield emulator
        finally:
            asyncio.run_coroutine_threadsafe(emulator.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
