"""Weeks of sessions in minutes: `python tests/system/simulation.py [--sessions 500] [--days 30] [--mode family]`.

A virtual clock, the emulator's service called in process, and a seeded schedule of everything that goes wrong. It holds
sessions to their promise: as long as an outage has not lasted longer than the token at its start would live, no call of
`token()` raises or returns a token that the service refuses.
"""

import argparse
import asyncio
import json
import logging
import math
import random
import sys
from collections import Counter
from uuid import uuid4

from signalwire_tokens import (
    ConnectionFailed,
    Lifetimes,
    RefreshPolicy,
    SessionState,
    SubscriberSession,
    TimedOut,
    TokenClient,
    TokenUnavailable,
)
from signalwire_tokens.clock import VirtualClock
from signalwire_tokens.emulator.calls import Call, failure
from signalwire_tokens.emulator.rotation import ROTATIONS
from signalwire_tokens.emulator.service import Service
from signalwire_tokens.keeper import engine_of
from signalwire_tokens.models import Secret

EPOCH = 1_900_000_000.0
HOUR, DAY = 3600.0, 86400.0
TIMEOUT = 10.0
OUTAGES = ("refused", "stalled", "500", "503 with Retry-After", "429", "lost answers")
POLICY = RefreshPolicy()


class Line:
    """What stands in for the network: it carries calls to the service, or meets them with what goes wrong."""

    closed = leaks = False

    def check(self):
        """It is open."""

    def __init__(self, clock, service, world):
        self.clock, self.service, self.world = clock, service, world

    async def aclose(self):
        """Nothing is open."""

    async def send(self, request, trip):
        """Carry a call, as the schedule has it."""
        world, task = self.world, asyncio.current_task().get_name()
        session = world.sessions_by_task[task]
        world.note_attempt(session)
        kind = world.outage or world.mishap()
        world.faults[kind] += kind is not None
        if kind is not None:
            world.note_trouble(session)
            world.note_failure(session)
        match kind:
            case "refused":
                raise ConnectionFailed("refused", sent=False, operation=request.operation)
            case "stalled":
                trip.sent = None
                world.stalled.add(session)
                await self.clock.sleep(TIMEOUT)
                world.end_stall(session)
                raise TimedOut("no answer", sent=None, operation=request.operation)
            case "500":
                return self.answer(failure(500))
            case "503 with Retry-After" | "429":
                return self.answer(failure(int(kind[:3])), **{"Retry-After": str(world.asks_for_quiet())})
            case "slow answers":
                seconds = random.uniform(0.5, 2 * TIMEOUT)
                if seconds > TIMEOUT:
                    self.call(request, trip)
                    await self.clock.sleep(TIMEOUT)
                    raise TimedOut("too slow", sent=None, operation=request.operation)
                await self.clock.sleep(seconds)
        reply = self.call(request, trip)
        if kind == "lost answers":
            raise ConnectionFailed("reset", sent=None, operation=request.operation)
        world.note_success(session)
        return self.answer(reply)

    def call(self, request, trip):
        return self.service.handle(
            Call(method=request.method, path=request.path, authorization=trip.authorization.value, body=request.body)
        )

    def answer(self, reply, **headers):
        return reply.status, headers, Secret(json.dumps(reply.body).encode())


class World:
    """A machine with many sessions, and all that happens to it."""

    def __init__(self, *, sessions, days, mode, seed):
        random.seed(f"{seed} {mode}")
        self.days, self.mode, self.count = days, mode, sessions
        self.lifetimes = Lifetimes()
        self.life = self.lifetimes.access.total_seconds()
        self.clock = VirtualClock(wall=EPOCH)
        self.service = Service(
            now=self.truth,
            lifetimes=self.lifetimes,
            rotation=ROTATIONS[mode],
            channel=None,
            page_size=10,
            project_id=str(uuid4()),
            api_token="PTsimulated",
            key=bytes(32),
        )
        self.client = TokenClient(
            "simulated.example", self.service.project_id, self.service.api_token, clock=self.clock, timeout=600
        )
        self.client.sender = Line(self.clock, self.service, self)
        self.sessions, self.sessions_by_task = [], {}
        self.outage, self.outage_ends = None, 0.0
        self.trouble, self.failing, self.last_attempt = {}, {}, {}
        self.faults, self.calls = Counter(dict.fromkeys((*OUTAGES, "slow answers"), 0)), Counter()
        self.attempts = self.failed = self.waited = 0
        self.closest = math.inf
        self.allowed = 0.0
        self.broken = []
        self.asking = set()
        self.suspended = self.started = self.dead = self.dead_within = 0.0
        self.woke, self.recovering, self.stalled = -math.inf, set(), set()
        self.alive = {}

    def truth(self):
        """The service's time: that of the world, whatever the machine's wall clock says."""
        return EPOCH + self.clock.now()

    # What goes wrong.

    def mishap(self):
        """One request in a hundred, while there is no outage; a start that takes too long is told to who starts."""
        draw = random.random() if self.started else 1.0
        return "lost answers" if draw < 0.005 else "slow answers" if draw < 0.01 else None

    def asks_for_quiet(self):
        return max(1, min(600, math.ceil(self.outage_ends - self.clock.now())))

    def schedule(self):
        """Draw up what will happen: outages one after another, now and then a suspend or a jump of the wall clock."""
        self.clock.call_later(random.expovariate(1 / (20 * HOUR)), self.begin_outage)
        self.clock.call_later(random.expovariate(1 / DAY), self.suspend)
        self.clock.call_later(random.expovariate(1 / (7 * DAY)), self.jump)
        self.clock.call_later(1, self.poll)

    def begin_outage(self):
        seconds = math.exp(random.uniform(math.log(2), math.log(3 * HOUR)))
        self.outage, self.outage_ends = random.choice(OUTAGES), self.clock.now() + seconds
        for session in self.sessions:
            self.note_trouble(session)
        self.clock.call_later(seconds, self.end_outage)

    def end_outage(self):
        self.outage = None
        self.settle_troubles()
        self.clock.call_later(random.expovariate(1 / (20 * HOUR)), self.begin_outage)

    def suspend(self):
        seconds = math.exp(random.uniform(math.log(60), math.log(10 * HOUR)))
        self.suspended += seconds
        self.faults["suspends"] += 1
        self.clock.suspend(seconds)
        self.woke = self.clock.now()
        self.clock.call_later(random.expovariate(1 / DAY), self.suspend)

    def jump(self):
        self.faults["jumps of the wall clock"] += 1
        self.clock.set_wall(self.clock.wall() + random.choice((-DAY, DAY)))
        self.clock.call_later(random.expovariate(1 / (7 * DAY)), self.jump)

    # What is noted.

    def note_trouble(self, session):
        """An outage begins for a session: remember when, and how long its token would live."""
        self.trouble.setdefault(session, (self.clock.now(), session.expires_in.total_seconds()))

    def note_failure(self, session):
        self.failed += 1
        self.failing.setdefault(session, (self.clock.now(), session.expires_in.total_seconds()))

    def note_success(self, session):
        """A session gets a pair: reckon how long it had no live token, and whether it had to have one."""
        dead = self.clock.now() - engine_of(session).cycle.access_until if session.generation else 0.0
        if dead > 0:
            self.dead += dead
            slept = self.woke > engine_of(session).cycle.due  # and notices within half a minute, or when it is asked
            # Where an outage ends less than the floor before the token does, the next attempt comes that much too late:
            # whoever asks then is kept waiting for it, and not refused.
            if dead > POLICY.tuning.min_interval and not (
                slept or session in self.recovering or self.is_excused(session)
            ):
                self.dead_within += dead
                self.broken.append(f"{self.clock.now():.0f} s: {dead:.3f} s without a live token")
        self.recovering.discard(session)
        self.settle(session)
        if self.outage is not None:
            self.note_trouble(session)

    def end_stall(self, session):
        """For a session whose request was not answered, an outage lasts until it has given that up."""
        self.stalled.discard(session)
        if self.outage is None:
            self.end_trouble(session)

    def settle_troubles(self):
        for session in self.sessions:
            if session not in self.stalled:
                self.end_trouble(session)

    def end_trouble(self, session):
        if self.is_excused(session):
            self.recovering.add(session)
        self.settle(session)

    def settle(self, session):
        """An outage has ended for a session: reckon how many attempts its backoff made likely since the first failure.

        While the token lives, pauses double up to a minute, half of it on average, and shrink again with what is left;
        once it is dead, they are ten seconds on average.
        """
        self.trouble.pop(session, None)
        if session not in self.failing:
            return
        since, left = self.failing.pop(session)
        lasted = self.clock.now() - since
        live, late = min(lasted, left), max(0.0, lasted - left)
        doubling = math.log2(POLICY.backoff_max / POLICY.backoff_min)
        end_game = (
            math.log(240 / POLICY.tuning.min_interval) / -math.log(1 - POLICY.tuning.backoff_share)
            if live > left - 240
            else 0
        )
        self.allowed += 1 + min(live / POLICY.tuning.min_interval, doubling + live / 30 + end_game) + late / 10

    def note_attempt(self, session):
        now = self.clock.now()
        self.attempts += 1
        self.closest = min(self.closest, now - self.last_attempt.get(session, -math.inf))
        self.last_attempt[session] = now

    def is_excused(self, session):
        """Return whether the outage has lasted for longer than the token was valid when it began."""
        since, left = self.trouble.get(session, (math.inf, math.inf))
        return self.clock.now() - since >= left

    # What is asked.

    def poll(self):
        """Ask a fifth of the sessions for a token, each minute."""
        for session in random.sample(self.sessions, max(1, self.count // 5)):
            if session.state in (SessionState.FRESH, SessionState.DUE):
                coroutine = session.token()
                try:
                    coroutine.send(None)
                except StopIteration as done:
                    self.check(session, done.value)
                else:
                    coroutine.close()
                    self.broken.append("a live token was not given at once")
            else:
                task = asyncio.create_task(self.ask(session))
                self.asking.add(task)
                task.add_done_callback(self.asking.discard)
        self.clock.call_later(60, self.poll)

    async def ask(self, session):
        """Ask where there may be something to wait for; an outage may end while it does, too late for this caller."""
        self.waited += 1
        before, excused = self.clock.now(), self.is_excused(session)
        try:
            token = await session.token()
        except TokenUnavailable as error:
            self.calls["refused in a longer outage"] += 1
            if self.clock.now() - before > POLICY.wait_timeout + 0.001:
                self.broken.append(f"waited {self.clock.now() - before:.3f} s")
            if not (excused or self.is_excused(session)):
                self.calls["refused within the property"] += 1
                self.broken.append(f"{self.clock.now():.0f} s: {error} {error.cause}, {self.trouble.get(session)}")
        else:
            self.check(session, token)

    def check(self, session, token):
        """Ask the service whether a token that was given is live."""
        self.calls["answered"] += 1
        until = self.alive.get(token)
        if until is None:
            self.alive = {value: end for value, end in self.alive.items() if end > self.truth()}
            until = self.alive[token] = self.service.sealer.open(token).expires_at
        if until <= self.truth() and not self.is_excused(session):
            self.calls["given a dead token"] += 1
            self.broken.append(f"{self.clock.now():.0f} s: a token that died {self.truth() - until:.1f} s ago")

    async def run(self):
        for number in range(self.count):
            session = SubscriberSession(self.client, f"user-{number}@example.com")
            self.sessions.append(session)
            name = f"signalwire-tokens: renew {engine_of(session).label}"
            self.sessions_by_task[name] = session
        starting = [asyncio.create_task(session.start()) for session in self.sessions]
        await self.clock.advance(60)
        await asyncio.gather(*starting)
        self.started = self.clock.now()
        self.schedule()
        await self.clock.advance(self.days * DAY)
        hours = (self.clock.now() - self.started) / HOUR
        self.outage = None
        self.settle_troubles()
        await self.clock.advance(120)
        for session in self.sessions:
            await session.aclose()
        return self.report(hours)

    def report(self, hours):
        rotations = sum(session.generation - 1 for session in self.sessions)
        most = 1.2 * self.count * hours * HOUR / (0.8 * self.life)
        allowed = 1.2 * self.allowed + self.waited
        floor = min(POLICY.tuning.min_interval, self.life * POLICY.tuning.min_interval_share)
        print(
            f"{self.mode}: {self.count} sessions, {hours:,.0f} virtual hours each, {self.suspended / HOUR:,.0f} asleep"
        )
        print(f"  rotations   {rotations:>9,} of at most {most:,.0f}, 1.2 times one per 0.8 of a life")
        print(f"  failures    {self.failed:>9,} of at most {allowed:,.0f} attempts that the backoff allows")
        print(f"  attempts    {self.attempts:>9,}, never closer than {self.closest:.3f} s; the floor is {floor:.3f} s")
        for kind, number in self.faults.items():
            print(f"  {kind:<26} {number:>9,}") if kind else None
        for kind in ("answered", "refused in a longer outage", "refused within the property", "given a dead token"):
            print(f"  token() {kind:<27} {self.calls[kind]:>10,}")
        print(f"  seconds without a live token, of longer outages and of sleep {self.dead:>14,.0f}")
        print(f"  seconds without a live token, within the property            {self.dead_within:>14,.0f}")
        for text in self.broken[:10]:
            print("  BROKEN", text)
        return (
            not self.broken
            and not self.dead_within
            and rotations <= most
            and self.failed <= allowed
            and self.closest >= floor - 1e-6
        )


def main(arguments):
    parser = argparse.ArgumentParser(description="Hold sessions to their promise, for virtual weeks.")
    parser.add_argument("--sessions", type=int, default=500)
    parser.add_argument("--days", type=float, default=30)
    parser.add_argument("--mode", choices=[*ROTATIONS], action="append")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    try:
        kept = [
            asyncio.run(World(sessions=options.sessions, days=options.days, mode=mode, seed=options.seed).run())
            for mode in options.mode or [*ROTATIONS]
        ]
    finally:
        logging.disable(logging.NOTSET)
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
