"""The fixtures that users' own suites get, as those suites see them."""

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from signalwire_tokens import SubscriberSession, testing

SUITE = """
import time
import pytest
from signalwire_tokens import SubscriberSession

pytestmark = [pytest.mark.{mark}, pytest.mark.filterwarnings("error")]


async def test_two_days_pass(virtual_clock, signalwire_emulator):
    start = time.monotonic()
    async with signalwire_emulator.client() as client, SubscriberSession(client, "alice") as session:
        for _ in range(48):
            await virtual_clock.advance(3600)
            assert signalwire_emulator.accepts(await session.token())
    assert signalwire_emulator.now().timestamp() == virtual_clock.wall()


async def test_without_a_clock_time_is_the_machine_s(signalwire_emulator):
    assert abs(signalwire_emulator.now().timestamp() - time.time()) < 60
"""
STORE_SUITE = """
import pytest
from signalwire_tokens import MemoryStore
from signalwire_tokens.testing import StoreConformance


class TestMemoryStore(StoreConformance):
    tells = True

    @pytest.fixture
    def store(self):
        return MemoryStore()


class TestNothing(StoreConformance):
    pass
"""
# As where pytest-asyncio is not installed.
WITHOUT_ASYNCIO = (
    "sys.modules['pytest_asyncio'] = None; import signalwire_tokens.testing; del sys.modules['pytest_asyncio']; "
)


@pytest.mark.parametrize(
    ("mark", "before", "options"),
    [("asyncio", "", []), ("anyio", WITHOUT_ASYNCIO, ["-p", "no:asyncio", "-k", "not trio"])],
    ids=["pytest-asyncio", "anyio"],
)
def test_a_suite_gets_its_fixtures_with_nothing_but_the_package_installed(tmp_path, mark, before, options):
    """Under the plugin for asyncio that it has."""
    (tmp_path / "test_suite.py").write_text(SUITE.format(mark=mark))
    code = f"import sys; {before}import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "-q", "-p", "no:cacheprovider", *options, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_a_suite_for_a_store_runs_with_nothing_but_the_package_installed(tmp_path):
    """In the strict mode of the plugin for asyncio; and says what is missing where no store is given."""
    (tmp_path / "test_suite.py").write_text(STORE_SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "17 passed, 17 errors" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("NotImplementedError: override the fixture `store`") >= 17


def test_pytest_finds_the_fixtures_by_itself():
    """They are an entry point."""
    (point,) = entry_points(group="pytest11", name="signalwire_tokens")
    assert point.load() is testing


async def test_the_fixtures_go_together(virtual_clock, signalwire_emulator):
    """One time for the service, its clients and their sessions."""
    async with signalwire_emulator.client() as client, SubscriberSession(client, "alice") as session:
        first = await session.token()
        await virtual_clock.advance(7200)
        assert not signalwire_emulator.accepts(first)
        assert signalwire_emulator.accepts(await session.token())
