"""`hold`, in the test's process and in one of its own, through what can happen to it.

Where what happens depends on time, `hold` runs in the test's process, in simulated time: the clock of the service and
of the session is the event loop's, and that passes with the loop's work (see `support.loop_time`). A process has a
clock of its own. Of it, only what holds at any speed is asserted.
"""

import asyncio
import json
import os
import pty
import random
import re
import shlex
import signal
import socket
import stat
import sys
import threading
import time
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from types import SimpleNamespace

import pytest

from signalwire_tokens import (
    Lifetimes,
    SessionExpired,
    SessionState,
    SubscriberSession,
    TokenClient,
    Unauthorized,
    generate_encryption_key,
)
from signalwire_tokens.cli.command import exit_of
from signalwire_tokens.cli.feeding import Feed, pause_of
from signalwire_tokens.cli.holding import Wanted, keep, make
from signalwire_tokens.cli.program import Program
from signalwire_tokens.cli.storing import may_hold_secret, open_store
from signalwire_tokens.cli.telling import Teller
from signalwire_tokens.cli.token_file import TokenFile
from signalwire_tokens.cli.waiting import end
from signalwire_tokens.emulator import Delay, Emulator, Status
from signalwire_tokens.models import Secret
from support import loop_time as loop_time_module
from support.cli_runner import COMMAND, Terminal, run, started, started_command, stoppable
from support.loop_time import LoopClock
from support.paths import TESTS
from support.processes import last_lines, noting, settings_of
from support.redis_server import RedisServer
from support.waiting import HANG, eventually

pytestmark = pytest.mark.usefixtures("plain_environment")
READS = 10_000
LIFE = 60  # seconds, in simulated time
LONG = 3600  # seconds after which simulated time counts as a hang; they pass in a few real ones
NEW_YEAR_2030 = 1_893_456_000.0


class Told:
    """What a command that holds has told."""

    def __init__(self):
        self.events = []

    @property
    def kinds(self):
        return [one["event"] for one in self.events]

    def printed(self):
        return "\n".join(map(json.dumps, self.events))


@pytest.fixture
async def simulated(loop_time, monkeypatch):
    """Run an emulator in simulated time, in which the work of threads takes no time."""

    async def at_once(function, *arguments):
        return function(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", at_once)
    # This loop sends everything to itself, so it arrives at once; 20 ms for each timer would make minutes.
    monkeypatch.setattr(loop_time_module, "IDLE", 0.001)
    async with Emulator(clock=LoopClock()) as emulator:
        yield emulator


class HeldHere(Told):
    """`hold` in this process."""

    def __init__(self):
        super().__init__()
        self.task = None
        self._news = asyncio.Event()
        self._read = 0

    def take(self, line):
        """Take a line that is told."""
        self.events.append(json.loads(line))
        self._news.set()

    async def until(self, *kinds):
        """Wait until one of these is told; return it. The next look begins after it."""
        async with asyncio.timeout(LONG):
            while True:
                while self._read < len(self.events):
                    self._read += 1
                    if self.events[self._read - 1]["event"] in kinds:
                        return self.events[self._read - 1]
                if self.task.done():
                    await self.task
                    raise AssertionError(f"the command has ended without any of {kinds}")
                self._news.clear()
                waiting = asyncio.create_task(self._news.wait())
                await asyncio.wait([waiting, self.task], return_when=asyncio.FIRST_COMPLETED)
                await end(waiting)

    async def stop(self, number=signal.SIGTERM):
        """Tell it to stop; return when it has ended, with success."""
        assert not self.task.done()
        os.kill(os.getpid(), number)
        await self.task


@asynccontextmanager
async def holding(emulator, *, path=None, line=None, lifetime=None, store=None):
    """Run `hold` in this process."""
    held = HeldHere()
    client = emulator.client()
    outlets = [] if line is None else [Program(line)]
    if path is not None:
        outlets.append(TokenFile(path, client.clock))
    wanted = Wanted(
        reference="alice@example.com",
        lifetime=None if lifetime is None else timedelta(seconds=lifetime),
        fields={},
        open_store=None if store is None else partial(open_store, Secret(store), None),
    )
    teller = Teller(held.take, str, as_json=True)
    with stoppable(), noting("The command printed", held.printed):
        held.task = asyncio.create_task(keep(client, wanted, outlets, teller, SimpleNamespace(is_live=False)))
        try:
            yield held
        finally:
            held.task.cancel()
            await asyncio.wait([held.task])


async def come_true(condition):
    """Return when a condition is true, which is looked at once in a second of simulated time."""
    async with asyncio.timeout(LONG):
        while True:
            if condition():
                return
            await asyncio.sleep(1)


def content_of(path):
    """Return what a file holds, or None where there is none."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


@asynccontextmanager
async def reading_here(emulator, path):
    """Read a file at random moments of simulated time; yield what was found, which was a live token each time."""
    found, ends = [None], {}

    async def read():
        while True:
            content, now = content_of(path), emulator.now().timestamp()
            if content is not None and content not in ends:
                claims = emulator.service.sealer.open(content)  # None for what is no whole token
                assert claims is not None, f"this is no whole token: {content!r}"
                ends[content] = claims.expires_at
            left = HANG if content is None else ends[content] - now
            assert left > 0, "the token in the file has expired"
            if content != found[-1]:
                found.append(content)
            await asyncio.sleep(min(left, random.uniform(0, 1)))  # to look at the very moment of a token's end, too

    async with asyncio.TaskGroup() as group:  # a failure of the reader's ends the test
        reader = group.create_task(read())
        yield found
        reader.cancel()


class Held(Told):
    """`hold` in a process, whose standard output is JSON."""

    def __init__(self, process):
        super().__init__()
        self.process = process

    async def until(self, *kinds):
        """Read what is told until one of these comes; return it."""
        async with asyncio.timeout(HANG):
            while line := await self.process.stdout.readline():
                self.events.append(json.loads(line))
                if self.events[-1]["event"] in kinds:
                    return self.events[-1]
            err = await self.process.stderr.read()
        raise AssertionError(f"the command has ended without any of {kinds}: {last_lines(err)}")

    async def stop(self, number=signal.SIGTERM):
        """Tell it to stop; return its exit code, and what it said on standard error."""
        self.process.send_signal(number)
        return await self.end()

    async def end(self):
        """Read to its end; return its exit code, and what it said on standard error."""
        async with asyncio.timeout(HANG):
            async for line in self.process.stdout:
                self.events.append(json.loads(line))
            err = await self.process.stderr.read()
            return await self.process.wait(), err.decode()


@asynccontextmanager
async def holding_process(*arguments, **environment):
    """Run `hold` in a process."""
    async with started_command("hold", "alice@example.com", "--json", *arguments, **environment) as process:
        held = Held(process)
        with noting("The command printed", held.printed):
            yield held


@pytest.mark.slow  # each starts the command in a process; the next test has the signals in the test's own process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_it_holds_until_told_to_stop_and_leaves_with_success(emulator, tmp_path, number):
    """The token is in the file, which only its owner can read, and no secret in what is told."""
    path = tmp_path / "token"
    async with holding_process("--write", path, **settings_of(emulator)) as held:
        await held.until("written")
        assert emulator.accepts(path.read_text())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        code, err = await held.stop(number)
    assert (code, err) == (0, "")
    # What it tells in the end gets a second to be printed.
    assert held.kinds == ["started", "written", "closed", "left"][: max(2, len(held.kinds))]
    assert emulator.accepts(path.read_text())  # it stays, for whoever reads it while this one is started anew
    assert "eyJ" not in json.dumps(held.events)
    assert held.events[0]["digest"] == held.events[1]["digest"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_told_to_stop_it_closes_its_session_and_leaves_its_file(emulator, tmp_path, number):
    """Whichever signal it is."""
    path = tmp_path / "token"
    async with holding(emulator, path=path) as held:
        await held.until("written")
        await held.stop(number)
    assert held.kinds == ["started", "written", "closed", "left"]
    assert emulator.accepts(path.read_text())


async def test_a_reader_of_the_file_finds_a_live_token_at_every_moment(simulated, tmp_path):
    """Or no file, during an outage that outlasts a token. No token is expired, and none is half. (P40)"""
    path = tmp_path / "token"
    async with (
        holding(simulated, path=path, lifetime=LIFE) as held,
        reading_here(simulated, path) as found,
    ):
        await held.until("written")
        simulated.fail(Status(503), times=2)
        await held.until("recovered")
        await held.until("reissued")
        simulated.fail(Status(503), times=None)
        await held.until("removed")
        await come_true(lambda: found[-1] is None)  # the outage is longer than a token's life
        simulated.clear_faults()
        await held.until("written")
        await held.until("reissued")
        await held.stop()
    assert len({*found}) >= 5


@pytest.mark.slow  # it lasts for half a minute
async def test_another_process_reads_the_file_ten_thousand_times(emulator, tmp_path):
    """Never empty, never half, and never an earlier token after a later one."""
    path = tmp_path / "token"
    async with (
        holding_process("--write", path, "--lifetime", "8s", **settings_of(emulator)) as held,
        reading(path, READS) as found,
    ):
        await eventually(lambda: tokens_in(found))
        emulator.fail(Status(503), times=2)
        await eventually(lambda: len(tokens_in(found)) >= 3)
        emulator.fail(Status(503), times=None)
        await eventually(lambda: found[-1] is None)
        emulator.clear_faults()
        await eventually(lambda: found[-1] is not None)
        await eventually(lambda: len(tokens_in(found)) >= 5)
        code, err = await held.stop()
    assert (code, err) == (0, "")
    assert_whole(found, emulator)


@asynccontextmanager
async def reading(path, reads):
    """Have a process read a file until the block ends, but so many times at least; yield what it finds."""
    found = []
    async with started(sys.executable, TESTS / "support/token_file_reader.py", path, reads, stdin=PIPE) as process:

        async def listen():
            while line := await process.stdout.readline():
                found.append(json.loads(line))

        listening = asyncio.create_task(listen())
        try:
            yield found
            process.stdin.close()
            await asyncio.wait_for(listening, HANG)
            assert await process.wait() == 0, last_lines(await process.stderr.read())
        finally:
            listening.cancel()
            await asyncio.wait([listening])


def tokens_in(found):
    return [content for content in found if content is not None]


def assert_whole(found, emulator):
    """Fail unless each content is a whole token, and expires after those before it."""
    claims = [emulator.service.sealer.open(token) for token in tokens_in(found)]  # None for what is no whole token
    assert None not in claims, "half a token was read"
    ends = [one.expires_at for one in claims]
    assert ends == sorted(ends), "an earlier token came after a later one"


async def test_it_lives_through_an_outage_and_tells_why(simulated, tmp_path):
    """While the service cannot be reached, no file holds an expired token; then there is a new one."""
    path = tmp_path / "token"
    async with (
        holding(simulated, path=path, lifetime=LIFE) as held,
        reading_here(simulated, path),
    ):
        await held.until("written")
        async with simulated.unreachable():
            degraded = await held.until("degraded")
            assert "cannot connect" in degraded["error"]
            await held.until("removed")
            assert not path.exists()
        await held.until("recovered")
        await held.until("written")
        assert simulated.accepts(path.read_text())
        await held.stop()


@pytest.mark.slow  # it waits until a token of 20 s expires
async def test_it_lives_through_the_death_of_the_service_and_its_return(tmp_path, reserved_port):
    """While the killed emulator is away, the file goes with its token."""
    path = tmp_path / "token"
    arguments = ("emulator", "--port", reserved_port, "--seed", "returns", "--json")

    @asynccontextmanager
    async def service():
        async with started_command(*arguments, stderr=DEVNULL) as process:
            settings = json.loads(await process.stdout.readline())
            yield process, {name: value for name, value in settings.items() if name.startswith("SIGNALWIRE_")}

    async def is_good():
        async with TokenClient(settings["SIGNALWIRE_SPACE"], timeout=HANG) as client:
            try:
                token = content_of(path)
                return token and (await client.subscriber_info(token)).email == "alice@example.com"
            except Unauthorized:  # it has expired meanwhile
                return False

    async with (
        service() as (first, settings),
        holding_process("--write", path, "--lifetime", "20s", **settings) as held,
        reading(path, 1000) as found,
    ):
        await held.until("written")
        first.kill()
        await first.wait()
        while "cannot connect" not in (await held.until("degraded"))["error"]:
            pass  # on a slow machine, something else may have failed before
        await eventually(lambda: found[-1:] == [None])
        async with service():
            await held.until("recovered")
            await eventually(is_good)
            assert (await held.stop())[0] == 0
    assert_whole(found, Emulator(seed="returns"))


async def test_a_renewal_under_way_is_not_lost_when_told_to_stop(simulated, tmp_path):
    """Its token is in the file when the command has ended. (P41)"""
    path = tmp_path / "token"
    async with holding(simulated, path=path, lifetime=LIFE) as held:
        await held.until("written")
        first = path.read_text()
        simulated.fail(Delay(5))
        await come_true(lambda: not simulated.faults)
        await held.stop()
    assert sorted(held.kinds[2:]) == ["closed", "left", "reissued", "written"]
    assert held.kinds[-1] == "left"
    assert path.read_text() != first
    assert simulated.accepts(path.read_text())


@pytest.mark.parametrize("outlets", ["command", "both"])
async def test_each_token_is_given_to_a_command(clock, tmp_path, outlets):
    """The file's and the command's are the same ones."""
    note, path = tmp_path / "note", tmp_path / "token" if outlets == "both" else None
    async with Emulator(clock=clock) as emulator:
        line = f"sh -c {shlex.quote(f'cat >> {shlex.quote(str(note))}; echo >> {shlex.quote(str(note))}')}"
        async with holding(emulator, line=line, path=path) as held:
            await held.until("executed")
            await clock.advance(7200)  # in which the token is renewed
            await held.until("executed")
            await held.stop()
        tokens = note.read_text().split()
        assert len(tokens) == len({*tokens}) == held.kinds.count("executed") == 2
        assert emulator.accepts(tokens[-1])
        assert path is None or path.read_text() == tokens[-1]


async def test_a_command_that_fails_ends_nothing(emulator):
    """It is told of, and run again."""
    async with holding(emulator, line="false") as held:
        failed = await held.until("exec_failed")
        assert (failed["error"], failed["retry_after"]) == ("exit status 1", 5)
        await held.stop()


def fill(descriptor):
    """Write to a pipe or a terminal until it takes no more."""
    os.set_blocking(descriptor, False)
    with suppress(BlockingIOError):
        while True:
            os.write(descriptor, b"x" * 100)
    os.set_blocking(descriptor, True)


async def see_two_tokens(path, process):
    """Return when a file has held one token and then another."""
    seen = set()

    def look():
        assert process.returncode is None, "the command has ended"
        seen.add(content_of(path))
        return len(seen - {None}) >= 2

    await eventually(look)


@pytest.mark.slow  # each starts the command in a process, and waits for a token of 5 s to be renewed
@pytest.mark.parametrize("output", ["closed pipe", "full disk", "unread pipe", "none"])
@pytest.mark.parametrize("form", [["--json"], []], ids=["json", "lines"])
async def test_what_becomes_of_the_output_is_nothing_to_the_token(emulator, tmp_path, output, form):
    """Whoever read it has gone, has stopped reading, or never was; the file is replaced all the same."""
    path = tmp_path / "token"
    reading_end, writing_end = os.pipe()
    if output == "closed pipe":
        os.close(reading_end)
    if output == "unread pipe":
        fill(writing_end)
    shell = {"full disk": " >/dev/full", "none": " >&-"}.get(output, "")
    words = shlex.join([*COMMAND, "hold", "alice@example.com", "--write", str(path), "--lifetime", "5s", *form])
    settings = settings_of(emulator)
    async with started("sh", "-c", f"exec {words}{shell}", stdout=writing_end, **settings) as process:
        os.close(writing_end)
        await see_two_tokens(path, process)
        process.terminate()
        async with asyncio.timeout(HANG):
            _, err = await process.communicate()
    if output != "closed pipe":
        os.close(reading_end)
    assert (process.returncode, err) == (0, b"")


@pytest.mark.slow  # it starts the command on a terminal, and waits for a token of 5 s to be renewed
async def test_a_terminal_that_nobody_reads_holds_up_nobody(emulator, tmp_path):
    """A session over a connection that hangs; told to stop, the command stops."""
    path = tmp_path / "token"
    master, slave = pty.openpty()
    fill(slave)
    settings = settings_of(emulator, TERM="xterm")
    arguments = ("hold", "alice@example.com", "--write", path, "--lifetime", "5s")
    async with started_command(*arguments, stdin=slave, stdout=slave, **settings) as process:
        os.close(slave)
        await see_two_tokens(path, process)
        process.terminate()
        async with asyncio.timeout(HANG):
            _, err = await process.communicate()
    os.close(master)
    assert (process.returncode, err) == (0, b"")


async def test_an_outlet_that_fails_in_a_way_of_its_own_is_tried_again(simulated):
    """It may pass; it is told once."""
    told, taken = [], asyncio.Event()

    class Broken:
        left = 3

        async def put(self, token, *_):
            self.left -= 1
            if self.left >= 0:
                raise RuntimeError
            if token is not None:
                taken.set()
            return token is not None

    feed = Feed(Broken(), Teller(told.append, lambda: "now"))
    async with simulated.client() as client, SubscriberSession(client, "alice") as session:
        feed.follow(session)
        await taken.wait()
    feed.finish()
    await feed.task
    assert told == ["now  failed: RuntimeError: it is tried again"]


@pytest.mark.parametrize(("left", "pause"), [(7200, 1.0), (1.25, 0.75), (0.51, 0.05), (0.5, 1.0), (0.0, 1.0)])
def test_a_look_is_never_beyond_a_token_s_last_moment(left, pause):
    """And none is far from the last."""
    assert pause_of(left) == pause


def test_a_life_that_is_too_short_is_refused(service):
    """Renewals would have no time of their own."""
    result = run("hold", "alice", "--lifetime", "4s", **settings_of(service))
    assert result.exit_code == 2
    assert "--lifetime must be 5s or more" in result.stderr


async def test_tokens_of_a_space_with_short_ones_are_kept(emulator):
    """The setting says that their life is meant to be short, as `--lifetime` does."""
    teller = Teller(print, lambda: "now")
    wanted = Wanted(reference="alice", lifetime=None, fields={}, open_store=None)
    lifetimes = Lifetimes.of(timedelta(seconds=10))
    async with TokenClient(emulator.space, lifetimes=lifetimes) as client:
        assert make(client, None, wanted, teller).state is SessionState.CLOSED


@pytest.mark.slow  # it starts the command in a process
async def test_whoever_is_to_outlive_the_terminal_does(emulator):
    """As with `nohup`."""
    line = f"trap '' HUP; exec {shlex.join([*COMMAND, 'hold', 'alice', '--json'])}"
    async with started("sh", "-c", line, **settings_of(emulator)) as process:
        held = Held(process)
        await held.until("started")
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        code, _ = await held.stop()
    assert code == 0


@pytest.mark.slow  # it starts the command in a process
async def test_a_signal_to_one_who_leaves_does_not_make_it_a_failure(emulator):
    """All is done, but for the end of the process. Only where that takes over a second, a signal ends it at once."""
    async with holding_process(**settings_of(emulator)) as held:
        await held.until("started")
        told = time.monotonic()
        held.process.send_signal(signal.SIGTERM)
        await held.until("left", "closed")
        with suppress(ProcessLookupError):
            while held.process.returncode is None:
                # The process's own `send_signal` would take the exit code of one that has just ended from asyncio.
                os.kill(held.process.pid, signal.SIGTERM)
                await asyncio.sleep(0.005)  # not in one moment, but to the end
        took = time.monotonic() - told
        code, _ = await held.end()
    assert code == 0 or (code == 128 + signal.SIGTERM and took > 1)


@pytest.mark.slow  # it waits for a renewal in real time
async def test_signals_of_one_moment_are_one(emulator):
    """A terminal that closes may send several; a renewal under way is not lost to that."""
    async with holding_process("--lifetime", "20s", **settings_of(emulator)) as held:
        await held.until("started")
        emulator.fail(Delay(1))
        await eventually(lambda: not emulator.faults)
        held.process.send_signal(signal.SIGSTOP)  # so that it gets both at once
        held.process.send_signal(signal.SIGHUP)
        held.process.send_signal(signal.SIGTERM)
        held.process.send_signal(signal.SIGCONT)
        code, _ = await held.end()
    assert code == 0
    assert [entry.status for entry in emulator.requests] == [200, 200]  # the renewal, too, was answered


async def test_a_service_that_is_away_at_the_start_is_waited_for(simulated, tmp_path):
    """A machine may come up before its network."""
    path = tmp_path / "token"
    simulated.fail(Status(503), times=None)
    async with holding(simulated, path=path) as held:
        waiting = await held.until("waiting")
        assert "503" in waiting["error"]
        assert "retry_after" not in waiting  # the session tries by itself, for a while
        waiting = await held.until("waiting")
        assert "503" in waiting["error"]
        assert waiting["retry_after"] > 0
        simulated.clear_faults()
        await held.until("written")
        assert simulated.accepts(path.read_text())
        await held.stop()


@pytest.mark.parametrize("asked", [1e9, "Fri, 31 Dec 9999 23:59:59 GMT"], ids=["seconds", "date"])
async def test_a_service_that_asks_for_years_is_asked_again_within_a_minute(simulated, tmp_path, asked):
    """The minute counts from when SignalWire asked, and not from each new session. (P23)"""
    path = tmp_path / "token"
    simulated.fail(Status(503, retry_after=asked))
    async with holding(simulated, path=path) as held:
        await held.until("written")
        assert simulated.accepts(path.read_text())
        first, second = simulated.requests
        assert (second.at - first.at).total_seconds() <= 61
        await held.stop()


@pytest.mark.parametrize("when", ["opening", "waiting"])
async def test_it_can_be_told_to_stop_before_it_has_begun(simulated, when):
    """There is nothing to wait for."""
    simulated.fail(Status(503), times=None)
    async with holding(simulated) as held:
        if when == "opening":
            await come_true(lambda: simulated.requests)
        else:
            while "retry_after" not in await held.until("waiting"):
                pass  # it says first why it takes so long
        await held.stop()
    assert "started" not in held.kinds


@pytest.mark.parametrize(("status", "code"), [(401, 4), (403, 4)])
def test_what_will_not_pass_ends_it_at_the_start(service, status, code):
    """With the exit code that keeps a supervisor from trying again."""
    service.fail(Status(status), times=None)
    result = run("hold", "alice", "--json", **settings_of(service))
    assert result.exit_code == code
    assert json.loads(result.stderr)["exit_code"] == code


async def test_a_session_that_dies_takes_the_command_and_the_file_with_it(simulated, tmp_path):
    """No way to renew is left: the service refuses the subscriber."""
    path = tmp_path / "token"
    async with holding(simulated, path=path, lifetime=LIFE) as held:
        await held.until("written")
        simulated.fail(Status(422), times=None)
        with pytest.raises(SessionExpired) as caught:
            await held.task
    assert exit_of(caught.value) == 7
    assert {"expired", "removed", "closed"} <= {*held.kinds}
    assert not path.exists()


@pytest.mark.slow  # it waits in a process until a token of 6 s expires
async def test_a_process_whose_session_dies_ends_with_the_file(emulator, tmp_path):
    """By the exit code of a session that has expired."""
    path = tmp_path / "token"
    async with holding_process("--write", path, "--lifetime", "6s", **settings_of(emulator)) as held:
        await held.until("written")
        emulator.fail(Status(422), times=None)
        code, err = await held.end()
    assert code == 7
    assert json.loads(err)["error"]["type"] == "SessionExpired"
    assert not path.exists()


async def test_with_a_store_a_restart_asks_the_service_for_nothing(emulator, tmp_path, monkeypatch):
    """The pair is in a file, sealed."""
    monkeypatch.setenv("SIGNALWIRE_TOKENS_ENCRYPTION_KEY", f"{generate_encryption_key()}, {generate_encryption_key()}")
    for _ in range(2):
        async with holding(emulator, store=f"sqlite:{tmp_path}/tokens.db") as held:
            await held.until("started")
            await held.stop()
    assert [entry.operation for entry in emulator.requests] == ["create_subscriber_token"]


@pytest.mark.slow  # it starts the command in a process, twice, and a server
async def test_a_store_on_redis_may_have_a_password_in_the_environment(emulator, tmp_path):
    """And a key in a file."""
    key = tmp_path / "key"
    key.write_text(generate_encryption_key())
    with RedisServer(password="hush") as server:
        settings = settings_of(
            emulator, SIGNALWIRE_TOKENS_STORE=server.url, SIGNALWIRE_TOKENS_ENCRYPTION_KEY_FILE=str(key)
        )
        for _ in range(2):
            async with holding_process(**settings) as held:
                await held.until("started")
                code, err = await held.stop()
                assert (code, err) == (0, "")
    assert [entry.operation for entry in emulator.requests] == ["create_subscriber_token"]
    assert "hush" not in json.dumps(held.events)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hush@127.0.0.1:1/0",
        "redis://hush@127.0.0.1:1/0",
        "redis://:hush@[nowhere/0",
        "redis://hush@[::1]",
        "rediss://:hush@127.0.0.1:1",
        "redis://%3Ahush%40127.0.0.1:1/0",
        "redis://127.0.0.1:1/hush",
        "redis://127.0.0.1:1/0#hush",
        "redis:hush@127.0.0.1:1",
        "redis://127.0.0.1:1/0\n?password=hush",
        "unix://:hush@/run/redis.sock",
        "unix:///run/redis.sock?password=hush",
        *(f"redis://127.0.0.1:1/0?{name}=hush" for name in ("password", "username", "PASSWORD", "pass%77ord")),
        *(f"rediss://127.0.0.1:1/0?{name}=hush" for name in ("ssl_password", "credential_provider", "client_name")),
        *(f"redis://127.0.0.1:1/0?{name}=hush" for name in ("db", "protocol", "ssl_check_hostname")),
        "redis://127.0.0.1:1/0?db=1&password=hush",
        "redis://127.0.0.1:1/0?db=1;password=hush",
        "redis://127.0.0.1:1?db=1&db=hush",
        "rediss://127.0.0.1?ssl_ca_certs=/ca.pem%26password=hush",
    ],
)
def test_a_password_on_the_command_line_is_refused(service, url):
    """So is all that isn't known to be harmless. Every user of the machine can read it there; it is not repeated."""
    result = run(
        "hold",
        "alice",
        "--store",
        url,
        **settings_of(service, SIGNALWIRE_TOKENS_ENCRYPTION_KEY=generate_encryption_key()),
    )
    assert result.exit_code == 2
    assert "set SIGNALWIRE_TOKENS_STORE to this URL" in result.stderr
    assert "hush" not in result.output


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache",
        "redis://cache.example.com:6379/",
        "redis://10.0.0.1/12",
        "rediss://[2001:db8::1]:6380/0",
        "rediss://cache?ssl_ca_certs=/etc/ssl/ca.pem&ssl_check_hostname=True",
        "rediss://cache/0?ssl_certfile=/run/me.pem&ssl_keyfile=/run/me.key&ssl_cert_reqs=required",
        "redis://cache?db=1&protocol=3",
        "unix:///run/redis.sock",
        "unix:/run/me@home/redis.sock?db=1",
        "sqlite:tokens.db",
        "sqlite:///var/lib/me@home/tokens.db?password=",
    ],
)
def test_a_url_without_a_secret_may_stand_on_the_command_line(url):
    """A host, a database, and the options that hold no secret."""
    assert not may_hold_secret(Secret(url))


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        ("sqlite:tokens.db", None, "a store needs an encryption key: set SIGNALWIRE_TOKENS_ENCRYPTION_KEY"),
        ("sqlite:tokens.db", " , ", "a store needs an encryption key: set SIGNALWIRE_TOKENS_ENCRYPTION_KEY"),
        ("sqlite:", generate_encryption_key(), "a store is sqlite:FILE, or redis://HOST"),
        ("tokens.db", generate_encryption_key(), "a store is sqlite:FILE, or redis://HOST"),
        ("http://[", generate_encryption_key(), "a store is sqlite:FILE, or redis://HOST"),
        ("REDIS://:hush@127.0.0.1:1", generate_encryption_key(), "a store is sqlite:FILE, or redis://HOST"),
        ("sqlite:/nowhere/tokens.db", generate_encryption_key(), "/nowhere"),
        ("sqlite:/dev/null", generate_encryption_key(), "/dev/null"),
    ],
    ids=["no key", "no key in it", "no file", "no scheme", "no URL", "capitals", "no folder", "no database"],
)
def test_a_store_that_cannot_be_is_refused(service, url, key, said):
    """Before anything is issued."""
    more = {} if key is None else {"SIGNALWIRE_TOKENS_ENCRYPTION_KEY": key}
    result = run("hold", "alice", "--store", url, **settings_of(service, **more))
    assert result.exit_code == (1 if url.startswith("sqlite:/") else 3)
    assert said in result.stderr
    assert "hush" not in result.stderr
    assert not service.requests


def test_a_store_whose_package_is_missing_names_it(service, monkeypatch):
    """With what installs it."""
    monkeypatch.setitem(sys.modules, "signalwire_tokens.stores.redis", None)
    settings = settings_of(service, SIGNALWIRE_TOKENS_ENCRYPTION_KEY=generate_encryption_key())
    result = run("hold", "alice", "--store", "redis://127.0.0.1:1", **settings)
    assert result.exit_code == 3
    assert "pip install 'signalwire-tokens[redis]'" in result.stderr


def test_a_file_that_cannot_be_is_refused_before_anything_is_issued(service, tmp_path):
    """Its folder is missing."""
    result = run("hold", "alice", "--write", tmp_path / "none" / "token", **settings_of(service))
    assert result.exit_code == 1
    assert "No such file or directory" in result.stderr
    assert not service.requests


@pytest.mark.parametrize("content", ["call Alice back\n", ""], ids=["a note", "empty"])
def test_a_file_that_holds_something_else_is_refused_before_anything_is_asked(service, tmp_path, content):
    """It stays as it is, however old it is."""
    notes = tmp_path / "notes.txt"
    notes.write_text(content)
    os.utime(notes, (0, 0))
    service.fail(Status(401), times=None)  # or a command that doesn't refuse the file would go on
    result = run("hold", "alice", "--write", notes, **settings_of(service))
    assert result.exit_code == 1
    assert f"{notes} cannot be written: it holds something other than an access token" in result.stderr
    assert notes.read_text() == content
    assert not service.requests


def test_a_token_that_another_command_wrote_stays_if_there_is_no_new_one(service, tmp_path, capfd):
    """`hold` doesn't know when it expires, and doesn't remove a token that may be valid."""
    path = tmp_path / "token"
    path.write_text(run("create", "subscriber", "alice", **settings_of(service)).stdout.strip())
    before = path.read_text()
    service.fail(Status(401), times=None)
    with stoppable():
        result = run("hold", "alice", "--write", path, **settings_of(service))
    assert result.exit_code == 4
    assert path.read_text() == before


@asynccontextmanager
async def systemd(place):
    """Listen as systemd does; yield a function that waits for what it is told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(place.replace("@", "\0") if place.startswith("@") else place)
        listener.setblocking(False)
        yield lambda: asyncio.wait_for(asyncio.get_running_loop().sock_recv(listener, 100), HANG)


@pytest.mark.parametrize("abstract", [False, True])
async def test_systemd_is_told_when_the_first_token_is_in_place(emulator, tmp_path, monkeypatch, abstract):
    """By its own protocol, so that what is ordered after it finds the file."""
    place = f"@signalwire-tokens-{os.getpid()}" if abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", place)
    async with systemd(place) as told, holding(emulator, path=tmp_path / "token") as held:
        assert await told() == b"READY=1"
        assert (tmp_path / "token").exists()
        await held.stop()


async def test_nobody_need_listen_where_systemd_should(emulator, tmp_path, monkeypatch):
    """It has been told, as far as that can be."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    async with holding(emulator, path=tmp_path / "token") as held:
        await held.until("written")
        await held.stop()


@pytest.mark.slow  # it starts the command on a terminal
def test_on_a_terminal_it_is_drawn_as_it_stands(service, tmp_path):
    """Until Ctrl-C, which leaves with success."""
    with Terminal("hold", "alice@example.com", "--write", tmp_path / "token", **settings_of(service)) as terminal:
        seen = ""
        for word in ("started", "fresh", " h ", "next refresh", "last error"):
            seen += terminal.read_until(word)
        terminal.type("\x03")
        rest, code = terminal.end()
    assert code == 0
    assert "eyJ" not in seen + rest


@pytest.mark.parametrize("store", [[], ["--store"]])
def test_lines_are_for_people(service, tmp_path, capfd, store):
    """Each begins with when it was. The last ones say that it has ended, and how long the token is good."""
    place = tmp_path / "notify"
    settings = settings_of(
        service, NOTIFY_SOCKET=str(place), SIGNALWIRE_TOKENS_ENCRYPTION_KEY=generate_encryption_key()
    )
    arguments = [*store, f"sqlite:{tmp_path}/tokens.db"] if store else []

    def stop_when_ready(listener):
        if listener.recv(100) == b"READY=1":
            os.kill(os.getpid(), signal.SIGTERM)

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, stoppable():
        listener.bind(str(place))
        listener.settimeout(HANG)
        stopping = threading.Thread(target=stop_when_ready, args=[listener])
        stopping.start()
        result = run("hold", "alice", "--write", tmp_path / "token", *arguments, **settings)
        stopping.join()
    assert result.exit_code == 0
    lines = capfd.readouterr().out.splitlines()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "
    assert re.match(f"{stamp}started: generation 1, token #", lines[0])
    assert re.match(f"{stamp}left: token #[0-9a-f]{{8}} is good until ", lines[-1])
    assert not any("\x1b" in line for line in lines)


@pytest.mark.slow  # it starts the command in a process
async def test_a_process_tells_lines_to_whoever_reads_them(emulator):
    """Each begins with when it was."""
    async with started_command("hold", "alice", **settings_of(emulator)) as process:
        line = (await process.stdout.readline()).decode()
        process.send_signal(signal.SIGTERM)
        out, _ = await process.communicate()
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  started: generation 1, token #", line)
    assert process.returncode == 0
    assert b"\x1b" not in out
