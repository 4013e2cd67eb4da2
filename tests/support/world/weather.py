"""Everything that goes wrong in a world, at random times, and for how long.

A climate says how often each kind of fault comes. Each fault tells the judge how long its effects may last.
"""

import attrs

from .core import NOTICED
from .space import REFRESH, refusal

OUTAGES = ("refused", "silence", "lost request", "lost answer", "silence after the request", "500", "slow")
PAUSES = ("429", "503")  # with `Retry-After`
REFUSALS = ("401", "403", "404")
MISHAPS = (*OUTAGES, "twice", "raises")


@attrs.frozen(kw_only=True)
class Climate:
    """How often each kind of fault comes, in times per hour of each process, machine, store or space; and shares."""

    outages: float = 0.0
    pauses: float = 0.0
    refusals: float = 0.0
    mishap: float = 0.0  # the share of requests that meet one
    stranger: float = 0.0  # the share of issues whose answer is another subscriber's
    store_outages: float = 0.0
    store_mishap: float = 0.0  # the share of calls of a store
    store_losses: float = 0.0  # flushed, failed over, or put back
    stops: float = 0.0
    kills: float = 0.0
    suspends: float = 0.0
    vm_pauses: float = 0.0
    wall_jumps: float = 0.0
    restarts: float = 0.0
    revocations: float = 0.0
    line_faults: float = 0.0  # connections to the gateway that are reset, stall, are half-closed or slow
    line_mishap: float = 0.0  # the share of connects
    gateway_outages: float = 0.0
    gateway_requests: float = 0.0  # disconnects, events of an earlier protocol, and messages that aren't JSON-RPC
    gateway_mishap: float = 0.0  # the share of messages that the gateway gets
    early_expiries: float = 0.0
    longest_outage: float = 1.5  # in lives of a token


CALM = Climate()


class Weather:
    """The weather of a world, which `begin` starts and `end` ends.

    `store_mishap` and `store_is_down` are asked by the stores, and `mishap` and `instead_of_service` by the network.
    """

    def __init__(self, world, climate, life, judge):
        self.world, self.climate, self.life, self._judge = world, climate, life, judge
        self.is_over = True
        self.latest = 0.3  # seconds that a message takes at most, unless it is slow
        self._outage, self._outage_ends, self._victims = None, 0.0, None
        self._store_outage_ends = 0.0
        self._cut_off = {}  # processes that don't reach the store, and until when
        self.space = None
        self.stores = []  # with `lose(how)`
        self.restart = None  # a function that starts another process in place of one
        self.of_lines = None  # the weather between the processes and the gateway

    def begin(self):
        self.is_over = False
        climate, lines = self.climate, self.of_lines
        for rate, happen in (
            (climate.outages, self._begin_outage),
            (climate.pauses, self._begin_pause),
            (climate.refusals, self._begin_refusal),
            (climate.store_outages, self._begin_store_outage),
            (climate.store_losses, self._lose_store),
            (climate.stops, self._stop),
            (climate.kills, self._kill),
            (climate.suspends, self._suspend),
            (climate.vm_pauses, self._pause_machine),
            (climate.wall_jumps, self._set_wall),
            (climate.restarts, self._restart),
            (climate.revocations, self._revoke),
            *((getattr(climate, name), happen) for name, happen in (lines.kinds if lines is not None else ())),
        ):
            if rate:
                self._plan(rate, happen)

    def _plan(self, rate, happen):
        def come():
            if not self.is_over:
                happen()
                self._plan(rate, happen)

        self.world.after(self.world.random.expovariate(rate / 3600), come)

    def end(self):
        """End all faults. Those of the clocks and the stopped processes have their own end."""
        self.is_over = True
        self._outage, self._outage_ends, self._store_outage_ends = None, 0.0, 0.0
        self._cut_off.clear()
        for machine in self.world.machines:
            if not machine.is_awake:
                machine.wake()
        for process in self.world.processes:
            process.stopped_until = 0.0
        self.world.interrupts = 0.0
        self._judge.weather_ends()
        if self.of_lines is not None:
            self.of_lines.end()

    # What SignalWire and the network do.

    def latency(self):
        return self.world.between(0.001, self.latest)

    def delay(self):
        return self.world.between(0.5, 60)

    @property
    def _is_out(self):
        return self._outage is not None and self.world.time < self._outage_ends

    def mishap(self, sent):
        """Return what becomes of a request, or None if it is answered as it should be."""
        world, climate = self.world, self.climate
        if self._is_out and (self._victims is None or not self._victims.isdisjoint((sent.reference, sent.process))):
            self._judge.troubled(sent.process, 0.0, "outage", kind=self._outage)
            return self._outage
        if self.is_over:
            return None
        if climate.mishap and world.chance(climate.mishap):
            mishap = world.random.choice(MISHAPS)
            world.fault("mishap of a request", mishap)
            self._judge.troubled(sent.process, 0.0, "mishap", kind=mishap)
            return mishap
        if (
            climate.stranger
            and sent.operation != REFRESH
            and self._judge.knows(sent)
            and world.chance(climate.stranger)
        ):
            world.fault("answer of another subscriber", sent.process.name)
            self._judge.troubled(sent.process, 0.0, "mishap", kind="stranger's answer")
            return "stranger's answer"
        return None

    def instead_of_service(self, sent, mishap):
        """Return the answer that takes the place of the service's, with its headers; None if there is none."""
        if mishap is None or not mishap[:3].isdigit():
            return None, {}
        headers = {}
        if mishap in PAUSES:
            longest = max(1.0, self._outage_ends - self.world.time)
            seconds = self.world.random.choice((longest, min(longest, 5.0), 600.0))
            headers = {"Retry-After": str(int(seconds) or 1)}
            self._judge.asked_for_pause(sent, float(headers["Retry-After"]))
        return refusal(mishap), headers

    def _begin(self, kind, seconds, victims=None):
        if self._is_out:
            return
        self._outage, self._outage_ends, self._victims = kind, self.world.time + seconds, victims
        who = "all" if victims is None else sorted(getattr(one, "name", one) for one in victims)
        self.world.fault("outage", f"{kind} for {seconds:.1f} s, {who}")
        for process in self.world.processes:
            if victims is None or process in victims:
                self._judge.troubled(process, seconds, "outage", kind=kind)

    def _begin_outage(self):
        """Begin an outage for all processes, or cut one of them off."""
        world, seconds = self.world, self.world.between(1, self.climate.longest_outage * self.life)
        victims = {world.random.choice(world.processes)} if world.processes and world.chance(0.3) else None
        self._begin(world.random.choice(OUTAGES), seconds, victims)

    def _begin_pause(self):
        self._begin(self.world.random.choice(PAUSES), self.world.between(1, self.life))

    def _begin_refusal(self):
        self._begin(self.world.random.choice(REFUSALS), self.world.between(1, self.life), self._judge.choose_refused())

    def _revoke(self):
        """Revoke a token that a session may return, as an administrator may."""
        engines = [engine for process in self.world.processes for engine in process.engines]
        values = sorted(engine.label for engine in engines if engine.cycle.value)
        if values:
            label = self.world.random.choice(values)
            value = next(engine.cycle.value for engine in engines if engine.label == label and engine.cycle.value)
            self.world.fault("revocation", label)
            self._judge.reasons[label] += 1
            self.space.revoke(value)

    # What the store does.

    def store_mishap(self, process):
        """Return what becomes of a call to the store: None, or an error "before" or "after" its effect, for example."""
        world = self.world
        if world.time < max(self._store_outage_ends, self._cut_off.get(process, 0.0)):
            self._judge.store_is_out(process)
            return world.random.choice(("before", "silence"))
        if not self.is_over and self.climate.store_mishap and world.chance(self.climate.store_mishap):
            mishap = world.random.choice(("before", "after", "silence", "silence after", "twice"))
            world.fault("mishap of a store", f"{process.name}: {mishap}")
            self._judge.troubled(process, 0.0, "store", kind=mishap)
            return mishap
        return None

    def _begin_store_outage(self):
        world, seconds = self.world, self.world.between(1, self.climate.longest_outage * self.life)
        if world.processes and world.chance(0.5):
            process = world.random.choice(world.processes)
            world.fault("partition from the store", f"{process.name} for {seconds:.1f} s")
            self._cut_off[process] = world.time + seconds
            self._judge.troubled(process, seconds, "store", kind="partition")
        else:
            world.fault("outage of the store", f"for {seconds:.1f} s")
            self._store_outage_ends = world.time + seconds
            for process in world.processes:
                self._judge.troubled(process, seconds, "store", kind="outage")

    def _lose_store(self):
        for store in self.stores:
            how = self.world.random.choice(("flushed", "failed over", "put back"))
            self.world.fault("loss of the store", how)
            store.lose(how)
            self._judge.store_lost()
        for process in self.world.processes:
            self._judge.troubled(process, 0.0, "store", kind="loss")

    # What processes and machines do.

    def _stop(self):
        if self.world.processes:
            process = self.world.random.choice(self.world.processes)
            self.stop(process, self.world.between(0.05, 120))

    def stop(self, process, seconds):
        self.world.fault("stop", f"{process.name} for {seconds:.1f} s")
        process.stop(seconds)
        self._judge.troubled(process, seconds, "stop")

    def _kill(self):
        if self.world.processes:
            process = self.world.random.choice(self.world.processes)
            self.kill(process)

    def kill(self, process):
        self.world.fault("kill", process.name)
        self._judge.killed(process)
        process.kill()
        self.world.after(self.world.between(0.01, 60), lambda: self.restart(process))

    def _restart(self):
        machine = self.world.random.choice(self.world.machines)
        self.world.fault("restart", machine.name)
        gone = tuple(machine.processes)
        for process in gone:
            self._judge.killed(process)
        machine.restart()
        for process in gone:
            self.world.after(self.world.between(1, 120), lambda process=process: self.restart(process))

    def _suspend(self):
        machine, seconds = self.world.random.choice(self.world.machines), self.world.between(1, 3 * self.life)
        if machine.is_awake:
            self.world.fault("suspend", f"{machine.name} for {seconds:.1f} s")
            machine.stop(seconds, counts=True)
            for process in machine.processes:
                self._judge.troubled(process, seconds, "suspend")

    def _pause_machine(self):
        machine, seconds = self.world.random.choice(self.world.machines), self.world.between(1, 3 * self.life)
        if machine.is_awake and self._can_be_told_apart(machine):
            self.world.fault("pause of a virtual machine", f"{machine.name} for {seconds:.1f} s")
            machine.stop(seconds, counts=False)
            machine.clocks_changed_at = self.world.time + seconds
            for process in machine.processes:
                self._judge.troubled(process, seconds, "vm pause")

    def _set_wall(self):
        machine = self.world.random.choice(self.world.machines)
        if not (machine.is_awake and self._can_be_told_apart(machine)):
            return
        machine.clocks_changed_at = machine.wall_set_at = self.world.time
        machine.wall_ahead = self.world.random.choice((0.0, 1.0, -1.0)) * self.world.between(1, 86400)
        self.world.fault("jump of the wall clock", f"{machine.name}: {machine.wall_ahead:+.0f} s")
        for process in machine.processes:
            self._judge.troubled(process, 0.0, "wall")

    def _can_be_told_apart(self, machine):
        """Return whether a pause and a jump of the wall clock are so far apart that one doesn't hide the other.

        A process compares its clocks at least every 30 s.
        """
        return self.world.time > machine.clocks_changed_at + NOTICED
