"""SQLite files in every state that a store may find them in, and other processes that use them."""

import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager, closing, contextmanager

import pytest

from signalwire_tokens.stores import sqlite
from support.processes import last_lines, noting_file
from support.waiting import HANG

SOON = 0.05  # seconds that a store waits for another process that doesn't end

HOLD = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN IMMEDIATE")
database.execute("DELETE FROM records")
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def patient_stores(monkeypatch):
    """Let stores wait as long as it takes for other processes that write."""
    monkeypatch.setattr(sqlite, "BUSY", HANG)


@asynccontextmanager
async def busy(path, *opened):
    """Let another process write to the file until the block ends; yield that process.

    Stores that are opened in the block give up on it soon, and so do those that were opened before and are given.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite, "BUSY", SOON)
        for store in opened:
            await be_patient(store, SOON)
        with process(HOLD, path) as other:
            yield other
        for store in opened:
            await be_patient(store, HANG)


async def be_patient(store, seconds):
    """Set how long an open store waits for another process that writes."""
    statement = f"PRAGMA busy_timeout = {seconds * 1000:.0f}"
    await store._do("", lambda database: database.execute(statement).fetchall())


@contextmanager
def process(script, *arguments):
    """Run a script in another process until the block ends; wait for its line `ready`."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with (
        noting_file("the other process") as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as other,
    ):
        try:
            said = other.stdout.readline()
            assert said == "ready\n", f"the other process didn't begin: it said {said!r}"
            yield other
        finally:
            other.kill()


def run(script, *arguments):
    """Run a script in another process; return the lines it printed."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, last_lines(done.stderr)
    return done.stdout.splitlines()


def query(path, statement, *arguments):
    """Run a statement on the file, as any program could."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        return database.execute(statement, arguments).fetchall()


def foreign(path):
    """Create another application's file, which only its tables give away."""
    query(path, "CREATE TABLE records (key TEXT, sealed BLOB)")


def signed(path):
    """Create another application's file, which is still empty."""
    query(path, "PRAGMA application_id = 7")


def versioned(path):
    """Create another application's file, which has nothing but a version."""
    query(path, "PRAGMA user_version = 3")


def other_log(path):
    """Create another application's file with a write-ahead log beside it."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE things (name)")


def text(path):
    """Create a file that isn't a database."""
    path.write_text("root:x:0:0:root:/root:/bin/sh\n" * 40)


def short_text(path):
    """Create a file that is shorter than a database's header."""
    path.write_bytes(b"hush")
