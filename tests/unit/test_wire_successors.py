"""Whether a new pair can replace the current one: its token is new, and it is for the same subscriber."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from signalwire_tokens import Token, TokenPair, UnexpectedResponse, wire
from support.wire_samples import ISSUE, PAIR, REFRESH, SAT, read

ALICE, BOB, CAROL = UUID(PAIR["subscriber_id"]), UUID(int=2), UUID(int=3)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def pair_of(subscriber_id, value="the current token"):
    token = Token(value=value, issued_at=NOW, expires_at=NOW + timedelta(hours=2))
    return TokenPair(access_token=token, refresh_token=token, subscriber_id=subscriber_id)


def answered(replaced, *, seen=(), names=ALICE, **more):
    """Return what a renewal of the pair `replaced` makes of an answer that names the subscriber `names`."""
    request = wire.accepting_only_successor(ISSUE, replaced, set(seen), **more)
    return read(request, {**PAIR, "subscriber_id": None if names is None else str(names)})


@pytest.mark.parametrize(("before", "after"), [(ALICE, ALICE), (ALICE, None), (None, ALICE), (None, None)])
def test_a_pair_with_a_new_token_replaces_one_of_the_same_subscriber(before, after):
    """A pair that names no subscriber may be for any."""
    pair = answered(pair_of(before), names=after)
    assert (pair.access_token.value, pair.subscriber_id) == (SAT, after)


def test_the_first_pair_is_accepted_as_it_is():
    """Nothing is replaced, so the answer isn't compared with anything."""
    assert wire.accepting_only_successor(ISSUE, None, {hash(SAT)}) is ISSUE


@pytest.mark.parametrize("subscriber_id", [ALICE, None])
@pytest.mark.parametrize(
    ("current", "seen"), [(SAT, ()), ("the current token", [hash(SAT)]), ("the current token", [hash(SAT), 1])]
)
def test_an_answer_with_an_earlier_token_is_refused(current, seen, subscriber_id):
    """It is the current token or one of the last ones."""
    error = answered(pair_of(subscriber_id, current), seen=seen)
    assert isinstance(error, UnexpectedResponse)
    assert error.message == "SignalWire answered 201, with a token from an earlier answer"
    assert error.subscriber_id is None


def test_an_earlier_refresh_token_does_not_matter():
    """Only access tokens are compared."""
    assert isinstance(answered(pair_of(ALICE, REFRESH), seen=[hash(REFRESH)]), TokenPair)


def test_an_answer_for_another_subscriber_is_refused():
    """The error has the subscriber that the answer names."""
    error = answered(pair_of(BOB), or_of=CAROL)
    assert isinstance(error, UnexpectedResponse)
    assert error.message == "SignalWire answered 201, for another subscriber"
    assert error.subscriber_id == ALICE


def test_the_token_of_another_subscriber_counts_as_seen():
    """The same answer, a second time, is an earlier answer."""
    seen = set()
    request = wire.accepting_only_successor(ISSUE, pair_of(BOB), seen)
    assert "for another subscriber" in read(request, PAIR).message
    assert seen == {hash(SAT)}
    assert "with a token from an earlier answer" in read(request, PAIR).message


def test_an_accepted_token_is_not_added_to_those_that_were_seen():
    """The session adds it when it uses the pair."""
    seen = set()
    assert isinstance(read(wire.accepting_only_successor(ISSUE, pair_of(ALICE), seen), PAIR), TokenPair)
    assert seen == set()


@pytest.mark.parametrize("names", [ALICE, BOB, None])
def test_a_second_subscriber_can_be_accepted(names):
    """A subscriber that was created again has another id. The first one is still accepted."""
    pair = answered(pair_of(BOB), or_of=ALICE, names=names)
    assert isinstance(pair, TokenPair)
    assert pair.subscriber_id == names
