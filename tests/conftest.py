"""What all tests share: which of them run, the check for leaks, and the fixtures."""

from __future__ import annotations

import inspect
import os
import re
import ssl
from pathlib import Path

import aiohttp
import pytest
import trustme
from hypothesis import HealthCheck, settings

from signalwire_tokens.testing.in_thread import emulator_in_thread
from support.contract import ContractCheck
from support.eager_tasks import eager_tasks, require_eager_tasks
from support.leak_check import freeze_what_is_loaded, leak_check, use_for_async_tests
from support.loop_time import loop_time
from support.postgres_server import PostgresServer
from support.processes import reserve_port
from support.redis_server import RedisServer

__all__ = ["eager_tasks", "leak_check", "loop_time"]

# aioresponses 0.7.9 makes aiohttp's responses without an argument that aiohttp 3.14 wants.
if "stream_writer" in inspect.signature(aiohttp.ClientResponse.__init__).parameters:
    import aioresponses.core

    class Response(aiohttp.ClientResponse):
        def __init__(self, *args, writer=None, **kwargs):
            super().__init__(*args, writer=writer, stream_writer=_Writer(), **kwargs)

    class _Writer:
        output_size = 0

    aioresponses.core.ClientResponse = Response

SYSTEM = Path(__file__).parent / "system"
FOREIGN = ("CLICOLOR_FORCE", "FORCE_COLOR", "NOTIFY_SOCKET")


# Hypothesis's deadline measures the machine, so it is off.
PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("default", max_examples=25, **PATIENT)
settings.register_profile("all", max_examples=100, **PATIENT)


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run tests/system and the slow tests too")
    parser.addoption("--eager-tasks", action="store_true", help="start tasks at once (Python 3.12 and later)")


def pytest_configure(config):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]  # the tests' servers are on this machine, and a proxy may be elsewhere
    settings.load_profile("all" if config.option.all else "default")
    if config.option.eager_tasks:
        require_eager_tasks()
    check = ContractCheck()
    check.install()
    config.pluginmanager.register(check, "contract_check")


def wants(mark, config):
    """Return whether the option `-m` asks for a mark."""
    return re.search(rf"(?<!not )\b{mark}\b", config.option.markexpr) is not None


def pytest_ignore_collect(collection_path, config):
    """Leave tests/system out, with the packages that only it needs, unless the command line asks for it.

    With `-m live`, read nothing but the one file with live tests. pytest doesn't ask about a file that the command line
    names.
    """
    if config.option.markexpr == "live":
        is_left_out = collection_path.is_file() and collection_path != SYSTEM / "test_live.py"
    else:
        is_left_out = SYSTEM in collection_path.parents and not config.option.all
    return True if is_left_out else None  # False would overrule `--ignore`


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Leave out slow tests, and those that need a real space, unless the command line asks for them."""
    kept, left_out = [], []
    for item in items:
        (left_out if is_left_out(item, config) else kept).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept
    if config.option.eager_tasks:
        use_for_async_tests("eager_tasks", items)
    use_for_async_tests("leak_check", items)


def is_left_out(item, config):
    if item.get_closest_marker("live"):
        return not wants("live", config)
    slow = item.get_closest_marker("slow") and not wants("slow", config)
    return slow and not config.option.all and not is_named(item.path, config)


def is_named(path, config):
    """Return whether the command line names this file, or a test in it."""
    named = (Path(config.invocation_params.dir, str(argument).partition("::")[0]) for argument in config.args)
    return any(one.resolve() == path for one in named)


def pytest_report_collectionfinish(config, items):
    """Return why nothing runs if the command line names tests/system alone."""
    if not items and any(Path(config.invocation_params.dir, one).resolve() == SYSTEM for one in config.args):
        return "tests/system runs with --all, or if you name one of its files"
    return None


def pytest_collection_finish():
    freeze_what_is_loaded()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Forbid skipped tests in CI, except for those that need a real space."""
    report = yield
    return report if item.get_closest_marker("live") else forbid_skips(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    """Forbid skipped modules in CI."""
    return forbid_skips((yield))


def forbid_skips(report):
    """Turn a skip into a failure in CI, where everything that a test needs is there."""
    if report.skipped and "CI" in os.environ and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"{report.nodeid} was skipped, which CI forbids: {report.longrepr}"
    return report


@pytest.fixture
def clock(signalwire_clock):
    return signalwire_clock


@pytest.fixture
def emulator(signalwire_emulator):
    return signalwire_emulator


@pytest.fixture
async def client(emulator):
    async with emulator.client(retries=0) as client:
        yield client


@pytest.fixture
def plain_environment(monkeypatch):
    """Remove the developer's own settings."""
    for name in os.environ:
        if name.startswith(("SIGNALWIRE_", "SIGNALWIRE_TOKENS_ENCRYPTION_KEY")) or name in FOREIGN:
            monkeypatch.delenv(name)


@pytest.fixture
def service(plain_environment):
    """Run an emulator on another thread, for commands that run in the test's process."""
    with emulator_in_thread() as emulator:
        yield emulator


@pytest.fixture
def reserved_port():
    """Yield a port on which nothing listens, unless the test starts a server there."""
    with reserve_port() as port:
        yield port


@pytest.fixture(scope="session")
def redis_server():
    """Run one server for all tests; each of them uses a prefix of its own."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server():
    """Run one PostgreSQL server for all tests; each of them uses tables of its own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def tls():
    """Make a certificate for this machine: the server's context, and that of a client that trusts it."""
    authority, server = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(server)
    context_trusting = ssl.create_default_context()
    authority.configure_trust(context_trusting)
    return server, context_trusting
