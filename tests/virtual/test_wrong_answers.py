"""Answers that are readable and wrong: of another subscriber, repeated, expired, or refused by a wrong clock."""

import json
from datetime import timedelta
from uuid import uuid4

import attrs
import pytest

from signalwire_tokens import (
    Forbidden,
    ServerError,
    SessionFleet,
    SessionState,
    SubscriberSession,
    TokenUnavailable,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
)
from signalwire_tokens.device import DeviceKey, DeviceSession
from signalwire_tokens.emulator import Emulator, Raw, SkewDate, Status

HOUR, LIFE = 3600.0, 7200.0
ISSUE, REFRESH, INVITE = "create_subscriber_token", "refresh_subscriber_token", "create_invite_token"


@pytest.fixture
async def emulator(clock):
    async with Emulator(clock=clock) as emulator:
        yield emulator


def operations(emulator):
    return [entry.operation for entry in emulator.requests]


def answer_with(pair, **more):
    """Return a fault that answers with a pair, whatever was asked for."""
    body = {"token": pair.access_token.value, "refresh_token": pair.refresh_token.value}
    body |= {"subscriber_id": str(pair.subscriber_id)} | more
    return Raw(json.dumps(body).encode(), status=201)


def note_events(session):
    kinds = []
    session.subscribe(lambda event: kinds.append(event.kind))
    return kinds


async def renewed(session, clock, *, by=LIFE):
    """Let time pass until the session has another pair."""
    until, generation = clock.now() + by, session.generation
    while session.generation == generation:
        assert clock.now() < until
        await clock.advance(1)


@pytest.mark.parametrize("operation", [REFRESH, ISSUE])
async def test_an_answer_for_another_subscriber_is_never_adopted(emulator, clock, client, operation):
    """It is somebody else's: the session asks once more, and gets its own. (P9)"""
    lifetime = timedelta(hours=2) if operation == ISSUE else None
    async with SubscriberSession(client, "alice", lifetime=lifetime) as session:
        alice, bob = session.pair.subscriber_id, await client.create_subscriber_token("bob")
        kinds = note_events(session)
        emulator.fail(answer_with(bob), operation=operation)
        await renewed(session, clock)
        assert session.pair.subscriber_id == alice
        assert bob.access_token.value != await session.token()
        assert emulator.accepts(await session.token())
        assert "subscriber_changed" not in kinds
        assert operations(emulator) == [ISSUE, ISSUE, operation, ISSUE]


async def test_a_subscriber_that_was_created_again_is_adopted_with_a_warning(emulator, clock, client, caplog):
    """Both answers name the same new subscriber. (P9)"""
    async with SubscriberSession(client, "alice", lifetime=timedelta(hours=1)) as session:
        old, kinds = session.pair.subscriber_id, note_events(session)
        pairs = [await client.create_subscriber_token("alice again") for _ in range(2)]
        for pair in pairs:
            emulator.fail(answer_with(pair))
        await renewed(session, clock)
        assert session.pair.subscriber_id == pair.subscriber_id != old
        await clock.advance(0)
    assert kinds[:2] == ["reissued", "subscriber_changed"]
    assert "the new token belongs to another subscriber" in caplog.text


async def test_one_answer_for_another_subscriber_that_comes_twice_is_a_mistake(emulator, clock, client):
    """Two issues never give the same token. (P9)"""
    async with SubscriberSession(client, "alice", lifetime=timedelta(hours=1)) as session:
        alice = session.pair.subscriber_id
        emulator.fail(answer_with(await client.create_subscriber_token("bob")), times=2)
        await renewed(session, clock)
        assert session.pair.subscriber_id == alice


async def test_two_answers_for_two_other_subscribers_are_both_mistakes(emulator, clock, client):
    """Neither is adopted; the session tries again later. (P9)"""
    async with SubscriberSession(client, "alice", lifetime=timedelta(hours=1)) as session:
        alice, pair = session.pair.subscriber_id, session.pair
        other = attrs.evolve(pair, access_token=attrs.evolve(pair.access_token, value="another token"))
        for _ in range(2):
            emulator.fail(answer_with(other, subscriber_id=str(uuid4())))
        await renewed(session, clock)
        assert session.pair.subscriber_id == alice
        assert operations(emulator) == [ISSUE] * 4


@pytest.mark.parametrize("operation", [REFRESH, ISSUE])
async def test_a_renewal_that_is_answered_with_the_current_pair_is_none(emulator, clock, client, operation):
    """The token is as old as it was before, and expires when it did. (P10)"""
    lifetime = timedelta(hours=2) if operation == ISSUE else None
    async with SubscriberSession(client, "alice", lifetime=lifetime) as session:
        emulator.fail(answer_with(session.pair), times=3)
        for _ in range(160):
            await clock.advance(90)
            assert emulator.accepts(await session.token())
        assert session.generation > 2


@pytest.mark.parametrize("operation", [REFRESH, ISSUE])
async def test_a_renewal_that_is_answered_with_an_earlier_pair_is_none(emulator, clock, client, operation):
    """A cache or a late answer may give one that has expired long ago. (P10)"""
    lifetime = timedelta(hours=2) if operation == ISSUE else None
    async with SubscriberSession(client, "alice", lifetime=lifetime) as session:
        first = session.pair
        await renewed(session, clock)
        await renewed(session, clock)
        emulator.fail(answer_with(first), operation=operation)
        for _ in range(160):
            await clock.advance(90)
            assert emulator.accepts(await session.token())


async def test_a_device_s_renewal_that_is_answered_with_the_current_token_is_none(emulator, clock, client):
    """It would be taken to live for another quarter of an hour. (P10)"""
    key = DeviceKey.generate()
    first = await client.create_subscriber_token("alice", fingerprint=key.fingerprint, scope="sat:refresh")
    async with DeviceSession(emulator.space, first.access_token, key, clock=clock) as session:
        repeated = Raw(json.dumps({"token": session.pair.access_token.value}).encode(), status=201)
        emulator.fail(repeated, operation="refresh_device_token")
        await clock.advance(730)  # it is due after 720 s at the latest, and tries again within seconds
        assert session.generation == 2
        assert isinstance(await session.token(), str)
        assert operations(emulator)[-2:] == ["refresh_device_token"] * 2


async def test_an_expired_pair_does_not_replace_a_valid_token(emulator, clock, client):
    """SignalWire's answers are dated an hour ahead: by them, the new token of an hour has expired already. (P6)"""
    lifetime = timedelta(hours=1)
    async with SubscriberSession(client, "alice", lifetime=lifetime) as session:
        first, kinds = await session.token(), note_events(session)
        emulator.fail(SkewDate(HOUR), operation=ISSUE, times=None)
        await clock.advance(0.8 * HOUR + 60)
        assert session.generation >= 2
        assert session.state is not SessionState.UNAVAILABLE
        assert await session.token() == first
        assert isinstance(session.last_error, UnexpectedResponse)
        assert "degraded" in kinds
        for _ in range(60):
            await clock.advance(1)
            assert emulator.accepts(await session.token())
        emulator.clear_faults()
        await clock.advance(120)
        assert await session.token() != first
        assert kinds[-1] == "recovered"


async def test_a_device_presents_the_newest_token_though_an_older_one_expires_later(emulator, clock, client):
    """The older one may have been used up for it."""
    key = DeviceKey.generate()
    first = await client.create_subscriber_token("alice", fingerprint=key.fingerprint, scope="sat:refresh")
    async with DeviceSession(emulator.space, first.access_token, key, clock=clock) as session:
        old = session.pair.access_token
        await clock.advance(1)
        newest = (await session.refresh()).access_token.value
        short = Raw(json.dumps({"token": "short", "expires_in": 60}).encode(), status=201)
        emulator.fail(short, operation="refresh_device_token")
        pair = await session.refresh()
        assert (pair.access_token.value, pair.refresh_token.value) == (newest, "short")
        assert old.value != newest
        requests = []
        session.client.observers = ()
        send = session.client.send

        def note(request, **more):
            requests.append(request)
            return send(request, **more)

        session.client.send = note
        with pytest.raises(TokenUnavailable):
            await session.refresh()
        assert requests[0].bearer.value == "short"


async def test_tokens_that_have_expired_already_are_asked_for_with_growing_pauses(emulator, clock, client):
    """By SignalWire's dates, each new token of 20 minutes expired an hour ago, for hours. (P22)"""
    async with SubscriberSession(client, "alice", lifetime=timedelta(minutes=20)) as session:
        emulator.fail(SkewDate(HOUR), operation=ISSUE, times=None)
        await clock.advance(HOUR)
        asked = len(emulator.requests)
        await clock.advance(600)
        assert session.state is SessionState.UNAVAILABLE
        assert len(emulator.requests) - asked <= 120  # every five to fifteen seconds


async def test_the_refresh_token_of_a_pair_that_falls_short_is_the_one_that_is_presented(emulator, clock, client):
    """It may be the only good one: the one before was used up for it. (P6)"""
    async with SubscriberSession(client, "alice") as session:
        short = attrs.evolve(client.lifetimes, access=timedelta(seconds=60), refresh=timedelta(seconds=360))
        pair, client.lifetimes = session.pair, short
        new = await session.refresh()
        assert new.access_token.value == pair.access_token.value
        assert new.refresh_token.value != pair.refresh_token.value
        assert new.access_token.expires_at == pair.access_token.expires_at
        client.lifetimes = type(short)()
        await clock.advance(LIFE)
        assert emulator.accepts(await session.token())
        assert operations(emulator).count(ISSUE) == 1


class WrongWall:
    """Another clock, with a wall clock that is off."""

    def __init__(self, base, ahead):
        self.base, self.ahead = base, ahead
        self.now, self.call_later, self.sleep = base.now, base.call_later, base.sleep

    def wall(self):
        return self.base.wall() + self.ahead


PAST = {"code": "invalid_parameter", "attribute": "expire_at", "message": "must be in the future"}


@pytest.mark.parametrize("ahead", [-30 * HOUR, -HOUR, HOUR])
async def test_a_wrong_wall_clock_keeps_no_session_with_a_lifetime_from_its_tokens(emulator, clock, ahead):
    """SignalWire refuses an `expire_at` in its past. Its `Date` says what time it is there. (P28)"""
    wrong = WrongWall(clock, 0.0)
    async with (
        emulator.client(clock=wrong) as client,
        SubscriberSession(client, "alice", lifetime=timedelta(minutes=30)) as session,
    ):
        wrong.ahead = ahead
        for _ in range(60):
            await clock.advance(60)
            assert emulator.accepts(await session.token())
        assert session.generation > 2


@pytest.mark.parametrize("attribute", ["expire_at", None, "no item"])
async def test_a_refused_lifetime_never_ends_a_session(emulator, clock, attribute):
    """It is issued again every few minutes, and that succeeds an hour later. (P28)"""
    wrong = WrongWall(clock, 0.0)
    async with (
        emulator.client(clock=wrong) as client,
        SubscriberSession(client, "alice", lifetime=timedelta(minutes=30)) as session,
    ):
        # Where no item names it, only the clocks' difference shows what may be wrong.
        wrong.ahead = 0.0 if attribute == "expire_at" else HOUR
        body = json.dumps({"errors": [] if attribute == "no item" else [PAST | {"attribute": attribute}]}).encode()
        emulator.fail(Raw(body, status=422), operation=ISSUE, times=None)
        await clock.advance(HOUR)
        assert session.state is SessionState.UNAVAILABLE
        with pytest.raises(ValidationFailed):
            await SubscriberSession(client, "bob", lifetime=timedelta(minutes=30)).start()
        emulator.clear_faults()
        await clock.advance(600)
        assert emulator.accepts(await session.token())


@pytest.mark.parametrize("attribute", ["reference", None])
async def test_a_refused_reference_still_ends_a_session_with_a_lifetime(emulator, clock, client, attribute):
    """That is not the clock's fault: it agrees with SignalWire's."""
    async with SubscriberSession(client, "alice", lifetime=timedelta(minutes=30)) as session:
        body = json.dumps({"errors": [PAST | {"attribute": attribute}]}).encode()
        emulator.fail(Raw(body, status=422), operation=ISSUE, times=None)
        await clock.advance(HOUR)
        assert session.state is SessionState.EXPIRED


@pytest.mark.parametrize("status", [403, 422])
async def test_a_subscriber_that_has_expired_ends_no_session_with_a_lifetime(emulator, clock, client, status):
    """The code is about the subscriber, and not about `expire_at`. (P3)"""
    async with SubscriberSession(client, "alice", lifetime=timedelta(minutes=30)) as session:
        emulator.fail(Status(status, code="authblock_is_expired"), operation=ISSUE, times=None)
        await clock.advance(HOUR)
        assert session.state is SessionState.UNAVAILABLE
        assert isinstance(session.last_error, Forbidden)
        emulator.clear_faults()
        await clock.advance(600)
        assert emulator.accepts(await session.token())


async def test_invitations_that_are_refused_leave_the_token_in_use_for_everyone_else(emulator, clock, client):
    """The session renews once; after that, the request is at fault. (P24)"""
    async with SubscriberSession(client, "alice") as session:
        address = emulator.add_address("lobby")
        await clock.advance(1)
        emulator.fail(Status(401), operation=INVITE, times=None)
        without = 0
        for _ in range(180):
            with pytest.raises((Unauthorized, TokenUnavailable)):
                await session.create_invite_token(address)
            without += session.state is SessionState.UNAVAILABLE
            await clock.advance(1)
        assert without == 0
        assert session.generation <= 5


async def test_a_401_during_a_throttle_leaves_the_token_in_use(emulator, clock, client):
    """No renewal could begin. (P24)"""
    async with SubscriberSession(client, "alice") as session, SessionFleet(client) as fleet:
        await fleet.token("bob")
        emulator.fail(Status(503, retry_after=30))
        with pytest.raises(ServerError):
            await client.create_subscriber_token("carol")
        for one in (session, fleet.session("bob")):
            token = await one.token()
            assert not one.report_unauthorized(token)
            assert await one.token() == token
        await clock.advance(40)
        assert session.report_unauthorized(await session.token())
