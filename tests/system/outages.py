"""Processes that share tokens, and lose the server that they share them through for a while.

`python tests/system/outages.py DEPLOYMENT` runs 4 processes for a minute. Each has the same 200 subscribers, and tokens
of 20 seconds. In the middle, it does one of these:

| deployment | trouble |
| --- | --- |
| `sentinel` | Sentinel makes the replica the primary, and a process is restarted; `--min-replicas 0` loses saves |
| `cluster` | the slots of all subscribers move to other servers, one after another |
| `postgres` | the server restarts, and is away for `--away` seconds |
| `pgbouncer` | PgBouncer restarts, and is away for `--away` seconds |

It prints what the emulator and the processes saw. It fails if a process returned a token that had expired, or if a used
refresh token was presented. If saves don't wait for replicas, only the first counts: sessions survive the second.
"""

import argparse
import asyncio
import json
import math
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path

import attrs

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a program, it finds the tests' helpers there
from signalwire_tokens import Lifetimes, RefreshPolicy, SubscriberSession
from signalwire_tokens.emulator import Emulator
from signalwire_tokens.stores import generate_encryption_key
from signalwire_tokens.stores.postgres import PostgresStore
from support.postgres_server import PgBouncer, PostgresServer
from support.processes import run_program
from support.redis_server import ClusterServers, SentinelServers

WORKER = Path(__file__).parent / "outage_worker.py"
ISSUE, REFRESH = "create_subscriber_token", "refresh_subscriber_token"
REFRESHED = 201
REFRESHABLE = 10.0  # seconds that a refresh token lives longer
SAMPLED_EVERY = 0.1  # seconds between two looks at which processes have the same tokens


@attrs.frozen
class Plan:
    """How many processes run, and for how long."""

    deployment: str
    processes: int = 4
    subscribers: int = 200
    life: float = 20.0
    seconds: float = 60.0
    away: float = 3.0
    min_replicas: int = 1
    rotate: int = 0  # 1: the processes ask for rotations themselves


@attrs.define
class Figures:
    """What was seen."""

    presented: Counter = attrs.Factory(Counter)  # refresh tokens, by how often each was presented
    requests: list = attrs.Factory(list)  # when each came, its operation, and its status
    tokens: int = 0
    expired: int = 0
    without: list = attrs.Factory(list)  # what each call said that had to do without
    agreement: list = attrs.Factory(list)  # when, and for which part of the subscribers all processes had one token
    trouble: tuple = (0.0, 0.0)  # when it began, and when it was over

    @property
    def used(self):
        """How often a refresh token was presented that was presented before."""
        return self.presented.total() - len(self.presented)

    @property
    def unshared(self):
        """For how many seconds no pair was refreshed, at most, since the trouble began: refreshes need the store."""
        times = [at for at, operation, status in self.requests if (operation, status) == (REFRESH, REFRESHED)]
        return max((later - at for at, later in pairwise(times) if later >= self.trouble[0]), default=math.inf)

    @property
    def refreshed(self):
        """How many pairs were refreshed."""
        return sum((operation, status) == (REFRESH, REFRESHED) for _, operation, status in self.requests)

    def issued_after(self):
        """Return how many pairs were issued after the trouble began."""
        return sum(at >= self.trouble[0] and operation == ISSUE for at, operation, _ in self.requests)


class Deployment:
    """The servers of a plan, what workers need to use them, and the trouble."""

    def __init__(self, plan):
        self._plan, self._resources = plan, ExitStack()
        self._servers = self._bouncer = None

    def __enter__(self):
        start = self._resources.enter_context
        match self._plan.deployment:
            case "sentinel":
                self._servers = start(SentinelServers())
            case "cluster":
                self._servers = start(ClusterServers())
            case _:
                self._servers = start(PostgresServer())
                self._bouncer = start(PgBouncer(self._servers)) if self._plan.deployment == "pgbouncer" else None
        return self

    def __exit__(self, *_):
        self._resources.close()

    @property
    def settings(self):
        plan, servers = self._plan, self._servers
        match plan.deployment:
            case "sentinel":
                return {"sentinel": servers.port, "min_replicas": plan.min_replicas}
            case "cluster":
                return {"cluster": servers.port}
            case "postgres":
                return {"postgres": servers.dsn}
            case _:
                return {"postgres": self._bouncer.dsn, "listen_dsn": servers.dsn}

    def prepare(self, key):
        """Create what the workers expect to find."""
        if isinstance(self._servers, PostgresServer):
            asyncio.run(create_tables(self._servers.dsn, key))

    def trouble(self, store_keys):
        """Do what the plan says, and return when it is over."""
        match self._plan.deployment:
            case "sentinel":
                before = self._servers.primary_port
                self._servers.fail_over()
                while self._servers.primary_port == before:
                    time.sleep(0.05)
            case "cluster":
                for key in store_keys:
                    with self._servers.moving(f"signalwire-tokens:{{{key}}}:pair"):
                        time.sleep(0.01)
            case "postgres":
                self._servers.stop()
                time.sleep(self._plan.away)
                self._servers.start()
            case _:
                self._bouncer.kill()
                time.sleep(self._plan.away)
                self._bouncer.start()


async def create_tables(dsn, key):
    async with PostgresStore(dsn, encryption_keys=key, timeout=60) as store:
        await store.create_schema()


class Run:
    """Processes that run. `scenario` is a coroutine function that gets the run, and decides when the trouble begins."""

    def __init__(self, plan, scenario):
        self.plan, self.figures, self._stack = plan, Figures(), AsyncExitStack()
        self._scenario, self._deployment = scenario, Deployment(plan)
        self._key, self._emulator = generate_encryption_key(), None
        self._workers = []
        self._current = {}  # the latest token of each process and subscriber
        self._references = [f"subscriber-{number}" for number in range(plan.subscribers)]

    async def __call__(self):
        plan, figures = self.plan, self.figures
        life = Lifetimes(access=timedelta(seconds=plan.life), refresh=timedelta(seconds=plan.life + REFRESHABLE))
        with self._deployment:
            await asyncio.to_thread(self._deployment.prepare, self._key)
            async with Emulator(lifetimes=life, on_request=self._note) as self._emulator, self._stack:
                handlers = self._emulator.service.handlers
                handlers[REFRESH] = partial(self._refresh, handlers[REFRESH])
                self._workers = [await self._start(slot) for slot in range(plan.processes)]
                sampling = asyncio.create_task(self._sample())
                await self._scenario(self)
                sampling.cancel()
                for process, reading in self._workers:
                    process.terminate()
                    await reading
        return figures

    async def restart_one(self):
        """Kill the first process, and start another one in its place."""
        process, reading = self._workers[0]
        process.kill()
        await reading
        self._workers[0] = await self._start(0)

    async def make_trouble(self):
        """Begin the trouble, and return when it is over."""
        began = time.monotonic()
        self.figures.trouble = began, math.inf
        await asyncio.to_thread(self._deployment.trouble, self._store_keys())
        if self.plan.deployment == "sentinel":
            await self.restart_one()
        self.figures.trouble = began, time.monotonic()

    def _store_keys(self):
        client, policy = self._emulator.client(), RefreshPolicy(min_lifetime=self.plan.life)
        return [SubscriberSession(client, reference, policy=policy).store_key for reference in self._references]

    def _note(self, entry):
        if entry.operation in (ISSUE, REFRESH):
            self.figures.requests.append((time.monotonic(), entry.operation, entry.status))

    def _refresh(self, handle, call):
        """Count a refresh token before the emulator handles it."""
        claims = self._emulator.service.sealer.open(json.loads(call.body)["refresh_token"])
        self.figures.presented[claims.id] += 1
        return handle(call)

    async def _start(self, slot):
        settings = {
            "client": [self._emulator.space, self._emulator.project_id, self._emulator.api_token],
            "store": self._deployment.settings,
            "key": self._key,
            "references": self._references,
            "life": self.plan.life,
            "refreshable": REFRESHABLE,
            "rotate": self.plan.rotate,
        }
        process = await self._stack.enter_async_context(run_program(WORKER, json.dumps(settings)))
        await process.stdout.readline()
        return process, asyncio.create_task(self._read(process, slot))

    async def _read(self, process, slot):
        """Read what a process writes: for each token, when it was last returned, and the one after it."""
        opened = self._emulator.service.sealer.open
        while (line := await process.stdout.readline()).endswith(b"\n"):
            number, at, token = json.loads(line)
            if at is None:
                self.figures.without.append(token)
                continue
            before = self._current.get((slot, number))
            self.figures.expired += before is not None and at >= opened(before).expires_at
            if token:
                self.figures.tokens += 1
                self._current[slot, number] = token

    async def _sample(self):
        """Note again and again for which part of the subscribers all processes have the same token."""
        while True:
            agreed = sum(
                len({self._current.get((slot, number)) for slot in range(self.plan.processes)}) == 1
                for number in range(self.plan.subscribers)
            )
            self.figures.agreement.append((time.monotonic(), agreed / self.plan.subscribers))
            await asyncio.sleep(SAMPLED_EVERY)


async def for_a_while(run):
    """Make trouble in the middle."""
    await asyncio.sleep(run.plan.seconds / 2)
    await run.make_trouble()
    await asyncio.sleep(run.plan.seconds / 2)


def report(plan, figures):
    """Print what was seen, and return whether all promises were kept."""
    began, over = figures.trouble
    statuses = Counter((operation, status) for _, operation, status in figures.requests)
    before = [part for at, part in figures.agreement if began - plan.life / 2 < at < began]
    after = [part for at, part in figures.agreement if at >= began]
    print(
        f"{plan.deployment}: {plan.processes} processes, {plan.subscribers} subscribers, tokens of {plan.life:g} s, "
        f"{plan.seconds:g} s, min_replicas={plan.min_replicas}; the trouble took {over - began:.1f} s"
    )
    print(
        f"  {figures.tokens} tokens, {figures.expired} of them returned after their end; used refresh tokens "
        f"presented: {figures.used}; {len(figures.without)} calls without a token"
    )
    print(
        f"  shared again after {figures.unshared:.1f} s without a refresh; all processes had the same token for "
        f"{min(before, default=0):.0%} of the subscribers or more before the trouble, and for "
        f"{min(after, default=0):.0%} or more since; pairs issued since: {figures.issued_after()}; "
        f"requests: {dict(statuses)}"
    )
    return not figures.expired and not (figures.used and plan.min_replicas)


def main(arguments):
    parser = argparse.ArgumentParser(prog="outages.py", description=__doc__)
    parser.add_argument("deployment", choices=["sentinel", "cluster", "postgres", "pgbouncer"])
    for field in attrs.fields(Plan)[1:]:
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=field.type, default=field.default)
    plan = Plan(**vars(parser.parse_args(arguments)))
    return 0 if report(plan, asyncio.run(Run(plan, for_a_while)())) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
