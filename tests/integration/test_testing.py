"""The fixtures that users' own suites get, as those suites see them."""

import re
import subprocess
import sys
from contextlib import asynccontextmanager
from importlib.metadata import entry_points

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import signalwire_tokens.emulator  # noqa: F401 - a suite that runs in this process must find it loaded
from signalwire_tokens import SubscriberSession, TokenClient, testing
from support.pages import paste
from support.paths import ROOT
from support.processes import last_lines

pytest_plugins = ["pytester"]

SUITE = """
import time
import pytest
from signalwire_tokens import SubscriberSession

pytestmark = [pytest.mark.{mark}, pytest.mark.filterwarnings("error")]


async def test_two_days_pass(signalwire_clock, signalwire_emulator):
    async with signalwire_emulator.client(timeout=300) as client, SubscriberSession(client, "alice") as session:
        for _ in range(16):
            await signalwire_clock.advance(3 * 3600)
            assert signalwire_emulator.accepts(await session.token())
    assert signalwire_clock.now() == 48 * 3600
    assert signalwire_emulator.now().timestamp() == signalwire_clock.wall()


async def test_without_a_clock_time_is_the_machine_s(signalwire_emulator):
    before = time.time()
    assert before - 1 <= signalwire_emulator.now().timestamp() <= time.time() + 1
"""
STORE_SUITE = """
import pytest
from signalwire_tokens import MemoryStore
from signalwire_tokens.testing import StoreConformance


class TestMemoryStore(StoreConformance):
    calls_watchers = True

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
OPTIONS = ("-q", "-p", "no:cacheprovider", "--tb=line")
IN_PROCESS = (*OPTIONS, "-o", "asyncio_default_fixture_loop_scope=function")  # of which its absence would be warned


def assert_lines(lines, *wanted):
    """Fail where one of the texts isn't in what a suite printed, and show the end of that."""
    missing = [text for text in wanted if not any(text in line for line in lines)]
    assert not missing, f"the suite didn't print {missing}:\n" + last_lines("\n".join(lines))


def test_a_suite_gets_its_fixtures(pytester):
    """In the strict mode of the plugin for asyncio."""
    pytester.makepyfile(test_suite=SUITE.format(mark="asyncio"))
    assert_lines(pytester.runpytest_inprocess(*IN_PROCESS).outlines, "2 passed")


def test_a_suite_for_a_store_runs(pytester):
    """In the strict mode of the plugin for asyncio; and says what is missing where no store is given."""
    pytester.makepyfile(test_suite=STORE_SUITE)
    lines = pytester.runpytest_inprocess(*IN_PROCESS, "-k", "lease_has_one_holder").outlines
    assert_lines(lines, "1 passed, 36 deselected, 1 error", "NotImplementedError: override the fixture `store`")


def test_the_store_of_the_guide_passes_the_suite(pytester):
    """Readers begin their own store with it."""
    guide = (ROOT / "docs/guides/custom-store.md").read_text(encoding="utf-8")
    pytester.makepyfile(test_guide="\n".join(re.findall(r"^```python\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)))
    pytester.runpytest_inprocess(*IN_PROCESS).assert_outcomes(passed=19)


@pytest.mark.slow  # it starts pytest in a process of its own
@pytest.mark.parametrize(
    ("mark", "before", "options"),
    [("asyncio", "", []), ("anyio", WITHOUT_ASYNCIO, ["-p", "no:asyncio", "-k", "not trio"])],
    ids=["pytest-asyncio", "anyio"],
)
def test_a_suite_gets_its_fixtures_with_nothing_but_the_package_installed(tmp_path, mark, before, options):
    """Under the plugin for asyncio that it has."""
    (tmp_path / "test_suite.py").write_text(SUITE.format(mark=mark))
    code = f"import sys; {before}import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *OPTIONS, *options, str(tmp_path)]
    done = subprocess.run(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert_lines(done.stdout.splitlines(), "2 passed")


@pytest.mark.slow  # it starts pytest in a process of its own
def test_a_suite_for_a_store_runs_with_nothing_but_the_package_installed(tmp_path):
    """As in a process that runs other suites, too."""
    (tmp_path / "test_suite.py").write_text(STORE_SUITE)
    command = [sys.executable, "-m", "pytest", *OPTIONS, str(tmp_path)]
    done = subprocess.run(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert_lines(done.stdout.splitlines(), "19 passed, 19 errors")
    assert done.stdout.count("NotImplementedError: override the fixture `store`") >= 19


def test_pytest_finds_the_fixtures_by_itself():
    """They are an entry point."""
    (point,) = entry_points(group="pytest11", name="signalwire_tokens")
    assert point.load() is testing


async def test_the_fixtures_go_together(signalwire_clock, signalwire_emulator):
    """One time for the service, its clients and their sessions."""
    async with signalwire_emulator.client() as client, SubscriberSession(client, "alice") as session:
        first = await session.token()
        await signalwire_clock.advance(7200)
        assert not signalwire_emulator.accepts(first)
        assert signalwire_emulator.accepts(await session.token())


def test_an_app_in_a_synchronous_test_uses_the_emulator(signalwire_env):
    """FastAPI's client runs the app on another event loop, and the app reads its settings from the environment."""

    @asynccontextmanager
    async def lifespan(app):
        async with TokenClient.from_env() as client, SubscriberSession(client, "alice@example.com") as session:
            app.state.client, app.state.session = client, session
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/me")
    async def me():
        return (await app.state.client.subscriber_info(await app.state.session.token())).email

    with TestClient(app) as http:
        assert http.get("/me").json() == "alice@example.com"
    assert [request.status for request in signalwire_env.requests] == [200, 200]


def test_other_settings_do_not_count(monkeypatch, request):
    """A developer's own variables are removed for the length of the test."""
    monkeypatch.setenv("SIGNALWIRE_TOKENS_LIFETIME", "not a lifetime")
    emulator = request.getfixturevalue("signalwire_env")
    assert TokenClient.from_env().origin == f"http://{emulator.space}"


@pytest.mark.slow  # a pytest of its own takes two seconds
def test_the_test_of_the_guide_passes(tmp_path):
    """It tests the app of the guide to FastAPI."""
    for page in ("docs/guides/fastapi.md", "docs/guides/testing.md"):
        paste(page, tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_app.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, f"{last_lines(done.stdout)}\n{last_lines(done.stderr)}"
