"""Every asynchronous test is checked for what it leaves behind."""

import os
import re
import subprocess
import sys

import pytest

from support.paths import ROOT, TESTS
from support.processes import last_lines

PLANTED = """
import asyncio
import socket

import aiohttp
import pytest

kept = []


async def test_leaks_a_task():
    kept.append(asyncio.create_task(asyncio.Event().wait()))


async def test_leaks_a_session():
    aiohttp.ClientSession()


@pytest.fixture
async def unclosed():
    session = aiohttp.ClientSession()
    session.itself = session
    return session


async def test_leaks_a_fixture(unclosed):
    pass


async def test_leaks_a_connection():
    here, there = socket.socketpair()
    kept.extend([there, *await asyncio.open_connection(sock=here)])


async def test_leaks_an_exception():
    async def fail():
        raise OSError("nobody reads this")

    task = asyncio.create_task(fail())
    await asyncio.wait([task])
    del task


async def test_leaks_nothing():
    async with aiohttp.ClientSession():
        pass
"""


@pytest.mark.slow  # a pytest of its own takes three seconds
def test_what_a_test_leaves_behind_fails_it(tmp_path):
    """A task, a session, a connection and an exception, planted once each."""
    path = tmp_path / "test_planted.py"
    path.write_text(PLANTED)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", "-p", "no:randomly"]
    done = subprocess.run(
        [*command, f"--rootdir={ROOT}", f"--config-file={ROOT / 'pyproject.toml'}", str(path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = dict(re.findall(r"^(?:ERROR|FAILED) \S+::(\w+) - (.*)$", done.stdout, re.MULTILINE))
    assert found.keys() == {
        "test_leaks_a_task",
        "test_leaks_a_session",
        "test_leaks_a_connection",
        "test_leaks_an_exception",
        "test_leaks_a_fixture",
    }, last_lines(done.stdout)
    for reason in ("the test left tasks", "the test left open connections", "the event loop was left with failures"):
        assert reason in done.stdout
