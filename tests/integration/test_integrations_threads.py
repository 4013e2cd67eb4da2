"""A fleet that synchronous code calls, on an event loop in a thread."""

import asyncio
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager

import pytest

from signalwire_tokens import ConfigurationError, SessionClosed, SessionError, SessionFleet, TokenClient
from signalwire_tokens.integrations.threads import FleetThread
from support.cli_runner import run_to_the_end
from support.paths import TESTS
from support.processes import settings_of
from support.waiting import HANG, eventually

ALICE, ISSUE = "alice@example.com", "create_subscriber_token"


class Interrupted(Exception):
    """What a signal handler raises, as a time limit of Celery's does."""


@pytest.fixture
def open_fleet(service, monkeypatch):
    for name, value in settings_of(service).items():
        monkeypatch.setenv(name, value)

    @asynccontextmanager
    async def open_fleet():
        async with TokenClient.from_env() as client, SessionFleet(client) as fleet:
            yield fleet

    return open_fleet


@pytest.fixture
def tokens(open_fleet):
    with FleetThread(open_fleet) as tokens:
        yield tokens


@contextmanager
def interruptible():
    """Yield a function that interrupts whatever the main thread does then, and for which other threads may wait."""

    def interrupt(*_):
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        yield lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


def is_waiting():
    """Return whether the main thread waits for a result."""
    frame, names = sys._current_frames()[threading.main_thread().ident], set()
    while frame is not None:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    return "result" in names


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "signalwire-tokens"]


def test_a_thread_gets_a_valid_token(tokens, service):
    """`token()` returns it."""
    assert service.accepts(tokens.token(ALICE))


def test_threads_share_the_fleet(tokens, service):
    """Eight threads that ask for the same token at once get the same one, from a single request."""
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: tokens.token(ALICE), range(8)))
    assert len(found) == 1
    assert [entry.operation for entry in service.requests] == [ISSUE]


def test_the_fleet_opens_with_the_first_call(open_fleet):
    """Until then, there is no thread."""
    before = {*threads()}  # of other tests, which are about to end
    tokens = FleetThread(open_fleet)
    assert repr(tokens) == "<FleetThread not open>"
    assert before.issuperset(threads())
    tokens.token(ALICE)
    assert repr(tokens) == "<FleetThread open>"
    tokens.close()
    assert repr(tokens) == "<FleetThread closed>"
    assert before.issuperset(threads())


def test_a_refused_token_is_replaced(tokens, service):
    """After `report_unauthorized`, `token()` returns the next one."""
    refused = tokens.token(ALICE)
    service.revoke(refused)
    assert tokens.report_unauthorized(ALICE, refused)
    assert service.accepts(tokens.token(ALICE))


def test_a_token_that_has_just_been_replaced_stays(tokens):
    """`report_unauthorized` returns what the session's returns: no second replacement within a minute."""
    tokens.report_unauthorized(ALICE, tokens.token(ALICE))
    current = tokens.token(ALICE)
    assert not tokens.report_unauthorized(ALICE, current)
    assert tokens.token(ALICE) == current


def test_run_calls_a_coroutine_function_with_the_fleet(tokens):
    """It returns what the function returns."""

    async def count(fleet):
        await fleet.token(ALICE)
        return sum(fleet.snapshot().sessions.values())

    assert tokens.run(count) == 1
    assert tokens.run(lambda fleet: fleet.close_session(ALICE)) is None


def test_run_raises_what_the_function_raises(tokens):
    """In the thread that called it."""

    async def fail(_):
        raise Interrupted

    with pytest.raises(Interrupted):
        tokens.run(fail)


def test_an_interrupted_call_is_cancelled(tokens):
    """A time limit that interrupts the wait leaves nothing running on the event loop."""
    ended = threading.Event()
    with interruptible() as interrupt:

        async def wait(_):
            try:
                await eventually(is_waiting)
                interrupt()
                await asyncio.sleep(HANG)
            finally:
                ended.set()

        with pytest.raises(Interrupted):
            tokens.run(wait)
    assert ended.wait(HANG)


def test_start_raises_what_keeps_the_fleet_from_opening(open_fleet):
    """The next call tries again."""
    failures = [ConfigurationError("set SIGNALWIRE_SPACE")]

    @asynccontextmanager
    async def fail_once():
        if failures:
            raise failures.pop()
        async with open_fleet() as fleet:
            yield fleet

    tokens = FleetThread(fail_once)
    with pytest.raises(ConfigurationError, match="set SIGNALWIRE_SPACE"):
        tokens.start()
    assert repr(tokens) == "<FleetThread not open>"
    with tokens:
        assert tokens.token(ALICE)


def test_a_thread_that_cannot_start_is_tried_again(open_fleet, monkeypatch):
    """The system's limit is raised to the caller, and the next call starts one."""

    def fail(_):
        raise RuntimeError("can't start new thread")

    tokens = FleetThread(open_fleet)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            tokens.start()
    with tokens:
        assert tokens.token(ALICE)


def test_closing_after_a_failure_closes_nothing(open_fleet):
    """An attempt to open that failed leaves no thread to wait for."""
    tokens = FleetThread(lambda: None)
    with pytest.raises(ConfigurationError):
        tokens.start()
    tokens.close()
    assert repr(tokens) == "<FleetThread closed>"


def test_an_interrupted_start_is_continued_by_the_next_call(open_fleet):
    """So a time limit during the first call leaves no second fleet behind."""
    opened, released = [], threading.Event()
    with interruptible() as interrupt:

        @asynccontextmanager
        async def open_slowly():
            opened.append(None)
            await eventually(is_waiting)
            interrupt()
            released.wait(HANG)
            async with open_fleet() as fleet:
                yield fleet

        tokens = FleetThread(open_slowly)
        with pytest.raises(Interrupted):
            tokens.start()
    released.set()
    with tokens:
        assert tokens.token(ALICE)
    assert len(opened) == 1


def test_a_closed_one_stays_closed(open_fleet):
    """Closing twice is harmless, and later calls raise `SessionClosed`."""
    tokens = FleetThread(open_fleet)
    with tokens:
        tokens.token(ALICE)
    tokens.close()
    with pytest.raises(SessionClosed, match="make another one"):
        tokens.token(ALICE)


def test_closing_ends_the_calls_under_way(open_fleet):
    """They raise `SessionClosed`."""
    waiting = threading.Event()

    async def wait(_):
        waiting.set()
        await asyncio.sleep(HANG)

    with ThreadPoolExecutor(1) as pool, FleetThread(open_fleet) as tokens:
        call = pool.submit(tokens.run, wait)
        waiting.wait(HANG)
        tokens.close()
        with pytest.raises(SessionClosed, match="was closed during it"):
            call.result(HANG)


def test_closing_raises_what_the_opener_raises_then(open_fleet):
    """Such as a store that can't be closed."""

    @asynccontextmanager
    async def fail_at_the_end():
        async with open_fleet() as fleet:
            yield fleet
        raise Interrupted

    tokens = FleetThread(fail_at_the_end).start()
    with pytest.raises(Interrupted):
        tokens.close()
    assert not threads()


def test_a_call_on_its_own_event_loop_is_an_error(tokens):
    """It would wait for itself."""

    async def call(_):
        return tokens.token(ALICE)

    with pytest.raises(SessionError, match="can't be called on its own event loop"):
        tokens.run(call)


def test_an_opener_that_calls_the_thread_fails(open_fleet):
    """It runs on the event loop, so the call would wait for itself."""

    @asynccontextmanager
    async def call_too_early():
        tokens.token(ALICE)
        async with open_fleet() as fleet:
            yield fleet

    tokens = FleetThread(call_too_early)
    with pytest.raises(SessionError, match="can't be called on its own event loop"):
        tokens.start()
    tokens.close()


def test_an_interrupted_close_is_continued_by_the_next_one(open_fleet):
    """It waits for the end too, so that a renewal under way isn't cut off."""
    released = threading.Event()
    with interruptible() as interrupt:

        @asynccontextmanager
        async def close_slowly():
            async with open_fleet() as fleet:
                yield fleet
                interrupt()
                released.wait(HANG)

        tokens = FleetThread(close_slowly).start()
        with pytest.raises(Interrupted):
            tokens.close()
    assert threads()
    released.set()
    tokens.close()
    assert not threads()


def test_closing_after_an_interrupted_start_that_fails(open_fleet):
    """`close` doesn't raise what kept the fleet from opening, because there is nothing to close."""
    released = threading.Event()
    with interruptible() as interrupt:

        @asynccontextmanager
        async def fail_slowly():
            interrupt()
            released.wait(HANG)
            raise ConfigurationError("set SIGNALWIRE_SPACE")
            yield

        tokens = FleetThread(fail_slowly)
        with pytest.raises(Interrupted):
            tokens.start()
    released.set()
    tokens.close()
    assert repr(tokens) == "<FleetThread closed>"
    assert not threads()


def test_a_signal_handler_may_close_a_fleet_that_is_opening(open_fleet):
    """It interrupts the main thread in its first call, and waits for the fleet to open and to close."""
    opening = threading.Event()

    @asynccontextmanager
    async def open_interrupted():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        opening.wait(HANG)
        async with open_fleet() as fleet:
            yield fleet

    tokens = FleetThread(open_interrupted)

    def close(*_):
        opening.set()
        tokens.close()

    before = signal.signal(signal.SIGUSR1, close)
    try:
        tokens.start()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert repr(tokens) == "<FleetThread closed>"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_call_that_exits_ends_no_other(kind, tokens):
    """Its exception is raised in the thread that called it, and the fleet stays open."""

    async def leave(_):
        raise kind

    with pytest.raises(kind):
        tokens.run(leave)
    assert tokens.token(ALICE)


@asynccontextmanager
async def yields_no_fleet():
    yield "fleet"


@pytest.mark.parametrize(
    ("opener", "message"),
    [
        ("fleet", r"open_fleet must be a function, not str: write it with @asynccontextmanager"),
        (lambda: "fleet", r"open_fleet\(\) returned a str: write it with @asynccontextmanager"),
        (yields_no_fleet, r"open_fleet\(\) yielded a str: write it with @asynccontextmanager"),
    ],
)
def test_a_function_that_opens_no_fleet_is_an_error(opener, message):
    """It says how to write one."""
    with pytest.raises(ConfigurationError, match=message):
        FleetThread(opener).start()


FORKED = """
import os, sys
from contextlib import asynccontextmanager
from signalwire_tokens import SessionFleet, TokenClient
from signalwire_tokens.integrations.threads import FleetThread

@asynccontextmanager
async def open_fleet():
    async with TokenClient.from_env() as client, SessionFleet(client) as fleet:
        yield fleet

tokens = FleetThread(open_fleet)
print(tokens.token("parent@example.com"), flush=True)
if not os.fork():
    print(tokens.token("child@example.com"), flush=True)
    tokens.close()
    os._exit(0)
os.wait()
print(tokens.token("parent@example.com"))
tokens.close()
"""


@pytest.mark.slow  # it imports the package in a process
def test_a_forked_process_opens_a_fleet_of_its_own(service):
    """The parent's, which is open when it forks, goes on."""
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", FORKED]
    done = run_to_the_end(command, PYTHONPATH=str(TESTS), **settings_of(service))
    assert done.returncode == 0
    first, child, last = done.stdout.split()
    assert first == last != child
    assert all(service.accepts(token) for token in (first, child))
    assert len(service.requests) == 2
