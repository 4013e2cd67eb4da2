"""What a session logs about its renewals."""

import asyncio
import logging
import re

import pytest

from signalwire_tokens import (
    MemoryStore,
    RefreshPolicy,
    SessionExpired,
    SignalWireTokenError,
    StoreError,
    TokenUnavailable,
)
from signalwire_tokens.outcomes import NotYet, Spent
from support.scripted_session import (
    LIFE,
    MISCONFIGURED,
    NOT_SENT,
    SPENT,
    ScriptedSession,
    make_pair,
    refused,
    start_badly,
)

KEY = "0123456789abcdef"
# A session plans its renewal at random from 60 % to 80 % of a token's lifetime.
POLICY = RefreshPolicy(refresh_from=0.75, refresh_to=0.75)


@pytest.fixture
def lines(caplog):
    """Return a function that lists the messages of the log of sessions, with their levels."""
    caplog.set_level(logging.DEBUG, logger="signalwire_tokens.session")

    def logged():
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    return logged


async def test_a_first_token_is_issued(clock, lines):
    """The message has the time for which the token is valid."""
    async with ScriptedSession(clock):
        assert lines() == [("INFO", "session #scripted: first token issued, valid for 2 h")]


async def test_a_refreshed_token_is_told_from_one_that_is_issued_again(clock, lines):
    """A session issues a new pair after its refresh token was refused."""
    async with ScriptedSession(clock, None, None, SPENT) as session:
        await session.refresh()
        await clock.advance(1)
        with pytest.raises(TokenUnavailable):
            await session.refresh()
        await clock.advance(1)
    messages = [message for level, message in lines() if level == "INFO"]
    assert messages == [
        "session #scripted: first token issued, valid for 2 h",
        "session #scripted: token refreshed, valid for 2 h",
        "session #scripted: token issued again, valid for 2 h",
    ]


async def test_a_token_from_the_store_is_not_called_new(clock, lines):
    """The session that takes it has sent no request."""
    store = MemoryStore(clock=clock)
    async with (
        ScriptedSession(clock, store=store, store_key=KEY),
        ScriptedSession(clock, store=store, store_key=KEY) as other,
    ):
        assert other.attempts == []
    assert lines() == [
        ("INFO", "session #scripted: first token issued, valid for 2 h"),
        ("INFO", "session #scripted: token taken from the store, valid for 2 h"),
    ]


@pytest.mark.parametrize("has_store", [False, True])
async def test_a_pair_that_the_session_was_given_is_called_so(clock, lines, has_store):
    """It was neither issued by the session nor taken from its store."""
    options = {"store": MemoryStore(clock=clock), "store_key": KEY} if has_store else {}
    async with ScriptedSession(clock, held=make_pair(), held_for=60, reissues=False, **options) as session:
        assert lines() == [("INFO", "session #scripted: token of the given pair in use, valid for 1 h 59 min")]
        await session.refresh()
    assert lines()[1:] == [("INFO", "session #scripted: token refreshed, valid for 2 h")]


async def test_a_given_pair_is_called_so_while_the_store_fails(clock, lines):
    """The session uses the pair at once, and saves it later."""
    store = MemoryStore(clock=clock)

    async def fail(key, record, replaces):
        raise StoreError("the store is full")

    store.save = fail
    async with ScriptedSession(clock, held=make_pair(), reissues=False, store=store, store_key=KEY):
        assert lines()[1] == ("INFO", "session #scripted: token of the given pair in use, valid for 2 h")
    level, message = lines()[0]
    assert level == "WARNING"
    assert message == (
        "session #scripted: the new pair isn't saved in the store: the store is full; the session uses it, and tries "
        "to save it again"
    )


async def test_a_given_pair_that_has_expired_is_called_so(clock, lines):
    """Its refresh token may still be valid."""
    async with ScriptedSession(clock, held=make_pair(), held_for=LIFE + 60, reissues=False):
        assert lines()[0] == ("INFO", "session #scripted: token of the given pair in use, already expired")


async def test_a_failed_renewal_says_what_follows(clock, lines):
    """The first of several failures is a warning, and the others aren't."""
    async with ScriptedSession(clock, None, NOT_SENT, NOT_SENT, policy=POLICY):
        await clock.advance(0.75 * LIFE + 1)
        level, message = lines()[1]
        assert level == "WARNING"
        assert message == (
            "session #scripted: renewal failed: because; the current token is valid for 30 min, and the session tries "
            "again"
        )
        await clock.advance(2)
        assert lines()[2][0] == "INFO"


async def test_a_failed_renewal_without_a_valid_token_says_so(clock, lines):
    """Callers are without a token until the session succeeds."""
    session = ScriptedSession(clock, NOT_SENT)
    opening = await start_badly(session, clock)
    await clock.advance(2)
    await opening
    await session.aclose()
    assert lines()[0] == (
        "WARNING",
        "session #scripted: renewal failed: because; no token is valid, and the session tries again",
    )


async def test_a_refusal_of_the_first_token_promises_no_further_attempt(clock, lines):
    """`start()` raises it, and the session closes."""
    session = ScriptedSession(clock, MISCONFIGURED)
    with pytest.raises(SignalWireTokenError, match="because"):
        await session.start()
    assert lines()[0] == ("WARNING", "session #scripted: renewal failed: because; there is no first token")


async def test_a_source_without_a_later_token_has_not_failed(clock, lines):
    """The session tries again when a later token may be there."""
    async with ScriptedSession(clock, None, refused(NotYet, "there is none yet"), policy=POLICY):
        await clock.advance(0.75 * LIFE + 1)
    level, message = lines()[1]
    assert level == "INFO"
    assert message == (
        "session #scripted: no new token yet: there is none yet; the current token is valid for 30 min, and the "
        "session tries again"
    )


@pytest.mark.parametrize("outcome", [refused(Spent, "used already"), None])
async def test_an_expired_session_says_why_and_what_to_do(clock, lines, outcome):
    """The reason is the error of the last attempt, if that failed."""
    outcomes = [] if outcome is None else [outcome]
    held_for = 2 * LIFE if outcome is None else 0
    session = ScriptedSession(clock, *outcomes, held=make_pair(), held_for=held_for, reissues=False)
    opening = asyncio.create_task(session.start())
    await clock.advance(2 * LIFE)
    await asyncio.wait([opening])
    reason = "" if outcome is None else ": used already"
    assert lines()[-1] == (
        "ERROR",
        f"session #scripted: expired, and no way to renew is left{reason}; open another session",
    )
    if outcome is not None:
        with pytest.raises(SessionExpired) as caught:
            await session.token()
        assert (
            str(caught.value) == "session #scripted has expired, and can't be renewed: used already; open another one"
        )
        await session.aclose()
    else:
        assert isinstance(opening.exception(), SessionExpired)


async def test_a_caller_learns_the_reason_and_the_next_attempt(clock):
    """Both are in the message of the error."""
    async with ScriptedSession(clock, None, NOT_SENT) as session:
        with pytest.raises(TokenUnavailable) as caught:
            await session.refresh()
    # The pause is random, from half a second to a second.
    assert re.fullmatch(
        r"no new token for session #scripted: because; next attempt in (0\.[5-9]|1) s", str(caught.value)
    )


@pytest.mark.parametrize(("outcomes", "doing"), [([60], "issuing"), ([None, 60], "refreshing")])
async def test_a_caller_learns_how_long_the_renewal_under_way_has_taken(clock, outcomes, doing):
    """Nothing has failed so far, so this is the cause."""
    session = ScriptedSession(clock, *outcomes)
    opening = asyncio.create_task(session.start())
    await clock.advance(0)
    if doing == "refreshing":
        await opening
        session.invalidate(session.pair.access_token)
        opening = asyncio.create_task(session.token())
    await clock.advance(11)
    if doing == "issuing":
        await clock.advance(20)
    await asyncio.wait([opening])
    assert str(opening.exception()).startswith("no valid token for session #scripted: ")
    assert f"{doing} a token has taken " in str(opening.exception())
    await clock.advance(60)
    await session.aclose()
