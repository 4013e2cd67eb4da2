"""Subscribers' sessions against the service: over real sockets, in time that passes when told."""

import asyncio
import json
import traceback
from datetime import timedelta
from uuid import UUID

import pytest

from signalwire_tokens import (
    ApiError,
    ConfigurationError,
    ConnectionFailed,
    Forbidden,
    InvalidRequest,
    Lifetimes,
    MemoryStore,
    NotFound,
    Problem,
    RateLimited,
    RefreshPolicy,
    ServerError,
    SessionClosed,
    SessionError,
    SessionExpired,
    SessionState,
    SignalWireTokenError,
    SubscriberSession,
    TemporarilyRefused,
    TimedOut,
    TokenClient,
    TokenUnavailable,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
)
from signalwire_tokens.clock import SYSTEM, VirtualClock
from signalwire_tokens.emulator import EMPTY, HTML, ROTATIONS, Emulator, Raw, Redirect, Reset, Status, Truncate
from signalwire_tokens.keeper import engine_of, failure_of
from signalwire_tokens.models import TokenPair
from signalwire_tokens.outcomes import (
    Ambiguous,
    Denied,
    IssueNew,
    Misconfigured,
    NotSent,
    Spent,
    Throttled,
    UseRefreshToken,
)
from support.loop_time import LoopClock
from support.waiting import eventually
from support.wire_samples import REFRESH as REFRESH_TOKEN
from support.wire_samples import SAT

HOUR, LIFE = 3600.0, 7200.0
SECONDS = timedelta(seconds=40)
ISSUE, REFRESH = "create_subscriber_token", "refresh_subscriber_token"


@pytest.fixture
async def emulator(clock, request):
    async with Emulator(clock=clock, rotation=getattr(request, "param", "single-use")) as emulator:
        yield emulator


@pytest.fixture
async def session(client):
    async with SubscriberSession(client, "alice@example.com") as session:
        yield session


def operations(emulator):
    return [entry.operation for entry in emulator.requests]


@pytest.mark.parametrize("emulator", [*ROTATIONS], indirect=True)
async def test_a_day_passes_and_every_token_is_accepted(emulator, clock, session):
    """Whatever the service does with used refresh tokens. (P1)"""
    for _ in range(24 * 4):
        await clock.advance(15 * 60)
        assert emulator.accepts(await session.token())
    assert operations(emulator)[0] == ISSUE
    assert set(operations(emulator)[1:]) == {REFRESH}
    assert session.pair.subscriber_id is not None


@pytest.mark.parametrize("emulator", [*ROTATIONS], indirect=True)
@pytest.mark.parametrize("fault", [Reset(applied=True), Truncate(), Status(500), Status(503), HTML, EMPTY], ids=repr)
async def test_a_lost_answer_is_followed_by_a_new_issue(emulator, clock, session, fault):
    """The refresh token may be used up: it is never sent again, and no line is revoked. (P20)"""
    emulator.fail(fault, operation=REFRESH)
    await clock.advance(LIFE)
    assert operations(emulator) == [ISSUE, REFRESH, ISSUE]
    assert emulator.accepts(await session.token())
    assert emulator.accepts(session.pair.refresh_token)


@pytest.mark.parametrize("operation", [ISSUE, REFRESH])
async def test_a_pair_that_comes_swapped_is_not_served(emulator, clock, client, operation):
    """A session that gets its refresh token in place of its access token asks for another pair. (P11)"""
    swapped = Raw(json.dumps({"token": REFRESH_TOKEN, "refresh_token": SAT}).encode(), status=201)
    emulator.fail(swapped, operation=operation)
    session = SubscriberSession(client, "alice")
    starting = asyncio.ensure_future(session.start())
    await eventually(starting.done, clock)
    await starting
    await clock.advance(LIFE)
    assert session.pair.access_token.kind == "SAT"
    assert emulator.accepts(await session.token())
    await session.aclose()


@pytest.mark.parametrize("fault", [Status(429), Status(429, retry_after=2), Status(503, retry_after=2)], ids=repr)
async def test_a_refresh_that_was_turned_away_is_tried_again(emulator, clock, session, fault):
    """Nothing was done with its refresh token."""
    emulator.fail(fault, operation=REFRESH)
    await clock.advance(LIFE)
    assert operations(emulator) == [ISSUE, REFRESH, REFRESH]
    assert emulator.accepts(await session.token())


async def test_a_refused_connection_leaves_the_refresh_token_good(emulator, clock, session):
    """It is sent again when there is somebody to take it."""
    async with emulator.unreachable():
        await clock.advance(0.85 * LIFE)
        assert isinstance(session.last_error, ConnectionFailed)
        assert await session.token() == session.pair.access_token.value
    await clock.advance(120)
    assert operations(emulator) == [ISSUE, REFRESH]
    assert session.last_error is None


@pytest.mark.parametrize("emulator", [*ROTATIONS], indirect=True)
async def test_without_a_reissue_a_lost_answer_is_asked_for_again(emulator, clock, client, request):
    """Within a second, where the service may still forgive it; where it does not, the token lives to its end."""
    mode = request.node.callspec.params["emulator"]
    async with SubscriberSession(client, "alice", reissue=False) as session:
        emulator.fail(Reset(applied=True), operation=REFRESH)
        await clock.advance(0.95 * LIFE)
        assert operations(emulator)[:3] == [ISSUE, REFRESH, REFRESH]
        assert emulator.accepts(await session.token())
        await clock.advance(0.2 * LIFE)
        assert (session.state is SessionState.EXPIRED) == (mode in ("single-use", "family"))


async def test_a_suspended_night_is_followed_by_a_live_token(emulator, clock, session):
    """For the first who asks. (P27)"""
    clock.suspend(9 * HOUR)
    assert session.state is SessionState.UNAVAILABLE
    assert emulator.accepts(await session.token())
    assert operations(emulator) == [ISSUE, ISSUE]


async def test_after_an_outage_of_three_hours_there_is_a_live_token_as_soon_as_the_service_is_back(
    emulator, clock, session
):
    """And before, callers are told within ten seconds that there is none."""
    async with emulator.unreachable():
        await clock.advance(3 * HOUR)
        for _ in range(3):
            before = clock.now()
            call = asyncio.create_task(session.token())
            await clock.advance(10)
            assert isinstance(call.exception(), TokenUnavailable)
            assert clock.now() - before <= 10
    await clock.advance(1)
    assert emulator.accepts(await session.token())
    assert session.state is SessionState.FRESH


async def test_a_password_and_a_profile_are_sent_with_the_first_issue_only(emulator, clock, client):
    """What shapes the token is sent with each."""
    fields = {"first_name": "Alice", "password": "hush", "region": "us-central", "extra": {"new_field": 1}}
    fields |= {"application_id": "0193c9a8-0c55-7d7e-8a3e-2f1f0a9be001", "lifetime": timedelta(minutes=10)}
    sent = []
    emulator.strict = False  # for the new field
    service = emulator.service.handle
    emulator.service.handle = lambda call: sent.append(call.body) or service(call)
    async with SubscriberSession(client, "alice", **fields) as session:
        emulator.fail(Status(500), operation=ISSUE)
        await clock.advance(HOUR)
        assert b"hush" in sent[0]
        assert b"first_name" in sent[0]
        for body in sent:
            for name in (b"region", b"application_id", b"new_field", b"expire_at"):
                assert name in body
        assert not any(b"hush" in body or b"first_name" in body for body in sent[1:])
        assert set(operations(emulator)) == {ISSUE}
        assert session.expires_in <= timedelta(minutes=10)


async def test_the_first_issue_is_sent_whole_until_it_succeeds(emulator, clock, client):
    """Nobody knows whether the one that failed was taken in."""
    emulator.fail(Status(500), operation=ISSUE)
    session = SubscriberSession(client, "alice", first_name="Alice")
    starting = asyncio.create_task(session.start())
    await clock.advance(5)
    await starting
    info = await client.subscriber_info(session.pair.access_token)
    assert info.first_name == "Alice"
    await session.aclose()


async def test_a_minute_s_tokens_rotate_for_ten_minutes_without_a_gap(emulator, clock, client):
    """As the scope `sat:refresh` alone gives them."""
    async with SubscriberSession(client, "alice", scope="sat:refresh") as session:
        for _ in range(600):
            await clock.advance(1)
            assert emulator.accepts(await session.token())
    assert 600 / 48 - 1 <= session.generation <= 600 / 36 + 1


@pytest.mark.parametrize(
    "settings", [{"lifetime": timedelta(seconds=29)}, {"policy": RefreshPolicy(min_lifetime=7201)}]
)
async def test_a_life_too_short_is_refused(emulator, client, settings):
    """Before anything is asked, and with the number to lower."""
    with pytest.raises(ConfigurationError, match=r"too short for a session.*min_lifetime"):
        SubscriberSession(client, "alice", **settings)
    assert emulator.requests == []


async def test_a_minute_s_token_is_too_short_for_a_policy_that_wants_more(client):
    """The scope is known to give no more."""
    with pytest.raises(ConfigurationError, match="a token lifetime of 1 min is too short"):
        SubscriberSession(client, "alice", scope="sat:refresh", policy=RefreshPolicy(min_lifetime=61))
    assert SubscriberSession(
        client, "alice", scope="sat:refresh", fingerprint="x" * 43, policy=RefreshPolicy(min_lifetime=61)
    )


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"reference": ""}, InvalidRequest, "reference"),
        ({"reference": 7}, InvalidRequest, "reference"),
        ({"application_id": "x", "fingerprint": "y"}, InvalidRequest, "application_id.*fingerprint"),
        ({"lifetime": "600"}, ConfigurationError, "seconds or a timedelta, more than 0: got str"),
        (
            {"lifetime": timedelta(hours=1), "reissue": False},
            ConfigurationError,
            "or reissue=False",
        ),
        ({"expire_at": 1}, TypeError, "unexpected keyword argument 'expire_at'"),
        ({"passwort": "hush"}, TypeError, "unexpected keyword argument 'passwort'"),
    ],
)
async def test_wrong_arguments_are_refused_when_the_session_is_made(emulator, client, arguments, error, match):
    """All at once, and without showing a secret."""
    with pytest.raises(error, match=match) as caught:
        SubscriberSession(client, **{"reference": "alice", "password": "hush", **arguments})
    assert "hush" not in "".join(traceback.format_exception(caught.value, chain=True)[-1:])
    assert emulator.requests == []


async def test_a_pair_from_elsewhere_is_kept_alive(emulator, clock, client):
    """By its refresh token, as long as that is taken; and from what it has left, not from now."""
    pair = await client.create_subscriber_token("alice")
    await clock.advance(HOUR)
    async with SubscriberSession.from_pair(client, pair) as session:
        assert session.expires_in == timedelta(hours=1)
        for _ in range(24):
            await clock.advance(HOUR)
            assert emulator.accepts(await session.token())
        assert session.pair.subscriber_id == pair.subscriber_id
        assert str(pair.subscriber_id) in repr(session)
    assert set(operations(emulator)[1:]) == {REFRESH}


@pytest.mark.parametrize("store", [None, MemoryStore()], ids=["alone", "with a store"])
async def test_a_given_pair_is_the_session_s_once_it_is_open(client, store):
    """Before, and after closing a session that was never opened, there is none."""
    pair = await client.create_subscriber_token("alice")
    session = SubscriberSession.from_pair(client, pair, store=store)
    for _ in range(2):
        with pytest.raises(SessionClosed, match="no pair yet"):
            _ = session.pair
        await session.aclose()


async def test_a_guest_s_pair_is_kept_alive_too(emulator, clock, client):
    """It has no reference, and so cannot be issued anew: a refusal is the end, when the token has come to its own."""
    guest = await client.create_guest_token([emulator.add_address("lobby")])
    async with SubscriberSession.from_pair(client, guest) as session:
        assert repr(session).startswith("<SubscriberSession of a pair from elsewhere fresh")
        await clock.advance(LIFE)
        assert emulator.accepts(await session.token())
        emulator.fail(Status(422), operation=REFRESH)
        await clock.advance(LIFE)
        with pytest.raises(SessionExpired) as caught:
            await session.token()
        assert isinstance(caught.value.cause, ValidationFailed)


async def test_a_pair_whose_refresh_token_still_lives_is_renewed_at_the_start(emulator, clock, client):
    """It has five minutes."""
    pair = await client.create_subscriber_token("alice")
    await clock.advance(LIFE + 200)
    async with SubscriberSession.from_pair(client, pair) as session:
        assert emulator.accepts(await session.token())


async def test_a_dead_pair_is_told_at_the_start(emulator, clock, client):
    """Nothing can be done with it, and nothing is asked."""
    pair = await client.create_subscriber_token("alice")
    await clock.advance(LIFE + 301)
    session = SubscriberSession.from_pair(client, pair)
    with pytest.raises(SessionExpired, match="can't be renewed"):
        await session.start()
    assert operations(emulator) == [ISSUE]


async def test_swapped_halves_are_refused(client):
    """Both are named."""
    pair = await client.create_subscriber_token("alice")
    swapped = TokenPair(access_token=pair.refresh_token, refresh_token=pair.access_token)
    with pytest.raises(InvalidRequest) as caught:
        SubscriberSession.from_pair(client, swapped)
    assert [problem.attribute for problem in caught.value.problems] == ["access_token", "refresh_token"]
    assert "must be a SAT token, not Refresh" in str(caught.value)


async def test_a_pair_from_a_clock_that_runs_ahead_is_taken_for_new(emulator, clock, client):
    """It is given no more life than its own."""
    pair = await client.create_subscriber_token("alice")
    clock.set_wall(clock.wall() - HOUR)
    async with SubscriberSession.from_pair(client, pair) as session:
        assert session.expires_in == timedelta(seconds=LIFE)


async def test_a_start_with_wrong_credentials_raises_what_the_service_said(emulator, client):
    """At once."""
    emulator.rotate_api_token()
    with pytest.raises(Unauthorized):
        await SubscriberSession(client, "alice").start()
    assert len(emulator.requests) == 1


async def test_a_client_without_credentials_is_told_at_the_start(emulator):
    """What is missing."""
    from signalwire_tokens import TokenClient  # noqa: PLC0415 - used here only

    async with TokenClient(emulator.space) as client:
        with pytest.raises(ConfigurationError, match="project_id"):
            await SubscriberSession(client, "alice").start()


async def test_a_quiet_that_one_session_was_asked_for_holds_for_all_of_its_client(emulator, clock, client):
    """SignalWire counts the requests of all."""
    policy = RefreshPolicy(refresh_to=0.7)
    async with SubscriberSession(client, "alice") as alice, SubscriberSession(client, "bob", policy=policy) as bob:
        await clock.advance(4000)
        emulator.fail(Status(429, retry_after=3000))
        with pytest.raises(TokenUnavailable) as caught:
            await alice.refresh()
        assert isinstance(caught.value.cause, RateLimited)
        # Both give SignalWire half of what is left of their tokens. Bob is due before 5040 s.
        await clock.advance(1590)
        assert operations(emulator) == [ISSUE, ISSUE, REFRESH]
        await clock.advance(610)
        assert (alice.generation, bob.generation) == (2, 2)
        assert operations(emulator) == [ISSUE, ISSUE, REFRESH, REFRESH, REFRESH]


def quiet_of(session):
    """Return until when a session leaves SignalWire alone."""
    return engine_of(session).gate.throttle_period(engine_of(session))[1]


async def test_a_quiet_is_told_between_sessions_of_different_clocks(emulator, clock, client):
    """Each reckons it by its own."""
    other = VirtualClock()
    await other.advance(1_000_000)
    async with SubscriberSession(client, "alice") as alice, SubscriberSession(client, "bob", clock=other) as bob:
        for first, second in ((alice, bob), (bob, alice)):
            emulator.fail(Status(429, retry_after=5900))
            with pytest.raises(TokenUnavailable):
                await first.refresh()
            assert quiet_of(second) - engine_of(second).now() == pytest.approx(5900)
            await clock.advance(5901)
            await other.advance(5901)


async def test_a_dead_pair_from_elsewhere_with_wrong_credentials_raises_what_the_service_said(emulator, clock, client):
    """Somebody has to mend them, and trying again does not help."""
    pair = await client.create_subscriber_token("alice")
    await clock.advance(LIFE + 100)
    emulator.rotate_api_token()
    with pytest.raises(Unauthorized):
        await SubscriberSession.from_pair(client, pair).start()


async def test_an_invitation_is_made_in_the_subscriber_s_name(emulator, session):
    """With the session's own token."""
    info = await session.client.subscriber_info(await session.token())
    invite = await session.create_invite_token(info.fabric_addresses[0].id, expires_at=timedelta(minutes=5))
    assert emulator.accepts(invite)
    assert emulator.requests[-1].auth == "Bearer"


async def test_an_invitation_that_is_refused_for_its_token_is_made_with_a_new_one(emulator, clock, session):
    """Once."""
    address = emulator.add_address("lobby")
    await clock.advance(1)
    emulator.fail(Status(401), operation="create_invite_token")
    assert emulator.accepts(await session.create_invite_token(address))
    assert operations(emulator) == [ISSUE, "create_invite_token", REFRESH, "create_invite_token"]
    await clock.advance(120)
    emulator.fail(Status(401), operation="create_invite_token", times=2)
    with pytest.raises(Unauthorized):
        await session.create_invite_token(address)


@pytest.mark.parametrize("attribute", [{}, {"attribute": None}], ids=["absent", "null"])
@pytest.mark.parametrize("code", ["token_expired", "token_invalid"])
async def test_an_invitation_whose_token_a_code_names_is_made_with_a_new_one(emulator, clock, session, code, attribute):
    """The code decides, whatever the status."""
    address = emulator.add_address("lobby")
    await clock.advance(1)
    body = json.dumps({"errors": [{"code": code, "message": "no", **attribute}]}).encode()
    emulator.fail(Raw(body, status=422), operation="create_invite_token")
    assert emulator.accepts(await session.create_invite_token(address))
    assert operations(emulator) == [ISSUE, "create_invite_token", REFRESH, "create_invite_token"]


@pytest.mark.parametrize(
    "answer", [(400, None), (403, None), (404, None), (429, None), (429, 9), (500, None), (503, 9)]
)
@pytest.mark.parametrize("code", ["token_expired", "token_invalid", "not_a_refresh_token"])
async def test_a_refresh_token_that_a_code_refuses_is_replaced_at_once(emulator, clock, session, code, answer):
    """The session never presents it again, and issues a new pair without a pause. (P3)"""
    status, retry_after = answer
    emulator.fail(Status(status, code=code, retry_after=retry_after), operation=REFRESH)
    await clock.advance(LIFE * 0.8 + 1)
    assert operations(emulator) == [ISSUE, REFRESH, ISSUE]
    assert session.last_error is None


async def test_an_emulator_that_is_advanced_looks_like_a_suspended_machine():
    """The session of its client notices with the next call."""
    async with Emulator() as emulator, emulator.client() as client, SubscriberSession(client, "alice") as session:
        emulator.advance(9 * HOUR)
        assert session.state is SessionState.UNAVAILABLE
        assert emulator.accepts(await session.token())


async def test_a_clock_of_its_own_can_be_given(emulator, client):
    """In place of the client's."""
    async with SubscriberSession(client, "alice", clock=SYSTEM) as session:
        assert engine_of(session).clock is SYSTEM


async def test_short_lives_rotate():
    """Tokens that live a fraction of a second keep rotating."""
    life = timedelta(seconds=0.25)
    lifetimes = Lifetimes(access=life, refresh=1.5 * life, unbound=life)
    async with (
        Emulator(lifetimes=lifetimes, clock=LoopClock()) as emulator,
        emulator.client() as client,
        SubscriberSession(client, "alice", policy=RefreshPolicy(min_lifetime=0.1)) as session,
    ):
        async for pair in session.rotations():
            assert emulator.accepts(pair.access_token)
            if session.generation == 4:
                break
    assert {entry.status for entry in emulator.requests} == {200, 201}


async def test_a_session_of_another_loop_says_so(emulator, session):
    """Instead of breaking in the middle of things."""
    engine_of(session).cycle.fresh_until = float("-inf")

    async def elsewhere():
        with pytest.raises(SessionError, match="event loop"):
            await session.token()

    await asyncio.to_thread(asyncio.run, elsewhere())


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionFailed("", sent=False), NotSent),
        (TimedOut("", sent=False), NotSent),
        (ConnectionFailed("", sent=None), Ambiguous),
        (TimedOut("", sent=True), Ambiguous),
        (ServerError("", status=500), Ambiguous),
        (ServerError("", status=503), Ambiguous),
        (ServerError("", status=502, retry_after=1.0), Ambiguous),
        (UnexpectedResponse("", status=200), Ambiguous),
        (ServerError("", status=503, retry_after=1.0), Throttled),
        (RateLimited("", status=429), Throttled),
        (ValidationFailed("", status=422), Spent),
        (Unauthorized("", status=401), Misconfigured),
        (Forbidden("", status=403), Denied),
        (NotFound("", status=404), Denied),
        (ApiError("", status=400), Denied),
        (TemporarilyRefused("", status=422), NotSent),
        (ConfigurationError(""), Misconfigured),
        (InvalidRequest("", operation="refresh", errors=()), Denied),
        (SessionError(""), Denied),
        (SignalWireTokenError(""), Ambiguous),
    ],
    ids=lambda value: (
        f"{type(value).__name__}{getattr(value, 'sent', '')}{getattr(value, 'status', '')}"
        f"{getattr(value, 'retry_after', '')}"
    ),
)
def test_what_an_error_means_for_a_renewal(error, kind):
    """What the service may have done, and whether asking again may help."""
    assert {type(failure_of(error, way)) for way in (UseRefreshToken(0), IssueNew(0))} == {kind}


@pytest.mark.parametrize("kind", [Unauthorized, Forbidden, NotFound, ValidationFailed, ApiError])
@pytest.mark.parametrize(
    ("code", "presented", "issued"),
    [
        ("token_expired", Spent, Misconfigured),
        ("token_invalid", Spent, Misconfigured),
        ("not_a_refresh_token", Spent, Misconfigured),
        ("invalid_token_format", Spent, Misconfigured),
        ("invalid_auth_token_permissions", Misconfigured, Misconfigured),
    ],
)
def test_a_code_about_a_token_decides_whatever_the_status(kind, code, presented, issued):
    """Only a refresh token that was presented can be spent; without one, the code is about the API token."""
    error = kind("", errors=(Problem(code=code, message="no"),))
    assert type(failure_of(error, UseRefreshToken(0))) is presented
    assert type(failure_of(error, IssueNew(0))) is issued


@pytest.mark.parametrize("kind", [Unauthorized, Forbidden, NotFound, ValidationFailed, ServerError])
@pytest.mark.parametrize("code", ["authblock_is_invalid", "authblock_is_expired"])
def test_a_code_about_the_subscriber_never_ends_a_session_that_can_issue(kind, code):
    """A refresh token of such a subscriber is of no use; whether a pair can be issued may change. (P3)"""
    error = kind("", errors=(Problem(code=code, message="no"),))
    assert type(failure_of(error, UseRefreshToken(0))) is Spent
    assert type(failure_of(error, IssueNew(0))) is Denied


@pytest.mark.parametrize("status", [403, 404, 400])
async def test_a_refresh_that_is_denied_is_followed_by_an_issue_in_time(emulator, clock, client, status):
    """The subscriber may have been created again: the refresh token is of no use then."""
    async with SubscriberSession(client, "alice") as session:
        emulator.fail(Status(status), operation=REFRESH, times=None)
        for _ in range(8 * 60):
            await clock.advance(60)
            assert emulator.accepts(await session.token())


async def test_a_long_lived_pair_from_elsewhere_is_refreshed_no_more_often_than_others(emulator, clock, client):
    """A refresh gives two hours, and the token before is valid for longer: it is handed out to its end."""
    pair = await client.create_subscriber_token("alice", expire_at=timedelta(hours=24))
    async with SubscriberSession.from_pair(client, pair) as session:
        for _ in range(30):
            await clock.advance(HOUR)
            assert emulator.accepts(await session.token())
        assert session.last_error is None
    assert operations(emulator).count(REFRESH) < 15


@pytest.mark.parametrize("code", ["cannot_process", "account_limit_exceeded", "rate_limit_exceeded"])
@pytest.mark.parametrize("reissue", [True, False])
async def test_a_422_that_may_pass_ends_no_session(emulator, clock, client, code, reissue):
    """The next attempt succeeds, with the same refresh token. (P3)"""
    async with SubscriberSession(client, "alice", reissue=reissue) as session:
        emulator.fail(Status(422, code=code), operation=REFRESH)
        await clock.advance(LIFE * 0.8 + 120)
        assert session.generation == 2
        assert operations(emulator) == [ISSUE, REFRESH, REFRESH]
        assert emulator.accepts(await session.token())


async def test_a_redirect_is_no_answer(emulator, clock, session):
    """Something in between has spoken."""
    emulator.fail(Redirect("http://127.0.0.1:1/"), operation=REFRESH)
    await clock.advance(LIFE)
    assert operations(emulator) == [ISSUE, REFRESH, ISSUE]
    assert isinstance(session.pair.subscriber_id, UUID)


SHAPES = [
    {},
    {"application_id": "3b2d7f6e-8f0b-4d7c-9a6e-0a1b2c3d4e5f"},
    {"scope": "sat:refresh", "fingerprint": "A" * 43},
    {"scope": "sat:refresh", "fingerprint": "a" * 43},
    {"region": "us-central"},
    {"lifetime": timedelta(minutes=10)},
    {"lifetime": timedelta(minutes=11)},
    {"extra": {"audience": ["one"]}},
    {"extra": {"audience": ["two"]}},
]


async def test_whatever_shapes_a_token_sets_it_apart_in_a_store(client):
    """Two sessions share a pair when they would be given the same, and only then."""
    store = MemoryStore()
    keys = [SubscriberSession(client, name, store=store, **shape).store_key for name in "ab" for shape in SHAPES]
    assert len(set(keys)) == len(keys)
    async with TokenClient("elsewhere", client.project_id, "PT") as other:
        assert SubscriberSession(other, "a", store=store).store_key not in keys
    async with TokenClient(client.origin, str(UUID(int=1)), "PT") as other:
        assert SubscriberSession(other, "a", store=store).store_key not in keys
    assert SubscriberSession(client, "a", store=store, first_name="Alice", password="secret").store_key == keys[0]
    upper = {"application_id": UUID(SHAPES[1]["application_id"])}
    assert SubscriberSession(client, "a", store=store, **upper).store_key == keys[1]
    assert SubscriberSession(client, "a").store_key is None


async def test_tokens_that_live_shorter_than_the_settings_say_are_warned_of(clock, caplog):
    """When one is refused long before its calculated expiry: the settings are then the likely cause."""
    async with (
        Emulator(lifetimes=Lifetimes(access=SECONDS, refresh=SECONDS), clock=clock) as emulator,
        TokenClient(emulator.space, emulator.project_id, emulator.api_token, clock=clock) as client,
        SubscriberSession(client, "alice") as session,
    ):
        await clock.advance(60)
        first = await session.token()
        assert not emulator.accepts(first)
        assert session.report_unauthorized(first)
        await clock.advance(1)
        assert emulator.accepts(await session.token())
        lines = [one.message for one in caplog.records if "SIGNALWIRE_TOKENS_LIFETIME" in one.message]
        assert ["access token was refused 1 h 59 min before" in line for line in lines] == [True, False]
        assert ["refresh token was refused 2 h 4 min before" in line for line in lines] == [False, True]


@pytest.mark.parametrize("lifetime", [None, timedelta(minutes=1)])
async def test_a_stored_pair_lives_no_longer_than_the_settings_say(clock, lifetime):
    """It was stored by a process whose settings said two hours, before they were corrected."""
    store = MemoryStore(clock=clock)
    async with Emulator(lifetimes=Lifetimes(access=SECONDS, refresh=SECONDS), clock=clock) as emulator:
        place = emulator.space, emulator.project_id, emulator.api_token
        async with (
            TokenClient(*place, clock=clock) as wrong,
            SubscriberSession(wrong, "alice", store=store, lifetime=lifetime) as session,
        ):
            first = await session.token()
        lifetimes = Lifetimes.of(SECONDS)
        async with (
            TokenClient(*place, clock=clock, lifetimes=lifetimes) as client,
            SubscriberSession(client, "alice", store=store, lifetime=lifetime) as session,
        ):
            assert await session.token() == first
            life = session.pair.access_token.expires_at - session.pair.access_token.issued_at
            assert timedelta(0) <= (lifetime or SECONDS) - life <= timedelta(seconds=1)
            for _ in range(10):
                await clock.advance(13)
                assert emulator.accepts(await session.token())


async def test_a_stored_successor_of_a_given_pair_lives_no_longer_than_the_settings_say(clock):
    """As a pair that the session issued itself."""
    store = MemoryStore(clock=clock)
    async with Emulator(lifetimes=Lifetimes(access=SECONDS, refresh=SECONDS), clock=clock) as emulator:
        place = emulator.space, emulator.project_id, emulator.api_token
        async with TokenClient(*place, clock=clock) as wrong:
            pair = await wrong.create_subscriber_token("alice")
            async with SubscriberSession.from_pair(wrong, pair, store=store) as session:
                await session.refresh()
        async with (
            TokenClient(*place, clock=clock, lifetimes=Lifetimes.of(SECONDS)) as client,
            SubscriberSession.from_pair(client, pair, store=store) as session,
        ):
            assert session.expires_in <= SECONDS


async def test_a_token_that_is_refused_as_it_expires_says_nothing_of_the_settings(clock, client, caplog):
    """Clocks are never quite right."""
    async with SubscriberSession(client, "alice", lifetime=timedelta(minutes=10), clock=clock) as session:
        clock.suspend(595)
        session.invalidate(session.pair.access_token)
        assert "was reported as refused" in caplog.text
        assert "SIGNALWIRE_TOKENS_LIFETIME" not in caplog.text


async def test_what_is_sent_as_extra_decides_which_pair_is_shared(client):
    """JSON makes strings of all keys, so sessions whose `extra` becomes the same JSON share a pair."""
    store = MemoryStore()
    extras = [{"claims": {1: True, "a": [1.0]}}, {"claims": {"a": [1.0], "1": True}}, {"claims": {"1": 1, "a": [1.0]}}]
    keys = [SubscriberSession(client, "a", store=store, extra=extra).store_key for extra in extras]
    assert keys[0] == keys[1] != keys[2]


async def test_what_is_no_store_is_refused(client):
    """When the session is made, and not when it is too late."""
    with pytest.raises(ConfigurationError, match="store must be a TokenStore"):
        SubscriberSession(client, "alice", store="tokens.db")
    with pytest.raises(ConfigurationError, match="store must be a TokenStore"):
        SubscriberSession(client, "alice", store=MemoryStore)
    with pytest.raises(ConfigurationError, match="pair must be a TokenPair, not str"):
        SubscriberSession.from_pair(client, "a refresh token")


def test_a_session_needs_a_client():
    """A space in its place is a likely mistake, so the error shows how to make a client."""
    advice = r'needs a TokenClient, not str: open one with `async with TokenClient\("acme", …\) as client`'
    with pytest.raises(ConfigurationError, match=f"^SubscriberSession {advice}"):
        SubscriberSession("acme", "alice")
    with pytest.raises(ConfigurationError, match=rf"^SubscriberSession\.from_pair {advice}"):
        SubscriberSession.from_pair("acme", None)


async def test_a_pair_from_elsewhere_has_its_successors_in_a_store(client, clock, emulator):
    """Whoever begins with it again, after a restart, goes on with the latest of them."""
    store = MemoryStore(clock=client.clock)
    pair = await client.create_subscriber_token("alice")
    async with SubscriberSession.from_pair(client, pair, store=store) as session:
        clock.suspend(HOUR)
        await session.refresh()
        successor = session.pair.access_token.value
    clock.suspend(HOUR + 1)
    async with SubscriberSession.from_pair(client, pair, store=store) as session:
        assert await session.token() == successor
        await clock.advance(LIFE)
        assert emulator.accepts(await session.token())
    assert set(operations(emulator)) == {ISSUE, REFRESH}
    assert operations(emulator).count(ISSUE) == 1
    assert {entry.status for entry in emulator.requests} == {200, 201}


async def test_a_pair_from_before_a_pause_of_the_machine_is_renewed_before_it_is_served(emulator, clock):
    """A paused machine's own clock stops, so that only the wall clock shows how old the pair in the store is. (P31)"""
    machine = VirtualClock(wall=clock.wall())
    store = MemoryStore(clock=machine)
    async with emulator.client(clock=machine) as client:
        async with SubscriberSession(client, "alice", store=store) as session:
            before = await session.token()
        clock.suspend(10 * HOUR)
        machine.set_wall(clock.wall())
        assert not emulator.accepts(before)
        session = SubscriberSession(client, "alice", store=store)
        starting = asyncio.ensure_future(session.start())
        await eventually(starting.done, machine)
        await starting
        assert emulator.accepts(await session.token())
        await session.aclose()
    assert operations(emulator) == [ISSUE, REFRESH, ISSUE]


@pytest.mark.parametrize(
    "emulator",
    [
        pytest.param(mode, marks=[] if mode == "family" else pytest.mark.slow)  # the strictest, often
        for mode in ROTATIONS
    ],
    indirect=True,
)
async def test_a_day_of_sessions_that_share(emulator, clock, client):
    """One pair is issued, ever, and refreshed as often as one session would."""
    store = MemoryStore(clock=client.clock)
    sessions = [SubscriberSession(client, "alice", store=store) for _ in range(5)]
    for session in sessions:
        await session.start()
    for _ in range(24 * 12):
        await clock.advance(300)
        tokens = {await session.token() for session in sessions}
        assert all(emulator.accepts(token) for token in tokens)
    for session in sessions:
        await session.aclose()
    assert operations(emulator).count(ISSUE) == 1
    assert 12 <= operations(emulator).count(REFRESH) <= 24 / 2 / 0.6
    assert {entry.status for entry in emulator.requests} == {200, 201}
