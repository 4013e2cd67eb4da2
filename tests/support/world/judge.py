"""The guarantees, as what a world can observe of them.

Safety is judged as it happens: whether a token that a caller gets is valid, and whether a request may be sent. Liveness
is judged by time: `Process.quiet_at` is when everything that has gone wrong for a process must be over. From then on,
each of its sessions has a valid token.
"""

import gc
import json
import math
import weakref
from collections import Counter
from itertools import pairwise

from signalwire_tokens import SessionClosed, SessionExpired, TokenUnavailable
from signalwire_tokens.errors import ApiError, is_throttle
from signalwire_tokens.lifecycle import Phase
from signalwire_tokens.policy import RefreshPolicy

from .core import NOTICED
from .space import ISSUE, REFRESH, TIMEOUT

LOOKS = 50  # at all sessions, in the life of a token
UNPAUSED = 150.0  # seconds after a pause of its machine in which a session may return an expired token
PAUSES = (429, 503)
NOTHING_DONE = ("not sent", 401, 403, 404, 429, 503)  # results after which a refresh token is certainly unused
ROUNDING = 1e-6
SHORTEST_PAUSE = 0.5  # seconds between two attempts of a session
ANSWER_TAKES = 0.4  # seconds until an answer is with the process


class Judge:
    """Judges one world, whose sessions have the default policy. `space` is set once there is one."""

    def __init__(self, world, life):
        self.world, self.life = world, life
        self.policy = RefreshPolicy()
        self.space = None
        self.kind = None  # of store
        self.peek = None  # returns the record that a store holds for a session, unless its age is unknown
        self.interrupted_at = -1e9  # when time last passed while a process read its clock
        self.tokens = 0  # that callers got
        self.refused = 0  # calls that raised an error for which there is a reason
        self.presented = {}  # by refresh token: the requests that have presented it
        self.resurrected = set()  # refresh tokens that a store returns again after it has lost a later pair
        self.reasons_at_issue = {}  # by reference: how many of those there were at the last issue
        self.reasons = Counter()  # by reference: reasons for an issue
        self.unsure = set()  # references whose issues can't be counted
        self.refusable = set()  # references that the weather may have refused
        self.limits, self.starts, self.under_way = {}, {}, Counter()  # of the fleet of each process
        self.wanted = {}  # by process: when SignalWire asked for a pause, and until when
        self.put_off = set()  # processes that SignalWire has asked for a pause, and answered nothing else since
        self.ended_at = weakref.WeakKeyDictionary()  # by engine: when the last request ended, and how
        self.forced = weakref.WeakKeyDictionary()  # by engine: when a caller has last had a session renew
        self.busy = weakref.WeakKeyDictionary()  # by engine: the request under way
        self.throttled_at, self.lifted_at, self.down_since = {}, {}, {}  # by process: see `_note_pause`
        self.store_out_at = {}  # by process: when a call of it last met an outage of the store
        self.store_failed_at = {}  # by process: when a call of it last met anything else
        self.held_up_until = {}  # by process: until when it doesn't run, or its clocks have just changed
        self.reported = weakref.WeakKeyDictionary()  # by session: the tokens that callers have reported as refused
        world.on_interrupt = self._interrupted

    # How long something may have effects.

    @property
    def pace(self):
        return min(1.0, self.life / self.policy.tuning.full_pace_lifetime)

    def bound(self, kind):
        """Return how many seconds after its end a fault may still keep a session from a token.

        The longest pause between attempts, two leases for which a session waits for another one, and the time in which
        SignalWire and the store may answer, several times each.
        """
        policy, lease = self.policy, self.policy.lease_for(self.life)
        usual = policy.backoff_max * self.pace + 4 * lease + 2 * TIMEOUT + 10.0
        if kind in ("401", "403", "404"):
            return usual + policy.tuning.rejected_backoff_max * self.pace
        if kind in ("429", "503"):
            return usual + policy.tuning.throttle_max
        if kind in ("suspend", "vm pause", "wall"):
            return usual + 30.0 + UNPAUSED
        if kind == "silence":
            return usual + TIMEOUT
        return usual

    def troubled(self, process, seconds, what, kind=None):
        """Note that something goes wrong for a process, for some seconds from now."""
        if what == "store":  # a session renews without the store, however long that is out
            seconds, self.store_failed_at[process] = 0.0, self.world.time
        process.quiet_at = max(process.quiet_at, self.world.time + seconds + self.bound(kind or what))
        if what in ("stop", "suspend", "vm pause", "wall"):
            self.held_up_until[process] = max(self.held_up_until.get(process, -1e9), self.world.time + seconds)
        if what == "vm pause":
            process.paused_at = self.world.time + seconds
        if what in ("vm pause", "wall"):  # by the wall clock, a pause that SignalWire has asked for may be over
            self.world.after(seconds, lambda: self.wanted.pop(process, None))
        for engine in process.engines:
            label = engine.label
            is_busy = engine.task is not None or engine.cycle.pair is None
            if what in ("stop", "store", "suspend", "vm pause", "wall") or is_busy:
                self.reasons[label] += 1
            if what in ("store", "vm pause", "wall", "suspend", "outage") or kind == "stranger's answer":
                self.unsure.add(label)

    def store_is_out(self, process):
        """Note that a call meets an outage of the store. It keeps no session from its token. (P34)"""
        self.store_out_at[process] = self.world.time
        for engine in process.engines:
            self.reasons[engine.label] += 1
            self.unsure.add(engine.label)

    def weather_ends(self):
        for process in self.world.processes:
            self.troubled(process, 0.0, "outage", kind="429" if self.wanted.get(process) else "end")
            process.paused_at = min(process.paused_at, self.world.time)

    def _interrupted(self, process, seconds):
        self.interrupted_at = self.world.time
        for one in self.world.processes:  # time has passed for all of them
            self.troubled(one, 0.0, "stop", kind="stop")

    def killed(self, process):
        for engine in process.engines:
            self.reasons[engine.label] += engine.task is not None

    def store_lost(self):
        """Note that a store may return an older record again, or none at all."""
        for engine in (engine for process in self.world.processes for engine in process.engines):
            self.unsure.add(engine.label)
        self.resurrected |= set(self.presented)

    def asked_for_pause(self, sent, seconds):
        """Note the pause that SignalWire asks for. An answer to an older request can only extend it."""
        asked, until = self.wanted.get(sent.process, (-1e9, 0.0))
        until = 0.0 if sent.at > asked else until
        self.put_off.add(sent.process)
        self.wanted[sent.process] = (self.world.time, max(until, self.world.time + seconds))
        self.lifted_at.pop(sent.process, None)

    # Requests.

    def knows(self, sent):
        """Return whether the session that sends a request already has a pair, and so knows its subscriber."""
        engine = sent.engine()
        return engine is not None and engine.cycle.pair is not None

    def choose_refused(self):
        """Return one of the references in use, in a set. SignalWire refuses tokens for it from now on."""
        references = sorted(self.references())
        chosen = {self.world.random.choice(references)} if references else set()
        self.refusable |= chosen
        return chosen

    def references(self):
        return {
            engine.renewal.reference
            for process in self.world.processes
            for engine in process.engines
            if getattr(engine.renewal, "reference", "")
        }

    def forces(self, session):
        """Note that a caller has a session renew, which may take a while."""
        self.forced[session._engine] = self.world.time

    def _is_forced(self, engine):
        return self.world.time < self.forced.get(engine, -1e9) + UNPAUSED

    def sends(self, sent):
        """Judge whether a request may be sent now."""
        engine = sent.engine()
        if engine is None:
            return
        self.under_way[sent.process] += 1
        if sent.process in self.limits:
            self._judge_rate(sent)
        if sent.operation == REFRESH:
            self._judge_presented(sent, engine)
        self._judge_pause(sent, engine)
        self._judge_due(sent, engine)
        self._judge_opening(sent, engine)
        if sent.operation == ISSUE:
            self._judge_issue(sent, engine)
        if engine in self.busy:
            self.world.fail("P15", f"{sent.process.name} has two requests for {sent.label} under way")
        self.busy[engine] = sent
        ended, was_stranger = self.ended_at.get(engine, (-1e9, False))
        apart = sent.process.machine.boot_time() - ended  # as the session's clock counts it
        least = min(SHORTEST_PAUSE, max(engine.cycle.lifetime, self.policy.min_lifetime) / 200)
        if apart < least - ROUNDING and not was_stranger and not self._is_forced(engine):
            self.world.fail("P22", f"{sent.process.name} sends for {sent.label} {apart:.4f} s after its last attempt")

    def _judge_presented(self, sent, engine):
        earlier = self.presented.setdefault(sent.refresh_token, [])
        in_doubt = [one for one in earlier if one.result not in NOTHING_DONE]
        if in_doubt and engine.cycle.reissues and sent.refresh_token not in self.resurrected:
            first = in_doubt[0]
            self.world.fail(
                "P20",
                f"{sent.process.name} presents a refresh token of {sent.label} that {first.process.name} presented "
                f"{self.world.time - first.at:.2f} s before, with the result {first.result!r}",
            )
        if any(one.result is None for one in earlier) and engine.cycle.reissues:
            self.world.fail("P32", f"two sessions present a refresh token of {sent.label} at a time")
        earlier.append(sent)

    def limit(self, process, rate, concurrency):
        """Judge from now on that the requests of a process keep to the limits of its fleet."""
        self.limits[process] = rate, concurrency

    def _judge_rate(self, sent):
        """Judge that a fleet keeps to its rate and its concurrency, as its own clock has it."""
        rate, concurrency = self.limits[sent.process]
        begun = sent.engine().cycle.under_way.at
        starts = self.starts.setdefault(sent.process, {})
        starts[sent.label, begun] = begun
        near = sorted(one for one in starts.values() if abs(one - begun) < 1.0)
        most = max(sum(first <= one < first + 1.0 - ROUNDING for one in near) for first in near)
        if most > max(1, math.ceil(rate)) and self.world.time - self.interrupted_at > 2.0:
            self.world.fail("P26", f"{sent.process.name} starts {most} renewals in a second")
        under_way = self.under_way[sent.process]
        if under_way > concurrency:
            self.world.fail("P26", f"{sent.process.name} has {under_way} requests under way")
        down_since = self.down_since.get(sent.process, math.inf)
        others = [one.label for one in self.busy.values() if one.process is sent.process and one.begun > down_since]
        if begun > down_since and others:
            self.world.fail("P26", f"{sent.process.name} sends for {sent.label} in an outage, and for {others}")
        sent.begun = begun

    def _judge_pause(self, sent, engine):
        """Judge whether the process waits as SignalWire asked it to, within the limits of P23."""
        asked, until = self.wanted.get(sent.process, (-1e9, -1e9))
        limit = asked + self.pace * (self.policy.tuning.throttle_max - self.policy.tuning.throttle_spread)
        cycle, boot = engine.cycle, sent.process.machine.boot_time()
        since = min(cycle.due if cycle.failing is None else cycle.tried_at, boot - (self.world.time - asked))
        ends = cycle.access_until
        if ends <= since and not cycle.reissues:
            ends = cycle.refresh_until
        if ends > since:  # when the session would have sent it without the pause
            share = since + self.policy.tuning.throttle_share * (ends - since)
            limit = min(limit, self.world.time + share - boot)
        if self.world.time < sent.process.machine.clocks_changed_at + NOTICED or self.interrupted_at >= asked:
            return  # by the wall clock, the pause may be over; or the answer came late
        if asked + ANSWER_TAKES < self.world.time < min(until, limit) - ANSWER_TAKES and not self._is_forced(engine):
            self.world.fail("P23", f"{sent.process.name} sends {self.world.time - asked:.2f} s after SignalWire asked")

    def ended(self, sent):
        """Note that a request has ended. An answer that isn't an error ends all pauses that were asked for before."""
        engine = self._release(sent)
        if engine is not None:
            self.ended_at[engine] = (sent.process.machine.boot_time(), sent.mishap == "stranger's answer")
        asked, _ = self.wanted.get(sent.process, (0.0, 0.0))
        if sent.result in (200, 201) and sent.at > asked:
            self.wanted.pop(sent.process, None)
            self.put_off.discard(sent.process)
        self._note_pause(sent)

    def _note_pause(self, sent):
        """Note that SignalWire asks a process for a pause, or that a success ends it.

        Until the next answer to a request, a fleet tries one session at a time (P26). Once a later request has
        succeeded, no session waits for the end of the pause (P23).
        """
        process, now = sent.process, self.world.time
        if sent.result in PAUSES and sent.mishap in ("429", "503"):
            self.throttled_at[process] = now
            self.down_since.setdefault(process, process.machine.boot_time())
        elif sent.result not in ("not sent", "unknown", 401, 500, 503, 429):
            self.down_since.pop(process, None)
        if sent.result in (200, 201) and sent.at > self.throttled_at.get(process, math.inf) + 1.0:
            self.lifted_at.setdefault(process, now)

    def _release(self, sent):
        """Note that a request is no longer under way, and return the engine that has sent it, if it still exists."""
        engine = sent.engine()
        self.under_way[sent.process] -= sent.is_of_session
        if engine is not None and self.busy.get(engine) is sent:
            del self.busy[engine]
        return engine

    def cancelled(self, sent):
        """Judge whether a request was cancelled: only its own time limit may."""
        process, loop_time = sent.process, sent.process.machine.loop_time()
        engine = self._release(sent)
        if engine is not None:
            self.ended_at[engine] = (process.machine.boot_time(), False)
        if engine is None or process.is_dead or sent.at - self.interrupted_at < TIMEOUT:
            return
        limit = min(TIMEOUT, self.policy.lease_for(engine.cycle.lifetime) / 2 if engine.shared else TIMEOUT)
        if loop_time - sent.loop_at < limit - 1.0 and not self._is_second(sent):
            self.world.fail("P21", f"a request for {sent.label} was cancelled after {loop_time - sent.loop_at:.2f} s")

    def _judge_due(self, sent, engine):
        """Judge that a session sends no request while its token is fresh, unless it has a reason."""
        cycle, machine = engine.cycle, sent.process.machine
        boot = machine.boot_time()
        is_retry = cycle.failing is not None or self.ended_at.get(engine, (0.0, False))[1]
        if cycle.pair is None or cycle.access_until <= boot or is_retry:
            return
        if engine.owner.is_fleet and engine.shared is not None:
            return  # it tries again after an outage, even if another process has renewed by then
        fresh_for = cycle.asked + self.policy.refresh_from * cycle.lifetime - boot
        asked = self.world.time - (boot - cycle.asked)
        has_jumped = asked < max(machine.clocks_changed_at + NOTICED, self.interrupted_at)  # between two clocks
        if fresh_for > 0.1 and not has_jumped and not self._is_forced(engine):
            self.world.fail("P12", f"{sent.process.name} renews {sent.label}, which is fresh for {fresh_for:.1f} s")

    def _judge_issue(self, sent, engine):
        """Judge that a session that has a pair issues no other one, unless something has happened since the last issue.

        A session that can present its refresh token has no other reason. An issue in a time of trouble may be one of
        several, and the next session that renews may find that, however late it is.
        """
        cycle, label, reasons = engine.cycle, sent.label, self.reasons[sent.label]
        if cycle.pair is not None and not cycle.reissues:
            self.world.fail("P3", f"{sent.process.name} issues a second pair for {label}, which may only refresh")
        is_first = self.reasons_at_issue.get(label) != reasons or self.ended_at.get(engine, (0.0, False))[1]
        is_quiet = self.world.time > sent.process.quiet_at
        self.reasons_at_issue[label] = reasons if is_quiet else None
        has_refresh_token = cycle.pair is not None and cycle.refresh_until > sent.process.machine.boot_time() + 60.0
        if has_refresh_token and is_quiet and not is_first and label not in self.unsure:
            self.world.fail("P33", f"{sent.process.name} issues a second pair for {label}, without a reason")

    def _judge_opening(self, sent, engine):
        """Judge that a session without a pair uses the one that its store has."""
        process, label = sent.process, sent.label
        failed_at = max(
            self.interrupted_at, *(times.get(process, -1e9) for times in (self.store_out_at, self.store_failed_at))
        )
        if engine.cycle.pair is not None or engine.shared is None or self.world.time < failed_at + UNPAUSED:
            return
        record = self.peek(process.machine, engine.shared)
        if record is None:
            return
        token = record.pair.access_token.value
        left, since = self.space.valid_for(token), self.world.time - process.engines[engine]
        age = self.life - left
        if left > TIMEOUT and age > since + TIMEOUT:
            self.world.fail(
                "P30", f"{process.name} sends for {label}, though the store's pair is valid for {left:.1f} s"
            )

    def _is_second(self, sent):
        return any(one.label == sent.label and 0 < sent.at - one.at < TIMEOUT for one in self.space.sent[-50:])

    # Callers.

    def call_begins(self, process):
        return self.world.time, process.machine.loop_time(), self.world.faults["stop"]

    def got(self, process, session, token, begun, *, delays=False):
        """Judge a token that a caller got. An endpoint reads clocks after that, which `delays` its answer."""
        self.tokens += 1
        engine = session._engine
        left = self.space.valid_for(token)
        is_late = delays and self.interrupted_at >= begun[0]  # after the session has returned the token
        if left <= 0 and not is_late and token not in self.space.revoked and not self._may_be_older(process, engine):
            self.world.fail("P1", f"{process.name} got a token of {engine.label} that expired {-left:.3f} s ago")
        if token in self.reported.get(session, ()):
            self.world.fail("P1", f"{process.name} got a token of {engine.label} that was reported as refused")
        self._judge_age(process, engine, token)
        reference = self.space.reference_of(token)
        expected = getattr(engine.renewal, "reference", "")
        if expected and reference != expected:
            self.world.fail("P9", f"{process.name} got a token of {reference} for {expected}")
        self._judge_wait(process, engine, begun)

    def _judge_age(self, process, engine, token):
        """Judge that a session that was opened after a pause of its machine uses no pair from before it."""
        if token in self.space.revoked:
            return
        machine, issued = process.machine, self.world.time - (self.life - self.space.valid_for(token))
        opened = process.engines.get(engine, -1e9)
        least = self.policy.tuning.clock_jump + 5.0
        for ended, seconds in machine.pauses:
            is_known = engine.shared is None or machine.wall_set_at > issued - 1.0 or self.kind == "redis"
            if seconds > least and issued < ended - seconds - 1.0 and opened > ended and not is_known:
                self.world.fail("P31", f"{process.name} uses a pair of {engine.label} from before a pause")

    def _paused_since(self, process, engine):
        """Return for how many seconds the virtual machine was paused since a session asked for its pair."""
        asked = self.world.time - (process.machine.boot_time() - engine.cycle.asked)
        return sum(seconds for at, seconds in process.machine.pauses if at >= asked - seconds - 1.0)

    def _may_be_older(self, process, engine):
        """Return whether a token may be older than its session can know, since its virtual machine was paused.

        The session renews it in the next two minutes, or as soon as SignalWire lets it, unless it can't issue a pair.
        It notices no pause of less than a minute.
        """
        paused_at, paused = process.paused_at, self._paused_since(process, engine)
        asked = self.world.time - (process.machine.boot_time() - engine.cycle.asked)
        has_no_store = self.store_out_at.get(process, -1e9) > self.world.time - self.bound("store")
        is_late = self.world.time > max(paused_at + UNPAUSED, process.quiet_at)
        is_renewed_soon = not is_late or process in self.put_off or has_no_store or not engine.cycle.reissues
        if asked <= paused_at and is_renewed_soon:
            return True
        late = -self.space.valid_for(engine.cycle.value)
        return 0 < late <= min(paused, self.policy.tuning.clock_jump)

    def reports(self, session, token):
        """Note that a caller reports a token as refused."""
        self.reported.setdefault(session, set()).add(token)

    def failed(self, process, session, error, begun, *, drains=False):
        """Judge an error that a caller got in place of a token. `start` `drains` what is under way."""
        self.refused += 1
        engine = session._engine
        if isinstance(error, SessionClosed) and engine.cycle.phase >= Phase.SHUT:
            return
        self._judge_wait(process, engine, begun, 2 * self.policy.close_timeout + 3.0 if drains else 0.0)
        if isinstance(error, SessionExpired) and engine.cycle.reissues:
            self.world.fail("P3", f"{process.name}: {engine.label} has expired, though it can issue: {error!r}")
        elif isinstance(error, SessionExpired) and not self.reasons[engine.label]:
            self.world.fail("P3", f"{process.name}: {engine.label} has expired without a reason: {error!r}")
        elif isinstance(error, TokenUnavailable):
            if self.has_usable_token(process, session):
                self.world.fail("P2", f"{process.name}: {engine.label} has a valid token, and raises {error!r}")
            # A session that starts while only the store is out has a token at once.
            has_no_store = drains and self.store_out_at.get(process, -1e9) >= begun[0]
            self._judge_liveness(process, engine, f"raises {error!r} {error.__cause__!r}", is_at_once=has_no_store)
        elif isinstance(error, ApiError) and engine.renewal.reference not in self.refusable:
            self.world.fail("P5", f"{process.name}: {engine.label} is refused because of another one: {error!r}")

    def answered(self, process, session, answer, begun):
        """Judge the answer of a token endpoint."""
        engine = session._engine
        content = json.loads(answer.body) if answer.body else {}
        if answer.status == 200:
            self.got(process, session, content["token"], begun, delays=True)
            left = content["expiry_at"] / 1000 - process.machine.wall_time()
            more = left - self.space.valid_for(content["token"])
            unnoticed = min(self._paused_since(process, engine), self.policy.tuning.clock_jump)
            known = content["token"] in self.space.revoked or self._may_be_older(process, engine)
            # An answer may say of a token that has expired meanwhile that it expires now.
            if left > 0 and more > 1.0 + unnoticed and not known:
                self.world.fail("P29", f"the answer says {more:.1f} s more than the token of {engine.label} is valid")
        elif answer.status == 503:
            self.refused += 1
            self._judge_wait(process, engine, begun)
            if self.has_usable_token(process, session):
                self.world.fail("P2", f"{process.name}: {engine.label} has a valid token, and the endpoint sends 503")
            self._judge_liveness(process, engine, f"gets {answer.status} from the endpoint")
        elif engine.renewal.reference not in self.refusable:
            self.world.fail("P5", f"{process.name}: the endpoint sends {answer.status} for {engine.label}")

    def _judge_wait(self, process, engine, begun, longer=0.0):
        since, loop_since, stops = begun
        waited = process.machine.loop_time() - loop_since
        if waited > self.policy.wait_timeout + longer + 1.0 and not self._was_held_up(process, since, stops):
            self.world.fail("P14", f"{process.name}: a call for {engine.label} took {waited:.2f} s")

    def _was_held_up(self, process, since, stops):
        return self.world.faults["stop"] != stops or self.interrupted_at >= since or not process.machine.is_awake

    def has_valid_token(self, engine):
        cycle = engine.cycle
        return (
            cycle.phase is Phase.OPEN
            and cycle.access_until > engine.clock._process.machine.boot_time()
            and self.space.valid_for(cycle.value) > 0
        )

    def has_usable_token(self, process, session):
        """Return whether a session has a token that is valid, counted from its request, and was never reported."""
        cycle = session._engine.cycle
        return (
            cycle.phase is Phase.OPEN
            and cycle.asked + self.life > process.machine.boot_time()
            and self.space.valid_for(cycle.value) > 0
            and cycle.value not in self.reported.get(session, ())
        )

    # Liveness.

    def watch(self):
        """Look at all sessions again and again."""

        def look():
            for process in self.world.processes:
                for engine in process.engines:
                    if engine.cycle.phase in (Phase.OPEN, Phase.EXPIRED):
                        self._judge_liveness(process, engine, "has no valid token")
                    self._judge_phase(process, engine)
            self.world.after(self.life / LOOKS, look)

        self.world.after(self.life / LOOKS, look)

    def _judge_phase(self, process, engine):
        """Judge that a session that can issue hasn't expired, and that it waits for no pause that is over."""
        if engine.cycle.phase is Phase.EXPIRED and engine.cycle.reissues:
            self.world.fail("P3", f"{process.name}: {engine.label} has expired, though it can issue")
        lifted_at = self.lifted_at.get(process, math.inf)
        is_late = process.may_run and self.world.time > lifted_at + 5.0 and self.interrupted_at < lifted_at - 60.0
        if is_late and engine.gate.last_error is not None and is_throttle(engine.gate.last_error):
            self.world.fail("P23", f"{process.name}: {engine.label} waits for a pause that a success has ended")

    def _judge_liveness(self, process, engine, what, *, is_at_once=False):
        opened_by = -1e9 if is_at_once else process.engines.get(engine, 0.0) + self.bound("start")
        quiet_at = max(process.quiet_at, opened_by)
        is_lost = self.reasons[engine.label] and not engine.cycle.reissues  # its refresh token may be
        is_quiet = process.may_run and self.world.time > quiet_at and not self._is_idle(engine) and not is_lost
        is_older = engine.cycle.pair is not None and self._may_be_older(process, engine)
        if is_quiet and engine.cycle.value not in self.space.revoked and not (self.has_valid_token(engine) or is_older):
            late = self.world.time - quiet_at
            is_store = self.store_out_at.get(process, -1e9) > self.world.time - self.bound("store")
            guarantee = "P34" if is_store else "P1"
            self.world.fail(
                guarantee, f"{process.name}: {engine.label} {what}, {late:.1f} s after all trouble was over"
            )

    def _is_idle(self, engine):
        """Return whether a session of a fleet may have an expired token, since no caller has used it for a while."""
        return engine.owner.is_fleet and engine.owner._is_idle(engine)

    # The end.

    def judge_issues(self):
        """Judge the number of issues: the first, and one for each time that a renewal was interrupted."""
        issues = Counter(one.reference for one in self.space.sent if one.operation == ISSUE and one.label)
        labels = {one.reference: one.label for one in self.space.sent if one.operation == ISSUE and one.label}
        for reference, issued in issues.items():
            label = labels[reference]
            if label not in self.unsure and issued > 1 + self.reasons[label]:
                self.world.fail("P33", f"{issued} issues for {label}, and {self.reasons[label]} reasons")

    def judge_events(self, process, events, first, last):
        """Judge that a subscriber got each event once, and in order, from the generation `first` to `last`."""
        pairs = [generation for generation, kind in events if kind in ("rotated", "reissued")]
        changes = [kind for _, kind in events if kind in ("degraded", "recovered")]
        is_twice = any(one == other for one, other in pairwise(changes))
        if pairs != list(range(first, last + 1)) or events != sorted(events, key=lambda one: one[0]) or is_twice:
            self.world.fail("P16", f"{process.name}: events from {first} to {last} are lost or in disorder: {events}")

    def judge_closed(self, process, engine):
        """Judge that a session that has closed saves nothing in the background."""
        if engine.shared is not None and engine.shared.saving is not None and not engine.shared.saving.done():
            self.world.fail("P19", f"{process.name}: {engine.label} still saves its pair after it has closed")

    def judge_watchers(self, process, store):
        """Judge that a store calls none of the sessions any more, once all of them are closed."""
        watchers = getattr(store, "watchers", None) or getattr(store, "_watchers", None)
        if watchers is not None and watchers.callbacks:
            self.world.fail("P19", f"{process.name}: the store still calls {sorted(watchers.callbacks)}")

    def judge_leftovers(self, processes):
        """Judge that nothing is kept of the sessions of processes that have closed them."""
        gc.collect()
        for process in processes:
            for engine in process.made:
                if (kept := engine()) is not None:
                    self.world.fail("P19", f"{process.name}: {kept.label} is kept in memory after it was closed")
