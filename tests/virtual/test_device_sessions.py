"""Sessions that renew with a device's key: against the service, over real sockets, in time that passes when told."""

import asyncio
import json
from contextlib import suppress
from datetime import timedelta

import aiohttp
import pytest

from signalwire_tokens import (
    ConfigurationError,
    ConnectionFailed,
    InvalidRequest,
    Lifetimes,
    RateLimited,
    RefreshPolicy,
    SessionClosed,
    SessionError,
    SessionExpired,
    SessionState,
    StoreError,
    TimedOut,
    TokenClient,
    TokenUnavailable,
    TransportError,
    Unauthorized,
    ValidationFailed,
)
from signalwire_tokens.device import DeviceKey, DeviceSession
from signalwire_tokens.emulator import EMPTY, HTML, Emulator, Raw, Reset, Status, Truncate
from signalwire_tokens.keeper import engine_of
from support.dpop_proofs import digest, open_proof
from support.gateway_client import call_in
from support.scripted_session import start_badly
from support.traceback_text import frames_shown

HOUR, LIFE = 3600.0, 900.0
EXCHANGE, REFRESH = "create_device_token", "refresh_device_token"
HUSH = "hush-hush"
KEY, OTHER = DeviceKey.generate(), DeviceKey.generate()


@pytest.fixture
async def emulator(clock):
    async with Emulator(clock=clock) as emulator:
        yield emulator


@pytest.fixture
async def mint(client):
    """The backend: it has a token issued for a key's fingerprint."""

    async def mint(key=KEY, **fields):
        fields = {"fingerprint": key.fingerprint, "scope": "sat:refresh", **fields}
        return (await client.create_subscriber_token("alice", **fields)).access_token

    return mint


@pytest.fixture
async def session(emulator, clock, mint):
    async with DeviceSession(emulator.space, await mint(), KEY, clock=clock) as session:
        yield session


class OffClock:
    """A clock whose wall shows another time."""

    def __init__(self, clock, ahead):
        self._clock, self.ahead = clock, ahead
        self.now, self.sleep, self.call_later = clock.now, clock.sleep, clock.call_later

    def wall(self):
        return self._clock.wall() + self.ahead


def operations(emulator, start=1):
    return [entry.operation for entry in emulator.requests][start:]


def reasons(emulator):
    return [entry.reason for entry in emulator.requests if entry.reason]


async def test_a_day_passes_and_every_token_is_accepted(emulator, clock, session):
    """With the key alone: the project's credentials are never sent."""
    for _ in range(24 * 12):
        await clock.advance(300)
        assert emulator.accepts(await session.token())
    assert operations(emulator)[0] == EXCHANGE
    assert set(operations(emulator)[1:]) == {REFRESH}
    assert {entry.auth for entry in emulator.requests[1:]} == {"Bearer"}
    assert 24 * HOUR / (0.8 * LIFE) - 1 <= session.generation <= 24 * HOUR / (0.6 * LIFE) + 1
    assert reasons(emulator) == []


async def test_the_service_knows_the_key_that_a_token_is_bound_to(client, session):
    """And so does whoever asks."""
    info = await client.subscriber_info(session.pair.access_token)
    assert info.sat_claims.fingerprint == session.key.fingerprint == KEY.fingerprint
    assert info.sat_claims.scope == ("sat:refresh",)
    assert session.pair.access_token is session.pair.refresh_token
    assert repr(session) == f"<DeviceSession of key #{KEY.fingerprint[:8]} fresh, generation 1>"


async def test_a_token_lives_for_as_long_as_was_asked(emulator, clock, mint):
    """In each generation."""
    hour = timedelta(hours=1)
    async with DeviceSession(emulator.space, await mint(), KEY, lifetime=hour, clock=clock) as session:
        assert session.expires_in == hour
        await clock.advance(0.85 * HOUR)
        assert session.generation == 2
        assert session.pair.access_token.expires_at - session.pair.access_token.issued_at == hour


async def test_a_token_that_is_bound_to_nothing_yet_is_bound_to_the_key(emulator, clock, mint):
    """Within its minute; from then on, it is nobody else's."""
    token = await mint(fingerprint=None)
    await clock.advance(59)
    async with DeviceSession(emulator.space, token.value, KEY, clock=clock) as session:
        assert emulator.accepts(await session.token())
    with pytest.raises(Unauthorized, match="bound to another key"):
        await DeviceSession(emulator.space, token, OTHER, clock=clock).start()


@pytest.mark.parametrize("ahead", [300, -300, 86400, -86400])
async def test_a_clock_that_is_off_is_corrected_by_the_service_s(emulator, clock, mint, ahead):
    """By one refused proof, and never again, also when it is set right in the end."""
    off = OffClock(clock, ahead)
    async with DeviceSession(emulator.space, await mint(), KEY, clock=off) as session:
        assert session.expires_in == timedelta(seconds=LIFE)
        for _ in range(40):
            await clock.advance(60)
            assert emulator.accepts(await session.token())
        assert reasons(emulator) == ["the proof's iat is over 60 s from the emulator's time: check the device's clock"]
        off.ahead = 0
        for _ in range(40):
            await clock.advance(60)
            assert emulator.accepts(await session.token())
        assert len(reasons(emulator)) == 1


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"key": OTHER}, "token is bound to another key"),
        ({"scope": None}, "token lacks the scope sat:refresh"),
        ({"scope": None, "fingerprint": None}, "token lacks the scope sat:refresh"),
    ],
    ids=["another key's", "lacks the scope", "neither"],
)
async def test_a_token_that_is_not_for_the_key_is_told_at_the_start(emulator, clock, mint, fields, says):
    """With what is wrong with it, and with what to do."""
    with pytest.raises(Unauthorized, match=says) as caught:
        await DeviceSession(emulator.space, await mint(**fields), KEY, clock=clock).start()
    assert f"issue one with scope='sat:refresh' and fingerprint='{KEY.fingerprint}'" in str(caught.value)
    assert [problem.attribute for problem in caught.value.errors] == ["token"]
    assert (caught.value.status, caught.value.operation) == (401, EXCHANGE)
    assert caught.value.request_id
    assert operations(emulator) == [EXCHANGE, EXCHANGE, "subscriber_info"]


async def test_a_token_that_has_expired_is_told_at_the_start(emulator, clock, mint):
    """Another one is needed."""
    token = await mint(fingerprint=None)
    await clock.advance(60)
    with pytest.raises(Unauthorized, match="token has expired, was revoked, or belongs to another space"):
        await DeviceSession(emulator.space, token, KEY, clock=clock).start()


async def test_a_proof_that_is_refused_for_no_known_reason_is_told_so(emulator, clock, mint):
    """The token is good, and nothing better can be said."""
    emulator.fail(Status(401), operation=EXCHANGE, times=2)
    with pytest.raises(Unauthorized, match="no fault of the token is known"):
        await DeviceSession(emulator.space, await mint(), KEY, clock=clock).start()
    emulator.fail(Status(401), operation=EXCHANGE, times=2)
    emulator.fail(Status(500), operation="subscriber_info")
    with pytest.raises(Unauthorized, match="no fault of the token is known"):
        await DeviceSession(emulator.space, await mint(), KEY, clock=clock).start()


async def test_a_refusal_by_mistake_is_tried_once_more(emulator, clock, mint):
    """With another proof."""
    emulator.fail(Status(401), operation=EXCHANGE)
    async with DeviceSession(emulator.space, await mint(), KEY, clock=clock):
        assert operations(emulator) == [EXCHANGE, EXCHANGE]


@pytest.mark.parametrize("fault", [Reset(applied=True), Truncate(), Status(500), Status(503), HTML, EMPTY], ids=repr)
@pytest.mark.parametrize("operation", [EXCHANGE, REFRESH])
async def test_a_lost_answer_is_asked_for_again_with_a_proof_of_its_own(emulator, clock, mint, fault, operation):
    """The token that was presented is good for as long as it lives."""
    emulator.fail(fault, operation=operation)
    session = DeviceSession(emulator.space, await mint(), KEY, clock=clock)
    starting = asyncio.create_task(session.start())
    await clock.advance(5)
    await starting
    await clock.advance(0.85 * LIFE)
    assert emulator.accepts(await session.token())
    assert session.generation == 2
    assert reasons(emulator) == []
    assert operations(emulator).count(operation) == 2
    await session.aclose()


@pytest.mark.parametrize("fault", [Status(429), Status(429, retry_after=2), Status(503, retry_after=2)], ids=repr)
async def test_a_refresh_that_was_turned_away_is_tried_again(emulator, clock, session, fault):
    """As soon as the service will hear it."""
    emulator.fail(fault, operation=REFRESH)
    await clock.advance(0.9 * LIFE)
    assert operations(emulator) == [EXCHANGE, REFRESH, REFRESH]
    assert session.last_error is None


async def test_an_outage_is_survived_within_the_token_s_life(emulator, clock, session):
    """And the token is used to its end."""
    async with emulator.unreachable():
        await clock.advance(0.95 * LIFE)
        assert isinstance(session.last_error, ConnectionFailed)
        assert emulator.accepts(await session.token())
    await clock.advance(0.04 * LIFE)
    assert session.generation == 2


async def test_a_first_token_that_is_still_good_is_exchanged_again_after_an_outage(emulator, clock, session):
    """The bound one has come to its end in the meantime."""
    async with emulator.unreachable():
        await clock.advance(LIFE + 60)
        assert session.state is SessionState.UNAVAILABLE
        call = asyncio.create_task(session.token())
        await clock.advance(10)
        assert isinstance(call.exception().cause, ConnectionFailed)
    await clock.advance(20)
    assert emulator.accepts(await session.token())
    assert operations(emulator) == [EXCHANGE, EXCHANGE]


async def test_a_suspended_night_ends_a_session_that_has_no_other_way(clock, session):
    """Neither token has lived to the morning. What is to be done is said."""
    clock.suspend(9 * HOUR)
    with pytest.raises(SessionExpired) as caught:
        await session.token()
    assert isinstance(caught.value.cause, Unauthorized)
    assert "has expired, was revoked" in str(caught.value.cause)
    assert session.state is SessionState.EXPIRED


async def test_refusals_by_mistake_do_not_end_a_session_whose_first_token_is_good(emulator, clock, session):
    """It is exchanged again."""
    emulator.fail(Status(401), operation=REFRESH, times=2)
    await clock.advance(0.85 * LIFE)
    assert operations(emulator) == [EXCHANGE, REFRESH, REFRESH, "subscriber_info", EXCHANGE]
    assert emulator.accepts(await session.token())


@pytest.mark.parametrize("body", [{"expires_in": 0}, {"expires_at": 1}], ids=str)
async def test_an_answer_with_a_dead_token_does_not_take_the_live_one(emulator, clock, session, body):
    """It is no answer: the same is asked once more."""
    emulator.fail(Raw(json.dumps({"token": "dead", **body}).encode()), operation=REFRESH)
    with pytest.raises(TokenUnavailable):
        await session.refresh()
    assert emulator.accepts(await session.token())
    await clock.advance(5)
    assert session.generation == 2
    assert emulator.accepts(await session.token())


async def test_a_refusal_that_tells_no_time_takes_nothing_from_what_is_known(emulator, clock, mint):
    """Proofs go on being in time by the service's clock, and so they do when this machine's is set."""
    off = OffClock(clock, 300)
    async with DeviceSession(emulator.space, await mint(), KEY, clock=off) as session:
        send = session.client.send

        def refuse_once(*_, **__):
            session.client.send = send
            raise Unauthorized("no", operation=REFRESH)  # a server of aiohttp's always tells the time

        session.client.send = refuse_once
        await session.refresh()
        off.ahead = -3600
        for proof in (session.proof("POST", "/x"), session.rpc_proof("signalwire.connect")):
            assert open_proof(proof)[1]["iat"] == pytest.approx(clock.wall(), abs=2)
        await clock.advance(0.85 * LIFE)
        assert session.generation == 3
    assert reasons(emulator) == ["the proof's iat is over 60 s from the emulator's time: check the device's clock"]


async def test_a_proof_of_the_session_s_names_its_token(session):
    """The one at hand."""
    _, claims = open_proof(session.proof("POST", "https://acme.signalwire.com/api/x?y"))
    assert (claims["htu"], claims["ath"]) == ("https://acme.signalwire.com/api/x", digest(await session.token()))


async def test_a_function_s_own_errors_keep_their_meaning(emulator, clock, mint):
    """One that will pass is waited for; of one that will not, the session does not die."""
    errors = [TokenUnavailable("not now"), StoreError("not now")]

    async def bring():
        if errors:
            raise errors.pop()
        return await mint()

    session = DeviceSession(emulator.space, bring, KEY, clock=clock)
    starting = asyncio.create_task(session.start())
    await clock.advance(9)
    await starting
    errors.append(ValidationFailed("no such subscriber"))
    clock.suspend(HOUR)
    with pytest.raises(TokenUnavailable) as caught:
        await session.token()
    assert isinstance(caught.value.cause, ValidationFailed)
    await clock.advance(30)
    assert emulator.accepts(await session.token())
    await session.aclose()


async def test_a_function_that_will_not_end_does_not_stop_the_session(emulator, clock, mint):
    """It is not asked again beside itself, and what it answers in the end is taken."""
    asked, ends = [], asyncio.Event()

    async def bring():
        asked.append(1)
        while len(asked) == 1 and not ends.is_set():
            with suppress(asyncio.CancelledError):
                await ends.wait()
        return await mint()

    patient = RefreshPolicy(wait_timeout=600)
    session = DeviceSession(emulator.space, bring, KEY, clock=clock, timeout=0.5, policy=patient)
    starting = asyncio.create_task(session.start())
    while (failing := engine_of(session).cycle.failing) is None or failing.count < 3:
        await clock.advance(1)
    assert len(asked) == 1
    ends.set()
    await clock.advance(15)
    await starting
    assert len(asked) == 1
    await session.aclose()


async def test_a_function_that_is_cancelled_from_within_is_asked_again(emulator, clock, mint):
    """That is a failure of its own."""
    asked = []

    async def bring():
        asked.append(1)
        if len(asked) == 1:
            raise asyncio.CancelledError
        return await mint()

    session = DeviceSession(emulator.space, bring, KEY, clock=clock)
    starting = await start_badly(session, clock)
    assert "the token function was cancelled from inside" in str(session.last_error)
    await clock.advance(5)
    await starting
    await session.aclose()


async def test_a_session_is_not_closed_from_another_loop(emulator, session):
    """Nor are its connections."""
    with pytest.raises(SessionError, match="event loop"):
        await asyncio.to_thread(asyncio.run, session.aclose())
    await session.refresh()
    assert emulator.accepts(await session.token())


async def test_a_function_brings_a_token_after_a_suspended_night(emulator, clock, mint):
    """And after an outage, however long."""
    async with DeviceSession(emulator.space, mint, KEY, clock=clock) as session:
        clock.suspend(9 * HOUR)
        assert session.state is SessionState.UNAVAILABLE
        assert emulator.accepts(await session.token())
        async with emulator.unreachable():
            await clock.advance(HOUR)
            assert session.state is SessionState.UNAVAILABLE
        await clock.advance(20)
        assert emulator.accepts(await session.token())
    assert operations(emulator, 0).count(EXCHANGE) == 3


async def test_tokens_that_are_withdrawn_end_a_session(emulator, clock, mint):
    """Once the one at hand has come to its end: until then, there is time to see whether it is so."""
    first = await mint()
    async with DeviceSession(emulator.space, first, KEY, clock=clock) as session:
        emulator.revoke(first)
        emulator.revoke(session.pair.access_token)
        with pytest.raises(TokenUnavailable) as caught:
            await session.refresh()
        assert caught.value.retry_after is not None, "the other way is left"
        await clock.advance(0.9 * LIFE)
        tried = [REFRESH, REFRESH, "subscriber_info", EXCHANGE, EXCHANGE, "subscriber_info"]
        assert operations(emulator)[:7] == [EXCHANGE, *tried]
        assert len(operations(emulator)) <= 7 + 3 * 12, "and again, but not often"
        assert session.state is SessionState.DUE
        await clock.advance(0.2 * LIFE)
        assert session.state is SessionState.EXPIRED
        with pytest.raises(SessionExpired) as caught:
            await session.token()
        assert isinstance(caught.value.cause, Unauthorized)
        assert "has expired, was revoked" in str(caught.value.cause)


@pytest.mark.parametrize("info", [True, False], ids=["of all", "but not of information"])
async def test_a_service_that_refuses_everything_for_a_while_ends_no_session(emulator, clock, session, info):
    """As long as a token lives, there is time to see; and then the first one is exchanged."""
    heard = []
    session.subscribe(lambda event: heard.append(event.kind))
    for operation in (EXCHANGE, REFRESH, *(["subscriber_info"] if info else [])):
        emulator.fail(Status(401), operation=operation, times=None)
    await clock.advance(0.85 * LIFE)
    assert isinstance(session.last_error, Unauthorized)
    assert len(operations(emulator)) <= 40
    emulator.clear_faults()
    await clock.advance(0.14 * LIFE)
    assert emulator.accepts(await session.token())
    assert session.last_error is None
    await clock.advance(0)
    assert heard == ["degraded", "reissued", "recovered"]


async def test_a_clock_that_is_set_wrong_later_does_no_harm(emulator, clock, mint):
    """Once a proof was in time, so are the others."""
    off = OffClock(clock, 0)
    async with DeviceSession(emulator.space, await mint(), KEY, clock=off) as session:
        off.ahead = -300
        assert open_proof(session.rpc_proof("x"))[1]["iat"] == pytest.approx(clock.wall(), abs=2)
        await clock.advance(0.85 * LIFE)
        assert session.generation == 2
    assert reasons(emulator) == []


async def test_a_service_that_asks_for_quiet_while_it_is_asked_what_is_wrong_is_given_it(emulator, clock, session):
    """Whatever it was asked."""
    emulator.fail(Status(401), operation=REFRESH, times=2)
    emulator.fail(Status(429, retry_after=60), operation="subscriber_info")
    with pytest.raises(TokenUnavailable) as caught:
        await session.refresh()
    assert isinstance(caught.value.cause, RateLimited)
    await clock.advance(59)
    assert operations(emulator) == [EXCHANGE, REFRESH, REFRESH, "subscriber_info"]
    await clock.advance(0.9 * LIFE)
    assert emulator.accepts(await session.token())


async def test_a_token_that_is_withdrawn_is_followed_by_another(emulator, clock, mint):
    """Where a function brings one."""
    async with DeviceSession(emulator.space, mint, KEY, clock=clock) as session:
        withdrawn = session.pair.access_token
        await clock.advance(1)
        emulator.revoke(withdrawn)
        session.invalidate(withdrawn)
        token = asyncio.create_task(session.token())
        await clock.advance(5)
        assert emulator.accepts(await token)


@pytest.mark.parametrize("status", [401, 422])
async def test_a_bound_token_that_a_code_refuses_is_exchanged_again(emulator, clock, session, status):
    """The first token is still valid."""
    await clock.advance(1)
    emulator.fail(Status(status, code="token_invalid"), operation=REFRESH, times=2)
    with pytest.raises(TokenUnavailable):
        await session.refresh()
    await clock.advance(5)
    assert operations(emulator)[1:] == [REFRESH, REFRESH, EXCHANGE]
    assert emulator.accepts(await session.token())


@pytest.mark.parametrize("status", [401, 422])
async def test_a_first_token_that_a_code_refuses_is_named_at_the_start(emulator, clock, mint, status):
    """Nothing else needs to be asked."""
    emulator.fail(Status(status, code="token_expired"), operation=EXCHANGE, times=2)
    with pytest.raises(Unauthorized, match="token_expired") as caught:
        await DeviceSession(emulator.space, await mint(), KEY, clock=clock).start()
    assert caught.value.status == status
    assert operations(emulator) == [EXCHANGE, EXCHANGE]


async def test_a_function_that_brings_the_wrong_token_is_asked_again(emulator, clock, mint):
    """It is the backend that is at fault, and may be mended: the session does not die of it."""
    right = {"scope": "sat:refresh"}

    async def bring():
        return await mint(**right)

    async with DeviceSession(emulator.space, bring, KEY, clock=clock) as session:
        right["scope"] = None
        clock.suspend(HOUR)
        with pytest.raises(TokenUnavailable) as caught:
            await session.token()
        assert "lacks the scope" in str(caught.value.cause)
        right["scope"] = "sat:refresh"
        await clock.advance(30)
        assert emulator.accepts(await session.token())


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_function_may_answer_a_string_or_a_token(emulator, clock, mint, is_async):
    """Sync or async."""
    token = await mint()

    async def later():
        await asyncio.sleep(0)
        return token

    async with DeviceSession(emulator.space, later if is_async else lambda: token.value, KEY, clock=clock) as session:
        assert emulator.accepts(await session.token())


async def test_a_function_that_raises_is_asked_again(emulator, clock, mint):
    """It is told by the kind of its error; what that says stands in the chain alone."""
    errors = [RuntimeError(HUSH), TimeoutError(HUSH)]

    async def bring():
        if errors:
            raise errors.pop()
        return await mint()

    session = DeviceSession(emulator.space, bring, KEY, clock=clock)
    starting = await start_badly(session, clock)
    assert isinstance(session.last_error, TransportError)
    assert "the token function raised TimeoutError" in str(session.last_error)
    assert HUSH not in str(session.last_error)
    assert isinstance(session.last_error.__cause__, TimeoutError)
    await clock.advance(9)
    await starting
    assert emulator.accepts(await session.token())
    await session.aclose()


async def test_a_function_that_hangs_is_given_up(emulator, clock):
    """In the time that a request gets."""
    session = DeviceSession(emulator.space, asyncio.Event().wait, KEY, clock=clock, timeout=0.05)
    starting = await start_badly(session, clock)
    assert isinstance(session.last_error, TimedOut)
    await clock.advance(11)
    assert isinstance(starting.exception(), TokenUnavailable)


@pytest.mark.parametrize("answer", [None, 7, "", "a b"], ids=repr)
async def test_a_function_that_answers_nonsense_is_told(emulator, clock, answer):
    """It will do so again."""
    with pytest.raises(InvalidRequest, match="token"):
        await DeviceSession(emulator.space, lambda: answer, KEY, clock=clock).start()
    assert emulator.requests == []


async def test_a_lifetime_that_the_service_refuses_is_told(emulator, clock, mint):
    """What its limit is, only the service knows."""
    with pytest.raises(ValidationFailed, match="expire_in"):
        await DeviceSession(emulator.space, await mint(), KEY, lifetime=timedelta(days=3652), clock=clock).start()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"token": ""}, InvalidRequest, "token"),
        ({"token": None}, InvalidRequest, "token"),
        ({"token": f"{HUSH} x"}, InvalidRequest, "token"),
        ({"space": "a b"}, InvalidRequest, "space"),
        ({"space": "http://acme.signalwire.com"}, InvalidRequest, "https"),
        ({"key": HUSH}, ConfigurationError, r"DeviceKey\.generate"),
        ({"lifetime": 1.5}, InvalidRequest, "timedelta"),
        ({"lifetime": timedelta(seconds=40.5)}, InvalidRequest, "lifetime"),
        ({"lifetime": timedelta(seconds=20)}, ConfigurationError, "min_lifetime"),
        ({"proxy": f"ftp://me:{HUSH}@proxy"}, ConfigurationError, "proxy"),
        ({"store": 5}, TypeError, "DeviceSession got an unexpected keyword argument 'store'"),
    ],
    ids=str,
)
async def test_wrong_arguments_are_refused_when_the_session_is_made(arguments, error, match):
    """Without showing a secret."""
    with pytest.raises(error, match=match) as caught:
        DeviceSession(**{"space": "acme", "token": HUSH, "key": KEY, **arguments})
    assert HUSH not in frames_shown(caught.value)


async def test_a_refresh_token_is_no_access_token(client, emulator):
    """The halves of a pair are told apart."""
    pair = await client.create_subscriber_token("alice")
    with pytest.raises(InvalidRequest, match="access token"):
        DeviceSession(emulator.space, pair.refresh_token, KEY)


async def test_what_a_session_has_is_shown_nowhere(emulator, clock, mint, caplog):
    """Neither a token nor a proof nor the key: in no log, error or frame."""
    caplog.set_level("DEBUG")
    token = await mint()
    session = DeviceSession(emulator.space, token.value, KEY, clock=clock)
    sent = []
    handle = emulator.service.handle
    emulator.service.handle = lambda call: sent.append(call) or handle(call)
    echo = Raw(json.dumps({"errors": [{"message": f"{token.value}"}]}).encode(), status=422)
    emulator.fail(echo, operation=EXCHANGE)
    with pytest.raises(ValidationFailed) as caught:
        await session.start()
    assert "eyJ" not in frames_shown(caught.value)
    async with DeviceSession(emulator.space, token.value, KEY, clock=clock) as session:
        emulator.fail(Status(401), operation=REFRESH, times=2)
        with pytest.raises(TokenUnavailable) as caught:
            await session.refresh()
        assert "eyJ" not in frames_shown(caught.value)
        assert "eyJ" not in repr(session.pair)
    assert "eyJ" not in caplog.text
    assert any(b"dpop_token" in call.body for call in sent)
    assert not any(call.authorization.startswith("Basic") for call in sent)


async def test_a_session_closes_what_it_has_opened(emulator, clock, mint):
    """Its connections, also where it could not start; and it gives no token then."""
    async with DeviceSession(emulator.space, await mint(), KEY, clock=clock) as session:
        assert session.client.sender.leaks
    assert not session.client.sender.leaks
    with pytest.raises(SessionClosed):
        await session.token()
    failed = DeviceSession(emulator.space, await mint(OTHER), KEY, clock=clock)
    with pytest.raises(Unauthorized):
        await failed.start()
    assert not failed.client.sender.leaks


async def test_a_caller_s_http_session_is_used_and_not_closed(emulator, clock, mint):
    """As a client does."""
    async with aiohttp.ClientSession() as http:
        async with DeviceSession(emulator.space, await mint(), KEY, clock=clock, http_session=http):
            pass
        assert not http.closed


async def test_a_connection_is_kept_with_proofs_of_the_session_s(clock, mint, emulator):
    """Over the realtime gateway: each token takes its predecessor's place, whatever this machine's clock says."""
    off = OffClock(clock, 300)
    async with (
        DeviceSession(emulator.space, await mint(), KEY, clock=off) as session,
        call_in(emulator) as caller,
    ):

        def proof(method):
            return session.rpc_proof(f"signalwire.{method}")

        answer = await caller.connect(await session.token(), dpop_token=proof("connect"))
        assert answer["result"]["authorization"]["cnf"] == {"jkt": KEY.fingerprint}
        while session.generation == 1:
            await clock.advance(10)
            await caller.settle()
        answer = await caller.reauthenticate(await session.token(), dpop_token=proof("reauthenticate"))
        assert answer["result"]["authorization"]["cnf"] == {"jkt": KEY.fingerprint}
        assert emulator.connections[0].reauthenticated == 1
        assert emulator.connections[0].expires_at.timestamp() == pytest.approx(clock.wall() + LIFE, abs=20)
        refused = await caller.reauthenticate(await session.token())
        assert refused["error"]["code"] == -32002
    assert reasons(emulator)[-1] == "the token is bound to a key: send a proof with it"


async def test_a_short_life_is_kept_where_the_policy_allows_it(emulator, clock, mint):
    """Some thirty tokens, of ten seconds each."""
    settings = {"lifetime": timedelta(seconds=10), "policy": RefreshPolicy(min_lifetime=5), "clock": clock}
    async with DeviceSession(emulator.space, await mint(), KEY, **settings) as session:
        for _ in range(240):
            await clock.advance(1)
            assert emulator.accepts(await session.token())


async def test_a_guest_s_token_is_not_for_devices(clock, emulator, client):
    """What the service says is told."""
    guest = await client.create_guest_token([emulator.add_address("lobby")])
    session = DeviceSession(emulator.space, guest.access_token, KEY, clock=clock)
    with pytest.raises(Exception, match="403"):
        await session.start()


async def test_a_device_needs_a_token_of_its_own_space(clock, mint):
    """Another space does not know it."""
    async with Emulator(clock=clock, lifetimes=Lifetimes()) as other, TokenClient(other.space) as client:
        assert client.project_id is None
        with pytest.raises(Unauthorized, match="belongs to another space"):
            await DeviceSession(other.space, await mint(), KEY, clock=clock).start()


async def test_a_device_session_makes_its_own_client():
    """The error for a client in place of the space says what to pass."""
    async with TokenClient("acme") as client:
        with pytest.raises(ConfigurationError, match="makes its own client: pass the space, such as 'acme', as space"):
            DeviceSession(client, "a token", KEY)
