"""For the suites of those who build on this: the service on loopback, a clock that moves when told, a suite for stores.

pytest finds the fixtures by itself where this package is installed with its extra `emulator`. They are asynchronous, so
pytest-asyncio (or another plugin that runs such fixtures) has to be there too.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from signalwire_tokens.clock import VirtualClock

from .conformance import StoreConformance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from signalwire_tokens.emulator import Emulator

__all__ = ["StoreConformance", "VirtualClock", "signalwire_clock", "signalwire_emulator"]

if find_spec("pytest_asyncio"):
    from pytest_asyncio import fixture as asynchronous
else:
    asynchronous = pytest.fixture  # type: ignore[assignment]  # it takes the same function


@pytest.fixture
def signalwire_clock() -> VirtualClock:
    """Give a clock that moves only in `await signalwire_clock.advance(seconds)`."""
    return VirtualClock()


@asynchronous
async def signalwire_emulator(request: pytest.FixtureRequest) -> AsyncIterator[Emulator]:
    """Run an emulator of the service, in virtual time where the test has `signalwire_clock` too."""
    from signalwire_tokens.emulator import Emulator  # noqa: PLC0415 - its packages are an extra, and pytest loads this module everywhere

    clock = request.getfixturevalue("signalwire_clock") if "signalwire_clock" in request.fixturenames else None
    async with Emulator(clock=clock) as emulator:
        yield emulator
