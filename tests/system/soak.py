"""Hold a fleet to its promise in real time: many short-lived tokens, an emulator in another process, random faults.

`python tests/system/soak.py` takes three minutes. It prints what it saw. It fails

- if a token was given out that had expired before it was asked for, or that the service refuses before it expires,
- if a session has no valid token once the faults have ended,
- if there was a warning, an exception that nothing read, or a task that was left running,
- if a session was without a valid token, or memory grew after the first third, though the machine was not busy.

A machine that is busy enough keeps any program from renewing in time. So both processes note for how long their event
loops come late. While that is more than `MOST_LATE` of a life, the last point is not judged; the others always are.
"""

import argparse
import asyncio
import gc
import json
import logging
import random
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter, deque
from contextlib import contextmanager, suppress
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

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a program, it finds the tests' helpers there
from support.processes import last_lines

LIFE = 20.0
WINDOW = 5.0
SEED = "soak"  # with it, this process can read the tokens that the emulator has made in another one
LONG, LONG_LIFE = 300.0, 7200.0  # seconds for what must succeed in the end, however slow the machine is
BEAT = 0.05  # seconds between two looks at how late an event loop is
USUAL = 0.005  # seconds by which any event loop is late
MOST_LATE = 0.05  # of a life: with more, the machine is too busy to judge whether a renewal came in time
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


class Lateness:
    """For how long an event loop has come late during the last life, in all."""

    def __init__(self, life):
        self._life, self._late = life, deque()

    async def watch(self):
        while True:
            due = time.monotonic() + BEAT
            await asyncio.sleep(BEAT)
            self.note(time.monotonic() - due)

    def note(self, seconds):
        """Note that the event loop came so late just now."""
        if seconds > USUAL:
            self._late.append((time.monotonic(), seconds))

    def total(self):
        while self._late and self._late[0][0] < time.monotonic() - self._life:
            self._late.popleft()
        return sum(seconds for _, seconds in self._late)


async def serve(life, seed):
    """Serve until the standard input ends, and do what its lines say: `fail`, and then `heal` and give long lives.

    A line is printed with the settings, one for each time that the event loop comes late, and one with the faults.
    """
    random.seed(seed)
    loop, commands = asyncio.get_running_loop(), asyncio.Queue()
    loop.add_reader(sys.stdin, lambda: commands.put_nowait(sys.stdin.readline().strip()))
    lateness = Lateness(life)
    lateness.note = lambda seconds: print(json.dumps(seconds), flush=True) if seconds > USUAL else None
    async with Emulator(lifetimes=lifetimes(life), seed=SEED) as emulator:
        print(json.dumps([emulator.space, emulator.project_id, emulator.api_token]), flush=True)
        tasks, watching = [], asyncio.create_task(lateness.watch())
        while command := await commands.get():
            if command == "fail":
                works = fail_now_and_then(emulator), fail_altogether(emulator, LONGEST_OUTAGE * life)
                tasks = [asyncio.create_task(work) for work in works]
            else:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                emulator.clear_faults()
                emulator.service._lifetimes = lifetimes(LONG_LIFE)
        loop.remove_reader(sys.stdin)
        watching.cancel()
        print(json.dumps(Counter(entry.fault or "none" for entry in emulator.requests)), flush=True)


async def fail_now_and_then(emulator):
    while True:
        await asyncio.sleep(random.expovariate(1 / FAULT_EVERY))
        emulator.fail(random.choice(FAULTS), operation=random.choice(RENEWALS))
        await asyncio.sleep(FAULT_LASTS)  # it is for the requests of this moment, and not for a later one
        emulator.clear_faults()


async def fail_altogether(emulator, longest):
    while True:
        await asyncio.sleep(random.expovariate(1 / OUTAGE_EVERY))
        async with emulator.unreachable():
            await asyncio.sleep(random.uniform(longest / 4, longest))


class Service:
    """The emulator in another process."""

    def __init__(self, process, soak):
        self._process, self._soak = process, soak
        self.settings = json.loads(process.stdout.readline())
        self.faults = None
        self._sealer = Emulator(seed=SEED).service.sealer

    def tell(self, command):
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()

    def end_of(self, token):
        """Return when a token expires, by the service's own account."""
        return self._sealer.open(token).expires_at

    def listen(self):
        """Note how late the other process's event loop is, and in the end which faults were met."""
        for line in self._process.stdout:
            said = json.loads(line)
            if isinstance(said, dict):
                self.faults = said
            else:
                self._soak.lateness.note(said)

    def end(self):
        self._process.stdin.close()


@contextmanager
def emulated(options, soak):
    """Run the emulator in a process of its own; in the end, show the last lines of its standard error."""
    command = [sys.executable, __file__, "--serve", "--life", str(options.life), "--seed", str(options.seed)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with tempfile.TemporaryFile() as errors:
        try:
            with subprocess.Popen(command, stderr=errors, **pipes) as process:
                service = Service(process, soak)
                listening = threading.Thread(target=service.listen)
                listening.start()
                try:
                    yield service
                finally:
                    service.end()
                    listening.join()
        finally:
            errors.seek(0)
            if written := last_lines(errors.read()):
                print(written, file=sys.stderr)


class Soak:
    """What was seen."""

    def __init__(self, options):
        self.lateness, self._most_late = Lateness(options.life), MOST_LATE * options.life
        self.most_late = self.asked = self.accepted = self.looks = self.judged = self.excused = 0
        self.broken, self.lost, self.resident = [], [], []

    def may_judge(self):
        """Return whether the machine has been quick enough during the last life."""
        return self.lateness.total() <= self._most_late

    async def look(self, fleet, client, service, references):
        """Look for sessions without a valid token, and ask the service about one of the tokens that are given out."""
        self.looks += 1
        late, given = fleet.snapshot().sessions[SessionState.UNAVAILABLE], None
        unavailable = []
        for reference in random.sample(references, min(200, len(references))):
            self.asked += 1
            asked = time.time()
            try:
                given = await fleet.token(reference)
            except SignalWireTokenError as error:
                unavailable.append(f"{reference}: {error}")
            else:
                self.check(service, given, asked)
        if given is not None:
            await self.ask(client, service, given)
        if self.may_judge():
            self.judged += 1
            self.most_late = max(self.most_late, late)
            self.broken += unavailable
        else:
            self.excused += len(unavailable)

    def check(self, service, token, asked):
        """Compare a token's end with when it was asked for."""
        if (end := service.end_of(token)) <= asked:
            self.broken.append(f"a token was given out that had expired {asked - end:.1f} s before")

    async def ask(self, client, service, token):
        """Ask the service about a token; one that expires meanwhile may be refused."""
        try:
            await client.subscriber_info(token)
        except SignalWireTokenError as error:
            if not is_transient(error) and time.time() < service.end_of(token):
                self.broken.append(f"the service says of a token: {error}")
        else:
            self.accepted += 1

    async def await_recovery(self, fleet, service, references):
        """Wait until each session has given out a valid token.

        Tokens are long-lived from now on. If a session still has a short-lived one, invalidate it, as an app does when
        its token is refused.
        """
        give_up = time.monotonic() + LONG
        for reference in references:
            while time.monotonic() < give_up:
                asked = time.time()
                with suppress(SignalWireTokenError):
                    token = await fleet.token(reference)
                    if service.end_of(token) > asked:
                        break
                    fleet.session(reference).invalidate(token)
                await asyncio.sleep(LOOK_EVERY)
            else:
                self.broken.append(f"{reference} has no valid token, though the faults have ended")
                return

    def note_memory(self, at):
        statm = Path("/proc/self/statm")
        self.resident.append((at, int(statm.read_text().split()[1]) * 4096))

    def growth(self, after):
        """Return by how much memory grew after a time, from the first fifth of what was seen to the last."""
        sizes = [size for at, size in self.resident if at >= after]
        fifth = max(1, len(sizes) // 5)
        return median(sizes[-fifth:]) / median(sizes[:fifth]) - 1


async def run(service, options, soak):
    asyncio.get_running_loop().set_exception_handler(lambda _, context: soak.lost.append(context["message"]))
    policy = RefreshPolicy(min_lifetime=options.life / 2)
    references = [f"user-{number}@example.com" for number in range(options.sessions)]
    client = TokenClient(*service.settings, lifetimes=lifetimes(options.life), timeout=LONG)
    watching = asyncio.create_task(soak.lateness.watch())
    async with client, SessionFleet(client, policy=policy, max_rate=2000, max_concurrency=64) as fleet:
        sessions = [fleet.session(reference) for reference in references]
        for session in sessions:
            async for _ in session.rotations():
                break  # it has its first pair
        client.timeout = TIMEOUT * options.life
        service.tell("fail")
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < options.seconds:
            await soak.look(fleet, client, service, references)
            soak.note_memory(passed)
            await asyncio.sleep(LOOK_EVERY)
        await soak.look(fleet, client, service, references)
        soak.judge_memory = soak.judged == soak.looks
        service.tell("heal")
        client.timeout, client.lifetimes = LONG, lifetimes(LONG_LIFE)
        await soak.await_recovery(fleet, service, references)
        soak.rotations = sum(session.generation - 1 for session in sessions)
        soak.still_the_same = all(
            fleet.session(reference) is session for reference, session in zip(references, sessions, strict=True)
        )
    watching.cancel()
    await asyncio.wait([watching])
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
    print(f"judged {soak.judged:,} of {soak.looks:,} looks; in the others, the machine was too busy")
    print(
        f"at most {soak.most_late} sessions without a valid token when judged; {soak.excused} calls refused otherwise"
    )
    print(f"asked for {soak.asked:,} tokens; the service was asked of {soak.accepted:,}")
    print(f"memory grew by {100 * growth:.1f} % after the first third, to {soak.resident[-1][1] / 2**20:.0f} MiB")
    print(f"warnings: {len(warned)}, failures left unread: {len(soak.lost)}, tasks left: {soak.left}")
    for text in [*soak.broken[:10], *soak.lost[:10], *map(str, warned[:10])]:
        print("  BROKEN", text)
    clean = not (soak.most_late or soak.broken or soak.lost or warned or soak.left)
    is_steady = growth <= MOST_GROWTH or not soak.judge_memory
    was_tried = sum(met.values()) > 0 or not soak.judged
    return clean and is_steady and soak.still_the_same and was_tried


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--life", type=float, default=LIFE)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        asyncio.run(serve(options.life, options.seed))
        return 0
    soak = Soak(options)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with emulated(options, soak) as service:
            asyncio.run(run(service, options, soak))
    return 0 if report(soak, service.faults, warned, options) else 1


if __name__ == "__main__":
    logging.getLogger("signalwire_tokens").setLevel(logging.CRITICAL)  # which would be a line for each fault
    sys.exit(main(sys.argv[1:]))
