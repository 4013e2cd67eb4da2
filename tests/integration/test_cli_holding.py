"""`hold`, in a process of its own, through what can happen to it."""

import asyncio
import json
import os
import pty
import shlex
import signal
import socket
import stat
import sys
import time
from asyncio.subprocess import PIPE
from contextlib import asynccontextmanager, suppress

import pytest

from signalwire_tokens import SubscriberSession, TokenClient, new_sealing_key
from signalwire_tokens.cli.feeding import Feed, pause_of
from signalwire_tokens.cli.telling import Teller
from signalwire_tokens.emulator import Delay, Emulator, Status
from support.cli_runner import COMMAND, Terminal, run, settings_of
from support.paths import TESTS
from support.redis_server import RedisServer
from support.waiting import HANG, eventually

pytestmark = pytest.mark.usefixtures("plain_environment")
READS = 10_000


class Held:
    """A command that holds, and what it has told."""

    def __init__(self, process):
        self.process = process
        self.events = []

    async def until(self, *kinds):
        """Read what is told until one of these comes; return it."""
        async with asyncio.timeout(HANG):
            while line := await self.process.stdout.readline():
                self.events.append(json.loads(line))
                if self.events[-1]["event"] in kinds:
                    return self.events[-1]
        raise AssertionError(f"none of {kinds} has come: {self.events}")

    @property
    def kinds(self):
        return [one["event"] for one in self.events]

    async def stop(self, number=signal.SIGTERM):
        """Tell it to stop; return its exit code, and what it said on standard error."""
        self.process.send_signal(number)
        return await self.end()

    async def end(self):
        async with asyncio.timeout(HANG):
            async for line in self.process.stdout:
                self.events.append(json.loads(line))
            err = await self.process.stderr.read()
            return await self.process.wait(), err.decode()


@asynccontextmanager
async def holding_process(*arguments, **environment):
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        "hold",
        "alice@example.com",
        "--json",
        *map(str, arguments),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, **environment},
    )
    try:
        yield Held(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()


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
    assert held.kinds == ["started", "written", "closed", "left"]
    assert emulator.accepts(path.read_text())  # it stays, for whoever reads it while this one is started anew
    assert "eyJ" not in json.dumps(held.events)
    assert held.events[0]["digest"] == held.events[1]["digest"]


@pytest.mark.timeout(150)
async def test_another_process_reads_the_file_ten_thousand_times(emulator, tmp_path):
    """Never empty, never half, never dead: not while the service is down for a moment, nor for longer than a token."""
    path = tmp_path / "token"
    async with holding_process("--write", path, "--lifetime", "8s", **settings_of(emulator)) as held:
        await held.until("written")
        async with reading(path, READS, seconds=40) as reader:
            emulator.fail(Status(503), times=2)
            await held.until("recovered")
            await held.until("reissued")
            emulator.fail(Status(503), times=None)
            await held.until("removed")
            emulator.heal()
            await held.until("written")
            listening = asyncio.create_task(held.until("nothing that is told"))
            found = await reader.read()
            listening.cancel()
            await asyncio.wait([listening])
        code, _ = await held.stop()
    assert code == 0
    assert_live(found, emulator)
    assert len({content for content, _ in found}) >= 5


@asynccontextmanager
async def reading(path, reads, seconds):
    """Have a process read a file so many times, at random moments."""
    command = (sys.executable, TESTS / "support/token_file_reader.py", path, str(reads), str(seconds))
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    output = asyncio.create_task(process.stdout.read())

    class Reader:
        async def read(self):
            found = [json.loads(line) for line in (await output).splitlines()]
            assert await process.wait() == 0
            return found

    try:
        yield Reader()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await asyncio.wait([output])
        process._transport.close()


def assert_live(found, emulator):
    """Take what was read, with the last time of each: a whole token that lived yet, or no file."""
    assert None in [content for content, _ in found]  # the outage was longer than a token's life
    for content, last in found:
        if content is not None:
            claims = emulator._service._sealer.open(content)  # None for what is no whole token
            assert claims is not None, content
            assert last < claims.expires_at


@pytest.mark.timeout(120)
async def test_it_lives_through_the_death_of_the_service_and_its_return(tmp_path, reserved_port):
    """While the killed emulator is away, no file holds an expired token."""
    path = tmp_path / "token"

    async def serve():
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, "emulator", "--port", str(reserved_port), "--seed", "returns", "--json"),
            stdout=PIPE,
            stderr=PIPE,
        )
        return process, json.loads(await process.stdout.readline())

    async def kill(process):
        process.kill()
        await process.communicate()
        process._transport.close()

    service, settings = await serve()
    settings = {name: value for name, value in settings.items() if name.startswith("SIGNALWIRE_")}
    try:
        async with (
            holding_process("--write", path, "--lifetime", "6s", **settings) as held,
            reading(path, 1000, seconds=20) as reader,
        ):
            await held.until("written")
            await kill(service)
            degraded = await held.until("degraded")
            assert "cannot connect" in degraded["error"]
            await held.until("removed")
            assert not path.exists()
            service, _ = await serve()
            await held.until("recovered")
            await held.until("written")
            assert_live(await reader.read(), Emulator(seed="returns"))
            async with TokenClient(settings["SIGNALWIRE_SPACE"]) as client:
                assert (await client.subscriber_info(path.read_text())).email == "alice@example.com"
            assert (await held.stop())[0] == 0
    finally:
        await kill(service)


async def test_a_renewal_under_way_is_not_lost_when_told_to_stop(emulator, tmp_path):
    """Its token is in the file when the command has ended."""
    path = tmp_path / "token"
    async with holding_process("--write", path, "--lifetime", "10s", **settings_of(emulator)) as held:
        await held.until("written")
        first = path.read_text()
        emulator.fail(Delay(0.5))  # which leaves the old token a while
        await eventually(lambda: not emulator._faults)
        assert await held.stop() == (0, "")
    assert sorted(held.kinds[2:]) == ["closed", "left", "reissued", "written"]
    assert held.kinds[-1] == "left"
    assert path.read_text() != first
    assert emulator.accepts(path.read_text())


async def test_each_token_is_given_to_a_command(emulator, tmp_path):
    """The file's and the command's are the same ones."""
    note = tmp_path / "note"
    code = f"import sys; open({str(note)!r}, 'a').write(sys.stdin.read() + chr(10))"
    arguments = ("--exec", f'{sys.executable} -c "{code}"', "--lifetime", "6s")
    async with holding_process(*arguments, **settings_of(emulator)) as held:
        await held.until("executed")
        await held.until("executed")
        assert (await held.stop())[0] == 0
    tokens = note.read_text().split()
    assert len(tokens) == len(set(tokens)) == held.kinds.count("executed")
    assert all(emulator._service._sealer.open(token) for token in tokens)


async def test_a_command_that_fails_ends_nothing(emulator):
    """It is told of, and run again."""
    async with holding_process("--exec", "false", **settings_of(emulator)) as held:
        failed = await held.until("exec_failed")
        assert (failed["error"], failed["retry_after"]) == ("exit status 1", 5)
        assert (await held.stop())[0] == 0


@pytest.mark.parametrize("output", ["closed pipe", "full disk", "unread pipe", "none"])
@pytest.mark.parametrize("form", [["--json"], []], ids=["json", "lines"])
async def test_what_becomes_of_the_output_is_nothing_to_the_token(emulator, tmp_path, output, form):
    """Whoever read it has gone, has stopped reading, or never was; the file is replaced all the same."""
    path = tmp_path / "token"
    reading_end, writing_end = os.pipe()
    if output == "closed pipe":
        os.close(reading_end)
    if output == "unread pipe":
        os.set_blocking(writing_end, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writing_end, b"x" * 4096)
        os.set_blocking(writing_end, True)
    shell = {"full disk": " >/dev/full", "none": " >&-"}.get(output, "")
    words = shlex.join([*COMMAND, "hold", "alice@example.com", "--write", str(path), "--lifetime", "5s", *form])
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f"exec {words}{shell}"),
        stdout=writing_end,
        stderr=PIPE,
        env={**os.environ, **settings_of(emulator)},
    )
    os.close(writing_end)
    first = await eventually(lambda: path.exists() and path.read_text())
    await eventually(lambda: path.exists() and path.read_text() not in ("", first))
    process.terminate()
    async with asyncio.timeout(HANG):
        _, err = await process.communicate()
    if output != "closed pipe":
        os.close(reading_end)
    assert (process.returncode, err) == (0, b"")


async def test_a_terminal_that_nobody_reads_holds_up_nobody(emulator, tmp_path):
    """A session over a connection that hangs; told to stop, the command stops."""
    path = tmp_path / "token"
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "hold", "alice@example.com", "--write", path, "--lifetime", "5s"),
        stdin=slave,
        stdout=slave,
        stderr=PIPE,
        env={**os.environ, "TERM": "xterm", **settings_of(emulator)},
    )
    os.close(slave)
    seen = set()

    def look():
        if path.exists():
            seen.add(path.read_text())
        return len(seen) >= 5

    await eventually(look)
    process.terminate()
    async with asyncio.timeout(HANG):
        _, err = await process.communicate()
    os.close(master)
    assert (process.returncode, err) == (0, b"")


async def test_an_outlet_that_fails_in_a_way_of_its_own_is_tried_again(emulator):
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
    async with emulator.client() as client, SubscriberSession(client, "alice") as session:
        feed.follow(session)
        await asyncio.wait_for(taken.wait(), HANG)
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


async def test_whoever_is_to_outlive_the_terminal_does(emulator):
    """As with `nohup`."""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f"trap '' HUP; exec {shlex.join([*COMMAND, 'hold', 'alice', '--json'])}"),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, **settings_of(emulator)},
    )
    held = Held(process)
    await held.until("started")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    code, _ = await held.stop()
    assert code == 0


async def test_a_signal_to_one_who_leaves_does_not_make_it_a_failure(emulator):
    """All is done, but for the end of the process."""
    async with holding_process(**settings_of(emulator)) as held:
        await held.until("started")
        held.process.send_signal(signal.SIGTERM)
        await held.until("left")
        with suppress(ProcessLookupError):
            while held.process.returncode is None:
                held.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.005)  # not in one moment, but to the end
        assert (await held.end())[0] == 0


async def test_signals_of_one_moment_are_one(emulator):
    """A terminal that closes may send several; a renewal under way is not lost to that. A later one ends it at once."""
    for later in (False, True):
        async with holding_process("--lifetime", "10s", **settings_of(emulator)) as held:
            await held.until("started")
            emulator.fail(Delay(4))
            await eventually(lambda: not emulator._faults)
            held.process.send_signal(signal.SIGHUP)
            held.process.send_signal(signal.SIGTERM)
            if later:
                await asyncio.sleep(1.5)  # more than a moment
                held.process.send_signal(signal.SIGTERM)
            code, _ = await held.end()
        assert code == (128 + signal.SIGTERM if later else 0)
        assert ("reissued" in held.kinds) is not later


async def test_a_service_that_is_away_at_the_start_is_waited_for(tmp_path):
    """A machine may come up before its network."""
    path = tmp_path / "token"
    async with Emulator() as emulator:
        emulator.fail(Status(503), times=None)
        async with holding_process("--write", path, **settings_of(emulator)) as held:
            waiting = await held.until("waiting")
            assert "503" in waiting["error"]
            assert "retry_after" not in waiting  # the session tries by itself, for a while
            waiting = await held.until("waiting")
            assert "503" in waiting["error"]
            assert waiting["retry_after"] > 0
            emulator.heal()
            await held.until("written")
            assert emulator.accepts(path.read_text())
            assert (await held.stop())[0] == 0


@pytest.mark.parametrize("when", ["opening", "waiting"])
async def test_it_can_be_told_to_stop_before_it_has_begun(emulator, when):
    """There is nothing to wait for."""
    emulator.fail(Status(503), times=None)
    async with holding_process(**settings_of(emulator)) as held:
        if when == "opening":
            await eventually(lambda: emulator.journal)
        else:
            while "retry_after" not in await held.until("waiting"):
                pass  # it says first why it takes so long
        assert await held.stop() == (0, "")
    assert "started" not in held.kinds


@pytest.mark.parametrize(("status", "code"), [(401, 4), (403, 4)])
async def test_what_will_not_pass_ends_it_at_the_start(emulator, status, code):
    """With the exit code that keeps a supervisor from trying again."""
    emulator.fail(Status(status), times=None)
    async with holding_process(**settings_of(emulator)) as held:
        ended, err = await held.end()
    assert ended == code
    assert json.loads(err)["exit_code"] == code


async def test_a_session_that_dies_takes_the_command_and_the_file_with_it(emulator, tmp_path):
    """No way to renew is left: the service refuses the subscriber."""
    path = tmp_path / "token"
    async with holding_process("--write", path, "--lifetime", "6s", **settings_of(emulator)) as held:
        await held.until("written")
        emulator.fail(Status(422), times=None)
        code, err = await held.end()
    assert code == 7
    assert json.loads(err)["error"]["type"] == "SessionExpired"
    assert {"dead", "removed", "closed"} <= {*held.kinds}
    assert not path.exists()


async def test_with_a_store_a_restart_asks_the_service_for_nothing(emulator, tmp_path):
    """The pair is in a file, sealed."""
    settings = settings_of(emulator, TOKEN_SEALING_KEY=f"{new_sealing_key()}, {new_sealing_key()}")
    for _ in range(2):
        async with holding_process("--store", f"sqlite:{tmp_path}/tokens.db", **settings) as held:
            await held.until("started")
            assert (await held.stop())[0] == 0
    assert [entry.operation for entry in emulator.journal] == ["create_subscriber_token"]


async def test_a_store_on_redis_may_have_a_password_in_the_environment(emulator, tmp_path):
    """And a key in a file."""
    key = tmp_path / "key"
    key.write_text(new_sealing_key())
    with RedisServer(password="hush") as server:
        settings = settings_of(emulator, SIGNALWIRE_STORE=server.url, TOKEN_SEALING_KEY_FILE=str(key))
        for _ in range(2):
            async with holding_process(**settings) as held:
                await held.until("started")
                code, err = await held.stop()
                assert (code, err) == (0, "")
    assert [entry.operation for entry in emulator.journal] == ["create_subscriber_token"]
    assert "hush" not in json.dumps(held.events)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hush@127.0.0.1:1/0",
        "redis://127.0.0.1:1/0?password=hush",
        "redis://:hush@[nowhere/0",
        "redis://hush@[::1]",
    ],
)
def test_a_password_on_the_command_line_is_refused(service, url):
    """Everybody on the machine can read it there; it is not repeated."""
    result = run("hold", "alice", "--store", url, **settings_of(service))
    assert result.exit_code == 2
    assert "set SIGNALWIRE_STORE to this URL" in result.stderr
    assert "hush" not in result.output


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        ("sqlite:tokens.db", None, "a store needs a key to seal with: set TOKEN_SEALING_KEY"),
        ("sqlite:tokens.db", " , ", "a store needs a key to seal with: set TOKEN_SEALING_KEY"),
        ("sqlite:", new_sealing_key(), "a store is sqlite:FILE, or redis://HOST"),
        ("tokens.db", new_sealing_key(), "a store is sqlite:FILE, or redis://HOST"),
        ("http://[", new_sealing_key(), "a store is sqlite:FILE, or redis://HOST"),
        ("sqlite:/nowhere/tokens.db", new_sealing_key(), "/nowhere"),
        ("sqlite:/dev/null", new_sealing_key(), "/dev/null"),
    ],
    ids=["no key", "no key in it", "no file", "no scheme", "no URL", "no folder", "no database"],
)
def test_a_store_that_cannot_be_is_refused(service, url, key, said):
    """Before anything is issued."""
    more = {} if key is None else {"TOKEN_SEALING_KEY": key}
    result = run("hold", "alice", "--store", url, **settings_of(service, **more))
    assert result.exit_code == (1 if url.startswith("sqlite:/") else 3)
    assert said in result.stderr
    assert not service.journal


def test_a_store_whose_package_is_missing_names_it(service, monkeypatch):
    """With what installs it."""
    monkeypatch.setitem(sys.modules, "signalwire_tokens.stores.redis", None)
    settings = settings_of(service, TOKEN_SEALING_KEY=new_sealing_key())
    result = run("hold", "alice", "--store", "redis://127.0.0.1:1", **settings)
    assert result.exit_code == 3
    assert "pip install 'signalwire-tokens[redis]'" in result.stderr


def test_a_file_that_cannot_be_is_refused_before_anything_is_issued(service, tmp_path):
    """Its folder is missing."""
    result = run("hold", "alice", "--write", tmp_path / "none" / "token", **settings_of(service))
    assert result.exit_code == 1
    assert "No such file or directory" in result.stderr
    assert not service.journal


@pytest.mark.parametrize("abstract", [False, True])
async def test_systemd_is_told_when_the_first_token_is_in_place(emulator, tmp_path, abstract):
    """By its own protocol, so that what is ordered after it finds the file."""
    place = f"@signalwire-tokens-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(place.replace("@", "\0") if abstract else place)
        listener.setblocking(False)
        settings = settings_of(emulator, NOTIFY_SOCKET=place)
        async with holding_process("--write", tmp_path / "token", **settings) as held:
            told = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(listener, 100), HANG)
            assert told == b"READY=1"
            assert (tmp_path / "token").exists()
            assert (await held.stop())[0] == 0


async def test_nobody_need_listen_where_systemd_should(emulator, tmp_path):
    """It has been told, as far as that can be."""
    async with holding_process(**settings_of(emulator, NOTIFY_SOCKET=str(tmp_path / "none"))) as held:
        await held.until("started")
        assert (await held.stop())[0] == 0


def test_on_a_terminal_it_is_drawn_as_it_stands(service, tmp_path):
    """Until Ctrl-C, which leaves with success."""
    with Terminal("hold", "alice@example.com", "--write", tmp_path / "token", **settings_of(service)) as terminal:
        for word in ("started", "fresh", "1 h 59 min", "next refresh", "last error"):
            terminal.read_until(word)
        terminal.type("\x03")
        shown, code = terminal.end()
    assert code == 0
    assert "left: token #" in shown
    assert "eyJ" not in shown


async def test_lines_are_for_people(emulator):
    """Each begins with when it was."""
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "hold", "alice"), stdout=PIPE, stderr=PIPE, env={**os.environ, **settings_of(emulator)}
    )
    line = (await process.stdout.readline()).decode()
    assert line.startswith(time.strftime("%Y-%m-%d ", time.gmtime()))
    assert "started: generation 1, token #" in line
    process.send_signal(signal.SIGTERM)
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert b"\x1b" not in out
