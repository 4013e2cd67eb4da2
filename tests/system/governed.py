"""Many processes, one account: fleets that share a `RedisGovernor`, and are killed, with Redis or without it.

`python tests/system/governed.py` runs 8 processes with 200 subscribers each for a minute, and kills one every five
seconds. `--without-redis 15` stops the server for 15 seconds in the middle. `--throttled 10` has the emulator answer
one request with a 429 that asks for 10 seconds. `--alone` gives each process a limit of its own, for comparison. It
prints what the emulator saw, and fails

- if a process returned a token that had expired,
- if a refresh token was presented twice,
- if the emulator refused a request, except for a refresh token that has expired because the machine is too slow,
- with a governor, if ten seconds had more requests than ten times the rate.

Ten seconds are SignalWire's own measure. In a single second, an emulator that was interrupted sees the requests of more
than a second, so that figure is only printed.
"""

import argparse
import asyncio
import json
import math
import os
import random
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path

import attrs

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a program, it finds the tests' helpers there
from signalwire_tokens import Lifetimes
from signalwire_tokens.emulator import Emulator, Status
from signalwire_tokens.stores import generate_encryption_key
from support.processes import run_program
from support.redis_server import RedisServer

WORKER = Path(__file__).parent / "governed_worker.py"
REFRESHABLE = 5.0
ISSUE, REFRESH = "create_subscriber_token", "refresh_subscriber_token"
TOKENS = {ISSUE: 200, REFRESH: 201}
THROTTLED, THROTTLED_AFTER = 429, 5.0
WINDOW = 10.0  # seconds in which SignalWire counts requests


@attrs.define
class Figures:
    """What was seen."""

    arrivals: list = attrs.Factory(list)  # when each request came
    refused: Counter = attrs.Factory(Counter)
    presented: Counter = attrs.Factory(Counter)  # refresh tokens, by how often each was presented
    too_late: int = 0  # refresh tokens that were presented after their end
    tokens: Counter = attrs.Factory(Counter)  # by process
    expired: int = 0
    without: list = attrs.Factory(list)  # what each call said that had to do without
    kills: int = 0
    throttled_at: float = math.inf  # when the emulator asked for a pause
    shares: list = attrs.Factory(list)  # of the processes, while sessions waited in all of them

    @property
    def used(self):
        """How often a refresh token was presented that was presented before."""
        return self.presented.total() - len(self.presented)

    def most_within(self, seconds):
        """Return how many requests came in the busiest period of so many seconds."""
        first = most = 0
        for last, at in enumerate(self.arrivals):
            while at - self.arrivals[first] >= seconds:
                first += 1
            most = max(most, last - first + 1)
        return most


class Worker:
    """A process that runs, and what it writes."""

    def __init__(self, process, slot, count, opened):
        self.process, self.slot, self._count, self._open = process, slot, count, opened
        self._current = {}
        self.reading = None

    async def read(self):
        while (line := await self.process.stdout.readline()).endswith(b"\n"):
            number, at, token = json.loads(line)
            before = self._current.get(number)
            has_expired = None not in (at, before) and at >= self._open(before).expires_at
            self._count(self.slot, token, has_token=at is not None, has_expired=has_expired)
            if at is not None and token:
                self._current[number] = token


@attrs.frozen
class Plan:
    """How many processes run, and what becomes of them."""

    processes: int = 8
    sessions: int = 200
    life: float = 8.0
    rate: float = 400.0
    seconds: float = 60.0
    kill_every: float = 5.0
    without_redis: float = 0.0
    throttled: int = 0
    governed: bool = True
    concurrency: int = 32


class Run:
    """Processes that run. `scenario` is a coroutine function that gets the run, and decides what becomes of them."""

    def __init__(self, plan, scenario):
        self.plan, self.figures, self.redis = plan, Figures(), RedisServer()
        self._scenario, self._stack, self._workers = scenario, AsyncExitStack(), {}
        self._key, self._emulator = generate_encryption_key(), None

    async def __call__(self):
        plan = self.plan
        life, refreshable = timedelta(seconds=plan.life), timedelta(seconds=plan.life + REFRESHABLE)
        lifetimes = Lifetimes(access=life, refresh=refreshable)
        with self.redis:
            async with Emulator(lifetimes=lifetimes, on_request=self._note) as self._emulator, self._stack:
                handlers = self._emulator.service.handlers
                handlers[REFRESH] = partial(self._refresh, handlers[REFRESH])
                workers = await asyncio.gather(*(self._start(slot) for slot in range(plan.processes)))
                for worker in workers:
                    worker.process.stdin.write(b"go\n")
                await self._scenario(self)
                await self._end()
        return self.figures

    def throttle(self, seconds):
        """Ask the process whose request comes next for a pause."""
        self._emulator.fail(Status(THROTTLED, retry_after=seconds))

    async def kill_one(self):
        """Kill a process, and start another one for its subscribers."""
        worker = random.choice(list(self._workers.values()))
        worker.process.kill()
        await worker.process.wait()
        await worker.reading
        self.figures.kills += 1
        (await self._start(worker.slot)).process.stdin.write(b"go\n")

    def _note(self, entry):
        if entry.operation not in TOKENS:
            return
        self.figures.arrivals.append(time.monotonic())
        if entry.status == THROTTLED:
            self.figures.throttled_at = time.monotonic()
        elif entry.status != TOKENS[entry.operation]:
            self.figures.refused[entry.operation, entry.status] += 1

    def _refresh(self, handle, call):
        """Count a refresh token before the emulator handles it."""
        claims = self._emulator.service.sealer.open(json.loads(call.body)["refresh_token"])
        self.figures.presented[claims.id] += 1
        self.figures.too_late += claims.expires_at <= time.time()
        return handle(call)

    async def _start(self, slot):
        plan, emulator = self.plan, self._emulator
        settings = {
            "client": [emulator.space, emulator.project_id, emulator.api_token],
            "redis": self.redis.url,
            "key": self._key,
            "prefix": f"governed-{os.getpid()}:",
            "references": [f"subscriber-{slot}-{number}" for number in range(plan.sessions)],
            **{name: getattr(plan, name) for name in ("life", "rate", "governed", "processes", "concurrency")},
        }
        program = run_program(WORKER, json.dumps(settings), stdin=asyncio.subprocess.PIPE)
        process = await self._stack.enter_async_context(program)
        await process.stdout.readline()
        worker = Worker(process, slot, self._count, emulator.service.sealer.open)
        worker.reading = asyncio.create_task(worker.read())
        self._workers[slot] = worker
        return worker

    def _count(self, slot, token, *, has_token, has_expired):
        """Count what a process has written. When the first one has all its tokens, note what the others have."""
        figures, plan = self.figures, self.plan
        figures.expired += has_expired
        if not has_token:
            figures.without.append(token)
        elif token:
            figures.tokens[slot] += 1
            if not figures.shares and figures.tokens[slot] == plan.sessions:
                figures.shares = sorted(figures.tokens[one] / figures.tokens.total() for one in range(plan.processes))

    async def _end(self):
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in self._workers.values():
            await worker.process.wait()
            await worker.reading


async def for_a_while(run):
    """Kill a process every so often, and stop Redis in the middle."""
    plan = run.plan

    async def kill():
        until = time.monotonic() + plan.seconds - plan.kill_every
        while plan.kill_every and time.monotonic() < until:
            await asyncio.sleep(plan.kill_every)
            await run.kill_one()

    async def stop_redis():
        await asyncio.sleep((plan.seconds - plan.without_redis) / 2)
        run.redis.kill()
        await asyncio.sleep(plan.without_redis)
        run.redis.start()

    async def throttle():
        await asyncio.sleep(THROTTLED_AFTER)
        run.throttle(plan.throttled)

    tasks = [asyncio.sleep(plan.seconds), kill()]
    if plan.without_redis:
        tasks.append(stop_redis())
    if plan.throttled:
        tasks.append(throttle())
    await asyncio.gather(*tasks)


def report(plan, figures):
    """Print what was seen, and return whether all promises were kept."""
    arrivals = figures.arrivals
    limit = "one limit for all" if plan.governed else "a limit for each process"
    print(
        f"{plan.processes} processes, {plan.sessions} subscribers each, tokens of {plan.life:g} s, {plan.seconds:g} s, "
        f"{limit}: {plan.rate:g} in a second; {figures.kills} kills, {plan.without_redis:g} s without Redis"
    )
    print(
        f"  {len(arrivals)} requests, {figures.most_within(1.0)} in the busiest second, "
        f"{figures.most_within(WINDOW)} in the busiest ten"
    )
    if plan.throttled:
        after = [at - figures.throttled_at for at in arrivals if 0 < at - figures.throttled_at < plan.throttled]
        print(
            f"  {len(after)} requests of all processes in the {plan.throttled} s after a 429, "
            f"the last one after {max(after, default=0.0):.3f} s"
        )
    if figures.shares:
        slowest, fastest = (plan.processes * share for share in (figures.shares[0], figures.shares[-1]))
        print(f"  at first: the slowest process had {slowest:.2f} of an equal share, the fastest {fastest:.2f}")
    print(
        f"  {figures.tokens.total()} tokens, {figures.expired} of them returned after their end; used refresh tokens "
        f"presented: {figures.used}; refused requests: {figures.refused.total()}, of them for expired refresh tokens: "
        f"{figures.too_late}; {len(figures.without)} calls without a token"
    )
    is_within = not plan.governed or figures.most_within(WINDOW) <= WINDOW * plan.rate
    is_refused = figures.refused.total() > figures.too_late
    return not figures.expired and not figures.used and not is_refused and is_within


def main(arguments):
    parser = argparse.ArgumentParser(prog="governed.py", description=__doc__)
    for field in attrs.fields(Plan):
        if field.name != "governed":
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=field.type, default=field.default)
    parser.add_argument("--alone", dest="governed", action="store_false", help="give each process a limit of its own")
    plan = Plan(**vars(parser.parse_args(arguments)))
    return 0 if report(plan, asyncio.run(Run(plan, for_a_while)())) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
