"""What keeps a credential alive, with renewals that go by a script and a clock that goes when told."""

import asyncio
import gc
import logging
import math
import os
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from signalwire_tokens import (
    RefreshPolicy,
    SessionClosed,
    SessionError,
    SessionExpired,
    SessionState,
    SignalWireTokenError,
    TokenUnavailable,
)
from signalwire_tokens.clock import SYSTEM
from signalwire_tokens.clock.timer import note_fork
from signalwire_tokens.keeper import engine_of
from signalwire_tokens.keeper.waiters import WaitDeadline, Waiters
from signalwire_tokens.lifecycle import Lifecycle, Phase
from signalwire_tokens.outcomes import Renewed, Spent
from support.scripted_session import (
    AMBIGUOUS,
    LIFE,
    MISCONFIGURED,
    NOT_SENT,
    SPENT,
    ScriptedSession,
    make_pair,
    refused,
    throttled,
)

HOUR = 3600.0
PAIR = make_pair()
NO_ZONE = attrs.evolve(PAIR.access_token, issued_at=PAIR.access_token.issued_at.replace(tzinfo=None))
NO_PAIR = Renewed(attrs.evolve(PAIR, access_token=NO_ZONE), 0.0)
PLACE = ContextVar("PLACE", default="nowhere")


async def settle():
    """Give the event loop the turns that a few callbacks in a row take."""
    for _ in range(10):
        await asyncio.sleep(0)


async def outcome(task):
    """Wait for a task, and return what it raised or returned."""
    await asyncio.wait([task])
    return task.exception() or task.result()


async def test_a_session_starts_with_a_pair_and_renews_it_when_due(clock):
    """First issued, then refreshed, at 60 to 80 percent of each life."""
    async with ScriptedSession(clock) as session:
        assert session.state is SessionState.FRESH
        first = await session.token()
        await clock.advance(LIFE)
        assert await session.token() != first
        assert session.steps == ["IssueNew", "UseRefreshToken"]
        assert 0.6 * LIFE <= session.attempts[1] <= 0.8 * LIFE
        assert session.generation == 2


async def test_a_day_passes_without_a_gap(clock):
    """Whenever it is asked for, the token is live."""
    async with ScriptedSession(clock) as session:
        for _ in range(24 * 60):
            await clock.advance(60)
            assert session.expires_in > timedelta(0)
            assert await session.token() == session.pair.access_token.value
    assert 24 * HOUR / LIFE / 0.8 <= session.generation <= 24 * HOUR / LIFE / 0.6 + 1


async def test_each_cycle_draws_its_own_due_time(clock):
    """Two sessions of one second do not stay together."""
    async with ScriptedSession(clock) as session:
        await clock.advance(10 * LIFE)
    pauses = {round(later - sooner) for sooner, later in zip(session.attempts, session.attempts[1:], strict=False)}
    assert len(pauses) > 5


async def test_a_fresh_token_takes_no_lock_and_no_task(clock):
    """A thousand calls are a thousand returns: the event loop does not get a turn. (P12)"""
    async with ScriptedSession(clock) as session:
        tasks = asyncio.all_tasks()
        for _ in range(1000):
            call = session.token()
            with pytest.raises(StopIteration):
                call.send(None)
        assert asyncio.all_tasks() == tasks
        assert engine_of(session).waiters is None


async def test_a_due_token_is_given_at_once_while_the_refresh_runs_behind(clock):
    """No caller waits for it. (P13)"""
    landed = asyncio.Event()
    async with ScriptedSession(clock, None, landed) as session:
        first = await session.token()
        await clock.advance(0)
        due = session.next_refresh_at.timestamp() - clock.wall()
        clock.suspend(due + 1)
        call = session.token()
        with pytest.raises(StopIteration, match=first):
            call.send(None)
        await settle()
        assert session.state is SessionState.DUE
        assert session.attempts[1:] == [clock.now()]
        landed.set()
        await settle()
        assert await session.token() != first


async def test_an_urgent_token_waits_for_the_refresh(clock):
    """With less than half a minute left, what is worth having is the next one."""
    landed = asyncio.Event()
    async with ScriptedSession(clock, None, landed) as session:
        first = await session.token()
        clock.suspend(LIFE - 20)
        assert session.state is SessionState.EXPIRING
        call = asyncio.create_task(session.token())
        await settle()
        assert not call.done()
        landed.set()
        assert await call != first


@pytest.mark.parametrize("failure", [NOT_SENT, AMBIGUOUS, MISCONFIGURED, throttled(100)])
async def test_an_urgent_token_is_given_when_the_refresh_fails(clock, failure):
    """What is live is better than nothing."""
    async with ScriptedSession(clock, None, failure) as session:
        first = await session.token()
        clock.suspend(LIFE - 20)
        assert await session.token() == first
        assert session.last_error is failure.error


async def test_an_urgent_token_is_given_when_the_refresh_takes_too_long(clock):
    """While it is still live: the wait ends with half of what was left."""
    async with ScriptedSession(clock, None, 9) as session:
        first = await session.token()
        clock.suspend(LIFE - 12)
        call = asyncio.create_task(session.token())
        await clock.advance(5.9)
        assert not call.done()
        await clock.advance(0.2)
        assert await call == first
        await clock.advance(5)
        assert session.generation == 2


async def call_during_a_suspend(clock, session, *, left):
    """Begin a call while the token is valid for `left` seconds, and suspend the machine until long after that."""
    await session.token()
    clock.suspend(LIFE - left)
    call = asyncio.create_task(session.token())
    await settle()
    clock.suspend(HOUR)
    return call


async def test_a_wait_that_a_suspend_outlasts_goes_on_for_the_next_token(clock):
    """A caller isn't turned away because its token has expired meanwhile."""
    async with ScriptedSession(clock, None, 9) as session:
        call = await call_during_a_suspend(clock, session, left=8)
        await clock.advance(6)
        assert not call.done()
        await clock.advance(3)
        assert await call == session.pair.access_token.value
        assert session.state is SessionState.FRESH


async def test_a_call_during_a_suspend_waits_no_longer_than_others(clock):
    """The time of the suspend doesn't count, and all other time does: also that before the token expired. (P14)"""
    async with ScriptedSession(clock, None, 60) as session:
        call = await call_during_a_suspend(clock, session, left=16)
        await clock.advance(9)
        assert not call.done()
        await clock.advance(1)
        assert call.done()
        with pytest.raises(TokenUnavailable):
            await call
        await clock.advance(60)


async def test_more_life_can_be_asked_for(clock):
    """Then the refresh is waited for while the token would do for others."""
    async with ScriptedSession(clock) as session:
        first = await session.token()
        clock.suspend(LIFE - 1000)
        assert await session.token(min_ttl=900) == first
        await clock.advance(0)
        await settle()
        assert await session.token(min_ttl=1440) != first


@pytest.mark.parametrize("min_ttl", [-1, 1441, True, float("nan"), "30"])
async def test_no_more_life_can_be_asked_for_than_every_token_has_left(clock, min_ttl):
    """A fifth: more would make callers wait for what does not come."""
    async with ScriptedSession(clock) as session:
        with pytest.raises(ValueError, match="from 0 to 1440"):
            await session.token(min_ttl=min_ttl)


async def test_a_late_token_waits_for_the_renewal(clock):
    """A suspended machine wakes, and the first caller gets a live token: the refresh token lives five minutes more."""
    async with ScriptedSession(clock) as session:
        first = await session.token()
        clock.suspend(LIFE + 100)
        assert session.state is SessionState.UNAVAILABLE
        assert await session.token() != first
    assert session.steps == ["IssueNew", "UseRefreshToken"]


async def test_a_pair_that_is_dead_as_a_whole_is_issued_anew(clock):
    """After a night."""
    async with ScriptedSession(clock) as session:
        clock.suspend(9 * HOUR)
        assert await session.token() == session.pair.access_token.value
    assert session.steps == ["IssueNew", "IssueNew"]


async def test_a_late_token_is_waited_for_ten_seconds(clock):
    """Then the caller is told, and the session goes on trying. (P2, P14)"""
    async with ScriptedSession(clock, None, *[NOT_SENT] * 6) as session:
        clock.suspend(9 * HOUR)
        call = asyncio.create_task(session.token())
        await clock.advance(4)
        assert not call.done()
        await clock.advance(6)
        error = await outcome(call)
        assert isinstance(error, TokenUnavailable)
        assert error.cause is NOT_SENT.error
        await clock.advance(60)
        assert await session.token() == session.pair.access_token.value


async def test_a_caller_who_cannot_be_helped_in_time_is_told_at_once(clock):
    """The service has asked for a minute of quiet. (P2)"""
    async with ScriptedSession(clock, None, throttled(600)) as session:
        clock.suspend(9 * HOUR)
        with pytest.raises(TokenUnavailable) as caught:
            await session.token()
        assert 55 <= caught.value.retry_after <= 61
        with pytest.raises(TokenUnavailable):
            await session.token()
        assert len(session.attempts) == 2
        await clock.advance(61)
        assert await session.token() == session.pair.access_token.value


async def test_wrong_settings_are_told_at_once_when_there_is_no_token(clock):
    """Nobody mends them in ten seconds; and when somebody does, the session goes on."""
    async with ScriptedSession(clock, None, MISCONFIGURED) as session:
        clock.suspend(9 * HOUR)
        for _ in range(3):
            with pytest.raises(TokenUnavailable) as caught:
                await session.token()
            assert caught.value.cause is MISCONFIGURED.error
        assert len(session.attempts) == 2
        await clock.advance(15)
        assert session.state is SessionState.FRESH


async def test_wrong_settings_that_were_mended_in_a_suspended_night_are_tried_at_once(clock):
    """The next try is long overdue, and its outcome worth waiting for."""
    async with ScriptedSession(clock, None, MISCONFIGURED) as session:
        with pytest.raises(TokenUnavailable):
            await session.refresh()
        clock.suspend(9 * HOUR)
        assert await session.token() == session.pair.access_token.value


async def test_whoever_asks_again_and_again_lets_others_have_their_turn(clock):
    """Though each call raises at once. (P14)"""
    turns = []
    async with ScriptedSession(clock, None, throttled(600)) as session:
        clock.suspend(9 * HOUR)
        asyncio.get_running_loop().call_soon(turns.append, "first")
        for _ in range(3):
            with pytest.raises(TokenUnavailable):
                await session.token()
            asyncio.get_running_loop().call_soon(turns.append, "next")
        assert turns == ["first", "next", "next"]


async def test_wrong_settings_are_looked_at_slowly_while_the_token_lives(clock):
    """Every five to ten minutes, as long as that leaves more tries before the end."""
    async with ScriptedSession(clock, None, MISCONFIGURED) as session:
        while len(session.attempts) < 3:
            await clock.advance(10)
    assert 299 <= session.attempts[2] - session.attempts[1] <= 600


async def test_a_refused_refresh_token_is_never_sent_again(clock):
    """A new pair is issued."""
    async with ScriptedSession(clock, None, SPENT, NOT_SENT) as session:
        await clock.advance(LIFE)
        assert session.state is SessionState.FRESH
    assert session.steps == ["IssueNew", "UseRefreshToken", "IssueNew", "IssueNew"]


async def test_a_refresh_token_that_may_be_used_up_is_never_sent_again(clock):
    """Its answer was lost: a new pair is issued. (P20)"""
    async with ScriptedSession(clock, None, AMBIGUOUS) as session:
        await clock.advance(LIFE)
    assert session.steps == ["IssueNew", "UseRefreshToken", "IssueNew"]


async def test_a_refresh_token_that_did_not_leave_is_sent_again(clock):
    """It is as good as before."""
    async with ScriptedSession(clock, None, NOT_SENT, throttled(5), NOT_SENT, MISCONFIGURED) as session:
        await clock.advance(LIFE)
    assert session.steps == ["IssueNew"] + ["UseRefreshToken"] * 5


async def test_without_another_way_a_lost_answer_is_asked_for_again_within_a_second(clock):
    """Once; from then on at the usual pace."""
    async with ScriptedSession(clock, None, NOT_SENT, NOT_SENT, AMBIGUOUS, AMBIGUOUS, reissues=False) as session:
        await clock.advance(LIFE)
    assert session.steps == ["IssueNew"] + ["UseRefreshToken"] * 5
    assert session.attempts[4] - session.attempts[3] <= 1


async def test_without_any_way_the_token_is_served_to_its_end(clock):
    """And then it is over, for good."""
    async with ScriptedSession(clock, None, SPENT, reissues=False) as session:
        closed = asyncio.create_task(session.wait_closed())
        first = await session.token()
        await clock.advance(0.9 * LIFE)
        assert await session.token() == first
        assert session.next_refresh_at is None
        await clock.advance(0.2 * LIFE)
        assert session.state is SessionState.EXPIRED
        for call in (session.token(), session.refresh(), anext(session.rotations()), session.wait_closed(), closed):
            with pytest.raises(SessionExpired, match="can't be renewed") as caught:
                await call
            assert caught.value.cause is SPENT.error
        assert session.next_refresh_at is None
    assert session.state is SessionState.CLOSED


async def test_a_dead_session_was_given_up_by_whoever_came_first(clock):
    """A caller need not wait for the timer, and the end is told once."""
    told = []
    async with ScriptedSession(clock, None, SPENT, reissues=False) as session:
        session.subscribe(lambda event: told.append(event.kind))
        await clock.advance(0.9 * LIFE)
        clock.suspend(HOUR)
        with pytest.raises(SessionExpired):
            await session.token()
        await clock.advance(60)
    assert told == ["degraded", "expired", "closed"]


async def test_a_refused_reissue_is_the_end_of_that_way(clock):
    """With nothing else left, the token is served to its own end. (P3)"""
    async with ScriptedSession(clock, None, AMBIGUOUS, SPENT) as session:
        await clock.advance(0.9 * LIFE)
        assert session.state is SessionState.DUE
        await clock.advance(0.2 * LIFE)
        assert session.state is SessionState.EXPIRED
    assert len(session.attempts) == 3


async def test_with_a_lifetime_of_its_own_every_pair_is_issued(clock):
    """A refresh would give two hours again."""
    async with ScriptedSession(clock, presents=False, life=600.0) as session:
        await clock.advance(HOUR)
    assert set(session.steps) == {"IssueNew"}


async def test_many_waiters_share_one_renewal_and_one_who_is_cancelled_takes_nobody_along(clock):
    """Fifty wait, one is cancelled: one renewal, one `CancelledError`. (P15)"""
    landed = asyncio.Event()
    async with ScriptedSession(clock, None, landed) as session:
        clock.suspend(LIFE + 1)
        calls = [asyncio.create_task(session.token()) for _ in range(50)]
        await settle()
        calls[7].cancel()
        await settle()
        landed.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(one).__name__ for one in outcomes].count("CancelledError") == 1
        assert {one for one in outcomes if isinstance(one, str)} == {session.pair.access_token.value}
    assert len(session.attempts) == 2


async def test_a_renewal_goes_on_when_everybody_who_waited_is_cancelled(clock):
    """It belongs to the session."""
    landed = asyncio.Event()
    async with ScriptedSession(clock, None, landed) as session:
        clock.suspend(LIFE + 1)
        calls = [asyncio.create_task(session.token()) for _ in range(3)]
        await settle()
        for call in calls:
            call.cancel()
        await settle()
        landed.set()
        await settle()
        assert session.generation == 2


async def test_whoever_waits_brings_the_next_try_forward(clock):
    """To the floor, and no further, however many come."""
    async with ScriptedSession(clock, None, *[NOT_SENT] * 100) as session:
        clock.suspend(9 * HOUR)
        calls = []
        for _ in range(100):
            calls.append(asyncio.create_task(session.token()))
            await clock.advance(0.1)
        await clock.advance(20)
        assert {type(await outcome(call)) for call in calls} == {TokenUnavailable}
        pauses = [later - sooner for sooner, later in zip(session.attempts, session.attempts[1:], strict=False)]
        assert min(pauses) >= 0.5 - 1e-6
        assert len(session.attempts) > 15


async def test_whoever_comes_while_a_try_is_under_way_gets_one_of_their_own(clock):
    """What failed was begun before they came: the service may be back."""
    async with ScriptedSession(clock, None, 9, NOT_SENT) as session:
        clock.suspend(9 * HOUR)
        calls = [asyncio.create_task(session.token())]
        await clock.advance(8)
        calls.append(asyncio.create_task(session.token()))
        await clock.advance(2)
        assert [await outcome(call) for call in calls] == [session.pair.access_token.value] * 2
        assert session.attempts[2] - session.attempts[1] == pytest.approx(9.5)


async def test_refresh_renews_now_and_returns_the_pair(clock):
    """Whatever the policy says."""
    async with ScriptedSession(clock) as session:
        first = session.pair
        assert await session.refresh() is session.pair is not first
        await session.refresh()
    assert session.steps == ["IssueNew", "UseRefreshToken", "UseRefreshToken"]


async def test_refresh_joins_the_renewal_that_is_under_way(clock):
    """There is never more than one."""
    landed = asyncio.Event()
    async with ScriptedSession(clock, None, landed) as session:
        calls = [asyncio.create_task(session.refresh()) for _ in range(5)]
        await settle()
        landed.set()
        assert set(await asyncio.gather(*calls)) == {session.pair}
    assert len(session.attempts) == 2


async def test_a_refresh_that_fails_says_why_and_takes_nothing_away(clock):
    """The token at hand is as live as before."""
    async with ScriptedSession(clock, None, NOT_SENT) as session:
        first = await session.token()
        with pytest.raises(TokenUnavailable, match="no new token for session") as caught:
            await session.refresh()
        assert caught.value.cause is session.last_error is NOT_SENT.error
        assert await session.token() == first


async def test_a_refresh_with_no_way_left_says_so(clock):
    """Though the token at hand still lives."""
    async with ScriptedSession(clock, None, SPENT, reissues=False) as session:
        with pytest.raises(TokenUnavailable):
            await session.refresh()
        with pytest.raises(
            SessionExpired, match="can't be renewed: its refresh token was refused or has expired"
        ) as caught:
            await session.refresh()
        assert caught.value.cause is SPENT.error
        assert await session.token()


async def test_a_refused_token_is_not_handed_out_again(clock):
    """It is renewed at once, and any other is none of the session's business."""
    async with ScriptedSession(clock) as session:
        first = session.pair.access_token
        session.invalidate("another")
        assert session.state is SessionState.FRESH
        await clock.advance(1)
        session.invalidate(first)
        assert session.state is SessionState.UNAVAILABLE
        session.invalidate(first.value)
        assert await session.token() != first.value
        session.invalidate(first)
        assert session.state is SessionState.FRESH
    assert session.steps == ["IssueNew", "UseRefreshToken"]


async def test_forced_renewals_are_a_minute_apart(clock):
    """A service that refuses every token must not be asked for one after the other. (P24)"""
    async with ScriptedSession(clock) as session:
        await clock.advance(1)
        session.invalidate(await session.token())
        await session.token()
        for _ in range(3):
            await clock.advance(1)
            session.invalidate(session.pair.access_token)
            with pytest.raises(TokenUnavailable):
                await session.token()
            await clock.advance(61)
            assert await session.token()
    pauses = [later - sooner for sooner, later in zip(session.attempts[1:], session.attempts[2:], strict=False)]
    assert all(pause >= 60 - 1e-6 for pause in pauses)
    assert len(pauses) == 3


async def test_refresh_is_not_held_up_by_a_forced_renewal(clock):
    """Whoever asks for it means it."""
    async with ScriptedSession(clock) as session:
        for _ in range(3):
            session.invalidate(session.pair.access_token)
            await session.refresh()
            assert session.state is SessionState.FRESH


async def test_a_token_that_is_refused_with_no_way_left_is_the_end(clock):
    """At once."""
    async with ScriptedSession(clock, None, SPENT, reissues=False) as session:
        with pytest.raises(TokenUnavailable):
            await session.refresh()
        session.invalidate(session.pair.access_token)
        assert session.state is SessionState.EXPIRED


async def test_a_token_that_is_invalidated_during_a_call_makes_the_call_no_longer(clock):
    """The call waits for `wait_timeout` in all: first for a later token, and then for any. (P14)"""
    calls, ends = [], []

    async def call():
        with pytest.raises(TokenUnavailable):
            await session.token(min_ttl=0.2 * LIFE)
        ends.append(clock.now())

    async with ScriptedSession(clock, None, 60, policy=RefreshPolicy(refresh_from=0.8)) as session:
        due = 0.8 * LIFE
        clock.call_later(due + 1, lambda: calls.append(asyncio.ensure_future(call())))
        clock.call_later(due + 5, lambda: session.invalidate(session.pair.access_token))
        await clock.advance(due + 70)
        await asyncio.gather(*calls)
        assert ends == [due + 11]


async def test_a_jump_of_the_wall_clock_neither_kills_nor_keeps_a_token(clock):
    """Deadlines live on a clock that does not jump; forward, the session renews once, soon. (P28)"""
    async with ScriptedSession(clock) as session:
        await clock.advance(60)
        clock.set_wall(clock.wall() - 86400)
        await clock.advance(60)
        assert (session.state, session.generation) == (SessionState.FRESH, 1)
        clock.set_wall(clock.wall() + 2 * 86400)
        assert session.state is SessionState.FRESH
        await clock.advance(120)
        assert (session.state, session.generation) == (SessionState.FRESH, 2)
        await clock.advance(0.5 * LIFE)
        assert session.generation == 2


async def test_a_leap_of_the_wall_clock_during_a_renewal_is_not_missed(clock):
    """Nobody knows how old the pair is that it brings."""
    async with ScriptedSession(clock, None, 40) as session, ScriptedSession(clock):
        refresh = asyncio.create_task(session.refresh())
        await settle()
        clock.set_wall(clock.wall() + 3 * HOUR)
        await clock.advance(41)
        await refresh
        await clock.advance(60)
        assert (session.generation, session.state) == (3, SessionState.FRESH)


async def test_a_small_step_of_the_wall_clock_means_nothing(clock):
    """A minute may be an NTP daemon's."""
    async with ScriptedSession(clock) as session:
        clock.set_wall(clock.wall() + 50)
        await clock.advance(120)
        assert session.generation == 1


@pytest.mark.parametrize(("seconds", "times"), [(25.0, 3), (0.9, 68)])
async def test_small_pauses_of_a_virtual_machine_add_up(clock, seconds, times):
    """Once they may be a minute in all, the session renews, since its token is that much older than it seems. (P31)"""
    async with ScriptedSession(clock) as session:
        for number in range(times):
            assert session.generation == 1, number
            clock.set_wall(clock.wall() + seconds)
            await clock.advance(31)
        await clock.advance(60)
        assert session.generation == 2
        clock.set_wall(clock.wall() + 50)
        await clock.advance(120)
        assert session.generation == 2


async def test_a_pause_of_a_virtual_machine_counts_once(clock):
    """However often the session has moved its deadline, a pause of 25 s isn't one of a minute. (P31)"""
    early = RefreshPolicy(refresh_from=0.3, refresh_to=0.3)  # its deadline comes before those that were moved
    async with ScriptedSession(clock) as session, ScriptedSession(clock, policy=early):
        for _ in range(3):
            await session.refresh()
            await clock.advance(600)
        clock.set_wall(clock.wall() + 25)
        await clock.advance(200)
        assert session.generation == 4


async def test_a_pause_of_a_virtual_machine_during_a_renewal_counts_once(clock):
    """The timer and the renewal both notice it."""
    async with ScriptedSession(clock, None, 40) as session, ScriptedSession(clock):
        refresh = asyncio.create_task(session.refresh())
        clock.call_later(35, lambda: clock.set_wall(clock.wall() + 40))
        await clock.advance(41)
        await refresh
        await clock.advance(200)
        assert session.generation == 2


@pytest.mark.parametrize(("seconds", "generation"), [(HOUR, 2), (100, 1)])
async def test_a_pause_of_a_virtual_machine_ends_a_shorter_one_that_was_asked_for(clock, seconds, generation):
    """By the wall clock, the pause that SignalWire asked for is over, unless it is longer. (P23)"""
    async with ScriptedSession(clock, None, throttled(3000)) as session:
        with pytest.raises(TokenUnavailable):
            await session.refresh()
        await clock.advance(10)
        clock.set_wall(clock.wall() + seconds)
        await clock.advance(100)
        assert session.generation == generation


async def test_a_token_that_is_born_nearly_dead_does_not_make_a_hot_loop(clock):
    """It is taken, counts as a failure, and the pace slows down. (P22)"""
    async with ScriptedSession(clock) as session:
        session.script.life = 0.001
        await clock.advance(LIFE)
        assert isinstance(session.last_error, SignalWireTokenError)
        assert len(session.attempts) < 2000
        pauses = [later - sooner for sooner, later in zip(session.attempts[1:], session.attempts[2:], strict=False)]
        assert min(pauses) >= 30 / 200 - 1e-6
        session.script.life = LIFE
        await clock.advance(60)
        assert (session.state, session.last_error) == (SessionState.FRESH, None)


async def test_an_exception_after_a_pair_was_adopted_leaves_it_in_use(clock, caplog):
    """Only what follows the adoption is lost: here, a line of the log. (P7)"""
    caplog.set_level(logging.INFO)

    def refuse(record):
        if "token refreshed" in record.getMessage():
            raise MemoryError
        return True

    async with ScriptedSession(clock) as session:
        log = logging.getLogger("signalwire_tokens.session")
        log.addFilter(refuse)
        await clock.advance(LIFE * 0.8 + 1)
        log.removeFilter(refuse)
        assert (session.generation, session.state) == (2, SessionState.FRESH)
        await clock.advance(LIFE)
        assert session.generation >= 3
        assert set(session.steps[1:]) == {"UseRefreshToken"}


async def test_a_result_that_cannot_be_taken_in_while_a_session_closes_ends_nothing(clock):
    """Nothing is planned any more."""
    under_way = asyncio.Event()
    async with ScriptedSession(clock, None, under_way, NO_PAIR) as session:
        refresh = asyncio.create_task(session.refresh())
        await asyncio.sleep(0)
        closing = asyncio.create_task(session.aclose())
        await clock.advance(1)
        under_way.set()
        await clock.advance(1)
        await closing
        with pytest.raises(SessionClosed):
            await refresh
    assert engine_of(session).wakes_at == math.inf


async def test_a_result_that_cannot_be_taken_in_is_a_failure(clock):
    """The session plans its next attempt, and does not present a refresh token that may be used up. (P7)"""
    async with ScriptedSession(clock, None, NO_PAIR) as session:
        await clock.advance(LIFE * 0.8 + 60)
        assert session.steps == ["IssueNew", "UseRefreshToken", "IssueNew"]
        assert session.generation == 2


@pytest.mark.parametrize("error", [RuntimeError("hush"), asyncio.CancelledError()])
async def test_a_renewal_that_breaks_is_one_that_failed(clock, error, caplog):
    """A slip of ours, or somebody who cancels every task: the session lives on."""
    async with ScriptedSession(clock, None, error) as session:
        await clock.advance(LIFE)
        assert session.state is SessionState.FRESH
    assert session.steps == ["IssueNew", "UseRefreshToken", "IssueNew"]
    assert "hush" not in caplog.text


async def test_a_renewal_that_is_cancelled_before_its_first_step_is_one_that_failed(clock):
    """Nothing waits for it for ever."""
    async with ScriptedSession(clock) as session:
        refresh = asyncio.create_task(session.refresh())
        if engine_of(session).task is None:  # an eager task has begun it already
            await asyncio.sleep(0)
        engine_of(session).task.cancel()
        assert isinstance(await outcome(refresh), TokenUnavailable)
        assert engine_of(session).task is None


async def test_rotations_begin_with_the_pair_at_hand(clock):
    """And go on with each new one, until the session is closed. (P17)"""
    seen = []

    async def read():
        seen.extend([pair async for pair in session.rotations()])

    async with ScriptedSession(clock) as session:
        reader = asyncio.create_task(read())
        await settle()
        pairs = [session.pair]
        for _ in range(3):
            pairs.append(await session.refresh())
            await settle()
    await reader
    assert seen == pairs


async def test_a_slow_reader_of_rotations_gets_the_latest_only(clock):
    """An older pair is of no use. (P17)"""
    async with ScriptedSession(clock) as session:
        rotations = session.rotations()
        assert await anext(rotations) is session.pair
        for _ in range(3):
            await session.refresh()
        assert await anext(rotations) is session.pair
        await rotations.aclose()


async def test_wait_closed_returns_when_the_session_is_closed(clock):
    """Also for who comes later."""
    async with ScriptedSession(clock) as session:
        waiter = asyncio.create_task(session.wait_closed())
        await settle()
        assert not waiter.done()
    await waiter
    await session.wait_closed()


async def test_closing_waits_for_the_renewal_under_way(clock):
    """It is not cancelled: its answer may hold the only refresh token that is good. (P21)"""
    landed = asyncio.Event()
    session = await ScriptedSession(clock, None, landed).start()
    refresh = asyncio.create_task(session.refresh())
    await settle()
    closing = [asyncio.create_task(session.aclose()) for _ in range(2)]
    await settle()
    assert not any(task.done() for task in closing)
    with pytest.raises(SessionClosed):
        await session.token()
    landed.set()
    await asyncio.gather(*closing)
    assert session.generation == 2
    assert await refresh is session.pair
    with pytest.raises(SessionClosed):
        await session.token()


async def test_whoever_waits_for_the_end_waits_for_the_renewal_under_way_too(clock):
    """The session is closed when it has landed."""
    landed = asyncio.Event()
    session = await ScriptedSession(clock, None, landed).start()
    refresh = asyncio.create_task(session.refresh())
    await settle()
    closing = asyncio.create_task(session.aclose())
    await settle()
    waiting = asyncio.create_task(session.wait_closed())
    await settle()
    assert not waiting.done()
    landed.set()
    await asyncio.gather(refresh, closing, waiting)


def test_a_wait_can_end_twice():
    """By what it waited for, and by its time being up, in one turn of the event loop."""

    async def end_twice():
        waiters, deadline = Waiters(), WaitDeadline()
        asyncio.get_running_loop().call_soon(waiters.wake)
        asyncio.get_running_loop().call_soon(deadline.end)
        await waiters.wait(deadline)
        return deadline.is_over

    assert asyncio.run(end_twice())


async def test_closing_does_not_wait_for_ever(clock):
    """What is still under way then is left to end by itself."""
    landed = asyncio.Event()
    session = await ScriptedSession(clock, None, landed, policy=RefreshPolicy(close_timeout=0.05)).start()
    refresh = asyncio.create_task(session.refresh())
    await settle()
    await session.aclose()
    assert session.state is SessionState.CLOSED
    with pytest.raises(SessionClosed):
        await refresh
    landed.set()
    await settle()
    assert session.generation == 2


async def test_a_renewal_sees_nothing_of_whoever_asked_for_it(clock):
    """It outlives them, and their context is not its own."""
    seen = []

    def look():
        seen.append(PLACE.get())

    PLACE.set("a request")
    async with ScriptedSession(clock, look, None, look) as session:
        await session.refresh()
    assert seen == ["nowhere", "nowhere"]


async def test_closing_that_is_cancelled_has_closed_all_the_same(clock):
    """Whoever waited for it is let go."""
    landed = asyncio.Event()
    session = await ScriptedSession(clock, None, landed).start()
    refresh = asyncio.create_task(session.refresh())
    await settle()
    closing = [asyncio.create_task(session.aclose()) for _ in range(2)]
    await settle()
    closing[0].cancel()
    assert isinstance(await outcome(asyncio.gather(*closing[1:])), list)
    assert closing[0].cancelled()
    with pytest.raises(SessionClosed):
        await refresh
    landed.set()
    await session.wait_closed()
    await settle()


async def test_a_start_that_fails_for_now_is_told_as_token_tells_it(clock):
    """After its patience; the session is closed then."""
    session = ScriptedSession(clock, *[NOT_SENT] * 50)
    starting = asyncio.create_task(session.start())
    await clock.advance(10)
    error = await outcome(starting)
    assert isinstance(error, TokenUnavailable)
    assert error.cause is NOT_SENT.error
    assert len(session.attempts) > 3
    with pytest.raises(SessionClosed, match="open another one"):
        await session.start()


@pytest.mark.parametrize("failure", [SPENT, MISCONFIGURED])
async def test_a_start_that_cannot_succeed_raises_the_reason_itself(clock, failure):
    """At once."""
    session = ScriptedSession(clock, failure)
    with pytest.raises(SignalWireTokenError) as caught:
        await session.start()
    assert caught.value is failure.error
    assert len(session.attempts) == 1


async def test_a_start_that_takes_long_keeps_what_it_brings(clock):
    """Its patience is over, but the request under way may not be cancelled, and brings a pair."""
    session = ScriptedSession(clock, 12)
    starting = asyncio.create_task(session.start())
    await clock.advance(12)
    await starting
    assert session.state is SessionState.FRESH
    await session.aclose()


async def test_a_start_that_stumbles_goes_on(clock):
    """A connection reset is not the end of the world."""
    session = ScriptedSession(clock, NOT_SENT, AMBIGUOUS)
    starting = asyncio.create_task(session.start())
    await clock.advance(5)
    await starting
    assert session.steps == ["IssueNew"] * 3
    await session.aclose()


async def test_a_start_that_is_cancelled_drains_its_request(clock):
    """And leaves nothing open."""
    landed = asyncio.Event()
    session = ScriptedSession(clock, landed)
    starting = asyncio.create_task(session.start())
    await settle()
    starting.cancel()
    await settle()
    assert not starting.done()
    landed.set()
    await asyncio.wait([starting])
    assert starting.cancelled()
    assert session.state is SessionState.CLOSED


async def test_a_session_that_is_not_open_says_so(clock):
    """Not yet, or no longer, or twice. (P4)"""
    session = ScriptedSession(clock)
    assert session.state is SessionState.CLOSED
    assert (session.next_refresh_at, session.last_error, session.expires_in) == (None, None, timedelta(0))
    for call in (session.token(), session.refresh(), anext(session.rotations()), session.wait_closed()):
        with pytest.raises(SessionClosed, match="isn't open yet"):
            await call
    with pytest.raises(SessionClosed, match="no pair yet"):
        _ = session.pair
    async with session:
        with pytest.raises(SessionError, match="is open already"):
            await session.start()
    for call in (session.token(), session.refresh(), session.start()):
        with pytest.raises(SessionClosed, match="is closed: "):
            await call
    with pytest.raises(SessionClosed, match="is closed: "):
        session.invalidate("x")
    assert [pair async for pair in session.rotations()] == []
    unused = ScriptedSession(clock)
    await unused.aclose()
    with pytest.raises(SessionClosed):
        await unused.start()


async def test_a_session_belongs_to_one_event_loop():
    """On another, each method raises an error that names the remedy, although the token is fresh. (P4)"""
    async with ScriptedSession(SYSTEM) as session:

        async def elsewhere():
            for call in (session.token(), session.refresh(), session.aclose()):
                with pytest.raises(SessionError, match="run_coroutine_threadsafe"):
                    await call

        await asyncio.to_thread(asyncio.run, elsewhere())
        with pytest.raises(SessionError, match="event loop"):
            await asyncio.to_thread(session.invalidate, session.pair.access_token)


async def test_another_event_loop_is_noticed_a_second_after_the_last_call(clock):
    """Until then, `token()` returns the token without checking where it is called. (P4)"""
    async with ScriptedSession(clock) as session:
        await session.token()
        await asyncio.to_thread(asyncio.run, session.token())
        clock.suspend(1.1)
        with pytest.raises(SessionError, match="event loop"):
            await asyncio.to_thread(asyncio.run, session.token())
        await session.token()
        clock.suspend(0.9)
        assert clock.now() < engine_of(session).cycle.fresh_until


async def test_a_token_is_returned_unchecked_until_it_is_due_and_no_longer(clock):
    """However short its life is: an expired token is never returned. (P1)"""
    policy = RefreshPolicy(min_lifetime=1, wait_timeout=0.1)
    async with ScriptedSession(clock, None, *[NOT_SENT] * 50, life=2.0, policy=policy) as session:
        clock.suspend(1.1)
        await session.token()
        clock.suspend(0.95)
        asking = asyncio.create_task(session.token())
        await clock.advance(0.2)
        assert isinstance(await outcome(asking), TokenUnavailable)


async def test_a_fresh_token_is_returned_at_once_though_it_is_too_short_lived_to_be_kept(clock):
    """With less than 30 seconds left of it, a call doesn't wait for a renewal that isn't due."""
    session = ScriptedSession(clock)
    session.script.life = 12.0
    async with session:
        await clock.advance(1)
        attempts = len(session.attempts)
        session.script.outcomes.append(answered := asyncio.Event())
        await asyncio.wait_for(session.token(), 1)
        assert len(session.attempts) == attempts
        answered.set()


@pytest.mark.parametrize("held", [None, make_pair()])
def test_a_session_of_an_event_loop_that_is_closed_is_refused(held):
    """A script calls `asyncio.run` twice, and the second time uses what it opened the first time. (P4)"""

    async def use(session):
        with pytest.raises(SessionError, match=r"closed: open and use it inside of one asyncio\.run"):
            await session.token()

    with pytest.warns(ResourceWarning, match="unclosed"):
        asyncio.run(use(asyncio.run(ScriptedSession(SYSTEM, held=held).start())))


async def test_a_session_checks_its_process_after_a_fork(clock):
    """In the next call, though its token is fresh."""
    async with ScriptedSession(clock) as session:
        token = await session.token()
        assert engine_of(session).cycle.fresh_until > clock.now()
        note_fork()
        engine_of(session).timer.process += 1
        with pytest.raises(SessionError, match="after a fork"):
            await session.token()
        engine_of(session).timer.process -= 1
        assert await session.token() == token


async def test_a_session_that_a_forked_child_drops_is_left_to_its_parent(clock):
    """The child has a copy of it: it neither warns nor closes anything."""
    session = await ScriptedSession(clock).start()
    engine = engine_of(session)
    engine.timer.process += 1
    del session
    gc.collect()
    assert engine.cycle.phase is Phase.OPEN
    engine.timer.process -= 1
    engine.timer.unset(engine)


async def test_a_session_belongs_to_one_process(clock):
    """After a fork, the child's is another."""
    async with ScriptedSession(clock) as session:
        engine_of(session).timer.process += 1
        with pytest.raises(SessionError, match="after a fork"):
            await session.refresh()
        engine_of(session).timer.process -= 1
        reading, writing = os.pipe()
        clock.suspend(LIFE)
        child = os.fork()
        if child == 0:
            try:
                session.token().send(None)
            except SessionError as error:
                os.write(writing, str(error).encode())
            finally:
                os._exit(0)
        os.close(writing)
        assert "after a fork" in os.read(reading, 1000).decode()
        os.close(reading)
        await asyncio.to_thread(os.waitpid, child, 0)


@pytest.mark.filterwarnings("error")
async def test_a_session_that_is_dropped_unclosed_says_so(clock):
    """When it is collected; it does not keep itself alive. (P19)"""
    with pytest.warns(ResourceWarning, match=r"unclosed <ScriptedSession #scripted fresh.*aclose"):
        await ScriptedSession(clock).start()
    assert clock.alarms != []
    await clock.advance(LIFE)
    assert clock.alarms == []


async def test_a_session_tells_where_it_stands(clock):
    """By properties, and in its repr, which holds no token."""
    async with ScriptedSession(clock, None, NOT_SENT) as session:
        await clock.advance(100)
        assert session.expires_in == timedelta(seconds=LIFE - 100)
        due = session.next_refresh_at
        assert 0.6 * LIFE <= (due - datetime.fromtimestamp(clock.wall(), UTC)).total_seconds() + 100 <= 0.8 * LIFE
        assert repr(session) == "<ScriptedSession #scripted fresh, generation 1>"
        assert session.pair.access_token.value not in repr(session)


async def test_a_renewal_under_way_is_the_next(clock):
    """It is now."""
    landed = asyncio.Event()
    async with ScriptedSession(clock, None, landed) as session:
        refresh = asyncio.create_task(session.refresh())
        await settle()
        assert session.next_refresh_at.timestamp() == clock.wall()
        landed.set()
        await refresh


async def test_a_pair_from_elsewhere_is_taken_up(clock):
    """With nothing asked of anybody before it is due."""
    held = make_pair()
    async with ScriptedSession(clock, held=held, reissues=False) as session:
        assert await session.token() == held.access_token.value
        assert session.attempts == []
        await clock.advance(LIFE)
        assert session.steps == ["UseRefreshToken"]


async def test_log_lines_have_the_reason_and_what_follows_and_no_token(clock, caplog):
    """For whoever reads them at night."""
    caplog.set_level(logging.DEBUG)
    async with ScriptedSession(clock, None, NOT_SENT, refused(Spent, "worn out"), reissues=False):
        await clock.advance(2 * LIFE)
    lines = [record.getMessage() for record in caplog.records if record.name == "signalwire_tokens.session"]
    assert lines[0].startswith("session #scripted: first token issued, valid for ")
    assert lines[1].startswith("session #scripted: renewal failed: because; the current token is valid for ")
    assert lines[1].endswith(", and the session tries again")
    assert lines[2].startswith("session #scripted: renewal failed: worn out; the current token is valid for ")
    assert lines[2].endswith(", and no way to renew is left")
    assert lines[3:] == ["session #scripted: expired, and no way to renew is left: worn out; open another session"]
    assert "access-" not in caplog.text


async def test_where_no_way_is_left_nobody_is_told_to_come_again(clock):
    """The token at hand is served to its end, and that is not when to ask for another."""
    async with ScriptedSession(clock, SPENT, reissues=False, held=make_pair()) as keeper:
        with pytest.raises(TokenUnavailable) as caught:
            await keeper.refresh()
        assert caught.value.retry_after is None
        assert await keeper.token() == keeper.pair.access_token.value


async def test_results_that_cannot_be_processed_are_failures_with_growing_pauses(clock, monkeypatch, caplog):
    """The session doesn't ask its source again at once, each time."""
    caplog.set_level(logging.CRITICAL)
    async with ScriptedSession(clock) as session:

        def land(*_):
            raise MemoryError

        monkeypatch.setattr(Lifecycle, "land", land)
        await clock.advance(0.9 * LIFE)
        assert 2 < len(session.attempts) < 150
        monkeypatch.undo()
        await clock.advance(0.1 * LIFE)
        assert session.state is SessionState.FRESH
