"""Processes that share sessions through a store, and are killed or suspended.

Nothing here is timed. Tokens live for hours, and the processes ask for rotations themselves. The lease of a process
that was stopped would last for many minutes; the test ends it, as if they had passed.

A suspended process doesn't know that. It goes on as if it still had its leases, and that may cost one more pair for
each of them. If the process was suspended before it read the record, it can take the new record for an older one, since
it counts the suspension into the record's age. A refresh token that another process is about to present then seems to
be orphaned. A real suspension that outlasts the lease has no such effect: the session sees that no time is left.
"""

import asyncio
import contextlib
import functools
import json
import os
import random
import signal
import sqlite3
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import attrs
import pytest

from signalwire_tokens import SubscriberSession
from signalwire_tokens.emulator import Delay, Emulator
from signalwire_tokens.stores import generate_encryption_key
from signalwire_tokens.stores.redis import RedisStore
from support.processes import last_lines, run_program
from support.waiting import HANG, eventually

REPLICA = Path(__file__).parent / "replica.py"
PROCESSES, SESSIONS = 4, 40
STOPS, APART = 8, 60  # how many processes are stopped, and after how many rotations each
ORPHANS = 3  # marks that stopped processes leave, at least
GOES_ON = 10  # tokens that a process gives once it is no longer suspended
LATENCY = 0.25  # seconds that a refresh takes, so that processes are stopped in the middle of some
ROUNDING = 0.1  # seconds: the clocks of the session, the store and the emulator are read one after another
ISSUE, REFRESH = "create_subscriber_token", "refresh_subscriber_token"
EXPECTED = {(ISSUE, 200), (REFRESH, 201)}


def settings_for(emulator, references, **more):
    client = [emulator.space, emulator.project_id, emulator.api_token]
    return {"client": client, "key": generate_encryption_key(), "references": references, **more}


def run(settings):
    # A process that is about to be killed can't write what was measured of it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    return run_program(REPLICA, json.dumps(settings), env=environment)


class CountingEmulator(Emulator):
    """An emulator that counts the answers to each operation, and the issues for each subscriber.

    `history` has a line for each request for a subscriber, and for each lease of the subscriber's that the test ends.
    """

    def __init__(self, **settings):
        self.answers, self.issues, self.history = Counter(), Counter(), defaultdict(list)
        self._references = {}  # by the subscriber's ID
        super().__init__(on_request=self._count, **settings)
        handlers = self.service.handlers
        handlers[ISSUE] = functools.partial(self._issue, handlers[ISSUE])
        handlers[REFRESH] = functools.partial(self._refresh, handlers[REFRESH])

    def _count(self, entry):
        self.answers[entry.operation, entry.status] += 1

    def _issue(self, handle, call):
        reference = json.loads(call.body)["reference"]
        self.issues[reference] += 1
        reply = handle(call)
        self._references[reply.body["subscriber_id"]] = reference
        self.note(reference, "a pair is issued")
        return reply

    def _refresh(self, handle, call):
        claims = self.service.sealer.open(json.loads(call.body)["refresh_token"])
        self.note(self._references[claims.subscriber_id], f"refresh token {claims.id[:8]} is presented")
        return handle(call)

    def note(self, reference, event):
        self.history[reference].append(f"{self.now():%H:%M:%S.%f} {event}")

    @property
    def rotations(self):
        return self.answers[REFRESH, 201]


@attrs.define
class Figures:
    """What is counted while the processes run."""

    kills: int = 0
    suspensions: int = 0
    tokens: int = 0
    wrong: list = attrs.Factory(list)
    failures: list = attrs.Factory(list)
    takeovers: list = attrs.Factory(list)  # seconds that each took
    # For each subscriber:
    orphans: Counter = attrs.Factory(Counter)  # marks that stopped processes have left
    outlived: Counter = attrs.Factory(Counter)  # leases that suspended processes held without a mark

    def report(self, emulator, rotation):
        print(
            f"\n{rotation}: {PROCESSES} processes, {SESSIONS} sessions, {emulator.rotations} rotations, {self.kills} "
            f"kills, {self.suspensions} suspensions, {len(self.takeovers)} takeovers (the slowest after "
            f"{max(self.takeovers, default=0.0):.2f} s), {self.tokens} tokens; {emulator.issues.total()} pairs "
            f"issued: {SESSIONS} first ones, and {emulator.issues.total() - SESSIONS} for {self.orphans.total()} marks "
            f"that stopped processes left and {self.outlived.total()} leases that suspended ones outlived"
        )


class Replica:
    """A process, with what it says."""

    def __init__(self, process, holder, reader):
        self.process, self.holder, self.reader = process, holder, reader
        self.tokens = 0
        self.newest = {}  # when the newest token of each session was issued

    def holds(self, owner):
        """Return whether a lease with this owner is the process's."""
        return owner.startswith(self.holder)

    @property
    def is_stopped(self):
        state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "T"


class Replicas:
    """All processes, and what becomes of those that are stopped."""

    def __init__(self, emulator, store, settings):
        self._emulator, self._store, self._settings = emulator, store, settings
        self._running, self._programs = [], AsyncExitStack()
        self.figures = Figures()
        self._open = functools.lru_cache(maxsize=16 * SESSIONS)(emulator.service.sealer.open)
        # A session that isn't opened tells which of the store's keys is a subscriber's.
        client = emulator.client()
        self._references = {
            SubscriberSession(client, reference, store=store).store_key: reference
            for reference in settings["references"]
        }

    async def __aenter__(self):
        await asyncio.gather(*(self._begin() for _ in range(PROCESSES)))
        return self

    async def __aexit__(self, kind, error, traceback):
        for replica in self._running:
            replica.process.send_signal(signal.SIGKILL if error else signal.SIGTERM)
        codes = [await replica.process.wait() for replica in self._running]
        try:
            await asyncio.gather(*(replica.reader for replica in self._running))
        finally:
            await self._programs.__aexit__(kind, error, traceback)
        assert error or codes == [0] * PROCESSES

    async def _begin(self):
        process = await self._programs.enter_async_context(run(self._settings))
        (holder,) = json.loads(await process.stdout.readline() or '["no output"]')
        replica = Replica(process, holder.encode(), None)
        replica.reader = asyncio.ensure_future(self._read(replica))
        self._running.append(replica)

    async def _read(self, replica):
        while (line := await replica.process.stdout.readline()).endswith(b"\n"):
            number, asked, *said = json.loads(line)
            if len(said) == 1:
                self.figures.failures.append(said[0])
            else:
                self._check(replica, number, asked, *said)

    def _check(self, replica, number, asked, left, token):
        """Compare what a session says of a token with what the service knows."""
        replica.tokens += 1
        self.figures.tokens += 1
        claims = self._open(token)
        if claims is None or claims.expires_at <= asked:
            self.figures.wrong.append("a token that wasn't valid when it was asked for")
        elif asked + left > claims.expires_at + ROUNDING:
            more = asked + left - claims.expires_at
            self.figures.wrong.append(f"a token that is said to live {more:.2f} s longer than it does")
        elif claims.issued_at < replica.newest.get(number, 0.0):
            self.figures.wrong.append("a token that is older than the one before")
        else:
            replica.newest[number] = claims.issued_at

    def check(self):
        """Fail if anything has gone wrong that must never."""
        assert self._emulator.answers.keys() <= EXPECTED, "a refresh token that was used was presented, or worse"
        assert self.figures.failures[:10] == []
        assert self.figures.wrong[:10] == []

    async def wait(self, condition):
        """Wait for a condition, as `eventually` does, and fail as soon as anything goes wrong."""

        def look():
            self.check()
            return condition()

        return await eventually(look)

    async def stop_one(self, *, kill):
        """Kill or suspend a process in the middle of rotations, and wait until others take over what it held."""
        replica = await self.wait(self._find_busy)
        if kill:
            self.figures.kills += 1
            replica.process.kill()
            await replica.process.wait()
            self._running.remove(replica)
        else:
            self.figures.suspensions += 1
            replica.process.send_signal(signal.SIGSTOP)
            await eventually(lambda: replica.is_stopped)
        for _ in range(2):
            await self._store._server.redis.ping()  # what the process has sent is done before this is answered twice
        held = await self._held_by(replica)
        for key, record in held.items():
            self._note_reason(self._references[key], has_mark=record.presenting is not None, kill=kill)
        starting = asyncio.ensure_future(self._begin()) if kill else None
        began = time.monotonic()
        for key in held:
            await self._store._server.redis.pexpire(self._lease(key), 1)
        for key, record in held.items():
            await self.wait(lambda key=key, record=record: self._is_renewed(key, record))
            self.figures.takeovers.append(time.monotonic() - began)
        if kill:
            await starting
        else:
            replica.process.send_signal(signal.SIGCONT)
            given = replica.tokens
            await self.wait(lambda: replica.tokens > given + GOES_ON)

    def _note_reason(self, reference, *, has_mark, kill):
        """Note that a pair may be issued, since a process was stopped that had this subscriber's lease."""
        if has_mark:
            self.figures.orphans[reference] += 1
        elif not kill:
            self.figures.outlived[reference] += 1
        how, what = "killed" if kill else "suspended", "a mark" if has_mark else "no mark"
        self._emulator.note(reference, f"the lease of a process is ended, which was {how} and left {what}")

    async def _find_busy(self):
        """Return a process that holds leases now."""
        owners = await self._owners()
        busy = [replica for replica in self._running if any(map(replica.holds, owners.values()))]
        return random.choice(busy) if busy else None

    def _lease(self, key):
        return f"{self._settings['prefix']}{{{key}}}:lease"

    async def _owners(self):
        """Return the owner of each lease, by the record's key."""
        found = {}
        async for name in self._store._server.redis.scan_iter(match=self._lease("*"), count=1000):
            found[name.decode().partition("{")[2].partition("}")[0]] = await self._store._server.redis.get(name) or b""
        return found

    async def _is_renewed(self, key, record):
        now = (await self._store.load(key)).record
        return now is None or now.pair.refresh_token.value != record.pair.refresh_token.value

    async def _held_by(self, replica):
        """Return the records that a process has leased."""
        owners = await self._owners()
        return {key: (await self._store.load(key)).record for key, owner in owners.items() if replica.holds(owner)}

    async def find_remains(self):
        """Return what should not be in the store once all processes have ended."""
        records = [(await self._store.load(key)).record for key in self._references]
        return {
            "leases": await self._owners(),
            "marks": [record for record in records if record.presenting is not None],
            "expired": [record for record in records if not self._emulator.accepts(record.pair.refresh_token)],
        }


@pytest.mark.redis
@pytest.mark.parametrize("rotation", ["single-use", "family"])
async def test_replicas_serve_live_tokens_while_they_are_stopped(redis_server, rotation, capsys):
    """Callers get valid tokens only, a stopped process is replaced, and each issue but the first has a reason. (P32)

    The reason is a mark that a stopped process has left, whose refresh token may be used up; or a lease that a
    suspended process held without a mark, and outlived.
    """
    references = [f"subscriber-{number}" for number in range(SESSIONS)]
    async with CountingEmulator(rotation=rotation) as emulator:
        emulator.fail(Delay(LATENCY), operation=REFRESH, times=None)
        settings = settings_for(emulator, references, redis=redis_server.url, prefix=f"{uuid4()}:")
        keys, prefix = settings["key"], settings["prefix"]
        async with RedisStore(settings["redis"], encryption_keys=keys, prefix=prefix, timeout=HANG) as store:
            async with Replicas(emulator, store, settings) as replicas:
                figures, stops = replicas.figures, 0
                while stops < STOPS or figures.orphans.total() < ORPHANS:
                    goal = emulator.rotations + APART
                    await replicas.wait(lambda goal=goal: emulator.rotations >= goal)
                    await replicas.stop_one(kill=stops % 2 == 0)
                    stops += 1
            remains = await replicas.find_remains()
    with capsys.disabled():
        figures.report(emulator, rotation)
    replicas.check()
    assert figures.takeovers
    for reference in references:
        issued, orphans = emulator.issues[reference], figures.orphans[reference]
        outlived = figures.outlived[reference]
        # Each mark costs a pair. If all processes that wait for the lease issued, it would cost three.
        assert 1 + (orphans > 0) <= issued <= 1 + orphans + outlived, (
            f"{issued} pairs for {reference}, {orphans} marks and {outlived} leases that were outlived:\n"
            + last_lines("\n".join(emulator.history[reference]))
        )
    assert remains == {"leases": {}, "marks": [], "expired": []}


async def tokens_of(settings):
    """Run a process to its end; return how it ended and the tokens that it gave."""
    async with run(settings) as process:
        output = await process.stdout.read()
        code = await process.wait()
    return code, [json.loads(line)[-1] for line in output.splitlines()]


def end_leases(settings):
    """End the leases of a process that was killed, as if their time had passed; return how many there were."""
    if "path" in settings:
        with contextlib.closing(sqlite3.connect(settings["path"], timeout=HANG)) as database, database:
            return database.execute("DELETE FROM leases").rowcount
    import redis  # noqa: PLC0415 - an extra

    with redis.Redis.from_url(settings["redis"]) as client:
        return sum(client.delete(name) for name in client.scan_iter(f"{settings['prefix']}*:lease"))


@pytest.mark.redis
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
@pytest.mark.parametrize("step", ["before POST", "before save", "before publish"])
async def test_a_process_that_is_killed_at_a_step_of_a_rotation(redis_server, tmp_path, kind, step):
    """The next one has a valid token at once, issues one pair at most, and presents no used refresh token. (P33)"""
    presented, issued = {"before POST": (0, 1), "before save": (1, 1), "before publish": (1, 0)}[step]
    async with Emulator(rotation="family") as emulator:
        place = {"path": str(tmp_path / "tokens.db")} if kind == "sqlite" else {"redis": redis_server.url}
        settings = settings_for(emulator, ["alice"], **place, prefix=f"{uuid4()}:")
        code, (first,) = await tokens_of(settings | {"dies": step})
        assert code == -signal.SIGKILL
        assert [entry.operation for entry in emulator.requests] == [ISSUE, *[REFRESH] * presented]
        emulator.requests.clear()
        assert end_leases(settings) == 1
        code, (second, third) = await tokens_of(settings)
        assert code == 0
        assert emulator.accepts(second)
        assert emulator.accepts(third)
        assert (second == first) is (step != "before publish")
        expected = (ISSUE, 200) if issued else (REFRESH, 201)
        assert [(entry.operation, entry.status) for entry in emulator.requests] == [expected]
