"""Two processes: a backend with the project's credentials, and a worker that has none of them."""

import re
from asyncio.subprocess import PIPE
from collections import Counter
from itertools import cycle
from pathlib import Path

import pytest

from signalwire_tokens.device import DeviceKey
from signalwire_tokens.emulator import EMPTY, HTML, Delay, Emulator, Redirect, Reset, SkewDate, Status, Truncate
from support.paths import ROOT
from support.processes import is_open, run_program, settings_of
from support.waiting import eventually
from system.backend_worker import http_client, renew, run_worker

WORKER = Path(__file__).with_name("keyless_worker.py")
GUIDE = ROOT / "docs/guides/devices.md"
ROTATIONS = 48
FAULTS = (
    Reset(),
    Reset(applied=True),
    Status(500),
    Status(503, retry_after=1),
    Status(429),
    Status(401),
    Truncate(),
    HTML,
    EMPTY,
    Redirect("https://elsewhere.example.com/"),
    SkewDate(300),
    Delay(0.3),
)


def begin_to_renew(worker):
    """Ask a worker to renew its token, and then to use it for a request."""
    worker.stdin.write(b"\n")


async def until_renewed(worker):
    """Wait until a worker has done both, however often that fails."""
    while (line := await worker.stdout.readline()) != b"alice\n":
        assert line.startswith(b"failed: "), line or "the worker has ended"


async def test_a_worker_with_a_key_alone_lives_through_rotations_and_faults(tmp_path, capsys):
    """A fault at each second rotation, and an outage; it never sends the credentials, which it does not have."""
    key, faults = DeviceKey.generate(), cycle(FAULTS)
    known = {"DEVICE_KEY": key.to_pem("mellon").decode(), "DEVICE_KEY_PASSWORD": "mellon"}
    async with (
        Emulator() as emulator,
        run_worker("aiohttp", emulator, tmp_path / "tokens") as (_, backend),
        run_program(WORKER, "device", backend, emulator.space, env=known, stdin=PIPE) as worker,
    ):
        assert await worker.stdout.readline() == b"alice\n", "the service took the token"
        for number in range(ROTATIONS):
            if number % 2:
                emulator.fail(next(faults), operation="refresh_device_token")
            if number == ROTATIONS // 2:
                async with emulator.unreachable():
                    begin_to_renew(worker)
                    assert (await worker.stdout.readline()).startswith(b"failed: "), "the outage was met"
                await until_renewed(worker)
            begin_to_renew(worker)
            await until_renewed(worker)
        assert worker.returncode is None
        sent = Counter((entry.operation, entry.auth) for entry in emulator.requests)
        met = Counter(entry.fault for entry in emulator.requests if entry.fault)
        refused = [entry.reason for entry in emulator.requests if entry.reason]
    with capsys.disabled():
        print(f"\n[{ROTATIONS} rotations, {met.total()} faults of {len(met)} kinds met; sent: {dict(sent)}]")
    assert sent["create_subscriber_token", "Basic"] == sent["create_device_token", "Bearer"] == 1
    assert sum(count for (_, auth), count in sent.items() if auth == "Basic") == 1, "and that was the backend's"
    assert {operation for operation, auth in sent if auth == "Bearer"} == {
        "create_device_token",
        "refresh_device_token",
        "subscriber_info",
    }
    assert sent["refresh_device_token", "Bearer"] >= ROTATIONS
    assert met.total() == ROTATIONS // 2
    assert refused == []


async def test_the_two_programs_of_the_guide_work_together(tmp_path, reserved_port):
    """As they stand there, each in a process of its own and with what its environment has."""
    programs = {}
    for text in re.findall(
        r"^```python\n(# (?:backend|worker)\.py\n.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE
    ):
        program = tmp_path / text.splitlines()[0].removeprefix("# ")
        program.write_text(text)
        programs[program.stem] = program
    secret = "an-application-s-own"
    async with Emulator() as emulator:
        settings = {
            "backend": settings_of(emulator, WORKER_SECRET=secret, PORT=str(reserved_port)),
            "worker": {
                "SPACE": emulator.space,
                "BACKEND": f"http://127.0.0.1:{reserved_port}",
                "WORKER_SECRET": secret,
                "DEVICE_KEY_PASSWORD": "mellon",
            },
        }
        tries = []
        for _ in range(2):  # the second time, with the key that is there
            async with run_program(programs["backend"], env=settings["backend"], cwd=tmp_path):
                await eventually(lambda: is_open(reserved_port))
                await eventually(lambda: says_still(programs["worker"], tries, env=settings["worker"], cwd=tmp_path))
        sent = Counter((entry.operation, entry.auth, entry.status) for entry in emulator.requests)
    assert (tmp_path / "device.pem").stat().st_mode & 0o777 == 0o600
    asked = [
        ("create_subscriber_token", "Basic", 200),
        ("create_device_token", "Bearer", 201),
        ("subscriber_info", "Bearer", 200),
    ]
    assert sent.keys() == set(asked)
    if len(tries) == 2:  # the machine was not too slow for the programs' own timeouts
        assert sent == dict.fromkeys(asked, 2)


async def says_still(program, tries, **settings):
    """Return whether a worker says that it is well; on a slow machine, it may give up before."""
    tries.append(program)
    async with run_program(program, **settings) as worker:
        while line := await worker.stdout.readline():
            if line == b"still worker-7@example.com\n":
                return True
            assert line.startswith(b"not now: "), line
    return False


@pytest.mark.parametrize("framework", ["aiohttp", "fastapi"])
async def test_a_worker_lives_by_its_backend(framework, tmp_path):
    """Which renews by the project's credentials, and is the only one to speak for the project."""
    async with (
        Emulator() as emulator,
        http_client() as http,
        run_worker(framework, emulator, tmp_path / "tokens") as (_, backend),
        run_program(WORKER, "endpoint", backend, emulator.space, env={}, stdin=PIPE) as worker,
    ):
        assert await worker.stdout.readline() == b"alice\n", "the service took the token"
        for has_fault in (False, True, False):
            if has_fault:
                emulator.fail(Status(500), operation="refresh_subscriber_token")
                assert await renew(http, backend, "alice") == 503
            begin_to_renew(worker)
            # For the worker, a token that ends less than a second later than its own is no later one.
            assert await renew(http, backend, "alice") == 204
            while (line := await worker.stdout.readline()) != b"alice\n":
                assert b"no new token for session" in line, line or "the worker has ended"
                assert await renew(http, backend, "alice") == 204
        assert worker.returncode is None
        sent = {(entry.operation, entry.auth) for entry in emulator.requests}
    assert sent == {
        ("create_subscriber_token", "Basic"),
        ("refresh_subscriber_token", "Basic"),
        ("subscriber_info", "Bearer"),
    }
