"""The file that holds a live token: what is to be done with it, and that it is done."""

import os
import re
import shutil
import stat
import time
from datetime import UTC, datetime, timedelta

import click
import pytest

from signalwire_tokens import SystemClock, Token
from signalwire_tokens.cli import token_file
from signalwire_tokens.cli.telling import Teller
from signalwire_tokens.cli.token_file import Found, Move, TokenFile, next_move

NOW = datetime.now(UTC)


def token(value="eyJ-a-token"):
    return Token(value=value, issued_at=NOW, expires_at=NOW + timedelta(hours=2))


OLD, NEW = token("eyJ-old"), token("eyJ-new")
LIVE, DEAD = Found((1, 2, 3), 0.6), Found((1, 2, 3), 0.5)


@pytest.mark.parametrize(
    ("wanted", "written", "there", "move"),
    [
        # There is a live token: the file is to hold it,
        (NEW, None, None, Move.WRITE),
        (NEW, None, LIVE, Move.WRITE),
        (NEW, None, DEAD, Move.WRITE),
        (NEW, OLD, LIVE, Move.WRITE),
        (NEW, NEW, None, Move.WRITE),  # to hold it again, where it was removed,
        (NEW, NEW, DEAD, Move.WRITE),  # or where somebody left another to die there;
        (NEW, NEW, LIVE, Move.NOTHING),  # and two who keep theirs alive do not fight.
        # There is none: what is there may live on, and is removed when it does not.
        (None, None, None, Move.NOTHING),
        (None, OLD, LIVE, Move.NOTHING),
        (None, None, LIVE, Move.NOTHING),
        (None, OLD, DEAD, Move.REMOVE),
        (None, None, DEAD, Move.REMOVE),
    ],
)
def test_what_is_to_be_done_follows_from_what_is_there(wanted, written, there, move):
    """A live token, or no file."""
    assert next_move(wanted, written, there) is move


class Told(list):
    def teller(self):
        return Teller(self.append, lambda: "now")


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "token"


async def test_the_file_holds_the_token_and_nothing_else(path, told):
    """No line end, and nobody but its owner may read it, whatever the umask says."""
    before, started = os.umask(0), time.time()
    try:
        assert await TokenFile(path, SystemClock()).put(NEW, 7200, told.teller())
    finally:
        os.umask(before)
    assert path.read_bytes() == b"eyJ-new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert started <= path.stat().st_mtime - 7200 + 0.001  # when the token ends
    assert path.stat().st_mtime - 7200 - 0.001 <= time.time()
    assert [*path.parent.iterdir()] == [path]
    (line,) = told
    assert re.fullmatch(r"now  written: .*/token: token #[0-9a-f]{8}", line)


async def test_whoever_reads_the_old_file_reads_it_to_its_end(path, told):
    """The new one takes its name, and not its place."""
    file = TokenFile(path, SystemClock())
    await file.put(OLD, 7200, told.teller())
    with path.open() as reader:
        assert reader.read(3) == "eyJ"
        await file.put(NEW, 7200, told.teller())
        assert reader.read() == "-old"
    assert path.read_text() == "eyJ-new"


async def test_the_same_token_is_written_once(path, told):
    """However often it is looked at."""
    file = TokenFile(path, SystemClock())
    await file.put(NEW, 7200, told.teller())
    first = path.stat()
    assert await file.put(NEW, 7000, told.teller())
    assert path.stat() == first


@pytest.mark.parametrize("left", [0.0, 0.4])
async def test_a_file_without_a_live_token_is_removed(path, told, left, clock):
    """Rather than hold a dead one; that somebody has removed it is no harm."""
    file = TokenFile(path, clock)
    await file.put(NEW, 10, told.teller())
    await clock.advance(10 - left)
    assert not await file.put(None, left, told.teller())
    assert not path.exists()
    assert told[-1].endswith("/token: its token has ended")
    assert not await file.put(None, 0.0, told.teller())


async def test_what_cannot_be_written_is_told_once_and_tried_again(tmp_path, told):
    """And leaves nothing half-done."""
    folder = tmp_path / "folder"
    folder.mkdir()
    file = TokenFile(folder / "token", SystemClock())
    shutil.rmtree(folder)
    for _ in range(3):
        assert not await file.put(NEW, 7200, told.teller())
    (line,) = told
    assert "write_failed" in line
    assert "No such file or directory" in line
    folder.mkdir()
    assert await file.put(NEW, 7200, told.teller())
    assert (folder / "token").read_text() == NEW.value


async def test_a_token_that_cannot_be_replaced_is_removed_at_its_end(path, told, clock, monkeypatch):
    """A full disk lets files be removed. (P40)"""
    file = TokenFile(path, clock)
    await file.put(OLD, 10, told.teller())

    def is_full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_file.os, "fsync", is_full)
    assert not await file.put(NEW, 20, told.teller())
    assert path.read_text() == OLD.value  # it lives yet
    assert [*path.parent.iterdir()] == [path]
    await clock.advance(10)
    assert not await file.put(NEW, 10, told.teller())
    assert not path.exists()
    assert [line.split()[1] for line in told] == ["written:", "write_failed:", "removed:"]


async def test_what_can_neither_be_written_nor_removed_is_told(path, told, clock, monkeypatch):
    """And tried again."""
    file = TokenFile(path, clock)
    await file.put(OLD, 10, told.teller())
    await clock.advance(10)

    def is_gone(_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(token_file.Path, "lstat", is_gone)
    for _ in range(2):
        assert not await file.put(NEW, 20, told.teller())
    assert [line.split()[1] for line in told] == ["written:", "write_failed:"]
    monkeypatch.undo()
    assert await file.put(NEW, 20, told.teller())


async def test_what_an_earlier_run_left_is_removed_at_its_end(path, told, clock):
    """Its time of modification says when that is, and not a moment sooner."""
    await TokenFile(path, clock).put(OLD, 100, told.teller())
    file = TokenFile(path, clock)
    await clock.advance(90)
    assert not await file.put(None, 0.0, told.teller())
    assert path.read_text() == OLD.value
    await clock.advance(10)
    assert not await file.put(None, 0.0, told.teller())
    assert not path.exists()


async def test_a_file_that_somebody_else_keeps_alive_is_left_to_them(path, told, clock):
    """Until there is another token, or theirs has ended."""
    ours, theirs = TokenFile(path, clock), TokenFile(path, clock)
    await ours.put(OLD, 100, told.teller())
    await theirs.put(NEW, 50, told.teller())
    assert await ours.put(OLD, 99, told.teller())
    assert path.read_text() == NEW.value
    await clock.advance(50)
    assert await ours.put(OLD, 50, told.teller())
    assert path.read_text() == OLD.value


@pytest.mark.parametrize("how", ["removed", "overwritten"])
async def test_a_file_that_was_meddled_with_is_put_back(path, told, how):
    """At the next look."""
    file = TokenFile(path, SystemClock())
    await file.put(NEW, 7200, told.teller())
    path.unlink()
    if how == "overwritten":
        path.write_text("anything")
    assert await file.put(NEW, 7000, told.teller())
    assert path.read_text() == NEW.value


def test_a_place_for_the_file_is_looked_for_at_once(tmp_path):
    """Before anything is issued; what is no file is not replaced."""
    TokenFile(tmp_path / "token", SystemClock())
    assert not [*tmp_path.iterdir()]
    with pytest.raises(click.ClickException, match="none/token cannot be written: No such file or directory"):
        TokenFile(tmp_path / "none" / "token", SystemClock())
    (tmp_path / "link").symlink_to(tmp_path / "token")
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "link", tmp_path / "pipe", "/dev/null"):
        with pytest.raises(click.ClickException, match="is no regular file"):
            TokenFile(token_file.Path(place), SystemClock())
