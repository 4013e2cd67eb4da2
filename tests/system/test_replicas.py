"""Processes that share sessions through a store, and are killed."""

import asyncio
import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import attrs
import pytest

from signalwire_tokens.emulator import Delay, Emulator
from signalwire_tokens.models import Lifetimes
from signalwire_tokens.stores import new_sealing_key
from signalwire_tokens.stores.redis import RedisStore

REPLICA = Path(__file__).parent / "replica.py"
PROCESSES, SESSIONS, SECONDS, KILL_EVERY = 4, 200, 60, 5
ACCESS, WINDOW, LEASE = 4.0, 2.0, 1.0
POLL = LEASE / 10
LATENCY = 0.15
COUNTED = 0.3  # seconds that a token must have left to be counted
SLACK = 0.5  # seconds in which a busy machine may not have run anybody


def settings_for(emulator, **more):
    return {
        "client": [emulator.space, emulator.project_id, emulator.api_token],
        "key": new_sealing_key(),
        "lease": LEASE,
        "access": ACCESS,
        "window": WINDOW,
        "sessions": SESSIONS,
        **more,
    }


async def run(settings):
    # Nobody measures a process that is about to be killed.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    return await asyncio.create_subprocess_exec(
        sys.executable, str(REPLICA), json.dumps(settings), stdout=asyncio.subprocess.PIPE, env=environment
    )


@attrs.define
class Figures:
    """What is counted while the processes run."""

    kills: int = 0
    tokens: int = 0
    refused: list = attrs.Factory(list)
    unavailable: list = attrs.Factory(list)
    takeovers: list = attrs.Factory(list)  # seconds that each took
    orphans: int = 0  # marks that a killed process may have left

    def report(self, emulator, rotation):
        calls = [(entry.operation, entry.status) for entry in emulator.journal]
        rotations = calls.count(("refresh_subscriber_token", 201))
        issues = calls.count(("create_subscriber_token", 201))
        replays = sum(operation == "refresh_subscriber_token" and status == 422 for operation, status in calls)
        factor = issues / (SESSIONS + self.orphans)
        slowest = max(self.takeovers, default=0.0)
        print(
            f"\n{rotation}: {PROCESSES} processes, {SESSIONS} sessions, {SECONDS} s: {rotations} rotations, "
            f"{self.kills} kills, {len(self.takeovers)} takeovers (the slowest after {slowest:.2f} s), "
            f"{self.tokens} tokens, refused tokens: {len(self.refused)}, unavailable: {len(self.unavailable)}, "
            f"used refresh tokens presented: {replays}, {issues} issued, stampede factor {factor:.2f}"
        )
        return rotations, issues, replays


class Replicas:
    """The processes, what they say, and who watches it."""

    def __init__(self, emulator, store, settings):
        self._emulator, self._store, self._settings = emulator, store, settings
        self._processes, self._readers = [], []  # each process with its name as a holder of leases
        self.figures = Figures()

    async def __aenter__(self):
        for _ in range(PROCESSES):
            await self._begin()
        return self

    async def __aexit__(self, *_):
        for process, _ in self._processes:
            process.terminate()
        codes = [await process.wait() for process, _ in self._processes]
        await asyncio.gather(*self._readers)
        assert codes == [0] * PROCESSES

    async def _begin(self):
        process = await run(self._settings)
        self._processes.append((process, (await process.stdout.readline()).strip()))
        self._readers.append(asyncio.ensure_future(self._read(process.stdout)))

    async def _read(self, stdout):
        """Hold every token against what the service knows of it."""
        while (line := await stdout.readline()).endswith(b"\n"):
            at, runway, token, *error = json.loads(line)
            if token is None:
                self.figures.unavailable.append(error)
            elif runway > COUNTED:
                claims = self._emulator._service._sealer.open(token)
                self.figures.tokens += 1
                if claims is None or claims.expires_at <= at:
                    self.figures.refused.append((at, runway))

    async def kill_one(self):
        """Kill the process that has run longest, start another, and see who takes over what it held."""
        process, holder = self._processes.pop(0)
        process.kill()
        killed = time.monotonic()
        await process.wait()
        self.figures.kills += 1
        held = await self._held_by(holder)
        starting = asyncio.ensure_future(self._begin())
        self.figures.orphans += sum(record.presenting is not None for record in held.values())
        while held and time.monotonic() - killed < KILL_EVERY - 1:
            for key, record in list(held.items()):
                owner = await self._store._redis.get(self._lease(key))
                if (owner is not None and not owner.startswith(holder)) or await self._is_renewed(key, record):
                    self.figures.takeovers.append(time.monotonic() - killed)
                    del held[key]
            await asyncio.sleep(0.01)
        assert not held, "nobody has taken over"
        await starting
        await asyncio.sleep(max(0.0, killed + KILL_EVERY - time.monotonic()))

    def _lease(self, key):
        return f"{self._settings['prefix']}{{{key}}}:lease"

    async def _is_renewed(self, key, record):
        now = (await self._store.load(key)).record
        return now is None or now.pair.refresh_token.value != record.pair.refresh_token.value

    async def _held_by(self, holder):
        """Find the records that a process has leased."""
        found = {}
        async for name in self._store._redis.scan_iter(match=self._lease("*"), count=1000):
            key = name.decode().partition("{")[2].partition("}")[0]
            if ((await self._store._redis.get(name)) or b"").startswith(holder):
                found[key] = (await self._store.load(key)).record
        return {key: record for key, record in found.items() if record is not None}


@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.timeout(SECONDS * 3)
@pytest.mark.parametrize("rotation", ["single-use", "family"])
async def test_replicas_serve_live_tokens_while_they_are_killed(redis_server, rotation, capsys):
    """Nobody is given a dead token, no used refresh token is presented, the dead are replaced, and nobody stampedes."""
    lifetimes = Lifetimes(access=timedelta(seconds=ACCESS), refresh=timedelta(seconds=ACCESS + WINDOW))
    async with Emulator(lifetimes=lifetimes, rotation=rotation) as emulator:
        # Slow enough for kills to strike rotations.
        emulator.fail(Delay(LATENCY), operation="refresh_subscriber_token", times=None)
        settings = settings_for(emulator, redis=redis_server.url, prefix=f"{uuid4()}:")
        async with (
            RedisStore(settings["redis"], keys=settings["key"], prefix=settings["prefix"]) as store,
            Replicas(emulator, store, settings) as replicas,
        ):
            give_up = time.monotonic() + SECONDS
            await asyncio.sleep(KILL_EVERY)
            while time.monotonic() < give_up:
                await replicas.kill_one()
        figures = replicas.figures
        with capsys.disabled():
            rotations, issues, replays = figures.report(emulator, rotation)
    assert figures.tokens > SECONDS * 100
    assert rotations > SECONDS * SESSIONS / ACCESS
    assert figures.refused == figures.unavailable == []
    assert replays == 0
    assert figures.takeovers
    prompt = [seconds for seconds in figures.takeovers if seconds < LEASE + POLL + SLACK]
    assert len(prompt) >= 0.9 * len(figures.takeovers)  # all the others were taken over, too, as `kill_one` asserts
    assert SESSIONS <= issues <= 1.1 * (SESSIONS + figures.orphans)


async def tokens_of(settings):
    """Run a process to its end, and read the tokens that it gave."""
    process = await run(settings)
    output, _ = await process.communicate()
    return process.returncode, [json.loads(line)[2] for line in output.splitlines()]


@pytest.mark.redis
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
@pytest.mark.parametrize("step", ["before POST", "before save", "before publish"])
async def test_a_process_that_is_killed_at_a_step_of_a_rotation(redis_server, tmp_path, kind, step):
    """The next one has a live token at once, issues one pair at most, and presents no used refresh token."""
    presented, issued = {"before POST": (0, 1), "before save": (1, 1), "before publish": (1, 0)}[step]
    lifetimes = Lifetimes(access=timedelta(seconds=40), refresh=timedelta(seconds=60))
    async with Emulator(lifetimes=lifetimes, rotation="family") as emulator:
        place = {"path": str(tmp_path / "tokens.db")} if kind == "sqlite" else {"redis": redis_server.url}
        settings = settings_for(emulator, **place, prefix=f"{uuid4()}:", sessions=1, access=40, window=20)
        code, (first,) = await tokens_of(settings | {"dies": step})
        assert code == -signal.SIGKILL
        assert [entry.operation for entry in emulator.journal] == [
            "create_subscriber_token",
            *["refresh_subscriber_token"] * presented,
        ]
        emulator.journal.clear()
        code, (second, third) = await tokens_of(settings)
        assert code == 0
        assert emulator.accepts(second)
        assert emulator.accepts(third)
        assert (second == first) is (step != "before publish")
        assert [entry.status for entry in emulator.journal] == [201]
        assert [entry.operation for entry in emulator.journal] == [
            "create_subscriber_token" if issued else "refresh_subscriber_token"
        ]
