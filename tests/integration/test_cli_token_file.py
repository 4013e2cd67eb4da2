"""The file that holds a valid token: what `keep` does with it, and what it leaves alone."""

import json
import os
import re
import shutil
import stat
import tempfile
import time
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest

from signalwire_tokens import SystemClock, Token
from signalwire_tokens.cli import token_file
from signalwire_tokens.cli.output import EventLog
from signalwire_tokens.cli.token_file import TokenFile

NOW = datetime.now(UTC)


def sealed(name, **header):
    """Return a text in the form of SignalWire's own tokens."""
    first = urlsafe_b64encode(json.dumps({"alg": "dir", "enc": "A256GCM", **header}).encode()).decode().rstrip("=")
    return f"{first}..aXY.{name}.{'T' * 22}"


def token(value):
    return Token(value=value, issued_at=NOW, expires_at=NOW + timedelta(hours=2))


OLD, NEW = token(sealed("old", typ="SAT")), token(sealed("new", typ="SAT"))


@pytest.fixture
def lines():
    return []


@pytest.fixture
def log(lines):
    return EventLog(lines.append, lambda: "now")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "token"


async def test_the_file_holds_the_token_and_nothing_else(path, log, lines):
    """It has no line end, and only its owner may read it, whatever the umask is."""
    before, started = os.umask(0), time.time()
    try:
        assert await TokenFile(path, SystemClock()).put(NEW, 7200, log)
    finally:
        os.umask(before)
    assert path.read_bytes() == NEW.value.encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    expires = int(path.stat().st_mtime)  # below the second is the mark
    assert started - 1 <= expires - 7200 <= time.time()
    assert [*path.parent.iterdir()] == [path]
    (line,) = lines
    assert re.fullmatch(r"now  written: .*/token: token #[0-9a-f]{8}", line)


async def test_a_reader_of_the_old_file_reads_it_to_its_end(path, log):
    """The new file takes the name, and leaves the old one as it is."""
    file = TokenFile(path, SystemClock())
    await file.put(OLD, 7200, log)
    with path.open() as reader:
        assert reader.read(3) == "eyJ"
        await file.put(NEW, 7200, log)
        assert f"eyJ{reader.read()}" == OLD.value
    assert path.read_text() == NEW.value


async def test_the_same_token_is_written_once(path, log):
    """However often it is looked at."""
    file = TokenFile(path, SystemClock())
    await file.put(NEW, 7200, log)
    first = path.stat()
    assert await file.put(NEW, 7000, log)
    assert path.stat() == first


@pytest.mark.parametrize("left", [0.0, 0.4])
async def test_a_file_without_a_valid_token_is_removed(path, log, lines, left, clock):
    """It would hold an expired token. If it is gone already, nothing happens."""
    file = TokenFile(path, clock)
    await file.put(NEW, 10, log)
    await clock.advance(10 - left)
    assert not await file.put(None, left, log)
    assert not path.exists()
    assert lines[-1].endswith("/token: its token has expired")
    assert not await file.put(None, 0.0, log)


async def test_a_failure_to_write_is_reported_once_and_tried_again(tmp_path, log, lines):
    """No half-written file is left."""
    folder = tmp_path / "folder"
    folder.mkdir()
    file = TokenFile(folder / "token", SystemClock())
    shutil.rmtree(folder)
    for _ in range(3):
        assert not await file.put(NEW, 7200, log)
    (line,) = lines
    assert "write_failed" in line
    assert "No such file or directory" in line
    folder.mkdir()
    assert await file.put(NEW, 7200, log)
    assert (folder / "token").read_text() == NEW.value


async def test_a_token_that_cannot_be_replaced_is_removed_at_its_end(path, log, lines, clock, monkeypatch):
    """A full disk lets files be removed. (P40)"""
    file = TokenFile(path, clock)
    await file.put(OLD, 10, log)

    def is_full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_file.os, "fsync", is_full)
    assert not await file.put(NEW, 20, log)
    assert path.read_text() == OLD.value  # it is still valid
    assert [*path.parent.iterdir()] == [path]
    await clock.advance(10)
    assert not await file.put(NEW, 10, log)
    assert not path.exists()
    assert [line.split()[1] for line in lines] == ["written:", "write_failed:", "removed:"]


async def test_a_file_that_can_neither_be_written_nor_removed_is_reported(path, log, lines, clock, monkeypatch):
    """And tried again."""
    file = TokenFile(path, clock)
    await file.put(OLD, 10, log)
    await clock.advance(10)

    def is_gone(_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "lstat", is_gone)
    for _ in range(2):
        assert not await file.put(NEW, 20, log)
    assert [line.split()[1] for line in lines] == ["written:", "write_failed:"]
    monkeypatch.undo()
    assert await file.put(NEW, 20, log)


async def test_an_expired_token_is_removed_even_if_no_file_can_be_opened(path, log, clock, monkeypatch):
    """A process may have no descriptors left. (P40)"""
    file = TokenFile(path, clock)
    await file.put(OLD, 10, log)

    def refuse(*_, **__):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    await clock.advance(10)
    assert not await file.put(NEW, 20, log)
    assert not path.exists()


async def test_a_valid_token_stays_while_the_session_has_none(path, log, clock):
    """SignalWire may be unavailable after the session has closed."""
    file = TokenFile(path, clock)
    await file.put(OLD, 10, log)
    assert not await file.put(None, 0.0, log)
    assert path.read_text() == OLD.value


async def test_an_error_of_another_kind_is_reported_too(path, log, lines, monkeypatch):
    """Such as that no thread can be started. It may pass, and the file is tried again."""

    async def refuse(*_):
        raise RuntimeError

    file = TokenFile(path, SystemClock())
    with monkeypatch.context() as patch:
        patch.setattr(token_file.asyncio, "to_thread", refuse)
        assert not await file.put(NEW, 7200, log)
    assert lines == [f"now  write_failed: {path}: RuntimeError"]
    assert await file.put(NEW, 7200, log)


async def test_what_an_earlier_run_left_is_removed_at_its_end(path, log, clock):
    """Its time of modification is when its token expires."""
    await TokenFile(path, clock).put(OLD, 100, log)
    path.chmod(0o640)  # which changes nothing of that
    file = TokenFile(path, clock)
    await clock.advance(90)
    assert not await file.put(None, 0.0, log)
    assert path.read_text() == OLD.value
    await clock.advance(10)
    assert not await file.put(None, 0.0, log)
    assert not path.exists()


async def test_a_token_that_another_program_wrote_stays_until_there_is_another(path, log):
    """Its time of modification is when it was written, which says nothing about when the token expires."""
    path.write_text(OLD.value)
    file = TokenFile(path, SystemClock())
    assert not await file.put(None, 0.0, log)
    assert path.read_text() == OLD.value
    assert await file.put(NEW, 7200, log)
    assert path.read_text() == NEW.value
    path.write_text(OLD.value)
    assert await file.put(NEW, 7200, log)
    assert path.read_text() == NEW.value


async def test_a_file_that_another_keep_writes_is_left_to_it(path, log, clock):
    """It is written again when there is a new token, or when the other token has expired."""
    ours, theirs = TokenFile(path, clock), TokenFile(path, clock)
    await ours.put(OLD, 100, log)
    await theirs.put(NEW, 50, log)
    assert await ours.put(OLD, 99, log)
    assert path.read_text() == NEW.value
    await clock.advance(50)
    assert await ours.put(OLD, 50, log)
    assert path.read_text() == OLD.value


async def test_a_file_that_another_program_removes_is_written_again(path, log):
    """At the next look."""
    file = TokenFile(path, SystemClock())
    await file.put(NEW, 7200, log)
    path.unlink()
    assert await file.put(NEW, 7000, log)
    assert path.read_text() == NEW.value


# What users may keep in a file: all but an access token, alone, as `keep` writes it.
OTHERS = {
    "a note": "call Alice back",
    "a line": "eyJhbGciOiJkaXIifQ\n",
    "nothing": "",
    "an access token with a line end": f"{OLD.value}\n",
    "an access token and a note": f"{OLD.value} is Alice's",
    "two access tokens": f"{OLD.value}{NEW.value}",
    "a cut access token": OLD.value[:-1],
    "a refresh token": sealed("other", typ="Refresh"),
    "another service's token": sealed("other", typ="JWT"),
    "too much": OLD.value.replace("old", "o" * 100_000),
    "no text": b"\x00\xff\xfe",
}


@pytest.fixture(params=OTHERS)
def other(request):
    content = OTHERS[request.param]
    return content if isinstance(content, bytes) else content.encode()


@pytest.mark.parametrize("age", [-7200, 7200], ids=["in the future", "in the past"])
def test_a_file_that_is_not_a_token_file_is_refused_and_left_alone(path, other, age):
    """Whatever its time of modification is."""
    path.write_bytes(other)
    modified = time.time() - age
    os.utime(path, (modified, modified))
    before = token_file.identity_of(path.stat())
    with pytest.raises(click.ClickException, match=r"can't write .*/token: it holds something other than") as caught:
        TokenFile(path, SystemClock())
    assert "remove it if you don't need it, or name another file" in str(caught.value)
    assert (path.read_bytes(), token_file.identity_of(path.stat())) == (other, before)


def test_a_file_that_cannot_be_read_is_refused():
    """What it holds is unknown."""
    with pytest.raises(click.ClickException, match="can't write /proc/self/mem: Input/output error"):
        TokenFile(Path("/proc/self/mem"), SystemClock())


def write_over(path, content):
    path.write_bytes(content)


def put_in_place(path, content):
    draft = path.with_name("draft")
    draft.write_bytes(content)
    draft.replace(path)


@pytest.mark.parametrize("put", [write_over, put_in_place])
async def test_what_another_program_writes_to_the_file_is_left_alone(path, lines, clock, put, other):
    """It is reported once. When it is gone, the token is written again. (P40)"""
    file, log = TokenFile(path, clock), EventLog(lines.append, lambda: "now")
    await file.put(OLD, 10, log)
    put(path, other)
    await clock.advance(10)
    for wanted, left in [(OLD, 5), (NEW, 5), (None, 0), (NEW, 5)]:
        assert not await file.put(wanted, left, log)
        assert path.read_bytes() == other
    assert [line.split()[1] for line in lines] == ["written:", "write_failed:"]
    assert "it holds something other than an access token" in lines[-1]
    assert [*path.parent.iterdir()] == [path]
    path.unlink()
    assert await file.put(NEW, 5, log)


@pytest.mark.parametrize("kind", ["link", "folder"])
async def test_what_another_program_puts_in_the_file_s_place_is_left_alone(path, log, lines, kind):
    """A link isn't replaced, nor is the file that it leads to."""
    file = TokenFile(path, SystemClock())
    await file.put(OLD, 7200, log)
    path.rename(path.with_name("moved"))
    path.mkdir() if kind == "folder" else path.symlink_to(path.with_name("moved"))
    before = path.lstat()
    assert not await file.put(NEW, 7200, log)
    assert path.lstat() == before
    assert path.with_name("moved").read_text() == OLD.value
    assert "it isn't a regular file" in lines[-1]


@pytest.mark.parametrize("first", [None, OLD], ids=["no file", "a token"])
async def test_what_another_program_writes_while_a_token_is_written_is_left_alone(path, log, monkeypatch, first):
    """The last look at the file is right before it is replaced."""
    file, sync = TokenFile(path, SystemClock()), os.fsync
    if first is not None:
        await file.put(first, 7200, log)

    def note_meanwhile(handle):
        path.write_text("call Alice back")
        sync(handle)

    monkeypatch.setattr(token_file.os, "fsync", note_meanwhile)
    assert not await file.put(NEW, 7200, log)
    assert path.read_text() == "call Alice back"
    assert [*path.parent.iterdir()] == [path]


async def test_a_token_of_unknown_form_is_replaced_by_the_one_who_wrote_it(path, log, clock):
    """Another run doesn't know it."""
    file, unknown = TokenFile(path, clock), token("opaque")
    assert await file.put(unknown, 10, log)
    with pytest.raises(click.ClickException, match="it holds something other than an access token"):
        TokenFile(path, clock)
    assert await file.put(NEW, 10, log)
    assert path.read_text() == NEW.value


def test_a_place_for_the_file_is_looked_for_at_once(tmp_path):
    """Before any token is issued. Nothing but a regular file is replaced."""
    TokenFile(tmp_path / "token", SystemClock())
    assert not [*tmp_path.iterdir()]
    with pytest.raises(click.ClickException, match=r"can't write .*/none/token: No such file or directory"):
        TokenFile(tmp_path / "none" / "token", SystemClock())
    (tmp_path / "link").symlink_to(tmp_path / "token")
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "link", tmp_path / "pipe", "/dev/null"):
        with pytest.raises(click.ClickException, match=r"can't write .*: it isn't a regular file"):
            TokenFile(Path(place), SystemClock())
