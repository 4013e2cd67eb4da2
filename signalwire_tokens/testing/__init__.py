"""Testing support: three pytest fixtures, a virtual clock, and test suites for stores and governors of your own.

- `signalwire_emulator` is a running emulator of the service.
- `signalwire_clock` is a `VirtualClock`. If a test uses both fixtures, the emulator, its clients and their sessions run
  on this clock, so hours pass in milliseconds.
- `signalwire_env` is an emulator for apps that call `TokenClient.from_env()`, also in synchronous tests.
- `StoreConformance` is the test suite for stores, and `GovernorConformance` the one for governors.

pytest loads this module as a plugin if the package is installed with the extra `emulator`. You don't have to import the
fixtures. `signalwire_emulator` is asynchronous, so install pytest-asyncio or another plugin that runs such fixtures.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from signalwire_tokens.clock import VirtualClock

from .conformance import StoreConformance
from .governors import GovernorConformance
from .in_thread import emulator_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from signalwire_tokens.emulator import Emulator

__all__ = [
    "GovernorConformance",
    "StoreConformance",
    "VirtualClock",
    "signalwire_clock",
    "signalwire_emulator",
    "signalwire_env",
]

if find_spec("pytest_asyncio"):
    from pytest_asyncio import fixture as asynchronous
else:
    asynchronous = pytest.fixture  # type: ignore[assignment]  # it takes the same function


@pytest.fixture
def signalwire_clock() -> VirtualClock:
    """Return a clock that moves only while a test awaits `signalwire_clock.advance(seconds)`."""
    return VirtualClock()


@asynchronous
async def signalwire_emulator(request: pytest.FixtureRequest) -> AsyncIterator[Emulator]:
    """Yield a running emulator, on virtual time if the test also uses `signalwire_clock`. Close it after the test."""
    from signalwire_tokens.emulator import Emulator  # noqa: PLC0415 - its packages are an extra, and pytest loads this module everywhere

    # A test that doesn't use the clock must keep real time, so this fixture can't simply require the other one.
    clock = request.getfixturevalue("signalwire_clock") if "signalwire_clock" in request.fixturenames else None
    async with Emulator(clock=clock) as emulator:
        yield emulator


@pytest.fixture
def signalwire_env(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Yield an emulator that `TokenClient.from_env()` uses: the environment variables `SIGNALWIRE_*` lead to it.

    It runs in a thread of its own, so a synchronous test can use it, such as one with FastAPI's `TestClient`.
    """
    with emulator_in_thread() as emulator:
        for name in os.environ:
            if name.startswith("SIGNALWIRE_"):
                monkeypatch.delenv(name)
        monkeypatch.setenv("SIGNALWIRE_SPACE", emulator.space)
        monkeypatch.setenv("SIGNALWIRE_PROJECT_ID", emulator.project_id)
        monkeypatch.setenv("SIGNALWIRE_API_TOKEN", emulator.api_token)
        yield emulator
