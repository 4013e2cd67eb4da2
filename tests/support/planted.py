"""Planted faults: each changes one rule of the library, as a plausible mistake would, and breaks a guarantee.

A test of the guarantees is worth as much as the mistakes that it finds. So each of these must be found by histories of
the simulated world (`support.world`), and the guarantee that breaks must be one that the fault names. The seeds count
from 0, so they weren't chosen for any fault. `python tests/system/proof.py --planted` prints how many histories it
takes.

There is no fault here for the lease alone, or for the comparison before a save alone. The model in `rotation_model`
breaks guarantees without them, but in orders that are too rare for random histories.

Each function below is a fault. Its docstring is the rule that no longer holds, and it returns the patch that plants it.
"""

import math
from contextlib import ExitStack, asynccontextmanager, contextmanager
from types import SimpleNamespace
from unittest.mock import patch
from weakref import WeakKeyDictionary

import attrs

from signalwire_tokens import gateway, throttle, wire
from signalwire_tokens import session as sessions
from signalwire_tokens.clock import timer
from signalwire_tokens.fleet.breaker import Breaker
from signalwire_tokens.fleet.gate import FleetGate
from signalwire_tokens.fleet.health import FleetHealth
from signalwire_tokens.gateway import REAUTHENTICATE, Answered, Deliver, Gateway, Invalidate, Lost
from signalwire_tokens.governors import LocalGovernor
from signalwire_tokens.integrations import token_endpoint
from signalwire_tokens.keeper import closing, engine, events, shared, waiters
from signalwire_tokens.keeper.engine import Engine
from signalwire_tokens.keeper.events import Listener
from signalwire_tokens.keeper.gate import Gate
from signalwire_tokens.keeper.session import TokenSession
from signalwire_tokens.keeper.shared import SharedRenewal
from signalwire_tokens.keeper.sharing_rules import TimedReading
from signalwire_tokens.lifecycle import Lifecycle
from signalwire_tokens.outcomes import Ambiguous, Denied, NotSent, Spent
from signalwire_tokens.policy import NO_THROTTLE, RefreshPolicy
from signalwire_tokens.realtime.link import Inbox, Link
from signalwire_tokens.session import SubscriberRenewal
from signalwire_tokens.stores.records import Reading
from signalwire_tokens.stores.watchers import Watchers
from signalwire_tokens.throttle import Throttle

from .world.suites import play

HISTORIES = 150  # of each suite, in which a fault must be found
SESSION, REPLICAS, FLEET, ENDPOINT, REALTIME = "session", "replicas", "fleet", "endpoint", "realtime"


@attrs.frozen
class Planted:
    """A fault: the rule that doesn't hold, the suites that may find it, and guarantees. It breaks one of them."""

    name: str
    what: str
    guarantees: tuple
    suites: tuple
    plant: object = attrs.field(repr=False)  # returns a context manager

    def __str__(self):
        return self.name


@attrs.frozen
class Finding:
    """The guarantee that broke, in which suite and how, and how many histories of that suite it took."""

    guarantee: str
    suite: str
    histories: int
    text: str


FAULTS = {}


def breaks(*guarantees, found_by):
    """Add a fault to the list, with the guarantees that it breaks and the suites that find it."""

    def add(plant):
        name = plant.__name__.replace("_", " ")
        FAULTS[name] = Planted(name, plant.__doc__, guarantees, found_by, plant)
        return plant

    return add


@contextmanager
def all_of(*patches):
    """Plant several patches, for a rule that the library keeps in several places."""
    with ExitStack() as stack:
        for one in patches:
            stack.enter_context(one)
        yield


def changed(owner, name, change):
    """Return a patch that replaces a function by one that gets the original function as its first argument."""
    original = getattr(owner, name)
    return patch.object(owner, name, lambda *args, **named: change(original, *args, **named))


# The store.


@breaks("P20", found_by=(REPLICAS,))
def the_mark_is_removed_after_an_ambiguous_answer():
    """The mark stays in the record if SignalWire may have used up the refresh token."""

    async def after_failure(self, outcome, plain, mark):
        await self._save(plain, mark.digest)

    return patch.object(SharedRenewal, "_after_failure", after_failure)


@breaks("P20", "P32", found_by=(REPLICAS,))
def no_mark_is_left_in_the_record():
    """A mark is saved before the refresh token is presented."""
    return patch.object(shared, "uuid4", lambda: SimpleNamespace(hex=None))


@breaks("P20", "P32", found_by=(REPLICAS,))
def the_mark_of_another_process_is_ignored():
    """A refresh token with another process's mark isn't presented."""

    def choose(original, timed, *args, **named):
        way, plain = original(timed, *args, **named)
        reading = timed.reading
        if reading.record is not None:
            unmarked = attrs.evolve(reading, record=attrs.evolve(reading.record, presenting=None))
            way, plain = original(attrs.evolve(timed, reading=unmarked), *args, **named)
        return way, plain

    return changed(shared, "choose", choose)


@breaks("P20", "P32", found_by=(REPLICAS,))
def lease_and_comparison_are_both_off():
    """One process at a time renews, and a save names the record that it replaces."""
    return all_of(
        patch.object(SharedRenewal, "_leased", always_leased), patch.object(SharedRenewal, "_save", save_in_any_case)
    )


@asynccontextmanager
async def always_leased(self, ttl):
    yield True


async def save_in_any_case(self, record, replaces):
    held = (await self._use(lambda: self.store.load(self.key))).record
    return await self._use(lambda: self.store.save(self.key, record, None if held is None else held.digest))


@breaks("P33", found_by=(REPLICAS,))
def a_new_pair_is_not_saved():
    """The new pair is in the store before the session uses it."""

    async def commit(self, renewed, timed, replaces):
        return renewed

    return patch.object(SharedRenewal, "_commit", commit)


@breaks("P30", "P33", found_by=(REPLICAS, SESSION))
def a_session_that_opens_ignores_the_stored_pair():
    """A session that is opened again uses the stored pair."""

    def better(original, self, timed):
        return None if self.cycle.pair is None else original(self, timed)

    return changed(SharedRenewal, "_better", better)


@breaks("P1", "P31", found_by=(SESSION, REPLICAS))
def a_stored_pair_has_its_age_by_the_boot_clock_alone():
    """The age of a stored pair is unknown if the wall clock has gained on the clock that the age is counted by."""
    return patch.object(Reading, "gained", property(lambda _: 0.0))


@breaks("P1", "P29", found_by=(SESSION, REPLICAS))
def a_stored_pair_counts_as_new():
    """The age of a stored pair is subtracted from the time left."""
    return patch.object(TimedReading, "latest", property(lambda self: self.before))


@breaks("P1", found_by=(SESSION, REPLICAS))
def an_invalidated_pair_is_adopted_from_the_store_again():
    """A pair that the session had before isn't adopted again, even if it seems to be valid for longer."""
    return patch.object(Lifecycle, "seen", property(lambda _: ()))


@breaks("P34", found_by=(SESSION, REPLICAS))
def a_store_that_fails_fails_the_renewal():
    """A session renews without the store when the store fails and its token is about to expire."""

    async def renew_without(self, step, ask, error):
        return step, NotSent(error)

    return patch.object(SharedRenewal, "_renew_without", renew_without)


@breaks("P19", found_by=(REPLICAS, SESSION))
def a_watcher_of_the_store_is_never_removed():
    """A session that closes stops watching its store."""
    original = Watchers.add

    def add(self, key, callback):
        original(self, key, callback)
        return lambda: None

    return patch.object(Watchers, "add", add)


@breaks("P19", found_by=(REPLICAS,))
def saving_in_the_background_goes_on_after_the_end():
    """A session that closes ends the task that saves its pair."""

    def stop(self):
        self.forget()

    return patch.object(SharedRenewal, "stop", stop)


# Renewals.


@breaks("P20", found_by=(SESSION,))
def a_lost_answer_counts_as_nothing_done():
    """A refresh token with an unknown result may be used up."""

    def meaning(original, error, step):
        failure = original(error, step)
        return NotSent(error) if isinstance(failure, Ambiguous) else failure

    return changed(sessions, "failure_of", meaning)


@breaks("P3", found_by=(SESSION, FLEET))
def a_refused_subscriber_ends_the_session():
    """A session that can issue ends only if the request is invalid, and not if its subscriber is refused."""

    def meaning(original, error, step):
        failure = original(error, step)
        return Spent(error) if isinstance(failure, Denied) else failure

    return changed(sessions, "failure_of", meaning)


@breaks("P15", "P20", "P32", found_by=(SESSION,))
def single_flight_is_off():
    """A session has one renewal at a time under way."""
    return patch.object(Lifecycle, "is_at_rest", property(lambda self: self.phase is engine.Phase.OPEN))


@breaks("P7", "P1", found_by=(SESSION, FLEET))
def a_renewal_that_raises_has_no_effect():
    """After an exception in a renewal, the session plans the next attempt."""

    def land(original, self, *args):
        if args[-1].exception() is None:  # the task's
            original(self, *args)

    return changed(Engine, "_land", land)


@breaks("P12", found_by=(SESSION, FLEET))
def the_due_time_is_not_drawn_again():
    """Each new pair gets a due time of its own."""

    def replace_pair(original, self, *args):
        due = self.due
        kept = original(self, *args)
        self.due = due
        return kept

    return changed(Lifecycle, "_replace_pair", replace_pair)


@breaks("P22", found_by=(SESSION,))
def attempts_follow_at_once():
    """Two attempts are half a second apart at least."""
    return patch.object(RefreshPolicy, "min_interval_for", lambda *_: 0.0)


@breaks("P9", found_by=(SESSION, REPLICAS))
def the_pair_of_another_subscriber_is_adopted():
    """The answer to an issue must be a pair of the same subscriber."""
    return patch.object(wire, "accepting_only_successor", lambda request, *_, **__: request)


# Tokens.


@breaks("P1", found_by=(SESSION, FLEET))
def a_token_counts_as_valid_for_too_long():
    """A token isn't returned after it has expired."""
    return patch.object(Lifecycle, "left", lambda self, now: self.access_until + 5.0 - now)


@breaks("P1", "P29", found_by=(SESSION, ENDPOINT))
def a_lifetime_counts_from_the_answer():
    """A token's lifetime counts from the request, since SignalWire may have issued it at that moment."""

    async def renew(original, self, request):
        renewed = await original(self, request)
        return attrs.evolve(renewed, asked=self.client.clock.now())

    return changed(SubscriberRenewal, "renew", renew)


@breaks("P1", found_by=(SESSION,))
def an_invalidated_token_is_still_fresh():
    """`token()` doesn't return the invalidated token without a check."""

    def invalidate(original, self, now):
        fresh_until = self.fresh_until
        effects = original(self, now)
        self.fresh_until = fresh_until
        return effects

    return changed(Lifecycle, "invalidate", invalidate)


@breaks("P2", found_by=(SESSION, FLEET))
def a_jump_of_the_wall_clock_counts_as_time_passed():
    """A wall clock that jumps ahead only brings the next renewal forward."""

    def clock_leaped(original, self, seconds, now):
        has_leaped = original(self, seconds, now)
        if has_leaped:
            self.access_until -= seconds
        return has_leaped

    return changed(Lifecycle, "clock_leaped", clock_leaped)


@breaks("P1", found_by=(SESSION, REPLICAS))
def an_alarm_may_be_hours_away():
    """No alarm is further away than half a minute, since the event loop's timers stop while the machine sleeps."""
    return patch.object(timer, "LONGEST_ALARM", 1e9)


# Callers.


@breaks("P2", found_by=(SESSION, FLEET))
def a_token_that_is_about_to_expire_is_not_returned():
    """If a renewal brings no token, a caller gets the current one as long as it is valid."""

    async def wait_for_token(original, one, min_ttl):
        token = await original(one, min_ttl)
        if one.left() < waiters.check_ttl(one, min_ttl) and one.has_failed():
            raise waiters.unavailable(one, "the token is about to expire")
        return token

    return changed(waiters, "wait_for_token", wait_for_token)


@breaks("P14", found_by=(SESSION, FLEET))
def a_caller_waits_until_there_is_a_token():
    """A call waits for ten seconds at most."""
    return changed(waiters, "wait", lambda original, one, seconds, until: original(one, 10 * seconds, until))


@breaks("P21", found_by=(SESSION, FLEET))
def a_cancelled_caller_cancels_the_renewal():
    """Cancelling a caller cancels only this caller."""

    async def wait(original, one, *args):
        try:
            await original(one, *args)
        except waiters.asyncio.CancelledError:
            if one.task is not None:
                one.task.cancel()
            raise

    return changed(waiters, "wait", wait)


@breaks("P21", found_by=(SESSION, FLEET))
def closing_cancels_the_renewal_under_way():
    """A session that closes waits for its renewal."""

    async def drain(one):
        if one.task is not None:
            one.task.cancel()
            await closing.asyncio.wait([one.task])

    return patch.object(closing, "drain", drain)


@breaks("P17", "P19", found_by=(SESSION,))
def callers_that_wait_are_not_woken():
    """Callers that wait are woken when something has changed."""
    return patch.object(Engine, "notify", lambda _: None)


@breaks("P17", found_by=(SESSION,))
def rotations_skips_a_pair_that_comes_meanwhile():
    """`rotations()` yields the pair that has come while its reader was busy."""

    async def rotations(self):
        one, seen = self._engine, 0
        while one.cycle.phase < engine.Phase.SHUT:
            waiters.check(one)
            if one.cycle.generation != seen:
                yield self.pair
                seen = one.cycle.generation
            else:
                await one.changed()

    return patch.object(TokenSession, "_rotations", rotations)


@breaks("P16", found_by=(SESSION,))
def the_latest_event_comes_first():
    """A subscriber gets the events in their order."""

    async def listen(self):
        while self._events:
            result = self._callback(self._events.pop())
            if events.inspect.isawaitable(result):
                await result

    return patch.object(Listener, "_listen", listen)


@breaks("P16", found_by=(SESSION,))
def an_event_is_lost_while_the_callback_runs():
    """A subscriber gets the events that come while its callback runs."""

    def emit(original, self, event, one):
        if self.task is None or self.task.done():
            original(self, event, one)

    return changed(Listener, "emit", emit)


# Pauses.


@breaks("P23", found_by=(SESSION, REPLICAS))
def a_session_ignores_pauses():
    """A session waits if SignalWire asks for a pause."""
    return all_of(
        patch.object(Gate, "throttle_period", lambda *_: NO_THROTTLE),
        patch.object(Gate, "_pause_since_begin", lambda *_: None),
    )


@breaks("P23", found_by=(FLEET, ENDPOINT))
def a_fleet_ignores_pauses():
    """A fleet waits if SignalWire asks for a pause."""
    return patch.object(FleetHealth, "throttle_end", lambda _: -math.inf)


@breaks("P23", found_by=(REPLICAS,))
def a_session_ignores_the_pauses_of_others():
    """All sessions of a client wait if SignalWire has asked one of them for a pause."""
    original = Gate.__init__
    return patch.object(Gate, "__init__", lambda self, _, clock: original(self, None, clock))


@breaks("P23", "P1", found_by=(SESSION, FLEET))
def a_pause_has_no_limit():
    """Without a valid token, a pause takes a minute at most, whatever SignalWire asks for."""

    def throttle_end(self, *, asked, until, lifetime, draw):
        return until

    return patch.object(RefreshPolicy, "throttle_end", throttle_end)


@breaks("P23", found_by=(SESSION, FLEET, REPLICAS))
def a_pause_is_never_lifted():
    """A later success ends a pause."""
    return patch.object(Throttle, "_lift", lambda _: None)


# Fleets.


@breaks("P26", found_by=(FLEET, ENDPOINT))
def the_rate_of_a_fleet_is_ignored():
    """No second has more renewals than the rate."""

    def enter(original, self, one):
        has_entered = original(self, one)
        self._next_at = -math.inf
        return has_entered

    return all_of(
        changed(FleetGate, "enter", enter),
        changed(LocalGovernor, "turn", lambda _, self, *__: self.read()),
    )


@breaks("P26", found_by=(FLEET, ENDPOINT))
def the_concurrency_of_a_fleet_is_ignored():
    """No more renewals than the fleet's limit are under way."""

    def enter(original, self, one):
        has_entered = original(self, one)
        self._concurrency = math.inf
        return has_entered

    return changed(FleetGate, "enter", enter)


@breaks("P26", found_by=(FLEET, ENDPOINT))
def the_breaker_never_opens():
    """In an outage, a fleet tries one session at a time."""
    return patch.object(Breaker, "fail", lambda *_, **__: False)


@breaks("P1", found_by=(FLEET, ENDPOINT))
def the_probe_is_never_released():
    """The next session may be the probe once the probe's request has ended."""

    def ended(original, self, one, outcome):
        was_probe = self.health.probe is one
        original(self, one, outcome)
        if was_probe:
            self.health.probe, self.health.breaker.probing = one, True

    return changed(FleetGate, "ended", ended)


@breaks("P5", found_by=(FLEET, ENDPOINT))
def an_outage_is_raised_as_a_refusal():
    """Without a valid token, callers get `TokenUnavailable` in an outage."""

    def outlook(original, self, one):
        return original(self, one)._replace(fault=self.last_error)

    return changed(FleetGate, "outlook", outlook)


@breaks("P19", found_by=(SESSION, REPLICAS))
def a_pause_keeps_the_sessions_that_wait_for_its_end():
    """A client's throttle holds the sessions weakly that wait for its end."""
    return patch.object(throttle, "WeakKeyDictionary", dict)


# The token endpoint.


@breaks("P29", found_by=(ENDPOINT,))
def the_endpoint_returns_the_expiry_as_first_calculated():
    """An endpoint calculates `expiry_at` with the session's clock, since the wall clock may have been set."""
    return changed(
        token_endpoint, "format_token", lambda original, token, _: original(token, token.expires_at.timestamp())
    )


@breaks("P9", found_by=(ENDPOINT,))
def the_endpoint_returns_the_token_of_the_latest_user():
    """An endpoint returns the token of the user who asks, even if others ask at the same time."""

    async def token_answer(self, reference, wish):
        self._latest = self.fleet.session(reference)
        await self._latest.token(token_endpoint.LEAST_LEFT * 0)
        left = self._latest.expires_in.total_seconds()
        return token_endpoint.format_token(self._latest.pair.access_token, self.fleet.client.clock.wall() + left)

    return patch.object(token_endpoint.Backend, "_token_answer", token_answer)


# Realtime connections.


@breaks("R5", found_by=(REALTIME,))
def the_state_is_kept_after_a_refused_resume():
    """After a refused resume, the next connection is a new one."""

    def refuse(original, self, *args):
        before = self.resumable
        outputs = list(original(self, *args))
        self.resumable = before
        return iter(outputs)

    return changed(Gateway, "_connect_refused", refuse)


@breaks("R5", found_by=(REALTIME,))
def a_refused_resume_invalidates_the_token():
    """Only the refusal of a new connection says that a token is wrong."""

    def refuse(original, self, *args):
        outputs = list(original(self, *args))
        if any(isinstance(one, Lost) and one.cause == "resume_refused" for one in outputs):
            outputs.insert(0, Invalidate(self.token))
        return iter(outputs)

    return changed(Gateway, "_connect_refused", refuse)


@breaks("R1", found_by=(REALTIME,))
def every_token_is_presented():
    """Of several tokens that come while another one is presented, only the newest follows."""
    queues = WeakKeyDictionary()

    def present(_, self, token, now):
        queues.setdefault(self, []).append(token)
        return [] if self.connected_at is None else list(self._present(now))

    def present_next(original, self, now):
        is_busy = any(call.method == REAUTHENTICATE for call in self.waiting.values())
        if not is_busy and queues.get(self):
            self.newest = queues[self].pop(0)
        return original(self, now)

    return all_of(changed(Gateway, "present", present), changed(Gateway, "_present", present_next))


@breaks("R1", found_by=(REALTIME,))
def a_token_that_comes_while_another_is_presented_is_forgotten():
    """The newest token follows once the other one is accepted."""

    def present(original, self, token, now):
        is_busy = any(call.method == REAUTHENTICATE for call in self.waiting.values())
        return [] if is_busy else original(self, token, now)

    return changed(Gateway, "present", present)


@breaks("R2", found_by=(REALTIME,))
def a_refused_reauthentication_ends_the_connection():
    """A connection goes on with the token that it has, if the gateway refuses another one."""

    def answered(original, self, call, message, now):
        yield from original(self, call, message, now)
        if call.method == REAUTHENTICATE and "error" in message:
            yield Lost("refused", "the gateway refused the session's new token")

    return changed(Gateway, "_answered", answered)


@breaks("R3", found_by=(REALTIME,))
def repeated_events_are_delivered_again():
    """The gateway sends an event again if its acknowledgement was lost, and the app gets it once."""
    return patch.object(gateway, "MOST_SEEN", 0)


@breaks("R3", found_by=(REALTIME,))
def only_events_for_the_app_are_acknowledged():
    """An event is acknowledged even if it came before, or belongs to an earlier protocol."""

    def requested(original, self, method, *args):
        outputs = list(original(self, method, *args))
        is_kept = method != gateway.EVENT or any(isinstance(one, Deliver) for one in outputs)
        return iter(outputs if is_kept else [])

    return changed(Gateway, "_requested", requested)


@breaks("R3", found_by=(REALTIME,))
def an_event_that_is_dropped_is_not_counted():
    """The next event says how many were dropped before it."""

    def take(original, self):
        event = original(self)
        return None if event is None else attrs.evolve(event, missed=0)

    return changed(Inbox, "take", take)


@breaks("R4", found_by=(REALTIME,))
def events_of_an_earlier_protocol_are_delivered():
    """An event whose channel names an earlier protocol isn't for this connection."""

    def take_event(original, self, *args):
        self._is_later = False
        return original(self, *args)

    return changed(Gateway, "_take_event", take_event)


@breaks("R6", found_by=(REALTIME,))
def any_number_of_tokens_may_be_refused():
    """After two tokens that were refused one after the other, there is no third attempt."""

    def refuse(original, self, *args):
        self.refused = None
        return original(self, *args)

    return changed(Gateway, "_connect_refused", refuse)


@breaks("R7", found_by=(REALTIME,))
def the_pause_before_a_connect_never_grows():
    """The longest pause doubles with each loss, up to a minute."""
    return changed(Gateway, "lost", lambda original, self, *args: min(3.0, original(self, *args)))


@breaks("R7", "R11", found_by=(REALTIME,))
def the_pause_before_a_connect_has_no_limit():
    """The longest pause is a minute."""
    return patch.object(gateway, "LONGEST_WINDOW", math.inf)


@breaks("R8", found_by=(REALTIME,))
def a_call_counts_as_sent_once_it_is_answered():
    """An interrupted call may have had an effect as soon as any of it was sent."""
    return patch.object(Link, "_may_send", lambda self, call_id: call_id in self.calls)


@breaks("R8", "R9", found_by=(REALTIME,))
def a_late_answer_settles_another_call():
    """An answer belongs to the call whose id it has."""

    def carry_out(original, self, outputs):
        def match(one):
            is_late = isinstance(one, Answered) and one.call_id not in self.calls and self.calls
            return attrs.evolve(one, call_id=next(iter(self.calls))) if is_late else one

        return original(self, (match(one) for one in outputs))

    return changed(Link, "_carry_out", carry_out)


@breaks("R10", found_by=(REALTIME,))
def no_pings_are_sent():
    """A connection on which nothing arrives any more counts as lost after a ping without an answer."""
    return patch.object(gateway, "PING_EVERY", 1e9)


@breaks("R10", "R11", found_by=(REALTIME,))
def connecting_may_take_forever():
    """A connection that isn't answered within 10 s counts as lost."""

    def ask(original, self, method, *args):
        message = original(self, method, *args)
        if method == gateway.CONNECT:
            self.waiting = {id_: attrs.evolve(call, due=math.inf) for id_, call in self.waiting.items()}
        return message

    return changed(Gateway, "_ask", ask)


@breaks("R12", found_by=(REALTIME,))
def a_connection_never_stops_listening_to_its_session():
    """A connection that has closed doesn't subscribe to its session any more."""

    def subscribe(original, self, callback):
        original(self, callback)
        return lambda: None

    return changed(TokenSession, "subscribe", subscribe)


def find(planted, histories=HISTORIES):
    """Return the guarantee that a planted fault breaks, the suite that finds it, and how many histories it takes.

    Each suite plays one seed after another. Return None if no history of them breaks a guarantee that the fault names.
    """
    with planted.plant():
        for seed in range(histories):
            for suite in planted.suites:
                record = play(suite, seed, seeks=planted.guarantees)
                for guarantee, text in record.failures:
                    if guarantee in planted.guarantees:
                        return Finding(guarantee, suite, seed + 1, text)
    return None
