"""Who may renew when, with entrants that do as they are told, in virtual time."""

import gc
import logging
import math
from itertools import pairwise
from types import SimpleNamespace
from weakref import ref

import pytest

from signalwire_tokens import BreakerState, RefreshPolicy, StoreError
from signalwire_tokens.clock import timer_of
from signalwire_tokens.fleet.gate import STARTS_PER_TURN, FleetGate
from signalwire_tokens.governors import LocalGovernor
from signalwire_tokens.keeper import Owner
from signalwire_tokens.outcomes import NotSent, Renewed
from support.fake_transport import make_client, most_in_a_second
from support.scripted_session import MISCONFIGURED, NOT_SENT, SPENT, make_pair, refused, throttled

POLICY = RefreshPolicy()


class Entrant:
    """Enter when woken, unless it need not, and stay for a while."""

    def __init__(self, gate, name, *, deadline=1000.0, stays=0.0, needs=True, failed=False):
        self.gate, self.name, self.at, self.stays, self.needs = gate, name, deadline, stays, needs
        self.wakes_at = math.inf
        self.entered, self.outcome, self.asks, self.failed = [], None, True, failed
        self.cycle, self.waiters, self.owner = SimpleNamespace(under_way=None), True, Owner()
        self.forgiven = self.looked = 0
        self.looking = self.retries = False
        self.refusal = None

    def wake(self, timer):
        if self.needs and self.gate.enter(self):
            self.entered.append(timer.clock.now())
            if self.stays is not None:
                timer.begin(self.stay(timer.clock), self.name)

    async def stay(self, clock):
        await clock.sleep(self.stays)
        await self.leave()

    async def leave(self):
        if self.asks:
            self.refusal = await self.gate.asks(self, math.inf)
        self.needs = False
        self.gate.ended(self, self.outcome or Renewed(make_pair(), self.gate.timer.clock.now()))

    def deadline(self):
        return self.at

    def left(self):
        return 0.0

    def has_failed(self):
        return self.failed

    def look(self):
        self.looking = True

    def demand(self):
        self.forgiven += 1
        if self.retries:
            self.needs = True
            self.gate.timer.set(self, self.gate.timer.clock.now())

    def notify(self):
        self.looked += 1


class Crowd:
    """A gate, and the entrants that come to it."""

    def __init__(self, clock, **figures):
        self.clock, (self.client, _) = clock, make_client(clock)
        self.timer = timer_of(clock)
        self.gate = self.another(**figures)
        self.governor = self.gate.health.account._governor
        self.entrants = []

    def another(self, *, rate=150.0, concurrency=32, governor=None):
        governor = governor or LocalGovernor(rate, clock=self.clock)
        return FleetGate(self.client, self.timer, policy=POLICY, concurrency=concurrency, governor=governor)

    def add(self, number, **traits):
        added = [Entrant(self.gate, f"{len(self.entrants)}", **traits) for _ in range(number)]
        self.entrants += added
        for entrant in added:
            self.timer.set(entrant, self.clock.now())
        return added

    async def fail(self, number=10, outcome=NOT_SENT):
        """Let so many fail."""
        added = self.add(number)
        for entrant in added:
            entrant.outcome = outcome
        await self.clock.advance(0.01 * number)
        return added

    @property
    def times(self):
        return sorted(at for entrant in self.entrants for at in entrant.entered)


@pytest.fixture
async def crowd(clock):
    return Crowd(clock)


@pytest.mark.parametrize("rate", [0.5, 1, 7.5, 150, pytest.param(5000, marks=[pytest.mark.slow, pytest.mark.heavy])])
async def test_no_second_has_more_renewals_in_it_than_the_rate(clock, rate):
    """Wherever it begins; and hardly fewer, as long as a session waits. (P26)"""
    crowd = Crowd(clock, rate=rate, concurrency=10**6)
    crowd.add(math.ceil(4 * rate))
    await clock.advance(30)
    assert len(crowd.times) == len(crowd.entrants)
    assert most_in_a_second(crowd.times) <= math.ceil(rate)
    assert crowd.times[-1] - crowd.times[0] <= 1.03 * len(crowd.times) / rate


async def test_a_rate_without_a_limit_lets_everybody_go(clock):
    """At one moment, if they come at one."""
    crowd = Crowd(clock, rate=math.inf, concurrency=10**6)
    crowd.add(1000)
    await clock.advance(0)
    assert len(crowd.times) == 1000


async def test_so_many_renew_at_a_time_and_no_more(clock):
    """Whoever comes then waits for one of them to be done."""
    crowd = Crowd(clock, concurrency=8, rate=math.inf)
    crowd.add(20, stays=10.0)
    await clock.advance(9)
    assert (crowd.gate.in_flight, crowd.gate.waiting) == (8, 12)
    await clock.advance(10)
    assert (crowd.gate.in_flight, crowd.gate.waiting) == (8, 4)
    await clock.advance(20)
    assert crowd.times == [0.0] * 8 + [10.0] * 8 + [20.0] * 4


async def test_those_go_first_who_need_it_soonest(clock):
    """Before all others, those for whom somebody waits."""
    crowd = Crowd(clock, rate=1)
    crowd.add(1)
    await clock.advance(0)
    calm, soon, awaited = (crowd.add(1, deadline=at)[0] for at in (3000.0, 2000.0, -math.inf))
    await clock.advance(10)
    assert awaited.entered < soon.entered < calm.entered


async def test_who_comes_to_need_it_sooner_moves_forward(clock):
    """And never back."""
    crowd = Crowd(clock, rate=1)
    crowd.add(1)
    await clock.advance(0)
    one, other = crowd.add(1, deadline=3000.0)[0], crowd.add(1, deadline=2000.0)[0]
    await clock.advance(0)
    one.at, other.at = -math.inf, 5000.0
    for entrant in (one, other):
        assert not crowd.gate.enter(entrant)
    await clock.advance(10)
    assert one.entered < other.entered
    assert len(one.entered) == len(other.entered) == 1


async def test_who_needs_it_no_more_takes_nobody_s_turn(clock):
    """A pair may have come from elsewhere while its session waited."""
    crowd = Crowd(clock, rate=1, concurrency=1)
    crowd.add(1)
    await clock.advance(0)
    for entrant in crowd.add(50, deadline=1.0):
        entrant.needs = True
    (last,) = crowd.add(1, deadline=2.0)
    await clock.advance(0)
    for entrant in crowd.entrants[1:-1]:
        entrant.needs = False
    await clock.advance(1.1)
    assert last.entered
    assert crowd.gate.in_flight == 0


async def test_who_is_forgotten_is_not_called(clock):
    """A session that was closed does not begin to renew."""
    crowd = Crowd(clock, rate=1)
    crowd.add(1)
    await clock.advance(0)
    gone = [Entrant(crowd.gate, "gone") for _ in range(3)]
    for entrant in gone:
        assert not crowd.gate.enter(entrant)
        crowd.gate.forget(entrant)
    await clock.advance(10)
    assert not any(entrant.entered for entrant in gone)
    assert crowd.gate.waiting == 0


async def test_a_renewal_that_asks_nobody_does_not_count(clock):
    """What was found in a store costs the service nothing."""
    crowd = Crowd(clock, rate=1, concurrency=1)
    for entrant in crowd.add(100):
        entrant.asks = False
    await clock.advance(0)
    assert len(crowd.times) == 100


async def test_the_event_loop_gets_its_turn(clock):
    """A hundred thousand that wait are not woken at one go."""
    crowd = Crowd(clock, rate=math.inf, concurrency=1)
    (first,) = crowd.add(1, stays=1.0)
    await clock.advance(0)
    crowd.add(5 * STARTS_PER_TURN)
    await clock.advance(0)
    for entrant in crowd.entrants[1:]:
        entrant.needs = False
    await first.leave()
    crowd.gate.wake(crowd.timer)
    assert crowd.gate.waiting == 4 * STARTS_PER_TURN
    await clock.advance(2)
    assert crowd.gate.waiting == 0


async def test_one_that_raises_holds_up_nobody(clock, caplog):
    """It is logged, and woken again later."""
    crowd = Crowd(clock, rate=1)
    crowd.add(1)
    await clock.advance(0)
    broken, fine = crowd.add(2)
    await clock.advance(0)
    broken.gate = None
    with caplog.at_level(logging.ERROR):
        await clock.advance(5)
    assert fine.entered
    assert "waking it failed" in caplog.text
    broken.gate = crowd.gate
    await clock.advance(40)
    assert broken.entered


async def test_a_service_that_is_down_is_asked_after_by_one_at_a_time(crowd, clock):
    """A count, not a herd: ten failures in a row, and then one every five seconds at most. (P26)"""
    await crowd.fail()
    assert crowd.gate.health.state is BreakerState.OPEN
    for entrant in crowd.add(1000):
        entrant.outcome = NOT_SENT
    before = len(crowd.times)
    await clock.advance(600)
    assert 600 / 5 <= len(crowd.times) - before <= 600 / 2.5 + 8
    probes = crowd.times[before:]
    assert all(later - sooner >= 0.25 for sooner, later in pairwise(probes))
    assert crowd.gate.last_error is NOT_SENT.error


async def test_a_probe_that_is_not_answered_keeps_all_others_back(crowd, clock):
    """However long it takes."""
    await crowd.fail()
    (probe,) = crowd.add(1, stays=100.0, deadline=1.0)
    others = crowd.add(5)
    await clock.advance(60)
    assert probe.entered
    assert not any(entrant.entered for entrant in others)
    await clock.advance(60)
    assert all(entrant.entered for entrant in others)


async def test_when_the_service_is_back_the_rate_grows(crowd, clock):
    """From a tenth of it; ten seconds later, it is what it was."""
    await crowd.fail()
    crowd.add(3000)
    await clock.advance(5.1)
    back = crowd.times[10]
    await clock.advance(30)
    in_second = [sum(back + at < time <= back + at + 1 for time in crowd.times) for at in range(15)]
    assert in_second[0] <= 32
    assert in_second[:11] == sorted(in_second[:11])
    assert 140 <= in_second[11] <= 150
    assert crowd.gate.health.state is BreakerState.CLOSED


async def test_those_whom_the_service_has_failed_try_again_when_it_is_back(crowd, clock):
    """They do not sit out the pauses of an outage that is over; nor do those who failed by themselves."""
    failed = await crowd.fail()
    crowd.add(1)
    await clock.advance(5)
    assert [entrant.forgiven for entrant in failed] == [1] * 10
    (alone,) = await crowd.fail(1)
    crowd.add(1)
    await clock.advance(1)
    assert alone.forgiven == 0


async def test_settings_that_were_mended_are_mended_for_all(crowd, clock):
    """Even for a few: where one is accepted, those who were not try again; once, for it may be some session's own."""
    (refused_one,) = await crowd.fail(1, MISCONFIGURED)
    (alone,) = await crowd.fail(1, NOT_SENT)
    for _ in range(5):
        crowd.add(1)
        await clock.advance(1)
        refused_one.needs = True
        crowd.timer.set(refused_one, clock.now())
        await clock.advance(1)
    assert (refused_one.forgiven, alone.forgiven) == (1, 0)
    assert len(refused_one.entered) == 6


@pytest.mark.parametrize("outcome", [SPENT, refused(NotSent, "the store")])
async def test_what_is_not_the_service_s_fault_does_not_count(crowd, outcome):
    """A refusal is an answer, and a store is not the service."""
    outcome = NotSent(StoreError("no store")) if outcome is not SPENT else outcome
    await crowd.fail(100, outcome)
    assert crowd.gate.health.state is BreakerState.CLOSED


async def test_a_service_that_asks_for_quiet_gets_it_at_once(crowd, clock):
    """One 429 is enough; how long each may be kept from trying again, its own token says."""
    (told,) = crowd.add(1)
    told.outcome = throttled(3600)
    await clock.advance(0)
    assert crowd.gate.health.state is BreakerState.OPEN
    assert 0 < crowd.gate.health.pause() < 1
    crowd.gate.forget(told)


async def test_one_that_fails_by_itself_is_no_use_for_finding_out(crowd, clock):
    """While the service is down, those go first that have not failed; they do not keep each other from it."""
    await crowd.fail()
    bad = crowd.add(5, deadline=1.0, failed=True)
    (good,) = crowd.add(1, deadline=5000.0)
    for entrant in bad:
        entrant.outcome = NOT_SENT
    await clock.advance(1)
    assert good.entered
    assert crowd.gate.health.state is BreakerState.RAMPING
    await clock.advance(5)
    assert all(entrant.entered for entrant in bad)


async def test_while_the_service_is_well_it_does_not_matter_who_has_failed(clock):
    """The soonest deadline goes first."""
    crowd = Crowd(clock, rate=1)
    crowd.add(1)
    await clock.advance(0)
    calm, soon = crowd.add(1, deadline=3000.0)[0], crowd.add(1, deadline=2000.0, failed=True)[0]
    await clock.advance(10)
    assert soon.entered < calm.entered


async def test_one_that_fails_again_and_again_shuts_nobody_out(crowd, clock):
    """However often, it is one."""
    (bad,) = crowd.add(1)
    bad.outcome = NOT_SENT
    for _ in range(50):
        await clock.advance(1)
        bad.needs = True
        crowd.timer.set(bad, clock.now())
    assert len(bad.entered) == 50
    assert crowd.gate.health.state is BreakerState.CLOSED


async def test_looking_into_the_store_needs_no_turn(clock):
    """It is bounded in number alone, and goes on while the service is down."""
    crowd = Crowd(clock, concurrency=3)
    await crowd.fail()
    lookers = [Entrant(crowd.gate, "looks") for _ in range(5)]
    for entrant in lookers:
        crowd.gate.look(entrant, entrant.look)
    await clock.advance(0)
    assert [entrant.looking for entrant in lookers] == [True] * 3 + [False] * 2
    crowd.gate.ended(lookers[0], None)
    await clock.advance(0)
    assert [entrant.looking for entrant in lookers] == [True] * 4 + [False]
    crowd.gate.close()


async def test_those_who_are_gone_are_not_kept(clock):
    """Thousands may come and go while the service is down."""
    crowd = Crowd(clock)
    await crowd.fail()
    gone = [ref(entrant) for entrant in crowd.add(1000)]
    await clock.advance(0)
    for entrant in crowd.entrants[10:]:
        crowd.gate.forget(entrant)
    del crowd.entrants[10:], entrant
    assert sum(each() is not None for each in gone) <= 300


async def test_callers_that_wait_in_vain_are_notified_a_few_at_a_time(crowd, clock, monkeypatch):
    """A hundred thousand errors in one turn of the event loop would hold up all other work."""
    waiting, quiet = crowd.add(3 * STARTS_PER_TURN + 1, needs=False), crowd.add(1, needs=False)
    quiet[0].waiters = None
    turns, wake = [], FleetGate.wake

    def counted(gate, timer):
        before = sum(one.looked for one in waiting)
        wake(gate, timer)
        turns.append(sum(one.looked for one in waiting) - before)

    monkeypatch.setattr(FleetGate, "wake", counted)
    for one in (*waiting, *quiet):
        crowd.gate._queue.add(one)
    monkeypatch.setattr(crowd.gate.health, "is_shut", lambda: True)
    monkeypatch.setattr(crowd.gate, "_free_at", lambda _: math.inf)
    crowd.gate.wake_soon()
    await clock.advance(1)
    assert [count for count in turns if count] == [STARTS_PER_TURN] * 3 + [1]
    assert [one.looked for one in waiting] == [1] * len(waiting)
    assert quiet[0].looked == 0


async def test_it_is_shut_after_two_probes_in_vain_and_says_so(crowd, clock):
    """A service that is away for a moment is waited for; one that is away longer is not."""
    await crowd.fail()
    assert crowd.gate.health.pause() > 0
    assert not crowd.gate.health.is_shut()
    first, second, third = (crowd.add(1, deadline=at)[0] for at in (1.0, 2.0, 3.0))
    first.outcome = second.outcome = NOT_SENT
    await clock.advance(0.5)
    assert first.entered
    assert not crowd.gate.health.is_shut()
    while not second.entered:
        await clock.advance(0.1)
    assert crowd.gate.health.is_shut()
    assert third.looked == 1
    assert crowd.gate.outlook(third).is_waiting
    await clock.advance(20)
    assert not crowd.gate.health.is_shut()
    assert crowd.gate.health.pause() == 0


async def test_settings_that_are_at_fault_shut_it_at_once(crowd):
    """Waiting does not mend them."""
    (one, *_) = await crowd.fail(10, MISCONFIGURED)
    assert crowd.gate.health.is_shut()
    assert crowd.gate.outlook(one).fault is MISCONFIGURED.error


async def test_those_who_need_nothing_make_way_for_one_who_does(crowd, clock):
    """While the service is down, no attempt to find out is lost on them."""
    await crowd.fail()
    crowd.add(500)
    (needy,) = crowd.add(1, deadline=5000.0)
    await clock.advance(0)
    for entrant in crowd.entrants[10:-1]:
        entrant.needs = False
    await clock.advance(1)
    assert needy.entered
    assert crowd.gate.health.state is BreakerState.RAMPING


async def test_where_all_have_failed_one_is_sent_back_to_find_out(crowd, clock):
    """They may pause for minutes; the fleet does not."""
    failed = await crowd.fail(12)
    for entrant in failed:
        entrant.retries = True
    await clock.advance(60)
    assert 60 / 5 <= sum(entrant.forgiven for entrant in failed) <= 60 / 2.5 + 4
    assert max(entrant.forgiven for entrant in failed) - min(entrant.forgiven for entrant in failed) <= 1


async def test_a_probe_that_found_its_pair_elsewhere_says_nothing(crowd, clock):
    """The service was not asked."""
    await crowd.fail()
    (probe,) = crowd.add(1)
    probe.asks = False
    await clock.advance(1)
    assert probe.entered
    assert crowd.gate.health.state is BreakerState.OPEN


async def test_a_probe_that_a_store_has_kept_from_asking_puts_the_next_one_off(crowd, clock):
    """With the service and the store down, neither is overrun."""
    await crowd.fail()
    for entrant in crowd.add(500):
        entrant.asks, entrant.outcome = False, NotSent(StoreError("no store"))
    await clock.advance(60)
    assert len(crowd.times) - 10 <= 60 / 0.25


async def test_fleets_that_share_a_governor_know_the_same_of_the_service(crowd, clock):
    """What one finds out holds for the other, and so does its probe. (P43)"""
    other = crowd.another(governor=crowd.governor)
    failed = Entrant(other, "failed")
    failed.outcome = NOT_SENT
    assert other.enter(failed)
    await failed.leave()
    await crowd.fail()
    assert crowd.gate.health.state is BreakerState.OPEN
    await other.asks(failed, math.inf)  # each turn brings the news
    assert other.health.state is BreakerState.OPEN
    crowd.add(1, stays=9.0)
    await clock.advance(1)
    waits = Entrant(other, "waits")
    assert not other.enter(waits)
    await clock.advance(7)
    assert not waits.entered
    await clock.advance(30)
    assert waits.entered
    assert failed.forgiven == 1


async def test_a_gate_that_is_closed_calls_nobody(crowd, clock):
    """And leaves no probe behind that others would wait for."""
    await crowd.fail()
    (probe,) = crowd.add(1, stays=100.0)
    late = crowd.add(5)
    await clock.advance(1)
    assert probe.entered
    assert crowd.gate.health.account.is_probing
    crowd.gate.close()
    await crowd.gate.health.account.finish()
    assert not (await crowd.governor.read()).health.probe
    assert not crowd.gate.enter(late[0])
    await clock.advance(200)
    assert not any(entrant.entered for entrant in late)
    assert crowd.gate.waiting == 0


async def test_what_a_fleet_knows_of_the_service_goes_with_it(crowd, clock):
    """The client keeps nothing of it."""
    gate = crowd.another()
    known = ref(gate.health.account)
    assert known() in crowd.client.throttle.followers
    del gate
    gc.collect()
    assert known() is None


async def test_leaps_and_strangers_are_nothing_to_it(crowd):
    """Sessions see to leaps of the wall clock themselves, and who never entered does not leave."""
    crowd.gate.note_leap(1000.0, 0.0)
    stranger = Entrant(crowd.gate, "stranger")
    await stranger.leave()
    assert crowd.gate.in_flight == 0
