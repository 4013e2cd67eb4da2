"""Two processes: a backend with the project's credentials, and a worker that has none of them."""

import asyncio
import re
import socket
from collections import Counter
from datetime import timedelta
from itertools import cycle
from pathlib import Path

import pytest

from signalwire_tokens import Lifetimes
from signalwire_tokens.device import DeviceKey
from signalwire_tokens.emulator import EMPTY, HTML, Delay, Emulator, Redirect, Reset, SkewDate, Status, Truncate
from support.paths import ROOT
from support.processes import run_program
from support.waiting import eventually
from system.backend_worker import run_worker

WORKER = Path(__file__).with_name("keyless_worker.py")
HOW_TO = ROOT / "docs/how-to/do-without-the-secret.md"
ROTATIONS = 50
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


@pytest.mark.timeout(240)
async def test_a_worker_with_a_key_alone_lives_through_rotations_and_faults(tmp_path, capsys):
    """A fault at each second rotation, and an outage; it never sends the credentials, which it does not have."""
    key, faults = DeviceKey.generate(), cycle(FAULTS)
    known = {"DEVICE_KEY": key.to_pem("mellon").decode(), "DEVICE_KEY_PASSWORD": "mellon"}
    async with (
        Emulator() as emulator,
        run_worker("aiohttp", emulator, tmp_path / "tokens", 7200) as (_, backend),
        run_program(WORKER, "device", backend, emulator.space, env=known) as worker,
    ):
        for number in range(ROTATIONS + 1):
            assert await worker.stdout.readline() == b"alice\n", "the service took the token"
            if number % 2:
                emulator.fail(next(faults), operation="refresh_device_token")
            if number == ROTATIONS // 2:
                async with emulator.unreachable():
                    await asyncio.sleep(0.5)  # as long as the outage lasts
        assert worker.returncode is None
        sent = Counter((entry.operation, entry.auth) for entry in emulator.journal)
        met = Counter(entry.fault for entry in emulator.journal if entry.fault)
        refused = [entry.reason for entry in emulator.journal if entry.reason]
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
    assert met.total() >= ROTATIONS // 2 - 1
    assert refused == []


async def test_the_two_programs_of_the_how_to_work_together(tmp_path, reserved_port):
    """As they stand there, each in a process of its own and with what its environment has."""
    programs = {}
    for text in re.findall(
        r"^```python\n(# (?:backend|worker)\.py\n.*?)^```", HOW_TO.read_text(), re.DOTALL | re.MULTILINE
    ):
        program = tmp_path / text.splitlines()[0].removeprefix("# ")
        program.write_text(text)
        programs[program.stem] = program
    secret = "an-application-s-own"
    async with Emulator() as emulator:
        settings = {
            "backend": {
                "SIGNALWIRE_SPACE": emulator.space,
                "SIGNALWIRE_PROJECT_ID": emulator.project_id,
                "SIGNALWIRE_API_TOKEN": emulator.api_token,
                "WORKER_SECRET": secret,
                "PORT": str(reserved_port),
            },
            "worker": {
                "SPACE": emulator.space,
                "BACKEND": f"http://127.0.0.1:{reserved_port}",
                "WORKER_SECRET": secret,
                "DEVICE_KEY_PASSWORD": "mellon",
            },
        }
        for _ in range(2):  # the second time, with the key that is there
            async with run_program(programs["backend"], env=settings["backend"], cwd=tmp_path):
                await eventually(lambda: is_open(reserved_port))
                async with run_program(programs["worker"], env=settings["worker"], cwd=tmp_path) as worker:
                    assert await worker.stdout.readline() == b"still worker-7@example.com\n"
        sent = Counter((entry.operation, entry.auth, entry.status) for entry in emulator.journal)
    assert (tmp_path / "device.pem").stat().st_mode & 0o777 == 0o600
    assert sent == {
        ("create_subscriber_token", "Basic", 201): 2,
        ("create_device_token", "Bearer", 201): 2,
        ("subscriber_info", "Bearer", 200): 2,
    }


def is_open(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("framework", ["aiohttp", "fastapi"])
@pytest.mark.timeout(120)
async def test_a_worker_lives_by_its_backend(framework, tmp_path):
    """Which renews by the project's credentials, and is the only one to speak for the project."""
    lifetimes = Lifetimes(access=timedelta(seconds=8), refresh=timedelta(seconds=10))
    async with (
        Emulator(lifetimes=lifetimes) as emulator,
        run_worker(framework, emulator, tmp_path / "tokens", 8) as (_, backend),
        run_program(WORKER, "endpoint", backend, emulator.space, env={}) as worker,
    ):
        for _ in range(4):
            assert await worker.stdout.readline() == b"alice\n", "the service took the token"
            emulator.fail(Status(500), operation="refresh_subscriber_token")
        assert worker.returncode is None
        sent = {(entry.operation, entry.auth) for entry in emulator.journal}
    assert sent == {
        ("create_subscriber_token", "Basic"),
        ("refresh_subscriber_token", "Basic"),
        ("subscriber_info", "Bearer"),
    }
