"""Where a held token goes: a file, and a command."""

import asyncio
import io
import os
import re
import shutil
import stat
import sys
import time
from datetime import UTC, datetime, timedelta

import click
import pytest
from rich.console import Console
from servers import eventually

from signalwire_tokens import Token
from signalwire_tokens.cli.outlets import Program, TokenFile
from signalwire_tokens.cli.telling import Teller

NOW = datetime.now(UTC)
SHOW = "import sys; data = sys.stdin.read(); print(len(data)); print('token is', data); sys.exit(3)"


def token(value="eyJ-a-token"):
    return Token(value=value, issued_at=NOW, expires_at=NOW + timedelta(hours=2))


@pytest.fixture
def teller():
    return Teller(Console(file=io.StringIO(), soft_wrap=True), lambda: "now")


@pytest.fixture
def file(tmp_path):
    return TokenFile(tmp_path / "token")


def told(teller):
    return teller._console.file.getvalue()


def python(code):
    return f"{sys.executable} -c '{code}'"


async def test_the_file_holds_the_token_and_nothing_else(file, teller, tmp_path):
    """No line end, and nobody but its owner may read it, whatever the umask says."""
    before = os.umask(0)
    try:
        assert await file.put(token(), teller)
    finally:
        os.umask(before)
    path = tmp_path / "token"
    assert path.read_bytes() == b"eyJ-a-token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [*tmp_path.iterdir()] == [path]
    assert re.fullmatch(r"now  written: .*/token: token #[0-9a-f]{8}\n", told(teller))


async def test_whoever_reads_the_old_file_reads_it_to_its_end(file, teller, tmp_path):
    """The new one takes its name, and not its place."""
    await file.put(token("eyJ-old"), teller)
    with (tmp_path / "token").open() as reader:
        assert reader.read(3) == "eyJ"
        await file.put(token("eyJ-new-and-longer"), teller)
        assert reader.read() == "-old"
    assert (tmp_path / "token").read_text() == "eyJ-new-and-longer"


async def test_the_same_token_is_written_once(file, teller, tmp_path):
    """However often it is looked at."""
    one = token()
    await file.put(one, teller)
    first = (tmp_path / "token").stat()
    assert await file.put(one, teller)
    assert (tmp_path / "token").stat() == first


async def test_a_file_without_a_live_token_is_removed(file, teller, tmp_path):
    """Rather than hold a dead one."""
    assert not await file.put(None, teller)
    await file.put(token(), teller)
    assert not await file.put(None, teller)
    assert not (tmp_path / "token").exists()
    assert told(teller).endswith("/token: its token has ended\n")


async def test_a_file_that_somebody_removed_may_be_gone(file, teller, tmp_path):
    """It was to go in any case."""
    await file.put(token(), teller)
    (tmp_path / "token").unlink()
    assert not await file.put(None, teller)


async def test_what_cannot_be_written_is_told_once_and_tried_again(tmp_path, teller):
    """And leaves nothing half-done."""
    folder = tmp_path / "folder"
    folder.mkdir()
    file, one = TokenFile(folder / "token"), token()
    shutil.rmtree(folder)
    for _ in range(3):
        assert not await file.put(one, teller)
    assert told(teller).count("write_failed") == 1
    assert "No such file or directory" in told(teller)
    folder.mkdir()
    assert await file.put(one, teller)
    assert (folder / "token").read_text() == one.value


async def test_a_write_that_breaks_off_leaves_the_old_token(file, teller, tmp_path):
    """And no file beside it: here its name is taken by a directory that is not empty."""
    path = tmp_path / "token"
    (path / "inside").mkdir(parents=True)
    assert not await file.put(token(), teller)
    assert [*tmp_path.iterdir()] == [path]


def test_a_place_for_the_file_is_looked_for_at_once(tmp_path):
    """Before anything is issued."""
    TokenFile(tmp_path / "token").check()
    assert not [*tmp_path.iterdir()]
    with pytest.raises(click.ClickException, match="none: No such file or directory"):
        TokenFile(tmp_path / "none" / "token").check()
    with pytest.raises(click.ClickException, match="is a directory"):
        TokenFile(tmp_path)


async def test_a_command_is_given_the_token_and_no_other_secret(teller, tmp_path, monkeypatch):
    """On its standard input, as it is, and once for each token."""
    for name in ("SIGNALWIRE_API_TOKEN", "SIGNALWIRE_STORE", "TOKEN_SEALING_KEY"):
        monkeypatch.setenv(name, "hush")
    out, code = tmp_path / "out", "import os, sys; print(sys.stdin.read(), os.environ, file=open(sys.argv[1], 'a'))"
    program, one = Program(f'{sys.executable} -c "{code}" {out}'), token()
    for _ in range(2):
        assert await program.put(one, teller)
    assert out.read_text().startswith("eyJ-a-token environ(")
    assert out.read_text().count("\n") == 1
    assert "hush" not in out.read_text()
    assert f"executed: {sys.executable}: token #{one.digest}" in told(teller)


async def test_no_shell_reads_a_command(teller, tmp_path):
    """What would be its signs are words."""
    await Program(f"{sys.executable} -c pass ; touch {tmp_path}/made > {tmp_path}/out").put(token(), teller)
    assert not [*tmp_path.iterdir()]


async def test_there_is_nothing_to_run_without_a_token(teller):
    """And nothing was run."""
    assert not await Program("false").put(None, teller)
    assert told(teller) == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (python("import sys; sys.exit(7)"), "exit status 7"),
        (python("import os; os.kill(os.getpid(), 15)"), "signal 15"),
        (f'{sys.executable} -c "{SHOW}"', "exit status 3: token is #"),
        (f"{sys.executable} -c \"print('x' * 100000); exit('no')\"", "exit status 1: no"),
        (python('print("a\\x1b[31mb"); exit(1)'), "exit status 1: a [31mb"),
        ("no-such-program-here", "No such file or directory"),
        ("/", "Permission denied"),
    ],
    ids=["status", "signal", "says the token", "says much", "escapes", "none", "no program"],
)
async def test_a_command_that_fails_is_told_of_without_the_token(teller, line, said):
    """With the last line that it said."""
    assert await Program(line).put(token(), teller)
    assert f": {said}" in told(teller)
    assert "exec_failed" in told(teller)
    assert "eyJ" not in told(teller)


async def test_a_command_need_not_read_its_token(teller):
    """It may close its standard input at once."""
    assert await Program(python("import os; os.close(0)")).run(token("x" * 1_000_000)) is None


async def test_a_command_that_hangs_is_killed_with_all_that_it_began(tmp_path):
    """In the end."""
    note = tmp_path / "pid"
    script = f"sleep 1000 & echo $! > {note}; wait"
    started = time.monotonic()
    assert await Program(f'sh -c "{script}"', limit=0.5).run(token()) == "killed after 0.5 s"
    assert time.monotonic() - started < 10
    child = int(note.read_text())
    await asyncio.to_thread(wait_for_end, child)


async def test_a_command_is_killed_with_whoever_waits_for_it(tmp_path):
    """As where a second Ctrl-C ends everything."""
    note = tmp_path / "pid"
    running = asyncio.create_task(Program(f'sh -c "echo $$ > {note}; exec sleep 1000"').run(token()))
    await eventually(lambda: note.exists() and note.read_text())
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    await asyncio.to_thread(wait_for_end, int(note.read_text()))


def wait_for_end(process):
    """Wait until a process is no more, or is only remembered."""
    give_up = time.monotonic() + 10
    while time.monotonic() < give_up:
        try:
            with open(f"/proc/{process}/stat") as file:  # noqa: PTH123 - it is gone as soon as not
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except FileNotFoundError:
            return
        time.sleep(0.01)
    raise AssertionError("it runs on")


@pytest.mark.parametrize("line", ["", "  ", "echo 'half"])
def test_what_is_no_command_is_refused(line):
    """As a mistake on the command line."""
    with pytest.raises(click.UsageError, match="--exec: "):
        Program(line)
