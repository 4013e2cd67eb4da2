"""The command of `--exec`: what it gets, how its end is reported, and how it is killed."""

import asyncio
import os
import shlex
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest

from signalwire_tokens import Token
from signalwire_tokens.cli import exec_command
from signalwire_tokens.cli.exec_command import ExecCommand, parse_command, run_command
from signalwire_tokens.cli.output import EventLog
from support.waiting import HANG, eventually

NOW = datetime.now(UTC)


def make_token(value="eyJ-a-token-that-is-as-long-as-one-in-another-form"):
    return Token(value=value, issued_at=NOW, expires_at=NOW + timedelta(hours=2))


@pytest.fixture
def lines():
    return []


@pytest.fixture
def log(lines):
    return EventLog(lines.append, lambda: "now")


def sh(script):
    return ["sh", "-c", script]


async def put(command, token, log):
    """Run a command if it is due, wait for its end, and return whether it has succeeded."""
    command.put(token, log)
    await command.wait()
    return command.put(token, log)


async def test_a_command_gets_the_token_on_its_standard_input(log, lines, tmp_path):
    """The token is there as it is, without a line end."""
    token, note = make_token(), tmp_path / "note"
    assert await put(ExecCommand(sh(f"cat > {shlex.quote(str(note))}")), token, log)
    assert note.read_text() == token.value
    assert lines == [f"now  executed: sh: token #{token.digest}"]


async def test_a_command_runs_once_for_each_token(log, tmp_path):
    """It doesn't run again with a token that it has taken."""
    note = tmp_path / "note"
    command = ExecCommand(sh(f"echo run >> {shlex.quote(str(note))}"))
    for token in [make_token(), make_token("another")]:
        for _ in range(2):
            assert await put(command, token, log)
    assert note.read_text() == "run\n" * 2


async def test_a_command_gets_no_secret_in_its_environment(log, tmp_path, monkeypatch):
    """Nor the socket of systemd."""
    for name in exec_command.REMOVED_VARIABLES:
        monkeypatch.setenv(name, "hush")
    monkeypatch.setenv("SIGNALWIRE_SPACE", "acme")
    note = tmp_path / "note"
    assert await put(ExecCommand(sh(f"env > {shlex.quote(str(note))}")), make_token(), log)
    assert "SIGNALWIRE_SPACE=acme" in note.read_text()
    assert "hush" not in note.read_text()


async def test_no_shell_runs_a_command(tmp_path):
    """What a shell would obey are words."""
    line = f"{shlex.quote(sys.executable)} -c pass ; touch {tmp_path}/made > {tmp_path}/out"
    assert await run_command(parse_command(line), make_token()) is None
    assert not [*tmp_path.iterdir()]


async def test_both_outputs_of_a_command_are_the_standard_error_of_keep(capfd):
    """Standard output has the events alone."""
    assert await run_command(sh("echo out; echo err >&2"), make_token()) is None
    assert capfd.readouterr() == ("", "out\nerr\n")


async def test_a_command_has_no_output_if_standard_error_is_closed(capfd, monkeypatch):
    """Its number may be another file's by now."""
    monkeypatch.setattr(sys, "stderr", None)
    assert await run_command(sh("echo out; echo err >&2"), make_token()) is None
    assert capfd.readouterr() == ("", "")


async def test_nothing_runs_without_a_token(log, lines):
    """The command isn't due."""
    assert not await put(ExecCommand(["false"]), None, log)
    assert lines == []


@pytest.mark.parametrize(
    ("words", "failure"),
    [
        (sh("exit 7"), "exit status 7"),
        (sh("kill -TERM $$"), "killed by SIGTERM"),
        (sh("kill -35 $$"), "killed by signal 35"),
        (["no-such-program-here"], "No such file or directory"),
        (["/"], "Permission denied"),
    ],
    ids=["status", "signal", "signal without a name", "no program", "a folder"],
)
async def test_a_command_that_fails_is_reported_with_how_it_ended(log, lines, words, failure):
    """The event says when the command runs again."""
    token = make_token()
    assert not await put(ExecCommand(words), token, log)
    assert lines == [f"now  exec_failed: {words[0]}: {failure}; it runs again in 5 s"]


async def test_a_command_that_failed_runs_again_with_the_same_token(log, lines, tmp_path, monkeypatch):
    """It runs until it succeeds, and then no more."""
    monkeypatch.setattr(exec_command, "FIRST_PAUSE_SECONDS", 0.01)
    runs, token = shlex.quote(str(tmp_path / "runs")), make_token()
    command = ExecCommand(sh(f"echo >> {runs}; test $(wc -l < {runs}) -ge 3"))
    await eventually(lambda: put(command, token, log))
    assert await put(command, token, log)
    assert (tmp_path / "runs").read_text().count("\n") == 3
    assert [line.split()[1] for line in lines] == ["exec_failed:", "exec_failed:", "executed:"]


async def test_a_command_that_failed_waits_before_it_runs_again(log, lines):
    """Each look in between runs nothing."""
    command, token = ExecCommand(["false"]), make_token()
    for _ in range(3):
        assert not await put(command, token, log)
    assert len(lines) == 1


async def test_pauses_grow_from_five_seconds_to_five_minutes(log, lines, loop_time, monkeypatch):
    """They double."""

    async def fail(*_):
        return "exit status 1"

    monkeypatch.setattr(exec_command, "run_command", fail)
    monkeypatch.setattr("support.loop_time.IDLE", 0.0)  # nothing arrives from outside
    command, token = ExecCommand(["false"]), make_token()
    async with asyncio.timeout(10_000):
        while len(lines) < 9:
            assert not await put(command, token, log)
            await asyncio.sleep(1)
    assert [line.rpartition(" in ")[2] for line in lines[:4]] == ["5 s", "10 s", "20 s", "40 s"]
    assert [line.rpartition(" in ")[2] for line in lines[-2:]] == ["5 min", "5 min"]


async def test_a_failure_does_not_delay_the_next_token(log, lines):
    """The next token doesn't wait for the pause."""
    command = ExecCommand(["false"])
    for value in ("one", "two"):
        assert not await put(command, make_token(value), log)
    assert len(lines) == 2


async def test_the_next_token_waits_while_the_command_runs(log, lines, tmp_path):
    """The command never runs twice at the same time."""
    gate, (first, second) = tmp_path / "gate", (make_token("one"), make_token("two"))
    command = ExecCommand(sh(f"while ! test -e {shlex.quote(str(gate))}; do sleep 0.01; done"))
    for token in (first, second):
        assert not command.put(token, log)
    gate.touch()
    await command.wait()
    assert lines == [f"now  executed: sh: token #{first.digest}"]
    assert await put(command, second, log)
    assert lines[1:] == [f"now  executed: sh: token #{second.digest}"]


async def test_a_command_need_not_read_its_token():
    """It may close its standard input at once."""
    assert await run_command(sh("exec <&-"), make_token()) is None


async def test_processes_that_a_command_leaves_running_are_not_waited_for(tmp_path):
    """Even if they keep its standard input and its outputs open."""
    note = tmp_path / "pid"
    script = f"exec 3<&0; sleep 1000 <&3 & echo $! > {shlex.quote(str(note))}"
    async with asyncio.timeout(HANG):
        assert await run_command(sh(script), make_token()) is None
    child = int(note.read_text())
    assert is_running(child)
    kill(child)


@pytest.fixture
def wait_for_note(tmp_path, monkeypatch):
    """Wait after each start of a command for the number that it notes; only then its time begins to count."""
    note, start = tmp_path / "pid", asyncio.create_subprocess_exec

    async def start_and_wait(*words, **settings):
        process = await start(*words, **settings)
        await eventually(lambda: note.exists() and note.read_text())
        return process

    monkeypatch.setattr(exec_command.asyncio, "create_subprocess_exec", start_and_wait)
    monkeypatch.setattr(exec_command, "LIMIT_SECONDS", 0.1)
    return note


@pytest.mark.parametrize("leaves", ["", "setsid "], ids=["in its group", "in another group"])
async def test_a_command_that_hangs_is_killed_with_its_process_group(wait_for_note, leaves):
    """A process that has left the group isn't waited for, and isn't killed."""
    hang = f"echo $$ > {shlex.quote(str(wait_for_note))}; exec sleep 1000"
    async with asyncio.timeout(HANG):
        assert await run_command(sh(f"{leaves}sh -c {shlex.quote(hang)} & wait"), make_token()) == "killed after 0.1 s"
    child = int(wait_for_note.read_text())
    if leaves:
        assert is_running(child)
        kill(child)
    else:
        await eventually(lambda: not is_running(child))


def test_a_command_has_thirty_seconds():
    """The page documents it."""
    assert exec_command.LIMIT_SECONDS == 30


async def test_a_command_is_killed_if_keep_is_cancelled(tmp_path):
    """As after Ctrl-C, where the event loop takes no signal handlers."""
    note = tmp_path / "pid"
    running = asyncio.create_task(run_command(sh(f"echo $$ > {shlex.quote(str(note))}; exec sleep 1000"), make_token()))
    await eventually(lambda: note.exists() and note.read_text())
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    await eventually(lambda: not is_running(int(note.read_text())))


def descriptors():
    """Return the number of open descriptors."""
    return len([*Path("/proc/self/fd").iterdir()])


def is_running(process):
    """Return whether a process runs, and isn't a zombie."""
    try:
        with open(f"/proc/{process}/stat") as file:  # noqa: PTH123 - reading it fails as soon as the process is gone
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_reaped(process):
    """Return whether a process has ended, and its exit status was read."""
    return not Path(f"/proc/{process}").exists()


def kill(process):
    """End a process that a test began."""
    os.kill(process, 9)


@pytest.mark.parametrize(
    ("error", "failure"),
    [(OSError(24, "Too many open files"), "Too many open files"), (RuntimeError("no thread"), "RuntimeError")],
    ids=["descriptors", "threads"],
)
async def test_a_lack_of_resources_is_a_failure_like_others(log, lines, monkeypatch, error, failure):
    """It may pass, and the command runs again. No descriptor is lost."""
    before = descriptors()

    async def refuse(*_, **__):
        raise error

    monkeypatch.setattr(exec_command.asyncio, "create_subprocess_exec", refuse)
    assert not await put(ExecCommand(["true"]), make_token(), log)
    assert lines == [f"now  exec_failed: true: {failure}; it runs again in 5 s"]
    assert descriptors() == before


async def test_a_command_that_cannot_be_killed_is_left_alone(wait_for_note, monkeypatch):
    """It may run as another user. When it ends by itself, its exit status is read."""

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(exec_command.os, "killpg", refuse)
    monkeypatch.setattr(exec_command, "KILL_LIMIT_SECONDS", 0.1)
    script = f"echo $$ > {shlex.quote(str(wait_for_note))}; exec sleep 1000"
    assert await run_command(sh(script), make_token()) == "killed after 0.1 s"
    child = int(wait_for_note.read_text())
    assert is_running(child)
    kill(child)
    await eventually(lambda: is_reaped(child))


def test_a_command_is_refused_on_windows(monkeypatch):
    """Process groups need a POSIX system."""
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(click.BadParameter, match="needs a POSIX system"):
        parse_command("true")


@pytest.mark.parametrize(
    ("line", "message"),
    [("", "the command is empty"), ("  ", "the command is empty"), ("echo 'half", "check the quotes in the command")],
)
def test_a_line_that_is_not_a_command_is_refused(line, message):
    """The error says what is wrong."""
    with pytest.raises(click.BadParameter, match=message):
        parse_command(line)
