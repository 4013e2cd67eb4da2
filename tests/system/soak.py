"""Hold a fleet to its promise in real time: many short-lived tokens, an emulator in another process, random faults.

`python tests/soak.py` takes three minutes. It prints what it saw, and fails where a session was ever without a live
token, where memory grew after the first minute, or where anything was warned of or left unread.
"""

import argparse
import asyncio
import gc
import json
import logging
import random
import subprocess
import sys
import time
import warnings
from collections import Counter
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import median

from signalwire_tokens import (
    Lifetimes,
    RefreshPolicy,
    SessionFleet,
    SessionState,
    SignalWireTokenError,
    TokenClient,
    is_transient,
)
from signalwire_tokens.emulator import EMPTY, HTML, Delay, Emulator, Reset, Stall, Status, Truncate

LIFE = 20.0
WINDOW = 5.0
LOOK_EVERY = 0.25
MOST_GROWTH = 0.03
# A fault every so often, and now and then some time in which nothing succeeds, as a share of a life.
FAULT_EVERY, FAULT_LASTS, OUTAGE_EVERY, LONGEST_OUTAGE = 0.1, 0.02, 20.0, 0.075
TIMEOUT = (
    0.03  # of a life: with an outage and two faults, it is within the fifth that each token has left when it is due
)
FAULTS = (
    Status(500),
    Status(503),
    Status(502, applied=True),
    Status(429),
    Status(429, retry_after=1),
    Status(503, retry_after=1, as_date=True),
    Reset(),
    Reset(applied=True),
    Delay(0.5),
    Delay(3.0),
    Stall(),
    Stall(applied=True),
    Truncate(),
    HTML,
    EMPTY,
)
RENEWALS = ("create_subscriber_token", "refresh_subscriber_token")


def lifetimes(life):
    return Lifetimes(access=timedelta(seconds=life), refresh=timedelta(seconds=life + WINDOW))


async def serve(life, seed):
    """Serve until whoever started this lets go of its standard input; let things go wrong in the meantime."""
    random.seed(seed)
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, gone.set)
    async with Emulator(lifetimes=lifetimes(life)) as emulator:
        print(json.dumps([emulator.space, emulator.project_id, emulator.api_token]), flush=True)
        works = fail_now_and_then(emulator), fail_altogether(emulator, LONGEST_OUTAGE * life)
        tasks = [asyncio.create_task(work) for work in works]
        await gone.wait()
        for task in tasks:
            task.cancel()
        print(json.dumps(Counter(entry.fault or "none" for entry in emulator.journal)), flush=True)


async def fail_now_and_then(emulator):
    while True:
        await asyncio.sleep(random.expovariate(1 / FAULT_EVERY))
        emulator.fail(random.choice(FAULTS), operation=random.choice(RENEWALS))
        await asyncio.sleep(FAULT_LASTS)  # whoever comes then; what nobody met must not lie in wait
        emulator.heal()


async def fail_altogether(emulator, longest):
    while True:
        await asyncio.sleep(random.expovariate(1 / OUTAGE_EVERY))
        async with emulator.unreachable():
            await asyncio.sleep(random.uniform(longest / 4, longest))


@contextmanager
def emulated(life, seed):
    """Run the emulator in a process of its own; give its settings, and where it tells what it did."""
    command = [sys.executable, __file__, "--serve", "--life", str(life), "--seed", str(seed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.stdin.close()


class Soak:
    """What was seen."""

    def __init__(self):
        self.most_late = self.asked = self.accepted = self.looks = 0
        self.refused, self.lost, self.resident = [], [], []

    async def look(self, fleet, client, references):
        """See whether anybody is without a live token, and ask the service about some of those that are given."""
        self.looks += 1
        self.most_late = max(self.most_late, fleet.snapshot().sessions[SessionState.LATE])
        given = []
        for reference in random.sample(references, min(200, len(references))):
            self.asked += 1
            try:
                given.append(await fleet.token(reference))
            except SignalWireTokenError as error:
                self.refused.append(f"{reference}: {error}")
        for token in given[-1:]:
            try:
                await client.subscriber_info(token)
            except SignalWireTokenError as error:
                if not is_transient(error):
                    self.refused.append(f"the service says of a token: {error}")
            else:
                self.accepted += 1

    def note_memory(self, at):
        statm = Path("/proc/self/statm")
        self.resident.append((at, int(statm.read_text().split()[1]) * 4096))

    def growth(self, after):
        """Tell by how much memory grew after a time, from the first fifth of what was seen to the last."""
        sizes = [size for at, size in self.resident if at >= after]
        fifth = max(1, len(sizes) // 5)
        return median(sizes[-fifth:]) / median(sizes[:fifth]) - 1


async def run(settings, options, soak):
    asyncio.get_running_loop().set_exception_handler(lambda _, context: soak.lost.append(context["message"]))
    policy = RefreshPolicy(min_life=options.life / 2)
    references = [f"user-{number}@example.com" for number in range(options.sessions)]
    client = TokenClient(*settings, lifetimes=lifetimes(options.life), timeout=TIMEOUT * options.life)
    async with client, SessionFleet(client, policy=policy, rate=2000, concurrency=64) as fleet:
        sessions = [fleet.session(reference) for reference in references]
        for session in sessions:
            async for _ in session.rotations():
                break  # it has its first pair
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < options.seconds:
            await soak.look(fleet, client, references)
            soak.note_memory(passed)
            await asyncio.sleep(LOOK_EVERY)
        soak.rotations = sum(session.generation - 1 for session in sessions)
        soak.snapshot = fleet.snapshot()
        soak.still_the_same = all(
            fleet.session(reference) is session for reference, session in zip(references, sessions, strict=True)
        )
    del sessions, fleet, client
    gc.collect()
    soak.left = len(asyncio.all_tasks()) - 1


def report(soak, faults, warned, options):
    met = {name: count for name, count in faults.items() if name != "none"}
    growth = soak.growth(options.seconds / 3)
    print(
        f"{options.sessions:,} sessions, lives of {options.life:g} s, for {options.seconds:g} s: "
        f"{soak.rotations:,} rotations"
    )
    print(f"faults met: {sum(met.values()):,}: {met}")
    print(f"looked {soak.looks:,} times: at most {soak.most_late} sessions without a live token")
    print(f"asked for {soak.asked:,} tokens: {len(soak.refused)} refused; the service was asked of {soak.accepted:,}")
    print(f"memory grew by {100 * growth:.1f} % after the first third, to {soak.resident[-1][1] / 2**20:.0f} MiB")
    print(f"warnings: {len(warned)}, failures left unread: {len(soak.lost)}, tasks left: {soak.left}")
    for text in [*soak.refused[:10], *soak.lost[:10], *map(str, warned[:10])]:
        print("  BROKEN", text)
    clean = not (soak.most_late or soak.refused or soak.lost or warned or soak.left)
    return clean and growth <= MOST_GROWTH and soak.still_the_same and sum(met.values()) > 0


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--life", type=float, default=LIFE)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        asyncio.run(serve(options.life, options.seed))
        return 0
    soak = Soak()
    with warnings.catch_warnings(record=True) as warned, emulated(options.life, options.seed) as (process, settings):
        warnings.simplefilter("always")
        asyncio.run(run(settings, options, soak))
        process.stdin.close()
        faults = json.loads(process.stdout.readline())
    return 0 if report(soak, faults, warned, options) else 1


if __name__ == "__main__":
    logging.getLogger("signalwire_tokens").setLevel(logging.CRITICAL)  # which would be a line for each fault
    sys.exit(main(sys.argv[1:]))
