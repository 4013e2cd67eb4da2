"""Pairs that are shared through a store, with renewals and a store that go by a script."""

import asyncio
import gc
import logging
import sys
from contextlib import asynccontextmanager

import attrs
import pytest

from signalwire_tokens import (
    MemoryStore,
    RefreshPolicy,
    RefreshTuning,
    SessionClosed,
    SessionExpired,
    SessionState,
    StoreError,
    TokenUnavailable,
)
from signalwire_tokens.keeper import engine_of
from signalwire_tokens.keeper.waiters import fault_of
from signalwire_tokens.lifecycle import Lifecycle
from signalwire_tokens.stores import Reading, Record
from signalwire_tokens.testing import VirtualClock
from support.scripted_session import (
    AMBIGUOUS,
    LIFE,
    MISCONFIGURED,
    NOT_SENT,
    SPENT,
    WINDOW,
    ScriptedSession,
    make_pair,
    throttled,
)

KEY = "0123456789abcdef"
LEASE, POLL = 20.0, 0.25
DOWN = StoreError("the store is down")
QUICK = RefreshPolicy(store_timeout=0.02)


class Moody(MemoryStore):
    """A store that fails where it is told to: with an error, by hanging, or after the fact.

    `moods` holds, by the name of a method, what happens: an exception to raise, "hang", or a function to call first.
    `before` says whether that comes before the method does its work, or after.
    """

    def __init__(self, clock):
        super().__init__(clock=clock)
        self.moods, self.after, self.calls = {}, {}, []

    async def _meet(self, moods, name):
        mood = moods.get(name)
        if mood == "hang":
            await asyncio.Event().wait()
        elif isinstance(mood, BaseException):
            raise mood
        elif mood is not None:
            await mood()

    async def load(self, key):
        self.calls.append("load")
        await self._meet(self.moods, "load")
        reading = await super().load(key)
        await self._meet(self.after, "load")
        return reading

    async def save(self, key, record, replaces):
        self.calls.append("mark" if record.presenting else "save")
        await self._meet(self.moods, self.calls[-1])
        saved = await super().save(key, record, replaces)
        await self._meet(self.after, self.calls[-1])
        return saved

    @asynccontextmanager
    async def lease(self, key, ttl):
        self.calls.append("lease")
        await self._meet(self.moods, "lease")
        async with super().lease(key, ttl) as held:
            await self._meet(self.after, "lease")
            yield held
            await self._meet(self.moods, "release")

    def heal(self):
        self.moods, self.after = {}, {}


@pytest.fixture
def store(clock):
    return Moody(clock)


@pytest.fixture
def share(clock, store):
    """Make sessions that share one pair."""

    def make(*script, held=None, **more):
        return ScriptedSession(clock, *script, store=store, store_key=KEY, held=held, **more)

    return make


async def put(store, clock, pair=None, *, age=0.0, presenting=None, timeline=""):
    """Let the store hold a pair that somebody else has saved."""
    pair = make_pair() if pair is None else pair
    record = Record(
        pair=pair,
        asked_at=clock.now() - age,
        asked_wall=clock.wall() - age,
        presenting=presenting,
        timeline=timeline,
    )
    await store.delete(KEY)
    assert await MemoryStore.save(store, KEY, record, None)
    return pair


async def held(store):
    return (await MemoryStore.load(store, KEY)).record


def events_of(session):
    told = []
    session.subscribe(told.append)
    return told


def kinds(told):
    return [event.kind for event in told]


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


async def saved(clock, session):
    """Let time pass until the session has nothing left to save: what hangs does so by the machine's time."""
    while not session.shared.saving.done():
        await clock.advance(10)
        await asyncio.sleep(0.001)


def pause(clock, seconds):
    """Pause the machine as a virtual machine is paused: its own clock stops, and the wall clock leaps."""
    clock.set_wall(clock.wall() + seconds)


class Distant(Moody):
    """A store whose time is a server's, which goes on while this machine is paused."""

    paused = 0.0

    async def load(self, key):
        reading = await super().load(key)
        return attrs.evolve(reading, at=reading.at + self.paused, wall=None)


async def late(clock, session):
    """Go to where the token has just come to its end."""
    await clock.advance(0)
    clock.suspend(session.expires_in.total_seconds() + 1)


async def test_the_first_issues_and_the_next_adopts(share, store):
    """What one session has saved, the next one takes, and asks nobody."""
    async with share() as first:
        assert first.steps == ["IssueNew"]
        assert (await held(store)).pair == first.pair
        assert (await held(store)).presenting is None
    async with share() as second:
        assert second.steps == []
        assert await second.token() == first.pair.access_token.value
        assert second.generation == 1


async def test_a_rotation_is_leased_read_marked_asked_for_and_saved(share, store, clock):
    """In this order, and the lease is given back."""
    async with share() as session:
        first = session.pair
        store.calls.clear()
        marks = []

        async def look():
            marks.append((await held(store)).presenting)

        store.after["mark"] = look
        await session.refresh()
        assert store.calls == ["load", "lease", "load", "mark", "save"]
        assert session.presented == [first.refresh_token.value]
        assert marks != [None]
        assert (await held(store)).presenting is None
        async with store.lease(KEY, 1) as free:
            assert free


async def test_what_is_found_is_told_by_this_machine_s_clock(share, store, clock):
    """A pair that is half an hour old has an hour and a half to live, whatever the wall clock of its maker said."""
    pair = await put(store, clock, age=1800)
    clock.set_wall(10**9)
    async with share() as session:
        assert session.pair.access_token.value == pair.access_token.value
        assert session.expires_in.total_seconds() == LIFE - 1800
        assert session.pair.access_token.issued_at.timestamp() == 10**9 - 1800
        assert (session.pair.refresh_token.expires_at.timestamp()) == 10**9 - 1800 + LIFE + WINDOW


async def test_a_slow_answer_makes_a_pair_no_younger(share, store, clock):
    """Where nobody knows when the store looked at its clock, the pair is taken for as old as it may be."""
    await put(store, clock, age=1800)

    async def take_time():
        clock.suspend(0.5)

    store.moods["load"] = store.after["load"] = take_time
    async with share() as session:
        asked = session.cycle.access_until - LIFE
        store.heal()
        assert asked <= (await held(store)).asked_at
    store.moods["load"] = store.after["load"] = take_time
    async with share() as session:
        await session.refresh()
        store.heal()
        assert (await held(store)).asked_at <= session.cycle.access_until - LIFE


async def test_a_pair_that_is_due_is_served_and_renewed_behind(share, store, clock):
    """The start does not wait for the service while there is a live token."""
    pair = await put(store, clock, age=0.9 * LIFE)
    answered = asyncio.Event()
    async with share(answered) as session:
        assert await session.token() == pair.access_token.value
        assert session.state is SessionState.DUE
        answered.set()
        await clock.advance(1)
        assert session.presented == [pair.refresh_token.value]
        assert session.state is SessionState.FRESH


async def test_a_pair_that_is_late_is_refreshed(share, store, clock):
    """In its window, by the refresh token of the store."""
    pair = await put(store, clock, age=LIFE + WINDOW / 2)
    async with share() as session:
        assert session.presented == [pair.refresh_token.value]
        assert session.state is SessionState.FRESH


async def test_a_pair_that_has_ended_is_issued_anew(share, store, clock):
    """Nothing is presented that cannot be accepted."""
    await put(store, clock, age=LIFE + WINDOW - 1e-3)
    clock.suspend(1)
    async with share() as session:
        assert session.steps == ["IssueNew"]


@pytest.mark.parametrize("timeline", ["another boot", ""])
async def test_a_pair_of_unknown_age_is_renewed_before_it_is_served(share, store, clock, timeline):
    """From another timeline, or from the future: its refresh token may be good, and its access token may not."""
    pair = await put(store, clock, age=0 if timeline else -100, timeline=timeline)
    async with share() as session:
        assert session.presented == [pair.refresh_token.value]
        assert session.pair.access_token.value != pair.access_token.value


@pytest.mark.parametrize(("leap", "is_unknown"), [(-36000, False), (60, False), (61, True), (36000, True)])
async def test_a_pair_that_a_store_kept_through_a_pause_is_of_unknown_age(share, store, clock, leap, is_unknown):
    """A session is due if the wall clock has gained more than `leap` since the pair was asked for. (P31)"""
    pair = await put(store, clock)
    pause(clock, leap)
    async with share() as session:
        assert session.presented == ([pair.refresh_token.value] if is_unknown else [])


async def test_a_policy_says_what_a_leap_of_the_wall_clock_is(share, store, clock):
    """The limit that holds for the session's own pair holds for a pair from the store."""
    await put(store, clock)
    pause(clock, 500)
    async with share(policy=RefreshPolicy(tuning=RefreshTuning(clock_jump=600))) as session:
        assert session.steps == []


async def test_a_renewal_makes_the_age_of_a_pair_known_again(share, store, clock):
    """A pause costs one renewal, and the next session finds a fresh pair."""
    await put(store, clock)
    pause(clock, 36000)
    async with share() as session:
        renewed = session.pair
    async with share() as session:
        assert session.steps == []
        assert session.pair.access_token.value == renewed.access_token.value


async def test_a_pair_that_a_distant_store_kept_through_a_pause_is_as_old_as_it_is(share, clock):
    """A server's time goes on, so the pair's age is known, and this machine's wall clock doesn't matter."""
    store = Distant(clock)
    pair = await put(store, clock)
    pause(clock, 1800)
    store.paused = 1800
    async with ScriptedSession(clock, store=store, store_key=KEY) as session:
        assert session.steps == []
        assert session.pair.access_token.value == pair.access_token.value
        assert session.expires_in.total_seconds() == LIFE - 1800


async def test_a_pair_that_has_ended_is_not_presented_after_a_pause(share, store, clock):
    """A pause makes a pair older than it seems, and never younger."""
    await put(store, clock, age=LIFE + WINDOW)
    pause(clock, 36000)
    async with share() as session:
        assert session.steps == ["IssueNew"]


@pytest.mark.parametrize("kind", [Moody, Distant])
async def test_a_pause_while_the_store_answers_leaves_the_age_of_its_pair_unknown(clock, kind):
    """The reading was taken before the pause, and is looked at after it."""
    store = kind(clock)
    async with ScriptedSession(clock, store=store, store_key=KEY) as session:
        clock.suspend(1)
        other = await put(store, clock)

        async def take_long():
            pause(clock, 36000)

        store.after["load"] = take_long
        engine_of(session).on_store_change()
        await settle()
        assert session.pair.access_token.value != other.access_token.value


@pytest.mark.parametrize("kind", [Moody, Distant])
async def test_a_pair_that_is_saved_after_a_pause_is_of_unknown_age(clock, kind):
    """It was asked for before the pause, which the session's clock doesn't count."""
    store = kind(clock)
    store.moods["save"] = DOWN
    async with ScriptedSession(clock, store=store, store_key=KEY) as session:
        pair = session.pair
        pause(clock, 36000)
        store.paused = 36000
        store.heal()
    assert (await held(store)).pair.access_token.value == pair.access_token.value
    async with ScriptedSession(clock, store=store, store_key=KEY) as session:
        assert session.presented == [pair.refresh_token.value]


async def test_pauses_before_and_after_a_pair_is_saved_add_up(share, store, clock):
    """A record counts from when the pair was asked for, and not from when it was saved."""
    store.moods["save"] = DOWN
    async with share() as session:
        pair = session.pair
        pause(clock, 40)
        store.heal()
    pause(clock, 40)
    async with share() as session:
        assert session.presented == [pair.refresh_token.value]


@pytest.mark.parametrize(("kind", "step"), [(Moody, "UseRefreshToken"), (Distant, "IssueNew")])
async def test_a_pair_that_came_through_a_pause_is_not_taken_for_fresh(clock, kind, step):
    """It was asked for before the pause: its age is unknown by a clock that stopped, and known by a server's."""
    store, answered = kind(clock), asyncio.Event()
    session = ScriptedSession(clock, answered, store=store, store_key=KEY)
    starting = asyncio.ensure_future(session.start())
    await settle()
    pause(clock, 36000)
    store.paused = 36000
    answered.set()
    await starting
    async with ScriptedSession(clock, store=store, store_key=KEY) as other:
        assert other.steps == [step]
    await session.aclose()


async def test_a_pair_that_could_not_be_saved_gives_way_to_a_later_one_after_a_pause(share, store, clock):
    """Both are of unknown age, and which of them is the later one is known all the same."""
    store.moods["save"] = DOWN
    no_renewal = RefreshPolicy(
        tuning=RefreshTuning(clock_jump_spread=1e9)
    )  # after the leap, for as long as this test takes
    async with share(policy=no_renewal) as session:
        clock.suspend(1)
        store.moods["load"] = DOWN  # so that it doesn't see at once what was saved
        later = await put(store, clock)
        await settle()
        pause(clock, 36000)
        store.heal()
        await saved(clock, session)
        assert (await held(store)).pair.access_token.value == later.access_token.value


async def test_a_pair_that_could_not_be_saved_gives_way_to_a_later_one(share, store, clock):
    """Even if the session could not look when that was saved."""
    store.moods["save"] = DOWN
    async with share() as session:
        clock.suspend(1)
        store.moods["load"] = DOWN
        later = await put(store, clock)
        await settle()
        store.heal()
        told = events_of(session)
        await saved(clock, session)
        assert session.pair.access_token.value == later.access_token.value
        assert (await held(store)).pair.access_token.value == later.access_token.value
        assert kinds(told) == ["rotated"]


async def test_a_later_pair_that_is_found_during_a_renewal_is_left_to_that(share, store, clock):
    """The renewal saves its own, which is later still."""
    store.moods["save"] = DOWN
    async with share(None, answered := asyncio.Event(), None) as session:
        renewal = asyncio.ensure_future(session.refresh())
        await settle()
        clock.suspend(1)
        await put(store, clock, age=0.5)
        store.heal()
        await saved(clock, session)
        assert session.generation == 1
        answered.set()
        await renewal
        assert session.steps == ["IssueNew", "IssueNew"]
        assert (await held(store)).pair.access_token.value == session.pair.access_token.value


async def test_of_two_who_are_due_one_renews(share, store, clock):
    """The other waits for it, and adopts. (P32)"""
    answered = asyncio.Event()
    async with share() as one, share(answered) as another:
        clock.suspend(1)
        renewals = [asyncio.ensure_future(session.refresh()) for session in (another, one)]
        await settle()
        assert one.state is another.state is SessionState.FRESH  # meanwhile, both serve what they have
        answered.set()
        await clock.advance(1)
        await asyncio.gather(*renewals)
        assert one.pair.access_token.value == another.pair.access_token.value
        assert one.steps + another.steps == ["IssueNew", "UseRefreshToken"]


@pytest.mark.parametrize("presenting", [None, "somebody who died"])
async def test_whoever_died_is_replaced(share, store, clock, presenting):
    """Within the lease and one look; what was marked is not presented again. (P33)"""
    pair = await put(store, clock, presenting=presenting)
    async with share() as session:
        dead = store.lease(KEY, LEASE)
        assert await dead.__aenter__()
        renewal = asyncio.ensure_future(session.refresh())
        await clock.advance(LEASE - 0.01)
        assert session.steps == []
        await clock.advance(POLL)
        assert session.steps == (["IssueNew"] if presenting else ["UseRefreshToken"])
        assert (session.presented == [pair.refresh_token.value]) is not presenting or presenting
        await renewal
        await dead.__aexit__(None, None, None)


async def test_a_lease_that_never_ends_is_a_failure(share, store, clock):
    """While the token is live, others may renew; once it is not, the session issues a pair of its own."""
    async with share() as session:
        store.after["lease"] = None
        busy = asynccontextmanager(never_free)
        store.lease = busy
        renewal = asyncio.ensure_future(session.refresh())
        await clock.advance(2 * LEASE + 1)
        with pytest.raises(TokenUnavailable) as caught:
            await renewal
        assert "other processes have held the lease" in str(caught.value.cause)
        await late(clock, session)
        asking = asyncio.ensure_future(session.token(0))
        await clock.advance(3 * LEASE)
        await asyncio.wait([asking])
        assert asking.exception() is not None or asking.result()
        assert await session.token()
        assert session.steps == ["IssueNew", "IssueNew"]


async def test_a_session_that_closes_while_others_hold_the_lease_says_so(share, store, clock):
    """The other processes aren't to blame then."""
    async with share() as session:
        store.lease = asynccontextmanager(never_free)
        renewal = asyncio.ensure_future(session.refresh())
        await clock.advance(POLL)
        closing = asyncio.ensure_future(session.aclose())
        await clock.advance(POLL)
        await closing
        with pytest.raises(SessionClosed):
            await renewal
        assert str(session.last_error).endswith(": the session was closed; no request was sent")


async def never_free(key, ttl):
    yield False


async def test_a_mark_is_not_presented_unless_there_is_no_other_way(share, store, clock):
    """A refresh token that may be used up is presented only by those who cannot issue."""
    pair = await put(store, clock, presenting="somebody")
    async with share(reissues=False) as session:
        with pytest.raises(TokenUnavailable) as caught:
            await session.refresh()
        assert "another process has marked the refresh token" in str(caught.value.cause)
        assert session.presented == []
        await late(clock, session)
        assert await session.token()
        assert session.presented == [pair.refresh_token.value]


async def test_a_mark_of_its_own_a_session_knows(share, store, clock):
    """It may try once more at once: nobody else has that refresh token."""
    async with share(None, AMBIGUOUS, reissues=False) as session:
        first = session.pair.refresh_token.value
        with pytest.raises(TokenUnavailable):
            await session.refresh()
        await session.refresh()
        assert session.presented == [first, first]


async def test_who_cannot_issue_waits_for_a_lease_that_never_ends(share, store, clock):
    """Its holder may be presenting the refresh token."""
    async with share(reissues=False) as session:
        store.lease = asynccontextmanager(never_free)
        await late(clock, session)
        asking = asyncio.ensure_future(session.token())
        await clock.advance(3 * LEASE)
        await asyncio.wait([asking])
        assert isinstance(asking.exception(), TokenUnavailable)
        assert session.presented == []
        closing = asyncio.ensure_future(session.aclose())
        await clock.advance(1)
        await closing


@pytest.mark.parametrize(
    ("outcome", "steps"),
    [
        (NOT_SENT, ["IssueNew", "UseRefreshToken", "UseRefreshToken"]),
        (throttled(None), ["IssueNew", "UseRefreshToken", "UseRefreshToken"]),
        (MISCONFIGURED, ["IssueNew", "UseRefreshToken", "UseRefreshToken"]),
        (AMBIGUOUS, ["IssueNew", "UseRefreshToken", "IssueNew"]),
        (SPENT, ["IssueNew", "UseRefreshToken", "IssueNew"]),
    ],
)
async def test_a_mark_stays_where_something_may_have_been_done(share, store, clock, outcome, steps):
    """By it, the next one knows whether the refresh token may be presented: this session or another."""
    async with share(None, outcome) as session:
        with pytest.raises(TokenUnavailable):
            await session.refresh()
        assert ((await held(store)).presenting is None) is (steps[-1] == "UseRefreshToken")
        async with share() as another:
            await another.refresh()
            assert session.steps + another.steps == steps


async def test_a_mark_that_cannot_be_taken_back_stays(share, store, clock):
    """Then a pair is issued that need not have been; nothing worse comes of it."""
    async with share(None, NOT_SENT) as session:
        store.moods["save"] = DOWN
        with pytest.raises(TokenUnavailable):
            await session.refresh()
        store.heal()
        await session.refresh()
        assert session.steps == ["IssueNew", "UseRefreshToken", "IssueNew"]


async def test_what_was_refused_may_have_a_successor(share, store, clock):
    """A refresh token that is spent was perhaps used by somebody who has saved what came of it."""
    async with share(None, settle_event := asyncio.Event(), SPENT) as session:
        renewal = asyncio.ensure_future(session.refresh())
        await settle()
        successor = await put(store, clock)
        clock.suspend(1)
        successor = await put(store, clock, successor)
        settle_event.set()
        assert (await renewal).access_token.value == successor.access_token.value


@pytest.mark.parametrize("refused", [SPENT, AMBIGUOUS])
async def test_a_refusal_of_another_s_refresh_token_leaves_the_way_to_issue_open(share, store, clock, refused):
    """The policy asked for an issue, the store held a token to present, and that was refused."""
    async with share(None, AMBIGUOUS, refused) as session:
        told = events_of(session)
        with pytest.raises(TokenUnavailable):
            await session.refresh()
        other = await put(store, clock, timeline="another boot")
        with pytest.raises(TokenUnavailable):
            await session.refresh()
        assert session.presented[-1] == other.refresh_token.value
        await session.refresh()
        assert session.steps == ["IssueNew", "UseRefreshToken", "UseRefreshToken", "IssueNew"]
        await settle()
        assert kinds(told) == ["degraded", "reissued", "recovered"]


async def test_what_is_live_and_better_is_adopted_whatever_was_planned(share, store, clock):
    """Between the first look and the lease, too."""
    async with share() as session:

        async def another_renews():
            store.moods.clear()
            clock.suspend(10)
            await put(store, clock)

        store.moods["lease"] = another_renews
        await session.refresh()
        assert session.steps == ["IssueNew"]
        assert session.generation == 2


async def test_what_somebody_changed_in_between_is_looked_at_again(share, store, clock):
    """A record that is not the one that was read is not marked."""
    async with share() as session:
        first = session.pair

        async def another_marks():
            store.moods.clear()
            record = await held(store)
            await MemoryStore.save(store, KEY, attrs.evolve(record, presenting="another"), record.digest)

        store.moods["mark"] = another_marks
        renewal = asyncio.ensure_future(session.refresh())
        await clock.advance(1)
        await renewal
        assert session.steps == ["IssueNew", "IssueNew"]
        assert session.pair.access_token.value != first.access_token.value


@pytest.mark.parametrize("better", [True, False])
async def test_a_pair_that_was_overtaken_gives_way(share, store, clock, better):
    """To one that is live; it takes the place of one that is not."""
    async with share(None, answered := asyncio.Event(), None) as session:
        renewal = asyncio.ensure_future(session.refresh())
        await settle()
        clock.suspend(1)
        other = await put(store, clock, age=0 if better else LIFE)
        answered.set()
        pair = await renewal
        assert (pair.access_token.value == other.access_token.value) is better
        await clock.advance(10)
        assert (await held(store)).pair.access_token.value == pair.access_token.value


STEPS = ["load", "lease", "mark"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("mood", [DOWN, "hang", ZeroDivisionError("it holds a secret"), asyncio.CancelledError()])
async def test_while_the_token_is_live_a_store_that_fails_is_waited_for(share, store, clock, step, mood):
    """Nothing is issued, the session says what is wrong, and goes on once that is over."""
    async with share(policy=QUICK) as session:
        told = events_of(session)
        store.moods[step] = mood
        with pytest.raises(TokenUnavailable) as caught:
            await session.refresh()
        assert isinstance(caught.value.cause, StoreError)
        assert "secret" not in str(caught.value.cause)
        assert session.steps == ["IssueNew"]
        assert await session.token() == session.pair.access_token.value
        store.heal()
        await clock.advance(60)
        assert session.generation == 2
        assert session.last_error is None
        await settle()
        assert kinds(told) == ["degraded", "rotated", "recovered"]
        assert session.presented or step == "mark"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("mood", [DOWN, "hang"])
async def test_where_it_cannot_wait_a_session_issues_a_pair_of_its_own(share, store, clock, step, mood):
    """At the start, and once the token at hand has come to its end; the store gets it when it can."""
    await put(store, clock, age=LIFE + 1)
    store.moods[step] = mood
    session = share(policy=QUICK)
    told = events_of(session)
    async with session:
        assert session.steps == ["IssueNew"]
        assert session.state is SessionState.FRESH
        await settle()
        assert kinds(told) == ["persist_failed", "started"]
        assert isinstance(told[0].error, StoreError)
        assert session.last_error is None
        await clock.advance(30)
        store.heal()
        await saved(clock, session)
        assert (await held(store)).pair.access_token.value == session.pair.access_token.value
        assert session.steps == ["IssueNew"]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        Reading(record=None, at=None),
        Reading(record=None, at=float("nan")),
        Reading(record=b"a pair", at=1.0),
        Reading(record=None, at=1.0, wall="noon"),
        Reading(record=None, at=1.0, wall=float("nan")),
    ],
    ids=repr,
)
async def test_an_answer_that_is_no_reading_is_a_failure(share, store, clock, answer):
    """Whoever writes a store may make mistakes."""
    async with share() as session:

        async def nonsense(key):
            return answer

        store.load = nonsense
        with pytest.raises(TokenUnavailable) as caught:
            await session.refresh()
        assert "load() must return a Reading with finite times" in str(caught.value.cause)


async def test_without_store_and_service_the_service_is_what_fails(share, store, clock):
    """The store is no reason to be told of then."""
    store.moods["load"] = DOWN
    session = share(NOT_SENT, NOT_SENT)
    starting = asyncio.ensure_future(session.start())
    await clock.advance(60)
    await starting
    assert session.steps == ["IssueNew", "IssueNew", "IssueNew"]
    await session.aclose()


async def test_who_cannot_issue_presents_its_own(share, store, clock):
    """There is no other way to a live token while the store is down."""
    async with share(reissues=False) as session:
        first = session.pair
        store.moods["load"] = DOWN
        await late(clock, session)
        assert await session.token()
        assert session.presented == [first.refresh_token.value]


async def test_who_cannot_issue_presents_its_own_where_the_store_has_lost_it(share, store, clock):
    """And marks it, for others to know."""
    async with share(None, AMBIGUOUS, reissues=False) as session:
        first = session.pair
        await store.delete(KEY)
        with pytest.raises(TokenUnavailable):
            await session.refresh()
        assert session.presented == [first.refresh_token.value]
        assert (await held(store)).presenting is not None
        assert (await held(store)).asked_at == pytest.approx(session.cycle.access_until - LIFE)


async def test_a_store_that_lost_everything_gets_a_new_pair(share, store, clock):
    """Whether the refresh token at hand is good, only the store could have told."""
    async with share() as session:
        await store.delete(KEY)
        await session.refresh()
        assert session.steps == ["IssueNew", "IssueNew"]
        assert (await held(store)).pair.access_token.value == session.pair.access_token.value


@pytest.mark.parametrize("mood", [DOWN, "hang"])
async def test_a_pair_that_cannot_be_saved_is_served_and_saved_later(share, store, clock, mood):
    """Nobody waits for a store that is down longer than it gets."""
    async with share(policy=QUICK) as session:
        told = events_of(session)
        store.moods["save"] = mood
        clock.suspend(1)
        await session.refresh()
        assert session.generation == 2
        await settle()
        assert kinds(told) == ["persist_failed", "rotated"]
        await clock.advance(10)
        store.heal()
        await saved(clock, session)
        assert (await held(store)).pair.access_token.value == session.pair.access_token.value
        assert kinds(told) == ["persist_failed", "rotated"]


async def test_a_later_pair_is_saved_in_its_place(share, store, clock):
    """It is the pair at hand that is saved in the end, and by one task."""
    async with share(policy=QUICK) as session:
        store.moods["save"] = DOWN
        clock.suspend(1)
        await session.refresh()
        first = session.shared.saving
        await session.refresh()
        assert session.shared.saving is first
        store.heal()
        await clock.advance(120)
        assert (await held(store)).pair.access_token.value == session.pair.access_token.value
        assert first.done()


@pytest.mark.parametrize("mood", [DOWN, None])
async def test_closing_saves_what_was_not_saved(share, store, clock, mood, caplog):
    """In one more attempt, which may fail: then a successor issues a pair, and that is all."""
    async with share() as session:
        store.moods["save"] = DOWN
        clock.suspend(1)
        await session.refresh()
        store.moods["save"] = mood
    assert ((await held(store)).pair.access_token.value == session.pair.access_token.value) is (mood is None)
    assert ("the session closed before its pair was saved" in caplog.text) is (mood is not None)


async def test_closing_while_the_service_is_asked_saves_its_answer(share, store, clock):
    """The answer may hold the only refresh token that is good."""
    answered = asyncio.Event()
    async with share(None, answered, None) as session:
        renewal = asyncio.ensure_future(session.refresh())
        await settle()
        store.moods["save"] = DOWN
        closing = asyncio.ensure_future(session.aclose())
        await settle()
        answered.set()
        await settle()
        store.heal()
        await closing
        await asyncio.wait([renewal])
        renewal.exception()
    record = await held(store)
    assert record.presenting is None or "save" in store.calls


async def test_a_caller_who_closes_and_is_cancelled_leaves_nothing_behind(share, store, clock):
    """Whatever was under way behind the session's back ends."""
    session = await share().start()
    store.moods["save"] = DOWN
    await session.refresh()
    store.moods["load"] = "hang"
    closing = asyncio.ensure_future(session.aclose())
    await settle()
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    await settle()


async def test_a_slow_store_leaves_no_time_for_the_service(share, store, clock):
    """The request must end before the lease does, and so is not made when half of that is gone."""
    async with share() as session:

        async def take_time():
            clock.suspend(LEASE / 2 + 1)

        store.after["mark"] = take_time
        with pytest.raises(TokenUnavailable) as caught:
            await session.refresh()
        assert "the store took more than half of the lease" in str(caught.value.cause)
        assert session.steps == ["IssueNew"]


@pytest.mark.parametrize("mood", [DOWN, "hang"])
async def test_a_lease_that_cannot_be_given_back_ends_by_itself(share, store, clock, mood):
    """It is nobody's loss but that of time."""
    async with share(policy=QUICK) as session:
        store.moods["release"] = mood
        await session.refresh()
        assert session.generation == 2


async def test_who_hears_of_a_new_pair_adopts_it(share, store, clock):
    """At once, without asking the service, and those who iterate over rotations see it."""
    async with share() as one, share() as another:
        told = events_of(another)
        clock.suspend(1)
        await one.refresh()
        await settle()
        assert another.pair.access_token.value == one.pair.access_token.value
        assert another.steps == []
        assert kinds(told) == ["rotated"]


async def test_what_is_heard_of_is_not_believed(share, store, clock):
    """Rumours make nobody renew, and a pair that lives shorter is not adopted."""
    async with share() as session:
        first = session.pair
        store.watchers.call(KEY)
        await settle()
        await put(store, clock, age=100)
        store.watchers.call(KEY)
        store.watchers.call(KEY)
        await settle()
        store.moods["load"] = DOWN
        store.watchers.call(KEY)
        await settle()
        assert session.pair == first
        assert session.steps == ["IssueNew"]


async def test_who_is_renewing_or_closed_does_not_look(share, store, clock):
    """A renewal looks by itself, and after the end there is nobody to tell."""
    async with share(None, answered := asyncio.Event(), None) as session:
        renewal = asyncio.ensure_future(session.refresh())
        await settle()
        loads = store.calls.count("load")
        engine_of(session).on_store_change()
        await settle()
        assert store.calls.count("load") == loads
        answered.set()
        await renewal
        loads = store.calls.count("load")
        engine_of(session).on_store_change()
        await settle()
        assert store.calls.count("load") == loads + 1
    engine_of(session).on_store_change()
    assert store.watchers.callbacks == {}


async def test_a_session_that_is_closed_has_done_with_the_store(share, store):
    """It may be closed next, and must not be in use any more, however long a call takes to end."""
    ended = []

    async def end_slowly():
        try:
            await asyncio.Event().wait()
        finally:
            await settle()
            ended.append("load")

    async with share() as session:
        store.moods["load"] = end_slowly
        engine_of(session).on_store_change()
        await settle()
    assert ended == ["load"]


async def test_a_renewal_begins_after_a_look(share, store, clock):
    """It reads the store itself, and finds what has been saved since the look read it."""
    async with share() as session:
        found = asyncio.Event()
        store.after["load"] = found.wait
        engine_of(session).on_store_change()
        await settle()
        store.heal()
        renewal = asyncio.ensure_future(session.refresh())
        await settle()
        clock.suspend(1)
        other = await put(store, clock)
        assert session.generation == 1
        found.set()
        assert (await renewal).access_token.value == other.access_token.value
        assert session.steps == ["IssueNew"]


async def test_news_that_come_during_a_look_lead_to_another(share, store, clock):
    """The first may have read what the store held before."""
    async with share() as session:
        clock.suspend(10)
        read = asyncio.Event()
        store.after["load"] = read.wait
        await put(store, clock)
        await settle()
        clock.suspend(10)
        latest = await put(store, clock)
        store.heal()
        read.set()
        await clock.advance(POLL)
        assert session.pair.access_token.value == latest.access_token.value
        assert session.steps == ["IssueNew"]


async def test_a_store_that_notifies_of_every_read_is_read_now_and_then(share, store, clock):
    """And keeps no renewal from its turn."""
    async with share() as session:

        async def notify():
            store.watchers.call(KEY)

        loads = store.calls.count("load")
        store.after["load"] = notify
        engine_of(session).on_store_change()
        await clock.advance(10 * POLL)
        assert 5 <= store.calls.count("load") - loads <= 15
        clock.suspend(0.8 * LIFE)
        await clock.advance(10 * POLL)
        assert session.steps == ["IssueNew", "UseRefreshToken"]


async def test_news_during_the_last_look_lead_to_another_one(share, store, clock):
    """But not for ever, if every read makes news."""
    async with share(reissues=False) as session:
        clock.suspend(LIFE + WINDOW + 1)
        read = asyncio.Event()
        store.after["load"] = read.wait
        asking = asyncio.ensure_future(session.token())
        await settle()
        other = await put(store, clock)
        store.heal()
        read.set()
        assert await asking == other.access_token.value
        clock.suspend(LIFE + WINDOW + 1)

        async def notify():
            store.watchers.call(KEY)

        store.after["load"] = notify
        with pytest.raises(SessionExpired):
            await session.token()
        assert session.state is SessionState.EXPIRED


async def test_a_pair_that_comes_while_the_one_before_is_saved_is_saved_too(share, store, clock):
    """In the same task, since a renewal begins no second one."""
    store.moods["save"] = DOWN
    async with share() as session:
        store.heal()

        async def renew():
            store.after.clear()
            store.moods["save"] = DOWN
            await session.refresh()
            store.heal()

        store.after["save"] = renew
        await saved(clock, session)
        assert session.generation == 2
        assert (await held(store)).pair.access_token.value == session.pair.access_token.value


async def test_callers_are_told_to_ask_again_soon_during_a_look(share, store, clock):
    """It may find a pair any moment."""
    async with share(None, throttled(55), policy=RefreshPolicy(wait_timeout=0.2)) as session:
        session.invalidate(session.pair.access_token)
        await clock.advance(1)
        read = asyncio.Event()
        store.after["load"] = read.wait
        engine_of(session).on_store_change()
        asking = asyncio.ensure_future(session.token())
        await settle()
        await clock.advance(0.3)
        with pytest.raises(TokenUnavailable) as caught:
            await asking
        assert caught.value.retry_after == session.cycle.policy.tuning.min_interval
        store.heal()
        read.set()


async def test_news_during_a_renewal_that_fails_are_looked_at(share, store, clock):
    """It may have read the store before."""
    async with share(None, 2, throttled(55)) as session:
        session.invalidate(session.pair.access_token)
        await clock.advance(1)
        other = await put(store, clock)
        await clock.advance(2)
        assert await session.token() == other.access_token.value


async def test_news_during_a_renewal_that_succeeds_are_its_own(share, store, clock):
    """There is nothing to look at."""
    async with share() as session:
        clock.suspend(5)
        for _ in range(2):
            engine_of(session).on_store_change()
            await settle()
        await session.refresh()
        loads = store.calls.count("load")
        await clock.advance(1)
        assert store.calls.count("load") == loads


async def test_news_that_could_not_be_looked_at_are_looked_at_again(share, store, clock):
    """The store may have failed for a moment."""
    async with share(None, throttled(55)) as session:
        session.invalidate(session.pair.access_token)
        await clock.advance(1)
        store.moods["load"] = DOWN
        other = await put(store, clock)
        await settle()
        store.heal()
        await clock.advance(10 * POLL)
        assert await session.token() == other.access_token.value


async def test_looks_leave_the_next_renewal_where_it_is(share, store, clock):
    """While one is under way, and while the next one has to wait."""
    async with share() as session:
        await clock.advance(10)
        planned = session.next_refresh_at
        read = asyncio.Event()
        store.after["load"] = read.wait
        for is_under_way in (True, False):
            engine_of(session).on_store_change()
            await settle()
            assert (session.cycle.under_way is not None) is is_under_way
            assert session.next_refresh_at == planned
            store.heal()
            read.set()
            await settle()
        assert session.state is SessionState.FRESH


async def test_a_leap_before_a_look_is_noticed_though_the_timer_rings_during_it(share, store, clock):
    """The look unsets the session's deadline."""
    async with share() as session:
        await clock.advance(60)
        read = asyncio.Event()
        store.after["load"] = read.wait
        pause(clock, 3600)
        engine_of(session).on_store_change()
        await settle()
        async with ScriptedSession(clock):
            await clock.advance(1)
        store.heal()
        read.set()
        await clock.advance(300)
        assert session.steps == ["IssueNew", "UseRefreshToken"]


async def test_a_look_on_news_is_not_the_last_one_before_a_session_expires(share, store, clock):
    """The last one finds a pair whose access token has expired, as long as it can be refreshed."""
    async with share(*[NOT_SENT] * 5000, held=make_pair(), reissues=False) as session:
        await clock.advance(LIFE + 5)
        engine_of(session).on_store_change()
        await settle()
        clock.suspend(WINDOW + 100)
        store.watchers.callbacks.clear()
        other = await put(store, clock)
        await clock.advance(60)
        assert session.pair.access_token.value == other.access_token.value


async def test_who_asks_for_a_renewal_is_content_with_the_pair_that_a_look_has_found(share, store, clock):
    """Another renewal would use up its refresh token for nothing."""
    async with share(None, NOT_SENT) as session:
        clock.suspend(10)
        read = asyncio.Event()
        store.after["load"] = read.wait
        other = await put(store, clock)
        await settle()
        renewal = asyncio.ensure_future(session.refresh())
        await settle()
        store.heal()
        read.set()
        assert (await renewal).access_token.value == other.access_token.value
        assert session.steps == ["IssueNew"]


async def test_a_session_whose_look_cannot_begin_renews_in_time(share, store, clock, monkeypatch):
    """Such as for want of memory. It tries to look again in a moment. (P7)"""
    async with share() as session:
        begun = []

        def fail(work, _):
            work.close()
            begun.append(work)
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(engine_of(session).timer, "begin", fail)
            store.watchers.call(KEY)
        assert len(begun) == 1
        loads = store.calls.count("load")
        await clock.advance(1)
        assert store.calls.count("load") == loads + 1
        await clock.advance(LIFE * 0.9)
        assert session.steps == ["IssueNew", "UseRefreshToken"]


async def test_a_store_without_a_repr_is_named_by_its_type(share, store, clock, monkeypatch):
    """Such as one whose state is what has failed: sessions go on without it."""
    async with share() as session:
        monkeypatch.setattr(Moody, "__repr__", out_of_memory)
        store.moods["load"] = store.moods["save"] = OSError()
        await clock.advance(LIFE)
        assert session.steps == ["IssueNew", "IssueNew"]
        assert session.state is SessionState.FRESH
        store.heal()


async def test_a_session_that_is_dropped_still_saves_its_pair(share, store, clock):
    """The next one goes on from there."""
    store.moods["save"] = DOWN
    sessions = [await share().start()]
    with pytest.warns(ResourceWarning, match="unclosed"):
        sessions.clear()
    store.heal()
    await clock.advance(120)
    assert await held(store) is not None


async def test_a_session_that_is_dropped_saves_no_pair_that_has_expired(share, store, clock):
    """Nothing is left of it then."""
    store.moods["save"] = DOWN
    sessions = [await share().start()]
    with pytest.warns(ResourceWarning, match="unclosed"):
        sessions.clear()
    await clock.advance(LIFE + WINDOW + 120)
    calls = len(store.calls)
    await clock.advance(LIFE)
    assert len(store.calls) == calls


async def test_a_look_that_is_cancelled_from_outside_closes_no_way(share, store):
    """It presented no refresh token. A program that ends cancels every task."""
    async with share() as session:
        store.moods["load"] = "hang"
        engine_of(session).on_store_change()
        await settle()
        engine_of(session).task.cancel()
        store.heal()
        await settle()
        assert session.last_error is None
        await session.refresh()
        assert session.steps == ["IssueNew", "UseRefreshToken"]


async def test_a_result_of_a_look_that_cannot_be_taken_in_closes_no_way(share, store, clock, monkeypatch):
    """Such as for want of memory. (P7)"""
    async with share() as session:
        clock.suspend(1)
        with monkeypatch.context() as patch:
            patch.setattr(Lifecycle, "land", out_of_memory)
            await put(store, clock)
            await settle()
        assert session.last_error is None
        await clock.advance(1)
        await session.refresh()
        assert "IssueNew" not in session.steps[1:]


def out_of_memory(*_):
    raise MemoryError


async def test_a_session_that_is_dropped_is_forgotten_by_the_store(share, store, clock):
    """It warns, and nobody holds it."""
    sessions = [await share().start()]
    with pytest.warns(ResourceWarning, match="unclosed"):
        sessions.clear()
    assert store.watchers.callbacks == {}


def test_a_session_that_outlives_its_event_loop_warns_once(recwarn, monkeypatch):
    """Although a task of the session was pending when the event loop was closed. (P19)"""
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    sessions = []

    async def leave_open():
        clock = VirtualClock()
        store = Moody(clock)
        session = ScriptedSession(clock, store=store, store_key=KEY)
        sessions.append(await session.start())
        store.moods["load"] = "hang"
        engine_of(session).on_store_change()
        await settle()
        assert not engine_of(session).task.done()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave_open())
    loop.close()
    sessions.clear()
    gc.collect()
    assert unraisable == []
    assert ["unclosed <Scripted" in str(one.message) for one in recwarn] == [True]


@pytest.mark.parametrize("age", [None, 0, 60])
async def test_a_pair_that_was_brought_along_is_saved_where_there_is_none(share, store, clock, age):
    """Whatever the store holds is its successor, even if the clocks make it look older."""
    mine = make_pair()
    successor = None if age is None else await put(store, clock, age=age)
    async with share(held=mine, held_for=30, reissues=False) as session:
        assert session.pair.access_token.value == (successor or mine).access_token.value
        assert (await held(store)).pair.access_token.value == session.pair.access_token.value
        assert session.expires_in.total_seconds() == LIFE - (30 if age is None else age)
        assert session.steps == []
        await session.refresh()
        assert session.presented == [(successor or mine).refresh_token.value]


@pytest.mark.parametrize("held_for", [0, LIFE + 1, LIFE + WINDOW + 1])
async def test_a_successor_that_cannot_be_served_is_refreshed(share, store, clock, held_for):
    """Of unknown age as it is, it is good for what the pair that was brought along is not."""
    other = await put(store, clock, timeline="another boot")
    async with share(held=make_pair(), held_for=held_for, reissues=False) as session:
        assert session.presented == [other.refresh_token.value]
        assert session.state is SessionState.FRESH


async def test_a_pair_that_was_brought_along_too_late_is_dead(share, store, clock):
    """Where nobody has kept it alive."""
    with pytest.raises(SessionExpired):
        await share(held=make_pair(), held_for=LIFE + WINDOW + 1, reissues=False).start()


async def test_a_pair_that_was_brought_along_and_cannot_be_saved_is_told_of(share, store, clock):
    """And saved when that can be done."""
    store.moods["load"] = DOWN
    session = share(held=make_pair(), reissues=False)
    told = events_of(session)
    async with session:
        await settle()
        assert kinds(told) == ["persist_failed", "started"]
        store.heal()
        await clock.advance(5)
        assert (await held(store)).pair == session.pair


async def test_a_pair_that_was_brought_along_is_not_presented_unseen(share, store, clock):
    """While nobody can tell whether the store holds its successor, whose refresh token it would end."""
    store.moods["load"] = DOWN
    pair = make_pair()
    async with share(held=pair, reissues=False) as session:
        await clock.advance(LIFE)
        assert session.presented == []
        store.heal()
        await clock.advance(60)
        assert session.presented == [pair.refresh_token.value]
        assert session.state is SessionState.FRESH


async def test_a_pair_that_was_brought_along_gives_way_to_a_successor_in_the_end(share, store, clock):
    """What was taken up while the store was down replaces nothing."""
    await put(store, clock, age=100)
    store.moods["load"] = DOWN
    async with share(held=make_pair(), reissues=False) as session:
        await clock.advance(5)
        record = await held(store)
        store.heal()
        await saved(clock, session)
        assert await held(store) == record
        await session.refresh()
        assert session.presented == [record.pair.refresh_token.value]


async def test_of_two_who_save_at_once_one_looks_again(share, store, clock):
    """Whoever comes second finds what the first has saved, and says so where that is no better."""
    session = share()
    told = events_of(session)

    async def another_saves():
        store.moods.clear()
        await put(store, clock, age=LIFE + 1)

    store.moods["save"] = another_saves
    async with session:
        await settle()
        assert kinds(told) == ["persist_failed", "started"]
        store.moods["save"] = another_saves
        await saved(clock, session)
        assert (await held(store)).pair.access_token.value == session.pair.access_token.value


async def test_a_mark_of_another_is_not_wiped_out(share, store, clock):
    """A pair whose saving took effect, with the answer lost, is not saved again over what became of it since."""
    store.after["save"] = DOWN
    async with share() as session:
        record = await held(store)
        mark = attrs.evolve(record, presenting="another")
        assert await MemoryStore.save(store, KEY, mark, record.digest)
        store.heal()
        await saved(clock, session)
        assert await held(store) == mark


async def test_what_a_store_of_the_past_holds_is_not_presented(share, store, clock):
    """A server that comes back with yesterday's records has tokens that were used since."""
    async with share() as session:
        old = await held(store)
        clock.suspend(60)
        await session.refresh()
        await store.delete(KEY)
        assert await MemoryStore.save(store, KEY, old, None)
        clock.suspend(60)
        await session.refresh()
        assert session.steps == ["IssueNew", "UseRefreshToken", "IssueNew"]
        assert (await held(store)).pair.access_token.value == session.pair.access_token.value


async def test_who_cannot_issue_presents_its_own_over_a_store_of_the_past(share, store, clock):
    """It is the newest there is."""
    async with share(reissues=False) as session:
        old = await held(store)
        clock.suspend(60)
        await session.refresh()
        newest = session.pair
        await store.delete(KEY)
        assert await MemoryStore.save(store, KEY, old, None)
        await session.refresh()
        assert session.presented == [old.pair.refresh_token.value, newest.refresh_token.value]


async def test_an_issue_that_is_refused_leaves_the_refresh_token(share, store, clock):
    """The record was lost, so a pair was to be issued, and that is refused for good: there is one to present yet."""
    async with share(None, SPENT) as session:
        first = session.pair
        await store.delete(KEY)
        with pytest.raises(TokenUnavailable):
            await session.refresh()
        await session.refresh()
        assert session.steps == ["IssueNew", "IssueNew", "UseRefreshToken"]
        assert session.presented == [first.refresh_token.value]


@pytest.mark.parametrize("age", [0, LIFE + 1])
async def test_before_the_end_a_session_looks_whether_others_went_on(share, store, clock, age):
    """It slept past its own window, and has no way left but the pair that others have kept alive."""
    async with share(reissues=False) as session:
        clock.suspend(LIFE + WINDOW + 1)
        other = await put(store, clock, age=age)
        await clock.advance(60)
        assert await session.token() == session.pair.access_token.value
        assert session.state is SessionState.FRESH
        assert session.presented == ([other.refresh_token.value] if age else [])


@pytest.mark.parametrize("mood", [None, DOWN])
async def test_where_nobody_did_it_is_over(share, store, clock, mood):
    """One look is enough."""
    session = await share(reissues=False).start()
    store.moods["load"] = mood
    clock.suspend(LIFE + WINDOW + 1)
    with pytest.raises(SessionExpired):
        await session.token()
    assert session.state is SessionState.EXPIRED
    await session.aclose()


async def test_closing_does_not_wait_for_another_s_lease(share, store, clock):
    """Who only waits to renew has nothing to lose, and does not begin any more."""
    async with share() as session:
        other = store.lease(KEY, LEASE)
        assert await other.__aenter__()
        renewal = asyncio.ensure_future(session.refresh())
        await clock.advance(1)
        closing = asyncio.ensure_future(session.aclose())
        await clock.advance(1)
        assert closing.done()
        await other.__aexit__(None, None, None)
        await asyncio.wait([renewal])
        assert isinstance(renewal.exception(), SessionClosed)
        assert session.steps == ["IssueNew"]


async def test_closing_before_the_request_leaves_no_mark(share, store, clock):
    """Nothing was presented, and so others may."""
    async with share() as session:
        closing = []

        async def close():
            closing.append(asyncio.ensure_future(session.aclose()))
            await asyncio.sleep(0)

        store.after["mark"] = close
        renewal = asyncio.ensure_future(session.refresh())
        await asyncio.wait([renewal])
        await closing[0]
        assert isinstance(renewal.exception(), SessionClosed)
        assert (await held(store)).presenting is None
        assert session.steps == ["IssueNew"]


@pytest.mark.parametrize("mood", ["watch", "unwatch"])
async def test_a_store_that_cannot_be_watched_does_no_harm(share, store, clock, mood):
    """To hear of others is a courtesy."""

    def fail(*_):
        raise ZeroDivisionError

    store.watch = fail if mood == "watch" else lambda *_: fail
    async with share() as session:
        assert await session.token()
    with pytest.raises(SessionClosed):
        await session.token()


async def test_who_fails_to_hear_harms_nobody(share, store, clock):
    """Whoever saves does not learn of it, and others hear all the same."""
    unwatch = store.watch(KEY, lambda: 1 / 0)
    async with share() as one, share() as another:
        clock.suspend(1)
        await one.refresh()
        await settle()
        assert another.pair.access_token.value == one.pair.access_token.value
    unwatch()


async def test_who_renews_by_issuing_shares_too(share, store, clock):
    """A pair with a lifetime of its own is never presented, but adopted by others."""
    async with share(presents=False) as one, share(presents=False) as another:
        clock.suspend(1)
        await one.refresh()
        await settle()
        assert one.steps == ["IssueNew", "IssueNew"]
        assert another.steps == []
        assert another.pair.access_token.value == one.pair.access_token.value


async def test_a_refused_token_is_renewed_by_one(share, store, clock, caplog):
    """The others learn of the new one; and a token that was refused is not adopted back."""
    caplog.set_level(logging.ERROR)
    async with share() as one, share() as another:
        refused = one.pair.access_token
        one.invalidate(refused)
        another.invalidate(refused)
        await clock.advance(1)
        assert await one.token() == await another.token() != refused.value
        assert len(one.presented + another.presented) == 1


def test_a_reading_without_a_record_has_no_age():
    """Nothing is not old."""
    assert Reading(record=None, at=1.0).age is None


async def test_a_stored_refresh_token_that_is_refused_does_not_refuse_the_session(store, share, clock):
    """The session issues a pair next. As long as that takes, callers may try again. (P2)"""
    await put(store, clock, age=LIFE + 100)
    faults = []
    session = share(SPENT, lambda: faults.append((session.last_error, fault_of(engine_of(session)))))
    starting = asyncio.create_task(session.start())
    await clock.advance(1)
    await starting
    assert faults == [(SPENT.error, None)]
    await session.aclose()


@pytest.mark.parametrize("is_saved", [False, True])
async def test_a_short_pause_of_the_machine_makes_no_pair_later_than_another_one(clock, is_saved):
    """A session on a machine that was paused for 40 s keeps the later pair of another process in the store. (P20)

    By its own clock, which stopped, its pair was requested after that one. Whether it still has to save its pair or
    renews it, it sends and saves the other's refresh token.
    """
    elsewhere = VirtualClock(wall=clock.wall())
    store = Moody(elsewhere)
    if not is_saved:
        store.moods["save"] = DOWN
    session = ScriptedSession(clock, store=store, store_key=KEY)
    async with session:
        await elsewhere.advance(20)
        other = await put(store, elsewhere)
        store.moods["load"] = DOWN
        await elsewhere.advance(40)
        clock.set_wall(clock.wall() + 40)
        await clock.advance(20)
        store.heal()
        await clock.advance(60)
        await elsewhere.advance(60)
        assert (await held(store)).pair.refresh_token.value == other.refresh_token.value
        await session.refresh()
        assert session.presented[-1] == other.refresh_token.value
