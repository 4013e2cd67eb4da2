"""A token from a source of one's own, kept by `TokenSession` and a renewal of a few lines."""

import asyncio
import gc
import logging
import math
from datetime import timedelta
from weakref import ref

import attrs
import pytest

from signalwire_tokens import (
    ConfigurationError,
    MemoryStore,
    RateLimited,
    RefreshPolicy,
    Renewed,
    SessionClosed,
    SessionExpired,
    SessionState,
    SignalWireTokenError,
    TokenPair,
    TokenSession,
    TokenUnavailable,
    UnexpectedResponse,
)
from signalwire_tokens.keeper import engine_of
from signalwire_tokens.outcomes import IssueNew, NotYet, Spent, UseRefreshToken
from support.fake_transport import settle
from support.scripted_session import issued_at, make_pair

HOUR = 3600.0
SECRET = "hush"


class Source:
    """Does what it is told, one thing for each attempt, and then issues tokens that are valid for an hour."""

    name = "token"

    def __init__(self, clock, *outcomes):
        self.clock, self.outcomes, self.requests, self.closed = clock, list(outcomes), [], 0
        self.left = []

    async def renew(self, request):
        self.requests.append(request)
        token = f"{self.name}-{len(self.requests)}"
        outcome = self.outcomes.pop(0) if self.outcomes else Renewed.valid_for(token, HOUR)
        if isinstance(outcome, asyncio.Event):
            await outcome.wait()
            return Renewed.valid_for("late", HOUR)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def adopted(self, left):
        self.left.append(left)

    async def aclose(self):
        self.closed += 1


def keep(clock, *outcomes, lifetime=HOUR, **settings):
    source = Source(clock, *outcomes)
    return source, TokenSession(source, lifetime=timedelta(seconds=lifetime), clock=clock, **settings)


async def test_a_token_of_any_source_is_kept_valid(clock):
    """By one request for each token, and the source is closed with the session."""
    source, session = keep(clock)
    async with session:
        assert await session.token() == "token-1"
        await clock.advance(3 * HOUR)
        assert session.state is SessionState.FRESH
        assert await session.token() == f"token-{len(source.requests)}"
        assert 3 < len(source.requests) < 6
    assert all(isinstance(request.step, IssueNew) for request in source.requests)
    assert all(0.2 * HOUR <= left <= 0.4 * HOUR for left in source.left)
    assert source.closed == 1


@pytest.mark.parametrize("error", [OSError(SECRET), SignalWireTokenError(SECRET), asyncio.CancelledError(SECRET)])
async def test_whatever_a_source_raises_costs_one_attempt(clock, caplog, error):
    """The text of a stranger's exception is shown nowhere."""
    caplog.set_level(logging.DEBUG)
    source, session = keep(clock)
    async with session:
        source.outcomes.append(error)
        await clock.advance(0.9 * HOUR)
        assert len(source.requests) == 3
        assert session.state is SessionState.FRESH
    assert (SECRET in caplog.text) is isinstance(error, SignalWireTokenError)


async def test_the_error_of_a_source_is_the_cause_of_its_callers(clock):
    """And what it says of the next attempt is respected."""
    source, session = keep(clock)
    async with session:
        source.outcomes += [RateLimited("slow down", retry_after=40)]
        session.invalidate(await session.token())
        await settle()
        await clock.advance(0.5)
        with pytest.raises(TokenUnavailable) as caught:
            await session.token()
        assert "slow down" in str(caught.value.__cause__)
        assert 35 <= caught.value.retry_after <= 45
        await clock.advance(35)
        assert len(source.requests) == 2
        await clock.advance(10)
        assert len(source.requests) == 3
        assert session.state is SessionState.FRESH


@pytest.mark.parametrize("answer", [None, "token", ("token", 3600)])
async def test_an_answer_that_is_none_is_named(clock, answer):
    """The session goes on, since the next one may be right."""
    source, session = keep(clock)
    source.outcomes += [answer]
    starting = asyncio.create_task(session.start())
    await clock.advance(0.1)
    assert f"renew() returned {type(answer).__name__}: it must return" in str(session.last_error)
    await clock.advance(10)
    assert await (await starting).token() == "token-2"
    await session.aclose()


@pytest.mark.parametrize(
    ("token", "seconds", "fault"),
    [
        (SECRET.encode(), 60, "must be a string, not bytes"),
        ("", 60, "is empty"),
        (f"{SECRET}\n", 60, "has a line break"),
        (f"{SECRET}\0", 60, "can't be printed"),
        (f" {SECRET}", 60, "spaces around it"),
        (SECRET, "1", "a number of seconds"),
        (SECRET, True, "a number of seconds"),
        (SECRET, math.nan, "a number of seconds"),
        (SECRET, 10**400, "more than ten years"),
        (SECRET, 1.8e9, "more than ten years: pass the seconds from now"),
    ],
)
def test_a_token_that_makes_no_sense_is_refused(token, seconds, fault):
    """Where the renewal returns it, so that its callers see why, but not the token."""
    with pytest.raises(UnexpectedResponse, match=fault) as caught:
        Renewed.valid_for(token, seconds)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Renewed(SECRET), r"pair must be a TokenPair, not str: see Renewed.valid_for\(\)"),
        (lambda: TokenPair(access_token=SECRET, refresh_token=SECRET), "access_token must be a Token, not str"),
        (lambda: attrs.evolve(make_pair(), refresh_token=None), "refresh_token must be a Token, not NoneType"),
        (lambda: Spent(OSError(SECRET)), "error must be a SignalWireTokenError, not OSError"),
    ],
)
def test_a_value_of_another_type_is_refused_and_not_shown(make, message):
    """It may be a secret."""
    with pytest.raises(TypeError, match=message) as caught:
        make()
    assert SECRET not in str(caught.value)


def test_each_token_of_a_pair_is_looked_at():
    """As the one of `valid_for` is."""
    pair = make_pair()
    for name in ("access_token", "refresh_token"):
        odd = attrs.evolve(pair, **{name: attrs.evolve(getattr(pair, name), value="a\nb")})
        with pytest.raises(UnexpectedResponse, match="has a line break"):
            Renewed(odd)


async def test_an_error_of_a_source_while_a_session_starts_costs_one_attempt(clock):
    """Even the one kind whose text is shown: nothing says that it won't pass."""
    source, session = keep(clock, SignalWireTokenError("the vault is sealed"))
    starting = asyncio.create_task(session.start())
    await clock.advance(0.1)
    assert "the vault is sealed" in str(session.last_error)
    await clock.advance(10)
    await starting
    assert len(source.requests) == 2
    await session.aclose()


async def test_a_mistake_in_a_renewal_is_named_by_its_line(clock):
    """Its text may hold a secret, so that is all there is to find it by."""
    source, session = keep(clock)

    def renew(_):
        return {}[SECRET]

    async with session:
        source.renew = renew
        session.invalidate(await session.token())
        await clock.advance(1)
        line = renew.__code__.co_firstlineno + 1
        assert str(session.last_error) == f"the renewal failed with KeyError, test_token_session.py, line {line}"
        del source.renew


async def test_callers_learn_that_a_renewal_takes_long(clock):
    """It has failed with nothing yet."""
    source, session = keep(clock)

    async def renew_slowly(_):
        await clock.sleep(60)
        return Renewed.valid_for("late", HOUR)

    async with session:
        source.renew = renew_slowly
        session.invalidate(await session.token())
        asking = asyncio.create_task(session.token())
        await clock.advance(12)
        with pytest.raises(TokenUnavailable) as caught:
            await asking
        assert str(caught.value.__cause__) == "issuing a token has taken 9.5 s so far"
        assert session.last_error is None
        await clock.advance(50)
        assert await session.token() == "late"


@pytest.mark.parametrize("error", [OSError(SECRET), asyncio.CancelledError(SECRET)])
@pytest.mark.parametrize("is_async", [True, False])
async def test_what_a_source_raises_when_it_is_closed_is_logged(clock, caplog, is_async, error):
    """The error that ended the body of `async with` is the one that callers get."""

    class Broken(Source):
        def aclose(self):
            if is_async:
                return self.fail()
            raise error

        async def fail(self):
            raise error

    session = TokenSession(Broken(clock), lifetime=timedelta(hours=1), clock=clock)
    with pytest.raises(ZeroDivisionError):
        async with session:
            raise ZeroDivisionError
    assert (
        f"aclose() of the token source failed, and the session is closed all the same: {type(error).__name__}"
        in caplog.text
    )
    assert SECRET not in caplog.text


async def test_a_caller_who_is_cancelled_while_a_source_closes_is_cancelled(clock, caplog):
    """That is no failure of the source's."""
    source, session = keep(clock)
    await session.start()
    source.aclose = asyncio.Event().wait
    closing = asyncio.create_task(session.aclose())
    await settle()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert "aclose() of the token source" not in caplog.text


async def test_a_source_that_does_not_close_is_left_behind(clock, caplog):
    """After as long as a renewal under way gets."""
    source, session = keep(clock, policy=RefreshPolicy(close_timeout=0.01))
    async with session:
        source.aclose = asyncio.Event().wait
    assert "aclose() of the token source failed, and the session is closed all the same: TimeoutError" in caplog.text


@pytest.mark.parametrize("token", [b"token-1", b"", None])
async def test_only_a_token_can_be_refused(clock, token):
    """Another type would never be equal to the current one, and so be ignored."""
    _, session = keep(clock)
    async with session:
        for refuse in (session.invalidate, session.report_unauthorized):
            with pytest.raises(TypeError, match=f"must be a string or a Token, not {type(token).__name__}"):
                refuse(token)


async def test_a_refused_token_of_a_source_is_not_blamed_on_a_setting_of_signalwire_s(clock, caplog):
    """The source says how long its tokens live."""
    _, session = keep(clock)
    async with session:
        session.invalidate(await session.token())
    assert "before its calculated expiry" in caplog.text
    assert "SIGNALWIRE" not in caplog.text


async def test_a_renewal_need_not_be_async(clock):
    """A function that reads a variable, for example."""
    source, session = keep(clock)
    source.renew = lambda _: Renewed.valid_for("at once", HOUR)
    async with session:
        assert await session.token() == "at once"


async def test_a_token_without_an_end_is_kept(clock):
    """A source may say that its token never expires."""
    source, session = keep(clock)
    source.outcomes.append(Renewed.valid_for("for ever", math.inf))
    async with session:
        await clock.advance(30 * 24 * HOUR)
        assert await session.token() == "for ever"


async def test_what_a_source_raises_when_it_notes_a_pair_is_shown_nowhere(clock, caplog):
    """The session goes on."""
    source, session = keep(clock)

    def fail(left):
        raise OSError(SECRET)

    source.adopted = fail
    async with session:
        await clock.advance(0.9 * HOUR)
        assert await session.token() == "token-2"
    assert "adopted() of the token source failed, and the session goes on: OSError" in caplog.text
    assert SECRET not in caplog.text


async def test_the_same_token_again_is_no_later_one(clock, caplog):
    """A file that nobody has rewritten yet: the session keeps the token, and looks again in time."""
    source, session = keep(clock)
    source.outcomes += [Renewed.valid_for("same", HOUR), *(Renewed.valid_for("same", HOUR / 2) for _ in range(3))]
    async with session:
        await clock.advance(0.95 * HOUR)
        assert len(source.requests) >= 3
        await clock.advance(0.06 * HOUR)
        assert (await session.token()).startswith("token-")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_token_that_has_expired_is_not_taken(clock):
    """An old file: the session waits for a new one."""
    source, session = keep(clock)
    source.outcomes += [Renewed.valid_for("old", -5)]
    starting = asyncio.create_task(session.start())
    await clock.advance(0.1)
    assert "already expired" in str(session.last_error)
    assert isinstance(engine_of(session).cycle.failure, NotYet)
    await clock.advance(10)
    assert await (await starting).token() == "token-2"
    await session.aclose()


async def test_a_pair_that_was_refreshed_is_kept_though_it_ends_no_later(clock):
    """Its refresh token is the only one that is good still."""
    first, second, third = (make_pair(life) for life in (HOUR, HOUR / 2, HOUR))
    source, session = keep(clock, *map(Renewed, (first, second, third)), presents=True)
    async with session:
        clock.suspend(1)
        await session.refresh()
        assert session.pair.refresh_token.value == second.refresh_token.value
        assert await session.token() == first.access_token.value
        await session.refresh()
        assert source.requests[-1].pair.refresh_token.value == second.refresh_token.value
        assert await session.token() == third.access_token.value


async def test_a_pair_is_as_old_as_its_times_say(clock):
    """A source may have had it for a while."""
    pair = issued_at(make_pair(HOUR), clock.wall() - HOUR + 60)
    source, session = keep(clock, Renewed(pair))
    async with session:
        assert session.expires_in == timedelta(seconds=60)
        await clock.advance(61)
        assert await session.token() == f"token-{len(source.requests)}"


async def test_another_token_is_taken_though_it_ends_at_the_same_time(clock):
    """A caller who asks for a new one gets it, even at once."""
    _, session = keep(clock)
    async with session:
        await session.refresh()
        assert await session.token() == "token-2"


async def test_a_token_without_a_refresh_token_is_not_presented(clock):
    """Though the source may have one the next time."""
    pair = make_pair(HOUR)
    source, session = keep(clock, Renewed.valid_for("lone", HOUR), Renewed(pair), presents=True)
    async with session:
        for _ in range(2):
            await session.refresh()
        assert [type(request.step) for request in source.requests] == [IssueNew, IssueNew, UseRefreshToken]


async def test_a_caller_of_refresh_gets_an_error_when_the_session_is_closed(clock):
    """Though the renewal goes on for longer than closing waits."""
    source, session = keep(clock, policy=RefreshPolicy(close_timeout=0.01))
    await session.start()
    source.outcomes.append(answered := asyncio.Event())
    refreshing = asyncio.create_task(session.refresh())
    await settle()
    await session.aclose()
    with pytest.raises(SessionClosed):
        await refreshing
    answered.set()
    await settle()


async def test_a_renewal_that_waits_for_itself_is_told_so(clock):
    """It would wait for ever."""
    source, session = keep(clock)
    renew = source.renew

    async def renew_twice(request):
        await session.refresh()
        return await renew(request)

    async with session:
        source.renew = renew_twice
        with pytest.raises(TokenUnavailable) as caught:
            await session.refresh()
        assert "can't wait for itself" in str(caught.value.__cause__)
        source.renew = renew


async def test_refresh_tokens_of_a_source_are_presented(clock):
    """And a pair to begin with is kept until it is due."""
    first, second = issued_at(make_pair(HOUR), clock.wall()), make_pair(HOUR)
    source, session = keep(clock, pair=first, presents=True, reissues=False)
    source.outcomes += [Renewed(second), Spent(SignalWireTokenError("no more"))]
    async with session:
        assert await session.token() == first.access_token.value
        await clock.advance(0.9 * HOUR)
        assert session.pair.access_token.value == second.access_token.value
        assert isinstance(source.requests[0].step, UseRefreshToken)
        assert source.requests[0].pair == first
        await clock.advance(2 * HOUR)
        with pytest.raises(SessionExpired):
            await session.token()


async def test_processes_share_a_token_of_any_source(clock):
    """Through a store: the second one asks nobody."""
    store = MemoryStore(clock=clock)
    first, one = keep(clock, store=store, store_key="mine")
    second, other = keep(clock, store=store, store_key="mine")
    second.name = "another"  # a source never gives out the same token as another one
    async with one, other:
        assert await one.token() == await other.token()
        await clock.advance(2 * HOUR)
        assert await one.token() == await other.token()
    assert len(first.requests) >= 1
    assert len(first.requests) + len(second.requests) <= 5


async def test_a_pair_that_another_process_has_saved_lifts_no_throttle(clock):
    """It says nothing of the source, which wants to be left alone still."""
    store, key = MemoryStore(clock=clock), "0123456789abcdef"
    limited = RateLimited("slow down", retry_after=3000)
    source, session = keep(clock, Renewed(make_pair(HOUR)), *[limited] * 9, store=store, store_key=key)
    async with session:
        await clock.advance(0.81 * HOUR)
        asked = len(source.requests)
        held = (await store.load(key)).record
        other = attrs.evolve(held, pair=make_pair(HOUR), asked_at=clock.now(), asked_wall=clock.wall())
        assert await store.save(key, other, held.digest)
        await settle()
        assert await session.token() == other.pair.access_token.value
        assert not session.report_unauthorized(other.pair.access_token)
        assert len(source.requests) == asked > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"renewal": object()}, r"renew\(request\)"),
        ({"renewal": Source}, "renewal must be an object"),
        ({"lifetime": "1h"}, "lifetime must be seconds or a timedelta, more than 0: got str"),
        ({"lifetime": timedelta(0)}, r"lifetime must be .* more than 0"),
        ({"longest": (60, None)}, "longest must be seconds or a timedelta, more than 0: got NoneType"),
        ({"policy": {}}, "policy must be a RefreshPolicy"),
        ({"pair": SECRET}, "pair must be a TokenPair"),
        ({"reissues": False}, "a session can't renew: set one of them"),
        ({"store": MemoryStore()}, "store_key"),
        ({"store_key": "mine"}, "store and store_key need each other"),
        (
            {"store": MemoryStore, "store_key": "mine"},
            "store must be a TokenStore with delete, lease, load, save, watch",
        ),
    ],
)
def test_wrong_arguments_are_refused_when_the_session_is_made(clock, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        TokenSession(**{"renewal": Source(clock), "lifetime": timedelta(hours=1), **arguments})


async def test_a_session_that_is_dropped_during_a_renewal_ends_with_it(clock):
    """It warns, the renewal lands, nothing is planned, and nothing holds it any more. (P19)"""
    answered = asyncio.Event()
    store = MemoryStore(clock=clock)
    source, session = keep(clock, store=store, store_key="mine")
    await session.start()
    source.outcomes.append(answered)
    engine_of(session).begin(IssueNew(clock.now()))
    await settle()
    engine = ref(engine_of(session))
    with pytest.warns(ResourceWarning, match="unclosed"):
        del session
    assert engine() is not None
    answered.set()
    await settle()
    gc.collect()
    assert engine() is None
    assert len(source.requests) == 2
    await clock.advance(3 * HOUR)
    assert len(source.requests) == 2
