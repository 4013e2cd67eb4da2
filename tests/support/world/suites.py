"""Applications that use the library in a world, each with a history that a seed decides.

`play(suite, seed)` runs one history and returns its `Record`. Each seed draws its own climate: which kinds of faults it
has, and how often. So one history has many stops and a steady network, and another one has the opposite.
"""

import asyncio
import shutil
import tempfile
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from unittest.mock import patch

import attrs

from signalwire_tokens import (
    Lifetimes,
    SessionFleet,
    SignalWireTokenError,
    SubscriberSession,
)
from signalwire_tokens.clock import timer_of
from signalwire_tokens.emulator.rotation import ROTATIONS
from signalwire_tokens.errors import CallInterrupted, CallRefused, RealtimeError
from signalwire_tokens.integrations.token_endpoint import Backend, BackendRequest
from signalwire_tokens.integrations.token_rules import RequestHead
from signalwire_tokens.keeper import engine_of
from signalwire_tokens.policy import SessionState
from signalwire_tokens.realtime import RealtimeConnection, RealtimeState, link
from signalwire_tokens.stores import MemoryStore

from .core import Found, Machine, Process, in_world
from .gateway import COUNT, Host, Http
from .judge import Judge
from .line_weather import LineWeather
from .realtime_judge import RealtimeJudge
from .space import Network, Space
from .stores import RedisServer, SqliteFile
from .weather import Climate, Weather

LIVES = (120.0, 600.0, 600.0, 7200.0)  # seconds that an access token is valid
OFTEN = attrs.asdict(Climate())  # the names of all faults
SHARES = {
    "mishap": (0.005, 0.2),
    "stranger": (0.05, 0.3),
    "store_mishap": (0.005, 0.1),
    "line_mishap": (0.01, 0.3),
    "gateway_mishap": (0.005, 0.1),
}
MEMORY = Path("/dev/shm")  # noqa: S108 - a folder without a disk; each history has a folder of its own in it
ENDS_AFTER = 90.0  # seconds in which all applications close


@attrs.frozen
class Record:
    """What came of one history."""

    suite: str
    seed: int
    failures: list
    trace: str
    steps: int
    hours: float
    tokens: int
    requests: int
    faults: dict
    history: str


class Scene:
    """One history: a world, with a space, a store, the weather, and the applications.

    `is_ending` is true once the applications shall close. `reissues` is whether the sessions of applications issue a
    second pair: those that share one all do, or none does.
    """

    def __init__(self, world, *, store, faults, lives=LIVES):
        self.world = world
        draw = world.random
        self.life = draw.choice(lives)
        self.judge = Judge(world, self.life)
        self.weather = Weather(world, self._climate(faults), self.life, self.judge)
        lifetimes = Lifetimes.of(timedelta(seconds=self.life))
        self.space = Space(world, lifetimes, draw.choice(sorted(ROTATIONS)))
        self.judge.space = self.weather.space = self.space
        self.is_ending, self.endings = False, []
        self.reissues = True
        self.counts_issues = True  # False if sessions drop out of the store's sight, as in a fleet
        self.closing = ExitStack()
        self.realtime = self.host = None  # the judge of realtime connections, and their gateway
        self.kind = store
        self.server = self._make_store()
        self.judge.kind, self.judge.peek = store, self.peek
        self.weather.restart = self._start_again
        world.note(f"life {self.life}, store {store}, {self.weather.climate}")

    def draw_reissues(self):
        self.reissues = self.world.chance(0.9)
        self.world.note(f"sessions issue a second pair: {self.reissues}")

    def _climate(self, faults):
        draw, rates = self.world.random, {}
        if draw.random() < 0.1:
            return Climate()
        for name in faults:
            if draw.random() < (0.6 if name in OF_GATEWAYS else 0.35):
                low, high = SHARES.get(name, (0.1, 3.0))
                rate = self.world.between(low, high)
                rates[name] = rate if name in SHARES else rate * 3600 / self.life
        return Climate(**rates)

    def _make_store(self):
        if self.kind == "sqlite":
            folder = tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None)
            self.closing.callback(shutil.rmtree, folder)
            return SqliteFile(self.world, self.weather, Path(folder, "tokens.db"))
        if self.kind == "redis":
            server = RedisServer(self.world, self.weather)
            self.weather.stores.append(server)
            return server
        return None

    def connect(self, process):
        """Return the process's store; None if it has none."""
        if self.kind == "memory":
            return MemoryStore(clock=process.clock)
        return None if self.server is None else self.server.connect(process)

    def peek(self, machine, shared):
        """Return the record that a store holds for a session. None: it holds none, or it can't be seen or dated."""
        if self.kind == "memory" and machine.clocks_changed_at < 0:
            held = shared.store.records.get(shared.key)
            return None if held is None else held.record
        if self.kind == "redis":
            held = self.server.get(f"signalwire-tokens:{{{shared.key}}}:pair")
            record = None if held is None else shared.store._sealer.open(shared.key, held[1])
            return None if record is None or record.timeline else record
        return None

    def client(self, process):
        return Network(process, self.space, self.weather, self.judge).client()

    def start(self, machine, name, main):
        self._begin(machine, name, lambda process: main(self, process))

    def _start_again(self, process):
        if not process.machine.is_awake:
            self.world.after(1.0, lambda: self._start_again(process))
        elif not self.is_ending:
            self._begin(process.machine, f"{process.name}'", process.program)

    def _begin(self, machine, name, program):
        self.judge.troubled(Process(self.world, machine, name, program), 0.0, "start")

    async def until_end(self, process, at):
        """Return at a time of the world, or once the applications shall close."""
        ending = process.loop.create_future()
        self.endings.append((process, ending))
        if not self.is_ending and at > self.world.time:
            await asyncio.wait([ending], timeout=at - self.world.time)

    def _end_applications(self):
        self.is_ending = True
        for process, ending in self.endings:
            process.resolve(ending)

    def open_gateway(self):
        """Have a realtime gateway in this world."""
        lines = self.weather.of_lines = LineWeather(self.world, self.weather)
        self.realtime = lines.judge = RealtimeJudge(self.world, self.judge)
        self.host = lines.host = Host(self.world, self.space, lines, self.realtime)
        self.realtime.look_again_and_again()
        stand_in = patch.object(link, "open_session", lambda given: given)  # an `Http`, in place of aiohttp's session
        self.closing.enter_context(stand_in)

    def play(self, lives):
        """Play faults for some lives of a token, then a time without faults, and then the end of the applications."""
        world, judge = self.world, self.judge
        judge.watch()
        self.weather.begin()
        world.run(lives * self.life)
        self.weather.end()
        quiet = max((process.quiet_at for process in world.processes), default=world.time)
        world.run(max(0.0, quiet - world.time) + 30.0)
        self._end_applications()
        world.run(ENDS_AFTER)
        for process in world.processes:
            world.fail("P19", f"{process.name} doesn't end: {process.tasks()}")
        if self.server is not None and self.server.leases():
            world.fail("P32", f"leases are left: {self.server.leases()}")
        if self.server is not None and self.counts_issues:
            judge.judge_issues()
        judge.judge_leftovers(world.ended)
        if self.realtime is not None:
            self.realtime.judge_leftovers()
            self.realtime.judge_calls()

    def close(self):
        self.closing.close()


def record(suite, seed, scene):
    world = scene.world
    return Record(
        suite=suite,
        seed=seed,
        failures=world.failures,
        trace=world.trace,
        steps=world.steps,
        hours=world.time / 3600,
        tokens=scene.judge.tokens,
        requests=len(scene.space.sent),
        faults=dict(world.faults),
        history=world.history,
    )


# An application with sessions of its own.


async def keep_session(scene, process, client, store, reference):
    """Keep one session open, with callers, and open another one when it has closed."""
    draw, judge = scene.world.random, scene.judge
    while not scene.is_ending:
        session = SubscriberSession(client, reference, store=store, reissue=scene.reissues)
        engine = engine_of(session)
        process.add(engine)
        begun = judge.call_begins(process)
        try:
            await session.start()
        except SignalWireTokenError as error:
            judge.failed(process, session, error, begun, drains=True)
        else:
            ends = draw.choice((1e9, draw.uniform(0.1, 3) * scene.life, draw.uniform(0.05, 0.4) * scene.life))
            await use_session(scene, process, session, scene.world.time + ends)
            await session.aclose()
        judge.judge_closed(process, engine)
        process.engines.pop(engine, None)
        del session, engine
        await asyncio.sleep(draw.uniform(0.5, 5))


async def use_session(scene, process, session, ends):
    """Call a session from several tasks until it ends."""
    seen, kinds, hurry, leave = [None], [], asyncio.Event(), asyncio.Event()
    reads_for, handles_for = (scene.world.random.choice((0.0, 1.0)) * scene.life for _ in range(2))

    async def be_busy(longest):
        if longest:
            with suppress(TimeoutError):
                async with asyncio.timeout(scene.world.between(0.001, longest)):
                    await hurry.wait()

    async def follow():
        async for pair in session.rotations():
            seen[0] = pair
            await be_busy(reads_for)

    async def handle(event):
        kinds.append((event.generation, event.kind))
        if event.kind == "persist_failed" and scene.world.chance(0.2):  # the app doesn't go on without its store
            scene.world.note(f"{process.name} closes a session whose pair isn't saved")
            leave.set()
        if event.kind == "expired":
            leave.set()
        await be_busy(handles_for)

    first = session.generation + 1
    session.subscribe(handle)
    following = asyncio.create_task(follow())
    number = scene.world.random.choice((0, 2, 2))  # of callers; without any, the session renews all the same
    callers = [asyncio.create_task(call_again_and_again(scene, process, session)) for _ in range(number)]
    endings = [asyncio.create_task(one) for one in (scene.until_end(process, ends), leave.wait())]
    await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
    await end_tasks(scene, process, (*callers, *endings))
    hurry.set()
    for _ in range(20):  # readers may need a moment
        pairs = [generation for generation, kind in kinds if kind in ("rotated", "reissued")]
        has_seen = session.pair.access_token.value == seen[0].access_token.value
        if has_seen and pairs == list(range(first, session.generation + 1)):
            break
        await asyncio.sleep(0.1)
    if not has_seen:
        scene.world.fail("P17", f"{process.name}: rotations() has missed the latest pair")
    scene.judge.judge_events(process, kinds, first, session.generation)
    following.cancel()
    await asyncio.wait([following])


async def end_tasks(scene, process, tasks):
    """Cancel tasks, and wait for them. None of them must have raised an error."""
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            scene.world.fail("P7", f"{process.name}: a caller got {ended!r}")


async def call_again_and_again(scene, process, session):
    """Ask for tokens at random times, and use them. Some callers lose their patience, and some want a long life."""
    draw = scene.world.random
    while True:
        await asyncio.sleep(draw.expovariate(20 / scene.life))
        choice = draw.random()
        if choice < 0.1:
            await cancel_a_call(scene, process, session)
        elif choice < 0.12:
            scene.judge.forces(session)
            with suppress(SignalWireTokenError):
                await session.refresh()
        else:
            await call(scene, process, session, draw.uniform(0, 0.19) * scene.life if choice > 0.9 else None)


async def call(scene, process, session, min_ttl=None, *, ask=None, asks_again=True):
    """Ask for a token as a caller does. If SignalWire refuses it, report that, and ask again.

    A fleet is another way to `ask`.
    """
    judge = scene.judge
    begun = judge.call_begins(process)
    try:
        token = await (ask or session.token)(min_ttl)
    except SignalWireTokenError as error:
        judge.failed(process, session, error, begun)
        return
    judge.got(process, session, token, begun)
    if token in scene.space.revoked:
        judge.reports(session, token)
        judge.forces(session)
        with suppress(SignalWireTokenError):
            session.invalidate(token)
        if asks_again:
            await call(scene, process, session, min_ttl, ask=ask, asks_again=False)


async def cancel_a_call(scene, process, session):
    calling = asyncio.create_task(call(scene, process, session))
    await asyncio.sleep(scene.world.between(0.0001, 1))
    calling.cancel()
    await asyncio.wait([calling])


def application(references):
    """Return the main function of a process that keeps a session for each reference."""

    async def main(scene, process):
        client, store = scene.client(process), scene.connect(process)
        await asyncio.gather(*(keep_session(scene, process, client, store, one) for one in references))
        await close_all(scene, process, client, store)

    return main


async def close_all(scene, process, client, store):
    """Close what an application has opened, and have it judged whether anything is left."""
    scene.judge.judge_watchers(process, store)
    process.kept = client, store, timer_of(process.clock)
    if hasattr(store, "aclose"):
        await store.aclose()
    await client.aclose()


def play_sessions(scene):
    """One process with a session."""
    scene.draw_reissues()
    machine = Machine(scene.world, "machine")
    scene.start(machine, "app", application(["alice"]))


def play_replicas(scene):
    """Three processes that share pairs, on one machine or on three; or sessions of one process that do."""
    scene.draw_reissues()
    machines = [Machine(scene.world, f"machine {number}") for number in range(3 if scene.kind == "redis" else 1)]
    if scene.kind == "memory":
        scene.start(machines[0], "app", application(["alice", "alice", "alice", "bob", "bob"]))
        return
    for number in range(3):
        scene.start(machines[number % len(machines)], f"replica {number}", application(["alice", "bob"]))


# A fleet, and a token endpoint in front of one.


REFERENCES = [f"subscriber-{number}" for number in range(10)]


@asynccontextmanager
async def open_fleet(scene, process):
    """Open a fleet with a random limit, and close it once the applications shall close."""
    draw = scene.world.random
    client, store = scene.client(process), scene.connect(process)
    rate, concurrency = draw.choice((2.0, 20.0, 150.0)), draw.choice((1, 3, 32))
    idle = draw.choice((None, None, scene.life / 2))
    scene.judge.limit(process, rate, concurrency)
    fleet = SessionFleet(client, store=store, max_rate=rate, max_concurrency=concurrency, idle_timeout=idle)
    fleet._sessions = JudgedSessions(process)
    async with fleet:
        yield fleet
    await close_all(scene, process, client, store)


class JudgedSessions(dict):
    """The sessions of a fleet, each of which is judged from the moment at which it is opened."""

    def __init__(self, process):
        self._process = process

    def __setitem__(self, reference, session):
        super().__setitem__(reference, session)
        self._process.add(engine_of(session))


async def use_fleet(scene, process, fleet):
    """Ask for tokens of random references, and close a session now and then."""
    draw = scene.world.random
    while True:
        await asyncio.sleep(draw.expovariate(60 / scene.life))
        reference = draw.choice(REFERENCES)
        if draw.random() < 0.03:
            await fleet.close_session(reference)
        elif draw.random() < 0.1:
            session = fleet.session(reference)
            await cancel_a_call(scene, process, session)
        else:
            session = fleet.session(reference)
            await call(scene, process, session, ask=partial(fleet.token, reference))


async def run_callers(scene, process, callers):
    """Run tasks until the applications shall close."""
    tasks = [asyncio.create_task(caller) for caller in callers]
    await scene.until_end(process, 1e9)
    await end_tasks(scene, process, tasks)


async def fleet_application(scene, process):
    async with open_fleet(scene, process) as fleet:
        await run_callers(scene, process, [use_fleet(scene, process, fleet) for _ in range(4)])


async def endpoint_application(scene, process):
    async with open_fleet(scene, process) as fleet:
        backend = Backend(fleet, identify=str)
        await run_callers(scene, process, [use_endpoint(scene, process, backend) for _ in range(4)])
        del backend


async def use_endpoint(scene, process, backend):
    """Ask a token endpoint for the tokens of random users, and log some of them out."""
    draw = scene.world.random
    while True:
        await asyncio.sleep(draw.expovariate(60 / scene.life))
        reference = draw.choice(REFERENCES)
        request = BackendRequest(RequestHead("POST", JSON), lambda reference=reference: reference, empty_body)
        if draw.random() < 0.03:
            await backend._log_out(request)
            continue
        is_new = reference not in backend.fleet
        begun = scene.judge.call_begins(process)
        answer = await backend._hand_out(request)
        if answer.status == 429 and is_new:
            continue
        session = backend.fleet.session(reference)
        scene.judge.answered(process, session, answer, begun)


JSON = {"content-type": "application/json"}


async def empty_body():
    return b"{}"


def play_fleet(scene):
    """One or two processes with a fleet each."""
    scene.counts_issues = False
    for number in range(scene.world.random.choice((1, 2)) if scene.kind == "redis" else 1):
        scene.start(Machine(scene.world, f"machine {number}"), f"app {number}", fleet_application)


def play_endpoint(scene):
    """A process with a token endpoint."""
    scene.counts_issues = False
    scene.start(Machine(scene.world, "machine"), "app", endpoint_application)


# Realtime connections.


def play_realtime(scene):
    """One or two processes, each with a realtime connection on a session of its own, or on one of a fleet."""
    scene.counts_issues = False
    scene.open_gateway()
    scene.draw_reissues()
    draw = scene.world.random
    for number in range(draw.choice((1, 2))):
        main = fleet_with_connection if draw.random() < 0.3 and scene.reissues else session_with_connection
        scene.start(Machine(scene.world, f"machine {number}"), f"app {number}", main)


async def session_with_connection(scene, process):
    """Keep a session, and a connection on it. Open others when they have closed."""
    draw, judge = scene.world.random, scene.judge
    client, store = scene.client(process), scene.connect(process)
    while not scene.is_ending:
        session = SubscriberSession(client, f"user of {process.name[:5]}", store=store, reissue=scene.reissues)
        engine = engine_of(session)
        process.add(engine)
        begun = judge.call_begins(process)
        try:
            await session.start()
        except SignalWireTokenError as error:
            judge.failed(process, session, error, begun, drains=True)
        else:
            ends = scene.world.time + draw.choice((1e9, draw.uniform(0.5, 3) * scene.life))
            await keep_connection(scene, process, session, ends)
            await session.aclose()
        judge.judge_closed(process, engine)
        process.engines.pop(engine, None)
        del session, engine
        await asyncio.sleep(draw.uniform(0.5, 5))
    await close_all(scene, process, client, store)


async def fleet_with_connection(scene, process):
    """Keep a connection on one of a fleet's sessions, which the fleet may close."""
    async with open_fleet(scene, process) as fleet:
        while not scene.is_ending:
            await keep_connection(scene, process, fleet.session(REFERENCES[0]), 1e9, fleet)
            await asyncio.sleep(1.0)


async def keep_connection(scene, process, session, ends, fleet=None):
    """Keep a connection on a session, until that shall end. Open another one when it was given up or closed."""
    draw, judge, engine = scene.world.random, scene.realtime, engine_of(session)
    while not scene.is_ending and scene.world.time < ends and session.state not in ENDED:
        connection = RealtimeConnection(session, buffer_size=draw.choice((1000, 3)), call_timeout=draw.choice((1, 10)))
        seen = judge.watch(process, connection)
        connection._http = Http(scene.host, process, seen)
        try:
            await connection.start()
        except (RealtimeError, SignalWireTokenError) as error:
            if connection.state is RealtimeState.FAILED:
                judge.gives_up(seen, error.__cause__ or error)
            judge.ends(seen)
        else:
            stays = draw.choice((1e9, draw.uniform(0.1, 2) * scene.life))
            await use_connection(scene, connection, seen, min(ends, scene.world.time + stays), fleet)
        judge.closed(seen, connection)
        judge.judge_listeners(process, engine)
        del connection
        await asyncio.sleep(draw.uniform(0.5, 5))


async def use_connection(scene, connection, seen, ends, fleet):
    """Read events, call methods and renew tokens until the connection ends or shall end. Then read what is left."""
    judge, process, over = scene.realtime, seen.process, asyncio.Event()
    handles_for = scene.world.random.choice((0.0, 0.0, 30.0))

    def change(changed):
        if changed.state in (RealtimeState.CLOSED, RealtimeState.FAILED):
            over.set()

    async def read_events():
        async for event in connection.events():
            judge.delivers(seen, event)
            if handles_for and not over.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(scene.world.between(0.001, handles_for)):
                        await over.wait()

    async def follow():
        try:
            await read_events()
        except RealtimeError as error:
            judge.gives_up(seen, error.__cause__)
        over.set()

    connection.subscribe(change)
    reading = asyncio.create_task(follow())
    callers = [asyncio.create_task(call_methods(scene, connection, seen)) for _ in range(2)]
    callers.append(asyncio.create_task(renew_now_and_then(scene, connection.session._session)))
    endings = [asyncio.create_task(one) for one in (scene.until_end(process, ends), over.wait())]
    await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
    judge.ends(seen)
    if fleet is not None and scene.world.chance(0.5):
        await fleet.close_session(REFERENCES[0])
    await connection.aclose()
    over.set()
    await asyncio.wait([reading], timeout=60.0)
    await end_tasks(scene, process, (*callers, *endings))
    if not reading.done():
        scene.world.fail("R3", f"{process.name}: events() doesn't end")
    await end_tasks(scene, process, [reading])


async def call_methods(scene, connection, seen):
    """Call a method with a number of its own again and again. Some callers lose their patience."""
    draw, judge = scene.world.random, scene.realtime
    while True:
        await asyncio.sleep(draw.expovariate(15 / scene.life))
        calls = [asyncio.create_task(call_method(judge, connection, seen)) for _ in range(draw.choice((1, 1, 5)))]
        try:
            if draw.random() < 0.3:
                await asyncio.sleep(scene.world.between(0.0001, 1))
                calls[0].cancel()
            await asyncio.wait(calls)
        finally:
            for calling in calls:
                calling.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        for calling in calls:
            if not calling.cancelled():
                calling.result()


async def call_method(judge, connection, seen):
    number = judge.next_call()
    try:
        result = await connection.call(COUNT, {"number": number})
    except CallInterrupted as error:
        judge.interrupted(seen, number, error)
    except (CallRefused, RealtimeError):
        pass
    else:
        judge.result(seen, number, result)


async def renew_now_and_then(scene, session):
    """Have the session renew, sometimes several times one after the other."""
    draw = scene.world.random
    while True:
        await asyncio.sleep(draw.expovariate(3 / scene.life))
        for _ in range(draw.choice((1, 4))):
            scene.judge.forces(session)
            with suppress(SignalWireTokenError):
                await session.refresh()


ENDED = (SessionState.EXPIRED, SessionState.CLOSED)
FAULTS = tuple(name for name in OFTEN if name != "longest_outage")
OF_GATEWAYS = {
    "line_faults",
    "line_mishap",
    "gateway_outages",
    "gateway_requests",
    "gateway_mishap",
    "early_expiries",
}
OF_FILES = {"store_outages", "store_mishap"}
OF_SERVERS = OF_FILES | {"store_losses"}
NOT_HERE = {None: OF_SERVERS, "memory": OF_SERVERS, "sqlite": OF_SERVERS - OF_FILES, "redis": frozenset()}
SUITES = {
    "session": (play_sessions, (None, "memory", "sqlite", "redis")),
    "replicas": (play_replicas, ("redis", "redis", "redis", "sqlite", "memory")),
    "fleet": (play_fleet, (None, "memory", "redis")),
    "endpoint": (play_endpoint, (None, "redis")),
    "realtime": (play_realtime, (None, None, "redis")),
}
SHORT = {"realtime": (120.0, 600.0)}  # lives in suites whose histories have many callbacks


def play(suite, seed, *, lives=6, seeks=()):
    """Play one history, and return its `Record`. The history ends early if it breaks a guarantee that it `seeks`."""
    build, stores = SUITES[suite]

    def run(world):
        store = world.random.choice(stores)
        elsewhere = NOT_HERE[store] | (frozenset() if suite == "realtime" else OF_GATEWAYS)
        faults = [name for name in FAULTS if name not in elsewhere]
        world.interrupts = world.random.choice((0.0, 0.0, 1e-4, 1e-3))
        world.step_takes = world.random.choice((0.0, 1e-4, 3e-3))
        scene = Scene(world, store=store, faults=faults, lives=SHORT.get(suite, LIVES))
        world.seeks = seeks
        try:
            with suppress(Found):
                build(scene)
                scene.play(lives)
            return record(suite, seed, scene)
        finally:
            scene.close()

    return in_world(f"{suite} {seed}", run)
