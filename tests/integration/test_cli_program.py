"""A command that is run with each token."""

import asyncio
import os
import shlex
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest

from signalwire_tokens import Token
from signalwire_tokens.cli import program
from signalwire_tokens.cli.program import Program, pause_before
from signalwire_tokens.cli.telling import Teller
from support.waiting import HANG, eventually

NOW = datetime.now(UTC)


def token(value="eyJ-a-token-that-is-as-long-as-one-in-another-form"):
    return Token(value=value, issued_at=NOW, expires_at=NOW + timedelta(hours=2))


@pytest.fixture
def told():
    return []


@pytest.fixture
def teller(told):
    return Teller(told.append, lambda: "now")


def python(code):
    return f"{shlex.quote(sys.executable)} -c '{code}'"


async def test_a_command_is_given_the_token_and_no_other_secret(teller, told, tmp_path, monkeypatch):
    """On its standard input, as it is, and once for each token."""
    for name in ("SIGNALWIRE_API_TOKEN", "SIGNALWIRE_TOKENS_STORE", "SIGNALWIRE_TOKENS_ENCRYPTION_KEY"):
        monkeypatch.setenv(name, "hush")
    out, code = tmp_path / "out", "import os, sys; print(sys.stdin.read(), os.environ, file=open(sys.argv[1], 'a'))"
    python, one = shlex.quote(sys.executable), token()
    command = Program(f'{python} -c "{code}" {shlex.quote(str(out))}')
    for _ in range(2):
        assert await command.put(one, 10, teller)
    assert out.read_text().startswith("eyJ-a-token-that-is-as-long-as-one-in-another-form environ(")
    assert out.read_text().count("\n") == 1
    assert "hush" not in out.read_text()
    assert told == [f"now  executed: {sys.executable}: token #{one.digest}"]


async def test_no_shell_reads_a_command(teller, tmp_path):
    """What would be its signs are words."""
    await Program(f"{shlex.quote(sys.executable)} -c pass ; touch {tmp_path}/made > {tmp_path}/out").put(
        token(), 10, teller
    )
    assert not [*tmp_path.iterdir()]


async def test_there_is_nothing_to_run_without_a_token(teller, told):
    """And nothing was run."""
    assert not await Program("false").put(None, 0, teller)
    assert told == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('sh -c "exit 7"', "exit status 7"),
        ("sh -c 'kill -TERM $$'", "signal 15"),
        ("sh -c 'read token; echo 1; echo token is $token; exit 3'", "exit status 3: token is #"),
        ('sh -c "head -c 1000000 /dev/zero | tr \\\\0 x; echo; echo no; exit 1"', "exit status 1: no"),
        ("sh -c 'printf \"a\\033[31mb\"; exit 1'", "exit status 1: a [31mb"),
        ('sh -c "base64 -w0; exit 4"', "exit status 4: …"),
        ('sh -c "exec >&- 2>&-; exit 1"', "exit status 1"),
        ("no-such-program-here", "No such file or directory"),
        ("/", "Permission denied"),
    ],
    ids=[
        "status",
        "signal",
        "says the token",
        "says much",
        "escapes",
        "another form",
        "says nothing",
        "none",
        "no program",
    ],
)
async def test_a_command_that_fails_is_told_of_without_the_token(teller, told, line, said):
    """With the last line that it said."""
    assert not await Program(line).put(token(), 10, teller)
    (line,) = told
    assert f": {said}" in line
    assert line.endswith("; again in 5 s")
    assert "exec_failed" in line
    assert "eyJ" not in line


async def test_a_command_that_failed_is_run_again_with_the_same_token(teller, told, tmp_path):
    """After a pause, until it goes well; then no more."""
    runs = shlex.quote(str(tmp_path / "runs"))
    script = f"echo >> {runs}; test $(wc -l < {runs}) -ge 3"
    command, one, results = Program(f"sh -c {shlex.quote(script)}", pause=lambda number: 0.02 * number), token(), []

    async def look():
        results.append(await command.put(one, 10, teller))
        return results[-1]

    await eventually(look)
    assert await look()
    assert (tmp_path / "runs").read_text().count("\n") == 3
    assert [line.split()[1] for line in told] == ["exec_failed:", "exec_failed:", "executed:"]


async def test_a_command_that_was_not_waited_for_is_run_again(teller, told):
    """Nobody knows how it went."""
    command, one = Program("sleep 0.3"), token()
    running = asyncio.create_task(command.put(one, 10, teller))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert told == []
    assert await command.put(one, 10, teller)
    assert len(told) == 1


async def test_a_new_token_is_not_kept_waiting_by_a_failure(teller, told):
    """It is another one."""
    command = Program("false")
    for _ in range(2):
        assert not await command.put(token(), 10, teller)
    assert len(told) == 2


def test_pauses_grow_and_are_bounded():
    """Five seconds to five minutes."""
    assert [pause_before(number) for number in (1, 2, 3, 7, 10_000)] == [5, 10, 20, 300, 300]


async def test_a_command_need_not_read_its_token():
    """It may close its standard input at once."""
    assert await Program('sh -c "exec <&-"').run(token()) is None


async def test_what_a_command_leaves_running_is_not_waited_for(tmp_path):
    """Though it holds the command's output open, and never mind where it went."""
    note = tmp_path / "pid"
    async with asyncio.timeout(HANG):
        script = f"sleep 1000 & echo $! > {shlex.quote(str(note))}"
        assert await Program(f"sh -c {shlex.quote(script)}", limit=2 * HANG).run(token()) is None
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

    monkeypatch.setattr(program.asyncio, "create_subprocess_exec", start_and_wait)
    return note


@pytest.mark.parametrize("leaves", ["", "setsid "])
async def test_a_command_that_hangs_is_killed_with_its_group(wait_for_note, leaves):
    """In the end; who has left its group is not waited for, either."""
    hang = f"echo $$ > {shlex.quote(str(wait_for_note))}; exec sleep 1000"
    script = f"{leaves}sh -c {shlex.quote(hang)} & wait"
    async with asyncio.timeout(HANG):
        assert await Program(f"sh -c {shlex.quote(script)}", limit=0.1).run(token()) == "killed after 0.1 s"
    child = int(wait_for_note.read_text())
    if leaves:
        assert is_running(child)
        kill(child)
    else:
        await eventually(lambda: not is_running(child))


async def test_a_command_is_killed_with_whoever_waits_for_it(tmp_path):
    """As where a second Ctrl-C ends everything."""
    note = tmp_path / "pid"
    script = f"echo $$ > {shlex.quote(str(note))}; exec sleep 1000"
    running = asyncio.create_task(Program(f"sh -c {shlex.quote(script)}").run(token()))
    await eventually(lambda: note.exists() and note.read_text())
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    await eventually(lambda: not is_running(int(note.read_text())))


def descriptors():
    """Count what is open."""
    return len([*Path("/proc/self/fd").iterdir()])


def is_running(process):
    """Tell whether a process is there, and not only remembered."""
    try:
        with open(f"/proc/{process}/stat") as file:  # noqa: PTH123 - it is gone as soon as not
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def is_forgotten(process):
    """Return whether a process has ended, and its exit status was read."""
    return not Path(f"/proc/{process}").exists()


def kill(process):
    """End what a test began."""
    os.kill(process, 9)


async def test_what_passes_is_told_and_does_no_harm(teller, told, monkeypatch):
    """Such as that there are no descriptors left; none of ours is lost by that."""
    before = descriptors()
    pipe, calls = os.pipe, []

    def run_out():
        calls.append(1)
        if len(calls) == 2:
            raise OSError(24, "Too many open files")
        return pipe()

    monkeypatch.setattr(program.os, "pipe", run_out)
    assert not await Program("true").put(token(), 10, teller)
    assert "exec_failed: true: Too many open files" in told[0]
    assert descriptors() == before


async def test_a_command_that_cannot_be_killed_is_left_to_itself(wait_for_note, monkeypatch):
    """It may have become another user's."""

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(program.os, "killpg", refuse)
    monkeypatch.setattr(program, "LAST_WAIT", 0.1)
    script = f"echo $$ > {shlex.quote(str(wait_for_note))}; exec sleep 1000"
    assert await Program(f"sh -c {shlex.quote(script)}", limit=0.1).run(token()) == "killed after 0.1 s"
    child = int(wait_for_note.read_text())
    assert is_running(child)
    kill(child)
    await eventually(lambda: is_forgotten(child))  # when it ends by itself, it is looked after


def test_a_system_without_its_means_says_so():
    """Before anything is issued."""
    with pytest.raises(click.UsageError, match="needs a POSIX system"):
        Program("true", platform="win32")


@pytest.mark.parametrize("line", ["", "  ", "echo 'half"])
def test_what_is_no_command_is_refused(line):
    """As a mistake on the command line."""
    with pytest.raises(click.UsageError, match="--exec: "):
        Program(line)
