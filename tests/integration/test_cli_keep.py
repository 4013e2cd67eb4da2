"""`keep`, in the test's process and in one of its own, through outages, signals and full disks.

If a test depends on time, `keep` runs in the test's process, in simulated time: the clock of the service and of the
session is the event loop's, and that passes with the loop's work (see `support.loop_time`). A process has a clock of
its own. About it, tests assert only what is true at any speed.
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
from functools import partial
from types import SimpleNamespace

import pytest

from signalwire_tokens import (
    SessionExpired,
    SubscriberSession,
    TokenClient,
    Unauthorized,
    generate_encryption_key,
)
from signalwire_tokens.cli.command import exit_of
from signalwire_tokens.cli.exec_command import ExecCommand, parse_command
from signalwire_tokens.cli.keep import Outputs
from signalwire_tokens.cli.keep import keep_valid as run_keep
from signalwire_tokens.cli.output import EventLog
from signalwire_tokens.cli.store_option import HARMLESS, make_store
from signalwire_tokens.cli.token_file import TokenFile
from signalwire_tokens.emulator import Delay, Emulator, Status
from signalwire_tokens.secret import Secret
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
PLAIN = SimpleNamespace(is_live=False)  # a printer that isn't a terminal


class Events:
    """The events that a command has printed."""

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


class KeepHere(Events):
    """`keep` in this process."""

    def __init__(self):
        super().__init__()
        self.task = None
        self._news = asyncio.Event()
        self._read = 0

    def take(self, line):
        """Record the event of a line that is printed."""
        self.events.append(json.loads(line))
        self._news.set()

    async def until(self, *kinds):
        """Return the next of these events."""
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
                waiting.cancel()
                await asyncio.wait([waiting])

    async def stop(self, number=signal.SIGTERM):
        """Stop the command, and return when it has ended, with success."""
        assert not self.task.done()
        os.kill(os.getpid(), number)
        await self.task


@asynccontextmanager
async def keeping(emulator, *, path=None, line=None, lifetime=None, store=None, printer=PLAIN):
    """Run `keep` in this process."""
    kept, client = KeepHere(), emulator.client()
    outputs = Outputs(
        log=EventLog(kept.take, str, as_json=True),
        printer=printer,
        file=None if path is None else TokenFile(path, client.clock),
        command=None if line is None else ExecCommand(parse_command(line)),
    )
    make = partial(SubscriberSession, client, "alice@example.com", lifetime=lifetime)
    open_store = None if store is None else partial(make_store, Secret(store), None)
    with stoppable(), noting("The command printed", kept.printed):
        kept.task = asyncio.create_task(run_keep(client, make, open_store, outputs))
        try:
            yield kept
        finally:
            kept.task.cancel()
            await asyncio.wait([kept.task])


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


class KeepProcess(Events):
    """`keep` in a process, whose standard output is JSON."""

    def __init__(self, process):
        super().__init__()
        self.process = process

    async def until(self, *kinds):
        """Return the next of these events."""
        async with asyncio.timeout(HANG):
            while line := await self.process.stdout.readline():
                self.events.append(json.loads(line))
                if self.events[-1]["event"] in kinds:
                    return self.events[-1]
            err = await self.process.stderr.read()
        raise AssertionError(f"the command has ended without any of {kinds}: {last_lines(err)}")

    async def stop(self, number=signal.SIGTERM):
        """Stop the command, and return its exit code and what it printed on standard error."""
        self.process.send_signal(number)
        return await self.end()

    async def end(self):
        """Read to the end, and return the exit code and what the command printed on standard error."""
        async with asyncio.timeout(HANG):
            async for line in self.process.stdout:
                self.events.append(json.loads(line))
            err = await self.process.stderr.read()
            return await self.process.wait(), err.decode()


@asynccontextmanager
async def keeping_process(*arguments, **environment):
    """Run `keep` in a process."""
    async with started_command("keep", "alice@example.com", "--json", *arguments, **environment) as process:
        kept = KeepProcess(process)
        with noting("The command printed", kept.printed):
            yield kept


@pytest.mark.slow  # each starts the command in a process; the next test has the signals in the test's own process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_ends_the_command_with_success(emulator, tmp_path, number):
    """The token stays in the file, which only its owner can read. No event holds a secret."""
    path = tmp_path / "token"
    async with keeping_process("--output", path, **settings_of(emulator)) as kept:
        await kept.until("written")
        assert emulator.accepts(path.read_text())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        code, err = await kept.stop(number)
    assert (code, err) == (0, "")
    # The last events get a second to be printed.
    assert kept.kinds == ["started", "written", "closed", "left"][: max(2, len(kept.kinds))]
    assert emulator.accepts(path.read_text())  # it stays for programs that read it during a restart
    assert "eyJ" not in json.dumps(kept.events)
    assert kept.events[0]["digest"] == kept.events[1]["digest"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_closes_the_session_and_leaves_the_file(emulator, tmp_path, number):
    """The last event says until when the token in the file is valid."""
    path = tmp_path / "token"
    async with keeping(emulator, path=path) as kept:
        await kept.until("written")
        await kept.stop(number)
    assert kept.kinds == ["started", "written", "closed", "left"]
    assert emulator.accepts(path.read_text())


async def test_a_reader_of_the_file_finds_a_valid_token_at_every_moment(simulated, tmp_path):
    """During an outage that is longer than the token is valid, there is no file. (P40)"""
    path = tmp_path / "token"
    async with (
        keeping(simulated, path=path, lifetime=LIFE) as kept,
        reading_here(simulated, path) as found,
    ):
        await kept.until("written")
        simulated.fail(Status(503), times=2)
        await kept.until("recovered")
        await kept.until("reissued")
        simulated.fail(Status(503), times=None)
        await kept.until("removed")
        await come_true(lambda: found[-1] is None)  # the outage is longer than a token's life
        simulated.clear_faults()
        await kept.until("written")
        await kept.until("reissued")
        await kept.stop()
    assert len({*found}) >= 5


@pytest.mark.slow  # it lasts for half a minute
async def test_another_process_reads_the_file_ten_thousand_times(emulator, tmp_path):
    """It never finds an empty file, half a token, or an earlier token after a later one."""
    path = tmp_path / "token"
    async with (
        keeping_process("--output", path, "--lifetime", "8s", **settings_of(emulator)) as kept,
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
        code, err = await kept.stop()
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


async def test_an_outage_is_reported_and_survived(simulated, tmp_path):
    """While SignalWire can't be reached, no file holds an expired token. Then there is a new one."""
    path = tmp_path / "token"
    async with (
        keeping(simulated, path=path, lifetime=LIFE) as kept,
        reading_here(simulated, path),
    ):
        await kept.until("written")
        async with simulated.unreachable():
            degraded = await kept.until("degraded")
            assert "cannot connect" in degraded["error"]
            await kept.until("removed")
            assert not path.exists()
        await kept.until("recovered")
        await kept.until("written")
        assert simulated.accepts(path.read_text())
        await kept.stop()


@pytest.mark.slow  # it waits until a token of 20 s expires
async def test_a_killed_service_and_its_return_are_survived(tmp_path, reserved_port):
    """While the killed emulator is away, the file is removed when its token expires."""
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
        keeping_process("--output", path, "--lifetime", "20s", **settings) as kept,
        reading(path, 1000) as found,
    ):
        await kept.until("written")
        first.kill()
        await first.wait()
        while "cannot connect" not in (await kept.until("degraded"))["error"]:
            pass  # on a slow machine, something else may have failed before
        await eventually(lambda: found[-1:] == [None])
        async with service():
            await kept.until("recovered")
            await eventually(is_good)
            assert (await kept.stop())[0] == 0
    assert_whole(found, Emulator(seed="returns"))


async def test_a_signal_loses_no_renewal_under_way(simulated, tmp_path):
    """Its token is in the file when the command has ended. (P41)"""
    path = tmp_path / "token"
    async with keeping(simulated, path=path, lifetime=LIFE) as kept:
        await kept.until("written")
        first = path.read_text()
        simulated.fail(Delay(5))
        await come_true(lambda: not simulated.faults)
        await kept.stop()
    assert sorted(kept.kinds[2:]) == ["closed", "left", "reissued", "written"]
    assert kept.kinds[-1] == "left"
    assert path.read_text() != first
    assert simulated.accepts(path.read_text())


@pytest.mark.parametrize("outputs", ["command", "both"])
async def test_a_command_gets_each_token(clock, tmp_path, outputs):
    """The file holds the same ones."""
    note, path = tmp_path / "note", tmp_path / "token" if outputs == "both" else None
    async with Emulator(clock=clock) as emulator:
        line = f"sh -c {shlex.quote(f'cat >> {shlex.quote(str(note))}; echo >> {shlex.quote(str(note))}')}"
        async with keeping(emulator, line=line, path=path) as kept:
            await kept.until("executed")
            await clock.advance(7200)  # in which the token is renewed
            await kept.until("executed")
            await kept.stop()
        tokens = note.read_text().split()
        assert len(tokens) == len({*tokens}) == kept.kinds.count("executed") == 2
        assert emulator.accepts(tokens[-1])
        assert path is None or path.read_text() == tokens[-1]


async def test_the_last_token_waits_for_a_command_that_runs_with_an_earlier_one(clock, tmp_path):
    """The command ends when both runs have ended."""
    note, gate = tmp_path / "note", tmp_path / "gate"
    script = f"cat >> {note}; echo >> {note}; while ! test -e {gate}; do sleep 0.01; done"
    async with Emulator(clock=clock) as emulator, keeping(emulator, line=f"sh -c {shlex.quote(script)}") as kept:
        await eventually(lambda: content_of(note))
        await clock.advance(7200)  # in which the token is renewed
        os.kill(os.getpid(), signal.SIGTERM)
        await kept.until("closed")
        gate.touch()
        await kept.task
        assert kept.kinds.count("executed") == 2
        assert emulator.accepts(note.read_text().split()[-1])


async def test_a_command_that_fails_ends_nothing(emulator):
    """It is reported, and runs again."""
    async with keeping(emulator, line="false") as kept:
        failed = await kept.until("exec_failed")
        assert (failed["error"], failed["retry_after"]) == ("exit status 1", 5)
        await kept.stop()


def fill(descriptor):
    """Write to a pipe or a terminal until it takes no more."""
    os.set_blocking(descriptor, False)
    with suppress(BlockingIOError):
        while True:
            os.write(descriptor, b"x" * 100)
    os.set_blocking(descriptor, True)


async def see_two_tokens(path, process):
    """Return when a file has kept one token and then another."""
    seen = set()

    def look():
        assert process.returncode is None, "the command has ended"
        seen.add(content_of(path))
        return len(seen - {None}) >= 2

    await eventually(look)


@pytest.mark.slow  # each starts the command in a process, and waits for a token of 5 s to be renewed
@pytest.mark.parametrize("output", ["closed pipe", "full disk", "unread pipe", "none"])
@pytest.mark.parametrize("form", [["--json"], []], ids=["json", "lines"])
async def test_an_output_that_cannot_be_written_delays_no_renewal(emulator, tmp_path, output, form):
    """The file is replaced even if the reader is gone, has stopped reading, or never existed."""
    path = tmp_path / "token"
    reading_end, writing_end = os.pipe()
    if output == "closed pipe":
        os.close(reading_end)
    if output == "unread pipe":
        fill(writing_end)
    shell = {"full disk": " >/dev/full", "none": " >&-"}.get(output, "")
    words = shlex.join([*COMMAND, "keep", "alice@example.com", "--output", str(path), "--lifetime", "5s", *form])
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
async def test_a_terminal_that_hangs_delays_no_renewal(emulator, tmp_path):
    """A signal still ends the command with success."""
    path = tmp_path / "token"
    master, slave = pty.openpty()
    fill(slave)
    settings = settings_of(emulator, TERM="xterm")
    arguments = ("keep", "alice@example.com", "--output", path, "--lifetime", "5s")
    async with started_command(*arguments, stdin=slave, stdout=slave, **settings) as process:
        os.close(slave)
        await see_two_tokens(path, process)
        process.terminate()
        async with asyncio.timeout(HANG):
            _, err = await process.communicate()
    os.close(master)
    assert (process.returncode, err) == (0, b"")


def test_a_lifetime_that_is_too_short_is_refused(service):
    """Renewals would have no time to succeed."""
    result = run("keep", "alice", "--lifetime", "4s", **settings_of(service))
    assert result.exit_code == 2
    assert "--lifetime must be 5s or more" in result.stderr


@pytest.mark.slow  # it starts the command in a process
async def test_under_nohup_a_closed_terminal_ends_nothing(emulator):
    """SIGHUP stays ignored."""
    line = f"trap '' HUP; exec {shlex.join([*COMMAND, 'keep', 'alice', '--json'])}"
    async with started("sh", "-c", line, **settings_of(emulator)) as process:
        kept = KeepProcess(process)
        await kept.until("started")
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        code, _ = await kept.stop()
    assert code == 0


@pytest.mark.slow  # it starts the command in a process
async def test_signals_while_the_process_ends_do_not_make_it_a_failure(emulator):
    """All is done except for the end of the process. Only if that takes over a second, a signal ends it at once."""
    async with keeping_process(**settings_of(emulator)) as kept:
        await kept.until("started")
        stopped_at = time.monotonic()
        kept.process.send_signal(signal.SIGTERM)
        await kept.until("left", "closed")
        with suppress(ProcessLookupError):
            while kept.process.returncode is None:
                # The process's own `send_signal` would take the exit code of one that has just ended from asyncio.
                os.kill(kept.process.pid, signal.SIGTERM)
                await asyncio.sleep(0.005)  # not in one moment, but to the end
        took = time.monotonic() - stopped_at
        code, _ = await kept.end()
    assert code == 0 or (code == 128 + signal.SIGTERM and took > 1)


@pytest.mark.slow  # it waits for a renewal in real time
async def test_signals_at_the_same_time_count_as_one(emulator):
    """A terminal that closes may send several. A renewal under way isn't lost."""
    async with keeping_process("--lifetime", "20s", **settings_of(emulator)) as kept:
        await kept.until("started")
        emulator.fail(Delay(1))
        await eventually(lambda: not emulator.faults)
        kept.process.send_signal(signal.SIGSTOP)  # so that it gets both at once
        kept.process.send_signal(signal.SIGHUP)
        kept.process.send_signal(signal.SIGTERM)
        kept.process.send_signal(signal.SIGCONT)
        code, _ = await kept.end()
    assert code == 0
    assert [entry.status for entry in emulator.requests] == [200, 200]  # the renewal, too, was answered


async def test_a_service_that_is_unavailable_at_the_start_is_waited_for(simulated, tmp_path):
    """A machine may start before its network."""
    path = tmp_path / "token"
    simulated.fail(Status(503), times=None)
    async with keeping(simulated, path=path) as kept:
        waiting = await kept.until("waiting")
        assert "503" in waiting["error"]
        assert "retry_after" not in waiting  # the session tries by itself, for a while
        waiting = await kept.until("waiting")
        assert "503" in waiting["error"]
        assert waiting["retry_after"] > 0
        simulated.clear_faults()
        await kept.until("written")
        assert simulated.accepts(path.read_text())
        await kept.stop()


@pytest.mark.parametrize("asked", [1e9, "Fri, 31 Dec 9999 23:59:59 GMT"], ids=["seconds", "date"])
async def test_a_service_that_asks_for_a_pause_of_years_gets_a_minute(simulated, tmp_path, asked):
    """The minute counts from when SignalWire asked, and not from each new session. (P23)"""
    path = tmp_path / "token"
    simulated.fail(Status(503, retry_after=asked))
    async with keeping(simulated, path=path) as kept:
        await kept.until("written")
        assert simulated.accepts(path.read_text())
        first, second = simulated.requests
        assert (second.at - first.at).total_seconds() <= 61
        await kept.stop()


@pytest.mark.parametrize("when", ["opening", "waiting"])
async def test_a_signal_ends_the_command_before_the_first_token(simulated, when):
    """While a session opens, or while the command waits to open another."""
    simulated.fail(Status(503), times=None)
    async with keeping(simulated) as kept:
        if when == "opening":
            await come_true(lambda: simulated.requests)
        else:
            while "retry_after" not in await kept.until("waiting"):
                pass  # the first event reports why it takes so long
        await kept.stop()
    assert "started" not in kept.kinds


@pytest.mark.parametrize(("status", "code"), [(401, 4), (403, 4)])
def test_an_error_that_does_not_pass_ends_the_command_at_the_start(service, status, code):
    """The exit code keeps a supervisor from trying again."""
    service.fail(Status(status), times=None)
    result = run("keep", "alice", "--json", **settings_of(service))
    assert result.exit_code == code
    assert json.loads(result.stderr)["exit_code"] == code


async def test_a_session_that_expires_ends_the_command_and_removes_the_file(simulated, tmp_path):
    """No way to renew is left, because SignalWire refuses the subscriber."""
    path = tmp_path / "token"
    async with keeping(simulated, path=path, lifetime=LIFE) as kept:
        await kept.until("written")
        simulated.fail(Status(422), times=None)
        with pytest.raises(SessionExpired) as caught:
            await kept.task
    assert exit_of(caught.value) == 7
    assert {"expired", "removed", "closed"} <= {*kept.kinds}
    assert not path.exists()


@pytest.mark.slow  # it waits in a process until a token of 6 s expires
async def test_a_process_whose_session_expires_removes_the_file(emulator, tmp_path):
    """It has an exit code of its own."""
    path = tmp_path / "token"
    async with keeping_process("--output", path, "--lifetime", "6s", **settings_of(emulator)) as kept:
        await kept.until("written")
        emulator.fail(Status(422), times=None)
        code, err = await kept.end()
    assert code == 7
    assert json.loads(err)["error"]["type"] == "SessionExpired"
    assert not path.exists()


async def test_with_a_store_a_restart_sends_no_request(emulator, tmp_path, monkeypatch):
    """The pair is in a file, encrypted."""
    monkeypatch.setenv("SIGNALWIRE_TOKENS_ENCRYPTION_KEY", f"{generate_encryption_key()}, {generate_encryption_key()}")
    for _ in range(2):
        async with keeping(emulator, store=f"sqlite:{tmp_path}/tokens.db") as kept:
            await kept.until("started")
            await kept.stop()
    assert [entry.operation for entry in emulator.requests] == ["create_subscriber_token"]


@pytest.mark.slow  # it starts the command in a process, twice, and a server
async def test_a_store_on_redis_may_have_a_password_in_the_environment(emulator, tmp_path):
    """The key may be in a file."""
    key = tmp_path / "key"
    key.write_text(generate_encryption_key())
    with RedisServer(password="hush") as server:
        settings = settings_of(
            emulator, SIGNALWIRE_TOKENS_STORE=server.url, SIGNALWIRE_TOKENS_ENCRYPTION_KEY_FILE=str(key)
        )
        for _ in range(2):
            async with keeping_process(**settings) as kept:
                await kept.until("started")
                code, err = await kept.stop()
                assert (code, err) == (0, "")
    assert [entry.operation for entry in emulator.requests] == ["create_subscriber_token"]
    assert "hush" not in json.dumps(kept.events)


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
        *(f"redis://127.0.0.1:1/0?{name}=hush" for name in ("password", "username", "pass%77ord", "db")),
        "REDIS://:hush@127.0.0.1:1",
        "hush",
    ],
)
def test_a_password_on_the_command_line_is_refused(service, url):
    """So is every URL that isn't known to be harmless, because other users can read the command line."""
    result = run(
        "keep",
        "alice",
        "--store",
        url,
        **settings_of(service, SIGNALWIRE_TOKENS_ENCRYPTION_KEY=generate_encryption_key()),
    )
    assert result.exit_code == 2
    assert "Set any other URL as SIGNALWIRE_TOKENS_STORE" in result.stderr
    assert "hush" not in result.output


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache",
        "redis://cache.example.com:6379/",
        "redis://10.0.0.1/12",
        "rediss://[2001:db8::1]:6380/0",
        "unix:///run/redis.sock",
        "unix:/run/me@home/redis.sock",
        "sqlite:tokens.db",
        "sqlite:///var/lib/me@home/tokens.db?password=",
    ],
)
def test_a_url_without_a_secret_may_stand_on_the_command_line(url):
    """A file, a socket, or a host, a port and a database."""
    assert HARMLESS.fullmatch(url)


@pytest.mark.parametrize(
    ("url", "key", "message"),
    [
        (
            "sqlite:tokens.db",
            None,
            "set SIGNALWIRE_TOKENS_ENCRYPTION_KEY to a key from `signalwire",
        ),
        ("sqlite:tokens.db", " , ", "a store needs an encryption key"),
        ("sqlite:", generate_encryption_key(), "SIGNALWIRE_TOKENS_STORE must be sqlite:FILE, redis://HOST"),
        ("tokens.db", generate_encryption_key(), "SIGNALWIRE_TOKENS_STORE must be sqlite:FILE, redis://HOST"),
        ("http://[", generate_encryption_key(), "SIGNALWIRE_TOKENS_STORE must be sqlite:FILE, redis://HOST"),
        ("REDIS://:hush@127.0.0.1:1", generate_encryption_key(), "SIGNALWIRE_TOKENS_STORE must be sqlite:FILE"),
        ("sqlite:/nowhere/tokens.db", generate_encryption_key(), "/nowhere"),
        ("sqlite:/dev/null", generate_encryption_key(), "/dev/null"),
    ],
    ids=["no key", "no key in it", "no file", "no scheme", "no URL", "capitals", "no folder", "no database"],
)
def test_a_store_that_cannot_work_is_refused(service, url, key, message):
    """No token is issued."""
    more = {} if key is None else {"SIGNALWIRE_TOKENS_ENCRYPTION_KEY": key}
    with stoppable():
        result = run("keep", "alice", **settings_of(service, SIGNALWIRE_TOKENS_STORE=url, **more))
    assert result.exit_code == (1 if url.startswith("sqlite:/") else 3)
    assert message in result.stderr
    assert "hush" not in result.stderr
    assert not service.requests


def test_a_store_whose_package_is_missing_names_it(service, monkeypatch):
    """The error has the command that installs it."""
    monkeypatch.setitem(sys.modules, "signalwire_tokens.stores.redis", None)
    settings = settings_of(service, SIGNALWIRE_TOKENS_ENCRYPTION_KEY=generate_encryption_key())
    result = run("keep", "alice", "--store", "redis://127.0.0.1:1", **settings)
    assert result.exit_code == 3
    assert "install signalwire-tokens with its extra `redis`" in result.stderr


def test_a_file_in_a_missing_folder_is_refused(service, tmp_path):
    """No token is issued."""
    result = run("keep", "alice", "--output", tmp_path / "none" / "token", **settings_of(service))
    assert result.exit_code == 1
    assert "No such file or directory" in result.stderr
    assert not service.requests


@pytest.mark.parametrize("content", ["call Alice back\n", ""], ids=["a note", "empty"])
def test_a_file_that_holds_something_else_is_refused(service, tmp_path, content):
    """It stays as it is, however old it is. Nothing is sent."""
    notes = tmp_path / "notes.txt"
    notes.write_text(content)
    os.utime(notes, (0, 0))
    service.fail(Status(401), times=None)  # or a command that doesn't refuse the file would go on
    result = run("keep", "alice", "--output", notes, **settings_of(service))
    assert result.exit_code == 1
    assert f"can't write {notes}: it holds something other than an access token" in result.stderr
    assert notes.read_text() == content
    assert not service.requests


def test_a_token_that_another_command_wrote_stays_if_there_is_no_new_one(service, tmp_path, capfd):
    """`keep` doesn't know when it expires, and doesn't remove a token that may be valid."""
    path = tmp_path / "token"
    path.write_text(run("create", "subscriber", "alice", **settings_of(service)).stdout.strip())
    before = path.read_text()
    service.fail(Status(401), times=None)
    with stoppable():
        result = run("keep", "alice", "--output", path, **settings_of(service))
    assert result.exit_code == 4
    assert path.read_text() == before


@asynccontextmanager
async def systemd(place):
    """Listen as systemd does, and yield a function that waits for a message."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(place.replace("@", "\0") if place.startswith("@") else place)
        listener.setblocking(False)
        yield lambda: asyncio.wait_for(asyncio.get_running_loop().sock_recv(listener, 100), HANG)


@pytest.mark.parametrize("abstract", [False, True])
async def test_systemd_is_notified_when_the_first_token_is_in_the_file(emulator, tmp_path, monkeypatch, abstract):
    """Units that are ordered after this one find the file."""
    place = f"@signalwire-tokens-{os.getpid()}" if abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", place)
    async with systemd(place) as received, keeping(emulator, path=tmp_path / "token") as kept:
        assert await received() == b"READY=1"
        assert (tmp_path / "token").exists()
        await kept.stop()


async def test_a_missing_socket_of_systemd_is_ignored(emulator, tmp_path, monkeypatch):
    """The command keeps the token anyway."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    async with keeping(emulator, path=tmp_path / "token") as kept:
        await kept.until("written")
        await kept.stop()


@pytest.mark.slow  # it starts the command on a terminal
def test_a_terminal_shows_the_state_of_the_token(service, tmp_path):
    """Ctrl-C ends the command with success."""
    with Terminal("keep", "alice@example.com", "--output", tmp_path / "token", **settings_of(service)) as terminal:
        seen = ""
        for word in ("started", "fresh", " h ", "next refresh", "last error"):
            seen += terminal.read_until(word)
        terminal.type("\x03")
        rest, code = terminal.end()
    assert code == 0
    assert "eyJ" not in seen + rest


@pytest.mark.slow  # it starts the command on a terminal
def test_with_a_command_a_terminal_shows_lines(service):
    """The output of the command would disturb a view."""
    with Terminal("keep", "alice@example.com", "--exec", "echo hello", **settings_of(service)) as terminal:
        seen = terminal.read_until("executed: echo: token #")
        terminal.type("\x03")
        rest, code = terminal.end()
    assert code == 0
    assert "hello" in seen
    assert "next refresh" not in seen + rest


async def test_the_state_of_the_token_is_shown_again_and_again(simulated):
    """Also without any event."""
    views = []
    async with keeping(simulated, printer=SimpleNamespace(is_live=True, show=views.append)) as kept:
        await kept.until("started")
        await come_true(lambda: len(views) >= 10)
        assert kept.kinds == ["started"]
        await kept.stop()


def run_until_ready(place, *arguments, **settings):
    """Run `keep` in this process until it notifies systemd; return click's result."""

    def stop_when_ready(listener):
        if listener.recv(100) == b"READY=1":
            os.kill(os.getpid(), signal.SIGTERM)

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, stoppable():
        listener.bind(str(place))
        listener.settimeout(HANG)
        stopping = threading.Thread(target=stop_when_ready, args=[listener])
        stopping.start()
        result = run("keep", "alice", *arguments, **settings, NOTIFY_SOCKET=str(place))
        stopping.join()
    return result


def test_lines_begin_with_the_time(service, tmp_path, capfd):
    """The last one says until when the token is valid. None has escape sequences."""
    result = run_until_ready(tmp_path / "notify", "--output", tmp_path / "token", **settings_of(service))
    assert result.exit_code == 0
    lines = capfd.readouterr().out.splitlines()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "
    assert re.match(f"{stamp}started: generation 1, token #", lines[0])
    assert re.match(f"{stamp}left: token #[0-9a-f]{{8}} is valid until ", lines[-1])
    assert not any("\x1b" in line for line in lines)


@pytest.mark.redis
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_store_may_be_named_on_the_command_line(service, tmp_path, redis_server, kind):
    """A second run sends no request."""
    url = redis_server.url if kind == "redis" else f"sqlite:{tmp_path}/tokens.db"
    settings = settings_of(service, SIGNALWIRE_TOKENS_ENCRYPTION_KEY=generate_encryption_key())
    for place in ("one", "two"):
        assert run_until_ready(tmp_path / place, "--store", url, **settings).exit_code == 0
    assert [entry.operation for entry in service.requests] == ["create_subscriber_token"]


def test_without_outputs_the_command_is_ready_with_the_first_token(service, tmp_path):
    """A session with a store may be all that a user wants."""
    assert run_until_ready(tmp_path / "notify", **settings_of(service)).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "environment"), [(["--lifetime", "10s"], {}), ([], {"SIGNALWIRE_TOKENS_LIFETIME": "10s"})]
)
def test_short_lived_tokens_are_kept(service, tmp_path, arguments, environment):
    """The user wants them so short, or the space has no others."""
    result = run_until_ready(tmp_path / "notify", *arguments, **settings_of(service, **environment))
    assert result.exit_code == 0


@pytest.mark.slow  # it starts the command in a process
async def test_a_process_prints_lines(emulator):
    """Each begins with the time."""
    async with started_command("keep", "alice", **settings_of(emulator)) as process:
        line = (await process.stdout.readline()).decode()
        process.send_signal(signal.SIGTERM)
        out, _ = await process.communicate()
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  started: generation 1, token #", line)
    assert process.returncode == 0
    assert b"\x1b" not in out
